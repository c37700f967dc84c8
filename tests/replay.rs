//! A real server under every policy, recorded and replayed: the same calls must give the same plans, to the block.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Output, Stdio};
use std::sync::Barrier;
use std::time::Duration;

use common::{llmlab, stderr, stdout};
use llmlab_scenarios::knobs::POLICIES;
use serde_json::{Value, json};

const RECORDING: &str = "calls.jsonl";

struct Server {
    child: Child,
    /// Held open, since the server says more than where it listens.
    _stdout: BufReader<ChildStdout>,
    address: String,
}

impl Server {
    /// 31 blocks of 16 tokens: fewer than the requests of [`traffic`] want at the same time.
    fn start(dir: &Path, policy: &str, knobs: &[&str]) -> Server {
        let mut command = llmlab(dir);
        command.args(["serve", "--model", "synthetic:llama-tiny", "--port", "0", "--exit-with-parent"]);
        command.args(["--weights", "q8_0", "--threads", "1", "--max-model-len", "480", "--policy", policy]);
        command.args(["--set", "num_blocks=32", "--record", RECORDING]);
        command.args(knobs.iter().flat_map(|knob| ["--set", knob]));
        let errors = std::fs::File::create(dir.join("errors")).unwrap();
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors).spawn().unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let Some(address) = line.trim().strip_prefix("listening on http://") else {
            panic!("{policy} {knobs:?}: {}", std::fs::read_to_string(dir.join("errors")).unwrap())
        };
        Server { address: address.to_string(), _stdout: stdout, child }
    }

    fn post(&self, body: &Value) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let body = body.to_string();
        let head = "POST /v1/completions HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Type: application/json";
        write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        stream
    }

    fn answer(&self, body: &Value) -> String {
        let mut stream = self.post(body);
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    /// Reads the beginning of an answer, if it comes soon, and hangs up.
    fn hang_up(&self, body: &Value) {
        let mut stream = self.post(body);
        stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let _ = stream.read(&mut [0; 2048]);
    }

    /// Asks it to end, as a parent does.
    fn stop(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }
}

/// The same beginning for all, and an end of its own that repeats itself.
fn prompt(index: u32) -> Vec<u32> {
    let own = [40 + index, 60 + index, 80 + index, 60 + index];
    (100..140).chain(own.into_iter().cycle().take(8)).collect()
}

/// Two waves of nine clients, two of which hang up. The second finds what the first left in a prefix cache. The
/// answers are so long that two of them fill the memory, and all ask at one moment: on a busy machine too, they meet.
fn traffic(server: &Server) {
    for wave in 0..2u32 {
        let together = Barrier::new(9);
        std::thread::scope(|scope| {
            for client in 0..9u32 {
                let together = &together;
                let body = move |max_tokens: u32| {
                    json!({
                        "prompt": prompt(3 * wave + client), "max_tokens": max_tokens, "ignore_eos": true,
                        "stream": true, "temperature": if client % 2 == 0 { 0.0 } else { 0.8 }, "seed": client,
                    })
                };
                scope.spawn(move || {
                    together.wait();
                    if matches!(client, 2 | 5) {
                        return server.hang_up(&body(300));
                    }
                    let answer = server.answer(&body(200));
                    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                });
            }
        });
    }
}

fn replay(dir: &Path, file: &str) -> Output {
    llmlab(dir).args(["replay", "--json", file]).output().unwrap()
}

/// What must have happened for the test to mean something.
#[derive(Debug, Default, Clone, Copy)]
struct Features {
    preemptions: bool,
    hits: bool,
    drafts: bool,
}

const NOTHING: Features = Features { preemptions: false, hits: false, drafts: false };
const HITS: Features = Features { hits: true, ..NOTHING };
const BOTH: Features = Features { preemptions: true, ..HITS };
const ALL: Features = Features { drafts: true, ..BOTH };

fn recorded(policy: &str, knobs: &[&str]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), policy, knobs);
    traffic(&server);
    server.stop();
    let file = dir.path().join(RECORDING);
    (dir, file)
}

fn check(policy: &str, knobs: &[&str], features: Features) {
    let (dir, _) = recorded(policy, knobs);
    let output = replay(dir.path(), RECORDING);
    let said = format!("{policy} {knobs:?}: {}{}", stdout(&output), stderr(&output));
    assert_eq!(output.status.code(), Some(0), "{said}");
    let summary: Value = serde_json::from_str(&stdout(&output)).unwrap();
    let count = |name: &str| summary[name].as_u64().unwrap();
    assert!(count("steps") > 40 && count("requests") == 18 && count("aborted") > 0, "{said}");
    let happened = Features {
        preemptions: count("preemptions") > 0,
        hits: count("prefix_hit_tokens") > 0,
        drafts: count("accepted_draft_tokens") > 0,
    };
    let wanted = |wanted: bool, happened: bool| !wanted || happened;
    assert!(
        wanted(features.preemptions, happened.preemptions)
            && wanted(features.hits, happened.hits)
            && wanted(features.drafts, happened.drafts),
        "{said}"
    );
    let rates = summary["speculative_acceptance_rate"].as_array().unwrap();
    assert!(rates.is_empty() != features.drafts && rates.len() <= 3, "{said}");
    assert_eq!((&summary["cut_off"], &summary["uncommitted_step"]), (&json!(false), &Value::Null), "{said}");
}

#[test]
fn every_policy_plans_again_what_it_planned_live() {
    for policy in POLICIES {
        match policy {
            "vllm" | "vllm-0.33.0" => check(policy, &[], BOTH),
            // Keeps no memory for the outputs of those that run, so that it runs out.
            "sglang" => check(policy, &["schedule_conservativeness=0"], BOTH),
            "tgi" | "tgi-3.3.6" => check(policy, &["max_batch_total_tokens=512"], HITS),
            "static" => check(policy, &["batch_size=3", "max_queue_delay=3ms"], NOTHING),
            // Some of those that wait give up.
            "dynamic" => {
                let knobs = ["max_batch_size=3", "max_queue_delay=3ms", "default_timeout=150ms"];
                check(policy, &knobs, NOTHING);
            }
            "orca" => check(policy, &[], NOTHING),
            "sarathi" | "fastgen" => check(policy, &[], Features { preemptions: true, ..NOTHING }),
            "trtllm" => {
                check(policy, &[], HITS);
                check(policy, &["capacity_scheduler_policy=max_utilization"], BOTH);
            }
            "llamacpp" => check(policy, &["n_parallel=8"], BOTH),
            other => panic!("policy {other} is not tested here"),
        }
    }
}

#[test]
fn planning_ahead_and_speculation_are_planned_again() {
    let ngram = ["speculative_method=ngram", "prompt_lookup_min=1"];
    let model = ["speculative_method=draft_model", "speculative_model=synthetic:llama-tiny"];
    check("vllm", &["async_scheduling=true"], BOTH);
    check("vllm", &ngram, ALL);
    check("vllm", &model, ALL);
    check("vllm", &[&model[..], &["async_scheduling=true"]].concat(), ALL);
}

/// The first commit whose first token is an input of the next plan. The token of a request that hung up in between is
/// seen by no plan.
fn carried_on(lines: &[Value]) -> usize {
    let steps: Vec<(usize, &Vec<Value>)> = lines
        .iter()
        .enumerate()
        .filter_map(|(at, line)| Some((at, line.pointer("/plan/step/seqs")?.as_array()?)))
        .collect();
    let commit = steps.windows(2).find_map(|pair| {
        let [(at, seqs), (next, then)] = pair else { return None };
        let commit = (*at..*next).find(|at| lines[*at].pointer("/commit/sampled/0").is_some())?;
        let place = lines[commit]["commit"]["sampled"][0][0].as_u64()? as usize;
        then.iter().any(|seq| seq["id"] == seqs[place]["id"]).then_some(commit)
    });
    commit.expect("a request with two tokens")
}

#[test]
fn a_recording_that_was_changed_is_found_out() {
    let (dir, file) = recorded("vllm", &[]);
    let text = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let commit = carried_on(&lines);
    let replay_of = |change: &dyn Fn(&mut Vec<Value>)| {
        let mut lines = lines.clone();
        change(&mut lines);
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        std::fs::write(dir.path().join("changed.jsonl"), text).unwrap();
        let output = replay(dir.path(), "changed.jsonl");
        (output.status.code(), stderr(&output).split_whitespace().collect::<Vec<_>>().join(" "))
    };
    let differs = |change: &dyn Fn(&mut Vec<Value>), words: &str| {
        let (code, said) = replay_of(change);
        assert!(code == Some(4) && said.contains("step") && said.contains(words), "{code:?} {said}");
    };
    let broken = |change: &dyn Fn(&mut Vec<Value>), words: &str| {
        let (code, said) = replay_of(change);
        assert!(code == Some(2) && said.contains(words), "{code:?} {said}");
    };
    assert_eq!(replay_of(&|_| {}).0, Some(0));

    // Which request is the first differs from run to run, and with it the token.
    let other = if lines[commit]["commit"]["sampled"][0][1] == json!(3) { 4 } else { 3 };
    let token = |lines: &mut Vec<Value>| lines[commit]["commit"]["sampled"][0][1] = json!(other);
    differs(&token, "with other tokens");
    differs(&|lines| lines[0]["engine"]["policy"]["max_num_seqs"] = json!(2), "sequence");
    let preempted = lines.iter().rposition(|line| line.pointer("/plan/step/preempted").is_some()).unwrap();
    differs(&|lines| lines[preempted]["plan"]["step"]["preempted"][0] = json!(99), "preempted");
    let blocks =
        |lines: &mut Vec<Value>| lines[preempted]["plan"]["step"]["seqs"][0]["blocks_xxh3"] = json!(7);
    differs(&blocks, "with other blocks");

    let place = format!("line {}", commit + 1);
    broken(&|lines| lines[commit] = json!({"commits": {}}), &place);
    broken(&|lines| lines[commit]["commit"]["sampled"] = json!([[0, 1], [0, 2], [0, 3]]), &place);
    broken(&|lines| lines[commit]["commit"]["sampled"] = json!([[77, 1]]), &place);
    broken(&|lines| drop(lines.remove(commit)), "is not committed");
    broken(&|lines| lines[0]["engine"]["num_blocks"] = json!(u32::MAX), "num_blocks is 4294967295");
    broken(&|lines| lines[0]["llmlab_recording"] = json!(2), "format 2");
    broken(&|lines| lines.clear(), "line 1");
}

#[test]
fn what_a_killed_server_recorded_is_replayed_to_its_last_line() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path(), "vllm", &[]);
    let bodies =
        [0, 1, 2].map(|client| json!({"prompt": prompt(client), "max_tokens": 300, "ignore_eos": true}));
    let streams = bodies.map(|body| server.post(&body));
    let file = dir.path().join(RECORDING);
    let recorded = (0..3000).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        std::fs::read_to_string(&file).unwrap().lines().count() > 40
    });
    assert!(recorded, "nothing comes of three requests");
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    drop(streams);

    // As if the kill had come in the middle of a write.
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, &text[..text.trim_end().len() - 5]).unwrap();
    let output = replay(dir.path(), RECORDING);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let summary: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert!(summary["cut_off"] == json!(true) && summary["requests"] == json!(3), "{summary}");

    // A recording is never written over.
    let mut again = llmlab(dir.path());
    again.args(["serve", "--model", "synthetic:llama-tiny", "--port", "0", "--record", RECORDING]);
    let output = again.output().unwrap();
    assert!(!output.status.success() && stderr(&output).contains(RECORDING), "{}", stderr(&output));
}
