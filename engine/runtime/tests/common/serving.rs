//! Requests served by a scheduler and an executor, without a server.

use std::collections::BTreeMap;
use std::time::Duration;

use llmlab_core::Scheduler;
use llmlab_core::config::EngineConfig;
use llmlab_core::engine::{Engine, EngineStep};
use llmlab_core::executor::Executor;
use llmlab_core::request::{Event, Request, RequestId, SamplingParams, StopRules, TokenId};
use llmlab_core::stats::Stats;

use super::prompt;

pub type Tokens = BTreeMap<RequestId, Vec<TokenId>>;

/// Prompts of many lengths; 3 and 4 start alike over several blocks, 5 is 3 again.
pub fn requests() -> Vec<Request> {
    let shared = prompt(48, 50);
    let prompts = vec![
        prompt(1, 1),
        prompt(23, 2),
        [shared.clone(), prompt(5, 3)].concat(),
        [shared.clone(), prompt(9, 4)].concat(),
        [shared, prompt(5, 3)].concat(),
        prompt(70, 5),
        prompt(16, 6),
    ];
    prompts
        .into_iter()
        .enumerate()
        .map(|(index, prompt)| Request {
            id: RequestId(index as u64 + 1),
            prompt: prompt.into(),
            sampling: SamplingParams::default(),
            stop: StopRules {
                max_tokens: 4 + 3 * (index as u32 % 3),
                min_tokens: 0,
                ignore_eos: true,
                eos_ids: [].into(),
                stop_token_ids: [].into(),
            },
            priority: 0,
            lora: None,
            skip_prefix_cache: false,
        })
        .collect()
}

/// Serves [`requests`].
pub fn serve<E: Executor>(config: &EngineConfig, executor: E) -> (Tokens, Stats) {
    serve_these(requests(), config, executor)
}

/// Serves the requests, two at the start and one more after every step, until all are finished.
pub fn serve_these<E: Executor>(
    requests: Vec<Request>,
    config: &EngineConfig,
    executor: E,
) -> (Tokens, Stats) {
    let mut engine = Engine::new(Scheduler::new(config.clone()).unwrap(), executor);
    let mut arriving = requests.into_iter();
    let mut tokens = Tokens::new();
    let mut now = Duration::ZERO;
    for request in arriving.by_ref().take(2) {
        engine.scheduler.enqueue(now, request).unwrap();
    }
    for _ in 0..2000 {
        match engine.step(now).unwrap() {
            EngineStep::Ran { events, .. } => {
                now += Duration::from_millis(1);
                for event in events {
                    if let Event::Token { id, token, index } = event {
                        let tokens = tokens.entry(id).or_default();
                        assert_eq!(tokens.len(), index as usize);
                        tokens.push(token);
                    }
                }
            }
            EngineStep::WaitUntil(at) => now = at,
            EngineStep::Idle if arriving.len() == 0 => return (tokens, engine.scheduler.stats()),
            EngineStep::Idle => now += Duration::from_millis(1),
        }
        if let Some(request) = arriving.next() {
            engine.scheduler.enqueue(now, request).unwrap();
        }
    }
    panic!("not finished after 2000 steps: {:?}", engine.scheduler.stats());
}
