//! Conversations: sessions of several turns. A turn is a request whose prompt is all that was said before it and something
//! new, sent when its user has read the answer to the turn before and thought about it.
//!
//! What was said before is not known here but for its length. [`crate::conversations`] puts the prompts together as the
//! answers come.

use std::time::Duration;

use llmlab_results::manifest::SessionFacts;
use rand_chacha::ChaCha8Rng;

use crate::streams::{Purpose, below, stream, unit};
use crate::time_dist::TimeDist;
use crate::workload::{Choices, PlannedRequest, Prompt, WorkloadConfig, WorkloadError, lengths};

#[derive(Debug, Clone, PartialEq)]
pub struct Sessions {
    pub turns: TurnCount,
    /// From an answer to the next turn.
    pub think_time: TimeDist,
    /// Prompt and answer of a turn together. A session ends before a turn that could be longer.
    pub max_context_tokens: u32,
}

/// Turns of a session, at most [`MOST_TURNS`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum TurnCount {
    Fixed {
        turns: u32,
    },
    /// After each turn the session goes on with the same probability.
    Geometric {
        mean: f64,
    },
    /// Both ends included.
    Uniform {
        min: u32,
        max: u32,
    },
}

/// A conversation with more turns has no place in a scenario.
pub const MOST_TURNS: u32 = 10_000;

/// The place of a request in its session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// Counted from 0 in order of arrival.
    pub session: u64,
    /// Counted from 0.
    pub turn: u32,
    /// No turn follows.
    pub last: bool,
    /// Of the prompt, those that are said in this turn.
    pub new_tokens: u32,
    /// From the answer to the turn before; zero for the first.
    pub think_time: Duration,
    /// As long as the answer that was asked for. Later turns have it in their prompts where they cannot have the answer.
    pub stand_in: Prompt,
}

impl TurnCount {
    fn draw(self, rng: &mut ChaCha8Rng) -> u32 {
        match self {
            TurnCount::Fixed { turns } => turns,
            TurnCount::Uniform { min, max } => min + below(rng, max - min + 1),
            TurnCount::Geometric { mean } if mean <= 1.0 => 1,
            TurnCount::Geometric { mean } => {
                let more = libm::log(1.0 - unit(rng)) / libm::log(1.0 - 1.0 / mean);
                // The cast saturates.
                1 + (more as u32).min(MOST_TURNS - 1)
            }
        }
    }

    fn check(self) -> Result<(), WorkloadError> {
        let wrong = |reason| Err(WorkloadError::Turns { reason });
        match self {
            TurnCount::Fixed { turns } if !(1..=MOST_TURNS).contains(&turns) => {
                wrong(format!("accepted are 1 to {MOST_TURNS}, got {turns}"))
            }
            TurnCount::Uniform { min, max } if min == 0 || min > max || max > MOST_TURNS => {
                wrong(format!("accepted are 1 <= min <= max <= {MOST_TURNS}, got {min} to {max}"))
            }
            TurnCount::Geometric { mean } if !(1.0..=f64::from(MOST_TURNS)).contains(&mean) => {
                wrong(format!("the mean must be from 1 to {MOST_TURNS}, got {mean}"))
            }
            _ => Ok(()),
        }
    }
}

impl Sessions {
    pub(crate) fn check(&self) -> Result<(), WorkloadError> {
        self.turns.check()?;
        self.think_time.check("think time")
    }
}

/// Sessions one after the other until they have as many turns as requests are wanted; the last is cut to fit. All begin at
/// zero.
pub(crate) fn plan(
    config: &WorkloadConfig,
    sessions: &Sessions,
    choices: &Choices,
) -> (Vec<PlannedRequest>, SessionFacts) {
    let mut requests: Vec<PlannedRequest> = Vec::new();
    let mut facts = SessionFacts::default();
    while (requests.len() as u64) < config.requests {
        let session = facts.sessions;
        facts.sessions += 1;
        let turns = sessions.turns.draw(&mut stream(config.seed, Purpose::Turns, session));
        let left = config.requests - requests.len() as u64;
        let turns = turns.min(u32::try_from(left).unwrap_or(u32::MAX));
        let mut context_tokens = 0;
        for turn in 0..turns {
            let next =
                planned_turn(config, sessions, choices, requests.len() as u64, session, turn, context_tokens);
            let longest = next.prompt_tokens.saturating_add(next.max_tokens);
            if turn > 0 && longest > sessions.max_context_tokens {
                facts.ended_early += 1;
                break;
            }
            context_tokens = longest;
            requests.push(next);
        }
        if let Some(Turn { last, stand_in, .. }) = requests.last_mut().and_then(|last| last.turn.as_mut()) {
            *last = true;
            // Nobody will want it.
            *stand_in = config.prompts.nothing();
        }
    }
    (requests, facts)
}

/// `prompt` is what is new in it, `prompt_tokens` the length with all that goes before.
fn planned_turn(
    config: &WorkloadConfig,
    sessions: &Sessions,
    choices: &Choices,
    index: u64,
    session: u64,
    turn: u32,
    context_tokens: u32,
) -> PlannedRequest {
    let (new_tokens, max_tokens) = lengths(config, index);
    let shared = match turn {
        0 => {
            let room = sessions.max_context_tokens.saturating_sub(new_tokens.saturating_add(max_tokens));
            choices.session_beginning().min(room)
        }
        _ => 0,
    };
    let own_tokens = shared + new_tokens;
    let mut beginning = match turn {
        0 => choices.beginning(config.seed, session, shared),
        _ => Vec::new(),
    };
    beginning.iter_mut().for_each(|piece| piece.tokens = shared);
    let think_time = match turn {
        0 => Duration::ZERO,
        _ => sessions.think_time.draw(&mut stream(config.seed, Purpose::ThinkTime, index)),
    };
    PlannedRequest {
        index,
        at: Duration::ZERO,
        prompt: config.prompts.prompt(config.seed, index, own_tokens, &beginning),
        prompt_tokens: context_tokens.saturating_add(own_tokens),
        max_tokens,
        adapter: choices.adapter(config.seed, session),
        hang_up: config.hang_up(index, max_tokens),
        turn: Some(Turn {
            session,
            turn,
            last: false,
            new_tokens: own_tokens,
            think_time,
            stand_in: config.prompts.stand_in(config.seed, index, max_tokens),
        }),
    }
}
