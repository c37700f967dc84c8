//! A slot, what it remembers when it is idle, and how one is chosen for a request.

use std::cmp::Reverse;

use crate::request::{RequestId, TokenId};
use crate::scheduler::state::State;
use crate::step::BlockId;

/// While it serves, its tokens and blocks are those of the request's sequence.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) serving: Option<RequestId>,
    /// What was computed for the last request, and where it lies.
    pub(super) tokens: Vec<TokenId>,
    pub(super) blocks: Vec<BlockId>,
    /// When it became idle, counted in releases; 0 if it never served.
    pub(super) last_used: u64,
}

impl Slot {
    pub(super) fn common_prefix(&self, tokens: &[TokenId]) -> usize {
        self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count()
    }

    /// Forgets what it remembers and lets go of the memory.
    pub(super) fn clear(&mut self, state: &mut State) {
        state.blocks.let_go(&self.blocks);
        self.blocks.clear();
        self.tokens.clear();
    }
}

/// The idle slot that knows most of the prompt, if that is more than `threshold` of it; else the one idle for longest, of
/// equals the last. A threshold of 0 leaves only the latter.
pub(super) fn choose(slots: &[Slot], prompt: &[TokenId], threshold: f32) -> Option<usize> {
    let idle = || slots.iter().enumerate().filter(|(_, slot)| slot.serving.is_none());
    let (mut best, mut similar) = (threshold, None);
    for (i, slot) in idle().filter(|_| threshold > 0.0) {
        let similarity = slot.common_prefix(prompt) as f32 / prompt.len() as f32;
        if similarity > best {
            (best, similar) = (similarity, Some(i));
        }
    }
    similar.or_else(|| idle().min_by_key(|(i, slot)| (slot.last_used, Reverse(*i))).map(|(i, _)| i))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(known: &[(&[TokenId], u64)]) -> Vec<Slot> {
        let slot = |(tokens, last_used): &(&[TokenId], u64)| Slot {
            tokens: tokens.to_vec(),
            last_used: *last_used,
            ..Slot::default()
        };
        known.iter().map(slot).collect()
    }

    #[test]
    fn the_longest_common_prefix_wins_above_the_threshold_and_else_the_longest_idle() {
        let mut slots = slots(&[(&[1, 2, 3, 9], 5), (&[1, 2], 3), (&[7], 4)]);
        assert_eq!(choose(&slots, &[1, 2, 3, 4], 0.1), Some(0));
        assert_eq!(choose(&slots, &[1, 2, 3, 4], 0.0), Some(1));
        // Exactly the threshold is not enough.
        assert_eq!(choose(&slots, &[1, 2, 3, 4], 0.75), Some(1));
        slots[0].serving = Some(RequestId(1));
        assert_eq!(choose(&slots, &[1, 2, 3, 4], 0.1), Some(1));
        slots.iter_mut().for_each(|slot| slot.serving = Some(RequestId(1)));
        assert_eq!(choose(&slots, &[1], 0.1), None);
    }
}
