//! Which answers no other answer beats.

/// The places of `points` that no other point beats: at least as good in every figure and better in one. Less is better; what
/// is no number is the same for all.
pub fn front<const N: usize>(points: &[[f64; N]]) -> Vec<usize> {
    let beats = |a: &[f64; N], b: &[f64; N]| {
        let no_worse = |(a, b): (&f64, &f64)| a <= b || a.is_nan() || b.is_nan();
        a.iter().zip(b).all(no_worse) && a.iter().zip(b).any(|(a, b)| a < b)
    };
    (0..points.len()).filter(|place| !points.iter().any(|other| beats(other, &points[*place]))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beaten_in_nothing_stays() {
        let points = [[1.0, 9.0], [2.0, 5.0], [3.0, 6.0], [4.0, 1.0], [4.0, 1.0]];
        assert_eq!(front(&points), [0, 1, 3, 4]);
        assert!(front::<2>(&[]).is_empty());
        // Answers of one token have no time a token.
        assert_eq!(front(&[[1.0, f64::NAN], [2.0, f64::NAN]]), [0]);
    }
}
