//! Throughput over the window, and what went wrong while it ran.

use std::collections::BTreeMap;

use llmlab_results::record::{CountSource, Outcome, RequestRecord};
use polars::prelude::DataFrame;
use serde::Serialize;

use crate::frame;
use crate::window::Window;

/// How many requests ended how. `measured = succeeded + failed + abandoned + cancelled`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RequestCounts {
    pub recorded: u64,
    pub warmup: u64,
    pub measured: u64,
    pub succeeded: u64,
    pub failed: u64,
    /// Their clients hung up, as the workload wanted it: neither success nor failure.
    pub abandoned: u64,
    /// In flight when the run was interrupted: neither success nor failure.
    pub cancelled: u64,
}

impl RequestCounts {
    pub fn of(requests: &DataFrame) -> Self {
        let measured = frame::count_where(requests, &["measured"]);
        let succeeded = frame::count_where(requests, &["measured", "success"]);
        let failed = frame::count_where(requests, &["measured", "failure"]);
        let abandoned = frame::count_where(requests, &["measured", "abandoned"]);
        let recorded = requests.height() as u64;
        RequestCounts {
            recorded,
            warmup: recorded - measured,
            measured,
            succeeded,
            failed,
            abandoned,
            cancelled: measured - succeeded - failed - abandoned,
        }
    }
}

/// Per second of the window. Successful requests only; warm-up requests that were still being served count here, because
/// the server did that work inside the window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Rates {
    pub requests_per_s: f64,
    pub output_tokens_per_s: f64,
    /// A prompt counts when its first token arrives, or its answer as a whole.
    pub input_tokens_per_s: f64,
    /// The two together.
    pub total_tokens_per_s: f64,
    /// Any request asked for output tokens; embeddings do not.
    pub generates: bool,
}

pub fn rates(records: &[RequestRecord], requests: &DataFrame, events: &DataFrame, window: &Window) -> Rates {
    let seconds = window.duration_s();
    let (from, to) = (window.start_ns as f64, window.end_ns as f64);
    let done = frame::rows_between(&frame::rows_where(requests, &["success"]), "completed_ns", from, to);
    let delivered = frame::rows_between(&frame::rows_where(events, &["success"]), "at_ns", from, to);
    let streamed: f64 = frame::values(&delivered, "share").iter().sum();
    let inside = |at_ns: Option<u64>| at_ns.is_some_and(|at_ns| window.contains(at_ns as f64));
    let whole = records.iter().filter(|r| inside(frame::whole_ns(r)));
    let output = streamed + whole.map(|r| f64::from(r.output_tokens)).sum::<f64>();
    let prompt: f64 = records
        .iter()
        .filter(|r| r.outcome.is_success() && inside(r.first_token_ns().or(frame::whole_ns(r))))
        .map(|r| f64::from(r.prompt_tokens))
        .sum();
    Rates {
        requests_per_s: done.height() as f64 / seconds,
        output_tokens_per_s: output / seconds,
        input_tokens_per_s: prompt / seconds,
        total_tokens_per_s: (output + prompt) / seconds,
        generates: records.iter().any(|r| r.output_tokens_requested > 0),
    }
}

/// Output tokens per second in equal bins over the whole trial: `(bin start in s, tokens per s)`.
pub fn throughput_over_time(records: &[RequestRecord], bins: usize) -> Vec<(f64, f64)> {
    let events = frame::token_events(records, 0);
    let at = frame::values(&events, "at_ns");
    let share = frame::values(&events, "share");
    let Some(end) = at.iter().copied().reduce(f64::max).filter(|end| *end > 0.0 && bins > 0) else {
        return Vec::new();
    };
    let width_s = end / 1e9 / bins as f64;
    let mut sums = vec![0.0; bins];
    for (at, share) in at.iter().zip(share) {
        sums[((at / end * bins as f64) as usize).min(bins - 1)] += share;
    }
    sums.into_iter().enumerate().map(|(i, tokens)| (i as f64 * width_s, tokens / width_s)).collect()
}

/// How far prompts were from the length they should have had, where the server counted them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PromptLengths {
    /// Requests whose prompt the server counted.
    pub counted: u64,
    pub exact: u64,
    /// Tokens off, of all counted.
    pub median_off: u32,
    pub most_off: u32,
    /// Those without a count: nobody knows.
    pub unknown: u64,
}

/// `None` without a successful measured request.
pub fn prompt_lengths<'a>(records: impl Iterator<Item = &'a RequestRecord>) -> Option<PromptLengths> {
    let (mut off, mut unknown) = (Vec::new(), 0);
    for r in records {
        match r.prompt_tokens_source {
            CountSource::ChunkCount | CountSource::ClientTokenizer => unknown += 1,
            // Sent as ids: exact, also where the server does not repeat it.
            CountSource::TokenIds | CountSource::Usage | CountSource::ServerDetail => {
                off.push(r.prompt_tokens.abs_diff(r.prompt_tokens_requested));
            }
        }
    }
    off.sort_unstable();
    (off.len() as u64 + unknown > 0).then(|| PromptLengths {
        counted: off.len() as u64,
        exact: off.iter().filter(|off| **off == 0).count() as u64,
        median_off: off.get(off.len() / 2).copied().unwrap_or(0),
        most_off: off.last().copied().unwrap_or(0),
        unknown,
    })
}

/// One class of failure among the measured requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ErrorCount {
    pub outcome: Outcome,
    pub http_status: Option<u16>,
    pub count: u64,
    /// The first message seen, as an example.
    pub example: Option<String>,
}

/// Everything that is neither plain `Ok` nor planned, most frequent first.
pub fn errors(records: &[RequestRecord], warmup: u64) -> Vec<ErrorCount> {
    let mut classes: BTreeMap<(Outcome, Option<u16>), (u64, Option<String>)> = BTreeMap::new();
    let went_wrong = |r: &&RequestRecord| !matches!(r.outcome, Outcome::Ok | Outcome::Abandoned);
    for r in records.iter().filter(|r| r.index >= warmup).filter(went_wrong) {
        let status = if r.outcome == Outcome::Http { r.http_status } else { None };
        let class = classes.entry((r.outcome, status)).or_default();
        class.0 += 1;
        if class.1.is_none() {
            class.1.clone_from(&r.error);
        }
    }
    let mut counts: Vec<ErrorCount> = classes
        .into_iter()
        .map(|((outcome, http_status), (count, example))| ErrorCount { outcome, http_status, count, example })
        .collect();
    counts.sort_by_key(|c| std::cmp::Reverse(c.count));
    counts
}

/// What a failure class means, in words.
pub fn outcome_words(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Ok => "ok",
        Outcome::WrongLength => "finished with another number of tokens than asked",
        Outcome::Connect => "could not connect",
        Outcome::Timeout => "timed out",
        Outcome::Http => "HTTP error",
        Outcome::NoResponse => "connection ended without an answer",
        Outcome::StreamCut => "stream was cut",
        Outcome::NoTerminator => "stream ended without its terminator",
        Outcome::Malformed => "answer was not the protocol",
        Outcome::TooLarge => "answer was too large",
        Outcome::Cancelled => "cancelled when the run was interrupted",
        Outcome::Abandoned => "the client hung up as planned",
        Outcome::Client => "the client itself failed",
    }
}

/// How many measured, successful requests had their output tokens counted in which way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct TokenSources {
    pub usage: u64,
    pub server_detail: u64,
    pub token_ids: u64,
    pub client_tokenizer: u64,
    pub chunk_count: u64,
}

pub fn token_sources(records: &[RequestRecord], warmup: u64) -> TokenSources {
    let mut sources = TokenSources::default();
    for r in records.iter().filter(|r| r.index >= warmup && r.outcome.is_success()) {
        *match r.output_tokens_source {
            CountSource::Usage => &mut sources.usage,
            CountSource::ServerDetail => &mut sources.server_detail,
            CountSource::TokenIds => &mut sources.token_ids,
            CountSource::ClientTokenizer => &mut sources.client_tokenizer,
            CountSource::ChunkCount => &mut sources.chunk_count,
        } += 1;
    }
    sources
}
