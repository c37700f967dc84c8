//! `llmlab doctor`: is this machine fit to measure on, and what to do about each finding.

mod client;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use llmlab_kernels::Isa;
use serde::Serialize;

use crate::cli::DoctorArgs;
use crate::exit::{Code, Failure};
use crate::host;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Level {
    Good,
    /// Results are usable; something would make them better.
    Note,
    /// Results on this machine need care.
    Warn,
}

#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    level: Level,
    found: String,
    /// What to do; empty when nothing is wrong.
    advice: String,
}

fn finding(what: &'static str, level: Level, found: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding { what, level, found: found.into(), advice: advice.into() }
}

pub fn doctor(args: DoctorArgs) -> Result<Code, Failure> {
    if args.client {
        return client::check(&args);
    }
    let findings =
        [cores(), simd(), bandwidth(), clock(), file_limit(), loopback(), steal(), huge_pages(), memory()];
    if args.json {
        println!("{}", serde_json::to_string_pretty(&findings).map_err(Failure::internal)?);
        return Ok(Code::Pass);
    }
    println!("{} · {}\n", host::facts(None).cpu_model, host::facts(None).os);
    for f in &findings {
        let mark = match f.level {
            Level::Good => "ok  ",
            Level::Note => "note",
            Level::Warn => "WARN",
        };
        println!("{mark}  {:<16} {}", f.what, f.found);
        if !f.advice.is_empty() {
            println!("      {:<16} -> {}", "", f.advice);
        }
    }
    let warnings = findings.iter().filter(|f| f.level == Level::Warn).count();
    println!();
    match warnings {
        0 => println!("fit to measure on"),
        n => println!("{n} warning(s): numbers from this machine need care"),
    }
    Ok(Code::Pass)
}

fn cores() -> Finding {
    let n = host::cores();
    let found = format!(
        "{n} (the engine takes {} by default, the rest is for HTTP and the load)",
        host::default_threads()
    );
    match n {
        1 => finding(
            "cores",
            Level::Warn,
            found,
            "load and server share one core; drive a server on another machine",
        ),
        2 | 3 => finding("cores", Level::Note, found, "small models only; compare as ratios, interleaved"),
        _ => finding("cores", Level::Good, found, ""),
    }
}

fn simd() -> Finding {
    let best = Isa::detect();
    match best {
        Isa::Avx512 => finding("simd", Level::Good, "AVX-512 with VNNI and BF16", ""),
        Isa::Avx2 => finding(
            "simd",
            Level::Note,
            "AVX2",
            "quantized kernels run at about half the speed of AVX-512 VNNI",
        ),
        Isa::Portable => {
            finding("simd", Level::Warn, "none used", "the portable kernels are correct, not fast")
        }
    }
}

fn bandwidth() -> Finding {
    let roofline = host::measure_roofline(host::default_threads());
    let found = format!(
        "{:.1} GB/s read, {:.0} GFLOP/s f32, {:.0} GFLOP/s bf16, {:.0} GOP/s int8 with {} thread(s)",
        roofline.read_bandwidth_bytes_per_s / 1e9,
        roofline.f32_flops_per_s / 1e9,
        roofline.bf16_flops_per_s / 1e9,
        roofline.int8_ops_per_s / 1e9,
        roofline.threads
    );
    finding("roofline", Level::Good, found, "")
}

fn clock() -> Finding {
    let source = std::fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource")
        .unwrap_or_default();
    let source = source.trim();
    let cost_ns = clock_read_cost_ns();
    let found =
        format!("{} ({cost_ns} ns a reading)", if source.is_empty() { "unknown source" } else { source });
    if cost_ns > 500 {
        let advice =
            "slow clock source; tsc or kvm-clock makes timestamps cheap (kernel option clocksource=tsc)";
        return finding("clock", Level::Warn, found, advice);
    }
    finding("clock", Level::Good, found, "")
}

/// Nanoseconds one reading of the monotonic clock takes, over many.
#[allow(clippy::disallowed_methods, reason = "the reading of the clock is what is measured")]
fn clock_read_cost_ns() -> u128 {
    const READINGS: u32 = 20_000;
    let start = Instant::now();
    for _ in 0..READINGS {
        std::hint::black_box(Instant::now());
    }
    start.elapsed().as_nanos() / u128::from(READINGS)
}

fn file_limit() -> Finding {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap_or_default();
    let mut numbers = line.split_whitespace().skip(3);
    let (soft, hard) = (numbers.next().unwrap_or("unknown"), numbers.next().unwrap_or("unknown"));
    let found = format!("{soft} open files (can be raised to {hard})");
    match hard.parse::<u64>() {
        Ok(n) if n < 4096 => {
            finding("file limit", Level::Warn, found, "ulimit -Hn 65536: each request in flight takes one")
        }
        _ => finding("file limit", Level::Good, found, ""),
    }
}

fn loopback() -> Finding {
    match loopback_round_trips() {
        Ok(mut times) => {
            times.sort_unstable();
            let (p50, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
            let found = format!("round trip p50 {:.0} us, p99 {:.0} us", us(p50), us(p99));
            if p99 > Duration::from_millis(2) {
                return finding(
                    "loopback",
                    Level::Warn,
                    found,
                    "something else is busy on this machine; latencies will show it",
                );
            }
            finding("loopback", Level::Good, found, "")
        }
        Err(error) => {
            finding("loopback", Level::Warn, format!("failed: {error}"), "engine targets need 127.0.0.1")
        }
    }
}

fn us(d: Duration) -> f64 {
    d.as_secs_f64() * 1e6
}

#[allow(clippy::disallowed_methods, reason = "a round trip is timed where it happens")]
fn loopback_round_trips() -> std::io::Result<Vec<Duration>> {
    const TRIPS: usize = 2_000;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let echo = std::thread::spawn(move || -> std::io::Result<()> {
        let (mut peer, _) = listener.accept()?;
        peer.set_nodelay(true)?;
        let mut byte = [0_u8; 1];
        for _ in 0..TRIPS {
            peer.read_exact(&mut byte)?;
            peer.write_all(&byte)?;
        }
        Ok(())
    });
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut times = Vec::with_capacity(TRIPS);
    let mut byte = [7_u8; 1];
    for _ in 0..TRIPS {
        let start = Instant::now();
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)?;
        times.push(start.elapsed());
    }
    let _ = echo.join();
    Ok(times)
}

/// Share of time the hypervisor gave to others over a short look.
fn steal() -> Finding {
    let before = cpu_ticks();
    std::thread::sleep(Duration::from_millis(300));
    let after = cpu_ticks();
    let total = after.0.saturating_sub(before.0).max(1);
    let share = 100.0 * after.1.saturating_sub(before.1) as f64 / total as f64;
    let busy = 100.0 * after.2.saturating_sub(before.2) as f64 / total as f64;
    let found = format!("{share:.1} % stolen, {busy:.0} % busy with other work");
    if share > 2.0 {
        return finding(
            "steal",
            Level::Warn,
            found,
            "the host gives this machine's time to others; repeat and interleave",
        );
    }
    if busy > 25.0 {
        return finding("steal", Level::Warn, found, "stop other work on this machine before measuring");
    }
    finding("steal", Level::Good, found, "")
}

/// (all, steal, busy) ticks of all cores since boot.
fn cpu_ticks() -> (u64, u64, u64) {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
    let all: u64 = ticks.iter().take(8).sum();
    let idle = ticks.get(3).copied().unwrap_or(0) + ticks.get(4).copied().unwrap_or(0);
    let steal = ticks.get(7).copied().unwrap_or(0);
    (all, steal, all.saturating_sub(idle + steal))
}

fn huge_pages() -> Finding {
    let setting = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    let active = setting.split_whitespace().find(|word| word.starts_with('[')).unwrap_or("unknown");
    let active = active.trim_matches(['[', ']']);
    match active {
        "never" => finding(
            "huge pages",
            Level::Note,
            "never",
            "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled: weights read a few percent faster",
        ),
        other => finding("huge pages", Level::Good, other, ""),
    }
}

fn memory() -> Finding {
    let facts = host::facts(None);
    let gib = facts.memory_bytes as f64 / (1_u64 << 30) as f64;
    let found = format!("{gib:.1} GiB");
    if gib < 4.0 {
        return finding("memory", Level::Note, found, "enough for llama-15m and llama-110m");
    }
    finding("memory", Level::Good, found, "")
}
