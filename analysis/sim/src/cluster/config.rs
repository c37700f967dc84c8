//! What a cluster consists of.

use std::sync::Arc;
use std::time::Duration;

use llmlab_core::config::{ConfigError, EngineConfig};
use llmlab_loadgen::Timeouts;

use super::Role;
use super::admission::Admission;
use super::response_cache::ResponseCache;
use super::router::Routing;
use super::spill_over::SpillOver;
use super::transfer::KvTransfer;
use crate::SimulationError;
use crate::cost_model::CostModel;
use crate::overhead::Overhead;

/// A pool has no more replicas than this.
pub const MOST_REPLICAS: u32 = 1000;

/// Replicas behind one router.
#[derive(Clone)]
pub struct ClusterConfig {
    pub pools: Vec<Pool>,
    pub routing: Routing,
    pub admission: Admission,
    pub response_cache: Option<ResponseCache>,
    pub spill_over: Option<SpillOver>,
    pub retry: Retry,
    /// Between pools for prefill and for decode.
    pub kv_transfer: KvTransfer,
    /// The patience of clients.
    pub timeouts: Timeouts,
    pub scrape: Scrape,
    /// How often the state of each replica is noted in [`super::ClusterOutcome::samples`].
    pub sample_interval: Option<Duration>,
    /// Of everything that is drawn: failures, preemptions, cold starts, the random router, the API.
    pub seed: u64,
}

/// Replicas that are alike.
#[derive(Clone)]
pub struct Pool {
    pub name: String,
    /// What its replicas do of a request. Either all pools do the whole, or there are pools for both parts and no others.
    pub role: Role,
    pub engine: EngineConfig,
    /// How long the steps of one replica take.
    pub cost: Arc<dyn CostModel>,
    pub vocab_size: u32,
    pub overhead: Overhead,
    /// Requests that may wait in a replica for their first step; one more gets 429.
    pub max_queue: usize,
    /// Ready at the start, and the number that is kept where nobody scales.
    pub replicas: u32,
    /// How much of the traffic a replica takes beside those of other pools, 1.0 for equal ones.
    pub weight: f64,
    pub gpus_per_replica: u32,
    pub usd_per_replica_hour: f64,
    pub cold_start: ColdStart,
    /// How long a replica that is to go may still work on what it has.
    pub drain: Duration,
    pub failures: Option<Failures>,
    pub spot: Option<Spot>,
}

impl Pool {
    /// Replicas that are there from the start and stay, free of charge.
    pub fn new(name: &str, engine: EngineConfig, cost: Arc<dyn CostModel>, replicas: u32) -> Pool {
        Pool {
            name: name.into(),
            role: Role::Whole,
            engine,
            cost,
            vocab_size: 32_000,
            overhead: Overhead::NONE,
            max_queue: usize::MAX,
            replicas,
            weight: 1.0,
            gpus_per_replica: 1,
            usd_per_replica_hour: 0.0,
            cold_start: ColdStart::default(),
            drain: Duration::from_secs(30),
            failures: None,
            spot: None,
        }
    }
}

impl ClusterConfig {
    /// Round robin over these pools, every request let in, none sent twice.
    pub fn new(pools: Vec<Pool>, timeouts: Timeouts) -> ClusterConfig {
        ClusterConfig {
            pools,
            routing: Routing::RoundRobin,
            admission: Admission::default(),
            response_cache: None,
            spill_over: None,
            retry: Retry::default(),
            kv_transfer: KvTransfer::INSTANT,
            timeouts,
            scrape: Scrape::default(),
            sample_interval: None,
            seed: 0,
        }
    }

    pub(super) fn check(&self) -> Result<(), ClusterError> {
        if self.pools.is_empty() {
            return Err(ClusterError::NoPools);
        }
        for pool in &self.pools {
            pool.engine
                .validate()
                .and_then(|()| pool.engine.validate_batches_in_flight(pool.cost.stages()))
                .map_err(|error| ClusterError::Engine { pool: pool.name.clone(), error })?;
            pool.check()?;
        }
        let has = |role| self.pools.iter().any(|pool| pool.role == role);
        if self.is_disaggregated() && (has(Role::Whole) || !has(Role::Prefill) || !has(Role::Decode)) {
            return Err(ClusterError::value(
                "cluster",
                "role",
                "Whole for all pools, or Prefill for some and Decode for the others",
            ));
        }
        self.kv_transfer.check()?;
        let all = "cluster";
        at_least_a_moment(all, "scrape.interval", Some(self.scrape.interval))?;
        at_least_a_moment(all, "sample_interval", self.sample_interval)?;
        self.admission.check()?;
        if let Some(cache) = &self.response_cache {
            cache.check()?;
        }
        self.spill_over.as_ref().map_or(Ok(()), SpillOver::check)
    }
}

impl ClusterConfig {
    /// Prompts and answers are computed in different replicas.
    pub(super) fn is_disaggregated(&self) -> bool {
        self.pools.iter().any(|pool| pool.role != Role::Whole)
    }
}

impl Pool {
    fn check(&self) -> Result<(), ClusterError> {
        let wrong = |key, accepted| Err(ClusterError::value(&self.name, key, accepted));
        if self.replicas > MOST_REPLICAS {
            return wrong("replicas", "0 to 1000");
        }
        if !(self.weight.is_finite() && self.weight > 0.0) {
            return wrong("weight", "numbers above 0");
        }
        if !(self.usd_per_replica_hour.is_finite() && self.usd_per_replica_hour >= 0.0) {
            return wrong("usd_per_replica_hour", "numbers from 0");
        }
        if !(0.0..=1.0).contains(&self.cold_start.spread) {
            return wrong("cold_start.spread", "0 to 1");
        }
        if let Some(spot) = &self.spot
            && !(spot.preemptions_per_hour.is_finite() && (0.0..=3600.0).contains(&spot.preemptions_per_hour))
        {
            return wrong("spot.preemptions_per_hour", "0 to 3600");
        }
        at_least_a_moment(&self.name, "failures.mtbf", self.failures.map(|failures| failures.mtbf))
    }
}

/// Anything shorter would be a way to hang.
fn at_least_a_moment(place: &str, key: &'static str, time: Option<Duration>) -> Result<(), ClusterError> {
    match time {
        Some(time) if time < Duration::from_millis(1) => {
            Err(ClusterError::value(place, key, "times of at least 1 ms"))
        }
        _ => Ok(()),
    }
}

/// What a replica goes through before it serves. Each is the time of one phase.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ColdStart {
    /// Until there is a machine.
    pub provision: Duration,
    pub image_pull: Duration,
    pub weight_load: Duration,
    /// Compilation, graph capture, first steps.
    pub warm_up: Duration,
    /// Each phase takes up to this share less or more, evenly distributed.
    pub spread: f64,
}

impl ColdStart {
    /// Without spread.
    pub fn total(&self) -> Duration {
        [self.provision, self.image_pull, self.weight_load, self.warm_up]
            .iter()
            .fold(Duration::ZERO, |sum, phase| sum.saturating_add(*phase))
    }
}

/// A replica dies after exponential times and is back, with empty caches, after `mttr`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Failures {
    /// Mean time between failures of one replica.
    pub mtbf: Duration,
    /// Time to repair.
    pub mttr: Duration,
}

/// The provider takes machines back. A new one is started at the notice.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spot {
    /// Of one replica, on average.
    pub preemptions_per_hour: f64,
    /// From the notice until the machine is gone. The replica gets no new requests in it.
    pub notice: Duration,
}

/// What the router does with requests of a replica that died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// How often a request is sent again at most.
    pub attempts: u32,
    /// Also when tokens have reached the client: the new replica gets prompt and tokens so far, and the stream goes on.
    pub migrate: bool,
    /// Until the router knows that the replica is gone.
    pub delay: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Retry { attempts: 0, migrate: false, delay: Duration::from_millis(100) }
    }
}

/// How the state of replicas gets to routers and controllers that do not see it themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scrape {
    pub interval: Duration,
    /// From a scrape until it can be asked for.
    pub lag: Duration,
}

impl Default for Scrape {
    /// Prometheus in a Kubernetes cluster: every 15 s.
    fn default() -> Self {
        Scrape { interval: Duration::from_secs(15), lag: Duration::ZERO }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error("a cluster needs at least one pool")]
    NoPools,
    #[error("pool {pool}: {error}")]
    Engine { pool: String, error: ConfigError },
    #[error("{place}: {key} is out of range; accepted are {accepted}")]
    Value { place: String, key: &'static str, accepted: &'static str },
    #[error(transparent)]
    Simulation(#[from] SimulationError),
}

impl ClusterError {
    pub(super) fn value(place: &str, key: &'static str, accepted: &'static str) -> ClusterError {
        ClusterError::Value { place: place.into(), key, accepted }
    }
}
