//! What a client asked for, checked against the model and the server's limits.
//!
//! Defaults and ranges are vLLM's: temperature 1, top_p 1, top_k off, a temperature below 0.01 but not 0 raised to
//! 0.01, prompt plus max_tokens within the model's context.

use std::sync::Arc;

use llmlab_core::request::{SamplingParams, StopRules};
use serde_json::Value;

use crate::config::Limits;
use crate::error::ApiError;
use crate::fields::{Fields, text, wrong};

/// What the model and the configuration allow.
#[derive(Debug, Clone)]
pub(crate) struct Bounds {
    pub vocab_size: u32,
    pub max_model_len: u32,
    pub eos_ids: Arc<[u32]>,
    pub limits: Limits,
}

/// Everything about a generation request except its prompt and model.
#[derive(Debug)]
pub(crate) struct GenerationParams {
    pub sampling: Sampling,
    pub max_tokens: MaxTokens,
    pub min_tokens: u32,
    pub ignore_eos: bool,
    pub stop: Vec<String>,
    pub stop_token_ids: Vec<u32>,
    pub priority: i32,
    pub stream: bool,
    pub usage: UsageMode,
    pub return_token_ids: bool,
}

/// Sampling without the seed that an absent `seed` still has to get.
#[derive(Debug)]
pub(crate) struct Sampling {
    temperature: f32,
    top_p: f32,
    top_k: u32,
    seed: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MaxTokens {
    Given(u32),
    RestOfContext,
}

/// `stream_options`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UsageMode {
    Never,
    AtEnd,
    /// In every chunk and at the end. As in vLLM only together with `include_usage`.
    Continuous,
}

impl GenerationParams {
    /// `default_max_tokens` is 16 for completions and the rest of the context for chat.
    pub fn take(f: &mut Fields, bounds: &Bounds, default_max_tokens: MaxTokens) -> Result<Self, ApiError> {
        f.refuse_unsupported()?;
        let max_completion_tokens = f.integer("max_completion_tokens", 1..=i64::from(u32::MAX))?;
        let max_tokens = f.integer("max_tokens", 1..=i64::from(u32::MAX))?;
        let stream = f.bool("stream")?;
        Ok(GenerationParams {
            sampling: Sampling::take(f)?,
            max_tokens: match max_completion_tokens.or(max_tokens) {
                Some(n) => MaxTokens::Given(n as u32),
                None => default_max_tokens,
            },
            min_tokens: f.integer("min_tokens", 0..=i64::from(bounds.max_model_len))?.unwrap_or(0) as u32,
            ignore_eos: f.bool("ignore_eos")?,
            stop: stop_strings(f, &bounds.limits)?,
            stop_token_ids: f
                .token_ids("stop_token_ids", bounds.vocab_size, bounds.limits.max_stop_token_ids)?
                .unwrap_or_default(),
            priority: f.integer("priority", i64::from(i32::MIN)..=i64::from(i32::MAX))?.unwrap_or(0) as i32,
            usage: usage_mode(f, stream)?,
            stream,
            return_token_ids: f.bool("return_token_ids")?,
        })
    }

    /// Fits the limits to a prompt of `prompt_tokens`, which must not be empty.
    pub fn stop_rules(&self, prompt_tokens: usize, bounds: &Bounds) -> Result<StopRules, ApiError> {
        let limit = bounds.max_model_len as usize;
        if prompt_tokens == 0 {
            return Err(ApiError::field("prompt", "the prompt must not be empty"));
        }
        if prompt_tokens >= limit {
            let message = format!(
                "the prompt has {prompt_tokens} tokens, but the model's context of {limit} tokens must hold the \
                 prompt and at least one new token"
            );
            return Err(ApiError::field("prompt", message));
        }
        let rest = (limit - prompt_tokens) as u32;
        let max_tokens = match self.max_tokens {
            MaxTokens::RestOfContext => rest,
            MaxTokens::Given(n) if n <= rest => n,
            MaxTokens::Given(n) => {
                let message = format!(
                    "max_tokens is {n}, but after a prompt of {prompt_tokens} tokens only {rest} of the model's \
                     context of {limit} tokens are left"
                );
                return Err(ApiError::field("max_tokens", message));
            }
        };
        if self.min_tokens > max_tokens {
            let message =
                format!("min_tokens must not exceed max_tokens ({max_tokens}); got {}", self.min_tokens);
            return Err(ApiError::field("min_tokens", message));
        }
        let masked = self.masked_until_min_tokens(bounds);
        if self.min_tokens > 0 && masked >= bounds.vocab_size as usize {
            let message = format!(
                "with min_tokens, {masked} eos and stop tokens may not come first, which leaves none of the \
                 vocabulary of {}",
                bounds.vocab_size
            );
            return Err(ApiError::field("stop_token_ids", message));
        }
        Ok(StopRules {
            max_tokens: match self.max_tokens {
                MaxTokens::RestOfContext => StopRules::NO_LIMIT,
                MaxTokens::Given(n) => n,
            },
            min_tokens: self.min_tokens,
            ignore_eos: self.ignore_eos,
            eos_ids: bounds.eos_ids.clone(),
            stop_token_ids: self.stop_token_ids.clone().into(),
        })
    }

    /// How many distinct tokens cannot be picked while `min_tokens` is not reached.
    fn masked_until_min_tokens(&self, bounds: &Bounds) -> usize {
        let mut ids: Vec<u32> = self.stop_token_ids.iter().chain(bounds.eos_ids.iter()).copied().collect();
        ids.sort_unstable();
        ids.dedup();
        ids.len()
    }
}

impl Sampling {
    fn take(f: &mut Fields) -> Result<Self, ApiError> {
        let temperature = f.float("temperature", |v| (0.0..=2.0).contains(&v), "a number between 0 and 2")?;
        let top_p = f.float("top_p", |v| v > 0.0 && v <= 1.0, "a number above 0 and at most 1")?;
        let top_k = match f.take("top_k") {
            None => 0,
            // Both mean "off" in vLLM.
            Some(v) if v.as_i64() == Some(-1) => 0,
            Some(v) => match v.as_i64().and_then(|k| u32::try_from(k).ok()) {
                Some(k) => k,
                None => return Err(wrong("top_k", "-1 or 0 (off) or a positive 32-bit integer", &v)),
            },
        };
        let temperature = temperature.map_or(1.0, |t| t as f32);
        Ok(Sampling {
            // Logits divided by a tiny temperature overflow.
            temperature: if temperature > 0.0 { temperature.max(0.01) } else { 0.0 },
            top_p: top_p.map_or(1.0, |p| p as f32).max(f32::MIN_POSITIVE),
            top_k,
            seed: f.integer("seed", i64::MIN..=i64::MAX)?.map(|seed| seed as u64),
        })
    }

    pub fn with_default_seed(&self, seed: u64) -> SamplingParams {
        SamplingParams {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            seed: self.seed.unwrap_or(seed),
        }
    }
}

fn stop_strings(f: &mut Fields, limits: &Limits) -> Result<Vec<String>, ApiError> {
    let accepted = format!(
        "a string or an array of at most {} strings, each of 1 to {} bytes",
        limits.max_stop_strings, limits.max_stop_string_bytes
    );
    let list = match f.take("stop") {
        None => return Ok(Vec::new()),
        Some(Value::String(one)) => vec![Value::String(one)],
        Some(Value::Array(list)) if list.len() <= limits.max_stop_strings => list,
        Some(other) => return Err(wrong("stop", &accepted, &other)),
    };
    list.into_iter()
        .map(|item| match item {
            Value::String(s) if (1..=limits.max_stop_string_bytes).contains(&s.len()) => text("stop", s),
            other => Err(wrong("stop", &accepted, &other)),
        })
        .collect()
}

fn usage_mode(f: &mut Fields, stream: bool) -> Result<UsageMode, ApiError> {
    let Some(value) = f.take("stream_options") else { return Ok(UsageMode::Never) };
    if !stream {
        return Err(ApiError::field("stream_options", "stream_options is only allowed when stream is true"));
    }
    let mut options = Fields::nested("stream_options", value)?;
    let include_usage = options.bool("include_usage")?;
    let continuous = options.bool("continuous_usage_stats")?;
    Ok(match (include_usage, continuous) {
        (false, _) => UsageMode::Never,
        (true, false) => UsageMode::AtEnd,
        (true, true) => UsageMode::Continuous,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request that may pick no token at all would fail in the sampler, and with it everybody else's.
    #[test]
    fn stop_tokens_cannot_mask_the_whole_vocabulary() {
        let bounds = |vocab_size| Bounds {
            vocab_size,
            max_model_len: 64,
            eos_ids: [2, 3].into(),
            limits: Limits::default(),
        };
        let rules = |vocab_size, body: &str| {
            let bounds = bounds(vocab_size);
            let mut fields = Fields::parse(body.as_bytes()).unwrap();
            GenerationParams::take(&mut fields, &bounds, MaxTokens::Given(16)).unwrap().stop_rules(1, &bounds)
        };
        let all = r#"{"stop_token_ids": [0, 1, 2], "min_tokens": 1}"#;
        assert!(rules(4, all).is_err());
        assert!(rules(5, all).is_ok());
        assert!(rules(4, r#"{"stop_token_ids": [0, 1, 2]}"#).is_ok());
    }
}
