//! The seam between deciding and computing.

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
}

impl<E: Executor + ?Sized> Executor for Box<E> {
    fn execute(&mut self, plan: &StepPlan) -> Result<StepOutcome, ExecutorError> {
        (**self).execute(plan)
    }
}

impl<E: Executor + ?Sized> Executor for &mut E {
    fn execute(&mut self, plan: &StepPlan) -> Result<StepOutcome, ExecutorError> {
        (**self).execute(plan)
    }
}
