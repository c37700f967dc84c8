//! Policy `dynamic`: Triton's dynamic batcher in front of one model instance that runs each batch to its end.
//! Rules from Triton core's `dynamic_batch_scheduler.cc`, git 73aad7c3 (2026-06-09), for requests of batch size one.
//!
//! Whenever the instance is free, the queue is looked through in order of priority level, then arrival. A preferred size
//! is sent as soon as it is reached; anything is sent once the oldest in reach waited for `max_queue_delay`. A request
//! that waited for `default_timeout` is either rejected or put behind the others of its level.
//!
//! What differs: one queue policy holds for all levels (`priority_queue_policy` is left out), requests bring no timeouts
//! of their own (`allow_timeout_override`), and `max_queue_size` is the server's `max_queue`. A rejected request ends
//! with reason `abort`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::{ConfigError, EngineConfig, PolicyKnobs, at_least};
use crate::request::{At, RequestId};
use crate::scheduler::rectangle::Rectangle;
use crate::scheduler::state::State;
use crate::scheduler::{Decision, EnqueueError, Policy, deadline, refuse_never_fits};
use crate::sequence::Sequence;

/// Triton's dynamic batcher over a batch that runs to completion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DynamicConfig {
    pub max_batch_size: u32,
    pub preferred_batch_size: Vec<u32>,
    pub max_queue_delay: Duration,
    /// 0: requests have no priorities. Else from 1, the first to be served, to this.
    pub priority_levels: u32,
    /// For requests that name no level there is.
    pub default_priority_level: u32,
    pub timeout_action: TimeoutAction,
    /// Longest wait before that action; zero is for ever.
    pub default_timeout: Duration,
}

/// What becomes of a request that waited too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeoutAction {
    Reject,
    /// It goes behind those of its level that did not.
    Delay,
}

impl Default for DynamicConfig {
    /// Triton has no default for the batch size; the rest are its own.
    fn default() -> Self {
        DynamicConfig {
            max_batch_size: 8,
            preferred_batch_size: Vec::new(),
            max_queue_delay: Duration::ZERO,
            priority_levels: 0,
            default_priority_level: 0,
            timeout_action: TimeoutAction::Reject,
            default_timeout: Duration::ZERO,
        }
    }
}

impl DynamicConfig {
    fn level(&self, seq: &Sequence) -> u32 {
        let named = u32::try_from(seq.request.priority).unwrap_or(0);
        if (1..=self.priority_levels).contains(&named) { named } else { self.default_priority_level }
    }

    /// When a request's wait becomes too long, if it ever does.
    fn timeout(&self, seq: &Sequence) -> Option<At> {
        (!self.default_timeout.is_zero()).then(|| deadline(seq.arrived, self.default_timeout))
    }
}

impl PolicyKnobs for DynamicConfig {
    fn rules(&self) -> String {
        format!("dynamic (Triton rules, up to {})", self.max_batch_size)
    }

    fn build(&self, _engine: &EngineConfig) -> Box<dyn Policy> {
        Box::new(DynamicBatch { config: self.clone(), batch: Rectangle::default() })
    }

    fn validate(&self, _engine: &EngineConfig) -> Result<(), ConfigError> {
        let max = self.max_batch_size;
        at_least("max_batch_size", max, 1)?;
        if let Some(&preferred) = self.preferred_batch_size.iter().find(|&&size| size == 0 || size > max) {
            return Err(ConfigError::PreferredBatchSize { preferred, max });
        }
        if self.priority_levels > 0 && !(1..=self.priority_levels).contains(&self.default_priority_level) {
            let needs = "to be from 1 to priority_levels";
            return Err(ConfigError::Needs { key: "default_priority_level", needs });
        }
        Ok(())
    }

    fn max_num_seqs(&self) -> Option<u32> {
        Some(self.max_batch_size)
    }
}

#[derive(Debug)]
struct DynamicBatch {
    config: DynamicConfig,
    batch: Rectangle,
}

enum Batch {
    Send(usize),
    /// For more company or the deadline.
    Wait,
}

impl DynamicBatch {
    /// Applies timeouts, and puts the queue in the order in which it is looked through.
    fn order_queue(&self, state: &mut State, now: At) {
        let config = &self.config;
        let timed_out = |seq: &Sequence| config.timeout(seq).is_some_and(|at| at <= now);
        if config.timeout_action == TimeoutAction::Reject {
            let late: Vec<RequestId> = state.waiting.iter().filter(|id| timed_out(state.seq(*id))).collect();
            late.into_iter().for_each(|id| state.expire(id));
        }
        if config.priority_levels == 0 && config.default_timeout.is_zero() {
            return;
        }
        let State { seqs, waiting, .. } = state;
        waiting.sort_by_key(|id| {
            let seq = &seqs[&id];
            (config.level(seq), timed_out(seq), seq.number)
        });
    }

    /// The next time at which a timeout changes the queue.
    fn next_timeout(&self, state: &State, now: At) -> At {
        let timeouts = state.waiting.iter().filter_map(|id| self.config.timeout(state.seq(id)));
        timeouts.filter(|at| *at > now).min().unwrap_or(At::MAX)
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
            self.order_queue(state, now);
            let fitting = Rectangle::fitting(state, self.config.max_batch_size as usize);
            let Some(oldest) = state.waiting.iter().take(fitting).map(|id| state.seq(id).arrived).min()
            else {
                return Decision::Idle;
            };
            let delay = self.config.max_queue_delay;
            let until = deadline(oldest, delay);
            match self.decide(state.waiting.len(), fitting, !delay.is_zero() && now >= until) {
                Batch::Send(size) => self.batch.form(state, size),
                Batch::Wait => return Decision::WaitUntil(until.min(self.next_timeout(state, now))),
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
