//! How many operations a forward pass cannot do without: the compute side of its roofline.
//!
//! A multiply-add counts as 2, the convention of data sheets and of `llmlab_models::arithmetic`. Norms, activations, softmax
//! and rotary embedding are under 1 % and not counted.

use llmlab_models::{ModelSpec, TensorRole};

/// Operations of one model, ready to be summed over steps.
#[derive(Debug, Clone)]
pub struct Operations {
    /// All matrices a token passes through, the output projection left out.
    layers_per_token: f64,
    /// The output projection, for each position whose logits are wanted.
    logits_per_token: f64,
    /// Attention of all layers, per query and key.
    attention_per_pair: f64,
}

impl Operations {
    pub fn of(spec: &ModelSpec) -> Operations {
        let head = spec.tensors().iter().find_map(|tensor| {
            let is_head = tensor.role == TensorRole::LmHead
                || (spec.tie_word_embeddings && tensor.role == TensorRole::Embedding);
            is_head.then(|| 2.0 * tensor.elements() as f64)
        });
        let logits_per_token = head.unwrap_or(0.0);
        Operations {
            layers_per_token: spec.linear_flops_per_token() - logits_per_token,
            logits_per_token,
            attention_per_pair: spec.attention_flops_per_token_per_context(),
        }
    }

    /// `tokens` new positions of one sequence after `context` cached ones; logits of `logits` of them. Position p attends to
    /// p + 1 keys; a layer with a sliding window attends to fewer, which is not taken off.
    pub fn count(&self, context: u64, tokens: u64, logits: u64) -> f64 {
        let pairs = (tokens * context + tokens * (tokens + 1) / 2) as f64;
        self.layers_per_token * tokens as f64
            + self.logits_per_token * logits as f64
            + self.attention_per_pair * pairs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_in_pieces_is_the_same_work_and_logits_count_once_each() {
        for model in ["synthetic:llama-15m", "synthetic:llama-1.1b"] {
            let spec = llmlab_models::load_spec(model).unwrap();
            let operations = Operations::of(&spec);
            let whole = operations.count(0, 100, 1);
            let pieces = operations.count(0, 40, 0) + operations.count(40, 60, 1);
            assert!((whole / pieces - 1.0).abs() < 1e-12, "{model}");
            let one = operations.count(0, 1, 1);
            let expected = spec.linear_flops_per_token() + spec.attention_flops_per_token_per_context();
            assert!((one / expected - 1.0).abs() < 1e-12, "{model}: {one} {expected}");
            let head = 2.0 * f64::from(spec.vocab_size) * f64::from(spec.hidden_size);
            assert!((one - operations.count(0, 1, 0) - head).abs() < 1.0, "{model}");
        }
    }
}
