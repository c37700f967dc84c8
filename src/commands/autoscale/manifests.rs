//! The winning policy as Kubernetes objects: a Deployment that starts and drains as it was simulated, and who scales it.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};
use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, ExternalMetricSource, HPAScalingPolicy, HPAScalingRules,
    HorizontalPodAutoscaler, HorizontalPodAutoscalerBehavior, HorizontalPodAutoscalerSpec, MetricIdentifier,
    MetricSpec, MetricTarget, PodsMetricSource,
};
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, ExecAction, HTTPGetAction, Lifecycle, LifecycleHandler,
    PersistentVolumeClaimVolumeSource, PodSpec, PodTemplateSpec, Probe, ResourceRequirements, Volume,
    VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use llmlab_planner::autoscale::{Autoscaling, Replayed, Rule};
use llmlab_scenarios::autoscale::ScalerMetric;
use llmlab_sim::cluster::autoscale::{HpaConfig, KedaConfig, Metric, Rules, ScalingPolicy, Signal, Target};

use super::scaled_object::{
    Advanced, Fallback, HpaBehavior, ScaleTarget, ScaledObject, ScaledObjectSpec, Trigger,
};
use crate::cli::AutoscaleArgs;
use crate::exit::Failure;

const PORT: i32 = 8000;
const CLAIM: &str = "model-weights";
/// Until every proxy has heard that the pod is going.
const GOODBYE_S: i64 = 10;
const PROBE_S: i32 = 5;
/// A queue so long asks for more than a schedule has, as vLLM's production stack sets it.
const WAITING: f64 = 5.0;

/// Waits until the server has nothing left. Every vLLM image has Python.
const DRAIN: &str = r#"import re, time, urllib.request
time.sleep(10)
busy = r"^vllm:num_requests_(running|waiting)\{[^}]*\} (?!0(\.0)?$)"
while re.search(busy, urllib.request.urlopen("http://127.0.0.1:8000/metrics").read().decode(), re.M):
    time.sleep(1)"#;

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
            format!("Replicas: {}.", self.found.configuration),
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

    fn deployment(&self) -> Deployment {
        let replicas = match &self.best.scaler.rule {
            Rule::Static { replicas } => Some(self.whole(*replicas)),
            // Who scales owns the number.
            _ => None,
        };
        let grace = self.found.spec.drain.as_secs() as i64 + GOODBYE_S;
        Deployment {
            metadata: self.metadata(),
            spec: Some(DeploymentSpec {
                replicas,
                selector: LabelSelector { match_labels: Some(self.labels()), ..LabelSelector::default() },
                template: PodTemplateSpec {
                    metadata: Some(ObjectMeta { labels: Some(self.labels()), ..ObjectMeta::default() }),
                    spec: Some(PodSpec {
                        containers: vec![self.container()],
                        termination_grace_period_seconds: Some(grace),
                        volumes: Some(vec![Volume {
                            name: "models".into(),
                            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                                claim_name: CLAIM.into(),
                                read_only: Some(true),
                            }),
                            ..Volume::default()
                        }]),
                        ..PodSpec::default()
                    }),
                },
                ..DeploymentSpec::default()
            }),
            ..Deployment::default()
        }
    }

    fn container(&self) -> Container {
        let found = self.found;
        let args = [
            format!("--model=/models/{}", found.model.replace(char::is_whitespace, "-")),
            format!("--served-model-name={}", found.model),
            format!("--tensor-parallel-size={}", found.tensor_parallel),
            format!("--pipeline-parallel-size={}", found.pipeline_parallel),
        ];
        let device = if found.configuration.contains("mi3") { "amd.com/gpu" } else { "nvidia.com/gpu" };
        let health = |failures: i32| Probe {
            http_get: Some(HTTPGetAction {
                path: Some("/health".into()),
                port: IntOrString::Int(PORT),
                ..HTTPGetAction::default()
            }),
            period_seconds: Some(PROBE_S),
            failure_threshold: Some(failures),
            ..Probe::default()
        };
        // Three times what was assumed, before a pod that starts is killed.
        let start_s = found.cold_start.weights_s + found.cold_start.warm_up_s;
        let patience = (3.0 * start_s / f64::from(PROBE_S)).ceil().clamp(12.0, 1e6) as i32;
        let drain = ["python3", "-c", DRAIN].map(str::to_owned).to_vec();
        Container {
            name: "vllm".into(),
            image: Some(self.args.image.clone()),
            args: Some(args.to_vec()),
            ports: Some(vec![ContainerPort {
                container_port: PORT,
                name: Some("http".into()),
                ..ContainerPort::default()
            }]),
            resources: Some(ResourceRequirements {
                limits: Some(BTreeMap::from([(
                    device.to_owned(),
                    Quantity(found.gpus_per_replica.to_string()),
                )])),
                ..ResourceRequirements::default()
            }),
            startup_probe: Some(health(patience)),
            readiness_probe: Some(health(2)),
            lifecycle: Some(Lifecycle {
                pre_stop: Some(LifecycleHandler {
                    exec: Some(ExecAction { command: Some(drain) }),
                    ..LifecycleHandler::default()
                }),
                ..Lifecycle::default()
            }),
            volume_mounts: Some(vec![VolumeMount {
                name: "models".into(),
                mount_path: "/models".into(),
                read_only: Some(true),
                ..VolumeMount::default()
            }]),
            ..Container::default()
        }
    }

    fn scaler(&self) -> Option<Scales> {
        match &self.best.scaler.rule {
            Rule::Static { .. } => None,
            Rule::Hpa { metric, config } => Some(Scales::Hpa(Box::new(self.hpa(*metric, config)))),
            Rule::Keda { metric, config } => Some(Scales::Keda(Box::new(self.keda(*metric, config)))),
            Rule::Predictive { .. } => Some(Scales::Keda(Box::new(self.schedule()))),
        }
    }

    fn hpa(&self, metric: ScalerMetric, config: &HpaConfig) -> HorizontalPodAutoscaler {
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

    fn keda(&self, metric: ScalerMetric, config: &KedaConfig) -> ScaledObject {
        let triggers = config.triggers.iter().map(|(trigger, activation)| {
            if trigger.signal == Signal::RequestsPerS {
                return self.prometheus(&self.incoming(), Target::AverageValue(1.0), *activation);
            }
            self.prometheus(&self.query(metric), trigger.target, *activation)
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
    fn schedule(&self) -> ScaledObject {
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

    /// Between 0 and 1, above 0 while somebody asks, as the router of vLLM's production stack counts.
    fn incoming(&self) -> String {
        "clamp_max(sum(rate(vllm:num_incoming_requests_total[1m])), 1)".into()
    }
}

const NOTHING: Metric = Metric { signal: Signal::WaitingRequests, target: Target::AverageValue(WAITING) };

/// As prometheus-adapter names it: a metric's name may have no colon there.
fn adapter_name(metric: ScalerMetric) -> &'static str {
    match metric {
        ScalerMetric::Waiting => "vllm_num_requests_waiting",
        ScalerMetric::InFlight => "vllm_num_requests_in_flight",
        ScalerMetric::Kv => "vllm_kv_cache_usage_perc",
        ScalerMetric::Tokens => "vllm_tokens_per_second",
        ScalerMetric::Ttft => "vllm_ttft_p95_seconds",
    }
}

fn behavior(config: &HpaConfig) -> HorizontalPodAutoscalerBehavior {
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

fn whole_seconds(time: Duration) -> i32 {
    i32::try_from(time.as_secs()).unwrap_or(i32::MAX)
}

/// Thousandths where they matter, as quantities are written.
fn quantity(value: f64) -> Quantity {
    let whole = value >= 100.0 || value.fract() == 0.0;
    Quantity(if whole { format!("{value:.0}") } else { format!("{:.0}m", (value * 1000.0).max(1.0)) })
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

#[cfg(test)]
mod tests {
    use llmlab_planner::autoscale::answer::StartParts;
    use llmlab_planner::autoscale::{Facts, Scaler, Score};
    use llmlab_scenarios::autoscale::{AutoscaleSpec, ScalerRule, ScalerSpec};
    use llmlab_scenarios::plan::Demand;
    use serde::Serialize;
    use serde::de::DeserializeOwned;
    use serde_norway::Value;

    use super::*;

    fn args() -> AutoscaleArgs {
        AutoscaleArgs {
            file: "day.toml".into(),
            policy: Vec::new(),
            json: false,
            out: None,
            image: "vllm/vllm-openai:v0.11.0".into(),
            prometheus: "http://prometheus:9090".into(),
        }
    }

    fn replayed(spec: &ScalerSpec) -> Replayed {
        let demand = Demand { mean_rps: 2.0, peak_rps: 2.0, hourly_rps: None };
        let day = llmlab_planner::autoscale::Day::of(&demand, None).unwrap();
        let facts = Facts {
            day: &day,
            expected: &day,
            replica_rps: 0.5,
            in_flight: 9.0,
            tokens_per_request: 900.0,
            ttft_limit_s: Some(1.0),
            cold_start: Duration::from_secs(200),
            min_replicas: 1,
            max_replicas: 9,
        };
        let scaler = Scaler::of(spec, &facts).unwrap();
        let wanted = vec![(0.0, 2), (7.5, 4), (9.25, 6), (20.0, 2)];
        Replayed {
            name: spec.name.clone(),
            rule: scaler.words(),
            first_replicas: 2,
            score: Score { wanted, ..Score::default() },
            scaler,
        }
    }

    fn found(policies: Vec<Replayed>) -> Autoscaling {
        Autoscaling {
            name: "Docs: answers".into(),
            model: "llama-3.3-70b".into(),
            configuration: "2x h100-sxm, fp8, TP 2".into(),
            tensor_parallel: 2,
            pipeline_parallel: 1,
            price: String::new(),
            usd_per_replica_hour: 4.0,
            gpus_per_replica: 2,
            weight_bytes: 70_000_000_000,
            limits: Vec::new(),
            max_violations: 0.05,
            spec: AutoscaleSpec::default(),
            requests_a_day: 172_800.0,
            peak_rps: 2.0,
            load_rps: vec![2.0; 240],
            replica_rps: 0.5,
            factor: 3,
            min_replicas: 1,
            max_replicas: 9,
            cold_start: StartParts {
                provision_s: 60.0,
                image_s: 30.0,
                weights_s: 70.0,
                warm_up_s: 40.0,
                total_s: 200.0,
            },
            policies,
            complete: true,
        }
    }

    /// Reads the document as its type and writes it again: a field that the type does not know would be missing then.
    fn back<T: DeserializeOwned + Serialize>(document: &str) -> T {
        let written: Value = serde_norway::from_str(document).unwrap();
        let object: T = serde_norway::from_str(document).unwrap();
        assert_eq!(serde_norway::to_value(&object).unwrap(), written);
        object
    }

    fn documents(spec: &ScalerSpec) -> (Deployment, Option<String>) {
        let best = replayed(spec);
        let yaml = yaml(&found(vec![best.clone()]), &best, &args()).unwrap();
        let mut documents = yaml.split("---\n");
        let deployment: Deployment = back(documents.next().unwrap());
        let scaler = documents.next().map(str::to_owned);
        assert_eq!(documents.next(), None);
        (deployment, scaler)
    }

    #[test]
    fn every_policy_reads_back_as_the_objects_of_its_kind() {
        let mut kinds = Vec::new();
        let with_zero = ScalerSpec {
            name: "to zero".into(),
            rule: ScalerRule::Keda {
                metric: ScalerMetric::InFlight,
                target: None,
                min_replicas: 0,
                activation: 0.0,
                polling_interval: Duration::from_secs(30),
                cooldown_period: Duration::from_secs(300),
            },
        };
        for spec in AutoscaleSpec::default().policies.iter().chain([&with_zero]) {
            let (deployment, scaler) = documents(spec);
            let name = deployment.metadata.name.clone().unwrap();
            assert_eq!(name, "vllm-docs--answers");
            let pod = deployment.spec.unwrap();
            assert_eq!(pod.selector.match_labels, pod.template.metadata.unwrap().labels);
            let template = pod.template.spec.unwrap();
            // The drain of the replay fits into what Kubernetes waits.
            let grace = template.termination_grace_period_seconds.unwrap();
            assert!(grace >= 120 + GOODBYE_S);
            let container = &template.containers[0];
            assert!(container.readiness_probe.is_some() && container.lifecycle.is_some());
            let startup = container.startup_probe.as_ref().unwrap();
            assert!(startup.failure_threshold.unwrap() * startup.period_seconds.unwrap() >= 3 * 110);
            match (&spec.rule, scaler) {
                (ScalerRule::Static { .. }, None) => assert_eq!(pod.replicas, Some(12)),
                (ScalerRule::Hpa { .. }, Some(text)) => {
                    let hpa: HorizontalPodAutoscaler = back(&text);
                    let hpa = hpa.spec.unwrap();
                    assert_eq!(pod.replicas, None, "the HPA owns the number");
                    assert_eq!(hpa.scale_target_ref.name, name);
                    assert_eq!((hpa.min_replicas, hpa.max_replicas), (Some(3), 27));
                    kinds.push("hpa");
                }
                (_, Some(text)) => {
                    let object: ScaledObject = back(&text);
                    assert_eq!((pod.replicas, object.spec.scale_target_ref.name), (None, name));
                    assert_eq!(object.spec.max_replica_count, 27);
                    kinds.push("keda");
                }
                (rule, None) => panic!("{rule:?} has nobody who scales"),
            }
        }
        assert!(kinds.contains(&"hpa") && kinds.contains(&"keda"));
    }

    #[test]
    fn a_forecast_becomes_a_timetable() {
        let policies = AutoscaleSpec::default().policies;
        let predictive = policies.iter().find(|p| matches!(p.rule, ScalerRule::Predictive { .. })).unwrap();
        let object: ScaledObject = back(&documents(predictive).1.unwrap());
        let crons: Vec<(&str, &str, &str)> = object.spec.triggers[1..]
            .iter()
            .map(|trigger| {
                let of = |key: &str| trigger.metadata[key].as_str();
                (of("start"), of("end"), of("desiredReplicas"))
            })
            .collect();
        // Wanted were 4 from half past seven and 6 from a quarter past nine to eight, three times as many in the whole.
        assert_eq!(crons, [("0 7 * * *", "0 9 * * *", "12"), ("0 9 * * *", "0 20 * * *", "18")]);
        assert_eq!(object.spec.min_replica_count, 6);
        assert_eq!(
            object.spec.triggers[0].metadata["query"],
            "sum(vllm:num_requests_waiting{model_name=\"llama-3.3-70b\"})"
        );
    }

    #[test]
    fn quantities_are_those_of_kubernetes() {
        let of = |value| quantity(value).0;
        assert_eq!(
            [of(0.7), of(5.0), of(2.84), of(1234.6), of(0.0001)],
            ["700m", "5", "2840m", "1235", "1m"]
        );
    }
}
