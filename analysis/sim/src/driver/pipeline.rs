//! Steps under way in the stages of a pipeline, as vLLM's engine keeps them there (`EngineCore.step_with_batch_queue`): a step is
//! planned while there is room for one; when the pipeline is full or the scheduler has nothing to plan, the engine waits for
//! the oldest and hears of nothing else until then.

use std::collections::VecDeque;

use llmlab_core::executor::{Executor, StageTime};
use llmlab_core::request::At;
use llmlab_core::scheduler::Planned;
use llmlab_core::stats::Stats;
use llmlab_core::step::{StepOutcome, StepPlan};

use super::SimulationError;
use super::clients::Ledger;
use super::server::{Did, Server};

/// The state of the stages.
#[derive(Debug, Default)]
pub(crate) struct Pipeline {
    /// When each stage is done with what it has.
    free: Vec<At>,
    under_way: VecDeque<Step>,
    /// When the last step that is over was.
    last_end: At,
}

#[derive(Debug)]
pub(super) struct Step {
    pub plan: StepPlan,
    pub outcome: StepOutcome,
    pub start: At,
    /// The scheduler's state when it was planned, for a log.
    pub planned: Option<Stats>,
    end: At,
}

impl Pipeline {
    /// When a step that is sent now leaves the last stage: each stage takes it when the one before is done, the transfer over
    /// and the stage itself free.
    fn pass(&mut self, now: At, stages: &[StageTime]) -> At {
        self.free.resize(stages.len(), At::ZERO);
        let mut at = now;
        for (free, stage) in self.free.iter_mut().zip(stages) {
            *free = at.max(*free) + stage.busy;
            at = *free + stage.to_next;
        }
        at
    }
}

impl<E: Executor, L: Ledger> Server<'_, '_, '_, '_, E, L> {
    /// Plans a step into the pipeline, or waits for the oldest one in it.
    pub(super) fn work_in_stages(&mut self) -> Result<Did, SimulationError> {
        let mut until = None;
        if self.engine.scheduler.has_room_in_flight() {
            let planned = self.engine.scheduler.plan_one(self.lane.now);
            self.let_expired_go()?;
            match planned {
                Planned::Step(plan) => {
                    self.launch(plan)?;
                    return Ok(Did::Steps);
                }
                Planned::WaitUntil(at) => until = Some(at),
                Planned::Idle => {}
            }
        }
        let Some(oldest) = self.lane.pipeline.under_way.pop_front() else {
            return Ok(Did::Nothing { until });
        };
        let end = oldest.end.max(self.lane.now);
        let worked = end.saturating_sub(oldest.start.max(self.lane.pipeline.last_end));
        self.lane.pipeline.last_end = end;
        if !self.land(&oldest.plan, &oldest.outcome, oldest.start, end, worked, oldest.planned)? {
            return Ok(Did::Overran);
        }
        self.engine.scheduler.recycle(oldest.plan);
        Ok(Did::Steps)
    }

    fn launch(&mut self, plan: StepPlan) -> Result<(), SimulationError> {
        let planned = self.begin(&plan);
        let start = self.lane.now;
        let mut outcome = self.engine.executor.execute(&plan)?;
        let end = self.lane.pipeline.pass(start, self.engine.executor.stage_times());
        outcome.elapsed = end - start;
        self.lane.pipeline.under_way.push_back(Step { plan, outcome, start, planned, end });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn stages(busy_ms: &[u64], to_next_ms: u64) -> Vec<StageTime> {
        let ms = Duration::from_millis;
        busy_ms.iter().map(|busy| StageTime { busy: ms(*busy), to_next: ms(to_next_ms) }).collect()
    }

    #[test]
    fn a_stage_waits_for_the_one_before_and_for_itself() {
        let mut pipeline = Pipeline::default();
        let ms = Duration::from_millis;
        // 10 | 1 | 20 | 1 | 5 | 1: a transfer behind the last stage would be that to the client.
        assert_eq!(pipeline.pass(ms(0), &stages(&[10, 20, 5], 1)), ms(38));
        // The first stage is free at 10, the second at 31, where this waits from 21 on.
        assert_eq!(pipeline.pass(ms(0), &stages(&[10, 20, 5], 1)), ms(58));
        // After a pause nothing is waited for.
        assert_eq!(pipeline.pass(ms(100), &stages(&[1, 1, 1], 0)), ms(103));
    }
}
