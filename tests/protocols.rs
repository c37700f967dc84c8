//! Protocols beside the usual one, from a scenario to the report, against the mock.

mod common;

use common::{Mock, llmlab, only_run, stderr, stdout};
use serde_json::Value;

#[test]
fn a_websocket_a_chat_and_embeddings_in_one_run() {
    let dir = tempfile::tempdir().unwrap();
    let mock = Mock::start(dir.path(), &["--ttft", "5ms", "--itl", "1ms"]);
    let target = |name: &str, protocol: &str| {
        format!(
            "[[target]]\nname = \"{name}\"\nendpoint = {{ url = \"{}\", protocol = \"{protocol}\", metrics = \"{}/metrics\" }}\n",
            mock.url, mock.url
        )
    };
    let text = format!(
        r#"
name = "kinds"
[model]
source = "synthetic:llama-15m"
[workload]
lengths = {{ input = {{ distribution = "uniform", min = 20, max = 60 }}, output = {{ distribution = "fixed", tokens = 8 }} }}
requests = 24
warmup = 2
arrivals = {{ users = 2 }}
{}{}{}
[compare]
repeats = 1
"#,
        target("socket", "websocket"),
        target("chat", "openai-chat"),
        target("embed", "openai-embeddings")
    );
    std::fs::write(dir.path().join("kinds.toml"), text).unwrap();
    let output =
        llmlab(dir.path()).args(["run", "kinds.toml", "--json", "--no-client-calibration"]).output().unwrap();
    let analysis: Value =
        serde_json::from_str(&stdout(&output)).unwrap_or_else(|_| panic!("{}", stderr(&output)));
    for trial in analysis["trials"].as_array().unwrap() {
        assert_eq!(trial["requests"]["succeeded"], 22, "{trial}");
        let streamed = trial["target"] != "embed";
        assert_eq!(trial["latency"]["ttft"].is_object(), streamed, "{trial}");
        assert!(trial["latency"]["e2e_last"].is_object(), "{trial}");
        assert_eq!(trial["rates"]["generates"], streamed, "{trial}");
    }
    for target in analysis["targets"].as_array().unwrap() {
        // Words, fitted with the mock's tokenizer, because chat takes no ids.
        assert_eq!(target["prompt_fit"]["method"], "tokenizer", "{target}");
        assert_eq!(target["prompt_lengths"]["exact"], target["prompt_lengths"]["counted"], "{target}");
    }
    let run = only_run(dir.path());
    let looks = std::fs::read_to_string(run.join("socket-r1/machine.jsonl")).unwrap();
    assert!(looks.lines().count() >= 2, "one look at the start and one at the end: {looks}");
    let scrapes = std::fs::read_to_string(run.join("socket-r1/server.jsonl")).unwrap();
    let page = std::fs::read_to_string(run.join("report.html")).unwrap();
    assert!(page.contains("text fitted with the server"));
    // A trial may be over before the first scrape is.
    if !scrapes.is_empty() {
        assert!(scrapes.contains("scrape_ns") && page.contains("Each trial over time"), "{scrapes}");
    }
}
