//! Policy `sarathi`: stall-free chunked prefill (Sarathi-Serve, OSDI 2024), git 96f99117.
//!
//! An iteration has a budget of `chunk_size` tokens. Decodes go first, one token each; prompts in progress and then
//! waiting ones share the rest, each in arrival order. Blocks for a whole prompt are taken at admission, and 1 % of the
//! pool stays free then; a decode asks for one free block even when its last block has room, and while there is none the
//! youngest running sequence is thrown out and recomputes later. This is how blocks are handed out whatever the KV
//! strategy says.
//!
//! What differs: a request that could never be admitted again once thrown out is refused at the door; a prompt beyond
//! `chunk_schedule_max_tokens` uses the last chunk size of the schedule, where the original stops with an assertion.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::config::{ConfigError, EngineConfig, Memory, PolicyKnobs, at_least};
use crate::request::{At, RequestId};
use crate::scheduler::state::State;
use crate::scheduler::{Decision, EnqueueError, Policy, Work};

/// Share of the pool that an admission leaves free.
const WATERMARK: f64 = 0.01;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SarathiConfig {
    pub max_num_seqs: u32,
    /// Tokens of one iteration.
    pub chunk_size: u32,
    /// Let the budget of a prompt shrink from `high_chunk_size` to `low_chunk_size` as it progresses.
    pub enable_dynamic_chunking_schedule: bool,
    pub low_chunk_size: Option<u32>,
    pub high_chunk_size: Option<u32>,
    /// Prompt length over which the schedule is spread, and in how many steps.
    pub chunk_schedule_max_tokens: Option<u32>,
    pub chunk_schedule_stages: Option<u32>,
}

impl Default for SarathiConfig {
    fn default() -> Self {
        SarathiConfig {
            max_num_seqs: 128,
            chunk_size: 512,
            enable_dynamic_chunking_schedule: false,
            low_chunk_size: None,
            high_chunk_size: None,
            chunk_schedule_max_tokens: None,
            chunk_schedule_stages: None,
        }
    }
}

impl SarathiConfig {
    /// The dynamic schedule, when it is on and complete.
    fn schedule(&self) -> Option<Schedule> {
        let (low, high) = (self.low_chunk_size?, self.high_chunk_size?);
        let (max_tokens, stages) = (self.chunk_schedule_max_tokens?, self.chunk_schedule_stages?);
        self.enable_dynamic_chunking_schedule.then(|| Schedule::new(low, high, max_tokens, stages))
    }
}

impl PolicyKnobs for SarathiConfig {
    fn rules(&self) -> String {
        "sarathi (sarathi-serve rules)".into()
    }

    fn build(&self, engine: &EngineConfig) -> Box<dyn Policy> {
        Box::new(Sarathi {
            config: self.clone(),
            schedule: self.schedule(),
            watermark_blocks: watermark_blocks(engine.num_blocks),
        })
    }

    fn validate(&self, _engine: &EngineConfig) -> Result<(), ConfigError> {
        at_least("max_num_seqs", self.max_num_seqs, 1)?;
        at_least("chunk_size", self.chunk_size, 1)?;
        if !self.enable_dynamic_chunking_schedule {
            return Ok(());
        }
        let knobs = [
            ("low_chunk_size", self.low_chunk_size, 32),
            ("high_chunk_size", self.high_chunk_size, 32),
            ("chunk_schedule_max_tokens", self.chunk_schedule_max_tokens, 1),
            ("chunk_schedule_stages", self.chunk_schedule_stages, 1),
        ];
        for (key, value, least) in knobs {
            let needs = "a value while enable_dynamic_chunking_schedule is true";
            at_least(key, value.ok_or(ConfigError::Needs { key, needs })?, least)?;
        }
        for (key, value, _) in knobs.into_iter().take(2) {
            if value.is_some_and(|size| size % 32 != 0) {
                return Err(ConfigError::Needs { key, needs: "to be a multiple of 32" });
            }
        }
        if self.low_chunk_size > self.high_chunk_size {
            return Err(ConfigError::Needs {
                key: "high_chunk_size",
                needs: "to be at least low_chunk_size",
            });
        }
        if self.chunk_schedule_stages > Some(MAX_STAGES) {
            return Err(ConfigError::Needs { key: "chunk_schedule_stages", needs: "to be at most 1024" });
        }
        Ok(())
    }

    fn max_num_seqs(&self) -> Option<u32> {
        Some(self.max_num_seqs)
    }

    fn memory(&self) -> Memory {
        Memory::Paged
    }

    fn longest_request(&self, engine: &EngineConfig) -> u32 {
        let blocks = engine.num_blocks - 1 - watermark_blocks(engine.num_blocks) as u32;
        blocks.saturating_mul(engine.block_size)
    }
}

const MAX_STAGES: u32 = 1024;

fn watermark_blocks(num_blocks: u32) -> usize {
    (WATERMARK * f64::from(num_blocks - 1)) as usize
}

/// Chunk sizes by progress of the prompt, from high to low in even steps, rounded to multiples of 32.
#[derive(Debug)]
struct Schedule {
    sizes: Vec<usize>,
    tokens_per_stage: usize,
}

impl Schedule {
    fn new(low: u32, high: u32, max_tokens: u32, stages: u32) -> Self {
        let step = if stages > 1 { f64::from(high - low) / f64::from(stages - 1) } else { 0.0 };
        let rounded = |stage: u32| {
            let size = (f64::from(low) + step * f64::from(stage)).trunc();
            ((size / 32.0).round_ties_even() * 32.0) as usize
        };
        Schedule {
            sizes: (0..stages).rev().map(rounded).collect(),
            tokens_per_stage: max_tokens.div_ceil(stages) as usize,
        }
    }

    fn size(&self, computed: usize) -> usize {
        let stage = (computed / self.tokens_per_stage).min(self.sizes.len() - 1);
        self.sizes[stage]
    }
}

#[derive(Debug)]
struct Sarathi {
    config: SarathiConfig,
    schedule: Option<Schedule>,
    watermark_blocks: usize,
}

impl Sarathi {
    /// Tokens of a prompt's next chunk when `batched` are already in the iteration.
    fn next_chunk(&self, state: &State, id: RequestId, batched: usize) -> usize {
        let seq = state.seq(id);
        let size = match &self.schedule {
            Some(schedule) => schedule.size(seq.computed),
            None => self.config.chunk_size as usize,
        };
        seq.uncomputed().min(size.saturating_sub(batched))
    }

    /// Gives every decode its token. Returns the prompts in progress that were not thrown out.
    fn decodes(state: &mut State, work: &mut Vec<Work>) -> Vec<RequestId> {
        let seqs = &state.seqs;
        state.running.sort_by_key(|id| (seqs[id].arrived, seqs[id].number));
        let mut unseen: VecDeque<RequestId> = state.running.iter().copied().collect();
        let mut prefills = Vec::new();
        while let Some(id) = unseen.pop_front() {
            if state.seq(id).prefilling {
                prefills.push(id);
                continue;
            }
            let mut stays = true;
            while stays && state.blocks.free().is_empty() {
                let victim = unseen.pop_back().unwrap_or(id);
                state.preempt(victim);
                stays = victim != id;
            }
            if stays {
                let end = state.seq(id).computed + 1;
                assert!(state.grow(id, end), "no block for request {}, though one is free", id.0);
                work.push(Work::tokens(id, 1));
            }
        }
        prefills
    }
}

impl Policy for Sarathi {
    fn plan(&mut self, state: &mut State, _now: At) -> Decision {
        let mut work = Vec::new();
        let prefills = Sarathi::decodes(state, &mut work);
        let mut batched = work.len();
        for id in prefills {
            let tokens = self.next_chunk(state, id, batched);
            if tokens > 0 {
                batched += tokens;
                work.push(Work::tokens(id, tokens));
            }
        }
        while state.running.len() < self.config.max_num_seqs as usize {
            let Some(id) = state.waiting.front() else { break };
            let need = state.blocks.blocks_for(state.seq(id).tokens.len());
            let tokens = self.next_chunk(state, id, batched);
            if need + self.watermark_blocks > state.blocks.free().len() || tokens == 0 {
                break;
            }
            let blocks = state.blocks.take(need);
            state.start(id, blocks, 0);
            batched += tokens;
            work.push(Work::tokens(id, tokens));
        }
        Decision::Run(work)
    }

    /// A sequence that is thrown out comes back with all its tokens and must fit next to the watermark again.
    fn refuses(&self, state: &State, _prompt_tokens: usize, longest_tokens: usize) -> Option<EnqueueError> {
        let blocks = state.blocks.blocks_for(longest_tokens - 1) + self.watermark_blocks;
        let total = state.blocks.usable();
        (blocks > total).then_some(EnqueueError::NeverFits { blocks, total })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// numpy: linspace(256, 1024, 4) is 256, 512, 768, 1024; linspace(64, 160, 4) is 64, 96, 128, 160, and with a
    /// third stage in between 64, 112, 160, where 112 / 32 = 3.5 rounds to the even 4.
    #[test]
    fn the_dynamic_schedule_falls_in_rounded_steps() {
        let schedule = Schedule::new(256, 1024, 4000, 4);
        assert_eq!(
            (schedule.sizes.as_slice(), schedule.tokens_per_stage),
            ([1024, 768, 512, 256].as_slice(), 1000)
        );
        assert_eq!((schedule.size(0), schedule.size(999), schedule.size(1000)), (1024, 1024, 768));
        assert_eq!(schedule.size(100_000), 256);
        assert_eq!(Schedule::new(64, 160, 100, 3).sizes, [160, 128, 64]);
        assert_eq!(Schedule::new(64, 160, 100, 1).sizes, [64]);
    }
}
