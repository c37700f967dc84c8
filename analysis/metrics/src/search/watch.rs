//! When a trial of a search need not go on: its verdict is certain, or its queue only grows.

use std::time::Duration;

use llmlab_results::manifest::Slo;
use llmlab_results::record::RequestRecord;

use crate::frame;
use crate::slo::{SloMetric, limits};

/// The queue is looked at from this share of the planned requests on, and again after every further eighth.
const FIRST_LOOK: f64 = 0.5;
/// The number waiting wanders by about the root of the arrivals, even at a server that keeps up exactly; more than this
/// many times that is a server that does not.
const GROWTH: f64 = 3.0;

/// Why a trial was stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopReason {
    pub words: String,
    /// The queue grew: no number of trials would change the verdict.
    pub diverged: bool,
}

/// Told what happens in a trial as it happens. The measured requests are those from `warmup` on.
#[derive(Debug)]
pub struct Watch {
    limits: Vec<Count>,
    requests: u64,
    warmup: u64,
    /// Clients may hang up, and a request of such a one is no miss however late its first token was. So nothing is certain
    /// before a request has ended.
    may_hang_up: bool,
    /// `None` in a closed loop, where the queue is bounded by the users.
    queue: Option<Queue>,
    reason: Option<StopReason>,
}

/// A limit on a latency that a request has once. (How many gaps between tokens there will be is not known ahead.)
#[derive(Debug)]
struct Count {
    metric: SloMetric,
    percentile: f64,
    limit_ns: u64,
    misses: u64,
    /// With so many misses the percentile is over the limit whatever the others do.
    certain: u64,
}

impl Watch {
    pub fn new(slo: &Slo, requests: u64, warmup: u64, open_loop: bool, may_hang_up: bool) -> Watch {
        let measured = requests.saturating_sub(warmup);
        let of = |metric: SloMetric, percentile: f64, limit_ns: u64| Count {
            metric,
            percentile,
            limit_ns,
            misses: 0,
            certain: misses_allowed(measured, percentile) + 1,
        };
        let limits = limits(slo)
            .into_iter()
            .filter(|(metric, _)| *metric != SloMetric::Itl)
            .flat_map(|(metric, limits)| limits.iter().map(move |(p, limit)| of(metric, *p, *limit)))
            .collect();
        let queue = open_loop.then(Queue::default);
        Watch { limits, requests, warmup, may_hang_up, queue, reason: None }
    }

    /// The first reason found; it does not change.
    pub fn reason(&self) -> Option<&StopReason> {
        self.reason.as_ref()
    }

    pub fn sent(&mut self, _index: u64) {
        let Some(queue) = &mut self.queue else { return };
        queue.arrive();
        let arrived = queue.seen.len() as u64;
        let eighth = (self.requests / 8).max(1);
        let look = arrived as f64 >= FIRST_LOOK * self.requests as f64 && arrived.is_multiple_of(eighth);
        if look && let Some(words) = queue.growth() {
            self.stop(StopReason { words, diverged: true });
        }
    }

    pub fn first_token(&mut self, index: u64, ttft: Duration) {
        if let Some(queue) = &mut self.queue {
            queue.leave();
        }
        if index >= self.warmup && !self.may_hang_up {
            self.count(&|count| {
                count.metric == SloMetric::Ttft && ttft.as_nanos() > u128::from(count.limit_ns)
            });
        }
    }

    pub fn finished(&mut self, record: &RequestRecord) {
        if let Some(queue) = &mut self.queue
            && record.sent_ns.is_some()
            && record.events.is_empty()
        {
            queue.leave();
        }
        if record.index < self.warmup || !record.outcome.is_judged() {
            return;
        }
        let (ttft, tpot, e2e) = (frame::ttft_ns(record), frame::tpot_ns(record), frame::e2e_last_ns(record));
        let failed = !record.outcome.is_success();
        let counted_when_it_came = !self.may_hang_up;
        self.count(&|count| {
            let over = |value: Option<f64>| value.is_some_and(|value| value > count.limit_ns as f64);
            match count.metric {
                SloMetric::Ttft if counted_when_it_came => failed && !over(ttft),
                SloMetric::Ttft => failed || over(ttft),
                SloMetric::Tpot => failed || over(tpot),
                SloMetric::E2e => failed || over(e2e),
                SloMetric::Itl => false,
            }
        });
    }

    fn count(&mut self, misses: &dyn Fn(&Count) -> bool) {
        let measured = self.requests.saturating_sub(self.warmup);
        let mut found = None;
        for count in &mut self.limits {
            count.misses += u64::from(misses(count));
            if count.misses >= count.certain {
                found = Some(format!(
                    "{} p{} is missed for certain: {} of {measured} requests were over the limit",
                    count.metric.label(),
                    count.percentile,
                    count.misses
                ));
            }
        }
        if let Some(words) = found {
            self.stop(StopReason { words, diverged: false });
        }
    }

    fn stop(&mut self, reason: StopReason) {
        self.reason.get_or_insert(reason);
    }
}

/// How many of `n` values may lie over a limit that their percentile (linear between values) still keeps, at most.
fn misses_allowed(n: u64, percentile: f64) -> u64 {
    let place = (n.saturating_sub(1)) as f64 * percentile / 100.0;
    n.saturating_sub(place.floor() as u64 + 1)
}

/// How many requests wait for their first token, as each arriving request sees it.
#[derive(Debug, Default)]
pub struct Queue {
    seen: Vec<u32>,
    waiting: u32,
}

impl Queue {
    fn arrive(&mut self) {
        self.seen.push(self.waiting);
        self.waiting += 1;
    }

    fn leave(&mut self) {
        self.waiting = self.waiting.saturating_sub(1);
    }

    /// The queue of a trial that ended, from its records.
    pub fn of(records: &[RequestRecord]) -> Queue {
        let mut ends: Vec<u64> = records
            .iter()
            .filter(|r| r.sent_ns.is_some())
            .filter_map(|r| r.first_token_ns().or_else(|| frame::completed_ns(r)))
            .collect();
        ends.sort_unstable();
        let mut sent: Vec<u64> = records.iter().filter_map(|r| r.sent_ns).collect();
        sent.sort_unstable();
        let waiting = |(arrived, at): (usize, &u64)| {
            let left = ends.partition_point(|end| end <= at);
            arrived.saturating_sub(left) as u32
        };
        Queue { seen: sent.iter().enumerate().map(waiting).collect(), waiting: 0 }
    }

    /// Words for a queue that rises in every quarter, and by more than chance in all. Requests that wait and not those in
    /// flight, because a batch that fills is no queue.
    pub fn growth(&self) -> Option<String> {
        let quarter = self.seen.len() / 4;
        if quarter == 0 {
            return None;
        }
        let means: Vec<f64> = self
            .seen
            .chunks_exact(quarter)
            .take(4)
            .map(|part| part.iter().map(|n| f64::from(*n)).sum::<f64>() / quarter as f64)
            .collect();
        let grown = means[3] - means[0];
        let growing = means.is_sorted() && grown > GROWTH * (self.seen.len() as f64).sqrt();
        growing.then(|| {
            format!(
                "the queue only grew: {:.0} waited in the first quarter, {:.0} in the last",
                means[0], means[3]
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantile::quantile;

    #[test]
    fn one_miss_more_than_allowed_puts_the_percentile_over_the_limit() {
        for n in [1_u64, 2, 19, 20, 100, 101, 333] {
            for percentile in [50.0, 90.0, 95.0, 99.0] {
                let with = |misses: u64| {
                    let value = |i| if i < n - misses { 0.0 } else { 10.0 };
                    let sorted: Vec<f64> = (0..n).map(value).collect();
                    quantile(&sorted, percentile / 100.0).unwrap()
                };
                let allowed = misses_allowed(n, percentile);
                assert!(with((allowed + 1).min(n)) > 1.0, "n {n}, p{percentile}");
                // The limit may lie anywhere below the missing values, here just under them.
                assert!(with(allowed) < 10.0, "n {n}, p{percentile}");
            }
        }
    }

    /// Arrivals with a given number leaving between two of them.
    fn queue(leaving: impl Fn(u32) -> u32, arrivals: u32) -> Queue {
        let mut queue = Queue::default();
        for i in 0..arrivals {
            queue.arrive();
            (0..leaving(i)).for_each(|_| queue.leave());
        }
        queue
    }

    #[test]
    fn a_queue_that_only_grows_is_seen_and_one_that_fills_or_drains_is_not() {
        // Seven of ten leave.
        assert!(queue(|i| u32::from(i % 10 < 7), 400).growth().is_some());
        assert!(queue(|_| 1, 400).growth().is_none());
        // Rises to 100 and stays.
        assert!(queue(|i| u32::from(i >= 100), 400).growth().is_none());
        // Rises to 200 and falls.
        assert!(queue(|i| if i < 200 { 0 } else { 2 }, 400).growth().is_none());
        assert!(queue(|_| 0, 3).growth().is_none());
    }

    #[test]
    fn a_trial_is_stopped_when_no_answer_could_save_it_and_not_before() {
        let slo = Slo { ttft: vec![(90.0, 1_000_000)], ..Slo::default() };
        let mut watch = Watch::new(&slo, 110, 10, true, false);
        // Warm-up does not count.
        (0..10).for_each(|i| watch.first_token(i, Duration::from_secs(1)));
        let allowed = misses_allowed(100, 90.0);
        (0..allowed).for_each(|i| watch.first_token(10 + i, Duration::from_millis(2)));
        assert_eq!(watch.reason(), None);
        watch.first_token(50, Duration::from_micros(900));
        assert_eq!(watch.reason(), None);
        watch.first_token(51, Duration::from_millis(2));
        let reason = watch.reason().unwrap();
        assert!(!reason.diverged && reason.words.contains("TTFT p90"), "{reason:?}");
    }
}
