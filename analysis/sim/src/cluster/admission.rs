//! Who is let in: a rate limit, and how many may wait at the router and for how long.

use std::time::Duration;

use llmlab_core::request::At;

use super::config::ClusterError;

/// The default lets everybody in.
#[derive(Debug, Clone, PartialEq)]
pub struct Admission {
    /// Who finds the bucket empty gets 429.
    pub rate_limit: Option<RateLimit>,
    /// Requests in flight that a replica gets at most; others wait at the router, first come first served. None: the router
    /// keeps nobody as long as a replica is ready.
    pub most_in_flight_per_replica: Option<u32>,
    /// Requests that may wait at the router; one more gets 429.
    pub max_queue: usize,
    /// Who has waited at the router for so long gets 503.
    pub longest_wait: Option<Duration>,
}

impl Default for Admission {
    fn default() -> Self {
        Admission {
            rate_limit: None,
            most_in_flight_per_replica: None,
            max_queue: usize::MAX,
            longest_wait: None,
        }
    }
}

impl Admission {
    pub(super) fn check(&self) -> Result<(), ClusterError> {
        let wrong = |key, accepted| Err(ClusterError::value("admission", key, accepted));
        if self.most_in_flight_per_replica == Some(0) {
            return wrong("most_in_flight_per_replica", "1 and more");
        }
        match self.rate_limit {
            Some(RateLimit { per_s, burst, .. })
                if !(per_s.is_finite() && per_s > 0.0 && burst.is_finite() && burst > 0.0) =>
            {
                wrong("rate_limit", "a rate and a burst above 0")
            }
            _ => Ok(()),
        }
    }
}

/// A token bucket: it fills at `per_s` up to `burst`, and a request takes what it weighs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateLimit {
    pub of: Limited,
    pub per_s: f64,
    pub burst: f64,
}

/// What a rate limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limited {
    Requests,
    /// Of the prompt and, as asked for, of the answer.
    Tokens,
}

#[derive(Debug)]
pub(super) struct Bucket {
    limit: RateLimit,
    level: f64,
    at: At,
}

impl Bucket {
    pub fn new(limit: RateLimit) -> Bucket {
        Bucket { limit, level: limit.burst, at: At::ZERO }
    }

    /// Whether a request with so many tokens is let in at `now`, which never goes back.
    pub fn takes(&mut self, now: At, tokens: u64) -> bool {
        let filled = now.saturating_sub(self.at).as_secs_f64() * self.limit.per_s;
        self.level = (self.level + filled).min(self.limit.burst);
        self.at = now;
        let weight = match self.limit.of {
            Limited::Requests => 1.0,
            Limited::Tokens => tokens as f64,
        };
        let enough = self.level >= weight;
        self.level -= if enough { weight } else { 0.0 };
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let mut bucket = Bucket::new(RateLimit { of: Limited::Requests, per_s: 2.0, burst: 3.0 });
        let at = |ms| Duration::from_millis(ms);
        let taken: Vec<bool> =
            [0, 0, 0, 0, 400, 500, 600, 10_000].into_iter().map(|ms| bucket.takes(at(ms), 9)).collect();
        // Half a second brings one; a long pause never more than the burst.
        assert_eq!(taken, [true, true, true, false, false, true, false, true]);
        assert!((bucket.level - 2.0).abs() < 1e-9);
        let mut bucket = Bucket::new(RateLimit { of: Limited::Tokens, per_s: 10.0, burst: 100.0 });
        assert!(bucket.takes(at(0), 90) && !bucket.takes(at(0), 20) && bucket.takes(at(1000), 20));
    }
}
