//! KEDA: triggers of its own, and timetables.

use std::collections::BTreeMap;

use llmlab_planner::autoscale::activation_scale;
use llmlab_scenarios::autoscale::ScalerMetric;
use llmlab_sim::cluster::autoscale::{HpaConfig, KedaConfig, Metric, Signal, Target};

use super::hpa::behavior;
use super::{Objects, whole_seconds};
use crate::commands::autoscale::scaled_object::{
    Advanced, Fallback, HpaBehavior, ScaleTarget, ScaledObject, ScaledObjectSpec, Trigger,
};

/// A queue so long asks for more than a schedule has, as vLLM's production stack sets it.
const WAITING: f64 = 5.0;
const NOTHING: Metric = Metric { signal: Signal::WaitingRequests, target: Target::AverageValue(WAITING) };

impl Objects<'_> {
    pub(super) fn keda(&self, metric: ScalerMetric, config: &KedaConfig) -> ScaledObject {
        let triggers = config.triggers.iter().map(|(trigger, activation)| {
            if trigger.signal == Signal::RequestsPerS {
                return self.prometheus(&self.incoming(), Target::AverageValue(1.0), *activation);
            }
            let activation = activation * activation_scale(metric, self.found.factor);
            self.prometheus(&self.query(metric), trigger.target, activation)
        });
        let first: &[Metric] = &config.triggers.first().map(|(metric, _)| [*metric]).unwrap_or([NOTHING]);
        // What an HPA of KEDA's defaults does, said aloud.
        let standard = HpaConfig::new(config.min_replica_count, config.max_replica_count, first.to_vec());
        let all_average = config.triggers.iter().all(|(m, _)| matches!(m.target, Target::AverageValue(_)));
        ScaledObject {
            api_version: "keda.sh/v1alpha1".into(),
            kind: "ScaledObject".into(),
            metadata: self.metadata(),
            spec: ScaledObjectSpec {
                scale_target_ref: self.scale_target(),
                polling_interval: whole_seconds(config.polling_interval),
                cooldown_period: whole_seconds(config.cooldown_period),
                min_replica_count: self.whole(config.min_replica_count),
                max_replica_count: self.whole(config.max_replica_count),
                // KEDA takes a fallback for averages only.
                fallback: all_average.then(|| self.fallback()),
                advanced: Some(Advanced {
                    horizontal_pod_autoscaler_config: HpaBehavior { behavior: behavior(&standard) },
                }),
                triggers: triggers.collect(),
            },
        }
    }

    /// A forecast as a timetable: the most that was wanted in each hour.
    pub(super) fn schedule(&self) -> ScaledObject {
        let hours = most_by_hour(&self.best.score.wanted);
        let least = hours.iter().copied().min().unwrap_or(self.found.min_replicas);
        let queue = Target::AverageValue(WAITING);
        let mut triggers = vec![self.prometheus(&self.query(ScalerMetric::Waiting), queue, 0.0)];
        let mut from = 0;
        for hour in 1..=hours.len() {
            if hour < hours.len() && hours[hour] == hours[from] {
                continue;
            }
            if hours[from] > least {
                triggers.push(Trigger {
                    kind: "cron".into(),
                    metric_type: None,
                    metadata: BTreeMap::from([
                        ("timezone".into(), "Etc/UTC".into()),
                        ("start".into(), format!("0 {from} * * *")),
                        ("end".into(), format!("0 {} * * *", hour % 24)),
                        ("desiredReplicas".into(), self.whole(hours[from]).to_string()),
                    ]),
                });
            }
            from = hour;
        }
        ScaledObject {
            api_version: "keda.sh/v1alpha1".into(),
            kind: "ScaledObject".into(),
            metadata: self.metadata(),
            spec: ScaledObjectSpec {
                scale_target_ref: self.scale_target(),
                polling_interval: 30,
                cooldown_period: 300,
                min_replica_count: self.whole(least),
                max_replica_count: self.whole(self.found.max_replicas),
                fallback: None,
                advanced: None,
                triggers,
            },
        }
    }

    fn scale_target(&self) -> ScaleTarget {
        ScaleTarget { api_version: "apps/v1".into(), kind: "Deployment".into(), name: self.name.clone() }
    }

    /// What the busiest moment of the replay had.
    fn fallback(&self) -> Fallback {
        let most = self.best.score.wanted.iter().map(|(_, replicas)| *replicas).max().unwrap_or(1);
        Fallback { failure_threshold: 3, replicas: self.whole(most.max(1)) }
    }

    fn prometheus(&self, query: &str, target: Target, activation: f64) -> Trigger {
        let (kind, threshold) = match target {
            Target::AverageValue(value) => ("AverageValue", value),
            Target::Value(value) | Target::Pods(value) => ("Value", value),
        };
        Trigger {
            kind: "prometheus".into(),
            metric_type: Some(kind.into()),
            metadata: BTreeMap::from([
                ("serverAddress".into(), self.args.prometheus.clone()),
                ("query".into(), query.to_owned()),
                ("threshold".into(), number(threshold)),
                ("activationThreshold".into(), number(activation)),
            ]),
        }
    }

    /// Between 0 and 1, above 0 while somebody asks, as the router of vLLM's production stack counts.
    fn incoming(&self) -> String {
        "clamp_max(sum(rate(vllm:num_incoming_requests_total[1m])), 1)".into()
    }
}

fn number(value: f64) -> String {
    let whole = value >= 100.0 || value.fract() == 0.0;
    if whole { format!("{value:.0}") } else { format!("{value:.3}") }
}

/// Of 24 hours.
fn most_by_hour(wanted: &[(f64, u32)]) -> Vec<u32> {
    let until = |place: usize| wanted.get(place + 1).map_or(24.0, |next| next.0);
    (0..24)
        .map(|hour| {
            let (from, to) = (f64::from(hour), f64::from(hour + 1));
            let here = wanted.iter().enumerate().filter(|(place, (at, _))| *at < to && until(*place) > from);
            here.map(|(_, (_, replicas))| *replicas).max().unwrap_or(0)
        })
        .collect()
}
