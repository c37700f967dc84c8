//! GuideLLM 0.8.1 (`guidellm/schemas/base/{request_stats,statistics}.py`, `guidellm/benchmark/schemas/metrics.py`), over the whole
//! run: without its warm-up and cool-down.

use super::sample::{Bench, Sample, Weighted};
use super::{Row, Rows, Statistic, ours_ms};
use crate::analysis::TrialAnalysis;

const STATISTICS: [(&str, Statistic); 4] =
    [("mean", Statistic::Mean), ("p50", Statistic::P50), ("p95", Statistic::P95), ("p99", Statistic::P99)];

pub fn rows(bench: &Bench, ours: &TrialAnalysis) -> Vec<Row> {
    let mut rows = Rows::default();
    let (tokens_in, tokens_out) = (bench.input_tokens(), bench.output_tokens());
    let rates = ours.rates;
    rows.beside(
        "request_totals.successful",
        Some(bench.successes.len() as f64),
        "succeeded",
        Some(ours.requests.succeeded as f64),
    );
    rows.beside(
        "request_totals.errored",
        Some(bench.failures as f64),
        "failed",
        Some(ours.requests.failed as f64),
    );
    // Its rates are means of events over time; a mean over all time is the number over the time.
    rows.beside(
        "requests_per_second mean",
        bench.per_second(bench.successes.len() as f64),
        "requests/s",
        rates.map(|r| r.requests_per_s),
    );
    rows.beside(
        "output_tokens_per_second mean",
        bench.per_second(tokens_out),
        "output tok/s",
        rates.map(|r| r.output_tokens_per_s),
    );
    rows.beside(
        "tokens_per_second mean",
        bench.per_second(tokens_in + tokens_out),
        "total tok/s",
        rates.map(|r| r.total_tokens_per_s),
    );
    if bench.has_limits() {
        let verdicts: Vec<bool> = bench.successes.iter().filter_map(|s| conforms(bench, s)).collect();
        let good = verdicts.iter().filter(|good| **good).count() as f64;
        let judged = verdicts.len() as f64 + bench.failures as f64;
        let share = (judged > 0.0).then(|| good / judged);
        rows.beside("slo_attainment", share, "within SLO", ours.goodput.map(|g| g.share));
        let goodput = share.and_then(|_| bench.per_second(good));
        rows.beside("request_goodput mean", goodput, "goodput", ours.goodput.map(|g| g.requests_per_s));
    }
    let latency = &ours.latency;
    let each = |of: fn(&Sample) -> f64| bench.successes.iter().map(|s| (of(s), 1.0)).collect::<Vec<_>>();
    let per_token =
        |of: fn(&Sample) -> f64| bench.successes.iter().map(|s| (of(s), s.output_tokens)).collect::<Vec<_>>();
    // Requests in seconds, tokens in milliseconds, as it prints them.
    let s_of = |ms: Option<f64>| ms.map(|ms| ms / 1e3);
    let values = Weighted::new(each(|s| s.stream_s()));
    for (word, statistic) in STATISTICS {
        let ours = s_of(ours_ms(&latency.e2e_last, statistic));
        rows.beside(format!("request_latency (s) {word}"), values.get(statistic), "E2E", ours);
    }
    for (name, values, our_name, distribution) in [
        ("time_to_first_token_ms", each(|s| s.ttft_s()), Some("TTFT"), &latency.ttft),
        // Contains the time to the first token, so there is nothing of ours to put beside it.
        ("time_per_output_token_ms", per_token(|s| s.latency_s() / s.output_tokens), None, &None),
        ("inter_token_latency_ms", inter_token(bench), Some("ITL"), &latency.itl),
    ] {
        let values = Weighted::new(values);
        for (word, statistic) in STATISTICS {
            let (name, value) = (format!("{name} {word}"), values.get(statistic).map(|s| s * 1e3));
            match our_name {
                Some(our_name) => rows.beside(name, value, our_name, ours_ms(distribution, statistic)),
                None => rows.put(name, value),
            }
        }
    }
    rows.0
}

/// A mean of each request, with a weight of its tokens after the first.
fn inter_token(bench: &Bench) -> Vec<(f64, f64)> {
    let of = |s: &Sample| Some((inter_token_s(s)?, s.output_tokens - 1.0));
    bench.successes.iter().filter_map(of).collect()
}

fn inter_token_s(sample: &Sample) -> Option<f64> {
    sample.per_later_token(sample.last_s - sample.first_s)
}

/// Undetermined where a limit has nothing to judge.
fn conforms(bench: &Bench, sample: &Sample) -> Option<bool> {
    let values = [Some(sample.ttft_s()), inter_token_s(sample), Some(sample.stream_s())];
    let mut good = true;
    for (limit, value) in bench.slo.iter().zip(values) {
        if let Some(limit) = limit {
            good &= value? <= *limit;
        }
    }
    Some(good)
}
