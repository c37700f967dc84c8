//! A device as a cost model needs it.

use llmlab_models::catalogue::{DeviceKind, Hardware};

/// Peaks of one device, from the catalogue. Several of them are [`super::parallel`]: a sharding divides
/// [`super::layers`], and links add operations between them.
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
    /// HBM: above 1.2 TB/s in a data centre.
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
        let or_bf16 = |figure: &Option<llmlab_models::catalogue::Figure>| {
            1e12 * figure.as_ref().map_or(bf16, |figure| figure.value)
        };
        let value = |figure: &Option<llmlab_models::catalogue::Figure>, otherwise: f64| {
            figure.as_ref().map_or(otherwise, |figure| figure.value)
        };
        let network = if hardware.link_gb_per_s.is_some() { FAST_NETWORK_GB_PER_S } else { NETWORK_GB_PER_S };
        let bandwidth = 1e9 * hardware.memory_bandwidth_gb_per_s.value;
        // GDDR boards of this decade have one byte a second for each 150 to 450 FLOPs, less than any with HBM but the newest; what
        // tells them apart is that none has a scale-up link, and HBM is above 1.2 TB/s.
        let graphics = hardware.kind == DeviceKind::Gpu
            && (bandwidth < 0.8e12 || bandwidth < 1.9e12 && hardware.link_gb_per_s.is_none());
        Ok(Device {
            memory_bytes: memory_bytes as f64,
            bandwidth_bytes_per_s: bandwidth,
            bf16_flops_per_s: 1e12 * bf16,
            fp8_flops_per_s: or_bf16(&hardware.fp8_tflops),
            int8_ops_per_s: or_bf16(&hardware.int8_tops),
            vector_flops_per_s: 1e12
                * hardware.fp32_tflops.as_ref().map_or(bf16 / 8.0, |figure| figure.value),
            class: match hardware.kind {
                DeviceKind::Apple | DeviceKind::Phone | DeviceKind::Board => DeviceClass::Unified,
                _ if graphics => DeviceClass::Gddr,
                _ => DeviceClass::Hbm,
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
