//! The families of decoders, and the small choices in which they differ.

use std::fmt;
use std::str::FromStr;

/// A family of decoder models: which tensors a checkpoint has and under which names. What a forward pass computes follows
/// from the flags of [`crate::ModelSpec`], not from the family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
    Gemma2,
    Gemma3,
    Phi3,
    Mixtral,
    Qwen2Moe,
    Qwen3Moe,
}

impl Family {
    /// Every family, in the order an error lists them.
    pub const ALL: [Family; 10] = [
        Family::Llama,
        Family::Mistral,
        Family::Qwen2,
        Family::Qwen3,
        Family::Gemma2,
        Family::Gemma3,
        Family::Phi3,
        Family::Mixtral,
        Family::Qwen2Moe,
        Family::Qwen3Moe,
    ];

    /// The name people type: lower case, no separators.
    pub fn name(self) -> &'static str {
        match self {
            Family::Llama => "llama",
            Family::Mistral => "mistral",
            Family::Qwen2 => "qwen2",
            Family::Qwen3 => "qwen3",
            Family::Gemma2 => "gemma2",
            Family::Gemma3 => "gemma3",
            Family::Phi3 => "phi3",
            Family::Mixtral => "mixtral",
            Family::Qwen2Moe => "qwen2moe",
            Family::Qwen3Moe => "qwen3moe",
        }
    }

    /// Whether query, key and value rows are one matrix in the checkpoint, and gate and up rows another.
    pub fn fused_projections(self) -> bool {
        self == Family::Phi3
    }
}

impl fmt::Display for Family {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

impl FromStr for Family {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Family::ALL.into_iter().find(|family| family.name() == name).ok_or_else(|| {
            let accepted = Family::ALL.map(Family::name).join(", ");
            format!("{name:?} is not a model family; accepted are {accepted}")
        })
    }
}

/// What is applied to the gate before it multiplies the up projection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))`.
    GeluTanh,
}

/// What differs from layer to layer in attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerSpec {
    /// Positions a query sees, its own included; `None` for all before it.
    pub window: Option<u32>,
    /// Index into [`crate::ModelSpec::ropes`].
    pub rope: u8,
}

/// A mixture of experts in place of the MLP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoeSpec {
    /// Experts a layer has.
    pub experts: u32,
    /// Experts that compute each token: those with the largest router logits, the lower index first where equal.
    pub experts_per_token: u32,
    /// Width of one expert's MLP.
    pub expert_intermediate: u32,
    /// Whether the chosen experts' probabilities (softmax over all experts) are divided by their sum.
    pub normalize_top_k: bool,
    /// Width of the expert that computes every token, its output scaled by `sigmoid` of a gate of one row.
    pub shared_intermediate: Option<u32>,
    /// One a layer: whether the layer has a plain MLP of `intermediate_size` instead.
    pub dense_layers: Vec<bool>,
}

impl MoeSpec {
    /// Whether `layer` has experts.
    pub fn is_moe(&self, layer: u32) -> bool {
        !self.dense_layers[layer as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_an_unknown_one_lists_the_accepted() {
        for family in Family::ALL {
            assert_eq!(family.to_string().parse(), Ok(family));
        }
        let error = "gpt2".parse::<Family>().unwrap_err();
        assert!(error.contains("gpt2") && error.contains("qwen3moe"), "{error}");
    }
}
