//! The executor that computes nothing and says how long it would have taken.

use std::sync::Arc;
use std::time::Duration;

use llmlab_core::executor::{Executor, ExecutorError, Foresight};
use llmlab_core::request::{LoraId, RequestId, TokenId};
use llmlab_core::step::{Sampled, SeqStep, StepOutcome, StepPlan};

use crate::cost_model::lora::AdaptedRows;
use crate::cost_model::{CostModel, Roofline};
use crate::shape::{SeqShape, shapes_of};

/// Takes a step's time from a cost model. The tokens it "samples" are a hash of seed, request and position: no model stands
/// behind them, but equal runs get equal ones, and the prefix cache sees generated text that differs between requests.
pub struct RooflineExecutor {
    cost: Box<dyn CostModel>,
    seed: u64,
    vocab_size: u32,
    shapes: Vec<SeqShape>,
    adapters: Option<AdapterCost>,
}

/// What adapters add to a step.
struct AdapterCost {
    device: Arc<Roofline>,
    rank: u32,
    /// Those of the step, kept between steps.
    seen: Vec<LoraId>,
}

impl RooflineExecutor {
    pub fn new(cost: Box<dyn CostModel>, seed: u64, vocab_size: u32) -> RooflineExecutor {
        RooflineExecutor { cost, seed, vocab_size: vocab_size.max(1), shapes: Vec::new(), adapters: None }
    }

    /// Requests may name adapters of this rank.
    pub fn with_adapters(mut self, device: Arc<Roofline>, rank: u32) -> RooflineExecutor {
        self.adapters = Some(AdapterCost { device, rank, seen: Vec::new() });
        self
    }

    /// Ids that may not be picked aside.
    fn any_token(&self, id: RequestId, generated: u32) -> TokenId {
        let stream = self.seed ^ id.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let random = mix(stream.wrapping_add(u64::from(generated)));
        // The high half of the product spreads over the vocabulary without a division.
        ((u128::from(random) * u128::from(self.vocab_size)) >> 64) as TokenId
    }

    fn token(&self, seq: &SeqStep) -> TokenId {
        let mut token = self.any_token(seq.id, seq.generated);
        // Ends with the banned list, which is shorter than any vocabulary.
        for _ in 0..seq.banned.len() {
            if !seq.banned.contains(&token) {
                break;
            }
            token = (token + 1) % self.vocab_size;
        }
        token
    }
}

impl AdapterCost {
    fn step_time(&mut self, plan: &StepPlan) -> Duration {
        self.seen.clear();
        let mut rows = 0;
        for seq in &plan.seqs {
            let Some(lora) = seq.lora else { continue };
            rows += seq.tokens.len() as u64;
            if !self.seen.contains(&lora) {
                self.seen.push(lora);
            }
        }
        let work = AdaptedRows { rows, adapters: self.seen.len() as u64 };
        Duration::from_secs_f64(self.device.adapters(self.rank, work).seconds())
    }
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014).
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

impl Executor for RooflineExecutor {
    fn execute(&mut self, plan: &StepPlan) -> Result<StepOutcome, ExecutorError> {
        shapes_of(plan, &mut self.shapes);
        let mut elapsed = self.cost.step_time(&self.shapes);
        if let Some(adapters) = &mut self.adapters {
            elapsed += adapters.step_time(plan);
        }
        let mut sampled = Vec::with_capacity(plan.seqs.len());
        let sampling = plan.seqs.iter().zip(0..).filter(|(seq, _)| seq.sample);
        sampled.extend(sampling.map(|(seq, index)| Sampled { seq: index, token: self.token(seq) }));
        Ok(StepOutcome { sampled, drafts: Vec::new(), elapsed })
    }
    fn foresight(&self) -> Option<&dyn Foresight> {
        Some(self)
    }
}

impl Foresight for RooflineExecutor {
    fn decode_time(&self, sequences: usize, keys: u64) -> Option<Duration> {
        // Adapters cost their launches in every step.
        if self.adapters.is_some() { None } else { self.cost.decode_time(sequences, keys) }
    }

    fn token(&self, id: RequestId, generated: u32) -> TokenId {
        self.any_token(id, generated)
    }
}
