//! The directory of a sweep: one run directory per cell, and a file that says which is which.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::ResultsError;
use crate::run_dir::{RunDir, write_json};
use crate::trial::is_plain_name;

pub const SWEEP_FILE: &str = "sweep.json";
pub const SWEEP_SCHEMA_VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SweepManifest {
    pub schema_version: u32,
    pub name: String,
    /// UTC, RFC 3339.
    pub started_at: String,
    pub command_line: Vec<String>,
    pub scenario_path: Option<String>,
    /// In the order they run; those whose turn has not come have neither directory nor error.
    pub cells: Vec<SweepCell>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SweepCell {
    pub mix: Option<String>,
    /// The swept key of the arrivals and its value.
    pub arrivals: Option<(String, f64)>,
    /// "chat, rate 4"
    pub label: String,
    /// The run, beside this file.
    pub dir: Option<String>,
    /// Why it has no run, or one that ended early.
    pub error: Option<String>,
}

impl RunDir {
    /// Replaces the sweep's file, as [`RunDir::write_manifest`] does for a run.
    pub fn write_sweep(&self, sweep: &SweepManifest) -> Result<(), ResultsError> {
        write_json(&self.path().join(SWEEP_FILE), sweep, "the sweep")
    }
}

/// `None` where the directory holds no sweep.
pub fn read_sweep(dir: &Path) -> Result<Option<SweepManifest>, ResultsError> {
    let path = dir.join(SWEEP_FILE);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ResultsError::io("read", &path)(error)),
    };
    let bad = |message: String| ResultsError::BadManifest { path: path.clone(), message };
    let sweep: SweepManifest = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
    if sweep.schema_version > SWEEP_SCHEMA_VERSION {
        let found = u64::from(sweep.schema_version);
        return Err(ResultsError::NewerSchema { path, found, supported: SWEEP_SCHEMA_VERSION });
    }
    let outside = sweep.cells.iter().filter_map(|cell| cell.dir.as_deref()).find(|dir| !is_plain_name(dir));
    match outside {
        Some(dir) => Err(bad(format!("{dir:?} is not the name of a run beside it"))),
        None => Ok(Some(sweep)),
    }
}
