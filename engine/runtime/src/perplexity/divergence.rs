//! How far predictions are from those of a base, position by position.

use llmlab_core::request::TokenId;

use super::{LogProbabilities, Moments};

/// Tokens the base finds less likely than this do not count by themselves, as in llama.cpp: they were stored with no precision.
const LEAST_LOG_PROBABILITY: f32 = -16.0;

/// One position against the base.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RowDivergence {
    /// Kullback-Leibler divergence of these predictions from the base's, the sum of p_base ln(p_base / p), in nats.
    ///
    /// Each term has p - p_base added. Over all tokens that is nothing; over those that count it is what the others would
    /// add, to first order, and it cancels the rounding of the stored base: llama.cpp, which leaves it out, has a noise of
    /// about 1e-5 in each position and the same mean.
    pub kl: f64,
    /// Negative log likelihood that the base gives the token of the text.
    pub base_nll: f64,
    /// What the token of the text is more likely to these predictions than to the base's.
    pub probability_change: f64,
    /// Whether both find the same token the likeliest.
    pub same_top: bool,
}

impl RowDivergence {
    /// `log_total` is the log of the sum of the exponentials of `logits`.
    pub(super) fn of(base: &LogProbabilities, logits: &[f32], log_total: f64, token: TokenId) -> Self {
        let mut kl = 0.0;
        for (base, logit) in base.iter().zip(logits) {
            if base > LEAST_LOG_PROBABILITY {
                let (base, log_p) = (f64::from(base), f64::from(*logit) - log_total);
                let p_base = base.exp();
                kl += p_base * (base - log_p) + (log_p.exp() - p_base);
            }
        }
        let base_nll = -f64::from(base.get(token as usize));
        let probability = (f64::from(logits[token as usize]) - log_total).exp();
        RowDivergence {
            kl,
            base_nll,
            probability_change: probability - (-base_nll).exp(),
            same_top: first_max(base.iter()) == first_max(logits.iter().copied()),
        }
    }
}

fn first_max(values: impl Iterator<Item = f32>) -> usize {
    let best = values
        .enumerate()
        .fold((0, f32::NEG_INFINITY), |best, (at, value)| if value > best.1 { (at, value) } else { best });
    best.0
}

/// All positions against the base.
#[derive(Debug, Clone, Default)]
pub struct Divergence {
    kl: Vec<f32>,
    kl_moments: Moments,
    base_nll: Moments,
    /// Of nll - base nll: its error is that of a paired comparison.
    nll_change: Moments,
    probability_change: Moments,
    same_top: Moments,
}

impl Divergence {
    pub fn add(&mut self, row: &RowDivergence, nll: f64) {
        self.kl.push(row.kl as f32);
        self.kl_moments.add(row.kl);
        self.base_nll.add(row.base_nll);
        self.nll_change.add(nll - row.base_nll);
        self.probability_change.add(row.probability_change);
        self.same_top.add(if row.same_top { 1.0 } else { 0.0 });
    }

    /// Kullback-Leibler divergence: mean and its error.
    pub fn kl(&self) -> &Moments {
        &self.kl_moments
    }

    /// The divergence that a share of the positions does not exceed.
    pub fn kl_quantile(&self, share: f64) -> f32 {
        let mut sorted = self.kl.clone();
        sorted.sort_unstable_by(f32::total_cmp);
        let rank = (share.clamp(0.0, 1.0) * sorted.len().saturating_sub(1) as f64).round() as usize;
        sorted.get(rank).copied().unwrap_or(0.0)
    }

    /// e to the mean of this is the base's perplexity.
    pub fn base_nll(&self) -> &Moments {
        &self.base_nll
    }

    /// Log of the ratio of both perplexities.
    pub fn nll_change(&self) -> &Moments {
        &self.nll_change
    }

    /// Of the probability of the text's tokens; its root mean square is llama.cpp's "RMS delta p".
    pub fn probability_change(&self) -> &Moments {
        &self.probability_change
    }

    /// Share of the positions whose likeliest token is the same.
    pub fn same_top(&self) -> &Moments {
        &self.same_top
    }
}

#[cfg(test)]
mod tests {
    use super::super::log_sum_exp;
    use super::*;

    fn divergence(base: &[f32], logits: &[f32], token: TokenId) -> RowDivergence {
        let stored = LogProbabilities::of(base, log_sum_exp(base));
        RowDivergence::of(&stored, logits, log_sum_exp(logits), token)
    }

    #[test]
    fn of_two_known_distributions() {
        let ln = |shares: [f64; 3]| shares.map(|share| share.ln() as f32);
        let (base, logits) = (ln([0.5, 0.25, 0.25]), ln([0.25, 0.5, 0.25]));
        let row = divergence(&base, &logits, 1);
        // 0.5 ln 2 - 0.25 ln 2; stored with steps of ln(2) / 65535.
        assert!((row.kl - 0.25 * 2f64.ln()).abs() < 1e-4, "{row:?}");
        assert!((row.base_nll - 4f64.ln()).abs() < 1e-4, "{row:?}");
        assert!((row.probability_change - 0.25).abs() < 1e-4, "{row:?}");
        assert!(!row.same_top);
    }

    #[test]
    fn nothing_changed_is_no_divergence() {
        let logits: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.37).sin() * 6.0).collect();
        let row = divergence(&logits, &logits, 3);
        assert!(row.kl.abs() < 1e-6 && row.same_top && row.probability_change.abs() < 1e-6, "{row:?}");
        let mut all = Divergence::default();
        (0..100).for_each(|i| all.add(&RowDivergence { kl: f64::from(i), ..row }, row.base_nll));
        assert_eq!((all.kl_quantile(0.0), all.kl_quantile(1.0), all.kl().mean()), (0.0, 99.0, 49.5));
        assert_eq!((all.same_top().mean(), all.nll_change().mean()), (1.0, 0.0));
    }
}
