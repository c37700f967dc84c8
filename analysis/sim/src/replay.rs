//! Running a recorded run again: its times and tokens in place of a forward pass.
//!
//! A scheduler that gets the same arrivals, times and tokens must plan the same steps. That is the parity that a simulation
//! rests on, and [`ReplayExecutor`] fails at the first step that differs, naming both.

use llmlab_core::executor::{Executor, ExecutorError};
use llmlab_core::step::{StepOutcome, StepPlan};

/// One executed step.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordedStep {
    pub plan: StepPlan,
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
        self.recording.steps.push(RecordedStep { plan: plan.clone(), outcome: outcome.clone() });
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
        if let Some(difference) = difference(&recorded.plan, plan) {
            return Err(ExecutorError(format!("step {} is not the recorded one: {difference}", plan.step)));
        }
        self.next += 1;
        Ok(recorded.outcome.clone())
    }
}

/// The first thing in which two plans differ, in words.
fn difference(recorded: &StepPlan, planned: &StepPlan) -> Option<String> {
    if recorded == planned {
        return None;
    }
    let shapes = |plan: &StepPlan| {
        let seqs = plan.seqs.iter().map(|seq| format!("{}:{}+{}", seq.id.0, seq.context, seq.tokens.len()));
        seqs.collect::<Vec<_>>().join(" ")
    };
    let (was, is) = (shapes(recorded), shapes(planned));
    if was != is {
        return Some(format!("recorded {was}, planned {is}"));
    }
    if recorded.preempted != planned.preempted || recorded.admitted != planned.admitted {
        return Some(format!(
            "recorded admitted {:?} preempted {:?}, planned admitted {:?} preempted {:?}",
            recorded.admitted, recorded.preempted, planned.admitted, planned.preempted
        ));
    }
    Some("the same shapes with other tokens, blocks or sampling".into())
}
