//! Conversations, clients that hang up and trees of prefixes through the built binary, live and simulated.

mod common;

use std::collections::HashMap;
use std::path::Path;

use common::{llmlab, only_run, stderr, stdout};
use llmlab_results::read_run;
use llmlab_results::record::{Outcome, RequestRecord};
use llmlab_results::step::StepRow;

fn scenario(dir: &Path, workload: &str) {
    let text = format!(
        r#"
name = "traffic"
seed = 7
[model]
source = "synthetic:llama-15m"
[workload]
lengths = {{ input = {{ distribution = "uniform", min = 20, max = 40 }}, output = {{ distribution = "fixed", tokens = 12 }} }}
warmup = 2
{workload}
[[target]]
name = "vllm"
engine = {{ policy = "vllm", kv_memory = "32MiB", weights = "q8_0", threads = 1 }}
"#
    );
    std::fs::write(dir.join("traffic.toml"), text).unwrap();
}

/// Runs it, and returns what was said with the records and steps of the only trial.
fn run(dir: &Path, arguments: &[&str]) -> (String, Vec<RequestRecord>, Vec<StepRow>) {
    let output = llmlab(dir).args(arguments).arg("--no-client-calibration").output().unwrap();
    // A busy test machine may make the client late; then the run says so and must still report.
    assert!(matches!(output.status.code(), Some(0 | 4)), "{}\n{}", stdout(&output), stderr(&output));
    let (_, mut trials) = read_run(&only_run(dir)).unwrap();
    let mut trial = trials.remove(0);
    trial.records.sort_by_key(|record| record.index);
    (stdout(&output), trial.records, trial.steps)
}

/// With one user requests come one after the other, and a turn finds all full blocks of what was said before it, the answers
/// of the live engine included.
#[test]
fn a_turn_has_the_answers_before_it_and_the_engine_finds_them() {
    for arguments in [&["run", "traffic.toml"][..], &["simulate", "traffic.toml", "--hardware", "h100-sxm"]] {
        let dir = tempfile::tempdir().unwrap();
        scenario(
            dir.path(),
            "requests = 12\narrivals = { users = 1 }\n[workload.sessions]\nturns = { distribution = \"fixed\", count = 4 }\nthink_time = { distribution = \"fixed\", time = \"5ms\" }",
        );
        let (said, records, steps) = run(dir.path(), arguments);
        for part in ["TTFT, turn 1", "TTFT, turns 3–4", "prefix cache hits", "Sessions: 3"] {
            assert!(said.contains(part), "{part} is missing in:\n{said}");
        }
        let mut found = Vec::new();
        let mut known: HashMap<u64, usize> = HashMap::new();
        for seq in steps.iter().flat_map(|row| &row.seqs) {
            known.entry(seq.id).or_insert_with(|| {
                found.push(seq.context);
                found.len()
            });
        }
        assert_eq!((records.len(), found.len()), (12, 12));
        for (place, record) in records.iter().enumerate() {
            let turn = record.turn.unwrap();
            assert_eq!(record.outcome, Outcome::Ok, "{record:?}");
            assert_eq!((turn.session, turn.turn), (place as u64 / 4, place as u32 % 4));
            assert_eq!(turn.stand_ins, 0, "the engine names the ids of its answers");
            let before = match turn.turn {
                0 => 0,
                _ => records[place - 1].prompt_tokens + 12,
            };
            assert_eq!(turn.context_tokens, before);
            assert_eq!(found[place], before.saturating_sub(1) / 16 * 16, "{turn:?} of {arguments:?}");
        }
    }
}

#[test]
fn who_hangs_up_is_recorded_and_reported() {
    for arguments in [&["run", "traffic.toml"][..], &["simulate", "traffic.toml", "--hardware", "h100-sxm"]] {
        let dir = tempfile::tempdir().unwrap();
        scenario(
            dir.path(),
            "requests = 16\narrivals = { users = 2 }\nabandon = { share = 0.5, after_tokens = { distribution = \"fixed\", tokens = 3 } }",
        );
        let (said, records, _) = run(dir.path(), arguments);
        assert!(!said.contains("Errors:"), "{said}");
        assert_eq!(records.len(), 16);
        let abandoned: Vec<_> = records.iter().filter(|r| r.outcome == Outcome::Abandoned).collect();
        if abandoned.iter().any(|r| r.index >= 2) {
            assert!(said.contains("\nabandoned "), "{said}");
        }
        // A loaded machine may bring the whole answer at once, before the client can hang up.
        assert!(abandoned.iter().all(|r| r.output_tokens >= 3), "{records:?}");
        assert!(records.iter().all(|r| r.outcome == Outcome::Ok || r.outcome == Outcome::Abandoned));
        if arguments[0] == "simulate" {
            assert!((2..14).contains(&abandoned.len()), "{}", abandoned.len());
        }
    }
}

#[test]
fn a_tree_of_prefixes_is_solved_for_and_one_that_cannot_be_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let tree = |rate: f64| {
        let prefixes =
            format!("prefixes = {{ block_tokens = 16, depth = 2, branching = 2, hit_rate = {rate} }}");
        scenario(dir.path(), &format!("requests = 100\narrivals = {{ users = 1 }}\n{prefixes}"));
    };
    tree(0.9);
    let output = llmlab(dir.path()).args(["run", "traffic.toml", "--explain"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stdout(&output));
    let said = stderr(&output);
    assert!(said.contains("prefixes.hit_rate 0.9 cannot be reached"), "{said}");
    tree(0.3);
    let (said, ..) = run(dir.path(), &["simulate", "traffic.toml", "--hardware", "h100-sxm"]);
    assert!(said.contains("find 30 % of the prompt tokens"), "{said}");
    // The first requests are warm-up, and theirs are the misses.
    assert!(said.lines().any(|line| line.starts_with("prefix cache hits")), "{said}");
}
