//! The shaped steps that an engine is timed with.

use llmlab_core::request::RequestId;
use llmlab_core::step::{BlockId, SeqStep, StepPlan};
use llmlab_sim::SeqShape;

/// Tokens per KV block.
pub const BLOCK_SIZE: u32 = 16;

#[derive(Debug, Clone)]
pub struct Cell {
    /// For people, e.g. "decode 8 at 256".
    pub name: String,
    pub seqs: Vec<SeqShape>,
}

impl Cell {
    fn new(name: String, seqs: Vec<SeqShape>) -> Cell {
        Cell { name, seqs }
    }

    pub fn rows(&self) -> u64 {
        self.seqs.iter().map(SeqShape::rows).sum()
    }

    /// Blocks that all sequences hold together.
    pub fn blocks(&self) -> u64 {
        self.seqs.iter().map(|seq| u64::from(blocks_of(seq))).sum()
    }

    /// The step, each sequence on blocks of its own. What the blocks hold does not change how long they take to read.
    pub fn plan(&self, step: u64, vocab_size: u32) -> StepPlan {
        let mut next_block = 1;
        let seqs = self.seqs.iter().zip(0u64..).map(|(seq, id)| {
            let blocks = blocks_of(seq);
            let first = next_block;
            next_block += blocks;
            SeqStep {
                sample: seq.sample,
                ..SeqStep::new(
                    RequestId(id),
                    seq.context,
                    (0..seq.new).map(|at| (at.wrapping_mul(7919) + id as u32 * 31) % vocab_size).collect(),
                    (first..first + blocks).map(BlockId).collect(),
                )
            }
        });
        StepPlan { step, seqs: seqs.collect(), preempted: Vec::new(), admitted: Vec::new() }
    }
}

fn blocks_of(seq: &SeqShape) -> u32 {
    (seq.context + seq.new).div_ceil(BLOCK_SIZE)
}

/// Decodes at several batch sizes and contexts, chunks of prompts of several sizes at several contexts with and without
/// logits, several prompts at once, and both kinds mixed. Only what a sequence of `longest` tokens and a pool of so many
/// blocks can hold; smallest first.
pub fn cells(longest: u32, pool_blocks: u64) -> Vec<Cell> {
    let decode = |context| SeqShape { context, new: 1, padding: 0, sample: true, drafts: 0 };
    let chunk = |context, new, sample| SeqShape { context, new, padding: 0, sample, drafts: 0 };
    let mut cells = Vec::new();
    for batch in [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128] {
        for context in [16, 256, 1000] {
            cells.push(Cell::new(format!("decode {batch} at {context}"), vec![decode(context); batch]));
        }
    }
    // Every class of rows is met without logits too, else its price and theirs could not be told apart.
    for new in [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024] {
        for context in [0, 256, 1024] {
            cells.push(Cell::new(format!("prefill {new} at {context}"), vec![chunk(context, new, true)]));
        }
        cells.push(Cell::new(format!("prefill {new} at 0, no logits"), vec![chunk(0, new, false)]));
    }
    for (prompts, new) in [(2, 64), (4, 32), (4, 128), (8, 64), (8, 16)] {
        cells.push(Cell::new(format!("prefill {prompts} x {new}"), vec![chunk(0, new, true); prompts]));
    }
    for batch in [2, 8, 32] {
        for new in [32, 128, 512] {
            let mut seqs = vec![decode(300); batch];
            seqs.push(chunk(0, new, true));
            cells.push(Cell::new(format!("decode {batch} at 300 with prefill {new}"), seqs));
        }
    }
    let fits = |cell: &Cell| {
        cell.blocks() < pool_blocks && cell.seqs.iter().all(|seq| seq.context + seq.new <= longest)
    };
    cells.retain(fits);
    cells.sort_by_key(Cell::rows);
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cell_is_larger_than_what_there_is() {
        let all = cells(4096, u64::MAX);
        let some = cells(300, 100);
        assert!(all.len() > 80 && some.len() > 30 && some.len() < all.len(), "{} {}", all.len(), some.len());
        for cell in some {
            let plan = cell.plan(1, 100);
            let blocks: Vec<u32> =
                plan.seqs.iter().flat_map(|seq| &seq.blocks).map(|block| block.0).collect();
            assert!(blocks.iter().all(|block| (1..100).contains(block)), "{}", cell.name);
            let distinct: std::collections::HashSet<&u32> = blocks.iter().collect();
            assert_eq!(distinct.len(), blocks.len(), "{}: a block belongs to one sequence", cell.name);
            assert!(plan.seqs.iter().flat_map(|seq| &seq.tokens).all(|token| *token < 100));
        }
    }
}
