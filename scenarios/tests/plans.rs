//! Plan files: the shipped ones are right, the busiest hour is what is planned for, and mistakes are told with their place.

use std::fs;
use std::path::{Path, PathBuf};

use llmlab_scenarios::ScenarioError;
use llmlab_scenarios::plan::{PlanSpec, load_plan, parse_plan};
use llmlab_scenarios::spec::{ArrivalSpec, LengthSpec, RateSpec};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("plan")
}

#[test]
fn every_shipped_plan_resolves_and_points_editors_to_the_schema() {
    let files: Vec<PathBuf> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    assert!(files.len() >= 6, "{files:?}");
    for file in files {
        let (text, spec) = load_plan(&file).unwrap_or_else(|error| panic!("{}: {error:?}", file.display()));
        assert!(text.starts_with("#:schema ./schema.json\n"), "{}", file.display());
        assert_eq!(file.file_stem().unwrap().to_str(), Some(spec.name.as_str()));
    }
}

#[test]
fn the_committed_schema_is_current() {
    let path = folder().join("schema.json");
    let current = llmlab_scenarios::plan_schema();
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        fs::write(&path, &current).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap();
    assert!(committed == current, "scenarios/plan/schema.json is stale: run this test with UPDATE_SCHEMA=1");
}

const START: &str = "name = \"p\"\n[model]\nname = \"m\"\n[slo]\nttft_p95 = \"1s\"\n[workload]\ntraffic = \"azure-2023-code\"\n";

fn spec(rest: &str) -> PlanSpec {
    parse_plan(&format!("{START}{rest}"), "p.toml").unwrap_or_else(|error| panic!("{error:?}"))
}

fn mistake(text: &str) -> (String, usize) {
    match parse_plan(text, "p.toml") {
        Err(ScenarioError::Invalid(mistake)) => (mistake.to_string(), mistake.line()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_busiest_hour_sets_the_rate() {
    let plain = spec("arrivals = { process = \"poisson\", rate = 3.0 }");
    assert_eq!((plain.demand.mean_rps, plain.demand.peak_rps), (3.0, 3.0));
    let users = "arrivals = { process = \"gamma\", cv = 2.0 }\n[demand]\nusers_per_day = 86400\nrequests_per_user = 2\n";
    let day = spec(&format!("{users}peak_to_mean = 3"));
    assert_eq!((day.demand.mean_rps, day.demand.peak_rps), (2.0, 6.0));
    assert_eq!(day.workload.arrivals, ArrivalSpec::Gamma { rate: RateSpec::PerSecond { rps: 6.0 }, cv: 2.0 });
    let mut hours = [1.0; 24];
    hours[12] = 25.0;
    let hourly = spec(&format!("{users}hourly = {hours:?}"));
    assert!((hourly.demand.peak_rps - 2.0 * 25.0 / 2.0).abs() < 1e-9, "{:?}", hourly.demand);
    let mean = hourly.demand.hourly_rps.unwrap().iter().sum::<f64>() / 24.0;
    assert!((mean - 2.0).abs() < 1e-9);
    let sine = spec("arrivals = { process = \"diurnal\", rate = 4.0, amplitude = 0.5 }");
    assert_eq!((sine.demand.mean_rps, sine.demand.peak_rps), (4.0, 6.0));
    assert!(matches!(sine.workload.arrivals, ArrivalSpec::Poisson { .. }));
}

/// A rate in `arrivals` is one of sessions; demand and capacity are of requests.
#[test]
fn sessions_are_counted_by_their_turns() {
    let turns = "sessions = { turns = { distribution = \"uniform\", min = 2, max = 6 } }\n";
    let rate = spec(&format!("arrivals = {{ rate = 0.5 }}\n{turns}"));
    assert_eq!((rate.demand.mean_rps, rate.demand.peak_rps), (2.0, 2.0));
    assert_eq!(rate.workload.arrivals.rate(), Some(&RateSpec::PerSecond { rps: 0.5 }));
    let day = spec(&format!("arrivals = {{}}\n{turns}[demand]\nrequests_per_day = 86400\npeak_to_mean = 2"));
    assert_eq!((day.demand.mean_rps, day.demand.peak_rps), (1.0, 2.0));
    assert_eq!(day.workload.arrivals.rate(), Some(&RateSpec::PerSecond { rps: 0.5 }));
}

/// A request every `gap` seconds of an hour that has `gap`.
fn trace_file(name: &str, gaps: impl Iterator<Item = f64>) -> PathBuf {
    let path = std::env::temp_dir().join(format!("llmlab-plans-{}-{name}.csv", std::process::id()));
    let (mut text, mut start) = (String::from("arrived_at,prompt_tokens,output_tokens\n"), 0.0);
    for gap in gaps {
        let times = (0..).map(|i| f64::from(i) * gap).take_while(|at| *at < 3600.0);
        times.for_each(|at| text += &format!("{},{},10\n", start + at, 100 + (start / 3600.0) as u32));
        start += 3600.0;
    }
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_trace_brings_its_day() {
    let gap = |hour: u32| if (8..20).contains(&hour) { 10.0 } else { 40.0 };
    let file = trace_file("day", (0..24).map(gap));
    let start = START.replace("traffic = \"azure-2023-code\"", &format!("trace = {:?}", file.display()));
    let plan = |rest: &str| parse_plan(&format!("{start}{rest}"), "p.toml");
    let own = plan("arrivals = { process = \"trace\" }").unwrap();
    let hours = own.demand.hourly_rps.unwrap();
    assert!((hours[12] - 0.1).abs() < 1e-3 && (hours[2] - 0.025).abs() < 1e-3, "{hours:?}");
    assert_eq!(
        (own.demand.peak_rps, own.workload.requests),
        (hours.iter().copied().fold(0.0, f64::max), 1000)
    );
    assert!(matches!(own.workload.arrivals, ArrivalSpec::Constant { .. }), "{:?}", own.workload.arrivals);
    let LengthSpec::Trace { rows, .. } = own.workload.lengths else { panic!("lengths are the trace's") };
    assert!(
        rows[..50].iter().any(|row| row.input_tokens < 104)
            && rows[..50].iter().any(|r| r.input_tokens > 119)
    );
    let scaled =
        plan("requests = 500\narrivals = { process = \"trace\" }\n[demand]\nrequests_per_day = 864000")
            .unwrap();
    assert!((scaled.demand.mean_rps - 10.0).abs() < 1e-9 && scaled.workload.requests == 500);
    let ratio = scaled.demand.peak_rps / own.demand.peak_rps;
    assert!((ratio - 10.0 / own.demand.mean_rps).abs() < 1e-6);
    for (rest, part) in [
        (
            "arrivals = { process = \"trace\" }\n[demand]\nrequests_per_day = 5\npeak_to_mean = 2",
            "the hours of the day",
        ),
        ("arrivals = { process = \"trace\", speed = 24.0 }", "and a plan needs a day"),
        ("requests = 0\narrivals = { process = \"trace\" }", "requests is 0"),
    ] {
        match plan(rest) {
            Err(ScenarioError::Invalid(mistake)) => assert!(mistake.to_string().contains(part), "{mistake}"),
            other => panic!("{rest}: {other:?}"),
        }
    }
    fs::remove_file(file).unwrap();
}

#[test]
fn mistakes_have_a_place() {
    let without_slo = "name = \"p\"\n[model]\nname = \"m\"\n[workload]\ntraffic = \"azure-2023-code\"\narrivals = { rate = 1.0 }\n";
    assert!(mistake(without_slo).0.contains("no [slo]"));
    for (rest, line, part) in [
        ("arrivals = { users = 4 }", 8, "at a rate"),
        ("arrivals = { load = 0.7 }", 8, "not a share"),
        ("arrivals = { rate = 1.0 }\n[search]\nhardware = []", 10, "hardware has nothing to try"),
        ("arrivals = { rate = 1.0 }\n[search]\npricing = []", 10, "pricing has nothing to try"),
        (
            "arrivals = { rate = 1.0 }\n[search]\ntensor_parallel = []",
            10,
            "tensor_parallel has nothing to try",
        ),
        ("arrivals = { rate = 1.0 }\n[own]\ndevice_usd = { h100 = -3 }", 10, "device_usd is -3"),
        ("arrivals = { rate = 1e-6 }", 8, "less than one request a day"),
        ("arrivals = {}\n[demand]\nusers_per_day = 5", 10, "how many requests"),
        ("arrivals = {}\n[demand]\nrequests_per_day = 5\npeak_to_mean = 0.5", 11, "peak_to_mean is 0.5"),
        ("arrivals = {}\n[demand]\nrequests_per_day = 5\nhourly = [1.0]", 11, "no day"),
        ("arrivals = { rate = 1.0 }\n[budget]\nusd_per_month = 0", 10, "usd_per_month is 0"),
        ("arrivals = { rate = 1.0 }\n[search]\npricing = [\"sport\"]", 10, "unknown pricing \"sport\""),
        ("arrivals = { rate = 1.0 }\n[search]\ntensor_parallel = [0]", 10, "tensor_parallel is 0"),
        ("arrivals = { rate = 1.0 }\n[own]\npue = 0.9", 10, "pue is 0.9"),
        ("arrivals = { rate = 1.0 }\n[surch]\npue = 0.9", 9, "unknown key `surch`"),
    ] {
        let (message, at) = mistake(&format!("{START}{rest}"));
        assert!(message.contains(part), "{rest}: {message}");
        assert_eq!(at, line, "{rest}: {message}");
    }
}

const DAY: &str = "arrivals = { process = \"poisson\" }\n[demand]\nrequests_per_day = 86400\n[autoscale]\n";

#[test]
fn autoscaling_has_defaults_for_everything() {
    use llmlab_scenarios::autoscale::{AutoscaleSpec, ScalerMetric, ScalerRule};
    let plain = spec(DAY).autoscale.unwrap();
    assert_eq!(plain, AutoscaleSpec::default());
    assert_eq!(spec("arrivals = { process = \"poisson\", rate = 1.0 }").autoscale, None);
    assert!(plain.policies.len() > 5 && plain.min_replicas == 1);
    let written = spec(&format!(
        "{DAY}min_replicas = 2\nsurge = {{ at = \"14:05\", factor = 3, for = \"10m\" }}\n[[autoscale.policy]]\nkind = \"keda\"\nmetric = \"kv\"\n"
    ));
    let written = written.autoscale.unwrap();
    assert_eq!(written.surge.unwrap().at.as_secs(), 14 * 3600 + 300);
    let [only] = written.policies.as_slice() else { panic!("{:?}", written.policies) };
    assert_eq!(only.name, "keda kv");
    assert!(matches!(only.rule, ScalerRule::Keda { metric: ScalerMetric::Kv, min_replicas: 2, .. }));
}

#[test]
fn mistakes_in_autoscaling_have_a_place() {
    let policy = "[[autoscale.policy]]\n";
    for (rest, line, part) in [
        ("min_replicas = 0".to_owned(), 12, "min_replicas is 0"),
        ("min_replicas = 4\nmax_replicas = 3".to_owned(), 13, "max_replicas is 3"),
        ("surge = { at = \"24:00\", factor = 2, for = \"5m\" }".to_owned(), 12, "no time of day"),
        ("surge = { at = \"12:00\", factor = 0, for = \"5m\" }".to_owned(), 12, "factor is 0"),
        ("scrape_interval = \"0s\"".to_owned(), 12, "scrape_interval"),
        ("cold_start = { spread = 2.0 }".to_owned(), 12, "spread is 2"),
        ("pricing = \"cheap\"".to_owned(), 12, "cheap"),
        (format!("{policy}kind = \"hpaa\""), 13, "hpaa"),
        (format!("{policy}kind = \"static\"\nmetric = \"kv\""), 14, "no key of kind"),
        (format!("{policy}kind = \"hpa\"\nmetric = \"queue\""), 14, "queue"),
        (format!("{policy}kind = \"hpa\"\nscale_down_window = \"2h\""), 14, "out of range"),
        (format!("{policy}kind = \"keda\"\n{policy}kind = \"keda\""), 14, "two policies"),
    ] {
        let (message, at) = mistake(&format!("{START}{DAY}{rest}\n"));
        assert!(message.contains(part), "{rest}: {message}");
        assert_eq!(at, line, "{rest}: {message}");
    }
}
