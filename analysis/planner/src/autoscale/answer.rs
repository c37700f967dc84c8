//! Every policy on the same day, and the cheapest one that keeps to the SLO.

use std::time::Duration;

use llmlab_models::catalogue::Hardware;
use llmlab_scenarios::autoscale::AutoscaleSpec;
use llmlab_scenarios::plan::Demand;
use llmlab_sim::cluster::{ColdStart, Pool, Scrape};
use rayon::prelude::*;
use serde::Serialize;

use super::AutoscaleError;
use super::day::Day;
use super::policy::{Facts, Scaler};
use super::replay::{Setup, Watch, replay};
use super::score::Score;
use crate::plan::capacity::{Traffic, Tried};
use crate::plan::conversations::Conversations;
use crate::plan::limits::Limit;

/// Prompt tokens of a replayed day at most; they are held in memory.
const MOST_PROMPT_TOKENS: f64 = 200e6;
/// Twice what the busiest moment takes.
const ROOM: f64 = 2.0;

/// A configuration and a day.
pub struct Question<'a> {
    pub name: &'a str,
    pub model: &'a str,
    /// "2x h100-sxm, fp8, TP 2".
    pub configuration: String,
    pub device: &'a Hardware,
    pub tensor_parallel: u32,
    pub pipeline_parallel: u32,
    pub spec: &'a AutoscaleSpec,
    pub demand: &'a Demand,
    pub limits: &'a [Limit],
    pub traffic: &'a Traffic<'a>,
    /// Mean tokens of a prompt and of an output.
    pub tokens: (f64, f64),
    /// `None`: requests stand alone.
    pub conversations: Option<Conversations>,
    /// Of one replica, without price and cold start.
    pub pool: Pool,
    pub weight_bytes: u64,
    pub usd_per_device_hour: f64,
    pub price: String,
    /// One replica at the highest rate that meets the SLO.
    pub at_capacity: &'a Tried,
    pub seed: u64,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Autoscaling {
    pub name: String,
    pub model: String,
    pub configuration: String,
    /// What the maker calls it.
    pub device: String,
    pub tensor_parallel: u32,
    pub pipeline_parallel: u32,
    pub price: String,
    pub usd_per_replica_hour: f64,
    pub gpus_per_replica: u32,
    pub weight_bytes: u64,
    pub limits: Vec<Limit>,
    pub max_violations: f64,
    pub spec: AutoscaleSpec,
    /// Of the whole service, not of the replay.
    pub requests_a_day: f64,
    pub peak_rps: f64,
    /// Mean rate of each tenth of an hour, in the size of the replay.
    pub load_rps: Vec<f64>,
    pub replica_rps: f64,
    /// Real replicas that one replica of the replay stands for.
    pub factor: u32,
    pub min_replicas: u32,
    pub max_replicas: u32,
    pub cold_start: StartParts,
    /// In the order of the plan file.
    pub policies: Vec<Replayed>,
    /// False if it was interrupted.
    pub complete: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct StartParts {
    pub provision_s: f64,
    pub image_s: f64,
    pub weights_s: f64,
    pub warm_up_s: f64,
    pub total_s: f64,
}

/// A policy and what came of it. Replicas are those of the replay; hours and money those of the whole service.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Replayed {
    pub name: String,
    pub rule: String,
    pub first_replicas: u32,
    pub score: Score,
    #[serde(skip)]
    pub scaler: Scaler,
}

impl Autoscaling {
    /// The cheapest policy within the share of violations.
    pub fn best(&self) -> Option<&Replayed> {
        self.policies
            .iter()
            .filter(|policy| policy.score.violations <= self.max_violations)
            .min_by(|a, b| a.score.usd.total_cmp(&b.score.usd))
    }
}

/// Replays the day under every policy. `told` hears of seconds simulated, and of how many.
pub fn answer(
    question: &Question<'_>,
    watch: &Watch,
    told: &(dyn Fn(u64, u64) + Sync),
) -> Result<Autoscaling, AutoscaleError> {
    let spec = question.spec;
    let whole = Day::of(question.demand, spec.surge.as_ref())?;
    let factor = factor(&whole, question);
    let day = whole.clone().times(1.0 / f64::from(factor));
    let expected = Day::of(question.demand, None)?.times(1.0 / f64::from(factor));
    let cold_start = cold_start(question);
    let replica_rps = question.at_capacity.rate_rps;
    let scaled = |replicas: u32| replicas.div_ceil(factor);
    let room = (ROOM * day.peak_rps() / replica_rps).ceil().clamp(1.0, 1000.0) as u32;
    let min_replicas = scaled(spec.min_replicas);
    let max_replicas = spec.max_replicas.map_or(room, scaled).clamp(min_replicas, 1000.max(min_replicas));
    let facts = Facts {
        day: &day,
        expected: &expected,
        replica_rps,
        in_flight: replica_rps * question.at_capacity.observed.e2e_p50_s,
        tokens_per_request: question.tokens.0 + question.tokens.1,
        ttft_limit_s: question
            .limits
            .iter()
            .find_map(|limit| (limit.on == crate::plan::limits::Latency::Ttft).then_some(limit.seconds)),
        cold_start: cold_start.total(),
        min_replicas,
        max_replicas,
        factor,
    };
    let scalers: Vec<Scaler> = spec
        .policies
        .iter()
        .map(|policy| Scaler::of(policy, &facts))
        .collect::<Result<_, AutoscaleError>>()?;
    let workload = day.workload(question.traffic)?;
    let usd = question.usd_per_device_hour * f64::from(question.pool.gpus_per_replica);
    let pool = Pool { cold_start, drain: spec.drain, usd_per_replica_hour: usd, ..question.pool.clone() };
    let setup = Setup {
        pool: &pool,
        workload: &workload,
        conversations: question.conversations,
        scrape: Scrape { interval: spec.scrape_interval, lag: spec.scrape_lag },
        patience: spec.patience,
        seed: question.seed,
    };
    let all_s = super::day::SECONDS as u64 * scalers.len() as u64;
    let told = || told(watch.simulated_s().min(all_s), all_s);
    let replayed: Vec<Option<Replayed>> = scalers
        .into_par_iter()
        .with_max_len(1)
        .map(|scaler| {
            let first_replicas = scaler.first_replicas(&facts);
            let outcome = replay(&setup, &scaler, first_replicas, watch, &told)?;
            Ok(outcome.map(|outcome| Replayed {
                name: scaler.name.clone(),
                rule: scaler.words(factor),
                first_replicas,
                score: Score::of(&outcome, question.limits, first_replicas).times(f64::from(factor)),
                scaler,
            }))
        })
        .collect::<Result<_, AutoscaleError>>()?;
    let complete = replayed.iter().all(Option::is_some);
    Ok(Autoscaling {
        name: question.name.to_owned(),
        model: question.model.to_owned(),
        configuration: question.configuration.clone(),
        device: question.device.description.clone(),
        tensor_parallel: question.tensor_parallel,
        pipeline_parallel: question.pipeline_parallel,
        price: question.price.clone(),
        usd_per_replica_hour: usd,
        gpus_per_replica: pool.gpus_per_replica,
        weight_bytes: question.weight_bytes,
        limits: question.limits.to_vec(),
        max_violations: spec.max_violations.unwrap_or_else(|| left_by(question.limits)),
        spec: spec.clone(),
        requests_a_day: whole.requests(),
        peak_rps: whole.peak_rps(),
        load_rps: day.bins(240),
        replica_rps,
        factor,
        min_replicas,
        max_replicas,
        cold_start: parts(&cold_start),
        policies: replayed.into_iter().flatten().collect(),
        complete,
    })
}

/// By how much traffic and replicas are divided so that the day can be simulated.
fn factor(day: &Day, question: &Question<'_>) -> u32 {
    let requests = day.requests();
    let by_requests = requests / f64::from(question.spec.max_requests);
    let by_tokens = requests * question.tokens.0 / MOST_PROMPT_TOKENS;
    // The cast saturates.
    by_requests.max(by_tokens).ceil().max(1.0) as u32
}

fn cold_start(question: &Question<'_>) -> ColdStart {
    let spec = question.spec.cold_start;
    let weights_s = question.weight_bytes as f64 / spec.weights_bytes_per_s;
    ColdStart {
        provision: spec.provision,
        image_pull: spec.image,
        weight_load: Duration::try_from_secs_f64(weights_s).unwrap_or(Duration::MAX).min(LONGEST_LOAD),
        warm_up: spec.warm_up,
        spread: spec.spread,
    }
}

const LONGEST_LOAD: Duration = Duration::from_secs(86_400);

fn parts(start: &ColdStart) -> StartParts {
    StartParts {
        provision_s: start.provision.as_secs_f64(),
        image_s: start.image_pull.as_secs_f64(),
        weights_s: start.weight_load.as_secs_f64(),
        warm_up_s: start.warm_up.as_secs_f64(),
        total_s: start.total().as_secs_f64(),
    }
}

/// The strictest percentile leaves this share.
fn left_by(limits: &[Limit]) -> f64 {
    let strictest = limits.iter().map(|limit| limit.percentile).fold(0.0, f64::max);
    // 1 - 0.95 is a hair off 0.05.
    ((1.0 - strictest / 100.0) * 1e9).round() / 1e9
}
