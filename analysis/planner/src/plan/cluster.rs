//! The cluster that a row would be: its replicas behind a router, and what is left of it when one has failed.
//!
//! A row is sized with an even share of the traffic for each replica. A router divides requests, not shares; here that is
//! simulated, and a row that was sized too kindly gets replicas until it holds.

use llmlab_loadgen::generate;
use llmlab_sim::cluster::config::MOST_REPLICAS;
use llmlab_sim::cluster::{Routing, simulate_with};
use serde::Serialize;

use super::PlanError;
use super::capacity::{Replica, Traffic};
use super::conversations::last_opening;
use super::limits::{Judge, Limit, Observed};

/// Simulated at most for one cluster.
const MAX_REQUESTS: f64 = 30_000.0;
/// Replicas added to a row, as a share of it, before it is left as it is and said to break.
const MAY_GROW: f64 = 0.25;

/// A cluster in the busiest hour.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Seen {
    pub replicas: u32,
    pub observed: Observed,
    pub met: bool,
}

/// What became of a row's replicas together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClusterCheck {
    /// More than an even share of the traffic would need.
    pub added: u32,
    /// What the router goes by.
    pub routing: &'static str,
    /// The replicas that the busiest hour needs, behind that router.
    pub routed: Seen,
    /// The same, by turns.
    pub round_robin: Seen,
    /// All replicas of the row but one, behind that router; `None` where none would be left.
    pub one_failed: Option<Seen>,
}

impl ClusterCheck {
    /// The SLO holds while one replica is away.
    pub fn survives_one(&self) -> bool {
        self.one_failed.as_ref().is_some_and(|seen| seen.met)
    }
}

/// Simulates so many replicas under a rule of routing.
pub type Simulate<'a> = dyn Fn(u32, Routing) -> Result<Seen, PlanError> + 'a;

/// Replicas for the busiest hour, `needed` at first and more if they do not hold; then the row with one of `spare` more away.
/// `None` for clusters that are too large to be simulated.
pub fn check(
    needed: u32,
    spare: u32,
    routing: Routing,
    simulate: &Simulate<'_>,
) -> Result<Option<ClusterCheck>, PlanError> {
    let most = needed.saturating_add((f64::from(needed) * MAY_GROW).ceil() as u32);
    if most.saturating_add(spare) > MOST_REPLICAS {
        return Ok(None);
    }
    let mut replicas = needed;
    let mut seen = simulate(replicas, routing)?;
    while !seen.met && replicas < most {
        replicas += 1;
        seen = simulate(replicas, routing)?;
    }
    let left = (replicas + spare).saturating_sub(1);
    let one_failed = match left {
        0 => None,
        _ if left == replicas => Some(seen.clone()),
        _ => Some(simulate(left, routing)?),
    };
    Ok(Some(ClusterCheck {
        added: replicas - needed,
        round_robin: simulate(replicas, Routing::RoundRobin)?,
        routing: match routing {
            Routing::PrefixAware(_) => "prefix-aware",
            _ => "fewest in flight",
        },
        routed: seen,
        one_failed,
    }))
}

impl Replica<'_> {
    /// `replicas` of these, or units, behind a router, at the rate of all of them together.
    pub fn together(
        &self,
        replicas: u32,
        routing: Routing,
        rate_rps: f64,
        requests: u32,
        seed: u64,
        traffic: &Traffic<'_>,
        limits: &[Limit],
    ) -> Result<Seen, PlanError> {
        let extent = self.extent(rate_rps, requests, MAX_REQUESTS);
        let workload = generate(&traffic(rate_rps, extent.requests))
            .map_err(|error| PlanError::Workload(error.to_string()))?;
        let mut judge =
            Judge::new(limits, extent.warm, workload.requests.len() as u64).until(last_opening(&workload));
        let config = self.cluster(replicas, routing, seed);
        simulate_with(&config, &workload, None, Some(&mut judge))
            .map_err(|error| PlanError::Engine(error.to_string()))?;
        let (observed, verdict) = judge.observed();
        Ok(Seen { replicas, observed, met: verdict.met })
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    const FEWEST: Routing = Routing::LeastOutstanding;

    /// Holds from so many replicas on; round robin needs one more.
    fn from(least: u32, log: &RefCell<Vec<u32>>) -> impl Fn(u32, Routing) -> Result<Seen, PlanError> {
        move |replicas, routing| {
            log.borrow_mut().push(replicas);
            let needed = least + u32::from(routing == Routing::RoundRobin);
            Ok(Seen { replicas, observed: Observed::default(), met: replicas >= needed })
        }
    }

    #[test]
    fn a_row_grows_until_its_cluster_holds() {
        let log = RefCell::default();
        let check = check(8, 0, FEWEST, &from(9, &log)).unwrap().unwrap();
        assert_eq!((check.added, check.routed.replicas), (1, 9));
        assert!(check.routed.met && !check.round_robin.met);
        // Without a spare one, what is left of nine does not hold.
        assert_eq!(check.one_failed.as_ref().unwrap().replicas, 8);
        assert!(!check.survives_one());
    }

    #[test]
    fn a_spare_replica_may_fail() {
        let log = RefCell::default();
        let check = check(4, 1, FEWEST, &from(4, &log)).unwrap().unwrap();
        assert!(check.survives_one() && check.added == 0);
        // What is left of five are the four that were simulated before.
        assert_eq!(*log.borrow(), [4, 4]);
    }

    #[test]
    fn a_row_that_never_holds_is_left_as_broken() {
        let log = RefCell::default();
        let check = check(4, 0, FEWEST, &from(100, &log)).unwrap().unwrap();
        assert!(!check.routed.met);
        assert_eq!(check.added, 1);
    }

    #[test]
    fn one_replica_leaves_nothing_and_thousands_are_not_simulated() {
        let log = RefCell::default();
        assert_eq!(check(1, 0, FEWEST, &from(1, &log)).unwrap().unwrap().one_failed, None);
        assert_eq!(check(u32::MAX, 1, FEWEST, &from(1, &log)).unwrap(), None);
    }
}
