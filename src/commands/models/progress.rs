//! Says on standard error how far a long conversion is, whatever the writer: it watches what the writer reads.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use llmlab_models::{ModelError, ModelSpec, WeightSource};
use llmlab_quant::{StoredMatrix, WeightFormat};

/// Models below this are done before a line could be read.
const QUIET_BELOW: u64 = 100_000_000;
const STEPS: u64 = 20;

/// A source that reports each twentieth of the values that were asked for.
pub struct Progress {
    source: Box<dyn WeightSource>,
    sizes: BTreeMap<String, u64>,
    total: u64,
    done: AtomicU64,
}

impl Progress {
    pub fn new(spec: &ModelSpec, source: Box<dyn WeightSource>) -> Progress {
        let sizes = spec.tensors().into_iter().map(|t| (t.name.clone(), t.elements())).collect();
        Progress { source, sizes, total: spec.parameters(), done: AtomicU64::new(0) }
    }

    fn add(&self, name: &str) {
        let values = self.sizes.get(name).copied().unwrap_or(0);
        let before = self.done.fetch_add(values, Ordering::Relaxed);
        let step = |done: u64| STEPS * done.min(self.total) / self.total.max(1);
        let (from, to) = (step(before), step(before + values));
        if self.total >= QUIET_BELOW && to > from {
            eprintln!("{:>3} % of {:.2} G weights", 100 * to / STEPS, self.total as f64 / 1e9);
        }
    }
}

impl WeightSource for Progress {
    fn tensor(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let values = self.source.tensor(name)?;
        self.add(name);
        Ok(values)
    }

    fn stored(&self, name: &str) -> Result<StoredMatrix<'_>, ModelError> {
        let matrix = self.source.stored(name)?;
        self.add(name);
        Ok(matrix)
    }

    fn format(&self, name: &str) -> Result<WeightFormat, ModelError> {
        self.source.format(name)
    }
}
