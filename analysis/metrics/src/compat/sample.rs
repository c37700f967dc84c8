//! A request as a benchmark client of another tool would have seen it, and the arithmetic that several tools share.

use llmlab_results::manifest::Slo;
use llmlab_results::record::{CountSource, Outcome, RequestRecord};

use super::{Statistic, Tool};
use crate::quantile;

/// Seconds since the start of the trial, as these tools keep time.
#[derive(Debug, Clone)]
pub struct Sample<'r> {
    pub record: &'r RequestRecord,
    /// When the tool would have called its HTTP client: before a connection is opened, not when the schedule said so.
    pub start_s: f64,
    pub first_s: f64,
    pub last_s: f64,
    /// End of the stream, the terminator included.
    pub done_s: f64,
    pub output_tokens: f64,
}

impl Sample<'_> {
    /// `None` for a request that brought no token.
    fn of(record: &RequestRecord) -> Option<Sample<'_>> {
        let start_ns = record.sent_ns?.saturating_sub(record.connect_ns.unwrap_or(0));
        let (first_ns, last_ns) = (record.first_token_ns()?, record.last_token_ns()?);
        let seconds = |ns: u64| ns as f64 / 1e9;
        Some(Sample {
            record,
            start_s: seconds(start_ns),
            first_s: seconds(first_ns),
            last_s: seconds(last_ns),
            done_s: seconds(record.done_ns.unwrap_or(last_ns)),
            output_tokens: f64::from(record.output_tokens),
        })
    }

    pub fn ttft_s(&self) -> f64 {
        self.first_s - self.start_s
    }

    /// To the last token.
    pub fn latency_s(&self) -> f64 {
        self.last_s - self.start_s
    }

    /// To the end of the stream.
    pub fn stream_s(&self) -> f64 {
        self.done_s - self.start_s
    }

    /// One per event after the first.
    pub fn gaps_s(&self) -> impl Iterator<Item = f64> + '_ {
        self.record.events.windows(2).map(|pair| (pair[1].at_ns as f64 - pair[0].at_ns as f64) / 1e9)
    }

    /// Per token after the first, however many the first event held; `None` for a single token.
    pub fn per_later_token(&self, span_s: f64) -> Option<f64> {
        (self.output_tokens > 1.0).then(|| span_s / (self.output_tokens - 1.0))
    }
}

/// The measured requests of a trial: a tool's warm-up is not in its figures either.
pub struct Bench<'r> {
    /// Brought tokens and ended properly; an answer of another length than asked is a success to all these tools, and so is a
    /// stream without its terminator.
    pub successes: Vec<Sample<'r>>,
    pub failures: u64,
    /// From the first measured request's time to the end of the last one.
    pub duration_s: f64,
    /// When the first measured request was due.
    pub begin_s: f64,
    /// What a request must keep, nanoseconds: time to first token, per token, to the last token.
    pub slo: [Option<f64>; 3],
    unterminated: u64,
    estimated: u64,
    resent: u64,
}

impl<'r> Bench<'r> {
    pub fn new(records: &'r [RequestRecord], warmup: u64, slo: &Slo) -> Bench<'r> {
        let measured: Vec<&RequestRecord> =
            records.iter().filter(|r| r.index >= warmup && r.outcome.is_judged()).collect();
        let ended = |r: &RequestRecord| r.outcome.is_success() || r.outcome == Outcome::NoTerminator;
        let mut successes: Vec<Sample> =
            measured.iter().filter(|r| ended(r)).filter_map(|r| Sample::of(r)).collect();
        successes.sort_by_key(|sample| sample.record.index);
        let begin_ns = measured.iter().map(|r| r.scheduled_ns).min().unwrap_or(0);
        let end_ns = measured.iter().filter_map(|r| crate::frame::completed_ns(r)).max().unwrap_or(begin_ns);
        let count = |of: &dyn Fn(&RequestRecord) -> bool| {
            successes.iter().filter(|sample| of(sample.record)).count() as u64
        };
        // As in our own goodput: a request is held to the limit of the highest percentile.
        let limit = |limits: &[(f64, u64)]| {
            limits.iter().max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, limit_ns)| *limit_ns as f64 / 1e9)
        };
        Bench {
            failures: (measured.len() - successes.len()) as u64,
            duration_s: end_ns.saturating_sub(begin_ns) as f64 / 1e9,
            begin_s: begin_ns as f64 / 1e9,
            slo: [limit(&slo.ttft), limit(&slo.tpot), limit(&slo.e2e)],
            unterminated: count(&|r| r.outcome == Outcome::NoTerminator),
            estimated: count(&|r| r.output_tokens_source == CountSource::ChunkCount),
            resent: count(&|r| r.resends > 0),
            successes,
        }
    }

    pub fn has_limits(&self) -> bool {
        self.slo.iter().any(Option::is_some)
    }

    /// Per second of the benchmark; `None` without any time.
    pub fn per_second(&self, amount: f64) -> Option<f64> {
        (self.duration_s > 0.0).then(|| amount / self.duration_s)
    }

    pub fn each(&self, of: impl Fn(&Sample<'r>) -> f64) -> Vec<f64> {
        self.successes.iter().map(of).collect()
    }

    /// Where the tool leaves some out.
    pub fn some(&self, of: impl Fn(&Sample<'r>) -> Option<f64>) -> Vec<f64> {
        self.successes.iter().filter_map(of).collect()
    }

    /// The gaps of all requests in one pool.
    pub fn gaps_s(&self) -> Vec<f64> {
        self.successes.iter().flat_map(Sample::gaps_s).collect()
    }

    pub fn output_tokens(&self) -> f64 {
        self.successes.iter().map(|sample| sample.output_tokens).sum()
    }

    /// As the server counted them.
    pub fn input_tokens(&self) -> f64 {
        self.successes.iter().map(|sample| f64::from(sample.record.prompt_tokens)).sum()
    }

    pub fn notes(&self, tool: Tool) -> Vec<String> {
        let mut notes = Vec::new();
        if self.failures > 0 {
            notes.push(match tool {
                Tool::Mlperf => format!(
                    "{} requests failed. LoadGen knows no failed sample: it waits for each, and a run that lacks one is not valid.",
                    self.failures
                ),
                Tool::Aiperf => {
                    format!("{} requests failed: in the adj_ percentiles only.", self.failures)
                }
                Tool::Vllm | Tool::Sglang | Tool::Guidellm => {
                    format!("{} requests failed and are in no percentile of this tool.", self.failures)
                }
            });
        }
        if self.unterminated > 0 {
            notes.push(format!(
                "{} streams ended without their terminator: failures to us, successes to this tool.",
                self.unterminated
            ));
        }
        if self.estimated > 0 {
            notes.push(format!(
                "{} requests came without token counts: we took one per event, the tool would use its tokenizer.",
                self.estimated
            ));
        }
        if self.resent > 0 {
            notes.push(format!(
                "{} requests were sent again on a fresh connection, which this tool may count as failures.",
                self.resent
            ));
        }
        notes
    }
}

/// Sorted values, in the unit they came in.
pub struct Sorted(Vec<f64>);

impl Sorted {
    pub fn new(mut values: Vec<f64>) -> Sorted {
        quantile::sort(&mut values);
        Sorted(values)
    }

    /// Percentiles between order statistics, as numpy has them by default.
    pub fn linear(&self, statistic: Statistic) -> Option<f64> {
        match statistic {
            Statistic::Mean => quantile::mean(&self.0),
            Statistic::Min => self.0.first().copied(),
            Statistic::Max => self.0.last().copied(),
            percentile => quantile::quantile(&self.0, percentile.share()?),
        }
    }

    /// The sample at position `count * share`, counted from 0: no interpolation.
    pub fn at_rank(&self, statistic: Statistic) -> Option<f64> {
        match statistic.share() {
            None => self.linear(statistic),
            Some(share) => self.0.get((self.0.len() as f64 * share) as usize).copied(),
        }
    }

    /// The nearest sample with failures as infinite ones behind; `None` where that is infinite. Halves go to the even rank.
    pub fn nearest_with_failures(&self, share: f64, failures: u64) -> Option<f64> {
        let last = (self.0.len() as f64 + failures as f64 - 1.0).max(0.0);
        self.0.get((share * last).round_ties_even() as usize).copied()
    }
}

/// Values with weights.
pub struct Weighted(Vec<(f64, f64)>);

impl Weighted {
    /// Without those that weigh nothing.
    pub fn new(mut values: Vec<(f64, f64)>) -> Weighted {
        values.retain(|(_, weight)| *weight > 0.0);
        values.sort_by(|a, b| a.0.total_cmp(&b.0));
        Weighted(values)
    }

    /// Percentile: the first value at which the weights so far reach the share.
    pub fn get(&self, statistic: Statistic) -> Option<f64> {
        let total: f64 = self.0.iter().map(|(_, weight)| weight).sum();
        match statistic.share() {
            None if self.0.is_empty() => None,
            None if statistic == Statistic::Mean => {
                Some(self.0.iter().map(|(value, weight)| value * weight).sum::<f64>() / total)
            }
            None => None,
            Some(share) => {
                let mut so_far = 0.0;
                let reached = self.0.iter().find(|(_, weight)| {
                    so_far += weight;
                    so_far / total >= share
                });
                reached.or(self.0.last()).map(|(value, _)| *value)
            }
        }
    }
}

/// Most events of any second, counted from the first start, and most requests that touch one second.
pub fn peaks<'r>(samples: &[Sample<'r>], end_s: impl Fn(&Sample<'r>) -> f64) -> Option<(f64, f64)> {
    let origin = samples.iter().map(|sample| sample.start_s).reduce(f64::min)?;
    let mut events = std::collections::BTreeMap::<u64, u64>::new();
    // Requests that begin and that are over, by second: their running sum is how many touch a second.
    let mut changes = std::collections::BTreeMap::<u64, i64>::new();
    let second = |at_s: f64| (at_s - origin).max(0.0) as u64;
    for sample in samples {
        for event in &sample.record.events {
            *events.entry(second(event.at_ns as f64 / 1e9)).or_default() += 1;
        }
        *changes.entry(second(sample.start_s)).or_default() += 1;
        *changes.entry(second(end_s(sample)) + 1).or_default() -= 1;
    }
    let mut running = 0;
    let concurrent = changes.values().map(|change| {
        running += change;
        running
    });
    let most_running = concurrent.max().unwrap_or(0);
    Some((events.values().copied().max().unwrap_or(0) as f64, most_running as f64))
}
