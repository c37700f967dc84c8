//! A run directory from creation to reading back, whole and broken.

use std::fs;
use std::io::Write;
use std::path::Path;

use crate::sample::{facts, manifest, record, sample};
use llmlab_results::manifest::{RunStatus, SCHEMA_VERSION, TrialFacts};
use llmlab_results::record::RecordSink;
use llmlab_results::step::{StepRow, StepSeq};
use llmlab_results::{ResultsError, RunDir, latest_run, read_run};
use tempfile::TempDir;
use time::OffsetDateTime;
use time::macros::datetime;

const NOW: OffsetDateTime = datetime!(2026-11-21 12:15:00 +2);

fn name(run: &RunDir) -> &str {
    run.path().file_name().unwrap().to_str().unwrap()
}

/// A run whose one trial, not in the manifest, holds three records and one sample.
fn killed_run(root: &Path) -> RunDir {
    let run = RunDir::create(root, "test", NOW).unwrap();
    run.write_manifest(&manifest(Vec::new())).unwrap();
    let mut trial = run.start_trial(&facts("vllm-r1", 5)).unwrap();
    for index in 1..4 {
        trial.record(&record(index)).unwrap();
    }
    trial.sample_writer().write_sample(&sample(7)).unwrap();
    drop(trial);
    run
}

fn step(step: u64) -> StepRow {
    StepRow {
        step,
        start_monotonic_ns: 100 * step,
        elapsed_ns: 90,
        seqs: vec![StepSeq { id: 1, new_tokens: 1, context: 9, ..StepSeq::default() }],
        running: 1,
        waiting: 0,
        free_blocks: 7,
        total_blocks: 8,
        kv_tokens: 10,
        block_size: 16,
        preempted: Vec::new(),
        admitted: vec![(1, 55)],
        ..StepRow::default()
    }
}

#[test]
fn directories_are_named_by_utc_time_and_never_shared() {
    let root = TempDir::new().unwrap();
    let root = root.path().join("results/runs");
    let runs: Vec<_> = (0..3).map(|_| RunDir::create(&root, "my run", NOW).unwrap()).collect();
    let names: Vec<_> = runs.iter().map(name).collect();
    assert_eq!(names, ["20261121-101500-my-run", "20261121-101500-my-run-2", "20261121-101500-my-run-3"]);
}

#[test]
fn the_newest_run_is_the_one_with_the_latest_time_that_has_a_manifest() {
    let root = TempDir::new().unwrap();
    assert_eq!(latest_run(&root.path().join("absent")).unwrap(), None);
    let old = RunDir::create(root.path(), "zz", NOW).unwrap();
    let new = RunDir::create(root.path(), "aa", NOW + time::Duration::DAY).unwrap();
    fs::create_dir(root.path().join("99999999-999999-no-manifest")).unwrap();
    fs::write(root.path().join("notes.txt"), "").unwrap();
    assert_eq!(latest_run(root.path()).unwrap(), None);
    old.write_manifest(&manifest(Vec::new())).unwrap();
    assert_eq!(latest_run(root.path()).unwrap().as_deref(), Some(old.path()));
    new.write_manifest(&manifest(Vec::new())).unwrap();
    assert_eq!(latest_run(root.path()).unwrap().as_deref(), Some(new.path()));
}

#[test]
fn a_second_writer_is_kept_out_until_the_first_is_gone() {
    let root = TempDir::new().unwrap();
    let run = RunDir::create(root.path(), "test", NOW).unwrap();
    let path = run.path().to_path_buf();
    assert!(matches!(RunDir::open(&path), Err(ResultsError::Locked { path: p }) if p == path));
    drop(run);
    RunDir::open(&path).unwrap();
}

#[test]
fn a_finished_run_reads_back_as_written() {
    let root = TempDir::new().unwrap();
    let run = RunDir::create(root.path(), "test", NOW).unwrap();
    let mut done = Vec::new();
    for (dir, start) in [("b-r1", 10), ("a-r1", 20)] {
        let facts = facts(dir, start);
        let mut trial = run.start_trial(&facts).unwrap();
        trial.record(&record(start)).unwrap();
        trial.write_sample(&sample(start)).unwrap();
        let rows = [step(1), step(2)].map(|s| serde_json::to_string(&s).unwrap() + "\n").concat();
        fs::write(trial.steps_path(), rows).unwrap();
        trial.finish().unwrap();
        done.push(TrialFacts { elapsed_ns: 99, complete: true, ..facts });
    }
    let mut written = manifest(done.clone());
    run.write_manifest(&manifest(Vec::new())).unwrap();
    written.status = RunStatus::Complete;
    run.write_manifest(&written).unwrap();

    let (read, trials) = read_run(run.path()).unwrap();
    assert_eq!(read, written);
    assert_eq!(trials.iter().map(|t| &t.facts).collect::<Vec<_>>(), done.iter().collect::<Vec<_>>());
    for (trial, start) in trials.iter().zip([10, 20]) {
        assert_eq!(trial.records, [record(start)]);
        assert_eq!(trial.server, [sample(start)]);
        assert_eq!(trial.steps, [step(1), step(2)]);
        assert_eq!(trial.warnings, [""; 0]);
    }
    assert!(!run.path().join("manifest.json.tmp").exists());
}

#[test]
fn a_trial_cut_off_before_the_manifest_named_it_is_found() {
    let root = TempDir::new().unwrap();
    let run = killed_run(root.path());
    // The kill tore a line, and the server's step log as well.
    let dir = run.path().join("vllm-r1");
    let append = |file: &str, bytes: &[u8]| {
        let file = fs::OpenOptions::new().append(true).create(true).open(dir.join(file));
        file.unwrap().write_all(bytes).unwrap();
    };
    append("journal.jsonl", b"12345678 {\"index\":");
    append(
        "steps.jsonl",
        format!("{}\nnot json\n{{\"step\":3,", serde_json::to_string(&step(1)).unwrap()).as_bytes(),
    );

    let (read, trials) = read_run(run.path()).unwrap();
    assert_eq!(read.status, RunStatus::Running);
    let [trial] = trials.as_slice() else { panic!("{trials:?}") };
    assert_eq!(trial.records, [1, 2, 3].map(record));
    assert_eq!(trial.server, [sample(7)]);
    assert_eq!(trial.steps, [step(1)]);
    // Record 1 says it was done latest; it is the trial's best known end.
    assert_eq!((trial.facts.complete, trial.facts.elapsed_ns), (false, u64::MAX - 1));
    let warned = |text: &str| trial.warnings.iter().any(|w| w.contains(text));
    assert!(warned("vllm-r1/journal.jsonl line 4: torn"), "{:?}", trial.warnings);
    assert!(warned("vllm-r1/steps.jsonl line 2:"), "{:?}", trial.warnings);
    assert!(warned("vllm-r1/steps.jsonl line 3: torn"), "{:?}", trial.warnings);
}

#[test]
fn missing_files_are_no_error() {
    let root = TempDir::new().unwrap();
    let run = RunDir::create(root.path(), "test", NOW).unwrap();
    let listed = TrialFacts { elapsed_ns: 1, complete: true, ..facts("gone-r1", 1) };
    let outside = TrialFacts { elapsed_ns: 1, complete: true, ..facts("../../etc", 2) };
    run.write_manifest(&manifest(vec![listed, outside])).unwrap();
    let (_, trials) = read_run(run.path()).unwrap();
    assert_eq!(trials[0].warnings, ["gone-r1/journal.jsonl is missing"]);
    assert!(trials[1].warnings[0].contains("not a plain name"), "{:?}", trials[1].warnings);
    assert!(trials.iter().all(|t| t.records.is_empty() && t.steps.is_empty() && t.server.is_empty()));
}

#[test]
fn a_manifest_this_version_cannot_read_says_why() {
    let root = TempDir::new().unwrap();
    let path = root.path().join("manifest.json");
    let missing = read_run(root.path()).unwrap_err();
    assert!(matches!(&missing, ResultsError::Io { path: p, .. } if *p == path), "{missing}");

    fs::write(&path, r#"{"schema_version": 99, "everything": "else changed"}"#).unwrap();
    let newer = read_run(root.path()).unwrap_err();
    assert!(
        matches!(newer, ResultsError::NewerSchema { found: 99, supported: SCHEMA_VERSION, .. }),
        "{newer}"
    );
    for bad in ["", "{", "[]", "{}", r#"{"schema_version": 1}"#, r#"{"schema_version": -1}"#] {
        fs::write(&path, bad).unwrap();
        let error = read_run(root.path()).unwrap_err();
        assert!(matches!(error, ResultsError::BadManifest { .. }), "{bad}: {error}");
    }
}

#[test]
fn errors_name_the_path_and_nothing_is_overwritten() {
    let root = TempDir::new().unwrap();
    let file = root.path().join("file");
    fs::write(&file, "").unwrap();
    let error = RunDir::create(&file.join("runs"), "test", NOW).unwrap_err();
    assert!(error.to_string().contains("file"), "{error}");

    let run = RunDir::create(root.path(), "test", NOW).unwrap();
    run.start_trial(&facts("vllm-r1", 1)).unwrap();
    let again = run.start_trial(&facts("vllm-r1", 1)).err().unwrap();
    assert!(again.to_string().contains("vllm-r1"), "{again}");
    assert!(matches!(run.start_trial(&facts("../x", 1)).err(), Some(ResultsError::BadTrialName { .. })));

    // A directory in the manifest's place makes the rename fail; the temporary file must not stay.
    fs::create_dir(run.path().join("manifest.json")).unwrap();
    assert!(run.write_manifest(&manifest(Vec::new())).is_err());
    assert!(!run.path().join("manifest.json.tmp").exists());
}

#[test]
fn samples_after_the_end_of_a_trial_are_dropped_quietly() {
    let root = TempDir::new().unwrap();
    let run = RunDir::create(root.path(), "test", NOW).unwrap();
    run.write_manifest(&manifest(Vec::new())).unwrap();
    let trial = run.start_trial(&facts("vllm-r1", 1)).unwrap();
    let samples = trial.sample_writer();
    samples.write_sample(&sample(1)).unwrap();
    trial.finish().unwrap();
    samples.write_sample(&sample(2)).unwrap();
    let (_, trials) = read_run(run.path()).unwrap();
    assert_eq!(trials[0].server, [sample(1)]);
}
