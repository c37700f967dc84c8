//! The list of a model's tensors: names, shapes and what each is for.

use llmlab_quant::{MatrixRole, TensorPlace, WeightFormat};

use crate::spec::ModelSpec;
use crate::spec::names::{EMBEDDING, FINAL_NORM, FeedForward, LM_HEAD, LayerNames, Linear, MlpNames};

/// What a tensor does, which decides how often it is read and how it may be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TensorRole {
    /// Token embedding table: one row is read per token; the whole of it per step when it is also the output projection.
    Embedding,
    Query,
    Key,
    Value,
    /// Query, key and value rows in one matrix.
    Qkv,
    /// Adds the attention's result to the residual stream.
    AttentionOutput,
    Gate,
    Up,
    /// Gate and up rows in one matrix.
    GateUp,
    /// Adds the MLP's result to the residual stream.
    Down,
    /// Chooses experts, `[experts, hidden]`.
    Router,
    /// Weighs the shared expert, `[1, hidden]`.
    SharedGate,
    /// The output projection of an untied model.
    LmHead,
    /// An RMSNorm weight vector of the residual stream, `[hidden]`.
    Norm,
    /// An RMSNorm weight vector of a head, `[head_dim]`.
    HeadNorm,
    /// A bias vector.
    Bias,
}

impl TensorRole {
    /// A matrix of a layer: all roles but embedding, output projection and the vectors.
    pub fn is_layer_matrix(self) -> bool {
        !self.is_vector() && !matches!(self, TensorRole::Embedding | TensorRole::LmHead)
    }

    pub fn is_vector(self) -> bool {
        matches!(self, TensorRole::Norm | TensorRole::HeadNorm | TensorRole::Bias)
    }

    /// A matrix that decides more than it computes: two of them are under 0.1 % of a layer, and rounding one sends tokens
    /// to other experts, so quantisers leave them in floats.
    pub fn is_router(self) -> bool {
        matches!(self, TensorRole::Router | TensorRole::SharedGate)
    }
}

/// One tensor under its Hugging Face name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// e.g. `model.layers.3.self_attn.q_proj.weight`.
    pub name: String,
    /// `[out, in]` for matrices (`[vocab, hidden]` for embedding and lm_head), one size for vectors; row-major.
    pub shape: Vec<u64>,
    pub role: TensorRole,
    /// The layer it belongs to.
    pub layer: Option<u32>,
    /// Whether it belongs to an expert that only some tokens use.
    pub routed: bool,
}

impl TensorSpec {
    /// Values in the tensor.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    /// Bytes of it in `format`: whole blocks per row, and the scale of each row where the format has one.
    pub fn bytes(&self, format: WeightFormat) -> u64 {
        let [rows, cols] = self.shape[..] else { return format.row_bytes(self.elements() as usize) as u64 };
        let row_scale = if matches!(format, WeightFormat::Int8 | WeightFormat::Fp8) { 4 } else { 0 };
        rows * (format.row_bytes(cols as usize) as u64 + row_scale)
    }
}

impl ModelSpec {
    /// Every tensor of the checkpoint, in network order.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let (hidden, vocab) = (u64::from(self.hidden_size), u64::from(self.vocab_size));
        let outside = |name: &str, shape: &[u64], role| TensorSpec {
            name: name.to_string(),
            shape: shape.to_vec(),
            role,
            layer: None,
            routed: false,
        };
        let mut tensors = vec![outside(EMBEDDING, &[vocab, hidden], TensorRole::Embedding)];
        for layer in 0..self.num_layers {
            LayerList { spec: self, layer, tensors: &mut tensors }.add(self.names(layer));
        }
        tensors.push(outside(FINAL_NORM, &[hidden], TensorRole::Norm));
        if !self.tie_word_embeddings {
            tensors.push(outside(LM_HEAD, &[vocab, hidden], TensorRole::LmHead));
        }
        tensors
    }

    /// Where a tensor stands in the model, as recipes see it; `None` for those that are never quantized.
    pub fn place(&self, tensor: &TensorSpec) -> Option<TensorPlace> {
        let role = match tensor.role {
            TensorRole::Embedding if self.tie_word_embeddings => MatrixRole::TiedEmbedding,
            TensorRole::Embedding => MatrixRole::Embedding,
            TensorRole::LmHead => MatrixRole::Output,
            TensorRole::Query => MatrixRole::Query,
            TensorRole::Key => MatrixRole::Key,
            TensorRole::Value => MatrixRole::Value,
            TensorRole::Qkv => MatrixRole::Qkv,
            TensorRole::AttentionOutput => MatrixRole::AttentionOutput,
            TensorRole::Gate => MatrixRole::Gate,
            TensorRole::Up => MatrixRole::Up,
            TensorRole::GateUp => MatrixRole::GateUp,
            TensorRole::Down => MatrixRole::Down,
            _ => return None,
        };
        Some(TensorPlace {
            role,
            layer: tensor.layer.unwrap_or(0) as usize,
            layers: self.num_layers as usize,
            cols: *tensor.shape.last()? as usize,
            gqa: (self.num_heads / self.num_kv_heads.max(1)) as usize,
            experts: self.moe.as_ref().map_or(0, |moe| moe.experts as usize),
        })
    }
}

struct LayerList<'a> {
    spec: &'a ModelSpec,
    layer: u32,
    tensors: &'a mut Vec<TensorSpec>,
}

impl LayerList<'_> {
    fn add(&mut self, names: LayerNames) {
        self.norm(Some(names.input_norm));
        names.qkv.into_iter().for_each(|linear| self.linear(linear, false));
        for name in [names.q_norm, names.k_norm].into_iter().flatten() {
            self.push(name, vec![u64::from(self.spec.head_dim)], TensorRole::HeadNorm, false);
        }
        self.linear(names.o, false);
        self.norm(Some(names.post_attention_norm));
        self.norm(names.pre_feedforward_norm);
        match names.feed_forward {
            FeedForward::Dense(mlp) => self.mlp(mlp, false),
            FeedForward::Experts(moe) => {
                self.linear(moe.router, false);
                moe.experts.into_iter().for_each(|expert| self.mlp(expert, true));
                if let Some((expert, gate)) = moe.shared {
                    self.mlp(expert, false);
                    self.linear(gate, false);
                }
            }
        }
        self.norm(names.post_feedforward_norm);
    }

    fn mlp(&mut self, mlp: MlpNames, routed: bool) {
        mlp.gate_up.into_iter().for_each(|linear| self.linear(linear, routed));
        self.linear(mlp.down, routed);
    }

    fn linear(&mut self, linear: Linear, routed: bool) {
        self.push(linear.weight, vec![linear.rows, linear.cols], linear.role, routed);
        if let Some(bias) = linear.bias {
            self.push(bias, vec![linear.rows], TensorRole::Bias, routed);
        }
    }

    fn norm(&mut self, name: Option<String>) {
        if let Some(name) = name {
            self.push(name, vec![u64::from(self.spec.hidden_size)], TensorRole::Norm, false);
        }
    }

    fn push(&mut self, name: String, shape: Vec<u64>, role: TensorRole, routed: bool) {
        self.tensors.push(TensorSpec { name, shape, role, layer: Some(self.layer), routed });
    }
}
