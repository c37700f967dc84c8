//! Decode steps between two events, without a plan for each. What clients see is the same, to the nanosecond.

use std::time::Duration;

use llmlab_core::executor::Executor;

use super::SimulationError;
use super::clients::{Ledger, ns};
use super::server::Server;

/// Steps after which somebody may want to stop the simulation.
const MAX_STEPS: usize = 4096;

impl<E: Executor, L: Ledger> Server<'_, '_, '_, '_, E, L> {
    /// Goes on as long as nothing but decoding happens. Says whether it took any step.
    pub(super) fn stretch(&mut self) -> Result<bool, SimulationError> {
        let next = self.next_sent_or_there();
        // A step log wants every plan.
        if self.steps_sink.is_some() || next.is_some_and(|at| at <= self.lane.now) {
            return Ok(false);
        }
        let Some(foresight) = self.engine.executor.foresight() else { return Ok(false) };
        let Some(mut stretch) = self.engine.scheduler.stretch() else { return Ok(false) };
        let (lane, clients) = (&mut *self.lane, &mut *self.clients);
        let (mut delivered, mut ended) = (std::mem::take(&mut lane.delivered_ns), Vec::new());
        let mut tokens = 0;
        // Nobody gives up before; somebody may later than that, who is then looked at on the long way.
        let patience = clients.next_deadline(lane.desk).unwrap_or(Duration::MAX);
        let most = MAX_STEPS.min(clients.steps_before_hang_up(lane.desk));
        while delivered.len() < most && stretch.goes_on() {
            let sequences = stretch.sequences();
            let Some(elapsed) = foresight.decode_time(sequences, stretch.keys()) else { break };
            let end = lane.now + elapsed;
            let told = lane.front_end.told(end, sequences, &lane.overhead);
            if told >= patience || told > self.horizon {
                break;
            }
            stretch.step(end, foresight, &mut ended);
            lane.front_end.give_out(end, sequences, &lane.overhead);
            delivered.push(ns(told));
            tokens += sequences;
            lane.now = end + lane.overhead.between_steps(sequences);
            lane.worked(elapsed, ended.len());
            let something_follows = clients.ends_matter && !ended.is_empty();
            for over in ended.drain(..) {
                clients.tokens(over.id.0, &delivered, |index| foresight.token(over.id, index));
                clients.finished(over.id.0, told, over.reason)?;
            }
            if something_follows {
                break;
            }
            let due = clients.next_due().filter(|due| *due < self.time_limit);
            let next = due.into_iter().chain(lane.next_arrival()).min();
            if lane.now >= self.limit || next.is_some_and(|at| at <= lane.now) {
                break;
            }
        }
        stretch.close(foresight);
        for id in self.engine.scheduler.running() {
            clients.tokens(id.0, &delivered, |index| foresight.token(*id, index));
        }
        lane.steps += delivered.len() as u64;
        if tokens > 0 {
            clients.told(tokens);
        }
        delivered.clear();
        lane.delivered_ns = delivered;
        Ok(tokens > 0)
    }
}
