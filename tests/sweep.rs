//! A sweep through the binary: one run per cell, one table over them, and the way back from what is stored.

mod common;

use std::path::{Path, PathBuf};

use common::{llmlab, stderr, stdout};
use llmlab_results::{read_run, read_sweep};

fn scenario(dir: &Path, sweep: &str) {
    let text = format!(
        r#"
name = "lab"
[model]
source = "spec:llama-3.1-8b"
max_model_len = 512
[workload]
lengths = {{ input = {{ distribution = "uniform", min = 20, max = 200 }}, output = {{ distribution = "uniform", min = 4, max = 60 }} }}
requests = 40
arrivals = {{ process = "poisson" }}
{sweep}
[[target]]
name = "paged"
simulate = {{ hardware = "h100-sxm", policy = "vllm", num_blocks = 81, enable_prefix_caching = false }}
[[target]]
name = "contiguous"
simulate = {{ hardware = "h100-sxm", policy = "vllm", num_blocks = 81, kv_strategy = "contiguous", enable_prefix_caching = false }}
[[target]]
name = "static"
simulate = {{ hardware = "h100-sxm", policy = "static", num_blocks = 81, batch_size = 8 }}
[compare]
repeats = 1
"#
    );
    std::fs::write(dir.join("lab.toml"), text).unwrap();
}

const SWEEP: &str = r#"
[sweep]
rate = [5, 80]
[[sweep.mix]]
name = "short"
lengths = { input = { distribution = "fixed", tokens = 16 }, output = { distribution = "fixed", tokens = 8 } }
[[sweep.mix]]
name = "mixed"
"#;

fn only_entry(dir: &Path) -> PathBuf {
    let entries: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    let [only] = entries.as_slice() else { panic!("{entries:?}") };
    only.clone()
}

#[test]
fn a_sweep_is_a_run_for_each_cell_and_a_table_over_them() {
    let dir = tempfile::tempdir().unwrap();
    scenario(dir.path(), SWEEP);
    let output = llmlab(dir.path()).args(["run", "lab.toml", "--no-client-calibration"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}\n{}", stdout(&output), stderr(&output));
    let said = stdout(&output);
    for part in
        ["short, rate 5", "short, rate 80", "mixed, rate 5", "mixed, rate 80", "frag. %", "sweep.html"]
    {
        assert!(said.contains(part), "{part} is missing in:\n{said}");
    }
    let parent = only_entry(&dir.path().join("results/runs"));
    let sweep = read_sweep(&parent).unwrap().unwrap();
    assert_eq!((sweep.name.as_str(), sweep.cells.len()), ("lab", 4));
    for cell in &sweep.cells {
        let run = parent.join(cell.dir.as_ref().unwrap());
        for file in ["report.html", "report.md", "composition-paged.svg", "composition-static.svg"] {
            assert!(run.join(file).is_file(), "{file}");
        }
        let (manifest, trials) = read_run(&run).unwrap();
        assert_eq!(manifest.name, format!("lab {}", cell.label));
        assert_eq!(trials.len(), 3);
    }
    let csv = std::fs::read_to_string(parent.join("sweep.csv")).unwrap();
    let rows: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(rows.len(), 1 + 4 * 3);
    let column = |name: &str| rows[0].iter().position(|head| *head == name).unwrap();
    let figure = |place: [&str; 4], name: &str| -> f64 {
        let row = rows.iter().find(|row| row[..4] == place).unwrap_or_else(|| panic!("{place:?}"));
        row[column(name)].parse().unwrap()
    };
    // 80 blocks are two and a half requests of 512 tokens; a request of 24 tokens fills 4.7 % of its piece at most.
    let busy = |target| ["short", "rate", "80", target];
    let (internal, external) = ("internal_fragmentation_percent", "external_fragmentation_percent");
    assert!(figure(busy("contiguous"), internal) > 95.0);
    assert!((20.0..=100.0).contains(&figure(busy("contiguous"), external)));
    assert_eq!(figure(busy("paged"), external), 0.0);
    assert!(figure(busy("paged"), internal) < 50.0);
    assert!(figure(["mixed", "rate", "80", "static"], "padding_percent") > 10.0);
    assert_eq!(figure(["mixed", "rate", "80", "paged"], "padding_percent"), 0.0);

    // From what is stored, the same; and each cell is a run like any other.
    let again = llmlab(dir.path()).arg("report").output().unwrap();
    assert_eq!(again.status.code(), Some(0), "{}", stderr(&again));
    assert_eq!(stdout(&again), said);
    let cell = parent.join(sweep.cells[0].dir.as_ref().unwrap());
    let one = llmlab(dir.path()).arg("report").arg(&cell).output().unwrap();
    assert!(stdout(&one).contains("lab short, rate 5"), "{}", stdout(&one));

    // A file that points elsewhere is refused.
    let stored = std::fs::read_to_string(parent.join("sweep.json")).unwrap();
    let name = sweep.cells[0].dir.as_ref().unwrap();
    std::fs::write(parent.join("sweep.json"), stored.replace(name.as_str(), "../../etc")).unwrap();
    let refused = llmlab(dir.path()).arg("report").arg(&parent).output().unwrap();
    assert_eq!(refused.status.code(), Some(2), "{}", stdout(&refused));
}

#[test]
fn explain_lists_the_cells_and_runs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    scenario(dir.path(), SWEEP);
    let output = llmlab(dir.path()).args(["simulate", "lab.toml", "--explain"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let said = stdout(&output);
    for part in [
        "4 cells x 3 target(s) x 1 repeat(s) = 12 trials",
        "short, rate 5: input 16 tokens",
        "Poisson at 80 requests/s",
    ] {
        assert!(said.contains(part), "{part} is missing in:\n{said}");
    }
    assert!(!dir.path().join("results").exists());
}

/// A cell that fails keeps its place in the table, and the others are measured.
#[test]
fn a_cell_that_cannot_be_measured_does_not_stop_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let text = r#"
name = "dead"
[model]
source = "synthetic:llama-15m"
[workload]
lengths = { input = { distribution = "fixed", tokens = 8 }, output = { distribution = "fixed", tokens = 4 } }
requests = 3
warmup = 0
arrivals = {}
[sweep]
users = [1, 2]
[[target]]
name = "nobody"
endpoint = { url = "http://127.0.0.1:9" }
"#;
    std::fs::write(dir.path().join("dead.toml"), text).unwrap();
    let output = llmlab(dir.path()).args(["run", "dead.toml"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}\n{}", stdout(&output), stderr(&output));
    let parent = only_entry(&dir.path().join("results/runs"));
    let sweep = read_sweep(&parent).unwrap().unwrap();
    assert!(sweep.cells.iter().all(|cell| cell.error.is_some()), "{sweep:?}");
    assert!(stdout(&output).contains("users 2"), "{}", stdout(&output));
}
