//! A ratio taken apart into what the step log and the records say.
//!
//! Throughput is tokens a step times steps a second, and steps a second are the share of time in which steps run divided
//! by how long one takes. So a ratio of throughputs is exactly a product of three ratios.

use serde::Serialize;

use super::{Claim, ClaimMetric};
use crate::analysis::TrialAnalysis;
use crate::metric::Metric;
use crate::report::format::{duration, significant};

/// One trial, as far as claims need it. What servers without a step log do not tell is missing.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Side {
    pub output_tokens_per_s: Option<f64>,
    pub steps: Option<Steps>,
    pub ttft_mean_ns: Option<f64>,
    pub queue_mean_ns: Option<f64>,
    /// Prompt tokens that were not computed because another request had computed them, 0..=1.
    pub hit_rate: Option<f64>,
}

/// Of the steps in the window.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Steps {
    /// Output tokens that reached clients, for each step.
    pub tokens_per_step: f64,
    pub step_ns: f64,
    pub step_p99_ns: f64,
    /// Share of the time in which a step ran.
    pub busy: f64,
    /// Sequences that computed something, a step.
    pub sequences: f64,
    pub padding: f64,
    pub preemptions: u64,
    pub kv_waste: Option<f64>,
}

impl Side {
    pub fn of(trial: &TrialAnalysis) -> Side {
        let rates = trial.rates;
        let seconds = trial.window.map(|window| window.duration_s());
        let log = trial.engine.as_ref().filter(|log| log.steps > 0);
        let steps = log.zip(rates).zip(seconds).map(|((log, rates), seconds)| {
            let steps = log.steps as f64;
            let step_ns = log.busy_share * seconds * 1e9 / steps;
            Steps {
                tokens_per_step: rates.output_tokens_per_s * seconds / steps,
                step_ns,
                step_p99_ns: log.step_p99_ns.unwrap_or(step_ns),
                busy: log.busy_share,
                sequences: log.sequence_steps as f64 / steps,
                padding: log.padding_share,
                preemptions: log.preemptions,
                kv_waste: log.internal_fragmentation_mean,
            }
        });
        let hit_rate = log.zip(rates).zip(seconds).and_then(|((log, rates), seconds)| {
            let prompts = (rates.total_tokens_per_s - rates.output_tokens_per_s) * seconds;
            // What was thrown out is computed twice, and then the difference says nothing.
            (prompts > 0.0 && log.preemptions == 0)
                .then(|| (1.0 - log.prefill_tokens as f64 / prompts).clamp(0.0, 1.0))
        });
        Side {
            output_tokens_per_s: rates.map(|rates| rates.output_tokens_per_s),
            steps,
            ttft_mean_ns: trial.latency.ttft.as_ref().and_then(|ttft| ttft.mean_ns),
            queue_mean_ns: trial.latency.queue.as_ref().and_then(|queue| queue.mean_ns),
            hit_rate,
        }
    }
}

/// Both sides of a claim in one repeat.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Why {
    pub with: Side,
    pub without: Side,
}

/// A ratio of throughputs as a product: `tokens_per_step * busy / step_time`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Factors {
    pub tokens_per_step: f64,
    pub step_time: f64,
    pub busy: f64,
}

impl Factors {
    /// The throughput's ratio.
    pub fn product(&self) -> f64 {
        self.tokens_per_step * self.busy / self.step_time
    }
}

impl Why {
    pub fn factors(&self) -> Option<Factors> {
        let (with, without) = (self.with.steps?, self.without.steps?);
        let factors = Factors {
            tokens_per_step: with.tokens_per_step / without.tokens_per_step,
            step_time: with.step_ns / without.step_ns,
            busy: with.busy / without.busy,
        };
        let usable = |factor: f64| factor.is_finite() && factor > 0.0;
        [factors.tokens_per_step, factors.step_time, factors.busy].into_iter().all(usable).then_some(factors)
    }

    /// What the records say about a claim, most telling first.
    pub fn words(&self, claim: &Claim) -> String {
        let mut parts = Vec::new();
        match claim.metric {
            ClaimMetric::Of(Metric::OutputTokensPerS | Metric::RequestsPerS | Metric::Goodput) => {
                parts.extend(self.throughput());
                parts.extend(self.memory());
            }
            ClaimMetric::KvUsed => {
                parts.extend(self.memory());
                parts.extend(self.throughput());
            }
            ClaimMetric::Of(Metric::TtftP50 | Metric::TtftP95) => parts.extend(self.first_token()),
            ClaimMetric::Of(Metric::ItlP99 | Metric::TpotP99) | ClaimMetric::ItlMax => {
                parts.extend(self.tail());
                parts.extend(self.throughput_change());
            }
            ClaimMetric::Of(_) => parts.extend(self.token_by_token()),
        }
        parts.extend(self.hits());
        parts.extend(self.padding());
        match parts.is_empty() {
            true => "the server has no step log".into(),
            false => parts.join("; "),
        }
    }

    fn throughput(&self) -> Option<String> {
        let (with, without, ratio) = (self.with.steps?, self.without.steps?, self.factors()?);
        Some(format!(
            "{} the output tokens a step ({} against {}), each step {} as long ({} against {}), steps run {} of the time against {}",
            times(ratio.tokens_per_step),
            significant(with.tokens_per_step),
            significant(without.tokens_per_step),
            times(ratio.step_time),
            duration(with.step_ns),
            duration(without.step_ns),
            share(with.busy),
            share(without.busy)
        ))
    }

    fn memory(&self) -> Option<String> {
        let (with, without) = (self.with.steps?, self.without.steps?);
        let (a, b) = (with.kv_waste?, without.kv_waste?);
        ((a - b).abs() > 0.01).then(|| {
            let preempted = match (with.preemptions, without.preemptions) {
                (0, 0) => String::new(),
                (a, b) => format!(", {a} against {b} preemptions"),
            };
            format!(
                "{} against {} of the handed-out KV slots empty, {} against {} sequences a step{preempted}",
                share(a),
                share(b),
                significant(with.sequences),
                significant(without.sequences)
            )
        })
    }

    fn first_token(&self) -> Option<String> {
        let (with, without) = (self.with.ttft_mean_ns?, self.without.ttft_mean_ns?);
        let means = format!("mean TTFT {} against {}", duration(with), duration(without));
        let Some((a, b)) = self.with.queue_mean_ns.zip(self.without.queue_mean_ns) else {
            return Some(means);
        };
        Some(format!(
            "{means}; of it waiting {} against {}, the rest {} against {}",
            duration(a),
            duration(b),
            duration((with - a).max(0.0)),
            duration((without - b).max(0.0))
        ))
    }

    fn token_by_token(&self) -> Option<String> {
        let (with, without) = (self.with.steps?, self.without.steps?);
        let each = |steps: Steps| steps.tokens_per_step / steps.sequences.max(f64::MIN_POSITIVE);
        Some(format!(
            "{} against {} tokens a sequence and step, each step {} as long ({} against {}) with {} against {} sequences",
            significant(each(with)),
            significant(each(without)),
            times(with.step_ns / without.step_ns),
            duration(with.step_ns),
            duration(without.step_ns),
            significant(with.sequences),
            significant(without.sequences)
        ))
    }

    fn tail(&self) -> Option<String> {
        let (with, without) = (self.with.steps?, self.without.steps?);
        Some(format!(
            "1 % of steps take longer than {} against {}, a mean one {} against {}",
            duration(with.step_p99_ns),
            duration(without.step_p99_ns),
            duration(with.step_ns),
            duration(without.step_ns)
        ))
    }

    fn throughput_change(&self) -> Option<String> {
        let ratio = self.with.output_tokens_per_s? / self.without.output_tokens_per_s?;
        ratio.is_finite().then(|| format!("output tok/s {}", times(ratio)))
    }

    fn hits(&self) -> Option<String> {
        let (with, without) = (self.with.hit_rate?, self.without.hit_rate?);
        (with.max(without) > 0.01)
            .then(|| format!("{} against {} of prompt tokens were in the cache", share(with), share(without)))
    }

    fn padding(&self) -> Option<String> {
        let (with, without) = (self.with.steps?.padding, self.without.steps?.padding);
        (with.max(without) > 0.01)
            .then(|| format!("{} against {} of the computed rows were padding", share(with), share(without)))
    }
}

/// Why a measured ratio of throughputs is not the simulated one: the quotient of both, factor by factor.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Gap(pub Factors);

/// Gains this close, as the logarithm of their quotient, need no reason.
const ALIKE: f64 = 0.1;

impl Gap {
    pub fn between(measured: &Why, simulated: &Why) -> Option<Gap> {
        let (ours, theirs) = (measured.factors()?, simulated.factors()?);
        Some(Gap(Factors {
            tokens_per_step: ours.tokens_per_step / theirs.tokens_per_step,
            step_time: ours.step_time / theirs.step_time,
            busy: ours.busy / theirs.busy,
        }))
    }

    /// Which factor moves the ratio most, and all of them.
    pub fn words(&self) -> String {
        let Factors { tokens_per_step, step_time, busy } = self.0;
        let effects = [
            ("the tokens a step gains", tokens_per_step),
            ("how much longer a step takes", 1.0 / step_time),
            ("the time in which no step runs", busy),
        ];
        let most = effects.into_iter().max_by(|a, b| a.1.ln().abs().total_cmp(&b.1.ln().abs()));
        let verdict = match most {
            Some((name, _)) if self.0.product().ln().abs() > ALIKE => format!("most of it is {name}"),
            _ => "they agree".to_string(),
        };
        format!(
            "the gain in output tok/s measured is {} the simulated one = {} (tokens a step) x {} (step time) x {} (share of time in steps); {verdict}",
            times(self.0.product()),
            significant(tokens_per_step),
            significant(1.0 / step_time),
            significant(busy)
        )
    }
}

fn times(ratio: f64) -> String {
    format!("{}x", significant(ratio))
}

fn share(value: f64) -> String {
    format!("{:.0} %", value * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(tokens_per_step: f64, step_ms: f64, busy: f64) -> Side {
        let step_ns = step_ms * 1e6;
        Side {
            output_tokens_per_s: Some(tokens_per_step * busy / (step_ns / 1e9)),
            steps: Some(Steps {
                tokens_per_step,
                step_ns,
                step_p99_ns: step_ns,
                busy,
                sequences: tokens_per_step,
                padding: 0.0,
                preemptions: 0,
                kv_waste: None,
            }),
            ..Side::default()
        }
    }

    #[test]
    fn a_ratio_of_throughputs_is_the_product_of_its_factors() {
        let why = Why { with: side(10.0, 30.0, 0.9), without: side(2.0, 10.0, 0.6) };
        let factors = why.factors().unwrap();
        assert_eq!((factors.tokens_per_step, factors.step_time), (5.0, 3.0));
        let ratio = why.with.output_tokens_per_s.unwrap() / why.without.output_tokens_per_s.unwrap();
        assert!((factors.product() / ratio - 1.0).abs() < 1e-12, "{} {ratio}", factors.product());
        assert!((ratio - 2.5).abs() < 1e-12);
    }

    #[test]
    fn a_gap_is_the_quotient_of_two_ratios_and_names_what_matters_most() {
        let measured = Why { with: side(10.0, 30.0, 0.9), without: side(2.0, 10.0, 0.9) };
        let simulated = Why { with: side(10.0, 11.0, 0.9), without: side(2.0, 10.0, 0.9) };
        let gap = Gap::between(&measured, &simulated).unwrap();
        let quotient = measured.factors().unwrap().product() / simulated.factors().unwrap().product();
        assert!((gap.0.product() / quotient - 1.0).abs() < 1e-12);
        assert!(gap.words().ends_with("how much longer a step takes"), "{}", gap.words());
        assert!(Gap::between(&measured, &measured).unwrap().words().ends_with("they agree"));
        let blind = Why { with: Side::default(), without: Side::default() };
        assert_eq!(Gap::between(&measured, &blind), None);
    }
}
