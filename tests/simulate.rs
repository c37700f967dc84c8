//! Scenarios in virtual time through the built binary: no engine, no sockets, the same records and report.

mod common;

use std::path::{Path, PathBuf};

use common::{llmlab, stderr, stdout, tiny_scenario};
use llmlab_results::manifest::TargetKind;
use llmlab_results::read_run;

fn runs(dir: &Path) -> Vec<PathBuf> {
    let mut runs: Vec<_> =
        std::fs::read_dir(dir.join("results/runs")).unwrap().map(|entry| entry.unwrap().path()).collect();
    runs.sort();
    runs
}

fn scenario(dir: &Path, model: &str, arrivals: &str, target: &str) {
    let text = format!(
        r#"
name = "simulated"
seed = 7
[model]
source = "{model}"
[workload]
traffic = "azure-2023-conversation"
requests = 120
arrivals = {arrivals}
[[target]]
name = "one"
{target}
[compare]
repeats = 2
"#
    );
    std::fs::write(dir.join("simulated.toml"), text).unwrap();
}

#[test]
fn a_live_scenario_is_simulated_by_one_flag_and_twice_the_same() {
    let dir = tempfile::tempdir().unwrap();
    tiny_scenario(dir.path(), 60);
    for _ in 0..2 {
        let output =
            llmlab(dir.path()).args(["simulate", "tiny.toml", "--hardware", "h100-sxm"]).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}\n{}", stdout(&output), stderr(&output));
        let said = stdout(&output);
        for part in ["SIMULATED", "TTFT p95", "Against vllm", "virtual time"] {
            assert!(said.contains(part), "{part} is missing in:\n{said}");
        }
    }
    let runs = runs(dir.path());
    assert_eq!(runs.len(), 2);
    for trial in ["vllm-r1", "vllm-r2", "static-r1", "static-r2"] {
        for file in ["journal.jsonl", "steps.jsonl", "server.jsonl"] {
            let read = |run: &PathBuf| std::fs::read(run.join(trial).join(file)).unwrap();
            assert_eq!(read(&runs[0]), read(&runs[1]), "{trial}/{file}");
        }
    }
    let (manifest, trials) = read_run(&runs[0]).unwrap();
    assert!(manifest.targets.iter().all(|target| target.kind == TargetKind::Simulate));
    assert!(
        manifest.targets[0].description.contains("simulated on NVIDIA H100"),
        "{:?}",
        manifest.targets[0]
    );
    assert!(manifest.host.roofline.is_none(), "what this machine can do is not asked");
    for trial in &trials {
        assert_eq!(trial.records.len(), 60);
        assert!(trial.facts.complete);
        let computed: u64 = trial.steps.iter().flat_map(|s| &s.seqs).map(|s| u64::from(s.new_tokens)).sum();
        assert_eq!(computed, 60 * (24 + 12 - 1), "{}", trial.facts.dir);
    }
}

#[test]
fn weights_without_a_kernel_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let on = |hardware: &str| {
        let target = format!(r#"simulate = {{ hardware = "{hardware}", policy = "vllm", weights = "fp8" }}"#);
        scenario(dir.path(), "spec:llama-3.1-8b", "{ process = \"poisson\", rate = 2.0 }", &target);
        let output = llmlab(dir.path()).args(["simulate", "simulated.toml"]).output().unwrap();
        (output.status.code(), stderr(&output))
    };
    let (code, error) = on("v100");
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("weights: v100-sxm2-32gb has no kernel for fp8 weights"), "{error}");
    assert_eq!(on("a100").0, Some(0));
}

#[test]
fn one_line_of_a_scenario_makes_it_a_simulation_of_a_model_without_weights() {
    let dir = tempfile::tempdir().unwrap();
    let target = r#"simulate = { hardware = "h100-sxm", policy = "vllm", max_num_seqs = 64 }"#;
    scenario(dir.path(), "spec:llama-3.1-8b", "{ process = \"poisson\", load = 0.7 }", target);
    let output = llmlab(dir.path()).args(["run", "simulated.toml"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}\n{}", stdout(&output), stderr(&output));
    let run = &runs(dir.path())[0];
    let (manifest, trials) = read_run(run).unwrap();
    let saturation = manifest.targets[0].saturation_rps.unwrap();
    let rate = manifest.workload.rate_rps.unwrap();
    assert!((0.55..0.85).contains(&(rate / saturation)), "rate {rate} of {saturation}");
    // An 8B model on an H100 serves several such requests a second; a laptop does not.
    assert!((2.0..100.0).contains(&saturation), "{saturation}");
    assert!(manifest.targets[0].kv_blocks.unwrap() > 20_000);
    let repeat = |dir: &str| &trials.iter().find(|trial| trial.facts.dir == dir).unwrap().records;
    assert_eq!((repeat("one-r1").len(), repeat("one-r2").len()), (120, 120));
    let differ = repeat("one-r1") != repeat("one-r2");
    assert!(differ, "repeats draw their own requests, else an interval over them would be a lie");

    let explain = llmlab(dir.path()).args(["run", "simulated.toml", "--explain"]).output().unwrap();
    let said = stdout(&explain);
    for part in ["weights 16.06 GB", "activations", "KV pool", "virtual time"] {
        assert!(said.contains(part), "{part} is missing in:\n{said}");
    }
}

#[test]
fn mistakes_are_told_before_anything_runs() {
    let dir = tempfile::tempdir().unwrap();
    let closed = "{ users = 4 }";
    for (model, target, parts) in [
        (
            "spec:llama-3.1-8b",
            r#"simulate = { hardware = "h100-smx", policy = "vllm" }"#,
            vec!["h100-smx", "did you mean h100-sxm", "this-host"],
        ),
        (
            "spec:llama-3.1-8b",
            r#"simulate = { hardware = "abacus", policy = "vllm" }"#,
            vec!["known are", "mi300x", "this-host"],
        ),
        ("spec:llama-3.1-8b", r#"engine = { policy = "vllm" }"#, vec!["without weights", "simulate"]),
        (
            "spec:llama-3.1-70b",
            r#"simulate = { hardware = "h100-sxm", policy = "vllm" }"#,
            vec!["does not fit on one h100-sxm", "weights take 141.1"],
        ),
        (
            "synthetic:llama-15m",
            r#"simulate = { hardware = "this-host", policy = "vllm", threads = 1 }"#,
            vec![
                "llmlab calibrate --engine --model synthetic:llama-15m --weights bf16 --kv bf16 --threads 1",
            ],
        ),
        (
            "spec:gpt-9",
            r#"simulate = { hardware = "h100-sxm", policy = "vllm" }"#,
            vec!["no model named", "did you mean gpt-2"],
        ),
    ] {
        scenario(dir.path(), model, closed, target);
        let output = llmlab(dir.path()).args(["run", "simulated.toml"]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{target}: {}", stderr(&output));
        // Drawn errors are wrapped.
        let said = stderr(&output).replace("\n  │ ", " ").split_whitespace().collect::<Vec<_>>().join(" ");
        for part in parts {
            assert!(said.contains(part), "{part:?} is missing in: {said}");
        }
    }
    assert!(!dir.path().join("results").exists());
    let live = llmlab(dir.path()).args(["simulate", "http://127.0.0.1:1"]).output().unwrap();
    assert_eq!(live.status.code(), Some(2), "{}", stderr(&live));
}

#[test]
fn what_was_calibrated_here_is_simulated_here() {
    let dir = tempfile::tempdir().unwrap();
    tiny_scenario(dir.path(), 40);
    let output = llmlab(dir.path())
        .args(["calibrate", "--engine", "--model", "synthetic:llama-15m", "--weights", "q8_0"])
        .args(["--threads", "1", "--rounds", "1"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}\n{}", stdout(&output), stderr(&output));
    assert!(stdout(&output).contains("shaped steps told within"), "{}", stdout(&output));
    let output = llmlab(dir.path()).args(["simulate", "tiny.toml"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}\n{}", stdout(&output), stderr(&output));
    let (manifest, trials) = read_run(&runs(dir.path())[0]).unwrap();
    assert!(manifest.targets[0].description.contains("simulated on this host"));
    // A token of a model of 15 M parameters takes some microseconds to some milliseconds, whatever machine this is.
    for record in trials.iter().flat_map(|trial| &trial.records) {
        let span = record.last_token_ns().unwrap() - record.first_token_ns().unwrap();
        let per_token = span / u64::from(record.output_tokens - 1);
        assert!((10_000..100_000_000).contains(&per_token), "{per_token} ns");
    }
}

#[test]
fn speculation_is_simulated_with_the_rate_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let target = |name: &str, keys: &str| {
        format!(
            "[[target]]\nname = \"{name}\"\nsimulate = {{ hardware = \"h100-sxm\", policy = \"vllm\"{keys} }}\n"
        )
    };
    let draft = ", speculative_method = \"draft_model\", speculative_model = \"spec:llama-3.1-8b\"";
    let write = |targets: &[String]| {
        let text = format!(
            "name = \"simulated\"\n[model]\nsource = \"spec:llama-3.1-8b\"\n[workload]\nrequests = 20\narrivals = {{ users = 1 }}\n\
             lengths = {{ input = {{ distribution = \"fixed\", tokens = 100 }}, output = {{ distribution = \"fixed\", tokens = 200 }} }}\n{}",
            targets.concat()
        );
        std::fs::write(dir.path().join("simulated.toml"), text).unwrap();
        llmlab(dir.path()).args(["run", "simulated.toml"]).output().unwrap()
    };
    let rate = |rate: &str| format!("{draft}, speculative_acceptance_rate = {rate}");
    let lookup = ", speculative_method = \"ngram\", speculative_acceptance_rate = [0.8, 0.6]";
    let targets = [
        target("plain", ""),
        target("ngram", lookup),
        target("right", &rate("1")),
        target("wrong", &rate("0.0")),
    ];
    let output = write(&targets);
    let said = format!("{}{}", stdout(&output), stderr(&output));
    assert_eq!(output.status.code(), Some(0), "{said}");
    let (manifest, trials) = read_run(&runs(dir.path())[0]).unwrap();
    let described = &manifest.targets[1].description;
    assert!(
        described.contains("3 drafts by prompt lookup), drafts accepted at an assumed 0.8, 0.6"),
        "{described}"
    );
    let elapsed = |name: &str| trials.iter().find(|t| t.facts.target == name).unwrap().facts.elapsed_ns;
    assert!(elapsed("ngram") < elapsed("plain") && elapsed("wrong") > elapsed("plain"));
    // Drafts of a model as large as the target cost what they bring.
    assert!(elapsed("right") > elapsed("ngram") && elapsed("right") < elapsed("wrong"));

    let wrong = |targets: &[String], words: &str| {
        let output = write(targets);
        let said = stderr(&output).split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(output.status.code() == Some(2) && said.contains(words), "{said}");
    };
    wrong(&[target("one", draft)], "needs speculative_acceptance_rate");
    let other = "speculative_method = \"draft_model\", speculative_model = \"spec:mistral-7b\"";
    wrong(
        &[target("one", &format!(", {other}, speculative_acceptance_rate = 0.5"))],
        "has 32768 tokens, the target",
    );
}
