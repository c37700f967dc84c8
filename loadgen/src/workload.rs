//! The workload: every request of a run, fully materialised from a seed before the first is sent.
//!
//! Same configuration, same bytes. Request `i` depends on the seed, its index and the knobs that concern it, never on
//! how many requests there are, so a run can be shortened, lengthened or sharded without changing any prompt.

use std::sync::Arc;
use std::time::Duration;

use llmlab_results::manifest::SessionFacts;
use thiserror::Error;

use crate::abandon::{Abandonment, HangUp};
use crate::arrivals::{Arrivals, RATE_RANGE_RPS};
use crate::lengths::Lengths;
use crate::popularity::{MOST_CHOICES, Popularity, Shares};
use crate::prefix_tree::{PrefixTree, Walks};
use crate::prompts::{Piece, PromptStyle};
use crate::sessions::{self, Sessions, Turn};
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
    /// Requests are the turns of conversations; lengths are those of what is new in a turn, and arrivals those of sessions.
    pub sessions: Option<Sessions>,
    pub abandonment: Option<Abandonment>,
}

impl WorkloadConfig {
    pub(crate) fn hang_up(&self, index: u64, max_tokens: u32) -> Option<HangUp> {
        self.abandonment.as_ref()?.draw(self.seed, index, max_tokens)
    }
}

/// Beginnings that prompts share, as system prompts are shared. Part of the drawn length; where requests are turns, before
/// the first turn's own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Prefixes {
    /// Each request takes one of `count` different ones.
    Each { count: u32, tokens: u32, popularity: Popularity },
    /// Not for sessions, whose turns begin alike by themselves.
    Tree(PrefixTree),
}

impl Prefixes {
    pub const NONE: Prefixes = Prefixes::one(0);

    /// The same for all requests.
    pub const fn one(tokens: u32) -> Prefixes {
        Prefixes::Each { count: 1, tokens, popularity: Popularity::Uniform }
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
    /// In order of arrival, the turns of a session together and in order; `requests[i].index` is unique.
    pub requests: Vec<PlannedRequest>,
    pub mode: Mode,
    pub sessions: Option<SessionFacts>,
    /// Share of the prompt tokens that a prefix cache of any size would find, where prompts begin with blocks of a tree.
    pub prefix_hit_rate: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Every request is sent at its own time, whatever the server does.
    Open,
    /// Each user sends the next request, or begins the next session, `think_time` after its last one finished.
    Closed { users: u32, think_time: Duration },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedRequest {
    pub index: u64,
    /// Since the start of the trial; zero in a closed loop. Of a turn, when its session begins.
    pub at: Duration,
    /// Of a turn, what is new in it.
    pub prompt: Prompt,
    /// Length of the prompt in tokens: exact for token ids, the wanted length for text. Of a turn, with all that was said
    /// before it, at most.
    pub prompt_tokens: u32,
    /// The forced output length.
    pub max_tokens: u32,
    /// Named as the model in the request, where there is one.
    pub adapter: Option<Adapter>,
    /// `None` for a request that stands alone.
    pub turn: Option<Turn>,
    /// `None` for a client that stays to the end.
    pub hang_up: Option<HangUp>,
}

impl PlannedRequest {
    /// The turn after this one needs what is said in it.
    pub fn is_followed(&self) -> bool {
        self.turn.as_ref().is_some_and(|turn| !turn.last)
    }
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
    /// Messages of users and assistant in turn, beginning and ending with the user's.
    Messages(Vec<String>),
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

    /// Arrivals per second over the planned span of an open loop; `None` when there is no span to divide by, or when later
    /// turns come when they may.
    pub fn planned_rate_rps(&self) -> Option<f64> {
        if self.sessions.is_some() {
            return None;
        }
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
    #[error("{what}: {reason}")]
    Time { what: &'static str, reason: String },
    #[error("turns of a session: {reason}")]
    Turns { reason: String },
    #[error("arrivals from a trace are those of requests, not of sessions")]
    SessionsFromTrace,
    #[error(
        "turns of a session begin alike by themselves; a tree of prefixes is for requests that stand alone"
    )]
    SessionsInTree,
    #[error("tree of prefixes: {reason}")]
    Tree { reason: String },
    #[error(
        "prefixes.hit_rate {wanted} cannot be reached: these requests find {most:.3} of their prompt tokens at most; \
         take smaller blocks, fewer branches or more depth, or send more requests"
    )]
    HitRate { wanted: f64, most: f64 },
    #[error("the share of abandoned requests must be between 0 and 1, got {value}")]
    Share { value: f64 },
}

/// Materialises the workload. Pure: no clock, no unseeded randomness.
pub fn generate(config: &WorkloadConfig) -> Result<Workload, WorkloadError> {
    check(config)?;
    let choices = Choices::of(config)?;
    let times = |n| config.arrivals.times(config.seed, &config.lengths, n);
    let (requests, sessions) = match &config.sessions {
        None => {
            let times = times(config.requests).into_iter().zip(0..);
            (times.map(|(at, index)| plan(config, &choices, index, at)).collect(), None)
        }
        Some(sessions) => {
            let (mut requests, facts) = sessions::plan(config, sessions, &choices);
            let times = times(facts.sessions);
            for request in &mut requests {
                let session = request.turn.as_ref().map_or(0, |turn| turn.session);
                request.at = times[session as usize];
            }
            (requests, Some(facts))
        }
    };
    let mode = match config.arrivals {
        Arrivals::Closed { users, think_time } => Mode::Closed { users, think_time },
        _ => Mode::Open,
    };
    Ok(Workload { requests, mode, sessions, prefix_hit_rate: choices.beginnings.hit_rate() })
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
pub(crate) struct Choices {
    beginnings: Beginnings,
    adapters: Vec<Arc<str>>,
    adapter_shares: Option<Shares>,
}

enum Beginnings {
    Each { shares: Shares, tokens: u32 },
    Tree { walks: Walks, block_tokens: u32 },
}

impl Beginnings {
    fn of(config: &WorkloadConfig) -> Result<Beginnings, WorkloadError> {
        Ok(match config.prefixes {
            Prefixes::Each { count, tokens, popularity } => {
                Beginnings::Each { shares: Shares::new(count, popularity)?, tokens }
            }
            Prefixes::Tree(tree) => {
                Beginnings::Tree { walks: Walks::solve(config, tree)?, block_tokens: tree.block_tokens }
            }
        })
    }

    fn hit_rate(&self) -> Option<f64> {
        match self {
            Beginnings::Each { .. } => None,
            Beginnings::Tree { walks, .. } => Some(walks.hit_rate),
        }
    }
}

impl Choices {
    fn of(config: &WorkloadConfig) -> Result<Choices, WorkloadError> {
        let adapters = config.adapters.as_ref();
        let number = |a: &Adapters| u32::try_from(a.names.len()).unwrap_or(u32::MAX);
        Ok(Choices {
            beginnings: Beginnings::of(config)?,
            adapters: adapters.into_iter().flat_map(|a| &a.names).map(|name| name.as_str().into()).collect(),
            adapter_shares: adapters.map(|a| Shares::new(number(a), a.popularity)).transpose()?,
        })
    }

    /// What the prompt of a request of so many tokens begins with, or that of the session of this number.
    pub(crate) fn beginning(&self, seed: u64, number: u64, tokens: u32) -> Vec<Piece> {
        match &self.beginnings {
            Beginnings::Each { shares, tokens } => {
                let choice = shares.draw(&mut stream(seed, Purpose::PrefixChoice, number));
                vec![Piece { purpose: Purpose::SharedPrefix, number: u64::from(choice), tokens: *tokens }]
            }
            Beginnings::Tree { walks, block_tokens } => {
                let piece = |number| Piece { purpose: Purpose::TreeBlock, number, tokens: *block_tokens };
                walks.blocks(seed, number, tokens).into_iter().map(piece).collect()
            }
        }
    }

    /// Tokens that every session begins with.
    pub(crate) fn session_beginning(&self) -> u32 {
        match self.beginnings {
            Beginnings::Each { tokens, .. } => tokens,
            Beginnings::Tree { .. } => 0,
        }
    }

    pub(crate) fn adapter(&self, seed: u64, request: u64) -> Option<Adapter> {
        let index = self.adapter_shares.as_ref()?.draw(&mut stream(seed, Purpose::Adapter, request));
        Some(Adapter { index, name: self.adapters[index as usize].clone() })
    }
}

fn plan(config: &WorkloadConfig, choices: &Choices, index: u64, at: Duration) -> PlannedRequest {
    let (prompt_tokens, max_tokens) = lengths(config, index);
    let beginning = choices.beginning(config.seed, index, prompt_tokens);
    let prompt = config.prompts.prompt(config.seed, index, prompt_tokens, &beginning);
    let adapter = choices.adapter(config.seed, index);
    let hang_up = config.hang_up(index, max_tokens);
    PlannedRequest { index, at, prompt, prompt_tokens, max_tokens, adapter, turn: None, hang_up }
}

/// Tokens in and out of request `index`.
pub(crate) fn lengths(config: &WorkloadConfig, index: u64) -> (u32, u32) {
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
    if let Some(sessions) = &config.sessions {
        sessions.check()?;
        if matches!(config.arrivals, Arrivals::Trace { .. }) {
            return Err(WorkloadError::SessionsFromTrace);
        }
        if matches!(config.prefixes, Prefixes::Tree(_)) {
            return Err(WorkloadError::SessionsInTree);
        }
    }
    config.abandonment.as_ref().map_or(Ok(()), Abandonment::check)?;
    config.arrivals.check(&config.lengths)?;
    config.prompts.check()
}
