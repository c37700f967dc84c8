//! What the machine under a server was doing: processor, memory, power, GPUs. Counters since some start of their own, so
//! that only differences of two samples mean something.

use serde::{Deserialize, Serialize};

/// One look at the machine. What the system does not tell is `None`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MachineSample {
    /// CLOCK_MONOTONIC, as [`crate::manifest::TrialFacts::start_monotonic_ns`].
    pub at_monotonic_ns: u64,
    pub host: Option<HostCpu>,
    /// The server and all it started; `None` for a server that this run did not start.
    pub server: Option<ProcessTree>,
    /// Packages and memory, as RAPL counts them.
    pub cpu_energy_uj: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<GpuSample>,
}

/// Time of all cores together, from /proc/stat.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostCpu {
    pub busy_ns: u64,
    /// Waiting for a device among it.
    pub idle_ns: u64,
    /// Taken by the hypervisor.
    pub steal_ns: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessTree {
    pub processes: u32,
    /// Of those that live, and of those among their children that ended.
    pub cpu_ns: u64,
    /// Pages that several processes share count once for each.
    pub rss_bytes: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GpuSample {
    pub index: u32,
    pub name: String,
    /// Share of the last moments in which a kernel ran, 0..=1.
    pub utilization: Option<f64>,
    pub memory_used_bytes: Option<u64>,
    pub memory_total_bytes: Option<u64>,
    pub power_w: Option<f64>,
    /// Since the driver was loaded.
    pub energy_mj: Option<u64>,
    pub sm_clock_mhz: Option<u32>,
    pub memory_clock_mhz: Option<u32>,
    pub temperature_c: Option<u32>,
    /// Why clocks are held down at this moment, in words; idleness is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub throttled_by: Vec<String>,
}
