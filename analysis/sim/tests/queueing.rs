//! A cluster whose service times are drawn from a known distribution waits as queueing theory says.
//!
//! A service is one step over a prompt, a millisecond a token. Prompt lengths are geometric, the exponential distribution of
//! whole numbers, or all the same; theory is that of the distribution drawn, so nothing is approximated. Bounds are four
//! standard errors over independent seeds, which a correct simulation misses once in 16,000 tests; seeds are fixed.

mod common;

use std::time::Duration;

use common::cluster::{Linear, one_at_a_time, pool};
use common::{fixed, patient};
use llmlab_loadgen::{Arrivals, Prompt, Workload};
use llmlab_sim::cluster::{ClusterConfig, ClusterOutcome, Verdict, replications, simulate};

const MS_A_TOKEN: Linear = Linear { step_us: 0, row_us: 1000, key_ns: 0, foresees: true };

#[derive(Clone, Copy)]
enum Service {
    Geometric { mean_tokens: f64 },
    Fixed { tokens: u32 },
}

impl Service {
    fn tokens(self, draw: f64) -> u32 {
        match self {
            Service::Fixed { tokens } => tokens,
            Service::Geometric { mean_tokens } => {
                1 + ((1.0 - draw).ln() / (1.0 - 1.0 / mean_tokens).ln()).floor() as u32
            }
        }
    }

    /// First and second moment in seconds.
    fn moments(self) -> (f64, f64) {
        match self {
            Service::Fixed { tokens } => (f64::from(tokens) / 1e3, (f64::from(tokens) / 1e3).powi(2)),
            Service::Geometric { mean_tokens } => {
                let p = 1.0 / mean_tokens;
                (mean_tokens / 1e3, (2.0 - p) / (p * p) / 1e6)
            }
        }
    }
}

/// SplitMix64, in 0..1.
fn unit(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

fn load(seed: u64, requests: u64, rate_rps: f64, service: Service) -> Workload {
    let mut workload = fixed(requests, Arrivals::Poisson { rate_rps }, 1, 1);
    let mut state = seed.wrapping_mul(0x2545_f491_4f6c_dd1d);
    let mut at = 0.0;
    for request in &mut workload.requests {
        at += -(1.0 - unit(&mut state)).ln() / rate_rps;
        request.at = Duration::from_secs_f64(at);
        request.prompt_tokens = service.tokens(unit(&mut state)).min(8000);
        request.prompt = Prompt::Tokens(vec![1; request.prompt_tokens as usize]);
    }
    workload
}

fn run(seed: u64, requests: u64, rho: f64, servers: u32, service: Service) -> ClusterOutcome {
    let rate_rps = rho * f64::from(servers) / service.moments().0;
    let mut config = ClusterConfig::new(vec![pool(one_at_a_time(), MS_A_TOKEN, servers)], patient());
    // The one queue is the router's.
    config.admission.most_in_flight_per_replica = (servers > 1).then_some(1);
    let outcome = simulate(&config, &load(seed, requests, rate_rps, service)).unwrap();
    assert_eq!(outcome.requests.len() as u64, requests);
    assert!(outcome.little.relative_gap().abs() < 1e-6, "{:?}", outcome.little);
    outcome
}

fn mean_sojourn_s(outcome: &ClusterOutcome) -> f64 {
    outcome.mean(|request| Some(request.e2e().as_secs_f64())).unwrap().mean
}

/// Mean time in the system, over seeds.
fn check(rho: f64, servers: u32, service: Service, theory_s: f64) {
    let means: Vec<f64> =
        (1..=16).map(|seed| mean_sojourn_s(&run(seed, 1500, rho, servers, service))).collect();
    let interval = replications(&means).unwrap();
    let off = (interval.mean - theory_s) / interval.standard_error;
    assert!(off.abs() < 4.0, "{interval:?}, theory says {theory_s}: {off} standard errors off");
    assert!(interval.half_width < 0.15 * theory_s, "{interval:?} says nothing");
}

/// Pollaczek and Khinchine: of M/M/1 and M/D/1 alike.
fn one_server_s(rho: f64, service: Service) -> f64 {
    let (first, second) = service.moments();
    first + rho / first * second / (2.0 * (1.0 - rho))
}

#[test]
fn one_server_with_geometric_services_is_m_m_1() {
    let service = Service::Geometric { mean_tokens: 40.0 };
    for rho in [0.3, 0.7] {
        check(rho, 1, service, one_server_s(rho, service));
        // The continuous queue is E[S] / (1 - rho); whole numbers of tokens take it off by rho / 80.
        assert!((one_server_s(rho, service) * (1.0 - rho) / 0.040 - 1.0).abs() < 0.0125);
    }
}

#[test]
fn one_server_with_equal_services_is_m_d_1() {
    let service = Service::Fixed { tokens: 40 };
    check(0.7, 1, service, one_server_s(0.7, service));
}

#[test]
fn replicas_behind_one_queue_are_m_m_c() {
    let (servers, rho) = (3, 0.75);
    let service = Service::Geometric { mean_tokens: 200.0 };
    // Erlang's C formula; the variance of the services takes a quarter of a percent off the wait (Lee and Longton 1959).
    let load: f64 = rho * 3.0;
    let below = 1.0 + load + load * load / 2.0;
    let above = load.powi(3) / 6.0 / (1.0 - rho);
    let waits = above / (below + above);
    let (first, second) = service.moments();
    let wait_s = waits * first / (3.0 * (1.0 - rho)) * second / (2.0 * first * first);
    check(rho, servers, service, first + wait_s);
}

/// The interval that a single run gives holds the truth about as often as it says: a correct 95 % interval misses more than
/// six of twenty once in 3,000,000 tests. Batches that are a little dependent miss somewhat more often.
#[test]
fn an_interval_of_one_run_holds_the_truth() {
    let service = Service::Geometric { mean_tokens: 40.0 };
    let theory = one_server_s(0.5, service);
    let holds = |seed: &u64| {
        let outcome = run(*seed, 2000, 0.5, 1, service);
        outcome.mean(|request| Some(request.e2e().as_secs_f64())).unwrap().contains(theory)
    };
    let held = (100..120).filter(holds).count();
    assert!(held >= 14, "{held} of 20");
}

#[test]
fn more_than_a_server_can_do_is_called_unstable() {
    for (rho, servers, verdict) in [
        (0.7, 1, Verdict::Stable),
        (0.9, 3, Verdict::Stable),
        (1.2, 1, Verdict::Unstable),
        (1.2, 3, Verdict::Unstable),
    ] {
        let service = Service::Geometric { mean_tokens: 40.0 };
        let outcome = run(5, 4000, rho, servers, service);
        let stability = outcome.stability;
        assert_eq!(stability.verdict, verdict, "{rho} on {servers}: {stability:?}");
        let utilisation =
            stability.utilisation.unwrap_or_else(|| panic!("{rho} on {servers}: {stability:?}"));
        assert!((utilisation / rho - 1.0).abs() < 0.1, "{rho} on {servers}: {stability:?}");
        if rho > 1.0 {
            let surplus_rps = (rho - 1.0) * f64::from(servers) / 0.040;
            assert!((stability.growth_rps / surplus_rps - 1.0).abs() < 0.4, "{stability:?}");
        }
    }
}
