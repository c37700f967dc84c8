//! Processor time and memory from /proc: of the host, and of a process with all it started.

use llmlab_results::machine_sample::{HostCpu, ProcessTree};

/// A server has dozens; a tree beyond this is cut, not followed for ever.
const MAX_PROCESSES: usize = 4096;

/// `None` where there is no /proc.
pub fn host_cpu() -> Option<HostCpu> {
    host_line(&std::fs::read_to_string("/proc/stat").ok()?)
}

/// proc_stat(5): user nice system idle iowait irq softirq steal; guest time is part of user time.
fn host_line(stat: &str) -> Option<HostCpu> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line.split_whitespace().take(8).map_while(|word| word.parse().ok()).collect();
    let [user, nice, system, idle, wait, interrupts, soft_interrupts, steal] = ticks.try_into().ok()?;
    let busy = [user, nice, system, interrupts, soft_interrupts].into_iter().fold(0, u64::saturating_add);
    Some(HostCpu { busy_ns: ns(busy), idle_ns: ns(idle.saturating_add(wait)), steal_ns: ns(steal) })
}

/// The process and all below it; `None` when it is gone.
pub fn tree(root: u32) -> Option<ProcessTree> {
    let mut found = vec![root];
    let mut total = ProcessTree::default();
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        next += 1;
        // One that ended meanwhile counts in its parent's time from the next look on.
        let Some(process) = process(pid) else { continue };
        total.processes += 1;
        total.cpu_ns = total.cpu_ns.saturating_add(process.cpu_ns);
        total.rss_bytes = total.rss_bytes.saturating_add(process.rss_bytes);
        found.extend(children(pid));
        found.truncate(MAX_PROCESSES);
    }
    (total.processes > 0).then_some(total)
}

fn process(pid: u32) -> Option<ProcessTree> {
    process_line(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// proc_pid_stat(5). The second field is the name, in brackets, and may hold anything.
fn process_line(stat: &str) -> Option<ProcessTree> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // `rest` starts with field 3.
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let ticks = [14, 15, 16, 17].map(number).into_iter().sum::<Option<u64>>()?;
    let rss_bytes = number(24)?.saturating_mul(rustix::param::page_size() as u64);
    Some(ProcessTree { processes: 1, cpu_ns: ns(ticks), rss_bytes })
}

fn children(pid: u32) -> Vec<u32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|line| line.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>())
        .collect()
}

fn ns(ticks: u64) -> u64 {
    ticks.saturating_mul(1_000_000_000 / rustix::param::clock_ticks_per_second().max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_right_columns() {
        let tick = ns(1);
        let host = host_line("cpu  1 2 3 40 5 6 7 80 90 100\ncpu0 1 1 1 1 1 1 1 1 1 1\n").unwrap();
        assert_eq!((host.busy_ns, host.idle_ns, host.steal_ns), (19 * tick, 45 * tick, 80 * tick));
        assert_eq!(host_line("cpu  1 2 3"), None);
        let line = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 1 0 99 1000 5 0";
        let process = process_line(line).unwrap();
        let page = rustix::param::page_size() as u64;
        assert_eq!((process.cpu_ns, process.rss_bytes), (100 * tick, 5 * page));
        assert_eq!(process_line("7 (x) S 1"), None);
    }

    #[test]
    fn a_tree_holds_its_children() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let own = tree(std::process::id()).unwrap();
        let alone = tree(child.id()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(own.processes >= 2 && alone.processes == 1, "{own:?} {alone:?}");
        assert!(own.rss_bytes > 0);
        assert_eq!(tree(child.id()), None, "gone");
    }
}
