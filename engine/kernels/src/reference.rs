//! The oracle: the same operations as plain loops in f64, so that any kernel error stands out.
//!
//! Weights and activations are rounded exactly as the formats prescribe; only the sums differ from the kernels, being
//! nearly exact here.

use half::bf16;

use crate::gemm::fine_steps;
use crate::quant::{BLOCK, block8, e4m3_value, token_scale};
use crate::{PackedMatrix, WeightFormat};

/// The values a kernel multiplies with: one token's activations after conversion, in the order of the input.
pub fn convert_activations(w: &PackedMatrix, x: &[f32]) -> Vec<f64> {
    match w.format() {
        WeightFormat::F32 | WeightFormat::F16 => x.iter().map(|&v| f64::from(v)).collect(),
        WeightFormat::Bf16 => x.iter().map(|&v| bf16::from_f32(v).to_f64()).collect(),
        WeightFormat::Int8 => {
            let (d, inverse) = token_scale(x, 127.0);
            x.iter().map(|&v| f64::from((v * inverse).round_ties_even()) * f64::from(d)).collect()
        }
        WeightFormat::Fp8 => {
            let own = w.input_scale().map(|scale| (scale, 1.0 / scale));
            let (d, inverse) = own.unwrap_or_else(|| token_scale(x, 448.0));
            x.iter().map(|&v| f64::from(e4m3_value(v * inverse)) * f64::from(d)).collect()
        }
        _ => {
            let mut out = vec![0.0; x.len()];
            let fine = fine_steps(w.format());
            let column = |c: usize| w.order().map_or(c, |order| order[c] as usize);
            for first in (0..x.len()).step_by(BLOCK) {
                let block = block8(&std::array::from_fn(|i| x[column(first + i)]), fine);
                for (i, q) in block.q.into_iter().enumerate() {
                    out[column(first + i)] = f64::from(q) * f64::from(block.step);
                }
            }
            out
        }
    }
}

/// `out[t, r] = sum over c of w[r, c] * x[t, c]`; shapes as in [`crate::matmul()`]. Also returns, per element, the sum of
/// the magnitudes of the products, which scales any rounding error bound.
pub fn matmul(w: &PackedMatrix, x: &[f32], tokens: usize) -> (Vec<f64>, Vec<f64>) {
    let (rows, cols) = (w.rows(), w.cols());
    assert_eq!(x.len(), tokens * cols, "x must be {tokens} tokens x {cols} columns");
    let mut out = vec![0.0; tokens * rows];
    let mut magnitudes = vec![0.0; tokens * rows];
    let inputs: Vec<Vec<f64>> = x.chunks_exact(cols).map(|x| convert_activations(w, x)).collect();
    let mut row = vec![0.0; cols];
    for r in 0..rows {
        w.dequantize_row(r, &mut row);
        for (t, x) in inputs.iter().enumerate() {
            for (&w, x) in row.iter().zip(x) {
                out[t * rows + r] += f64::from(w) * x;
                magnitudes[t * rows + r] += (f64::from(w) * x).abs();
            }
        }
    }
    (out, magnitudes)
}
