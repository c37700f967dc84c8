//! The tensors of one layer by their Hugging Face names. The list of all tensors and the loaders of an engine both come from
//! here, so that neither can ask for a name the other does not know.

use crate::spec::tensors::TensorRole;
use crate::spec::{Family, ModelSpec};

/// A matrix `[rows, cols]` that multiplies, with its bias where it has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Linear {
    /// e.g. `model.layers.3.self_attn.q_proj.weight`.
    pub weight: String,
    /// `[rows]`.
    pub bias: Option<String>,
    /// Output features.
    pub rows: u64,
    /// Input features.
    pub cols: u64,
    pub role: TensorRole,
}

/// A gated MLP: `down(activation(gate(x)) * up(x))`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MlpNames {
    /// Gate then up; or one matrix whose rows are those of gate, then those of up.
    pub gate_up: Vec<Linear>,
    pub down: Linear,
}

/// The experts of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoeNames {
    /// `[experts, hidden]`.
    pub router: Linear,
    pub experts: Vec<MlpNames>,
    /// The expert that computes every token, and its gate `[1, hidden]`.
    pub shared: Option<(MlpNames, Linear)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeedForward {
    Dense(MlpNames),
    Experts(MoeNames),
}

/// The tensors of one decoder layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerNames {
    /// Norm before attention, `[hidden]`.
    pub input_norm: String,
    /// Query, key, value; or one matrix whose rows are those three in this order.
    pub qkv: Vec<Linear>,
    /// Norm over each query head, `[head_dim]`, where there is one.
    pub q_norm: Option<String>,
    /// Norm over each key head, `[head_dim]`, where there is one.
    pub k_norm: Option<String>,
    pub o: Linear,
    /// Norm before the MLP, `[hidden]`; with [`ModelSpec::sandwich_norms`] the norm of the attention's output instead.
    pub post_attention_norm: String,
    /// With sandwich norms: the norm before the MLP.
    pub pre_feedforward_norm: Option<String>,
    /// With sandwich norms: the norm of the MLP's output.
    pub post_feedforward_norm: Option<String>,
    pub feed_forward: FeedForward,
}

/// Names of the tensors outside the layers.
pub const EMBEDDING: &str = "model.embed_tokens.weight";
pub const FINAL_NORM: &str = "model.norm.weight";
pub const LM_HEAD: &str = "lm_head.weight";

impl ModelSpec {
    /// The tensors of `layer`.
    pub fn names(&self, layer: u32) -> LayerNames {
        assert!(layer < self.num_layers, "layer {layer} of {}", self.num_layers);
        let at = |part: &str| format!("model.layers.{layer}.{part}");
        let norm = |part: &str| format!("model.layers.{layer}.{part}.weight");
        let hidden = u64::from(self.hidden_size);
        let linear = |part: &str, rows, cols, role, bias| linear(&at(part), rows, cols, role, bias);
        let (query, kv) = (self.query_width(), self.kv_width());
        let qkv = if self.family.fused_projections() {
            vec![linear("self_attn.qkv_proj", query + 2 * kv, hidden, TensorRole::Qkv, self.qkv_bias)]
        } else {
            vec![
                linear("self_attn.q_proj", query, hidden, TensorRole::Query, self.qkv_bias),
                linear("self_attn.k_proj", kv, hidden, TensorRole::Key, self.qkv_bias),
                linear("self_attn.v_proj", kv, hidden, TensorRole::Value, self.qkv_bias),
            ]
        };
        LayerNames {
            input_norm: norm("input_layernorm"),
            qkv,
            q_norm: self.qk_norm.then(|| norm("self_attn.q_norm")),
            k_norm: self.qk_norm.then(|| norm("self_attn.k_norm")),
            o: linear("self_attn.o_proj", hidden, query, TensorRole::AttentionOutput, self.o_bias),
            post_attention_norm: norm("post_attention_layernorm"),
            pre_feedforward_norm: self.sandwich_norms.then(|| norm("pre_feedforward_layernorm")),
            post_feedforward_norm: self.sandwich_norms.then(|| norm("post_feedforward_layernorm")),
            feed_forward: self.feed_forward(layer),
        }
    }

    fn feed_forward(&self, layer: u32) -> FeedForward {
        let hidden = u64::from(self.hidden_size);
        let at = |part: &str| format!("model.layers.{layer}.{part}");
        let Some(moe) = self.moe.as_ref().filter(|moe| moe.is_moe(layer)) else {
            return FeedForward::Dense(self.mlp(&at("mlp"), self.intermediate_size, HF_PARTS));
        };
        let mixtral = self.family == Family::Mixtral;
        let block = at(if mixtral { "block_sparse_moe" } else { "mlp" });
        let parts = if mixtral { MIXTRAL_PARTS } else { HF_PARTS };
        let experts = (0..moe.experts)
            .map(|expert| self.mlp(&format!("{block}.experts.{expert}"), moe.expert_intermediate, parts))
            .collect();
        let shared = moe.shared_intermediate.map(|width| {
            let gate =
                linear(&format!("{block}.shared_expert_gate"), 1, hidden, TensorRole::SharedGate, false);
            (self.mlp(&format!("{block}.shared_expert"), width, HF_PARTS), gate)
        });
        let experts_rows = u64::from(moe.experts);
        let router = linear(&format!("{block}.gate"), experts_rows, hidden, TensorRole::Router, false);
        FeedForward::Experts(MoeNames { router, experts, shared })
    }

    fn mlp(&self, prefix: &str, width: u32, [gate, up, down]: [&str; 3]) -> MlpNames {
        let (hidden, width) = (u64::from(self.hidden_size), u64::from(width));
        let part = |name: &str, rows, cols, role| {
            linear(&format!("{prefix}.{name}"), rows, cols, role, self.mlp_bias)
        };
        let gate_up = if self.family.fused_projections() {
            vec![part("gate_up_proj", 2 * width, hidden, TensorRole::GateUp)]
        } else {
            vec![part(gate, width, hidden, TensorRole::Gate), part(up, width, hidden, TensorRole::Up)]
        };
        MlpNames { gate_up, down: part(down, hidden, width, TensorRole::Down) }
    }
}

/// Gate, up, down.
const HF_PARTS: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];
const MIXTRAL_PARTS: [&str; 3] = ["w1", "w3", "w2"];

fn linear(prefix: &str, rows: u64, cols: u64, role: TensorRole, bias: bool) -> Linear {
    Linear {
        weight: format!("{prefix}.weight"),
        bias: bias.then(|| format!("{prefix}.bias")),
        rows,
        cols,
        role,
    }
}
