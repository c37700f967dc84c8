//! The contract between scheduler and executor: what to compute, and what came out.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::request::{LoraId, RequestId, SamplingParams, TokenId};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId(pub u32);

/// One sequence's work in a step.
#[derive(Debug, Clone, PartialEq)]
pub struct SeqStep {
    pub id: RequestId,
    /// Tokens whose keys and values are already in the cache; the first new token has this position.
    pub context: u32,
    /// The tokens to compute, in order. May be empty only when `padding > 0`.
    pub tokens: Vec<TokenId>,
    /// The last so many of `tokens` are guesses to be verified. The outcome has one token for the position before them
    /// and one more for each that was accepted.
    pub drafts: u32,
    /// Blocks covering positions `0..context + tokens.len()`, in order, and those a drafter of its own may write to.
    pub blocks: Vec<BlockId>,
    /// Sample from the logits of the last position that is no draft, and of the drafts. False for all but the last chunk
    /// of a prompt.
    pub sample: bool,
    pub sampling: SamplingParams,
    /// The adapter its rows are computed with.
    pub lora: Option<LoraId>,
    /// Generated so far; with `sampling.seed` it fixes the random draw of this step.
    pub generated: u32,
    /// Token ids that must not be picked while fewer than `banned_until` tokens were generated (`min_tokens`).
    pub banned: Vec<TokenId>,
    pub banned_until: u32,
    /// Rows the executor must also compute and throw away: a rectangular batch (static batching) pays for them.
    pub padding: u32,
}

impl SeqStep {
    /// A step by hand: the tokens from `context` on, then a greedy sample.
    pub fn new(id: RequestId, context: u32, tokens: Vec<TokenId>, blocks: Vec<BlockId>) -> Self {
        SeqStep {
            id,
            context,
            tokens,
            drafts: 0,
            blocks,
            sample: true,
            sampling: SamplingParams::default(),
            lora: None,
            generated: 0,
            banned: Vec::new(),
            banned_until: 0,
            padding: 0,
        }
    }
}

/// A whole forward pass. Prefill chunks and decodes may be mixed.
#[derive(Debug, Clone, PartialEq)]
pub struct StepPlan {
    /// Counts up by one per plan, from 1.
    pub step: u64,
    pub seqs: Vec<SeqStep>,
    /// Requests thrown out of the running set while planning, in order.
    pub preempted: Vec<RequestId>,
    /// Requests scheduled for the first time ever in this step, with the time they waited.
    pub admitted: Vec<(RequestId, Duration)>,
}

impl StepPlan {
    pub fn new_tokens(&self) -> usize {
        self.seqs.iter().map(|s| s.tokens.len()).sum()
    }
}

/// One token; `seq` indexes [`StepPlan::seqs`]. Several per sequence, in order, under speculation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u32, TokenId)", into = "(u32, TokenId)")]
pub struct Sampled {
    pub seq: u32,
    pub token: TokenId,
}

impl From<(u32, TokenId)> for Sampled {
    fn from((seq, token): (u32, TokenId)) -> Self {
        Sampled { seq, token }
    }
}

impl From<Sampled> for (u32, TokenId) {
    fn from(sampled: Sampled) -> Self {
        (sampled.seq, sampled.token)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct StepOutcome {
    /// For every `SeqStep` with `sample`, in plan order: one token and one more for each accepted draft.
    pub sampled: Vec<Sampled>,
    /// Guesses at what follows the last token of each sampling sequence, in plan order; empty without speculation.
    pub drafts: Vec<Sampled>,
    pub elapsed: Duration,
}

impl StepOutcome {
    /// Drafts of the plan that were accepted: every sequence that samples gets one token, and one more for each of these.
    pub fn accepted_drafts(&self, plan: &StepPlan) -> usize {
        self.sampled.len() - plan.seqs.iter().filter(|seq| seq.sample).count()
    }
}
