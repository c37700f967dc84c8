//! The issuer against random servers: any order and timing of finishes must leave its invariants standing.

use std::time::Duration;

use llmlab_loadgen::{Issuer, Mode, PlannedRequest, Prompt, Turn, Workload};
use proptest::prelude::*;

fn workload(gaps_ms: &[u64], mode: Mode) -> Workload {
    let mut at = Duration::ZERO;
    let requests = (0..).zip(gaps_ms).map(|(index, gap)| {
        at += Duration::from_millis(*gap);
        PlannedRequest {
            index,
            at,
            prompt: Prompt::Tokens(vec![1]),
            prompt_tokens: 1,
            max_tokens: 1,
            adapter: None,
            turn: None,
            hang_up: None,
        }
    });
    Workload { requests: requests.collect(), mode, sessions: None, prefix_hit_rate: None }
}

/// Drives the issuer on a clock of its own. Every step either issues what is due or finishes one of those in flight,
/// as `choices` say; time passes by the choices too. Returns (index, scheduled, issued at, in flight after).
fn simulate(workload: &Workload, choices: &[(u8, u64)]) -> Vec<(u64, Duration, Duration, usize)> {
    let mut issuer = Issuer::new(workload);
    let mut now = Duration::ZERO;
    let mut in_flight: Vec<u64> = Vec::new();
    let mut log = Vec::new();
    let mut choices = choices.iter().cycle();
    while issuer.next_due().is_some() || !in_flight.is_empty() {
        let (pick, pass_ms) = *choices.next().unwrap();
        now += Duration::from_millis(pass_ms);
        let finish = !in_flight.is_empty() && (pick % 2 == 0 || issuer.next_due().is_none());
        if finish {
            let index = in_flight.swap_remove(pick as usize % in_flight.len());
            issuer.on_finished(now, index);
        } else {
            now = now.max(issuer.next_due().unwrap());
            let (scheduled, request) = issuer.issue().unwrap();
            in_flight.push(request.index);
            log.push((request.index, scheduled, now, issuer.in_flight()));
        }
        assert_eq!(issuer.in_flight(), in_flight.len());
    }
    assert_eq!(issuer.remaining(), 0);
    assert_eq!(issuer.issue(), None);
    log
}

fn choices() -> impl Strategy<Value = Vec<(u8, u64)>> {
    // The first choice lets time pass, so that a run always ends.
    (1u64..20, prop::collection::vec((any::<u8>(), 0u64..50), 0..40)).prop_map(|(ms, mut rest)| {
        rest.insert(0, (0, ms));
        rest
    })
}

proptest! {
    #[test]
    fn open_loop(gaps in prop::collection::vec(0u64..30, 0..60), choices in choices()) {
        let workload = workload(&gaps, Mode::Open);
        let log = simulate(&workload, &choices);
        prop_assert!(log.iter().map(|l| l.0).eq(0..gaps.len() as u64), "each once, in order");
        for (request, (_, scheduled, issued, _)) in workload.requests.iter().zip(&log) {
            prop_assert_eq!(*scheduled, request.at, "the server's pace must not move the schedule");
            prop_assert!(scheduled <= issued);
        }
    }

    #[test]
    fn closed_loop(requests in 0usize..60, users in 1u32..10, think_ms in 0u64..40, choices in choices()) {
        let think_time = Duration::from_millis(think_ms);
        let workload = workload(&vec![0; requests], Mode::Closed { users, think_time });
        let log = simulate(&workload, &choices);
        prop_assert!(log.iter().map(|l| l.0).eq(0..requests as u64), "each once, in order");
        prop_assert!(log.windows(2).all(|w| w[0].1 <= w[1].1), "scheduled times never decrease");
        for (index, scheduled, issued, in_flight) in log {
            prop_assert!(in_flight <= users as usize);
            prop_assert!(scheduled <= issued);
            prop_assert!(index >= u64::from(users) || scheduled == Duration::ZERO, "users start at once");
        }
    }
}

/// Requests as turns: session `s` has `turns[s]` of them, with think times that tell the turns apart.
fn in_sessions(turns: &[u32], gap_ms: u64, mode: Mode) -> Workload {
    let mut requests = Vec::new();
    for (session, &count) in (0..).zip(turns) {
        for turn in 0..count {
            requests.push(PlannedRequest {
                index: requests.len() as u64,
                at: Duration::from_millis(session * gap_ms),
                prompt: Prompt::Tokens(vec![1]),
                prompt_tokens: 1,
                max_tokens: 1,
                adapter: None,
                turn: Some(Turn {
                    session,
                    turn,
                    last: turn + 1 == count,
                    new_tokens: 1,
                    think_time: Duration::from_millis(u64::from(turn) * 7),
                    stand_in: Prompt::Tokens(vec![1]),
                }),
                hang_up: None,
            });
        }
    }
    Workload { requests, mode, sessions: None, prefix_hit_rate: None }
}

proptest! {
    #[test]
    fn turns_wait_for_the_turn_before(
        turns in prop::collection::vec(1u32..6, 0..20), gap in 0u64..60, users in prop::option::of(1u32..8), choices in choices()
    ) {
        let think_time = Duration::from_millis(5);
        let mode = users.map_or(Mode::Open, |users| Mode::Closed { users, think_time });
        let workload = in_sessions(&turns, gap, mode);
        let mut issuer = Issuer::new(&workload);
        let (mut now, mut in_flight, mut last) = (Duration::ZERO, Vec::<u64>::new(), Duration::ZERO);
        let mut finished_at = vec![None; workload.requests.len()];
        let mut issued = vec![false; workload.requests.len()];
        let mut openings = Vec::new();
        let mut choices = choices.iter().cycle();
        while issuer.next_due().is_some() || !in_flight.is_empty() {
            let (pick, pass_ms) = *choices.next().unwrap();
            now += Duration::from_millis(pass_ms);
            if !in_flight.is_empty() && (pick % 2 == 0 || issuer.next_due().is_none()) {
                let index = in_flight.swap_remove(pick as usize % in_flight.len());
                issuer.on_finished(now, index);
                finished_at[index as usize] = Some(now);
                continue;
            }
            now = now.max(issuer.next_due().unwrap());
            let (scheduled, request) = issuer.issue().unwrap();
            let (place, turn) = (request.index as usize, request.turn.as_ref().unwrap());
            prop_assert!(!std::mem::replace(&mut issued[place], true), "issued twice");
            prop_assert!(last <= scheduled && scheduled <= now);
            last = scheduled;
            match turn.turn {
                0 => openings.push(turn.session),
                _ => {
                    let before = finished_at[place - 1].expect("the turn before is over");
                    // Turns are due exactly then, unless something else was already scheduled for later.
                    prop_assert!(scheduled >= before + turn.think_time);
                }
            }
            in_flight.push(request.index);
            prop_assert!(users.is_none_or(|users| in_flight.len() <= users as usize));
        }
        prop_assert!(issued.iter().all(|issued| *issued), "each once");
        prop_assert!(openings.is_sorted(), "sessions begin in order");
        prop_assert_eq!((issuer.remaining(), issuer.issued()), (0, workload.requests.len()));
    }
}

#[test]
fn a_turn_is_due_when_its_user_has_thought_and_another_session_need_not_wait() {
    let workload = in_sessions(&[2, 1], 100, Mode::Open);
    let mut issuer = Issuer::new(&workload);
    let ms = Duration::from_millis;
    assert_eq!(issuer.issue().unwrap().1.index, 0);
    assert_eq!(issuer.next_due(), Some(ms(100)), "the second session");
    issuer.on_finished(ms(40), 0);
    assert_eq!(issuer.next_due(), Some(ms(47)), "the second turn of the first");
    assert_eq!(issuer.issue().unwrap().1.index, 1);
    assert_eq!(issuer.issue().unwrap().1.index, 2);
    assert_eq!(issuer.next_due(), None);
}

#[test]
fn a_user_begins_a_session_after_the_last_turn_of_another() {
    let workload = in_sessions(&[2, 1], 0, Mode::Closed { users: 1, think_time: Duration::from_millis(10) });
    let mut issuer = Issuer::new(&workload);
    let ms = Duration::from_millis;
    issuer.issue();
    assert_eq!(issuer.next_due(), None, "the user is busy");
    issuer.on_finished(ms(1), 0);
    assert_eq!(issuer.issue().unwrap().0, ms(8));
    issuer.on_finished(ms(20), 1);
    assert_eq!(issuer.next_due(), Some(ms(30)));
}

#[test]
fn a_user_waits_its_think_time() {
    let think_time = Duration::from_millis(10);
    let workload = workload(&[0, 0, 0], Mode::Closed { users: 1, think_time });
    let mut issuer = Issuer::new(&workload);
    assert_eq!(issuer.issue().unwrap().0, Duration::ZERO);
    assert_eq!(issuer.next_due(), None);
    issuer.on_finished(Duration::from_millis(7), 0);
    assert_eq!(issuer.next_due(), Some(Duration::from_millis(17)));
}

#[test]
#[should_panic(expected = "not in flight")]
fn finishing_twice_is_a_broken_invariant() {
    let workload = workload(&[0], Mode::Open);
    let mut issuer = Issuer::new(&workload);
    issuer.issue();
    issuer.on_finished(Duration::ZERO, 0);
    issuer.on_finished(Duration::ZERO, 0);
}
