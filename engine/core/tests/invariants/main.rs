//! Random configurations, arrivals and aborts over every policy and KV strategy. After every call the scheduler's books
//! are compared with a naive model that only counts; every token is compared with what the request generates alone.

#[path = "../common/mod.rs"]
mod common;
mod configs;
mod in_flight;
#[path = "../../examples/shortest_prompt_first.rs"]
#[allow(dead_code)]
mod shortest_prompt_first;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use common::fake::{EOS, FakeExecutor, alone};
use common::request;
use configs::{
    dynamic_batch, fastgen, llamacpp, orca, own, sarathi, sglang, static_batch, tgi, trtllm, vllm,
    vllm_in_flight,
};
use llmlab_core::config::{
    CapacitySchedulerPolicy, DynamicConfig, EngineConfig, KvStrategy, PolicyConfig, StaticConfig, VllmConfig,
};
use llmlab_core::executor::Executor;
use llmlab_core::request::{At, Event, FinishReason, Request, RequestId, TokenId};
use llmlab_core::step::{BlockId, SeqStep, StepPlan};
use llmlab_core::{EnqueueError, Planned, Scheduler};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// One request's life as seen from outside.
#[derive(Debug, Clone)]
struct Client {
    /// In milliseconds, the time of a step.
    arrives: u64,
    prompt: Vec<TokenId>,
    max_tokens: u32,
    min_tokens: u32,
    ignore_eos: bool,
    priority: i32,
    /// Leaves so long after arriving; `true` while a step is in flight.
    leaves: Option<(u64, bool)>,
}

impl Client {
    fn request(&self, id: u64) -> Request {
        let mut request = request(id, self.prompt.clone(), self.max_tokens);
        request.stop.min_tokens = self.min_tokens;
        request.stop.ignore_eos = self.ignore_eos;
        request.stop.eos_ids = [EOS].into();
        request.priority = self.priority;
        request
    }
}

fn clients() -> impl Strategy<Value = Vec<Client>> {
    // Prompts are beginnings of three texts plus a short tail of their own, so that prefixes are shared.
    let prompt = (0..3u32, 1..24usize, prop::collection::vec(0..24u32, 0..4)).prop_map(|(text, n, tail)| {
        let shared = (0..n as u32).map(|i| (i * 7 + text * 5) % 24);
        shared.chain(tail).collect::<Vec<_>>()
    });
    let leaves = prop::option::weighted(0.25, (0..12u64, any::<bool>()));
    let client = (0..30u64, prompt, 1..14u32, 0..4u32, any::<bool>(), 0..3i32, leaves).prop_map(
        |(arrives, prompt, max_tokens, min_tokens, ignore_eos, priority, leaves)| Client {
            arrives,
            prompt,
            max_tokens,
            min_tokens,
            ignore_eos,
            priority,
            leaves,
        },
    );
    prop::collection::vec(client, 1..14)
}

/// Fixed seed: the same cases on every machine.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(42),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases(600))]

    #[test]
    fn vllm_keeps_the_invariants(config in vllm(), clients in clients(), fails in fails()) {
        Run::new(config, clients, fails).run_to_the_end();
    }

    #[test]
    fn vllm_keeps_the_invariants_with_batches_in_flight(
        config in vllm_in_flight(), clients in clients(), batches in 2..5usize, seed in any::<u64>()
    ) {
        Run::new(config, clients, None).run_in_flight(batches, seed);
    }

    #[test]
    fn tgi_keeps_the_invariants(config in tgi(false), clients in clients(), fails in fails()) {
        Run::new(config, clients, fails).run_to_the_end();
    }

    #[test]
    fn the_exact_twin_of_tgi_keeps_the_invariants(config in tgi(true), clients in clients(), fails in fails()) {
        Run::new(config, clients, fails).run_to_the_end();
    }

    #[test]
    fn static_keeps_the_invariants(config in static_batch(), clients in clients(), fails in fails()) {
        Run::new(config, clients, fails).run_to_the_end();
    }

    #[test]
    fn dynamic_keeps_the_invariants(config in dynamic_batch(), clients in clients(), fails in fails()) {
        Run::new(config, clients, fails).run_to_the_end();
    }

    #[test]
    fn orca_keeps_the_invariants(config in orca(), clients in clients(), fails in fails()) {
        Run::new(config, clients, fails).run_to_the_end();
    }

    #[test]
    fn sarathi_keeps_the_invariants(config in sarathi(), clients in clients(), fails in fails()) {
        Run::new(config, clients, fails).run_to_the_end();
    }

    #[test]
    fn fastgen_keeps_the_invariants(config in fastgen(), clients in clients(), fails in fails()) {
        Run::new(config, clients, fails).run_to_the_end();
    }

    #[test]
    fn trtllm_keeps_the_invariants(config in trtllm(), clients in clients(), fails in fails()) {
        Run::new(config, clients, fails).run_to_the_end();
    }

    #[test]
    fn llamacpp_keeps_the_invariants(config in llamacpp(), clients in clients(), fails in fails()) {
        Run::new(config, clients, fails).run_to_the_end();
    }

    #[test]
    fn sglang_keeps_the_invariants(config in sglang(), clients in clients(), fails in fails()) {
        Run::new(config, clients, fails).run_to_the_end();
    }

    #[test]
    fn a_policy_of_ones_own_keeps_the_invariants(config in own(), clients in clients(), fails in fails()) {
        Run::new(config, clients, fails).run_to_the_end();
    }
}

/// A step that cannot be computed, in some runs.
fn fails() -> impl Strategy<Value = Option<u64>> {
    prop::option::weighted(0.3, 1..25u64)
}

#[derive(Debug, PartialEq)]
enum Fate {
    Rejected,
    Live,
    Finished(FinishReason),
}

struct Run {
    config: EngineConfig,
    clients: Vec<Client>,
    scheduler: Scheduler,
    executor: FakeExecutor,
    fails: Option<u64>,
    now: At,
    fates: HashMap<RequestId, Fate>,
    streams: HashMap<RequestId, Vec<TokenId>>,
    admitted: HashSet<RequestId>,
}

impl Run {
    fn new(config: EngineConfig, clients: Vec<Client>, fails: Option<u64>) -> Self {
        let mut executor = FakeExecutor::new(config.block_size);
        match &config.policy {
            PolicyConfig::Vllm(c) => {
                executor.drafts = c.speculative_config.map_or(0, |s| s.num_speculative_tokens as usize);
                executor.planned_ahead = c.async_scheduling;
            }
            PolicyConfig::Tgi(c) => {
                executor.may_rewrite = c.use_prefix_caching;
                executor.blind = c.use_prefix_caching && c.upstream_defects;
            }
            _ => {}
        }
        Run {
            scheduler: Scheduler::new(config.clone()).unwrap(),
            executor,
            fails,
            config,
            clients,
            now: At::ZERO,
            fates: HashMap::new(),
            streams: HashMap::new(),
            admitted: HashSet::new(),
        }
    }

    fn run_to_the_end(mut self) {
        // The longest run there can be: everything one after the other, each thrown out many times.
        for _ in 0..20_000 {
            self.arrivals_and_aborts(false);
            let planned = self.scheduler.plan(self.now);
            for event in self.scheduler.take_expired() {
                let Event::Finished { id, reason } = event else {
                    panic!("{event:?} of a request that waited")
                };
                self.over(id, reason);
            }
            match planned {
                Planned::Step(plan) => self.step(&plan),
                Planned::WaitUntil(until) => {
                    let stats = self.scheduler.stats();
                    assert!(until > self.now, "told to wait until {until:?}, it is {:?}", self.now);
                    assert!(stats.waiting > 0 && stats.running == 0, "waits for nothing: {stats:?}");
                    self.now = self.next_arrival().map_or(until, |at| at.min(until));
                }
                Planned::Idle => {
                    let stats = self.scheduler.stats();
                    // Work conserving: whatever was accepted fits an empty pool.
                    let wedged = self.is_wedged();
                    assert!(
                        stats.running == 0 && (stats.waiting == 0 || wedged),
                        "idle with work left: {stats:?}"
                    );
                    match self.next_arrival() {
                        Some(at) => self.now = at,
                        None => return self.check_the_end(),
                    }
                }
            }
            self.check_books();
        }
        panic!("no end in sight: {:?}", self.scheduler.stats());
    }

    fn step(&mut self, plan: &StepPlan) {
        self.check_plan(plan);
        self.check_books();
        self.arrivals_and_aborts(true);
        self.check_books();
        let events = if self.fails == Some(plan.step) {
            self.executor.fail(plan);
            self.scheduler.fail(self.now, plan)
        } else {
            let outcome = self.executor.execute(plan).unwrap();
            self.now += outcome.elapsed;
            self.scheduler.commit(self.now, plan, &outcome)
        };
        self.told(events);
    }

    fn told(&mut self, events: Vec<Event>) {
        for event in events {
            match event {
                Event::Token { id, token, index } => {
                    assert_eq!(self.fates[&id], Fate::Live, "a token for {id:?}, which is over");
                    let stream = self.streams.entry(id).or_default();
                    assert_eq!(stream.len(), index as usize, "{id:?}");
                    stream.push(token);
                }
                Event::Finished { id, reason } => self.over(id, reason),
            }
        }
    }

    fn arrivals_and_aborts(&mut self, in_flight: bool) {
        for i in 0..self.clients.len() {
            let client = self.clients[i].clone();
            let id = RequestId(i as u64);
            let arrived = Duration::from_millis(client.arrives);
            // Every second one arrives while a step is in flight, if there is one.
            if arrived <= self.now
                && !self.fates.contains_key(&id)
                && (in_flight || i % 2 == 0 || !self.is_busy())
            {
                self.enqueue(client.request(i as u64), arrived);
            }
            let Some((after, mid)) = client.leaves else { continue };
            let leaves =
                arrived + Duration::from_millis(after) <= self.now && (mid == in_flight || !self.is_busy());
            if leaves && self.fates.get(&id) == Some(&Fate::Live) {
                let event = self.scheduler.abort(self.now, id);
                assert_eq!(event, Some(Event::Finished { id, reason: FinishReason::Abort }));
                self.over(id, FinishReason::Abort);
                assert_eq!(self.scheduler.abort(self.now, id), None, "{id:?} was aborted twice");
            }
        }
    }

    fn is_busy(&self) -> bool {
        self.scheduler.stats().running > 0
    }

    fn enqueue(&mut self, request: Request, arrived: At) {
        let (id, prompt) = (request.id, request.prompt.len());
        let max_tokens = request.stop.max_tokens as usize;
        self.executor.expect(&request);
        let fate = match self.scheduler.enqueue_arrived(self.now, arrived, request.clone()) {
            Ok(()) => {
                let again = self.scheduler.enqueue(self.now, request);
                assert_eq!(again, Err(EnqueueError::DuplicateId(id)));
                Fate::Live
            }
            Err(EnqueueError::TooLong { tokens, limit }) => {
                // Only a padded batch of tgi has no other memory than a limit of tokens; and without chunking, a request
                // that `max_utilization` pauses comes back as one longer prompt.
                let padded = matches!(&self.config.policy, PolicyConfig::Tgi(c) if c.requires_padding);
                let whole_life = matches!(&self.config.policy, PolicyConfig::Trtllm(_));
                let most = prompt + if whole_life { max_tokens } else { 1 };
                assert!(tokens > limit && (tokens <= most || padded), "{tokens} of {limit} for {prompt}");
                Fate::Rejected
            }
            Err(EnqueueError::NeverFits { blocks, total }) => {
                assert!(blocks > total, "{blocks} of {total}");
                Fate::Rejected
            }
            Err(other) => panic!("{other}"),
        };
        self.fates.insert(id, fate);
    }

    fn over(&mut self, id: RequestId, reason: FinishReason) {
        assert_eq!(self.fates.insert(id, Fate::Finished(reason)), Some(Fate::Live), "{id:?} ended twice");
    }

    fn next_arrival(&self) -> Option<At> {
        let coming = (0..self.clients.len()).filter(|i| !self.fates.contains_key(&RequestId(*i as u64)));
        coming.map(|i| Duration::from_millis(self.clients[i].arrives)).min().map(|at| at.max(self.now))
    }

    /// Limits every plan of a policy keeps, and admissions that were missed.
    fn check_plan(&mut self, plan: &StepPlan) {
        assert!(!plan.seqs.is_empty());
        let planned_ahead = matches!(&self.config.policy, PolicyConfig::Vllm(c) if c.async_scheduling);
        for (id, waited) in &plan.admitted {
            assert!(self.admitted.insert(*id), "{id:?} was admitted for the first time twice");
            let arrived = Duration::from_millis(self.clients[id.0 as usize].arrives);
            let wait = self.now - arrived;
            assert!(
                if planned_ahead { *waited <= wait } else { *waited == wait },
                "{id:?} {waited:?} {wait:?}"
            );
        }
        let stats = self.scheduler.stats();
        match &self.config.policy {
            PolicyConfig::Vllm(c) => {
                assert!(plan.new_tokens() <= c.max_num_batched_tokens as usize);
                assert!(planned_ahead || plan.seqs.len() <= stats.running);
                assert!(stats.running <= c.max_num_seqs as usize);
                let simple = !c.enable_prefix_caching
                    && c.prefill_schedule_interval == 1
                    && c.enable_chunked_prefill
                    && !planned_ahead
                    && self.scheduler.batches_in_flight() == 1
                    && c.speculative_config.is_none();
                if simple && self.config.kv == KvStrategy::Paged && plan.preempted.is_empty() {
                    self.check_nobody_was_forgotten(c, plan);
                }
                if self.config.kv != KvStrategy::Paged {
                    assert!(plan.preempted.is_empty(), "preempted though memory was reserved");
                }
            }
            PolicyConfig::Tgi(c) => {
                assert!(plan.preempted.is_empty());
                if !c.prefill_chunking
                    && let Some(most) = c.max_batch_size
                {
                    assert!(stats.running <= most as usize);
                }
            }
            PolicyConfig::Static(StaticConfig { batch_size: most, .. })
            | PolicyConfig::Dynamic(DynamicConfig { max_batch_size: most, .. }) => {
                assert!(plan.preempted.is_empty());
                assert!(plan.seqs.len() <= *most as usize);
                // A rectangle: every row is as wide as the widest.
                let widths: HashSet<_> =
                    plan.seqs.iter().map(|s| s.tokens.len() + s.padding as usize).collect();
                assert_eq!(widths.len(), 1, "{plan:?}");
                // The executor holds all of it at once, whatever lengths the clients chose.
                let rows: usize = plan.seqs.iter().map(|s| s.tokens.len() + s.padding as usize).sum();
                assert!(rows <= ((self.config.num_blocks - 1) * self.config.block_size) as usize, "{plan:?}");
            }
            PolicyConfig::Orca(c) => {
                assert!(plan.preempted.is_empty() && plan.seqs.len() == stats.running);
                assert!(stats.running <= c.max_num_seqs as usize);
                let each = self.config.max_model_len.div_ceil(self.config.block_size) as usize;
                assert_eq!(stats.total_blocks - stats.free_blocks, stats.running * each);
            }
            PolicyConfig::Sarathi(c) => {
                let decodes = plan.seqs.iter().filter(|s| s.generated > 0 && s.tokens.len() == 1).count();
                let budget = if c.enable_dynamic_chunking_schedule { 64 } else { c.chunk_size as usize };
                assert!(plan.new_tokens() <= budget.max(decodes), "{plan:?}");
                assert!(stats.running <= c.max_num_seqs as usize);
            }
            PolicyConfig::Fastgen(c) => {
                assert!(plan.new_tokens() <= c.max_ragged_batch_size as usize);
                assert!(plan.seqs.len() <= c.max_ragged_sequence_count as usize);
                assert!(stats.running <= c.max_tracked_sequences as usize);
            }
            PolicyConfig::Trtllm(c) => {
                assert!(plan.new_tokens() <= c.max_num_tokens as usize);
                assert!(plan.seqs.len() <= c.max_batch_size as usize);
                let evicts = c.capacity_scheduler_policy == CapacitySchedulerPolicy::MaxUtilization;
                assert!(evicts || plan.preempted.is_empty());
                if c.enable_chunked_context {
                    let cut = plan.seqs.iter().filter(|s| s.generated == 0 && !s.sample);
                    let end = |s: &SeqStep| s.context + s.tokens.len() as u32;
                    assert!(cut.clone().all(|s| end(s) % self.config.block_size == 0), "{plan:?}");
                }
            }
            PolicyConfig::Llamacpp(c) => {
                assert!(plan.new_tokens() <= c.n_ubatch as usize && stats.running <= c.n_parallel as usize);
                assert!(c.kv_unified || plan.preempted.is_empty());
            }
            PolicyConfig::Sglang(c) => {
                let decodes = plan.seqs.iter().filter(|s| s.generated > 0 && s.tokens.len() == 1).count();
                let prefill = plan.new_tokens() - decodes;
                assert!(
                    c.chunked_prefill_size == 0 || prefill <= c.chunked_prefill_size as usize,
                    "{plan:?}"
                );
                assert!(stats.running <= c.max_running_requests as usize);
                let cut = plan.seqs.iter().filter(|s| !s.sample).count();
                assert!(cut <= 1, "more than one prompt is cut: {plan:?}");
            }
            PolicyConfig::Own(_) => assert!(plan.preempted.is_empty() && plan.seqs.len() == stats.running),
        }
    }

    /// With a seat and tokens left in a vllm step, the first in the queue is still out only for want of blocks.
    fn check_nobody_was_forgotten(&self, c: &VllmConfig, plan: &StepPlan) {
        let left = (c.max_num_batched_tokens as usize) - plan.new_tokens();
        let seats = c.max_num_seqs as usize - self.scheduler.running().len();
        if let (Some(first), true) = (self.scheduler.waiting().first(), left > 0 && seats > 0) {
            let known =
                self.clients[first.0 as usize].prompt.len() + self.streams.get(first).map_or(0, Vec::len);
            let need = known.div_ceil(self.config.block_size as usize);
            let keep = (c.watermark * f64::from(self.config.num_blocks)) as usize;
            assert!(need + keep > self.scheduler.stats().free_blocks, "{first:?} fits and still waits");
        }
    }

    /// Invariants 1 and 2.
    fn check_books(&self) {
        let stats = self.scheduler.stats();
        let count = |test: fn(&Fate) -> bool| self.fates.values().filter(|fate| test(fate)).count() as u64;
        let aborted = count(|f| *f == Fate::Finished(FinishReason::Abort));
        let failed = count(|f| *f == Fate::Finished(FinishReason::Error));
        let over = count(|f| matches!(f, Fate::Finished(_)));
        let live = count(|f| *f == Fate::Live);
        // Each accepted request was also offered a second time, which is refused.
        let accepted = live + over;
        assert_eq!(stats.rejected_total, count(|f| *f == Fate::Rejected) + accepted);
        assert_eq!((stats.aborted_total, stats.failed_total), (aborted, failed));
        assert_eq!(stats.finished_total, over - aborted - failed);
        assert_eq!((stats.waiting + stats.running) as u64, live, "{stats:?}");
        let gone = stats.finished_total + stats.aborted_total + stats.failed_total + stats.rejected_total;
        assert_eq!(stats.submitted_total, gone + live);

        let mut holders: HashMap<u32, u32> = HashMap::new();
        for id in self.fates.keys() {
            for block in self.scheduler.block_table(*id) {
                *holders.entry(block.0).or_default() += 1;
            }
        }
        let free: HashSet<u32> = self.scheduler.free_order().iter().map(|b| b.0).collect();
        assert_eq!(free.len(), stats.free_blocks, "a block is free twice");
        assert_eq!(free.len() + holders.len() + stats.cached_blocks, stats.total_blocks, "a block is lost");
        for block in 1..=stats.total_blocks as u32 {
            let references = self.scheduler.block_references(BlockId(block));
            let kept = u32::from(self.scheduler.is_kept(BlockId(block)));
            assert_eq!(references, holders.get(&block).copied().unwrap_or(0) + kept, "block {block}");
            assert_eq!(references == 0, free.contains(&block), "block {block}");
        }
        let entries: u32 = holders.values().sum();
        let block_size = self.config.block_size as usize;
        assert_eq!(stats.kv_shared_tokens, (entries as usize - holders.len()) * block_size);
        assert_eq!(stats.kv_held_tokens, holders.len() * block_size);
        let stored = stats.kv_tokens - stats.kv_shared_tokens;
        assert!(stored <= stats.kv_held_tokens, "{stats:?} hold more than fits");
        let shares = match &self.config.policy {
            PolicyConfig::Vllm(c) => c.enable_prefix_caching,
            PolicyConfig::Tgi(c) => c.use_prefix_caching,
            PolicyConfig::Trtllm(c) => c.enable_block_reuse,
            PolicyConfig::Sglang(c) => !c.disable_radix_cache,
            _ => false,
        };
        assert!(shares || holders.values().all(|n| *n == 1), "a block has two owners");
    }

    /// Under tgi with its defects the first in the queue may need more than there will ever be.
    fn is_wedged(&self) -> bool {
        let (PolicyConfig::Tgi(c), Some(first)) =
            (&self.config.policy, self.scheduler.waiting().first().copied())
        else {
            return false;
        };
        let prompt =
            self.clients[first.0 as usize].prompt.len() + self.streams.get(&first).map_or(0, Vec::len);
        let room = self.config.max_model_len as usize - prompt;
        let wanted = self.clients[first.0 as usize].max_tokens.min(c.leg_tokens) as usize;
        let tokens = prompt + wanted.min(room) + c.speculate as usize;
        let blocks = (tokens - 1).div_ceil(self.config.block_size as usize);
        let stats = self.scheduler.stats();
        // Or its own prefix, the only one that is still cached, pins more than it uses.
        let pinned = stats.cached_blocks > 0 && blocks > stats.free_blocks;
        let pool = blocks > stats.total_blocks || pinned;
        c.upstream_defects && (pool || (c.requires_padding && tokens > c.max_batch_total_tokens as usize))
    }

    /// Nothing is left, and each stream is what the request generates alone: no schedule changes a greedy token.
    fn check_the_end(&self) {
        let stats = self.scheduler.stats();
        assert_eq!((stats.kv_tokens, stats.kv_held_tokens), (0, 0));
        assert_eq!(stats.free_blocks + stats.cached_blocks, stats.total_blocks);
        let caches = match &self.config.policy {
            PolicyConfig::Tgi(c) => c.use_prefix_caching,
            PolicyConfig::Llamacpp(_) | PolicyConfig::Sglang(_) => true,
            _ => false,
        };
        assert!(caches || stats.cached_blocks == 0);
        for (id, fate) in &self.fates {
            if *fate == Fate::Rejected {
                assert!(!self.streams.contains_key(id), "{id:?} was rejected and got a token");
                continue;
            }
            let (tokens, reason) = self.answer(&self.clients[id.0 as usize].request(id.0));
            let got = self.streams.get(id).map_or(&[][..], Vec::as_slice);
            match fate {
                Fate::Live => {
                    assert!(self.is_wedged() && self.scheduler.waiting().contains(id), "{id:?} never ended");
                    assert!(tokens.starts_with(got), "{id:?}");
                }
                Fate::Rejected | Fate::Finished(FinishReason::Abort | FinishReason::Error) => {
                    assert!(tokens.starts_with(got), "{id:?}")
                }
                Fate::Finished(end) => assert_eq!((got, *end), (tokens.as_slice(), reason), "{id:?}"),
            }
        }
    }

    /// The whole answer to a request. TGI looks at its length only at the end of a leg.
    fn answer(&self, request: &Request) -> (Vec<TokenId>, FinishReason) {
        let max_model_len = self.config.max_model_len as usize;
        let PolicyConfig::Tgi(c) = &self.config.policy else { return alone(request, max_model_len) };
        let (prompt, leg, wanted) =
            (request.prompt.len(), c.leg_tokens as usize, request.stop.max_tokens as usize);
        let prefill = c.max_batch_prefill_tokens.div_ceil(self.config.block_size) * self.config.block_size;
        let longest = c.max_input_tokens.unwrap_or(self.config.max_model_len - 1);
        let longest = if c.prefill_chunking { longest } else { longest.min(prefill) } as usize;
        let mut length = 0;
        loop {
            let room = max_model_len - prompt - length;
            let more = if c.upstream_defects { wanted } else { wanted - length }.min(leg);
            // The first leg is cut at the context, later ones are not run by the defective rule if they reach beyond.
            if length > 0 && c.upstream_defects && more > room {
                break;
            }
            length += more.min(room);
            if length >= wanted || prompt + length > longest || prompt + length >= max_model_len {
                break;
            }
        }
        let mut whole = request.clone();
        whole.stop.max_tokens = length as u32;
        alone(&whole, max_model_len)
    }
}
