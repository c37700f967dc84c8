//! The free blocks, in the order each system hands them out. The order decides which cached prefix is evicted
//! first and which ids a sequence gets, so it is part of what is reproduced.

use std::collections::BTreeMap;

use crate::step::BlockId;

/// One of three disciplines over the ids `1..num_blocks`; id 0 is the null block and never free.
#[derive(Debug, Clone)]
pub enum FreeBlocks {
    Queue(FreeQueue),
    Tail(FreeTail),
    Runs(FreeRuns),
}

impl FreeBlocks {
    pub fn len(&self) -> usize {
        match self {
            FreeBlocks::Queue(f) => f.len,
            FreeBlocks::Tail(f) => f.ids.len(),
            FreeBlocks::Runs(f) => f.len,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether `n` blocks can be handed out now; more than `n <= len()` only where they must be consecutive.
    pub fn can_take(&self, n: usize) -> bool {
        match self {
            FreeBlocks::Queue(f) => n <= f.len,
            FreeBlocks::Tail(f) => n <= f.ids.len(),
            FreeBlocks::Runs(f) => n == 0 || f.first_fit(n).is_some(),
        }
    }

    /// Hands out `n` blocks. The caller has asked `can_take`.
    pub fn take(&mut self, n: usize) -> Vec<BlockId> {
        assert!(self.can_take(n), "asked for {n} blocks, {} are free", self.len());
        match self {
            FreeBlocks::Queue(f) => (0..n).map(|_| f.pop_front()).collect(),
            FreeBlocks::Tail(f) => f.ids.split_off(f.ids.len() - n),
            FreeBlocks::Runs(f) => f.take(n),
        }
    }

    /// Length of the longest stretch of consecutive free ids, where that matters; else all free blocks.
    pub fn largest_run(&self) -> usize {
        match self {
            FreeBlocks::Runs(f) => f.runs.values().map(|&n| n as usize).max().unwrap_or(0),
            _ => self.len(),
        }
    }

    /// The free ids, next to be handed out first.
    pub fn order(&self) -> Vec<BlockId> {
        match self {
            FreeBlocks::Queue(f) => f.order(),
            FreeBlocks::Tail(f) => f.ids.iter().rev().copied().collect(),
            FreeBlocks::Runs(f) => {
                f.runs.iter().flat_map(|(&start, &n)| (start..start + n).map(BlockId)).collect()
            }
        }
    }
}

/// vLLM's queue: a doubly linked list over block ids, so that a cache hit can pull a block out of the middle.
/// The null block 0 is never free, which makes its slot the list's head and tail.
#[derive(Debug, Clone)]
pub struct FreeQueue {
    prev: Vec<u32>,
    next: Vec<u32>,
    len: usize,
}

impl FreeQueue {
    pub fn new(num_blocks: u32) -> Self {
        let mut queue =
            FreeQueue { prev: vec![0; num_blocks as usize], next: vec![0; num_blocks as usize], len: 0 };
        for id in 1..num_blocks {
            queue.push_back(BlockId(id));
        }
        queue
    }

    pub fn push_back(&mut self, block: BlockId) {
        self.insert_between(self.prev[0], block.0, 0);
    }

    pub fn push_front(&mut self, block: BlockId) {
        self.insert_between(0, block.0, self.next[0]);
    }

    pub fn remove(&mut self, block: BlockId) {
        let (before, after) = (self.prev[block.0 as usize], self.next[block.0 as usize]);
        self.next[before as usize] = after;
        self.prev[after as usize] = before;
        self.len -= 1;
    }

    fn insert_between(&mut self, before: u32, id: u32, after: u32) {
        self.prev[id as usize] = before;
        self.next[id as usize] = after;
        self.next[before as usize] = id;
        self.prev[after as usize] = id;
        self.len += 1;
    }

    fn pop_front(&mut self) -> BlockId {
        let head = BlockId(self.next[0]);
        self.remove(head);
        head
    }

    fn order(&self) -> Vec<BlockId> {
        let walk = std::iter::successors(Some(self.next[0]), |&id| Some(self.next[id as usize]));
        walk.take(self.len).map(BlockId).collect()
    }
}

/// TGI's list: the last `n` entries are handed out in their stored order, freed blocks are appended.
#[derive(Debug, Clone)]
pub struct FreeTail {
    ids: Vec<BlockId>,
}

impl FreeTail {
    pub fn new(num_blocks: u32) -> Self {
        FreeTail { ids: (1..num_blocks).map(BlockId).collect() }
    }

    pub fn give(&mut self, blocks: &[BlockId]) {
        self.ids.extend_from_slice(blocks);
    }
}

/// Stretches of consecutive ids, first fit by address: what an engine without paging can use. Free blocks that lie
/// in stretches too short for a request are external fragmentation.
#[derive(Debug, Clone)]
pub struct FreeRuns {
    /// First id of a stretch -> its length. Never two stretches that touch.
    runs: BTreeMap<u32, u32>,
    len: usize,
}

impl FreeRuns {
    pub fn new(num_blocks: u32) -> Self {
        FreeRuns { runs: BTreeMap::from([(1, num_blocks - 1)]), len: num_blocks as usize - 1 }
    }

    /// Gives back one stretch of consecutive ids.
    pub fn give(&mut self, blocks: &[BlockId]) {
        let (Some(first), Some(last)) = (blocks.first(), blocks.last()) else { return };
        let (mut start, mut end) = (first.0, last.0 + 1);
        assert_eq!(
            (end - start) as usize,
            blocks.len(),
            "a contiguous allocation came back with gaps: {blocks:?}"
        );
        self.len += blocks.len();
        if let Some((&before, &n)) = self.runs.range(..start).next_back()
            && before + n == start
        {
            self.runs.remove(&before);
            start = before;
        }
        if let Some(n) = self.runs.remove(&end) {
            end += n;
        }
        self.runs.insert(start, end - start);
    }

    /// Free blocks that a request of `need` blocks cannot use, as a share of all free blocks; 0 when none is free.
    pub fn fragmentation(&self, need: u32) -> f64 {
        if self.len == 0 || need == 0 {
            return 0.0;
        }
        let usable: u32 = self.runs.values().map(|n| n / need * need).sum();
        1.0 - f64::from(usable) / self.len as f64
    }

    fn first_fit(&self, n: usize) -> Option<u32> {
        self.runs.iter().find(|(_, len)| **len as usize >= n).map(|(&start, _)| start)
    }

    fn take(&mut self, n: usize) -> Vec<BlockId> {
        let Some(start) = self.first_fit(n).filter(|_| n > 0) else { return Vec::new() };
        let len = self.runs.remove(&start).unwrap_or(0);
        let n = n as u32;
        if len > n {
            self.runs.insert(start + n, len - n);
        }
        self.len -= n as usize;
        (start..start + n).map(BlockId).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(blocks: &[BlockId]) -> Vec<u32> {
        blocks.iter().map(|b| b.0).collect()
    }

    #[test]
    fn queue_pops_the_head_and_lets_a_block_leave_the_middle() {
        let mut free = FreeBlocks::Queue(FreeQueue::new(6));
        assert_eq!(ids(&free.take(2)), [1, 2]);
        if let FreeBlocks::Queue(q) = &mut free {
            q.remove(BlockId(4));
            q.push_front(BlockId(2));
            q.push_back(BlockId(1));
        }
        assert_eq!(ids(&free.order()), [2, 3, 5, 1]);
        assert_eq!(ids(&free.take(4)), [2, 3, 5, 1]);
        assert!(free.is_empty() && !free.can_take(1));
    }

    #[test]
    fn tail_hands_out_a_slice_in_stored_order() {
        let mut free = FreeBlocks::Tail(FreeTail::new(16));
        assert_eq!(ids(&free.take(3)), [13, 14, 15]);
        assert_eq!(ids(&free.take(2)), [11, 12]);
        if let FreeBlocks::Tail(t) = &mut free {
            t.give(&[BlockId(13), BlockId(14), BlockId(15)]);
        }
        assert_eq!(ids(&free.take(4)), [10, 13, 14, 15]);
    }

    #[test]
    fn runs_merge_again_and_report_what_they_strand() {
        let mut free = FreeBlocks::Runs(FreeRuns::new(11));
        let (a, b, c) = (free.take(3), free.take(3), free.take(3));
        assert_eq!((ids(&a), ids(&c)), (vec![1, 2, 3], vec![7, 8, 9]));
        let FreeBlocks::Runs(runs) = &mut free else { unreachable!("built as runs") };
        runs.give(&a);
        // 4 free blocks, but 4 in a row nowhere: 1..=3 and 10.
        assert!(!FreeBlocks::Runs(runs.clone()).can_take(4));
        assert_eq!(runs.fragmentation(3), 0.25);
        runs.give(&c);
        runs.give(&b);
        assert_eq!(runs.fragmentation(5), 0.0);
        assert_eq!(FreeBlocks::Runs(runs.clone()).largest_run(), 10);
    }
}
