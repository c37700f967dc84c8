//! Guessing ahead in virtual time: which drafts are right is drawn, what they cost is counted.
//!
//! A draft that will be accepted is the token that the target would pick, any other is not; so verifying them is the same
//! comparison as in a live engine, and no token of an answer depends on speculation.

use std::sync::Arc;
use std::time::Duration;

use llmlab_core::step::{Sampled, SeqStep, StepPlan};

use crate::cost_model::{CostModel, Operation, Roofline, duration};
use crate::shape::SeqShape;

/// Where drafts come from in a simulation.
pub struct Speculation {
    /// For each draft of a step, how likely it is right when all before it are; the last counts for those behind it.
    acceptance: Vec<f64>,
    /// Drafts for each sequence and step.
    drafts: usize,
    /// Who writes them, if that takes time.
    drafter: Option<Box<dyn CostModel>>,
    shapes: Vec<SeqShape>,
}

impl Speculation {
    /// An empty `acceptance` accepts nothing.
    pub fn new(acceptance: Vec<f64>, drafts: u32) -> Speculation {
        Speculation { acceptance, drafts: drafts as usize, drafter: None, shapes: Vec::new() }
    }

    /// Drafts are written by a model that costs this.
    pub fn drafted_by(mut self, drafter: Box<dyn CostModel>) -> Speculation {
        self.drafter = Some(drafter);
        self
    }

    pub fn drafts(&self) -> usize {
        self.drafts
    }

    /// `draw` is uniform in 0..1.
    pub fn accepts(&self, place: usize, draw: f64) -> bool {
        let last = self.acceptance.len().saturating_sub(1);
        self.acceptance.get(place.min(last)).is_some_and(|rate| draw < *rate)
    }

    /// The drafting model reads what the step settled, which gives its first draft; each further draft is a pass of one row
    /// a sequence. Of prompts it reads every chunk.
    pub fn drafting_time(&mut self, plan: &StepPlan, sampled: &[Sampled]) -> Duration {
        let Some(drafter) = &self.drafter else { return Duration::ZERO };
        let mut rest = sampled;
        self.shapes.clear();
        for (seq, index) in plan.seqs.iter().zip(0..) {
            let new = rest.iter().take_while(|sampled| sampled.seq == index).count();
            rest = &rest[new..];
            if !seq.tokens.is_empty() {
                self.shapes.push(reading(seq, new as u32, self.drafts as u32));
            }
        }
        if self.shapes.is_empty() {
            return Duration::ZERO;
        }
        let mut elapsed = drafter.step_time(&self.shapes);
        self.shapes.retain(|shape| shape.sample);
        for _ in 1..self.drafts {
            for shape in &mut self.shapes {
                *shape = SeqShape { context: shape.context + shape.new, new: 1, ..*shape };
            }
            if !self.shapes.is_empty() {
                elapsed += drafter.step_time(&self.shapes);
            }
        }
        elapsed
    }
}

/// The first drafting pass of a sequence that got `new` tokens. Its drafts it has read while it wrote them, except the last; so
/// it reads one token, or two where all were accepted. Of what was not drafted before it reads all.
fn reading(seq: &SeqStep, new: u32, drafts: u32) -> SeqShape {
    let verified = seq.tokens.len() as u32 - seq.drafts;
    let settled = seq.context + verified + new;
    let rows = match verified {
        1 if seq.generated > 0 && new > 0 => {
            if seq.drafts > 0 && new > drafts {
                2
            } else {
                1
            }
        }
        _ => verified + new,
    };
    SeqShape { context: settled - rows, new: rows, padding: 0, sample: seq.sample, drafts: 0 }
}

/// A model that drafts within the steps of another on the same device: its operations, without what a step costs beside its
/// kernels, which the target's step has paid.
pub struct DraftingOn(pub Arc<Roofline>);

impl CostModel for DraftingOn {
    fn step_time(&self, seqs: &[SeqShape]) -> Duration {
        let cost = self.0.step(seqs);
        let of_kernels = cost.operations.iter().filter(|cost| cost.operation != Operation::StepOverhead);
        duration(of_kernels.map(|cost| cost.seconds()).sum())
    }
}
