//! What a simulation keeps in memory depends on how much is in flight, not on how much is over.

mod common;

use std::io;
use std::time::Duration;

use common::{Fixed, fixed, scheduler, vllm};
use llmlab_core::engine::Engine;
use llmlab_loadgen::{Arrivals, Silent, Timeouts};
use llmlab_results::record::{RecordSink, RequestRecord};
use llmlab_sim::{Options, RooflineExecutor, simulate};
use peak_alloc::PeakAlloc;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

#[derive(Default)]
struct Count(u64);

impl RecordSink for Count {
    fn record(&mut self, _: &RequestRecord) -> io::Result<()> {
        self.0 += 1;
        Ok(())
    }
}

/// Bytes on top of what the workload and the empty engine take, at the highest.
fn peak_bytes(requests: u64) -> usize {
    let load = fixed(requests, Arrivals::Constant { rate_rps: 100.0 }, 50, 20);
    let executor = RooflineExecutor::new(Box::new(Fixed(Duration::from_millis(10))), 1, 500);
    let mut engine = Engine::new(scheduler(&vllm(256, 2000)), executor);
    let patience = Duration::from_secs(2);
    let timeouts =
        Timeouts { connect: patience, first_token: patience, inter_token: patience, total: patience };
    let mut sink = Count::default();
    let before = HEAP.current_usage();
    HEAP.reset_peak_usage();
    simulate(&load, &mut engine, Options::new(timeouts), &mut sink, &Silent, &|| false).unwrap();
    assert_eq!(sink.0, requests);
    HEAP.peak_usage() - before
}

#[test]
fn memory_does_not_grow_with_finished_requests() {
    // The first thousands fill the prefix cache.
    let (few, many) = (peak_bytes(10_000), peak_bytes(100_000));
    assert!(few > 10_000, "{few} bytes are too few to mean anything");
    assert!(many < few + few / 20, "{few} bytes with 10,000 requests, {many} with 100,000");
}
