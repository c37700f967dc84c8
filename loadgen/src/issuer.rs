//! The schedule as a state machine: says what is due when, and is told what finished. It reads no clock, so the wall
//! driver and a simulation run the same code, and its rules can be property-tested.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use crate::workload::{Mode, PlannedRequest, Workload};

/// Time since the start of the trial.
pub type At = Duration;

/// Invariants: scheduled times never decrease; every request is issued exactly once, in workload order; a closed loop
/// never has more requests in flight than users.
#[derive(Debug)]
pub struct Issuer<'w> {
    requests: &'w [PlannedRequest],
    next: usize,
    in_flight: HashSet<u64>,
    pace: Pace,
    last_scheduled: At,
}

#[derive(Debug)]
enum Pace {
    Open,
    /// `ready`: when each idle user wants to send again, earliest first. A queue is enough because the think time is
    /// the same for all users and finish times come in order.
    Closed {
        think_time: Duration,
        ready: VecDeque<At>,
    },
}

impl<'w> Issuer<'w> {
    pub fn new(workload: &'w Workload) -> Self {
        let pace = match workload.mode {
            Mode::Open => Pace::Open,
            Mode::Closed { users, think_time } => {
                // More users than requests would only be zeros that nobody takes.
                let users = (users as usize).min(workload.requests.len());
                Pace::Closed { think_time, ready: VecDeque::from(vec![At::ZERO; users]) }
            }
        };
        Issuer {
            requests: &workload.requests,
            next: 0,
            in_flight: HashSet::new(),
            pace,
            last_scheduled: At::ZERO,
        }
    }

    /// When the next request is due. `None`: nothing is, until a request in flight finishes or forever.
    pub fn next_due(&self) -> Option<At> {
        let request = self.requests.get(self.next)?;
        let due = match &self.pace {
            Pace::Open => request.at,
            Pace::Closed { ready, .. } => *ready.front()?,
        };
        Some(due.max(self.last_scheduled))
    }

    /// Hands out the next request with its scheduled time. Whether that time has come is the caller's business.
    pub fn issue(&mut self) -> Option<(At, &'w PlannedRequest)> {
        let due = self.next_due()?;
        let request = &self.requests[self.next];
        if let Pace::Closed { ready, .. } = &mut self.pace {
            ready.pop_front();
        }
        self.next += 1;
        self.last_scheduled = due;
        assert!(self.in_flight.insert(request.index), "request {} issued twice", request.index);
        Some((due, request))
    }

    /// The request ended, in whatever way, at `now`.
    pub fn on_finished(&mut self, now: At, index: u64) {
        assert!(self.in_flight.remove(&index), "request {index} finished but was not in flight");
        if let Pace::Closed { think_time, ready } = &mut self.pace {
            let at = now.saturating_add(*think_time);
            let at = ready.back().map_or(at, |last| at.max(*last));
            ready.push_back(at);
        }
    }

    /// Requests issued and not yet finished.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Requests issued so far.
    pub fn issued(&self) -> usize {
        self.next
    }

    /// Requests not yet issued.
    pub fn remaining(&self) -> usize {
        self.requests.len() - self.next
    }
}
