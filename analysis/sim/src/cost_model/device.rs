//! A device as a cost model needs it.

use llmlab_models::catalogue::{DeviceKind, Hardware, MemoryKind};

/// Peaks of one device, from the catalogue. Several of them share a model by a [`Sharding`](super::Sharding), which
/// divides its [`Layers`](super::layers::Layers), and links add operations between them.
#[derive(Debug, Clone, PartialEq)]
pub struct Device {
    pub name: String,
    pub memory_bytes: f64,
    pub bandwidth_bytes_per_s: f64,
    /// Dense, 16-bit inputs.
    pub bf16_flops_per_s: f64,
    /// `None` where the catalogue has none: weights are expanded to 16 bits there.
    pub fp8_flops_per_s: Option<f64>,
    /// The bf16 peak where the catalogue has none; far below it on Blackwell Ultra.
    pub int8_ops_per_s: f64,
    /// Of plain arithmetic, which products of few rows are computed with; an eighth of the matrix peak where the catalogue has none.
    pub vector_flops_per_s: f64,
    pub class: DeviceClass,
    /// PCIe 4 where the catalogue names no link.
    pub link: Link,
    /// Devices that the link joins.
    pub devices_per_node: u32,
    /// Between nodes: one direction, of one device.
    pub network_bytes_per_s: f64,
}

/// Where the catalogue does not say: servers have been built around eight devices since 2016.
const DEVICES_PER_NODE: f64 = 8.0;
/// Where the catalogue does not say: an adapter of 400 Gb/s for each device that has a scale-up link, of 100 Gb/s for others.
const FAST_NETWORK_GB_PER_S: f64 = 50.0;
const NETWORK_GB_PER_S: f64 = 12.5;

/// Devices that reach like shares of their peaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeviceClass {
    /// Stacked memory of accelerators for data centres.
    Hbm,
    /// Graphics memory.
    Gddr,
    /// Memory shared with the processor, as Apple's chips have it.
    Unified,
}

impl DeviceClass {
    pub const ALL: [DeviceClass; 3] = [DeviceClass::Hbm, DeviceClass::Gddr, DeviceClass::Unified];

    pub fn name(self) -> &'static str {
        match self {
            DeviceClass::Hbm => "hbm",
            DeviceClass::Gddr => "gddr",
            DeviceClass::Unified => "unified",
        }
    }
}

/// What joins the devices of a node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Link {
    /// NVLink, Infinity Fabric, ICI: one direction of one device, in bytes a second.
    ScaleUp(f64),
    Pcie(f64),
}

impl Link {
    pub fn name(self) -> &'static str {
        match self {
            Link::ScaleUp(_) => "scale-up",
            Link::Pcie(_) => "pcie",
        }
    }

    pub fn bytes_per_s(self) -> f64 {
        match self {
            Link::ScaleUp(bytes) | Link::Pcie(bytes) => bytes,
        }
    }
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
        let value = |figure: &Option<llmlab_models::catalogue::Figure>, otherwise: f64| {
            figure.as_ref().map_or(otherwise, |figure| figure.value)
        };
        let network = if hardware.link_gb_per_s.is_some() { FAST_NETWORK_GB_PER_S } else { NETWORK_GB_PER_S };
        let bandwidth = 1e9 * hardware.memory_bandwidth_gb_per_s.value;
        Ok(Device {
            memory_bytes: memory_bytes as f64,
            bandwidth_bytes_per_s: bandwidth,
            bf16_flops_per_s: 1e12 * bf16,
            fp8_flops_per_s: hardware.fp8_tflops.as_ref().map(|figure| 1e12 * figure.value),
            int8_ops_per_s: 1e12 * value(&hardware.int8_tops, bf16),
            vector_flops_per_s: 1e12
                * hardware.fp32_tflops.as_ref().map_or(bf16 / 8.0, |figure| figure.value),
            class: match hardware.memory {
                MemoryKind::Hbm => DeviceClass::Hbm,
                MemoryKind::Gddr => DeviceClass::Gddr,
                MemoryKind::Lpddr | MemoryKind::Ddr => DeviceClass::Unified,
            },
            link: match (&hardware.link_gb_per_s, &hardware.pcie_gb_per_s) {
                (Some(link), _) => Link::ScaleUp(1e9 * link.value),
                (None, Some(pcie)) => Link::Pcie(1e9 * pcie.value),
                (None, None) => Link::Pcie(32e9),
            },
            devices_per_node: (value(&hardware.devices_per_node, DEVICES_PER_NODE) as u32).max(1),
            network_bytes_per_s: 1e9 * value(&hardware.network_gb_per_s, network),
            name,
        })
    }
}

#[cfg(test)]
mod tests {
    use llmlab_models::catalogue::hardware;

    use super::*;

    /// Bandwidth and links say nothing about it: an A100 of 1.6 TB/s may have no link, an RTX 3090 may have a bridge.
    #[test]
    fn the_class_is_that_of_the_memory() {
        let of = |name| Device::from_catalogue(hardware(name).unwrap()).unwrap();
        for (name, class) in [
            ("a100-pcie-40gb", DeviceClass::Hbm),
            ("v100", DeviceClass::Hbm),
            ("tpu-v5e", DeviceClass::Hbm),
            ("rtx-3090", DeviceClass::Gddr),
            ("rtx-5090", DeviceClass::Gddr),
            ("apple-m3-ultra-80", DeviceClass::Unified),
        ] {
            assert_eq!(of(name).class, class, "{name}");
        }
        assert_eq!(of("rtx-3090").link, Link::ScaleUp(56e9));
    }

    #[test]
    fn int8_runs_at_its_own_peak_and_at_that_of_bf16_only_where_there_is_none() {
        let of = |name| Device::from_catalogue(hardware(name).unwrap()).unwrap();
        let b300 = of("b300-sxm");
        assert!(b300.int8_ops_per_s < b300.bf16_flops_per_s / 10.0, "{}", b300.int8_ops_per_s);
        assert_eq!(of("b200-sxm").int8_ops_per_s, 4500e12);
        let v100 = of("v100");
        assert_eq!(v100.int8_ops_per_s, v100.bf16_flops_per_s);
    }
}
