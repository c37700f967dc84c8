//! Beginnings of prompts as a tree of token blocks: a system prompt, a document behind it, examples behind that. A request walks
//! from the root down one branch after the other, takes the block of each, and goes on with tokens of its own.
//!
//! How far requests walk decides how much a prefix cache finds. With a wanted hit rate the probability of each further block
//! is solved for on the very requests of the workload; the rate is the one that a cache of any size would see.

use std::collections::HashMap;

use crate::popularity::{Popularity, Shares};
use crate::streams::{Purpose, stream, unit};
use crate::workload::{WorkloadConfig, WorkloadError, lengths};

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PrefixTree {
    pub block_tokens: u32,
    /// Blocks from the root to a leaf.
    pub depth: u32,
    /// Of each block, how many may follow.
    pub branching: u32,
    /// Which branch is taken.
    pub popularity: Popularity,
    /// Tokens found, of all prompt tokens, 0..=1. `None`: every request walks as far as its length allows.
    pub hit_rate: Option<f64>,
    /// A rate that cannot be reached is approached, not refused: a probe has fewer requests than the run it prepares.
    pub or_nearest: bool,
}

/// Numbers of blocks must fit into a stream's number.
const MOST_BLOCKS: u64 = 1 << 50;

/// The tree, and how far requests walk in it.
#[derive(Debug)]
pub(crate) struct Walks {
    tree: PrefixTree,
    shares: Shares,
    /// Probability of a further block.
    go_on: f64,
    /// What a cache of any size would find.
    pub hit_rate: f64,
}

/// A block on the longest walk that a request could take.
struct Visit {
    block: u64,
    /// It is taken where the probability of going on is above this.
    threshold: f64,
}

impl PrefixTree {
    fn check(&self) -> Result<(), WorkloadError> {
        let wrong = |reason: String| Err(WorkloadError::Tree { reason });
        if self.block_tokens == 0 || self.depth == 0 || self.branching == 0 {
            return wrong("block_tokens, depth and branching must be at least 1".into());
        }
        let leaves = u64::from(self.branching).checked_pow(self.depth);
        if leaves.is_none_or(|leaves| leaves.saturating_mul(u64::from(self.depth)) > MOST_BLOCKS) {
            return wrong(format!("{} branches to a depth of {} are too many", self.branching, self.depth));
        }
        match self.hit_rate {
            Some(rate) if !(0.0..=1.0).contains(&rate) => {
                wrong(format!("hit_rate must be between 0 and 1, got {rate}"))
            }
            _ => Ok(()),
        }
    }
}

impl Walks {
    pub fn solve(config: &WorkloadConfig, tree: PrefixTree) -> Result<Walks, WorkloadError> {
        tree.check()?;
        let shares = Shares::new(tree.branching, tree.popularity)?;
        let mut walks = Walks { tree, shares, go_on: 1.0, hit_rate: 0.0 };
        let mut prompt_tokens = 0;
        let mut visits = Vec::new();
        for index in 0..config.requests {
            let tokens = lengths(config, index).0;
            prompt_tokens += u64::from(tokens);
            visits.extend(walks.longest(config.seed, index, tokens));
        }
        let found = Found::of(visits);
        let rate = |hits: u64| (hits * u64::from(tree.block_tokens)) as f64 / prompt_tokens.max(1) as f64;
        let Some(wanted) = tree.hit_rate else {
            walks.hit_rate = rate(found.at(1.0));
            return Ok(walks);
        };
        let most = rate(found.at(1.0));
        let below = |hits: u64| rate(hits) < wanted;
        // Of the two probabilities around the wanted rate the nearer one.
        let place = found.thresholds.partition_point(|t| below(found.at(t.next_up())));
        walks.go_on = match found.thresholds.get(place) {
            Some(over) => {
                let (less, more) = (rate(found.at(*over)), rate(found.at(over.next_up())));
                if wanted - less <= more - wanted { *over } else { over.next_up() }
            }
            None if most < wanted - TOLERANCE && !tree.or_nearest => {
                return Err(WorkloadError::HitRate { wanted, most });
            }
            None => 1.0,
        };
        walks.hit_rate = rate(found.at(walks.go_on));
        Ok(walks)
    }

    /// Blocks at the beginning of a prompt of so many tokens, from the root on. At least the last token is the request's own.
    pub fn blocks(&self, seed: u64, index: u64, tokens: u32) -> Vec<u64> {
        let walk = self.longest(seed, index, tokens);
        walk.take_while(|visit| visit.threshold < self.go_on).map(|visit| visit.block).collect()
    }

    fn longest(&self, seed: u64, index: u64, tokens: u32) -> impl Iterator<Item = Visit> {
        let mut rng = stream(seed, Purpose::TreeWalk, index);
        let fitting = tokens.saturating_sub(1) / self.tree.block_tokens;
        let (mut block, mut threshold) = (0_u64, 0.0_f64);
        (0..self.tree.depth.min(fitting)).map(move |_| {
            // As in a heap: the children of block n are n * branching + 1 and those after it.
            block = block * u64::from(self.tree.branching) + 1 + u64::from(self.shares.draw(&mut rng));
            threshold = threshold.max(unit(&mut rng));
            Visit { block, threshold }
        })
    }
}

/// How far the reached rate may lie under the wanted one where nothing more can be found.
const TOLERANCE: f64 = 0.002;

/// Visits that find their block, by the probability of going on: all but the first of each block.
struct Found {
    /// Of all visits, ascending.
    thresholds: Vec<f64>,
    /// Of the first visit of each block, ascending. Which visit is first in time does not matter: one of them finds nothing.
    firsts: Vec<f64>,
}

impl Found {
    fn of(visits: Vec<Visit>) -> Found {
        let mut first: HashMap<u64, f64> = HashMap::new();
        let mut thresholds = Vec::with_capacity(visits.len());
        for Visit { block, threshold } in visits {
            let lowest = first.entry(block).or_insert(threshold);
            *lowest = lowest.min(threshold);
            thresholds.push(threshold);
        }
        let mut firsts: Vec<f64> = first.into_values().collect();
        thresholds.sort_by(f64::total_cmp);
        firsts.sort_by(f64::total_cmp);
        Found { thresholds, firsts }
    }

    /// Never falls as the probability grows.
    fn at(&self, go_on: f64) -> u64 {
        let taken = |thresholds: &[f64]| thresholds.partition_point(|t| *t < go_on) as u64;
        taken(&self.thresholds) - taken(&self.firsts)
    }
}
