//! What a simulation of a cluster came to.

use std::time::Duration;

use llmlab_core::request::At;
use llmlab_results::record::Outcome;

use super::interval::{Interval, batch_means};
use super::replica::Phase;
use super::stability::Stability;

#[derive(Debug, Clone, PartialEq)]
pub struct ClusterOutcome {
    /// One for each request of the workload, by index.
    pub requests: Vec<RequestResult>,
    /// In the order in which they were started.
    pub replicas: Vec<ReplicaOutcome>,
    /// By time, then replica; empty unless asked for.
    pub samples: Vec<Sample>,
    /// Changes of the wanted number of replicas.
    pub scalings: Vec<Scaling>,
    pub little: LittlesLaw,
    pub stability: Stability,
    pub cost: Cost,
    /// Until the last request ended.
    pub elapsed: Duration,
    pub steps: u64,
}

/// Who answered a request, or had it last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServedBy {
    /// It never got further than the router.
    Router,
    /// By its place in [`ClusterOutcome::replicas`].
    Replica(usize),
    ResponseCache,
    /// See [`super::SpillOver`].
    Api,
}

/// One request. All times count from the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestResult {
    pub index: u64,
    pub arrival: At,
    pub first_token: Option<At>,
    pub last_token: Option<At>,
    pub end: At,
    pub prompt_tokens: u32,
    pub output_tokens: u32,
    pub outcome: Outcome,
    pub status: Option<u16>,
    pub served_by: ServedBy,
    /// Times that it was sent to a replica.
    pub sent: u32,
}

impl RequestResult {
    /// From arrival to the first token.
    pub fn ttft(&self) -> Option<Duration> {
        self.first_token.map(|at| at.saturating_sub(self.arrival))
    }

    /// Time per output token after the first; none of answers of one token.
    pub fn tpot(&self) -> Option<Duration> {
        let (first, last) = self.first_token.zip(self.last_token)?;
        let more = self.output_tokens.checked_sub(1).filter(|more| *more > 0)?;
        Some(last.saturating_sub(first) / more)
    }

    /// From arrival to the end, whatever the end was.
    pub fn e2e(&self) -> Duration {
        self.end.saturating_sub(self.arrival)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct ReplicaOutcome {
    /// The place of its pool in the configuration.
    pub pool: usize,
    pub ready_at: Option<At>,
    pub gone_at: Option<At>,
    /// Time with a step running.
    pub busy: Duration,
    /// Share of its time in service with a step running.
    pub utilisation: f64,
    /// Requests that were sent to it.
    pub requests: u64,
    pub steps: u64,
    /// Prompt tokens that were looked up in its prefix cache, and found.
    pub prefix_query_tokens: u64,
    pub prefix_hit_tokens: u64,
    pub preemptions: u64,
}

/// The state of a replica at a moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    pub at: At,
    pub replica: usize,
    pub phase: Phase,
    pub waiting: usize,
    pub running: usize,
    /// Share of the KV blocks in use.
    pub kv_share: f64,
}

/// A pool is to have another number of replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scaling {
    pub at: At,
    pub pool: usize,
    pub from: u32,
    pub to: u32,
}

/// L = lambda W over the whole run, from empty to empty. The left side is counted while the simulation runs, the right side
/// from the results: they agree if no request was lost or counted twice.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LittlesLaw {
    pub mean_in_system: f64,
    pub arrival_rate_rps: f64,
    pub mean_sojourn_s: f64,
}

impl LittlesLaw {
    pub fn relative_gap(&self) -> f64 {
        let right = self.arrival_rate_rps * self.mean_sojourn_s;
        if right > 0.0 { self.mean_in_system / right - 1.0 } else { self.mean_in_system }
    }
}

/// What was paid for. Replicas are paid from the moment they have a machine until they are gone.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cost {
    pub replica_hours: f64,
    pub gpu_hours: f64,
    pub replicas_usd: f64,
    pub api_usd: f64,
}

impl Cost {
    pub fn usd(&self) -> f64 {
        self.replicas_usd + self.api_usd
    }
}

/// Batches of an interval by batch means.
const BATCHES: usize = 20;
/// Requests at the beginning that an interval leaves out, because the cluster was empty then.
const WARM_UP_SHARE: f64 = 0.1;

impl ClusterOutcome {
    /// Mean of something over requests in the order of their arrival, and its 95 % interval by batch means. None of too few
    /// requests.
    pub fn mean(&self, of: impl Fn(&RequestResult) -> Option<f64>) -> Option<Interval> {
        let values: Vec<f64> = self.requests.iter().filter_map(of).collect();
        let warm = (values.len() as f64 * WARM_UP_SHARE) as usize;
        batch_means(&values[warm..], BATCHES)
    }

    pub fn count(&self, what: impl Fn(&RequestResult) -> bool) -> usize {
        self.requests.iter().filter(|request| what(request)).count()
    }

    /// Share of the prompt tokens that the prefix caches of the replicas had.
    pub fn prefix_hit_rate(&self) -> f64 {
        let (hits, all) = self.replicas.iter().fold((0, 0), |(hits, all), replica| {
            (hits + replica.prefix_hit_tokens, all + replica.prefix_query_tokens)
        });
        hits as f64 / all.max(1) as f64
    }
}
