//! What this machine is: facts for the manifest, and its measured roofline, kept between runs.

use std::path::PathBuf;
use std::time::Duration;

use llmlab_kernels::{Isa, probe};
use llmlab_results::manifest::{HostFacts, HostRoofline};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A calibration older than this is measured again: clouds move machines under a running image.
const MAX_AGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// The one place of this package that reads the wall clock.
pub fn wall_clock() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

/// Whole seconds: it dates things, it times nothing.
pub fn utc_now() -> OffsetDateTime {
    let now = wall_clock();
    now.replace_nanosecond(0).unwrap_or(now)
}

/// CLOCK_MONOTONIC, on which records are timed.
pub fn monotonic_ns() -> u64 {
    llmlab_loadgen::Clock::start().start_monotonic_ns
}

pub fn rfc3339(at: OffsetDateTime) -> String {
    at.format(&Rfc3339).unwrap_or_else(|_| at.unix_timestamp().to_string())
}

pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

/// Compute threads of an engine that shares its machine with its clients: one core is left to HTTP and the load
/// generator, because a client that waits for a core measures itself.
pub fn default_threads() -> u32 {
    cores().saturating_sub(1).max(1) as u32
}

pub fn facts(roofline: Option<HostRoofline>) -> HostFacts {
    HostFacts {
        hostname: read("/proc/sys/kernel/hostname"),
        os: format!("{} {}", read("/proc/sys/kernel/ostype"), read("/proc/sys/kernel/osrelease"))
            .trim()
            .to_string(),
        cpu_model: cpu_model(),
        cores: cores() as u32,
        memory_bytes: memory_bytes(),
        simd: Isa::available().iter().map(|isa| isa.to_string()).collect(),
        roofline,
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_string()
}

fn cpu_model() -> String {
    let info = read("/proc/cpuinfo");
    let model = info.lines().find(|line| line.starts_with("model name"));
    model
        .and_then(|line| line.split_once(':'))
        .map_or_else(|| std::env::consts::ARCH.to_string(), |(_, name)| name.trim().to_string())
}

/// Of this machine; 0 when it does not tell.
pub fn memory_bytes() -> u64 {
    let info = read("/proc/meminfo");
    let total = info.lines().find(|line| line.starts_with("MemTotal:"));
    let kib = total.and_then(|line| line.split_whitespace().nth(1)).and_then(|n| n.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// What a stored calibration is valid for.
pub fn fingerprint(threads: u32) -> String {
    let text = format!("{}-{}-{}c-{}t", read("/proc/sys/kernel/hostname"), cpu_model(), cores(), threads);
    text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect()
}

/// Where measurements of this machine are kept between runs.
pub fn cache_folder() -> Option<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))?;
    Some(base.join("llmlab"))
}

fn cache_file(threads: u32) -> Option<PathBuf> {
    Some(cache_folder()?.join(format!("roofline-{}.json", fingerprint(threads))))
}

/// The stored roofline if it is of this machine and young enough, else a new measurement (about a second), stored.
pub fn roofline(threads: u32) -> HostRoofline {
    if let Some(known) = stored_roofline(threads) {
        return known;
    }
    measure_roofline(threads)
}

fn stored_roofline(threads: u32) -> Option<HostRoofline> {
    let text = std::fs::read_to_string(cache_file(threads)?).ok()?;
    let known: HostRoofline = serde_json::from_str(&text).ok()?;
    let measured = OffsetDateTime::parse(&known.measured_at, &Rfc3339).ok()?;
    let age = utc_now() - measured;
    (known.threads == threads && !age.is_negative() && age < MAX_AGE).then_some(known)
}

pub fn measure_roofline(threads: u32) -> HostRoofline {
    let n = threads as usize;
    let measured = HostRoofline {
        threads,
        read_bandwidth_bytes_per_s: probe::read_bandwidth(n),
        f32_flops_per_s: probe::f32_flops(n),
        bf16_flops_per_s: probe::bf16_flops(n),
        int8_ops_per_s: probe::int8_ops(n),
        measured_at: rfc3339(utc_now()),
    };
    // A cache that cannot be written costs a second next time; that is not worth failing a run for.
    if let Some(path) = cache_file(threads)
        && let Some(dir) = path.parent()
        && std::fs::create_dir_all(dir).is_ok()
        && let Ok(text) = serde_json::to_string_pretty(&measured)
    {
        let _ = std::fs::write(path, text);
    }
    measured
}
