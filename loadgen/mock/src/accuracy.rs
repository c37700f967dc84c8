//! A client's records beside the truth: how late it sent, and how far its TTFT and ITL are from what was served.

use std::collections::HashMap;

use llmlab_loadgen::request_id;
use llmlab_results::calibration::Errors;
use llmlab_results::record::{Outcome, RequestRecord};
use serde::Serialize;

use crate::log::Served;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Accuracy {
    /// Requests that ended well and whose events are all in the log.
    pub compared: u64,
    /// Other requests: failed, sent twice, or not in the log.
    pub left_out: u64,
    /// Sent after the scheduled time.
    pub send_lag: Errors,
    /// Between the client's TTFT, counted from sending, and the server's, counted from reading; either way.
    pub ttft: Errors,
    /// Between the client's and the server's gap between two events; either way.
    pub itl: Errors,
    /// From handing an event to the socket to the client's timestamp for it.
    pub arrival: Errors,
    /// The server's own: events handed to the socket after they were due.
    pub served_late: Errors,
}

/// Nearest ranks.
fn errors(mut samples_ns: Vec<u64>) -> Errors {
    samples_ns.sort_unstable();
    let rank = |percent: usize| (samples_ns.len() * percent).div_ceil(100).saturating_sub(1);
    let at = |rank: usize| samples_ns.get(rank).copied().unwrap_or(0);
    Errors {
        samples: samples_ns.len() as u64,
        p50_ns: at(rank(50)),
        p99_ns: at(rank(99)),
        max_ns: samples_ns.last().copied().unwrap_or(0),
    }
}

/// `start_monotonic_ns`: time zero of the records.
pub fn compare(start_monotonic_ns: u64, records: &[RequestRecord], log: &[Served]) -> Accuracy {
    let by_id: HashMap<&str, &Served> = log.iter().filter_map(|s| Some((s.id.as_deref()?, s))).collect();
    let sent = |record: &RequestRecord| Some(record.sent_ns?.saturating_sub(record.scheduled_ns));
    let (mut ttft, mut itl, mut arrival, mut served_late) = (vec![], vec![], vec![], vec![]);
    let mut compared = 0;
    for record in records {
        let id = request_id(start_monotonic_ns, record.index);
        let Some(served) = by_id.get(id.as_str()).filter(|served| same_events(record, served)) else {
            continue;
        };
        compared += 1;
        let at = |ns: u64| start_monotonic_ns.saturating_add(ns);
        let delays: Vec<u64> = std::iter::zip(&record.events, &served.sent_ns)
            .map(|(event, sent)| at(event.at_ns).saturating_sub(*sent))
            .collect();
        let (first, since) = (record.events[0].at_ns, record.sent_ns.unwrap_or_default());
        ttft.push(first.saturating_sub(since).abs_diff(served.sent_ns[0].saturating_sub(served.read_ns)));
        itl.extend(delays.windows(2).map(|pair| pair[1].abs_diff(pair[0])));
        arrival.extend(delays);
        served_late.extend(
            std::iter::zip(&served.sent_ns, &served.due_ns).map(|(sent, due)| sent.saturating_sub(*due)),
        );
    }
    Accuracy {
        compared,
        left_out: records.len() as u64 - compared,
        send_lag: errors(records.iter().filter_map(sent).collect()),
        ttft: errors(ttft),
        itl: errors(itl),
        arrival: errors(arrival),
        served_late: errors(served_late),
    }
}

fn same_events(record: &RequestRecord, served: &Served) -> bool {
    record.outcome == Outcome::Ok
        && record.resends == 0
        && !record.events.is_empty()
        && record.events.len() == served.sent_ns.len()
        && record.events.len() == served.due_ns.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_nearest_ranks() {
        assert_eq!(
            errors((1..=200).rev().collect()),
            Errors { samples: 200, p50_ns: 100, p99_ns: 198, max_ns: 200 }
        );
        assert_eq!(errors(vec![]), Errors::default());
    }
}
