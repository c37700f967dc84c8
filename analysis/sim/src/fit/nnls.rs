//! Least squares with no negative unknown.

/// Added to the diagonal of the scaled normal equations, so that columns that say the same share the price.
const RIDGE: f64 = 1e-12;
/// A slope below this, with columns and targets of length 1, is no way down.
const FLAT: f64 = 1e-12;

/// The `x >= 0` that makes the sum of `(row · x - target)^2` least, by the active set of Lawson and Hanson (1974, chapter 23)
/// on the normal equations: unknowns join one by one, the steepest first, and leave when they would turn negative. Columns are
/// scaled to length 1; a column of zeros gets 0.
pub fn solve(rows: &[Vec<f64>], targets: &[f64]) -> Vec<f64> {
    let columns = rows.first().map_or(0, Vec::len);
    let length = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let lengths: Vec<f64> =
        (0..columns).map(|column| length(&mut rows.iter().map(|row| row[column]))).collect();
    let scale = length(&mut targets.iter().copied());
    if scale == 0.0 {
        return vec![0.0; columns];
    }
    let used: Vec<usize> = (0..columns).filter(|column| lengths[*column] > 0.0).collect();
    let scaled = |row: &[f64], column: usize| row[column] / lengths[column];
    let dot = |a: usize, b: usize| rows.iter().map(|row| scaled(row, a) * scaled(row, b)).sum::<f64>();
    let gram: Vec<Vec<f64>> = used.iter().map(|a| used.iter().map(|b| dot(*a, *b)).collect()).collect();
    let aim = |column: &usize| {
        rows.iter().zip(targets).map(|(row, target)| scaled(row, *column) * target / scale).sum::<f64>()
    };
    let found = active_set(&gram, &used.iter().map(aim).collect::<Vec<f64>>());
    let mut solution = vec![0.0; columns];
    for (column, value) in used.into_iter().zip(found) {
        solution[column] = value * scale / lengths[column];
    }
    solution
}

fn active_set(gram: &[Vec<f64>], aim: &[f64]) -> Vec<f64> {
    let count = aim.len();
    let mut found = vec![0.0; count];
    let mut free: Vec<usize> = Vec::new();
    // Each turn lowers the sum, so no set comes twice; the bound is against rounding.
    for _ in 0..10 * count {
        let slope = |at: usize| aim[at] - (0..count).map(|other| gram[at][other] * found[other]).sum::<f64>();
        let steepest = (0..count)
            .filter(|at| !free.contains(at))
            .map(|at| (slope(at), at))
            .max_by(|a, b| a.0.total_cmp(&b.0));
        let Some((_, next)) = steepest.filter(|(slope, _)| *slope > FLAT) else { break };
        free.push(next);
        loop {
            let wanted = least_squares(gram, aim, &free);
            // How far the way to it stays positive.
            let far = free
                .iter()
                .zip(&wanted)
                .filter(|(_, wanted)| **wanted <= 0.0)
                .map(|(at, wanted)| found[*at] / (found[*at] - wanted).max(f64::MIN_POSITIVE))
                .fold(1.0f64, f64::min);
            for (at, wanted) in free.iter().zip(&wanted) {
                found[*at] += far * (wanted - found[*at]);
            }
            if wanted.iter().all(|wanted| *wanted > 0.0) {
                break;
            }
            let before = free.len();
            let stays: Vec<bool> =
                free.iter().zip(&wanted).map(|(at, wanted)| *wanted > 0.0 || found[*at] > FLAT).collect();
            let mut stay = stays.into_iter();
            free.retain(|at| {
                let stays = stay.next().unwrap_or(true);
                if !stays {
                    found[*at] = 0.0;
                }
                stays
            });
            if free.len() == before || free.is_empty() {
                break;
            }
        }
    }
    found.into_iter().map(|value| value.max(0.0)).collect()
}

/// The unknowns `free` alone, without a bound: Cholesky's factors of their part of the normal equations.
fn least_squares(gram: &[Vec<f64>], aim: &[f64], free: &[usize]) -> Vec<f64> {
    let count = free.len();
    let mut factor = vec![vec![0.0; count]; count];
    for row in 0..count {
        for column in 0..=row {
            let product: f64 = (0..column).map(|at| factor[row][at] * factor[column][at]).sum();
            let value = gram[free[row]][free[column]] - product;
            factor[row][column] = if row == column {
                (value + RIDGE).max(RIDGE).sqrt()
            } else {
                value / factor[column][column]
            };
        }
    }
    let mut solution = vec![0.0; count];
    for row in 0..count {
        let known: f64 = (0..row).map(|at| factor[row][at] * solution[at]).sum();
        solution[row] = (aim[free[row]] - known) / factor[row][row];
    }
    for row in (0..count).rev() {
        let known: f64 = (row + 1..count).map(|at| factor[at][row] * solution[at]).sum();
        solution[row] = (solution[row] - known) / factor[row][row];
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
