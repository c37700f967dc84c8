//! Progress where there is no terminal: one line, no escape sequences, no newline.

use crate::snapshot::Snapshot;
use crate::text::{clean, clock, ms, percent, short};

/// For example
/// `[ 62%] vllm: measuring, repeat 2 of 3 | 120/300 done, 0 failed, 12 in flight | TTFT 45/210 ms | 3200 tok/s | 0:25 left`.
/// Latencies are p50/p99.
pub fn line(snapshot: &Snapshot) -> String {
    let mut parts = vec![format!("[{:>4}] {}", percent(snapshot.progress), clean(&snapshot.activity))];
    if let Some(target) = snapshot.targets.get(snapshot.current) {
        let (done, total) = (target.requests_done, target.requests_total);
        let (failed, in_flight) = (target.requests_failed, target.in_flight);
        if total > 0 {
            parts.push(format!("{done}/{total} done, {failed} failed, {in_flight} in flight"));
        }
        for (name, latency) in [("TTFT", &target.ttft), ("TPOT", &target.tpot)] {
            if latency.count > 0 {
                parts.push(format!("{name} {}/{} ms", ms(latency.p50_ms), ms(latency.p99_ms)));
            }
        }
        if target.output_tokens_per_s > 0.0 {
            parts.push(format!("{} tok/s", short(target.output_tokens_per_s)));
        }
    }
    match snapshot.eta_s {
        _ if snapshot.finished => parts.push(format!("finished in {}", clock(snapshot.elapsed_s))),
        Some(left) => parts.push(format!("{} left", clock(left))),
        None => {}
    }
    parts.join(" | ")
}
