//! The directory of a search: the probe of each target, one run directory per value tried, and a file that says which is
//! which.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::ResultsError;
use crate::manifest::TrialFacts;
use crate::run_dir::{RunDir, write_json};
use crate::sweep::read_group;

pub const SEARCH_FILE: &str = "search.json";
pub const SEARCH_SCHEMA_VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SearchManifest {
    pub schema_version: u32,
    pub name: String,
    /// UTC, RFC 3339.
    pub started_at: String,
    pub command_line: Vec<String>,
    pub scenario_path: Option<String>,
    /// "rate", "load" or "users".
    pub searched: String,
    /// The search ends when a value that missed is within this share of one that held.
    pub tolerance: f64,
    /// Trials of a value at most.
    pub most_trials: u32,
    /// In words, e.g. "TTFT p95 <= 200 ms".
    pub slo: Vec<String>,
    pub targets: Vec<SearchedTarget>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SearchedTarget {
    pub name: String,
    pub description: String,
    /// Its directory lies beside this file.
    pub probe: Option<TrialFacts>,
    pub saturation_rps: Option<f64>,
    /// Lowest and highest value that may be tried.
    pub range: Option<(f64, f64)>,
    /// In the order they ran.
    pub values: Vec<SearchedValue>,
    /// Why the search of this target did not come to its end; also "not searched yet".
    pub error: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SearchedValue {
    pub value: f64,
    /// Requests per second that it came to; `None` for users.
    pub offered_rps: Option<f64>,
    /// The run, beside this file.
    pub dir: String,
    /// Trials that were not run to their end.
    pub stopped: Vec<StoppedTrial>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoppedTrial {
    /// The trial's directory in the run.
    pub dir: String,
    pub reason: String,
    /// Its queue only grew.
    pub diverged: bool,
}

impl RunDir {
    /// Replaces the search's file, as [`RunDir::write_manifest`] does for a run.
    pub fn write_search(&self, search: &SearchManifest) -> Result<(), ResultsError> {
        write_json(&self.path().join(SEARCH_FILE), search, "the search")
    }
}

/// `None` where the directory holds no search.
pub fn read_search(dir: &Path) -> Result<Option<SearchManifest>, ResultsError> {
    read_group(&dir.join(SEARCH_FILE), SEARCH_SCHEMA_VERSION, |search: &SearchManifest| {
        let values = search.targets.iter().flat_map(|target| &target.values);
        (search.schema_version, values.map(|value| value.dir.as_str()).collect())
    })
}
