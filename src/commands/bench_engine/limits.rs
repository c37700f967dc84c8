//! What the machine can do, measured around the work it is compared with, on as many threads.

use llmlab_kernels::probe;
use llmlab_results::manifest::HostRoofline;

const PEAK_PROBES: usize = 3;

/// Read bandwidth probes around a series of measurements: one before the first, one after each.
#[derive(Debug)]
pub struct Bandwidth {
    threads: usize,
    last: f64,
}

impl Bandwidth {
    pub fn new(threads: usize) -> Bandwidth {
        Bandwidth { threads, last: probe::read_bandwidth(threads) }
    }

    /// Bytes per second before and after `work`. Shared machines change between states that differ by a factor of two, so a
    /// figure from the start of the run would say little about its end.
    pub fn around<T, E>(&mut self, work: impl FnOnce() -> Result<T, E>) -> Result<(T, (f64, f64)), E> {
        let before = self.last;
        let done = work()?;
        self.last = probe::read_bandwidth(self.threads);
        Ok((done, (before, self.last)))
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
