//! The one place in this crate that reads a clock.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::issuer::At;

/// A time too far away to express is no deadline; a year is as good.
const FAR: Duration = Duration::from_secs(366 * 24 * 3600);

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

    /// A clock whose zero is a moment of CLOCK_MONOTONIC, past or to come; until then it stands at zero.
    #[allow(clippy::disallowed_methods, reason = "the wall driver's clock")]
    pub fn starting_at(start_monotonic_ns: u64) -> Self {
        let now = Clock::start();
        let start = match start_monotonic_ns.checked_sub(now.start_monotonic_ns) {
            Some(ahead_ns) => now.start + Duration::from_nanos(ahead_ns).min(FAR),
            None => {
                let ago = Duration::from_nanos(now.start_monotonic_ns - start_monotonic_ns);
                now.start.checked_sub(ago).unwrap_or(now.start)
            }
        };
        Clock { start, start_monotonic_ns }
    }

    /// Returns at zero, within what a polled clock costs.
    #[allow(clippy::disallowed_methods, reason = "the wall driver's clock")]
    pub(crate) async fn started(&self) {
        const POLLED_STRETCH: Duration = Duration::from_millis(2);
        let early = self.start.checked_sub(POLLED_STRETCH).unwrap_or(self.start);
        tokio::time::sleep_until(tokio::time::Instant::from_std(early)).await;
        while Instant::now() < self.start {
            tokio::task::yield_now().await;
        }
    }

    #[allow(clippy::disallowed_methods, reason = "the wall driver's clock")]
    pub fn now(&self) -> At {
        self.start.elapsed()
    }

    /// `at` as tokio has it.
    pub fn deadline(&self, at: At) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.start + at.min(FAR))
    }
}
