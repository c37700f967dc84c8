//! Names as people write them: "NVIDIA H100 80GB HBM3", "A100-SXM4-40GB", "Llama 3.1 8B Instruct".
//!
//! Two names mean the same device when what is left without makers and form factors is the same, and what they say of form and
//! memory does not disagree. Nothing is guessed beyond that: "RTX 9999" is still unknown.

use super::hardware::Hardware;

/// Words that say nothing of which device it is.
const MAKERS: [&str; 22] = [
    "nvidia",
    "amd",
    "intel",
    "apple",
    "google",
    "aws",
    "tesla",
    "geforce",
    "instinct",
    "radeon",
    "quadro",
    "habana",
    "gpu",
    "gpus",
    "tensor",
    "core",
    "cores",
    "accelerator",
    "generation",
    "graphics",
    "edition",
    "hgx",
];
/// Kinds of memory chips.
const CHIPS: [&str; 8] = ["hbm", "hbm2", "hbm2e", "hbm3", "hbm3e", "gddr6", "gddr6x", "gddr7"];
/// Of a model, words that change its text and not its shape.
const TUNED: [&str; 11] =
    ["instruct", "instruction", "chat", "hf", "it", "pt", "base", "meta", "inst", "text", "model"];
/// Of the memory of a device, how far a name may be off: "180 GB" and "192 GB" are one device's.
const MEMORY_MAY_DIFFER: f64 = 0.12;

/// What a device's name says.
#[derive(Debug, PartialEq)]
struct Said {
    /// Letters, digits and dots that are left.
    core: String,
    form: Option<&'static str>,
    memory_gb: Option<f64>,
}

/// The device that is meant, of those that agree with what the name says the one that is sold most: SXM before PCIe.
pub(super) fn device<'c>(name: &str, devices: &'c [Hardware]) -> Option<&'c Hardware> {
    let said = said(name);
    if said.core.is_empty() {
        return None;
    }
    let called = |device: &Hardware| -> Option<Option<&'static str>> {
        device.names().map(self::said).find(|known| known.core == said.core).map(|known| known.form)
    };
    let off = |device: &Hardware| {
        let (Some(said), Some(has)) = (said.memory_gb, device.memory_gb.as_ref()) else { return 0.0 };
        (said / has.value - 1.0).abs()
    };
    let agree: Vec<(&Hardware, Option<&str>)> = devices
        .iter()
        .filter_map(|device| Some((device, called(device)?)))
        .filter(|(device, _)| off(device) <= MEMORY_MAY_DIFFER)
        .collect();
    let nearest = |form: Option<&str>| {
        let of_form = agree.iter().filter(|(_, of)| *of == form);
        of_form.min_by(|a, b| off(a.0).total_cmp(&off(b.0))).map(|(device, _)| *device)
    };
    match said.form {
        // A device that comes in one form is often called without it.
        Some(form) => nearest(Some(form)).or_else(|| nearest(None)),
        None => nearest(Some("sxm")).or_else(|| nearest(None)).or_else(|| nearest(Some("pcie"))),
    }
}

fn said(name: &str) -> Said {
    let lower = name.to_lowercase();
    let parts = lower.split(|c: char| !c.is_alphanumeric() && c != '.').filter(|word| !word.is_empty());
    let words: Vec<&str> = parts.collect();
    let mut said = Said { core: String::new(), form: None, memory_gb: None };
    let mut place = 0;
    while let Some(word) = words.get(place) {
        let next = words.get(place + 1).copied().unwrap_or_default();
        let is_bandwidth = next == "gb" && words.get(place + 2) == Some(&"s");
        place += match () {
            // "(68 GB/s)"
            () if number(word).is_some() && is_bandwidth => 3,
            () if number(word).is_some() && matches!(next, "gb" | "gib") => {
                said.memory_gb = number(word);
                2
            }
            // "8x H100" and "8 x H100"
            () if place == 0 && number(word).is_some() && next == "x" => 2,
            () => {
                add(&mut said, word, place == 0);
                1
            }
        };
    }
    said
}

fn add(said: &mut Said, word: &str, first: bool) {
    let gb = ["gib", "gb", "g"].iter().find_map(|unit| word.strip_suffix(unit)).and_then(number);
    if let Some(gb) = gb {
        said.memory_gb = Some(gb);
        return;
    }
    let times =
        word.find('x').filter(|end| first && *end > 0 && word[..*end].bytes().all(|b| b.is_ascii_digit()));
    let word = times.map_or(word, |end| &word[end + 1..]);
    let (rest, form) = form_of(word);
    said.form = form.or(said.form);
    if !MAKERS.contains(&rest) && !CHIPS.contains(&rest) {
        said.core.push_str(rest);
    }
}

/// A form factor at the end of a word, as in "sxm4" and "h100pcie".
fn form_of(word: &str) -> (&str, Option<&'static str>) {
    let bare = word.trim_end_matches(|c: char| c.is_ascii_digit());
    let sxm = if bare.ends_with("sxm") { bare } else { word };
    for form in ["sxm", "pcie", "nvl"] {
        if let Some(rest) = sxm.strip_suffix(form) {
            return (rest, Some(form));
        }
    }
    match word {
        "oam" => ("", None),
        "nvl72" => ("", None),
        other => (other, None),
    }
}

fn number(word: &str) -> Option<f64> {
    let plain = word.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if plain { word.parse().ok() } else { None }
}

/// A model's name without its publisher, separators, and what tuning adds.
pub(super) fn model(name: &str) -> String {
    let last = name.trim().trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_lowercase();
    last.split(|c: char| !c.is_alphanumeric() && c != '.').filter(|word| !TUNED.contains(word)).collect()
}

#[cfg(test)]
mod tests {
    use crate::catalogue::{architecture, hardware};

    #[test]
    fn devices_as_people_write_them() {
        for (names, device) in [
            (
                "H100 80GB SXM|NVIDIA H100 80GB HBM3|H100-SXM5-80GB|HGX H100|8x H100|8xH100|h100sxm5|H100 (80 GB)",
                "h100-sxm",
            ),
            ("NVIDIA H100 PCIe|H100 80GB PCIe|H100-PCIE-80GB", "h100-pcie"),
            ("NVIDIA H100 NVL|H100 NVL 94GB", "h100-nvl"),
            ("A100-80GB|A100 80GB|NVIDIA A100-SXM4-80GB|A100 SXM 80 GB|a100-80g", "a100-sxm-80gb"),
            ("A100-SXM4-40GB|A100 40GB", "a100-sxm-40gb"),
            ("NVIDIA A100 80GB PCIe", "a100-pcie-80gb"),
            ("A100-PCIE-40GB", "a100-pcie-40gb"),
            ("H200 141GB|NVIDIA H200 SXM|H200-SXM5-141GB", "h200-sxm"),
            ("B200 192GB|NVIDIA B200 180GB HBM3e", "b200-sxm"),
            ("NVIDIA L40S 48GB|L40S PCIe", "l40s"),
            ("Tesla T4|T4 16GB", "t4"),
            ("NVIDIA GeForce RTX 4090|RTX4090|RTX 4090 24GB", "rtx-4090"),
            ("RTX 6000 Ada Generation|NVIDIA RTX 6000 Ada", "rtx-6000-ada"),
            ("AMD Instinct MI300X OAM|MI300X 192GB", "mi300x"),
            ("Intel Gaudi 3", "gaudi3"),
            ("GB200 NVL72", "gb200"),
            ("M2 Ultra 76-core|Apple M2 Ultra", "apple-m2-ultra-76"),
        ] {
            for name in names.split('|') {
                assert_eq!(hardware(name).map(|found| found.name.as_str()).ok(), Some(device), "{name}");
            }
        }
        for name in
            ["RTX 9999", "H100 40GB", "H10O", "RTX 3080 20GB", "GPU", "80GB", "SXM", "8x", "", "NVIDIA"]
        {
            assert!(hardware(name).is_err(), "{name}");
        }
    }

    #[test]
    fn models_as_people_write_them() {
        for (names, model) in [
            (
                "Llama 3.1 8B|meta-llama/Llama-3.1-8B-Instruct|Meta-Llama-3.1-8B|Llama3.1-8B|llama 3.1 (8B)",
                "llama-3.1-8b",
            ),
            ("Llama 2 7B Chat|LLaMA-2-7b-chat-hf", "llama-2-7b"),
            ("Qwen 2.5 7B Instruct|Qwen/Qwen2.5-7B", "qwen2.5-7b"),
            ("Mixtral 8x7B Instruct", "mixtral-8x7b"),
            ("gpt oss 120b", "gpt-oss-120b"),
        ] {
            for name in names.split('|') {
                assert_eq!(architecture(name).map(|found| found.name.as_str()).ok(), Some(model), "{name}");
            }
        }
        for name in ["llama-9", "Llama 3.1 9B", "instruct", "", "/"] {
            assert!(architecture(name).is_err(), "{name}");
        }
    }
}
