//! What the machine under a server was doing in the window: processor time, memory, power, GPUs.

use llmlab_results::machine_sample::{GpuSample, HostCpu, MachineSample};
use serde::Serialize;

use crate::quantile::mean;
use crate::rates::Rates;
use crate::window::Window;

/// Counters are taken as what they grew by between the first and the last look inside the window.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MachineView {
    pub samples: u64,
    /// Of all cores' time.
    pub host_busy_share: Option<f64>,
    pub host_steal_share: Option<f64>,
    /// Cores the server kept busy on average.
    pub server_cores: Option<f64>,
    pub server_rss_max_bytes: Option<u64>,
    /// Processor packages and memory.
    pub cpu_power_w: Option<f64>,
    pub gpus: Vec<GpuView>,
    pub gpu_power_w: Option<f64>,
    /// Everything whose power is known: packages, memory, GPUs.
    pub joules_per_output_token: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GpuView {
    pub index: u32,
    pub name: String,
    pub utilization_mean: Option<f64>,
    pub memory_max_bytes: Option<u64>,
    pub memory_total_bytes: Option<u64>,
    pub power_w: Option<f64>,
    pub sm_clock_mean_mhz: Option<f64>,
    pub memory_clock_mean_mhz: Option<f64>,
    pub temperature_max_c: Option<u32>,
    /// What held the clocks down, and in which share of the looks, most frequent first.
    pub throttled: Vec<(String, f64)>,
}

/// `None` without two looks inside the window, between which something could grow.
pub fn machine_view(
    samples: &[MachineSample],
    start_monotonic_ns: u64,
    window: &Window,
    rates: Option<&Rates>,
) -> Option<MachineView> {
    let at = |s: &MachineSample| s.at_monotonic_ns as f64 - start_monotonic_ns as f64;
    let inside: Vec<&MachineSample> = samples.iter().filter(|s| window.contains(at(s))).collect();
    let (first, last) = (inside.first()?, inside.last()?);
    let seconds = (at(last) - at(first)) / 1e9;
    if seconds <= 0.0 {
        return None;
    }
    let grown = |f: &dyn Fn(&MachineSample) -> Option<u64>| Some(f(last)?.checked_sub(f(first)?)? as f64);
    let host = |part: fn(&HostCpu) -> u64| {
        let of = |f: fn(&HostCpu) -> u64| grown(&|s| s.host.as_ref().map(f));
        let all = of(|h| h.busy_ns)? + of(|h| h.idle_ns)? + of(|h| h.steal_ns)?;
        (all > 0.0).then_some(of(part)? / all)
    };
    let cpu_power_w = grown(&|s| s.cpu_energy_uj).map(|uj| uj / 1e6 / seconds);
    let gpus: Vec<GpuView> = first.gpus.iter().map(|gpu| gpu_view(gpu.index, &inside, seconds)).collect();
    let gpu_power_w = gpus.iter().filter_map(|gpu| gpu.power_w).reduce(|a, b| a + b);
    let power_w = [cpu_power_w, gpu_power_w].into_iter().flatten().reduce(|a, b| a + b);
    let tokens_per_s = rates.map(|r| r.output_tokens_per_s).filter(|rate| *rate > 0.0);
    Some(MachineView {
        samples: inside.len() as u64,
        host_busy_share: host(|h| h.busy_ns),
        host_steal_share: host(|h| h.steal_ns),
        server_cores: grown(&|s| s.server.map(|tree| tree.cpu_ns)).map(|ns| ns / 1e9 / seconds),
        server_rss_max_bytes: inside.iter().filter_map(|s| Some(s.server?.rss_bytes)).max(),
        cpu_power_w,
        gpus,
        gpu_power_w,
        joules_per_output_token: power_w.zip(tokens_per_s).map(|(power, rate)| power / rate),
    })
}

fn gpu_view(index: u32, inside: &[&MachineSample], seconds: f64) -> GpuView {
    let looks: Vec<&GpuSample> =
        inside.iter().flat_map(|s| &s.gpus).filter(|gpu| gpu.index == index).collect();
    let average = |f: &dyn Fn(&GpuSample) -> Option<f64>| {
        mean(&looks.iter().filter_map(|gpu| f(gpu)).filter(|v| v.is_finite()).collect::<Vec<f64>>())
    };
    // The driver's own count of energy is finer than a few looks at power.
    let energy: Vec<u64> = looks.iter().filter_map(|gpu| gpu.energy_mj).collect();
    let counted = match (energy.first(), energy.last()) {
        (Some(first), Some(last)) if energy.len() > 1 => {
            last.checked_sub(*first).map(|mj| mj as f64 / 1e3 / seconds)
        }
        _ => None,
    };
    GpuView {
        index,
        name: looks.first().map(|gpu| gpu.name.clone()).unwrap_or_default(),
        utilization_mean: average(&|gpu| gpu.utilization),
        memory_max_bytes: looks.iter().filter_map(|gpu| gpu.memory_used_bytes).max(),
        memory_total_bytes: looks.iter().filter_map(|gpu| gpu.memory_total_bytes).max(),
        power_w: counted.or_else(|| average(&|gpu| gpu.power_w)),
        sm_clock_mean_mhz: average(&|gpu| gpu.sm_clock_mhz.map(f64::from)),
        memory_clock_mean_mhz: average(&|gpu| gpu.memory_clock_mhz.map(f64::from)),
        temperature_max_c: looks.iter().filter_map(|gpu| gpu.temperature_c).max(),
        throttled: throttled(&looks),
    }
}

fn throttled(looks: &[&GpuSample]) -> Vec<(String, f64)> {
    let mut reasons: Vec<(String, f64)> = Vec::new();
    for reason in looks.iter().flat_map(|gpu| &gpu.throttled_by) {
        match reasons.iter_mut().find(|(known, _)| known == reason) {
            Some((_, count)) => *count += 1.0,
            None => reasons.push((reason.clone(), 1.0)),
        }
    }
    reasons.iter_mut().for_each(|(_, count)| *count /= looks.len() as f64);
    reasons.sort_by(|a, b| b.1.total_cmp(&a.1));
    reasons
}
