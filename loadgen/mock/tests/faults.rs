//! Every fault through the real client: a class of its own in the records, no request lost, nothing that hangs, and the
//! other requests as if nothing had been.

mod support;

use std::time::Duration;

use llmlab_loadgen::{Endpoint, Timeouts};
use llmlab_mock::{Fault, Faults, Mock, MockConfig, Served};
use llmlab_results::record::{Outcome, RequestRecord};
use support::*;

const REQUESTS: u64 = 40;
const TOKENS: u32 = 8;

/// What an outcome of a record is, as a report tells classes apart.
fn class(record: &RequestRecord) -> (Outcome, Option<u16>) {
    (record.outcome, record.http_status.filter(|_| record.outcome == Outcome::Http))
}

struct Ran {
    records: Vec<RequestRecord>,
    log: Vec<Served>,
}

/// 40 requests of 4 users, of which about half meet the fault.
fn with(fault: Fault, change: impl Fn(&mut Endpoint)) -> Ran {
    let rate = if fault == Fault::Refuse { 1.0 } else { 0.5 };
    let faults = Faults::new(vec![(fault, rate)]).unwrap();
    let mock = Mock::start(MockConfig { faults, seed: 3, ..MockConfig::new(quick()) }).unwrap();
    let mut endpoint = endpoint(&mock);
    change(&mut endpoint);
    let (records, facts) = run(&endpoint, &workload(REQUESTS, TOKENS, users(4)));
    assert!(facts.elapsed < Duration::from_secs(60), "{fault}: {facts:?}");
    assert_eq!(facts.issued, REQUESTS);
    for record in &records {
        let times = [
            record.sent_ns,
            record.headers_ns,
            record.first_byte_ns,
            record.first_token_ns(),
            record.done_ns,
        ];
        let times: Vec<u64> =
            std::iter::once(record.scheduled_ns).chain(times.into_iter().flatten()).collect();
        assert!(times.is_sorted(), "{record:?}");
        assert_eq!(record.error.is_none(), record.outcome == Outcome::Ok, "{record:?}");
    }
    Ran { records, log: mock.finish().unwrap() }
}

/// The requests that met the fault, all in one class; the others are fine.
fn struck(
    fault: Fault,
    expected: (Outcome, Option<u16>),
    change: impl Fn(&mut Endpoint),
) -> Vec<RequestRecord> {
    let ran = with(fault, change);
    let met = ran.log.iter().filter(|served| served.fault == Some(fault)).count();
    assert!((5..=35).contains(&met), "{fault} struck {met} times");
    assert_eq!(ran.log.len() as u64, REQUESTS, "{fault}: the server saw every request once");
    let (fine, failed): (Vec<_>, Vec<_>) =
        ran.records.into_iter().partition(|record| record.outcome == Outcome::Ok);
    assert_eq!(failed.len(), met, "{fault}");
    for record in &failed {
        assert_eq!(class(record), expected, "{fault}: {record:?}");
    }
    for record in &fine {
        assert_eq!((record.events.len() as u32, record.output_tokens), (TOKENS, TOKENS), "{record:?}");
    }
    failed
}

fn as_it_is(_: &mut Endpoint) {}

#[test]
fn refuse() {
    let ran = with(Fault::Refuse, as_it_is);
    for record in &ran.records {
        assert_eq!((class(record), record.sent_ns), ((Outcome::Connect, None), None), "{record:?}");
    }
}

#[test]
fn reset_before_headers() {
    // On a fresh connection that is a failure; on a reused one the request goes out again.
    let ran = with(Fault::ResetBeforeHeaders, as_it_is);
    let met = ran.log.iter().filter(|served| served.fault.is_some()).count();
    let failed = ran.records.iter().filter(|record| record.outcome != Outcome::Ok).count();
    let resends: u32 = ran.records.iter().map(|record| record.resends).sum();
    assert_eq!(met, failed + resends as usize);
    assert!(failed > 0 && resends > 0, "{failed} failed, {resends} resent");
    assert_eq!(ran.log.len() as u64, REQUESTS + u64::from(resends));
    for record in ran.records.iter().filter(|record| record.outcome != Outcome::Ok) {
        assert_eq!(class(record), (Outcome::NoResponse, None), "{record:?}");
    }
}

#[test]
fn close_reused() {
    let ran = with(Fault::CloseReused, as_it_is);
    let met = ran.log.iter().filter(|served| served.fault.is_some()).count();
    assert!(met > 5);
    assert!(ran.records.iter().all(|record| record.outcome == Outcome::Ok), "{:?}", ran.records);
    assert_eq!(ran.records.iter().filter(|record| record.resends == 1).count(), met);
    assert!(ran.records.iter().all(|record| record.resends == 0 || record.connect_ns.is_some()));
}

#[test]
fn cut_mid_event() {
    let failed = struck(Fault::CutMidEvent, (Outcome::StreamCut, None), as_it_is);
    assert!(failed.iter().all(|record| record.events.len() as u32 == TOKENS / 2), "what came is kept");
}

#[test]
fn no_done() {
    let failed = struck(Fault::NoDone, (Outcome::NoTerminator, None), as_it_is);
    assert!(failed.iter().all(|record| record.events.len() as u32 == TOKENS && record.done_ns.is_none()));
}

#[test]
fn status_429() {
    let failed = struck(Fault::Http429, (Outcome::Http, Some(429)), as_it_is);
    assert!(failed.iter().all(|record| record.error.as_ref().unwrap().contains("retry-after 1")));
}

#[test]
fn status_500() {
    let failed = struck(Fault::Http500, (Outcome::Http, Some(500)), as_it_is);
    assert!(failed.iter().all(|record| record.error.as_ref().unwrap().contains("internal error")));
}

#[test]
fn malformed_json() {
    struck(Fault::MalformedJson, (Outcome::Malformed, None), as_it_is);
}

#[test]
fn huge_event() {
    struck(Fault::HugeEvent, (Outcome::TooLarge, None), as_it_is);
}

#[test]
fn slow_drip() {
    let failed = struck(Fault::SlowDrip, (Outcome::Timeout, None), |endpoint| {
        endpoint.timeouts = Timeouts { inter_token: ms(700), ..endpoint.timeouts };
    });
    for record in &failed {
        assert!(record.error.as_ref().unwrap().starts_with("inter-token timeout"), "{record:?}");
        assert_eq!(record.events.len() as u32, TOKENS / 2);
    }
}

#[test]
fn a_slow_drip_ends_at_the_total_timeout_too() {
    let failed = struck(Fault::SlowDrip, (Outcome::Timeout, None), |endpoint| {
        endpoint.timeouts = Timeouts { total: ms(1000), ..endpoint.timeouts };
    });
    assert!(failed.iter().all(|record| record.error.as_ref().unwrap().starts_with("total timeout")));
}
