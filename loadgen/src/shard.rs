//! One schedule dealt out to several machines. Which requests are whose is a function of index and total alone, so that
//! machines need not talk to each other, and the shares together are the schedule of one machine.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;
use xxhash_rust::xxh3::Xxh3Default;

use crate::workload::{Mode, PlannedRequest, Prompt, Workload};

/// More machines than this are a typing error.
pub const MOST_SHARDS: u32 = 10_000;

/// Share `index` of `total`, counted from 0 as Kubernetes' JOB_COMPLETION_INDEX and Slurm's array index are. Written `0/4`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    index: u32,
    total: u32,
}

impl Shard {
    pub fn new(index: u32, total: u32) -> Result<Shard, ShardError> {
        match index < total && total <= MOST_SHARDS {
            true => Ok(Shard { index, total }),
            false => Err(ShardError::Form { typed: format!("{index}/{total}") }),
        }
    }

    pub fn index(self) -> u32 {
        self.index
    }

    pub fn total(self) -> u32 {
        self.total
    }

    /// This shard's requests, each with the index, time and prompt that it has in the whole.
    ///
    /// Open loop: request `i` belongs to shard `i mod total`. Closed loop: user `u` belongs to shard `u mod total` and request
    /// `i` to user `i mod users`, so that a shard with more users has as many more requests and all end together.
    pub fn of(self, whole: &Workload) -> Result<Workload, ShardError> {
        if whole.sessions.is_some() {
            return Err(ShardError::Conversations);
        }
        let total = u64::from(self.total);
        let have = whole.requests.len() as u64;
        // To every shard alike, also to one that would have a request.
        if have < total {
            return Err(ShardError::TooFew { what: "requests", have, total: self.total });
        }
        let (mode, turn) = match whole.mode {
            Mode::Open => (Mode::Open, u64::MAX),
            Mode::Closed { users, .. } if users < self.total => {
                return Err(ShardError::TooFew { what: "users", have: u64::from(users), total: self.total });
            }
            Mode::Closed { users, think_time } => {
                let more = u32::from(self.index < users % self.total);
                (Mode::Closed { users: users / self.total + more, think_time }, u64::from(users))
            }
        };
        let mine = |request: &&PlannedRequest| request.index % turn % total == u64::from(self.index);
        let requests = whole.requests.iter().filter(mine).cloned().collect();
        Ok(Workload { requests, mode, sessions: None, prefix_hit_rate: whole.prefix_hit_rate })
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.total)
    }
}

impl FromStr for Shard {
    type Err = ShardError;

    fn from_str(typed: &str) -> Result<Shard, ShardError> {
        let wrong = || ShardError::Form { typed: typed.to_owned() };
        let (index, total) = typed.split_once('/').ok_or_else(wrong)?;
        let number = |text: &str| text.parse::<u32>().map_err(|_| wrong());
        Shard::new(number(index)?, number(total)?).map_err(|_| wrong())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ShardError {
    #[error(
        "{typed:?} is no shard: accepted is INDEX/TOTAL with INDEX from 0 to TOTAL - 1, such as 0/4, TOTAL up to {MOST_SHARDS}"
    )]
    Form { typed: String },
    #[error("{have} {what} cannot be dealt out to {total} shards: each needs one at least")]
    TooFew { what: &'static str, have: u64, total: u32 },
    #[error("conversations are not dealt out to shards: a turn waits for the answer to the one before it")]
    Conversations,
}

/// A fingerprint of everything a schedule says: mode, times, lengths, adapters and prompts. Equal for equal schedules.
pub fn schedule_digest(workload: &Workload) -> String {
    let mut hash = Xxh3Default::new();
    let text = |hash: &mut Xxh3Default, text: &str| {
        hash.update(&(text.len() as u64).to_le_bytes());
        hash.update(text.as_bytes());
    };
    match workload.mode {
        Mode::Open => hash.update(b"open"),
        Mode::Closed { users, think_time } => {
            hash.update(b"closed");
            hash.update(&users.to_le_bytes());
            hash.update(&think_time.as_nanos().to_le_bytes());
        }
    }
    for request in &workload.requests {
        hash.update(&request.index.to_le_bytes());
        hash.update(&request.at.as_nanos().to_le_bytes());
        hash.update(&request.prompt_tokens.to_le_bytes());
        hash.update(&request.max_tokens.to_le_bytes());
        text(&mut hash, request.adapter.as_ref().map_or("", |adapter| &adapter.name));
        if let Some(hang_up) = request.hang_up {
            text(&mut hash, &hang_up.words());
        }
        match &request.prompt {
            Prompt::Text(words) => text(&mut hash, words),
            Prompt::Messages(messages) => messages.iter().for_each(|words| text(&mut hash, words)),
            Prompt::Tokens(ids) => {
                hash.update(&(ids.len() as u64).to_le_bytes());
                ids.iter().for_each(|id| hash.update(&id.to_le_bytes()));
            }
        }
    }
    format!("{:032x}", hash.digest128())
}
