//! The router's cut of a long generation: at most 1024 tokens are reserved and generated in one go, a leg. A request that
//! wants more comes back with prompt + generated text as a new prompt, at the tail of the queue.
//!
//! In the product it is the HTTP task that submits the next leg. It does not subtract what was generated, so 1500 tokens
//! become two legs of 1024 and the client gets 2048; and a leg that no longer passes validation is silently not run, so
//! with a tight `max_total_tokens` the client gets 1024. Only an answer without a limit is exact.

use crate::config::TgiConfig;
use crate::request::StopRules;
use crate::sequence::Sequence;

/// One stay in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Leg {
    /// Tokens known when it begins: the prompt, and the output of the legs before.
    pub prompt_tokens: usize,
    /// Reserved for its output, `max_new_tokens` of the product's request to the shard.
    pub new_tokens: usize,
}

impl Leg {
    /// The next leg of a sequence that is not running.
    pub fn of(config: &TgiConfig, seq: &Sequence, max_model_len: usize) -> Leg {
        let prompt_tokens = seq.tokens.len();
        // Our server cuts an answer at the context length where the router would refuse the request.
        let room = max_model_len.saturating_sub(prompt_tokens);
        let new_tokens = wanted(config, seq, room).min(config.leg_tokens as usize).min(room);
        Leg { prompt_tokens, new_tokens }
    }

    pub fn longest(&self) -> usize {
        self.prompt_tokens + self.new_tokens
    }

    /// Tokens whose keys and values it needs room for. The last token is never fed back.
    pub fn reserved_tokens(&self, speculate: u32) -> usize {
        self.longest() + speculate as usize - 1
    }

    pub fn is_over(&self, seq: &Sequence) -> bool {
        seq.tokens.len() >= self.longest()
    }

    /// Tokens it may still generate.
    pub fn remaining(&self, seq: &Sequence) -> usize {
        self.longest().saturating_sub(seq.tokens.len())
    }
}

/// Whether a sequence at the end of a leg gets another, by the router's validation.
pub(super) fn continues(
    config: &TgiConfig,
    seq: &Sequence,
    max_input_tokens: usize,
    max_model_len: usize,
) -> bool {
    let room = max_model_len.saturating_sub(seq.tokens.len());
    let next = wanted(config, seq, room).min(config.leg_tokens as usize);
    let enough = seq.generated() >= seq.request.stop.max_tokens as usize;
    !enough && seq.tokens.len() <= max_input_tokens && room > 0 && (!config.upstream_defects || next <= room)
}

/// New tokens the request is still good for.
fn wanted(config: &TgiConfig, seq: &Sequence, room: usize) -> usize {
    match seq.request.stop.max_tokens {
        StopRules::NO_LIMIT => room,
        limit if config.upstream_defects => limit as usize,
        limit => (limit as usize).saturating_sub(seq.generated()),
    }
}
