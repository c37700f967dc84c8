//! The objects, as the typed bindings have them, and what to do with them in words.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{
    Affinity, ConfigMap, ConfigMapVolumeSource, Container, EnvVar, EnvVarSource, ObjectFieldSelector,
    PersistentVolumeClaimVolumeSource, PodAffinityTerm, PodAntiAffinity, PodSpec, PodTemplateSpec,
    ResourceRequirements, SecretKeySelector, Volume, VolumeMount, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use time::OffsetDateTime;

use crate::cli::DeployLoadgenArgs;
use crate::host;

const SCENARIO_FILE: &str = "scenario.toml";
const SCENARIO_FOLDER: &str = "/scenario";
const RESULTS_FOLDER: &str = "/results";
/// The Job controller writes the pod's index into this annotation.
const INDEX_ANNOTATION: &str = "metadata.annotations['batch.kubernetes.io/job-completion-index']";
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";

/// A load generator of several pods.
pub struct Loadgen<'a> {
    pub name: String,
    pub scenario: String,
    pub start_at: OffsetDateTime,
    /// Variable in the container and secret that fills it.
    pub api_key: Option<(String, &'a str)>,
    pub args: &'a DeployLoadgenArgs,
}

impl Loadgen<'_> {
    /// Two documents, for `kubectl apply -f -`.
    pub fn yaml(&self) -> Result<String, serde_norway::Error> {
        let scenario = serde_norway::to_string(&self.config_map())?;
        let job = serde_norway::to_string(&self.job())?;
        Ok(format!("{scenario}---\n{job}"))
    }

    pub fn next_steps(&self) -> String {
        let namespace = self.args.namespace.as_ref().map_or(String::new(), |n| format!(" --namespace {n}"));
        let (name, claim) = (&self.name, &self.args.results_claim);
        format!(
            "\nAll {} pods begin at {}; a pod that is not running by then fails, and the job with it.\n\
             kubectl{namespace} wait --for=condition=complete job/{name} --timeout=24h\n\
             Each pod leaves a run on the claim {claim}. With the claim mounted: llmlab merge RUNS-OF-ALL-PODS.\n\
             More, also for Slurm and ssh: docs/distributed.md\n",
            self.args.shards,
            host::rfc3339(self.start_at),
        )
    }

    fn labels(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            ("app.kubernetes.io/name".to_owned(), "llmlab-loadgen".to_owned()),
            ("app.kubernetes.io/instance".to_owned(), self.name.clone()),
        ])
    }

    fn metadata(&self) -> ObjectMeta {
        ObjectMeta {
            name: Some(self.name.clone()),
            namespace: self.args.namespace.clone(),
            labels: Some(self.labels()),
            ..ObjectMeta::default()
        }
    }

    pub(super) fn config_map(&self) -> ConfigMap {
        ConfigMap {
            metadata: self.metadata(),
            data: Some(BTreeMap::from([(SCENARIO_FILE.to_owned(), self.scenario.clone())])),
            immutable: Some(true),
            ..ConfigMap::default()
        }
    }

    /// One pod for each index, none tried twice: a shard that comes late or again is no part of the schedule.
    pub(super) fn job(&self) -> Job {
        let shards = i32::try_from(self.args.shards).unwrap_or(i32::MAX);
        Job {
            metadata: self.metadata(),
            spec: Some(JobSpec {
                completion_mode: Some("Indexed".into()),
                completions: Some(shards),
                parallelism: Some(shards),
                backoff_limit_per_index: Some(0),
                max_failed_indexes: Some(0),
                template: PodTemplateSpec {
                    metadata: Some(ObjectMeta { labels: Some(self.labels()), ..ObjectMeta::default() }),
                    spec: Some(self.pod()),
                },
                ..JobSpec::default()
            }),
            ..Job::default()
        }
    }

    fn pod(&self) -> PodSpec {
        PodSpec {
            affinity: Some(self.apart()),
            automount_service_account_token: Some(false),
            containers: vec![self.container()],
            restart_policy: Some("Never".into()),
            volumes: Some(vec![
                Volume {
                    name: "scenario".into(),
                    config_map: Some(ConfigMapVolumeSource {
                        name: self.name.clone(),
                        ..ConfigMapVolumeSource::default()
                    }),
                    ..Volume::default()
                },
                Volume {
                    name: "results".into(),
                    persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                        claim_name: self.args.results_claim.clone(),
                        read_only: None,
                    }),
                    ..Volume::default()
                },
            ]),
            ..PodSpec::default()
        }
    }

    /// On nodes of their own where there are enough, else the clients share a core and measure themselves.
    fn apart(&self) -> Affinity {
        let term = PodAffinityTerm {
            label_selector: Some(LabelSelector {
                match_labels: Some(self.labels()),
                ..LabelSelector::default()
            }),
            topology_key: "kubernetes.io/hostname".into(),
            ..PodAffinityTerm::default()
        };
        Affinity {
            pod_anti_affinity: Some(PodAntiAffinity {
                preferred_during_scheduling_ignored_during_execution: Some(vec![WeightedPodAffinityTerm {
                    pod_affinity_term: term,
                    weight: 100,
                }]),
                ..PodAntiAffinity::default()
            }),
            ..Affinity::default()
        }
    }

    fn container(&self) -> Container {
        let args = [
            "run".to_owned(),
            format!("{SCENARIO_FOLDER}/{SCENARIO_FILE}"),
            // Kubernetes puts the variable's value in.
            format!("--shard=$({INDEX_VARIABLE})/{}", self.args.shards),
            format!("--start-at={}", host::rfc3339(self.start_at)),
            format!("--results={RESULTS_FOLDER}"),
        ];
        let resources = BTreeMap::from([
            ("cpu".to_owned(), Quantity(self.args.cpu.clone())),
            ("memory".to_owned(), Quantity(self.args.memory.clone())),
        ]);
        let mount = |name: &str, path: &str, read_only: bool| VolumeMount {
            name: name.into(),
            mount_path: path.into(),
            read_only: read_only.then_some(true),
            ..VolumeMount::default()
        };
        Container {
            name: "loadgen".into(),
            image: Some(self.args.image.clone()),
            command: Some(vec!["llmlab".into()]),
            args: Some(args.to_vec()),
            env: Some(self.environment()),
            // Requests equal to limits: nobody else gets the client's cores.
            resources: Some(ResourceRequirements {
                limits: Some(resources.clone()),
                requests: Some(resources),
                ..ResourceRequirements::default()
            }),
            volume_mounts: Some(vec![
                mount("scenario", SCENARIO_FOLDER, true),
                mount("results", RESULTS_FOLDER, false),
            ]),
            ..Container::default()
        }
    }

    fn environment(&self) -> Vec<EnvVar> {
        let from = |name: &str, source: EnvVarSource| EnvVar {
            name: name.into(),
            value_from: Some(source),
            ..EnvVar::default()
        };
        let index = from(
            INDEX_VARIABLE,
            EnvVarSource {
                field_ref: Some(ObjectFieldSelector {
                    api_version: None,
                    field_path: INDEX_ANNOTATION.into(),
                }),
                ..EnvVarSource::default()
            },
        );
        let key = self.api_key.as_ref().map(|(variable, secret)| {
            let key = SecretKeySelector { key: variable.clone(), name: (*secret).to_owned(), optional: None };
            from(variable, EnvVarSource { secret_key_ref: Some(key), ..EnvVarSource::default() })
        });
        [index].into_iter().chain(key).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn args() -> DeployLoadgenArgs {
        DeployLoadgenArgs {
            scenario: "shared.toml".into(),
            shards: 4,
            image: "registry.example.com/llmlab:0.1".into(),
            results_claim: "runs".into(),
            name: None,
            namespace: Some("bench".into()),
            start_in: Duration::from_secs(600),
            start_at: None,
            cpu: "2".into(),
            memory: "1Gi".into(),
            api_key_secret: Some("keys".into()),
        }
    }

    #[test]
    fn the_yaml_reads_back_as_the_objects_it_was_made_of() {
        let args = args();
        let job = Loadgen {
            name: "llmlab-shared".into(),
            scenario: "name = \"a: b\"\n# --- \t'x' \u{1b} \"y\"\n\n  key = '''\n- 1\n'''\n".into(),
            start_at: OffsetDateTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
            api_key: Some(("API_KEY".into(), "keys")),
            args: &args,
        };
        let yaml = job.yaml().unwrap();
        let (scenario, work) = yaml.split_once("\n---\n").expect("two documents");
        assert_eq!(serde_norway::from_str::<ConfigMap>(scenario).unwrap(), job.config_map());
        let read: Job = serde_norway::from_str(work).unwrap();
        assert_eq!(read, job.job());

        let spec = read.spec.unwrap();
        assert_eq!((spec.completions, spec.parallelism), (Some(4), Some(4)));
        let pod = spec.template.spec.unwrap();
        let container = &pod.containers[0];
        let said = container.args.as_ref().unwrap();
        assert!(said.contains(&"--shard=$(JOB_COMPLETION_INDEX)/4".to_owned()), "{said:?}");
        assert!(said.contains(&"--start-at=2027-01-15T08:00:00Z".to_owned()), "{said:?}");
        // A value that Kubernetes would expand must name a variable of the container.
        let names: Vec<&str> =
            container.env.iter().flatten().map(|variable| variable.name.as_str()).collect();
        assert_eq!(names, [INDEX_VARIABLE, "API_KEY"]);
        // What the pod mounts is what it has.
        let volumes: Vec<&str> = pod.volumes.iter().flatten().map(|volume| volume.name.as_str()).collect();
        let mounts = container.volume_mounts.iter().flatten();
        assert!(mounts.into_iter().all(|mount| volumes.contains(&mount.name.as_str())));
    }
}
