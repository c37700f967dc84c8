//! What the machine can do, measured around the work it is compared with, on as many threads.

use std::time::Instant;

use llmlab_kernels::{KernelError, ThreadPool, probe};
use llmlab_results::manifest::HostRoofline;

const PEAK_PROBES: usize = 3;

/// Reads per probe; the first wakes the threads and does not count.
const ROUNDS: u32 = 3;

/// The read bandwidth of the moment. Shared machines change between states that differ by a factor of two, many times a
/// second, so work is set beside probes of a millisecond taken in the middle of it, on the threads that do it.
pub struct Bandwidth {
    reader: probe::Reader,
    /// Bytes per second at the last probe.
    last: f64,
    /// Lowest and highest probe since [`Bandwidth::start`].
    range: (f64, f64),
}

impl Bandwidth {
    /// Error: the system refused a thread.
    pub fn new(threads: usize) -> Result<Bandwidth, KernelError> {
        let reader = probe::Reader::new(&ThreadPool::try_new(threads)?);
        Ok(Bandwidth { reader, last: 0.0, range: (f64::INFINITY, 0.0) })
    }

    /// Probes before the work starts, on a pool of as many threads as stated before.
    pub fn start(&mut self, pool: &ThreadPool) {
        self.range = (f64::INFINITY, 0.0);
        self.last = self.probe(pool);
    }

    /// Bytes per second, the higher of now and of the probe before: what holds up a probe, a lost core for example, would
    /// otherwise flatter the work beside it.
    pub fn since_last(&mut self, pool: &ThreadPool) -> f64 {
        let now = self.probe(pool);
        std::mem::replace(&mut self.last, now).max(now)
    }

    /// Lowest and highest probe since the start, bytes per second.
    pub fn range(&self) -> (f64, f64) {
        self.range
    }

    #[allow(clippy::disallowed_methods, reason = "a probe measures time")]
    fn probe(&mut self, pool: &ThreadPool) -> f64 {
        self.reader.round(pool);
        let start = Instant::now();
        (1..ROUNDS).for_each(|_| self.reader.round(pool));
        let bytes = probe::Reader::ROUND_BYTES as f64 * f64::from(ROUNDS - 1);
        let bandwidth = bytes / start.elapsed().as_secs_f64().max(1e-9);
        self.range = (self.range.0.min(bandwidth), self.range.1.max(bandwidth));
        bandwidth
    }
}

/// The arithmetic peaks, the best of a few probes each: a neighbour on the machine only ever makes one lower. The bandwidth
/// of the record is left at 0, because [`Bandwidth`] measures that per row.
pub fn peaks(threads: usize) -> HostRoofline {
    let best = |probe: fn(usize) -> f64| (0..PEAK_PROBES).map(|_| probe(threads)).fold(0.0, f64::max);
    HostRoofline {
        threads: threads as u32,
        read_bandwidth_bytes_per_s: 0.0,
        f32_flops_per_s: best(probe::f32_flops),
        bf16_flops_per_s: best(probe::bf16_flops),
        int8_ops_per_s: best(probe::int8_ops),
        measured_at: crate::host::rfc3339(crate::host::utc_now()),
    }
}
