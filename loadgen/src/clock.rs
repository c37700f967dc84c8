//! The one place in this crate that reads a clock.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::issuer::At;

/// The start of a trial, on the monotonic clock.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
    /// CLOCK_MONOTONIC at `start`: comparable with what another process on this machine reads.
    pub start_monotonic_ns: u64,
}

impl Clock {
    #[allow(clippy::disallowed_methods, reason = "the wall driver's clock")]
    pub fn start() -> Self {
        let now = clock_gettime(ClockId::Monotonic);
        let start = Instant::now();
        // Seconds since boot and nanoseconds below a second: neither is negative, and the sum fits 64 bits for
        // 584 years.
        let start_monotonic_ns = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
        Clock { start, start_monotonic_ns }
    }

    #[allow(clippy::disallowed_methods, reason = "the wall driver's clock")]
    pub fn now(&self) -> At {
        self.start.elapsed()
    }

    /// `at` as tokio has it.
    pub fn deadline(&self, at: At) -> tokio::time::Instant {
        // A time too far away to express is no deadline; a year is as good.
        let far = Duration::from_secs(366 * 24 * 3600);
        tokio::time::Instant::from_std(self.start + at.min(far))
    }
}
