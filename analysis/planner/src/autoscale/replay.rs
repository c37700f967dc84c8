//! One day under one policy, in virtual time.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use llmlab_core::request::At;
use llmlab_loadgen::{Timeouts, Workload};
use llmlab_sim::cluster::{ClusterConfig, ClusterOutcome, Controller, Pool, Scrape, Scraped, simulate_with};

use super::AutoscaleError;
use super::policy::Scaler;
use crate::plan::conversations::{Conversations, routing};

/// What is the same under every policy.
pub struct Setup<'a> {
    /// With price, cold start and drain; its number of replicas is the policy's.
    pub pool: &'a Pool,
    pub workload: &'a Workload,
    pub conversations: Option<Conversations>,
    pub scrape: Scrape,
    /// How long a client waits for its first token.
    pub patience: Duration,
    pub seed: u64,
}

/// Interruption and progress of all replays together.
#[derive(Debug, Default)]
pub struct Watch {
    pub cancelled: AtomicBool,
    simulated_s: AtomicU64,
}

impl Watch {
    /// Seconds of virtual time that were simulated.
    pub fn simulated_s(&self) -> u64 {
        self.simulated_s.load(Ordering::Relaxed)
    }
}

/// `None` if it was cancelled. `told` hears of progress.
pub fn replay(
    setup: &Setup<'_>,
    scaler: &Scaler,
    first_replicas: u32,
    watch: &Watch,
    told: &(dyn Fn() + Sync),
) -> Result<Option<ClusterOutcome>, AutoscaleError> {
    if watch.cancelled.load(Ordering::Relaxed) {
        return Ok(None);
    }
    let timeouts = Timeouts {
        connect: setup.patience,
        first_token: setup.patience,
        total: Duration::from_secs(3600),
        ..Timeouts::default()
    };
    let pool = Pool { replicas: first_replicas, ..setup.pool.clone() };
    let config = ClusterConfig {
        routing: routing(setup.conversations.as_ref()),
        scrape: setup.scrape,
        seed: setup.seed,
        ..ClusterConfig::new(vec![pool], timeouts)
    };
    let mut watched = Watched { inner: scaler.controller(), watch, told, last: At::ZERO };
    let outcome = simulate_with(&config, setup.workload, Some(&mut watched), None)?;
    Ok((!watch.cancelled.load(Ordering::Relaxed)).then_some(outcome))
}

struct Watched<'a> {
    inner: Box<dyn Controller + Send>,
    watch: &'a Watch,
    told: &'a (dyn Fn() + Sync),
    last: At,
}

impl Controller for Watched<'_> {
    fn interval(&self) -> Duration {
        self.inner.interval()
    }

    fn wanted(&mut self, now: At, seen: &Scraped, wanted: &[u32]) -> Vec<u32> {
        const TOLD: u64 = 600;
        let passed = now.saturating_sub(self.last).as_secs();
        if passed >= TOLD {
            self.last = now;
            self.watch.simulated_s.fetch_add(passed, Ordering::Relaxed);
            (self.told)();
        }
        self.inner.wanted(now, seen, wanted)
    }

    fn stops(&self) -> bool {
        self.watch.cancelled.load(Ordering::Relaxed)
    }
}
