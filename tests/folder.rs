//! `llmlab run FOLDER`: every scenario in order, failures told and passed over, claims in one table.

mod common;

use common::{llmlab, stderr, stdout};

fn scenario(name: &str, static_first: bool, claimed: &str) -> String {
    let [first, second] = if static_first { ["static", "continuous"] } else { ["continuous", "static"] };
    let engine = |target: &str| match target {
        "static" => r#"{ hardware = "h100-sxm", policy = "static", batch_size = 8 }"#,
        _ => r#"{ hardware = "h100-sxm", policy = "vllm", max_num_seqs = 8 }"#,
    };
    format!(
        r#"
name = "{name}"
[model]
source = "spec:llama-3.1-8b"
max_model_len = 2048
[workload]
lengths = {{ input = {{ distribution = "fixed", tokens = 64 }}, output = {{ distribution = "lognormal", median = 40, p95 = 300 }} }}
requests = 120
warmup = 16
arrivals = {{ users = 24 }}
[[target]]
name = "{first}"
simulate = {}
[[target]]
name = "{second}"
simulate = {}
[[claim]]
name = "batching"
says = "better"
source = "this test, 2026"
metric = "output_tokens_per_s"
ratio = {claimed}
target = "continuous"
against = "static"
"#,
        engine(first),
        engine(second)
    )
}

#[test]
fn one_failure_does_not_stop_the_rest_and_claims_are_told_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("claims");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("a.toml"), scenario("a", true, "[1.2, 9]")).unwrap();
    std::fs::write(folder.join("b.toml"), "name = \"b\"\n[model]\n").unwrap();
    std::fs::write(folder.join("c.toml"), scenario("c", false, "[1.2, 9]")).unwrap();
    std::fs::write(folder.join("d.toml"), scenario("d", false, "[2, 9]")).unwrap();
    std::fs::write(folder.join("notes.md"), "no scenario").unwrap();
    let output = llmlab(dir.path()).args(["run", "claims"]).output().unwrap();
    let (said, complained) = (stdout(&output), stderr(&output));
    assert_eq!(
        output.status.code(),
        Some(2),
        "the code of the first that did not pass\n{said}\n{complained}"
    );
    assert!(complained.contains("[1 of 4]") && complained.contains("[4 of 4]"), "{complained}");
    let table = said.split("Claims\n").nth(1).unwrap_or_else(|| panic!("no table in:\n{said}"));
    for part in [
        "batching: better",
        "claimed    1.20-9.00x output tok/s",
        "measured   no run",
        "in 3 repeats: confirmed",
        "the output tokens a step",
        "d claims something else under this name",
    ] {
        assert!(table.contains(part), "{part:?} is missing in:\n{table}");
    }
    let written = std::fs::read_dir(dir.path().join("results/runs")).unwrap().map(|e| e.unwrap().path());
    let markdown = written.into_iter().find(|path| path.extension().is_some_and(|e| e == "md")).unwrap();
    let text = std::fs::read_to_string(markdown).unwrap();
    assert!(text.starts_with("`llmlab run claims`") && text.contains("| batching: output tok/s |"), "{text}");

    // The newest run is still a run and not the table beside it.
    assert!(llmlab(dir.path()).arg("report").output().unwrap().status.success());
}

#[test]
fn a_folder_can_be_explained_and_one_without_scenarios_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("some");
    std::fs::create_dir(&folder).unwrap();
    let output = llmlab(dir.path()).args(["run", "some"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("no scenario"), "{}", stderr(&output));
    std::fs::write(folder.join("a.toml"), scenario("a", true, "[1.2, 9]")).unwrap();
    let output = llmlab(dir.path()).args(["run", "some", "--explain"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains("nothing was run"));
    assert!(!dir.path().join("results").exists());
}

#[test]
fn other_tools_definitions_are_among_what_a_folder_prints_as_json() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("some");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("a.toml"), scenario("a", true, "[1.2, 9]")).unwrap();
    let args = ["run", "some", "--json", "--compat", "vllm,mlperf"];
    let output = llmlab(dir.path()).args(args).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let said: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(said.pointer("/runs/0/compat").unwrap().as_array().unwrap().len(), 2, "{said}");
}
