//! The searches behind the block quantizers: which scale (and minimum) represents a group of values best.
//!
//! Formulas and search grids are those of ggml-quants.c (`make_qx_quants`, `make_q3_quants`, `make_qkx2_quants`). Sums run
//! in index order and every product is rounded before it is added, otherwise ties would be decided differently than there.

/// A group whose largest magnitude is below this is stored as zeros.
pub(super) const NOTHING: f32 = 1e-15;

/// The nearest integer, ties to even, of a number below 2^22 in magnitude: 1.5 * 2^23 leaves no fraction bits in the sum.
/// Larger numbers give an arbitrary integer, which every caller clamps.
pub(super) fn nearest(x: f32) -> i32 {
    ((x + 12_582_912.0).to_bits() & 0x007f_ffff) as i32 - 0x0040_0000
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

/// The scale of `x = scale * level` with levels in `-half..half`, and those levels plus `half`; of nineteen roundings around
/// the one that puts the extreme value on `-half`, the one with the smallest error weighted by `x^2`.
pub(super) fn symmetric<const N: usize>(x: &[f32; N], half: i32) -> (f32, [i8; N]) {
    let extreme = extreme(x);
    if extreme.abs() < NOTHING {
        return (0.0, [0; N]);
    }
    let (mut best_levels, lx, ll) = symmetric_fit(x, half, -(half as f32) / extreme);
    let mut scale = if ll != 0.0 { lx / ll } else { 0.0 };
    let mut best = scale * lx;
    for step in (-9..=9).filter(|step| *step != 0) {
        let inverse = -(half as f32 + 0.1 * step as f32) / extreme;
        let (levels, lx, ll) = symmetric_fit(x, half, inverse);
        if ll > 0.0 && lx * lx > best * ll {
            best_levels = levels;
            scale = lx / ll;
            best = scale * lx;
        }
    }
    (scale, best_levels.map(|level| level + half as i8))
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

/// A group as `x = scale * level - min`, `min >= 0`.
pub(super) struct Affine<const N: usize> {
    pub scale: f32,
    pub min: f32,
    pub levels: [u8; N],
}

/// Starts from the range of the values (extended to include 0) and, for each inverse scale of the grid, solves the weighted
/// least squares for scale and minimum given the rounding it causes; keeps whichever has the smallest weighted loss. The
/// grid is laid from the best minimum so far.
pub(super) fn affine<const N: usize>(x: &[f32; N], weights: &[f32; N], grid: Grid) -> Affine<N> {
    let (low, max) = range(x);
    let (mut sum_w, mut sum_x) = (weights[0], weights[0] * x[0]);
    for (w, v) in weights[1..].iter().zip(&x[1..]) {
        sum_w += w;
        sum_x += w * v;
    }
    let low = if low > 0.0 { 0.0 } else { low };
    if max == low {
        return Affine { scale: 0.0, min: -low, levels: [0; N] };
    }
    let top = i32::from(grid.top);
    let round = |inverse: f32, min: f32| x.map(|v| nearest(inverse * (v - min)).clamp(0, top) as u8);
    let loss = |scale: f32, min: f32, levels: &[u8; N]| {
        let mut sum = 0f32;
        for ((&v, &w), &level) in x.iter().zip(weights).zip(levels) {
            let difference = scale * f32::from(level) + min - v;
            sum += w * match grid.loss {
                Loss::Absolute => difference.abs(),
                Loss::Squared => difference * difference,
            };
        }
        sum
    };
    let inverse = top as f32 / (max - low);
    let (mut scale, mut min) = (1.0 / inverse, low);
    let mut levels = round(inverse, min);
    let mut best = loss(scale, min, &levels);
    for step in 0..=grid.steps {
        let tried = round((grid.first + 0.1 * f32::from(step) + top as f32) / (max - min), min);
        let (mut sum_l, mut sum_ll, mut sum_xl) = (0f32, 0f32, 0f32);
        for ((&v, &w), &level) in x.iter().zip(weights).zip(&tried) {
            let level = f32::from(level);
            sum_l += w * level;
            sum_ll += w * level * level;
            sum_xl += w * level * v;
        }
        let determinant = sum_w * sum_ll - sum_l * sum_l;
        if determinant <= 0.0 || determinant.is_nan() {
            continue;
        }
        let mut tried_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
        let mut tried_min = (sum_ll * sum_x - sum_l * sum_xl) / determinant;
        if tried_min > 0.0 {
            tried_min = 0.0;
            tried_scale = sum_xl / sum_ll;
        }
        let tried_loss = loss(tried_scale, tried_min, &tried);
        if tried_loss < best {
            (best, scale, min, levels) = (tried_loss, tried_scale, tried_min, tried);
        }
    }
    Affine { scale, min: -min, levels }
}
