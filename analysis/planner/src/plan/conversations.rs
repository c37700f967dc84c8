//! Conversations in a plan: how long they are, and what that asks of a simulation. Capacity counts requests, that is turns.

use std::time::Duration;

use llmlab_loadgen::{Workload, generate};
use llmlab_sim::cluster::Routing;
use serde::Serialize;

use super::PlanError;
use super::capacity::Traffic;

/// Of the traffic's sessions, on average.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Conversations {
    pub turns: f64,
    /// From an answer to the next turn.
    pub think_s: f64,
}

impl Conversations {
    /// From so many drawn requests; `None` where they stand alone.
    pub fn of(traffic: &Traffic<'_>, requests: u64) -> Result<Option<Conversations>, PlanError> {
        let config = traffic(1.0, requests);
        if config.sessions.is_none() {
            return Ok(None);
        }
        let drawn = generate(&config).map_err(|error| PlanError::Workload(error.to_string()))?;
        Ok(Conversations::seen(&drawn))
    }

    fn seen(workload: &Workload) -> Option<Conversations> {
        let sessions = workload.sessions.as_ref()?.sessions.max(1) as f64;
        let requests = workload.requests.len() as f64;
        let thought = workload.requests.iter().filter_map(|request| request.turn.as_ref());
        let think_s: f64 = thought.map(|turn| turn.think_time.as_secs_f64()).sum();
        Some(Conversations { turns: requests / sessions, think_s: think_s / (requests - sessions).max(1.0) })
    }

    /// From a session's first request to the end of its last, if a request takes so long.
    pub fn session_s(&self, request_s: f64) -> f64 {
        self.turns * request_s + (self.turns - 1.0) * self.think_s
    }
}

/// How the replicas of a plan are assumed to share its traffic: a turn is sent where the turns before it are cached.
pub fn routing(conversations: Option<&Conversations>) -> Routing {
    match conversations {
        Some(_) => Routing::PrefixAware(Default::default()),
        None => Routing::LeastOutstanding,
    }
}

/// How much of the traffic is simulated, and what of it counts: from `warm` until new sessions cease to come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Extent {
    pub requests: u64,
    pub warm: Duration,
}

impl Extent {
    /// At least `requests` beyond the warm-up of one and a half requests, and four times as long as a request takes; of sessions
    /// four beyond one. `most` in all, of sessions three times as many. Where that cuts a run short, its warm-up shrinks with it.
    pub fn of(
        rate_rps: f64,
        requests: u32,
        most: f64,
        request_s: f64,
        conversations: Option<&Conversations>,
    ) -> Extent {
        let (warm_s, least_s, most) = match conversations {
            None => (1.5 * request_s, 4.0 * request_s, most),
            Some(sessions) => {
                let session_s = sessions.session_s(request_s);
                (session_s, 4.0 * session_s, 3.0 * most)
            }
        };
        let measured = f64::from(requests).max(least_s * rate_rps);
        let all = (measured + warm_s * rate_rps).clamp(1.0, most) as u64;
        let span_s = all as f64 / rate_rps;
        Extent { requests: all, warm: Duration::from_secs_f64(warm_s.min(span_s / 3.0)) }
    }
}

/// When the last session begins; turns after it meet a service that empties. Requests that stand alone all count.
pub fn last_opening(workload: &Workload) -> Duration {
    let last = workload.requests.last().filter(|request| request.turn.is_some());
    last.map_or(Duration::MAX, |request| request.at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_sessions_is_as_long_as_they_are() {
        let alone = Extent::of(2.0, 100, 20_000.0, 10.0, None);
        assert_eq!(alone, Extent { requests: 130, warm: Duration::from_secs(15) });
        // Five turns of ten seconds and four pauses of a minute: 290 s.
        let sessions = Conversations { turns: 5.0, think_s: 60.0 };
        let with = Extent::of(2.0, 100, 20_000.0, 10.0, Some(&sessions));
        assert_eq!((with.requests, with.warm.as_secs_f64().round()), (2900, 290.0));
        let cut = Extent::of(1000.0, 100, 20_000.0, 10.0, Some(&sessions));
        assert_eq!(cut, Extent { requests: 60_000, warm: Duration::from_secs(20) });
    }
}
