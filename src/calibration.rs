//! What `llmlab calibrate --engine` learnt about the engine on this machine, kept between runs.

use std::path::PathBuf;

use llmlab_sim::Overhead;
use llmlab_sim::fit::{Fitted, Residuals};
use serde::{Deserialize, Serialize};

use crate::exit::Failure;
use crate::host;

const SCHEMA_VERSION: u32 = 1;

/// One model in one pair of formats on so many threads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EngineCalibration {
    pub schema_version: u32,
    /// As it was given: a source means the same file or preset as long as the parameters agree.
    pub model: String,
    pub parameters: u64,
    pub weights: String,
    pub kv: String,
    pub threads: u32,
    pub cpu: String,
    /// RFC 3339, UTC.
    pub measured_at: String,
    pub fitted: Fitted,
    pub residuals: Residuals,
    pub overhead: Overhead,
}

impl EngineCalibration {
    pub const VERSION: u32 = SCHEMA_VERSION;

    /// The stored calibration. The error says how to make one.
    pub fn load(
        model: &str,
        parameters: u64,
        weights: &str,
        kv: &str,
        threads: u32,
    ) -> Result<EngineCalibration, String> {
        let missing = |why: String| {
            format!(
                "hardware \"this-host\": {why}; run: llmlab calibrate --engine --model {model} --weights {weights} --kv {kv} --threads {threads}"
            )
        };
        let path = path(model, weights, kv, threads)
            .ok_or_else(|| missing("there is no folder to keep calibrations in (HOME is not set)".into()))?;
        let text = std::fs::read_to_string(&path).map_err(|_| {
            missing(format!(
                "this machine has no calibration of {model}, {weights} weights, {kv} KV, {threads} thread(s)"
            ))
        })?;
        let known: EngineCalibration = serde_json::from_str(&text)
            .map_err(|error| missing(format!("{} cannot be read ({error})", path.display())))?;
        if known.schema_version != SCHEMA_VERSION {
            return Err(missing("the calibration is of another version of llmlab".into()));
        }
        if known.parameters != parameters {
            return Err(missing("the calibration is of another model under this name".into()));
        }
        known.fitted.check().map_err(|error| missing(error.to_string()))?;
        Ok(known)
    }

    /// Keeps it, in place of an older one.
    pub fn save(&self) -> Result<PathBuf, Failure> {
        let path = path(&self.model, &self.weights, &self.kv, self.threads)
            .ok_or_else(|| Failure::bad_input("no folder to keep the calibration in: HOME is not set"))?;
        let fail =
            |error: std::io::Error| Failure::internal(format!("cannot write {}: {error}", path.display()));
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(fail)?;
        }
        let text = serde_json::to_string_pretty(self).map_err(Failure::internal)?;
        std::fs::write(&path, text).map_err(fail)?;
        Ok(path)
    }
}

fn path(model: &str, weights: &str, kv: &str, threads: u32) -> Option<PathBuf> {
    let name = format!("{model}-{weights}-{kv}");
    let plain: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).take(120).collect();
    Some(host::cache_folder()?.join(format!("engine-{}-{plain}.json", host::fingerprint(threads))))
}
