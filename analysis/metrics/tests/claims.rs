//! Claims against hand-made records: which repeat counts, which way is better, and that reasons multiply to the ratio.

mod common;

use common::{MS, START_NS, manifest, record, trial};
use llmlab_metrics::claims::{Claim, ClaimMetric, Row, Verdict, join, judge, table};
use llmlab_metrics::metric::Metric;
use llmlab_metrics::{Analysis, Trial, analyse};
use llmlab_results::manifest::TargetKind;
use llmlab_results::step::StepRow;

fn claim(metric: ClaimMetric, claimed: (f64, f64)) -> Claim {
    Claim {
        name: "c".into(),
        says: "so | so".into(),
        source: "a paper, 2024".into(),
        metric,
        claimed,
        target: "with".into(),
        against: "without".into(),
    }
}

/// A step from `at_ms` on, of sequences with so many new tokens behind a context.
fn step(at_ms: u64, elapsed_ms: u64, seqs: &[(u64, u32, u32)]) -> StepRow {
    let seqs: Vec<_> = seqs
        .iter()
        .map(|(id, new, context)| serde_json::json!({ "id": id, "new_tokens": new, "context": context }))
        .collect();
    let row = serde_json::json!({
        "step": 1, "start_monotonic_ns": START_NS + at_ms * MS, "elapsed_ns": elapsed_ms * MS, "seqs": seqs,
        "running": 1, "waiting": 0, "free_blocks": 90, "total_blocks": 100, "kv_tokens": 40, "block_size": 16,
    });
    serde_json::from_value(row).unwrap()
}

/// First tokens after so many milliseconds, one request a trial and one trial a repeat.
fn first_tokens(with_ms: [u64; 3], without_ms: [u64; 3]) -> Analysis {
    let trials = |name: &'static str, at: [u64; 3]| {
        (1..).zip(at).map(move |(repeat, at)| trial(name, repeat, vec![record(0, 0, &[at, at + 10])]))
    };
    let trials: Vec<Trial> = trials("without", without_ms).chain(trials("with", with_ms)).collect();
    analyse(&manifest(&["without", "with"]), &trials)
}

#[test]
fn the_middle_repeat_counts_and_less_is_better_for_latency() {
    let analysis = first_tokens([100, 100, 100], [400, 150, 200]);
    let found = judge(&claim(ClaimMetric::Of(Metric::TtftP50), (1.0, 3.0)), &analysis).unwrap();
    assert!((found.ratio - 2.0).abs() < 1e-9, "{}", found.ratio);
    assert_eq!((found.repeats, found.simulated, found.verdict), (3, false, Verdict::Confirmed));
    let (low, high) = found.interval.unwrap();
    // exp(mean ± 4.3027 s / √3) of ln 4, ln 1.5 and ln 2.
    assert!((low - 0.6543).abs() < 1e-3 && (high - 8.0107).abs() < 1e-3, "{low} {high}");

    // The other way round the technique makes it worse.
    let analysis = first_tokens([400, 420, 440], [100, 105, 110]);
    let found = judge(&claim(ClaimMetric::Of(Metric::TtftP50), (1.5, 3.0)), &analysis).unwrap();
    assert!((found.ratio - 0.25).abs() < 1e-9);
    assert_eq!(found.verdict, Verdict::NotSeen);
}

/// Two requests of four tokens: together in four steps of 20 ms, or one after the other in eight of 15 ms.
fn batched_or_not() -> Analysis {
    let both = [20, 40, 60, 80];
    let mut with = trial("with", 1, vec![record(0, 0, &both), record(1, 0, &both)]);
    with.steps = (0..4).map(|i| step(20 * i, 20, &[(0, 1, 10), (1, 1, 10)])).collect();
    let times = |first: u64| (1..=4).map(|i| 15 * (first + i)).collect::<Vec<u64>>();
    let mut without = trial("without", 1, vec![record(0, 0, &times(0)), record(1, 0, &times(4))]);
    without.steps = (0..8).map(|i| step(15 * i, 15, &[(i / 4, 1, 10)])).collect();
    analyse(&manifest(&["without", "with"]), &[without, with])
}

#[test]
fn the_reasons_multiply_to_the_ratio() {
    let claim = claim(ClaimMetric::Of(Metric::OutputTokensPerS), (1.0, 2.0));
    let found = judge(&claim, &batched_or_not()).unwrap();
    let factors = found.why.factors().unwrap();
    assert!((factors.tokens_per_step - 2.0).abs() < 1e-9, "{factors:?}");
    assert!((factors.step_time - 20.0 / 15.0).abs() < 1e-9, "{factors:?}");
    assert!((factors.product() / found.ratio - 1.0).abs() < 1e-9, "{factors:?} {}", found.ratio);
    assert!(found.why.words(&claim).starts_with("2.00x the output tokens a step (2.00 against 1.00)"));
    assert_eq!((found.interval, found.verdict), (None, Verdict::Confirmed));
}

#[test]
fn a_row_holds_a_live_and_a_simulated_run_and_what_is_missing() {
    let claim = claim(ClaimMetric::Of(Metric::OutputTokensPerS), (1.0, 2.0));
    let live = batched_or_not();
    let mut simulated = live.clone();
    simulated.targets.iter_mut().for_each(|target| target.kind = Some(TargetKind::Simulate));
    let mut rows: Vec<Row> = Vec::new();
    for analysis in [&live, &simulated] {
        join(&mut rows, claim.clone(), judge(&claim, analysis));
    }
    let absent = Claim { against: "nobody".into(), ..claim.clone() };
    join(&mut rows, absent.clone(), judge(&absent, &live));
    let [row] = rows.as_slice() else { panic!("{rows:?}") };
    assert!(row.measured.as_ref().is_some_and(|found| !found.simulated));
    assert!(row.simulated.as_ref().is_some_and(|found| found.simulated));
    assert_eq!(row.missing, ["no repeat of with and nobody was completed"]);
    let text = table::markdown(&rows);
    assert!(text.contains("is 1.00x the simulated one") && text.contains("so \\| so"), "{text}");
}
