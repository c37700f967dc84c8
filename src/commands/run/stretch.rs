//! The busiest stretch of a run's trials as a load for the mock, which gives every request the same times: streams, arrivals,
//! prompts and events per second are those of the trial, lengths follow from how long each request was in flight.

use std::time::Duration;

use llmlab_loadgen::TraceRow;
use llmlab_results::record::{Outcome, RequestRecord};

/// How many of the streams that are under way at the beginning are started in a second, at most: they came one by one in
/// the trial, and a crowd at the door is another load.
const STARTS_PER_S: u64 = 2_000;
/// The mock's gaps are no shorter.
const SHORTEST_ITL_NS: u64 = 10_000;

#[derive(Debug, Clone, PartialEq)]
pub struct Stretch {
    /// Which of the trials.
    pub trial: usize,
    /// In order of arrival.
    pub rows: Vec<TraceRow>,
    pub ttft: Duration,
    pub itl: Duration,
    /// Most requests in flight at once.
    pub streams: u64,
    pub rate_rps: f64,
    pub events_per_s: f64,
    /// Until the last request is to end.
    pub length: Duration,
}

/// The records of each trial, and how long the copy may be. `None` when nothing was sent.
pub fn busiest(trials: &[&[RequestRecord]], most: Duration) -> Option<Stretch> {
    // A quarter brings the streams under way, half is the copy, and answers that end late have the rest.
    let window_ns = most.as_nanos() as u64 / 2;
    let busy = trials.iter().enumerate().filter_map(|(trial, records)| {
        let (moments, from_ns) = densest(moments(records), window_ns)?;
        Some((moments, trial, from_ns))
    });
    // The first of equals.
    let (_, trial, from_ns) = busy.min_by_key(|(moments, trial, _)| (usize::MAX - moments, *trial))?;
    copy(trial, trials[trial], from_ns, window_ns)
}

/// Whenever the client had something to do.
fn moments(records: &[RequestRecord]) -> Vec<u64> {
    let mut moments = Vec::new();
    for record in records {
        moments.extend(record.sent_ns.into_iter().chain(record.done_ns));
        moments.extend(record.events.iter().map(|event| event.at_ns));
    }
    moments.sort_unstable();
    moments
}

/// Where a window of this length has most of the moments, and how many. They are sorted.
fn densest(moments: Vec<u64>, window_ns: u64) -> Option<(usize, u64)> {
    let mut end = 0;
    let held = moments.iter().enumerate().map(|(begin, from_ns)| {
        while end < moments.len() && moments[end] - from_ns < window_ns {
            end += 1;
        }
        (end - begin, *from_ns)
    });
    held.reduce(|best, next| if next.0 > best.0 { next } else { best })
}

/// A request's part in the copy, nanoseconds since the copy's start.
struct Slice {
    begin_ns: u64,
    end_ns: u64,
    prompt_tokens: u32,
}

fn copy(trial: usize, records: &[RequestRecord], from_ns: u64, window_ns: u64) -> Option<Stretch> {
    let last_ns = records.iter().filter_map(ended_ns).max()?;
    // A trial may be shorter than the window.
    let to_ns = (from_ns + window_ns).min(last_ns).max(from_ns + 1);
    let window_ns = to_ns - from_ns;
    let mut inside: Vec<(u64, u64, &RequestRecord)> = records
        .iter()
        .filter_map(|record| Some((record.sent_ns?, ended_ns(record)?, record)))
        .filter(|(sent, ended, _)| *sent < to_ns && *ended >= from_ns)
        .collect();
    inside.sort_by_key(|(sent, _, record)| (*sent, record.index));
    let under_way = inside.iter().filter(|(sent, ..)| *sent < from_ns).count() as u64;
    let ramp_ns = match under_way {
        0 => 0,
        n => (window_ns / 2).max(n * 1_000_000_000 / STARTS_PER_S),
    };
    let slices: Vec<Slice> = (0..)
        .zip(&inside)
        .map(|(place, (sent, ended, record))| Slice {
            begin_ns: match sent.checked_sub(from_ns) {
                Some(since) => ramp_ns + since,
                None => ramp_ns * place / under_way,
            },
            end_ns: ramp_ns + ((*ended).min(to_ns) - from_ns),
            prompt_tokens: record.prompt_tokens_requested.max(1),
        })
        .collect();

    let first = |(sent, _, record): &(u64, u64, &RequestRecord)| {
        Some(record.first_token_ns().or(record.done_ns)?.saturating_sub(*sent))
    };
    let ttft_ns = median(inside.iter().filter_map(first)).unwrap_or(window_ns).min(window_ns / 2);
    let events = records.iter().flat_map(|record| &record.events);
    let events = events.filter(|event| (from_ns..to_ns).contains(&event.at_ns)).count() as u64;
    let arrivals = inside.len() as u64 - under_way;
    // The gap with which as many streams as in the trial bring as many events.
    let streaming_ns = |slice: &Slice| slice.end_ns.saturating_sub((slice.begin_ns + ttft_ns).max(ramp_ns));
    let streamed_ns: u128 = slices.iter().map(|slice| u128::from(streaming_ns(slice))).sum();
    let gaps = u128::from(events.saturating_sub(arrivals).max(1));
    let itl_ns = u64::try_from(streamed_ns / gaps)
        .unwrap_or(u64::MAX)
        .clamp(SHORTEST_ITL_NS, window_ns.max(SHORTEST_ITL_NS));

    let row = |slice: &Slice| {
        let streaming_ns = slice.end_ns.saturating_sub(slice.begin_ns + ttft_ns);
        TraceRow {
            input_tokens: slice.prompt_tokens,
            output_tokens: u32::try_from(1 + streaming_ns / itl_ns).unwrap_or(u32::MAX),
            arrival: Some(Duration::from_nanos(slice.begin_ns)),
        }
    };
    let per_s = |n: u64| n as f64 * 1e9 / window_ns as f64;
    Some(Stretch {
        trial,
        rows: slices.iter().map(row).collect(),
        ttft: Duration::from_nanos(ttft_ns),
        itl: Duration::from_nanos(itl_ns),
        streams: most_at_once(&slices),
        rate_rps: per_s(arrivals),
        events_per_s: per_s(events),
        length: Duration::from_nanos(ramp_ns + window_ns + ttft_ns),
    })
}

/// `None` where nothing was sent. Who was waited for in vain is there to the end; nobody wrote down when that was.
fn ended_ns(record: &RequestRecord) -> Option<u64> {
    let sent = record.sent_ns?;
    if record.done_ns.is_none() && matches!(record.outcome, Outcome::Timeout | Outcome::Cancelled) {
        return Some(u64::MAX);
    }
    Some([record.last_token_ns(), record.done_ns].into_iter().flatten().fold(sent, u64::max))
}

fn median(values: impl Iterator<Item = u64>) -> Option<u64> {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    values.get(values.len().checked_sub(1)? / 2).copied()
}

fn most_at_once(slices: &[Slice]) -> u64 {
    let begins = slices.iter().map(|slice| (slice.begin_ns, true));
    let mut turns: Vec<(u64, bool)> =
        begins.chain(slices.iter().map(|slice| (slice.end_ns.max(slice.begin_ns + 1), false))).collect();
    // An end before a beginning at the same moment.
    turns.sort_unstable();
    let mut now = 0;
    let counts = turns.into_iter().map(|(_, begins)| {
        now = if begins { now + 1 } else { now - 1 };
        now
    });
    counts.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use llmlab_results::record::{CountSource, TokenEvent};

    const MS: u64 = 1_000_000;

    /// Sent at `sent_ms`, its events every `itl_ms` from `ttft_ms` after that.
    fn request(index: u64, sent_ms: u64, ttft_ms: u64, itl_ms: u64, events: u64) -> RequestRecord {
        let at_ns = |event: u64| (sent_ms + ttft_ms + event * itl_ms) * MS;
        RequestRecord {
            index,
            scheduled_ns: sent_ms * MS,
            sent_ns: Some(sent_ms * MS),
            connect_ns: None,
            resends: 0,
            headers_ns: None,
            first_byte_ns: None,
            role_ns: None,
            first_reasoning_ns: None,
            events: (0..events).map(|event| TokenEvent { at_ns: at_ns(event), tokens: 1 }).collect(),
            done_ns: Some(at_ns(events.saturating_sub(1))),
            prompt_tokens_requested: 100 + index as u32,
            prompt_tokens: 7,
            prompt_tokens_source: CountSource::Usage,
            output_tokens_requested: events as u32,
            output_tokens: events as u32,
            output_tokens_source: CountSource::Usage,
            outcome: Outcome::Ok,
            turn: None,
            http_status: Some(200),
            finish_reason: None,
            error: None,
        }
    }

    fn total_events(rows: &[TraceRow]) -> u64 {
        rows.iter().map(|row| u64::from(row.output_tokens)).sum()
    }

    #[test]
    fn a_steady_load_is_copied_as_it_is() {
        // 10 a second, each 1 s in flight: 10 streams, 20 events in each.
        let records: Vec<_> = (0..200).map(|i| request(i, i * 100, 50, 50, 20)).collect();
        let idle = [request(0, 0, 50, 50, 20)];
        let stretch = busiest(&[&idle, &records], Duration::from_secs(4)).unwrap();
        assert_eq!((stretch.trial, stretch.ttft), (1, Duration::from_millis(50)));
        assert!((10..=11).contains(&stretch.streams), "{}", stretch.streams);
        assert!((stretch.rate_rps - 10.0).abs() < 0.6, "{}", stretch.rate_rps);
        assert!((stretch.events_per_s - 200.0).abs() < 5.0, "{}", stretch.events_per_s);
        assert!((stretch.itl.as_secs_f64() - 0.05).abs() < 0.003, "{:?}", stretch.itl);
        assert!(stretch.rows.is_sorted_by_key(|row| row.arrival));
        assert!(stretch.rows.iter().all(|row| row.input_tokens >= 100));
        assert!(stretch.length <= Duration::from_secs(4), "{:?}", stretch.length);
    }

    #[test]
    fn answers_longer_than_the_copy_are_cut_and_their_events_keep_their_rate() {
        // 40 streams of 60 s each, 10 events a second in each, and TTFTs above what fits.
        let records: Vec<_> = (0..40).map(|i| request(i, i * 1000, 9_000, 100, 600)).collect();
        let stretch = busiest(&[&records], Duration::from_secs(2)).unwrap();
        assert_eq!(stretch.streams, 40);
        let in_window = stretch.events_per_s;
        assert!((in_window - 400.0).abs() < 40.0, "{in_window}");
        assert!(stretch.ttft <= Duration::from_millis(500), "{:?}", stretch.ttft);
        // Half a second of ramp, a second of copy.
        let events = total_events(&stretch.rows);
        assert!((400..=640).contains(&events), "{events}");
        assert!(stretch.length <= Duration::from_secs(2), "{:?}", stretch.length);
    }

    #[test]
    fn requests_that_wait_in_vain_are_streams_too() {
        let mut records: Vec<_> = (0..40).map(|i| request(i, i * 100, 50, 50, 20)).collect();
        records.extend((0..30).map(|i| RequestRecord {
            events: vec![],
            done_ns: None,
            outcome: Outcome::Timeout,
            ..request(100 + i, i, 0, 0, 0)
        }));
        let stretch = busiest(&[&records], Duration::from_secs(2)).unwrap();
        assert!((38..=41).contains(&stretch.streams), "{}", stretch.streams);
        // They say nothing of how long an answer takes to come.
        assert_eq!(stretch.ttft, Duration::from_millis(50));
    }

    #[test]
    fn the_densest_place_counts() {
        let mut records: Vec<_> = (0..50).map(|i| request(i, i * 500, 10, 10, 2)).collect();
        records.extend((0..30).map(|i| request(100 + i, 10_000 + i * 10, 10, 10, 5)));
        let stretch = busiest(&[&records], Duration::from_secs(1)).unwrap();
        assert!(stretch.rows.iter().filter(|row| row.input_tokens >= 200).count() == 30, "{stretch:?}");
    }

    #[test]
    fn short_and_odd_trials_are_copied_too() {
        assert_eq!(busiest(&[], Duration::from_secs(2)), None);
        let mut unsent = request(0, 0, 10, 10, 0);
        unsent.sent_ns = None;
        unsent.done_ns = None;
        assert_eq!(busiest(&[&[unsent]], Duration::from_secs(2)), None);
        // Answers in one piece.
        let whole: Vec<_> =
            (0..5).map(|i| RequestRecord { events: vec![], ..request(i, i * 20, 30, 1, 1) }).collect();
        let stretch = busiest(&[&whole], Duration::from_secs(2)).unwrap();
        assert_eq!((stretch.rows.len(), total_events(&stretch.rows)), (5, 5));
        // One request that was refused at once.
        let refused = RequestRecord { events: vec![], done_ns: None, ..request(0, 5, 0, 0, 0) };
        let stretch = busiest(&[&[refused]], Duration::from_secs(2)).unwrap();
        assert_eq!((stretch.rows.len(), stretch.streams), (1, 1));
    }
}
