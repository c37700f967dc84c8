//! What is tried: devices, formats, and how a replica is spread over devices.

use llmlab_models::catalogue::{DeviceKind, Hardware, hardware, hardwares};
use llmlab_scenarios::plan::Space;
use serde::Serialize;

use super::PlanError;
use super::disaggregated::Split;

/// One way to run one replica.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Candidate {
    /// A name of the catalogue.
    pub hardware: String,
    pub weights: String,
    pub kv: String,
    pub tensor_parallel: u32,
    pub pipeline_parallel: u32,
    /// Prefill and decode in replicas of their own, a unit of which takes the place of a replica. Before it is sized, the
    /// smallest one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split: Option<Split>,
}

impl Candidate {
    /// Of a replica, or of all replicas of a unit.
    pub fn devices(&self) -> u32 {
        self.replica_devices().saturating_mul(self.split.map_or(1, Split::replicas))
    }

    /// That hold one copy of the model.
    pub fn replica_devices(&self) -> u32 {
        self.tensor_parallel.saturating_mul(self.pipeline_parallel)
    }

    /// "2x h100-sxm, fp8, TP 2", "1 prefill + 3 decode of h100-sxm, bf16"
    pub fn words(&self) -> String {
        let mut words = match self.split {
            Some(Split { prefill, decode }) => format!("{prefill} prefill + {decode} decode of "),
            None => String::new(),
        };
        words.push_str(&match self.replica_devices() {
            1 => self.hardware.clone(),
            devices => format!("{devices}x {}", self.hardware),
        });
        words.push_str(&format!(", {}", self.weights));
        if self.kv != BF16 {
            words.push_str(&format!(", KV {}", self.kv));
        }
        if self.tensor_parallel > 1 {
            words.push_str(&format!(", TP {}", self.tensor_parallel));
        }
        if self.pipeline_parallel > 1 {
            words.push_str(&format!(", PP {}", self.pipeline_parallel));
        }
        words
    }
}

pub const BF16: &str = "bf16";

/// Every combination of the space, cheap devices of the catalogue first. `weights` and `kv` are what is tried where
/// the space names none.
pub fn candidates(
    space: &Space,
    weights: &[&str],
    kv: &[&str],
    priced: impl Fn(&Hardware) -> bool,
) -> Result<Vec<Candidate>, PlanError> {
    let devices: Vec<&Hardware> = match &space.hardware {
        Some(names) => names
            .iter()
            .map(|name| hardware(name).map_err(|error| PlanError::Catalogue(format!("hardware: {error}"))))
            .collect::<Result<_, _>>()?,
        None => {
            hardwares().iter().filter(|device| device.kind == DeviceKind::Gpu && priced(device)).collect()
        }
    };
    let chosen = |chosen: &Option<Vec<String>>, default: &[&str]| match chosen {
        Some(names) => names.clone(),
        None => default.iter().map(|name| (*name).to_owned()).collect(),
    };
    let weights = chosen(&space.weights, weights);
    let kv = chosen(&space.kv, kv);
    let mut found = Vec::new();
    for device in devices {
        for weights in &weights {
            for kv in &kv {
                for tensor_parallel in &space.tensor_parallel {
                    for pipeline_parallel in &space.pipeline_parallel {
                        for split in [None, space.disaggregated.then_some(Split::LEAST)] {
                            let candidate = Candidate {
                                hardware: device.name.clone(),
                                weights: weights.clone(),
                                kv: kv.clone(),
                                tensor_parallel: *tensor_parallel,
                                pipeline_parallel: *pipeline_parallel,
                                split,
                            };
                            if !found.contains(&candidate) {
                                found.push(candidate);
                            }
                        }
                    }
                }
            }
        }
    }
    Ok(found)
}
