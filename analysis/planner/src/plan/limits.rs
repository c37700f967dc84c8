//! Does a simulated replica meet the SLO at this rate? Latencies as in the reports: from when a request was due.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use llmlab_results::record::{RecordSink, RequestRecord};
use serde::Serialize;

/// What a limit is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Latency {
    Ttft,
    Tpot,
    /// Gaps between tokens, of all requests together.
    Itl,
    E2e,
}

impl Latency {
    pub fn name(self) -> &'static str {
        match self {
            Latency::Ttft => "TTFT",
            Latency::Tpot => "TPOT",
            Latency::Itl => "ITL",
            Latency::E2e => "E2E",
        }
    }
}

/// At `percentile`, at most `seconds`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Limit {
    pub on: Latency,
    pub percentile: f64,
    pub seconds: f64,
}

impl Limit {
    /// "TTFT p95 500 ms"
    pub fn words(&self) -> String {
        format!("{} p{} {}", self.on.name(), self.percentile, super::words::seconds(self.seconds))
    }
}

/// Percentiles of a run and what it did with the requests. Seconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Observed {
    pub requests: u64,
    /// Not answered: refused, or given up.
    pub failed: u64,
    pub ttft_p50_s: f64,
    pub ttft_p95_s: f64,
    pub ttft_p99_s: f64,
    pub tpot_p50_s: f64,
    pub tpot_p95_s: f64,
    pub tpot_p99_s: f64,
    pub e2e_p50_s: f64,
    pub e2e_p95_s: f64,
}

/// Takes the records of a simulation. Those scheduled before `warm_until` do not count.
pub struct Judge<'l> {
    limits: &'l [Limit],
    warm_until: Duration,
    until: Duration,
    /// Requests that will count, at most.
    expected: u64,
    ttft: Vec<f64>,
    tpot: Vec<f64>,
    e2e: Vec<f64>,
    itl: Vec<f64>,
    /// (scheduled, TTFT), to see whether the queue grows.
    trend: Vec<(f64, f64)>,
    failed: u64,
    violations: Vec<u64>,
    hopeless: Arc<AtomicBool>,
}

impl<'l> Judge<'l> {
    pub fn new(limits: &'l [Limit], warm_until: Duration, expected: u64) -> Judge<'l> {
        Judge {
            limits,
            warm_until,
            until: Duration::MAX,
            expected,
            ttft: Vec::new(),
            tpot: Vec::new(),
            e2e: Vec::new(),
            itl: Vec::new(),
            trend: Vec::new(),
            failed: 0,
            violations: vec![0; limits.len()],
            hopeless: Arc::default(),
        }
    }

    /// Those scheduled later do not count either.
    pub fn until(self, until: Duration) -> Judge<'l> {
        Judge { until, ..self }
    }

    pub fn observed(mut self) -> (Observed, Verdict) {
        for values in [&mut self.ttft, &mut self.tpot, &mut self.e2e, &mut self.itl] {
            values.sort_unstable_by(f64::total_cmp);
        }
        let at = |values: &[f64], p| quantile(values, self.failed, p);
        let observed = Observed {
            requests: self.e2e.len() as u64 + self.failed,
            failed: self.failed,
            ttft_p50_s: at(&self.ttft, 50.0),
            ttft_p95_s: at(&self.ttft, 95.0),
            ttft_p99_s: at(&self.ttft, 99.0),
            tpot_p50_s: at(&self.tpot, 50.0),
            tpot_p95_s: at(&self.tpot, 95.0),
            tpot_p99_s: at(&self.tpot, 99.0),
            e2e_p50_s: at(&self.e2e, 50.0),
            e2e_p95_s: at(&self.e2e, 95.0),
        };
        let mut worst: Option<(Limit, f64)> = None;
        for limit in self.limits {
            let values = match limit.on {
                Latency::Ttft => &self.ttft,
                Latency::Tpot => &self.tpot,
                Latency::Itl => &self.itl,
                Latency::E2e => &self.e2e,
            };
            // Where there is nothing to judge, as the TPOT of answers of one token, nothing is broken.
            if values.is_empty() && self.failed == 0 {
                continue;
            }
            let share = at(values, limit.percentile) / limit.seconds;
            if worst.is_none_or(|(_, most)| share > most) {
                worst = Some((*limit, share));
            }
        }
        let growing = grows(&self.trend);
        let met =
            !self.hopeless.load(Ordering::Relaxed) && !growing && worst.is_none_or(|(_, share)| share <= 1.0);
        (observed, Verdict { met, growing, nearest: worst })
    }

    fn count(&mut self, place: usize) {
        self.violations[place] += 1;
        let allowed = (1.0 - self.limits[place].percentile / 100.0) * self.expected as f64;
        // One more, for the interpolation between two values.
        if self.violations[place] as f64 > allowed + 1.0 {
            self.hopeless.store(true, Ordering::Relaxed);
        }
    }

    /// Set when no later request can turn the verdict.
    pub fn hopeless(&self) -> Arc<AtomicBool> {
        self.hopeless.clone()
    }
}

/// Of one simulated run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Verdict {
    pub met: bool,
    /// Waits were longer and longer: more comes in than is served.
    pub growing: bool,
    /// The limit that is nearest to being broken, or broken most, and what share of it was used.
    pub nearest: Option<(Limit, f64)>,
}

impl RecordSink for Judge<'_> {
    fn record(&mut self, record: &RequestRecord) -> io::Result<()> {
        if !(self.warm_until..=self.until).contains(&Duration::from_nanos(record.scheduled_ns)) {
            return Ok(());
        }
        let seconds = |ns: u64| ns as f64 * 1e-9;
        let (Some(first), Some(last), true) =
            (record.first_token_ns(), record.last_token_ns(), record.outcome.is_success())
        else {
            if record.outcome.is_failure() {
                self.failed += 1;
                (0..self.limits.len()).for_each(|place| self.count(place));
            }
            return Ok(());
        };
        let ttft = seconds(first - record.scheduled_ns);
        let e2e = seconds(last - record.scheduled_ns);
        let in_first = record.events.first().map_or(0, |event| event.tokens);
        let tpot = (record.output_tokens > in_first)
            .then(|| seconds(last - first) / f64::from(record.output_tokens - in_first));
        let wants_itl = self.limits.iter().any(|limit| limit.on == Latency::Itl);
        if wants_itl {
            let gaps = record.events.windows(2).map(|pair| seconds(pair[1].at_ns - pair[0].at_ns));
            self.itl.extend(gaps);
        }
        for place in 0..self.limits.len() {
            let limit = self.limits[place];
            let broken = match limit.on {
                Latency::Ttft => ttft > limit.seconds,
                Latency::E2e => e2e > limit.seconds,
                Latency::Tpot => tpot.is_some_and(|tpot| tpot > limit.seconds),
                Latency::Itl => false,
            };
            if broken {
                self.count(place);
            }
        }
        self.ttft.push(ttft);
        self.e2e.push(e2e);
        self.tpot.extend(tpot);
        self.trend.push((seconds(record.scheduled_ns), ttft));
        Ok(())
    }
}

/// Linear interpolation between order statistics, `failed` values of infinity behind the others. NaN where there are none.
fn quantile(sorted: &[f64], failed: u64, percentile: f64) -> f64 {
    let count = sorted.len() as f64 + failed as f64;
    if count == 0.0 {
        return f64::NAN;
    }
    let position = percentile / 100.0 * (count - 1.0);
    let at = |index: f64| sorted.get(index as usize).copied().unwrap_or(f64::INFINITY);
    let (below, fraction) = (position.floor(), position.fract());
    let (lower, upper) = (at(below), at(below + 1.0));
    match fraction {
        0.0 => lower,
        _ if upper.is_infinite() => upper,
        _ => lower + (upper - lower) * fraction,
    }
}

/// Waits of a stable queue have no trend. Here the straight line through the means of batches of neighbours, which wait alike,
/// rises by more than half of the mean wait from one end to the other, and by more than its scatter explains (four standard
/// errors).
fn grows(trend: &[(f64, f64)]) -> bool {
    const BATCHES: usize = 16;
    let mut by_time = trend.to_vec();
    by_time.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let size = by_time.len() / BATCHES;
    if size < 2 {
        return false;
    }
    let mean_of = |batch: &[(f64, f64)]| batch.iter().map(|(_, ttft)| ttft).sum::<f64>() / batch.len() as f64;
    let means: Vec<f64> = by_time.chunks_exact(size).take(BATCHES).map(mean_of).collect();
    let count = BATCHES as f64;
    let (center, mean) = ((count - 1.0) / 2.0, means.iter().sum::<f64>() / count);
    let places = || means.iter().enumerate().map(|(place, value)| (place as f64 - center, value - mean));
    let squares: f64 = places().map(|(x, _)| x * x).sum();
    let slope = places().map(|(x, y)| x * y).sum::<f64>() / squares;
    let scatter: f64 = places().map(|(x, y)| (y - slope * x).powi(2)).sum::<f64>() / (count - 2.0);
    let rise = slope * (count - 1.0);
    rise > 0.5 * mean && slope > 4.0 * (scatter / squares).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_lie_behind_every_answer() {
        assert_eq!(quantile(&[1.0, 2.0, 3.0], 0, 50.0), 2.0);
        assert_eq!(quantile(&[1.0, 2.0, 3.0], 0, 75.0), 2.5);
        assert_eq!(quantile(&[1.0], 1, 100.0), f64::INFINITY);
        assert!(quantile(&[], 0, 50.0).is_nan());
    }

    #[test]
    fn a_queue_that_grows_is_seen_and_one_that_sways_is_not() {
        let growing: Vec<(f64, f64)> = (0..600).map(|i| (f64::from(i), 0.01 * f64::from(i))).collect();
        assert!(grows(&growing));
        let swaying: Vec<(f64, f64)> =
            (0..600).map(|i| (f64::from(i), 1.0 + (f64::from(i) / 20.0).sin())).collect();
        assert!(!grows(&swaying));
    }
}
