//! The winning policy as Kubernetes objects: a Deployment that starts and drains as it was simulated, and who scales it.

mod deployment;
mod hpa;
mod keda;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use llmlab_planner::autoscale::{Autoscaling, Replayed, Rule};
use llmlab_scenarios::autoscale::ScalerMetric;

use self::hpa::adapter_name;
use super::scaled_object::ScaledObject;
use crate::cli::AutoscaleArgs;
use crate::exit::Failure;

const CLAIM: &str = "model-weights";

/// What would make YAML that nothing accepts.
pub fn check(args: &AutoscaleArgs) -> Result<(), Failure> {
    let unusable = |text: &str| text.is_empty() || text.chars().any(|c| c.is_whitespace() || c.is_control());
    if unusable(&args.image) {
        return Err(Failure::bad_input("--image: accepted is a name such as vllm/vllm-openai:v0.11.0"));
    }
    let http = ["http://", "https://"].iter().any(|scheme| args.prometheus.starts_with(scheme));
    if unusable(&args.prometheus) || !http {
        return Err(Failure::bad_input("--prometheus: accepted is a URL such as http://prometheus:9090"));
    }
    Ok(())
}

/// Documents for `kubectl apply -f -`.
pub fn yaml(found: &Autoscaling, best: &Replayed, args: &AutoscaleArgs) -> Result<String, Failure> {
    let objects = Objects { found, best, args, name: name(&found.name) };
    let mut documents = vec![serde_norway::to_string(&objects.deployment()).map_err(Failure::internal)?];
    match objects.scaler() {
        Some(Scales::Hpa(hpa)) => documents.push(serde_norway::to_string(&hpa).map_err(Failure::internal)?),
        Some(Scales::Keda(object)) => {
            documents.push(serde_norway::to_string(&object).map_err(Failure::internal)?);
        }
        None => {}
    }
    Ok(format!("{}{}", objects.comment(), documents.join("---\n")))
}

enum Scales {
    Hpa(Box<HorizontalPodAutoscaler>),
    Keda(Box<ScaledObject>),
}

struct Objects<'a> {
    found: &'a Autoscaling,
    best: &'a Replayed,
    args: &'a AutoscaleArgs,
    name: String,
}

impl Objects<'_> {
    fn comment(&self) -> String {
        let mut lines = vec![
            format!("{}: {}", self.best.name, self.best.rule),
            format!("Replicas: {}, on {}.", self.found.configuration, self.found.device),
            format!("The claim {CLAIM} holds the weights; node selection and tolerations are yours to add."),
        ];
        match &self.best.scaler.rule {
            Rule::Hpa { metric, .. } => lines.push(format!(
                "The metrics API needs an adapter (prometheus-adapter) that serves {} as: {}",
                adapter_name(*metric),
                self.query(*metric)
            )),
            Rule::Predictive { .. } => lines.push(
                "Kubernetes has no forecast: the schedule is what the replayed policy wanted, by the hour (UTC), and a trigger on the queue is added."
                    .into(),
            ),
            Rule::Keda { config, .. } if config.min_replica_count == 0 => lines.push(
                "At zero no vLLM exports metrics: the wake-up trigger reads the router's vllm:num_incoming_requests_total, and the router must hold requests back."
                    .into(),
            ),
            _ => {}
        }
        lines.iter().map(|line| format!("# {}\n", line.replace(['\n', '\r'], " "))).collect()
    }

    fn labels(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            ("app.kubernetes.io/name".to_owned(), "vllm".to_owned()),
            ("app.kubernetes.io/instance".to_owned(), self.name.clone()),
        ])
    }

    fn metadata(&self) -> ObjectMeta {
        ObjectMeta { name: Some(self.name.clone()), labels: Some(self.labels()), ..ObjectMeta::default() }
    }

    /// Replicas of the service, for so many of the replay.
    fn whole(&self, replicas: u32) -> i32 {
        i32::try_from(replicas.saturating_mul(self.found.factor)).unwrap_or(i32::MAX)
    }

    fn scaler(&self) -> Option<Scales> {
        match &self.best.scaler.rule {
            Rule::Static { .. } => None,
            Rule::Hpa { metric, config } => Some(Scales::Hpa(Box::new(self.hpa(*metric, config)))),
            Rule::Keda { metric, config } => Some(Scales::Keda(Box::new(self.keda(*metric, config)))),
            Rule::Predictive { .. } => Some(Scales::Keda(Box::new(self.schedule()))),
        }
    }

    /// One number, whatever the replicas: a query that returns several series is refused by KEDA.
    fn query(&self, metric: ScalerMetric) -> String {
        let of = format!("{{model_name=\"{}\"}}", self.found.model.replace(['"', '\\', '\n'], ""));
        match metric {
            ScalerMetric::Waiting => format!("sum(vllm:num_requests_waiting{of})"),
            ScalerMetric::InFlight => {
                format!("sum(vllm:num_requests_running{of}) + sum(vllm:num_requests_waiting{of})")
            }
            ScalerMetric::Kv => format!("avg(vllm:kv_cache_usage_perc{of})"),
            ScalerMetric::Tokens => format!(
                "sum(rate(vllm:prompt_tokens_total{of}[1m])) + sum(rate(vllm:generation_tokens_total{of}[1m]))"
            ),
            // Without requests the quantile is NaN, which no comparison lets through.
            ScalerMetric::Ttft => format!(
                "histogram_quantile(0.95, sum by (le) (rate(vllm:time_to_first_token_seconds_bucket{of}[1m]))) >= 0 or vector(0)"
            ),
        }
    }
}

fn whole_seconds(time: Duration) -> i32 {
    i32::try_from(time.as_secs()).unwrap_or(i32::MAX)
}

/// A DNS label of the plan's name.
fn name(plan: &str) -> String {
    let plain: String = plan
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .take(50)
        .collect();
    match plain.trim_matches('-') {
        "" => "vllm".to_owned(),
        plain => format!("vllm-{plain}"),
    }
}
