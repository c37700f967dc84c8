//! Did we measure the server, or ourselves? A verdict per trial with its cause.

use std::fmt;

use llmlab_results::manifest::TrialFacts;
use llmlab_results::record::{Outcome, RequestRecord};
use serde::Serialize;

use crate::latency::Latency;

/// Lateness of the client matters only where it is both long in itself and long against what was measured.
pub const LATE_NS: f64 = 10e6;
/// Of the median TTFT, the shortest latency that lateness is part of.
pub const LATE_SHARE: f64 = 0.05;
/// Of one core: the client issues from one event loop, which saturates there.
pub const CLIENT_CPU_SHARE: f64 = 0.90;
/// Of all cores' time.
pub const STEAL_SHARE: f64 = 0.05;

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "cause")]
pub enum UntrustedCause {
    SendLag {
        p99_ns: f64,
        limit_ns: f64,
    },
    EventLoopDelay {
        p99_ns: f64,
        limit_ns: f64,
    },
    ClientCpu {
        share_of_core: f64,
    },
    Steal {
        share: f64,
    },
    /// Found by the run's calibration, as are the next two.
    ClientTtftError {
        p99_ns: f64,
        limit_ns: f64,
        streams: u64,
    },
    /// Against our own timing server it left out more than one request in a hundred.
    ClientBehind {
        left_out: u64,
        requests: u64,
        streams: u64,
    },
    ClientItlError {
        p99_ns: f64,
        limit_ns: f64,
        streams: u64,
    },
    ClientFailures {
        requests: u64,
    },
    NothingSucceeded {
        requests: u64,
    },
    Incomplete,
    /// Of a run joined from shards: this one alone could not be trusted.
    Shard {
        shard: u32,
        host: String,
        words: String,
    },
    /// Two shards did not begin together, by no less than this.
    ShardClocks {
        shards: (u32, u32),
        apart_ms: i64,
    },
}

impl fmt::Display for UntrustedCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |ns: &f64| ns / 1e6;
        let own_error = |f: &mut fmt::Formatter<'_>,
                         what: &str,
                         p99_ns: &f64,
                         limit_ns: &f64,
                         streams: &u64| {
            write!(
                f,
                "with {streams} streams the client itself gets {what} wrong (p99 {:.1} ms, limit {:.1} ms, against our timing server): give it a free core or lower the load",
                ms(p99_ns),
                ms(limit_ns)
            )
        };
        match self {
            UntrustedCause::SendLag { p99_ns, limit_ns } => write!(
                f,
                "requests left the client late (p99 {:.1} ms, limit {:.1} ms): give the client a free core or lower the rate",
                ms(p99_ns),
                ms(limit_ns)
            ),
            UntrustedCause::EventLoopDelay { p99_ns, limit_ns } => write!(
                f,
                "the client's event loop stalled (p99 {:.1} ms, limit {:.1} ms): give the client a free core",
                ms(p99_ns),
                ms(limit_ns)
            ),
            UntrustedCause::ClientCpu { share_of_core } => write!(
                f,
                "the client used {:.0} % of a core: it may have been the bottleneck, lower the rate or the number of streams",
                share_of_core * 100.0
            ),
            UntrustedCause::Steal { share } => write!(
                f,
                "other tenants took {:.1} % of the machine's CPU time: repeat on a quiet machine",
                share * 100.0
            ),
            UntrustedCause::ClientTtftError { p99_ns, limit_ns, streams } => {
                own_error(f, "TTFT", p99_ns, limit_ns, streams)
            }
            UntrustedCause::ClientBehind { left_out, requests, streams } => write!(
                f,
                "the client did not get through {left_out} of {requests} requests of our own timing server at {streams} streams: give it a free core or lower the load"
            ),
            UntrustedCause::ClientItlError { p99_ns, limit_ns, streams } => {
                own_error(f, "ITL", p99_ns, limit_ns, streams)
            }
            UntrustedCause::ClientFailures { requests } => write!(
                f,
                "{requests} requests failed inside the client (file descriptors or ports): raise `ulimit -n` or lower the load"
            ),
            UntrustedCause::NothingSucceeded { requests } => {
                write!(f, "none of {requests} measured requests succeeded: see the errors")
            }
            UntrustedCause::Incomplete => write!(f, "the trial did not finish: run it again"),
            UntrustedCause::Shard { shard, host, words } => write!(f, "shard {shard} on {host}: {words}"),
            UntrustedCause::ShardClocks { shards: (a, b), apart_ms } => write!(
                f,
                "the clocks of shards {a} and {b} were {:.1} s or more apart, so they did not begin together: set them by NTP",
                *apart_ms as f64 / 1e3
            ),
        }
    }
}

/// The evidence, whether or not it crossed a limit.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrialTrust {
    pub trusted: bool,
    pub causes: Vec<UntrustedCause>,
    pub send_lag_p99_ns: Option<f64>,
    pub loop_delay_p99_ns: u64,
    /// Lateness above this fails the trial.
    pub late_limit_ns: f64,
    pub client_cpu_share_of_core: f64,
    pub steal_share: f64,
}

impl TrialTrust {
    /// The verdict with further causes against the trial.
    #[must_use]
    pub fn with(mut self, more: Vec<UntrustedCause>) -> TrialTrust {
        self.causes.extend(more);
        self.trusted = self.causes.is_empty();
        self
    }
}

/// `cores` of the host, for the steal share; 0 (unknown) counts as 1.
pub fn trust(
    facts: &TrialFacts,
    latency: &Latency,
    records: &[RequestRecord],
    succeeded: u64,
    measured: u64,
    cores: u32,
) -> TrialTrust {
    let over_elapsed = |ns: u64| if facts.elapsed_ns > 0 { ns as f64 / facts.elapsed_ns as f64 } else { 0.0 };
    let send_lag_p99_ns = latency.send_lag.as_ref().and_then(|d| d.raw.p99_ns);
    // What comes whole has no first token; late is late against what a user waits for.
    let wait = latency.ttft.as_ref().or(latency.e2e_last.as_ref());
    let wait_p50 = wait.and_then(|d| d.raw.p50_ns).unwrap_or(0.0);
    let late_limit_ns = LATE_NS.max(LATE_SHARE * wait_p50);
    let loop_p99 = facts.client.loop_delay_p99_ns as f64;
    let cpu = over_elapsed(facts.client.cpu_ns);
    let steal = over_elapsed(facts.client.steal_ns) / f64::from(cores.max(1));
    let client_failures = records.iter().filter(|r| r.outcome == Outcome::Client).count() as u64;

    let mut causes = Vec::new();
    if let Some(p99_ns) = send_lag_p99_ns.filter(|p99| *p99 > late_limit_ns) {
        causes.push(UntrustedCause::SendLag { p99_ns, limit_ns: late_limit_ns });
    }
    if loop_p99 > late_limit_ns {
        causes.push(UntrustedCause::EventLoopDelay { p99_ns: loop_p99, limit_ns: late_limit_ns });
    }
    if cpu > CLIENT_CPU_SHARE {
        causes.push(UntrustedCause::ClientCpu { share_of_core: cpu });
    }
    if steal > STEAL_SHARE {
        causes.push(UntrustedCause::Steal { share: steal });
    }
    if client_failures > 0 {
        causes.push(UntrustedCause::ClientFailures { requests: client_failures });
    }
    if succeeded == 0 {
        causes.push(UntrustedCause::NothingSucceeded { requests: measured });
    }
    if !facts.complete {
        causes.push(UntrustedCause::Incomplete);
    }
    TrialTrust {
        trusted: causes.is_empty(),
        causes,
        send_lag_p99_ns,
        loop_delay_p99_ns: facts.client.loop_delay_p99_ns,
        late_limit_ns,
        client_cpu_share_of_core: cpu,
        steal_share: steal,
    }
}
