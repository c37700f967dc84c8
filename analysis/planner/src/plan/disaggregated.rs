//! Prefill and decode in replicas of their own. A unit is a number of prefill replicas with a number of decode replicas; a row
//! has so many units as the traffic takes. Which numbers go together is found by simulation.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use llmlab_core::request::At;
use llmlab_loadgen::Workload;
use llmlab_sim::cluster::config::MOST_REPLICAS;
use llmlab_sim::cluster::{
    ClusterConfig, Controller, KvTransfer, Pool, Role, Routing, Scraped, simulate_with,
};
use serde::Serialize;

use super::PlanError;
use super::capacity::{Replica, patience};
use super::limits::Judge;

/// Replicas of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct Split {
    pub prefill: u32,
    pub decode: u32,
}

/// Units are no larger: their numbers are to grow with the traffic.
const MOST_IN_A_UNIT: u32 = 8;

impl Split {
    pub const LEAST: Split = Split { prefill: 1, decode: 1 };

    pub fn replicas(self) -> u32 {
        self.prefill + self.decode
    }

    /// So many units are one simulated cluster.
    pub fn is_simulated(self, units: u32) -> bool {
        units.saturating_mul(self.prefill.max(self.decode)) <= MOST_REPLICAS
    }

    /// What is tried where prompts take this share of the replicas' time: the smallest unit, the one that is nearest to the share,
    /// and its neighbours, since one of the limits may ask for more room than the other.
    pub fn tried(prefill_share: f64) -> Vec<Split> {
        let of = |replicas: u32| {
            let prefill = (prefill_share * f64::from(replicas)).round() as u32;
            let prefill = prefill.clamp(1, replicas - 1);
            Split { prefill, decode: replicas - prefill }
        };
        let gap =
            |split: &Split| (f64::from(split.prefill) / f64::from(split.replicas()) - prefill_share).abs();
        let nearest = (2..=MOST_IN_A_UNIT).map(of).min_by(|a, b| gap(a).total_cmp(&gap(b)));
        let nearest = nearest.unwrap_or(Split::LEAST);
        let mut tried = vec![Split::LEAST];
        for split in [
            nearest,
            Split { prefill: nearest.prefill + 1, ..nearest },
            Split { decode: nearest.decode + 1, ..nearest },
        ] {
            if split.replicas() <= MOST_IN_A_UNIT && !tried.contains(&split) {
                tried.push(split);
            }
        }
        tried
    }
}

/// A unit of a candidate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Apart {
    pub split: Split,
    pub transfer: KvTransfer,
}

/// Share of the time in which a step ran, of each pool.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PoolsBusy {
    pub prefill: f64,
    pub decode: f64,
}

/// Nobody scales; it ends a simulation whose verdict is certain.
struct Stop(Arc<AtomicBool>);

impl Controller for Stop {
    fn interval(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn wanted(&mut self, _now: At, _seen: &Scraped, wanted: &[u32]) -> Vec<u32> {
        wanted.to_vec()
    }

    fn stops(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Replica<'_> {
    /// The pools of so many units, or of so many replicas that do the whole.
    pub(super) fn pools(&self, units: u32) -> Vec<Pool> {
        let pool = |role, name, replicas| Pool {
            role,
            vocab_size: self.vocab_size,
            overhead: self.overhead,
            ..Pool::new(name, self.engine.clone(), Arc::from(self.cost.cost()), replicas)
        };
        match self.apart {
            None => vec![pool(Role::Whole, "replicas", units)],
            Some(Apart { split, .. }) => vec![
                pool(Role::Prefill, "prefill", units.saturating_mul(split.prefill)),
                pool(Role::Decode, "decode", units.saturating_mul(split.decode)),
            ],
        }
    }

    /// These pools behind a router.
    pub(super) fn cluster(&self, units: u32, routing: Routing, seed: u64) -> ClusterConfig {
        let kv_transfer = self.apart.map_or(KvTransfer::INSTANT, |apart| apart.transfer);
        ClusterConfig { routing, seed, kv_transfer, ..ClusterConfig::new(self.pools(units), patience()) }
    }

    /// One unit under a workload.
    pub(super) fn run_apart(
        &self,
        workload: &Workload,
        seed: u64,
        judge: &mut Judge<'_>,
    ) -> Result<PoolsBusy, PlanError> {
        let config = self.cluster(1, Routing::LeastOutstanding, seed);
        let mut stop = Stop(judge.hopeless());
        let outcome = simulate_with(&config, workload, Some(&mut stop), Some(judge))
            .map_err(|error| PlanError::Engine(error.to_string()))?;
        let busy = |pool: usize| {
            let here = outcome.replicas.iter().filter(|replica| replica.pool == pool);
            let (sum, count) =
                here.fold((0.0, 0.0), |(sum, count), replica| (sum + replica.utilisation, count + 1.0));
            sum / f64::max(count, 1.0)
        };
        Ok(PoolsBusy { prefill: busy(0), decode: busy(1) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_have_about_the_share_that_prompts_take() {
        let split = |prefill, decode| Split { prefill, decode };
        assert_eq!(Split::tried(0.5), [split(1, 1), split(2, 1), split(1, 2)]);
        assert_eq!(Split::tried(0.25), [split(1, 1), split(1, 3), split(2, 3), split(1, 4)]);
        // However little a part takes, it has a replica.
        assert_eq!(Split::tried(0.0), [split(1, 1), split(1, 7)]);
        assert_eq!(Split::tried(1.0), [split(1, 1), split(7, 1)]);
        assert!(Split::tried(f64::NAN).iter().all(|split| split.replicas() <= MOST_IN_A_UNIT));
    }
}
