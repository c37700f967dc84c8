//! Money: what the measured throughput costs on priced hardware.

use llmlab_results::manifest::CostFacts;
use serde::Serialize;

use crate::rates::Rates;

/// US dollars. The whole machine is charged to the tokens, whatever its load: an idle machine costs the same.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Cost {
    pub usd_per_million_output_tokens: f64,
    /// Prompt plus output tokens.
    pub usd_per_million_tokens: f64,
}

/// usd_per_hour / (tokens/s · 3600) · 10⁶. `None` when nothing was produced: an infinite price is no price.
pub fn cost(facts: &CostFacts, rates: &Rates) -> Option<Cost> {
    let per_million = |tokens_per_s: f64| facts.usd_per_hour / (tokens_per_s * 3600.0) * 1e6;
    let usable = rates.output_tokens_per_s > 0.0 && facts.usd_per_hour.is_finite();
    usable.then(|| Cost {
        usd_per_million_output_tokens: per_million(rates.output_tokens_per_s),
        usd_per_million_tokens: per_million(rates.total_tokens_per_s),
    })
}
