//! A candidate resolved: does it fit, how fast can it be at all, and how much does it take?

use std::sync::Arc;
use std::time::Duration;

use llmlab_core::config::{EngineConfig, KvStrategy, PolicyConfig, VllmConfig};
use llmlab_models::architecture::{Architecture, FeedForward};
use llmlab_models::catalogue::{Hardware, hardware};
use llmlab_models::memory::{self, KvDtype, MemoryConfig, MemoryError, MemoryPlan};
use llmlab_quant::WeightFormat;
use llmlab_scenarios::plan::{PlanSpec, Space};
use llmlab_scenarios::spec::SloSpec;
use llmlab_sim::cluster::{KvTransfer, Pool, Routing};
use llmlab_sim::cost_model::calibration::DEFAULT_RUNTIME;
use llmlab_sim::cost_model::{Calibration, MXFP4_BITS, Resource, Sharding, Weights};
use llmlab_sim::{CostModel, Device, Overhead, Roofline, SeqShape};

use super::PlanError;
use super::answer::too_large;
use super::bound::{Bound, Lengths};
use super::candidate::{BF16, Candidate};
use super::capacity::{Capacity, LOWEST_RPS, Replica, Start, Traffic, capacity};
use super::cluster::Seen;
use super::conversations::Conversations;
use super::disaggregated::{Apart, Split};
use super::limits::{Latency, Limit};
use super::row::{AtPeak, ErrorBars, Provenance, Refusal, RefusalKind, Sized, below_floor};
use super::search::Found;
use crate::deployment::Deployment;

/// Tried where a plan names none.
pub const WEIGHTS: [&str; 3] = [BF16, "fp8", "int4"];
pub const KV: [&str; 1] = [BF16];
const BLOCK: u32 = 16;
/// Without one that is asked for: longer contexts are rare, and each of them would have to fit.
const LONGEST_BY_DEFAULT: u32 = 32_768;

/// What stays the same for every candidate of a plan.
pub struct Question<'q> {
    pub spec: &'q PlanSpec,
    pub model: &'static Architecture,
    pub limits: Vec<Limit>,
    pub traffic: &'q Traffic<'q>,
    pub lengths: Lengths,
    /// `None`: requests stand alone.
    pub conversations: Option<Conversations>,
    pub cancelled: &'q (dyn Fn() -> bool + Sync),
}

/// A candidate that fits.
struct Fitting {
    cost: Roofline,
    engine: EngineConfig,
    kv_tokens: u64,
    weight_bytes: u64,
    /// Bytes of a cached value.
    kv_value_bytes: f64,
    device: &'static Hardware,
}

/// A replica for a simulated cluster.
pub struct Serving {
    /// Of one replica, without price and cold start.
    pub pool: Pool,
    /// On all its devices.
    pub weight_bytes: u64,
    pub device: &'static Hardware,
}

pub fn limits(slo: &SloSpec) -> Vec<Limit> {
    let of = |on, list: &[(f64, Duration)]| -> Vec<Limit> {
        let limit = |(percentile, limit): &(f64, Duration)| Limit {
            on,
            percentile: *percentile,
            seconds: limit.as_secs_f64(),
        };
        list.iter().map(limit).collect()
    };
    [
        of(Latency::Ttft, &slo.ttft),
        of(Latency::Tpot, &slo.tpot),
        of(Latency::Itl, &slo.itl),
        of(Latency::E2e, &slo.e2e),
    ]
    .concat()
}

/// The longest request of a plan.
pub fn max_model_len(spec: &PlanSpec, model: &Architecture) -> u32 {
    spec.max_model_len.unwrap_or(model.max_positions.clamp(2, LONGEST_BY_DEFAULT))
}

/// A candidate that may serve: it fits, and an idle replica is within the limits.
pub struct Prepared {
    pub candidate: Candidate,
    /// What it could be at best; `None` where the traffic has no bound.
    pub bound: Option<Bound>,
    pub errors: ErrorBars,
    fitting: Fitting,
    /// From the cost model alone.
    guess_rps: f64,
    batch: f64,
    floor_ttft_s: f64,
    floor_tpot_s: f64,
}

impl Question<'_> {
    /// What can be said without a simulation.
    pub fn prepare(&self, candidate: &Candidate) -> Result<Result<Prepared, Refusal>, PlanError> {
        let fitting = match self.fit(candidate)? {
            Ok(fitting) => fitting,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let (floor_ttft_s, floor_tpot_s) = self.floors(&fitting.cost);
        if let Some(refusal) = below_floor(&self.limits, floor_ttft_s, floor_tpot_s) {
            return Ok(Err(refusal));
        }
        let (guess_rps, batch) = self.guess(&fitting);
        let seqs = self.spec.space.max_num_seqs;
        let bound = || self.lengths.bound(&fitting.cost, self.tpot_limit_s(), seqs, fitting.kv_tokens);
        Ok(Ok(Prepared {
            candidate: candidate.clone(),
            bound: if candidate.split.is_none() { bound() } else { None },
            errors: errors(fitting.cost.device(), &fitting.device.name),
            fitting,
            guess_rps,
            batch,
            floor_ttft_s,
            floor_tpot_s,
        }))
    }

    /// Capacity by simulation and latencies of the busiest hour, or why there are none. `hint`: how many times the guess the
    /// capacity of a similar candidate was.
    pub fn size(&self, prepared: &Prepared, hint: Option<f64>) -> Result<Found, PlanError> {
        let Prepared { candidate, fitting, .. } = prepared;
        let start = match hint {
            Some(factor) => Start::near(prepared.guess_rps * factor),
            None => Start::anywhere(prepared.guess_rps),
        };
        let (candidate, found) = match candidate.split {
            Some(_) => self.best_split(candidate, fitting)?,
            None => (candidate.clone(), self.capacity(candidate, fitting, Some(start))?),
        };
        if found.best.is_none() {
            return Ok(Found::Refused(candidate, no_rate(&found)));
        }
        let sized = self.sized(prepared, candidate, found);
        if let Some(refusal) = too_many_devices(self.spec, &sized) {
            return Ok(Found::Refused(sized.candidate, refusal));
        }
        let (replica, _) = self.replica(&sized.candidate, fitting);
        match self.at_peak(&replica, &sized)? {
            Ok(peak) => Ok(Found::Serves(Box::new(sized), peak)),
            Err(refusal) => Ok(Found::Refused(sized.candidate, refusal)),
        }
    }

    /// `start`: where to begin; a unit's own guess if left out.
    fn capacity(
        &self,
        candidate: &Candidate,
        fitting: &Fitting,
        start: Option<Start>,
    ) -> Result<Capacity, PlanError> {
        let (replica, guess_rps) = self.replica(candidate, fitting);
        let (requests, seed) = (self.spec.workload.requests, self.spec.seed);
        let start = start.unwrap_or(Start::anywhere(guess_rps));
        capacity(&replica, start, requests, seed, self.traffic, &self.limits, self.cancelled)
    }

    /// The unit that takes the fewest devices for the busiest hour; of equal ones the one with the most room.
    fn best_split(
        &self,
        candidate: &Candidate,
        fitting: &Fitting,
    ) -> Result<(Candidate, Capacity), PlanError> {
        let (prefill_s, decode_s) = self.request_s(fitting);
        let mut best: Option<(Candidate, Capacity)> = None;
        let mut simulations = 0;
        let peak = self.spec.demand.peak_rps;
        let cost = |(candidate, found): &(Candidate, Capacity)| {
            let rate = found.best.as_ref().map_or(0.0, |best| best.rate_rps);
            let devices = f64::from(candidate.devices());
            ((peak / rate).ceil() * devices, devices / rate)
        };
        for split in Split::tried(prefill_s / (prefill_s + decode_s)) {
            if (self.cancelled)() {
                break;
            }
            let tried = Candidate { split: Some(split), ..candidate.clone() };
            let found = self.capacity(&tried, fitting, None)?;
            simulations += found.simulations;
            let one = (tried, found);
            let is_better = |known: &(Candidate, Capacity)| {
                let ((devices, room), (least, most)) = (cost(&one), cost(known));
                devices < least || devices == least && room < most
            };
            if best.as_ref().is_none_or(is_better) {
                best = Some(one);
            }
        }
        let none = Capacity { best: None, broken: None, simulations: 0 };
        let (candidate, found) = best.unwrap_or((candidate.clone(), none));
        Ok((candidate, Capacity { simulations, ..found }))
    }

    /// Seconds that a prompt takes of a replica in full steps, and an answer in a full batch.
    fn request_s(&self, fitting: &Fitting) -> (f64, f64) {
        let batch = self.decode_batch(fitting);
        let prefill_s = self.prefill_token_s(&fitting.cost) * self.lengths.input;
        (prefill_s, self.decode_s(&fitting.cost, batch) / batch * self.lengths.output)
    }

    /// The largest batch whose decodes, with no prompt in the step, keep the TPOT.
    fn decode_batch(&self, fitting: &Fitting) -> f64 {
        let (tpot, most) = (self.tpot_limit_s(), self.most_running(fitting));
        let mut batch: f64 = 1.0;
        while batch < most && self.decode_s(&fitting.cost, (batch * 1.25).min(most)) <= 0.9 * tpot {
            batch = (batch * 1.25).min(most);
        }
        batch
    }

    fn sized(&self, prepared: &Prepared, candidate: Candidate, capacity: Capacity) -> Sized {
        let Prepared { fitting, batch, .. } = prepared;
        let Lengths { input, output, .. } = self.lengths;
        let prefill_s = self.prefill_token_s(&fitting.cost) * input;
        let decode_s = self.decode_s(&fitting.cost, *batch) / batch.max(1.0) * output;
        Sized {
            candidate,
            guess_rps: prepared.guess_rps,
            capacity,
            errors: prepared.errors,
            kv_tokens: fitting.kv_tokens,
            floor_ttft_s: prepared.floor_ttft_s,
            floor_tpot_s: prepared.floor_tpot_s,
            bound: bound(&fitting.cost, *batch, input + output / 2.0),
            output_share: decode_s / (prefill_s + decode_s),
            tdp_w: fitting.device.tdp_w.as_ref().map(|figure| figure.value),
        }
    }

    /// An even share of the busiest hour. Another rate draws other requests, which may just break what the search saw hold: then
    /// replicas are added.
    fn at_peak(&self, replica: &Replica<'_>, sized: &Sized) -> Result<Result<AtPeak, Refusal>, PlanError> {
        let spec = self.spec;
        let (replicas, _) = sized.replicas(spec.demand.peak_rps);
        for added in 0..=1 + replicas / 10 {
            let share = (spec.demand.peak_rps / f64::from(replicas.saturating_add(added))).max(LOWEST_RPS);
            let tried = replica.at(share, spec.workload.requests, spec.seed, self.traffic, &self.limits)?;
            if tried.verdict.met {
                return Ok(Ok(AtPeak { tried, added, simulations: added + 1 }));
            }
            if (self.cancelled)() {
                break;
            }
        }
        Ok(Err(Refusal {
            kind: RefusalKind::NoRate,
            reason: format!("the SLO is met by no number of replicas near {replicas}"),
            change: "a longer limit, or traffic that comes more evenly".into(),
        }))
    }

    /// So many replicas behind a router, in the busiest hour.
    pub fn together(
        &self,
        candidate: &Candidate,
        replicas: u32,
        routing: Routing,
    ) -> Result<Seen, PlanError> {
        let fitting = match self.fit(candidate)? {
            Ok(fitting) => fitting,
            Err(refusal) => return Err(PlanError::Engine(refusal.reason)),
        };
        let (replica, _) = self.replica(candidate, &fitting);
        let spec = self.spec;
        let rate_rps = spec.demand.peak_rps.max(LOWEST_RPS);
        let requests = spec.workload.requests;
        replica.together(replicas, routing, rate_rps, requests, spec.seed, self.traffic, &self.limits)
    }

    /// The same replica as [`Question::at`] simulates, as one of a cluster.
    pub fn serving(&self, candidate: &Candidate) -> Result<Serving, PlanError> {
        let fitting = self.fit(candidate)?.map_err(|refusal| PlanError::Engine(refusal.reason))?;
        let pool = Pool {
            vocab_size: self.model.vocab_size,
            overhead: Overhead::served(DEFAULT_RUNTIME),
            gpus_per_replica: candidate.replica_devices(),
            ..Pool::new(&candidate.hardware, fitting.engine, Arc::new(fitting.cost), 1)
        };
        Ok(Serving { pool, weight_bytes: fitting.weight_bytes, device: fitting.device })
    }

    /// A replica, or a unit, and a rate to begin with.
    fn replica<'f>(&self, candidate: &Candidate, fitting: &'f Fitting) -> (Replica<'f>, f64) {
        let apart = candidate.split.map(|split| Apart { split, transfer: self.transfer(candidate, fitting) });
        let (rate_rps, running) = match candidate.split {
            None => self.guess(fitting),
            Some(split) => {
                let (prefill_s, decode_s) = self.request_s(fitting);
                let of = |replicas: u32, seconds: f64| f64::from(replicas) / seconds.max(1e-9);
                let rate = 0.6 * of(split.prefill, prefill_s).min(of(split.decode, decode_s));
                (rate, self.decode_batch(fitting) * f64::from(split.decode))
            }
        };
        let replica = Replica {
            engine: &fitting.engine,
            cost: &fitting.cost,
            overhead: Overhead::served(DEFAULT_RUNTIME),
            vocab_size: self.model.vocab_size,
            // Little's law.
            request_s: running / rate_rps,
            conversations: self.conversations,
            apart,
        };
        (replica, rate_rps)
    }

    /// All devices of a replica send their keys and values at a time, over the network.
    fn transfer(&self, candidate: &Candidate, fitting: &Fitting) -> KvTransfer {
        let (device, reached) = (fitting.cost.device(), fitting.cost.efficiency());
        let devices = f64::from(candidate.replica_devices());
        KvTransfer {
            bytes_per_token: self.model.kv_values_per_token() as f64 * fitting.kv_value_bytes,
            bytes_per_s: devices * device.network_bytes_per_s * reached.network,
            latency: Duration::from_secs_f64(reached.network_latency_s),
        }
    }

    fn fit(&self, candidate: &Candidate) -> Result<Result<Fitting, Refusal>, PlanError> {
        let catalogued =
            hardware(&candidate.hardware).map_err(|error| PlanError::Catalogue(error.to_string()))?;
        let impossible = |reason: String, change: &str| {
            Ok(Err(Refusal { kind: RefusalKind::Impossible, reason, change: change.to_owned() }))
        };
        let device = match Device::from_catalogue(catalogued) {
            Ok(device) => match self.spec.space.network_gb_per_s {
                Some(network) => Device { network_bytes_per_s: 1e9 * network, ..device },
                None => device,
            },
            Err(error) => {
                return impossible(error.to_string(), "another device, or its figures in a catalogue file");
            }
        };
        if candidate.weights == "fp8" && catalogued.fp8_tflops.is_none() {
            return impossible(
                format!("{} has no FP8 arithmetic", catalogued.name),
                "weights = [\"int4\"] or [\"int8\"], or a device with FP8",
            );
        }
        let unknown = |key, what, name: &str, accepted: String| PlanError::UnknownName {
            key,
            what,
            name: name.chars().take(80).collect(),
            accepted,
        };
        let weights: memory::Weights = candidate.weights.parse().map_err(|_| {
            unknown("weights", "format", &candidate.weights, memory::Weights::NAMES.join(", "))
        })?;
        let kv: KvDtype = candidate
            .kv
            .parse()
            .map_err(|_| unknown("kv", "format", &candidate.kv, "bf16, f16, fp8".into()))?;
        let space = &self.spec.space;
        let memory_bytes = device.memory_bytes as u64;
        let config = MemoryConfig {
            weights,
            kv,
            tp: candidate.tensor_parallel,
            pp: candidate.pipeline_parallel,
            max_model_len: Some(max_model_len(self.spec, self.model)),
            max_num_batched_tokens: space.max_num_batched_tokens,
            max_num_seqs: space.max_num_seqs,
            async_scheduling: false,
            ..MemoryConfig::vllm(&catalogued.name, memory_bytes)
        };
        let plan = match memory::plan(self.model, &config, memory_bytes) {
            Ok(plan) => plan,
            Err(error @ (MemoryError::TensorParallel { .. } | MemoryError::PipelineParallel { .. })) => {
                return impossible(error.to_string(), "another degree of parallelism");
            }
            Err(error) => return Err(PlanError::Catalogue(error.to_string())),
        };
        if let Some(problem) = plan.problem {
            let (reason, change) = problem.rsplit_once(": ").unwrap_or((&problem, "more memory"));
            return Ok(Err(Refusal {
                kind: RefusalKind::DoesNotFit,
                reason: reason.to_owned(),
                change: change.to_owned(),
            }));
        }
        let deployment = Deployment {
            model: self.model,
            device,
            weights: cost_weights(weights.of(self.model), &plan, self.model, candidate.replica_devices()),
            kv_value_bytes: f64::from(kv.bytes()),
            sharding: Sharding {
                tensor: candidate.tensor_parallel,
                pipeline: candidate.pipeline_parallel,
                expert: 1,
            },
            runtime: DEFAULT_RUNTIME.into(),
        };
        // Windows and their groups make a cache's capacity depend on how long requests are.
        let request = (self.lengths.input + self.lengths.output).ceil().max(1.0);
        let whole = plan.kv_plan.as_ref().map_or(0, |kv| kv.num_blocks * u64::from(config.block_size));
        let kv_tokens = match self.model.kv_shape().window_layers {
            0 => whole,
            _ => (plan.sequences(request as u32) * request) as u64,
        };
        // The longest request fits, else the plan had refused.
        let kv_tokens = kv_tokens.max(u64::from(plan.max_model_len));
        let longest = plan.max_model_len;
        Ok(Ok(Fitting {
            cost: deployment.roofline(Calibration::shipped()),
            engine: engine(&self.spec.space, kv_tokens, longest),
            kv_tokens,
            weight_bytes: plan.weight_bytes.saturating_mul(u64::from(candidate.replica_devices())),
            kv_value_bytes: deployment.kv_value_bytes,
            device: catalogued,
        }))
    }

    /// TTFT and TPOT that no request on a replica can be below.
    fn floors(&self, cost: &Roofline) -> (f64, f64) {
        let overhead = Overhead::served(DEFAULT_RUNTIME);
        // Of a prompt all else of which is in the prefix cache: nothing that is asked can be quicker.
        let shape = SeqShape { context: 0, new: 1, padding: 0, sample: true, drafts: 0 };
        let step = cost.step_time(&[shape]).as_secs_f64();
        let front_end = overhead.request_s + overhead.serial_request_s + overhead.serial_token_s;
        (step + overhead.admission_s + front_end, step + overhead.step_token_s)
    }

    /// The time that a prompt token takes in a full step.
    fn prefill_token_s(&self, cost: &Roofline) -> f64 {
        let budget = f64::from(self.spec.space.max_num_batched_tokens);
        let input = self.lengths.input.clamp(1.0, budget);
        let prompts = (budget / input).floor().clamp(1.0, 64.0) as usize;
        let shape = SeqShape { context: 0, new: input as u32, padding: 0, sample: true, drafts: 0 };
        let step = cost.step_time(&vec![shape; prompts]).as_secs_f64();
        step / (prompts as f64 * f64::from(shape.new.max(1)))
    }

    fn decode_s(&self, cost: &Roofline, batch: f64) -> f64 {
        let context = self.lengths.input + self.lengths.output / 2.0;
        cost.mixed_s(&[], batch.max(1.0) as usize, (batch.max(1.0) * context) as u64)
    }

    /// The shortest time between tokens that is asked for.
    fn tpot_limit_s(&self) -> f64 {
        let of_tpot = |limit: &&Limit| matches!(limit.on, Latency::Tpot | Latency::Itl);
        self.limits.iter().filter(of_tpot).map(|limit| limit.seconds).fold(f64::INFINITY, f64::min)
    }

    /// Sequences of mean length that the cache and the configuration have room for.
    fn most_running(&self, fitting: &Fitting) -> f64 {
        let room = fitting.kv_tokens as f64 / (self.lengths.input + self.lengths.output);
        f64::from(self.spec.space.max_num_seqs).min(room).max(1.0)
    }

    /// A rate to begin with, and how many sequences are then in a decode: the largest batch whose steps, prompts of newcomers
    /// included, keep the TPOT.
    fn guess(&self, fitting: &Fitting) -> (f64, f64) {
        let Lengths { input, output, .. } = self.lengths;
        let (tpot, most) = (self.tpot_limit_s(), self.most_running(fitting));
        let prefill_token_s = self.prefill_token_s(&fitting.cost);
        let mut best = (1e-3, 1.0);
        let mut batch = 1.0;
        while batch <= most {
            // Each step brings a token for each sequence, so 1 / output of them end and as many prompts begin.
            let step =
                self.decode_s(&fitting.cost, batch) + batch / output.max(1.0) * input * prefill_token_s;
            if step > 0.9 * tpot && batch > 1.0 {
                break;
            }
            best = (batch / (output.max(1.0) * step), batch);
            batch = (batch * 1.25).max(batch + 1.0);
        }
        (best.0 * 0.8, best.1)
    }
}

fn no_rate(found: &Capacity) -> Refusal {
    let nearest = found.broken.as_ref().and_then(|broken| broken.verdict.nearest);
    let reason = nearest.map_or_else(
        || "no rate was served".to_owned(),
        |(limit, share)| {
            format!(
                "{} is missed by a factor of {} even when hardly anything is asked",
                limit.words(),
                super::words::digits(share)
            )
        },
    );
    Refusal {
        kind: RefusalKind::NoRate,
        reason,
        change: "a longer limit, shorter prompts, more tensor parallelism, or a faster device".into(),
    }
}

fn too_many_devices(spec: &PlanSpec, sized: &Sized) -> Option<Refusal> {
    let (replicas, _) = sized.replicas(spec.demand.peak_rps);
    let held = u64::from(replicas) + u64::from(spec.space.spare_replicas);
    let devices = held * u64::from(sized.candidate.devices());
    (devices > u64::from(spec.space.max_devices)).then(|| too_large(devices, spec.space.max_devices))
}

fn engine(space: &Space, kv_tokens: u64, longest: u32) -> EngineConfig {
    let blocks = (kv_tokens / u64::from(BLOCK)).min(u64::from(u32::MAX - 1)) as u32;
    EngineConfig {
        policy: PolicyConfig::Vllm(VllmConfig {
            max_num_seqs: space.max_num_seqs,
            max_num_batched_tokens: space.max_num_batched_tokens,
            ..VllmConfig::default()
        }),
        kv: KvStrategy::Paged,
        block_size: BLOCK,
        num_blocks: blocks + 1,
        max_model_len: longest,
    }
}

fn has_experts(model: &Architecture) -> bool {
    model.blocks.iter().any(|(_, block)| matches!(block.feed_forward, FeedForward::Experts { .. }))
}

/// How the cost model sees a format. Mixes of GGUF and 4-bit floats of the whole model count with their mean.
pub(crate) fn cost_weights(
    weights: memory::Weights,
    plan: &MemoryPlan,
    model: &Architecture,
    devices: u32,
) -> Weights {
    let of = Weights::of;
    match weights {
        memory::Weights::F32 => of(WeightFormat::F32),
        memory::Weights::Fp8 => of(WeightFormat::Fp8),
        memory::Weights::Int8 => of(WeightFormat::Int8),
        memory::Weights::Int4 { .. } => of(WeightFormat::Int4),
        memory::Weights::Mxfp4 if has_experts(model) => Weights::few_bit_experts(MXFP4_BITS),
        memory::Weights::Mxfp4 | memory::Weights::Nvfp4 | memory::Weights::Gguf(_) => {
            let bits = 8.0 * plan.weight_bytes as f64 * f64::from(devices) / model.parameters() as f64;
            Weights::mixed(bits, bits)
        }
        memory::Weights::Published | memory::Weights::F16 | memory::Weights::Bf16 => of(WeightFormat::Bf16),
    }
}

/// What most of a full decode step waits for.
fn bound(cost: &Roofline, batch: f64, context: f64) -> &'static str {
    let shape = SeqShape { context: context as u32, new: 1, padding: 0, sample: true, drafts: 0 };
    let step = cost.step(&vec![shape; batch.clamp(1.0, 4096.0) as usize]);
    let resources = [
        (Resource::Memory, "memory bandwidth"),
        (Resource::Compute, "arithmetic"),
        (Resource::Link, "links between devices"),
        (Resource::Network, "the network between nodes"),
        (Resource::Overhead, "launches and the host"),
    ];
    let seconds = |resource| -> f64 {
        step.operations.iter().filter(|op| op.bound_by() == resource).map(|op| op.seconds()).sum()
    };
    resources
        .into_iter()
        .max_by(|a, b| seconds(a.0).total_cmp(&seconds(b.0)))
        .map_or("nothing", |(_, name)| name)
}

/// The spread of the fit where the device's class was measured; wide bars where nothing was.
fn errors(device: &Device, name: &str) -> ErrorBars {
    /// Where no measurement of the class is behind a number. Datasheet rooflines were off by about this much in other
    /// planners' own reports (TTFT MAPE 45 %).
    const UNKNOWN: (f64, f64, f64) = (0.5, 0.3, 0.3);
    let spreads = || {
        Calibration::shipped()
            .spread
            .iter()
            .filter(|spread| spread.class == device.class.name() && spread.runtime == DEFAULT_RUNTIME)
    };
    let of = |metric: &str, otherwise: f64| {
        spreads()
            .find(|spread| spread.metric == metric)
            .map_or(otherwise, |spread| spread.p90_error.exp() - 1.0)
    };
    let measured = spreads().any(|spread| spread.devices.iter().any(|known| known == name));
    let provenance = match (measured, spreads().next().is_some()) {
        (true, _) => Provenance::Measured,
        (false, true) => Provenance::Calibrated,
        (false, false) => Provenance::Roofline,
    };
    ErrorBars {
        ttft: of("TTFT under load", UNKNOWN.0),
        tpot: of("TPOT under load", UNKNOWN.1),
        throughput: of("saturated throughput", UNKNOWN.2),
        provenance,
    }
}
