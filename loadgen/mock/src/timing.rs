//! When a token is due: a fixed time to the first, fixed gaps after it, jitter by seed, and stalls.

use std::time::Duration;

use llmlab_loadgen::At;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;
use rand_distr::{Distribution, Exp1, StandardNormal};

#[derive(Debug, Clone, PartialEq)]
pub struct Timing {
    /// From the moment a request was read to its first token.
    pub ttft: Duration,
    /// From one event to the next.
    pub itl: Duration,
    pub ttft_jitter: Jitter,
    pub itl_jitter: Jitter,
    pub stall: Option<Stall>,
    /// Tokens in each event; the last one has what is left.
    pub tokens_per_event: u32,
}

impl Timing {
    /// Neither jitter nor stalls, one token per event.
    pub fn steady(ttft: Duration, itl: Duration) -> Timing {
        Timing {
            ttft,
            itl,
            ttft_jitter: Jitter::None,
            itl_jitter: Jitter::None,
            stall: None,
            tokens_per_event: 1,
        }
    }
}

/// Added to a time; the sum is never negative.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Jitter {
    None,
    /// From 0 to this.
    Uniform(Duration),
    Exponential {
        mean: Duration,
    },
    /// Around 0.
    Normal {
        deviation: Duration,
    },
}

impl Jitter {
    fn added_to(self, base: Duration, rng: &mut ChaCha8Rng) -> Duration {
        let seconds = match self {
            Jitter::None => return base,
            Jitter::Uniform(most) => most.as_secs_f64() * (rng.next_u64() as f64 / u64::MAX as f64),
            Jitter::Exponential { mean } => {
                let factor: f64 = Exp1.sample(rng);
                mean.as_secs_f64() * factor
            }
            Jitter::Normal { deviation } => {
                let factor: f64 = StandardNormal.sample(rng);
                deviation.as_secs_f64() * factor
            }
        };
        Duration::try_from_secs_f64(base.as_secs_f64() + seconds).unwrap_or_default()
    }
}

/// For `length` at the end of every `every` the server stands still, as if the process were stopped: it sends nothing,
/// and no time passes for what is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stall {
    length: Duration,
    every: Duration,
}

impl Stall {
    pub fn new(length: Duration, every: Duration) -> Result<Stall, String> {
        if length.is_zero() || length >= every {
            return Err(format!(
                "a stall of {length:?} every {every:?}: it must be above 0 and shorter than that"
            ));
        }
        Ok(Stall { length, every })
    }

    /// Time at work until `at`.
    fn worked(&self, at: At) -> Duration {
        let at_work = self.every - self.length;
        let periods = at.as_nanos() / self.every.as_nanos();
        let rest = at.as_nanos() % self.every.as_nanos();
        nanos(periods * at_work.as_nanos() + rest.min(at_work.as_nanos()))
    }

    /// When that much time at work has passed; at the border of a stall, after it.
    fn when(&self, worked: Duration) -> At {
        let at_work = (self.every - self.length).as_nanos();
        let periods = worked.as_nanos() / at_work;
        nanos(periods * self.every.as_nanos() + worked.as_nanos() % at_work)
    }
}

/// Saturates after 584 years.
fn nanos(n: u128) -> Duration {
    Duration::from_nanos(u64::try_from(n).unwrap_or(u64::MAX))
}

/// The moments of one request. Each follows from the planned one before it, never from when that was kept, so nothing
/// drifts.
#[derive(Debug)]
pub(crate) struct Timetable<'a> {
    timing: &'a Timing,
    rng: ChaCha8Rng,
    /// At work, where there are stalls.
    last: Duration,
    started: bool,
}

impl<'a> Timetable<'a> {
    pub(crate) fn new(timing: &'a Timing, read: At, rng: ChaCha8Rng) -> Self {
        let last = timing.stall.map_or(read, |stall| stall.worked(read));
        Timetable { timing, rng, last, started: false }
    }

    /// When the server is at work again: at once, or at the end of the stall under way.
    pub(crate) fn at_work(&self) -> At {
        self.timing.stall.map_or(self.last, |stall| stall.when(self.last))
    }

    pub(crate) fn next_event(&mut self) -> At {
        let (base, jitter) = match std::mem::replace(&mut self.started, true) {
            false => (self.timing.ttft, self.timing.ttft_jitter),
            true => (self.timing.itl, self.timing.itl_jitter),
        };
        self.last = self.last.saturating_add(jitter.added_to(base, &mut self.rng));
        self.at_work()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::rand_core::SeedableRng;

    fn times(timing: &Timing, read_ms: u64, events: usize, seed: u64) -> Vec<Duration> {
        let rng = ChaCha8Rng::seed_from_u64(seed);
        let mut table = Timetable::new(timing, Duration::from_millis(read_ms), rng);
        (0..events).map(|_| table.next_event()).collect()
    }

    fn ms(times: Vec<Duration>) -> Vec<u128> {
        times.into_iter().map(|t| t.as_millis()).collect()
    }

    #[test]
    fn the_clock_stands_still_in_a_stall() {
        let mut timing = Timing::steady(Duration::from_millis(300), Duration::from_millis(400));
        let seconds = Duration::from_secs;
        timing.stall = Some(Stall::new(seconds(2), seconds(10)).unwrap());
        assert_eq!(ms(times(&timing, 1000, 3, 0)), [1300, 1700, 2100]);
        // 200 ms at work before the stall at 8 s, the rest of each time after it.
        assert_eq!(ms(times(&timing, 7800, 2, 0)), [10_100, 10_500]);
        assert_eq!(ms(times(&timing, 9000, 2, 0)), [10_300, 10_700]);
        assert_eq!(ms(times(&timing, 27_500, 2, 0)), [27_800, 30_200]);
        assert!(Stall::new(seconds(10), seconds(10)).is_err() && Stall::new(seconds(0), seconds(1)).is_err());
    }

    #[test]
    fn jitter_has_its_mean_and_its_seed() {
        let ten = Duration::from_millis(10);
        let mean_ms = |jitter: Jitter| {
            let timing = Timing { itl_jitter: jitter, ..Timing::steady(ten, ten) };
            let all = times(&timing, 0, 20_001, 5);
            assert!(all.is_sorted());
            assert_eq!(all, times(&timing, 0, 20_001, 5));
            (all[20_000] - all[0]).as_secs_f64() * 1e3 / 20_000.0
        };
        for (jitter, mean) in [
            (Jitter::None, 10.0),
            (Jitter::Uniform(ten), 15.0),
            (Jitter::Exponential { mean: ten }, 20.0),
            (Jitter::Normal { deviation: Duration::from_millis(2) }, 10.0),
        ] {
            let found = mean_ms(jitter);
            assert!((found - mean).abs() < 0.3, "{jitter:?}: {found} instead of {mean}");
        }
    }
}
