//! Clients that hang up before their answer is complete, as people do who have read enough or waited too long.

use std::time::Duration;

use crate::lengths::LengthDist;
use crate::streams::{Purpose, stream, unit};
use crate::time_dist::TimeDist;
use crate::workload::WorkloadError;

/// Which requests are abandoned, and when.
#[derive(Debug, Clone, PartialEq)]
pub struct Abandonment {
    /// Of all requests, 0..=1.
    pub share: f64,
    pub patience: Patience,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Patience {
    /// Output tokens that a client takes.
    Tokens(LengthDist),
    /// From the time at which the request was due.
    Time(TimeDist),
}

/// When the client of a request hangs up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HangUp {
    /// Once it has so many output tokens, which are fewer than the request asks for.
    AfterTokens(u32),
    /// At this time after the request was due, unless the answer is complete by then.
    After(Duration),
}

impl HangUp {
    /// What the record of an abandoned request says.
    pub fn words(self) -> String {
        match self {
            HangUp::AfterTokens(tokens) => format!("the client hung up after {tokens} tokens, as planned"),
            HangUp::After(time) => format!("the client hung up after {time:?}, as planned"),
        }
    }
}

impl Abandonment {
    /// An answer of one token cannot be cut short by tokens; such a request is never abandoned.
    pub(crate) fn draw(&self, seed: u64, index: u64, max_tokens: u32) -> Option<HangUp> {
        let mut rng = stream(seed, Purpose::Abandon, index);
        if unit(&mut rng) >= self.share {
            return None;
        }
        match &self.patience {
            Patience::Time(time) => Some(HangUp::After(time.draw(&mut rng))),
            Patience::Tokens(tokens) => {
                let most = max_tokens.checked_sub(1).filter(|most| *most > 0)?;
                let tokens = tokens.draw(&mut rng).round() as u32;
                Some(HangUp::AfterTokens(tokens.clamp(1, most)))
            }
        }
    }

    pub(crate) fn check(&self) -> Result<(), WorkloadError> {
        if !(0.0..=1.0).contains(&self.share) {
            return Err(WorkloadError::Share { value: self.share });
        }
        match &self.patience {
            Patience::Tokens(tokens) => tokens.check("abandonment"),
            Patience::Time(time) => time.check("abandonment"),
        }
    }
}
