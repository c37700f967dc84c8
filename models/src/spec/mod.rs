//! A model's shape and the choices of its family, and the tensors that follow from them.
//!
//! Reading order: [`ModelSpec`], [`family`] (what families differ in), [`rope`] (rotary frequencies), [`names`] (one layer's
//! tensors), [`tensors`] (all of them).

pub mod family;
pub mod names;
pub mod rope;
pub mod tensors;

pub use family::{Activation, Family, LayerSpec, MoeSpec};
pub use names::{FeedForward, LayerNames, Linear, MlpNames, MoeNames};
pub use rope::{RopeScaling, RopeSpec};
pub use tensors::{TensorRole, TensorSpec};

/// A decoder. All sizes are counts of values unless named otherwise.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// The preset's name, or the folder's.
    pub name: String,
    pub family: Family,
    /// Rows of the embedding table; every token id is below it.
    pub vocab_size: u32,
    /// Width of the residual stream.
    pub hidden_size: u32,
    /// Width of the MLP of a dense layer.
    pub intermediate_size: u32,
    /// Decoder layers.
    pub num_layers: u32,
    /// Query heads.
    pub num_heads: u32,
    /// Key and value heads; divides `num_heads`.
    pub num_kv_heads: u32,
    /// Values in one head; even, because rotary embedding turns pairs. `num_heads * head_dim` need not be `hidden_size`.
    pub head_dim: u32,
    /// Positions the model was trained for.
    pub max_position_embeddings: u32,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f32,
    /// Whether the output projection is the embedding table; then there is no `lm_head.weight`.
    pub tie_word_embeddings: bool,
    /// Token put before a text, where the model wants one.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a generation; empty where the model names none.
    pub eos_token_ids: Vec<u32>,
    /// The dtype the checkpoint declares ("bfloat16"); information only, the weight file decides.
    pub dtype: String,

    pub activation: Activation,
    /// Whether query, key and value projections add a bias.
    pub qkv_bias: bool,
    /// Whether the attention's output projection adds a bias.
    pub o_bias: bool,
    /// Whether the MLP's projections add a bias.
    pub mlp_bias: bool,
    /// Whether each query and key head passes through an RMSNorm before the rotary embedding.
    pub qk_norm: bool,
    /// Whether the weight `w` of every norm, those of heads included, multiplies as `1 + w`.
    pub norm_plus_one: bool,
    /// Whether the outputs of attention and MLP pass through a norm before they join the residual stream.
    pub sandwich_norms: bool,
    /// Multiplies the embedding of each token.
    pub embedding_scale: f32,
    /// Multiplies `q·k`.
    pub attention_scale: f32,
    /// `c`: scaled scores become `c * tanh(score / c)` before the softmax.
    pub attention_softcap: Option<f32>,
    /// The same for logits.
    pub logit_softcap: Option<f32>,
    /// One a layer.
    pub layers: Vec<LayerSpec>,
    /// The rotary embeddings that `layers` choose from.
    pub ropes: Vec<RopeSpec>,
    pub moe: Option<MoeSpec>,
}

impl ModelSpec {
    /// A model of no size with the choices of Llama, to be completed: by struct update, then
    /// [`Self::with_plain_attention`].
    pub fn neutral() -> Self {
        ModelSpec {
            name: String::new(),
            family: Family::Llama,
            vocab_size: 0,
            hidden_size: 0,
            intermediate_size: 0,
            num_layers: 0,
            num_heads: 0,
            num_kv_heads: 0,
            head_dim: 0,
            max_position_embeddings: 0,
            rms_norm_eps: 1e-5,
            tie_word_embeddings: false,
            bos_token_id: None,
            eos_token_ids: Vec::new(),
            dtype: "float32".into(),
            activation: Activation::Silu,
            qkv_bias: false,
            o_bias: false,
            mlp_bias: false,
            qk_norm: false,
            norm_plus_one: false,
            sandwich_norms: false,
            embedding_scale: 1.0,
            attention_scale: 1.0,
            attention_softcap: None,
            logit_softcap: None,
            layers: Vec::new(),
            ropes: Vec::new(),
            moe: None,
        }
    }

    /// The same model with attention as in Llama: `num_layers` layers that see everything through one unscaled rotary
    /// embedding of whole heads, scores divided by `sqrt(head_dim)`. For specs derived from another by changing sizes.
    pub fn with_plain_attention(self, rope_theta: f64) -> Self {
        ModelSpec {
            attention_scale: 1.0 / (self.head_dim as f32).sqrt(),
            layers: vec![LayerSpec { window: None, rope: 0 }; self.num_layers as usize],
            ropes: vec![RopeSpec::plain(rope_theta, self.head_dim)],
            ..self
        }
    }

    /// Values in the queries of one token: `num_heads * head_dim`.
    pub fn query_width(&self) -> u64 {
        u64::from(self.num_heads) * u64::from(self.head_dim)
    }

    /// Values in the keys (or the values) of one token in one layer: `num_kv_heads * head_dim`.
    pub fn kv_width(&self) -> u64 {
        u64::from(self.num_kv_heads) * u64::from(self.head_dim)
    }
}
