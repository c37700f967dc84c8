//! Policy `fastgen`: Dynamic SplitFuse of DeepSpeed-FastGen, as in DeepSpeed-MII 0.3.3.
//!
//! Every forward pass is filled to `max_ragged_batch_size` tokens: first one token for each sequence that generates, then
//! prompts in order, the last one cut to what is left of the budget and continued first in the next pass. A prompt joins
//! only when all of it fits in free blocks. Blocks are taken a pass at a time, whatever the KV strategy says. Sequences
//! that need a block when none is free sit the pass out; when nobody can move, the last in the buffer that holds memory
//! loses it and joins the end of the queue with everything it has generated.
//!
//! What differs: a request that can never fit is refused at the door; a prompt whose rest fits into its last block goes on
//! although no block is free (the original does not look at prompts then, and could reset it for ever); the number of sequences in a pass never exceeds
//! `max_ragged_sequence_count` (the original compares one too late); the pass in which a sequence is thrown out computes
//! nothing there and does not exist here.

use serde::{Deserialize, Serialize};

use crate::config::{ConfigError, EngineConfig, Memory, PolicyKnobs, at_least};
use crate::request::{At, RequestId};
use crate::scheduler::state::State;
use crate::scheduler::{Decision, EnqueueError, Policy, Work, refuse_never_fits};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FastgenConfig {
    /// Tokens of one forward pass.
    pub max_ragged_batch_size: u32,
    /// Sequences in one forward pass.
    pub max_ragged_sequence_count: u32,
    /// Sequences that hold memory.
    pub max_tracked_sequences: u32,
}

impl Default for FastgenConfig {
    fn default() -> Self {
        FastgenConfig {
            max_ragged_batch_size: 768,
            max_ragged_sequence_count: 512,
            max_tracked_sequences: 2048,
        }
    }
}

impl PolicyKnobs for FastgenConfig {
    fn rules(&self) -> String {
        "fastgen (DeepSpeed-MII 0.3 rules)".into()
    }

    fn build(&self, _engine: &EngineConfig) -> Box<dyn Policy> {
        Box::new(Fastgen { config: self.clone(), generating: Vec::new() })
    }

    fn validate(&self, _engine: &EngineConfig) -> Result<(), ConfigError> {
        at_least("max_ragged_batch_size", self.max_ragged_batch_size, 1)?;
        at_least("max_ragged_sequence_count", self.max_ragged_sequence_count, 1)?;
        at_least("max_tracked_sequences", self.max_tracked_sequences, 1)
    }

    fn max_num_seqs(&self) -> Option<u32> {
        Some(self.max_tracked_sequences)
    }

    fn memory(&self) -> Memory {
        Memory::Paged
    }
}

#[derive(Debug)]
struct Fastgen {
    config: FastgenConfig,
    /// Sequences past their prompt in buffer order: whoever sat a pass out stands before those that ran in it.
    generating: Vec<RequestId>,
}

impl Fastgen {
    /// One token each, where there is a slot in the last block or a free block.
    fn schedule_generation(&mut self, state: &mut State, work: &mut Vec<Work>) {
        self.generating
            .retain(|id| state.seqs.get(id).is_some_and(|seq| !seq.left && !seq.blocks.is_empty()));
        let limit = self.config.max_ragged_sequence_count.min(self.config.max_ragged_batch_size) as usize;
        let (mut ran, mut sat_out) = (Vec::new(), Vec::new());
        for (place, id) in self.generating.drain(..).enumerate() {
            let end = state.seq(id).computed + 1;
            if place < limit && state.grow(id, end) {
                work.push(Work::tokens(id, 1));
                ran.push(id);
            } else {
                sat_out.push(id);
            }
        }
        self.generating.extend(sat_out.into_iter().chain(ran));
    }

    fn schedule_prompts(&mut self, state: &mut State, work: &mut Vec<Work>) {
        let started = state.running.iter().copied().filter(|id| state.seq(*id).prefilling);
        let prompts: Vec<RequestId> = started.chain(state.waiting.iter().take(self.seats(state))).collect();
        let mut budget = (self.config.max_ragged_batch_size as usize).saturating_sub(work.len());
        for id in prompts {
            let seq = state.seq(id);
            let whole = state.blocks.blocks_for(seq.tokens.len()) - seq.blocks.len();
            let seats = (self.config.max_ragged_sequence_count as usize).saturating_sub(work.len());
            if seats == 0 || budget == 0 || whole > state.blocks.free().len() {
                break;
            }
            let tokens = seq.uncomputed().min(budget);
            let (end, done) = (seq.computed + tokens, tokens == seq.uncomputed());
            if seq.blocks.is_empty() {
                state.start(id, Vec::new(), 0);
            }
            assert!(state.grow(id, end), "no blocks for request {}, though its prompt fits", id.0);
            budget -= tokens;
            work.push(Work::tokens(id, tokens));
            if done {
                self.generating.push(id);
            }
        }
    }

    /// Sequences that may still start to hold memory.
    fn seats(&self, state: &State) -> usize {
        (self.config.max_tracked_sequences as usize).saturating_sub(state.running.len())
    }
}

impl Policy for Fastgen {
    fn plan(&mut self, state: &mut State, _now: At) -> Decision {
        let mut work = Vec::new();
        self.schedule_generation(state, &mut work);
        self.schedule_prompts(state, &mut work);
        if work.is_empty()
            && let Some(last) = self.generating.pop().or(state.running.last().copied())
        {
            state.preempt_to_back(last);
        }
        Decision::Run(work)
    }

    fn refuses(&self, state: &State, _prompt_tokens: usize, longest_tokens: usize) -> Option<EnqueueError> {
        refuse_never_fits(state, longest_tokens)
    }
}
