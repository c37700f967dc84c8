//! Kubernetes' own autoscaler.

use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, ExternalMetricSource, HPAScalingPolicy, HPAScalingRules,
    HorizontalPodAutoscaler, HorizontalPodAutoscalerBehavior, HorizontalPodAutoscalerSpec, MetricIdentifier,
    MetricSpec, MetricTarget, PodsMetricSource,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use llmlab_scenarios::autoscale::ScalerMetric;
use llmlab_sim::cluster::autoscale::{HpaConfig, Rules, ScalingPolicy, Target};

use super::{Objects, whole_seconds};

impl Objects<'_> {
    pub(super) fn hpa(&self, metric: ScalerMetric, config: &HpaConfig) -> HorizontalPodAutoscaler {
        let identifier = MetricIdentifier { name: adapter_name(metric).into(), selector: None };
        let target = |kind: &str, value: f64| {
            let value = Some(quantity(value));
            let (average_value, value) = if kind == "Value" { (None, value) } else { (value, None) };
            MetricTarget { type_: kind.into(), average_value, value, average_utilization: None }
        };
        let metrics = config.metrics.iter().map(|metric| {
            let external = |target| MetricSpec {
                type_: "External".into(),
                external: Some(ExternalMetricSource { metric: identifier.clone(), target }),
                ..MetricSpec::default()
            };
            match metric.target {
                Target::Pods(value) => MetricSpec {
                    type_: "Pods".into(),
                    pods: Some(PodsMetricSource {
                        metric: identifier.clone(),
                        target: target("AverageValue", value),
                    }),
                    ..MetricSpec::default()
                },
                Target::AverageValue(value) => external(target("AverageValue", value)),
                Target::Value(value) => external(target("Value", value)),
            }
        });
        HorizontalPodAutoscaler {
            metadata: self.metadata(),
            spec: Some(HorizontalPodAutoscalerSpec {
                scale_target_ref: CrossVersionObjectReference {
                    api_version: Some("apps/v1".into()),
                    kind: "Deployment".into(),
                    name: self.name.clone(),
                },
                min_replicas: Some(self.whole(config.min_replicas)),
                max_replicas: self.whole(config.max_replicas),
                metrics: Some(metrics.collect()),
                behavior: Some(behavior(config)),
            }),
            status: None,
        }
    }
}

/// As prometheus-adapter names it: a metric's name may have no colon there.
pub(super) fn adapter_name(metric: ScalerMetric) -> &'static str {
    match metric {
        ScalerMetric::Waiting => "vllm_num_requests_waiting",
        ScalerMetric::InFlight => "vllm_num_requests_in_flight",
        ScalerMetric::Kv => "vllm_kv_cache_usage_perc",
        ScalerMetric::Tokens => "vllm_tokens_per_second",
        ScalerMetric::Ttft => "vllm_ttft_p95_seconds",
    }
}

pub(super) fn behavior(config: &HpaConfig) -> HorizontalPodAutoscalerBehavior {
    HorizontalPodAutoscalerBehavior {
        scale_up: Some(rules(&config.scale_up)),
        scale_down: Some(rules(&config.scale_down)),
    }
}

fn rules(rules: &Rules) -> HPAScalingRules {
    let policy = |policy: &ScalingPolicy| {
        let (kind, value, period) = match policy {
            ScalingPolicy::Percent { value, period } => ("Percent", value, period),
            ScalingPolicy::Pods { value, period } => ("Pods", value, period),
        };
        HPAScalingPolicy {
            type_: kind.into(),
            value: i32::try_from(*value).unwrap_or(i32::MAX),
            period_seconds: whole_seconds(*period),
        }
    };
    HPAScalingRules {
        stabilization_window_seconds: Some(whole_seconds(rules.stabilization_window)),
        select_policy: Some("Max".into()),
        policies: Some(rules.policies.iter().map(policy).collect()),
        ..HPAScalingRules::default()
    }
}

/// Thousandths where they matter, as quantities are written.
pub(super) fn quantity(value: f64) -> Quantity {
    let whole = value >= 100.0 || value.fract() == 0.0;
    Quantity(if whole { format!("{value:.0}") } else { format!("{:.0}m", (value * 1000.0).max(1.0)) })
}
