//! Real servers, if this machine has them: vLLM and llama.cpp's server started, driven and stopped by one scenario beside our
//! own engine, with one model. Too heavy for every day:
//!
//! ```text
//! LLMLAB_VLLM=.../bin/vllm LLMLAB_LLAMA_SERVER=.../llama-server cargo test --release --test real_servers -- --ignored --nocapture
//! ```
//!
//! What is not named is left out. docs/protocols.md says how to install them; `LLMLAB_RESULTS` keeps the run.

mod common;

use std::path::{Path, PathBuf};

use common::{llmlab, stderr, stdout};
use llmlab_results::read_run;
use llmlab_results::record::{CountSource, Outcome};

const MODEL: &str = "llama-110m";
const INPUT_TOKENS: u32 = 96;
const OUTPUT_TOKENS: u32 = 64;

fn given(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from)
}

fn synthesize(dir: &Path, output: &str) -> String {
    let done = llmlab(dir).args(["models", "synth", MODEL, output, "--weights", "bf16"]).output().unwrap();
    assert!(done.status.success(), "{}", stderr(&done));
    dir.join(output).display().to_string()
}

fn scenario(dir: &Path) -> Vec<&'static str> {
    let folder = synthesize(dir, "folder");
    let mut names = vec!["llmlab"];
    let mut text = format!(
        r#"
name = "real-servers"
seed = 3
[model]
source = "{folder}"
max_model_len = 512
[workload]
lengths = {{ input = {{ distribution = "fixed", tokens = {INPUT_TOKENS} }}, output = {{ distribution = "fixed", tokens = {OUTPUT_TOKENS} }} }}
requests = 48
warmup = 8
arrivals = {{ users = 8 }}
[compare]
repeats = 2
[[target]]
name = "llmlab"
engine = {{ policy = "vllm", max_num_seqs = 16, weights = "bf16" }}
"#
    );
    if let Some(vllm) = given("LLMLAB_VLLM") {
        names.push("vllm");
        text += &format!(
            r#"
[[target]]
name = "vllm"
[target.command]
run = ["{}", "serve", "{folder}", "--served-model-name", "m", "--host", "127.0.0.1", "--port", "8123", "--dtype", "bfloat16",
       "--max-model-len", "512", "--max-num-seqs", "16", "--no-enable-prefix-caching"]
url = "http://127.0.0.1:8123"
health = "/health"
ready_timeout = "6m"
protocol = "openai-completions"
model = "m"
metrics = "/metrics"
env = {{ HF_HUB_OFFLINE = "1", TRANSFORMERS_OFFLINE = "1", VLLM_NO_USAGE_STATS = "1", DO_NOT_TRACK = "1", VLLM_CPU_KVCACHE_SPACE = "2", VLLM_HOST_IP = "127.0.0.1" }}
"#,
            vllm.display()
        );
    }
    if let Some(server) = given("LLMLAB_LLAMA_SERVER") {
        names.push("llama-server");
        let gguf = synthesize(dir, "model.gguf");
        text += &format!(
            r#"
[[target]]
name = "llama-server"
[target.command]
run = ["{}", "--model", "{gguf}", "--host", "127.0.0.1", "--port", "8124", "--metrics", "--parallel", "8", "--ctx-size", "4096"]
url = "http://127.0.0.1:8124"
health = "/health"
ready_timeout = "2m"
protocol = "llamacpp"
metrics = "/metrics"
"#,
            server.display()
        );
    }
    std::fs::write(dir.join("real.toml"), text).unwrap();
    names
}

#[test]
#[ignore = "needs servers that LLMLAB_VLLM and LLMLAB_LLAMA_SERVER name"]
fn real_servers_are_driven_beside_our_own() {
    let dir = tempfile::tempdir().unwrap();
    let names = scenario(dir.path());
    let results = given("LLMLAB_RESULTS").unwrap_or_else(|| dir.path().join("runs"));
    let output = llmlab(dir.path()).args(["run", "real.toml", "--results"]).arg(&results).output().unwrap();
    println!("{}", stdout(&output));
    // 4: a client that shares two cores with three servers may rightly not be trusted; what came back is still checked.
    assert!(matches!(output.status.code(), Some(0 | 4)), "{}", stderr(&output));
    let newest = std::fs::read_dir(&results).unwrap().map(|run| run.unwrap().path()).max().unwrap();
    let (_, trials) = read_run(&newest).unwrap();
    assert_eq!(trials.len(), 2 * names.len());
    for trial in trials {
        let place = &trial.facts.dir;
        assert_eq!(trial.records.len(), 48, "{place}");
        for record in &trial.records {
            assert_eq!((record.outcome, &record.error), (Outcome::Ok, &None), "{place}");
            assert_eq!(
                (record.prompt_tokens, record.output_tokens),
                (INPUT_TOKENS, OUTPUT_TOKENS),
                "{place}"
            );
            assert_ne!(record.output_tokens_source, CountSource::ChunkCount, "{place}");
        }
        assert!(
            trial.server.iter().any(|sample| sample.running.is_some()),
            "{place}: no metrics page was read"
        );
    }
}
