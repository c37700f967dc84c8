//! What a server's own metrics page said meanwhile. Gauges are snapshots, so their figures are means over scrapes; counters
//! and histograms are taken as what they grew by between the first and the last scrape of the window.

use llmlab_results::server_sample::{HistogramSample, ServerSample};
use serde::Serialize;

use crate::window::Window;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ServerView {
    pub samples: u64,
    /// A scrape was written within half of this of the time it is given, in the worst case.
    pub scrape_max_ns: Option<u64>,
    pub running_mean: Option<f64>,
    pub running_max: Option<f64>,
    pub waiting_mean: Option<f64>,
    pub waiting_max: Option<f64>,
    pub kv_use_mean: Option<f64>,
    pub kv_use_max: Option<f64>,
    pub preemptions: Option<f64>,
    /// Share of what was looked up in the prefix cache that was there, 0..=1.
    pub prefix_hit_share: Option<f64>,
    /// The server's own latencies, as it defines them.
    pub ttft: Option<OwnLatency>,
    pub itl: Option<OwnLatency>,
    pub queue: Option<OwnLatency>,
}

/// Percentiles out of a histogram: the truth lies in a bucket, and inside it observations are taken as evenly spread.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct OwnLatency {
    pub count: f64,
    pub mean_ns: f64,
    /// `None` beyond the last bound.
    pub p50_ns: Option<f64>,
    pub p95_ns: Option<f64>,
}

pub fn server_view(samples: &[ServerSample], window: &Window) -> Option<ServerView> {
    let inside: Vec<&ServerSample> = samples.iter().filter(|s| window.contains(s.at_ns as f64)).collect();
    let (first, last) = (inside.first()?, inside.last()?);
    let both = |f: &dyn Fn(&ServerSample) -> Option<f64>| {
        let v: Vec<f64> = inside.iter().filter_map(|s| f(s)).filter(|v| v.is_finite()).collect();
        (crate::quantile::mean(&v), v.iter().copied().reduce(f64::max))
    };
    let (running_mean, running_max) = both(&|s| s.running);
    let (waiting_mean, waiting_max) = both(&|s| s.waiting);
    let (kv_use_mean, kv_use_max) = both(&|s| s.kv_usage);
    let lookups = growth(&inside, &|s| s.prefix_lookups_total);
    let hits = growth(&inside, &|s| s.prefix_hits_total);
    let latency = |f: &dyn Fn(&ServerSample) -> Option<&HistogramSample>| own_latency(f(first), f(last)?);
    Some(ServerView {
        samples: inside.len() as u64,
        scrape_max_ns: inside.iter().filter_map(|s| s.scrape_ns).max(),
        running_mean,
        running_max,
        waiting_mean,
        waiting_max,
        kv_use_mean,
        kv_use_max,
        preemptions: growth(&inside, &|s| s.preemptions_total),
        prefix_hit_share: lookups
            .zip(hits)
            .filter(|(lookups, _)| *lookups > 0.0)
            .map(|(l, h)| (h / l).min(1.0)),
        ttft: latency(&|s| s.ttft.as_ref()),
        itl: latency(&|s| s.itl.as_ref()),
        queue: latency(&|s| s.queue.as_ref()),
    })
}

/// Of a counter; one that went back was set to zero by a restart and has no growth.
fn growth(inside: &[&ServerSample], f: &dyn Fn(&ServerSample) -> Option<f64>) -> Option<f64> {
    let seen: Vec<f64> = inside.iter().filter_map(|s| f(s)).filter(|v| v.is_finite()).collect();
    seen.first().zip(seen.last()).map(|(a, b)| b - a).filter(|grown| *grown >= 0.0)
}

/// What was observed between two scrapes; `None` when that is nothing, or when the buckets changed meanwhile. A page that
/// had no such histogram yet had observed nothing.
fn own_latency(first: Option<&HistogramSample>, last: &HistogramSample) -> Option<OwnLatency> {
    let nothing = HistogramSample {
        bounds: last.bounds.clone(),
        cumulative: vec![0.0; last.bounds.len()],
        ..Default::default()
    };
    let first = first.unwrap_or(&nothing);
    let count = last.count - first.count;
    let comparable = first.bounds == last.bounds
        && [first, last].iter().all(|h| h.cumulative.len() == h.bounds.len())
        && count.is_finite()
        && count > 0.0;
    if !comparable {
        return None;
    }
    let cumulative: Vec<f64> = last.cumulative.iter().zip(&first.cumulative).map(|(b, a)| b - a).collect();
    let percentile =
        |p: f64| bucket_quantile(&last.bounds, &cumulative, count, p).map(|seconds| seconds * 1e9);
    let mean_ns = (last.sum - first.sum) / count * 1e9;
    mean_ns.is_finite().then(|| OwnLatency {
        count,
        mean_ns,
        p50_ns: percentile(0.5),
        p95_ns: percentile(0.95),
    })
}

/// Linear inside the bucket that holds the rank, the first of which starts at zero.
fn bucket_quantile(bounds: &[f64], cumulative: &[f64], count: f64, p: f64) -> Option<f64> {
    let rank = p * count;
    let bucket = cumulative.iter().position(|so_far| *so_far >= rank)?;
    let (low, below) = match bucket.checked_sub(1) {
        Some(before) => (bounds[before], cumulative[before]),
        None => (0.0, 0.0),
    };
    let inside = cumulative[bucket] - below;
    let share = if inside > 0.0 { (rank - below) / inside } else { 1.0 };
    Some(low + share * (bounds[bucket] - low)).filter(|value| value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(cumulative: [f64; 3], count: f64, sum: f64) -> HistogramSample {
        HistogramSample { bounds: vec![0.1, 0.2, 0.4], cumulative: cumulative.to_vec(), count, sum }
    }

    #[test]
    fn percentiles_are_of_what_came_between_two_scrapes() {
        // Ten observations before; then 5 up to 0.1 s, 10 to 0.2 s, 4 to 0.4 s and one beyond.
        let first = histogram([10.0, 10.0, 10.0], 10.0, 0.5);
        let last = histogram([15.0, 25.0, 29.0], 30.0, 4.5);
        let own = own_latency(Some(&first), &last).unwrap();
        assert_eq!((own.count, own.mean_ns), (20.0, 0.2e9));
        assert!((own.p50_ns.unwrap() - 0.15e9).abs() < 1.0);
        assert!((own.p95_ns.unwrap() - 0.4e9).abs() < 1.0);
        assert_eq!(
            bucket_quantile(&last.bounds, &last.cumulative, 30.0, 0.99),
            None,
            "beyond the last bound"
        );
    }

    #[test]
    fn nothing_new_and_other_buckets_have_no_percentile() {
        let first = histogram([1.0, 1.0, 1.0], 1.0, 0.1);
        assert_eq!(own_latency(Some(&first), &first), None);
        let fewer =
            HistogramSample { bounds: vec![0.1], cumulative: vec![0.0], ..HistogramSample::default() };
        assert_eq!(own_latency(Some(&fewer), &first), None);
        assert!(own_latency(None, &first).is_some());
    }
}
