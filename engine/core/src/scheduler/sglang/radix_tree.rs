//! SGLang's radix cache at page granularity: which blocks hold which beginnings of token sequences.
//!
//! A path from the root spells tokens; every node owns the blocks of its stretch of them. Nodes that a running request
//! stands on are locked, they and all above them; the others may be evicted, least recently used leaf first. The tree
//! only says what to keep and what to let go: the counting is done by whoever owns the blocks.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use crate::request::TokenId;
use crate::step::BlockId;

/// A node; the root stands for the empty beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeId(usize);

pub const ROOT: NodeId = NodeId(0);

#[derive(Debug)]
pub struct RadixTree {
    /// Tokens per block.
    page: usize,
    nodes: Vec<Node>,
    /// Places in `nodes` that can be used again.
    vacant: Vec<usize>,
    /// Counts calls; stands in for the time of the last access.
    clock: u64,
    evictable: usize,
}

#[derive(Debug, Default)]
struct Node {
    parent: usize,
    tokens: Vec<TokenId>,
    blocks: Vec<BlockId>,
    /// By the first page of the child's tokens.
    children: HashMap<Vec<TokenId>, usize>,
    locks: u32,
    last_access: u64,
}

impl RadixTree {
    pub fn new(page: usize) -> Self {
        RadixTree { page, nodes: vec![Node::default()], vacant: Vec::new(), clock: 0, evictable: 0 }
    }

    /// Blocks that no running request needs.
    pub fn evictable(&self) -> usize {
        self.evictable
    }

    /// The blocks of the longest known beginning of `tokens`, and the node it ends at. A node that matches only in part
    /// is split there.
    pub fn longest_prefix(&mut self, tokens: &[TokenId]) -> (Vec<BlockId>, NodeId) {
        let (mut blocks, mut node) = (Vec::new(), ROOT.0);
        self.clock += 1;
        loop {
            let rest = &tokens[blocks.len() * self.page..];
            let Some((child, common)) = self.step_down(node, rest) else { return (blocks, NodeId(node)) };
            self.nodes[child].last_access = self.clock;
            node = self.split(child, common);
            blocks.extend_from_slice(&self.nodes[node].blocks);
        }
    }

    /// Adds what is not known yet of a sequence of whole pages. Returns how many of its blocks were known; the tree owns
    /// the others from now on.
    pub fn insert(&mut self, tokens: &[TokenId], blocks: &[BlockId]) -> usize {
        assert_eq!(tokens.len(), blocks.len() * self.page, "only whole pages are cached");
        let (known, node) = self.longest_prefix(tokens);
        let known = known.len();
        if known < blocks.len() {
            let tokens = tokens[known * self.page..].to_vec();
            let first = tokens[..self.page].to_vec();
            self.evictable += blocks.len() - known;
            let leaf = self.add(Node {
                parent: node.0,
                tokens,
                blocks: blocks[known..].to_vec(),
                last_access: self.clock,
                ..Node::default()
            });
            self.nodes[node.0].children.insert(first, leaf);
        }
        known
    }

    /// A request stands on this node.
    pub fn lock(&mut self, node: NodeId) {
        let mut at = node.0;
        while at != ROOT.0 {
            let node = &mut self.nodes[at];
            if node.locks == 0 {
                self.evictable -= node.blocks.len();
            }
            node.locks += 1;
            at = node.parent;
        }
    }

    pub fn unlock(&mut self, node: NodeId) {
        let mut at = node.0;
        while at != ROOT.0 {
            let node = &mut self.nodes[at];
            assert!(node.locks > 0, "a node was unlocked that nobody had locked");
            node.locks -= 1;
            if node.locks == 0 {
                self.evictable += node.blocks.len();
            }
            at = node.parent;
        }
    }

    /// Takes out unlocked leaves, least recently used first, until at least `wanted` blocks are out or none is left.
    pub fn evict(&mut self, wanted: usize) -> Vec<BlockId> {
        let mut evicted = Vec::new();
        let is_leaf = |node: &Node| node.locks == 0 && node.children.is_empty() && !node.blocks.is_empty();
        let leaves = self.nodes.iter().enumerate().filter(|(_, node)| wanted > 0 && is_leaf(node));
        let mut oldest: BinaryHeap<_> = leaves.map(|(i, node)| Reverse((node.last_access, i))).collect();
        while evicted.len() < wanted {
            let Some(Reverse((_, at))) = oldest.pop() else { break };
            let node = std::mem::take(&mut self.nodes[at]);
            self.vacant.push(at);
            self.evictable -= node.blocks.len();
            evicted.extend(node.blocks);
            let parent = &mut self.nodes[node.parent];
            parent.children.remove(&node.tokens[..self.page]);
            if is_leaf(parent) {
                oldest.push(Reverse((parent.last_access, node.parent)));
            }
        }
        evicted
    }

    /// The child that continues with `rest`, and how many of its pages agree; at least one does.
    fn step_down(&self, node: usize, rest: &[TokenId]) -> Option<(usize, usize)> {
        let child = *self.nodes[node].children.get(rest.get(..self.page)?)?;
        let pages = self.nodes[child].tokens.chunks(self.page).zip(rest.chunks(self.page));
        Some((child, pages.take_while(|(a, b)| a == b).count()))
    }

    /// Cuts a node after `pages` of its pages. Returns the upper part, which is the whole node if it was not longer.
    fn split(&mut self, lower: usize, pages: usize) -> usize {
        if pages == self.nodes[lower].blocks.len() {
            return lower;
        }
        let node = &mut self.nodes[lower];
        let tokens_below = node.tokens.split_off(pages * self.page);
        let blocks_below = node.blocks.split_off(pages);
        let upper = Node {
            parent: node.parent,
            tokens: std::mem::replace(&mut node.tokens, tokens_below),
            blocks: std::mem::replace(&mut node.blocks, blocks_below),
            children: HashMap::from([(node.tokens[..self.page].to_vec(), lower)]),
            locks: node.locks,
            last_access: node.last_access,
        };
        let (parent, first) = (upper.parent, upper.tokens[..self.page].to_vec());
        let upper = self.add(upper);
        self.nodes[lower].parent = upper;
        self.nodes[parent].children.insert(first, upper);
        upper
    }

    fn add(&mut self, node: Node) -> usize {
        match self.vacant.pop() {
            Some(place) => {
                self.nodes[place] = node;
                place
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() - 1
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[u32]) -> Vec<BlockId> {
        ids.iter().copied().map(BlockId).collect()
    }

    #[test]
    fn a_partial_match_splits_at_a_page() {
        let mut tree = RadixTree::new(2);
        assert_eq!(tree.insert(&[1, 2, 3, 4, 5, 6], &ids(&[10, 11, 12])), 0);
        // Three tokens agree, one page of them is whole.
        assert_eq!(tree.longest_prefix(&[1, 2, 3, 9]).0, ids(&[10]));
        assert_eq!(tree.longest_prefix(&[1, 2, 3, 4, 5]).0, ids(&[10, 11]));
        assert_eq!(tree.longest_prefix(&[1]).0, ids(&[]));
        assert_eq!(tree.insert(&[1, 2, 7, 8], &ids(&[20, 21])), 1);
        assert_eq!(tree.longest_prefix(&[1, 2, 7, 8, 9, 9]).0, ids(&[10, 21]));
        assert_eq!(tree.longest_prefix(&[1, 2, 3, 4, 5, 6, 7]).0, ids(&[10, 11, 12]));
        assert_eq!(tree.evictable(), 4);
    }

    #[test]
    fn the_least_recently_used_leaf_goes_first_and_then_its_parent() {
        let mut tree = RadixTree::new(1);
        tree.insert(&[1, 2, 3], &ids(&[1, 2, 3]));
        tree.insert(&[1, 5], &ids(&[1, 5]));
        tree.insert(&[8, 9], &ids(&[8, 9]));
        tree.longest_prefix(&[1, 2, 3]);
        assert_eq!(tree.evict(1), ids(&[5]));
        // Whole leaves go, even if that is more than was asked for.
        assert_eq!(tree.evict(1), ids(&[8, 9]));
        assert_eq!(tree.evict(3), ids(&[2, 3, 1]));
        assert_eq!((tree.evictable(), tree.evict(1)), (0, ids(&[])));
    }

    #[test]
    fn locked_nodes_and_those_above_them_stay() {
        let mut tree = RadixTree::new(1);
        tree.insert(&[1, 2, 3], &ids(&[1, 2, 3]));
        let (_, node) = tree.longest_prefix(&[1, 2]);
        tree.lock(node);
        assert_eq!((tree.evictable(), tree.evict(9)), (1, ids(&[3])));
        // A split keeps both halves locked.
        let (_, upper) = tree.longest_prefix(&[1]);
        tree.lock(upper);
        tree.unlock(node);
        assert_eq!((tree.evictable(), tree.evict(9)), (1, ids(&[2])));
        tree.unlock(upper);
        assert_eq!(tree.evict(9), ids(&[1]));
        // Vacant places are used again.
        tree.insert(&[4], &ids(&[4]));
        assert_eq!(tree.nodes.len(), 3);
    }
}
