//! Rotary embedding: the frequencies of each pair of values, and the factor on cos and sin.
//!
//! Plain: pair `i` of `rotary_dim / 2` turns by `position * theta^(-2i / rotary_dim)` (Su et al. 2021, RoFormer). The
//! scalings stretch this to longer contexts. Computed in f64 and rounded once to f32.

use std::f64::consts::PI;

/// One kind of rotary embedding; a model may have different ones in different layers.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeSpec {
    /// Base of the frequencies.
    pub theta: f64,
    /// Leading values of each head that turn; even, at most `head_dim`. Value `i` pairs with `i + rotary_dim / 2`.
    pub rotary_dim: u32,
    pub scaling: RopeScaling,
}

/// How the frequencies are changed.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    None,
    /// All frequencies divided by `factor` (position interpolation).
    Linear {
        factor: f64,
    },
    /// Llama 3.1: wavelengths over `original_max_position / low_freq_factor` are divided by `factor`, those under
    /// `original_max_position / high_freq_factor` are kept, and those between are blended.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_max_position: u32,
    },
    /// YaRN (Peng et al. 2023): a linear ramp over the pairs, from kept at `beta_fast` turns within
    /// `original_max_position` to divided by `factor` at `beta_slow` turns.
    Yarn {
        factor: f64,
        original_max_position: u32,
        beta_fast: f64,
        beta_slow: f64,
        /// Multiplies cos and sin.
        attention_factor: f64,
        /// Whether the ends of the ramp are whole pairs.
        truncate: bool,
    },
    /// LongRoPE (Ding et al. 2024): each pair has its own divisor, `rotary_dim / 2` of them; the long ones apply when the
    /// context may exceed `original_max_position`.
    LongRope {
        short_factor: Vec<f64>,
        long_factor: Vec<f64>,
        original_max_position: u32,
        /// Multiplies cos and sin, whichever divisors apply.
        attention_factor: f64,
    },
    /// The divisors themselves, `rotary_dim / 2` of them, as GGUF stores them (`rope_freqs.weight`).
    Factors {
        factors: Vec<f32>,
    },
}

impl RopeSpec {
    /// Unscaled, over `rotary_dim` values.
    pub fn plain(theta: f64, rotary_dim: u32) -> Self {
        RopeSpec { theta, rotary_dim, scaling: RopeScaling::None }
    }

    /// Radians per position of each pair: `[rotary_dim / 2]`.
    ///
    /// `max_model_len` is the longest context that will be served. It decides between LongRoPE's two sets of divisors, once
    /// for all requests: deciding by each request's length would make a token depend on what its neighbours hold.
    pub fn inv_freq(&self, max_model_len: u32) -> Vec<f32> {
        let pairs = self.rotary_dim as usize / 2;
        let plain = (0..pairs).map(|pair| self.theta.powf(-2.0 * pair as f64 / f64::from(self.rotary_dim)));
        let scaled: Vec<f64> = match &self.scaling {
            RopeScaling::None => plain.collect(),
            RopeScaling::Linear { factor } => plain.map(|frequency| frequency / factor).collect(),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position } => {
                let original = f64::from(*original_max_position);
                plain
                    .map(|frequency| {
                        let turns = original * frequency / (2.0 * PI);
                        let kept = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                        blend(frequency / factor, frequency, kept)
                    })
                    .collect()
            }
            RopeScaling::Yarn { factor, original_max_position, beta_fast, beta_slow, truncate, .. } => {
                let (low, high) = self.yarn_ramp(*original_max_position, *beta_fast, *beta_slow, *truncate);
                plain
                    .enumerate()
                    .map(|(pair, frequency)| {
                        let divided = (pair as f64 - low) / (high - low);
                        blend(frequency, frequency / factor, divided)
                    })
                    .collect()
            }
            RopeScaling::LongRope { short_factor, long_factor, original_max_position, .. } => {
                let factors = if max_model_len > *original_max_position { long_factor } else { short_factor };
                assert_eq!(factors.len(), pairs, "LongRoPE divisors");
                plain.zip(factors).map(|(frequency, factor)| frequency / factor).collect()
            }
            RopeScaling::Factors { factors } => {
                assert_eq!(factors.len(), pairs, "rope factors");
                plain.zip(factors).map(|(frequency, factor)| frequency / f64::from(*factor)).collect()
            }
        };
        scaled.into_iter().map(|frequency| frequency as f32).collect()
    }

    /// What cos and sin are multiplied by; 1 unless YaRN or LongRoPE says otherwise.
    pub fn magnitude(&self) -> f32 {
        match self.scaling {
            RopeScaling::Yarn { attention_factor, .. } | RopeScaling::LongRope { attention_factor, .. } => {
                attention_factor as f32
            }
            _ => 1.0,
        }
    }

    /// The pairs between which YaRN's ramp rises. The pair that turns `n` times within the original context is
    /// `dim * ln(original / (2 pi n)) / (2 ln theta)`.
    fn yarn_ramp(&self, original: u32, beta_fast: f64, beta_slow: f64, truncate: bool) -> (f64, f64) {
        let dim = f64::from(self.rotary_dim);
        let pair_of =
            |turns: f64| dim * (f64::from(original) / (turns * 2.0 * PI)).ln() / (2.0 * self.theta.ln());
        let (mut low, mut high) = (pair_of(beta_fast), pair_of(beta_slow));
        if truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(dim - 1.0));
        // The reference widens an empty ramp by this much.
        if low == high { (low, high + 0.001) } else { (low, high) }
    }
}

/// `from` where `share` is 0 or less, `to` where it is 1 or more, and in between in proportion.
fn blend(from: f64, to: f64, share: f64) -> f64 {
    let share = share.clamp(0.0, 1.0);
    from * (1.0 - share) + to * share
}
