//! A scheduler and an executor, one step at a time.

use crate::executor::{Executor, ExecutorError};
use crate::request::{At, Event};
use crate::scheduler::{Planned, Scheduler};
use crate::step::{StepOutcome, StepPlan};

/// Both fields are open: who drives an engine enqueues, aborts and asks for statistics on the scheduler itself.
#[derive(Debug)]
pub struct Engine<E> {
    pub scheduler: Scheduler,
    pub executor: E,
}

#[derive(Debug, Clone, PartialEq)]
pub enum EngineStep {
    Ran {
        plan: StepPlan,
        outcome: StepOutcome,
        events: Vec<Event>,
    },
    /// Nothing to compute before this time unless a request arrives.
    WaitUntil(At),
    Idle,
}

impl<E: Executor> Engine<E> {
    pub fn new(scheduler: Scheduler, executor: E) -> Self {
        Engine { scheduler, executor }
    }

    /// Plan, execute, commit. The step is committed at `now` plus the time it took. After an error the engine must not
    /// be stepped again.
    pub fn step(&mut self, now: At) -> Result<EngineStep, ExecutorError> {
        let plan = match self.scheduler.plan(now) {
            Planned::Step(plan) => plan,
            Planned::WaitUntil(at) => return Ok(EngineStep::WaitUntil(at)),
            Planned::Idle => return Ok(EngineStep::Idle),
        };
        let outcome = self.executor.execute(&plan)?;
        let events = self.scheduler.commit(now + outcome.elapsed, &plan, &outcome);
        Ok(EngineStep::Ran { plan, outcome, events })
    }
}
