//! From the steps that users took to the figures of each step.

use llmlab_results::journey::{Percentiles, StepFacts};
use llmlab_results::record::RequestRecord;

use crate::frame::{e2e_last_ns, tpot_ns, ttft_ns};
use crate::quantile::{quantile_with_failures, sort};

/// All that happened to one step.
#[derive(Debug, Clone, Default)]
pub struct StepTimes {
    pub failures: u64,
    pub skipped: u64,
    /// Why the first failure failed.
    pub example: Option<String>,
    e2e_ns: Vec<f64>,
    ttft_ns: Vec<f64>,
    tpot_ns: Vec<f64>,
}

impl StepTimes {
    pub fn page(&mut self, elapsed_ns: u64) {
        self.e2e_ns.push(elapsed_ns as f64);
    }

    /// By the definitions of every other ask: `definitions.md`.
    pub fn ask(&mut self, record: &RequestRecord) {
        self.e2e_ns.extend(e2e_last_ns(record));
        self.ttft_ns.extend(ttft_ns(record));
        self.tpot_ns.extend(tpot_ns(record));
    }

    pub fn failed(&mut self, words: &str) {
        self.failures += 1;
        self.example.get_or_insert_with(|| words.to_owned());
    }

    /// `step` with these figures; `is_ask` decides whether it has those of a stream.
    pub fn fill(mut self, step: &mut StepFacts, is_ask: bool) {
        step.count = self.e2e_ns.len() as u64 + self.failures;
        step.failures = self.failures;
        step.skipped = self.skipped;
        step.example = self.example;
        step.e2e = percentiles(&mut self.e2e_ns, self.failures);
        if is_ask {
            step.ttft = Some(percentiles(&mut self.ttft_ns, self.failures));
            // An answer of one token has none, so failures cannot be set against a known number.
            step.tpot = Some(percentiles(&mut self.tpot_ns, 0));
        }
    }
}

fn percentiles(values: &mut [f64], failures: u64) -> Percentiles {
    sort(values);
    let at = |q| quantile_with_failures(values, failures, q);
    Percentiles { p50_ns: at(0.5), p95_ns: at(0.95), p99_ns: at(0.99) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_slower_than_everything() {
        let mut times = StepTimes::default();
        (1..=9).for_each(|n| times.page(n * 100));
        times.failed("HTTP 500");
        times.failed("HTTP 503");
        times.skipped += 1;
        let mut step = StepFacts::default();
        times.fill(&mut step, false);
        assert_eq!((step.count, step.failures, step.skipped), (11, 2, 1));
        assert_eq!(step.e2e, Percentiles { p50_ns: Some(600.0), p95_ns: None, p99_ns: None });
        assert_eq!((step.ttft, step.example.as_deref()), (None, Some("HTTP 500")));
    }
}
