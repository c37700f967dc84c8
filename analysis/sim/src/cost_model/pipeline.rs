//! A step, stage by stage. Layers are shared out as vLLM does it, and one layer stands for another: a stage has its share of the
//! time of all. The first stage has the embedding and what a step costs before its first kernel, the last one the output
//! projection and the sampling. A transfer keeps no stage busy.

use std::time::Duration;

use llmlab_core::executor::StageTime;
use llmlab_models::architecture::layers_of_stages;

use super::roofline::has_prompts;
use super::{Operation, OperationCost, Roofline, duration};
use crate::shape::SeqShape;

/// Seconds of a step by where they are spent.
#[derive(Debug, Default)]
struct Places {
    first: f64,
    layers: f64,
    transfers: f64,
    last: f64,
    /// What comes is behind the layers.
    behind: bool,
}

impl Places {
    fn add(&mut self, cost: OperationCost) {
        let place = match cost.operation {
            Operation::StepOverhead | Operation::Embedding => &mut self.first,
            Operation::StageTransfer | Operation::NetworkTransfer => {
                self.behind = true;
                &mut self.transfers
            }
            _ if self.behind => &mut self.last,
            _ => &mut self.layers,
        };
        *place += cost.seconds();
    }
}

impl Roofline {
    /// Share of the layers in each stage.
    fn stage_shares(&self) -> Vec<f64> {
        let layers: f64 = self.layers.layers.iter().map(|(count, _)| count).sum();
        let stages = layers_of_stages(layers as u32, self.layers.sharding.pipeline);
        stages.into_iter().map(|of_stage| f64::from(of_stage) / layers.max(1.0)).collect()
    }

    pub(super) fn in_stages(&self, seqs: &[SeqShape], times: &mut Vec<StageTime>) {
        let mut places = Places::default();
        self.each(seqs, |cost| places.add(cost));
        let all = places.first + places.layers + places.transfers + places.last;
        // Each stage has a host that queues its layers.
        let layers =
            places.layers + self.host_wait_s(all - self.outside_s(seqs.len() as f64), has_prompts(seqs));
        let shares = self.stage_shares();
        let last = shares.len() - 1;
        let rows: u64 = seqs.iter().map(SeqShape::rows).sum();
        let to_next = |stage: usize| {
            self.layout.crossings.get(stage).map_or(Duration::ZERO, |crosses| {
                let (link_s, network_s) = self.transfer_s(rows as f64, *crosses);
                duration(link_s + network_s)
            })
        };
        times.extend(shares.iter().enumerate().map(|(stage, share)| {
            let first_s = if stage == 0 { places.first } else { 0.0 };
            let last_s = if stage == last { places.last } else { 0.0 };
            StageTime { busy: duration(share * layers + first_s + last_s), to_next: to_next(stage) }
        }));
    }
}
