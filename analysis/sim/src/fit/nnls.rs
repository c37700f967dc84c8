//! Least squares with no negative unknown.

/// Sweeps at most. A sweep is a few hundred multiplications here.
const SWEEPS: usize = 200_000;
/// Relative change of the unknowns in a sweep that ends the search.
const STILL: f64 = 1e-11;

/// The `x >= 0` that makes the sum of `(row · x - target)^2` least: coordinate descent on the normal equations (Franc, Hlavac,
/// Navara 2005), which for a convex problem ends at the optimum. Columns are scaled to length 1 first; a column of zeros gets 0.
pub fn solve(rows: &[Vec<f64>], targets: &[f64]) -> Vec<f64> {
    let columns = rows.first().map_or(0, Vec::len);
    let length = |column: usize| rows.iter().map(|row| row[column] * row[column]).sum::<f64>().sqrt();
    let lengths: Vec<f64> = (0..columns).map(length).collect();
    let dot =
        |a: usize, b: usize| rows.iter().map(|row| row[a] * row[b]).sum::<f64>() / (lengths[a] * lengths[b]);
    let used: Vec<usize> = (0..columns).filter(|column| lengths[*column] > 0.0).collect();
    let gram: Vec<Vec<f64>> = used.iter().map(|a| used.iter().map(|b| dot(*a, *b)).collect()).collect();
    let aim: Vec<f64> = used
        .iter()
        .map(|column| {
            rows.iter().zip(targets).map(|(row, target)| row[*column] * target).sum::<f64>()
                / lengths[*column]
        })
        .collect();
    let mut found = vec![0.0f64; used.len()];
    // The gradient at `found`, kept up to date.
    let mut slope: Vec<f64> = aim.iter().map(|value| -value).collect();
    for _ in 0..SWEEPS {
        let mut moved = 0.0f64;
        for at in 0..found.len() {
            let next = (found[at] - slope[at] / gram[at][at]).max(0.0);
            let change = next - found[at];
            if change != 0.0 {
                found[at] = next;
                slope.iter_mut().zip(&gram[at]).for_each(|(slope, product)| *slope += change * product);
                moved = moved.max(change.abs());
            }
        }
        if moved <= STILL * found.iter().fold(0.0, |most: f64, value| most.max(*value)) {
            break;
        }
    }
    let mut solution = vec![0.0; columns];
    for (column, value) in used.into_iter().zip(found) {
        solution[column] = value / lengths[column];
    }
    solution
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_exact_positive_solution_is_found() {
        let rows = vec![vec![1.0, 0.0, 2.0], vec![1.0, 3.0, 0.0], vec![1.0, 1.0, 1.0], vec![1.0, 5.0, 9.0]];
        let truth = [4.0, 0.5, 0.25];
        let targets: Vec<f64> =
            rows.iter().map(|row| row.iter().zip(truth).map(|(a, b)| a * b).sum()).collect();
        for (found, wanted) in solve(&rows, &targets).iter().zip(truth) {
            assert!((found - wanted).abs() < 1e-7, "{found} {wanted}");
        }
    }

    /// Without the bound the answer is (2, -1); with it the first column alone fits best at the mean, 1.5.
    #[test]
    fn what_would_be_negative_is_zero() {
        let rows = vec![vec![1.0, 0.0], vec![1.0, 1.0]];
        let found = solve(&rows, &[2.0, 1.0]);
        assert!((found[0] - 1.5).abs() < 1e-9 && found[1] == 0.0, "{found:?}");
    }

    proptest! {
        /// Karush-Kuhn-Tucker: no slope where a value is positive, none downhill where it is zero.
        #[test]
        fn the_solution_is_an_optimum(
            values in proptest::collection::vec(0.0f64..1.0, 40),
            targets in proptest::collection::vec(0.1f64..1.0, 10),
        ) {
            let rows: Vec<Vec<f64>> = values.chunks(4).map(<[f64]>::to_vec).collect();
            let found = solve(&rows, &targets);
            for column in 0..4 {
                let slope: f64 = rows.iter().zip(&targets).map(|(row, target)| {
                    let told: f64 = row.iter().zip(&found).map(|(a, b)| a * b).sum();
                    row[column] * (told - target)
                }).sum();
                prop_assert!(found[column] >= 0.0);
                prop_assert!(slope > -1e-6, "column {} goes down by {}", column, slope);
                prop_assert!(found[column] == 0.0 || slope < 1e-6, "column {} goes up by {}", column, slope);
            }
        }
    }
}
