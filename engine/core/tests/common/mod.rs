//! Helpers shared by the tests.
#![allow(dead_code)] // Each test file uses its own part.

pub mod fake;
pub mod trace;
pub mod vllm;

use std::path::PathBuf;
use std::time::Duration;

use llmlab_core::request::{At, Request, RequestId, SamplingParams, StopRules, TokenId};
use llmlab_core::step::{Sampled, StepOutcome, StepPlan};

pub fn request(id: u64, prompt: Vec<TokenId>, max_tokens: u32) -> Request {
    Request {
        id: RequestId(id),
        prompt: prompt.into(),
        sampling: SamplingParams::default(),
        stop: StopRules {
            max_tokens,
            min_tokens: 0,
            ignore_eos: true,
            eos_ids: [].into(),
            stop_token_ids: [].into(),
        },
        priority: 0,
        lora: None,
        skip_prefix_cache: false,
    }
}

pub fn at(seconds: u64) -> At {
    Duration::from_secs(seconds)
}

/// An outcome whose tokens come from `token(index in the plan)`.
pub fn outcome(plan: &StepPlan, token: impl Fn(usize) -> TokenId) -> StepOutcome {
    let sampling = plan.seqs.iter().enumerate().filter(|(_, seq)| seq.sample);
    let sampled = sampling.map(|(i, _)| Sampled { seq: i as u32, token: token(i) }).collect();
    StepOutcome { sampled, drafts: Vec::new(), elapsed: Duration::from_millis(1) }
}

/// The lines of a recording, or a clear failure: a missing recording must not pass as agreement.
pub fn golden_lines(name: &str) -> Vec<serde_json::Value> {
    let folder = std::env::var_os("LLMLAB_GOLDEN_DIR")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden")), PathBuf::from);
    let path = folder.join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let lines: Vec<_> = text.lines().map(parse).collect();
    assert!(!lines.is_empty(), "{} is empty", path.display());
    lines
}
