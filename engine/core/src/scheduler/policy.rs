//! What the scheduler asks of a policy, and what policies share.

use std::time::Duration;

use crate::request::{At, FinishReason, RequestId};
use crate::scheduler::EnqueueError;
use crate::scheduler::state::State;

/// A rule that orders the queue and fills the next forward pass.
pub trait Policy: std::fmt::Debug + Send {
    /// What it returns will be executed, after the steps in flight.
    fn plan(&mut self, state: &mut State, now: At) -> Decision;

    /// Why this policy could never serve a request of so many prompt tokens, if that is so.
    fn refuses(&self, state: &State, prompt_tokens: usize, longest_tokens: usize) -> Option<EnqueueError>;

    /// Whether, while the running set stays as it is and every sequence in it has one token to compute, each step gives all of
    /// them that token in the order of the set, admits nobody, and leaves nothing behind in the policy. For [`stretch`] only.
    ///
    /// [`stretch`]: crate::scheduler::stretch
    fn decodes_evenly(&self, _state: &State) -> bool {
        false
    }

    /// A running request finished or was aborted. Its blocks go back now, unless the policy still needs its slot.
    fn retire(&mut self, state: &mut State, id: RequestId) {
        state.release(id);
    }

    /// The client of a running request left. `token_due`: the step that is being committed sampled a token for it, which
    /// [`Policy::token_for_nobody`] will hear of.
    fn client_left(&mut self, state: &mut State, id: RequestId, _token_due: bool) {
        self.retire(state, id);
    }

    /// A token was sampled for a request that has left and still holds its blocks.
    fn token_for_nobody(&mut self, _state: &mut State, _id: RequestId) {}

    /// A request left the waiting queue before its turn.
    fn left_the_queue(&mut self, _place: usize) {}

    /// A sequence got a token, with which it is over if `end` says so. The policy has the last word.
    fn ends(
        &mut self,
        _state: &mut State,
        _id: RequestId,
        end: Option<FinishReason>,
    ) -> Option<FinishReason> {
        end
    }
}

/// What a policy wants next.
#[derive(Debug)]
pub enum Decision {
    /// In batch order. Empty when planning only preempted.
    Run(Vec<Work>),
    WaitUntil(At),
    Idle,
}

/// One sequence's share of a forward pass: its next `tokens` tokens, drafts included, and rows computed for nothing.
#[derive(Debug, Clone)]
pub struct Work {
    pub id: RequestId,
    pub tokens: usize,
    pub padding: usize,
    /// Rows that stand for drafts nobody made: computed for nothing, but counted as tokens until the step is committed.
    pub dummy_drafts: usize,
}

impl Work {
    /// Without padding.
    pub fn tokens(id: RequestId, tokens: usize) -> Self {
        Work { id, tokens, padding: 0, dummy_drafts: 0 }
    }
}

/// The refusal every policy shares: a request whose whole life takes more blocks than there are could only wait or be
/// preempted for ever.
pub fn refuse_never_fits(state: &State, longest_tokens: usize) -> Option<EnqueueError> {
    let (blocks, total) = (state.life_blocks(longest_tokens), state.blocks.usable());
    (blocks > total).then_some(EnqueueError::NeverFits { blocks, total })
}

/// When the front of the queue arrived.
pub fn oldest_arrival(state: &State) -> Option<At> {
    state.waiting.front().map(|id| state.seq(id).arrived)
}

/// The end of a wait that began at `since`; never, if that is beyond what a `Duration` can hold.
pub fn deadline(since: At, delay: Duration) -> At {
    since.checked_add(delay).unwrap_or(At::MAX)
}
