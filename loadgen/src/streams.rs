//! Seeded random streams: one per purpose and request. Changing the arrival process therefore leaves every prompt as
//! it was, and request `i` is the same request whether 10 or 10 000 are generated.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// What the numbers of a stream decide. The discriminants are part of the workload format: changing one reshuffles it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Purpose {
    Lengths = 1,
    Arrivals = 2,
    Prompt = 3,
    SharedPrefix = 4,
    PrefixChoice = 5,
    Adapter = 6,
    ArrivalState = 20,
    Client = 21,
    ClientGap = 22,
    Jitter = 23,
    Turns = 7,
    ThinkTime = 8,
    /// What stands for an answer that is not known.
    StandIn = 9,
    Abandon = 10,
    TreeWalk = 11,
    TreeBlock = 12,
}

pub(crate) fn stream(seed: u64, purpose: Purpose, index: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(((purpose as u64) << 56) | (index & ((1 << 56) - 1)));
    rng
}

/// Uniform in `0..n` by multiply-and-shift. Written out because a library may change its method between versions, and
/// the prompts must stay the same; the bias (below n / 2^32) is of no interest here.
pub(crate) fn below(rng: &mut ChaCha8Rng, n: u32) -> u32 {
    ((u64::from(rng.next_u32()) * u64::from(n)) >> 32) as u32
}

/// Uniform in [0, 1) with 53 random bits.
pub(crate) fn unit(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}
