//! A replica: a server, and where it is in its life.

use std::time::Duration;

use llmlab_core::engine::Engine;
use llmlab_core::executor::Executor;
use llmlab_core::request::At;
use llmlab_core::scheduler::Scheduler;

use super::config::{ColdStart, Pool};
use super::random::{Draws, scaled};
use crate::driver::server::Lane;
use crate::executor::RooflineExecutor;

/// In order. Each machine begins at the first, or a repaired process at [`Phase::Repair`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Provision,
    ImagePull,
    WeightLoad,
    WarmUp,
    Repair,
    Ready,
    /// Gets no new requests.
    Draining,
    Gone,
}

pub(super) struct Replica<'w> {
    pub pool: usize,
    pub engine: Engine<RooflineExecutor>,
    pub lane: Lane<'w>,
    pub phase: Phase,
    /// When its life ends, as far as is known.
    pub dies_at: At,
    /// It stands still because of that.
    pub stopped: bool,
    /// Nothing that a router could see happens before, if nothing is sent to it.
    pub wake: At,
    pub billed_from: Option<At>,
    pub ready_at: Option<At>,
    pub gone_at: Option<At>,
    /// Requests in flight, and their tokens.
    pub outstanding: u32,
    pub tokens: u64,
    pub sent: u64,
    /// When the keys and values that it has promised are sent.
    pub sends_until: At,
}

impl<'w> Replica<'w> {
    pub fn new(pool: &Pool, place: usize, desk: usize, now: At, seed: u64) -> Replica<'w> {
        // The configuration was checked before.
        let scheduler = Scheduler::new(pool.engine.clone())
            .and_then(|scheduler| scheduler.with_batches_in_flight(pool.cost.stages()))
            .unwrap_or_else(|error| panic!("pool {}: {error}", pool.name))
            .without_block_tables();
        let executor = RooflineExecutor::new(Box::new(pool.cost.clone()), seed, pool.vocab_size);
        let mut lane = Lane::new(desk, pool.overhead, pool.max_queue);
        lane.now = now;
        lane.role = pool.role;
        Replica {
            pool: place,
            engine: Engine::new(scheduler, executor),
            lane,
            phase: Phase::Provision,
            dies_at: At::MAX,
            stopped: false,
            wake: At::MAX,
            billed_from: None,
            ready_at: None,
            gone_at: None,
            outstanding: 0,
            tokens: 0,
            sent: 0,
            sends_until: At::ZERO,
        }
    }

    pub fn is_starting(&self) -> bool {
        self.phase < Phase::Ready
    }

    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }

    /// Serving or about to.
    pub fn counts(&self) -> bool {
        self.phase <= Phase::Ready
    }

    /// Serving, with or without new requests.
    pub fn works(&self) -> bool {
        matches!(self.phase, Phase::Ready | Phase::Draining) && !self.stopped
    }

    /// A time before which none of its requests can end or begin to be answered: its steps are no shorter than that of a single
    /// decode.
    pub fn quiet_until(&self) -> At {
        let now = self.lane.now;
        let Some(steps) = self.engine.scheduler.steps_to_news() else { return now };
        let one = self.engine.executor.foresight().and_then(|foresight| foresight.decode_time(1, 1));
        let steps = u32::try_from(steps.saturating_sub(1)).unwrap_or(u32::MAX);
        now.saturating_add(one.unwrap_or_default().saturating_mul(steps))
    }

    pub fn share_of_kv(&self) -> f64 {
        let stats = self.engine.scheduler.stats();
        let free = stats.free_blocks + stats.cached_blocks;
        1.0 - free as f64 / stats.total_blocks.max(1) as f64
    }
}

impl ColdStart {
    /// How long a phase takes; none for one that does not end by itself.
    pub(super) fn time_of(&self, phase: Phase, draws: &mut Draws) -> Option<Duration> {
        let time = match phase {
            Phase::Provision => self.provision,
            Phase::ImagePull => self.image_pull,
            Phase::WeightLoad => self.weight_load,
            Phase::WarmUp => self.warm_up,
            Phase::Repair | Phase::Ready | Phase::Draining | Phase::Gone => return None,
        };
        Some(scaled(time, 1.0 + self.spread * (2.0 * draws.unit() - 1.0)))
    }
}

impl Phase {
    /// What comes after a phase of the start.
    pub(super) fn next(self) -> Phase {
        match self {
            Phase::Provision => Phase::ImagePull,
            Phase::ImagePull => Phase::WeightLoad,
            Phase::WeightLoad => Phase::WarmUp,
            Phase::WarmUp | Phase::Repair | Phase::Ready => Phase::Ready,
            Phase::Draining | Phase::Gone => Phase::Gone,
        }
    }
}
