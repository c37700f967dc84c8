//! The block allocator of the TGI v3 router: a request's blocks for its whole life at once, starting from what the prefix
//! cache knows of its prompt. The cache is filled only when a request gives its blocks back, so requests that run at the
//! same time share nothing with each other.

use crate::block_manager::BlockManager;
use crate::config::TgiConfig;
use crate::request::TokenId;
use crate::scheduler::tgi::radix::{NodeId, RadixTrie};
use crate::step::BlockId;

#[derive(Debug)]
pub(super) struct Allocator {
    /// None without prefix caching.
    trie: Option<RadixTrie>,
    window_size: Option<usize>,
    /// A hit that ends within a stretch of cached blocks keeps all of the stretch from being evicted, also for itself.
    pins_whole_nodes: bool,
}

/// What one request holds.
#[derive(Debug)]
pub(super) struct Allocation {
    pub blocks: Vec<BlockId>,
    /// How many of them, from the first, came from the prefix cache.
    pub cached_blocks: usize,
    /// Where the cached part ends in the trie.
    node: Option<NodeId>,
}

impl Allocator {
    pub fn new(config: &TgiConfig, block_size: u32) -> Self {
        Allocator {
            trie: config.use_prefix_caching.then(|| RadixTrie::new(block_size as usize)),
            window_size: config.window_size.map(|w| w as usize),
            pins_whole_nodes: config.upstream_defects,
        }
    }

    /// Blocks a life of `tokens` tokens takes when nothing of it is cached. A sliding window needs no more than itself.
    pub fn blocks_for(&self, blocks: &BlockManager, tokens: usize) -> usize {
        blocks.blocks_for(self.window_size.map_or(tokens, |window| tokens.min(window)))
    }

    /// Room for `tokens` tokens, the beginning from the cache if `prompt` is given. What the cache gives up for it stays
    /// free even if it was not enough.
    pub fn allocate(
        &mut self,
        blocks: &mut BlockManager,
        tokens: usize,
        prompt: Option<&[TokenId]>,
    ) -> Option<Allocation> {
        let (cached, mut node) = match (&mut self.trie, prompt) {
            (Some(trie), Some(prompt)) => {
                let (cached, node) = trie.find(prompt);
                trie.hold(node);
                (cached, Some(node))
            }
            _ => (Vec::new(), None),
        };
        let fresh = self.blocks_for(blocks, tokens) - cached.len();
        self.evict(blocks, fresh);
        if !blocks.free().can_take(fresh) && !self.pins_whole_nodes {
            node = self.narrow(node, cached.len());
            self.evict(blocks, fresh);
        }
        if !blocks.free().can_take(fresh) {
            self.unhold(node);
            return None;
        }
        blocks.share(&cached);
        let cached_blocks = cached.len();
        let table = [cached, blocks.take(fresh)].concat();
        Some(Allocation { blocks: table, cached_blocks, node })
    }

    /// Gives an allocation back. The whole blocks of `prompt` stay in the cache, those that it already had from another
    /// request are free, like all the rest.
    pub fn free(&mut self, blocks: &mut BlockManager, allocation: Allocation, prompt: Option<&[TokenId]>) {
        self.unhold(allocation.node);
        let block_size = blocks.block_size() as usize;
        if let (Some(trie), Some(prompt)) = (&mut self.trie, prompt)
            && prompt.len() > allocation.cached_blocks * block_size
        {
            let whole = prompt.len() / block_size;
            let known = trie.insert(&prompt[..whole * block_size], &allocation.blocks[..whole]);
            blocks.keep(&allocation.blocks[known..whole]);
        }
        blocks.release(&allocation.blocks);
    }

    /// Until `wanted` blocks are free, if there is so much that nobody holds.
    fn evict(&mut self, blocks: &mut BlockManager, wanted: usize) {
        let missing = wanted.saturating_sub(blocks.free().len());
        if let Some(trie) = &mut self.trie {
            blocks.let_go(&trie.evict(missing));
        }
    }

    fn narrow(&mut self, node: Option<NodeId>, known: usize) -> Option<NodeId> {
        let (Some(trie), Some(node)) = (&mut self.trie, node) else { return node };
        let before = trie.narrow(node, known);
        trie.hold(before);
        trie.unhold(node);
        Some(before)
    }

    fn unhold(&mut self, node: Option<NodeId>) {
        if let (Some(trie), Some(node)) = (&mut self.trie, node) {
            trie.unhold(node);
        }
    }
}

impl Allocation {
    /// The block of each stretch of a life of `tokens` tokens. A sliding window uses its blocks again and again.
    pub fn table(&self, tokens: usize, block_size: usize) -> Vec<BlockId> {
        self.blocks.iter().copied().cycle().take(tokens.div_ceil(block_size)).collect()
    }
}

/// R1 to R6: the constants the unit tests of TGI's own allocator assert.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::block_manager::Discipline;

    struct Pool {
        blocks: BlockManager,
        allocator: Allocator,
    }

    impl Pool {
        fn new(block_size: u32, num_blocks: u32) -> Self {
            Pool {
                blocks: BlockManager::new(Discipline::Tail, num_blocks, block_size),
                allocator: Allocator::new(&TgiConfig::new(0), block_size),
            }
        }

        fn take(&mut self, tokens: usize, prompt: &[TokenId]) -> Allocation {
            self.allocator.allocate(&mut self.blocks, tokens, Some(prompt)).unwrap()
        }

        fn give(&mut self, allocation: Allocation, prompt: &[TokenId]) {
            self.allocator.free(&mut self.blocks, allocation, Some(prompt));
        }

        fn free(&self) -> usize {
            self.blocks.free().len()
        }
    }

    fn ids(allocation: &Allocation) -> Vec<u32> {
        allocation.blocks.iter().map(|b| b.0).collect()
    }

    /// Twice the same request, one after the other.
    fn again(block_size: u32, tokens: usize, prompt: &[TokenId], blocks: &[u32], cached_tokens: usize) {
        let mut pool = Pool::new(block_size, 12);
        let first = pool.take(tokens, prompt);
        assert_eq!((ids(&first), first.cached_blocks), (blocks.to_vec(), 0));
        pool.give(first, prompt);
        let second = pool.take(tokens, prompt);
        assert_eq!(
            (ids(&second), second.cached_blocks * block_size as usize),
            (blocks.to_vec(), cached_tokens)
        );
    }

    #[test]
    fn r1_to_r3_a_prompt_is_found_again_by_whole_blocks() {
        again(2, 8, &[0, 1, 2, 3], &[8, 9, 10, 11], 4);
        again(2, 7, &[0, 1, 2], &[8, 9, 10, 11], 2);
        again(1, 8, &[0, 1, 2, 3], &[4, 5, 6, 7, 8, 9, 10, 11], 4);
    }

    #[test]
    fn r4_the_older_prompt_is_evicted_first() {
        let mut pool = Pool::new(1, 7);
        let first = pool.take(4, &[0, 1, 2, 3]);
        let second = pool.take(2, &[4, 5]);
        assert_eq!((ids(&first), ids(&second)), (vec![3, 4, 5, 6], vec![1, 2]));
        pool.give(first, &[0, 1, 2, 3]);
        pool.give(second, &[4, 5]);
        assert_eq!((pool.free(), pool.blocks.cached()), (0, 6));
        let third = pool.take(4, &[6, 7, 8, 9]);
        assert_eq!((ids(&third), third.cached_blocks), (vec![3, 4, 5, 6], 0));
    }

    #[test]
    fn r5_a_prompt_computed_twice_is_kept_once() {
        let (mut pool, prompt) = (Pool::new(1, 10), [0, 1, 2, 3]);
        let first = pool.take(4, &prompt);
        let second = pool.take(4, &prompt);
        assert_eq!((first.cached_blocks, second.cached_blocks), (0, 0));
        pool.give(second, &prompt);
        pool.give(first, &prompt);
        let third = pool.take(4, &prompt);
        assert_eq!((third.cached_blocks, pool.free(), pool.blocks.cached()), (4, 5, 0));
    }

    #[test]
    fn r6_overlapping_prompts_free_what_they_computed_twice() {
        let mut pool = Pool::new(1, 20);
        let first = pool.take(4, &[0, 1]);
        assert_eq!(ids(&first), [16, 17, 18, 19]);
        pool.give(first, &[0, 1]);
        let (longer, other) = ([0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 6, 7]);
        let second = pool.take(8, &longer);
        assert_eq!((ids(&second), second.cached_blocks), (vec![16, 17, 12, 13, 14, 15, 18, 19], 2));
        let third = pool.take(8, &other);
        assert_eq!((ids(&third), third.cached_blocks), (vec![16, 17, 6, 7, 8, 9, 10, 11], 2));
        pool.give(third, &other);
        pool.give(second, &longer);
        assert_eq!(pool.free(), 11);
        let fourth = pool.take(6, &longer);
        assert_eq!((ids(&fourth), fourth.cached_blocks), (vec![16, 17, 6, 7, 14, 15], 6));
        let fifth = pool.take(6, &other);
        assert_eq!((ids(&fifth), fifth.cached_blocks), (vec![16, 17, 6, 7, 8, 9], 6));
        assert_eq!(pool.free(), 11);
    }

    /// An allocation that fails has evicted all the same.
    #[test]
    fn what_was_evicted_in_vain_stays_free() {
        let mut pool = Pool::new(1, 9);
        let prompt = [0, 1, 2, 3];
        let first = pool.take(4, &prompt);
        pool.give(first, &prompt);
        let held = pool.take(3, &[8, 9]);
        assert_eq!((pool.free(), pool.blocks.cached()), (1, 4));
        assert!(pool.allocator.allocate(&mut pool.blocks, 6, Some(&[5, 6])).is_none());
        assert_eq!((pool.free(), pool.blocks.cached()), (5, 0));
        // Handed out from the tail: the evicted ones.
        let second = pool.take(4, &prompt);
        assert_eq!((ids(&second), second.cached_blocks), (vec![5, 6, 7, 8], 0));
        pool.give(held, &[8, 9]);
        pool.give(second, &prompt);
    }

    /// All of the pool for a prompt of which the cache knows the first of two blocks in one stretch: the second can only
    /// be had by cutting the stretch.
    #[test]
    fn a_hit_within_a_stretch_pins_the_rest_of_it_only_with_the_defect() {
        for upstream_defects in [false, true] {
            let mut pool = Pool::new(1, 5);
            pool.allocator.pins_whole_nodes = upstream_defects;
            let first = pool.take(2, &[0, 1]);
            pool.give(first, &[0, 1]);
            let whole = pool.allocator.allocate(&mut pool.blocks, 4, Some(&[0, 8, 9]));
            let whole = whole.map(|allocation| (ids(&allocation), allocation.cached_blocks));
            assert_eq!(whole, (!upstream_defects).then_some((vec![3, 1, 2, 4], 1)));
        }
    }

    #[test]
    fn a_window_uses_its_blocks_again() {
        let mut blocks = BlockManager::new(Discipline::Tail, 32, 16);
        let window = TgiConfig { use_prefix_caching: false, window_size: Some(32), ..TgiConfig::new(0) };
        let mut allocator = Allocator::new(&window, 16);
        let allocation = allocator.allocate(&mut blocks, 69, None).unwrap();
        assert_eq!(ids(&allocation), [30, 31]);
        assert_eq!(allocation.table(69, 16).iter().map(|b| b.0).collect::<Vec<_>>(), [30, 31, 30, 31, 30]);
    }
}
