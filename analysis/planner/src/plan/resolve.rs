//! A candidate resolved: does it fit, and what is it to the simulator?

use std::sync::Arc;
use std::time::Duration;

use llmlab_core::config::{EngineConfig, KvStrategy, PolicyConfig, VllmConfig};
use llmlab_models::architecture::Architecture;
use llmlab_models::catalogue::{Hardware, hardware};
use llmlab_models::memory::{self, KvDtype, MemoryConfig, MemoryError};
use llmlab_scenarios::plan::{PlanSpec, Space};
use llmlab_scenarios::spec::SloSpec;
use llmlab_sim::cluster::{KvTransfer, Pool, Routing};
use llmlab_sim::cost_model::calibration::DEFAULT_RUNTIME;
use llmlab_sim::cost_model::{Calibration, Sharding};
use llmlab_sim::{Device, Overhead, Roofline};

use super::PlanError;
use super::bound::Lengths;
use super::candidate::{BF16, Candidate};
use super::capacity::{LOWEST_RPS, Replica, Traffic};
use super::cluster::Seen;
use super::conversations::Conversations;
use super::disaggregated::Apart;
use super::limits::{Latency, Limit};
use super::row::{Refusal, RefusalKind};
use crate::deployment::Deployment;
use crate::formats::cost_weights;

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
pub(super) struct Fitting {
    pub cost: Roofline,
    pub engine: EngineConfig,
    pub kv_tokens: u64,
    pub weight_bytes: u64,
    /// Bytes of a cached value.
    pub kv_value_bytes: f64,
    pub device: &'static Hardware,
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

impl Question<'_> {
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
    pub(super) fn replica<'f>(&self, candidate: &Candidate, fitting: &'f Fitting) -> (Replica<'f>, f64) {
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
        let windowed = self.model.windowed_kv_values_per_token();
        let kept = self.model.kv_values_per_token() - windowed;
        KvTransfer {
            bytes_per_token: kept as f64 * fitting.kv_value_bytes,
            window_bytes_per_token: windowed as f64 * fitting.kv_value_bytes,
            window: self.model.layers().find_map(|block| block.attention.window()),
            block_size: BLOCK,
            bytes_per_s: devices * device.network_bytes_per_s * reached.network,
            latency: Duration::from_secs_f64(reached.network_latency_s),
        }
    }

    pub(super) fn fit(&self, candidate: &Candidate) -> Result<Result<Fitting, Refusal>, PlanError> {
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
        let unknown = |key, what, name: &str, accepted: String| PlanError::UnknownName {
            key,
            what,
            name: name.chars().take(80).collect(),
            accepted,
        };
        let weights: memory::Weights = candidate.weights.parse().map_err(|_| {
            unknown("weights", "format", &candidate.weights, memory::Weights::NAMES.join(", "))
        })?;
        if let Err(error) = catalogued.multiplies(weights.of(self.model)) {
            return impossible(error.to_string(), "weights = [\"int4\"] or [\"int8\"], or another device");
        }
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
        let request = (self.lengths.input + self.lengths.output).ceil().max(1.0);
        let kv_tokens = plan.tokens_in_sequences(request as u32);
        // The longest request fits, else the plan had refused.
        let kv_tokens = kv_tokens.max(u64::from(plan.max_model_len));
        let longest = plan.max_model_len;
        Ok(Ok(Fitting {
            cost: deployment.roofline(Calibration::shipped()),
            engine: engine(&self.spec.space, kv_tokens, longest),
            kv_tokens,
            weight_bytes: plan.budget.weight_bytes.saturating_mul(u64::from(candidate.replica_devices())),
            kv_value_bytes: deployment.kv_value_bytes,
            device: catalogued,
        }))
    }
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
