//! Percentiles by linear interpolation (numpy's default, Hyndman-Fan type 7), because the tools people compare us with use it.

/// Sorts in place; NaN must not be present (the callers build values from integer timestamps).
pub fn sort(values: &mut [f64]) {
    values.sort_unstable_by(f64::total_cmp);
}

/// The `q`-quantile of ascending `sorted`, `q` in 0..=1. `None` when empty.
///
/// The result may be `+inf` when the values hold infinities: a neighbour that is infinite makes the interpolation infinite,
/// and two infinite neighbours do not become NaN.
pub fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let position = q.clamp(0.0, 1.0) * last as f64;
    let below = position.floor() as usize;
    let fraction = position - below as f64;
    let lower = sorted[below];
    if fraction == 0.0 {
        return Some(lower);
    }
    let upper = sorted[below + 1];
    if upper.is_infinite() {
        return Some(upper);
    }
    Some(lower + (upper - lower) * fraction)
}

/// The `q`-quantile of `sorted` followed by `infinite` values of `+inf`; `None` means the result is infinite or there is
/// nothing at all.
pub fn quantile_with_failures(sorted: &[f64], infinite: u64, q: f64) -> Option<f64> {
    if infinite == 0 {
        return quantile(sorted, q);
    }
    let last = sorted.len() as f64 + infinite as f64 - 1.0;
    let position = q.clamp(0.0, 1.0) * last;
    let below = position.floor() as usize;
    let fraction = position - below as f64;
    let lower = *sorted.get(below)?;
    if fraction == 0.0 {
        return Some(lower);
    }
    let upper = *sorted.get(below + 1)?;
    Some(lower + (upper - lower) * fraction)
}

/// Arithmetic mean; `None` when empty.
pub fn mean(values: &[f64]) -> Option<f64> {
    if values.is_empty() { None } else { Some(values.iter().sum::<f64>() / values.len() as f64) }
}

/// Median of unsorted values; `None` when empty.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sort(&mut sorted);
    quantile(&sorted, 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `numpy.percentile([15, 20, 35, 40, 50], [0, 5, 30, 40, 50, 95, 99, 100])`, numpy 2, method "linear".
    #[test]
    fn agrees_with_numpy() {
        let v = [15.0, 20.0, 35.0, 40.0, 50.0];
        for (p, want) in [
            (0.0, 15.0),
            (5.0, 16.0),
            (30.0, 23.0),
            (40.0, 29.0),
            (50.0, 35.0),
            (95.0, 48.0),
            (99.0, 49.6),
            (100.0, 50.0),
        ] {
            let got = quantile(&v, p / 100.0).unwrap();
            assert!((got - want).abs() < 1e-12, "p{p}: {got} != {want}");
        }
        assert_eq!(quantile(&[7.0], 0.99), Some(7.0));
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn a_failure_is_the_slowest_request() {
        let v = [10.0, 20.0, 30.0];
        // Four values with one infinite: the median lies between 20 and 30, the 67th percentile is exactly 30.
        assert_eq!(quantile_with_failures(&v, 1, 0.5), Some(25.0));
        assert_eq!(quantile_with_failures(&v, 1, 2.0 / 3.0), Some(30.0));
        assert_eq!(quantile_with_failures(&v, 1, 0.7), None);
        assert_eq!(quantile_with_failures(&[], 3, 0.5), None);
        assert_eq!(quantile_with_failures(&v, 0, 0.5), Some(20.0));
    }

    #[test]
    fn appended_infinities_agree_with_the_explicit_form() {
        let v = [1.0, 2.0, 4.0, 8.0];
        let explicit = [1.0, 2.0, 4.0, 8.0, f64::INFINITY, f64::INFINITY];
        for i in 0..=100 {
            let q = f64::from(i) / 100.0;
            let want = quantile(&explicit, q).filter(|x| x.is_finite());
            assert_eq!(quantile_with_failures(&v, 2, q), want, "q {q}");
        }
    }
}
