//! The schedule as a state machine: says what is due when, and is told what finished. It reads no clock, so the wall
//! driver and a simulation run the same code, and its rules can be property-tested.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::Duration;

use crate::workload::{Mode, PlannedRequest, Workload};

/// Time since the start of the trial.
pub type At = Duration;

/// Invariants: scheduled times never decrease; every request is issued exactly once; those that open a session or stand alone
/// in workload order, a later turn never before the turn before it finished and its think time passed; a closed loop never
/// has more requests in flight than users.
#[derive(Debug)]
pub struct Issuer<'w> {
    requests: &'w [PlannedRequest],
    /// The next request that follows no other.
    next_opening: usize,
    /// Later turns whose time is known: when, and their places in the workload.
    follow_ups: BinaryHeap<Reverse<(At, usize)>>,
    issued: usize,
    /// Index to place.
    in_flight: HashMap<u64, usize>,
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
            next_opening: 0,
            follow_ups: BinaryHeap::new(),
            issued: 0,
            in_flight: HashMap::new(),
            pace,
            last_scheduled: At::ZERO,
        }
    }

    /// When the next request is due. `None`: nothing is, until a request in flight finishes or forever.
    pub fn next_due(&self) -> Option<At> {
        let (due, _) = self.next()?;
        Some(due.max(self.last_scheduled))
    }

    /// The earliest of both kinds, a later turn before an opening of the same time.
    fn next(&self) -> Option<(At, Kind)> {
        let follow_up = self.follow_ups.peek().map(|Reverse((due, _))| (*due, Kind::FollowUp));
        let opening = self.opening_due().map(|due| (due, Kind::Opening));
        match (follow_up, opening) {
            (Some(follow_up), Some(opening)) if opening.0 < follow_up.0 => Some(opening),
            (follow_up, opening) => follow_up.or(opening),
        }
    }

    fn opening_due(&self) -> Option<At> {
        let request = self.requests.get(self.next_opening)?;
        match &self.pace {
            Pace::Open => Some(request.at),
            Pace::Closed { ready, .. } => ready.front().copied(),
        }
    }

    /// Hands out the next request with its scheduled time. Whether that time has come is the caller's business.
    pub fn issue(&mut self) -> Option<(At, &'w PlannedRequest)> {
        let (due, kind) = self.next()?;
        let place = match kind {
            Kind::FollowUp => self.follow_ups.pop().map(|Reverse((_, place))| place)?,
            Kind::Opening => {
                if let Pace::Closed { ready, .. } = &mut self.pace {
                    ready.pop_front();
                }
                let place = self.next_opening;
                self.next_opening += 1;
                while self.follows_another(self.next_opening) {
                    self.next_opening += 1;
                }
                place
            }
        };
        let request = &self.requests[place];
        let due = due.max(self.last_scheduled);
        self.issued += 1;
        self.last_scheduled = due;
        let before = self.in_flight.insert(request.index, place);
        assert!(before.is_none(), "request {} issued twice", request.index);
        Some((due, request))
    }

    /// The request ended, in whatever way, at `now`.
    pub fn on_finished(&mut self, now: At, index: u64) {
        let Some(place) = self.in_flight.remove(&index) else {
            panic!("request {index} finished but was not in flight");
        };
        let next = place + 1;
        if self.follows_another(next) {
            let pause = self.requests[next].turn.as_ref().map_or(Duration::ZERO, |turn| turn.think_time);
            self.follow_ups.push(Reverse((now.saturating_add(pause), next)));
            return;
        }
        if let Pace::Closed { think_time, ready } = &mut self.pace {
            let at = now.saturating_add(*think_time);
            let at = ready.back().map_or(at, |last| at.max(*last));
            ready.push_back(at);
        }
    }

    /// A later turn: it comes after the request before it in the workload.
    fn follows_another(&self, place: usize) -> bool {
        let turn = self.requests.get(place).and_then(|request| request.turn.as_ref());
        turn.is_some_and(|turn| turn.turn > 0)
    }

    /// Requests issued and not yet finished.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Requests issued so far.
    pub fn issued(&self) -> usize {
        self.issued
    }

    /// Requests not yet issued.
    pub fn remaining(&self) -> usize {
        self.requests.len() - self.issued
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Opening,
    FollowUp,
}
