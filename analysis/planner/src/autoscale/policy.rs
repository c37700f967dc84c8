//! A policy of a plan file with its targets filled in, and the controller that follows it.

use std::time::Duration;

use llmlab_core::request::At;
use llmlab_scenarios::autoscale::{ForecastRule, ScalerMetric, ScalerRule, ScalerSpec};
use llmlab_sim::cluster::autoscale::{
    Forecast, HoltWinters, Hpa, HpaConfig, Keda, KedaConfig, Metric, Predictive, PredictiveConfig, Rules,
    Signal, Target,
};
use llmlab_sim::cluster::{Controller, Scraped};

use super::AutoscaleError;
use super::day::{Day, SECONDS};
use crate::plan::words;

/// Requests that may wait for each replica: the threshold of vLLM's production stack.
const WAITING: f64 = 5.0;
/// Of what a replica takes at its capacity: room for what comes while another one starts.
const FULL: f64 = 0.7;
/// KV use, below the 0.8 at which the Workload Variant Autoscaler of llm-d calls a replica saturated.
const KV_SHARE: f64 = 0.7;
/// Of the TTFT limit.
const OF_LIMIT: f64 = 0.5;
/// Parts of the day before that a forecast keeps.
const BINS: usize = 144;
const HOLT: Forecast = Forecast::Holt { alpha: 0.3, beta: 0.05 };
/// Level, trend and season, for each of [`BINS`].
const WINTERS: [f64; 3] = [0.3, 0.05, 0.2];
/// A trigger with this target asks for one replica, whatever its value.
pub const NEVER_FULL: f64 = 1e12;
const LOOK: Duration = Duration::from_secs(15);

/// What targets are made of. Rates are those of the replay.
pub struct Facts<'a> {
    pub day: &'a Day,
    /// The day without its surge, which nobody saw coming.
    pub expected: &'a Day,
    /// Requests that one replica takes within the SLO, a second.
    pub replica_rps: f64,
    /// In a replica at that rate.
    pub in_flight: f64,
    pub tokens_per_request: f64,
    pub ttft_limit_s: Option<f64>,
    pub cold_start: Duration,
    pub min_replicas: u32,
    pub max_replicas: u32,
    /// Replicas of the service that one of the replay stands for; a plan file counts those of the service.
    pub factor: u32,
}

impl Facts<'_> {
    pub fn replicas(&self, rate_rps: f64) -> u32 {
        // A quotient a hair above a whole number is that number; the cast saturates.
        ((rate_rps / self.replica_rps - 1e-9).ceil().max(0.0) as u32)
            .clamp(self.min_replicas, self.max_replicas)
    }
}

/// An activation is compared with the whole service's metric, of which the replay has a part where it is a sum.
pub fn activation_scale(metric: ScalerMetric, factor: u32) -> f64 {
    match metric {
        ScalerMetric::Waiting | ScalerMetric::InFlight | ScalerMetric::Tokens => f64::from(factor),
        ScalerMetric::Kv | ScalerMetric::Ttft => 1.0,
    }
}

/// A policy that can be replayed.
#[derive(Debug, Clone, PartialEq)]
pub struct Scaler {
    pub name: String,
    pub rule: Rule,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Rule {
    Static { replicas: u32 },
    Hpa { metric: ScalerMetric, config: HpaConfig },
    Keda { metric: ScalerMetric, config: KedaConfig },
    Predictive { forecast: ForecastRule, config: PredictiveConfig },
}

impl Scaler {
    pub fn of(spec: &ScalerSpec, facts: &Facts<'_>) -> Result<Scaler, AutoscaleError> {
        let (least, most) = (facts.min_replicas, facts.max_replicas);
        let rule = match &spec.rule {
            ScalerRule::Static { replicas } => Rule::Static {
                replicas: replicas
                    .map(|replicas| replicas.div_ceil(facts.factor))
                    .unwrap_or_else(|| facts.replicas(facts.expected.peak_rps()))
                    .min(most),
            },
            ScalerRule::Hpa { metric, target, scale_up_window, scale_down_window } => {
                let target = target_of(&spec.name, *metric, *target, facts)?;
                // A mean over pods is what the HPA reads itself.
                let target = match metric {
                    ScalerMetric::Kv => Target::Pods(target),
                    _ => external(*metric, target),
                };
                let metrics = vec![Metric { signal: signal(*metric), target }];
                let standard = HpaConfig::new(least, most, metrics);
                let rules = |window: Duration, rules: &Rules| Rules {
                    stabilization_window: window,
                    policies: rules.policies.clone(),
                };
                let config = HpaConfig {
                    scale_up: rules(*scale_up_window, &standard.scale_up),
                    scale_down: rules(*scale_down_window, &standard.scale_down),
                    ..standard
                };
                Rule::Hpa { metric: *metric, config }
            }
            ScalerRule::Keda {
                metric,
                target,
                min_replicas,
                activation,
                polling_interval,
                cooldown_period,
            } => {
                let target = target_of(&spec.name, *metric, *target, facts)?;
                let scaled = Metric { signal: signal(*metric), target: external(*metric, target) };
                let mut triggers = vec![(scaled, activation / activation_scale(*metric, facts.factor))];
                if *min_replicas == 0 {
                    // Without it a service that answers at once, so that nothing waits, would be sent to zero.
                    let target = Target::AverageValue(NEVER_FULL);
                    triggers.push((Metric { signal: Signal::RequestsPerS, target }, 0.0));
                }
                let config = KedaConfig {
                    min_replica_count: min_replicas.div_ceil(facts.factor).min(most),
                    max_replica_count: most,
                    polling_interval: *polling_interval,
                    cooldown_period: *cooldown_period,
                    ..KedaConfig::new(triggers)
                };
                Rule::Keda { metric: *metric, config }
            }
            ScalerRule::Predictive { forecast, headroom, hold } => {
                let bin = Duration::from_secs_f64(SECONDS / BINS as f64);
                let config = PredictiveConfig {
                    pool: 0,
                    min_replicas: least,
                    max_replicas: most,
                    forecast: match forecast {
                        ForecastRule::Holt => HOLT,
                        ForecastRule::DayBefore => {
                            Forecast::PeriodBefore { bin, rates_rps: facts.expected.bins(BINS) }
                        }
                        ForecastRule::HoltWinters => {
                            let [alpha, beta, gamma] = WINTERS;
                            let rates_rps = facts.expected.bins(BINS);
                            Forecast::HoltWinters(HoltWinters { bin, rates_rps, alpha, beta, gamma })
                        }
                    },
                    requests_per_s_per_replica: facts.replica_rps,
                    headroom: *headroom,
                    lead: facts.cold_start,
                    hold: *hold,
                    interval: LOOK,
                };
                Rule::Predictive { forecast: *forecast, config }
            }
        };
        Ok(Scaler { name: spec.name.clone(), rule })
    }

    /// Ready at midnight: what the traffic takes then.
    pub fn first_replicas(&self, facts: &Facts<'_>) -> u32 {
        match &self.rule {
            Rule::Static { replicas } => *replicas,
            _ => facts.replicas(facts.day.rate(0.0)),
        }
    }

    pub fn controller(&self) -> Box<dyn Controller + Send> {
        match &self.rule {
            Rule::Static { .. } => Box::new(Unchanged),
            Rule::Hpa { config, .. } => Box::new(Hpa::new(config.clone())),
            Rule::Keda { config, .. } => Box::new(Keda::new(config.clone())),
            Rule::Predictive { config, .. } => Box::new(Predictive::new(config.clone())),
        }
    }

    /// Its parameters, with the service's replicas: each of the replay stands for `factor`.
    pub fn words(&self, factor: u32) -> String {
        let seconds = |time: Duration| words::seconds(time.as_secs_f64());
        match &self.rule {
            Rule::Static { replicas } => format!("{} replicas all day", replicas.saturating_mul(factor)),
            Rule::Hpa { metric, config } => format!(
                "{}; window up {}, down {}",
                target_words(*metric, &config.metrics),
                seconds(config.scale_up.stabilization_window),
                seconds(config.scale_down.stabilization_window)
            ),
            Rule::Keda { metric, config } => {
                let metrics: Vec<Metric> = config.triggers.iter().map(|(metric, _)| *metric).collect();
                let zero = match config.min_replica_count {
                    0 => format!("; to zero after {}", seconds(config.cooldown_period)),
                    _ => String::new(),
                };
                format!(
                    "{}; polled every {}{zero}",
                    target_words(*metric, &metrics),
                    seconds(config.polling_interval)
                )
            }
            Rule::Predictive { forecast, config } => format!(
                "{}, {} ahead, {} on top",
                match forecast {
                    ForecastRule::DayBefore => "the day before",
                    ForecastRule::Holt => "level and trend (Holt)",
                    ForecastRule::HoltWinters => "level, trend and hours (Holt-Winters)",
                },
                seconds(config.lead),
                words::percent(config.headroom)
            ),
        }
    }
}

fn signal(metric: ScalerMetric) -> Signal {
    match metric {
        ScalerMetric::Waiting => Signal::WaitingRequests,
        ScalerMetric::InFlight => Signal::RequestsInFlight,
        ScalerMetric::Kv => Signal::KvUsage,
        ScalerMetric::Tokens => Signal::TokensPerS,
        ScalerMetric::Ttft => Signal::TtftP95,
    }
}

/// As an external metric: sums are divided among replicas, shares and times are not.
fn external(metric: ScalerMetric, target: f64) -> Target {
    match metric {
        ScalerMetric::Waiting | ScalerMetric::InFlight | ScalerMetric::Tokens => Target::AverageValue(target),
        ScalerMetric::Kv | ScalerMetric::Ttft => Target::Value(target),
    }
}

fn target_of(
    name: &str,
    metric: ScalerMetric,
    written: Option<f64>,
    facts: &Facts<'_>,
) -> Result<f64, AutoscaleError> {
    if let Some(target) = written {
        return Ok(target);
    }
    Ok(match metric {
        ScalerMetric::Waiting => WAITING,
        ScalerMetric::InFlight => (FULL * facts.in_flight).max(1.0),
        ScalerMetric::Kv => KV_SHARE,
        ScalerMetric::Tokens => FULL * facts.replica_rps * facts.tokens_per_request,
        ScalerMetric::Ttft => {
            let limit = facts.ttft_limit_s.ok_or_else(|| {
                AutoscaleError::Input(format!(
                    "policy \"{name}\" looks at TTFT and [slo] has no limit on it; write its target in seconds"
                ))
            })?;
            OF_LIMIT * limit
        }
    })
}

fn target_words(metric: ScalerMetric, metrics: &[Metric]) -> String {
    let Some(Metric {
        target: Target::AverageValue(value) | Target::Value(value) | Target::Pods(value), ..
    }) = metrics.first()
    else {
        return String::new();
    };
    match metric {
        ScalerMetric::Waiting => format!("{} waiting a replica", words::digits(*value)),
        ScalerMetric::InFlight => format!("{} in flight a replica", words::digits(*value)),
        ScalerMetric::Kv => format!("KV use {}", words::percent(*value)),
        ScalerMetric::Tokens => format!("{} tokens/s a replica", words::thousands(*value)),
        ScalerMetric::Ttft => format!("TTFT p95 {}", words::seconds(*value)),
    }
}

/// Leaves the number of replicas alone.
struct Unchanged;

impl Controller for Unchanged {
    fn interval(&self) -> Duration {
        LOOK
    }

    fn wanted(&mut self, _: At, _: &Scraped, wanted: &[u32]) -> Vec<u32> {
        wanted.to_vec()
    }
}
