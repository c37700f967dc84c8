//! `latency.hlog`: the latencies of a run as HdrHistogram V2 logs, which many tools read and which add up exactly.

use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use llmlab_metrics::{Trial, frame};
use llmlab_results::manifest::{Manifest, TrialKind};
use llmlab_results::record::RequestRecord;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

pub const FILE: &str = "latency.hlog";
const SIGNIFICANT_DIGITS: u8 = 3;
/// The `Max` field of a line is in milliseconds, as other writers of such logs have it; the histograms are in nanoseconds.
const NS_PER_MS: f64 = 1e6;

/// One line for TTFT, ITL and E2E of each measured trial, tagged `trial:metric`: of measured requests that succeeded, in
/// nanoseconds, from the schedule.
pub fn log(manifest: &Manifest, trials: &[Trial]) -> Result<Vec<u8>, String> {
    let started = OffsetDateTime::parse(&manifest.started_at, &Rfc3339);
    let started = started.map_or(SystemTime::UNIX_EPOCH, SystemTime::from);
    let measured: Vec<&Trial> = trials.iter().filter(|t| t.facts.kind == TrialKind::Measure).collect();
    let origin_ns = measured.iter().map(|trial| trial.facts.start_monotonic_ns).min().unwrap_or(0);
    let mut bytes = Vec::new();
    let mut serializer = V2DeflateSerializer::new();
    let words = |error: &dyn std::fmt::Debug| format!("{error:?}");
    let mut log = IntervalLogWriterBuilder::new()
        .add_comment("nanoseconds from the schedule; tag = trial:metric")
        .with_start_time(started)
        .with_base_time(started)
        .with_max_value_divisor(NS_PER_MS)
        .begin_log_with(&mut bytes, &mut serializer)
        .map_err(|error| words(&error))?;
    for trial in measured {
        let since = Duration::from_nanos(trial.facts.start_monotonic_ns - origin_ns);
        let lasted = Duration::from_nanos(trial.facts.elapsed_ns);
        let warmup = manifest.workload.warmup_requests;
        for (metric, histogram) in histograms(&trial.records, warmup) {
            let tag = tag(&trial.facts.dir, metric);
            log.write_histogram(&histogram, since, lasted, Tag::new(&tag)).map_err(|error| words(&error))?;
        }
    }
    Ok(bytes)
}

fn histograms(records: &[RequestRecord], warmup: u64) -> [(&'static str, Histogram<u64>); 3] {
    let new = || Histogram::new(SIGNIFICANT_DIGITS).expect("three digits are within the library's range");
    let [mut ttft, mut itl, mut e2e] = [new(), new(), new()];
    for record in records.iter().filter(|r| r.index >= warmup && r.outcome.is_success()) {
        put(&mut ttft, frame::ttft_ns(record), 1);
        put(&mut e2e, frame::e2e_last_ns(record), 1);
        for pair in record.events.windows(2) {
            let tokens = u64::from(pair[1].tokens.max(1));
            let gap = pair[1].at_ns.checked_sub(pair[0].at_ns).map(|gap_ns| gap_ns as f64 / tokens as f64);
            put(&mut itl, gap, tokens);
        }
    }
    [("ttft", ttft), ("itl", itl), ("e2e", e2e)]
}

fn put(histogram: &mut Histogram<u64>, ns: Option<f64>, times: u64) {
    // Longer than a day is no latency of a request; such a value is in the records and nowhere else.
    const LONGEST_NS: f64 = 86_400e9;
    if let Some(ns) = ns.filter(|ns| *ns <= LONGEST_NS) {
        histogram
            .record_n(ns.round() as u64, times)
            .expect("a day in nanoseconds fits a histogram that grows");
    }
}

/// The log's tags have no commas and no spaces.
fn tag(trial: &str, metric: &str) -> String {
    let plain = |c: char| if c.is_whitespace() || c == ',' || c.is_control() { '-' } else { c };
    format!("{}:{metric}", trial.chars().map(plain).collect::<String>())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
    use serde_json::json;

    use super::*;

    fn record(index: u64) -> RequestRecord {
        let at = |k: u64| index * 1_000_003 + (k * k + 1) * (index % 7 + 1) * 250_000;
        let events: Vec<_> = (1..6).map(|k| json!({ "at_ns": at(k), "tokens": k % 3 + 1 })).collect();
        let json = json!({
            "index": index, "scheduled_ns": index * 1_000_003, "events": events,
            "prompt_tokens_requested": 4, "prompt_tokens": 4, "prompt_tokens_source": "token_ids",
            "output_tokens_requested": 10, "output_tokens": 10, "output_tokens_source": "usage",
            "outcome": if index.is_multiple_of(11) { "http" } else { "ok" },
        });
        serde_json::from_value(json).unwrap()
    }

    /// Written, and read back by tag.
    fn written(records: &[RequestRecord]) -> BTreeMap<&'static str, Histogram<u64>> {
        let mut bytes = Vec::new();
        let mut serializer = V2DeflateSerializer::new();
        let mut log = IntervalLogWriterBuilder::new().begin_log_with(&mut bytes, &mut serializer).unwrap();
        for (metric, histogram) in histograms(records, 5) {
            let tag = tag("a b,c", metric);
            log.write_histogram(&histogram, Duration::ZERO, Duration::ZERO, Tag::new(&tag)).unwrap();
        }
        let mut read = BTreeMap::new();
        for entry in IntervalLogIterator::new(&bytes) {
            if let LogEntry::Interval(line) = entry.unwrap() {
                let metric = ["ttft", "itl", "e2e"]
                    .into_iter()
                    .find(|metric| line.tag().unwrap().as_str() == format!("a-b-c:{metric}"));
                let packed = decode_base64(line.encoded_histogram());
                let histogram = Deserializer::new().deserialize(&mut packed.as_slice()).unwrap();
                read.insert(metric.unwrap(), histogram);
            }
        }
        read
    }

    fn decode_base64(text: &str) -> Vec<u8> {
        let digit = |c: u8| match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            _ => 63,
        };
        let mut bytes = Vec::new();
        for four in text.trim_end_matches('=').as_bytes().chunks(4) {
            let bits = four.iter().fold(0_u32, |bits, c| bits << 6 | u32::from(digit(*c)));
            let bits = bits << (6 * (4 - four.len()));
            bytes.extend_from_slice(&bits.to_be_bytes()[1..four.len()]);
        }
        bytes
    }

    #[test]
    fn the_logs_of_shards_add_up_to_that_of_the_whole() {
        let records: Vec<RequestRecord> = (0..500).map(record).collect();
        let whole = written(&records);
        let mut sum: BTreeMap<&str, Histogram<u64>> = BTreeMap::new();
        for shard in 0..4 {
            let part: Vec<RequestRecord> = records.iter().filter(|r| r.index % 4 == shard).cloned().collect();
            for (metric, histogram) in written(&part) {
                match sum.get_mut(metric) {
                    Some(known) => known.add(&histogram).unwrap(),
                    None => drop(sum.insert(metric, histogram)),
                }
            }
        }
        assert_eq!(sum, whole);
        // Not a comparison of nothing with nothing: 495 measured, 45 of them failed; nine tokens after the first event's.
        assert_eq!((whole["ttft"].len(), whole["e2e"].len()), (450, 450));
        let later: u64 = (2..6).map(|k| k % 3 + 1).sum();
        assert_eq!(whole["itl"].len(), 450 * later);
        // First events come 0.5 to 3.5 ms after the schedule.
        let (ttft, ns) = (&whole["ttft"], |ms: f64| (ms * 1e6) as u64);
        assert_eq!(ttft.lowest_equivalent(ttft.min()), ttft.lowest_equivalent(ns(0.5)));
        assert_eq!(ttft.lowest_equivalent(ttft.max()), ttft.lowest_equivalent(ns(3.5)));
    }
}
