//! What share of a peak an operation reaches. Peaks are never reached, and by how much they are missed depends on the
//! operation and its size; one global factor is wrong by a factor of two (planning tools that use one say so themselves).
//!
//! Every figure has its source. Where a figure is a choice of ours between sources, the comment says so.

use super::device::DeviceClass;
use super::layers::Math;

/// Share of the bandwidth for an operation that moves so many bytes: 0.90 from 100 MB on, 0.75 at 10 MB (Calculon, Isaev et
/// al. 2023, A100 HBM), on a line in the logarithm between and below, not under 0.3. A kernel of few bytes is over before
/// the memory system is busy.
pub fn memory_share(bytes: f64) -> f64 {
    let decades_below = 8.0 - bytes.max(1.0).log10();
    (0.90 - 0.15 * decades_below.max(0.0)).max(0.3)
}

/// What weights of few bits lose against 16-bit ones on the way through memory: single-stream decoding of Llama-3-8B in
/// llama.cpp reaches 0.73 (RTX 4090), 0.81 (L40S), 0.77 (A100) of its 16-bit share with Q4_K_M (GPU-Benchmarks-on-LLM-Inference,
/// commit 00dd2bdeb2, weights only).
pub const WEIGHT_ONLY_MEMORY: f64 = 0.77;

/// Rows at which a product reaches half of what it can reach: half a tile of 128 rows. Tiles of 128 are where Calculon
/// puts the end of inefficiency for A100 products.
const HALF_ROWS: f64 = 64.0;

/// Share of the arithmetic peak for a product of so many rows.
pub fn product_share(math: Math, class: DeviceClass, rows: f64) -> f64 {
    let most = match (math, class) {
        // A100 FP16 prefill of a 7B model, prompts of 2048: 0.68 (TensorRT-LLM 0.6.1, performance.md), attention included.
        (Math::Half | Math::F32, DeviceClass::Datacentre) => 0.70,
        // RTX 4090, F16, prompts of 512: 0.85 (GPU-Benchmarks-on-LLM-Inference), its peak counted with f32 accumulation.
        (Math::Half | Math::F32, DeviceClass::Graphics) => 0.80,
        // L40S FP8 0.53 (TensorRT-LLM 0.6.1); H100 FP8 0.53 from 2048 in, 128 out, saturated (TensorRT-LLM 1.0,
        // perf-overview.md), the decode part taken off.
        (Math::Fp8 | Math::Int8, _) => 0.55,
        // RTX 4090 Q4_K_M 0.65 (GPU-Benchmarks-on-LLM-Inference).
        (Math::WeightOnly, DeviceClass::Graphics) => 0.65,
        // The same loss against 16-bit products as on the RTX 4090; our choice.
        (Math::WeightOnly, DeviceClass::Datacentre) => 0.55,
    };
    most * rows / (rows + HALF_ROWS)
}

/// Share of the 16-bit peak for attention over prompts. FlashAttention-2 reaches 0.50 to 0.73 on an A100 (Dao 2023);
/// FlashAttention-3 up to 0.75 on an H100 for long sequences (Shah et al. 2024), about 0.5 at 1k to 4k with a causal mask.
/// Tiles are 128 queries; fewer waste the rest. One query reaches 0.15 (decode kernels, InferSim): the heads of a group fill
/// some rows of its tile.
pub fn attention_share(queries: f64) -> f64 {
    if queries <= 1.0 { 0.15 } else { (0.50 * queries / (queries + HALF_ROWS)).max(0.15) }
}

/// Seconds for each kernel: 32.1 us a layer (BLIS, vLLM on H100, "trained physics") over the nine kernels of a dense layer.
pub const LAUNCH_S: f64 = 32.1e-6 / 9.0;

/// Seconds a step takes beside its kernels, and for each sequence in it (BLIS: 126 us a step, 4.4 us a sequence).
pub const STEP_S: f64 = 126e-6;
pub const STEP_SEQUENCE_S: f64 = 4.4e-6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_memory_are_those_of_the_source() {
        assert!((memory_share(1e8) - 0.90).abs() < 1e-12);
        assert!((memory_share(1e7) - 0.75).abs() < 1e-12);
        assert!((memory_share(1e12) - 0.90).abs() < 1e-12);
        assert_eq!(memory_share(0.0), 0.3);
    }

    #[test]
    fn more_rows_never_reach_less() {
        let mut last = 0.0;
        for rows in [1.0, 8.0, 64.0, 512.0, 8192.0] {
            let share = product_share(Math::Half, DeviceClass::Datacentre, rows);
            assert!(share > last && share < 0.7);
            last = share;
        }
    }
}
