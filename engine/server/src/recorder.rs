//! A scheduler whose calls can be written down, for `llmlab replay`.

use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::ops::Deref;
use std::path::Path;

use llmlab_core::recording::{Call, FORMAT, Header, PlanCall};
use llmlab_core::request::{At, Event, Request, RequestId};
use llmlab_core::scheduler::{EnqueueError, Planned, Scheduler};
use llmlab_core::step::{StepOutcome, StepPlan};

use crate::config::ServerConfig;
use crate::line_log::{LineLog, LineLogWriter, put};

/// Calls on their way to the writer.
const QUEUED_CALLS: usize = 16_384;

/// Starts the file at `path`, which must not exist: a recording that is replaced by mistake cannot be made again.
pub(crate) fn open(
    path: &Path,
    config: &ServerConfig,
    scheduler: &Scheduler,
) -> io::Result<(LineLog<Call>, LineLogWriter)> {
    let header = Header {
        llmlab_recording: FORMAT,
        llmlab: env!("CARGO_PKG_VERSION").to_owned(),
        model: config.served_model_name.clone(),
        adapters: config.lora_modules.clone(),
        engine: scheduler.config().clone(),
    };
    header.check().map_err(io::Error::other)?;
    let file = OpenOptions::new().write(true).create_new(true).open(path)?;
    let mut out = BufWriter::new(file);
    put(&mut out, &header)?;
    out.flush()?;
    LineLog::start("recorder", out.into_inner().map_err(io::IntoInnerError::into_error)?, QUEUED_CALLS)
}

/// Passes every call on, and writes it down where there is a file. What only reads goes to the scheduler itself.
pub(crate) struct Recorded {
    scheduler: Scheduler,
    /// None without a file, and after a call was lost: a recording with a gap is worth nothing behind it.
    calls: Option<LineLog<Call>>,
}

impl Recorded {
    pub fn new(scheduler: Scheduler, calls: Option<LineLog<Call>>) -> Self {
        Recorded { scheduler, calls }
    }

    pub fn enqueue_arrived(&mut self, now: At, arrived: At, request: Request) -> Result<(), EnqueueError> {
        let kept = self.calls.is_some().then(|| request.clone());
        let answer = self.scheduler.enqueue_arrived(now, arrived, request);
        if let Some(request) = kept {
            self.note(|| Call::Enqueue { now, arrived, refused: answer.is_err(), request });
        }
        answer
    }

    pub fn abort(&mut self, now: At, id: RequestId) {
        self.scheduler.abort(now, id);
        self.note(|| Call::Abort { now, id });
    }

    /// Also the ends of requests that the policy did not let wait any longer.
    pub fn plan(&mut self, now: At) -> (Planned, Vec<Event>) {
        let planned = self.scheduler.plan(now);
        let expired = self.scheduler.take_expired();
        self.note(|| Call::Plan(PlanCall::of(now, &planned, &expired)));
        (planned, expired)
    }

    pub fn commit(&mut self, now: At, plan: &StepPlan, outcome: &StepOutcome) -> Vec<Event> {
        self.note(|| Call::Commit { now, sampled: outcome.sampled.clone(), drafts: outcome.drafts.clone() });
        self.scheduler.commit(now, plan, outcome)
    }

    fn note(&mut self, call: impl FnOnce() -> Call) {
        if let Some(calls) = &mut self.calls
            && !calls.push(call())
        {
            self.calls = None;
        }
    }
}

impl Deref for Recorded {
    type Target = Scheduler;

    fn deref(&self) -> &Scheduler {
        &self.scheduler
    }
}
