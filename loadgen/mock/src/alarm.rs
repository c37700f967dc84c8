//! Waiting for thousands of moments with one kernel timer: a heap of deadlines, and one task that wakes what is due.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::poll_fn;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use llmlab_loadgen::{At, Clock, Pacer};
use tokio::sync::Notify;

#[derive(Debug)]
pub(crate) struct Alarms {
    clock: Clock,
    waiting: Mutex<BinaryHeap<Reverse<Alarm>>>,
    /// A deadline came in that is before all others.
    sooner: Notify,
}

#[derive(Debug)]
struct Alarm {
    at: At,
    waker: Waker,
}

impl Alarms {
    pub(crate) fn new(clock: Clock) -> Self {
        Alarms { clock, waiting: Mutex::default(), sooner: Notify::new() }
    }

    /// Returns once the clock is at `at`, never before.
    pub(crate) async fn until(&self, at: At) {
        poll_fn(|context| {
            if self.clock.now() >= at {
                return Poll::Ready(());
            }
            let mut waiting = self.lock();
            let first = waiting.peek().is_none_or(|Reverse(first)| at < first.at);
            waiting.push(Reverse(Alarm { at, waker: context.waker().clone() }));
            if first {
                self.sooner.notify_one();
            }
            Poll::Pending
        })
        .await;
    }

    /// Wakes whatever is due, for ever. The timer aims `spin` early and the rest is polled, a turn of the event loop at
    /// a time.
    pub(crate) async fn ring(&self, mut pacer: Pacer, spin: Duration) {
        loop {
            let Some(next) = self.wake_due() else {
                self.sooner.notified().await;
                continue;
            };
            if self.clock.now() + spin >= next {
                tokio::task::yield_now().await;
                continue;
            }
            tokio::select! {
                biased;
                () = self.sooner.notified() => {}
                () = pacer.doze(next - spin) => {}
            }
        }
    }

    /// The first deadline that is left.
    fn wake_due(&self) -> Option<At> {
        let now = self.clock.now();
        let mut waiting = self.lock();
        while let Some(Reverse(first)) = waiting.peek() {
            if first.at > now {
                return Some(first.at);
            }
            if let Some(Reverse(due)) = waiting.pop() {
                due.waker.wake();
            }
        }
        None
    }

    fn lock(&self) -> MutexGuard<'_, BinaryHeap<Reverse<Alarm>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PartialEq for Alarm {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Alarm {}

impl PartialOrd for Alarm {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Alarm {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}
