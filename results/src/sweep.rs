//! The directory of a sweep: one run directory per cell, and a file that says which is which.

use std::fs;
use std::io;
use std::path::Path;

use serde::de::DeserializeOwned;
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
    read_group(&dir.join(SWEEP_FILE), SWEEP_SCHEMA_VERSION, |sweep: &SweepManifest| {
        let dirs = sweep.cells.iter().filter_map(|cell| cell.dir.as_deref()).collect();
        (sweep.schema_version, dirs)
    })
}

/// The file of a directory of runs; `about` tells its version and the runs it names. `None` where there is no such file.
pub(crate) fn read_group<T: DeserializeOwned>(
    path: &Path,
    supported: u32,
    about: impl Fn(&T) -> (u32, Vec<&str>),
) -> Result<Option<T>, ResultsError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ResultsError::io("read", path)(error)),
    };
    let bad = |message: String| ResultsError::BadManifest { path: path.to_path_buf(), message };
    let group: T = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
    let (version, dirs) = about(&group);
    if version > supported {
        return Err(ResultsError::NewerSchema {
            path: path.to_path_buf(),
            found: u64::from(version),
            supported,
        });
    }
    match dirs.into_iter().find(|dir| !is_plain_name(dir)) {
        Some(dir) => Err(bad(format!("{dir:?} is not the name of a run beside it"))),
        None => Ok(Some(group)),
    }
}
