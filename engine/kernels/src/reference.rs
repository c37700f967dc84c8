//! The oracle: the same operations as plain loops in f64, so that any kernel error stands out.
//!
//! Weights and activations are rounded exactly as the formats prescribe; only the sums differ from the kernels, being
//! nearly exact here.

use half::bf16;

use crate::quant::{BLOCK, activations};
use crate::{PackedMatrix, WeightFormat};

/// The values a kernel of `format` multiplies with: one token's activations after conversion.
pub fn convert_activations(format: WeightFormat, x: &[f32]) -> Vec<f64> {
    match format {
        WeightFormat::F32 => x.iter().map(|&v| f64::from(v)).collect(),
        WeightFormat::Bf16 => x.iter().map(|&v| bf16::from_f32(v).to_f64()).collect(),
        WeightFormat::Q8_0 | WeightFormat::Q4_0 => {
            let quantize = |block: &[f32; BLOCK]| {
                let (d, q, _) = activations::quantize_block(block);
                q.map(|q| f64::from(q) * f64::from(d))
            };
            x.as_chunks::<BLOCK>().0.iter().flat_map(quantize).collect()
        }
        _ => unreachable!("{format} is not packed"),
    }
}

/// `out[t, r] = sum over c of w[r, c] * x[t, c]`; shapes as in [`crate::matmul()`]. Also returns, per element, the sum of
/// the magnitudes of the products, which scales any rounding error bound.
pub fn matmul(w: &PackedMatrix, x: &[f32], tokens: usize) -> (Vec<f64>, Vec<f64>) {
    let (rows, cols) = (w.rows(), w.cols());
    assert_eq!(x.len(), tokens * cols, "x must be {tokens} tokens x {cols} columns");
    let mut out = vec![0.0; tokens * rows];
    let mut magnitudes = vec![0.0; tokens * rows];
    let inputs: Vec<Vec<f64>> = x.chunks_exact(cols).map(|x| convert_activations(w.format(), x)).collect();
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
