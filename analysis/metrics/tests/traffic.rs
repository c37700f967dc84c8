//! What the traffic holds: turns of conversations, clients that hang up, prompts that begin alike.

mod common;

use common::{MS, manifest, record, refused, trial};
use llmlab_metrics::prefix_hits::prefix_hit_share;
use llmlab_metrics::turns::{TurnGroup, turn_groups};
use llmlab_metrics::window::{Window, WindowRule};
use llmlab_metrics::{Trial, Warning, analyse, markdown, terminal};
use llmlab_results::journey::JourneyFacts;
use llmlab_results::manifest::SessionFacts;
use llmlab_results::record::{CountSource, Outcome, RequestRecord, TurnFacts};
use llmlab_results::step::{StepRow, StepSeq};

/// An abandoned request is neither success nor failure: it is in no percentile, no rate and no error, but counted.
#[test]
fn who_hung_up_is_counted_and_nothing_else() {
    let mut records: Vec<RequestRecord> =
        (0..10).map(|i| record(i, i * 10, &[i * 10 + 20, i * 10 + 30])).collect();
    records[9] = RequestRecord { outcome: Outcome::Abandoned, ..record(9, 90, &[5000, 6000]) };
    let a = analyse(&manifest(&["a"]), &[trial("a", 1, records)]);
    let t = &a.trials[0];
    let counts = t.requests;
    assert_eq!((counts.succeeded, counts.failed, counts.abandoned, counts.cancelled), (9, 0, 1, 0));
    assert!(t.errors.is_empty());
    let ttft = t.latency.ttft.as_ref().unwrap();
    assert_eq!((ttft.count, ttft.failures, ttft.max_ns), (9, 0, Some(20e6)));
    let row = terminal(&a, false, 100).lines().find(|line| line.starts_with("abandoned")).map(str::to_owned);
    assert!(row.as_ref().is_some_and(|row| row.contains("10")), "{row:?}");
}

fn turn(index: u64, turn: u32, stand_ins: u32, ttft_ms: u64) -> RequestRecord {
    RequestRecord {
        prompt_tokens: 10 * (turn + 1),
        turn: Some(TurnFacts { session: 0, turn, context_tokens: 10 * turn, stand_ins }),
        ..record(index, 100, &[100 + ttft_ms, 200 + ttft_ms])
    }
}

fn turns() -> Vec<RequestRecord> {
    vec![
        turn(0, 0, 0, 1),
        turn(1, 0, 0, 40),
        turn(2, 1, 0, 10),
        turn(3, 2, 1, 7),
        turn(4, 3, 2, 9),
        RequestRecord { turn: turn(5, 3, 3, 1).turn, prompt_tokens: 40, ..refused(5, 100) },
        record(6, 0, &[5]),
    ]
}

#[test]
fn turns_are_grouped_by_their_place() {
    let groups = turn_groups(&turns(), 1);
    let labels: Vec<String> = groups.iter().map(TurnGroup::label).collect();
    assert_eq!(labels, ["turn 1", "turn 2", "turns 3–4"]);
    assert_eq!(groups.iter().map(|g| g.requests).collect::<Vec<_>>(), [1, 1, 3], "warm-up is left out");
    let ttft = groups[2].ttft.as_ref().unwrap();
    assert_eq!((ttft.count, ttft.failures, ttft.min_ns), (2, 1, Some(7e6)));
    assert_eq!((groups[2].stand_ins, groups[2].prompt_tokens_mean), (6, (30.0 + 40.0 + 40.0) / 3.0));
    assert!(turn_groups(&[record(0, 0, &[5])], 0).is_empty(), "requests that stand alone have no turns");
}

#[test]
fn a_report_says_what_later_turns_cost() {
    let mut manifest = manifest(&["a"]);
    manifest.workload.sessions = Some(SessionFacts { sessions: 3, ended_early: 1 });
    let a = analyse(&manifest, &[trial("a", 1, turns())]);
    for page in [terminal(&a, false, 100), markdown(&a)] {
        for part in ["TTFT, turn 1", "TTFT, turns 3–4", "prompt 36.7 tok", "1 of them cut short", "stand-ins"]
        {
            assert!(page.contains(part), "{part} is missing in:\n{page}");
        }
    }
}

#[test]
fn stand_ins_are_those_of_one_trial() {
    let mut manifest = manifest(&["a"]);
    manifest.workload.sessions = Some(SessionFacts { sessions: 3, ended_early: 0 });
    let fewer: Vec<RequestRecord> = turns().into_iter().filter(|r| r.index != 4).collect();
    let words = |second: Vec<RequestRecord>| {
        let a = analyse(&manifest, &[trial("a", 1, turns()), trial("a", 2, second)]);
        markdown(&a).lines().find(|line| line.contains("stand-ins")).unwrap().to_owned()
    };
    assert!(words(turns()).contains("; 6 answers"), "{}", words(turns()));
    assert!(words(fewer.clone()).contains("; 4 to 6 answers"), "{}", words(fewer.clone()));
}

#[test]
fn a_turn_that_nobody_waited_for_has_no_ttft_and_one_that_failed_an_infinite_one() {
    let row = |outcome: Outcome| {
        let ended = RequestRecord { outcome, turn: turn(1, 1, 0, 1).turn, ..refused(1, 100) };
        let a = analyse(&manifest(&["a"]), &[trial("a", 1, vec![turn(0, 0, 0, 1), ended])]);
        markdown(&a).lines().find(|line| line.contains("TTFT, turn 2")).unwrap().to_owned()
    };
    assert!(!row(Outcome::Abandoned).contains('∞') && row(Outcome::Http).contains('∞'));
}

#[test]
fn prompts_of_a_journey_were_not_asked_to_have_a_length() {
    let mut longer = record(0, 0, &[100, 130]);
    longer.prompt_tokens = longer.prompt_tokens_requested + 50;
    longer.prompt_tokens_source = CountSource::Usage;
    let mut t = trial("a", 1, vec![longer]);
    let told = |t: &Trial| {
        let a = analyse(&manifest(&["a"]), std::slice::from_ref(t));
        a.warnings.iter().any(|warning| matches!(warning, Warning::PromptLengths { .. }))
    };
    assert!(told(&t));
    t.facts.journey = Some(JourneyFacts { users: 1, iterations: 1, steps: Vec::new() });
    assert!(!told(&t));
}

#[test]
fn prefix_hits_are_what_a_request_begins_with() {
    let seq = |id, context, new_tokens| StepSeq { id, new_tokens, context, ..StepSeq::default() };
    let row = |at_ms: u64, seqs| StepRow { start_monotonic_ns: at_ms * MS, seqs, ..StepRow::default() };
    let steps = [
        row(0, vec![seq(1, 8, 2)]),
        row(10, vec![seq(1, 10, 1), seq(2, 4, 6)]),
        row(20, vec![seq(2, 10, 1), seq(3, 0, 10)]),
    ];
    let records: Vec<RequestRecord> = [5, 15, 25].map(|at| record(at, 0, &[at])).into();
    let window = Window { start_ns: 10 * MS, end_ns: 30 * MS, rule: WindowRule::OpenLoop };
    // Request 1 begins before the window. 4 of the 20 prompt tokens of the other two were there.
    assert_eq!(prefix_hit_share(&records, &steps, 0, &window), Some(4.0 / 20.0));
    let nothing = [row(20, vec![seq(3, 0, 10)])];
    assert_eq!(prefix_hit_share(&records, &nothing, 0, &window), None, "nothing was found");
}
