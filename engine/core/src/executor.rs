//! The seam between deciding and computing.

use std::time::Duration;

use crate::request::{RequestId, TokenId};
use crate::step::{StepOutcome, StepPlan};

#[derive(Debug, thiserror::Error)]
#[error("executor failed: {0}")]
pub struct ExecutorError(pub String);

/// Computes a plan. Real ones (CPU, candle) write keys and values into the blocks the plan names; virtual ones only
/// say how long it would have taken. After an error the executor's state is undefined and the engine stops.
///
/// With prefix caching a sequence may read blocks that another sequence fills in the same plan, so within a layer all
/// keys and values of the plan are written before any is read.
pub trait Executor: Send {
    fn execute(&mut self, plan: &StepPlan) -> Result<StepOutcome, ExecutorError>;

    /// For executors that know what comes out of a decode step without being given its plan.
    fn foresight(&self) -> Option<&dyn Foresight> {
        None
    }

    /// Of the step that was executed last, the stages of a pipeline one after the other; their sum is its time. Empty where
    /// there is one stage.
    fn stage_times(&self) -> &[StageTime] {
        &[]
    }
}

/// A step in one stage of a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageTime {
    /// The stage has no time for another step meanwhile.
    pub busy: Duration,
    /// From its end to the next stage.
    pub to_next: Duration,
}

/// Plain decode steps as [`Executor::execute`] would answer them.
pub trait Foresight {
    /// The time of a step in which so many sequences compute one token each and sample, seeing `keys` keys in all. `None`
    /// if it depends on more than that.
    fn decode_time(&self, sequences: usize, keys: u64) -> Option<Duration>;

    /// What a request gets after `generated` tokens.
    fn token(&self, id: RequestId, generated: u32) -> TokenId;
}

impl<E: Executor + ?Sized> Executor for Box<E> {
    fn execute(&mut self, plan: &StepPlan) -> Result<StepOutcome, ExecutorError> {
        (**self).execute(plan)
    }

    fn foresight(&self) -> Option<&dyn Foresight> {
        (**self).foresight()
    }

    fn stage_times(&self) -> &[StageTime] {
        (**self).stage_times()
    }
}

impl<E: Executor + ?Sized> Executor for &mut E {
    fn execute(&mut self, plan: &StepPlan) -> Result<StepOutcome, ExecutorError> {
        (**self).execute(plan)
    }

    fn foresight(&self) -> Option<&dyn Foresight> {
        (**self).foresight()
    }

    fn stage_times(&self) -> &[StageTime] {
        (**self).stage_times()
    }
}
