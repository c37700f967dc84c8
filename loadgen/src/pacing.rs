//! Waiting for an exact moment. tokio's timer wheel ticks in milliseconds; a kernel timer (timerfd) wakes the event
//! loop within tens of microseconds and costs nothing while waiting, and the last stretch is polled.

use std::io;
use std::time::Duration;

use rustix::fd::OwnedFd;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;

use crate::clock::Clock;
use crate::issuer::At;

/// The timer aims this much early, about what a wake-up takes on a busy machine; the rest is polled. Polling yields to
/// the runtime on every turn, so responses keep being read meanwhile.
const POLLED_STRETCH: Duration = Duration::from_micros(150);

/// One kernel timer, for one task to wait on.
#[derive(Debug)]
pub struct Pacer {
    clock: Clock,
    timer: AsyncFd<OwnedFd>,
}

impl Pacer {
    /// Must be called inside a tokio runtime.
    #[allow(
        deprecated,
        reason = "its replacement is unsafe because a type may lie about its descriptor; OwnedFd does not"
    )]
    pub fn new(clock: Clock) -> io::Result<Self> {
        let fd = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        Ok(Pacer { clock, timer: AsyncFd::new(fd)? })
    }

    /// Returns at `due`, or after one turn of the event loop when `due` has passed: a backlog must not keep the
    /// requests already issued from being written. May be dropped and called again with another time.
    pub(crate) async fn until(&mut self, due: At) {
        if self.clock.now() >= due {
            tokio::task::yield_now().await;
            return;
        }
        self.doze(due.saturating_sub(POLLED_STRETCH)).await;
        while self.clock.now() < due {
            tokio::task::yield_now().await;
        }
    }

    /// Sleeps until `at` as the kernel wakes us, without polling at the end: how late it returns is how late the event
    /// loop runs.
    pub async fn doze(&mut self, at: At) {
        // The kernel refuses nothing here but a clock it does not have; then polling alone still keeps the time.
        if self.clock.now() >= at || self.arm(at).is_err() {
            return;
        }
        loop {
            let Ok(mut ready) = self.timer.readable().await else { return };
            // A readiness left over from an earlier call reads as "would block" and is cleared by try_io.
            let mut expirations = [0u8; 8];
            if ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut expirations)?)).is_ok() {
                return;
            }
        }
    }

    fn arm(&self, at: At) -> io::Result<()> {
        let when = Duration::from_nanos(self.clock.start_monotonic_ns) + at;
        let once = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: Timespec { tv_sec: when.as_secs() as i64, tv_nsec: i64::from(when.subsec_nanos()) },
        };
        timerfd_settime(self.timer.get_ref(), TimerfdTimerFlags::ABSTIME, &once)?;
        Ok(())
    }
}
