//! One device a file in `models/hardware/`.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::Confidence;

/// One number and where it comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figure {
    pub value: f64,
    /// Where it was read.
    pub source: String,
    /// When it was read: year, year-month or year-month-day.
    pub date: String,
    pub confidence: Confidence,
    /// What else is known about it, such as another source's figure.
    #[serde(default)]
    pub note: String,
}

/// What sort of machine it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    Gpu,
    Cpu,
    /// CPU and GPU of one Apple chip, with one memory.
    Apple,
    Phone,
    /// A single-board computer, an edge module or a small computer on one chip.
    Board,
    /// TPU, Gaudi, Inferentia and others made for neural networks alone.
    Accelerator,
}

/// What its memory is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemoryKind {
    /// Stacks beside the chip.
    Hbm,
    /// Graphics memory around it.
    Gddr,
    /// What CPU and GPU of one chip share.
    Lpddr,
    /// Modules in sockets.
    Ddr,
}

/// One device: one GPU, or one CPU socket. Peaks are dense, never the sparse ones of a brochure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hardware {
    /// Lower case, parts joined by '-'.
    pub name: String,
    /// What the maker calls it.
    pub description: String,
    pub kind: DeviceKind,
    pub memory: MemoryKind,
    /// Other names it is found by.
    pub aliases: Vec<String>,
    /// NVIDIA's version of what the chip can do, such as 8.6; absent for other makers.
    pub compute_capability: Option<Figure>,
    /// Decimal gigabytes on the device; what CPU and GPU share in one; absent for a CPU, whose memory is bought separately.
    pub memory_gb: Option<Figure>,
    /// What a process sees of it, in MiB: on an NVIDIA device CUDA's total, which is what nvidia-smi shows less what the driver keeps.
    pub usable_memory_mib: Option<Figure>,
    /// Peak memory bandwidth in 10^9 bytes a second.
    pub memory_bandwidth_gb_per_s: Figure,
    /// Peak of plain 32-bit arithmetic in 10^12 operations a second.
    pub fp32_tflops: Option<Figure>,
    /// Dense bf16 matrix peak in 10^12 operations a second, a multiply-add counted as 2; f16 where the chip has no bf16.
    pub bf16_tflops: Option<Figure>,
    /// Dense fp8 matrix peak, as above.
    pub fp8_tflops: Option<Figure>,
    /// Dense fp4 matrix peak, as above.
    pub fp4_tflops: Option<Figure>,
    /// Dense int8 matrix peak, as above.
    pub int8_tops: Option<Figure>,
    /// The link between devices of a node (NVLink, Infinity Fabric, ICI): 10^9 bytes a second in one direction, of all links of
    /// a device together.
    pub link_gb_per_s: Option<Figure>,
    /// PCI Express, 10^9 bytes a second in one direction.
    pub pcie_gb_per_s: Option<Figure>,
    /// Devices that the link joins in the usual server.
    pub devices_per_node: Option<Figure>,
    /// The network between nodes, 10^9 bytes a second in one direction, of one device: that of its own adapter, or its share of
    /// the node's.
    pub network_gb_per_s: Option<Figure>,
    /// Board or socket power limit in watts.
    pub tdp_w: Option<Figure>,
    /// What one costs to buy, in US dollars.
    pub cost_usd: Option<Figure>,
    /// Battery of the usual machine with this chip, in watt-hours.
    pub battery_wh: Option<Figure>,
}

impl DeviceKind {
    /// As the tables write it.
    pub fn name(self) -> &'static str {
        match self {
            DeviceKind::Gpu => "gpu",
            DeviceKind::Cpu => "cpu",
            DeviceKind::Apple => "apple",
            DeviceKind::Phone => "phone",
            DeviceKind::Board => "board",
            DeviceKind::Accelerator => "accelerator",
        }
    }
}

/// Of a device's nominal gigabytes, what a process can use where nobody is known to have looked: an H100 "80 GB" shows
/// 79.18 GiB (llm-d-planner, docs/empirical-vllm-memory-results.md), so the nominal figure counts GiB, less what the driver keeps.
const USABLE_MEMORY: f64 = 0.99;
/// Where the system and its programs live in the same memory, our choice.
const USABLE_MEMORY_OF_PHONES: f64 = 0.5;
const USABLE_MEMORY_OF_BOARDS: f64 = 0.8;
/// What Metal recommends as the largest working set: 10923 MB of 16 GB, 21845 of 32, 49152 of 64, in logs of llama.cpp (issues 1870
/// and 2011).
const METAL_SHARE: f64 = 2.0 / 3.0;
const METAL_SHARE_OF_LARGE: f64 = 0.75;
const METAL_LARGE_ABOVE_GB: f64 = 36.0;
const MIB: f64 = (1u64 << 20) as f64;
const GIB: f64 = (1u64 << 30) as f64;

impl Hardware {
    /// Memory that a process can use: what was seen, else a share of the nominal memory by the kind of device.
    pub fn usable_memory_bytes(&self) -> Option<u64> {
        if let Some(seen) = &self.usable_memory_mib {
            return Some((seen.value * MIB) as u64);
        }
        let nominal_gb = self.memory_gb.as_ref()?.value;
        let share = match self.kind {
            DeviceKind::Apple if nominal_gb <= METAL_LARGE_ABOVE_GB => METAL_SHARE,
            DeviceKind::Apple => METAL_SHARE_OF_LARGE,
            DeviceKind::Phone => USABLE_MEMORY_OF_PHONES,
            DeviceKind::Board => USABLE_MEMORY_OF_BOARDS,
            DeviceKind::Gpu | DeviceKind::Accelerator | DeviceKind::Cpu => USABLE_MEMORY,
        };
        Some((nominal_gb * GIB * share) as u64)
    }

    /// The name and the aliases.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.name).chain(&self.aliases).map(String::as_str)
    }

    /// The figures that are known, with their key and the range a device of this decade can be in.
    pub fn figures(&self) -> Vec<(&'static str, &Figure, RangeInclusive<f64>)> {
        let optional = [
            ("compute_capability", &self.compute_capability, 5.0..=20.0),
            ("memory_gb", &self.memory_gb, 1.0..=1024.0),
            ("usable_memory_mib", &self.usable_memory_mib, 512.0..=1_048_576.0),
            ("fp32_tflops", &self.fp32_tflops, 0.01..=1000.0),
            ("bf16_tflops", &self.bf16_tflops, 0.1..=20_000.0),
            ("fp8_tflops", &self.fp8_tflops, 1.0..=40_000.0),
            ("fp4_tflops", &self.fp4_tflops, 1.0..=80_000.0),
            ("int8_tops", &self.int8_tops, 1.0..=40_000.0),
            ("link_gb_per_s", &self.link_gb_per_s, 10.0..=10_000.0),
            ("pcie_gb_per_s", &self.pcie_gb_per_s, 0.5..=1000.0),
            ("devices_per_node", &self.devices_per_node, 1.0..=10_000.0),
            ("network_gb_per_s", &self.network_gb_per_s, 0.1..=2000.0),
            ("tdp_w", &self.tdp_w, 1.0..=3000.0),
            ("cost_usd", &self.cost_usd, 10.0..=1_000_000.0),
            ("battery_wh", &self.battery_wh, 1.0..=200.0),
        ];
        let known =
            optional.into_iter().filter_map(|(key, figure, range)| Some((key, figure.as_ref()?, range)));
        let bandwidth = ("memory_bandwidth_gb_per_s", &self.memory_bandwidth_gb_per_s, 5.0..=50_000.0);
        std::iter::once(bandwidth).chain(known).collect()
    }
}

macro_rules! tables {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("../../hardware/", $name, ".toml")))),*]
    };
}

/// The tables built into the binary. They cannot be wrong at run time: a test parses each of them.
pub(super) fn embedded() -> Vec<Hardware> {
    let tables = tables![
        "h100-sxm",
        "h200-sxm",
        "h100-pcie",
        "h100-nvl",
        "h800-sxm",
        "h20",
        "b200-sxm",
        "b300-sxm",
        "gb200",
        "gaudi2",
        "gaudi3",
        "a100-sxm-80gb",
        "a100-sxm-40gb",
        "a100-pcie-80gb",
        "a100-pcie-40gb",
        "l40s",
        "l4",
        "a10g",
        "a10",
        "a40",
        "t4",
        "v100-sxm2-32gb",
        "rtx-4090",
        "rtx-a6000",
        "rtx-6000-ada",
        "rtx-pro-6000",
        "rtx-5090",
        "rtx-4080",
        "rtx-3090",
        "rtx-3080",
        "rtx-3070",
        "rtx-3060",
        "dgx-spark",
        "mi300x",
        "mi250x",
        "mi325x",
        "mi355x",
        "tpu-v5e",
        "tpu-v5p",
        "tpu-v6e",
        "inferentia2",
        "apple-m1",
        "apple-m1-max-24",
        "apple-m1-max-32",
        "apple-m1-ultra-64",
        "apple-m2",
        "apple-m2-ultra-76",
        "apple-m3",
        "apple-m3-max-40",
        "apple-m3-ultra-80",
        "apple-m4-pro",
        "apple-m4-max-40",
        "epyc-genoa",
        "epyc-milan",
        "xeon-6980p",
        "xeon-sapphire-rapids",
        "jetson-agx-thor",
        "jetson-agx-orin-64gb",
        "jetson-orin-nano-super",
        "raspberry-pi-5",
        "snapdragon-x-elite",
        "snapdragon-8-gen-3",
        "iphone-a17-pro",
        "iphone-a18-pro",
        "pixel-tensor-g4",
    ];
    tables
        .into_iter()
        .map(|(name, text)| {
            toml::from_str(text).unwrap_or_else(|error| panic!("hardware/{name}.toml: {error}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_in_the_folder_is_built_in_under_its_own_name() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/hardware");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        let mut names: Vec<String> = embedded().into_iter().map(|device| device.name).collect();
        files.sort();
        names.sort();
        assert_eq!(files, names);
    }

    /// Boards with graphics memory and ECC keep a sixteenth of it for themselves.
    #[test]
    fn a_process_sees_the_memory_that_was_looked_up_and_never_more_than_the_nominal() {
        let of = |name| crate::catalogue::hardware(name).unwrap().usable_memory_bytes().unwrap();
        for (name, gib) in
            [("h100-sxm", 79.18), ("l40s", 44.52), ("l4", 22.04), ("t4", 14.74), ("b300", 268.6)]
        {
            assert!((of(name) as f64 / GIB - gib).abs() < 0.01, "{name}: {} bytes", of(name));
        }
        // 16, 64 and 512 GB; in MB of llama.cpp's logs, which are MiB.
        for (name, mib) in [("apple-m1", 10_922.67), ("apple-m1-max-32", 49_152.0), ("m3-ultra", 393_216.0)] {
            assert!((of(name) as f64 / MIB - mib).abs() < 0.01, "{name}: {} bytes", of(name));
        }
        for device in embedded() {
            let (Some(nominal), Some(seen)) = (&device.memory_gb, &device.usable_memory_mib) else {
                continue;
            };
            let share = seen.value * MIB / (nominal.value * GIB);
            assert!((0.9..=1.0).contains(&share), "{}: {share} of the nominal memory", device.name);
        }
    }
}
