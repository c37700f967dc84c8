//! The catalogue at the command line: lists, one entry with its sources, memory line by line, and a user's own files.

mod common;

use common::{llmlab, stderr, stdout};
use serde_json::Value;

fn run(dir: &std::path::Path, args: &[&str]) -> (Option<i32>, String, String) {
    let output = llmlab(dir).args(args).env("XDG_CONFIG_HOME", dir.join("no-config")).output().unwrap();
    (output.status.code(), stdout(&output), stderr(&output))
}

fn json(dir: &std::path::Path, args: &[&str]) -> Value {
    let (code, said, error) = run(dir, args);
    assert_eq!(code, Some(0), "{args:?}: {error}");
    serde_json::from_str(&said).unwrap()
}

#[test]
fn an_entry_shows_every_figure_with_where_it_is_from() {
    let dir = tempfile::tempdir().unwrap();
    let (code, said, _) = run(dir.path(), &["hardware", "show", "H100"]);
    assert_eq!(code, Some(0));
    for part in [
        "h100-sxm",
        "memory_bandwidth_gb_per_s",
        "3350",
        "LLM-Viewer uses 3072",
        "published",
        "spot",
        "reserved",
    ] {
        assert!(said.contains(part), "{part} is missing in:\n{said}");
    }
    let device = json(dir.path(), &["hardware", "show", "h100", "--json"]);
    assert_eq!(device["link_gb_per_s"]["value"], 450.0);
    assert!(device["prices"].as_array().unwrap().len() > 5);
    let (code, said, _) = run(dir.path(), &["models", "show", "deepseek-ai/DeepSeek-V3"]);
    assert_eq!(code, Some(0));
    for part in [
        "671026419200 parameters",
        "8 of 256 experts of 2048",
        "keys and values through 512",
        "the engine does not run it",
    ] {
        assert!(said.contains(part), "{part} is missing in:\n{said}");
    }
    let all = json(dir.path(), &["models", "list", "--json"]);
    assert!(all.as_array().unwrap().iter().any(|model| model["name"] == "gpt-oss-120b"));
    assert!(run(dir.path(), &["hardware", "list"]).1.contains("raspberry-pi-5"));
}

#[test]
fn an_unknown_name_gives_close_ones() {
    let dir = tempfile::tempdir().unwrap();
    for (args, close) in
        [(["hardware", "show", "h10O"], "did you mean"), (["models", "show", "deepseek-v33"], "deepseek-v3")]
    {
        let (code, _, error) = run(dir.path(), &args);
        assert_eq!(code, Some(2));
        assert!(error.contains(close), "{error}");
    }
}

#[test]
fn memory_is_itemised_and_the_lines_add_up() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["models", "memory", "llama-3.1-70b", "--hardware", "h100", "--tp", "2", "--weights", "fp8"];
    let plan =
        json(dir.path(), &[&args[..], &["--max-model-len", "16000", "--lengths", "2000", "--json"]].concat());
    let items = plan["items"].as_array().unwrap().iter().map(|item| item["bytes"].as_u64().unwrap());
    let left = plan["kv_bytes_available"].as_u64().unwrap();
    assert_eq!(items.sum::<u64>() + left, plan["usable_bytes"].as_u64().unwrap());
    assert_eq!(plan["fits"], true);
    let sequences = plan["sequences"].as_array().unwrap();
    assert!(sequences[1]["at_a_time"].as_f64().unwrap() > 7.9 * sequences[0]["at_a_time"].as_f64().unwrap());
    let (code, said, _) = run(dir.path(), &args);
    assert_eq!(code, Some(0));
    assert!(said.contains("weights: MLP") && said.contains("left for the cache"), "{said}");
    let (_, said, _) = run(dir.path(), &["models", "memory", "llama-3.1-70b", "--hardware", "h100"]);
    assert!(said.contains("Does not fit: needs 141.1 GB for weights") && said.contains("tp = 4"), "{said}");
    for (more, expected) in [
        (["--tp", "3"], "accepted are 1, 2, 4, 8"),
        (["--weights", "q9"], "accepted are published"),
        (["--hardware", "nothing"], "no hardware named"),
        (["--memory-gib", "-1"], "--memory-gib"),
    ] {
        let base = ["models", "memory", "llama-3.1-70b"];
        let hardware: &[&str] = if more[0] == "--hardware" { &[] } else { &["--hardware", "h100"] };
        let more = [more[0], more[1]];
        let argument = format!("{}={}", more[0], more[1]);
        let (code, _, error) = run(dir.path(), &[&base[..], hardware, &[&argument]].concat());
        assert_eq!(code, Some(2), "{more:?}");
        assert!(error.replace("\n  │ ", " ").contains(expected), "{more:?}: {error}");
    }
}

/// The two commands parse formats alike, and take a repository's own where none is named.
#[test]
fn a_step_is_priced_in_every_format_that_memory_is_counted_in() {
    let dir = tempfile::tempdir().unwrap();
    let step = |model: &str, more: &[&str]| {
        let (code, said, error) =
            run(dir.path(), &[&["roofline", model, "--hardware", "h100"], more].concat());
        assert_eq!(code, Some(0), "{model} {more:?}: {error}");
        said
    };
    assert!(step("llama-3.1-8b", &["--weights", "q3_k_m"]).contains("q3_k_m weights"));
    assert!(step("qwen/qwen3-32b-fp8", &[]).contains("fp8 weights"));
    let (code, _, error) = run(dir.path(), &["roofline", "gpt-2", "--hardware", "h100", "--weights", "q9"]);
    assert_eq!(code, Some(2));
    assert!(error.contains("accepted are published"), "{error}");
    let memory =
        json(dir.path(), &["models", "memory", "qwen/qwen3-32b-fp8", "--hardware", "h100", "--json"]);
    let bytes = |item: &Value| {
        item["what"].as_str().unwrap().starts_with("weights").then(|| item["bytes"].as_f64().unwrap())
    };
    let weights: f64 = memory["items"].as_array().unwrap().iter().filter_map(bytes).sum();
    assert!((weights / 34.3e9 - 1.0).abs() < 0.01, "{weights} bytes");
}

#[test]
fn own_files_are_found_in_three_places_and_the_most_particular_wins() {
    let dir = tempfile::tempdir().unwrap();
    let board = |bandwidth: u32| {
        format!(
            r#"
[[hardware]]
name = "my-board"
description = "a board"
kind = "board"
memory = "gddr"
aliases = []
memory_bandwidth_gb_per_s = {{ value = {bandwidth}, source = "its box", date = "2026-11", confidence = "published" }}
"#
        )
    };
    let write = |path: &str, text: String| {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let bandwidth = |args: &[&str]| {
        json(dir.path(), &[&["hardware", "show", "my-board", "--json"], args].concat())
            ["memory_bandwidth_gb_per_s"]["value"]
            .as_f64()
            .unwrap()
    };
    write("no-config/llmlab/catalogue/a.toml", board(11));
    assert_eq!(bandwidth(&[]), 11.0);
    write("llmlab-catalogue/a.toml", board(22));
    assert_eq!(bandwidth(&[]), 22.0);
    write("other.toml", board(33));
    assert_eq!(bandwidth(&["--catalogue", "other.toml"]), 33.0);
    write("wrong.toml", board(0));
    let (code, _, error) = run(dir.path(), &["hardware", "list", "--catalogue", "wrong.toml"]);
    assert_eq!(code, Some(2));
    assert!(error.contains("wrong.toml:2") && error.contains("memory_bandwidth_gb_per_s"), "{error}");
    let (code, _, error) = run(dir.path(), &["hardware", "list", "--catalogue", "nowhere.toml"]);
    assert_eq!(code, Some(2));
    assert!(error.contains("nowhere.toml"), "{error}");
}
