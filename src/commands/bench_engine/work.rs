//! How many operations a forward pass cannot do without: the compute side of its roofline.
//!
//! A multiply-add counts as 2, the convention of data sheets and of `llmlab_models::arithmetic`. Norms, activations, softmax
//! and rotary embedding are under 1 % and not counted. Nothing follows the last layer of a position whose logits nobody wants,
//! so of that layer only its keys and values count, which later positions read.

use std::collections::BTreeMap;

use llmlab_models::{ModelSpec, TensorRole, TensorSpec};

/// Operations of one model, ready to be summed over steps.
#[derive(Debug, Clone)]
pub struct Operations {
    /// Matrices of all layers but the last, and keys and values of the last.
    every_token: f64,
    /// The rest of the last layer and the output projection.
    token_with_logits: f64,
    /// `q·k` and `p·v` of one layer, per query and key.
    attention_per_pair: f64,
    /// Windows of all layers but the last, `None` for no limit, with how many layers have each.
    windows: BTreeMap<Option<u32>, u32>,
    last_window: Option<u32>,
}

impl Operations {
    pub fn of(spec: &ModelSpec) -> Operations {
        let last = spec.num_layers - 1;
        let (mut every_token, mut token_with_logits) = (0.0, 0.0);
        for tensor in spec.tensors().iter().filter(|tensor| !tensor.role.is_vector()) {
            let used = used(spec, tensor);
            match (tensor.role, tensor.layer) {
                (TensorRole::Embedding, _) if !spec.tie_word_embeddings => {}
                (TensorRole::Key | TensorRole::Value, _) => every_token += used,
                (TensorRole::Qkv, Some(layer)) if layer == last => {
                    let kv = 4.0 * spec.kv_width() as f64 * f64::from(spec.hidden_size);
                    every_token += kv;
                    token_with_logits += used - kv;
                }
                (_, Some(layer)) if layer < last => every_token += used,
                _ => token_with_logits += used,
            }
        }
        let mut windows = BTreeMap::new();
        for layer in &spec.layers[..last as usize] {
            *windows.entry(layer.window).or_insert(0) += 1;
        }
        Operations {
            every_token,
            token_with_logits,
            attention_per_pair: 4.0 * spec.query_width() as f64,
            windows,
            last_window: spec.layers[last as usize].window,
        }
    }

    /// `tokens` new positions of one sequence after `context` cached ones, with or without the logits of the last.
    pub fn count(&self, context: u64, tokens: u64, logits: bool) -> f64 {
        let layers = |(window, layers): (&Option<u32>, &u32)| {
            f64::from(*layers) * (pairs(context + tokens, *window) - pairs(context, *window)) as f64
        };
        let mut pairs_seen: f64 = self.windows.iter().map(layers).sum();
        let mut operations = self.every_token * tokens as f64;
        if logits {
            let all = context + tokens;
            pairs_seen += self.last_window.map_or(all, |window| all.min(u64::from(window))) as f64;
            operations += self.token_with_logits;
        }
        operations + self.attention_per_pair * pairs_seen
    }
}

/// Operations of one token in one matrix, on average over the experts of its layer.
fn used(spec: &ModelSpec, tensor: &TensorSpec) -> f64 {
    let share = match &spec.moe {
        Some(moe) if tensor.routed => f64::from(moe.experts_per_token) / f64::from(moe.experts),
        _ => 1.0,
    };
    2.0 * share * tensor.elements() as f64
}

/// Queries and keys that meet in the first `positions` positions: position p sees p + 1 keys, or its window.
fn pairs(positions: u64, window: Option<u32>) -> u64 {
    let growing = window.map_or(positions, |window| positions.min(u64::from(window)));
    growing * (growing + 1) / 2 + (positions - growing) * growing
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(preset: &str) -> ModelSpec {
        llmlab_models::load_spec(&format!("synthetic:{preset}")).unwrap()
    }

    #[test]
    fn a_prompt_in_pieces_is_the_same_work() {
        for preset in ["llama-1.1b", "gemma3-tiny", "phi3-tiny", "qwen2moe-tiny"] {
            let operations = Operations::of(&spec(preset));
            let whole = operations.count(0, 100, true);
            let pieces = operations.count(0, 40, false) + operations.count(40, 60, true);
            assert!((whole / pieces - 1.0).abs() < 1e-12, "{preset}");
        }
    }

    /// A token with logits does what `llmlab_models` counts; one without leaves out the output matrix and most of a layer.
    #[test]
    fn one_token_agrees_with_the_arithmetic_of_models() {
        for preset in ["llama-15m", "llama-1.1b", "phi3-tiny", "qwen3moe-tiny"] {
            let spec = spec(preset);
            let operations = Operations::of(&spec);
            let one = operations.count(0, 1, true);
            let expected = spec.linear_flops_per_token() + spec.attention_flops_per_token_per_context();
            assert!((one / expected - 1.0).abs() < 1e-12, "{preset}: {one} {expected}");
        }
        let spec = spec("llama-1.1b");
        let operations = Operations::of(&spec);
        let (hidden, ffn, kv) = (2048.0, 5632.0, 256.0);
        let skipped = 2.0 * (32000.0 * hidden + 2.0 * hidden * hidden + 3.0 * ffn * hidden) + 4.0 * hidden;
        assert_eq!(operations.count(0, 1, true) - operations.count(0, 1, false), skipped);
        let layer = 2.0 * (2.0 * hidden * hidden + 2.0 * kv * hidden + 3.0 * ffn * hidden);
        assert_eq!(operations.count(0, 1, false), 21.0 * (layer + 4.0 * hidden) + 4.0 * kv * hidden);
    }

    #[test]
    fn a_window_limits_what_a_position_sees() {
        let by_hand = |positions: u64, window: u64| (0..positions).map(|p| (p + 1).min(window)).sum::<u64>();
        for positions in [0, 1, 7, 8, 9, 100] {
            assert_eq!(pairs(positions, Some(8)), by_hand(positions, 8));
            assert_eq!(pairs(positions, None), by_hand(positions, u64::MAX));
        }
    }
}
