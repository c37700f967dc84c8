//! Adding one bias vector to every row of a projection.

use crate::ThreadPool;
use crate::ops::rows::{RowsMut, for_rows};

/// `rows[t] += bias`, in place.
pub fn add_bias(pool: &ThreadPool, rows: RowsMut<'_>, bias: &[f32]) {
    let (count, width) = (rows.len(), rows.width());
    assert_eq!(bias.len(), width, "bias against row");
    let (data, start_of) = rows.share();
    for_rows(pool, count, width, |range| {
        for row in range {
            // SAFETY: every row belongs to one worker.
            let row = unsafe { data.slice(start_of(row), width) };
            row.iter_mut().zip(bias).for_each(|(x, bias)| *x += bias);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::random;

    #[test]
    fn adds_to_the_named_columns_of_every_row_only() {
        let (rows, stride, first, width) = (700, 50, 7, 33);
        let (before, bias) = (random(rows * stride, 1), random(width, 2));
        for threads in [1, 3] {
            let mut out = before.clone();
            add_bias(&ThreadPool::new(threads), RowsMut::strided(&mut out, stride, first, width), &bias);
            for (i, (out, before)) in out.iter().zip(&before).enumerate() {
                let column = i % stride;
                let inside = (first..first + width).contains(&column);
                assert_eq!(*out, if inside { before + bias[column - first] } else { *before });
            }
        }
    }
}
