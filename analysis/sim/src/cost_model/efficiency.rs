//! What share of a peak an operation reaches, and what it costs beside. Peaks are never reached, and by how much they are
//! missed depends on the device's class, the number format, the operation, its size and the serving software; one global
//! factor is wrong by a factor of two. The figures are fitted ([`super::calibration`]); this is their form.

use super::layers::Math;

/// Rows at which a product reaches half of what it can reach: half a tile of 128 rows. Tiles of 128 are where Calculon
/// (Isaev et al. 2023) puts the end of inefficiency for A100 products.
const HALF_ROWS: f64 = 64.0;
/// What a decade less of bytes costs of the bandwidth's share below 100 MB: Calculon has 0.90 there and 0.75 at 10 MB (A100).
const LOST_PER_DECADE: f64 = 0.15 / 0.90;
/// Of the share of large operations, what the smallest still have.
const SMALLEST: f64 = 1.0 / 3.0;
/// Of the share that attention reaches on long prompts, what one query reaches: the heads of a group fill some rows of its
/// tile (InferSim: 0.15 of the peak).
const ONE_QUERY: f64 = 0.3;

/// The figures of one device class under one serving software.
#[derive(Debug, Clone, PartialEq)]
pub struct Efficiency {
    /// Share of the bandwidth for operations of 100 MB and more.
    pub bandwidth: f64,
    /// What weights of few bits reach of that: they are expanded on the way.
    pub few_bits_bandwidth: f64,
    /// What attention over cached keys and values reaches of it.
    pub attention_bandwidth: f64,
    /// Shares of the arithmetic peak for products of many rows: 16 bits, 8 bits on both sides, weights of few bits.
    pub product_16_bits: f64,
    pub product_8_bits: f64,
    pub product_few_bits: f64,
    /// Share of the 16-bit peak for attention over long prompts.
    pub attention: f64,
    /// Seconds for each kernel: its launch, its first and last wave.
    pub launch_s: f64,
    /// Seconds the host needs to queue a layer. It works ahead of the device: a step takes at least this for all layers.
    pub layer_host_s: f64,
    /// The same in a step with prompts in it, which is no captured graph.
    pub prompt_layer_host_s: f64,
    /// Seconds a step takes beside its kernels, and for each sequence in it.
    pub step_s: f64,
    pub sequence_s: f64,
    /// Share of a link's bandwidth, and seconds of a collective of two devices without data.
    pub link: f64,
    pub link_latency_s: f64,
    /// The same for the network between nodes.
    pub network: f64,
    pub network_latency_s: f64,
}

/// Share of the network's bandwidth (InferSim takes it for any link), and seconds of a message (inference-lab: 20 us between
/// nodes, 5 us within one). No measurement of the shipped table crosses nodes.
pub(super) const NETWORK_SHARE: f64 = 0.8;
pub(super) const NETWORK_LATENCY_S: f64 = 20e-6;

impl Efficiency {
    /// Datasheet peaks with nothing lost, for comparison: the ideal roofline.
    pub const IDEAL: Efficiency = Efficiency {
        bandwidth: 1.0,
        few_bits_bandwidth: 1.0,
        attention_bandwidth: 1.0,
        product_16_bits: 1.0,
        product_8_bits: 1.0,
        product_few_bits: 1.0,
        attention: 1.0,
        launch_s: 0.0,
        layer_host_s: 0.0,
        prompt_layer_host_s: 0.0,
        step_s: 0.0,
        sequence_s: 0.0,
        link: 1.0,
        link_latency_s: 0.0,
        network: 1.0,
        network_latency_s: 0.0,
    };

    /// Share of the bandwidth for an operation that moves so many bytes. A kernel of few bytes is over before the memory
    /// system is busy.
    pub fn memory_share(&self, bytes: f64) -> f64 {
        if self.bandwidth == 1.0 {
            return 1.0;
        }
        let decades_below = (8.0 - bytes.max(1.0).log10()).max(0.0);
        self.bandwidth * (1.0 - LOST_PER_DECADE * decades_below).max(SMALLEST)
    }

    /// The same for reading weights.
    pub fn weight_share(&self, math: Math, bytes: f64) -> f64 {
        let few_bits = if math == Math::WeightOnly { self.few_bits_bandwidth } else { 1.0 };
        self.memory_share(bytes) * few_bits
    }

    /// Share of the arithmetic peak for a product of so many rows.
    pub fn product_share(&self, math: Math, rows: f64) -> f64 {
        let most = match math {
            Math::Half | Math::F32 => self.product_16_bits,
            Math::Fp8 | Math::Int8 => self.product_8_bits,
            Math::WeightOnly => self.product_few_bits,
        };
        if most == 1.0 { 1.0 } else { most * rows / (rows + HALF_ROWS) }
    }

    /// Share of the 16-bit peak for attention of so many queries of one sequence.
    pub fn attention_share(&self, queries: f64) -> f64 {
        if self.attention == 1.0 {
            return 1.0;
        }
        if queries <= 1.0 {
            return self.attention * ONE_QUERY;
        }
        self.attention * (queries / (queries + HALF_ROWS)).max(ONE_QUERY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Efficiency {
        Efficiency { bandwidth: 0.9, product_16_bits: 0.7, attention: 0.5, ..Efficiency::IDEAL }
    }

    #[test]
    fn shares_of_memory_are_those_of_the_source() {
        assert!((some().memory_share(1e8) - 0.90).abs() < 1e-12);
        assert!((some().memory_share(1e7) - 0.75).abs() < 1e-12);
        assert!((some().memory_share(1e12) - 0.90).abs() < 1e-12);
        assert!((some().memory_share(0.0) - 0.3).abs() < 1e-12);
    }

    #[test]
    fn more_rows_never_reach_less() {
        let mut last = 0.0;
        for rows in [1.0, 8.0, 64.0, 512.0, 8192.0] {
            let share = some().product_share(Math::Half, rows);
            assert!(share > last && share < 0.7);
            last = share;
        }
    }
}
