//! A recorded run in place of a forward pass, under whatever drives the engine.

use llmlab_core::executor::{Executor, ExecutorError};
use llmlab_core::recording::PlanRecord;
use llmlab_core::step::{StepOutcome, StepPlan};

use super::difference::difference;

/// One executed step.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordedStep {
    pub plan: PlanRecord,
    pub outcome: StepOutcome,
}

/// What an executor was asked and what it answered, in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Recording {
    pub steps: Vec<RecordedStep>,
}

/// Keeps what passes through an executor.
pub struct Recorder<E> {
    executor: E,
    recording: Recording,
}

impl<E> Recorder<E> {
    pub fn new(executor: E) -> Recorder<E> {
        Recorder { executor, recording: Recording::default() }
    }

    pub fn into_recording(self) -> Recording {
        self.recording
    }
}

impl<E: Executor> Executor for Recorder<E> {
    fn execute(&mut self, plan: &StepPlan) -> Result<StepOutcome, ExecutorError> {
        let outcome = self.executor.execute(plan)?;
        self.recording.steps.push(RecordedStep { plan: PlanRecord::of(plan), outcome: outcome.clone() });
        Ok(outcome)
    }
}

/// Answers as recorded, and only to the plans that were recorded.
#[derive(Debug, Clone)]
pub struct ReplayExecutor {
    recording: Recording,
    next: usize,
}

impl ReplayExecutor {
    pub fn new(recording: Recording) -> ReplayExecutor {
        ReplayExecutor { recording, next: 0 }
    }

    /// Steps not asked for yet.
    pub fn remaining(&self) -> usize {
        self.recording.steps.len() - self.next
    }
}

impl Executor for ReplayExecutor {
    fn execute(&mut self, plan: &StepPlan) -> Result<StepOutcome, ExecutorError> {
        let Some(recorded) = self.recording.steps.get(self.next) else {
            return Err(ExecutorError(format!("step {} was never recorded", plan.step)));
        };
        if let Some(difference) = difference(&recorded.plan, &PlanRecord::of(plan)) {
            return Err(ExecutorError(format!("step {} is not the recorded one: {difference}", plan.step)));
        }
        self.next += 1;
        Ok(recorded.outcome.clone())
    }
}
