//! Mean and its standard error.

/// Count, sum and sum of squares of some values.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Moments {
    count: u64,
    sum: f64,
    squares: f64,
}

impl Moments {
    pub fn add(&mut self, value: f64) {
        self.count += 1;
        self.sum += value;
        self.squares += value * value;
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    /// 0 of nothing.
    pub fn mean(&self) -> f64 {
        self.sum / (self.count as f64).max(1.0)
    }

    /// Root of the mean square.
    pub fn rms(&self) -> f64 {
        (self.squares / (self.count as f64).max(1.0)).sqrt()
    }

    /// Of the mean, as if the values were independent; 0 of fewer than two.
    pub fn standard_error(&self) -> f64 {
        if self.count < 2 {
            return 0.0;
        }
        let variance = (self.squares / self.count as f64 - self.mean().powi(2)).max(0.0);
        (variance / (self.count - 1) as f64).sqrt()
    }
}

impl FromIterator<f64> for Moments {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let mut moments = Moments::default();
        values.into_iter().for_each(|value| moments.add(value));
        moments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_four_values() {
        let moments: Moments = [1.0, 2.0, 3.0, 6.0].into_iter().collect();
        assert_eq!((moments.count(), moments.mean()), (4, 3.0));
        // Sample variance 14 / 3, over 4 values.
        assert!((moments.standard_error() - (14.0f64 / 3.0 / 4.0).sqrt()).abs() < 1e-12);
        assert!((moments.rms() - 12.5f64.sqrt()).abs() < 1e-12);
        assert_eq!(Moments::from_iter([5.0]).standard_error(), 0.0);
    }
}
