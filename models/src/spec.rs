//! A model's shape, and the tensors that follow from it.

/// The shape of a Llama-family decoder. All sizes are counts of values unless named otherwise.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// The preset's name, or the folder's.
    pub name: String,
    /// The family: "llama".
    pub architecture: String,
    /// Rows of the embedding table; every token id is below it.
    pub vocab_size: u32,
    /// Width of the residual stream.
    pub hidden_size: u32,
    /// Width of the MLP.
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
    /// Base of the rotary frequencies.
    pub rope_theta: f32,
    /// Whether the output projection is the embedding table; then there is no `lm_head.weight`.
    pub tie_word_embeddings: bool,
    /// Token put before a text, where the model wants one.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a generation; empty where the model names none.
    pub eos_token_ids: Vec<u32>,
    /// The dtype the checkpoint declares ("bfloat16"); information only, the weight file decides.
    pub dtype: String,
}

/// What a tensor does, which decides how often it is read and whether it may be quantised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TensorRole {
    /// Token embedding table: one row is read per token; the whole of it per step when it is also the output projection.
    Embedding,
    /// A matrix of a decoder layer, read whole in each step.
    Linear,
    /// A matrix that adds its result to the residual stream (attention output, MLP down); otherwise as `Linear`.
    ResidualLinear,
    /// The output projection of an untied model.
    LmHead,
    /// An RMSNorm weight vector.
    Norm,
}

/// One tensor under its Hugging Face name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// e.g. `model.layers.3.self_attn.q_proj.weight`.
    pub name: String,
    /// `[out, in]` for matrices (`[vocab, hidden]` for embedding and lm_head), `[hidden]` for norms; row-major.
    pub shape: Vec<u64>,
    pub role: TensorRole,
}

impl TensorSpec {
    /// Values in the tensor.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }
}

impl ModelSpec {
    /// Every tensor of the checkpoint, in network order. At most nine a layer and three more.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let (hidden, ffn) = (u64::from(self.hidden_size), u64::from(self.intermediate_size));
        let vocab = u64::from(self.vocab_size);
        let mut tensors = vec![tensor("model.embed_tokens.weight", &[vocab, hidden], TensorRole::Embedding)];
        for layer in 0..self.num_layers {
            let mut add = |part: &str, shape: &[u64], role| {
                tensors.push(tensor(&format!("model.layers.{layer}.{part}.weight"), shape, role));
            };
            add("input_layernorm", &[hidden], TensorRole::Norm);
            add("self_attn.q_proj", &[self.query_width(), hidden], TensorRole::Linear);
            add("self_attn.k_proj", &[self.kv_width(), hidden], TensorRole::Linear);
            add("self_attn.v_proj", &[self.kv_width(), hidden], TensorRole::Linear);
            add("self_attn.o_proj", &[hidden, self.query_width()], TensorRole::ResidualLinear);
            add("post_attention_layernorm", &[hidden], TensorRole::Norm);
            add("mlp.gate_proj", &[ffn, hidden], TensorRole::Linear);
            add("mlp.up_proj", &[ffn, hidden], TensorRole::Linear);
            add("mlp.down_proj", &[hidden, ffn], TensorRole::ResidualLinear);
        }
        tensors.push(tensor("model.norm.weight", &[hidden], TensorRole::Norm));
        if !self.tie_word_embeddings {
            tensors.push(tensor("lm_head.weight", &[vocab, hidden], TensorRole::LmHead));
        }
        tensors
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

fn tensor(name: &str, shape: &[u64], role: TensorRole) -> TensorSpec {
    TensorSpec { name: name.to_string(), shape: shape.to_vec(), role }
}
