//! What the client cost and how late its event loop ran: the evidence for the trust verdict.

use std::time::Duration;

use llmlab_results::manifest::ClientFacts;
use rustix::time::{ClockId, clock_gettime};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::pacing::Pacer;
use crate::tally::ns;

const HEARTBEAT: Duration = Duration::from_millis(10);
/// Beats of one stall that are noted at most: 1000 s worth, so that a suspended laptop does not fill the memory.
const MAX_SWALLOWED_BEATS: usize = 100_000;

/// Counters at the start of a trial; facts are differences to it.
#[derive(Debug)]
pub(crate) struct Baseline {
    cpu_ns: u64,
    steal_ns: u64,
}

impl Baseline {
    pub(crate) fn take() -> Self {
        Baseline { cpu_ns: process_cpu_ns(), steal_ns: steal_ns() }
    }

    /// `delays_ns`: how late each heartbeat was.
    pub(crate) fn facts(&self, mut delays_ns: Vec<u64>) -> ClientFacts {
        delays_ns.sort_unstable();
        let rank = (delays_ns.len() * 99).div_ceil(100).saturating_sub(1);
        ClientFacts {
            cpu_ns: process_cpu_ns().saturating_sub(self.cpu_ns),
            steal_ns: steal_ns().saturating_sub(self.steal_ns),
            loop_delay_p99_ns: delays_ns.get(rank).copied().unwrap_or(0),
            loop_delay_max_ns: delays_ns.last().copied().unwrap_or(0),
            peak_rss_bytes: peak_rss_bytes(),
        }
    }
}

/// Watches a client that is not this crate's own: what it costs, and how late the event loop runs that it shares.
#[derive(Debug)]
pub struct ClientWatch {
    baseline: Baseline,
    done: CancellationToken,
    beats: JoinHandle<Vec<u64>>,
}

impl ClientWatch {
    /// Must be called inside a tokio runtime.
    pub fn start(clock: Clock) -> std::io::Result<Self> {
        let done = CancellationToken::new();
        let beats = heartbeat(clock, done.clone())?;
        Ok(ClientWatch { baseline: Baseline::take(), done, beats })
    }

    pub async fn finish(self) -> ClientFacts {
        self.done.cancel();
        self.baseline.facts(self.beats.await.unwrap_or_default())
    }
}

/// A task that wants to wake every 10 ms and notes how late it was. Ends with the token, giving its notes.
pub(crate) fn heartbeat(clock: Clock, stop: CancellationToken) -> std::io::Result<JoinHandle<Vec<u64>>> {
    let mut pacer = Pacer::new(clock)?;
    Ok(tokio::spawn(async move {
        let mut delays_ns = Vec::new();
        let mut wanted = clock.now() + HEARTBEAT;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => {
                    // A stall may reach to the very end.
                    note_beats(&mut delays_ns, clock.now().saturating_sub(wanted));
                    return delays_ns;
                }
                () = pacer.doze(wanted) => {}
            }
            let now = clock.now();
            // Due and on time to the nanosecond is still a beat; without one, percentiles would be over late beats only.
            if now <= wanted {
                delays_ns.push(0);
            }
            note_beats(&mut delays_ns, now.saturating_sub(wanted));
            wanted = now + HEARTBEAT;
        }
    }))
}

/// Notes a beat that was `delay` late and the beats that it kept from happening: one was due every 10 ms meanwhile,
/// and each would have been late by what was left of the stall. Without them a stall of any length is one sample in
/// thousands and no percentile sees it (the correction HdrHistogram makes for coordinated omission).
fn note_beats(delays_ns: &mut Vec<u64>, delay: Duration) {
    let late = std::iter::successors(Some(delay), |left| left.checked_sub(HEARTBEAT));
    delays_ns.extend(late.take_while(|left| !left.is_zero()).take(MAX_SWALLOWED_BEATS).map(ns));
}

/// All threads of this process, not its children.
fn process_cpu_ns() -> u64 {
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    cpu.tv_sec as u64 * 1_000_000_000 + cpu.tv_nsec as u64
}

/// Zero where the system does not say.
fn steal_ns() -> u64 {
    let ticks = std::fs::read_to_string("/proc/stat").ok().and_then(|text| steal_ticks(&text)).unwrap_or(0);
    ticks * (1_000_000_000 / rustix::param::clock_ticks_per_second().max(1))
}

/// The eighth number of the `cpu` line (proc_stat(5): user nice system idle iowait irq softirq steal ...).
fn steal_ticks(proc_stat: &str) -> Option<u64> {
    proc_stat.lines().find_map(|line| line.strip_prefix("cpu "))?.split_whitespace().nth(7)?.parse().ok()
}

fn peak_rss_bytes() -> u64 {
    std::fs::read_to_string("/proc/self/status").ok().and_then(|text| vm_hwm_bytes(&text)).unwrap_or(0)
}

fn vm_hwm_bytes(status: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    value.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_right_columns() {
        let stat = "cpu  10 20 30 40 50 60 70 80 90 100\ncpu0 1 2 3 4 5 6 7 8 9 10\n";
        assert_eq!(steal_ticks(stat), Some(80));
        assert_eq!(steal_ticks("cpu 1 2 3"), None);
        assert_eq!(vm_hwm_bytes("Name:\tx\nVmHWM:\t    2048 kB\n"), Some(2048 * 1024));
        assert_eq!(vm_hwm_bytes("VmHWM: much\n"), None);
    }

    #[test]
    fn percentile_is_the_nearest_rank() {
        let base = Baseline { cpu_ns: 0, steal_ns: 0 };
        let facts = base.facts((1..=200).rev().collect());
        assert_eq!((facts.loop_delay_p99_ns, facts.loop_delay_max_ns), (198, 200));
        let none = base.facts(Vec::new());
        assert_eq!((none.loop_delay_p99_ns, none.loop_delay_max_ns), (0, 0));
    }

    #[test]
    fn a_stall_weighs_as_long_as_it_lasted() {
        let ms = Duration::from_millis;
        let mut delays_ns = vec![0; 95];
        note_beats(&mut delays_ns, ms(45));
        assert_eq!(delays_ns[95..], [45, 35, 25, 15, 5].map(|left| ns(ms(left))));
        // A stall of 5 % of the time reaches the 99th percentile.
        let facts = Baseline { cpu_ns: 0, steal_ns: 0 }.facts(delays_ns);
        assert_eq!((facts.loop_delay_p99_ns, facts.loop_delay_max_ns), (ns(ms(35)), ns(ms(45))));
        let mut endless = Vec::new();
        note_beats(&mut endless, Duration::MAX);
        assert_eq!(endless.len(), MAX_SWALLOWED_BEATS);
    }

    #[test]
    fn a_blocked_loop_misses_many_beats() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let delays_ns = runtime.block_on(async {
            let stop = CancellationToken::new();
            let beats = heartbeat(Clock::start(), stop.clone()).unwrap();
            tokio::task::yield_now().await;
            std::thread::sleep(Duration::from_millis(200));
            stop.cancel();
            beats.await.unwrap()
        });
        // The first beat was due after 10 ms: it and the nine after it were at least 100 ms late.
        let very_late = delays_ns.iter().filter(|d| **d >= 100_000_000).count();
        assert!(very_late >= 10, "{very_late} of {delays_ns:?}");
    }

    #[test]
    fn this_process_has_used_time_and_memory() {
        assert!(process_cpu_ns() > 0);
        assert!(peak_rss_bytes() > 0);
    }
}
