//! Prefill and decode apart, sized beside replicas that do both.

use llmlab_loadgen::{Arrivals, LengthDist, Lengths, Prefixes, PromptStyle, WorkloadConfig};
use llmlab_models::catalogue;
use llmlab_planner::plan::bound;
use llmlab_planner::plan::candidate::{Candidate, candidates};
use llmlab_planner::plan::resolve::{Question, limits};
use llmlab_planner::plan::row::Sized;
use llmlab_planner::plan::search::Found;
use llmlab_scenarios::plan::{PlanSpec, parse_plan};
use llmlab_sim::cluster::Routing;

const PLAN: &str = r#"
name = "apart"
[model]
name = "llama-3.1-8b"
max_model_len = 8192
[workload]
lengths = { input = { distribution = "fixed", tokens = 2000 }, output = { distribution = "fixed", tokens = 100 } }
requests = 100
arrivals = { process = "poisson", rate = 20.0 }
[slo]
ttft_p95 = "2s"
itl_p99 = "25ms"
[search]
hardware = ["h100-sxm"]
weights = ["bf16"]
tensor_parallel = [1]
disaggregated = true
"#;

fn traffic(rate_rps: f64, requests: u64) -> WorkloadConfig {
    WorkloadConfig {
        seed: 7,
        requests,
        lengths: Lengths::Independent {
            input: LengthDist::Fixed { tokens: 2000 },
            output: LengthDist::Fixed { tokens: 100 },
        },
        scale_input: 1.0,
        scale_output: 1.0,
        input_range: (1, 8000),
        output_range: (1, 2000),
        arrivals: Arrivals::Poisson { rate_rps },
        prompts: PromptStyle::TokenIds { first: 0, end: 100_000 },
        prefixes: Prefixes::NONE,
        adapters: None,
        sessions: None,
        abandonment: None,
    }
}

fn of(spec: &PlanSpec) -> Question<'_> {
    Question {
        spec,
        model: catalogue::architecture("llama-3.1-8b").unwrap(),
        limits: limits(&spec.slo),
        traffic: &traffic,
        lengths: bound::Lengths::of(&traffic).unwrap(),
        conversations: None,
        cancelled: &|| false,
    }
}

fn sized(question: &Question<'_>, candidate: &Candidate) -> Sized {
    let prepared = question.prepare(candidate).unwrap().unwrap();
    match question.size(&prepared, None).unwrap() {
        Found::Serves(sized, _) => *sized,
        Found::Refused(candidate, refusal) => panic!("{}: {}", candidate.words(), refusal.reason),
    }
}

/// A prompt of 2000 tokens takes longer than the gap between two tokens may, so that replicas which do both take few requests.
#[test]
fn a_limit_on_gaps_that_prompts_break_is_met_with_prompts_elsewhere() {
    let spec = parse_plan(PLAN, "apart.toml").unwrap();
    let question = of(&spec);
    let tried = candidates(&spec.space, &["bf16"], &["bf16"], |_| true).unwrap();
    assert_eq!(tried.iter().map(|candidate| candidate.split.is_some()).collect::<Vec<_>>(), [false, true]);
    let (whole, apart) = (sized(&question, &tried[0]), sized(&question, &tried[1]));
    let per_device = |sized: &Sized| sized.replica_rps() / f64::from(sized.candidate.devices());
    assert!(
        per_device(&apart) > 2.0 * per_device(&whole),
        "{}: {}, {}: {}",
        apart.candidate.words(),
        per_device(&apart),
        whole.candidate.words(),
        per_device(&whole)
    );

    let split = apart.candidate.split.unwrap();
    assert_eq!(apart.candidate.devices(), split.prefill + split.decode);
    let words = format!("{} prefill + {} decode of h100-sxm, bf16", split.prefill, split.decode);
    assert_eq!(apart.candidate.words(), words);
    let best = apart.capacity.best.as_ref().unwrap();
    let busy = best.pools_busy.unwrap();
    for share in [busy.prefill, busy.decode] {
        assert!(share > 0.05 && share <= 1.0, "{busy:?}");
    }
    assert!(whole.capacity.best.as_ref().unwrap().pools_busy.is_none());

    // TTFT has both queues' overheads and the transfer: 2000 tokens of 128 KiB at 0.8 x 50 GB/s in 6.6 ms.
    let mut quiet = spec.clone();
    quiet.demand.peak_rps = 0.01;
    let idle = |candidate: &Candidate| {
        of(&quiet).together(candidate, 1, Routing::LeastOutstanding).unwrap().observed
    };
    let (alone, both) = (idle(&apart.candidate), idle(&whole.candidate));
    let more = alone.ttft_p50_s - both.ttft_p50_s;
    assert!((0.015 + 0.0066..0.05).contains(&more), "{more}");
    assert!((alone.tpot_p50_s / both.tpot_p50_s - 1.0).abs() < 0.05);

    // Two units behind a router take about what two units take.
    let together = question.together(&apart.candidate, 2, Routing::LeastOutstanding).unwrap();
    assert_eq!(together.replicas, 2);
    assert!(together.observed.failed == 0 && together.observed.requests >= 100);
}
