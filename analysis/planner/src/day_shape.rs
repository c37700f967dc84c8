//! A day of which only the mean and the busiest hour are known.

use std::f64::consts::TAU;

use llmlab_scenarios::plan::Demand;

/// When it is busiest.
const PEAK_HOUR: f64 = 14.0;
const HOURS: u32 = 24;

/// Requests a second of each hour of the day; where they are not given, of a curve with its top at 14:00: a sine, or above
/// twice the mean `peak ((1 + cos) / 2)^k`, which is that sine for k = 1 and a narrower hill for more. Both have the mean and
/// the peak that were asked for; a peak above 24 times the mean is shorter than an hour, and one hour has all requests then.
pub fn hours(demand: &Demand) -> Vec<f64> {
    if let Some(hourly) = &demand.hourly_rps {
        return hourly.clone();
    }
    let (mean, peak) = (demand.mean_rps, demand.peak_rps);
    let phases = (0..HOURS).map(|hour| (TAU * (f64::from(hour) - PEAK_HOUR) / f64::from(HOURS)).cos());
    if peak <= 2.0 * mean {
        return phases.map(|cos| (mean + (peak - mean) * cos).max(0.0)).collect();
    }
    let hill: Vec<f64> = phases.map(|cos| (1.0 + cos) / 2.0).collect();
    let mean_of = |k: f64| hill.iter().map(|share| share.powf(k)).sum::<f64>() / f64::from(HOURS);
    let (mut wide, mut narrow) = (1.0, 1e4);
    for _ in 0..100 {
        let k = (wide + narrow) / 2.0;
        if mean_of(k) > mean / peak { wide = k } else { narrow = k }
    }
    // The rest is what the halving, or a peak that no hour has, leaves.
    let scale = mean / mean_of(wide);
    hill.iter().map(|share| scale * share.powf(wide)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_that_is_not_described_has_its_mean_and_its_peak() {
        for (mean, peak) in
            [(2.0, 2.0), (2.0, 3.0), (2.0, 4.0), (1.0, 2.1), (1.0, 4.0), (1.0, 9.0), (0.5, 11.0)]
        {
            let day = hours(&Demand { mean_rps: mean, peak_rps: peak, hourly_rps: None });
            assert!((day.iter().sum::<f64>() / 24.0 / mean - 1.0).abs() < 1e-9, "{mean} {peak}");
            let top = day.iter().copied().fold(0.0, f64::max);
            assert!((top / peak - 1.0).abs() < 1e-6 && top == day[14], "{mean} {peak}: {top}");
            assert!(day.iter().all(|rate| *rate >= 0.0));
        }
        let burst = hours(&Demand { mean_rps: 1.0, peak_rps: 500.0, hourly_rps: None });
        assert!((burst[14] - 24.0).abs() < 1e-6 && (burst.iter().sum::<f64>() - 24.0).abs() < 1e-9);
    }
}
