//! A device as a cost model needs it.

use llmlab_models::catalogue::{DeviceKind, Hardware};

/// Peaks of one device, from the catalogue. A second level, devices joined by links, belongs beside it and not inside:
/// sharding divides [`super::layers`], and links add operations between them.
#[derive(Debug, Clone, PartialEq)]
pub struct Device {
    pub name: String,
    pub memory_bytes: f64,
    pub bandwidth_bytes_per_s: f64,
    /// Dense, 16-bit inputs.
    pub bf16_flops_per_s: f64,
    /// The bf16 peak where the device has no such instruction.
    pub fp8_flops_per_s: f64,
    pub int8_ops_per_s: f64,
    /// HBM and its caches, or GDDR: they reach different shares of their peaks.
    pub class: DeviceClass,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceClass {
    /// HBM: above 1 TB/s.
    Datacentre,
    /// GDDR.
    Graphics,
}

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum DeviceError {
    #[error(
        "{name} is a CPU: the catalogue has no arithmetic peak of it; simulate on \"this-host\" after llmlab calibrate --engine"
    )]
    Cpu { name: String },
    #[error("the catalogue has no {figure} of {name}, which a simulation needs")]
    Missing { name: String, figure: &'static str },
}

impl Device {
    pub fn from_catalogue(hardware: &Hardware) -> Result<Device, DeviceError> {
        let name = hardware.name.clone();
        if hardware.kind == DeviceKind::Cpu {
            return Err(DeviceError::Cpu { name });
        }
        let missing = |figure| DeviceError::Missing { name: name.clone(), figure };
        let memory_bytes = hardware.usable_memory_bytes().ok_or_else(|| missing("memory_gb"))?;
        let bf16 = hardware.bf16_tflops.as_ref().ok_or_else(|| missing("bf16_tflops"))?.value;
        let or_bf16 = |figure: &Option<llmlab_models::catalogue::Figure>| {
            1e12 * figure.as_ref().map_or(bf16, |figure| figure.value)
        };
        let bandwidth = 1e9 * hardware.memory_bandwidth_gb_per_s.value;
        Ok(Device {
            memory_bytes: memory_bytes as f64,
            bandwidth_bytes_per_s: bandwidth,
            bf16_flops_per_s: 1e12 * bf16,
            fp8_flops_per_s: or_bf16(&hardware.fp8_tflops),
            int8_ops_per_s: or_bf16(&hardware.int8_tops),
            class: if bandwidth > 1.2e12 { DeviceClass::Datacentre } else { DeviceClass::Graphics },
            name,
        })
    }
}
