//! The prefix cache of the TGI v3 router: a radix trie over prompt tokens, cut at whole blocks. A node holds a stretch of
//! tokens with the blocks their keys and values are in. Leaves that nobody holds are evicted, least recently used first.
//!
//! Rules from `backends/v3/src/radix.rs` of text-generation-inference and from recordings. Two leaves can have the same
//! age, the tail of a split node and its new sibling. Then the lower slot goes first, and slots are reused last freed
//! first, so the slots themselves are part of the behaviour.

use std::collections::{BTreeSet, HashMap};

use crate::request::TokenId;
use crate::step::BlockId;

/// A slot in the list of nodes.
pub(super) type NodeId = usize;

const ROOT: NodeId = 0;

#[derive(Debug)]
pub(super) struct RadixTrie {
    block_size: usize,
    slots: Vec<Option<Node>>,
    /// Slots that can be used again, last freed last.
    empty: Vec<NodeId>,
    /// Age and slot of every node that nobody holds and nothing hangs from.
    leaves: BTreeSet<(u64, NodeId)>,
    /// Counts lookups and insertions.
    clock: u64,
}

#[derive(Debug, Default)]
struct Node {
    tokens: Vec<TokenId>,
    blocks: Vec<BlockId>,
    /// By the tokens of their first block.
    children: HashMap<Box<[TokenId]>, NodeId>,
    parent: NodeId,
    /// Allocations that end here, and children.
    holders: usize,
    last_used: u64,
}

impl RadixTrie {
    pub fn new(block_size: usize) -> Self {
        RadixTrie {
            block_size,
            slots: vec![Some(Node::default())],
            empty: Vec::new(),
            leaves: BTreeSet::new(),
            clock: 0,
        }
    }

    /// The blocks of the longest known beginning of `prompt`, and the node where it ends.
    pub fn find(&mut self, prompt: &[TokenId]) -> (Vec<BlockId>, NodeId) {
        self.clock += 1;
        let (mut at, mut blocks) = (ROOT, Vec::new());
        while let Some(child) = self.child(at, &prompt[blocks.len() * self.block_size..]) {
            self.touch(child);
            let shared = self.shared_blocks(child, &prompt[blocks.len() * self.block_size..]);
            let node = self.node(child);
            blocks.extend(&node.blocks[..shared]);
            at = child;
            if shared < node.blocks.len() {
                break;
            }
        }
        (blocks, at)
    }

    /// Adds a prompt of whole blocks. Returns how many of its first blocks were known: for those the trie keeps its own.
    pub fn insert(&mut self, prompt: &[TokenId], blocks: &[BlockId]) -> usize {
        assert_eq!(prompt.len(), blocks.len() * self.block_size, "tokens and blocks do not match");
        self.clock += 1;
        let (mut at, mut known) = (ROOT, 0);
        while known < blocks.len() {
            let rest = &prompt[known * self.block_size..];
            let Some(child) = self.child(at, rest) else {
                self.add(at, rest.to_vec(), blocks[known..].to_vec());
                break;
            };
            self.touch(child);
            let shared = self.shared_blocks(child, rest);
            known += shared;
            let splits = known < blocks.len() && shared < self.node(child).blocks.len();
            at = if splits { self.split(child, shared) } else { child };
        }
        known
    }

    /// Cuts the node where a lookup ended behind the last of the `known` blocks it found, and returns the part before.
    pub fn narrow(&mut self, id: NodeId, known: usize) -> NodeId {
        let path =
            std::iter::successors(Some(id), |at| Some(self.node(*at).parent)).take_while(|at| *at != ROOT);
        let beyond = path.map(|at| self.node(at).blocks.len()).sum::<usize>() - known;
        if beyond == 0 { id } else { self.split(id, self.node(id).blocks.len() - beyond) }
    }

    /// Takes `wanted` blocks out, or as many as there are that nobody holds.
    pub fn evict(&mut self, wanted: usize) -> Vec<BlockId> {
        let mut evicted = Vec::new();
        while evicted.len() < wanted
            && let Some((age, id)) = self.leaves.pop_first()
        {
            let missing = wanted - evicted.len();
            if self.node(id).blocks.len() <= missing {
                evicted.extend(self.remove(id).blocks);
            } else {
                let block_size = self.block_size;
                let node = self.node_mut(id);
                let kept = node.blocks.len() - missing;
                node.tokens.truncate(kept * block_size);
                evicted.extend(node.blocks.split_off(kept));
                self.leaves.insert((age, id));
            }
        }
        evicted
    }

    /// Keeps a node, and with it all above it, from being evicted.
    pub fn hold(&mut self, id: NodeId) {
        let node = self.node_mut(id);
        node.holders += 1;
        if node.holders == 1 {
            let leaf = (node.last_used, id);
            self.leaves.remove(&leaf);
        }
    }

    pub fn unhold(&mut self, id: NodeId) {
        let node = self.node_mut(id);
        assert!(node.holders > 0, "node {id} of the prefix cache was let go once too often");
        node.holders -= 1;
        if node.holders == 0 && id != ROOT {
            let leaf = (node.last_used, id);
            self.leaves.insert(leaf);
        }
    }

    fn node(&self, id: NodeId) -> &Node {
        self.slots[id].as_ref().unwrap_or_else(|| panic!("node {id} of the prefix cache is gone"))
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.slots[id].as_mut().unwrap_or_else(|| panic!("node {id} of the prefix cache is gone"))
    }

    fn child(&self, parent: NodeId, rest: &[TokenId]) -> Option<NodeId> {
        self.node(parent).children.get(rest.get(..self.block_size)?).copied()
    }

    fn shared_blocks(&self, id: NodeId, rest: &[TokenId]) -> usize {
        let (ours, theirs) = (self.node(id).tokens.chunks(self.block_size), rest.chunks(self.block_size));
        ours.zip(theirs).take_while(|(a, b)| a == b).count()
    }

    fn touch(&mut self, id: NodeId) {
        let clock = self.clock;
        let before = std::mem::replace(&mut self.node_mut(id).last_used, clock);
        if self.leaves.remove(&(before, id)) {
            self.leaves.insert((clock, id));
        }
    }

    fn add(&mut self, parent: NodeId, tokens: Vec<TokenId>, blocks: Vec<BlockId>) -> NodeId {
        let node = Node { tokens, blocks, parent, last_used: self.clock, ..Node::default() };
        let id = self.empty.pop().unwrap_or(self.slots.len());
        if id == self.slots.len() {
            self.slots.push(None);
        }
        self.slots[id] = Some(node);
        self.leaves.insert((self.clock, id));
        self.adopt(parent, id);
        id
    }

    /// Hangs `id` under `parent`, in the place of the child that began with the same block, if there was one.
    fn adopt(&mut self, parent: NodeId, id: NodeId) {
        let first = self.node(id).tokens[..self.block_size].into();
        self.node_mut(id).parent = parent;
        if self.node_mut(parent).children.insert(first, id).is_none() {
            self.hold(parent);
        }
    }

    /// Moves the first `blocks` blocks of a node to a new parent of it: who holds the node still holds all of it.
    fn split(&mut self, id: NodeId, blocks: usize) -> NodeId {
        let block_size = self.block_size;
        let node = self.node_mut(id);
        let (tail_tokens, tail_blocks) =
            (node.tokens.split_off(blocks * block_size), node.blocks.split_off(blocks));
        let tokens = std::mem::replace(&mut node.tokens, tail_tokens);
        let blocks = std::mem::replace(&mut node.blocks, tail_blocks);
        let grandparent = node.parent;
        let parent = self.add(grandparent, tokens, blocks);
        self.adopt(parent, id);
        parent
    }

    fn remove(&mut self, id: NodeId) -> Node {
        let Some(node) = self.slots[id].take() else { panic!("node {id} of the prefix cache is gone") };
        self.empty.push(id);
        let first = &node.tokens[..self.block_size];
        self.node_mut(node.parent).children.remove(first);
        self.unhold(node.parent);
        node
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(blocks: &[u32]) -> Vec<BlockId> {
        blocks.iter().copied().map(BlockId).collect()
    }

    /// A trie of one-token blocks whose block ids are given with the tokens.
    fn trie(prompts: &[(&[u32], &[u32])]) -> RadixTrie {
        let mut trie = RadixTrie::new(1);
        for (prompt, blocks) in prompts {
            trie.insert(prompt, &ids(blocks));
        }
        trie
    }

    fn found(trie: &mut RadixTrie, prompt: &[u32]) -> Vec<u32> {
        trie.find(prompt).0.iter().map(|b| b.0).collect()
    }

    fn evicted(trie: &mut RadixTrie, wanted: usize) -> Vec<u32> {
        trie.evict(wanted).iter().map(|b| b.0).collect()
    }

    #[test]
    fn insert_says_how_much_was_known() {
        let mut trie = RadixTrie::new(2);
        assert_eq!(trie.insert(&[0, 1, 2, 3], &ids(&[10, 11])), 0);
        assert_eq!(trie.insert(&[0, 1, 2, 3], &ids(&[20, 21])), 2);
        assert_eq!(trie.insert(&[0, 1], &ids(&[30])), 1);
        assert_eq!(trie.insert(&[0, 1, 2, 3, 4, 5], &ids(&[40, 41, 42])), 2);
        // Differs within the second block: one block is shared.
        assert_eq!(trie.insert(&[0, 1, 2, 9], &ids(&[50, 51])), 1);
        assert_eq!(found(&mut trie, &[0, 1, 2, 3, 4, 5, 6]), [10, 11, 42]);
        assert_eq!(found(&mut trie, &[0, 1, 2, 9]), [10, 51]);
        assert_eq!(found(&mut trie, &[0]), []);
    }

    #[test]
    fn a_lookup_ends_in_the_node_it_used_and_does_not_go_on_below_a_part_of_one() {
        let mut trie = trie(&[(&[0, 1, 2], &[10, 11, 12]), (&[0, 1, 2, 7], &[10, 11, 12, 17])]);
        // 7 follows 0 1 2, not 0 1.
        assert_eq!(found(&mut trie, &[0, 1, 7]), [10, 11]);
        let (_, end) = trie.find(&[0, 1, 2, 7]);
        trie.hold(end);
        assert_eq!(evicted(&mut trie, 9), []);
        trie.unhold(end);
        assert_eq!(evicted(&mut trie, 9), [17, 10, 11, 12]);
    }

    #[test]
    fn narrowing_a_lookup_frees_what_it_did_not_use() {
        let mut trie = trie(&[(&[0, 1], &[10, 11]), (&[0, 1, 2, 3], &[10, 11, 12, 13])]);
        let (blocks, end) = trie.find(&[0, 1, 2, 9]);
        trie.hold(end);
        assert_eq!(evicted(&mut trie, 9), []);
        let before = trie.narrow(end, blocks.len());
        trie.hold(before);
        trie.unhold(end);
        assert_eq!(evicted(&mut trie, 9), [13]);
        assert_eq!(trie.narrow(before, blocks.len()), before);
        assert_eq!(found(&mut trie, &[0, 1, 2, 9]), [10, 11, 12]);
    }

    #[test]
    fn the_least_recently_used_leaf_goes_first_and_may_lose_only_its_tail() {
        let mut trie =
            trie(&[(&[0, 1, 2], &[10, 11, 12]), (&[5, 6], &[15, 16]), (&[0, 1, 8], &[10, 11, 18])]);
        found(&mut trie, &[0, 1, 2]);
        // 5 6 is the oldest; then 8, used before 2; their parent only when both are gone.
        assert_eq!(evicted(&mut trie, 1), [16]);
        assert_eq!(evicted(&mut trie, 2), [15, 18]);
        assert_eq!(evicted(&mut trie, 9), [12, 10, 11]);
        assert_eq!(found(&mut trie, &[0, 1, 2]), []);
    }

    /// A split leaves two leaves of one age. The tail keeps its slot, the new sibling gets another, here a used one that
    /// is lower: it goes first. In a fresh trie the tail's slot is the lower one.
    #[test]
    fn of_two_leaves_of_one_age_the_lower_slot_goes_first() {
        let mut fresh = trie(&[(&[0, 1, 2], &[10, 11, 12]), (&[0, 1, 8], &[10, 11, 18])]);
        assert_eq!(evicted(&mut fresh, 2), [12, 18]);

        let mut reused = trie(&[(&[7], &[17]), (&[9], &[19]), (&[0, 1, 2], &[10, 11, 12])]);
        // Frees slots 1 and 2. The split takes 2 for the new parent, its new child takes 1, below the tail's 3.
        assert_eq!(evicted(&mut reused, 2), [17, 19]);
        reused.insert(&[0, 1, 8], &ids(&[10, 11, 18]));
        assert_eq!(evicted(&mut reused, 2), [18, 12]);
    }
}
