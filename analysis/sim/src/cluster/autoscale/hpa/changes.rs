//! What the autoscaler changed in one direction, as far as its policies look back.

use std::time::Duration;

use llmlab_core::request::At;

#[derive(Debug, Default)]
pub(super) struct Changes {
    /// In no order: one that is too old is overwritten.
    changes: Vec<(At, u32)>,
}

impl Changes {
    /// Takes the place of a change that is older than the longest period of its own direction, as in Kubernetes. One that only
    /// the other direction looks back to can be lost by this.
    pub fn store(&mut self, now: At, replicas: u32, longest_period: Duration) {
        let too_old = |(at, _): &(At, u32)| now.saturating_sub(*at) > longest_period;
        match self.changes.iter().rposition(too_old) {
            Some(place) => self.changes[place] = (now, replicas),
            None => self.changes.push((now, replicas)),
        }
    }

    pub fn within(&self, now: At, period: Duration) -> i64 {
        let recent = self.changes.iter().filter(|(at, _)| now.saturating_sub(*at) < period);
        recent.map(|(_, replicas)| i64::from(*replicas)).sum()
    }
}
