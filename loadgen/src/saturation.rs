//! How much load a server can take, found in a few seconds: the reference for `load = 0.7`.
//!
//! The rule: closed-loop steps with the number of users doubling, until a step brings less than 5 % more throughput
//! than the best one before it, or the users or the time run out. Saturation is the best step's throughput. A closed
//! loop is used because it cannot overrun the server: the queue never holds more than the users.

use std::time::Duration;

use llmlab_results::record::RequestRecord;

use crate::arrivals::Arrivals;
use crate::prefix_tree::PrefixTree;
use crate::workload::{Prefixes, WorkloadConfig, requests_within};

/// Prompt tokens of one step (64 MiB of token ids). Only long prompts reach it, and those take long to answer, so a
/// step needs fewer of them.
const STEP_PROMPT_TOKENS: u64 = 16 << 20;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ramp {
    pub start_users: u32,
    pub max_users: u32,
    /// A step must beat the best one before it by this share to go on.
    pub min_gain: f64,
    /// How long one step issues requests.
    pub step_time: Duration,
    /// No step begins after this much step time in total.
    pub total_time: Duration,
}

impl Default for Ramp {
    fn default() -> Self {
        Ramp {
            start_users: 4,
            max_users: 256,
            min_gain: 0.05,
            step_time: Duration::from_millis(1500),
            total_time: Duration::from_secs(10),
        }
    }
}

/// What a step with a fixed number of users reached.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Throughput {
    /// Requests completed per second, partly finished ones counted by their share of tokens.
    pub rps: f64,
    pub output_tokens_per_s: f64,
    pub failed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RampStep {
    pub users: u32,
    pub throughput: Throughput,
    pub elapsed: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RampEnd {
    /// The last step brought too little: this is saturation.
    NoGain,
    /// Still gaining when the limit was reached: saturation is at least this.
    MaxUsers,
    TimeUp,
    /// A step completed nothing.
    NothingCompleted,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Saturation {
    /// Of the best step; zero when nothing completed.
    pub rps: f64,
    pub output_tokens_per_s: f64,
    pub users: u32,
    pub end: RampEnd,
    /// In the order they ran.
    pub steps: Vec<RampStep>,
}

impl Saturation {
    /// How it was found, for a report.
    pub fn describe(&self) -> String {
        let steps: Vec<String> =
            self.steps.iter().map(|s| format!("{} users {:.2} req/s", s.users, s.throughput.rps)).collect();
        let end = match self.end {
            RampEnd::NoGain => "the last step brought no more",
            RampEnd::MaxUsers => "still rising at the most users allowed, so this is a lower bound",
            RampEnd::TimeUp => "still rising when the time was up, so this is a lower bound",
            RampEnd::NothingCompleted => "a step completed nothing",
        };
        format!("closed-loop ramp: {}; {end}", steps.join(", "))
    }
}

/// Runs the ramp. `step(users)` drives a closed loop with that many users for about [`Ramp::step_time`] and says what
/// it reached and how long it took; an error ends the ramp.
pub fn find_saturation<E>(
    ramp: &Ramp,
    mut step: impl FnMut(u32) -> Result<(Throughput, Duration), E>,
) -> Result<Saturation, E> {
    let mut steps: Vec<RampStep> = Vec::new();
    let mut best: Option<RampStep> = None;
    let mut users = ramp.start_users.clamp(1, ramp.max_users.max(1));
    let mut spent = Duration::ZERO;
    let end = loop {
        let (throughput, elapsed) = step(users)?;
        let this = RampStep { users, throughput, elapsed };
        steps.push(this);
        spent += elapsed;
        if !(throughput.rps.is_finite() && throughput.rps > 0.0) {
            break RampEnd::NothingCompleted;
        }
        let gained = best.is_none_or(|b| throughput.rps >= b.throughput.rps * (1.0 + ramp.min_gain));
        if best.is_none_or(|b| throughput.rps > b.throughput.rps) {
            best = Some(this);
        }
        if !gained {
            break RampEnd::NoGain;
        }
        if users >= ramp.max_users {
            break RampEnd::MaxUsers;
        }
        if spent >= ramp.total_time {
            break RampEnd::TimeUp;
        }
        users = users.saturating_mul(2).min(ramp.max_users);
    };
    let zero = Throughput { rps: 0.0, output_tokens_per_s: 0.0, failed: 0 };
    let (users, reached) = best.map_or((0, zero), |b| (b.users, b.throughput));
    Ok(Saturation { rps: reached.rps, output_tokens_per_s: reached.output_tokens_per_s, users, end, steps })
}

/// The measured workload turned into one step of the ramp: the same kind of requests, `users` in a closed loop. Other
/// prompts than the measured ones, else a prefix cache would be warm for them. Pass [`Ramp::step_time`] as
/// `DriveOptions::time_limit` with no drain: there are more requests than a step can finish unless they take less than
/// about 20 ms each, and what [`Throughput::from_records`] sees of such a step is still a full load.
pub fn step_workload(config: &WorkloadConfig, users: u32) -> WorkloadConfig {
    let per_user = |requests: u64| u64::from(users) * requests;
    let mut step = WorkloadConfig {
        seed: config.seed ^ (0x70726f62_65000000 + u64::from(users)),
        requests: 0,
        arrivals: Arrivals::Closed { users, think_time: Duration::ZERO },
        prefixes: nearest(config.prefixes),
        // What is sought is a rate of requests answered in full.
        abandonment: None,
        ..config.clone()
    };
    // All prompts exist before the first is sent, so their number has a price in time and memory.
    step.requests =
        requests_within(&step, per_user(64).max(2048), STEP_PROMPT_TOKENS).max(per_user(8)).max(64);
    step
}

fn nearest(prefixes: Prefixes) -> Prefixes {
    match prefixes {
        Prefixes::Tree(tree) => Prefixes::Tree(PrefixTree { or_nearest: true, ..tree }),
        each => each,
    }
}

impl Throughput {
    /// Throughput of one step, from its records and the time it ran.
    ///
    /// A request counts by the share of its tokens that arrived: with whole requests only, a step of two seconds would
    /// see little but when the first batch happened to end. A failed request counts nothing; a cancelled one was cut
    /// off by the end of the step and counts its share.
    ///
    /// Only the time under full load counts: it ends when a request finishes and no other takes its place, because all
    /// were issued. What follows is a server running empty, not one at its limit. (Without think time, so that every
    /// other finish is followed by an issue at once.)
    ///
    /// Errs low when requests last longer than the step: all prefills lie inside it, the last tokens do not. A slow
    /// server needs a longer step, not a correction by guess.
    pub fn from_records(records: &[RequestRecord], elapsed: Duration) -> Throughput {
        use llmlab_results::record::Outcome;
        let counted = |r: &&RequestRecord| r.outcome.is_success() || r.outcome == Outcome::Cancelled;
        let load_end_ns = full_load_end_ns(records).unwrap_or(u64::MAX);
        let tokens_until = |r: &RequestRecord, end_ns: u64| {
            r.events.iter().filter(|e| e.at_ns <= end_ns).map(|e| f64::from(e.tokens)).sum::<f64>()
        };
        let tokens = |r: &RequestRecord| tokens_until(r, load_end_ns);
        let share = |r: &RequestRecord| {
            if !r.outcome.is_success() {
                tokens(r) / f64::from(r.output_tokens_requested.max(1))
            } else if r.done_ns.is_none_or(|done_ns| done_ns <= load_end_ns) {
                1.0
            } else {
                tokens(r) / tokens_until(r, u64::MAX).max(1.0)
            }
        };
        let seconds = elapsed.min(Duration::from_nanos(load_end_ns)).as_secs_f64().max(1e-9);
        Throughput {
            rps: records.iter().filter(counted).map(share).sum::<f64>() / seconds,
            output_tokens_per_s: records.iter().filter(counted).map(tokens).sum::<f64>() / seconds,
            failed: records.iter().filter(|r| !counted(r)).count() as u64,
        }
    }
}

/// When the first request finished after the last one was issued. `None`: the step was cut off before that. Failures
/// do not count, their records do not say when they ended.
fn full_load_end_ns(records: &[RequestRecord]) -> Option<u64> {
    let last_issue_ns = records.iter().map(|r| r.scheduled_ns).max()?;
    let finishes = records.iter().filter(|r| r.outcome.is_success()).filter_map(|r| r.done_ns);
    finishes.filter(|done_ns| *done_ns > last_issue_ns).min()
}
