//! NVIDIA's GPUs through NVML, a library that comes with the driver and is looked for when a trial starts.

use llmlab_results::machine_sample::GpuSample;
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};
use nvml_wrapper::{Device, Nvml};

#[derive(Debug)]
pub struct Gpus {
    nvml: Nvml,
    count: u32,
}

impl Gpus {
    /// `None` without the library, the driver or a GPU.
    pub fn open() -> Option<Gpus> {
        let nvml = Nvml::init().ok()?;
        let count = nvml.device_count().ok()?;
        (count > 0).then_some(Gpus { nvml, count })
    }

    pub fn look(&self) -> Vec<GpuSample> {
        let devices =
            (0..self.count).filter_map(|index| Some((index, self.nvml.device_by_index(index).ok()?)));
        devices.map(|(index, device)| sample(index, &device)).collect()
    }
}

/// Each figure by itself: cards differ in what they tell.
fn sample(index: u32, device: &Device<'_>) -> GpuSample {
    let memory = device.memory_info().ok();
    GpuSample {
        index,
        name: device.name().unwrap_or_default(),
        utilization: device.utilization_rates().ok().map(|rates| f64::from(rates.gpu) / 100.0),
        memory_used_bytes: memory.as_ref().map(|memory| memory.used),
        memory_total_bytes: memory.as_ref().map(|memory| memory.total),
        power_w: device.power_usage().ok().map(|milliwatts| f64::from(milliwatts) / 1e3),
        energy_mj: device.total_energy_consumption().ok(),
        sm_clock_mhz: device.clock_info(Clock::SM).ok(),
        memory_clock_mhz: device.clock_info(Clock::Memory).ok(),
        temperature_c: device.temperature(TemperatureSensor::Gpu).ok(),
        throttled_by: device.current_throttle_reasons().map(words).unwrap_or_default(),
    }
}

fn words(reasons: ThrottleReasons) -> Vec<String> {
    const NAMES: [(ThrottleReasons, &str); 8] = [
        (ThrottleReasons::APPLICATIONS_CLOCKS_SETTING, "clocks set by hand"),
        (ThrottleReasons::SW_POWER_CAP, "power limit"),
        (ThrottleReasons::HW_SLOWDOWN, "hardware slowdown"),
        (ThrottleReasons::SYNC_BOOST, "sync boost group"),
        (ThrottleReasons::SW_THERMAL_SLOWDOWN, "temperature (driver)"),
        (ThrottleReasons::HW_THERMAL_SLOWDOWN, "temperature (hardware)"),
        (ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN, "power brake"),
        (ThrottleReasons::DISPLAY_CLOCK_SETTING, "display clocks"),
    ];
    NAMES
        .iter()
        .filter(|(reason, _)| reasons.contains(*reason))
        .map(|(_, name)| (*name).to_string())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idleness_is_no_throttling() {
        assert!(words(ThrottleReasons::GPU_IDLE | ThrottleReasons::NONE).is_empty());
        let both = ThrottleReasons::SW_POWER_CAP | ThrottleReasons::HW_THERMAL_SLOWDOWN;
        assert_eq!(words(both), ["power limit", "temperature (hardware)"]);
    }
}
