//! Policy `dynamic`: Triton's dynamic batcher in front of one model instance that runs each batch to its end.
//! Rules from Triton core's `dynamic_batch_scheduler.cc` (2026-06), for requests of batch size one.

use crate::config::DynamicConfig;
use crate::request::{At, RequestId};
use crate::scheduler::rectangle::Rectangle;
use crate::scheduler::state::State;
use crate::scheduler::{Decision, EnqueueError, Policy, deadline, oldest_arrival, refuse_never_fits};

#[derive(Debug)]
pub struct DynamicBatch {
    config: DynamicConfig,
    batch: Rectangle,
}

enum Batch {
    Send(usize),
    /// For more company or the deadline.
    Wait,
}

impl DynamicBatch {
    pub fn new(config: DynamicConfig) -> Self {
        DynamicBatch { config, batch: Rectangle::default() }
    }

    /// What to do with `queued` requests of which the first `fitting` fit in memory together. `exceeded`: the oldest
    /// waited for the whole delay.
    fn decide(&self, queued: usize, fitting: usize, exceeded: bool) -> Batch {
        let preferred = &self.config.preferred_batch_size;
        let max_preferred = preferred.iter().max().copied().unwrap_or(self.config.max_batch_size) as usize;
        let most = (self.config.max_batch_size as usize).min(fitting);
        let pending = queued.min(most);
        let best = preferred.iter().map(|size| *size as usize).filter(|size| *size <= pending).max();
        match best {
            Some(size) if !exceeded => Batch::Send(size),
            // Cut off by the batch limit or by memory, as large as is preferred, or out of patience.
            _ if queued > most || pending >= max_preferred || exceeded => Batch::Send(pending),
            _ if self.config.max_queue_delay.is_zero() => Batch::Send(pending),
            _ => Batch::Wait,
        }
    }
}

impl Policy for DynamicBatch {
    fn plan(&mut self, state: &mut State, now: At) -> Decision {
        if !self.batch.is_running() {
            let Some(oldest) = oldest_arrival(state) else { return Decision::Idle };
            let delay = self.config.max_queue_delay;
            let until = deadline(oldest, delay);
            let fitting = Rectangle::fitting(state, self.config.max_batch_size as usize);
            match self.decide(state.waiting.len(), fitting, !delay.is_zero() && now >= until) {
                Batch::Send(size) => self.batch.form(state, size),
                Batch::Wait => return Decision::WaitUntil(until),
            }
        }
        Decision::Run(self.batch.next_step(state))
    }

    fn refuses(&self, state: &State, _prompt_tokens: usize, longest_tokens: usize) -> Option<EnqueueError> {
        refuse_never_fits(state, longest_tokens)
    }

    fn retire(&mut self, state: &mut State, id: RequestId) {
        self.batch.retire(state, id);
    }
}
