//! What adapters add to a step (Hu et al. 2021): `y += b (a x)` for each row that has one.
//!
//! Each projection gets two more kernels that serve all adapters at once, as SGMV does (Chen et al. 2023, Punica): rows are
//! grouped by adapter, `a` shrinks them to the rank, `b` expands them again and is added to what is there. An adapter's
//! matrices are read once a step, however many rows it has (Sheng et al. 2023, S-LoRA). That rows of different adapters do
//! not fill a tile together is in the share of the peak: it is that of a product of one adapter's rows.

use super::layers::{FeedForward, Layer, Math, Product};
use super::roofline::{ACTIVATION, Roofline};
use super::{Operation, OperationCost, StepCost};

/// Rows of a step that go through adapters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AdaptedRows {
    pub rows: u64,
    /// Different adapters among them.
    pub adapters: u64,
}

/// Matrices that an adapter changes one by one, where the model multiplies them as one: q, k and v; gate and up.
const QKV_PARTS: f64 = 3.0;
const GATE_UP_PARTS: f64 = 2.0;
/// Bytes of a value of an adapter.
const VALUE: f64 = 2.0;

impl Roofline {
    /// What adapters of `rank` on all projections add to a step. Nothing without adapted rows.
    pub fn adapters(&self, rank: u32, work: AdaptedRows) -> StepCost {
        let mut operations = Vec::new();
        if work.rows > 0 {
            for (count, layer) in &self.layers.layers {
                for (projection, parts) in projections(layer) {
                    operations.extend(self.adapted(*count, projection, parts, f64::from(rank), work));
                }
            }
        }
        StepCost { operations }
    }

    fn adapted(
        &self,
        count: f64,
        projection: &Product,
        parts: f64,
        rank: f64,
        work: AdaptedRows,
    ) -> [OperationCost; 2] {
        let (rows, adapters) = (work.rows as f64, work.adapters.max(1) as f64);
        let (inputs, outputs, between) = (projection.inputs, projection.outputs, parts * rank);
        let shrink_flops = 2.0 * rows * between * inputs;
        let expand_flops = 2.0 * rows * rank * outputs;
        let shrink_bytes = adapters * VALUE * between * inputs + ACTIVATION * rows * (inputs + between);
        // The sum is read and written.
        let expand_bytes = adapters * VALUE * rank * outputs + ACTIVATION * rows * (between + 2.0 * outputs);
        let rows_each = rows / adapters;
        let cost =
            |operation, flops, bytes| self.cost(operation, count, 1.0, flops, bytes, Math::Half, rows_each);
        [
            cost(Operation::LoraShrink, shrink_flops, shrink_bytes),
            cost(Operation::LoraExpand, expand_flops, expand_bytes),
        ]
    }
}

/// The projections of a layer that adapters change, and of how many matrices each consists.
fn projections(layer: &Layer) -> impl Iterator<Item = (&Product, f64)> {
    let mlp = match &layer.feed_forward {
        FeedForward::Dense(mlp) => Some([(&mlp.gate_up, GATE_UP_PARTS), (&mlp.down, 1.0)]),
        FeedForward::Experts(_) => None,
    };
    [(&layer.qkv, QKV_PARTS), (&layer.output, 1.0)].into_iter().chain(mlp.into_iter().flatten())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use llmlab_models::WeightFormat;
    use llmlab_models::lora::LoraAdapter;

    use super::*;
    use crate::cost_model::Device;
    use crate::cost_model::layers::Layers;

    fn llama_on_h100() -> Roofline {
        let spec = llmlab_models::load_spec("spec:llama-3.1-8b").unwrap();
        let layers = Layers::new(&spec, 131_072, |_| Ok::<_, Infallible>(WeightFormat::Bf16)).unwrap();
        let device = Device::from_catalogue(llmlab_models::catalogue::hardware("h100-sxm").unwrap()).unwrap();
        Roofline::new(layers, device)
    }

    #[test]
    fn an_adapter_is_read_once_and_computed_for_each_row() {
        let roofline = llama_on_h100();
        let spec = llmlab_models::load_spec("spec:llama-3.1-8b").unwrap();
        let total = |rows, adapters| {
            let cost = roofline.adapters(16, AdaptedRows { rows, adapters });
            let sum = |f: fn(&OperationCost) -> f64| cost.operations.iter().map(f).sum::<f64>();
            (sum(|o| o.flops), sum(|o| o.bytes))
        };
        let values = LoraAdapter::synthetic_parameters(&spec, 16) as f64;
        // Two FLOPs a value and row, whoever's it is.
        assert_eq!(total(1, 1).0, 2.0 * values);
        assert_eq!(total(64, 8).0, 64.0 * 2.0 * values);
        // One more adapter among as many rows is its values in 16 bits.
        assert_eq!(total(8, 8).1 - total(8, 7).1, 2.0 * values);
        assert_eq!(roofline.adapters(16, AdaptedRows::default()), StepCost::default());
    }

    /// Punica (fig. 8, A100) and vLLM's own benchmarks see a decode step with adapters cost some tens of per cent more, not
    /// several times as much.
    #[test]
    fn a_decode_step_with_adapters_costs_somewhat_more() {
        use crate::shape::SeqShape;
        let roofline = llama_on_h100();
        let decode = vec![SeqShape { context: 500, new: 1, padding: 0, sample: true, drafts: 0 }; 32];
        let alone = roofline.step(&decode).seconds();
        let one = roofline.adapters(16, AdaptedRows { rows: 32, adapters: 1 }).seconds();
        let all = roofline.adapters(16, AdaptedRows { rows: 32, adapters: 32 }).seconds();
        assert!(one < all, "{one} {all}");
        assert!((0.02..0.5).contains(&(one / alone)), "{}", one / alone);
        assert!(all / alone < 1.0, "{}", all / alone);
    }
}
