//! A step as a cost model sees it: how much of what, without tokens and blocks.

use llmlab_core::step::{SeqStep, StepPlan};
use llmlab_models::architecture::Window;
use llmlab_results::step::StepSeq;

/// One sequence's share of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeqShape {
    /// Tokens whose keys and values are in the cache already.
    pub context: u32,
    /// Tokens to compute.
    pub new: u32,
    /// Rows computed to fill a rectangle and thrown away.
    pub padding: u32,
    /// Whether logits of the last position that is no draft are wanted, and of the drafts.
    pub sample: bool,
    /// The last so many of `new` are guesses to be verified.
    pub drafts: u32,
}

impl SeqShape {
    /// Rows that go through the linear layers.
    pub fn rows(&self) -> u64 {
        u64::from(self.new) + u64::from(self.padding)
    }

    /// Rows that the output projection computes for it: also one for a finished sequence that a rectangle still carries.
    pub fn logits(&self) -> u64 {
        if self.new == 0 { 1 } else { self.sampled() }
    }

    /// Rows that a token is picked from.
    pub fn sampled(&self) -> u64 {
        if self.sample { 1 + u64::from(self.drafts) } else { 0 }
    }

    /// Positions that the new tokens see, in a layer with this window.
    pub fn seen(&self, window: Option<Window>) -> u64 {
        let context = u64::from(self.context);
        let first_new = if self.new > 0 { context } else { context.saturating_sub(1) };
        context + u64::from(self.new) - window.map_or(0, |window| window.first_seen(first_new))
    }

    /// Queries and keys that meet: the position p sees p + 1 keys, or its window.
    pub fn pairs(&self, window: Option<Window>) -> u64 {
        let up_to = |positions: u64| match window {
            Some(window) => window.pairs_up_to(positions),
            None => positions * (positions + 1) / 2,
        };
        up_to(u64::from(self.context) + u64::from(self.new)) - up_to(u64::from(self.context))
    }
}

impl From<&SeqStep> for SeqShape {
    fn from(seq: &SeqStep) -> SeqShape {
        SeqShape {
            context: seq.context,
            new: seq.tokens.len() as u32,
            padding: seq.padding,
            sample: seq.sample,
            drafts: seq.drafts,
        }
    }
}

/// The shapes of a plan, into a vector that is used again.
pub fn shapes_of(plan: &StepPlan, shapes: &mut Vec<SeqShape>) {
    shapes.clear();
    shapes.extend(plan.seqs.iter().map(SeqShape::from));
}

/// A sequence of a stored step log. The log does not say who samples; a single new token on top of a context decodes, or
/// ends a prompt, and both sample.
pub fn logged(seq: &StepSeq, sample: bool) -> SeqShape {
    SeqShape { context: seq.context, new: seq.new_tokens, padding: seq.padding, sample, drafts: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_and_reach_by_counting() {
        use Window::{Chunk, Sliding};
        let windows = [Sliding(1), Sliding(5), Sliding(100), Chunk(1), Chunk(5), Chunk(100)];
        for window in std::iter::once(None).chain(windows.map(Some)) {
            for (context, new) in [(0, 1), (0, 9), (4, 1), (7, 6), (50, 3)] {
                let seq = SeqShape { context, new, padding: 0, sample: true, drafts: 0 };
                let sees = |position: u32| match window {
                    None => position + 1,
                    Some(Sliding(tokens)) => tokens.min(position + 1),
                    Some(Chunk(tokens)) => position % tokens + 1,
                };
                let pairs: u32 = (context..context + new).map(sees).sum();
                assert_eq!(seq.pairs(window), u64::from(pairs), "{context} {new} {window:?}");
                let first_seen = context + 1 - sees(context);
                assert_eq!(
                    seq.seen(window),
                    u64::from(context + new - first_seen),
                    "{context} {new} {window:?}"
                );
            }
        }
    }
}
