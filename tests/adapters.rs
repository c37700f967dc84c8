//! Adapters from a scenario to the engine: made from a seed, named by requests, and computed.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use common::{llmlab, stderr, stdout};
use llmlab_results::read_run;

/// A server of ours on a free port, gone when dropped.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(command: &mut Command) -> Server {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines.next().expect("the server says where it listens").unwrap();
        let address = line.strip_prefix("listening on http://").expect("an address").to_string();
        std::thread::spawn(move || lines.for_each(drop));
        Server { child, address }
    }

    /// Status and text of a greedy completion.
    fn complete(&self, model: &str) -> (u16, String) {
        let body = format!(
            r#"{{"model":"{model}","prompt":[70,71,72,73,74,75],"max_tokens":24,"temperature":0,"ignore_eos":true}}"#
        );
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let head = "POST /v1/completions HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nConnection: close";
        write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        let json = answer.split("\r\n\r\n").nth(1).unwrap();
        let value: serde_json::Value = serde_json::from_str(json).unwrap_or_default();
        (status, value.pointer("/choices/0/text").and_then(|text| text.as_str()).unwrap_or("").to_string())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_request_gets_the_adapter_that_it_names() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(llmlab(dir.path()).args([
        "serve",
        "--model",
        "synthetic:llama-15m",
        "--served-model-name",
        "base",
        "--port",
        "0",
        "--weights",
        "f32",
        "--threads",
        "1",
        "--set",
        "kv_memory=16MiB",
        "--set",
        "max_loras=2",
        "--lora-modules",
        "one=synthetic:8",
        "--lora-modules",
        "two=synthetic:8",
    ]));
    let texts: Vec<String> = ["base", "one", "two", "base", "one"]
        .map(|model| {
            let (status, text) = server.complete(model);
            assert_eq!(status, 200, "{model}");
            text
        })
        .into();
    assert!(texts[0] != texts[1] && texts[1] != texts[2] && texts[0] != texts[2], "{texts:?}");
    assert_eq!((&texts[0], &texts[1]), (&texts[3], &texts[4]));
    assert_eq!(server.complete("three").0, 404);
}

const SCENARIO: &str = r#"
name = "adapted"
seed = 7
[model]
source = "synthetic:llama-15m"
[workload]
lengths = { input = { distribution = "fixed", tokens = 24 }, output = { distribution = "fixed", tokens = 6 } }
adapters = { count = 3, rank = 4, popularity = "zipf" }
requests = 18
warmup = 2
arrivals = { users = 3 }
[[target]]
name = "base"
engine = { policy = "vllm", kv_memory = "16MiB", weights = "q8_0", threads = 1, enable_lora = false }
[[target]]
name = "adapted"
engine = { policy = "vllm", kv_memory = "16MiB", weights = "q8_0", threads = 1, max_loras = 1 }
[compare]
repeats = 1
"#;

#[test]
fn a_scenario_with_adapters_runs_live_and_simulated() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("adapted.toml"), SCENARIO).unwrap();
    let output =
        llmlab(dir.path()).args(["run", "adapted.toml", "--no-client-calibration"]).output().unwrap();
    assert!(matches!(output.status.code(), Some(0 | 4)), "{}\n{}", stdout(&output), stderr(&output));
    let run = std::fs::read_dir(dir.path().join("results/runs")).unwrap().next().unwrap().unwrap().path();
    let (_, trials) = read_run(&run).unwrap();
    assert_eq!(trials.len(), 2);
    for trial in &trials {
        assert_eq!(trial.records.len(), 18);
        assert!(trial.records.iter().all(|record| record.outcome.is_success()), "{}", trial.facts.dir);
    }

    let simulate =
        |more: &[&str]| llmlab(dir.path()).args(["simulate", "adapted.toml"]).args(more).output().unwrap();
    // A model so large that tokens wait for steps and not for the server's front end.
    let large = SCENARIO
        .replace("synthetic:llama-15m", "spec:llama-3.1-8b")
        .replace("tokens = 6 }", "tokens = 64 }")
        .replace("16MiB", "1GiB");
    std::fs::write(dir.path().join("adapted.toml"), large).unwrap();
    let output = simulate(&["--hardware", "h100-sxm", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let analysis: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    let tpot = |target: usize| {
        let metrics = analysis.pointer(&format!("/targets/{target}/metrics")).unwrap().as_array().unwrap();
        metrics.iter().find(|metric| metric["metric"] == "tpot_p50").unwrap()["median"].as_f64().unwrap()
    };
    assert!(tpot(1) > 1.1 * tpot(0), "adapters cost time: {} {}", tpot(1), tpot(0));

    // What was never measured here is refused, not guessed.
    let all_adapted = SCENARIO.replace(", enable_lora = false", "");
    std::fs::write(dir.path().join("adapted.toml"), all_adapted).unwrap();
    let output = simulate(&[]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    let said = stderr(&output).replace("\n  │ ", " ").split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(said.contains("target base: adapters: calibration on this-host has no price for them"), "{said}");
}
