//! A step plan as flat rows: one row per token of any sequence, then the padding rows.

use std::ops::Range;

use llmlab_core::executor::ExecutorError;
use llmlab_core::request::LoraId;
use llmlab_core::step::{SeqStep, StepPlan};
use llmlab_kernels::attention::AttentionSeq;
use llmlab_models::ModelSpec;

use crate::config::RuntimeConfig;
use crate::lora::AdaptedRows;

/// What a plan may name.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub vocab_size: u32,
    pub max_model_len: u32,
    pub num_blocks: u32,
    pub block_size: u32,
    /// Adapters that are loaded.
    pub adapters: u32,
}

impl Limits {
    pub fn new(spec: &ModelSpec, config: &RuntimeConfig) -> Self {
        Limits {
            vocab_size: spec.vocab_size,
            max_model_len: config.max_model_len,
            num_blocks: config.num_blocks,
            block_size: config.block_size,
            adapters: 0,
        }
    }
}

/// Rows of the forward pass, rebuilt for each plan in the buffers of the last.
///
/// Padding stands for what a rectangular batch computes and throws away. A padding row takes part in every linear layer
/// (as token 0) but writes no keys or values and attends to nothing. A sequence of only padding is one that a batch
/// carries along after its end, so it costs a row of logits as well; padding beside real tokens does not, because a
/// rectangular prefill asks for the logits of the last position only.
#[derive(Default)]
pub struct Batch {
    /// Token of every row, padding rows last.
    pub tokens: Vec<u32>,
    /// Position of every row that is no padding.
    pub positions: Vec<u32>,
    /// Where the row's key and value go: `block * block_size + offset`.
    pub slots: Vec<u32>,
    pub seqs: Vec<Span>,
    /// Block tables of all sequences, one after the other.
    pub blocks: Vec<u32>,
    /// Rows whose logits are computed, those of sampling sequences in plan order, then the ones to throw away.
    pub logit_rows: Vec<usize>,
    /// How many of `logit_rows` are wanted.
    pub samples: usize,
    /// Rows that adapters change, and their places among the logit rows. The lists are made anew for each batch that has
    /// any.
    pub adapted: Vec<AdaptedRows>,
    pub adapted_logits: Vec<AdaptedRows>,
}

/// One sequence with new tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Which of the plan's sequences.
    pub seq: usize,
    pub first_row: usize,
    pub rows: usize,
    pub context: usize,
    /// How many of its last rows get logits.
    logits: usize,
    first_block: usize,
    blocks: usize,
}

impl Batch {
    /// Rows that are no padding.
    pub fn real_rows(&self) -> usize {
        self.positions.len()
    }

    /// Replaces the contents by `plan`; logits are wanted for what it samples from. The error names the sequence that asks for the impossible.
    pub fn fill(&mut self, plan: &StepPlan, limits: &Limits) -> Result<(), ExecutorError> {
        self.fill_with_logits(plan, limits, 1)
    }

    /// As [`Batch::fill`], but each sampling sequence gets the logits of its last `tail` tokens, as far as it has so many.
    pub fn fill_with_logits(
        &mut self,
        plan: &StepPlan,
        limits: &Limits,
        tail: usize,
    ) -> Result<(), ExecutorError> {
        self.tokens.clear();
        self.positions.clear();
        self.slots.clear();
        self.seqs.clear();
        self.blocks.clear();
        self.logit_rows.clear();
        self.adapted.clear();
        self.adapted_logits.clear();
        for (index, seq) in plan.seqs.iter().enumerate() {
            check(seq, limits).map_err(|problem| {
                ExecutorError(format!("step {}, request {}: {problem}", plan.step, seq.id.0))
            })?;
            if !seq.tokens.is_empty() {
                let logits =
                    if seq.sample { tail.max(1 + seq.drafts as usize).min(seq.tokens.len()) } else { 0 };
                self.push(index, seq, limits.block_size, logits);
            }
        }
        self.samples = self.logit_rows.len();
        for seq in plan.seqs.iter().filter(|seq| seq.padding > 0) {
            if seq.tokens.is_empty() {
                self.logit_rows.push(self.tokens.len());
            }
            self.tokens.resize(self.tokens.len() + seq.padding as usize, 0);
        }
        Ok(())
    }

    fn push(&mut self, index: usize, seq: &SeqStep, block_size: u32, logits: usize) {
        self.seqs.push(Span {
            seq: index,
            first_row: self.tokens.len(),
            rows: seq.tokens.len(),
            context: seq.context as usize,
            logits,
            first_block: self.blocks.len(),
            blocks: seq.blocks.len(),
        });
        self.tokens.extend_from_slice(&seq.tokens);
        self.blocks.extend(seq.blocks.iter().map(|block| block.0));
        for position in seq.context..seq.context + seq.tokens.len() as u32 {
            let block = seq.blocks[(position / block_size) as usize];
            self.positions.push(position);
            self.slots.push(block.0 * block_size + position % block_size);
        }
        let rows = self.tokens.len() - seq.tokens.len()..self.tokens.len();
        if let Some(lora) = seq.lora {
            let first_logit = self.logit_rows.len();
            assign(&mut self.adapted, lora, rows.clone());
            assign(&mut self.adapted_logits, lora, first_logit..first_logit + logits);
        }
        self.logit_rows.extend(rows.end - logits..rows.end);
    }

    /// The sequences as attention wants them, appended to `out`.
    pub fn attention_seqs<'a>(&'a self, out: &mut Vec<AttentionSeq<'a>>) {
        out.extend(self.seqs.iter().map(|span| self.attention_seq(span)));
    }

    /// As [`Batch::attention_seqs`], but only the rows that get logits.
    pub fn sampled_seqs<'a>(&'a self, out: &mut Vec<AttentionSeq<'a>>) {
        out.extend(self.seqs.iter().filter(|span| span.logits > 0).map(|span| {
            let whole = self.attention_seq(span);
            let before = span.rows - span.logits;
            AttentionSeq {
                q_start: whole.q_start + before,
                q_len: span.logits,
                context: whole.context + before,
                ..whole
            }
        }));
    }

    fn attention_seq(&self, span: &Span) -> AttentionSeq<'_> {
        AttentionSeq {
            q_start: span.first_row,
            q_len: span.rows,
            context: span.context,
            blocks: &self.blocks[span.first_block..span.first_block + span.blocks],
        }
    }
}

fn assign(groups: &mut Vec<AdaptedRows>, lora: LoraId, rows: Range<usize>) {
    match groups.iter_mut().find(|group| group.lora == lora) {
        Some(group) => group.rows.extend(rows),
        None => groups.push(AdaptedRows { lora, rows: rows.collect() }),
    }
}

fn check(seq: &SeqStep, limits: &Limits) -> Result<(), String> {
    if let Some(token) = seq.tokens.iter().find(|token| **token >= limits.vocab_size) {
        return Err(format!("token {token} is not below the vocabulary of {}", limits.vocab_size));
    }
    if seq.tokens.is_empty() {
        return match (seq.padding, seq.sample) {
            (0, _) => Err("neither tokens nor padding to compute".into()),
            (_, true) => Err("nothing computed to sample from".into()),
            (_, false) => Ok(()),
        };
    }
    if let Some(lora) = seq.lora.filter(|lora| lora.0 >= limits.adapters) {
        return Err(format!("adapter {} of {}", lora.0, limits.adapters));
    }
    let end = seq.context as usize + seq.tokens.len();
    if end > limits.max_model_len as usize {
        return Err(format!("{end} positions, the executor was built for {}", limits.max_model_len));
    }
    if seq.blocks.len() * (limits.block_size as usize) < end {
        return Err(format!(
            "{} blocks of {} tokens for {end} positions",
            seq.blocks.len(),
            limits.block_size
        ));
    }
    if let Some(block) = seq.blocks.iter().find(|block| block.0 >= limits.num_blocks) {
        return Err(format!("block {} of a pool of {}", block.0, limits.num_blocks));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use llmlab_core::request::RequestId;
    use llmlab_core::step::BlockId;

    use super::*;

    const LIMITS: Limits =
        Limits { vocab_size: 100, max_model_len: 20, num_blocks: 10, block_size: 4, adapters: 2 };

    fn seq(id: u64, context: u32, tokens: &[u32], blocks: &[u32], sample: bool, padding: u32) -> SeqStep {
        SeqStep {
            sample,
            padding,
            ..SeqStep::new(
                RequestId(id),
                context,
                tokens.to_vec(),
                blocks.iter().copied().map(BlockId).collect(),
            )
        }
    }

    fn plan(seqs: Vec<SeqStep>) -> StepPlan {
        StepPlan { step: 3, seqs, preempted: Vec::new(), admitted: Vec::new() }
    }

    #[test]
    fn rows_positions_slots_and_padding() {
        let mut batch = Batch::default();
        // Twice: the second fill must leave nothing of the first.
        for _ in 0..2 {
            let seqs = vec![
                seq(1, 3, &[10, 11, 12], &[7, 2], true, 2),
                seq(2, 0, &[], &[], false, 1),
                seq(3, 8, &[20], &[1, 9, 5], true, 0),
                seq(4, 0, &[30, 31], &[3], false, 0),
            ];
            batch.fill(&plan(seqs), &LIMITS).unwrap();
        }
        assert_eq!(batch.tokens, [10, 11, 12, 20, 30, 31, 0, 0, 0]);
        assert_eq!(batch.positions, [3, 4, 5, 8, 0, 1]);
        assert_eq!(batch.slots, [7 * 4 + 3, 2 * 4, 2 * 4 + 1, 5 * 4, 3 * 4, 3 * 4 + 1]);
        assert_eq!(batch.logit_rows, [2, 3, 8]);
        assert_eq!((batch.samples, batch.real_rows()), (2, 6));
        let mut seqs = Vec::new();
        batch.attention_seqs(&mut seqs);
        let shapes: Vec<_> = seqs.iter().map(|s| (s.q_start, s.q_len, s.context, s.blocks)).collect();
        assert_eq!(shapes, [(0, 3, 3, &[7u32, 2][..]), (3, 1, 8, &[1, 9, 5]), (4, 2, 0, &[3])]);
        seqs.clear();
        batch.sampled_seqs(&mut seqs);
        let shapes: Vec<_> = seqs.iter().map(|s| (s.q_start, s.q_len, s.context, s.blocks)).collect();
        assert_eq!(shapes, [(2, 1, 5, &[7u32, 2][..]), (3, 1, 8, &[1, 9, 5])]);
    }

    #[test]
    fn a_tail_of_each_sampling_sequence_gets_logits() {
        let mut batch = Batch::default();
        let seqs = vec![
            seq(1, 3, &[10, 11, 12], &[7, 2], true, 0),
            seq(2, 0, &[30, 31], &[3], false, 0),
            seq(3, 8, &[20], &[1, 9, 5], true, 0),
        ];
        batch.fill_with_logits(&plan(seqs), &LIMITS, 2).unwrap();
        assert_eq!(
            batch.logit_rows,
            [1, 2, 5],
            "two of three rows, none of the second, all one of the third"
        );
        assert_eq!(batch.samples, 3);
        let mut seqs = Vec::new();
        batch.sampled_seqs(&mut seqs);
        let shapes: Vec<_> = seqs.iter().map(|s| (s.q_start, s.q_len, s.context, s.blocks)).collect();
        assert_eq!(shapes, [(1, 2, 4, &[7u32, 2][..]), (5, 1, 8, &[1, 9, 5])]);
    }

    #[test]
    fn impossible_plans_are_errors_that_name_the_request() {
        for (bad, word) in [
            (seq(42, 0, &[100], &[1], true, 0), "token 100"),
            (seq(42, 0, &[], &[], false, 0), "neither"),
            (seq(42, 0, &[], &[], true, 1), "sample"),
            (seq(42, 18, &[1, 2, 3], &[1, 2, 3, 4, 5, 6], true, 0), "21 positions"),
            (seq(42, 4, &[1], &[1], true, 0), "1 blocks"),
            (seq(42, 0, &[1], &[10], true, 0), "block 10"),
        ] {
            let error = Batch::default().fill(&plan(vec![bad]), &LIMITS).unwrap_err().to_string();
            assert!(error.contains("request 42") && error.contains(word), "{error}");
        }
    }
}
