//! Who of those that fit runs in this iteration, and how many tokens of each prompt.

use crate::request::RequestId;
use crate::scheduler::state::State;
use crate::scheduler::trtllm::{ContextChunkingPolicy, Trtllm};

impl Trtllm {
    /// Prompts first, each with its tokens.
    pub(super) fn micro_batch(&self, state: &State, fitting: &[RequestId]) -> Vec<(RequestId, usize)> {
        let budget = self.config.max_num_tokens as usize;
        let (mut contexts, mut generations) = (Vec::new(), Vec::new());
        // With chunking a prompt does not use up the budget yet.
        let (mut batched, mut to_chunk) = (0, 0);
        for &id in fitting {
            let seq = state.seq(id);
            if !seq.prefilling {
                if batched + 1 > budget {
                    break;
                }
                batched += 1;
                generations.push((id, 1));
            } else if self.config.enable_chunked_context {
                to_chunk += seq.uncomputed();
                contexts.push((id, seq.uncomputed()));
            } else {
                if batched + seq.uncomputed() > budget {
                    break;
                }
                batched += seq.uncomputed();
                contexts.push((id, seq.uncomputed()));
            }
            if contexts.len() + generations.len() >= self.config.max_batch_size as usize {
                break;
            }
        }
        let left = budget - batched;
        if to_chunk > left {
            match self.config.context_chunking_policy {
                ContextChunkingPolicy::FirstComeFirstServed => {
                    first_come_first_served(&mut contexts, left, unit(state))
                }
                ContextChunkingPolicy::EqualProgress => equal_progress(&mut contexts, left, unit(state)),
            }
            contexts.retain(|(_, tokens)| *tokens > 0);
        }
        contexts.extend(generations);
        contexts
    }
}

/// Chunks are whole blocks, except the last of a prompt.
fn unit(state: &State) -> usize {
    state.blocks.block_size() as usize
}

/// Each takes what it needs of what is left; one that is cut is cut to whole units.
fn first_come_first_served(contexts: &mut [(RequestId, usize)], mut left: usize, unit: usize) {
    for (_, tokens) in contexts {
        if *tokens > left {
            *tokens = left / unit * unit;
        }
        left -= *tokens;
    }
}

/// Round after round every prompt gets one more unit, as long as that fits.
fn equal_progress(contexts: &mut [(RequestId, usize)], mut left: usize, unit: usize) {
    let wanted: Vec<usize> = contexts.iter().map(|(_, tokens)| *tokens).collect();
    contexts.iter_mut().for_each(|(_, tokens)| *tokens = 0);
    loop {
        let mut progress = 0;
        for ((_, tokens), wanted) in contexts.iter_mut().zip(&wanted) {
            let more = unit.min(wanted - *tokens);
            if more <= left {
                *tokens += more;
                left -= more;
                progress += more;
            }
        }
        if progress == 0 || left == 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(
        rule: fn(&mut [(RequestId, usize)], usize, usize),
        wanted: &[usize],
        left: usize,
    ) -> Vec<usize> {
        let mut contexts: Vec<_> = wanted.iter().map(|n| (RequestId(0), *n)).collect();
        rule(&mut contexts, left, 4);
        contexts.into_iter().map(|(_, n)| n).collect()
    }

    #[test]
    fn first_come_first_served_cuts_to_whole_units() {
        assert_eq!(shares(first_come_first_served, &[10, 12, 6], 20), [10, 8, 0]);
        // The cut leaves two tokens, enough for a prompt of two.
        assert_eq!(shares(first_come_first_served, &[10, 12, 2], 20), [10, 8, 2]);
        assert_eq!(shares(first_come_first_served, &[10], 3), [0]);
    }

    #[test]
    fn equal_progress_hands_out_units_in_turn() {
        assert_eq!(shares(equal_progress, &[10, 12, 6], 20), [8, 8, 4]);
        // The third prompt ends within its second unit, the first within its third; two tokens are no unit.
        assert_eq!(shares(equal_progress, &[10, 12, 6], 22), [8, 8, 6]);
        assert_eq!(shares(equal_progress, &[10, 12, 6], 26), [10, 8, 6]);
        assert_eq!(shares(equal_progress, &[10, 12, 6], 28), [10, 12, 6]);
    }
}
