//! Step plans for a benchmark: sequences that share nothing, all prompts first, then all of them one token a step. No
//! scheduler takes part, so what is timed is the executor alone.

use std::time::{Duration, Instant};

use llmlab_core::executor::{Executor, ExecutorError};
use llmlab_core::request::{RequestId, TokenId};
use llmlab_core::step::{BlockId, SeqStep, StepPlan};
use llmlab_runtime::CpuExecutor;

use super::limits::Bandwidth;
use super::work::Operations;

/// Steps between two probes of the bandwidth: they evict what a small model keeps in cache, so not after each.
const PROBE_STEPS: u32 = 8;

/// Tokens per KV block.
pub const BLOCK_SIZE: u32 = 16;

/// What a phase took and moved.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Phase {
    /// From building each plan to having its tokens.
    pub elapsed: Duration,
    pub tokens: u64,
    /// Weights and KV that had to be read or written, each once per step.
    pub bytes: u64,
    pub operations: f64,
    /// Seconds that moving the bytes would have taken at the read bandwidth measured around them.
    pub bytes_at_bandwidth_s: f64,
    /// Lowest and highest of those probes, bytes per second.
    pub bandwidth_range: (f64, f64),
}

impl Phase {
    pub fn seconds(&self) -> f64 {
        self.elapsed.as_secs_f64()
    }

    pub fn tokens_per_s(&self) -> f64 {
        self.tokens as f64 / self.seconds().max(1e-9)
    }

    /// Share of the read bandwidth that was used.
    pub fn bandwidth_share(&self) -> f64 {
        self.bytes_at_bandwidth_s / self.seconds().max(1e-9)
    }

    pub fn operations_per_s(&self) -> f64 {
        self.operations / self.seconds().max(1e-9)
    }
}

/// A batch of sequences on an executor. Every [`Driver::prefill`] starts new ones.
pub struct Driver<'a> {
    executor: &'a mut CpuExecutor,
    operations: &'a Operations,
    bandwidth: &'a mut Bandwidth,
    vocab_size: u32,
    /// Rows of one step at most, as llama.cpp's `n_ubatch`.
    step_tokens: u32,
    /// Blocks each sequence may use; they lie one after the other from block 1 on.
    blocks_per_seq: u32,
    seqs: Vec<Sequence>,
    steps: u64,
    /// Bytes of the phase that have been judged by the bandwidth around them.
    settled_bytes: u64,
}

#[derive(Debug, Clone, Copy)]
struct Sequence {
    cached: u32,
    last: TokenId,
}

impl<'a> Driver<'a> {
    /// `seq_tokens` is the longest a sequence gets; the executor's pool must hold it for every sequence of a batch.
    pub fn new(
        executor: &'a mut CpuExecutor,
        operations: &'a Operations,
        bandwidth: &'a mut Bandwidth,
        vocab_size: u32,
        step_tokens: u32,
        seq_tokens: u32,
    ) -> Driver<'a> {
        let blocks_per_seq = seq_tokens.div_ceil(BLOCK_SIZE);
        Driver {
            executor,
            operations,
            bandwidth,
            vocab_size,
            step_tokens,
            blocks_per_seq,
            seqs: Vec::new(),
            steps: 0,
            settled_bytes: 0,
        }
    }

    /// Forgets all sequences and starts `batch` empty ones.
    pub fn reset(&mut self, batch: u32) {
        self.seqs.clear();
        self.seqs.extend(
            (0..batch).map(|index| Sequence { cached: 0, last: prompt_token(index, 0, self.vocab_size) }),
        );
    }

    /// Computes `tokens` prompt tokens of every sequence, in steps of at most `step_tokens` rows; logits for the last
    /// position of each.
    pub fn prefill(&mut self, tokens: u32) -> Result<Phase, ExecutorError> {
        let mut phase = self.start();
        let mut next = if tokens == 0 { self.seqs.len() } else { 0 };
        while next < self.seqs.len() {
            let mut rows_left = self.step_tokens;
            let mut parts = Vec::new();
            let mut seq = next;
            while seq < self.seqs.len() && rows_left > 0 {
                let missing = tokens - self.seqs[seq].cached;
                let take = missing.min(rows_left);
                parts.push((seq, take, take == missing));
                rows_left -= take;
                if take < missing {
                    break;
                }
                seq += 1;
            }
            self.step(&mut phase, |driver| {
                parts.iter().map(|&(seq, take, last)| driver.prompt_part(seq, take, last)).collect()
            })?;
            next = seq;
        }
        Ok(self.end(phase))
    }

    /// `steps` steps in which every sequence gets one token, the one picked greedily in the step before.
    pub fn decode(&mut self, steps: u32) -> Result<Phase, ExecutorError> {
        let mut phase = self.start();
        for step in 1..=steps {
            self.step(&mut phase, |driver| {
                (0..driver.seqs.len())
                    .map(|seq| driver.part(seq, vec![driver.seqs[seq].last], true))
                    .collect()
            })?;
            if step % PROBE_STEPS == 0 && step < steps {
                self.settle(&mut phase);
            }
        }
        Ok(self.end(phase))
    }

    fn start(&mut self) -> Phase {
        self.bandwidth.start(self.executor.pool());
        self.settled_bytes = 0;
        Phase::default()
    }

    fn end(&mut self, mut phase: Phase) -> Phase {
        self.settle(&mut phase);
        phase.bandwidth_range = self.bandwidth.range();
        phase
    }

    /// Probes the bandwidth and judges what was moved since the last probe by it.
    fn settle(&mut self, phase: &mut Phase) {
        let bytes = phase.bytes - std::mem::replace(&mut self.settled_bytes, phase.bytes);
        phase.bytes_at_bandwidth_s += bytes as f64 / self.bandwidth.since_last(self.executor.pool());
    }

    #[allow(clippy::disallowed_methods, reason = "a benchmark times what it drives")]
    fn step(
        &mut self,
        phase: &mut Phase,
        parts: impl FnOnce(&Self) -> Vec<SeqStep>,
    ) -> Result<(), ExecutorError> {
        let start = Instant::now();
        self.steps += 1;
        let plan =
            StepPlan { step: self.steps, seqs: parts(self), preempted: Vec::new(), admitted: Vec::new() };
        let outcome = self.executor.execute(&plan)?;
        phase.elapsed += start.elapsed();
        // The bookkeeping of the benchmark itself is not timed.
        let bytes = self.executor.step_bytes(&plan);
        phase.bytes += bytes.weights + bytes.kv_read + bytes.kv_written;
        phase.tokens += plan.new_tokens() as u64;
        for seq in &plan.seqs {
            phase.operations +=
                self.operations.count(u64::from(seq.context), seq.tokens.len() as u64, seq.sample);
            self.seqs[seq.id.0 as usize].cached += seq.tokens.len() as u32;
        }
        for sampled in &outcome.sampled {
            let seq = &plan.seqs[sampled.seq as usize];
            self.seqs[seq.id.0 as usize].last = sampled.token;
        }
        Ok(())
    }

    fn prompt_part(&self, seq: usize, tokens: u32, last: bool) -> SeqStep {
        let start = self.seqs[seq].cached;
        let tokens =
            (start..start + tokens).map(|at| prompt_token(seq as u32, at, self.vocab_size)).collect();
        self.part(seq, tokens, last)
    }

    fn part(&self, seq: usize, tokens: Vec<TokenId>, sample: bool) -> SeqStep {
        let context = self.seqs[seq].cached;
        let blocks = (context + tokens.len() as u32).div_ceil(BLOCK_SIZE);
        let first = 1 + seq as u32 * self.blocks_per_seq;
        SeqStep {
            sample,
            ..SeqStep::new(
                RequestId(seq as u64),
                context,
                tokens,
                (first..first + blocks).map(BlockId).collect(),
            )
        }
    }
}

/// Any tokens do; different sequences and positions get different ones, so that a mixture of experts spreads its work.
fn prompt_token(seq: u32, position: u32, vocab_size: u32) -> TokenId {
    let mixed = (u64::from(seq) << 32 | u64::from(position)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed >> 33) % u64::from(vocab_size)) as u32
}
