//! What the sessions of a trial have said so far: turns become requests that can be sent. Without a clock, so that the wall
//! driver and a simulation put the same prompts together.

use std::collections::HashMap;

use llmlab_results::record::TurnFacts;

use crate::sessions::Turn;
use crate::workload::{PlannedRequest, Prompt};

/// The prompts of turns, from plans and answers.
#[derive(Debug)]
pub struct Conversations {
    /// The server takes a list of messages, and text is sent so.
    messages: bool,
    /// Of sessions with a turn still to come.
    open: HashMap<u64, History>,
}

/// What the client knows of an answer. Nothing of one that never began.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    /// As counted.
    pub tokens: u32,
    /// As the server named them; used where these are all.
    pub ids: Vec<u32>,
    pub text: String,
    /// The client hung up: that nothing came is all the answer there is.
    pub abandoned: bool,
}

#[derive(Debug, Default)]
struct History {
    /// In turn: what the user said and what was answered.
    parts: Vec<Prompt>,
    tokens: u32,
    stand_ins: u32,
}

impl Conversations {
    pub fn new(messages: bool) -> Self {
        Conversations { messages, open: HashMap::new() }
    }

    /// The turn with all that was said before it, and what its record says of that. The answers to the earlier turns of its
    /// session must be [known](Conversations::answered). `None` for a request that stands alone.
    pub fn compose(&mut self, planned: &PlannedRequest) -> Option<(PlannedRequest, TurnFacts)> {
        let turn = planned.turn.as_ref()?;
        let history = self.open.entry(turn.session).or_default();
        let facts = TurnFacts {
            session: turn.session,
            turn: turn.turn,
            context_tokens: history.tokens,
            stand_ins: history.stand_ins,
        };
        history.parts.push(planned.prompt.clone());
        history.tokens = history.tokens.saturating_add(turn.new_tokens);
        let request = PlannedRequest {
            index: planned.index,
            at: planned.at,
            prompt: joined(&history.parts, self.messages),
            prompt_tokens: history.tokens,
            max_tokens: planned.max_tokens,
            adapter: planned.adapter.clone(),
            turn: Some(Turn { stand_in: Prompt::Tokens(Vec::new()), ..turn.clone() }),
            hang_up: planned.hang_up,
        };
        if turn.last {
            self.open.remove(&turn.session);
        }
        Some((request, facts))
    }

    /// The answer to a turn, or what there was of it. Where the next prompt cannot have it as it was, it has the stand-in:
    /// also after a failure, because a server that refuses turns must not get shorter ones for it.
    pub fn answered(&mut self, planned: &PlannedRequest, said: Said) {
        let Some(turn) = &planned.turn else { return };
        let Some(history) = self.open.get_mut(&turn.session) else { return };
        if said.abandoned && said.tokens == 0 {
            history.parts.push(empty_like(&turn.stand_in));
            return;
        }
        let tokens = if said.tokens == 0 { planned.max_tokens } else { said.tokens };
        let (part, is_stand_in) = match &turn.stand_in {
            Prompt::Tokens(_) if tokens as usize == said.ids.len() => (Prompt::Tokens(said.ids), false),
            Prompt::Tokens(ids) => {
                (Prompt::Tokens(ids.iter().take(tokens as usize).copied().collect()), true)
            }
            Prompt::Text(_) if !said.text.is_empty() => (Prompt::Text(said.text), false),
            other => (other.clone(), true),
        };
        history.tokens = history.tokens.saturating_add(match &part {
            Prompt::Tokens(ids) => ids.len() as u32,
            Prompt::Text(_) | Prompt::Messages(_) => tokens,
        });
        history.parts.push(part);
        history.stand_ins += u32::from(is_stand_in);
    }
}

fn empty_like(prompt: &Prompt) -> Prompt {
    match prompt {
        Prompt::Tokens(_) => Prompt::Tokens(Vec::new()),
        Prompt::Text(_) | Prompt::Messages(_) => Prompt::Text(String::new()),
    }
}

/// One prompt of all parts. Text is joined so that a longer prompt begins with the shorter one and its answer, letter for
/// letter.
fn joined(parts: &[Prompt], messages: bool) -> Prompt {
    if let [only] = parts {
        return only.clone();
    }
    let mut ids = Vec::new();
    let mut texts: Vec<&str> = Vec::new();
    for part in parts {
        match part {
            Prompt::Tokens(more) => ids.extend_from_slice(more),
            Prompt::Text(text) => texts.push(text),
            Prompt::Messages(more) => texts.extend(more.iter().map(String::as_str)),
        }
    }
    match (texts.is_empty(), messages) {
        (true, _) => Prompt::Tokens(ids),
        (false, true) => Prompt::Messages(in_turns(&texts)),
        (false, false) => {
            let mut all = String::new();
            texts.into_iter().for_each(|text| append(&mut all, text));
            Prompt::Text(all)
        }
    }
}

/// User and assistant in turn. Where an answer never began, what the user said before and after it is one message: templates
/// refuse empty messages, and two of the user in a row.
pub(crate) fn in_turns(texts: &[&str]) -> Vec<String> {
    let mut messages: Vec<String> = Vec::with_capacity(texts.len());
    let mut unanswered = false;
    for (place, text) in texts.iter().enumerate() {
        match messages.last_mut() {
            Some(last) if unanswered => append(last, text),
            _ if place % 2 == 1 && text.is_empty() => {}
            _ => messages.push((*text).to_owned()),
        }
        unanswered = place % 2 == 1 && text.is_empty();
    }
    messages
}

fn append(text: &mut String, more: &str) {
    if !text.is_empty() && !more.is_empty() && !more.starts_with(char::is_whitespace) {
        text.push(' ');
    }
    text.push_str(more);
}
