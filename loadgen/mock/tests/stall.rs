//! Coordinated omission: a server that stands still for 2 s of every 10 s, and what two kinds of client say of it.

mod support;

use std::time::Duration;

use llmlab_loadgen::Arrivals;
use llmlab_mock::{Mock, MockConfig, Stall, Timing};
use llmlab_results::record::{Outcome, RequestRecord};
use support::*;

const TTFT: Duration = Duration::from_millis(20);

fn stalling() -> Mock {
    let stall = Stall::new(Duration::from_secs(2), Duration::from_secs(10)).unwrap();
    Mock::start(MockConfig::new(Timing { stall: Some(stall), ..Timing::steady(TTFT, ms(1)) })).unwrap()
}

/// Nearest rank, seconds; from the scheduled time, as everything counts.
fn ttft_p99_s(records: &[RequestRecord]) -> f64 {
    let mut ttft_ns: Vec<u64> =
        records.iter().map(|r| r.first_token_ns().unwrap() - r.scheduled_ns).collect();
    ttft_ns.sort_unstable();
    ttft_ns[(ttft_ns.len() * 99).div_ceil(100) - 1] as f64 / 1e9
}

/// A request that comes u seconds into a period of 10 s, with T = 0.02 s to its first token, waits
///
/// - T, if it is done before the stall: u < 8 - T;
/// - T + 2, if the stall begins while it is under way: 8 - T <= u < 8;
/// - T + (10 - u), if it comes in the stall: 8 <= u < 10.
///
/// With u uniform, P(wait > x) for T < x < T + 2 is the share of u in the second case, T / 10, and in the third with
/// 10 - u > x - T, (2 - (x - T)) / 10. At the 99th percentile the sum is 0.01: T + 2 + T - x = 0.1, x = 1.9 + 2 T = 1.94 s.
/// A run of one whole period has u uniform wherever it begins. Of 1,000 equally spaced requests the nearest rank is within
/// one spacing, 10 ms, of that.
#[test]
fn an_open_loop_sees_the_stall_as_it_is() {
    let mock = stalling();
    let arrivals = Arrivals::Constant { rate_rps: 100.0 };
    let (records, facts) = run(&endpoint(&mock), &workload(1000, 1, arrivals));
    assert!(records.iter().all(|r| r.outcome == Outcome::Ok), "{records:?}");
    let analytic_s = 1.9 + 2.0 * TTFT.as_secs_f64();
    let p99_s = ttft_p99_s(&records);
    assert!((p99_s / analytic_s - 1.0).abs() < 0.05, "p99 {p99_s} s instead of {analytic_s} s");
    // The schedule went on through the stall: no request waited for another.
    let last_ns = records.iter().map(|r| r.scheduled_ns).max().unwrap();
    assert!((9_900_000_000..10_100_000_000).contains(&last_ns), "{last_ns}");
    assert!(facts.elapsed < Duration::from_secs(20), "{facts:?}");
}

/// One user, who waits for every answer, meets each stall once: 1 of 300 requests, which no 99th percentile shows.
#[test]
fn a_closed_loop_hides_it() {
    let mock = stalling();
    let (records, facts) = run(&endpoint(&mock), &workload(300, 1, users(1)));
    assert!(facts.elapsed < Duration::from_secs(60));
    let p99_s = ttft_p99_s(&records);
    assert!(p99_s < 0.5, "p99 {p99_s} s");
}
