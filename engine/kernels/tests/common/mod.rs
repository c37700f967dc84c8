//! Values and matrices for tests of products.

use llmlab_kernels::{StoredMatrix, WeightFormat};
use llmlab_quant::{Fp8Matrix, Grouped, Range, quantize_grouped, quantize_matrix};

/// Values in -1..1 with a few large ones, as real activations have, so that block scales differ a lot.
pub fn random(seed: u64, len: usize) -> Vec<f32> {
    // SplitMix64: a generator crate would be built without optimisation here and take most of the test's time.
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut values = Vec::with_capacity(len);
    for _ in 0..len {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        let value = (bits >> 40) as f32 / (1 << 23) as f32 - 1.0;
        values.push(if bits.is_multiple_of(50) { value * 20.0 } else { value });
    }
    values
}

/// `cols`, or the next number of columns that the format can store.
pub fn cols_of(format: WeightFormat, cols: usize) -> usize {
    let grouped = matches!(format, WeightFormat::Int4 | WeightFormat::Int8Group);
    cols.next_multiple_of(if grouped { 32 } else { format.block() })
}

/// Random weights as a checkpoint would hold them; formats with several shapes of scales take turns by seed and columns.
pub fn stored(format: WeightFormat, rows: usize, cols: usize, seed: u64) -> StoredMatrix<'static> {
    let values = random(seed + 1000, rows * cols);
    match format {
        WeightFormat::Int4 | WeightFormat::Int8Group => {
            let bits = if format == WeightFormat::Int4 { 4 } else { 8 };
            let group = [32, 128, cols][rows % 3];
            let range = if cols.is_multiple_of(64) { Range::Symmetric } else { Range::Asymmetric };
            let mut grouped = quantize_grouped(bits, group, range, rows, cols, &values).unwrap();
            if rows.is_multiple_of(2) {
                // Scales that half precision does not hold.
                grouped.scales.iter_mut().for_each(|scale| *scale *= 1.000_1);
            }
            if group < cols && cols.is_multiple_of(group) {
                act_order(&mut grouped, cols);
            }
            StoredMatrix::Grouped(grouped)
        }
        WeightFormat::Fp8 if cols > 128 && rows.is_multiple_of(2) => {
            // Scales per 128 x 128, as FP8_BLOCK checkpoints have them.
            let StoredMatrix::Fp8(mut matrix) = quantize_matrix(format, rows, cols, &values).unwrap() else {
                unreachable!("fp8 is stored as fp8");
            };
            (matrix.block_rows, matrix.block_cols) = (128, 128);
            matrix.scales = random(seed, rows.div_ceil(128) * cols.div_ceil(128));
            StoredMatrix::Fp8(Fp8Matrix { input_scale: Some(0.05), ..matrix })
        }
        _ => quantize_matrix(format, rows, cols, &values).unwrap(),
    }
}

/// Deals the columns out to the groups in turn.
fn act_order(grouped: &mut Grouped, cols: usize) {
    let groups = (cols / grouped.group) as u32;
    grouped.group_of = Some((0..cols as u32).map(|c| (c * 7 + c / groups) % groups).collect());
    let mut counts = vec![0; groups as usize];
    let group_of = grouped.group_of.as_mut().unwrap();
    for group in group_of.iter_mut() {
        while counts[*group as usize] == grouped.group {
            *group = (*group + 1) % groups;
        }
        counts[*group as usize] += 1;
    }
}
