//! The files in this folder, the design's example and the template are what newcomers copy from: all must be right.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use llmlab_scenarios::spec::{
    ArrivalSpec, KnobValue, LengthSpec, PolicySpec, REMOTE_MODEL, RateSpec, RunSpec, TargetChoice, WarmupSpec,
};
use serde_json::Value;

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn shipped() -> Vec<PathBuf> {
    let folders = [folder().to_path_buf(), folder().join("claims")];
    let mut files: Vec<_> =
        folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap()).map(|e| e.unwrap().path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "toml") && p.file_name().unwrap() != "Cargo.toml");
    files.sort();
    files
}

#[test]
fn every_shipped_scenario_resolves_and_points_editors_to_the_schema() {
    let files = shipped();
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        let (text, cells) =
            llmlab_scenarios::load_cells(&file).unwrap_or_else(|e| panic!("{}: {e:?}", file.display()));
        let schema = if file.parent() == Some(folder()) { "." } else { ".." };
        assert!(text.starts_with(&format!("#:schema {schema}/schema.json\n")), "{}", file.display());
        assert_eq!(file.file_stem().unwrap().to_str(), Some(cells[0].spec.name.as_str()));
    }
}

/// A claim's live and simulated scenario are joined by its name, so all else they say about it must be equal.
#[test]
fn claims_of_one_name_say_the_same() {
    let mut known = std::collections::BTreeMap::new();
    for file in shipped() {
        let (_, cells) = llmlab_scenarios::load_cells(&file).unwrap();
        for claim in cells.into_iter().flat_map(|cell| cell.spec.claims) {
            let first = known.entry(claim.name.clone()).or_insert_with(|| claim.clone());
            assert_eq!(*first, claim, "{}", file.display());
        }
    }
    assert!(known.len() >= 8, "{:?}", known.keys());
}

#[test]
fn the_committed_schema_is_current() {
    let path = folder().join("schema.json");
    let current = llmlab_scenarios::json_schema();
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        fs::write(&path, &current).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap();
    assert!(committed == current, "scenarios/schema.json is stale: run this test with UPDATE_SCHEMA=1");
}

/// What an editor would complain about: keys the schema does not know, keys it misses, values of another type.
fn complaints(schema: &Value, value: &Value, root: &Value, at: &str) -> Vec<String> {
    let Value::Object(rules) = schema else { return Vec::new() };
    let mut found = Vec::new();
    if let Some(name) = rules.get("$ref").and_then(Value::as_str) {
        found.extend(complaints(root.pointer(&name[1..]).unwrap(), value, root, at));
    }
    for key in ["oneOf", "anyOf"] {
        let Some(Value::Array(choices)) = rules.get(key) else { continue };
        let by_choice: Vec<_> = choices.iter().map(|c| complaints(c, value, root, at)).collect();
        if by_choice.iter().all(|complaints| !complaints.is_empty()) {
            found.extend(by_choice.into_iter().min_by_key(Vec::len).unwrap());
        }
    }
    let fits = |name: &str| match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        other => panic!("the schema has a type TOML does not: {other}"),
    };
    if rules.get("type").is_some_and(|name| !fits(name.as_str().unwrap())) {
        found.push(format!("{at}: wrong type"));
    }
    if rules.get("const").is_some_and(|only| only != value) {
        found.push(format!("{at}: not {}", rules["const"]));
    }
    if rules.get("enum").is_some_and(|names| !names.as_array().unwrap().contains(value)) {
        found.push(format!("{at}: {value} is not one of {}", rules["enum"]));
    }
    if let (Some(item), Value::Array(values)) = (rules.get("items"), value) {
        found.extend(values.iter().flat_map(|v| complaints(item, v, root, at)));
    }
    let Value::Object(table) = value else { return found };
    for key in rules.get("required").and_then(Value::as_array).into_iter().flatten() {
        if !table.contains_key(key.as_str().unwrap()) {
            found.push(format!("{at}: {key} is missing"));
        }
    }
    for (key, inner) in table {
        let at = format!("{at}.{key}");
        match rules.get("properties").and_then(|p| p.get(key)) {
            Some(rule) => found.extend(complaints(rule, inner, root, &at)),
            None if rules.get("additionalProperties") == Some(&Value::Bool(false))
                && !rules.contains_key("patternProperties") =>
            {
                found.push(format!("{at}: unknown key"));
            }
            None => {}
        }
    }
    found
}

#[test]
fn an_editor_with_the_schema_accepts_what_the_parser_accepts() {
    let schema: Value = serde_json::from_str(&llmlab_scenarios::json_schema()).unwrap();
    let check = |text: &str| {
        let table: toml::Table = toml::from_str(text).unwrap();
        complaints(&schema, &serde_json::to_value(table).unwrap(), &schema, "")
    };
    for file in shipped() {
        assert_eq!(check(&fs::read_to_string(&file).unwrap()), [""; 0], "{}", file.display());
    }
    assert_eq!(check(DESIGN_EXAMPLE), [""; 0]);
    assert_eq!(check(llmlab_scenarios::template()), [""; 0]);
    let wrong = DESIGN_EXAMPLE
        .replace("max_num_seqs", "max_batch_total_tokens")
        .replace("requests = 300", "requests = \"x\"");
    let found = check(&wrong);
    assert!(found.iter().any(|c| c.ends_with("max_batch_total_tokens: unknown key")), "{found:?}");
    assert!(found.contains(&".workload.requests: wrong type".to_owned()), "{found:?}");
}

/// As printed in ARCHITECTURE.md.
const DESIGN_EXAMPLE: &str = r#"
    name = "vllm-vs-tgi"
    seed = 42
    [model]
    source = "synthetic:llama-15m"          # or a Hugging Face folder, or a .gguf file
    [workload]
    traffic = "azure-2023-conversation"      # length quantiles, arrival process; or a csv/jsonl trace, or a distribution
    scale = { input = 0.25, output = 0.5 }
    requests = 300
    arrivals = { process = "poisson", load = 0.7 }   # 70 % of measured saturation; or rate = 12.0, or users = 32
    [[target]]
    name = "vllm"
    engine = { policy = "vllm", max_num_seqs = 32, block_size = 16 }
    [[target]]
    name = "tgi"
    engine = { policy = "tgi", max_batch_total_tokens = 8192 }
    [slo]
    ttft_p95 = "200ms"
    tpot_p95 = "50ms"
    [compare]
    repeats = 3                              # interleaved A B B A, identical prompts and arrival times
"#;

#[test]
fn only_our_own_engine_needs_a_model() {
    let model = "[model]\n    source = \"synthetic:llama-15m\"          # or a Hugging Face folder, or a .gguf file\n";
    let without = DESIGN_EXAMPLE.replace(model, "");
    assert_ne!(without, DESIGN_EXAMPLE);
    let said = llmlab_scenarios::parse(&without, "example.toml").unwrap_err().to_string();
    assert!(said.contains("missing field `model`, and target vllm runs our own engine"), "{said}");
    let endpoint = |policy: &str| format!("endpoint = {{ url = \"http://127.0.0.1/{policy}\" }}\n#");
    let live = without
        .replace("engine = { policy = \"vllm\"", &endpoint("vllm"))
        .replace("engine = { policy = \"tgi\"", &endpoint("tgi"));
    assert_eq!(llmlab_scenarios::parse(&live, "example.toml").unwrap().model.source, REMOTE_MODEL);
}

#[test]
fn the_design_example_resolves_to_what_it_says() {
    let spec = llmlab_scenarios::parse(DESIGN_EXAMPLE, "example.toml").unwrap();
    assert_eq!((spec.name.as_str(), spec.seed, spec.repeats), ("vllm-vs-tgi", 42, 3));
    assert_eq!(spec.model.source, "synthetic:llama-15m");
    assert_eq!(
        (spec.workload.scale_input, spec.workload.scale_output, spec.workload.requests),
        (0.25, 0.5, 300)
    );
    assert_eq!(spec.workload.arrivals, ArrivalSpec::Poisson { rate: RateSpec::Load { share: 0.7 } });
    assert_eq!(spec.workload.warmup, WarmupSpec::Auto);
    let LengthSpec::Quantiles { input, rank_correlation, .. } = &spec.workload.lengths else { panic!() };
    assert_eq!((input.values[5], *rank_correlation), (1020.0, -0.112));
    assert_eq!(spec.slo.ttft, [(95.0, Duration::from_millis(200))]);
    assert_eq!(spec.slo.tpot, [(95.0, Duration::from_millis(50))]);

    let [vllm, tgi] = spec.targets.as_slice() else { panic!() };
    let TargetChoice::Engine(vllm) = &vllm.kind else { panic!() };
    assert_eq!((vllm.block_size, vllm.weights.as_deref(), vllm.kv.as_str()), (16, None, "bf16"));
    assert!(matches!(vllm.policy, PolicySpec::Vllm { max_num_seqs: 32, max_num_batched_tokens: 2048, .. }));
    let TargetChoice::Engine(tgi) = &tgi.kind else { panic!() };
    assert!(matches!(
        tgi.policy,
        PolicySpec::Tgi {
            max_batch_total_tokens: 8192,
            max_batch_prefill_tokens: 4096,
            max_batch_size: None,
            ..
        }
    ));
}

#[test]
fn the_template_resolves_also_with_its_commented_lines() {
    let template = llmlab_scenarios::template();
    llmlab_scenarios::parse(template, "template.toml").unwrap();
    // Each commented key, swapped in for what it would conflict with, is also accepted.
    let alternatives = [
        ("arrivals", "arrivals = { process = \"poisson\", rate = 12.0 }"),
        ("arrivals", "arrivals = { process = \"gamma\", rate = 12.0, cv = 3 }"),
        ("arrivals", "arrivals = { process = \"native\", rate = 12.0 }"),
        (
            "arrivals",
            "arrivals = { process = \"mmpp\", rate = 12.0, burst_ratio = 10, dwell = [\"60s\", \"5s\"] }",
        ),
        (
            "arrivals",
            "arrivals = { process = \"diurnal\", rate = 12.0, amplitude = 0.6, peak = \"14h\", speed = 1440 }",
        ),
        (
            "arrivals",
            "arrivals = { process = \"phases\", phases = [{ rate = [1, 12], for = \"30s\" }, { rate = 12, for = \"1m\" }] }",
        ),
        ("arrivals", "arrivals = { process = \"clients\", rate = 12.0, like = \"servegen-m-large\" }"),
        ("arrivals", "arrivals = { users = 32, think_time = \"500ms\" }"),
        (
            "traffic",
            "lengths = { input = { distribution = \"lognormal\", median = 200, p95 = 900 }, output = { distribution = \"uniform\", min = 16, max = 128 } }",
        ),
        ("engine", "engine = { policy = \"vllm\", weights = \"q4_k_m\", kv = \"int8\" }"),
        (
            "engine",
            "endpoint = { url = \"http://127.0.0.1:8000\", protocol = \"openai-completions\", model = \"my-model\", api_key_env = \"OPENAI_API_KEY\", metrics = \"/metrics\" }",
        ),
        (
            "engine",
            "command = { template = \"vllm\", model = \"my-model\", port = 8000, args = [\"--max-num-seqs\", \"64\"] }",
        ),
    ];
    for (key, line) in alternatives {
        assert!(template.contains(&format!("# {line}")), "the template no longer shows: {line}");
        let swapped: Vec<_> =
            template.lines().map(|l| if l.starts_with(&format!("{key} =")) { line } else { l }).collect();
        llmlab_scenarios::parse(&swapped.join("\n"), "t.toml").unwrap_or_else(|e| panic!("{line}: {e:?}"));
    }
}

#[test]
fn a_spec_survives_the_manifest() {
    for file in shipped() {
        let (_, cells) = llmlab_scenarios::load_cells(&file).unwrap();
        for spec in cells.into_iter().map(|cell| cell.spec) {
            let json = serde_json::to_string(&spec).unwrap();
            let back: RunSpec = serde_json::from_str(&json).unwrap();
            assert_eq!(back, spec, "{}", file.display());
        }
    }
}

#[test]
fn serve_takes_the_same_knobs_as_a_scenario() {
    let knobs = ["max_num_seqs=32", "weights=q8_0", "kv_memory = 64MiB", "enable_prefix_caching=false"];
    let engine = llmlab_scenarios::engine_from_knobs("vllm", &knobs.map(String::from)).unwrap();
    assert_eq!((engine.weights.as_deref(), engine.kv_memory_bytes), (Some("q8_0"), Some(64 << 20)));
    assert!(matches!(engine.policy, PolicySpec::Vllm { max_num_seqs: 32, enable_prefix_caching: false, .. }));
    for bad in ["max_batch_size=3", "max_num_seqs", "=", "max_num_seqs=\"x\ny\"", "a]\n[b=1", "weights=q3"] {
        assert!(llmlab_scenarios::engine_from_knobs("vllm", &[bad.into()]).is_err(), "{bad}");
    }
    assert!(llmlab_scenarios::engine_from_knobs("orca2\"", &[]).is_err());
}

#[test]
fn every_policy_of_the_table_is_offered_by_the_schema_and_survives_the_manifest() {
    for policy in llmlab_scenarios::knobs::POLICIES {
        let engine = llmlab_scenarios::engine_from_knobs(policy, &[]).unwrap();
        let json = serde_json::to_value(&engine).unwrap();
        // A twin with its defects is the same policy with a flag.
        let rules = policy.strip_suffix("-0.33.0").or(policy.strip_suffix("-3.3.6")).unwrap_or(policy);
        assert_eq!(json["policy"]["policy"], rules);
        assert_eq!(serde_json::from_value::<llmlab_scenarios::spec::EngineSpec>(json).unwrap(), engine);
        assert!(llmlab_scenarios::json_schema().contains(&format!("\"const\": \"{policy}\"")), "{policy}");
    }
    let own = |policy: &str, knobs: &[&str]| {
        let knobs: Vec<String> = knobs.iter().map(|knob| knob.to_string()).collect();
        let engine = llmlab_scenarios::engine_from_knobs(policy, &knobs)?;
        let PolicySpec::Other(values) = engine.policy else { panic!("{:?}", engine.policy) };
        Ok::<_, llmlab_scenarios::ScenarioError>(values.knobs)
    };
    let sglang = own("sglang", &["schedule_policy=lpm", "schedule_conservativeness=2.0"]).unwrap();
    assert_eq!(sglang["schedule_policy"], KnobValue::Choice("lpm".into()));
    assert_eq!(sglang["schedule_conservativeness"], KnobValue::Number(2.0));
    assert_eq!(sglang["chunked_prefill_size"], KnobValue::Count(2048));
    assert!(!own("sarathi", &[]).unwrap().contains_key("low_chunk_size"));
    let dynamic = own("dynamic", &["preferred_batch_size=[2, 4]", "default_timeout=5ms"]).unwrap();
    assert_eq!(dynamic["preferred_batch_size"], KnobValue::Counts(vec![2, 4]));
    assert_eq!(dynamic["default_timeout"], KnobValue::Time(Duration::from_millis(5)));
    // Memory is theirs to hand out, and candle has nothing to share.
    assert!(own("orca", &["kv_strategy=paged"]).is_err());
    assert!(own("sglang", &["executor=candle", "disable_radix_cache=false"]).is_err());
    assert_eq!(own("llamacpp", &["executor=candle"]).unwrap()["cache_prompt"], KnobValue::Switch(false));
}

#[test]
fn an_executor_has_only_the_formats_it_can_compute() {
    let spec = llmlab_scenarios::engine_from_knobs("vllm", &["executor=candle".into()]).unwrap();
    assert_eq!((spec.weights.as_deref(), spec.kv.as_str()), (Some("f32"), "f32"));
    let knobs = ["executor=candle", "weights=bf16"].map(String::from);
    assert!(llmlab_scenarios::engine_from_knobs("vllm", &knobs).is_err());
}
