//! What is refused, and with which words.

mod common;

use std::time::Duration;

use common::{at, request};
use llmlab_core::config::{
    ConfigError, DynamicConfig, EngineConfig, KvStrategy, PolicyConfig, StaticConfig, TgiConfig, VllmConfig,
};
use llmlab_core::request::{Event, FinishReason, Request, RequestId};
use llmlab_core::step::StepPlan;
use llmlab_core::{EnqueueError, Planned, Scheduler};

fn paged(policy: PolicyConfig) -> EngineConfig {
    EngineConfig { policy, kv: KvStrategy::Paged, block_size: 4, num_blocks: 9, max_model_len: 64 }
}

fn vllm() -> EngineConfig {
    paged(PolicyConfig::Vllm(VllmConfig::default()))
}

fn refused(config: EngineConfig, request: Request) -> EnqueueError {
    let mut scheduler = Scheduler::new(config).unwrap();
    let refusal = scheduler.enqueue(at(0), request).unwrap_err();
    let stats = scheduler.stats();
    assert_eq!((stats.submitted_total, stats.rejected_total, stats.waiting), (1, 1, 0));
    assert_eq!(scheduler.plan(at(0)), Planned::Idle);
    refusal
}

#[test]
fn requests_that_can_never_be_served_are_refused_at_the_door() {
    assert_eq!(refused(vllm(), request(1, vec![], 3)), EnqueueError::EmptyPrompt);
    assert_eq!(refused(vllm(), request(1, vec![5], 0)), EnqueueError::NoTokensWanted);
    let too_long = refused(vllm(), request(1, vec![5; 64], 3));
    assert_eq!(too_long, EnqueueError::TooLong { tokens: 65, limit: 64 });
    // 30 + 4 tokens, of which the last is never fed back: 33 slots, 9 blocks of the 8 there are.
    let never_fits = refused(vllm(), request(1, vec![5; 30], 4));
    assert_eq!(never_fits, EnqueueError::NeverFits { blocks: 9, total: 8 });
    assert_eq!(never_fits.to_string(), "the request may need 9 KV blocks, the pool has 8");
}

#[test]
fn what_just_fits_is_served_to_its_end() {
    let mut scheduler = Scheduler::new(vllm()).unwrap();
    scheduler.enqueue(at(0), request(1, vec![5; 30], 3)).unwrap();
    let mut last = None;
    while let Planned::Step(plan) = scheduler.plan(at(0)) {
        last = scheduler.commit(at(0), &plan, &common::outcome(&plan, |_| 9)).pop();
    }
    assert_eq!(last, Some(Event::Finished { id: RequestId(1), reason: FinishReason::Length }));
}

#[test]
fn each_strategy_and_policy_has_its_own_limit() {
    let reserve = EngineConfig { kv: KvStrategy::Reserve, ..vllm() };
    let refusal = refused(reserve, request(1, vec![5; 30], 3));
    assert_eq!(refusal, EnqueueError::NeverFits { blocks: 9, total: 8 });

    let mut tgi = TgiConfig { max_batch_prefill_tokens: 10, prefill_chunking: false, ..TgiConfig::new(32) };
    // The budget counts in whole blocks: 12, not 10.
    let config = paged(PolicyConfig::Tgi(tgi.clone()));
    assert_eq!(refused(config, request(1, vec![5; 13], 2)), EnqueueError::TooLong { tokens: 13, limit: 12 });
    // 32 tokens are 8 blocks, one of which is the null block.
    tgi.prefill_chunking = true;
    let config = paged(PolicyConfig::Tgi(tgi));
    assert_eq!(refused(config, request(1, vec![5; 26], 4)), EnqueueError::NeverFits { blocks: 8, total: 7 });
}

#[test]
fn an_id_can_be_used_again_only_when_the_first_request_is_over() {
    let mut scheduler = Scheduler::new(vllm()).unwrap();
    scheduler.enqueue(at(0), request(1, vec![5], 1)).unwrap();
    let again = scheduler.enqueue(at(0), request(1, vec![6], 1));
    assert_eq!(again, Err(EnqueueError::DuplicateId(RequestId(1))));
    assert!(scheduler.abort(at(0), RequestId(1)).is_some());
    assert_eq!(scheduler.abort(at(0), RequestId(1)), None);
    scheduler.enqueue(at(0), request(1, vec![6], 1)).unwrap();
}

/// Planning ahead, a request can be thrown out while its last token is still being computed. If its client leaves then, the
/// token that comes must not be taken for one of a new request under the same id.
#[test]
fn an_id_is_taken_while_a_step_with_it_is_in_flight() {
    let policy = VllmConfig { async_scheduling: true, enable_prefix_caching: false, ..VllmConfig::default() };
    let mut scheduler = Scheduler::new(paged(PolicyConfig::Vllm(policy))).unwrap();
    for id in [1, 2] {
        scheduler.enqueue(at(0), request(id, vec![5; 15], 12)).unwrap();
    }
    let mut in_flight: Vec<StepPlan> = Vec::new();
    while scheduler.stats().preemptions_total == 0 {
        if in_flight.len() == 2 {
            let plan = in_flight.remove(0);
            scheduler.commit(at(0), &plan, &common::outcome(&plan, |_| 9));
        }
        let Planned::Step(plan) = scheduler.plan_one(at(0)) else { panic!("nothing planned") };
        in_flight.push(plan);
    }
    let late = in_flight.remove(0);
    assert!(late.seqs.iter().any(|seq| seq.id == RequestId(2)), "request 2 is not under way: {late:?}");
    assert!(scheduler.abort(at(0), RequestId(2)).is_some());
    let again = scheduler.enqueue(at(0), request(2, vec![6], 1));
    assert_eq!(again, Err(EnqueueError::DuplicateId(RequestId(2))));
    let events = scheduler.commit(at(0), &late, &common::outcome(&late, |_| 9));
    assert!(!events.iter().any(|event| matches!(event, Event::Token { id: RequestId(2), .. })), "{events:?}");
    for plan in in_flight {
        scheduler.commit(at(0), &plan, &common::outcome(&plan, |_| 9));
    }
    scheduler.enqueue(at(0), request(2, vec![6], 1)).unwrap();
}

fn invalid(config: EngineConfig) -> ConfigError {
    Scheduler::new(config).unwrap_err()
}

#[test]
fn contradictions_in_the_configuration_are_named() {
    let knobs = VllmConfig::default();
    let no_pages = EngineConfig { kv: KvStrategy::Contiguous, num_blocks: 17, ..vllm() };
    assert_eq!(invalid(no_pages.clone()), ConfigError::PrefixCachingWithoutPages);
    let too_small = EngineConfig { num_blocks: 16, ..no_pages };
    assert_eq!(invalid(too_small), ConfigError::ContiguousNeverFits { blocks: 16, usable: 15 });
    let whole = VllmConfig { enable_chunked_prefill: false, max_num_batched_tokens: 63, ..knobs.clone() };
    let refusal = invalid(paged(PolicyConfig::Vllm(whole)));
    assert_eq!(refusal, ConfigError::PromptLargerThanBudget { budget: 63, limit: 64 });
    let watermark = PolicyConfig::Vllm(VllmConfig { watermark: 1.0, ..knobs.clone() });
    assert_eq!(invalid(paged(watermark)), ConfigError::Watermark(1.0));
    let interval = PolicyConfig::Vllm(VllmConfig { prefill_schedule_interval: 0, ..knobs });
    let refusal = invalid(paged(interval));
    assert_eq!(refusal.to_string(), "prefill_schedule_interval must be at least 1");
    assert_eq!(
        invalid(EngineConfig { block_size: 0, ..vllm() }),
        ConfigError::TooSmall { key: "block_size", least: 1 }
    );
    let dynamic =
        DynamicConfig { max_batch_size: 4, preferred_batch_size: vec![2, 8], ..DynamicConfig::default() };
    let refusal = invalid(paged(PolicyConfig::Dynamic(dynamic)));
    assert_eq!(refusal, ConfigError::PreferredBatchSize { preferred: 8, max: 4 });
    let empty = StaticConfig { batch_size: 0, max_queue_delay: Duration::ZERO };
    let refusal = invalid(paged(PolicyConfig::Static(empty)));
    assert_eq!(refusal, ConfigError::TooSmall { key: "batch_size", least: 1 });
    let tgi = invalid(paged(PolicyConfig::Tgi(TgiConfig::new(7))));
    assert_eq!(tgi, ConfigError::TotalTokens { total: 7, block_size: 4 });
    let padded = TgiConfig { requires_padding: true, ..TgiConfig::new(64) };
    assert_eq!(
        invalid(paged(PolicyConfig::Tgi(padded))).to_string(),
        "requires_padding = true excludes prefill_chunking: TGI has no such models"
    );
    let ratio = TgiConfig { waiting_served_ratio: -0.1, ..TgiConfig::new(64) };
    assert_eq!(invalid(paged(PolicyConfig::Tgi(ratio))), ConfigError::WaitingServedRatio(-0.1));
}
