//! The workload: every request of a run, fully materialised from a seed before the first is sent.
//!
//! Same configuration, same bytes. Request `i` depends on the seed, its index and the knobs that concern it, never on
//! how many requests there are, so a run can be shortened, lengthened or sharded without changing any prompt.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::arrivals::{Arrivals, RATE_RANGE_RPS};
use crate::lengths::Lengths;
use crate::popularity::{MOST_CHOICES, Popularity, Shares};
use crate::prompts::PromptStyle;
use crate::streams::{Purpose, stream};

#[derive(Debug, Clone, PartialEq)]
pub struct WorkloadConfig {
    pub seed: u64,
    pub requests: u64,
    pub lengths: Lengths,
    /// Factors on drawn lengths (1.0 = as published).
    pub scale_input: f64,
    pub scale_output: f64,
    /// Clamp after scaling, tokens, both ends included; at least 1.
    pub input_range: (u32, u32),
    pub output_range: (u32, u32),
    pub arrivals: Arrivals,
    pub prompts: PromptStyle,
    pub prefixes: Prefixes,
    /// `None`: every request asks for the served model itself.
    pub adapters: Option<Adapters>,
}

/// Beginnings that prompts share, as system prompts are shared. Part of the drawn length.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prefixes {
    /// Different ones; each request takes one of them.
    pub count: u32,
    pub tokens: u32,
    pub popularity: Popularity,
}

impl Prefixes {
    pub const NONE: Prefixes = Prefixes::one(0);

    /// The same for all requests.
    pub const fn one(tokens: u32) -> Prefixes {
        Prefixes { count: 1, tokens, popularity: Popularity::Uniform }
    }
}

/// Adapters that requests ask for, by the names under which the server has them.
#[derive(Debug, Clone, PartialEq)]
pub struct Adapters {
    pub names: Vec<String>,
    pub popularity: Popularity,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    /// In order of arrival; `requests[i].index` is unique.
    pub requests: Vec<PlannedRequest>,
    pub mode: Mode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Every request is sent at its own time, whatever the server does.
    Open,
    /// Each user sends the next request `think_time` after its last one finished.
    Closed { users: u32, think_time: Duration },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedRequest {
    pub index: u64,
    /// Since the start of the trial; zero in a closed loop.
    pub at: Duration,
    pub prompt: Prompt,
    /// Length of `prompt` in tokens: exact for token ids, the wanted length for text.
    pub prompt_tokens: u32,
    /// The forced output length.
    pub max_tokens: u32,
    /// Named as the model in the request, where there is one.
    pub adapter: Option<Adapter>,
}

/// One of [`Adapters`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adapter {
    /// Its place in the list.
    pub index: u32,
    pub name: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    Tokens(Vec<u32>),
    Text(String),
}

impl Workload {
    /// The same requests to the model itself, as a baseline of what adapters cost.
    pub fn without_adapters(&self) -> Workload {
        let mut plain = self.clone();
        plain.requests.iter_mut().for_each(|request| request.adapter = None);
        plain
    }

    pub fn prompt_tokens_total(&self) -> u64 {
        self.requests.iter().map(|r| u64::from(r.prompt_tokens)).sum()
    }

    pub fn output_tokens_total(&self) -> u64 {
        self.requests.iter().map(|r| u64::from(r.max_tokens)).sum()
    }

    /// Arrivals per second over the planned span of an open loop; `None` when there is no span to divide by.
    pub fn planned_rate_rps(&self) -> Option<f64> {
        let span = self.requests.last()?.at.as_secs_f64();
        (self.mode == Mode::Open && span > 0.0).then(|| (self.requests.len() - 1) as f64 / span)
    }
}

/// A configuration that describes no workload. Whoever reads scenario files reports these with a span; here they only
/// guard against a caller that did not.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum WorkloadError {
    #[error("{side} length: {reason}")]
    Distribution { side: &'static str, reason: String },
    #[error("rank correlation must be between -1 and 1, got {value}")]
    Correlation { value: f64 },
    #[error("the trace has no rows")]
    EmptyTrace,
    #[error("arrivals from the trace need lengths from a trace too")]
    ArrivalsWithoutTrace,
    #[error("trace row {row} (counted from 0) has no arrival time")]
    TraceWithoutTime { row: usize },
    #[error("trace row {row} (counted from 0) arrives before the row above it")]
    TraceNotSorted { row: usize },
    #[error("rate must be {} to {} requests per second, got {value}", RATE_RANGE_RPS.start(), RATE_RANGE_RPS.end())]
    Rate { value: f64 },
    #[error("coefficient of variation must be between 0 and 1000, got {value}")]
    Cv { value: f64 },
    #[error("trace speed must be between 0.000001 and 1000000, got {value}")]
    Speed { value: f64 },
    #[error("arrival process: {reason}")]
    Process { reason: String },
    #[error("a closed loop needs at least one user")]
    NoUsers,
    #[error("{side} scale must be above 0 and finite, got {value}")]
    Scale { side: &'static str, value: f64 },
    #[error("{side} range must be 1 <= min <= max, got {min} to {max}")]
    Range { side: &'static str, min: u32, max: u32 },
    #[error("token id range {first}..{end} is empty")]
    TokenRange { first: u32, end: u32 },
    #[error("{count} to choose from; accepted are 1 to {MOST_CHOICES}")]
    Choices { count: u32 },
    #[error("exponent must be between 0 and 10, got {value}")]
    Exponent { value: f64 },
    #[error("tokens per word must be between 0.1 and 100, got {value}")]
    TokensPerWord { value: f64 },
}

/// Materialises the workload. Pure: no clock, no unseeded randomness.
pub fn generate(config: &WorkloadConfig) -> Result<Workload, WorkloadError> {
    check(config)?;
    let choices = Choices::of(config)?;
    let times = config.arrivals.times(config.seed, &config.lengths, config.requests);
    let requests = times.into_iter().zip(0..).map(|(at, index)| plan(config, &choices, index, at)).collect();
    let mode = match config.arrivals {
        Arrivals::Closed { users, think_time } => Mode::Closed { users, think_time },
        _ => Mode::Open,
    };
    Ok(Workload { requests, mode })
}

/// A request without its prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestShape {
    pub at: Duration,
    pub prompt_tokens: u32,
    pub max_tokens: u32,
}

/// When requests come and how long they are, as [`generate`] would have them.
pub fn shapes(config: &WorkloadConfig) -> Result<Vec<RequestShape>, WorkloadError> {
    check(config)?;
    let times = config.arrivals.times(config.seed, &config.lengths, config.requests);
    let shape = |(at, index)| {
        let (prompt_tokens, max_tokens) = lengths(config, index);
        RequestShape { at, prompt_tokens, max_tokens }
    };
    Ok(times.into_iter().zip(0..).map(shape).collect())
}

/// What requests choose between, and how often each is chosen.
struct Choices {
    prefixes: Shares,
    adapters: Vec<Arc<str>>,
    adapter_shares: Option<Shares>,
}

impl Choices {
    fn of(config: &WorkloadConfig) -> Result<Choices, WorkloadError> {
        let Prefixes { count, popularity, .. } = config.prefixes;
        let adapters = config.adapters.as_ref();
        let number = |a: &Adapters| u32::try_from(a.names.len()).unwrap_or(u32::MAX);
        Ok(Choices {
            prefixes: Shares::new(count, popularity)?,
            adapters: adapters.into_iter().flat_map(|a| &a.names).map(|name| name.as_str().into()).collect(),
            adapter_shares: adapters.map(|a| Shares::new(number(a), a.popularity)).transpose()?,
        })
    }

    fn prefix(&self, seed: u64, request: u64) -> u32 {
        self.prefixes.draw(&mut stream(seed, Purpose::PrefixChoice, request))
    }

    fn adapter(&self, seed: u64, request: u64) -> Option<Adapter> {
        let index = self.adapter_shares.as_ref()?.draw(&mut stream(seed, Purpose::Adapter, request));
        Some(Adapter { index, name: self.adapters[index as usize].clone() })
    }
}

fn plan(config: &WorkloadConfig, choices: &Choices, index: u64, at: Duration) -> PlannedRequest {
    let (prompt_tokens, max_tokens) = lengths(config, index);
    let prefix = choices.prefix(config.seed, index);
    let prompt = config.prompts.prompt(config.seed, index, prompt_tokens, prefix, config.prefixes.tokens);
    let adapter = choices.adapter(config.seed, index);
    PlannedRequest { index, at, prompt, prompt_tokens, max_tokens, adapter }
}

/// Tokens in and out of request `index`.
fn lengths(config: &WorkloadConfig, index: u64) -> (u32, u32) {
    let mut rng = stream(config.seed, Purpose::Lengths, index);
    let (input, output) = config.lengths.draw(index, &mut rng);
    (
        fit(input * config.scale_input, config.input_range),
        fit(output * config.scale_output, config.output_range),
    )
}

/// How many requests, `most` at most, have no more than `prompt_tokens` in all. Draws lengths but no prompts. `most`
/// where the configuration is not valid, which [`generate`] then says.
pub(crate) fn requests_within(config: &WorkloadConfig, most: u64, prompt_tokens: u64) -> u64 {
    if check(config).is_err() {
        return most;
    }
    let mut left = prompt_tokens;
    for index in 0..most {
        match left.checked_sub(u64::from(lengths(config, index).0)) {
            Some(rest) => left = rest,
            None => return index,
        }
    }
    most
}

/// Rounds to whole tokens (ties away from zero; the cast saturates) and clamps.
fn fit(tokens: f64, (min, max): (u32, u32)) -> u32 {
    (tokens.round() as u32).clamp(min, max)
}

fn check(config: &WorkloadConfig) -> Result<(), WorkloadError> {
    for (side, value) in [("input", config.scale_input), ("output", config.scale_output)] {
        if !(value.is_finite() && value > 0.0) {
            return Err(WorkloadError::Scale { side, value });
        }
    }
    for (side, (min, max)) in [("input", config.input_range), ("output", config.output_range)] {
        if min == 0 || min > max {
            return Err(WorkloadError::Range { side, min, max });
        }
    }
    config.lengths.check()?;
    config.arrivals.check(&config.lengths)?;
    config.prompts.check()
}
