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

/// Keys that docs/engine.md promises for every row.
const BENCH_KEYS: [&str; 26] = [
    "model",
    "family",
    "parameters",
    "weights",
    "weight_bytes",
    "kv",
    "kv_bytes_per_token",
    "cpu",
    "isa",
    "threads",
    "peak",
    "peak_ops_per_s",
    "test",
    "pp",
    "tg",
    "pl",
    "n_kv",
    "repetitions",
    "t_pp",
    "speed_pp",
    "t_tg",
    "speed_tg",
    "t",
    "speed",
    "pp_compute_share",
    "tg_bandwidth_share",
];

#[test]
fn bench_engine_prints_the_columns_of_llama_bench_and_batched_bench() {
    let dir = tempfile::tempdir().unwrap();
    let args =
        ["bench-engine", "--model", "synthetic:llama-tiny", "--weights", "bf16,q8_0", "--threads", "1"];
    let sizes = ["--pp", "24", "--tg", "5", "--batch", "3", "--prompt-tokens", "7", "--generate-tokens", "4"];
    let output =
        llmlab(dir.path()).args(args).args(sizes).args(["--repetitions", "2", "--json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let rows: Vec<serde_json::Value> =
        stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let tests: Vec<&str> = rows.iter().map(|row| row["test"].as_str().unwrap()).collect();
    assert_eq!(tests, ["pp24", "tg5", "batch", "pp24", "tg5", "batch"], "three tests for each format");
    for row in &rows {
        for key in BENCH_KEYS {
            assert!(row.get(key).is_some(), "{key} is missing in {row}");
        }
        assert_eq!((row["repetitions"].as_u64(), row["threads"].as_u64()), (Some(2), Some(1)));
        assert!(row["read_bandwidth_min_bytes_per_s"].as_f64().unwrap() > 0.0);
    }
    let batch = &rows[2];
    assert_eq!((batch["pl"].as_u64(), batch["n_kv"].as_u64()), (Some(3), Some(3 * 11)));
    let (t_pp, t_tg) = (batch["t_pp"].as_f64().unwrap(), batch["t_tg"].as_f64().unwrap());
    assert!((batch["t"].as_f64().unwrap() - t_pp - t_tg).abs() < 1e-9);
    assert!(rows[0]["speed_tg"].is_null() && rows[1]["speed_pp"].is_null());
    assert_eq!((rows[0]["weights"].as_str(), rows[3]["weights"].as_str()), (Some("bf16"), Some("q8_0")));
    let bytes = |row: &serde_json::Value| row["weight_bytes"].as_u64().unwrap() as f64;
    assert!((1.7..2.0).contains(&(bytes(&rows[0]) / bytes(&rows[3]))), "16 bits against 8.5, norms in f32");
    // A step of one sequence reads the weights and what it has cached, so it moves at least the weights' bytes.
    assert!(rows[1]["tg_bytes_per_step"].as_f64().unwrap() > 0.5 * bytes(&rows[0]));
}

#[test]
fn bench_engine_refuses_what_it_cannot_measure() {
    let dir = tempfile::tempdir().unwrap();
    for (args, part) in [
        (vec!["--weights", "q9_0"], "q8_0"),
        (vec!["--kv", "int3"], "int8"),
        (vec!["--pp", "0", "--tg", "0", "--batch", "0"], "no test"),
        (vec!["--pp", "4096"], "--pp"),
        (vec!["--repetitions", "0"], "--repetitions 0"),
        (vec!["--threads", "0"], "--threads 0"),
    ] {
        let output = llmlab(dir.path())
            .args(["bench-engine", "--model", "synthetic:llama-tiny"])
            .args(&args)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(part), "{args:?} should mention {part}: {}", stderr(&output));
        assert!(stdout(&output).is_empty(), "{args:?}: {}", stdout(&output));
    }
}

#[test]
fn inspect_describes_a_model_of_every_kind() {
    let dir = tempfile::tempdir().unwrap();
    let inspect = |args: &[&str]| {
        let output = llmlab(dir.path()).args(["models", "inspect"]).args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
        stdout(&output)
    };
    let said = inspect(&["synthetic:llama-1.1b"]);
    for part in ["llama", "1.10 G", "22 layers", "32 query heads on 4 KV heads of 64", "int8 12.0 kB"] {
        assert!(said.contains(part), "{part} is missing in:\n{said}");
    }
    let said = inspect(&["synthetic:qwen3moe-tiny", "--tensors"]);
    assert!(
        said.contains("experts") && said.contains("model.layers.0.mlp.experts.0.gate_proj.weight"),
        "{said}"
    );
    let json: serde_json::Value =
        serde_json::from_str(&inspect(&["synthetic:gemma3-tiny", "--tensors", "--json"])).unwrap();
    let tensors = json["tensors"].as_array().unwrap();
    let parameters: u64 = tensors
        .iter()
        .map(|t| t["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).product::<u64>())
        .sum();
    assert_eq!(json["parameters"].as_u64(), Some(parameters));
    let bytes: u64 = tensors.iter().map(|t| t["bytes"].as_u64().unwrap()).sum();
    assert_eq!(json["stored_bytes"].as_u64(), Some(bytes));
}

#[test]
fn a_file_that_is_no_model_is_one_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("text.gguf"), "This is not a model.").unwrap();
    std::fs::write(dir.path().join("empty.gguf"), "").unwrap();
    std::fs::write(dir.path().join("model.bin"), "x").unwrap();
    std::fs::create_dir(dir.path().join("folder")).unwrap();
    std::fs::create_dir(dir.path().join("half")).unwrap();
    std::fs::write(dir.path().join("half/config.json"), "{\"model_type\": ").unwrap();
    for model in
        ["text.gguf", "empty.gguf", "model.bin", "folder", "half", "absent.gguf", "synthetic:nothing"]
    {
        for command in
            [&["models", "inspect"][..], &["bench-engine", "--model"], &["serve", "--port", "0", "--model"]]
        {
            let output = llmlab(dir.path()).args(command).arg(model).output().unwrap();
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(2), "{command:?} {model}: {said}");
            assert!(said.contains(model), "{command:?} {model}: {said}");
            assert!(!said.contains("panicked"), "{command:?} {model}: {said}");
        }
    }
}

/// Runs `llmlab models ...` in `dir`; the exit code and both outputs.
fn models(dir: &std::path::Path, args: &[&str]) -> (Option<i32>, String, String) {
    let output = llmlab(dir).arg("models").args(args).output().unwrap();
    (output.status.code(), stdout(&output), stderr(&output))
}

fn inspect_json(dir: &std::path::Path, model: &str) -> serde_json::Value {
    let (code, said, error) = models(dir, &["inspect", model, "--tensors", "--json"]);
    assert_eq!(code, Some(0), "{model}: {error}");
    serde_json::from_str(&said).unwrap()
}

#[test]
fn a_model_goes_to_gguf_and_back_without_changing() {
    let dir = tempfile::tempdir().unwrap();
    for preset in ["llama-tiny", "qwen3moe-tiny", "gemma2-tiny", "phi3-tiny"] {
        let run = |args: &[&str]| {
            let (code, _, error) = models(dir.path(), args);
            assert_eq!(code, Some(0), "{args:?}: {error}");
        };
        let name = |suffix: &str| format!("{preset}{suffix}");
        let (folder, gguf, back) = (name("-a"), name("-b.gguf"), name("-c"));
        run(&["synth", preset, &folder, "--weights", "bf16", "--seed", "5"]);
        run(&["convert", &folder, &gguf, "--weights", "bf16"]);
        run(&["convert", &gguf, &back, "--weights", "bf16"]);
        let first = std::fs::read(dir.path().join(&folder).join("model.safetensors")).unwrap();
        let last = std::fs::read(dir.path().join(&back).join("model.safetensors")).unwrap();
        assert!(first == last, "{preset}: weights changed on the way");
        let (a, b, c) = (
            inspect_json(dir.path(), &folder),
            inspect_json(dir.path(), &gguf),
            inspect_json(dir.path(), &back),
        );
        for key in ["family", "parameters", "tokenizer_tokens", "eos_token_ids", "chat_template"] {
            assert_eq!(a[key], b[key], "{preset} {key}");
            assert_eq!(a[key], c[key], "{preset} {key}");
        }
    }
}

#[test]
fn a_synthetic_file_holds_the_mix_that_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let (code, _, error) = models(dir.path(), &["synth", "llama-tiny", "mix.gguf", "--weights", "q4_k_m"]);
    assert_eq!(code, Some(0), "{error}");
    let json = inspect_json(dir.path(), "mix.gguf");
    let formats: Vec<&str> =
        json["tensors"].as_array().unwrap().iter().map(|t| t["format"].as_str().unwrap()).collect();
    for format in ["q4_k", "q6_k", "f32"] {
        assert!(formats.contains(&format), "{format} is missing in {formats:?}");
    }
    for (layout, weights, format) in
        [("gptq_v2", "int4", "int4"), ("awq_gemv", "int4", "int4"), ("compressed-tensors", "int8", "int8")]
    {
        let args = ["synth", "llama-tiny", layout, "--weights", weights, "--layout", layout];
        let (code, _, error) = models(dir.path(), &args);
        assert_eq!(code, Some(0), "{layout}: {error}");
        let json = inspect_json(dir.path(), layout);
        assert_eq!(json["formats"][0]["format"].as_str(), Some(format), "{layout}");
    }
    // What lies in a quantized checkpoint is what an engine uses unless told otherwise, and it computes with it.
    for (model, weights) in [("mix.gguf", "q4_k (as stored)"), ("gptq_v2", "int4 (as stored)")] {
        let args = [
            "bench-engine",
            "--model",
            model,
            "--pp",
            "16",
            "--tg",
            "0",
            "--batch",
            "0",
            "-r",
            "1",
            "--json",
        ];
        let output = llmlab(dir.path()).args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{model}: {}", stderr(&output));
        let row: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
        assert_eq!(row["weights"].as_str(), Some(weights));
    }
}

#[test]
fn an_output_is_never_overwritten_by_accident_and_never_half_there() {
    let dir = tempfile::tempdir().unwrap();
    let synth = |out: &str, more: &[&str]| {
        let args = [&["synth", "llama-tiny", out, "--weights", "q8_0"], more].concat();
        models(dir.path(), &args)
    };
    assert_eq!(synth("m.gguf", &[]).0, Some(0));
    let (code, _, error) = synth("m.gguf", &[]);
    assert_eq!(code, Some(2));
    assert!(error.contains("exists already") && error.contains("--force"), "{error}");
    assert_eq!(synth("m.gguf", &["--force"]).0, Some(0));

    std::fs::create_dir(dir.path().join("mine")).unwrap();
    std::fs::write(dir.path().join("mine/notes.txt"), "notes").unwrap();
    let (code, _, error) =
        models(dir.path(), &["synth", "llama-tiny", "mine", "--weights", "bf16", "--force"]);
    assert_eq!(code, Some(2), "{error}");
    assert!(dir.path().join("mine/notes.txt").is_file());

    for (args, part) in [
        (vec!["synth", "llama-tiny", "x", "--weights", "q4_k_m"], ".gguf"),
        (vec!["synth", "llama-tiny", "x.gguf", "--weights", "int8"], "folder"),
        (vec!["synth", "llama-tiny", "x.gguf", "--weights", "q4_k_xl"], "q4_k_m"),
        (vec!["synth", "llama-tiny", "x", "--weights", "bf16", "--layout", "awq"], "--layout"),
        (vec!["synth", "gpt2-tiny", "x", "--weights", "bf16"], "llama-15m"),
        (vec!["synth", "llama-tiny", "absent/x", "--weights", "bf16"], "absent"),
        (vec!["convert", "absent.gguf", "x", "--weights", "bf16"], "absent.gguf"),
    ] {
        let (code, _, error) = models(dir.path(), &args);
        assert_eq!(code, Some(2), "{args:?}: {error}");
        assert!(error.contains(part), "{args:?} should mention {part}: {error}");
    }
    // A file cut short is refused, and what was to come of it leaves no trace.
    let whole = std::fs::read(dir.path().join("m.gguf")).unwrap();
    std::fs::write(dir.path().join("cut.gguf"), &whole[..whole.len() - 1000]).unwrap();
    let (code, _, error) = models(dir.path(), &["convert", "cut.gguf", "x", "--weights", "bf16"]);
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("cut.gguf"), "{error}");
    let mut names: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.retain(|name| name != "cache");
    names.sort();
    assert_eq!(names, ["cut.gguf", "m.gguf", "mine"]);
}

/// English with a little structure; 4,000 bytes are as many tokens of a synthetic model.
fn write_text(dir: &std::path::Path) {
    let text: String =
        (0..80).map(|line| format!("line {line:03}: the quick brown fox jumps over a dog.\n")).collect();
    std::fs::write(dir.join("text.txt"), text).unwrap();
}

fn perplexity_json(dir: &std::path::Path, args: &[&str]) -> serde_json::Value {
    let (code, said, error) = models(dir, &[&["perplexity"], args, &["--json"]].concat());
    assert_eq!(code, Some(0), "{args:?}: {error}");
    serde_json::from_str(&said).unwrap()
}

#[test]
fn perplexity_counts_what_llama_perplexity_counts() {
    let dir = tempfile::tempdir().unwrap();
    write_text(dir.path());
    let run = |more: &[&str]| {
        let args = ["synthetic:llama-tiny", "--text", "text.txt", "--context", "128", "--weights", "f32"];
        perplexity_json(dir.path(), &[&args, more].concat())
    };
    let one = run(&["--threads", "1"]);
    // One token a byte and no BOS, the last line break left out; 63 predictions of each window.
    let tokens = std::fs::metadata(dir.path().join("text.txt")).unwrap().len() - 1;
    assert_eq!(one["text_tokens"].as_u64(), Some(tokens));
    assert_eq!(one["windows"].as_u64(), Some(tokens / 128));
    assert_eq!(one["scored_tokens"].as_u64(), Some(tokens / 128 * 63));
    assert!(one["begin_token"].is_null());
    let (perplexity, nll) = (one["perplexity"].as_f64().unwrap(), one["nll"].as_f64().unwrap());
    assert!((perplexity - nll.exp()).abs() < 1e-9);
    // Random weights know nothing: near or above the number of their tokens.
    assert!(perplexity > 100.0, "{one}");
    assert!(one["perplexity_stderr"].as_f64().unwrap() > 0.0);
    assert!(one["tokens_per_s"].as_f64().unwrap() > 0.0);
    assert_eq!(one["nll"], run(&["--threads", "2"])["nll"], "the same bits on any number of threads");
    let some = run(&["--chunks", "3"]);
    assert_eq!((some["windows"].as_u64(), some["scored_tokens"].as_u64()), (Some(3), Some(189)));
    let args = ["perplexity", "synthetic:llama-tiny", "--text", "text.txt", "--context", "64"];
    let (code, said, error) = models(dir.path(), &args);
    assert_eq!(code, Some(0), "{error}");
    assert!(said.contains("perplexity ") && said.contains(" ± ") && said.contains("tokens scored"), "{said}");
}

#[test]
fn predictions_are_kept_and_compared() {
    let dir = tempfile::tempdir().unwrap();
    write_text(dir.path());
    let model = "synthetic:qwen3-tiny";
    let args =
        [model, "--text", "text.txt", "--context", "96", "--chunks", "4", "--weights", "f32", "--kv", "f32"];
    let base = perplexity_json(dir.path(), &[&args[..], &["--save-logits", "base.kld"]].concat());
    assert!(base.get("divergence").is_none());
    let against = |weights: &str| {
        perplexity_json(dir.path(), &[model, "--kl-base", "base.kld", "--weights", weights, "--kv", "f32"])
    };
    let same = against("f32");
    assert_eq!((&same["nll"], &same["scored_tokens"]), (&base["nll"], &base["scored_tokens"]));
    let kl = |found: &serde_json::Value| found["divergence"]["kl_mean"].as_f64().unwrap();
    assert!(kl(&same).abs() < 1e-6 && same["divergence"]["same_top"] == 1.0, "{same}");
    let (q8_0, q2_k) = (against("q8_0"), against("q2_k"));
    assert!(kl(&q8_0) > 2.0 * kl(&same).abs() && kl(&q2_k) > 10.0 * kl(&q8_0), "{q8_0} {q2_k}");
    // Nothing is overwritten, and a run that fails leaves no file.
    let (code, _, error) =
        models(dir.path(), &[&["perplexity"], &args[..], &["--save-logits", "base.kld"]].concat());
    assert!(code == Some(2) && error.contains("exists already"), "{error}");
}

#[test]
fn perplexity_says_what_is_wrong_with_its_input() {
    let dir = tempfile::tempdir().unwrap();
    write_text(dir.path());
    std::fs::write(dir.path().join("short.txt"), "too short").unwrap();
    std::fs::write(dir.path().join("latin1.txt"), [b'a', 0xe9, b'b']).unwrap();
    let (code, _, error) = models(dir.path(), &["synth", "llama-tiny", "hf", "--weights", "bf16"]);
    assert_eq!(code, Some(0), "{error}");
    std::fs::remove_file(dir.path().join("hf/tokenizer.json")).unwrap();
    let tiny = "synthetic:llama-tiny";
    for (args, part) in [
        (vec![tiny], "--text"),
        (vec![tiny, "--text", "absent.txt"], "absent.txt"),
        (vec![tiny, "--text", "short.txt"], "9 tokens"),
        (vec![tiny, "--text", "latin1.txt"], "latin1.txt"),
        (vec![tiny, "--text", "text.txt", "--context", "2"], "context of 2"),
        (vec![tiny, "--text", "text.txt", "--context", "1000000"], "1000000"),
        (vec![tiny, "--text", "text.txt", "--chunks", "0"], "--chunks 0"),
        (vec![tiny, "--text", "text.txt", "--threads", "0"], "--threads 0"),
        (vec![tiny, "--text", "text.txt", "--weights", "q4_k_xl"], "q4_k_m"),
        (vec![tiny, "--text", "text.txt", "--kv", "q8"], "int8"),
        (vec!["hf", "--text", "text.txt"], "tokenizer.json"),
        (vec![tiny, "--kl-base", "text.txt"], "text.txt"),
        (vec![tiny, "--kl-base", "absent.kld"], "absent.kld"),
        (vec![tiny, "--text", "text.txt", "--save-logits", "absent/x"], "absent"),
    ] {
        let (code, _, error) = models(dir.path(), &[&["perplexity"], &args[..]].concat());
        assert_eq!(code, Some(2), "{args:?}: {error}");
        assert!(error.contains(part), "{args:?} should mention {part}: {error}");
    }
}
