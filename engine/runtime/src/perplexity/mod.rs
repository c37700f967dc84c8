//! How well a model predicts a text: perplexity, and how far its predictions are from those of another (Kullback-Leibler
//! divergence), both with the convention of llama.cpp's `llama-perplexity`, so that figures can be compared.
//!
//! Reading order: [`Windows`] (which tokens are scored), this file (the drive), [`Moments`] and [`Divergence`] (the figures),
//! [`LogProbabilities`] (predictions kept for a later comparison).

mod divergence;
mod log_probabilities;
mod moments;
mod windows;

use llmlab_core::executor::ExecutorError;
use llmlab_core::request::{RequestId, TokenId};
use llmlab_core::step::{BlockId, SeqStep, StepPlan};

use crate::CpuExecutor;

pub use divergence::{Divergence, RowDivergence};
pub use log_probabilities::{Header, LogProbabilities, LogProbabilitiesReader, LogProbabilitiesWriter};
pub use moments::Moments;
pub use windows::{MIN_CONTEXT, Windows};

/// Tokens computed in one step at most, llama.cpp's `-ub`.
const STEP_TOKENS: usize = 512;

/// Why a text cannot be scored.
#[derive(Debug, thiserror::Error)]
pub enum PerplexityError {
    #[error("a context of {context} tokens: accepted are {MIN_CONTEXT} and more")]
    Context { context: usize },
    #[error(
        "the text has {tokens} tokens, one window needs {context}; name a longer text or a smaller context"
    )]
    TooShort { tokens: usize, context: usize },
    #[error(
        "token {token} of the text is not in the model's vocabulary of {vocab}: tokenizer and model do not match"
    )]
    Token { token: TokenId, vocab: u32 },
    #[error("window {window}, position {position}: the model gives token {token} no finite probability")]
    NotFinite { window: usize, position: usize, token: TokenId },
    #[error("log-probabilities: {0}")]
    LogProbabilities(String),
    #[error("log-probabilities: {0}")]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Executor(#[from] ExecutorError),
}

/// What the predictions of one position are worth.
#[derive(Debug, Clone)]
pub struct Row {
    /// Negative log likelihood of the token that follows in the text, in nats.
    pub nll: f64,
    /// Against the base, where there is one.
    pub divergence: Option<RowDivergence>,
    /// All predictions, where they are asked for.
    pub log_probabilities: Option<LogProbabilities>,
}

/// The scored positions of one window.
#[derive(Debug, Clone)]
pub struct Window {
    pub index: usize,
    pub rows: Vec<Row>,
}

/// Computes window after window and scores their second halves.
pub struct Scorer<'a> {
    executor: &'a mut CpuExecutor,
    windows: Windows<'a>,
    /// Tokens of a block of the executor's pool, which must hold one window from block 1 on.
    block_size: usize,
    keep_log_probabilities: bool,
}

impl<'a> Scorer<'a> {
    /// `block_size` is that of the executor, whose pool must hold a window. `vocab` is the model's.
    pub fn new(
        executor: &'a mut CpuExecutor,
        windows: Windows<'a>,
        block_size: u32,
        vocab: u32,
    ) -> Result<Self, PerplexityError> {
        if let Some(token) = windows.tokens().find(|token| *token >= vocab) {
            return Err(PerplexityError::Token { token, vocab });
        }
        Ok(Scorer { executor, windows, block_size: block_size as usize, keep_log_probabilities: false })
    }

    /// Makes every row carry all of its predictions.
    pub fn keep_log_probabilities(&mut self) {
        self.keep_log_probabilities = true;
    }

    /// Scores one window, against the predictions of `base` if there are any: one for each scored position.
    pub fn score(
        &mut self,
        index: usize,
        base: Option<&[LogProbabilities]>,
    ) -> Result<Window, PerplexityError> {
        let tokens = self.windows.window(index);
        let first = self.windows.first_scored();
        // The last token predicts nothing that is in the window.
        let end = tokens.len() - 1;
        let keep = self.keep_log_probabilities;
        let mut rows = Vec::with_capacity(end - first);
        for start in (0..end).step_by(STEP_TOKENS) {
            let stop = end.min(start + STEP_TOKENS);
            let tail = stop.saturating_sub(first.max(start));
            let plan = self.plan(index, start, &tokens[start..stop], tail > 0);
            let position = stop - tail;
            let scored = self.executor.map_logits(&plan, tail, |row, logits| {
                let token = tokens[position + row + 1];
                let base = base.map(|base| &base[position + row - first]);
                score_row(logits, token, base, keep)
            })?;
            rows.extend(scored);
        }
        if let Some(at) = rows.iter().position(|row| !row.nll.is_finite()) {
            let position = first + at;
            return Err(PerplexityError::NotFinite { window: index, position, token: tokens[position + 1] });
        }
        Ok(Window { index, rows })
    }

    fn plan(&self, window: usize, context: usize, tokens: &[TokenId], sample: bool) -> StepPlan {
        let blocks = (context + tokens.len()).div_ceil(self.block_size) as u32;
        let seq = SeqStep {
            sample,
            ..SeqStep::new(
                RequestId(window as u64),
                context as u32,
                tokens.to_vec(),
                (1..=blocks).map(BlockId).collect(),
            )
        };
        StepPlan { step: window as u64, seqs: vec![seq], preempted: Vec::new(), admitted: Vec::new() }
    }
}

fn score_row(logits: &[f32], token: TokenId, base: Option<&LogProbabilities>, keep: bool) -> Row {
    let log_total = log_sum_exp(logits);
    let nll = log_total - f64::from(logits[token as usize]);
    Row {
        nll,
        divergence: base.map(|base| RowDivergence::of(base, logits, log_total, token)),
        log_probabilities: keep.then(|| LogProbabilities::of(logits, log_total)),
    }
}

/// ln of the sum of e^logit. Not finite when a logit is NaN or +infinity, or none is finite.
fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from((logit - max).exp())).sum();
    f64::from(max) + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn likelihood_of_a_token_is_its_share_of_the_exponentials() {
        let logits = [1.0f32, 2.0, 3.0, -50.0];
        let total = (1f64.exp() + 2f64.exp() + 3f64.exp()).ln();
        let row = score_row(&logits, 1, None, false);
        assert!((row.nll - (total - 2.0)).abs() < 1e-6, "{}", row.nll);
        // Far outside what an f32 exponential holds.
        let shifted: Vec<f32> = logits.iter().map(|logit| logit + 4096.0).collect();
        assert!((score_row(&shifted, 1, None, false).nll - row.nll).abs() < 1e-6);
    }

    #[test]
    fn a_logit_that_is_no_number_is_never_scored() {
        for bad in [f32::NAN, f32::INFINITY] {
            assert!(!score_row(&[0.0, bad, 1.0], 0, None, false).nll.is_finite(), "{bad}");
        }
        assert!(!score_row(&[f32::NEG_INFINITY; 3], 0, None, false).nll.is_finite());
    }
}
