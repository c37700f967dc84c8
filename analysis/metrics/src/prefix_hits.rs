//! What a prefix cache saved, from the engine's own step log.

use std::collections::HashSet;

use llmlab_results::record::RequestRecord;
use llmlab_results::step::StepRow;

use crate::window::Window;

/// Of the prompt tokens of requests whose first step lies in the window, those that were there already: a request's first step
/// goes on from what the cache had. `None` when there are none.
pub fn prefix_hit_share(
    records: &[RequestRecord],
    steps: &[StepRow],
    trial_start_ns: u64,
    window: &Window,
) -> Option<f64> {
    let mut seen = HashSet::new();
    let mut found_tokens = 0.0;
    for row in steps {
        let inside = window.contains(row.start_monotonic_ns as f64 - trial_start_ns as f64);
        for seq in &row.seqs {
            if seen.insert(seq.id) && inside {
                found_tokens += f64::from(seq.context);
            }
        }
    }
    let began = |r: &&RequestRecord| r.first_token_ns().is_some_and(|at| window.contains(at as f64));
    let prompt_tokens: f64 = records.iter().filter(began).map(|r| f64::from(r.prompt_tokens)).sum();
    (found_tokens > 0.0 && prompt_tokens > 0.0).then(|| (found_tokens / prompt_tokens).min(1.0))
}
