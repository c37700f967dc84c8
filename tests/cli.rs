//! What a person meets at the command line: help, one clear error with the right exit code, nothing run by accident.

mod common;

use common::{llmlab, stderr, stdout, tiny_scenario};

#[test]
fn a_misspelt_key_names_file_line_and_accepted_keys() {
    let dir = tempfile::tempdir().unwrap();
    let path = tiny_scenario(dir.path(), 12);
    let text = std::fs::read_to_string(&path).unwrap().replace("requests =", "request =");
    std::fs::write(&path, text).unwrap();
    let output = llmlab(dir.path()).args(["run", "tiny.toml"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = stderr(&output);
    assert!(said.contains("tiny.toml:8"), "{said}");
    assert!(said.contains("requests"), "{said}");
    assert!(!dir.path().join("results").exists(), "nothing may be recorded for a scenario that was refused");
}

#[test]
fn explain_prints_the_plan_and_runs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    tiny_scenario(dir.path(), 12);
    let output = llmlab(dir.path()).args(["run", "tiny.toml", "--explain"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let said = stdout(&output);
    for part in
        ["12 requests", "288 prompt + 144 output tokens", "policy vllm", "policy static", "14.4 M parameters"]
    {
        assert!(said.contains(part), "{part} is missing in:\n{said}");
    }
    assert!(!dir.path().join("results").exists());
}

#[test]
fn a_template_explains_itself_and_is_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let init = || llmlab(dir.path()).args(["init", "mine.toml"]).output().unwrap();
    assert_eq!(init().status.code(), Some(0));
    let again = init();
    assert_eq!(again.status.code(), Some(2));
    assert!(stderr(&again).contains("exists already"));
    let output = llmlab(dir.path()).args(["run", "mine.toml", "--explain"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn unknown_models_policies_and_runs_are_usage_errors() {
    let dir = tempfile::tempdir().unwrap();
    for (args, part) in [
        (vec!["serve", "--model", "synthetic:nothing", "--port", "0"], "llama-15m"),
        (vec!["serve", "--model", "synthetic:llama-15m", "--policy", "nothing", "--port", "0"], "vllm"),
        (
            vec!["serve", "--model", "synthetic:llama-15m", "--set", "max_num_seqs=0", "--port", "0"],
            "max_num_seqs",
        ),
        (
            vec!["serve", "--model", "synthetic:llama-15m", "--api-key-env", "LLMLAB_NOT_SET"],
            "LLMLAB_NOT_SET",
        ),
        (vec!["report"], "no runs"),
        (vec!["run", "absent.toml"], "absent.toml"),
        (vec!["calibrate", "--threads", "0"], "--threads 0"),
    ] {
        let output = llmlab(dir.path()).args(&args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(part), "{args:?} should mention {part}: {}", stderr(&output));
    }
}

#[test]
fn a_server_that_is_not_there_is_a_target_error() {
    let dir = tempfile::tempdir().unwrap();
    // Port 9 (discard) is not served on a test machine.
    let output = llmlab(dir.path()).args(["run", "http://127.0.0.1:9"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(stderr(&output).contains("127.0.0.1:9"));
}

#[test]
fn schema_and_completions_are_printed() {
    let dir = tempfile::tempdir().unwrap();
    let schema = llmlab(dir.path()).arg("schema").output().unwrap();
    let parsed: serde_json::Value = serde_json::from_str(&stdout(&schema)).unwrap();
    assert!(parsed.pointer("/properties/workload").is_some());
    let bash = llmlab(dir.path()).args(["completions", "bash"]).output().unwrap();
    assert!(stdout(&bash).contains("_llmlab"));
}
