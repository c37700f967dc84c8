//! Intervals for means of simulated values, which are not independent of each other.

/// A mean and half the width of its 95 % confidence interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    pub mean: f64,
    pub half_width: f64,
    /// Of the mean.
    pub standard_error: f64,
}

impl Interval {
    pub fn contains(&self, value: f64) -> bool {
        (value - self.mean).abs() <= self.half_width
    }
}

/// From runs with different seeds, each one value (Law 2015, ch. 9). None of fewer than two.
pub fn replications(values: &[f64]) -> Option<Interval> {
    let count = values.len();
    if count < 2 {
        return None;
    }
    let mean = values.iter().sum::<f64>() / count as f64;
    let squares: f64 = values.iter().map(|value| (value - mean) * (value - mean)).sum();
    let standard_error = (squares / (count - 1) as f64 / count as f64).sqrt();
    Some(Interval { mean, half_width: t_975(count - 1) * standard_error, standard_error })
}

/// From one run: means of successive batches are nearly independent if the batches are long (Law 2015, ch. 9). What does not
/// fill a last batch is left out. None of fewer than two batches, or of fewer values than batches.
pub fn batch_means(values: &[f64], batches: usize) -> Option<Interval> {
    let length = values.len().checked_div(batches).filter(|length| *length > 0)?;
    let mean = |batch: &[f64]| batch.iter().sum::<f64>() / length as f64;
    let means: Vec<f64> = values.chunks_exact(length).take(batches).map(mean).collect();
    replications(&means)
}

/// The 97.5th percentile of Student's t distribution. Exact for one and two degrees of freedom, by the expansion of Cornish
/// and Fisher (Abramowitz and Stegun 26.7.5) for more, where it is off by less than 1 % (4 % for three).
fn t_975(degrees: usize) -> f64 {
    let n = degrees as f64;
    match degrees {
        0 => f64::INFINITY,
        1 => 12.706_204_736,
        2 => 4.302_652_730,
        _ => {
            let x: f64 = 1.959_963_985;
            x + (x.powi(3) + x) / (4.0 * n)
                + (5.0 * x.powi(5) + 16.0 * x.powi(3) + 3.0 * x) / (96.0 * n * n)
                + (3.0 * x.powi(7) + 19.0 * x.powi(5) + 17.0 * x.powi(3) - 15.0 * x) / (384.0 * n.powi(3))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn students_t_is_the_printed_table() {
        for (degrees, printed) in [(1, 12.706), (2, 4.303), (4, 2.776), (9, 2.262), (19, 2.093), (60, 2.000)]
        {
            let value = t_975(degrees);
            assert!((value / printed - 1.0).abs() < 0.01, "{degrees}: {value}");
        }
    }

    #[test]
    fn intervals_by_hand() {
        // Mean 3, variance 2.5, standard error sqrt(0.5), t of 4 degrees 2.776.
        let interval = replications(&[1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
        assert_eq!(interval.mean, 3.0);
        assert!((interval.half_width - 2.776 * 0.5_f64.sqrt()).abs() < 0.02);
        assert!(interval.contains(4.9) && !interval.contains(5.1));
        // Batches [1, 3] and [5, 7], the 100 is left over.
        assert_eq!(batch_means(&[1.0, 3.0, 5.0, 7.0, 100.0], 2).map(|interval| interval.mean), Some(4.0));
        assert_eq!(batch_means(&[1.0], 2), None);
        assert_eq!(batch_means(&[1.0, 2.0], 0), None);
        assert_eq!(replications(&[1.0]), None);
    }
}
