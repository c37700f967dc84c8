//! The file that ties the runs of a sweep together.

use std::fs;

use llmlab_results::sweep::{SWEEP_FILE, SWEEP_SCHEMA_VERSION, SweepCell, SweepManifest};
use llmlab_results::{ResultsError, RunDir, latest_run, read_sweep};
use tempfile::TempDir;
use time::macros::datetime;

fn sweep(dir: Option<&str>) -> SweepManifest {
    SweepManifest {
        schema_version: SWEEP_SCHEMA_VERSION,
        name: "lab".into(),
        started_at: "2026-11-21T10:15:00Z".into(),
        command_line: vec!["llmlab".into(), "run".into()],
        scenario_path: Some("lab.toml".into()),
        cells: vec![SweepCell {
            mix: Some("chat".into()),
            arrivals: Some(("rate".into(), 2.5)),
            label: "chat, rate 2.5".into(),
            dir: dir.map(str::to_owned),
            error: None,
        }],
    }
}

#[test]
fn a_sweep_is_read_back_and_is_among_the_newest() {
    let root = TempDir::new().unwrap();
    let dir = RunDir::create(root.path(), "lab", datetime!(2026-11-21 12:15:00 UTC)).unwrap();
    assert_eq!(read_sweep(dir.path()).unwrap(), None);
    assert_eq!(latest_run(root.path()).unwrap(), None);
    let written = sweep(Some("20261121-101500-lab-chat"));
    dir.write_sweep(&written).unwrap();
    assert_eq!(read_sweep(dir.path()).unwrap(), Some(written));
    assert_eq!(latest_run(root.path()).unwrap().as_deref(), Some(dir.path()));
}

#[test]
fn what_points_outside_or_is_newer_or_broken_is_refused() {
    let root = TempDir::new().unwrap();
    let dir = RunDir::create(root.path(), "lab", datetime!(2026-11-21 12:15:00 UTC)).unwrap();
    for outside in ["..", "../x", "/etc", "a/b", ""] {
        dir.write_sweep(&sweep(Some(outside))).unwrap();
        let refused = read_sweep(dir.path());
        assert!(matches!(refused, Err(ResultsError::BadManifest { .. })), "{outside}: {refused:?}");
    }
    dir.write_sweep(&SweepManifest { schema_version: 99, ..sweep(None) }).unwrap();
    assert!(matches!(read_sweep(dir.path()), Err(ResultsError::NewerSchema { found: 99, .. })));
    fs::write(dir.path().join(SWEEP_FILE), "{}").unwrap();
    assert!(matches!(read_sweep(dir.path()), Err(ResultsError::BadManifest { .. })));
}
