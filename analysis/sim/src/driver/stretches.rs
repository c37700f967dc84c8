//! Decode steps between two events, without a plan for each. What clients see is the same, to the nanosecond.

use std::time::Duration;

use llmlab_core::executor::Executor;

use super::clients::ns;
use super::{Run, SimulationError, next_sent_or_there};

/// Steps after which somebody may want to stop the simulation.
const MAX_STEPS: usize = 4096;

impl<E: Executor> Run<'_, '_, '_, '_, E> {
    /// Goes on as long as nothing but decoding happens. Says whether it took any step.
    pub(super) fn stretch(&mut self) -> Result<bool, SimulationError> {
        let next = next_sent_or_there(&self.clients, &self.travelling, self.time_limit);
        // A step log wants every plan.
        if self.steps_sink.is_some() || next.is_some_and(|at| at <= self.now) {
            return Ok(false);
        }
        let Some(foresight) = self.engine.executor.foresight() else { return Ok(false) };
        let Some(mut stretch) = self.engine.scheduler.stretch() else { return Ok(false) };
        let (mut delivered, mut ended) = (std::mem::take(&mut self.delivered_ns), Vec::new());
        let mut tokens = 0;
        // Nobody gives up before; somebody may later than that, who is then looked at on the long way.
        let patience = self.clients.next_deadline().unwrap_or(Duration::MAX);
        let most = MAX_STEPS.min(self.clients.steps_before_hang_up());
        while delivered.len() < most && stretch.goes_on() {
            let sequences = stretch.sequences();
            let Some(elapsed) = foresight.decode_time(sequences, stretch.keys()) else { break };
            let end = self.now + elapsed;
            let told = end + self.overhead.delivery();
            if told >= patience || told > self.horizon {
                break;
            }
            stretch.step(end, foresight, &mut ended);
            delivered.push(ns(told));
            tokens += sequences;
            self.now = end + self.overhead.between_steps(sequences);
            for over in ended.drain(..) {
                self.clients.tokens(over.id.0, &delivered, |index| foresight.token(over.id, index));
                self.clients.finished(over.id.0, told, over.reason)?;
            }
            let next = next_sent_or_there(&self.clients, &self.travelling, self.time_limit);
            if next.is_some_and(|at| at <= self.now) {
                break;
            }
        }
        stretch.close(foresight);
        for id in self.engine.scheduler.running() {
            self.clients.tokens(id.0, &delivered, |index| foresight.token(*id, index));
        }
        self.steps += delivered.len() as u64;
        if tokens > 0 {
            self.clients.told(tokens);
        }
        delivered.clear();
        self.delivered_ns = delivered;
        Ok(tokens > 0)
    }
}
