//! What a replayed day came to: limits missed, hours, money, starts, and how often the policy changed its mind.

use llmlab_results::record::Outcome;
use llmlab_sim::cluster::{ClusterOutcome, RequestResult};
use serde::Serialize;

use crate::plan::limits::{Latency, Limit};

const HOUR_S: f64 = 3600.0;
const MINUTE_S: f64 = 60.0;

/// Of one policy, over the day, in the size of the replay.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Score {
    pub requests: usize,
    /// Not answered: given up by their client, refused, or lost.
    pub failed: usize,
    /// Share of the requests that failed or missed a limit.
    pub violations: f64,
    /// Share of the minutes with requests in which more of them missed a limit than its percentile leaves.
    pub violating_minutes: f64,
    /// Over answered requests; failed ones are later than all.
    pub ttft_p95_s: Option<f64>,
    pub gpu_hours: f64,
    pub usd: f64,
    /// Replicas that were started and served.
    pub cold_starts: usize,
    /// Replicas that were let go before they served.
    pub cancelled_starts: usize,
    /// Changes of the wanted number.
    pub scalings: usize,
    /// Changes in the other direction than the one before.
    pub reversals: usize,
    pub reversals_per_hour: f64,
    /// Most requests without a token at one time.
    pub most_waiting: usize,
    /// Share of its time in service with a step running, over replicas.
    pub utilisation: f64,
    /// Requests that were begun while nobody was ready and had to wait for a start.
    pub waited_for_a_start: usize,
    /// (hour, replicas) from each change on.
    pub wanted: Vec<(f64, u32)>,
    pub ready: Vec<(f64, u32)>,
}

impl Score {
    pub fn of(outcome: &ClusterOutcome, limits: &[Limit], first_replicas: u32) -> Score {
        let failed = outcome.count(|request| !answered(request));
        let late =
            |request: &RequestResult| !answered(request) || limits.iter().any(|limit| misses(request, limit));
        let requests = outcome.requests.len();
        let hours = outcome.elapsed.as_secs_f64().max(1.0) / HOUR_S;
        let ready = ready(outcome);
        let nobody = |request: &RequestResult| at(&ready, request.arrival.as_secs_f64() / HOUR_S) == 0;
        let started = outcome.replicas.iter().skip(first_replicas as usize);
        let (served, cancelled): (Vec<_>, Vec<_>) = started
            .filter(|replica| replica.ready_at.is_some() || replica.gone_at.is_some())
            .partition(|replica| replica.ready_at.is_some());
        let reversals = reversals(outcome);
        let busy: f64 = outcome.replicas.iter().map(|replica| replica.busy.as_secs_f64()).sum();
        let in_service: f64 = outcome
            .replicas
            .iter()
            .filter_map(|replica| {
                let gone = replica.gone_at.unwrap_or(outcome.elapsed).min(outcome.elapsed);
                Some(gone.saturating_sub(replica.ready_at?).as_secs_f64())
            })
            .sum();
        Score {
            requests,
            failed,
            violations: outcome.count(late) as f64 / requests.max(1) as f64,
            violating_minutes: violating_minutes(outcome, limits),
            ttft_p95_s: percentile(outcome.requests.iter().map(|request| {
                request.ttft().filter(|_| answered(request)).map_or(f64::INFINITY, |t| t.as_secs_f64())
            })),
            gpu_hours: outcome.cost.gpu_hours,
            usd: outcome.cost.usd(),
            cold_starts: served.len(),
            cancelled_starts: cancelled.len(),
            scalings: outcome.scalings.len(),
            reversals,
            reversals_per_hour: reversals as f64 / hours,
            most_waiting: most_waiting(outcome),
            utilisation: busy / in_service.max(1e-9),
            waited_for_a_start: outcome.count(nobody),
            wanted: wanted(outcome, first_replicas),
            ready,
        }
    }

    /// The same of a service so many times as large, where replicas and traffic are both multiplied.
    pub fn times(mut self, factor: f64) -> Score {
        self.gpu_hours *= factor;
        self.usd *= factor;
        self
    }
}

/// A client that hung up as it wanted to has its answer.
fn answered(request: &RequestResult) -> bool {
    request.first_token.is_some() && matches!(request.outcome, Outcome::Ok | Outcome::Abandoned)
}

fn misses(request: &RequestResult, limit: &Limit) -> bool {
    let time = match limit.on {
        Latency::Ttft => request.ttft(),
        // Of one request the mean gap is what is known of its gaps.
        Latency::Tpot | Latency::Itl => request.tpot(),
        Latency::E2e => Some(request.e2e()),
    };
    time.is_some_and(|time| time.as_secs_f64() > limit.seconds)
}

/// By the minute of arrival.
fn violating_minutes(outcome: &ClusterOutcome, limits: &[Limit]) -> f64 {
    let minute = |request: &RequestResult| (request.arrival.as_secs_f64() / MINUTE_S) as usize;
    let minutes = outcome.requests.iter().map(minute).max().map_or(0, |last| last + 1);
    let mut counts = vec![(0usize, vec![0usize; limits.len()], 0usize); minutes];
    for request in &outcome.requests {
        let (all, missed, failed) = &mut counts[minute(request)];
        *all += 1;
        *failed += usize::from(!answered(request));
        for (missed, limit) in missed.iter_mut().zip(limits) {
            *missed += usize::from(!answered(request) || misses(request, limit));
        }
    }
    let violated = |(all, missed, failed): &&(usize, Vec<usize>, usize)| {
        let over =
            |missed: usize, percentile: f64| missed as f64 > (1.0 - percentile / 100.0) * *all as f64 + 1e-9;
        let any = missed.iter().zip(limits).any(|(missed, limit)| over(*missed, limit.percentile));
        any || (limits.is_empty() && *failed > 0)
    };
    let with_requests = counts.iter().filter(|(all, _, _)| *all > 0);
    let violating = with_requests.clone().filter(violated).count();
    violating as f64 / with_requests.count().max(1) as f64
}

fn percentile(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    let rank = (values.len() * 95).div_ceil(100);
    rank.checked_sub(1).map(|place| values[place]).filter(|value| value.is_finite())
}

fn most_waiting(outcome: &ClusterOutcome) -> usize {
    // Equal times: those that leave come first.
    let mut changes: Vec<(std::time::Duration, i64)> = Vec::with_capacity(2 * outcome.requests.len());
    for request in &outcome.requests {
        changes.push((request.arrival, 1));
        changes.push((request.first_token.unwrap_or(request.end), -1));
    }
    changes.sort_unstable();
    let (mut now, mut most) = (0i64, 0);
    for (_, change) in changes {
        now += change;
        most = most.max(now);
    }
    most as usize
}

fn reversals(outcome: &ClusterOutcome) -> usize {
    let up: Vec<bool> = outcome.scalings.iter().map(|scaling| scaling.to > scaling.from).collect();
    up.windows(2).filter(|pair| pair[0] != pair[1]).count()
}

fn wanted(outcome: &ClusterOutcome, first: u32) -> Vec<(f64, u32)> {
    let changes = outcome.scalings.iter().map(|scaling| (scaling.at.as_secs_f64() / HOUR_S, scaling.to));
    std::iter::once((0.0, first)).chain(changes).collect()
}

/// Those that drain still serve what they have, and are counted.
fn ready(outcome: &ClusterOutcome) -> Vec<(f64, u32)> {
    let mut changes: Vec<(std::time::Duration, i64)> = Vec::new();
    for replica in &outcome.replicas {
        let Some(from) = replica.ready_at else { continue };
        changes.push((from, 1));
        changes.extend(replica.gone_at.map(|at| (at, -1)));
    }
    changes.sort_unstable();
    let mut now = 0i64;
    let mut out: Vec<(f64, u32)> = vec![(0.0, 0)];
    for (at, change) in changes {
        now += change;
        let at = at.as_secs_f64() / HOUR_S;
        let count = u32::try_from(now).unwrap_or(0);
        match out.last_mut() {
            Some(last) if last.0 == at => last.1 = count,
            _ => out.push((at, count)),
        }
    }
    out
}

fn at(steps: &[(f64, u32)], hour: f64) -> u32 {
    let after = steps.partition_point(|(from, _)| *from <= hour);
    after.checked_sub(1).map_or(0, |place| steps[place].1)
}
