//! The layers of a model of any family, as one device of a sharding computes them.
//!
//! Tensor parallelism divides heads and the width of the feed-forward part (Shoeybi et al. 2019, Megatron-LM): two sums over the
//! devices a layer. Fewer KV heads than devices are kept on several. Latent attention keeps its compressed keys and values on each.
//! Expert parallelism gives whole experts to devices instead; pipeline stages are groups of layers.

use llmlab_models::architecture::{Architecture, Attention, Block, FeedForward as ArchitectureFeedForward};
use llmlab_quant::WeightFormat;

use super::layers::{AttentionShape, Experts, FeedForward, Layer, Layers, Math, Mlp, Product};

/// How many devices share what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sharding {
    pub tensor: u32,
    pub pipeline: u32,
    /// Devices that divide the experts; 1 divides each expert over the tensor group.
    pub expert: u32,
}

impl Sharding {
    pub const SINGLE: Sharding = Sharding { tensor: 1, pipeline: 1, expert: 1 };

    pub fn tensor(devices: u32) -> Sharding {
        Sharding { tensor: devices.max(1), ..Sharding::SINGLE }
    }

    pub fn devices(&self) -> u32 {
        self.tensor.max(self.expert) * self.pipeline
    }
}

/// Blocks of 32 4-bit floats with one 8-bit exponent.
pub const MXFP4_BITS: f64 = 4.25;

/// How a checkpoint's matrices are held.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weights {
    pub math: Math,
    /// Bytes of a weight of a layer's matrix, scales included.
    pub bytes: f64,
    /// The same for embedding and output projection.
    pub head_bytes: f64,
    pub head_math: Math,
    /// The same for experts, where they have a format of their own.
    pub experts: Option<(Math, f64)>,
}

impl Weights {
    /// Embedding and output projection stay in 16 bits, as published 8-bit and 4-bit checkpoints have them.
    pub fn of(format: WeightFormat) -> Weights {
        let math = Math::of(format);
        let bytes = format.bits_per_weight() / 8.0;
        match math {
            Math::F32 | Math::Half => {
                Weights { math, bytes, head_bytes: bytes, head_math: math, experts: None }
            }
            _ => Weights { math, bytes, head_bytes: 2.0, head_math: Math::Half, experts: None },
        }
    }

    /// Formats of GGUF mixes: bits of the whole, and of the output projection.
    pub fn mixed(bits: f64, head_bits: f64) -> Weights {
        Weights {
            math: Math::WeightOnly,
            bytes: bits / 8.0,
            head_bytes: head_bits / 8.0,
            head_math: Math::WeightOnly,
            experts: None,
        }
    }

    /// Experts in so many bits, all else in 16: a small batch reads few of the experts and all of the rest.
    pub fn few_bit_experts(bits: f64) -> Weights {
        Weights { experts: Some((Math::WeightOnly, bits / 8.0)), ..Weights::of(WeightFormat::Bf16) }
    }

    fn of_experts(self) -> Weights {
        let (math, bytes) = self.experts.unwrap_or((self.math, self.bytes));
        Weights { math, bytes, ..self }
    }

    fn product(&self, outputs: f64, inputs: f64) -> Product {
        Product { outputs, inputs, weight_bytes: outputs * inputs * self.bytes, math: self.math }
    }

    fn mlp(&self, hidden: f64, width: f64, gated: bool) -> Mlp {
        let gate_up = if gated { 2.0 * width } else { width };
        Mlp { gate_up: self.product(gate_up, hidden), down: self.product(hidden, width) }
    }
}

impl Layers {
    /// What one device of `sharding` computes of a model. `kv_value_bytes` is the size of a cached value.
    pub fn of(model: &Architecture, weights: Weights, kv_value_bytes: f64, sharding: Sharding) -> Layers {
        let hidden = f64::from(model.hidden_size);
        let vocab = f64::from(model.vocab_size);
        let tensor = f64::from(sharding.tensor.max(1));
        let layers: Vec<(f64, Layer)> = model
            .blocks
            .iter()
            .map(|(count, block)| {
                (f64::from(*count), layer(block, hidden, weights, kv_value_bytes, sharding))
            })
            .collect();
        let lm_head = Product {
            outputs: (vocab / tensor).ceil(),
            inputs: hidden,
            weight_bytes: (vocab / tensor).ceil() * hidden * weights.head_bytes,
            math: weights.head_math,
        };
        let tables = if model.tied_embeddings { 1.0 } else { 2.0 };
        let matrices: f64 = layers.iter().map(|(count, layer)| count * layer.weight_bytes()).sum();
        let stored = matrices / f64::from(sharding.pipeline.max(1)) + tables * lm_head.weight_bytes;
        Layers {
            lm_head,
            embedding_row_bytes: hidden * weights.head_bytes,
            stored_bytes: stored as u64,
            hidden,
            vocab,
            sharding,
            layers,
        }
    }

    /// Bytes a token keeps on this device.
    pub fn kv_bytes_per_token(&self) -> f64 {
        let layers: f64 = self.layers.iter().map(|(count, layer)| count * layer.attention.kv_bytes).sum();
        layers / f64::from(self.sharding.pipeline.max(1))
    }
}

fn layer(block: &Block, hidden: f64, weights: Weights, kv_value_bytes: f64, sharding: Sharding) -> Layer {
    let tensor = f64::from(sharding.tensor.max(1));
    let (qkv, latent, attention, output_inputs) = match block.attention {
        Attention::Grouped { heads, kv_heads, head_dim, window } => {
            let dim = f64::from(head_dim);
            let query_width = f64::from(heads) * dim / tensor;
            let kv_width = 2.0 * (f64::from(kv_heads) / tensor).max(1.0) * dim;
            let shape = AttentionShape {
                query_width,
                kv_width,
                kv_bytes: kv_width * kv_value_bytes,
                prefill_pair_flops: 4.0 * query_width,
                decode_pair_flops: 4.0 * query_width,
                window,
            };
            (weights.product(query_width + kv_width, hidden), None, shape, query_width)
        }
        Attention::Latent { heads, q_rank, kv_rank, rope_dim, nope_dim, v_dim } => {
            let heads = f64::from(heads) / tensor;
            let [kv, rope, nope, v] = [kv_rank, rope_dim, nope_dim, v_dim].map(f64::from);
            let queries = heads * (nope + rope);
            let onto = weights.product(heads * (nope + v), kv);
            let shape = AttentionShape {
                query_width: queries,
                kv_width: kv + rope,
                kv_bytes: (kv + rope) * kv_value_bytes,
                prefill_pair_flops: 2.0 * heads * (nope + rope + v),
                decode_pair_flops: 2.0 * heads * (2.0 * kv + rope),
                window: None,
            };
            let (first, second) = match q_rank {
                Some(rank) => {
                    let rank = f64::from(rank);
                    (weights.product(rank + kv + rope, hidden), weights.product(queries, rank))
                }
                None => (weights.product(queries + kv + rope, hidden), weights.product(0.0, hidden)),
            };
            (first, Some([second, onto]), shape, heads * v)
        }
    };
    Layer {
        qkv,
        latent,
        attention,
        output: weights.product(hidden, output_inputs),
        norms: 2.0,
        feed_forward: feed_forward(&block.feed_forward, hidden, weights, sharding),
    }
}

fn feed_forward(
    block: &ArchitectureFeedForward,
    hidden: f64,
    weights: Weights,
    sharding: Sharding,
) -> FeedForward {
    let tensor = f64::from(sharding.tensor.max(1));
    match *block {
        ArchitectureFeedForward::Dense { width, gated } => {
            FeedForward::Dense(weights.mlp(hidden, f64::from(width) / tensor, gated))
        }
        ArchitectureFeedForward::Experts { experts, per_token, width, shared_width, gated } => {
            let expert = f64::from(sharding.expert.max(1));
            let total = f64::from(experts);
            // Whole experts on each device of an expert group, or a slice of every one.
            let (here, slice) = if expert > 1.0 { (total / expert, 1.0) } else { (total, tensor) };
            let width = f64::from(width) / slice;
            let one = weights.of_experts().mlp(hidden, width, gated);
            let all = |product: Product| Product {
                outputs: product.outputs * here,
                weight_bytes: product.weight_bytes * here,
                ..product
            };
            FeedForward::Experts(Experts {
                router: Product {
                    weight_bytes: 2.0 * total * hidden,
                    math: Math::Half,
                    ..weights.product(total, hidden)
                },
                all: Mlp { gate_up: all(one.gate_up), down: all(one.down) },
                experts: here,
                experts_per_token: f64::from(per_token) * here / total,
                shared: (shared_width > 0)
                    .then(|| weights.mlp(hidden, f64::from(shared_width) / tensor, gated)),
            })
        }
    }
}

impl Layer {
    /// Matrices only.
    pub fn weight_bytes(&self) -> f64 {
        let mlp = |mlp: &Mlp| mlp.gate_up.weight_bytes + mlp.down.weight_bytes;
        let feed_forward = match &self.feed_forward {
            FeedForward::Dense(dense) => mlp(dense),
            FeedForward::Experts(experts) => {
                experts.router.weight_bytes + mlp(&experts.all) + experts.shared.as_ref().map_or(0.0, mlp)
            }
        };
        let latent: f64 = self.latent.iter().flatten().map(|product| product.weight_bytes).sum();
        self.qkv.weight_bytes + latent + self.output.weight_bytes + feed_forward
    }
}
