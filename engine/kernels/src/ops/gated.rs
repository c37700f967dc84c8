//! The gated activations: `silu(gate) * up` of Llama, `silu(x) = x / (1 + e^-x)`, and `gelu(gate) * up` of Gemma.

use crate::ThreadPool;
use crate::ops::exp::exp;
use crate::ops::rows::{for_rows, isa, multiversion};
use crate::shared_mut::SharedMut;

/// `out[i] = silu(gate[i]) * up[i]`, all of one length.
pub fn silu_mul(pool: &ThreadPool, gate: &[f32], up: &[f32], out: &mut [f32]) {
    assert!(gate.len() == up.len() && up.len() == out.len(), "{} {} {}", gate.len(), up.len(), out.len());
    let isa = isa();
    let out = SharedMut::new(out);
    for_rows(pool, gate.len(), EXP_VALUES, |span| {
        // SAFETY: ranges of different workers are disjoint.
        silu_mul_span(isa, &gate[span.clone()], &up[span.clone()], unsafe {
            out.slice(span.start, span.len())
        });
    });
}

/// The same over the output of a fused projection: each row of `gate_up` [tokens, 2 * dim] is the gate followed by
/// the up half; `out` is [tokens, dim].
pub fn silu_mul_fused(pool: &ThreadPool, gate_up: &[f32], dim: usize, out: &mut [f32]) {
    let isa = isa();
    fused(pool, gate_up, dim, out, |gate, up, out| silu_mul_span(isa, gate, up, out));
}

/// `gelu(gate) * up` in the layout of [`silu_mul_fused`], with the tanh approximation of GELU (Hendrycks & Gimpel 2016):
/// `gelu(x) = x / 2 * (1 + tanh(u))`, `u = sqrt(2 / pi) * (x + 0.044715 x^3)`.
pub fn gelu_tanh_mul_fused(pool: &ThreadPool, gate_up: &[f32], dim: usize, out: &mut [f32]) {
    let isa = isa();
    fused(pool, gate_up, dim, out, |gate, up, out| gelu_tanh_mul_span(isa, gate, up, out));
}

fn fused(
    pool: &ThreadPool,
    gate_up: &[f32],
    dim: usize,
    out: &mut [f32],
    span: impl Fn(&[f32], &[f32], &mut [f32]) + Sync,
) {
    assert!(dim > 0 && gate_up.len() == 2 * out.len() && out.len().is_multiple_of(dim), "{}", out.len());
    let tokens = out.len() / dim;
    let out = SharedMut::new(out);
    for_rows(pool, tokens, dim * EXP_VALUES, |rows| {
        for row in rows {
            let (gate, up) = gate_up[row * 2 * dim..(row + 1) * 2 * dim].split_at(dim);
            // SAFETY: every row belongs to one worker.
            span(gate, up, unsafe { out.slice(row * dim, dim) });
        }
    });
}

/// One exponential costs about as much as this many plain loads and stores.
const EXP_VALUES: usize = 4;

multiversion! { fn silu_mul_span(gate: &[f32], up: &[f32], out: &mut [f32]) = silu_mul_body }
multiversion! { fn gelu_tanh_mul_span(gate: &[f32], up: &[f32], out: &mut [f32]) = gelu_tanh_mul_body }

#[inline(always)]
fn silu_mul_body(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((gate, up), out) in gate.iter().zip(up).zip(out) {
        *out = gate / (1.0 + exp(-gate)) * up;
    }
}

/// `(1 + tanh(u)) / 2` is `1 / (1 + e^-2u)`, which loses no digits where tanh is close to -1.
#[inline(always)]
fn gelu_tanh_mul_body(gate: &[f32], up: &[f32], out: &mut [f32]) {
    /// sqrt(2 / pi).
    const ROOT: f32 = 0.797_884_6;
    for ((gate, up), out) in gate.iter().zip(up).zip(out) {
        let u = ROOT * (gate + 0.044_715 * gate * gate * gate);
        *out = gate / (1.0 + exp(-2.0 * u)) * up;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::ops::testing::{every_isa, random};

    #[test]
    fn agrees_with_f64() {
        let (mut gate, up) = (random(1000, 1), random(1000, 2));
        gate[0] = -200.0;
        gate[1] = 200.0;
        let mut out = vec![0.0; 1000];
        silu_mul(&ThreadPool::new(1), &gate, &up, &mut out);
        for i in 0..1000 {
            let (g, u) = (f64::from(gate[i]), f64::from(up[i]));
            let exact = g / (1.0 + (-g).exp()) * u;
            assert!(
                (f64::from(out[i]) - exact).abs() <= 1e-6 * (1.0 + exact.abs()),
                "{i}: {} {exact}",
                out[i]
            );
        }
    }

    #[test]
    fn gelu_agrees_with_f64() {
        let dim = 1000;
        let mut gate: Vec<f32> = random(dim, 1).iter().map(|x| x * 6.0).collect();
        (gate[0], gate[1]) = (-200.0, 200.0);
        let up = random(dim, 2);
        let mut out = vec![0.0; dim];
        gelu_tanh_mul_fused(&ThreadPool::new(1), &[gate.clone(), up.clone()].concat(), dim, &mut out);
        for i in 0..dim {
            let (g, u) = (f64::from(gate[i]), f64::from(up[i]));
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (g + 0.044_715 * g * g * g);
            let exact = 0.5 * g * (1.0 + inner.tanh()) * u;
            assert!(
                (f64::from(out[i]) - exact).abs() <= 1e-6 * (1.0 + exact.abs()),
                "{g}: {} {exact}",
                out[i]
            );
        }
    }

    type Span = fn(Isa, &[f32], &[f32], &mut [f32]);
    type Fused = fn(&ThreadPool, &[f32], usize, &mut [f32]);

    #[test]
    fn fused_layout_threads_and_instruction_sets_do_not_change_bits() {
        let both: [(Span, Fused); 2] =
            [(silu_mul_span, silu_mul_fused), (gelu_tanh_mul_span, gelu_tanh_mul_fused)];
        let (tokens, dim) = (130, 96);
        let (gate, up) = (random(tokens * dim, 3), random(tokens * dim, 4));
        let rows: Vec<f32> = (0..tokens)
            .flat_map(|t| [&gate[t * dim..(t + 1) * dim], &up[t * dim..(t + 1) * dim]].concat())
            .collect();
        for (span, fused) in both {
            let mut expected = vec![0.0; tokens * dim];
            span(Isa::Portable, &gate, &up, &mut expected);
            for threads in [1, 3] {
                let mut out = vec![0.0; tokens * dim];
                fused(&ThreadPool::new(threads), &rows, dim, &mut out);
                assert_eq!(out, expected, "{threads} threads");
            }
            for isa in every_isa() {
                let mut out = vec![0.0; tokens * dim];
                span(isa, &gate, &up, &mut out);
                assert_eq!(out, expected, "{isa:?}");
            }
        }
    }
}
