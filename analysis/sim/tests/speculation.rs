//! Guessing ahead in virtual time: as many tokens a step as the acceptance says, at the cost of the rows it takes.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::{Kept, fixed, patient, scheduler, vllm, workload};
use llmlab_core::config::{EngineConfig, PolicyConfig, SpeculativeConfig, SpeculativeMethod, VllmConfig};
use llmlab_core::engine::Engine;
use llmlab_core::stats::Stats;
use llmlab_loadgen::{Arrivals, Silent, Workload};
use llmlab_models::WeightFormat;
use llmlab_results::record::RequestRecord;
use llmlab_sim::cost_model::layers::Layers;
use llmlab_sim::speculation::{DraftingOn, Speculation};
use llmlab_sim::{
    CostModel, Device, Facts, Options, Recorder, Recording, Roofline, RooflineExecutor, SeqShape, simulate,
};

fn speculating(method: SpeculativeMethod, drafts: u32, ahead: bool, config: EngineConfig) -> EngineConfig {
    let PolicyConfig::Vllm(vllm) = config.policy else { panic!("only vllm speculates") };
    // Looking up is left to the executor.
    let speculation = SpeculativeConfig {
        method,
        num_speculative_tokens: drafts,
        prompt_lookup_min: 0,
        prompt_lookup_max: 0,
    };
    let policy = VllmConfig { async_scheduling: ahead, speculative_config: Some(speculation), ..vllm };
    EngineConfig { policy: PolicyConfig::Vllm(policy), ..config }
}

struct Ran {
    facts: Facts,
    records: Vec<RequestRecord>,
    recording: Recording,
    stats: Stats,
}

fn run(config: &EngineConfig, load: &Workload, executor: RooflineExecutor) -> Ran {
    let mut engine = Engine::new(scheduler(config), Recorder::new(executor));
    let mut sink = Kept::default();
    let facts = simulate(load, &mut engine, Options::new(patient()), &mut sink, &Silent, &|| false).unwrap();
    let stats = engine.scheduler.stats();
    Ran { facts, records: sink.0, recording: engine.executor.into_recording(), stats }
}

/// A time for each row of the linear layers, and one for each row of logits.
struct Rows {
    row: Duration,
    logits: Duration,
}

impl CostModel for Rows {
    fn step_time(&self, seqs: &[SeqShape]) -> Duration {
        let count = |of: fn(&SeqShape) -> u64| seqs.iter().map(of).sum::<u64>() as u32;
        self.row * count(SeqShape::rows) + self.logits * count(SeqShape::logits)
    }
}

fn rows(row: Duration, logits: Duration) -> Box<Rows> {
    Box::new(Rows { row, logits })
}

const MS: Duration = Duration::from_millis(1);
const US: Duration = Duration::from_micros(1);

fn long() -> EngineConfig {
    EngineConfig { max_model_len: 4096, ..vllm(1, 400) }
}

fn one_after_the_other() -> Arrivals {
    Arrivals::Closed { users: 1, think_time: Duration::ZERO }
}

/// Tokens that a step of one decoding sequence brings.
fn tokens_per_step(acceptance: &[f64], drafts: u32, method: SpeculativeMethod, ahead: bool) -> f64 {
    let load = fixed(20, one_after_the_other(), 20, 1900);
    let executor = RooflineExecutor::new(rows(MS, US), 3, 500)
        .speculating(Speculation::new(acceptance.to_vec(), drafts));
    let ran = run(&speculating(method, drafts, ahead, long()), &load, executor);
    assert!(ran.records.iter().all(|record| record.output_tokens == 1900));
    // Each prompt takes a step and brings a token.
    let (tokens, steps) = (20 * 1899, ran.facts.steps - 20);
    let Stats { draft_tokens_total, accepted_draft_tokens_total, .. } = ran.stats;
    assert!(accepted_draft_tokens_total <= draft_tokens_total && draft_tokens_total > 0, "{:?}", ran.stats);
    tokens as f64 / steps as f64
}

#[test]
fn a_step_brings_as_many_tokens_as_the_acceptance_says() {
    let geometric = |a: f64, k: u32| (0..=k).map(|power| a.powi(power as i32)).sum::<f64>();
    for (a, k) in [(0.0, 3), (0.5, 2), (0.7, 3), (0.9, 5), (1.0, 4)] {
        let found = tokens_per_step(&[a], k, SpeculativeMethod::Ngram, false);
        let expected = geometric(a, k);
        assert!((found / expected - 1.0).abs() < 0.02, "{a} {k}: {found}, not {expected}");
    }
    // One rate for each draft, the last for those behind it; also with a draft model and planning ahead.
    let expected = 1.0 + 0.9 + 0.9 * 0.5 + 0.9 * 0.5 * 0.5;
    for (method, ahead) in [
        (SpeculativeMethod::Ngram, false),
        (SpeculativeMethod::DraftModel, false),
        (SpeculativeMethod::DraftModel, true),
    ] {
        let found = tokens_per_step(&[0.9, 0.5], 3, method, ahead);
        assert!((found / expected - 1.0).abs() < 0.02, "{method:?} {ahead}: {found}, not {expected}");
    }
}

/// Tokens by request, as far as they are part of its answer.
fn texts(ran: &Ran) -> BTreeMap<u64, Vec<u32>> {
    let mut texts: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    for step in &ran.recording.steps {
        for sampled in &step.outcome.sampled {
            texts.entry(step.plan.seqs[sampled.seq as usize].id.0).or_default().push(sampled.token);
        }
    }
    for record in &ran.records {
        if let Some(text) = texts.get_mut(&record.index) {
            text.truncate(record.output_tokens as usize);
        }
    }
    texts
}

#[test]
fn speculation_changes_no_token_and_equal_runs_are_equal() {
    // Few blocks, so that sequences are thrown out in between.
    let (load, few) = (workload(60, Arrivals::Closed { users: 8, think_time: US }), || vllm(8, 40));
    let plain = run(&few(), &load, RooflineExecutor::new(rows(MS, US), 5, 500));
    for ahead in [false, true] {
        let config = speculating(SpeculativeMethod::DraftModel, 3, ahead, few());
        let executor =
            || RooflineExecutor::new(rows(MS, US), 5, 500).speculating(Speculation::new(vec![0.6, 0.4], 3));
        let (ran, again) = (run(&config, &load, executor()), run(&config, &load, executor()));
        assert!(
            ran.stats.preemptions_total > 0 && ran.stats.accepted_draft_tokens_total > 0,
            "{:?}",
            ran.stats
        );
        assert_eq!(texts(&ran), texts(&plain));
        let bytes = |ran: &Ran| serde_json::to_vec(&ran.records).unwrap();
        assert_eq!(bytes(&ran), bytes(&again));
        assert_eq!(ran.recording, again.recording);
    }
}

#[test]
fn rows_logits_and_drafting_passes_by_hand() {
    let config = speculating(SpeculativeMethod::DraftModel, 3, false, long());
    let load = fixed(1, one_after_the_other(), 30, 9);
    let steps = |acceptance: f64| {
        let speculation = Speculation::new(vec![acceptance], 3).drafted_by(rows(US, Duration::ZERO));
        let executor = RooflineExecutor::new(rows(MS, 10 * US), 3, 500).speculating(speculation);
        let ran = run(&config, &load, executor);
        ran.recording.steps.iter().map(|step| step.outcome.elapsed).collect::<Vec<_>>()
    };
    // The prompt (30 tokens and the one it brings are read), then each step verifies three drafts: four rows, all with
    // logits, and three drafting passes of one row.
    let prompt = 30 * MS + 10 * US + (31 + 2) * US;
    let decode = 4 * MS + 40 * US + 3 * US;
    let wrong = steps(0.0);
    assert_eq!((wrong[0], wrong[1], wrong.len()), (prompt, decode, 9));
    // The last draft was not read while it was written.
    let right = steps(1.0);
    assert_eq!((right[0], right[1], right.len()), (prompt, decode + US, 3));
}

fn on_h100(model: &str) -> Arc<Roofline> {
    let spec = llmlab_models::load_spec(model).unwrap();
    let layers = Layers::new(&spec, spec.kv_bytes_per_token(2.0), |_| {
        Ok::<_, std::convert::Infallible>(WeightFormat::Bf16)
    })
    .unwrap();
    let device = Device::from_catalogue(llmlab_models::catalogue::hardware("h100-sxm").unwrap()).unwrap();
    Arc::new(Roofline::new(layers, device))
}

#[test]
fn a_good_draft_model_pays_and_wrong_drafts_never_do() {
    let (target, draft) = (on_h100("spec:llama-3.1-70b"), on_h100("spec:llama-3.1-8b"));
    let load = fixed(20, one_after_the_other(), 200, 600);
    let plain = run(&long(), &load, RooflineExecutor::new(Box::new(target.clone()), 1, 128_256));
    let with = |method: SpeculativeMethod, acceptance: f64| {
        let mut speculation = Speculation::new(vec![acceptance], 4);
        if method == SpeculativeMethod::DraftModel {
            speculation = speculation.drafted_by(Box::new(DraftingOn(draft.clone())));
        }
        let executor = RooflineExecutor::new(Box::new(target.clone()), 1, 128_256).speculating(speculation);
        run(&speculating(method, 4, false, long()), &load, executor)
    };
    for method in [SpeculativeMethod::Ngram, SpeculativeMethod::DraftModel] {
        let wrong = with(method, 0.0);
        assert!(wrong.facts.elapsed > plain.facts.elapsed, "{method:?}");
        assert_eq!(wrong.facts.steps, plain.facts.steps);
    }
    // Each draft costs nearly an eighth of a step, and a step brings 3.36 tokens.
    let speedup = |ran: &Ran| plain.facts.elapsed.as_secs_f64() / ran.facts.elapsed.as_secs_f64();
    let (lookup, model) =
        (speedup(&with(SpeculativeMethod::Ngram, 0.8)), speedup(&with(SpeculativeMethod::DraftModel, 0.8)));
    assert!((1.8..2.8).contains(&model) && (3.1..3.4).contains(&lookup), "{model} {lookup}");
}
