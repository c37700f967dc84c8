//! The seam between deciding and computing.

use crate::step::{StepOutcome, StepPlan};

#[derive(Debug, thiserror::Error)]
#[error("executor failed: {0}")]
pub struct ExecutorError(pub String);

/// Computes a plan. Real ones (CPU, candle) write keys and values into the blocks the plan names; virtual ones only
/// say how long it would have taken. After an error the executor's state is undefined and the engine stops.
pub trait Executor: Send {
    fn execute(&mut self, plan: &StepPlan) -> Result<StepOutcome, ExecutorError>;
}
