//! Speculation with a smaller model (Leviathan et al., 2023; Chen et al., 2023).
//!
//! The target verifies the drafts of a step in its forward pass; then the draft model reads what the target settled on and
//! writes down what it thinks comes next, one token after the other. Its keys and values lie in a pool of its own under the
//! same block numbers, so paging, preemption and prefix sharing hold for both.
//!
//! The draft model draws with the target's seed and place, so that similar distributions give equal tokens also when
//! sampling. What it guesses changes no token of the answer, only how many a step brings.

use std::collections::HashMap;

use llmlab_core::executor::{Executor, ExecutorError};
use llmlab_core::request::{RequestId, TokenId};
use llmlab_core::step::{Sampled, SeqStep, StepOutcome, StepPlan};
use llmlab_models::{ModelSpec, WeightSource};

use crate::config::{RuntimeConfig, RuntimeError};
use crate::cpu::CpuExecutor;

/// Steps after which a request that did not come up again is forgotten. It costs its first drafts then, nothing else.
const FORGET_AFTER_STEPS: u64 = 256;

pub struct DraftModelExecutor {
    target: CpuExecutor,
    draft: CpuExecutor,
    /// Drafts for each sequence and step.
    count: usize,
    block_size: usize,
    max_model_len: usize,
    known: HashMap<RequestId, Known>,
    /// Counts drafting passes, which the draft model sees as steps of its own.
    passes: u64,
}

/// How far the draft model has come with a request.
struct Known {
    /// Tokens of the request that are settled; the draft model has read them all.
    settled: usize,
    /// Of its own drafts behind them it has read so many.
    read_drafts: usize,
    last_step: u64,
}

/// A sequence in the drafting phase of a step.
struct Drafting {
    /// Place in the step's plan.
    seq: usize,
    /// What the draft model reads next, and where that begins.
    input: Vec<TokenId>,
    context: usize,
    drafts: Vec<TokenId>,
    /// Drafts there is room for.
    room: usize,
}

impl DraftModelExecutor {
    /// Both models share tokens, so their vocabularies must be equal. The draft model is loaded in the formats of `config`.
    pub fn new(
        target: CpuExecutor,
        draft: &ModelSpec,
        draft_weights: &dyn WeightSource,
        config: &RuntimeConfig,
        count: usize,
    ) -> Result<Self, RuntimeError> {
        let (ours, theirs) = (draft.vocab_size, target.vocab_size());
        if ours != theirs {
            return Err(RuntimeError::Config {
                key: "speculative_model",
                problem: format!("{} has {ours} tokens, the target has {theirs}", draft.name),
            });
        }
        let draft = target.companion(draft, draft_weights, config)?;
        Ok(DraftModelExecutor {
            target,
            draft,
            count,
            block_size: config.block_size as usize,
            max_model_len: config.max_model_len as usize,
            known: HashMap::new(),
            passes: 0,
        })
    }

    /// Lets the draft model read what this step settled, and collects its guesses.
    fn propose(&mut self, plan: &StepPlan, sampled: &[Sampled]) -> Result<Vec<Sampled>, ExecutorError> {
        let mut batch = self.what_to_read(plan, sampled);
        let mut reading: Vec<usize> = (0..batch.len()).collect();
        while !reading.is_empty() {
            self.passes += 1;
            let seqs = reading.iter().map(|i| draft_step(&batch[*i], &plan.seqs[batch[*i].seq])).collect();
            let pass = StepPlan { step: self.passes, seqs, preempted: Vec::new(), admitted: Vec::new() };
            let outcome = self.draft.execute(&pass)?;
            for drawn in outcome.sampled {
                let drafting = &mut batch[reading[drawn.seq as usize]];
                drafting.context += drafting.input.len();
                drafting.input = vec![drawn.token];
                drafting.drafts.push(drawn.token);
            }
            // A prompt's chunk was read, nothing was drawn and nothing follows.
            reading.retain(|i| (1..batch[*i].room).contains(&batch[*i].drafts.len()));
        }
        for drafting in &batch {
            if let Some(known) = self.known.get_mut(&plan.seqs[drafting.seq].id) {
                known.read_drafts = drafting.drafts.len().saturating_sub(1);
            }
        }
        let tokens = |drafting: &Drafting| {
            let seq = drafting.seq as u32;
            drafting.drafts.iter().map(move |&token| Sampled { seq, token }).collect::<Vec<_>>()
        };
        Ok(batch.iter().flat_map(tokens).collect())
    }

    /// For each sequence of the step, its tokens that the draft model has not read.
    fn what_to_read(&mut self, plan: &StepPlan, mut sampled: &[Sampled]) -> Vec<Drafting> {
        // Their blocks went to others.
        plan.preempted.iter().for_each(|id| {
            self.known.remove(id);
        });
        let mut batch = Vec::with_capacity(plan.seqs.len());
        for (index, seq) in plan.seqs.iter().enumerate() {
            let own = sampled.iter().take_while(|s| s.seq as usize == index).count();
            let (new, rest) = sampled.split_at(own);
            sampled = rest;
            if seq.tokens.is_empty() {
                continue;
            }
            let (context, verified) = (seq.context as usize, seq.tokens.len() - seq.drafts as usize);
            let before = context + verified;
            let accepted = new.len().saturating_sub(1);
            let known = self.known.get(&seq.id).filter(|known| known.settled == before);
            // Of a request that was preempted, or that is new, it has read what is shared with others.
            let read = known.map_or(context, |known| before + accepted.min(known.read_drafts));
            let settled = before + new.len();
            let all: Vec<TokenId> =
                seq.tokens[..verified].iter().copied().chain(new.iter().map(|s| s.token)).collect();
            let slots = (seq.blocks.len() * self.block_size).min(self.max_model_len);
            // The last draft is not read, so it needs no slot.
            let room = if seq.sample { self.count.min((slots + 1).saturating_sub(settled)) } else { 0 };
            if read == settled || (room == 0 && seq.sample) {
                self.known.remove(&seq.id);
            } else {
                self.known.insert(seq.id, Known { settled, read_drafts: 0, last_step: plan.step });
                let input = all[read - context..].to_vec();
                batch.push(Drafting { seq: index, input, context: read, drafts: Vec::new(), room });
            }
        }
        self.known.retain(|_, known| plan.step - known.last_step < FORGET_AFTER_STEPS);
        batch
    }
}

/// One sequence's part of a drafting pass.
fn draft_step(drafting: &Drafting, seq: &SeqStep) -> SeqStep {
    let end = drafting.context + drafting.input.len();
    let known = seq.context as usize + seq.tokens.len() - seq.drafts as usize;
    let generated = seq.generated + (end - known) as u32;
    SeqStep {
        id: seq.id,
        context: drafting.context as u32,
        tokens: drafting.input.clone(),
        drafts: 0,
        blocks: seq.blocks.clone(),
        sample: drafting.room > 0,
        sampling: seq.sampling.clone(),
        // The draft model has no adapters.
        lora: None,
        generated,
        banned: if generated < seq.banned_until { seq.banned.clone() } else { Vec::new() },
        banned_until: seq.banned_until,
        padding: 0,
    }
}

impl Executor for DraftModelExecutor {
    fn execute(&mut self, plan: &StepPlan) -> Result<StepOutcome, ExecutorError> {
        #[allow(clippy::disallowed_methods, reason = "an executor times itself")]
        let start = std::time::Instant::now();
        let StepOutcome { sampled, .. } = self.target.execute(plan)?;
        let drafts = self.propose(plan, &sampled)?;
        Ok(StepOutcome { sampled, drafts, elapsed: start.elapsed() })
    }
}
