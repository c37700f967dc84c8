//! What is written reads back as the objects of its kind.

use std::time::Duration;

use jsonschema::Validator;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use llmlab_planner::autoscale::answer::StartParts;
use llmlab_planner::autoscale::{Facts, Scaler, Score};
use llmlab_scenarios::autoscale::ScalerMetric;
use llmlab_scenarios::autoscale::{AutoscaleSpec, ScalerRule, ScalerSpec};
use llmlab_scenarios::plan::Demand;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use serde_norway::Value;

use super::deployment::GOODBYE_S;
use super::hpa::quantity;
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
        factor: 3,
    };
    let scaler = Scaler::of(spec, &facts).unwrap();
    let wanted = vec![(0.0, 2), (7.5, 4), (9.25, 6), (20.0, 2)];
    Replayed {
        name: spec.name.clone(),
        rule: scaler.words(3),
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
        device: "NVIDIA H100 SXM5 80 GB".into(),
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

fn keda(metric: ScalerMetric, min_replicas: u32) -> ScalerSpec {
    let rule = ScalerRule::Keda {
        metric,
        target: None,
        min_replicas,
        activation: 0.5,
        polling_interval: Duration::from_secs(30),
        cooldown_period: Duration::from_secs(300),
    };
    ScalerSpec { name: format!("keda {} from {min_replicas}", metric.name()), rule }
}

#[test]
fn every_policy_reads_back_as_the_objects_of_its_kind() {
    let mut kinds = Vec::new();
    let with_zero = keda(ScalerMetric::InFlight, 0);
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
        let devices = container.resources.as_ref().unwrap().limits.as_ref().unwrap();
        assert_eq!(devices["nvidia.com/gpu"].0, "2");
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

/// A replica of the replay stands for three; what a plan file says is of the service, and so is what is written.
#[test]
fn written_counts_are_those_of_the_service() {
    let fixed = ScalerSpec { name: "fixed".into(), rule: ScalerRule::Static { replicas: Some(12) } };
    assert_eq!(documents(&fixed).0.spec.unwrap().replicas, Some(12));
    assert_eq!(replayed(&fixed).rule, "12 replicas all day");
    let keda = ScalerSpec {
        name: "queue".into(),
        rule: ScalerRule::Keda {
            metric: ScalerMetric::Waiting,
            target: None,
            min_replicas: 6,
            activation: 30.0,
            polling_interval: Duration::from_secs(30),
            cooldown_period: Duration::from_secs(300),
        },
    };
    let Rule::Keda { config, .. } = replayed(&keda).scaler.rule else { panic!() };
    assert_eq!((config.min_replica_count, config.triggers[0].1), (2, 10.0));
    let object: ScaledObject = back(&documents(&keda).1.unwrap());
    assert_eq!(object.spec.min_replica_count, 6);
    assert_eq!(object.spec.triggers[0].metadata["activationThreshold"], "30");
}

/// KEDA's own schema. Objects with named fields take no others here, because the API server refuses them in what is applied.
fn scaled_object_schema() -> Validator {
    fn close(schema: &mut Json) {
        match schema {
            Json::Object(fields) => {
                if fields.contains_key("properties") {
                    fields.insert("additionalProperties".into(), Json::Bool(false));
                }
                fields.values_mut().for_each(close);
            }
            Json::Array(list) => list.iter_mut().for_each(close),
            _ => {}
        }
    }
    let mut schema: Json = serde_norway::from_str(include_str!("keda_scaled_object.yaml")).unwrap();
    close(&mut schema);
    jsonschema::validator_for(&schema).unwrap()
}

#[test]
fn scaled_objects_fit_the_schema_of_keda() {
    let schema = scaled_object_schema();
    let defaults = AutoscaleSpec::default().policies;
    let with_metrics = ScalerMetric::ALL.into_iter().flat_map(|metric| [keda(metric, 0), keda(metric, 2)]);
    let mut checked = 0;
    for spec in defaults.into_iter().chain(with_metrics) {
        if !matches!(spec.rule, ScalerRule::Keda { .. } | ScalerRule::Predictive { .. }) {
            continue;
        }
        let document: Json = serde_norway::from_str(&documents(&spec).1.unwrap()).unwrap();
        let errors: Vec<String> = schema.iter_errors(&document).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{}: {errors:?}", spec.name);
        checked += 1;
    }
    assert!(checked >= 15);
    let text = documents(&keda(ScalerMetric::Tokens, 0)).1.unwrap();
    for (from, to) in [
        ("minReplicaCount: 0", "minReplicaCount: none"),
        ("pollingInterval", "pollInterval"),
        ("activationThreshold: '0.500'", "activationThreshold: 0.5"),
        ("stabilizationWindowSeconds: 300", "stabilizationWindowSeconds: 3601"),
        ("type: prometheus", "kind: prometheus"),
    ] {
        let broken = text.replace(from, to);
        assert_ne!(broken, text, "{from} is written");
        let document: Json = serde_norway::from_str(&broken).unwrap();
        assert!(!schema.is_valid(&document), "{to} passes");
    }
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
    assert_eq!([of(0.7), of(5.0), of(2.84), of(1234.6), of(0.0001)], ["700m", "5", "2840m", "1235", "1m"]);
}
