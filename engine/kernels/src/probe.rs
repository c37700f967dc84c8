//! What this machine can do at best: read bandwidth and arithmetic peaks, measured in a fraction of a second.
//!
//! Kernel speeds are reported as shares of these figures, so a slow or shared machine does not look like a slow kernel.
//! Each probe repeats a short round and returns the best one: other processes only ever make a round slower. The peaks use
//! the instructions of [`Isa::detect`], because only a peak that the kernels could reach is a fair yardstick; the `_with`
//! forms take the instruction set.

#[cfg(target_arch = "x86_64")]
mod x86;

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::arena::AlignedBuf;
use crate::shared_mut::SharedMut;
use crate::{Isa, ThreadPool};

/// Time for the rounds of one probe.
const BUDGET: Duration = Duration::from_millis(150);

/// Far larger than the last-level cache this machine's threads can hold on to.
const BANDWIDTH_BYTES: usize = 256 << 20;

/// A round reads this much of it, the next round the next part: short enough to end between two interruptions.
const ROUND_BYTES: usize = 16 << 20;

/// Multiply-add instructions per accumulator in one round of a peak: below a millisecond.
const REPEATS: usize = 100_000;

/// Bytes per second that `threads` threads read from memory together, each streaming through its own part of 256 MiB.
///
/// Panics when the system has no 256 MiB.
pub fn read_bandwidth(threads: usize) -> f64 {
    let pool = ThreadPool::new(threads);
    let mut reader = Reader::new(&pool);
    ROUND_BYTES as f64 / best_round_s(&mut || reader.round(&pool))
}

/// Reads memory a round at a time, to take the bandwidth of the very moment between other measurements.
pub struct Reader {
    buffer: AlignedBuf<u64>,
    isa: Isa,
    next: usize,
}

impl Reader {
    /// Bytes that all workers read together in a round.
    pub const ROUND_BYTES: usize = ROUND_BYTES;

    /// Panics when the system has no 256 MiB.
    pub fn new(pool: &ThreadPool) -> Self {
        let mut buffer =
            AlignedBuf::<u64>::zeroed(BANDWIDTH_BYTES / 8).expect("256 MiB for the bandwidth probe");
        let part = buffer.len() / pool.threads();
        // Untouched pages all map to one page of zeros, which would be read from cache.
        let shared = SharedMut::new(&mut buffer[..]);
        pool.run(&|worker| {
            // SAFETY: the parts of different workers do not overlap.
            unsafe { shared.slice(worker * part, part) }.fill(worker as u64 + 1);
        });
        Reader { buffer, isa: Isa::best(), next: 0 }
    }

    /// Reads the next [`Reader::ROUND_BYTES`], with the pool the reader was made with.
    pub fn round(&mut self, pool: &ThreadPool) {
        let part = self.buffer.len() / pool.threads();
        let piece = ROUND_BYTES / size_of::<u64>() / pool.threads();
        let at = self.next % (part / piece) * piece;
        self.next += 1;
        pool.run(&|worker| read(self.isa, &self.buffer[worker * part + at..][..piece]));
    }
}

/// Operations per second of `threads` threads that only multiply-add in f32 (two operations each).
pub fn f32_flops(threads: usize) -> f64 {
    f32_flops_with(threads, Isa::detect())
}

/// As [`f32_flops`] for bf16 products added in f32. Without such an instruction, bf16 is widened and this is the f32 peak.
pub fn bf16_flops(threads: usize) -> f64 {
    bf16_flops_with(threads, Isa::detect())
}

/// As [`f32_flops`] for products of bytes added in 32-bit integers.
pub fn int8_ops(threads: usize) -> f64 {
    int8_ops_with(threads, Isa::detect())
}

/// As [`f32_flops`] for a chosen instruction set. Panics when this CPU lacks it.
pub fn f32_flops_with(threads: usize, isa: Isa) -> f64 {
    peak(threads, isa, &|| match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `peak` refuses an instruction set this CPU lacks.
        Isa::Avx512 => unsafe { x86::f32_avx512(REPEATS) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { x86::f32_avx2(REPEATS) },
        _ => f32_portable(),
    })
}

/// As [`bf16_flops`] for a chosen instruction set. Panics when this CPU lacks it.
pub fn bf16_flops_with(threads: usize, isa: Isa) -> f64 {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => peak(threads, isa, &|| {
            // SAFETY: `peak` refuses an instruction set this CPU lacks.
            unsafe { x86::bf16_avx512(REPEATS) }
        }),
        _ => f32_flops_with(threads, isa),
    }
}

/// As [`int8_ops`] for a chosen instruction set. Panics when this CPU lacks it.
pub fn int8_ops_with(threads: usize, isa: Isa) -> f64 {
    peak(threads, isa, &|| match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `peak` refuses an instruction set this CPU lacks.
        Isa::Avx512 => unsafe { x86::int8_avx512(REPEATS) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { x86::int8_avx2(REPEATS) },
        _ => int8_portable(),
    })
}

/// Operations per second when every thread runs `round`, which returns how many operations it did.
fn peak(threads: usize, isa: Isa, round: &(dyn Fn() -> usize + Sync)) -> f64 {
    assert!(isa.is_available(), "this CPU cannot run {isa}");
    let pool = ThreadPool::new(threads);
    let operations = round() * pool.threads();
    let mut run = || {
        pool.run(&|_| {
            round();
        });
    };
    operations as f64 / best_round_s(&mut run)
}

#[allow(clippy::disallowed_methods, reason = "a probe measures time")]
fn best_round_s(round: &mut dyn FnMut()) -> f64 {
    let start = Instant::now();
    let mut best = Duration::MAX;
    while best == Duration::MAX || start.elapsed() < BUDGET {
        let begin = Instant::now();
        round();
        best = best.min(begin.elapsed());
    }
    best.as_secs_f64().max(1e-9)
}

fn read(isa: Isa, part: &[u64]) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Isa::best` is available.
        Isa::Avx512 => drop(black_box(unsafe { x86::read_avx512(part) })),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => drop(black_box(unsafe { x86::read_avx2(part) })),
        _ => drop(black_box(part.iter().fold(0u64, |a, b| a ^ b))),
    }
}

fn f32_portable() -> usize {
    let mut acc = [1.0f32; 64];
    let (x, y) = (black_box(0.999f32), black_box(0.001f32));
    for _ in 0..REPEATS {
        for value in &mut acc {
            *value = *value * x + y;
        }
    }
    black_box(acc);
    REPEATS * acc.len() * 2
}

/// Pairs of 16-bit products, the widest integer multiply-add that every vector unit has.
fn int8_portable() -> usize {
    let mut acc = [1i32; 32];
    let x = black_box([3i16; 64]);
    let w = [5i16; 64];
    for _ in 0..REPEATS {
        // The weights count as new each time, or their products would be computed once.
        let w = black_box(&w);
        for i in 0..32 {
            let product = |j: usize| i32::from(x[j]) * i32::from(w[j]);
            acc[i] = acc[i].wrapping_add(product(2 * i) + product(2 * i + 1));
        }
    }
    black_box(acc);
    REPEATS * w.len() * 2
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No speed is asserted: only that every probe runs on every instruction set and gives a usable number.
    #[test]
    fn probes_give_positive_finite_figures() {
        for isa in Isa::available() {
            for probe in [f32_flops_with, bf16_flops_with, int8_ops_with] {
                let figure = probe(1, isa);
                assert!(figure.is_finite() && figure > 1e6, "{isa}: {figure}");
            }
        }
        let bandwidth = read_bandwidth(2);
        assert!(bandwidth.is_finite() && bandwidth > 1e6, "{bandwidth}");
    }
}
