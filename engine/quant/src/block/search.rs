//! The searches behind the block quantizers: which scale (and minimum) represents a group of values best.
//!
//! Formulas and search grids are those of ggml-quants.c (`make_qx_quants`, `make_q3_quants`, `make_qkx2_quants`). Sums run
//! in index order and every product is rounded before it is added, otherwise ties would be decided differently than there.

/// A group whose largest magnitude is below this is stored as zeros.
pub(super) const NOTHING: f32 = 1e-15;

/// 1.5 * 2^23: a float of this size has no fraction bits, so adding it rounds to nearest, ties to even.
const ROUNDER: f32 = 12_582_912.0;

/// The nearest integer within bounds, ties to even; as a float, which needs no conversion instruction.
fn level(x: f32, low: f32, high: f32) -> f32 {
    let rounded = (x + ROUNDER) - ROUNDER;
    let rounded = if rounded > low { rounded } else { low };
    if rounded < high { rounded } else { high }
}

/// The nearest integer, ties to even, of a number below 2^22 in magnitude. Larger numbers give an arbitrary integer, which
/// every caller clamps.
pub(super) fn nearest(x: f32) -> i32 {
    ((x + ROUNDER).to_bits() & 0x007f_ffff) as i32 - 0x0040_0000
}

/// The first value of largest magnitude, with its sign.
pub(super) fn extreme(x: &[f32]) -> f32 {
    x.iter().fold(0f32, |m, &v| if v.abs() > m.abs() { v } else { m })
}

/// Smallest and largest value, of equal ones the first.
pub(super) fn range(x: &[f32]) -> (f32, f32) {
    x.iter().fold((f32::MAX, f32::MIN), |(min, max), &v| {
        (if v < min { v } else { min }, if v > max { v } else { max })
    })
}

/// Levels and least-squares sums `(sum w x l, sum w l l)` with `w = x^2` of a symmetric group at one inverse scale.
fn symmetric_fit<const N: usize>(x: &[f32; N], half: i32, inverse: f32) -> ([i8; N], f32, f32) {
    let levels = x.map(|v| nearest(inverse * v).clamp(-half, half - 1) as i8);
    let (mut lx, mut ll) = (0f32, 0f32);
    for (&v, &level) in x.iter().zip(&levels) {
        let (w, level) = (v * v, f32::from(level));
        lx += w * v * level;
        ll += w * level * level;
    }
    (levels, lx, ll)
}

/// Trials of [`symmetric`]: the scale that puts the extreme value on `-half`, nine below, nine above, and one to fill the
/// last vector.
const TRIALS: usize = 20;

/// The scale of `x = scale * level` with levels in `-half..half`, and those levels plus `half`; of nineteen roundings around
/// the one that puts the extreme value on `-half`, the one with the smallest error weighted by `x^2`.
pub(super) fn symmetric<const N: usize>(x: &[f32; N], half: i32) -> (f32, [i8; N]) {
    let extreme = extreme(x);
    if extreme.abs() < NOTHING {
        return (0.0, [0; N]);
    }
    let top = half as f32;
    // The trials do not depend on each other: one lane each, every lane summing in index order.
    let inverse: [f32; TRIALS] = std::array::from_fn(|t| -(top + 0.1 * (t as f32 - 9.0)) / extreme);
    let (mut lx, mut ll) = ([0f32; TRIALS], [0f32; TRIALS]);
    for &v in x {
        let w = v * v;
        let wv = w * v;
        for t in 0..TRIALS {
            let level = level(inverse[t] * v, -top, top - 1.0);
            lx[t] += wv * level;
            ll[t] += w * level * level;
        }
    }
    let mut taken = 9;
    let mut scale = if ll[9] != 0.0 { lx[9] / ll[9] } else { 0.0 };
    let mut best = scale * lx[9];
    for t in (0..19).filter(|t| *t != 9) {
        if ll[t] > 0.0 && lx[t] * lx[t] > best * ll[t] {
            taken = t;
            scale = lx[t] / ll[t];
            best = scale * lx[t];
        }
    }
    (scale, x.map(|v| (level(inverse[taken] * v, -top, top - 1.0) + top) as i8))
}

/// As [`symmetric`], but improving one level at a time, at most five rounds, instead of trying other scales (Q3_K).
pub(super) fn symmetric_by_moves<const N: usize>(x: &[f32; N], half: i32) -> (f32, [i8; N]) {
    let extreme = extreme(x);
    if extreme.abs() < NOTHING {
        return (0.0, [0; N]);
    }
    let (mut levels, mut lx, mut ll) = symmetric_fit(x, half, -(half as f32) / extreme);
    for _ in 0..5 {
        let mut moved = false;
        for (&v, level) in x.iter().zip(&mut levels) {
            let (w, old) = (v * v, f32::from(*level));
            // The sums without this value; what they fit best says where the value belongs.
            let lx_rest = lx - w * v * old;
            if lx_rest <= 0.0 {
                continue;
            }
            let ll_rest = ll - w * old * old;
            let new = nearest(v * ll_rest / lx_rest).clamp(-half, half - 1) as i8;
            if new == *level {
                continue;
            }
            let candidate = f32::from(new);
            let lx_new = lx_rest + w * v * candidate;
            let ll_new = ll_rest + w * candidate * candidate;
            if ll_new > 0.0 && lx_new * lx_new * ll > lx * lx * ll_new {
                (*level, lx, ll, moved) = (new, lx_new, ll_new, true);
            }
        }
        if !moved {
            break;
        }
    }
    (if ll > 0.0 { lx / ll } else { 0.0 }, levels.map(|level| level + half as i8))
}

/// What an error of a fit counts.
#[derive(Clone, Copy)]
pub(super) enum Loss {
    Absolute,
    Squared,
}

/// The grid of [`affine`]: inverse scales `(first + 0.1 i + top) / (max - min)` for `i` in `0..=steps`.
#[derive(Clone, Copy)]
pub(super) struct Grid {
    /// The largest level.
    pub top: u8,
    pub first: f32,
    pub steps: u8,
    pub loss: Loss,
}

/// Groups that are searched side by side. Every array of this length below has one lane per group, and a lane sums in index
/// order, so that the result is that of searching alone.
pub(super) const LANES: usize = 8;

type Lanes = [f32; LANES];

/// Groups as `x = scale * level - min`, `min >= 0`.
pub(super) struct Affine<const N: usize> {
    pub scale: Lanes,
    pub min: Lanes,
    pub levels: [[u8; N]; LANES],
}

/// Starts from the range of the values (extended to include 0) and, for each inverse scale of the grid, solves the weighted
/// least squares for scale and minimum given the rounding it causes; keeps whichever has the smallest weighted loss. The
/// grid is laid from the best minimum so far.
pub(super) fn affine<const N: usize>(
    groups: &[[f32; N]],
    weights: &[[f32; N]; LANES],
    grid: Grid,
) -> Affine<N> {
    let x: [Lanes; N] = std::array::from_fn(|i| std::array::from_fn(|g| groups[g][i]));
    let w: [Lanes; N] = std::array::from_fn(|i| std::array::from_fn(|g| weights[g][i]));
    let (mut low, mut high, mut sum_w, mut sum_x) = (x[0], x[0], w[0], [0f32; LANES]);
    for g in 0..LANES {
        sum_x[g] = w[0][g] * x[0][g];
    }
    for i in 1..N {
        for g in 0..LANES {
            low[g] = if x[i][g] < low[g] { x[i][g] } else { low[g] };
            high[g] = if x[i][g] > high[g] { x[i][g] } else { high[g] };
            sum_w[g] += w[i][g];
            sum_x[g] += w[i][g] * x[i][g];
        }
    }
    let low = low.map(|low| if low > 0.0 { 0.0 } else { low });
    let top = f32::from(grid.top);

    let (mut scale, mut min) = ([0f32; LANES], low);
    let mut levels = [[0f32; LANES]; N];
    for g in 0..LANES {
        let inverse = top / (high[g] - low[g]);
        scale[g] = 1.0 / inverse;
        for i in 0..N {
            levels[i][g] = level(inverse * (x[i][g] - low[g]), 0.0, top);
        }
    }
    let mut best = losses(&x, &w, &levels, &scale, &min, grid.loss);
    let mut tried = [[0f32; LANES]; N];
    for step in 0..=grid.steps {
        let mut inverse = [0f32; LANES];
        for g in 0..LANES {
            inverse[g] = (grid.first + 0.1 * f32::from(step) + top) / (high[g] - min[g]);
        }
        let (mut sum_l, mut sum_ll, mut sum_xl) = ([0f32; LANES], [0f32; LANES], [0f32; LANES]);
        for i in 0..N {
            for g in 0..LANES {
                let level = level(inverse[g] * (x[i][g] - min[g]), 0.0, top);
                tried[i][g] = level;
                sum_l[g] += w[i][g] * level;
                sum_ll[g] += w[i][g] * level * level;
                sum_xl[g] += w[i][g] * level * x[i][g];
            }
        }
        let (mut solvable, mut tried_scale, mut tried_min) = ([false; LANES], [0f32; LANES], [0f32; LANES]);
        for g in 0..LANES {
            let sums = Sums { w: sum_w[g], x: sum_x[g], l: sum_l[g], ll: sum_ll[g], xl: sum_xl[g] };
            (solvable[g], tried_scale[g], tried_min[g]) = sums.solve();
        }
        let loss = losses(&x, &w, &tried, &tried_scale, &tried_min, grid.loss);
        let better: [bool; LANES] = std::array::from_fn(|g| solvable[g] && loss[g] < best[g]);
        for g in (0..LANES).filter(|g| better[*g]) {
            (best[g], scale[g], min[g]) = (loss[g], tried_scale[g], tried_min[g]);
            for i in 0..N {
                levels[i][g] = tried[i][g];
            }
        }
    }
    // Groups of one value (or only zeros) have no scale, and what was computed in their lanes means nothing.
    let flat: [bool; LANES] = std::array::from_fn(|g| high[g] == low[g]);
    Affine {
        scale: std::array::from_fn(|g| if flat[g] { 0.0 } else { scale[g] }),
        min: std::array::from_fn(|g| if flat[g] { -low[g] } else { -min[g] }),
        levels: std::array::from_fn(|g| {
            std::array::from_fn(|i| if flat[g] { 0 } else { levels[i][g] as u8 })
        }),
    }
}

/// Weighted sums over a group: of the weights, of values and levels, and of products of these.
struct Sums {
    w: f32,
    x: f32,
    l: f32,
    ll: f32,
    xl: f32,
}

impl Sums {
    /// Whether there is a least-squares solution of `x = scale * level + min`, and scale and minimum; with a minimum of 0
    /// where it would be positive.
    fn solve(&self) -> (bool, f32, f32) {
        let determinant = self.w * self.ll - self.l * self.l;
        let min = (self.ll * self.x - self.l * self.xl) / determinant;
        if min > 0.0 {
            (determinant > 0.0, self.xl / self.ll, 0.0)
        } else {
            (determinant > 0.0, (self.w * self.xl - self.x * self.l) / determinant, min)
        }
    }
}

/// Weighted losses of representing `x` as `scale * level + min`.
fn losses<const N: usize>(
    x: &[Lanes; N],
    w: &[Lanes; N],
    levels: &[Lanes; N],
    scale: &Lanes,
    min: &Lanes,
    loss: Loss,
) -> Lanes {
    let mut sum = [0f32; LANES];
    for i in 0..N {
        for g in 0..LANES {
            let difference = scale[g] * levels[i][g] + min[g] - x[i][g];
            sum[g] += w[i][g]
                * match loss {
                    Loss::Absolute => difference.abs(),
                    Loss::Squared => difference * difference,
                };
        }
    }
    sum
}
