//! Which replica gets a request.

mod prefix;

use llmlab_loadgen::workload::PlannedRequest;
pub use prefix::PrefixAware;

use super::random::{Draws, Purpose};
use crate::executor::mix;

/// Rules of routers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Routing {
    /// By turns, in proportion to weights (smooth weighted round robin, as in nginx).
    RoundRobin,
    Random,
    /// Fewest requests in flight, as the router itself counts them.
    LeastOutstanding,
    /// Fewest tokens in flight, prompts and answers as asked for, as the router itself counts them.
    LeastTokens,
    /// The smallest sum of waiting requests and the share of KV blocks in use, as last scraped; one of several by chance.
    LeastKv,
    /// The one with fewer requests in flight of two picked at random (Mitzenmacher 2001).
    PowerOfTwoChoices,
    PrefixAware(PrefixAware),
    /// The turns of a session stay together while their replica lasts, by rendezvous hashing (Thaler and Ravishankar 1998).
    /// Requests that stand alone are spread.
    SessionAffinity,
}

/// A replica as a router sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct View {
    /// Never given to another.
    pub replica: usize,
    pub weight: f64,
    pub outstanding: u32,
    pub tokens: u64,
    /// As last scraped.
    pub waiting: usize,
    pub kv_share: f64,
}

#[derive(Debug)]
pub(super) struct Router {
    routing: Routing,
    draws: Draws,
    /// Of round robin, by replica.
    turns: Vec<f64>,
    prefixes: prefix::Prefixes,
}

impl Router {
    pub fn new(routing: Routing, seed: u64) -> Router {
        Router {
            routing,
            draws: Draws::new(seed, Purpose::Route, 0),
            turns: Vec::new(),
            prefixes: prefix::Prefixes::default(),
        }
    }

    /// The place of the chosen one among the candidates, of which there is at least one.
    pub fn pick(&mut self, request: &PlannedRequest, candidates: &[View]) -> usize {
        match self.routing {
            Routing::RoundRobin => self.next_in_turn(candidates),
            Routing::Random => self.draws.below(candidates.len()),
            Routing::LeastOutstanding => least_by(candidates, outstanding),
            Routing::LeastTokens => least_by(candidates, |view| view.tokens as f64 / view.weight),
            Routing::LeastKv => {
                self.one_of_the_least(candidates, |view| view.waiting as f64 / view.weight + view.kv_share)
            }
            Routing::PowerOfTwoChoices => {
                let one = self.draws.below(candidates.len());
                let other = self.draws.below(candidates.len());
                let (one, other) = (one.min(other), one.max(other));
                if outstanding(&candidates[other]) < outstanding(&candidates[one]) { other } else { one }
            }
            Routing::PrefixAware(rule) => self.prefixes.pick(&rule, request, candidates),
            Routing::SessionAffinity => {
                let key = request.turn.as_ref().map_or(!request.index, |turn| turn.session);
                rendezvous(key, candidates)
            }
        }
    }

    /// It needs to be told the state of replicas.
    pub fn looks_at_scrapes(&self) -> bool {
        self.routing == Routing::LeastKv
    }

    /// The replica is gone, and what it had in its caches.
    pub fn forget(&mut self, replica: usize) {
        self.prefixes.forget(replica);
    }

    fn one_of_the_least(&mut self, candidates: &[View], key: impl Fn(&View) -> f64) -> usize {
        let least = key(&candidates[least_by(candidates, &key)]);
        let equals = || candidates.iter().enumerate().filter(|(_, view)| key(view) <= least);
        let chosen = self.draws.below(equals().count());
        equals().nth(chosen).map_or(0, |(place, _)| place)
    }

    fn next_in_turn(&mut self, candidates: &[View]) -> usize {
        let last = candidates.iter().map(|view| view.replica).max().unwrap_or(0);
        if self.turns.len() <= last {
            self.turns.resize(last + 1, 0.0);
        }
        let total: f64 = candidates.iter().map(|view| view.weight).sum();
        for view in candidates {
            self.turns[view.replica] += view.weight;
        }
        let chosen = least_by(candidates, |view| -self.turns[view.replica]);
        self.turns[candidates[chosen].replica] -= total;
        chosen
    }
}

fn outstanding(view: &View) -> f64 {
    f64::from(view.outstanding) / view.weight
}

/// The first of the smallest.
fn least_by(candidates: &[View], key: impl Fn(&View) -> f64) -> usize {
    let smallest = candidates.iter().enumerate().min_by(|(_, a), (_, b)| key(a).total_cmp(&key(b)));
    smallest.map_or(0, |(place, _)| place)
}

fn rendezvous(key: u64, candidates: &[View]) -> usize {
    let score = |view: &View| mix(mix(key) ^ (view.replica as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let best = candidates.iter().enumerate().max_by_key(|(_, view)| score(view));
    best.map_or(0, |(place, _)| place)
}

#[cfg(test)]
mod tests {
    use super::prefix::tests::request;
    use super::*;

    fn views(weights: &[f64]) -> Vec<View> {
        let view = |(replica, weight): (usize, &f64)| View {
            replica,
            weight: *weight,
            outstanding: 0,
            tokens: 0,
            waiting: 0,
            kv_share: 0.0,
        };
        weights.iter().enumerate().map(view).collect()
    }

    #[test]
    fn turns_follow_weights() {
        let mut router = Router::new(Routing::RoundRobin, 1);
        let picks = |router: &mut Router, weights: &[f64]| -> Vec<usize> {
            (0..7).map(|index| router.pick(&request(index, &[1]), &views(weights))).collect()
        };
        assert_eq!(picks(&mut router, &[1.0, 1.0, 1.0]), [0, 1, 2, 0, 1, 2, 0]);
        // nginx's own example of weights 5, 1, 1.
        assert_eq!(picks(&mut Router::new(Routing::RoundRobin, 1), &[5.0, 1.0, 1.0]), [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn a_session_moves_only_when_its_replica_goes() {
        let all = views(&[1.0; 8]);
        for key in 0..200 {
            let home = all[rendezvous(key, &all)].replica;
            for gone in (0..8).filter(|gone| *gone != home) {
                let left: Vec<View> = all.iter().copied().filter(|view| view.replica != gone).collect();
                assert_eq!(left[rendezvous(key, &left)].replica, home);
            }
        }
    }

    #[test]
    fn two_choices_take_the_shorter_queue() {
        let mut router = Router::new(Routing::PowerOfTwoChoices, 3);
        let mut all = views(&[1.0; 2]);
        all[0].outstanding = 10;
        let first = (0..1000).filter(|index| router.pick(&request(*index, &[1]), &all) == 0).count();
        // Only when both choices are the first: a quarter, with a standard deviation of 14.
        assert!((190..310).contains(&first), "{first}");
    }
}
