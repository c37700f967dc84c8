//! Who owns which KV block. Reference counts are the truth: a block is used while someone counts it, else it is free;
//! a free block may still be known to the prefix cache until it is handed out again.
//!
//! A policy with a cache of its own keeps blocks by being one of their holders: those that no sequence holds are cached,
//! neither used nor free, until the policy lets go of them.

use crate::free_blocks::{FreeBlocks, FreeQueue, FreeRuns, FreeTail};
use crate::prefix_cache::{BlockHash, PrefixCache};
use crate::step::BlockId;

/// The order in which blocks are handed out and come back, see [`crate::free_blocks`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discipline {
    Queue,
    Tail,
    Runs,
}

#[derive(Debug, Clone)]
pub struct BlockManager {
    block_size: u32,
    /// Sequences that hold the block, by id. Entry 0, the null block, stays 0.
    refs: Vec<u32>,
    /// Entries in the tables of sequences: a block that two of them share counts twice.
    table_entries: usize,
    /// Known content of full blocks, by id.
    hashes: Vec<Option<BlockHash>>,
    free: FreeBlocks,
    cache: PrefixCache,
    /// Whether a policy's own cache is one of the holders, by id.
    kept: Vec<bool>,
    /// Kept blocks that no sequence holds.
    cached: usize,
}

impl BlockManager {
    /// `num_blocks` counts the null block.
    pub fn new(discipline: Discipline, num_blocks: u32, block_size: u32) -> Self {
        BlockManager {
            block_size,
            refs: vec![0; num_blocks as usize],
            table_entries: 0,
            hashes: vec![None; num_blocks as usize],
            free: match discipline {
                Discipline::Queue => FreeBlocks::Queue(FreeQueue::new(num_blocks)),
                Discipline::Tail => FreeBlocks::Tail(FreeTail::new(num_blocks)),
                Discipline::Runs => FreeBlocks::Runs(FreeRuns::new(num_blocks)),
            },
            cache: PrefixCache::default(),
            kept: vec![false; num_blocks as usize],
            cached: 0,
        }
    }

    pub fn block_size(&self) -> u32 {
        self.block_size
    }

    /// Blocks that can ever be handed out: all but the null block.
    pub fn usable(&self) -> usize {
        self.refs.len() - 1
    }

    pub fn free(&self) -> &FreeBlocks {
        &self.free
    }

    /// Blocks that hold `tokens` tokens.
    pub fn blocks_for(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.block_size as usize)
    }

    pub fn references(&self, block: BlockId) -> u32 {
        self.refs[block.0 as usize]
    }

    /// Cached blocks that hold the longest beginning of a sequence with these block hashes.
    pub fn longest_prefix(&self, hashes: &[BlockHash]) -> Vec<BlockId> {
        self.cache.longest_prefix(hashes)
    }

    /// How many of these blocks nobody holds: sharing them uses up free blocks.
    pub fn unheld(&self, blocks: &[BlockId]) -> usize {
        blocks.iter().filter(|b| self.references(**b) == 0).count()
    }

    /// One more holder for each of these cached blocks.
    pub fn share(&mut self, blocks: &[BlockId]) {
        self.table_entries += blocks.len();
        for &block in blocks {
            let cached = self.is_cached(block);
            self.cached -= usize::from(cached);
            if self.references(block) == 0
                && let FreeBlocks::Queue(queue) = &mut self.free
            {
                queue.remove(block);
            }
            self.refs[block.0 as usize] += 1;
        }
    }

    /// `n` fresh blocks. Whatever the cache knew about them is forgotten only now.
    pub fn take(&mut self, n: usize) -> Vec<BlockId> {
        let blocks = self.free.take(n);
        self.table_entries += blocks.len();
        for &block in &blocks {
            self.unregister(block);
            let refs = &mut self.refs[block.0 as usize];
            assert_eq!(*refs, 0, "block {} was free and held {refs} times", block.0);
            *refs = 1;
        }
        blocks
    }

    /// From now on the block can be found by the hash of its content.
    pub fn register(&mut self, block: BlockId, hash: BlockHash) {
        self.hashes[block.0 as usize] = Some(hash);
        self.cache.insert(hash, block);
    }

    pub fn unregister(&mut self, block: BlockId) {
        if let Some(hash) = self.hashes[block.0 as usize].take() {
            self.cache.remove(hash, block);
        }
    }

    /// A sequence gives back its blocks, in the order of its table. In the queue, blocks with known content go to the
    /// far end, last block first, so that the beginning of a prompt survives longest; the others are reused at once.
    pub fn release(&mut self, table: &[BlockId]) {
        self.table_entries -= table.len();
        self.drop_holder(table);
    }

    fn drop_holder(&mut self, table: &[BlockId]) {
        for &block in table {
            let refs = &mut self.refs[block.0 as usize];
            assert!(*refs > 0, "block {} was given back by a sequence that did not hold it", block.0);
            *refs -= 1;
            let cached = self.is_cached(block);
            self.cached += usize::from(cached);
        }
        match &mut self.free {
            FreeBlocks::Tail(tail) => {
                for &block in table.iter().filter(|block| self.refs[block.0 as usize] == 0) {
                    tail.give(&[block]);
                }
            }
            FreeBlocks::Runs(runs) => runs.give(table),
            FreeBlocks::Queue(queue) => {
                let unheld = |block: &&BlockId| self.refs[block.0 as usize] == 0;
                let known = |block: &&BlockId| self.hashes[block.0 as usize].is_some();
                table.iter().rev().filter(unheld).filter(known).for_each(|&b| queue.push_back(b));
                // Table order here, since the last one pushed becomes the head.
                table.iter().filter(unheld).filter(|b| !known(b)).for_each(|&b| queue.push_front(b));
            }
        }
    }

    /// A cache of the policy becomes one more holder of blocks that a sequence holds.
    pub fn keep(&mut self, blocks: &[BlockId]) {
        for &block in blocks {
            let i = block.0 as usize;
            assert!(self.refs[i] > 0 && !self.kept[i], "block {} cannot enter the cache", block.0);
            self.kept[i] = true;
            self.refs[i] += 1;
        }
    }

    /// The cache lets go of these blocks; those that no sequence holds are free now.
    pub fn let_go(&mut self, blocks: &[BlockId]) {
        for &block in blocks {
            let cached = self.is_cached(block);
            self.cached -= usize::from(cached);
            let kept = std::mem::replace(&mut self.kept[block.0 as usize], false);
            assert!(kept, "block {} is not in the cache", block.0);
        }
        self.drop_holder(blocks);
    }

    /// Blocks that sequences hold, each once.
    pub fn held(&self) -> usize {
        self.usable() - self.free.len() - self.cached
    }

    /// How often a sequence holds a block that another one holds too, beyond the first.
    pub fn shared(&self) -> usize {
        self.table_entries - self.held()
    }

    /// Blocks that only a policy's cache holds: neither free nor of use to a running sequence.
    pub fn cached(&self) -> usize {
        self.cached
    }

    /// Whether a policy's cache is among the holders.
    pub fn is_kept(&self, block: BlockId) -> bool {
        self.kept[block.0 as usize]
    }

    fn is_cached(&self, block: BlockId) -> bool {
        self.is_kept(block) && self.references(block) == 1
    }

    /// Share of the free blocks that a request of `need` consecutive blocks cannot use; 0 where blocks are paged.
    pub fn external_fragmentation(&self, need: usize) -> f64 {
        match &self.free {
            FreeBlocks::Runs(runs) => runs.fragmentation(need as u32),
            _ => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(blocks: &BlockManager) -> Vec<u32> {
        blocks.free().order().iter().map(|b| b.0).collect()
    }

    #[test]
    fn known_blocks_go_to_the_tail_and_unknown_ones_to_the_head() {
        let mut blocks = BlockManager::new(Discipline::Queue, 8, 4);
        let table = blocks.take(4);
        let hash = BlockHash::chain(None, &[1, 2, 3, 4]);
        blocks.register(table[0], hash);
        blocks.release(&table);
        assert_eq!(order(&blocks), [4, 3, 2, 5, 6, 7, 1]);
        // Still found until it is handed out, and a hit takes it out of the queue.
        assert_eq!(blocks.longest_prefix(&[hash]), [BlockId(1)]);
        blocks.share(&[BlockId(1)]);
        assert_eq!((blocks.free().len(), blocks.references(BlockId(1))), (6, 1));
        blocks.release(&[BlockId(1)]);
        blocks.take(7);
        assert!(blocks.longest_prefix(&[hash]).is_empty());
    }

    #[test]
    fn a_kept_block_is_cached_while_no_sequence_holds_it() {
        let mut blocks = BlockManager::new(Discipline::Queue, 4, 4);
        let table = blocks.take(2);
        blocks.keep(&table);
        assert_eq!(blocks.cached(), 0);
        blocks.release(&table);
        assert_eq!((blocks.cached(), blocks.free().len()), (2, 1));
        blocks.share(&table[..1]);
        assert_eq!(blocks.cached(), 1);
        blocks.let_go(&table);
        assert_eq!((blocks.cached(), blocks.free().len()), (0, 2));
        blocks.release(&table[..1]);
        assert_eq!((blocks.cached(), blocks.free().len()), (0, 3));
    }

    #[test]
    fn a_shared_block_is_free_only_when_the_last_holder_leaves() {
        let mut blocks = BlockManager::new(Discipline::Queue, 4, 4);
        let table = blocks.take(1);
        blocks.share(&table);
        blocks.release(&table);
        assert_eq!(blocks.free().len(), 2);
        blocks.release(&table);
        assert_eq!(blocks.free().len(), 3);
    }
}
