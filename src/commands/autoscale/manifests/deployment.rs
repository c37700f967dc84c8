//! The pods: how they start, say that they are ready, and drain.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, ExecAction, HTTPGetAction, Lifecycle, LifecycleHandler,
    PersistentVolumeClaimVolumeSource, PodSpec, PodTemplateSpec, Probe, ResourceRequirements, Volume,
    VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use llmlab_planner::autoscale::Rule;

use super::{CLAIM, Objects};

const PORT: i32 = 8000;
/// Until every proxy has heard that the pod is going.
pub(super) const GOODBYE_S: i64 = 10;
const PROBE_S: i32 = 5;

/// Waits until the server has nothing left. Every vLLM image has Python.
const DRAIN: &str = r#"import re, time, urllib.request
time.sleep(10)
busy = r"^vllm:num_requests_(running|waiting)\{[^}]*\} (?!0(\.0)?$)"
while re.search(busy, urllib.request.urlopen("http://127.0.0.1:8000/metrics").read().decode(), re.M):
    time.sleep(1)"#;

impl Objects<'_> {
    pub(super) fn deployment(&self) -> Deployment {
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
                limits: device_plugin(&found.device).map(|resource| {
                    BTreeMap::from([(resource.to_owned(), Quantity(found.gpus_per_replica.to_string()))])
                }),
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
}

/// What the maker's device plugin calls one device. A CPU has none: how many cores a pod gets is for its owner to say.
fn device_plugin(device: &str) -> Option<&'static str> {
    let makers = [
        ("NVIDIA", "nvidia.com/gpu"),
        ("AMD Instinct", "amd.com/gpu"),
        ("Intel Gaudi", "habana.ai/gaudi"),
        ("Google TPU", "google.com/tpu"),
        ("AWS Inferentia", "aws.amazon.com/neuron"),
    ];
    makers.iter().find(|(maker, _)| device.starts_with(maker)).map(|(_, resource)| *resource)
}
