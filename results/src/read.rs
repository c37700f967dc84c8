//! Reading a run back. What is whole is returned; what is damaged or missing becomes a warning, never a panic and never
//! the loss of the rest.

use std::fs;
use std::io;
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::error::ResultsError;
use crate::journal::{decode, whole_lines};
use crate::machine_sample::MachineSample;
use crate::manifest::{Manifest, SCHEMA_VERSION, ServerSample, TrialFacts};
use crate::record::RequestRecord;
use crate::run_dir::MANIFEST_FILE;
use crate::step::StepRow;
use crate::trial::{FACTS_FILE, JOURNAL_FILE, MACHINE_FILE, SAMPLES_FILE, STEPS_FILE, is_plain_name};

/// Everything stored about one trial.
#[derive(Debug, Clone, PartialEq)]
pub struct TrialFiles {
    pub facts: TrialFacts,
    /// In the order requests finished.
    pub records: Vec<RequestRecord>,
    /// Empty when the server wrote no step log.
    pub steps: Vec<StepRow>,
    /// Empty when the server was not scraped.
    pub server: Vec<ServerSample>,
    /// Empty when the machine was not watched.
    pub machine: Vec<MachineSample>,
    /// What could not be read, in words, each naming its file and line.
    pub warnings: Vec<String>,
}

/// Reads the manifest and every trial: those the manifest lists, in its order, then those that only have a directory
/// because the run was killed before the manifest named them.
pub fn read_run(path: &Path) -> Result<(Manifest, Vec<TrialFiles>), ResultsError> {
    let manifest = read_manifest(path)?;
    let mut trials: Vec<TrialFiles> =
        manifest.trials.iter().map(|facts| read_trial(path, facts.clone())).collect();
    let mut unlisted = unlisted_trials(path, &manifest)?;
    unlisted.sort_by(|a, b| (a.start_monotonic_ns, &a.dir).cmp(&(b.start_monotonic_ns, &b.dir)));
    for facts in unlisted {
        let mut trial = read_trial(path, TrialFacts { complete: false, ..facts });
        trial.warnings.push(format!("{}: the run ended before this trial did", trial.facts.dir));
        trials.push(trial);
    }
    Ok((manifest, trials))
}

/// Reads `manifest.json` alone.
pub fn read_manifest(run: &Path) -> Result<Manifest, ResultsError> {
    let path = run.join(MANIFEST_FILE);
    let bytes = fs::read(&path).map_err(ResultsError::io("read", &path))?;
    let bad = |message: String| ResultsError::BadManifest { path: path.clone(), message };
    let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
    // The version is looked at before the rest, because a newer schema may not parse as this one.
    let version = value.get("schema_version").and_then(serde_json::Value::as_u64);
    match version {
        None => Err(bad("it has no schema_version".into())),
        Some(found) if found > u64::from(SCHEMA_VERSION) => {
            Err(ResultsError::NewerSchema { path, found, supported: SCHEMA_VERSION })
        }
        Some(_) => serde_json::from_value(value).map_err(|e| bad(e.to_string())),
    }
}

fn unlisted_trials(run: &Path, manifest: &Manifest) -> Result<Vec<TrialFacts>, ResultsError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(run).map_err(ResultsError::io("list", run))? {
        let entry = entry.map_err(ResultsError::io("list", run))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if manifest.trials.iter().any(|t| t.dir == name) {
            continue;
        }
        // Whatever has no readable facts is not a trial of ours.
        let facts: Option<TrialFacts> = fs::read(entry.path().join(FACTS_FILE))
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok());
        found.extend(facts.map(|facts| TrialFacts { dir: name, ..facts }));
    }
    Ok(found)
}

fn read_trial(run: &Path, mut facts: TrialFacts) -> TrialFiles {
    let mut warnings = Vec::new();
    if !is_plain_name(&facts.dir) {
        warnings.push(format!("trial directory {:?} is not a plain name; nothing read", facts.dir));
        return TrialFiles {
            facts,
            records: Vec::new(),
            steps: Vec::new(),
            server: Vec::new(),
            machine: Vec::new(),
            warnings,
        };
    }
    let dir = run.join(&facts.dir);
    let label = |file: &str| format!("{}/{file}", facts.dir);

    let journal = read_optional(&dir.join(JOURNAL_FILE), &mut warnings);
    if journal.is_none() {
        warnings.push(format!("{} is missing", label(JOURNAL_FILE)));
    }
    let records: Vec<RequestRecord> =
        decode(&journal.unwrap_or_default(), &label(JOURNAL_FILE), &mut warnings);
    let samples = read_optional(&dir.join(SAMPLES_FILE), &mut warnings).unwrap_or_default();
    let server = decode(&samples, &label(SAMPLES_FILE), &mut warnings);
    let looks = read_optional(&dir.join(MACHINE_FILE), &mut warnings).unwrap_or_default();
    let machine = decode(&looks, &label(MACHINE_FILE), &mut warnings);
    let steps = read_optional(&dir.join(STEPS_FILE), &mut warnings).unwrap_or_default();
    let steps = decode_plain(&steps, &label(STEPS_FILE), &mut warnings);

    if !facts.complete && facts.elapsed_ns == 0 {
        facts.elapsed_ns = records.iter().map(last_timestamp_ns).max().unwrap_or(0);
        warnings.push(format!("{}: cut off; its duration is taken from its last record", facts.dir));
    }
    TrialFiles { facts, records, steps, server, machine, warnings }
}

/// JSON lines without checksums, as another process writes them.
fn decode_plain<T: DeserializeOwned>(bytes: &[u8], file: &str, warnings: &mut Vec<String>) -> Vec<T> {
    let mut values = Vec::new();
    for (number, line) in whole_lines(bytes, file, warnings) {
        match serde_json::from_slice(line) {
            Ok(value) => values.push(value),
            Err(e) => warnings.push(format!("{file} line {number}: {e}; line skipped")),
        }
    }
    values
}

/// `None` when the file does not exist; one that exists but cannot be read is a warning.
fn read_optional(path: &Path, warnings: &mut Vec<String>) -> Option<Vec<u8>> {
    match fs::read(path) {
        Ok(bytes) => Some(bytes),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => {
            warnings.push(format!("cannot read {}: {e}", path.display()));
            Some(Vec::new())
        }
    }
}

pub(crate) fn last_timestamp_ns(record: &RequestRecord) -> u64 {
    let seen = [record.sent_ns, record.headers_ns, record.last_token_ns(), record.done_ns];
    seen.into_iter().flatten().fold(record.scheduled_ns, u64::max)
}
