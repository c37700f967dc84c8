//! The highest rate at which one replica meets the SLO, by simulation.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use llmlab_core::config::EngineConfig;
use llmlab_core::engine::Engine;
use llmlab_core::executor::StageTime;
use llmlab_core::scheduler::Scheduler;
use llmlab_loadgen::workload::PlannedRequest;
use llmlab_loadgen::{Silent, Timeouts, Workload, WorkloadConfig, generate};
use llmlab_sim::{CostModel, Facts, Options, Overhead, RooflineExecutor, SeqShape, simulate};
use serde::Serialize;

use super::PlanError;
use super::conversations::{Conversations, Extent, last_opening};
use super::disaggregated::{Apart, PoolsBusy};
use super::limits::{Judge, Limit, Observed, Verdict};

/// A search ends when a rate that broke the SLO is within this share of one that met it.
pub const TOLERANCE: f64 = 0.04;
/// Simulated at most for one rate.
const MAX_REQUESTS: f64 = 20_000.0;
/// First step away from the capacity of a similar candidate, which is a few percent off.
const NEAR: f64 = 1.08;
const STRIDE: f64 = 1.5;
/// Steps away from the first guess before a candidate is given up.
const MAX_STEPS: u32 = 24;
/// Rates that broke the SLO before an idle replica is looked at: where that breaks it too, no rate is met.
const MISSES: u32 = 2;
/// Simulated at least: a request every quarter of an hour meets an idle replica, as any that comes more rarely does.
pub const LOWEST_RPS: f64 = 1e-3;

/// One copy of the model on its devices.
pub struct Replica<'a> {
    pub engine: &'a EngineConfig,
    pub cost: &'a dyn CostFactory,
    pub overhead: Overhead,
    pub vocab_size: u32,
    /// How long a request takes when the replica is as busy as it may be; a guess that only sets how much is simulated.
    pub request_s: f64,
    /// It is a unit of replicas for prefill and others for decode.
    pub apart: Option<Apart>,
    /// `None`: requests stand alone.
    pub conversations: Option<Conversations>,
}

/// Makes the cost model of a replica; simulations run side by side, each with its own.
pub trait CostFactory: Sync {
    fn cost(&self) -> Box<dyn CostModel>;
}

impl<M: CostModel + Clone + 'static> CostFactory for M {
    fn cost(&self) -> Box<dyn CostModel> {
        Box::new(self.clone())
    }
}

/// Where a search begins, and how far its first step goes.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    rate_rps: f64,
    stride: f64,
}

impl Start {
    pub fn anywhere(rate_rps: f64) -> Start {
        Start { rate_rps, stride: STRIDE }
    }

    pub fn near(rate_rps: f64) -> Start {
        Start { rate_rps, stride: NEAR }
    }
}

/// Requests at a rate; `requests` of them.
pub type Traffic<'t> = dyn Fn(f64, u64) -> WorkloadConfig + Sync + 't;

/// A rate and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tried {
    pub rate_rps: f64,
    pub observed: Observed,
    pub verdict: Verdict,
    /// Share of the time in which a step ran.
    pub busy: f64,
    /// The same of each pool, where prefill and decode are apart; `busy` is then the mean over all replicas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pools_busy: Option<PoolsBusy>,
    pub output_tokens_per_s: f64,
    pub input_tokens_per_s: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Capacity {
    /// Met the SLO; `None` where no rate did.
    pub best: Option<Tried>,
    /// The lowest rate that broke it.
    pub broken: Option<Tried>,
    pub simulations: u32,
}

impl Replica<'_> {
    /// The replica under `rate_rps`, as long as [`Extent`] says.
    pub fn at(
        &self,
        rate_rps: f64,
        requests: u32,
        seed: u64,
        traffic: &Traffic<'_>,
        limits: &[Limit],
    ) -> Result<Tried, PlanError> {
        let extent = self.extent(rate_rps, requests, MAX_REQUESTS);
        let config = traffic(rate_rps, extent.requests);
        let workload = generate(&config).map_err(|error| PlanError::Workload(error.to_string()))?;
        let mut judge =
            Judge::new(limits, extent.warm, workload.requests.len() as u64).until(last_opening(&workload));
        let (busy, pools_busy) = match self.apart {
            Some(Apart { split, .. }) => {
                let pools = self.run_apart(&workload, seed, &mut judge)?;
                let all = f64::from(split.prefill) * pools.prefill + f64::from(split.decode) * pools.decode;
                (all / f64::from(split.replicas()), Some(pools))
            }
            None => {
                let (facts, busy) = self.run(&workload, seed, &mut judge)?;
                (busy / facts.elapsed.as_secs_f64().max(busy).max(1e-9), None)
            }
        };
        let per_s = |tokens: fn(&PlannedRequest) -> u32| {
            let sum: f64 = workload.requests.iter().map(|request| f64::from(tokens(request))).sum();
            sum / workload.requests.len().max(1) as f64 * rate_rps
        };
        let (observed, verdict) = judge.observed();
        Ok(Tried {
            rate_rps,
            observed,
            verdict,
            busy,
            pools_busy,
            output_tokens_per_s: per_s(|r| r.max_tokens),
            input_tokens_per_s: per_s(|r| r.prompt_tokens),
        })
    }

    pub(super) fn extent(&self, rate_rps: f64, requests: u32, most: f64) -> Extent {
        Extent::of(rate_rps, requests, most, self.request_s, self.conversations.as_ref())
    }

    /// Facts, and the seconds in which a step ran.
    fn run(&self, workload: &Workload, seed: u64, judge: &mut Judge<'_>) -> Result<(Facts, f64), PlanError> {
        let scheduler = Scheduler::new(self.engine.clone())
            .map_err(|error| PlanError::Engine(error.to_string()))?
            .without_block_tables();
        let busy = Busy::default();
        let cost = Box::new(Metered { cost: self.cost.cost(), busy: busy.clone() });
        let scheduler = scheduler
            .with_batches_in_flight(cost.stages())
            .map_err(|error| PlanError::Engine(error.to_string()))?;
        let mut engine = Engine::new(scheduler, RooflineExecutor::new(cost, seed, self.vocab_size));
        let options = Options { overhead: self.overhead, ..Options::new(patience()) };
        let hopeless = judge.hopeless();
        let stop = || hopeless.load(Ordering::Relaxed);
        let facts = simulate(workload, &mut engine, options, judge, &Silent, &stop)
            .map_err(|error| PlanError::Engine(error.to_string()))?;
        Ok((facts, busy.seconds()))
    }
}

/// The highest rate that meets the limits: steps up or down until both sides are known, each twice as long as the one before
/// and at most a half, then halving in the logarithm.
pub fn capacity(
    replica: &Replica<'_>,
    start: Start,
    requests: u32,
    seed: u64,
    traffic: &Traffic<'_>,
    limits: &[Limit],
    cancelled: &dyn Fn() -> bool,
) -> Result<Capacity, PlanError> {
    let (mut best, mut broken): (Option<Tried>, Option<Tried>) = (None, None);
    let Start { rate_rps: mut rate, mut stride } = start;
    let mut simulations = 0;
    while simulations < MAX_STEPS && !cancelled() {
        let tried = match replica.at(rate, requests, seed, traffic, limits) {
            // Some processes have no meaning at rates far from the one that was asked for.
            Err(PlanError::Workload(_)) if simulations > 0 => break,
            tried => tried?,
        };
        simulations += 1;
        if tried.verdict.met {
            best = Some(tried)
        } else {
            broken = Some(tried)
        }
        if best.is_none() && simulations == MISSES && rate > LOWEST_RPS {
            let idle = replica.at(LOWEST_RPS, requests, seed, traffic, limits);
            simulations += 1;
            if let Ok(idle) = idle
                && !idle.verdict.met
            {
                broken = Some(idle);
                break;
            }
        }
        rate = match (&best, &broken) {
            (Some(met), None) => met.rate_rps * stride,
            (None, Some(missed)) => missed.rate_rps / stride,
            (Some(met), Some(missed)) if missed.rate_rps <= met.rate_rps * (1.0 + TOLERANCE) => break,
            (Some(met), Some(missed)) => (met.rate_rps * missed.rate_rps).sqrt(),
            (None, None) => break,
        };
        stride = (stride * stride).min(STRIDE);
        // What misses its limits there misses them alone on the device.
        if rate < LOWEST_RPS {
            break;
        }
    }
    Ok(Capacity { best, broken, simulations })
}

/// A planner's clients wait for ever: what is late counts as late, not as lost.
pub(super) fn patience() -> Timeouts {
    const FOREVER: Duration = Duration::from_secs(86_400 * 365);
    Timeouts { connect: FOREVER, first_token: FOREVER, inter_token: FOREVER, total: FOREVER }
}

/// Time that steps took, counted where their time is asked for; of a pipeline, the mean over its stages.
struct Metered {
    cost: Box<dyn CostModel>,
    busy: Busy,
}

#[derive(Clone, Default)]
struct Busy(Arc<AtomicU64>);

impl Busy {
    fn add(&self, time: Duration) {
        self.0.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
    }

    fn seconds(&self) -> f64 {
        self.0.load(Ordering::Relaxed) as f64 * 1e-9
    }
}

impl CostModel for Metered {
    fn step_time(&self, seqs: &[SeqShape]) -> Duration {
        let time = self.cost.step_time(seqs);
        self.busy.add(time);
        time
    }

    fn decode_time(&self, sequences: usize, keys: u64) -> Option<Duration> {
        let time = self.cost.decode_time(sequences, keys)?;
        self.busy.add(time);
        Some(time)
    }

    fn stages(&self) -> usize {
        self.cost.stages()
    }

    fn stage_times(&self, seqs: &[SeqShape], times: &mut Vec<StageTime>) {
        let before = times.len();
        self.cost.stage_times(seqs, times);
        let of_step = &times[before..];
        let busy: Duration = of_step.iter().map(|stage| stage.busy).sum();
        self.busy.add(busy / u32::try_from(of_step.len()).unwrap_or(u32::MAX).max(1));
    }
}
