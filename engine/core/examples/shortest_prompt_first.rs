//! A policy of one's own: whoever has the shortest prompt goes first.
//!
//! `cargo run -p llmlab-core --example shortest_prompt_first` shows the order in which three requests are admitted.

use std::sync::Arc;
use std::time::Duration;

use llmlab_core::config::{
    ConfigError, EngineConfig, KvStrategy, Memory, OwnPolicy, PolicyConfig, PolicyKnobs,
};
use llmlab_core::request::{At, Request, RequestId, StopRules};
use llmlab_core::scheduler::state::State;
use llmlab_core::scheduler::{Decision, Policy, Work};
use llmlab_core::step::{Sampled, StepOutcome};
use llmlab_core::{EnqueueError, Planned, Scheduler};

/// The knobs. This policy remembers nothing between steps, so they are all there is to it.
#[derive(Debug, Clone)]
pub struct ShortestPromptFirst {
    pub max_num_seqs: u32,
}

impl PolicyKnobs for ShortestPromptFirst {
    fn rules(&self) -> String {
        "shortest_prompt_first".into()
    }

    fn build(&self, _engine: &EngineConfig) -> Box<dyn Policy> {
        Box::new(self.clone())
    }

    fn validate(&self, _engine: &EngineConfig) -> Result<(), ConfigError> {
        match self.max_num_seqs {
            0 => Err(ConfigError::TooSmall { key: "max_num_seqs", least: 1 }),
            _ => Ok(()),
        }
    }

    fn memory(&self) -> Memory {
        Memory::Reserved
    }
}

impl Policy for ShortestPromptFirst {
    fn plan(&mut self, state: &mut State, _now: At) -> Decision {
        let State { seqs, waiting, .. } = state;
        waiting.sort_by_key(|id| seqs[&id].prompt_len());
        while state.running.len() < self.max_num_seqs as usize {
            let Some(id) = state.waiting.front() else { break };
            // Memory for its whole life, so that nobody ever has to be thrown out.
            let need = state.blocks.blocks_for(state.seq(id).longest(state.max_model_len));
            if need > state.blocks.free().len() {
                break;
            }
            let blocks = state.blocks.take(need);
            state.start(id, blocks, 0);
        }
        // Everybody computes what is missing: the whole prompt at first, then a token at a time.
        let all = state.running.iter().map(|id| Work::tokens(*id, state.seq(*id).uncomputed()));
        Decision::Run(all.collect())
    }

    fn refuses(&self, state: &State, _prompt_tokens: usize, longest_tokens: usize) -> Option<EnqueueError> {
        let (blocks, total) = (state.blocks.blocks_for(longest_tokens), state.blocks.usable());
        (blocks > total).then_some(EnqueueError::NeverFits { blocks, total })
    }
}

fn main() {
    let own = OwnPolicy(Arc::new(ShortestPromptFirst { max_num_seqs: 1 }));
    let mut scheduler = Scheduler::new(EngineConfig {
        policy: PolicyConfig::Own(own),
        kv: KvStrategy::Paged,
        block_size: 16,
        num_blocks: 65,
        max_model_len: 256,
    })
    .expect("the configuration is valid");
    for (id, prompt_tokens) in [(0, 90), (1, 20), (2, 50)] {
        scheduler.enqueue(Duration::ZERO, request(id, prompt_tokens)).expect("the request fits");
    }
    let mut order = Vec::new();
    while let Planned::Step(plan) = scheduler.plan(Duration::ZERO) {
        order.extend(plan.admitted.iter().map(|(id, _)| id.0));
        let sampled = (0..plan.seqs.len() as u32).map(|seq| Sampled { seq, token: 7 }).collect();
        let outcome = StepOutcome { sampled, drafts: Vec::new(), elapsed: Duration::from_millis(1) };
        scheduler.commit(Duration::ZERO, &plan, &outcome);
    }
    assert_eq!(order, [1, 2, 0]);
    println!("admitted in the order {order:?}");
}

fn request(id: u64, prompt_tokens: u32) -> Request {
    let stop = StopRules {
        max_tokens: 4,
        min_tokens: 0,
        ignore_eos: true,
        eos_ids: [].into(),
        stop_token_ids: [].into(),
    };
    Request::new(RequestId(id), (0..prompt_tokens).collect(), stop)
}
