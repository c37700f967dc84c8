//! A small reader for the Prometheus text format, enough to follow a few gauges and counters while a trial runs.
//! It never fails: a line it does not understand is skipped, because a broken metric must not spoil a measurement.

use llmlab_results::manifest::ServerSample;

/// One sample line. Labels stay as written: only names are matched here.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample<'a> {
    pub name: &'a str,
    /// Between the braces; empty when there were none.
    pub labels: &'a str,
    /// May be NaN or infinite, which the format allows.
    pub value: f64,
}

/// Every sample of an exposition, in order. Comments, HELP, TYPE, blank and broken lines are left out; timestamps and
/// exemplars are ignored.
pub fn samples(text: &str) -> impl Iterator<Item = Sample<'_>> {
    text.lines().filter_map(sample)
}

fn sample(line: &str) -> Option<Sample<'_>> {
    let line = line.trim();
    let name_end =
        line.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | ':'))).unwrap_or(line.len());
    let (name, rest) = line.split_at(name_end);
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let rest = rest.trim_start();
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(inside) => inside.split_at_checked(closing_brace(inside)?).map(|(l, r)| (l, &r[1..]))?,
        None => ("", rest),
    };
    let value = rest.split_whitespace().next()?;
    // Rust reads "NaN", "+Inf", "-Inf" and exponents as the format means them.
    Some(Sample { name, labels, value: value.parse().ok()? })
}

/// Where the label set ends: the first brace outside quotes.
fn closing_brace(inside: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (i, byte) in inside.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'}' if !quoted => return Some(i),
            _ => {}
        }
    }
    None
}

/// Reduces a scrape to the families the reports use, by vLLM's names. Series of one family (engines of a data-parallel
/// server) are added up; of KV use, the fullest counts. Values that are not finite count as absent.
pub fn server_sample(at_ns: u64, body: &[u8]) -> ServerSample {
    let text = String::from_utf8_lossy(body);
    let mut sample = ServerSample {
        at_ns,
        running: None,
        waiting: None,
        kv_usage: None,
        preemptions_total: None,
        generation_tokens_total: None,
        prompt_tokens_total: None,
    };
    for Sample { name, value, .. } in samples(&text) {
        let Some(family) = name.strip_prefix("vllm:") else { continue };
        if !value.is_finite() {
            continue;
        }
        let add = |slot: &mut Option<f64>| *slot = Some(slot.unwrap_or(0.0) + value);
        match family {
            "num_requests_running" => add(&mut sample.running),
            "num_requests_waiting" => add(&mut sample.waiting),
            "num_preemptions_total" => add(&mut sample.preemptions_total),
            "generation_tokens_total" => add(&mut sample.generation_tokens_total),
            "prompt_tokens_total" => add(&mut sample.prompt_tokens_total),
            // The second name is from before vLLM 0.10.
            "kv_cache_usage_perc" | "gpu_cache_usage_perc" => {
                sample.kv_usage = Some(sample.kv_usage.map_or(value, |v| v.max(value)));
            }
            _ => {}
        }
    }
    sample
}
