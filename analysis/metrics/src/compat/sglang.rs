//! `python -m sglang.bench_serving` on the OpenAI routes (SGLang 0.5.23, `sglang/benchmark/serving.py` and `goodput.py`).

use llmlab_results::record::CountSource;

use super::sample::{Bench, Sample, Sorted, peaks};
use super::{Row, Rows, Statistic, ours_ms};
use crate::analysis::TrialAnalysis;

const STATISTICS: [(&str, Statistic); 5] = [
    ("Mean", Statistic::Mean),
    ("Median", Statistic::P50),
    ("P90", Statistic::P90),
    ("P95", Statistic::P95),
    ("P99", Statistic::P99),
];

pub fn rows(bench: &Bench, ours: &TrialAnalysis) -> Vec<Row> {
    let mut rows = Rows::default();
    let tokens_out: f64 = bench.each(output_tokens).iter().sum();
    let tokens_in: f64 = bench.each(|sample| f64::from(sample.record.prompt_tokens_requested)).iter().sum();
    let rates = ours.rates;
    rows.beside(
        "Successful requests",
        Some(bench.successes.len() as f64),
        "succeeded",
        Some(ours.requests.succeeded as f64),
    );
    rows.beside(
        "Benchmark duration (s)",
        Some(bench.duration_s),
        "window",
        ours.window.map(|w| w.duration_s()),
    );
    rows.put("Total input tokens", Some(tokens_in));
    rows.put("Total generated tokens", Some(tokens_out));
    rows.beside(
        "Request throughput (req/s)",
        bench.per_second(bench.successes.len() as f64),
        "requests/s",
        rates.map(|r| r.requests_per_s),
    );
    rows.put("Input token throughput (tok/s)", bench.per_second(tokens_in));
    rows.beside(
        "Output token throughput (tok/s)",
        bench.per_second(tokens_out),
        "output tok/s",
        rates.map(|r| r.output_tokens_per_s),
    );
    let peaks = peaks(&bench.successes, |sample| sample.done_s);
    rows.put("Peak output token throughput (tok/s)", peaks.map(|(events, _)| events));
    rows.put("Peak concurrent requests", peaks.map(|(_, requests)| requests));
    rows.beside(
        "Total token throughput (tok/s)",
        bench.per_second(tokens_in + tokens_out),
        "total tok/s",
        rates.map(|r| r.total_tokens_per_s),
    );
    let in_flight_s: f64 = bench.each(Sample::stream_s).iter().sum();
    rows.put("Concurrency", bench.per_second(in_flight_s));
    if bench.has_limits() {
        let good = bench.successes.iter().filter(|sample| is_good(bench, sample)).count() as f64;
        let sent = bench.successes.len() as f64 + bench.failures as f64;
        let goodput = ours.goodput;
        rows.beside(
            "Request goodput (req/s)",
            bench.per_second(good),
            "goodput",
            goodput.map(|g| g.requests_per_s),
        );
        let share = (sent > 0.0).then(|| good / sent * 100.0);
        rows.beside("SLO attainment (%)", share, "within SLO", goodput.map(|g| g.share * 100.0));
    }
    let latency = &ours.latency;
    let gaps = bench.gaps_s();
    for (name, values, our_name, distribution) in [
        ("E2E Latency", bench.each(Sample::stream_s), "E2E", &latency.e2e_last),
        ("TTFT", bench.each(Sample::ttft_s), "TTFT", &latency.ttft),
        ("TPOT", bench.some(tpot_s), "TPOT", &latency.tpot),
        ("ITL", gaps, "ITL", &latency.itl),
    ] {
        let values = Sorted::new(values);
        let of_itl = (name == "ITL").then_some(("Max", Statistic::Max));
        for (word, statistic) in STATISTICS.into_iter().chain(of_itl) {
            let value = values.linear(statistic).map(|s| s * 1e3);
            rows.beside(format!("{word} {name} (ms)"), value, our_name, ours_ms(distribution, statistic));
        }
    }
    rows.0
}

/// The server's count, or what was asked for where it sent none.
fn output_tokens(sample: &Sample) -> f64 {
    match sample.record.output_tokens_source {
        CountSource::ChunkCount => f64::from(sample.record.output_tokens_requested),
        _ => sample.output_tokens,
    }
}

/// Its latency lasts to the terminator, so that this holds the end of the stream too.
fn tpot_s(sample: &Sample) -> Option<f64> {
    let tokens = output_tokens(sample);
    (tokens > 1.0).then(|| (sample.stream_s() - sample.ttft_s()) / (tokens - 1.0))
}

fn is_good(bench: &Bench, sample: &Sample) -> bool {
    let [ttft, tpot, e2e] = bench.slo;
    let keeps = |limit: Option<f64>, value: f64| limit.is_none_or(|limit| value <= limit);
    keeps(ttft, sample.ttft_s())
        && keeps(tpot, tpot_s(sample).unwrap_or(0.0))
        && keeps(e2e, sample.stream_s())
}
