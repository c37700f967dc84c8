//! A model as products: what each layer multiplies and how many bytes that reads.

use llmlab_models::architecture::Window;
use llmlab_models::{ModelSpec, TensorRole, TensorSpec};
use llmlab_quant::WeightFormat;

use super::Sharding;

/// How a product is computed, which decides the peak it is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Math {
    F32,
    /// 16-bit weights and activations.
    Half,
    /// 8-bit floats on both sides.
    Fp8,
    /// Bytes on both sides.
    Int8,
    /// Few bits, expanded to 16 on the way into a 16-bit product.
    WeightOnly,
}

impl Math {
    pub fn of(format: WeightFormat) -> Math {
        match format {
            WeightFormat::F32 => Math::F32,
            WeightFormat::F16 | WeightFormat::Bf16 => Math::Half,
            WeightFormat::Fp8 => Math::Fp8,
            WeightFormat::Int8 => Math::Int8,
            _ => Math::WeightOnly,
        }
    }
}

/// A matrix, or several that read the same input and are multiplied as one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Product {
    /// Output features.
    pub outputs: f64,
    /// Input features.
    pub inputs: f64,
    pub weight_bytes: f64,
    pub math: Math,
}

impl Product {
    fn add(slot: &mut Option<Product>, tensor: &TensorSpec, format: WeightFormat) {
        let [outputs, inputs] = tensor.shape[..] else { return };
        let (outputs, bytes) = (outputs as f64, tensor.bytes(format) as f64);
        match slot {
            Some(product) => {
                product.outputs += outputs;
                product.weight_bytes += bytes;
            }
            None => {
                let math = Math::of(format);
                *slot = Some(Product { outputs, inputs: inputs as f64, weight_bytes: bytes, math });
            }
        }
    }

    /// A multiply-add counts 2.
    pub fn flops(&self, rows: f64) -> f64 {
        2.0 * rows * self.outputs * self.inputs
    }

    /// Weights once, inputs and outputs in 16 bits.
    pub fn bytes(&self, rows: f64) -> f64 {
        self.weight_bytes + 2.0 * rows * (self.inputs + self.outputs)
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mlp {
    pub gate_up: Product,
    pub down: Product,
}

/// A mixture of experts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Experts {
    pub router: Product,
    /// All experts of the layer together: `outputs` and `weight_bytes` are sums over them.
    pub all: Mlp,
    pub experts: f64,
    pub experts_per_token: f64,
    pub shared: Option<Mlp>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FeedForward {
    Dense(Mlp),
    Experts(Experts),
}

/// Attention of one layer on one device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionShape {
    /// Values in the queries of a token.
    pub query_width: f64,
    /// Values in its keys and values together, as the projections give them.
    pub kv_width: f64,
    /// Bytes a token keeps in the cache.
    pub kv_bytes: f64,
    /// FLOPs for a query and a key it sees: scores and the weighted sum. Latent attention has fewer in a prompt, where keys and
    /// values are expanded, than in a decode on the compressed ones.
    pub prefill_pair_flops: f64,
    pub decode_pair_flops: f64,
    /// What attention sees; `None` for all.
    pub window: Option<Window>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Layer {
    pub qkv: Product,
    /// Second products of latent attention, from the compressed query and onto the compressed keys and values.
    pub latent: Option<[Product; 2]>,
    pub attention: AttentionShape,
    pub output: Product,
    /// Norms over the residual stream.
    pub norms: f64,
    pub feed_forward: FeedForward,
}

/// A whole model. Layers that are alike are one entry with their number.
#[derive(Debug, Clone, PartialEq)]
pub struct Layers {
    pub layers: Vec<(f64, Layer)>,
    pub lm_head: Product,
    pub embedding_row_bytes: f64,
    pub stored_bytes: u64,
    pub hidden: f64,
    pub vocab: f64,
    /// Over the devices of which this is one.
    pub sharding: Sharding,
}

impl Layers {
    /// `format` says how a tensor is held; a token keeps `kv_bytes_per_token` over all layers.
    pub fn new<E>(
        spec: &ModelSpec,
        kv_bytes_per_token: u64,
        mut format: impl FnMut(&TensorSpec) -> Result<WeightFormat, E>,
    ) -> Result<Layers, E> {
        let mut parts = vec![Parts::default(); spec.num_layers as usize];
        let (mut embedding, mut lm_head, mut stored_bytes) = (None, None, 0);
        for tensor in spec.tensors() {
            let format = format(&tensor)?;
            stored_bytes += tensor.bytes(format);
            match (tensor.layer, tensor.role) {
                (Some(layer), _) => parts[layer as usize].add(&tensor, format),
                (None, TensorRole::Embedding) => Product::add(&mut embedding, &tensor, format),
                (None, TensorRole::LmHead) => Product::add(&mut lm_head, &tensor, format),
                (None, _) => {}
            }
        }
        let embedding = embedding.expect("every model has an embedding");
        let mut layers: Vec<(f64, Layer)> = Vec::new();
        for (part, attention) in parts.into_iter().zip(&spec.layers) {
            let mut layer = part.layer(spec, attention.window.map(Window::Sliding));
            layer.attention.kv_bytes = kv_bytes_per_token as f64 / f64::from(spec.num_layers.max(1));
            match layers.iter_mut().find(|(_, known)| *known == layer) {
                Some((count, _)) => *count += 1.0,
                None => layers.push((1.0, layer)),
            }
        }
        Ok(Layers {
            layers,
            lm_head: lm_head.unwrap_or(embedding),
            embedding_row_bytes: embedding.weight_bytes / embedding.outputs,
            stored_bytes,
            hidden: f64::from(spec.hidden_size),
            vocab: f64::from(spec.vocab_size),
            sharding: Sharding::SINGLE,
        })
    }
}

#[derive(Debug, Clone, Default)]
struct Parts {
    qkv: Option<Product>,
    output: Option<Product>,
    norms: f64,
    router: Option<Product>,
    gate_up: Option<Product>,
    down: Option<Product>,
    routed_gate_up: Option<Product>,
    routed_down: Option<Product>,
}

impl Parts {
    fn add(&mut self, tensor: &TensorSpec, format: WeightFormat) {
        let slot = match (tensor.role, tensor.routed) {
            (TensorRole::Query | TensorRole::Key | TensorRole::Value | TensorRole::Qkv, _) => &mut self.qkv,
            (TensorRole::AttentionOutput, _) => &mut self.output,
            (TensorRole::Gate | TensorRole::Up | TensorRole::GateUp, false) => &mut self.gate_up,
            (TensorRole::Gate | TensorRole::Up | TensorRole::GateUp, true) => &mut self.routed_gate_up,
            (TensorRole::Down, false) => &mut self.down,
            (TensorRole::Down, true) => &mut self.routed_down,
            (TensorRole::Router, _) => &mut self.router,
            (TensorRole::Norm, _) => {
                self.norms += 1.0;
                return;
            }
            // A gate of one row, norms of heads and biases: under 0.1 % of a layer.
            _ => return,
        };
        Product::add(slot, tensor, format);
    }

    fn layer(self, spec: &ModelSpec, window: Option<Window>) -> Layer {
        let mlp =
            |gate_up: Option<Product>, down: Option<Product>| Some(Mlp { gate_up: gate_up?, down: down? });
        let dense = mlp(self.gate_up, self.down);
        let feed_forward = match (self.router, mlp(self.routed_gate_up, self.routed_down), &spec.moe) {
            (Some(router), Some(all), Some(moe)) => FeedForward::Experts(Experts {
                router,
                all,
                experts: f64::from(moe.experts),
                experts_per_token: f64::from(moe.experts_per_token),
                shared: dense,
            }),
            _ => FeedForward::Dense(dense.expect("a layer without experts has an MLP")),
        };
        Layer {
            qkv: self.qkv.expect("every layer has query, key and value"),
            latent: None,
            attention: AttentionShape {
                query_width: spec.query_width() as f64,
                kv_width: 2.0 * spec.kv_width() as f64,
                kv_bytes: 0.0,
                prefill_pair_flops: 4.0 * spec.query_width() as f64,
                decode_pair_flops: 4.0 * spec.query_width() as f64,
                window,
            },
            output: self.output.expect("every layer has an attention output"),
            norms: self.norms,
            feed_forward,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn layers(source: &str, format: WeightFormat) -> (ModelSpec, Layers) {
        let spec = llmlab_models::load_spec(source).unwrap();
        let layers = Layers::new(&spec, 131_072, |tensor| {
            let exact = tensor.role.is_vector() || tensor.role.is_router();
            Ok::<_, Infallible>(if exact { WeightFormat::F32 } else { format })
        });
        (spec, layers.unwrap())
    }

    #[test]
    fn products_hold_the_weights_that_models_count() {
        for source in
            ["spec:llama-3.1-8b", "synthetic:phi3-tiny", "synthetic:gemma3-tiny", "synthetic:llama-15m"]
        {
            let (spec, all) = layers(source, WeightFormat::Bf16);
            let layer_flops: f64 = all
                .layers
                .iter()
                .map(|(count, layer)| {
                    let FeedForward::Dense(mlp) = layer.feed_forward else { panic!("{source} is dense") };
                    let products = [layer.qkv, layer.output, mlp.gate_up, mlp.down];
                    count * products.iter().map(|product| product.flops(1.0)).sum::<f64>()
                })
                .sum();
            assert_eq!(layer_flops + all.lm_head.flops(1.0), spec.linear_flops_per_token(), "{source}");
            assert_eq!(all.stored_bytes, spec.stored_weight_bytes(WeightFormat::Bf16), "{source}");
        }
    }

    #[test]
    fn layers_that_are_alike_are_counted_once() {
        let (_, plain) = layers("spec:llama-3.1-8b", WeightFormat::Fp8);
        assert_eq!(plain.layers.len(), 1);
        assert_eq!(plain.layers[0].0, 32.0);
        let (spec, windows) = layers("synthetic:gemma3-tiny", WeightFormat::Bf16);
        assert_eq!(windows.layers.len(), 2, "global and windowed");
        assert_eq!(windows.layers.iter().map(|(count, _)| count).sum::<f64>(), f64::from(spec.num_layers));
    }

    #[test]
    fn a_mixture_keeps_experts_apart_from_what_every_token_uses() {
        let (spec, all) = layers("synthetic:qwen2moe-tiny", WeightFormat::Bf16);
        let moe = spec.moe.as_ref().unwrap();
        let experts = all.layers.iter().find_map(|(_, layer)| match layer.feed_forward {
            FeedForward::Experts(experts) => Some(experts),
            FeedForward::Dense(_) => None,
        });
        let experts = experts.expect("a mixture has experts");
        let per_expert = 2.0 * f64::from(moe.expert_intermediate) * f64::from(spec.hidden_size);
        assert_eq!(
            experts.all.gate_up.outputs * experts.all.gate_up.inputs,
            f64::from(moe.experts) * per_expert
        );
        assert!(experts.shared.is_some());
    }
}
