//! Reductions over 16 lanes in one fixed order: halves are combined pairwise. Written with whole arrays so that the
//! compiler keeps them in vector registers.

use std::array::from_fn;

#[inline(always)]
pub(crate) fn sum(lanes: [f32; 16]) -> f32 {
    reduce(lanes, |a, b| a + b)
}

/// The largest lane. A NaN may or may not come out; callers that care look at what they do with the maximum.
#[inline(always)]
pub(crate) fn max(lanes: [f32; 16]) -> f32 {
    reduce(lanes, larger)
}

/// One instruction where `f32::max`, which promises to skip a NaN, takes three.
#[inline(always)]
pub(crate) fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

#[inline(always)]
fn reduce(lanes: [f32; 16], combine: impl Fn(f32, f32) -> f32) -> f32 {
    let eight: [f32; 8] = from_fn(|i| combine(lanes[i], lanes[i + 8]));
    let four: [f32; 4] = from_fn(|i| combine(eight[i], eight[i + 4]));
    combine(combine(four[0], four[2]), combine(four[1], four[3]))
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_lane_counts_once() {
        for lane in 0..16 {
            let mut lanes = [0.0; 16];
            lanes[lane] = 3.0;
            assert_eq!(super::sum(lanes), 3.0);
            assert_eq!(super::max(lanes), 3.0);
        }
    }
}
