//! AIPerf 0.13.0 (`aiperf/metrics/types`, `aiperf/metrics/{metric_dicts,derived_latency}.py`), with token counts from the server's
//! usage and without per-chunk usage, its default.

use super::sample::{Bench, Sample, Sorted};
use super::{Row, Rows, Statistic, ours_ms};
use crate::analysis::TrialAnalysis;

const STATISTICS: [(&str, Statistic); 6] = [
    ("avg", Statistic::Mean),
    ("min", Statistic::Min),
    ("max", Statistic::Max),
    ("p99", Statistic::P99),
    ("p90", Statistic::P90),
    ("p50", Statistic::P50),
];

pub fn rows(bench: &Bench, ours: &TrialAnalysis) -> Vec<Row> {
    let mut rows = Rows::default();
    let latency = &ours.latency;
    for (name, values, our_name, distribution, adjusted) in [
        ("Time to First Token (ms)", bench.each(Sample::ttft_s), Some("TTFT"), &latency.ttft, true),
        ("Time to Second Token (ms)", bench.some(|s| s.gaps_s().next()), None, &None, false),
        ("Request Latency (ms)", bench.each(Sample::latency_s), Some("E2E"), &latency.e2e_last, true),
        ("Inter Token Latency (ms)", bench.some(inter_token_s), Some("TPOT"), &latency.tpot, true),
        ("Inter Chunk Latency (ms)", bench.gaps_s(), Some("inter-chunk"), &latency.icl, false),
    ] {
        let values = Sorted::new(values);
        for (word, statistic) in STATISTICS {
            let (name, value) = (format!("{name} {word}"), values.linear(statistic).map(|s| s * 1e3));
            match our_name {
                Some(our_name) => rows.beside(name, value, our_name, ours_ms(distribution, statistic)),
                None => rows.put(name, value),
            }
        }
        if adjusted && bench.failures > 0 {
            for (word, statistic) in [("p99", Statistic::P99), ("p50", Statistic::P50)] {
                let share = statistic.share().unwrap_or_default();
                let value = values.nearest_with_failures(share, bench.failures).map(|s| s * 1e3);
                let ours = ours_ms(distribution, statistic);
                rows.beside(format!("adj_ {name} {word}"), value, our_name.unwrap_or_default(), ours);
            }
        }
    }
    let per_user = Sorted::new(bench.some(|s| inter_token_s(s).filter(|s| *s > 0.0).map(|s| 1.0 / s)));
    for (word, statistic) in STATISTICS {
        rows.put(
            format!("Output Token Throughput Per User (tokens/sec/user) {word}"),
            per_user.linear(statistic),
        );
    }
    // First start to last token of the successes.
    let start = bench.each(|s| s.start_s).into_iter().reduce(f64::min);
    let end = bench.each(|s| s.last_s).into_iter().reduce(f64::max);
    let duration_s = start.zip(end).map(|(start, end)| end - start).filter(|s| *s > 0.0);
    let per_second = |amount: f64| duration_s.map(|duration_s| amount / duration_s);
    let rates = ours.rates;
    rows.beside(
        "Output Token Throughput (tokens/sec)",
        per_second(bench.output_tokens()),
        "output tok/s",
        rates.map(|r| r.output_tokens_per_s),
    );
    rows.beside(
        "Request Throughput (requests/sec)",
        per_second(bench.successes.len() as f64),
        "requests/s",
        rates.map(|r| r.requests_per_s),
    );
    rows.beside(
        "Request Count (requests)",
        Some(bench.successes.len() as f64),
        "succeeded",
        Some(ours.requests.succeeded as f64),
    );
    rows.beside("Benchmark Duration (sec)", duration_s, "window", ours.window.map(|w| w.duration_s()));
    if bench.has_limits() {
        let good = bench.successes.iter().filter(|sample| is_good(bench, sample)).count() as f64;
        rows.beside(
            "Goodput (requests/sec)",
            per_second(good),
            "goodput",
            ours.goodput.map(|g| g.requests_per_s),
        );
    }
    rows.0
}

/// Of a whole request; missing below two tokens.
fn inter_token_s(sample: &Sample) -> Option<f64> {
    sample.per_later_token(sample.latency_s() - sample.ttft_s())
}

/// A metric that a request does not have fails it.
fn is_good(bench: &Bench, sample: &Sample) -> bool {
    let values = [Some(sample.ttft_s()), inter_token_s(sample), Some(sample.latency_s())];
    let kept = |(limit, value): (&Option<f64>, Option<f64>)| match limit {
        Some(limit) => value.is_some_and(|value| value <= *limit),
        None => true,
    };
    bench.slo.iter().zip(values).all(kept)
}
