//! A step taken apart: what each operation computes and moves, how long it takes, and what it waits for.

use std::fmt::Write as _;

use llmlab_sim::Roofline;
use llmlab_sim::cost_model::calibration::Provenance;
use llmlab_sim::cost_model::{OperationCost, StepCost};
use plotters::coord::Shift;
use plotters::prelude::*;
use serde::Serialize;

/// Pixels.
const PICTURE: u32 = 600;
const LINE: f64 = 17.0;
/// Width of a name.
const NAME_DECADES: f64 = 0.5;

/// One kind of operation, over all layers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Part {
    pub operation: &'static str,
    pub flops: f64,
    pub bytes: f64,
    /// FLOPs a byte; 0 without bytes.
    pub intensity: f64,
    pub seconds: f64,
    /// Of one layer, on average; `None` for what is there once a step.
    pub layer_seconds: Option<f64>,
    pub bound_by: &'static str,
}

/// Bytes a second of one device in one direction, as the data sheets have them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Links {
    pub link: &'static str,
    pub link_bytes_per_s: f64,
    pub devices_per_node: u32,
    pub network_bytes_per_s: f64,
}

/// A step on one device.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    pub model: String,
    pub device: String,
    /// What is computed, for people.
    pub step: String,
    pub parts: Vec<Part>,
    pub layers: u32,
    pub seconds: f64,
    /// `seconds`, by what it waits for.
    pub compute_s: f64,
    pub memory_s: f64,
    pub communication_s: f64,
    pub overhead_s: f64,
    /// Of the device's 16-bit peak.
    pub mfu: f64,
    /// Of its bandwidth.
    pub mbu: f64,
    /// Peaks, for drawing.
    pub flops_per_s: f64,
    pub bytes_per_s: f64,
    /// What joins the devices of a node, and nodes; `None` for a single device.
    pub links: Option<Links>,
    #[serde(flatten)]
    pub provenance: Provenance,
}

impl Explanation {
    pub fn of(
        model: &str,
        step: String,
        cost: &Roofline,
        taken: &StepCost,
        provenance: Provenance,
    ) -> Explanation {
        let layers: f64 = cost.layers().layers.iter().map(|(count, _)| count).sum();
        let mut parts: Vec<Part> = Vec::new();
        for operation in &taken.operations {
            let part = part(operation, layers);
            match parts.iter_mut().find(|known| known.operation == part.operation) {
                Some(known) => known.add(&part),
                None => parts.push(part),
            }
        }
        let sum = |of: fn(&OperationCost) -> f64| taken.operations.iter().map(of).sum::<f64>();
        let (flops, bytes, seconds) = (sum(|cost| cost.flops), sum(|cost| cost.bytes), taken.seconds());
        let device = cost.device();
        Explanation {
            model: model.to_string(),
            device: device.name.clone(),
            step,
            layers: layers as u32,
            parts,
            seconds,
            compute_s: sum(|cost| if cost.is_memory_bound() { 0.0 } else { cost.compute_s }),
            memory_s: sum(|cost| if cost.is_memory_bound() { cost.memory_s } else { 0.0 }),
            communication_s: sum(|cost| cost.communication_s),
            overhead_s: sum(|cost| cost.overhead_s),
            mfu: flops / (seconds * device.bf16_flops_per_s),
            mbu: bytes / (seconds * device.bandwidth_bytes_per_s),
            flops_per_s: device.bf16_flops_per_s,
            bytes_per_s: device.bandwidth_bytes_per_s,
            links: (cost.layers().sharding.devices() > 1).then(|| Links {
                link: device.link.name(),
                link_bytes_per_s: device.link.bytes_per_s(),
                devices_per_node: device.devices_per_node,
                network_bytes_per_s: device.network_bytes_per_s,
            }),
            provenance,
        }
    }

    pub fn text(&self) -> String {
        let mut text = format!("{} on {}: {}\n\n", self.model, self.device, self.step);
        let _ = writeln!(
            text,
            "{:<18} {:>10} {:>10} {:>9} {:>10} {:>10} {:>6}  bound by",
            "operation", "GFLOP", "MB", "FLOP/B", "us", "us/layer", "share"
        );
        for part in &self.parts {
            let layer =
                part.layer_seconds.map_or_else(|| "-".into(), |seconds| format!("{:.1}", 1e6 * seconds));
            let _ = writeln!(
                text,
                "{:<18} {:>10.2} {:>10.1} {:>9.1} {:>10.1} {layer:>10} {:>5.1}%  {}",
                part.operation,
                part.flops / 1e9,
                part.bytes / 1e6,
                part.intensity,
                1e6 * part.seconds,
                100.0 * part.seconds / self.seconds,
                part.bound_by
            );
        }
        let _ = writeln!(
            text,
            "\nstep {:.3} ms = compute {:.3} + memory {:.3} + communication {:.3} + overhead {:.3}; MFU {:.1} %, MBU {:.1} %",
            1e3 * self.seconds,
            1e3 * self.compute_s,
            1e3 * self.memory_s,
            1e3 * self.communication_s,
            1e3 * self.overhead_s,
            100.0 * self.mfu,
            100.0 * self.mbu
        );
        if let Some(links) = self.links {
            let _ = writeln!(
                text,
                "links: {} {:.0} GB/s between the {} devices of a node, network {:.1} GB/s a device between nodes",
                links.link,
                links.link_bytes_per_s / 1e9,
                links.devices_per_node,
                links.network_bytes_per_s / 1e9
            );
        }
        let behind = match self.provenance {
            Provenance::Calibrated { within } => {
                format!("calibrated on this device: nine in ten measurements within {:.0} %", 100.0 * within)
            }
            Provenance::Class { within } => {
                format!(
                    "calibrated on devices of its class: nine in ten measurements within {:.0} %",
                    100.0 * within
                )
            }
            Provenance::Roofline => "roofline: no measurement of such a device stands behind it".into(),
        };
        let _ = writeln!(text, "{behind}");
        text
    }

    /// The roofline with the operations as points, both axes logarithmic.
    pub fn svg(&self) -> Result<String, String> {
        let mut svg = String::new();
        let root = SVGBackend::with_string(&mut svg, (900, PICTURE)).into_drawing_area();
        self.draw(&root).map_err(|error| error.to_string())?;
        root.present().map_err(|error| error.to_string())?;
        drop(root);
        Ok(svg)
    }

    fn draw(&self, root: &DrawingArea<SVGBackend<'_>, Shift>) -> Result<(), Box<dyn std::error::Error>> {
        root.fill(&WHITE)?;
        let points: Vec<(&Part, f64)> = self
            .parts
            .iter()
            .filter(|part| part.flops > 0.0 && part.bytes > 0.0 && part.seconds > 0.0)
            .map(|part| (part, part.flops / part.seconds / 1e12))
            .collect();
        let roof = self.flops_per_s / 1e12;
        let slope = self.bytes_per_s / 1e12;
        let least = points.iter().map(|(_, tflops)| *tflops).fold(roof / 1e3, f64::min) / 2.0;
        let left = points.iter().map(|(part, _)| part.intensity).fold(0.5, f64::min) / 2.0;
        let right = points.iter().map(|(part, _)| part.intensity).fold(roof / slope * 4.0, f64::max) * 2.0;
        let mut chart = ChartBuilder::on(root)
            .caption(format!("{} on {}: {}", self.model, self.device, self.step), ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(60)
            .build_cartesian_2d((left..right).log_scale(), (least..roof * 2.0).log_scale())?;
        chart.configure_mesh().x_desc("FLOPs a byte").y_desc("TFLOP/s").draw()?;
        let line = [(left, left * slope), (roof / slope, roof), (right, roof)];
        chart.draw_series(LineSeries::new(line, BLACK.stroke_width(2)))?;
        let height = (roof * 2.0 / least).log10() / f64::from(PICTURE);
        let names = names_apart(&points, LINE * height);
        for (place, ((part, tflops), name_at)) in points.iter().zip(names).enumerate() {
            let color = Palette99::pick(place).to_rgba();
            chart.draw_series([(part.intensity, *tflops)].map(|at| Circle::new(at, 5, color.filled())))?;
            let style = ("sans-serif", 13).into_font().color(&BLACK);
            chart.draw_series([Text::new(part.operation, (part.intensity * 1.1, name_at), style)])?;
        }
        Ok(())
    }
}

/// Where the names of the points stand: at their height, or as far below as keeps them `line` decades under a name beside them.
fn names_apart(points: &[(&Part, f64)], line: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..points.len()).collect();
    order.sort_by(|a, b| points[*b].1.total_cmp(&points[*a].1));
    let mut at: Vec<f64> = points.iter().map(|(_, tflops)| tflops.log10()).collect();
    for (done, place) in order.iter().enumerate() {
        let beside = |other: &&usize| {
            (points[**other].0.intensity / points[*place].0.intensity).log10().abs() < NAME_DECADES
        };
        for other in order[..done].iter().filter(beside) {
            if (at[*other] - at[*place]).abs() < line {
                at[*place] = at[*other] - line;
            }
        }
    }
    at.into_iter().map(|height| 10f64.powf(height)).collect()
}

impl Part {
    /// The same operation in layers of another kind.
    fn add(&mut self, other: &Part) {
        if other.seconds > self.seconds {
            self.bound_by = other.bound_by;
        }
        self.flops += other.flops;
        self.bytes += other.bytes;
        self.seconds += other.seconds;
        self.intensity = if self.bytes > 0.0 { self.flops / self.bytes } else { 0.0 };
        self.layer_seconds = self.layer_seconds.zip(other.layer_seconds).map(|(one, more)| one + more);
    }
}

fn part(cost: &OperationCost, layers: f64) -> Part {
    use llmlab_sim::cost_model::Operation::*;
    let once = matches!(
        cost.operation,
        Embedding | LmHead | Sampling | StepOverhead | HostLimit | StageTransfer | NetworkTransfer
    );
    Part {
        operation: cost.operation.name(),
        flops: cost.flops,
        bytes: cost.bytes,
        intensity: if cost.bytes > 0.0 { cost.flops / cost.bytes } else { 0.0 },
        seconds: cost.seconds(),
        layer_seconds: (!once).then_some(cost.seconds() / layers),
        bound_by: cost.bound_by().name(),
    }
}

#[cfg(test)]
mod tests {
    use llmlab_models::{WeightFormat, catalogue};
    use llmlab_sim::cost_model::{Calibration, Sharding, Weights};
    use llmlab_sim::{Device, SeqShape};

    use super::*;
    use crate::Deployment;

    #[test]
    fn parts_sum_to_the_step_and_are_drawn() {
        let deployment = Deployment {
            model: catalogue::architecture("llama-3.1-8b").unwrap(),
            device: Device::from_catalogue(catalogue::hardware("h100-sxm").unwrap()).unwrap(),
            weights: Weights::of(WeightFormat::Bf16),
            kv_value_bytes: 2.0,
            sharding: Sharding::tensor(2),
            runtime: "vllm".into(),
        };
        let cost = deployment.roofline(Calibration::shipped());
        let step = vec![SeqShape { context: 900, new: 1, padding: 0, sample: true, drafts: 0 }; 4];
        let taken = cost.step(&step);
        let found = Explanation::of("m", "4 decode".into(), &cost, &taken, Provenance::Roofline);
        let by_part: f64 = found.parts.iter().map(|part| part.seconds).sum();
        let by_kind = found.compute_s + found.memory_s + found.communication_s + found.overhead_s;
        assert!((by_part / taken.seconds() - 1.0).abs() < 1e-9, "{by_part}");
        assert!((by_kind / taken.seconds() - 1.0).abs() < 1e-9, "{by_kind}");
        assert!(found.communication_s > 0.0 && found.mbu > 0.1 && found.mbu < 1.0);
        assert!(found.text().contains("all-reduce"));
        let svg = found.svg().unwrap();
        assert!(svg.contains("<polyline") && svg.contains("gate + up"));
    }
}
