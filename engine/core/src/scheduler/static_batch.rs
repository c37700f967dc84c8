//! Policy `static`, as in a Hugging Face pipeline or FasterTransformer: wait for a full batch or until the oldest
//! request waited long enough, then run the batch to its end before looking at the queue again.

use crate::config::StaticConfig;
use crate::request::{At, RequestId};
use crate::scheduler::rectangle::Rectangle;
use crate::scheduler::state::State;
use crate::scheduler::{Decision, EnqueueError, Policy, deadline, oldest_arrival, refuse_never_fits};

#[derive(Debug)]
pub struct StaticBatch {
    config: StaticConfig,
    batch: Rectangle,
}

impl StaticBatch {
    pub fn new(config: StaticConfig) -> Self {
        StaticBatch { config, batch: Rectangle::default() }
    }
}

impl Policy for StaticBatch {
    fn plan(&mut self, state: &mut State, now: At) -> Decision {
        if !self.batch.is_running() {
            let Some(oldest) = oldest_arrival(state) else { return Decision::Idle };
            let wanted = self.config.batch_size as usize;
            let size = Rectangle::fitting(state, wanted);
            // Waiting longer cannot add to a batch that memory limits.
            let full = size == wanted || size < state.waiting.len();
            let until = deadline(oldest, self.config.max_queue_delay);
            if !full && now < until {
                return Decision::WaitUntil(until);
            }
            self.batch.form(state, size);
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
