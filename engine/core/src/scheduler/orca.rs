//! Policy `orca`: iteration-level scheduling (Orca, OSDI 2022) as sarathi-serve implements it, git 96f99117.
//!
//! Every iteration runs all admitted sequences, and requests join first come first served as soon as a seat and memory
//! are free. A prompt is computed whole in the iteration it joins, so a long one stretches every decode beside it.
//! Memory for `max_model_len` tokens is reserved at admission whatever the KV strategy says; nothing is ever preempted.
//!
//! What differs: the paper reserves `max_tokens` slots per request and runs attention request by request; sarathi-serve
//! reserves the whole context in blocks, and so does this.

use serde::{Deserialize, Serialize};

use crate::config::{ConfigError, EngineConfig, Memory, PolicyKnobs, at_least};
use crate::request::At;
use crate::scheduler::state::State;
use crate::scheduler::{Decision, EnqueueError, Policy, Work};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrcaConfig {
    /// Requests running at once; `max_bs` in the paper.
    pub max_num_seqs: u32,
}

impl Default for OrcaConfig {
    fn default() -> Self {
        OrcaConfig { max_num_seqs: 128 }
    }
}

impl PolicyKnobs for OrcaConfig {
    fn rules(&self) -> String {
        "orca (sarathi-serve rules)".into()
    }

    fn build(&self, _engine: &EngineConfig) -> Box<dyn Policy> {
        Box::new(Orca { config: self.clone() })
    }

    fn validate(&self, engine: &EngineConfig) -> Result<(), ConfigError> {
        at_least("max_num_seqs", self.max_num_seqs, 1)?;
        let (blocks, usable) = (engine.max_model_len.div_ceil(engine.block_size), engine.num_blocks - 1);
        if blocks > usable {
            return Err(ConfigError::ReservationNeverFits { blocks: blocks as usize, usable });
        }
        Ok(())
    }

    fn max_num_seqs(&self) -> Option<u32> {
        Some(self.max_num_seqs)
    }

    fn memory(&self) -> Memory {
        Memory::Reserved
    }
}

#[derive(Debug)]
struct Orca {
    config: OrcaConfig,
}

impl Policy for Orca {
    fn plan(&mut self, state: &mut State, _now: At) -> Decision {
        let need = state.blocks.blocks_for(state.max_model_len);
        let seats = (self.config.max_num_seqs as usize).saturating_sub(state.running.len());
        for _ in 0..seats {
            let Some(id) = state.waiting.front().filter(|_| need <= state.blocks.free().len()) else { break };
            let blocks = state.blocks.take(need);
            state.start(id, blocks, 0);
        }
        let all = state.running.iter().map(|id| Work::tokens(*id, state.seq(*id).uncomputed()));
        Decision::Run(all.collect())
    }

    /// Every request that fits the context length fits the pool.
    fn refuses(&self, _state: &State, _prompt_tokens: usize, _longest_tokens: usize) -> Option<EnqueueError> {
        None
    }
}
