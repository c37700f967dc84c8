//! Replicas of one's own for the base load, an API for what is more.

use serde::Serialize;

use super::money::HOURS_PER_MONTH;

/// The division between own replicas and an API that costs least.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Division {
    /// Own replicas; 0 where the API alone is cheapest.
    pub replicas: u32,
    /// Of the day's requests.
    pub share_spilled: f64,
    /// Of the requests in the busiest hour.
    pub share_spilled_at_peak: f64,
    pub own_usd_per_month: f64,
    pub api_usd_per_month: f64,
}

impl Division {
    pub fn usd_per_month(&self) -> f64 {
        self.own_usd_per_month + self.api_usd_per_month
    }
}

/// Tries every number of own replicas up to `most`, at `usd_per_replica_hour` and `replica_rps` each. In each hour the API
/// gets what is above their capacity.
pub fn divide(
    hours: &[f64],
    most: u32,
    replica_rps: f64,
    usd_per_replica_hour: f64,
    api_usd_per_request: f64,
) -> Option<Division> {
    let sum: f64 = hours.iter().sum();
    let peak = hours.iter().copied().fold(0.0, f64::max);
    if !(sum > 0.0 && replica_rps > 0.0) {
        return None;
    }
    let division = |replicas: u32| {
        let own = f64::from(replicas) * replica_rps;
        let spilled: f64 = hours.iter().map(|rate| (rate - own).max(0.0)).sum();
        let mean_spilled_rps = spilled / hours.len() as f64;
        Division {
            replicas,
            share_spilled: spilled / sum,
            share_spilled_at_peak: ((peak - own) / peak).max(0.0),
            own_usd_per_month: f64::from(replicas) * usd_per_replica_hour * HOURS_PER_MONTH,
            api_usd_per_month: mean_spilled_rps * 3600.0 * HOURS_PER_MONTH * api_usd_per_request,
        }
    };
    (0..=most).map(division).min_by(|a, b| a.usd_per_month().total_cmp(&b.usd_per_month()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Twelve hours at 1 and twelve at 3 requests/s, replicas of 1 request/s for a dollar an hour. An API half as dear again as
    /// a full replica beats a second and a third one, which are idle for half the day.
    #[test]
    fn what_is_idle_half_the_day_is_bought_from_others() {
        let day = [[1.0; 12], [3.0; 12]].concat();
        let found = divide(&day, 3, 1.0, 1.0, 1.5 / 3600.0).unwrap();
        assert_eq!(found.replicas, 1);
        assert_eq!(found.share_spilled, 0.5);
        assert!((found.share_spilled_at_peak - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(found.own_usd_per_month, 730.0);
        // A mean of one request a second.
        assert!((found.api_usd_per_month - 730.0 * 1.5).abs() < 1e-9);
        // Three times as dear, the API loses everything; nearly free, it gets everything.
        assert_eq!(divide(&day, 3, 1.0, 1.0, 4.5 / 3600.0).unwrap().replicas, 3);
        assert_eq!(divide(&day, 3, 1.0, 1.0, 0.1 / 3600.0).unwrap().replicas, 0);
        assert_eq!(divide(&[0.0; 24], 3, 1.0, 1.0, 1.0), None);
    }
}
