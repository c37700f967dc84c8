//! The fitted figures behind [`Efficiency`], from `analysis/sim/efficiency.toml`: by device class, by serving software, and
//! by link. `llmlab validate --write-fit` writes that file from the measured table.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use super::device::{Device, DeviceClass, Link};
use super::efficiency::{Efficiency, NETWORK_LATENCY_S, NETWORK_SHARE};

/// What kernels reach on devices of one class.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernels {
    pub bandwidth: f64,
    pub few_bits_bandwidth: f64,
    pub attention_bandwidth: f64,
    pub product_16_bits: f64,
    pub product_8_bits: f64,
    pub product_few_bits: f64,
    pub attention: f64,
}

/// What a serving software adds. The names are those of [`Efficiency`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Runtime {
    pub launch_us: f64,
    pub layer_host_us: f64,
    pub prompt_layer_host_us: f64,
    pub step_us: f64,
    pub sequence_us: f64,
    /// From sending a request until the scheduler has it.
    pub request_ms: f64,
    /// Time of a request, and of each of its tokens, in a front end that does one thing after another and that steps do not wait
    /// for.
    pub serial_ms: f64,
    pub serial_token_us: f64,
    /// Host time of a request that the steps of others wait for.
    pub admission_ms: f64,
    /// Host time of a token that a step waits for.
    pub token_us: f64,
}

/// How far one software's kernels are from those of the class.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pair {
    /// Products of 16 bits and of weights of few bits, and attention.
    pub compute: f64,
    /// Products of 8 bits on both sides, which have kernels of their own.
    pub compute_8_bits: f64,
    pub bandwidth: f64,
}

impl Pair {
    /// Nothing known.
    pub const NONE: Pair = Pair { compute: 1.0, compute_8_bits: 1.0, bandwidth: 1.0 };
}

/// A link between devices of one node, with the collectives that software has for it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkFigures {
    pub share: f64,
    pub latency_us: f64,
}

/// How far predictions were from measurements that are alike.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spread {
    pub class: String,
    pub runtime: String,
    pub metric: String,
    pub rows: u32,
    /// Devices in the fit, by their catalogue names.
    pub devices: Vec<String>,
    /// Median of |ln(predicted / measured)|.
    pub median_error: f64,
    /// Nine in ten rows are nearer than this.
    pub p90_error: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    pub source: String,
    pub date: String,
    pub class: BTreeMap<String, Kernels>,
    pub runtime: BTreeMap<String, Runtime>,
    /// By "class/runtime".
    pub pair: BTreeMap<String, Pair>,
    pub link: BTreeMap<String, LinkFigures>,
    #[serde(default)]
    pub spread: Vec<Spread>,
}

/// What stands behind the figures of a prediction.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "provenance", rename_all = "lowercase")]
pub enum Provenance {
    /// Measurements of this device under this software were in the fit. Nine in ten of them are within this share, either way.
    Calibrated { within: f64 },
    /// Measurements of devices of its class were, or of this device under other software.
    Class { within: f64 },
    /// None were: shares that the literature gives.
    Roofline,
}

/// The software whose figures are taken where none is named.
pub const DEFAULT_RUNTIME: &str = "vllm";

static SHIPPED: LazyLock<Calibration> = LazyLock::new(|| {
    toml::from_str(include_str!("../../efficiency.toml"))
        .unwrap_or_else(|error| panic!("analysis/sim/efficiency.toml: {error}"))
});

impl Calibration {
    /// The one built in. It cannot be wrong at run time: a test reads it.
    pub fn shipped() -> &'static Calibration {
        &SHIPPED
    }

    /// The figures of a software, or of the default one where it is unknown.
    pub fn runtime(&self, runtime: &str) -> &Runtime {
        self.runtime.get(runtime).unwrap_or_else(|| &self.runtime[DEFAULT_RUNTIME])
    }

    pub fn provenance(&self, device: &Device, runtime: &str) -> Provenance {
        let widest = |alike: &dyn Fn(&Spread) -> bool| {
            let errors =
                self.spread.iter().filter(|spread| alike(spread)).map(|spread| spread.p90_error.exp() - 1.0);
            errors.reduce(f64::max)
        };
        let class = device.class.name();
        let same = |spread: &Spread| {
            spread.class == class && spread.runtime == runtime && spread.devices.contains(&device.name)
        };
        match widest(&same) {
            Some(within) => Provenance::Calibrated { within },
            None => match widest(&|spread| spread.class == class) {
                Some(within) => Provenance::Class { within },
                None => Provenance::Roofline,
            },
        }
    }

    pub fn efficiency(&self, device: &Device, runtime: &str) -> Efficiency {
        let kernels = &self.class[device.class.name()];
        let pair = self.pair.get(&pair_key(device.class, runtime)).unwrap_or(&Pair::NONE);
        let host = self.runtime(runtime);
        let link = &self.link[&link_key(device.link, runtime)];
        let share = |value: f64| value.min(0.99);
        let bandwidth = share(kernels.bandwidth * pair.bandwidth);
        Efficiency {
            bandwidth,
            few_bits_bandwidth: kernels.few_bits_bandwidth,
            attention_bandwidth: kernels.attention_bandwidth.min(0.99 / bandwidth),
            product_16_bits: share(kernels.product_16_bits * pair.compute),
            product_8_bits: share(kernels.product_8_bits * pair.compute_8_bits),
            product_few_bits: share(kernels.product_few_bits * pair.compute),
            attention: share(kernels.attention * pair.compute),
            launch_s: 1e-6 * host.launch_us,
            layer_host_s: 1e-6 * host.layer_host_us,
            prompt_layer_host_s: 1e-6 * host.prompt_layer_host_us,
            step_s: 1e-6 * host.step_us,
            sequence_s: 1e-6 * host.sequence_us,
            link: share(link.share),
            link_latency_s: 1e-6 * link.latency_us,
            network: NETWORK_SHARE,
            network_latency_s: NETWORK_LATENCY_S,
        }
    }
}

/// Software from before its engines had collectives of their own for a node (2024).
const PLAIN_COLLECTIVES: [&str; 2] = ["tensorrt-llm-0", "vllm-2023"];

/// Where a link's figures stand.
pub fn link_key(link: Link, runtime: &str) -> String {
    match link {
        Link::ScaleUp(_) if PLAIN_COLLECTIVES.contains(&runtime) => format!("{}/2023", link.name()),
        _ => link.name().to_string(),
    }
}

pub fn pair_key(class: DeviceClass, runtime: &str) -> String {
    format!("{}/{runtime}", class.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_figures_are_shares_and_times() {
        let shipped = Calibration::shipped();
        for class in DeviceClass::ALL {
            let kernels = &shipped.class[class.name()];
            for share in
                [kernels.bandwidth, kernels.product_16_bits, kernels.product_8_bits, kernels.attention]
            {
                assert!(share > 0.02 && share < 1.3, "{class:?} {share}");
            }
        }
        for (name, host) in &shipped.runtime {
            assert!(host.launch_us >= 0.0 && host.step_us < 100_000.0, "{name}");
        }
        assert!(shipped.runtime.contains_key(DEFAULT_RUNTIME));
    }
}
