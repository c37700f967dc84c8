//! What happened. Records, step log, manifest and the crash-safe files they are kept in.
//!
//! Knows no metric, no server and no clock: times arrive in the records, `now` arrives as a parameter.
//!
//! Reading order: [`record`], [`step`], [`server_sample`], [`machine_sample`], [`prompt_fit`], [`journey`], [`calibration`] and [`manifest`] are the data; [`journal`]
//! is the line format that survives a crash; [`run_dir`] and [`trial`] write a run, [`sweep`] ties several together; [`read`] reads one back, whole
//! or broken; [`merge`] makes one run of the shards of a schedule; [`parquet`] exports a run.
//!
//! ```text
//! results/runs/20261121-101500-vllm-vs-tgi/
//!   lock                     held (flock) by the process that writes the run
//!   manifest.json            replaced atomically
//!   vllm-r1/                 one directory per trial
//!     trial.json             the trial's facts when it started, so that a killed run can still be read
//!     journal.jsonl          one checksummed line per finished request
//!     server.jsonl           one checksummed line per scrape of the server
//!     machine.jsonl          one checksummed line per look at the machine, where that is the server's
//!     steps.jsonl            the engine's own step log, written by the server
//!     calls.jsonl            every call to the engine's scheduler, with --record
//!   requests.parquet         every request of every trial, for other tools
//!   token_events.parquet     every token event of every trial
//!
//! results/runs/20261121-101500-batching-testbed/
//!   sweep.json               which run is which cell; replaced atomically
//!   20261121-101501-.../     one run directory per cell
//!
//! results/runs/20261121-101500-find-max-rate/
//!   search.json              which run is which value of which target; replaced atomically
//!   <target>-probe/          what the search of a target started from
//!   20261121-101501-.../     one run directory per value tried
//! ```

pub mod calibration;
pub mod journal;
pub mod journey;
pub mod machine_sample;
pub mod manifest;
pub mod merge;
pub mod parquet;
pub mod prompt_fit;
pub mod read;
pub mod record;
pub mod run_dir;
pub mod search;
pub mod server_sample;
pub mod step;
pub mod sweep;
pub mod trial;

mod error;
mod token_events;

pub use error::ResultsError;
pub use parquet::write_parquet;
pub use read::{TrialFiles, read_run};
pub use run_dir::{RunDir, latest_run};
pub use search::read_search;
pub use sweep::read_sweep;
pub use trial::{SampleWriter, TrialWriter};
