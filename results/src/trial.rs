//! Writing one trial: the journal of requests and the samples scraped from the server.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::ResultsError;
use crate::journal::Journal;
use crate::manifest::{ServerSample, TrialFacts};
use crate::record::{RecordSink, RequestRecord};
use crate::run_dir::{sync_dir, write_json};

pub const FACTS_FILE: &str = "trial.json";
pub const JOURNAL_FILE: &str = "journal.jsonl";
pub const SAMPLES_FILE: &str = "server.jsonl";
pub const MACHINE_FILE: &str = "machine.jsonl";
pub const STEPS_FILE: &str = "steps.jsonl";

/// The sink of one trial. Call [`TrialWriter::finish`] at the end: dropping keeps what was written but reports nothing.
pub struct TrialWriter {
    dir: PathBuf,
    records: Journal,
    samples: SampleWriter,
}

impl TrialWriter {
    pub(crate) fn create(run: &Path, facts: &TrialFacts) -> Result<TrialWriter, ResultsError> {
        if !is_plain_name(&facts.dir) {
            return Err(ResultsError::BadTrialName { name: facts.dir.clone() });
        }
        let dir = run.join(&facts.dir);
        fs::create_dir(&dir).map_err(ResultsError::io("create", &dir))?;
        write_json(&dir.join(FACTS_FILE), facts, "the trial's facts")?;
        let records = Journal::create(&dir.join(JOURNAL_FILE))?;
        let samples = Journal::create(&dir.join(SAMPLES_FILE))?;
        sync_dir(&dir)?;
        sync_dir(run)?;
        Ok(TrialWriter { dir, records, samples: SampleWriter(Arc::new(Mutex::new(Some(samples)))) })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the server under test writes its step log for [`crate::read_run`] to find.
    pub fn steps_path(&self) -> PathBuf {
        self.dir.join(STEPS_FILE)
    }

    /// A handle for the thread that scrapes the server while this writer is lent to the driver.
    pub fn sample_writer(&self) -> SampleWriter {
        self.samples.clone()
    }

    pub fn write_sample(&self, sample: &ServerSample) -> Result<(), ResultsError> {
        self.samples.write_sample(sample)
    }

    /// The file for looks at the machine, for the thread that takes them.
    pub fn machine_journal(&self) -> Result<Journal, ResultsError> {
        Journal::create(&self.dir.join(MACHINE_FILE))
    }

    /// Flushes both files to the device. Samples that arrive later are dropped.
    pub fn finish(self) -> Result<(), ResultsError> {
        let samples = self.samples.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.records.finish()?;
        samples.map_or(Ok(()), Journal::finish)
    }
}

impl RecordSink for TrialWriter {
    fn record(&mut self, record: &RequestRecord) -> io::Result<()> {
        Ok(self.records.append(record)?)
    }
}

/// Appends server samples from any thread. `None` inside once the trial is finished.
#[derive(Clone)]
pub struct SampleWriter(Arc<Mutex<Option<Journal>>>);

impl SampleWriter {
    pub fn write_sample(&self, sample: &ServerSample) -> Result<(), ResultsError> {
        let mut journal = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        journal.as_mut().map_or(Ok(()), |journal| journal.append(sample))
    }
}

/// Trial directories come from a file when read back, so `..` and absolute paths must not reach the file system.
pub(crate) fn is_plain_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!((components.next(), components.next()), (Some(Component::Normal(only)), None) if only == name)
}

#[cfg(test)]
mod tests {
    use super::is_plain_name;

    #[test]
    fn a_trial_name_cannot_leave_the_run() {
        for good in ["vllm-r1", "probe.2", "日本"] {
            assert!(is_plain_name(good), "{good}");
        }
        for bad in ["", ".", "..", "/etc", "a/b", "../x", "a/", "./a"] {
            assert!(!is_plain_name(bad), "{bad}");
        }
    }
}
