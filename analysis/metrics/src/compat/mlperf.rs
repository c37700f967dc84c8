//! MLPerf LoadGen, Server scenario with token latencies (`loadgen/results.cc`).

use super::sample::{Bench, Sample, Sorted};
use super::{Row, Rows, Statistic, ours_ms};
use crate::analysis::TrialAnalysis;

const STATISTICS: [(&str, Statistic); 7] = [
    ("Min", Statistic::Min),
    ("Max", Statistic::Max),
    ("Mean", Statistic::Mean),
    ("50.00 percentile", Statistic::P50),
    ("90.00 percentile", Statistic::P90),
    ("95.00 percentile", Statistic::P95),
    ("99.00 percentile", Statistic::P99),
];

pub fn rows(bench: &Bench, ours: &TrialAnalysis) -> Vec<Row> {
    let mut rows = Rows::default();
    // Its test begins when the first query is due and its rates end with the answer to the query that was scheduled last.
    let last = bench.successes.iter().max_by_key(|s| (s.record.scheduled_ns, s.record.index));
    let since_begin = |at_s: Option<f64>| at_s.map(|at_s| at_s - bench.begin_s).filter(|s| *s > 0.0);
    let done_s = since_begin(last.map(|s| s.done_s));
    let scheduled_s = since_begin(last.map(due_s));
    // One less than samples: the last one is the open end of the time.
    let intervals = bench.successes.len().saturating_sub(1) as f64;
    let rates = ours.rates;
    rows.beside(
        "Completed samples per second",
        done_s.map(|s| intervals / s),
        "requests/s",
        rates.map(|r| r.requests_per_s),
    );
    rows.beside(
        "Completed tokens per second",
        done_s.map(|s| bench.output_tokens() / s),
        "output tok/s",
        rates.map(|r| r.output_tokens_per_s),
    );
    rows.put("Scheduled samples per second", scheduled_s.map(|s| intervals / s));
    let latency = &ours.latency;
    for (name, values, our_name, distribution) in [
        ("latency (ns)", bench.each(|s| s.done_s - due_s(s)), "E2E", &latency.e2e_last),
        ("First Token latency (ns)", bench.each(|s| s.first_s - due_s(s)), "TTFT", &latency.ttft),
        ("Time to Output Token (ns)", bench.some(per_token_s), "TPOT", &latency.tpot),
    ] {
        let values = Sorted::new(values.into_iter().map(|s| (s * 1e9).round()).collect());
        for (word, statistic) in STATISTICS {
            let ours_ns = ours_ms(distribution, statistic).map(|ms| ms * 1e6);
            // Whole nanoseconds, cut.
            let value = values.at_rank(statistic).map(f64::floor);
            rows.beside(format!("{word} {name}"), value, our_name, ours_ns);
        }
    }
    rows.0
}

fn due_s(sample: &Sample) -> f64 {
    sample.record.scheduled_ns as f64 / 1e9
}

/// Of the whole latency after the first token, however many tokens came first.
fn per_token_s(sample: &Sample) -> Option<f64> {
    sample.per_later_token(sample.done_s - sample.first_s)
}
