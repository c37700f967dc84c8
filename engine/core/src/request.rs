//! A request as the scheduler sees it: token ids and limits, no text.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Time since the start of the run. Passed in by whoever drives the engine; nothing in this crate reads a clock.
pub type At = Duration;
pub type TokenId = u32;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RequestId(pub u64);

/// A low-rank adapter that a request is computed with, in the numbering of the executor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LoraId(pub u32);

/// How the next token is picked. `temperature == 0` is greedy and ignores the rest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SamplingParams {
    pub temperature: f32,
    /// 0 switches it off.
    pub top_k: u32,
    /// 1.0 switches it off.
    pub top_p: f32,
    pub seed: u64,
}

impl Default for SamplingParams {
    fn default() -> Self {
        SamplingParams { temperature: 0.0, top_k: 0, top_p: 1.0, seed: 0 }
    }
}

/// When generation ends. Checked after every token in the order vLLM uses: eos, stop ids, length.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StopRules {
    /// New tokens at most; at least 1. The context length ends an answer in any case.
    pub max_tokens: u32,
    /// Eos and stop ids are masked out until this many tokens were generated.
    pub min_tokens: u32,
    pub ignore_eos: bool,
    pub eos_ids: Arc<[TokenId]>,
    pub stop_token_ids: Arc<[TokenId]>,
}

impl StopRules {
    /// As `max_tokens`: the client named no limit. Policy `tgi-3.3.6` treats this differently from the same limit named.
    pub const NO_LIMIT: u32 = u32::MAX;
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    pub id: RequestId,
    /// Never empty.
    pub prompt: Arc<[TokenId]>,
    pub sampling: SamplingParams,
    pub stop: StopRules,
    /// Smaller is served earlier, for policies that look at it.
    pub priority: i32,
    /// None for the model as it is.
    pub lora: Option<LoraId>,
    /// Compute the whole prompt, whatever the prefix cache has of it: for clients that want to see into their prompt.
    pub skip_prefix_cache: bool,
}

impl Request {
    /// A greedy request without priority or adapter.
    pub fn new(id: RequestId, prompt: Arc<[TokenId]>, stop: StopRules) -> Self {
        let sampling = SamplingParams::default();
        Request { id, prompt, sampling, stop, priority: 0, lora: None, skip_prefix_cache: false }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// Eos or a stop token id.
    Stop,
    /// `max_tokens` or the model's context length.
    Length,
    /// The client went away or asked for it.
    Abort,
    /// A step it was part of could not be computed.
    Error,
}

/// What the outside learns from a step.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// `index` counts generated tokens of the request from 0.
    Token {
        id: RequestId,
        token: TokenId,
        index: u32,
    },
    Finished {
        id: RequestId,
        reason: FinishReason,
    },
}
