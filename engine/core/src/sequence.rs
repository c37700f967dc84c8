//! A request on its way through the scheduler: its tokens so far, and how much of it is in the KV cache.

use crate::prefix_cache::BlockHash;
use crate::request::{At, FinishReason, Request, RequestId, TokenId};
use crate::step::BlockId;

#[derive(Debug, Clone)]
pub struct Sequence {
    pub request: Request,
    /// Prompt, then what was generated.
    pub tokens: Vec<TokenId>,
    /// Tokens whose keys and values are in the cache or will be after the step in flight.
    pub computed: usize,
    /// Blocks held, in token order. May reach beyond `computed` when memory is reserved ahead.
    pub blocks: Vec<BlockId>,
    /// The last step it took part in did not yet reach the end of its known tokens.
    pub prefilling: bool,
    /// When the request reached the server; breaks ties between equal priorities.
    pub arrived: At,
    /// Order of enqueueing; breaks the remaining ties.
    pub number: u64,
    pub ever_admitted: bool,
    /// While it waits for the first time: tokens at its beginning whose keys and values are brought from another server.
    pub transferred: usize,
    /// Aborted or finished; its blocks may still be held by a rectangular batch.
    pub left: bool,
    /// Tokens in steps that were planned and not committed.
    pub in_flight: usize,
    /// Generated tokens, accepted or not, that steps in flight will bring. Always 0 unless steps are planned ahead.
    pub placeholders: usize,
    /// What is left of the tokens that were in flight when it was preempted. Their outcome still counts, but no longer
    /// describes what is in the cache.
    pub stale: usize,
    /// How many draft tokens the next step should verify.
    pub draft_count: usize,
    /// The draft tokens; fewer than `draft_count` when the drafter found less than it was asked for, or while the step
    /// that will bring them is in flight.
    pub drafts: Vec<TokenId>,
    /// Was passed over by an admission since it came to wait.
    pub deferred: bool,
    /// Hashes of its full blocks, computed when first needed.
    hashes: Vec<BlockHash>,
    /// Blocks at the front of the table that the prefix cache knows.
    pub registered: usize,
}

impl Sequence {
    pub fn new(request: Request, arrived: At, number: u64) -> Self {
        Sequence {
            tokens: request.prompt.to_vec(),
            request,
            computed: 0,
            blocks: Vec::new(),
            prefilling: true,
            arrived,
            number,
            ever_admitted: false,
            transferred: 0,
            left: false,
            in_flight: 0,
            placeholders: 0,
            stale: 0,
            draft_count: 0,
            drafts: Vec::new(),
            deferred: false,
            hashes: Vec::new(),
            registered: 0,
        }
    }

    pub fn id(&self) -> RequestId {
        self.request.id
    }

    pub fn prompt_len(&self) -> usize {
        self.request.prompt.len()
    }

    pub fn generated(&self) -> usize {
        self.tokens.len() - self.prompt_len()
    }

    /// Tokens that still have to go through the model: known ones, those that steps in flight will bring, and drafts. A
    /// decode without drafts is the case of one.
    pub fn uncomputed(&self) -> usize {
        self.expected() + self.draft_count - self.computed
    }

    /// Known tokens and those that steps in flight will bring.
    pub fn expected(&self) -> usize {
        self.tokens.len() + self.placeholders
    }

    /// Blocks whose hash is known; with look-ahead a hash covers the token after the block too.
    pub fn hashable_blocks(&self, block_size: usize, look_ahead: bool) -> usize {
        (self.tokens.len() - usize::from(look_ahead)) / block_size
    }

    /// Prompt plus output at most.
    pub fn longest(&self, max_model_len: usize) -> usize {
        longest(&self.request, max_model_len)
    }

    /// Hashes of the first `full_blocks` blocks. With `look_ahead` each covers the token after its block too.
    pub fn block_hashes(&mut self, full_blocks: usize, block_size: usize, look_ahead: bool) -> &[BlockHash] {
        while self.hashes.len() < full_blocks {
            let start = self.hashes.len() * block_size;
            let tokens = &self.tokens[start..start + block_size + usize::from(look_ahead)];
            let before = self.hashes.last().copied().or(self.request.lora.map(BlockHash::root));
            self.hashes.push(BlockHash::chain(before, tokens));
        }
        &self.hashes[..full_blocks]
    }

    /// The hash of a block whose hash was computed before.
    pub fn block_hash(&self, block: usize) -> BlockHash {
        self.hashes[block]
    }

    /// Whether [`Sequence::banned`] may have any.
    pub fn bans(&self) -> bool {
        self.generated() < self.request.stop.min_tokens as usize
    }

    /// Ids that must not be sampled next, because `min_tokens` is not reached.
    pub fn banned(&self) -> impl Iterator<Item = TokenId> + '_ {
        let stop = &self.request.stop;
        let (eos, ids): (&[TokenId], &[TokenId]) = match self.bans() {
            true if stop.ignore_eos => (&[], &stop.stop_token_ids),
            true => (&stop.eos_ids, &stop.stop_token_ids),
            false => (&[], &[]),
        };
        eos.iter().chain(ids).copied()
    }

    /// Appends a sampled token and says whether it was the last: eos, then stop ids, then length, as in vLLM.
    #[inline]
    pub fn append(&mut self, token: TokenId, max_model_len: usize) -> Option<FinishReason> {
        self.tokens.push(token);
        let (stop, generated) = (&self.request.stop, self.generated());
        let is_eos = !stop.ignore_eos && stop.eos_ids.contains(&token);
        // A token that was banned in this step cannot end the request; a virtual executor may still produce one.
        if (is_eos || stop.stop_token_ids.contains(&token)) && generated > stop.min_tokens as usize {
            Some(FinishReason::Stop)
        } else if generated >= stop.max_tokens as usize || self.tokens.len() >= max_model_len {
            Some(FinishReason::Length)
        } else {
            None
        }
    }
}

/// Prompt plus output of a request at most: what reserving memory up front has to cover.
pub fn longest(request: &Request, max_model_len: usize) -> usize {
    (request.prompt.len() + request.stop.max_tokens as usize).min(max_model_len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{SamplingParams, StopRules};

    fn sequence(stop: StopRules) -> Sequence {
        let request = Request {
            id: RequestId(1),
            prompt: [7, 8].into(),
            sampling: SamplingParams::default(),
            stop,
            priority: 0,
            lora: None,
            skip_prefix_cache: false,
        };
        Sequence::new(request, At::ZERO, 0)
    }

    fn rules() -> StopRules {
        StopRules {
            max_tokens: 3,
            min_tokens: 1,
            ignore_eos: false,
            eos_ids: [2].into(),
            stop_token_ids: [9].into(),
        }
    }

    #[test]
    fn eos_and_stop_ids_end_only_after_min_tokens() {
        let mut seq = sequence(rules());
        assert!(seq.banned().eq([2, 9]));
        assert_eq!(seq.append(2, 100), None);
        assert_eq!(seq.banned().count(), 0);
        assert_eq!(seq.append(9, 100), Some(FinishReason::Stop));
    }

    #[test]
    fn eos_on_the_last_allowed_token_counts_as_stop() {
        let mut seq = sequence(StopRules { max_tokens: 2, ..rules() });
        assert_eq!(seq.append(5, 100), None);
        assert_eq!(seq.append(2, 100), Some(FinishReason::Stop));
    }

    #[test]
    fn length_ends_at_max_tokens_or_the_context_length() {
        let mut seq = sequence(StopRules { ignore_eos: true, ..rules() });
        assert!(seq.banned().eq([9]));
        assert_eq!((seq.append(2, 100), seq.append(2, 100)), (None, None));
        assert_eq!(seq.append(5, 100), Some(FinishReason::Length));
        let mut seq = sequence(rules());
        assert_eq!(seq.append(5, 3), Some(FinishReason::Length));
        assert_eq!(seq.longest(4), 4);
    }
}
