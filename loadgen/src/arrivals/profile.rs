//! A Poisson process whose rate changes by a known curve: phases of a test, the hours of a day.
//!
//! By inversion (Çinlar 1975): the k-th point of a Poisson process of rate 1 is the area under the rate until the k-th
//! request. So request `i` depends on the seed, its index and the curve.

use std::f64::consts::TAU;
use std::time::Duration;

use crate::workload::WorkloadError;

/// Longest list of segments; each is a line of a scenario, or an hour.
pub const MOST_SEGMENTS: usize = 10_000;

/// A rate over time, in multiples of the process's own rate. It starts over when it ends.
#[derive(Debug, Clone, PartialEq)]
pub enum Profile {
    /// Straight lines, one after the other.
    Segments(Vec<Segment>),
    /// 1 + amplitude cos(2 pi (t - peak) / period): 1 on average.
    Sine { amplitude: f64, period: Duration, peak: Duration },
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Segment {
    pub from: f64,
    pub to: f64,
    pub duration: Duration,
}

impl Segment {
    /// Requests in it, at a rate of 1.
    pub fn area(&self) -> f64 {
        (self.from + self.to) / 2.0 * self.duration.as_secs_f64()
    }

    /// How far into it the area is `area`, in seconds. The form of the quadratic formula that has no difference of near numbers.
    fn inverse(&self, area: f64) -> f64 {
        let seconds = self.duration.as_secs_f64();
        let slope = (self.to - self.from) / seconds;
        let root = (self.from * self.from + 2.0 * slope * area).max(0.0).sqrt();
        if area <= 0.0 { 0.0 } else { (2.0 * area / (self.from + root)).clamp(0.0, seconds) }
    }
}

impl Profile {
    /// Times in seconds at which the area reaches each of `areas`, which do not decrease.
    pub(super) fn times(&self, areas: impl Iterator<Item = f64>) -> Vec<f64> {
        match self {
            Profile::Segments(segments) => segment_times(segments, areas),
            Profile::Sine { amplitude, period, peak } => areas
                .map(|area| sine_time(*amplitude, period.as_secs_f64(), peak.as_secs_f64(), area))
                .collect(),
        }
    }

    pub(super) fn check(&self) -> Result<(), WorkloadError> {
        let bad = |reason: String| Err(WorkloadError::Process { reason });
        match self {
            Profile::Segments(segments) => {
                if segments.is_empty() || segments.len() > MOST_SEGMENTS {
                    return bad(format!("{} segments; accepted are 1 to {MOST_SEGMENTS}", segments.len()));
                }
                for Segment { from, to, duration } in segments {
                    let usable = |rate: &f64| (0.0..=1e9).contains(rate);
                    if !usable(from) || !usable(to) || duration.is_zero() {
                        return bad(format!("a segment from {from} to {to} over {duration:?}"));
                    }
                }
                if segments.iter().map(Segment::area).sum::<f64>() <= 0.0 {
                    return bad("the rate is zero throughout".into());
                }
                Ok(())
            }
            Profile::Sine { amplitude, period, .. } => {
                if !(0.0..=1.0).contains(amplitude) || period.is_zero() {
                    return bad(format!("amplitude {amplitude} (0 to 1) over a period of {period:?}"));
                }
                Ok(())
            }
        }
    }
}

fn segment_times(segments: &[Segment], areas: impl Iterator<Item = f64>) -> Vec<f64> {
    let lap_area: f64 = segments.iter().map(Segment::area).sum();
    let lap_s: f64 = segments.iter().map(|s| s.duration.as_secs_f64()).sum();
    let time = |area: f64| {
        // Whole laps at once: between two requests there may be very many.
        let laps = (area / lap_area).floor();
        let (mut left, mut start) = (area - laps * lap_area, laps * lap_s);
        for segment in segments {
            if left <= segment.area() {
                return start + segment.inverse(left);
            }
            left -= segment.area();
            start += segment.duration.as_secs_f64();
        }
        start
    };
    areas.map(time).collect()
}

fn sine_time(amplitude: f64, period: f64, peak: f64, area: f64) -> f64 {
    let wave = |t: f64| libm::sin(TAU * (t - peak) / period) + libm::sin(TAU * peak / period);
    let swing = amplitude * period / TAU;
    // The area differs from the time by no more than twice the swing, and never falls.
    let (mut low, mut high) = ((area - 2.0 * swing).max(0.0), area + 2.0 * swing);
    for _ in 0..80 {
        let middle = (low + high) / 2.0;
        if middle + swing * wave(middle) < area { low = middle } else { high = middle }
    }
    high
}
