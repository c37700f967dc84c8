//! A day of traffic: the hours of a plan as a curve without steps, a surge on top, and requests at its times.

use std::time::Duration;

use llmlab_loadgen::{Workload, generate};
use llmlab_scenarios::autoscale::SurgeSpec;
use llmlab_scenarios::plan::Demand;

use super::AutoscaleError;
use crate::day_shape;
use crate::plan::capacity::Traffic;

pub const SECONDS: f64 = 86_400.0;
/// Requests drawn beyond what is expected, so that a busy draw of a bursty process still fills the day.
const MARGIN: f64 = 1.1;

/// Requests a second, in straight lines from midnight to midnight.
#[derive(Debug, Clone, PartialEq)]
pub struct Day {
    lines: Vec<Line>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Line {
    from_s: f64,
    to_s: f64,
    from_rps: f64,
    to_rps: f64,
}

impl Line {
    fn area(&self) -> f64 {
        (self.from_rps + self.to_rps) / 2.0 * (self.to_s - self.from_s)
    }

    fn rate(&self, at_s: f64) -> f64 {
        let share = (at_s - self.from_s) / (self.to_s - self.from_s);
        self.from_rps + (self.to_rps - self.from_rps) * share
    }

    /// Seconds into the line until `area` requests have come. The root in the form that has no division by a vanishing slope.
    fn seconds_to(&self, area: f64) -> f64 {
        let slope = (self.to_rps - self.from_rps) / (self.to_s - self.from_s);
        let root = (self.from_rps * self.from_rps + 2.0 * slope * area).max(0.0).sqrt();
        let below = self.from_rps + root;
        if below > 0.0 { (2.0 * area / below).min(self.to_s - self.from_s) } else { 0.0 }
    }
}

impl Day {
    /// Each hour's rate in its middle and straight lines between, through midnight; then as many requests as the hours have.
    /// Without hours those of [`day_shape`].
    pub fn of(demand: &Demand, surge: Option<&SurgeSpec>) -> Result<Day, AutoscaleError> {
        let hours = day_shape::hours(demand);
        let count = hours.len().max(1);
        let step = SECONDS / count as f64;
        let rate = |at_s: f64| {
            let place = at_s / step - 0.5;
            let share = place - place.floor();
            let hour = |offset: f64| hours[(place.floor() + offset).rem_euclid(count as f64) as usize];
            hour(0.0) * (1.0 - share) + hour(1.0) * share
        };
        let mut marks = vec![0.0, SECONDS];
        marks.extend((0..count).map(|hour| (hour as f64 + 0.5) * step));
        if let Some(surge) = surge {
            let from = surge.at.as_secs_f64();
            marks.extend([from, (from + surge.lasts.as_secs_f64()).min(SECONDS)]);
        }
        marks.sort_unstable_by(f64::total_cmp);
        marks.dedup();
        let lines: Vec<Line> = marks
            .windows(2)
            .map(|pair| Line {
                from_s: pair[0],
                to_s: pair[1],
                from_rps: rate(pair[0]),
                to_rps: rate(pair[1]),
            })
            .collect();
        let wanted: f64 = hours.iter().map(|hour| hour * step).sum();
        let day = Day { lines };
        let drawn = day.requests().max(f64::MIN_POSITIVE);
        let day = day.times(wanted / drawn);
        Ok(match surge {
            Some(surge) => day.with(surge),
            None => day,
        })
    }

    fn with(mut self, surge: &SurgeSpec) -> Day {
        let from = surge.at.as_secs_f64();
        let to = from + surge.lasts.as_secs_f64();
        for line in &mut self.lines {
            let middle = (line.from_s + line.to_s) / 2.0;
            if from <= middle && middle < to {
                line.from_rps *= surge.factor;
                line.to_rps *= surge.factor;
            }
        }
        self
    }

    /// The same day with so many times the traffic.
    pub fn times(mut self, factor: f64) -> Day {
        for line in &mut self.lines {
            line.from_rps *= factor;
            line.to_rps *= factor;
        }
        self
    }

    pub fn requests(&self) -> f64 {
        self.lines.iter().map(Line::area).sum()
    }

    pub fn mean_rps(&self) -> f64 {
        self.requests() / SECONDS
    }

    pub fn peak_rps(&self) -> f64 {
        self.lines.iter().map(|line| line.from_rps.max(line.to_rps)).fold(0.0, f64::max)
    }

    /// At a second of the day; at a step, what comes after it.
    pub fn rate(&self, at_s: f64) -> f64 {
        let line = self.lines.iter().find(|line| at_s < line.to_s).or(self.lines.last());
        line.map_or(0.0, |line| line.rate(at_s.clamp(line.from_s, line.to_s)))
    }

    /// Mean rates of parts of equal length.
    pub fn bins(&self, count: usize) -> Vec<f64> {
        const POINTS: usize = 16;
        let width = SECONDS / count.max(1) as f64;
        (0..count)
            .map(|bin| {
                let at = |point: usize| (bin as f64 + (point as f64 + 0.5) / POINTS as f64) * width;
                (0..POINTS).map(|point| self.rate(at(point))).sum::<f64>() / POINTS as f64
            })
            .collect()
    }

    /// When so many requests are expected to have come; `None` after midnight.
    fn time_of(&self, mut area: f64) -> Option<f64> {
        for line in &self.lines {
            let here = line.area();
            if area < here {
                return Some(line.from_s + line.seconds_to(area));
            }
            area -= here;
        }
        None
    }

    /// The day's requests: the process of `traffic` at the mean rate, its time then stretched so that the rate follows the
    /// day. A Poisson process stays one; a burst stays a burst of as many requests. Of sessions the beginnings follow the day.
    pub fn workload(&self, traffic: &Traffic<'_>) -> Result<Workload, AutoscaleError> {
        let mean_rps = self.mean_rps();
        let requests = (self.requests() * MARGIN).ceil() as u64 + 50;
        let config = traffic(mean_rps, requests);
        let mut workload =
            generate(&config).map_err(|error| AutoscaleError::Input(format!("the workload: {error}")))?;
        let mut kept = 0;
        for request in &mut workload.requests {
            let Some(at) = self.time_of(request.at.as_secs_f64() * mean_rps) else { break };
            request.at = Duration::from_secs_f64(at);
            kept += 1;
        }
        workload.requests.truncate(kept);
        Ok(workload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_S: f64 = 3600.0;

    fn demand(hours: Vec<f64>) -> Demand {
        let mean_rps = hours.iter().sum::<f64>() / 24.0;
        Demand { mean_rps, peak_rps: hours.iter().copied().fold(0.0, f64::max), hourly_rps: Some(hours) }
    }

    #[test]
    fn the_curve_has_the_requests_of_the_hours() {
        let mut hours = vec![1.0; 24];
        hours[12] = 5.0;
        let day = Day::of(&demand(hours), None).unwrap();
        assert!((day.requests() - 28.0 * HOUR_S).abs() < 1e-6);
        assert!(day.rate(12.5 * HOUR_S) > 4.9 && day.rate(3.0 * HOUR_S) < 1.1);
        let bins: f64 = day.bins(48).iter().sum::<f64>() * SECONDS / 48.0;
        assert!((bins / day.requests() - 1.0).abs() < 0.01);
        let sine = Day::of(&Demand { mean_rps: 2.0, peak_rps: 4.0, hourly_rps: None }, None).unwrap();
        assert!((sine.rate(14.0 * HOUR_S) - 4.0).abs() < 0.1 && sine.rate(2.0 * HOUR_S) < 0.1);
    }

    #[test]
    fn a_surge_multiplies_its_minutes_only() {
        let surge =
            SurgeSpec { at: Duration::from_secs(50_400), factor: 3.0, lasts: Duration::from_secs(600) };
        let day = Day::of(&demand(vec![2.0; 24]), Some(&surge)).unwrap();
        assert!((day.requests() - 2.0 * SECONDS - 2.0 * 2.0 * 600.0).abs() < 1e-6);
        assert_eq!(
            [50_399.0, 50_400.0, 50_999.0, 51_000.0].map(|at| day.rate(at).round()),
            [2.0, 6.0, 6.0, 2.0]
        );
        assert!((day.peak_rps() - 6.0).abs() < 1e-9);
    }

    /// Inverse of the cumulative curve, on rising, falling and flat lines.
    #[test]
    fn times_follow_the_area() {
        let mut hours = vec![1.0; 24];
        hours[8..16].fill(6.0);
        let day = Day::of(&demand(hours), None).unwrap();
        for share in [0.01, 0.2, 0.333, 0.5, 0.8, 0.99] {
            let at = day.time_of(share * day.requests()).unwrap();
            let steps = 200_000;
            let width = at / f64::from(steps);
            let area: f64 = (0..steps).map(|i| day.rate((f64::from(i) + 0.5) * width) * width).sum();
            assert!((area / (share * day.requests()) - 1.0).abs() < 1e-6, "{share}: {area}");
        }
        assert_eq!(day.time_of(day.requests() + 1.0), None);
    }
}
