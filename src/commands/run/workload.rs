//! The workload of a plan: the scenario's words turned into what the load generator draws from.

use std::borrow::Cow;
use std::time::Duration;

use llmlab_loadgen::arrivals::clients::ClientMix;
use llmlab_loadgen::arrivals::mmpp::Mmpp;
use llmlab_loadgen::arrivals::profile::{Profile, Segment};
use llmlab_loadgen::{
    Abandonment, Adapters, Arrivals, LengthDist, Lengths, Mode, Patience, Popularity, PrefixTree, Prefixes,
    PromptStyle, Sessions, TimeDist, TraceRow, TurnCount, Workload, WorkloadConfig,
};
use llmlab_scenarios::spec::{
    AbandonSpec, AdapterSpec, ArrivalSpec, DayCurve, DwellSpec, LengthDist as SpecDist, LengthSpec,
    PatienceSpec, PhaseSpec, PopularitySpec, PrefixSpec, RateSpec, RunSpec, SessionSpec, TargetChoice,
    TimeDist as SpecTime, TurnCount as SpecTurns, WorkloadSpec,
};

use super::plan::{Plan, PlannedTarget};
use crate::exit::Failure;

impl Plan {
    /// Does the rate depend on a saturation still to be measured?
    pub fn needs_probe(&self) -> bool {
        self.load_share().is_some()
    }

    pub fn load_share(&self) -> Option<f64> {
        load_share(&self.spec)
    }

    pub fn workload_config(&self, load_rps: f64) -> WorkloadConfig {
        let spec = &self.spec;
        workload_config(
            spec.seed,
            &spec.workload,
            self.max_tokens_per_request,
            self.prompts.clone(),
            load_rps,
        )
    }

    /// The workload as a target gets it: without adapters where it does not serve them.
    pub fn for_target<'a>(&self, index: usize, workload: &'a Workload) -> Cow<'a, Workload> {
        let serves = match &self.spec.targets[index].kind {
            TargetChoice::Engine(engine) => engine.enable_lora,
            TargetChoice::Simulate(simulate) => simulate.engine.enable_lora,
            TargetChoice::Endpoint(_) | TargetChoice::Command(_) => true,
        };
        match serves || self.spec.workload.adapters.is_none() {
            true => Cow::Borrowed(workload),
            false => Cow::Owned(workload.without_adapters()),
        }
    }

    pub fn all_simulated(&self) -> bool {
        self.targets.iter().all(PlannedTarget::is_simulated)
    }

    /// The requests of a later repeat where each repeat draws its own.
    pub fn workload_of_repeat(&self, load_rps: f64, repeat: u32) -> Result<Workload, Failure> {
        let config = self.workload_config(load_rps);
        let seed = config.seed.wrapping_add(u64::from(repeat - 1));
        llmlab_loadgen::generate(&WorkloadConfig { seed, ..config }).map_err(Failure::bad_input)
    }

    /// How many requests a trial has; of a journey, how many asks when no step fails.
    pub fn requests(&self, workload: &Workload) -> u64 {
        match &self.spec.journey {
            Some(journey) => journey.asks(),
            None => workload.requests.len() as u64,
        }
    }

    /// A journey's users draw their asks themselves.
    pub fn workload(&self, load_rps: f64) -> Result<Workload, Failure> {
        if let Some(journey) = &self.spec.journey {
            let mode = Mode::Closed { users: journey.users(), think_time: Duration::ZERO };
            return Ok(Workload { requests: Vec::new(), mode, sessions: None, prefix_hit_rate: None });
        }
        llmlab_loadgen::generate(&self.workload_config(load_rps)).map_err(Failure::bad_input)
    }
}

/// The rate as a share of saturation, where it is one.
pub fn load_share(spec: &RunSpec) -> Option<f64> {
    match spec.workload.arrivals.rate()? {
        RateSpec::Load { share } => Some(*share),
        RateSpec::PerSecond { .. } | RateSpec::Sought => None,
    }
}

/// What a scenario's words come to where a request may hold `limit` tokens. `load_rps` stands in for a rate given as a
/// share of saturation, or searched.
pub fn workload_config(
    seed: u64,
    w: &WorkloadSpec,
    limit: u32,
    prompts: PromptStyle,
    load_rps: f64,
) -> WorkloadConfig {
    // Output gets at most half of what a request may hold, the prompt the rest, so no draw is impossible.
    let output_max = w.output_range.1.min(limit / 2).max(1);
    let input_max = w.input_range.1.min(limit - output_max).max(1);
    WorkloadConfig {
        seed,
        requests: u64::from(w.requests),
        lengths: lengths(&w.lengths),
        scale_input: w.scale_input,
        scale_output: w.scale_output,
        input_range: (w.input_range.0.min(input_max), input_max),
        output_range: (w.output_range.0.min(output_max), output_max),
        arrivals: arrivals(&w.arrivals, load_rps),
        prompts,
        prefixes: prefixes(w, input_max),
        adapters: w.adapters.as_ref().map(adapters),
        sessions: w.sessions.as_ref().map(|spec| sessions(spec, limit)),
        abandonment: w.abandon.as_ref().map(abandonment),
    }
}

fn arrivals(spec: &ArrivalSpec, load_rps: f64) -> Arrivals {
    let rps = |rate: &RateSpec| match rate {
        RateSpec::PerSecond { rps } => *rps,
        RateSpec::Load { .. } | RateSpec::Sought => load_rps,
    };
    match spec {
        ArrivalSpec::Poisson { rate } => Arrivals::Poisson { rate_rps: rps(rate) },
        ArrivalSpec::Gamma { rate, cv } => Arrivals::Gamma { rate_rps: rps(rate), cv: *cv },
        ArrivalSpec::Constant { rate } => Arrivals::Constant { rate_rps: rps(rate) },
        ArrivalSpec::Closed { users, think_time } => {
            Arrivals::Closed { users: *users, think_time: *think_time }
        }
        ArrivalSpec::Trace { speed, jitter } => Arrivals::Trace { speed: *speed, jitter: *jitter },
        ArrivalSpec::Mmpp { rate, factors, dwell } => {
            let rate_rps = rps(rate);
            let dwell = match *dwell {
                DwellSpec::Time { calm, burst } => [calm, burst],
                // The cap is far above what the load generator schedules.
                DwellSpec::MeanGaps { calm, burst } => [calm, burst]
                    .map(|gaps| Duration::try_from_secs_f64(gaps / rate_rps).unwrap_or(Duration::MAX)),
            };
            Arrivals::Mmpp { rate_rps, states: Mmpp { factors: [factors.0, factors.1], dwell } }
        }
        ArrivalSpec::Diurnal { rate, curve } => {
            Arrivals::Profile { rate_rps: rps(rate), profile: day(curve) }
        }
        ArrivalSpec::Phases { rate, phases } => {
            let segment = |p: &PhaseSpec| Segment { from: p.from, to: p.to, duration: p.duration };
            let profile = Profile::Segments(phases.iter().map(segment).collect());
            Arrivals::Profile { rate_rps: rps(rate), profile }
        }
        ArrivalSpec::Clients { rate, mix } => Arrivals::Clients {
            rate_rps: rps(rate),
            mix: ClientMix {
                count: mix.clients,
                exponent: mix.exponent,
                offset: mix.offset,
                cv_median: mix.cv_median,
                cv_mean: mix.cv_mean,
                weibull_share: mix.weibull_share,
            },
        },
    }
}

fn day(curve: &DayCurve) -> Profile {
    match curve {
        DayCurve::Sine { amplitude, period, peak } => {
            Profile::Sine { amplitude: *amplitude, period: *period, peak: *peak }
        }
        DayCurve::Parts { rates, period } => {
            let duration = period.div_f64(rates.len() as f64);
            let part = |rate: &f64| Segment { from: *rate, to: *rate, duration };
            Profile::Segments(rates.iter().map(part).collect())
        }
    }
}

fn prefixes(workload: &WorkloadSpec, longest_prompt: u32) -> Prefixes {
    match &workload.prefixes {
        None => Prefixes::one(workload.shared_prefix_tokens.min(longest_prompt)),
        Some(PrefixSpec::Each { count, tokens, popularity: shares }) => Prefixes::Each {
            count: *count,
            tokens: (*tokens).min(longest_prompt),
            popularity: popularity(*shares),
        },
        Some(PrefixSpec::Tree { block_tokens, depth, branching, hit_rate, popularity: shares }) => {
            Prefixes::Tree(PrefixTree {
                block_tokens: *block_tokens,
                depth: *depth,
                branching: *branching,
                popularity: popularity(*shares),
                hit_rate: *hit_rate,
                or_nearest: false,
            })
        }
    }
}

fn adapters(spec: &AdapterSpec) -> Adapters {
    let names = spec.modules.iter().map(|module| module.name.clone()).collect();
    Adapters { names, popularity: popularity(spec.popularity) }
}

fn sessions(spec: &SessionSpec, limit: u32) -> Sessions {
    let turns = match spec.turns {
        SpecTurns::Fixed { turns } => TurnCount::Fixed { turns },
        SpecTurns::Uniform { min, max } => TurnCount::Uniform { min, max },
        SpecTurns::Geometric { mean } => TurnCount::Geometric { mean },
    };
    Sessions { turns, think_time: time_dist(spec.think_time), max_context_tokens: limit }
}

fn abandonment(spec: &AbandonSpec) -> Abandonment {
    let patience = match &spec.patience {
        PatienceSpec::Tokens { tokens } => Patience::Tokens(length_dist(tokens)),
        PatienceSpec::Time { time } => Patience::Time(time_dist(*time)),
    };
    Abandonment { share: spec.share, patience }
}

fn time_dist(spec: SpecTime) -> TimeDist {
    match spec {
        SpecTime::Fixed { time } => TimeDist::Fixed { time },
        SpecTime::Exponential { mean } => TimeDist::Exponential { mean },
        SpecTime::Lognormal { median, p95 } => TimeDist::Lognormal { median, p95 },
    }
}

fn popularity(spec: PopularitySpec) -> Popularity {
    match spec {
        PopularitySpec::Uniform => Popularity::Uniform,
        PopularitySpec::Zipf { exponent } => Popularity::Zipf { exponent },
    }
}

fn lengths(spec: &LengthSpec) -> Lengths {
    match spec {
        LengthSpec::Quantiles { input, output, rank_correlation, .. } => Lengths::Quantiles {
            input: input.values,
            output: output.values,
            rank_correlation: *rank_correlation,
        },
        LengthSpec::Distributions { input, output } => {
            Lengths::Independent { input: length_dist(input), output: length_dist(output) }
        }
        LengthSpec::Trace { rows, .. } => Lengths::Trace {
            rows: rows
                .iter()
                .map(|row| TraceRow {
                    input_tokens: row.input_tokens,
                    output_tokens: row.output_tokens,
                    arrival: row.arrival_s.map(Duration::from_secs_f64),
                })
                .collect(),
        },
    }
}

fn length_dist(dist: &SpecDist) -> LengthDist {
    match dist {
        SpecDist::Fixed { tokens } => LengthDist::Fixed { tokens: *tokens },
        SpecDist::Uniform { min, max } => LengthDist::Uniform { min: *min, max: *max },
        SpecDist::Lognormal { median, p95 } => LengthDist::Lognormal { median: *median, p95: *p95 },
    }
}
