//! Conversations as they are planned and as they are put together: what a turn's prompt holds, and when a session ends.

use std::time::Duration;

use llmlab_loadgen::{
    Abandonment, Arrivals, Conversations, HangUp, LengthDist, Lengths, Mode, Patience, PlannedRequest,
    Prefixes, Prompt, PromptStyle, Said, Sessions, TimeDist, TurnCount, WorkloadConfig, WorkloadError,
    generate,
};
use proptest::prelude::*;

fn config(turns: TurnCount, requests: u64) -> WorkloadConfig {
    WorkloadConfig {
        seed: 9,
        requests,
        lengths: Lengths::Independent {
            input: LengthDist::Uniform { min: 10, max: 40 },
            output: LengthDist::Uniform { min: 5, max: 20 },
        },
        scale_input: 1.0,
        scale_output: 1.0,
        input_range: (1, 100),
        output_range: (1, 100),
        arrivals: Arrivals::Poisson { rate_rps: 2.0 },
        prompts: PromptStyle::TokenIds { first: 4, end: 500 },
        prefixes: Prefixes::one(16),
        adapters: None,
        sessions: Some(Sessions {
            turns,
            think_time: TimeDist::Exponential { mean: Duration::from_secs(1) },
            max_context_tokens: 200,
        }),
        abandonment: None,
    }
}

fn ids(prompt: &Prompt) -> &[u32] {
    match prompt {
        Prompt::Tokens(ids) => ids,
        other => panic!("{other:?}"),
    }
}

/// An answer of the planned length, of one id.
fn full(request: &PlannedRequest, id: u32) -> Said {
    Said { tokens: request.max_tokens, ids: vec![id; request.max_tokens as usize], ..Said::default() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn sessions_fill_the_requests_and_fit_the_context(seed in any::<u64>(), requests in 1u64..120, mean in 1.0..12.0f64) {
        let config = WorkloadConfig { seed, ..config(TurnCount::Geometric { mean }, requests) };
        let workload = generate(&config).unwrap();
        let facts = workload.sessions.unwrap();
        prop_assert_eq!(workload.requests.len() as u64, requests);
        prop_assert!(facts.ended_early <= facts.sessions && facts.sessions <= requests);
        let mut sessions = 0;
        for (place, request) in workload.requests.iter().enumerate() {
            let turn = request.turn.as_ref().unwrap();
            let next = workload.requests.get(place + 1).and_then(|next| next.turn.as_ref());
            prop_assert_eq!(turn.last, next.is_none_or(|next| next.turn == 0));
            prop_assert!(next.is_none_or(|next| next.turn == 0 || (next.session, next.turn) == (turn.session, turn.turn + 1)));
            prop_assert!(request.prompt_tokens + request.max_tokens <= 200);
            prop_assert_eq!(turn.turn == 0, turn.think_time.is_zero());
            prop_assert_eq!(ids(&request.prompt).len(), turn.new_tokens as usize);
            sessions += u64::from(turn.turn == 0);
        }
        prop_assert_eq!(sessions, facts.sessions);
        // More requests change nothing but how the last session goes on.
        let longer = generate(&WorkloadConfig { requests: requests + 50, ..config }).unwrap();
        let last = workload.requests.last().unwrap().turn.as_ref().unwrap().session;
        let earlier = |request: &&PlannedRequest| request.turn.as_ref().unwrap().session < last;
        prop_assert!(workload.requests.iter().filter(earlier).eq(longer.requests.iter().filter(earlier)));
    }

    #[test]
    fn a_prompt_is_all_that_was_said_before(seed in any::<u64>()) {
        let config = WorkloadConfig { seed, ..config(TurnCount::Uniform { min: 2, max: 6 }, 40) };
        let workload = generate(&config).unwrap();
        let mut conversations = Conversations::new(false);
        let mut before: Vec<u32> = Vec::new();
        for planned in &workload.requests {
            let turn = planned.turn.as_ref().unwrap();
            let (sent, facts) = conversations.compose(planned).unwrap();
            if turn.turn == 0 {
                before.clear();
            }
            prop_assert_eq!(facts.context_tokens as usize, before.len());
            prop_assert_eq!(facts.stand_ins, 0);
            prop_assert_eq!(sent.prompt_tokens, planned.prompt_tokens, "every answer has its planned length");
            before.extend_from_slice(ids(&planned.prompt));
            prop_assert_eq!(ids(&sent.prompt), &before[..]);
            if !turn.last {
                let said = full(planned, planned.index as u32 + 1000);
                before.extend_from_slice(&said.ids);
                conversations.answered(planned, said);
            }
        }
    }
}

#[test]
fn the_system_prompt_comes_before_the_first_turn_and_only_there() {
    let workload = generate(&config(TurnCount::Fixed { turns: 3 }, 30)).unwrap();
    let prefix = &ids(&workload.requests[0].prompt)[..16];
    for request in &workload.requests {
        let turn = request.turn.as_ref().unwrap();
        let begins = ids(&request.prompt).starts_with(prefix);
        assert_eq!(begins, turn.turn == 0);
        assert!(turn.turn > 0 || turn.new_tokens >= 26, "16 shared and at least 10 of its own");
    }
}

#[test]
fn turn_counts_follow_their_distribution() {
    let mean = |turns| {
        let config = WorkloadConfig {
            sessions: Some(Sessions {
                turns,
                think_time: TimeDist::Fixed { time: Duration::ZERO },
                max_context_tokens: u32::MAX,
            }),
            ..config(turns, 4000)
        };
        4000.0 / generate(&config).unwrap().sessions.unwrap().sessions as f64
    };
    assert_eq!(mean(TurnCount::Fixed { turns: 4 }), 4.0);
    let uniform = mean(TurnCount::Uniform { min: 2, max: 6 });
    assert!((3.8..4.2).contains(&uniform), "{uniform}");
    let geometric = mean(TurnCount::Geometric { mean: 4.0 });
    assert!((3.5..4.5).contains(&geometric), "{geometric}");
}

fn two_turns(prompts: PromptStyle) -> (PlannedRequest, PlannedRequest) {
    let config = WorkloadConfig { prompts, ..config(TurnCount::Fixed { turns: 2 }, 2) };
    let [first, second] = <[_; 2]>::try_from(generate(&config).unwrap().requests).unwrap();
    (first, second)
}

/// The second turn after an answer to the first.
fn after(prompts: PromptStyle, messages: bool, said: Said) -> (PlannedRequest, PlannedRequest, u32, Prompt) {
    let (first, second) = two_turns(prompts);
    let mut conversations = Conversations::new(messages);
    conversations.compose(&first).unwrap();
    conversations.answered(&first, said);
    let (sent, facts) = conversations.compose(&second).unwrap();
    assert_eq!(sent.prompt_tokens, facts.context_tokens + second.turn.as_ref().unwrap().new_tokens);
    (first, second, facts.stand_ins, sent.prompt)
}

const IDS: PromptStyle = PromptStyle::TokenIds { first: 4, end: 500 };
const WORDS: PromptStyle = PromptStyle::Words { tokens_per_word: 1.3 };

#[test]
fn ids_that_are_not_known_are_stood_in_for_and_counted() {
    let stand_in = |said: Said| {
        let (first, second, stand_ins, prompt) = after(IDS, false, said);
        let (own, new) = (ids(&first.prompt).len(), ids(&second.prompt).len());
        let middle = &ids(&prompt)[own..ids(&prompt).len() - new];
        assert!(ids(&first.turn.as_ref().unwrap().stand_in).starts_with(middle));
        (stand_ins, middle.len() as u32, first.max_tokens)
    };
    let (stand_ins, tokens, planned) = stand_in(Said::default());
    assert_eq!((stand_ins, tokens), (1, planned), "after a failure the planned length");
    assert_eq!(stand_in(Said { tokens: 3, ..Said::default() }).1, 3, "as long as what came");
    assert_eq!(stand_in(Said { tokens: 3, ids: vec![9], ..Said::default() }).0, 1, "not all are known");
    let nothing = stand_in(Said { abandoned: true, ..Said::default() });
    assert_eq!((nothing.0, nothing.1), (0, 0), "who hung up before the first token read nothing");
    let (first, _, stand_ins, prompt) =
        after(IDS, false, Said { tokens: 2, ids: vec![7, 8], abandoned: true, ..Said::default() });
    assert_eq!((stand_ins, &ids(&prompt)[ids(&first.prompt).len()..][..2]), (0, &[7, 8][..]));
}

#[test]
fn words_are_messages_or_one_text() {
    let text = |prompt: &Prompt| match prompt {
        Prompt::Text(text) => text.clone(),
        other => panic!("{other:?}"),
    };
    let said = || Said { tokens: 2, text: " an answer".into(), ..Said::default() };
    let (first, second, stand_ins, prompt) = after(WORDS, true, said());
    let (asked, then) = (text(&first.prompt), text(&second.prompt));
    assert_eq!(prompt, Prompt::Messages(vec![asked.clone(), " an answer".into(), then.clone()]));
    assert_eq!(stand_ins, 0);
    let (.., prompt) = after(WORDS, false, said());
    assert_eq!(text(&prompt), format!("{asked} an answer {then}"));
    let nothing = Said { abandoned: true, ..Said::default() };
    let (.., prompt) = after(WORDS, true, nothing);
    assert_eq!(prompt, Prompt::Messages(vec![format!("{asked} {then}")]), "no empty message");
    let (.., stand_ins, prompt) = after(WORDS, true, Said { tokens: 2, ..Said::default() });
    assert!(stand_ins == 1 && matches!(prompt, Prompt::Messages(texts) if texts.len() == 3));
}

#[test]
fn clients_hang_up_as_often_as_asked() {
    let patience = Patience::Tokens(LengthDist::Uniform { min: 1, max: 50 });
    let config = WorkloadConfig {
        sessions: None,
        abandonment: Some(Abandonment { share: 0.3, patience }),
        ..config(TurnCount::Fixed { turns: 1 }, 2000)
    };
    let requests = generate(&config).unwrap().requests;
    let mut left = 0.0;
    for request in &requests {
        let Some(HangUp::AfterTokens(tokens)) = request.hang_up else { continue };
        assert!((1..request.max_tokens).contains(&tokens), "{tokens} of {}", request.max_tokens);
        left += 1.0;
    }
    // Four standard deviations of a share.
    assert!((left / 2000.0f64 - 0.3).abs() < 4.0 * (0.3f64 * 0.7 / 2000.0).sqrt(), "{left}");
}

#[test]
fn what_is_no_conversation_is_refused() {
    for turns in [
        TurnCount::Fixed { turns: 0 },
        TurnCount::Fixed { turns: u32::MAX },
        TurnCount::Uniform { min: 3, max: 2 },
        TurnCount::Geometric { mean: 0.5 },
        TurnCount::Geometric { mean: f64::NAN },
    ] {
        assert!(matches!(generate(&config(turns, 10)), Err(WorkloadError::Turns { .. })), "{turns:?}");
    }
    let share = WorkloadConfig {
        abandonment: Some(Abandonment {
            share: 1.5,
            patience: Patience::Time(TimeDist::Fixed { time: Duration::ZERO }),
        }),
        ..config(TurnCount::Fixed { turns: 1 }, 10)
    };
    assert_eq!(generate(&share), Err(WorkloadError::Share { value: 1.5 }));
    let closed = Arrivals::Closed { users: 3, think_time: Duration::ZERO };
    let closed = WorkloadConfig { arrivals: closed, ..config(TurnCount::Fixed { turns: 2 }, 10) };
    assert!(matches!(generate(&closed).unwrap().mode, Mode::Closed { users: 3, .. }));
}
