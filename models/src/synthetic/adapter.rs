//! Adapters made from a seed: the shape and the work of trained ones with nothing to prepare.

use super::values::seeded_normal;
use crate::lora::{LoraAdapter, LoraDelta, matrices};
use crate::spec::ModelSpec;

/// Standard deviation of what an adapter adds to a product, against that of the product of a matrix of gain 1. Large enough
/// that adapters write different texts, as trained ones do.
const STRENGTH: f32 = 0.25;

impl LoraAdapter {
    /// An adapter of `rank` on every matrix of attention and MLP. The same seed and name give the same values.
    pub fn synthetic(spec: &ModelSpec, name: &str, rank: u32, seed: u64) -> LoraAdapter {
        let deltas = matrices(spec).into_iter().map(|(matrix, (rows, cols))| {
            // The rows of `a` keep the size of what passes, `b` sums `rank` of them.
            let a_name = format!("{name}/{matrix}/a");
            let a = seeded_normal(seed, &a_name, u64::from(rank) * cols, 1.0 / (cols as f32).sqrt());
            let b_name = format!("{name}/{matrix}/b");
            let b = seeded_normal(seed, &b_name, rows * u64::from(rank), STRENGTH / (rank as f32).sqrt());
            (matrix, LoraDelta { a, b, scale: 1.0 })
        });
        LoraAdapter { rank, deltas: deltas.collect() }
    }

    /// Values of a synthetic adapter of `rank`.
    pub fn synthetic_parameters(spec: &ModelSpec, rank: u32) -> u64 {
        let sides: u64 = matrices(spec).values().map(|(rows, cols)| rows + cols).sum();
        u64::from(rank) * sides
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::Preset;

    #[test]
    fn an_adapter_is_its_name_and_seed_and_has_the_size_it_says() {
        let spec = Preset::Llama15m.spec();
        let adapter = LoraAdapter::synthetic(&spec, "one", 4, 7);
        assert_eq!(adapter, LoraAdapter::synthetic(&spec, "one", 4, 7));
        assert_ne!(adapter, LoraAdapter::synthetic(&spec, "two", 4, 7));
        assert_ne!(adapter, LoraAdapter::synthetic(&spec, "one", 4, 8));
        let values: usize = adapter.deltas.values().map(|delta| delta.a.len() + delta.b.len()).sum();
        assert_eq!(values as u64, LoraAdapter::synthetic_parameters(&spec, 4));
        // q, k, v, o, gate, up and down of six layers.
        assert_eq!(adapter.deltas.len(), 42);
    }
}
