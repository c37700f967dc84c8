//! A histogram family put together from its `_bucket`, `_sum` and `_count` lines. Series of one family (engines of a
//! data-parallel server) have the same bounds, so their buckets add up.

use llmlab_results::server_sample::HistogramSample;

use super::Sample;

/// More bounds than any server has; a page with more is not kept.
const MAX_BOUNDS: usize = 1000;

#[derive(Debug, Default)]
pub(super) struct Building {
    buckets: Vec<(f64, f64)>,
    count: Option<f64>,
    sum: f64,
}

impl Building {
    /// `part` is what follows the family's name; `unit` is one of the family's units in seconds.
    pub(super) fn take(&mut self, part: &str, sample: &Sample<'_>, unit: f64) {
        if !sample.value.is_finite() {
            return;
        }
        match part {
            "_count" => self.count = Some(self.count.unwrap_or(0.0) + sample.value),
            "_sum" => self.sum += sample.value * unit,
            "_bucket" => {
                let bound: Option<f64> = sample.label("le").and_then(|le| le.parse().ok());
                // The bucket without a bound repeats the count.
                if let Some(bound) = bound.filter(|bound| bound.is_finite()) {
                    self.add(bound * unit, sample.value);
                }
            }
            _ => {}
        }
    }

    fn add(&mut self, bound: f64, cumulative: f64) {
        if let Some((_, sum)) = self.buckets.iter_mut().find(|(known, _)| *known == bound) {
            *sum += cumulative;
        } else if self.buckets.len() < MAX_BOUNDS {
            self.buckets.push((bound, cumulative));
        }
    }

    /// `None` where the page has no count, and so no such histogram.
    pub(super) fn finish(mut self) -> Option<HistogramSample> {
        let count = self.count?;
        self.buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (bounds, cumulative) = self.buckets.into_iter().unzip();
        Some(HistogramSample { bounds, cumulative, count, sum: self.sum })
    }
}
