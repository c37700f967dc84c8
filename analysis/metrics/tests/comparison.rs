//! Comparison over repeats, against constants from scipy, and the trust verdict.

mod common;

use common::{MS, manifest, record, refused, trial};
use llmlab_metrics::compare::{Comparison, Difference};
use llmlab_metrics::metric::Metric;
use llmlab_metrics::trust::UntrustedCause;
use llmlab_metrics::{Analysis, Trial, Warning, analyse};
use llmlab_results::calibration::{CalibrationFacts, ClientCalibration, Errors};
use llmlab_results::manifest::{RunStatus, TargetKind};

/// Trials of one request each, so that every TTFT percentile is the given value in ms.
fn repeats(target: &str, ttft_ms: &[u64]) -> Vec<Trial> {
    ttft_ms
        .iter()
        .zip(1..)
        .map(|(ms, repeat)| trial(target, repeat, vec![record(0, 0, &[*ms, ms + 30])]))
        .collect()
}

fn compared(baseline: &[u64], other: &[u64]) -> Analysis {
    let trials: Vec<Trial> = repeats("base", baseline).into_iter().chain(repeats("other", other)).collect();
    analyse(&manifest(&["base", "other"]), &trials)
}

fn ttft(c: &Comparison) -> &Difference {
    c.differences.iter().find(|d| d.metric == Metric::TtftP95).unwrap()
}

/// x = log([68, 70, 69, 71] / [100, 101, 98, 103]);
/// `exp(x.mean())`, `exp(scipy.stats.t.interval(0.95, 3, loc=x.mean(), scale=scipy.stats.sem(x)))`.
#[test]
fn interval_of_paired_log_ratios_agrees_with_scipy() {
    let a = compared(&[100, 101, 98, 103], &[68, 70, 69, 71]);
    let d = ttft(&a.comparisons[0]);
    let (low, high) = d.interval.unwrap();
    assert_eq!(d.n, 4);
    assert!((d.ratio - 0.6915640826566922).abs() < 1e-9);
    assert!((low - 0.6759060120460888).abs() < 1e-9 && (high - 0.7075848888708813).abs() < 1e-9);
    assert_eq!(d.favourable(), Some(true));
    assert_eq!(d.words(), "TTFT p95 31 % lower [29, 32]");
    assert!(a.comparisons[0].verdict.starts_with("other: TTFT p95 31 % lower [29, 32], TPOT p95 no clear"));
}

/// Same with [110, 95, 130] / [100, 100, 104]: ratio 1.0931391146516610, interval 0.77718129 to 1.53754746.
#[test]
fn a_difference_within_noise_is_not_called_one() {
    let a = compared(&[100, 100, 104], &[110, 95, 130]);
    let d = ttft(&a.comparisons[0]);
    let (low, high) = d.interval.unwrap();
    assert!((low - 0.77718129).abs() < 1e-8 && (high - 1.53754746).abs() < 1e-8);
    assert_eq!(d.words(), "TTFT p95 no clear difference (within noise)");
    assert_eq!(d.favourable(), None);
}

#[test]
fn a_large_change_in_too_few_repeats_is_told_as_such() {
    // Ten times slower twice, but so unequally that two repeats have no clear interval.
    let a = compared(&[100, 100], &[500, 2000]);
    let d = ttft(&a.comparisons[0]);
    assert!(!d.clear() && d.one_way && d.favourable().is_none());
    assert_eq!(d.words(), "TTFT p95 10.0x higher in each of 2 repeats, too few to be sure");
}

#[test]
fn one_repeat_has_no_interval_and_says_so() {
    let a = compared(&[100], &[250]);
    let d = ttft(&a.comparisons[0]);
    assert_eq!((d.interval, d.clear()), (None, false));
    assert_eq!(d.words(), "TTFT p95 2.5x higher");
    assert!(a.warnings.contains(&Warning::OneRepeat));
}

#[test]
fn large_and_small_changes_read_well() {
    let words = |b: &[u64], o: &[u64]| ttft(&compared(b, o).comparisons[0]).words();
    assert_eq!(words(&[100, 100, 101], &[250, 251, 253]), "TTFT p95 2.5x higher [2.5x, 2.5x]");
    assert_eq!(words(&[10000, 10000, 10001], &[10100, 10101, 10100]), "TTFT p95 1.0 % higher [1.0, 1.0]");
    assert_eq!(words(&[100, 100], &[100, 100]), "TTFT p95 no clear difference (within noise)");
}

#[test]
fn only_repeats_that_both_completed_are_paired() {
    let mut trials: Vec<Trial> =
        repeats("base", &[100, 100, 100]).into_iter().chain(repeats("other", &[50, 50, 5000])).collect();
    trials.last_mut().unwrap().facts.complete = false;
    let a = analyse(&manifest(&["base", "other"]), &trials);
    assert_eq!((a.comparisons[0].pairs, ttft(&a.comparisons[0]).ratio), (2, 0.5));
    assert_eq!((a.targets[1].repeats, a.trusted), (2, false));

    let mut lonely = repeats("other", &[50]);
    lonely[0].facts.repeat = 9;
    let trials: Vec<Trial> = repeats("base", &[100]).into_iter().chain(lonely).collect();
    let a = analyse(&manifest(&["base", "other"]), &trials);
    assert!(a.comparisons.is_empty() && a.warnings.contains(&Warning::Unpaired { target: "other".into() }));
}

#[test]
fn what_is_missing_is_not_vouched_for() {
    let trials = [trial("base", 1, vec![record(0, 0, &[100, 130])])];
    let whole = manifest(&["base"]);
    assert!(analyse(&whole, &trials).trusted);

    let mut short = whole.clone();
    short.workload.requests = 2;
    assert_eq!(analyse(&short, &trials).trials[0].trust.causes, vec![UntrustedCause::Incomplete]);

    for status in [RunStatus::Running, RunStatus::Interrupted, RunStatus::Failed] {
        let mut stopped = whole.clone();
        stopped.status = status;
        let a = analyse(&stopped, &trials);
        assert!(!a.trusted && a.warnings.contains(&Warning::RunNotComplete { status }));
    }
}

#[test]
fn a_limit_on_what_was_never_measured_is_told() {
    let mut m = manifest(&["base"]);
    m.slo.tpot = vec![(95.0, 50 * MS)];
    // One token an answer: there is a TTFT and no TPOT.
    let single = analyse(&m, &[trial("base", 1, vec![record(0, 0, &[100])])]);
    let warning = Warning::SloNotJudged { target: "base".into(), limit: "the TPOT limit at p95".into() };
    assert!(single.warnings.contains(&warning), "{:?}", single.warnings);
    let several = analyse(&m, &[trial("base", 1, vec![record(0, 0, &[100, 130])])]);
    assert!(!several.warnings.contains(&warning));
}

#[test]
fn shedding_load_never_looks_good() {
    // The second target answers one of two requests, ten times faster.
    let base: Vec<Trial> = (1..4)
        .map(|r| trial("base", r, vec![record(0, 0, &[100, 130]), record(1, 0, &[100, 130])]))
        .collect();
    let shed: Vec<Trial> =
        (1..4).map(|r| trial("shed", r, vec![record(0, 0, &[10, 40]), refused(1, 0)])).collect();
    let trials: Vec<Trial> = base.into_iter().chain(shed).collect();
    let a = analyse(&manifest(&["base", "shed"]), &trials);
    let c = &a.comparisons[0];
    assert!(c.infinite.contains(&Metric::TtftP95));
    assert!(c.differences.iter().all(|d| d.metric != Metric::TtftP95));
    assert!(
        c.verdict.contains("TTFT p95, TPOT p95, E2E p95 not comparable (too many failed requests)"),
        "{}",
        c.verdict
    );
    let spread = a.targets[1].metric(Metric::TtftP95).unwrap();
    assert_eq!((spread.median, spread.infinite, spread.n), (None, 3, 0));
}

fn causes(change: impl FnOnce(&mut Trial)) -> Vec<UntrustedCause> {
    // TTFT 100 ms, so the lateness limit is its floor of 10 ms; 10 s long.
    let mut t = trial("base", 1, vec![record(0, 0, &[100, 130])]);
    change(&mut t);
    analyse(&manifest(&["base"]), &[t]).trials.remove(0).trust.causes
}

#[test]
fn a_client_that_limits_the_run_is_found_out() {
    assert_eq!(causes(|_| ()), vec![]);
    let late = causes(|t| t.records[0].sent_ns = Some(11 * MS));
    assert_eq!(late, vec![UntrustedCause::SendLag { p99_ns: 11e6, limit_ns: 10e6 }]);
    // At a TTFT of one second, 5 % are 50 ms: the same lateness no longer matters.
    let slow = causes(|t| {
        t.records[0] = record(0, 0, &[1000, 1030]);
        t.records[0].sent_ns = Some(11 * MS);
    });
    assert_eq!(slow, vec![]);
    assert!(matches!(
        causes(|t| t.facts.client.loop_delay_p99_ns = 12 * MS)[..],
        [UntrustedCause::EventLoopDelay { .. }]
    ));
    assert!(matches!(causes(|t| t.facts.client.cpu_ns = 9_100 * MS)[..], [UntrustedCause::ClientCpu { .. }]));
    assert_eq!(causes(|t| t.facts.client.cpu_ns = 8_900 * MS), vec![]);
    // 5 % of 10 s on the manifest's 4 cores are 2 s.
    assert!(matches!(causes(|t| t.facts.client.steal_ns = 2_100 * MS)[..], [UntrustedCause::Steal { .. }]));
    assert_eq!(causes(|t| t.facts.client.steal_ns = 1_900 * MS), vec![]);
    let broken = causes(|t| {
        let mut r = refused(1, 0);
        r.outcome = llmlab_results::record::Outcome::Client;
        t.records.push(r);
    });
    assert_eq!(broken, vec![UntrustedCause::ClientFailures { requests: 1 }]);
    assert_eq!(causes(|t| t.facts.complete = false), vec![UntrustedCause::Incomplete]);
}

/// A client whose errors have these p99.
fn calibrated(ttft_ms: u64, itl_ms: u64) -> ClientCalibration {
    let p99 = |ms: u64| Errors { samples: 500, p50_ns: ms * MS / 4, p99_ns: ms * MS, max_ns: 2 * ms * MS };
    ClientCalibration::Measured(CalibrationFacts {
        trial: "base-r1".into(),
        protocol: "openai-completions".into(),
        tls: false,
        keep_answers: false,
        streams: 40,
        requests: 60,
        rate_rps: 20.0,
        events_per_s: 800.0,
        ttft_ns: 100 * MS,
        itl_ns: 30 * MS,
        elapsed_ns: 3_000 * MS,
        left_out: 0,
        // Known of every request of the trial itself, so no cause here.
        send_lag: p99(50),
        ttft: p99(ttft_ms),
        itl: p99(itl_ms),
        served_late: p99(50),
    })
}

/// Of a trial with these TTFT and ITL, ms.
fn with_calibration(calibration: ClientCalibration, (ttft, itl): (u64, u64)) -> Analysis {
    let mut m = manifest(&["base"]);
    m.client_calibration = Some(calibration);
    analyse(&m, &[trial("base", 1, vec![record(0, 0, &[ttft, ttft + itl])])])
}

#[test]
fn a_client_that_is_wrong_against_a_known_server_is_not_trusted() {
    let causes = |ttft_ms: u64, itl_ms: u64, of: (u64, u64)| {
        with_calibration(calibrated(ttft_ms, itl_ms), of).trials.remove(0).trust.causes
    };
    assert_eq!(causes(10, 10, (100, 30)), vec![]);
    let ttft = UntrustedCause::ClientTtftError { p99_ns: 11e6, limit_ns: 10e6, streams: 40 };
    assert_eq!(causes(11, 10, (100, 30)), vec![ttft]);
    // 5 % of the median TTFT of 1 s; a gap's limit does not grow with it.
    assert_eq!(causes(50, 10, (1000, 30)), vec![]);
    let itl = |limit_ns: f64, p99_ns: f64| UntrustedCause::ClientItlError { p99_ns, limit_ns, streams: 40 };
    assert_eq!(causes(50, 11, (1000, 30)), vec![itl(10e6, 11e6)]);
    // 5 % of a gap of 400 ms.
    assert_eq!(causes(0, 20, (100, 400)), vec![]);
    assert_eq!(causes(0, 21, (100, 400)), vec![itl(20e6, 21e6)]);
    assert_eq!(causes(99, 99, (100, 30)).len(), 2);
}

#[test]
fn the_report_names_the_clients_error_or_why_it_is_not_known() {
    let page = |calibration: ClientCalibration| {
        let analysis = with_calibration(calibration, (100, 30));
        let text = llmlab_metrics::terminal(&analysis, false, 200);
        assert!(llmlab_metrics::markdown(&analysis).contains("- Trust: client "));
        (analysis.trusted, text, serde_json::to_value(&analysis).unwrap())
    };
    let (trusted, text, json) = page(calibrated(1, 2));
    assert!(
        trusted && text.contains("client error at 40 streams: TTFT p99 1.00 ms, ITL p99 2.00 ms"),
        "{text}"
    );
    assert_eq!(json.pointer("/client_calibration/ttft/p99_ns").unwrap(), MS);
    let (trusted, text, _) = page(calibrated(111, 2));
    assert!(!trusted && text.contains("UNTRUSTED"), "{text}");
    assert!(
        text.contains("with 40 streams the client itself gets TTFT wrong (p99 111.0 ms, limit 10.0 ms"),
        "{text}"
    );
    let (trusted, text, _) = page(ClientCalibration::Skipped { why: "--no-client-calibration".into() });
    assert!(trusted && text.contains("client not calibrated: --no-client-calibration"), "{text}");
    let (trusted, text, _) = page(ClientCalibration::Failed { why: "no port was free".into() });
    assert!(
        trusted && text.contains("could not be checked against our timing server: no port was free"),
        "{text}"
    );
}

#[test]
fn a_simulated_target_has_no_client_that_could_be_wrong() {
    let mut m = manifest(&["base", "live"]);
    m.targets[0].kind = TargetKind::Simulate;
    m.client_calibration = Some(calibrated(50, 50));
    let of = |target: &str| trial(target, 1, vec![record(0, 0, &[100, 130])]);
    let analysis = analyse(&m, &[of("base"), of("live")]);
    let counts: Vec<usize> = analysis.trials.iter().map(|trial| trial.trust.causes.len()).collect();
    assert_eq!(counts, [0, 2]);
}
