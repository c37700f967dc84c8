//! What a model computes and keeps, as sizes alone: for planning any decoder, whether our engine runs it or not.
//!
//! Reading order: this file (the sizes and their arithmetic), [`stored`] (what a checkpoint is published in), [`config`] (read
//! from the keys of a `config.json`), [`families`] (what the keys leave unsaid), [`unsupported`] (what is refused), [`window`] (what a
//! layer sees that does not see everything).

mod config;
mod families;
mod stored;
mod unsupported;
mod window;

pub use stored::StoredFormat;
pub use window::Window;

use crate::kv_plan::KvShape;
use crate::spec::{ModelSpec, TensorRole};

/// A decoder: its tables, and its layers with those that are alike counted together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Architecture {
    pub name: String,
    /// Rows of the embedding table.
    pub vocab_size: u32,
    /// Width of the residual stream.
    pub hidden_size: u32,
    /// Layers that are alike are one entry with their count, in order of first appearance.
    pub blocks: Vec<(u32, Block)>,
    /// For each layer, in the model's order, its place in `blocks`.
    pub order: Vec<usize>,
    /// The output projection is the embedding table.
    pub tied_embeddings: bool,
    /// Rows of a learned position table; 0 with rotary embedding or ALiBi.
    pub position_rows: u32,
    /// Values of norms and biases outside the layers.
    pub outer_norm_values: u32,
    /// Positions the model was trained for.
    pub max_positions: u32,
    /// What the checkpoint is published in.
    pub stored: StoredFormat,
}

/// One layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    pub attention: Attention,
    pub feed_forward: FeedForward,
    /// Values of all norms and biases of the layer, and of other vectors that are never quantized.
    pub norm_values: u32,
}

/// How a layer attends, which decides what it keeps of each token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attention {
    /// Multi-head, grouped-query or multi-query attention.
    Grouped {
        heads: u32,
        kv_heads: u32,
        head_dim: u32,
        /// `None`: all before it.
        window: Option<Window>,
    },
    /// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): one compressed vector a token and a rotary part that all
    /// heads share.
    Latent {
        heads: u32,
        /// Queries are compressed too.
        q_rank: Option<u32>,
        kv_rank: u32,
        rope_dim: u32,
        nope_dim: u32,
        v_dim: u32,
    },
}

/// What follows attention in a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedForward {
    Dense {
        width: u32,
        /// Gate and up projection, rather than up alone.
        gated: bool,
    },
    Experts {
        experts: u32,
        /// Routed experts that compute each token.
        per_token: u32,
        /// Of one routed expert.
        width: u32,
        /// Of the shared experts together, which compute every token; 0 for none.
        shared_width: u32,
        gated: bool,
    },
}

impl Architecture {
    /// Of a model our engine runs.
    pub fn of(spec: &ModelSpec) -> Architecture {
        let mut norm_values = vec![0u64; spec.num_layers as usize];
        let mut outer = 0;
        for tensor in spec.tensors() {
            if !tensor.role.is_vector() && tensor.role != TensorRole::SharedGate {
                continue;
            }
            match tensor.layer {
                Some(layer) => norm_values[layer as usize] += tensor.elements(),
                None => outer += tensor.elements(),
            }
        }
        let block = |layer: u32| Block {
            attention: Attention::Grouped {
                heads: spec.num_heads,
                kv_heads: spec.num_kv_heads,
                head_dim: spec.head_dim,
                window: spec.layers[layer as usize].window.map(Window::Sliding),
            },
            feed_forward: match &spec.moe {
                Some(moe) if moe.is_moe(layer) => FeedForward::Experts {
                    experts: moe.experts,
                    per_token: moe.experts_per_token,
                    width: moe.expert_intermediate,
                    shared_width: moe.shared_intermediate.unwrap_or(0),
                    gated: true,
                },
                _ => FeedForward::Dense { width: spec.intermediate_size, gated: true },
            },
            norm_values: norm_values[layer as usize] as u32,
        };
        let (blocks, order) = grouped((0..spec.num_layers).map(block));
        Architecture {
            name: spec.name.clone(),
            vocab_size: spec.vocab_size,
            hidden_size: spec.hidden_size,
            blocks,
            order,
            tied_embeddings: spec.tie_word_embeddings,
            position_rows: 0,
            outer_norm_values: outer as u32,
            max_positions: spec.max_position_embeddings,
            stored: StoredFormat::of_dtype(&spec.dtype),
        }
    }

    /// The layers in the model's order.
    pub fn layers(&self) -> impl Iterator<Item = &Block> {
        self.order.iter().map(|place| &self.blocks[*place].1)
    }

    /// Decoder layers.
    pub fn num_layers(&self) -> u32 {
        self.blocks.iter().map(|(count, _)| count).sum()
    }

    /// Trainable values. A tied output projection is the embedding table and counts once.
    pub fn parameters(&self) -> u64 {
        self.outer_parameters() + self.sum(|block| block.parameters(self.hidden_size))
    }

    /// Those that one token meets: all of them but the experts it is not sent to. Both tables count.
    pub fn active_parameters(&self) -> u64 {
        self.outer_parameters() + self.sum(|block| block.active_parameters(self.hidden_size))
    }

    /// Values of the embedding table; the output projection has as many.
    pub fn embedding_values(&self) -> u64 {
        u64::from(self.vocab_size) * u64::from(self.hidden_size)
    }

    /// Values of keys and values that one token adds over all layers. A layer with a window keeps no more tokens than that.
    pub fn kv_values_per_token(&self) -> u64 {
        self.sum(|block| block.attention.kv_values_per_token())
    }

    /// Of these, the values in layers with a window.
    pub fn windowed_kv_values_per_token(&self) -> u64 {
        self.sum(|block| match block.attention.window() {
            Some(_) => block.attention.kv_values_per_token(),
            None => 0,
        })
    }

    /// What a plan of KV blocks needs. Heads and window are of the first layer that has them: no model that the reader of
    /// configurations accepts has two kinds.
    pub fn kv_shape(&self) -> KvShape {
        kv_shape(&self.blocks)
    }

    fn outer_parameters(&self) -> u64 {
        let tables = if self.tied_embeddings { 1 } else { 2 };
        let positions = u64::from(self.position_rows) * u64::from(self.hidden_size);
        tables * self.embedding_values() + positions + u64::from(self.outer_norm_values)
    }

    fn sum(&self, of: impl Fn(&Block) -> u64) -> u64 {
        self.blocks.iter().map(|(count, block)| u64::from(*count) * of(block)).sum()
    }
}

/// How many layers each stage of a pipeline has, as vLLM shares them out: what is left over goes to the stages before the last.
pub fn layers_of_stages(layers: u32, stages: u32) -> Vec<u32> {
    let stages = stages.clamp(1, layers.max(1));
    let (each, extra) = (layers / stages, layers % stages);
    let has_more = |stage: u32| stage + 1 + extra >= stages && stage + 1 < stages;
    (0..stages).map(|stage| each + u32::from(has_more(stage))).collect()
}

impl Block {
    /// Values of the layer.
    pub fn parameters(&self, hidden_size: u32) -> u64 {
        let matrices = self.attention.parameters(hidden_size) + self.feed_forward.parameters(hidden_size);
        matrices + u64::from(self.norm_values)
    }

    /// Values that one token meets.
    pub fn active_parameters(&self, hidden_size: u32) -> u64 {
        self.parameters(hidden_size) - self.feed_forward.parameters(hidden_size)
            + self.feed_forward.active_parameters(hidden_size)
    }
}

impl Attention {
    /// Query heads.
    pub fn heads(&self) -> u32 {
        match *self {
            Attention::Grouped { heads, .. } | Attention::Latent { heads, .. } => heads,
        }
    }

    /// What the layer sees; `None` for all.
    pub fn window(&self) -> Option<Window> {
        match *self {
            Attention::Grouped { window, .. } => window,
            Attention::Latent { .. } => None,
        }
    }

    /// Values of the projection matrices.
    pub fn parameters(&self, hidden_size: u32) -> u64 {
        let hidden = u64::from(hidden_size);
        match *self {
            Attention::Grouped { heads, kv_heads, head_dim, .. } => {
                let query_and_output = 2 * u64::from(heads);
                (query_and_output + 2 * u64::from(kv_heads)) * u64::from(head_dim) * hidden
            }
            Attention::Latent { heads, q_rank, kv_rank, rope_dim, nope_dim, v_dim } => {
                let [heads, kv_rank, rope, nope, v] =
                    [heads, kv_rank, rope_dim, nope_dim, v_dim].map(u64::from);
                let queries = match q_rank.map(u64::from) {
                    Some(rank) => hidden * rank + rank * heads * (nope + rope),
                    None => hidden * heads * (nope + rope),
                };
                queries + hidden * (kv_rank + rope) + kv_rank * heads * (nope + v) + heads * v * hidden
            }
        }
    }

    /// Values one token leaves in the cache of this layer.
    pub fn kv_values_per_token(&self) -> u64 {
        match *self {
            Attention::Grouped { kv_heads, head_dim, .. } => 2 * u64::from(kv_heads) * u64::from(head_dim),
            Attention::Latent { kv_rank, rope_dim, .. } => u64::from(kv_rank) + u64::from(rope_dim),
        }
    }
}

impl FeedForward {
    /// Values of the matrices, router included.
    pub fn parameters(&self, hidden_size: u32) -> u64 {
        match *self {
            FeedForward::Dense { width, gated } => mlp(hidden_size, width, gated),
            FeedForward::Experts { experts, width, .. } => {
                self.every_token(hidden_size) + u64::from(experts) * mlp(hidden_size, width, self.gated())
            }
        }
    }

    /// Values that compute one token.
    pub fn active_parameters(&self, hidden_size: u32) -> u64 {
        match *self {
            FeedForward::Dense { .. } => self.parameters(hidden_size),
            FeedForward::Experts { per_token, width, .. } => {
                self.every_token(hidden_size) + u64::from(per_token) * mlp(hidden_size, width, self.gated())
            }
        }
    }

    fn gated(&self) -> bool {
        match *self {
            FeedForward::Dense { gated, .. } | FeedForward::Experts { gated, .. } => gated,
        }
    }

    /// Router and shared experts.
    fn every_token(&self, hidden_size: u32) -> u64 {
        match *self {
            FeedForward::Dense { .. } => 0,
            FeedForward::Experts { experts, shared_width, gated, .. } => {
                u64::from(hidden_size) * u64::from(experts) + mlp(hidden_size, shared_width, gated)
            }
        }
    }
}

fn mlp(hidden_size: u32, width: u32, gated: bool) -> u64 {
    let matrices = if gated { 3 } else { 2 };
    matrices * u64::from(hidden_size) * u64::from(width)
}

/// Of these layers alone, as those of one pipeline stage.
fn kv_shape(blocks: &[(u32, Block)]) -> KvShape {
    let windows = || blocks.iter().filter(|(_, block)| block.attention.window().is_some());
    let window_layers = windows().map(|(count, _)| count).sum();
    let layers: u32 = blocks.iter().map(|(count, _)| count).sum();
    let (kv_heads, head_size, latent) = match blocks.first().map(|(_, block)| block.attention) {
        Some(Attention::Grouped { kv_heads, head_dim, .. }) => (kv_heads, head_dim, false),
        Some(Attention::Latent { kv_rank, rope_dim, .. }) => (1, kv_rank + rope_dim, true),
        None => (0, 0, false),
    };
    KvShape {
        kv_heads,
        head_size,
        latent,
        full_layers: layers - window_layers,
        window_layers,
        window: windows().find_map(|(_, block)| block.attention.window()).map_or(0, Window::tokens),
    }
}

/// Counts equal layers together, in order of first appearance, and says which layer is of which kind.
fn grouped(layers: impl Iterator<Item = Block>) -> (Vec<(u32, Block)>, Vec<usize>) {
    let mut blocks: Vec<(u32, Block)> = Vec::new();
    let mut order = Vec::new();
    for layer in layers {
        let place = blocks.iter().position(|(_, block)| *block == layer).unwrap_or_else(|| {
            blocks.push((0, layer));
            blocks.len() - 1
        });
        blocks[place].0 += 1;
        order.push(place);
    }
    (blocks, order)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::synthetic::Preset;

    fn read(json: &str) -> Result<Architecture, crate::ModelError> {
        Architecture::from_hf_config(json, Path::new("model/config.json"))
    }

    #[test]
    fn every_preset_has_the_parameters_of_its_tensors() {
        for preset in Preset::ALL {
            let spec = preset.spec();
            let sizes = Architecture::of(&spec);
            assert_eq!(sizes.parameters(), spec.parameters(), "{}", spec.name);
            assert_eq!(sizes.kv_shape(), KvShape::of(&spec), "{}", spec.name);
            assert_eq!(sizes.kv_values_per_token() * 2, spec.kv_bytes_per_token(2.0), "{}", spec.name);
        }
    }

    /// arXiv 2412.19437: 671 B in all, 37 B a token, 576 values a token and layer in the cache.
    #[test]
    fn latent_attention_and_experts_count_as_published() {
        let v3 = read(
            r#"{"model_type": "deepseek_v3", "hidden_size": 7168, "intermediate_size": 18432,
            "moe_intermediate_size": 2048, "num_hidden_layers": 61, "num_attention_heads": 128,
            "num_key_value_heads": 128, "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8,
            "first_k_dense_replace": 3, "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_rope_head_dim": 64,
            "qk_nope_head_dim": 128, "v_head_dim": 128, "vocab_size": 129280, "max_position_embeddings": 163840,
            "quantization_config": {"quant_method": "fp8"}}"#,
        )
        .unwrap();
        assert_eq!(v3.parameters(), 671_026_419_200);
        assert_eq!(v3.active_parameters() / 1_000_000_000, 37);
        assert_eq!(v3.kv_values_per_token(), 61 * 576);
        assert_eq!(v3.blocks.iter().map(|(count, _)| *count).collect::<Vec<_>>(), [3, 58]);
        assert_eq!(v3.stored, StoredFormat::Fp8);
    }

    /// The checkpoint counts 124,439,808 values.
    #[test]
    fn gpt_2_is_read_by_its_own_keys() {
        let gpt2 = read(
            r#"{"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024,
            "vocab_size": 50257}"#,
        )
        .unwrap();
        assert_eq!(gpt2.parameters(), 124_439_808);
        assert_eq!((gpt2.position_rows, gpt2.tied_embeddings), (1024, true));
    }

    #[test]
    fn layers_with_windows_come_from_every_way_to_say_so() {
        let window_layers = |more: &str| {
            let json = format!(
                r#"{{"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 8, "num_attention_heads": 4,
                "vocab_size": 100, "sliding_window": 32, {more}}}"#
            );
            read(&json).map(|model| (model.kv_shape().window_layers, model.kv_shape().full_layers))
        };
        for (more, expected) in [
            (r#""model_type": "mistral""#, (8, 0)),
            (r#""model_type": "gemma2""#, (4, 4)),
            (r#""model_type": "gemma3_text""#, (7, 1)),
            (r#""model_type": "gemma3_text", "sliding_window_pattern": 2"#, (4, 4)),
            (r#""model_type": "qwen2""#, (0, 8)),
            (r#""model_type": "qwen2", "use_sliding_window": true, "max_window_layers": 6"#, (2, 6)),
            (r#""model_type": "x", "interleaved_sliding_window": [32, 32, 32, null]"#, (6, 2)),
        ] {
            assert_eq!(window_layers(more).unwrap(), expected, "{more}");
        }
        let chunks = r#"{"model_type": "x", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 4, "vocab_size": 100, "attention_chunk_size": 32,
            "layer_types": ["chunked_attention", "full_attention"]}"#;
        let seen: Vec<_> = read(chunks).unwrap().layers().map(|block| block.attention.window()).collect();
        assert_eq!(seen, [Some(Window::Chunk(32)), None]);
        let sliding = [r#""sliding_attention""#; 7].join(",");
        let listed = format!(r#""model_type": "x", "layer_types": [{sliding}, "full_attention"]"#);
        assert_eq!(window_layers(&listed).unwrap(), (7, 1));
        let error = window_layers(r#""layer_types": ["full_attention"]"#).unwrap_err().to_string();
        assert!(error.contains("layer_types: 1 layers; num_hidden_layers is 8"), "{error}");
        let error = window_layers(&listed.replace("full_attention", "mamba")).unwrap_err().to_string();
        assert!(error.contains("mamba") && error.contains("accepted are"), "{error}");
    }

    #[test]
    fn a_missing_or_absurd_size_is_one_error_that_names_the_key() {
        let error = read("{}").unwrap_err().to_string();
        assert!(error.contains("hidden_size: missing"), "{error}");
        let json = r#"{"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 9, "vocab_size": 9,
            "num_hidden_layers": 4000000000}"#;
        let error = read(json).unwrap_err().to_string();
        assert!(
            error.contains("num_hidden_layers: 4000000000 is not a whole number from 1 to 1024"),
            "{error}"
        );
    }
}
