//! The search of the highest rate on a server whose answer is known: an M/D/1 queue. How far off it is over many seeds, and on
//! which side, is what a search must say of itself.

mod common;

use std::time::Duration;

use common::{MS, manifest, record, trial};
use llmlab_metrics::search::{Bisection, Edge, StopReason, TargetSearch, TriedValue, Watch};
use llmlab_metrics::{Trial, analyse};
use llmlab_results::manifest::{Manifest, Slo};
use llmlab_results::record::{Outcome, RequestRecord};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const SERVICE_MS: f64 = 20.0;
const LIMIT_MS: u64 = 60;
/// The rate at which 95 % wait at most 60 ms where a request takes 20 (closed form, see tests/find.rs of the binary).
const TRUE_RPS: f64 = 30.843;

/// One server, one request at a time, the first token when its turn comes.
fn served(seed: u64, rate: f64, requests: u64) -> Vec<RequestRecord> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut at, mut free) = (0.0_f64, 0.0_f64);
    (0..requests)
        .map(|index| {
            at += -(1.0 - rng.random::<f64>()).ln() / rate * 1e3;
            let first = free.max(at);
            free = first + SERVICE_MS;
            let mut record = record(index, 0, &[0]);
            let ns = |ms: f64| (ms * MS as f64) as u64;
            (record.scheduled_ns, record.sent_ns) = (ns(at), Some(ns(at)));
            record.events[0].at_ns = ns(first);
            record.done_ns = Some(ns(free));
            record
        })
        .collect()
}

/// Plays the records to a watch in the order in which things happen, up to where it stops the trial.
fn watched(records: &mut Vec<RequestRecord>, slo: &Slo) -> Option<StopReason> {
    let mut watch = Watch::new(slo, records.len() as u64, 0, true, false);
    let mut moments: Vec<(u64, usize, bool)> = Vec::new();
    for (i, record) in records.iter().enumerate() {
        moments.push((record.scheduled_ns, i, true));
        moments.push((record.events[0].at_ns, i, false));
    }
    moments.sort_by_key(|(at, _, is_sending)| (*at, !is_sending));
    for (now, i, is_sending) in moments {
        let record = &records[i];
        match is_sending {
            true => watch.sent(record.index),
            false => {
                let ttft = Duration::from_nanos(record.events[0].at_ns - record.scheduled_ns);
                watch.first_token(record.index, ttft);
                watch.finished(record);
            }
        }
        if watch.reason().is_some() {
            records.retain(|r| r.scheduled_ns <= now);
            for cut in records.iter_mut().filter(|r| r.done_ns.is_none_or(|done| done > now)) {
                cut.outcome = Outcome::Cancelled;
                (cut.events, cut.done_ns) = (Vec::new(), None);
            }
            break;
        }
    }
    watch.reason().cloned()
}

fn setting(requests: u64) -> Manifest {
    let mut manifest = manifest(&["queue"]);
    manifest.slo = Slo { ttft: vec![(95.0, LIMIT_MS * MS)], ..Slo::default() };
    manifest.workload.requests = requests;
    manifest
}

fn try_value(seed: u64, rate: f64, requests: u64, most: u32) -> TriedValue {
    let manifest = setting(requests);
    let (mut trials, mut stops): (Vec<Trial>, Vec<(String, StopReason)>) = (Vec::new(), Vec::new());
    for repeat in 1..=most {
        let mut records = served(seed * 1000 + u64::from(repeat), rate, requests);
        let reason = watched(&mut records, &manifest.slo);
        let mut trial = trial("queue", repeat, records);
        if let Some(reason) = reason {
            trial.facts.complete = false;
            stops.push((trial.facts.dir.clone(), reason));
        }
        trials.push(trial);
        let analysis = analyse(&manifest, &trials);
        let tried = TriedValue::of(rate, Some(rate), "run", &analysis, &manifest, &trials, &stops, most);
        if tried.decision.is_some() {
            return tried;
        }
    }
    panic!("{most} trials decided nothing");
}

fn search(seed: u64, requests: u64, most: u32) -> TargetSearch {
    let mut bisection = Bisection::new(35.0, 1.0, 200.0, 0.05, false);
    let mut values = Vec::new();
    while let Some(rate) = bisection.next() {
        let tried = try_value(seed, rate, requests, most);
        if let Some(decision) = &tried.decision {
            bisection.tell(rate, decision.holds, decision.clear);
        }
        values.push(tried);
    }
    let found = TargetSearch {
        name: "queue".into(),
        description: String::new(),
        saturation_rps: None,
        range: None,
        edge: None,
        interval: (None, None),
        values,
        trusted: false,
        error: None,
    };
    found.concluded()
}

fn held(search: &TargetSearch) -> f64 {
    match search.edge {
        Some(Edge::Between { held, .. }) => held,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_found_rate_is_near_the_true_one_and_rather_below_it() {
    let found: Vec<f64> = (0..12).map(|seed| held(&search(seed, 1000, 3)) / TRUE_RPS).collect();
    let mean = found.iter().sum::<f64>() / found.len() as f64;
    assert!((0.93..1.03).contains(&mean), "{mean}: {found:?}");
    assert!(found.iter().all(|ratio| (0.8..1.2).contains(ratio)), "{found:?}");
}

/// What many searches come to; shares of one.
#[derive(Debug)]
struct Bias {
    mean: f64,
    deviation: f64,
    /// Of the intervals, those with the true edge inside.
    covered: f64,
    /// And those with both ends: one without says little and is never wrong.
    closed: f64,
}

impl Bias {
    fn of(searches: u64, requests: u64, most: u32) -> Bias {
        let searches: Vec<TargetSearch> = (0..searches).map(|seed| search(seed, requests, most)).collect();
        let n = searches.len() as f64;
        let inside = |s: &&TargetSearch| {
            s.interval.0.is_none_or(|low| low <= TRUE_RPS) && s.interval.1.is_none_or(|high| high >= TRUE_RPS)
        };
        let closed = |s: &&TargetSearch| s.interval.0.is_some() && s.interval.1.is_some();
        let found: Vec<f64> = searches.iter().map(|search| held(search) / TRUE_RPS - 1.0).collect();
        let mean = found.iter().sum::<f64>() / n;
        Bias {
            mean,
            deviation: (found.iter().map(|f| (f - mean).powi(2)).sum::<f64>() / n).sqrt(),
            covered: searches.iter().filter(inside).count() as f64 / n,
            closed: searches.iter().filter(closed).count() as f64 / n,
        }
    }
}

/// The shortest trials, of which the most can be had; the next test has them all.
#[test]
fn short_trials_are_not_biased_and_their_intervals_hold_what_they_say() {
    let bias = Bias::of(60, 300, 1);
    // Three standard errors of the mean, and of a share of 95 %.
    assert!(bias.mean.abs() < 3.0 * 0.123 / 60.0_f64.sqrt(), "{bias:?}");
    assert!(bias.covered > 0.86 && bias.closed > 0.9, "{bias:?}");
}

/// Prints the table of docs/measuring.md: `cargo test --release -p llmlab-metrics --test search -- --ignored --nocapture`.
#[test]
#[ignore = "a thousand searches take minutes; some of them are checked every time"]
fn bias_over_many_seeds() {
    for (requests, most) in [(300, 1), (300, 3), (1000, 1), (1000, 3), (3000, 3)] {
        let bias = Bias::of(200, requests, most);
        println!(
            "{requests} requests, {most} trials: bias {:+.1} %, standard deviation {:.1} %, interval holds the edge in {:.0} %, has both ends in {:.0} %",
            bias.mean * 100.0,
            bias.deviation * 100.0,
            bias.covered * 100.0,
            bias.closed * 100.0
        );
        let holds = bias.mean.abs() < 0.04 && bias.covered > 0.9 && bias.closed > 0.9;
        assert!(holds, "{requests} requests, {most} trials: {bias:?}");
    }
}

#[test]
fn far_from_the_edge_one_trial_is_clear_and_above_it_is_cut_short() {
    let low = try_value(1, 15.0, 1000, 5);
    assert_eq!((low.trials.len(), low.decision.map(|d| (d.holds, d.clear))), (1, Some((true, true))));
    // Twice what the server can do: the queue only grows, but 51 late requests are seen first.
    let high = try_value(1, 100.0, 1000, 5);
    assert!(high.trials.iter().all(|trial| trial.stopped.is_some()), "{high:?}");
    assert!(high.decision.is_some_and(|decision| !decision.holds));
}

#[test]
fn a_late_first_token_is_no_miss_where_the_client_hangs_up_after_it() {
    let slo = Slo { ttft: vec![(50.0, MS)], ..Slo::default() };
    let mut watch = Watch::new(&slo, 10, 0, true, true);
    let mut ends = |index: u64, outcome: Outcome| {
        let ended = RequestRecord { outcome, ..record(index, 0, &[2]) };
        watch.first_token(index, Duration::from_millis(2));
        watch.finished(&ended);
        watch.reason().is_some()
    };
    assert!((0..10).all(|index| !ends(index, Outcome::Abandoned)));
    // The median of ten survives five misses.
    assert!((0..5).all(|index| !ends(index, Outcome::Ok)));
    assert!(ends(5, Outcome::Ok));
}
