//! Token ids for prompts of words, which have only a length here. Ids of their own keep the prefix cache from finding what is
//! not there.

use std::borrow::Cow;

use llmlab_core::request::TokenId;
use llmlab_loadgen::{Prompt, Turn, Workload};

/// Sets stand-ins apart from prompts.
const STAND_IN: u64 = 0x5bd1_e995;

pub(super) fn of_text(index: u64, tokens: u32) -> impl Iterator<Item = TokenId> {
    let first = (index as u32).wrapping_mul(0x9e37_79b9);
    (0..tokens).map(move |position| first.wrapping_add(position))
}

/// Turns of words as turns of ids, so that a turn begins with the ids of the turns before.
pub(crate) fn of_turns(workload: &Workload) -> Cow<'_, Workload> {
    let in_words =
        workload.requests.iter().any(|r| r.turn.is_some() && !matches!(r.prompt, Prompt::Tokens(_)));
    if !in_words {
        return Cow::Borrowed(workload);
    }
    let mut workload = workload.clone();
    for request in &mut workload.requests {
        let Some(Turn { new_tokens, stand_in, .. }) = &mut request.turn else { continue };
        request.prompt = Prompt::Tokens(of_text(request.index, *new_tokens).collect());
        *stand_in = Prompt::Tokens(of_text(request.index ^ STAND_IN, request.max_tokens).collect());
    }
    Cow::Owned(workload)
}
