//! `vllm bench serve` (vLLM 0.33.0, `vllm/benchmarks/serve.py` and `lib/endpoint_request_func.py`).

use super::sample::{Bench, Sample, Sorted, peaks};
use super::{Row, Rows, Statistic, ours_ms};
use crate::analysis::TrialAnalysis;

pub fn rows(bench: &Bench, ours: &TrialAnalysis) -> Vec<Row> {
    let mut rows = Rows::default();
    let (tokens_in, tokens_out) = (bench.input_tokens(), bench.output_tokens());
    let rates = ours.rates;
    rows.beside(
        "Successful requests",
        Some(bench.successes.len() as f64),
        "succeeded",
        Some(ours.requests.succeeded as f64),
    );
    rows.beside("Failed requests", Some(bench.failures as f64), "failed", Some(ours.requests.failed as f64));
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
    if bench.has_limits() {
        let good = bench.successes.iter().filter(|sample| is_good(bench, sample)).count();
        let goodput = ours.goodput.map(|g| g.requests_per_s);
        rows.beside("Request goodput (req/s)", bench.per_second(good as f64), "goodput", goodput);
    }
    rows.beside(
        "Output token throughput (tok/s)",
        bench.per_second(tokens_out),
        "output tok/s",
        rates.map(|r| r.output_tokens_per_s),
    );
    let peaks = peaks(&bench.successes, Sample::latency_end);
    rows.put("Peak output token throughput (tok/s)", peaks.map(|(events, _)| events));
    rows.put("Peak concurrent requests", peaks.map(|(_, requests)| requests));
    rows.beside(
        "Total token throughput (tok/s)",
        bench.per_second(tokens_in + tokens_out),
        "total tok/s",
        rates.map(|r| r.total_tokens_per_s),
    );
    let latency = &ours.latency;
    for (name, values, our_name, distribution) in [
        ("TTFT", bench.each(Sample::ttft_s), "TTFT", &latency.ttft),
        ("TPOT", bench.some(tpot_s), "TPOT", &latency.tpot),
        ("ITL", bench.gaps_s(), "ITL", &latency.itl),
        ("E2EL", bench.each(Sample::latency_s), "E2E", &latency.e2e_last),
    ] {
        let values = Sorted::new(values);
        for (word, statistic) in
            [("Mean", Statistic::Mean), ("Median", Statistic::P50), ("P99", Statistic::P99)]
        {
            let value = values.linear(statistic).map(|s| s * 1e3);
            rows.beside(format!("{word} {name} (ms)"), value, our_name, ours_ms(distribution, statistic));
        }
    }
    rows.0
}

impl Sample<'_> {
    /// The request is over with its last token; usage and terminator come after the end.
    pub(super) fn latency_end(&self) -> f64 {
        self.last_s
    }
}

fn tpot_s(sample: &Sample) -> Option<f64> {
    sample.per_later_token(sample.latency_s() - sample.ttft_s())
}

/// A single token counts as 0 per token, so it keeps every limit on TPOT.
fn is_good(bench: &Bench, sample: &Sample) -> bool {
    let [ttft, tpot, e2e] = bench.slo;
    let keeps = |limit: Option<f64>, value: f64| limit.is_none_or(|limit| value <= limit);
    keeps(ttft, sample.ttft_s())
        && keeps(tpot, tpot_s(sample).unwrap_or(0.0))
        && keeps(e2e, sample.latency_s())
}
