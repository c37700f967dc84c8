//! Starts, drains and deaths of replicas.

use std::time::Duration;

use llmlab_core::request::At;

use super::config::MOST_REPLICAS;
use super::outcome::Scaling;
use super::random::{Draws, Purpose};
use super::replica::{Phase, Replica};
use super::run::{Cluster, Event};
use crate::SimulationError;

const HOUR: Duration = Duration::from_secs(3600);

impl Cluster<'_, '_> {
    /// One more replica; it still has to enter a phase.
    pub fn add(&mut self, pool: usize, now: At) -> usize {
        let desk = self.clients.new_desk();
        let replica = Replica::new(&self.config.pools[pool], pool, desk, now, self.config.seed);
        self.replicas.push(replica);
        self.replicas.len() - 1
    }

    pub fn enter(&mut self, place: usize, phase: Phase, now: At) {
        let replica = &mut self.replicas[place];
        let pool = &self.config.pools[replica.pool];
        replica.phase = phase;
        if phase > Phase::Provision {
            replica.billed_from.get_or_insert(now);
        }
        let mut draws = Draws::new(self.config.seed, Purpose::ColdStart, (place as u64) << 8 | phase as u64);
        if let Some(time) = pool.cold_start.time_of(phase, &mut draws) {
            self.announce(now.saturating_add(time), Event::PhaseOver(place));
        } else if phase == Phase::Ready {
            replica.ready_at = Some(now);
            replica.lane.now = now;
            self.ready.push(place);
            self.ready.sort_unstable();
            self.foresee_the_end(place, now);
        }
    }

    /// Failures and preemptions are drawn when a replica begins to serve, so that no step of it goes beyond them.
    fn foresee_the_end(&mut self, place: usize, now: At) {
        let pool = &self.config.pools[self.replicas[place].pool];
        let draw = |purpose, mean| {
            now.saturating_add(Draws::new(self.config.seed, purpose, place as u64).exponential(mean))
        };
        let fails = pool.failures.map(|failures| draw(Purpose::Failure, failures.mtbf));
        let preempted = pool.spot.filter(|spot| spot.preemptions_per_hour > 0.0).map(|spot| {
            let notice = draw(Purpose::Preemption, HOUR.div_f64(spot.preemptions_per_hour));
            (notice, notice.saturating_add(spot.notice))
        });
        let ends = [fails, preempted.map(|(_, leaves)| leaves)].into_iter().flatten();
        self.replicas[place].dies_at = ends.min().unwrap_or(At::MAX);
        if let Some(at) = fails {
            self.announce(at, Event::Fails(place));
        }
        if let Some((notice, leaves)) = preempted {
            self.announce(notice, Event::Notice(place));
            self.announce(leaves, Event::Leaves(place));
        }
    }

    pub fn phase_over(&mut self, place: usize, now: At) -> Result<(), SimulationError> {
        if !self.replicas[place].is_starting() {
            return Ok(());
        }
        let next = self.replicas[place].phase.next();
        self.enter(place, next, now);
        self.send_waiting(now)?;
        self.press(now)
    }

    /// The process dies; the machine stays, and has a new one after the repair.
    pub fn fails(&mut self, place: usize, now: At) -> Result<(), SimulationError> {
        let (was, pool) = (self.replicas[place].phase, self.replicas[place].pool);
        self.leaves(place, now)?;
        if was != Phase::Ready {
            return Ok(());
        }
        let repair = self.config.pools[pool].failures.map_or(Duration::ZERO, |failures| failures.mttr);
        let new = self.add(pool, now);
        self.enter(new, Phase::Repair, now);
        self.announce(now.saturating_add(repair), Event::PhaseOver(new));
        Ok(())
    }

    pub fn notice(&mut self, place: usize, now: At) -> Result<(), SimulationError> {
        if !self.replicas[place].is_ready() {
            return Ok(());
        }
        let pool = self.replicas[place].pool;
        // Until the machine is taken.
        self.drain(place, now, At::MAX)?;
        self.reconcile(pool, now)
    }

    /// The end, with whatever is still there.
    pub fn leaves(&mut self, place: usize, now: At) -> Result<(), SimulationError> {
        if self.replicas[place].phase == Phase::Gone || self.replicas[place].is_starting() {
            return Ok(());
        }
        self.catch_up(place, now)?;
        self.gone(place, now);
        self.lose(place, now)
    }

    pub fn gone(&mut self, place: usize, now: At) {
        let replica = &mut self.replicas[place];
        replica.phase = Phase::Gone;
        replica.gone_at = Some(now);
        self.ready.retain(|ready| *ready != place);
        self.router.forget(place);
    }

    /// No new requests; at `end` it goes, at once if it has none.
    fn drain(&mut self, place: usize, now: At, end: At) -> Result<(), SimulationError> {
        self.catch_up(place, now)?;
        self.ready.retain(|ready| *ready != place);
        let replica = &mut self.replicas[place];
        replica.phase = Phase::Draining;
        replica.lane.pressed = false;
        if replica.outstanding == 0 {
            self.gone(place, now);
        } else if end < replica.dies_at {
            replica.dies_at = end;
            self.announce(end, Event::Leaves(place));
        }
        Ok(())
    }

    /// A pool is to have so many replicas.
    pub fn scale(&mut self, pool: usize, wanted: u32, now: At) -> Result<(), SimulationError> {
        let to = wanted.min(MOST_REPLICAS);
        let from = std::mem::replace(&mut self.wanted[pool], to);
        if from != to {
            self.scalings.push(Scaling { at: now, pool, from, to });
        }
        self.reconcile(pool, now)
    }

    /// Starts what is missing and lets go what is too much: the youngest that does not serve yet, then the one with the
    /// fewest requests.
    fn reconcile(&mut self, pool: usize, now: At) -> Result<(), SimulationError> {
        let here = |replica: &Replica<'_>| replica.pool == pool && replica.counts();
        let mut count = self.replicas.iter().filter(|replica| here(replica)).count();
        let wanted = self.wanted[pool] as usize;
        while count < wanted {
            let new = self.add(pool, now);
            self.enter(new, Phase::Provision, now);
            count += 1;
        }
        while count > wanted {
            let candidates = self.replicas.iter().enumerate().filter(|(_, replica)| here(replica));
            let key = |(place, replica): &(usize, &Replica<'_>)| {
                (replica.is_ready(), replica.outstanding, std::cmp::Reverse(*place))
            };
            let Some((place, replica)) = candidates.min_by_key(key) else { break };
            if replica.is_starting() {
                self.gone(place, now);
            } else {
                let end = now.saturating_add(self.config.pools[pool].drain);
                self.drain(place, now, end)?;
            }
            count -= 1;
        }
        Ok(())
    }
}
