//! The client's timestamps beside the mock's own. Limits here only catch what is broken, because tests run beside other
//! work; `llmlab doctor --client` has the real ones.

mod support;

use std::collections::HashMap;

use llmlab_loadgen::{Arrivals, PromptStyle, Protocol, request_id};
use llmlab_mock::{Jitter, Mock, MockConfig, Served, Timing, compare};
use llmlab_results::record::{CountSource, Outcome};
use support::*;

fn jittery() -> Timing {
    let jitter = Jitter::Exponential { mean: ms(2) };
    Timing { ttft_jitter: jitter, itl_jitter: jitter, ..Timing::steady(ms(30), ms(5)) }
}

#[test]
fn every_event_is_seen_after_it_was_sent_and_never_before_it_was_due() {
    let mock = Mock::start(MockConfig::new(jittery())).unwrap();
    let workload = workload(60, 20, Arrivals::Poisson { rate_rps: 100.0 });
    let (records, facts) = run(&endpoint(&mock), &workload);
    let log = mock.finish().unwrap();
    let by_id: HashMap<&str, &Served> =
        log.iter().map(|served| (served.id.as_deref().unwrap(), served)).collect();
    assert_eq!((log.len(), by_id.len()), (60, 60));
    for record in &records {
        assert_eq!((record.outcome, record.events.len()), (Outcome::Ok, 20), "{record:?}");
        let served = by_id[request_id(facts.start_monotonic_ns, record.index).as_str()];
        // Both read the same clock, so the order is exact.
        let at = |ns: u64| facts.start_monotonic_ns + ns;
        assert!(at(record.sent_ns.unwrap()) <= served.read_ns, "{record:?} {served:?}");
        for ((event, sent), due) in record.events.iter().zip(&served.sent_ns).zip(&served.due_ns) {
            assert!(due <= sent && *sent <= at(event.at_ns), "{record:?} {served:?}");
        }
        assert!(served.done_ns.unwrap() <= at(record.done_ns.unwrap()));
        assert!(served.due_ns[0] >= served.read_ns + 30_000_000, "jitter only adds to the time");
        assert!(served.due_ns.windows(2).all(|pair| pair[1] - pair[0] >= 5_000_000));
    }
    let accuracy = compare(facts.start_monotonic_ns, &records, &log);
    assert_eq!((accuracy.compared, accuracy.left_out), (60, 0));
    assert_eq!((accuracy.ttft.samples, accuracy.itl.samples), (60, 60 * 19));
    for (what, errors) in [("served", accuracy.served_late), ("sent", accuracy.send_lag)] {
        assert!(errors.p50_ns < 100_000_000, "{what} is late by {errors:?}");
    }
}

/// Gaps long enough that no busy machine hides a client that reads them wrongly.
#[test]
fn what_the_client_records_is_what_was_served() {
    let mock = Mock::start(MockConfig::new(Timing::steady(ms(300), ms(100)))).unwrap();
    let (records, facts) = run(&endpoint(&mock), &workload(12, 8, users(4)));
    let log = mock.finish().unwrap();
    let accuracy = compare(facts.start_monotonic_ns, &records, &log);
    assert_eq!((accuracy.ttft.samples, accuracy.itl.samples), (12, 12 * 7));
    assert!(accuracy.itl.p50_ns < 50_000_000, "{:?}", accuracy.itl);
    assert!(accuracy.ttft.p50_ns < 150_000_000, "{:?}", accuracy.ttft);
}

#[test]
fn a_timestamp_that_is_wrong_shows_as_an_error() {
    let mock = Mock::start(MockConfig::new(quick())).unwrap();
    let (mut records, facts) = run(&endpoint(&mock), &workload(1, 10, users(1)));
    let log = mock.finish().unwrap();
    let exact = compare(facts.start_monotonic_ns, &records, &log);
    let second = 1_000_000_000;
    records[0].events[0].at_ns += second;
    let wrong = compare(facts.start_monotonic_ns, &records, &log);
    assert!(wrong.ttft.max_ns.abs_diff(exact.ttft.max_ns + second) <= 2 * exact.ttft.max_ns, "{wrong:?}");
    assert!(wrong.itl.max_ns > second - 100_000_000, "{wrong:?}");
    let elsewhere = compare(facts.start_monotonic_ns + 1, &records, &log);
    assert_eq!((elsewhere.compared, elsewhere.left_out), (0, 1));
}

#[test]
fn equal_seeds_make_equal_timetables() {
    let gaps = |seed: u64| {
        let mock = Mock::start(MockConfig { seed, ..MockConfig::new(jittery()) }).unwrap();
        run(&endpoint(&mock), &workload(3, 6, users(1)));
        let log = mock.finish().unwrap();
        let gaps = log.iter().flat_map(|served| served.due_ns.windows(2).map(|pair| pair[1] - pair[0]));
        gaps.collect::<Vec<_>>()
    };
    let first = gaps(1);
    assert_eq!(first, gaps(1));
    assert_ne!(first, gaps(2));
}

#[test]
fn several_tokens_in_an_event_are_counted() {
    let timing = Timing { tokens_per_event: 3, ..quick() };
    let mock = Mock::start(MockConfig::new(timing)).unwrap();
    let (records, _) = run(&endpoint(&mock), &workload(2, 8, users(1)));
    for record in &records {
        assert_eq!(record.events.iter().map(|event| event.tokens).collect::<Vec<_>>(), [3, 3, 2]);
        assert_eq!((record.output_tokens, record.output_tokens_source), (8, CountSource::Usage));
        assert_eq!((record.prompt_tokens, record.prompt_tokens_source), (8, CountSource::Usage));
    }
}

#[test]
fn chat_begins_with_a_role_that_is_not_the_first_token() {
    let mock = Mock::start(MockConfig::new(Timing::steady(ms(400), ms(1)))).unwrap();
    let mut endpoint = endpoint(&mock);
    endpoint.protocol = Protocol::OpenAiChat;
    let prompts = PromptStyle::Words { tokens_per_word: 1.0 };
    let (records, _) = run(&endpoint, &workload_of(2, 4, users(1), prompts));
    for record in &records {
        assert_eq!((record.outcome, record.events.len()), (Outcome::Ok, 4), "{record:?}");
        let (role, first) = (record.role_ns.unwrap(), record.first_token_ns().unwrap());
        assert!(first - role > 10_000_000, "the role comes at once, the token after 400 ms: {record:?}");
        assert_eq!(record.finish_reason.as_deref(), Some("length"));
    }
}
