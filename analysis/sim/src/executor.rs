//! The executor that computes nothing and says how long it would have taken.

use std::sync::Arc;
use std::time::Duration;

use llmlab_core::executor::{Executor, ExecutorError, Foresight, StageTime};
use llmlab_core::request::{LoraId, RequestId, TokenId};
use llmlab_core::step::{Sampled, SeqStep, StepOutcome, StepPlan};

use crate::cost_model::lora::AdaptedRows;
use crate::cost_model::{CostModel, Roofline};
use crate::shape::{SeqShape, shapes_of};
use crate::speculation::Speculation;

/// Takes a step's time from a cost model. The tokens it "samples" are a hash of seed, request and position: no model stands
/// behind them, but equal runs get equal ones, and the prefix cache sees generated text that differs between requests.
pub struct RooflineExecutor {
    cost: Box<dyn CostModel>,
    seed: u64,
    vocab_size: u32,
    shapes: Vec<SeqShape>,
    /// Of the last step; empty without a pipeline.
    stages: Vec<StageTime>,
    adapters: Option<AdapterCost>,
    speculation: Option<Speculation>,
}

/// What adapters add to a step.
struct AdapterCost {
    device: Arc<Roofline>,
    rank: u32,
    /// Those of the step, kept between steps.
    seen: Vec<LoraId>,
}

/// Sets the draws of acceptances apart from those of tokens.
const ACCEPTANCE: u64 = 0x5bd1_e995_9e37_79b9;

impl RooflineExecutor {
    pub fn new(cost: Box<dyn CostModel>, seed: u64, vocab_size: u32) -> RooflineExecutor {
        RooflineExecutor {
            cost,
            seed,
            vocab_size: vocab_size.max(1),
            shapes: Vec::new(),
            stages: Vec::new(),
            adapters: None,
            speculation: None,
        }
    }

    /// Requests may name adapters of this rank.
    pub fn with_adapters(mut self, device: Arc<Roofline>, rank: u32) -> RooflineExecutor {
        self.adapters = Some(AdapterCost { device, rank, seen: Vec::new() });
        self
    }

    /// Brings drafts with each step.
    pub fn speculating(mut self, speculation: Speculation) -> RooflineExecutor {
        self.speculation = Some(speculation);
        self
    }

    /// The time of the step's own operations, and what each stage has of it.
    fn computing(&mut self) -> Duration {
        self.stages.clear();
        if self.cost.stages() == 1 {
            return self.cost.step_time(&self.shapes);
        }
        self.cost.stage_times(&self.shapes, &mut self.stages);
        self.stages.iter().map(|stage| stage.busy + stage.to_next).sum()
    }

    /// What the target picks as the `index`-th generated token.
    fn token(&self, seq: &SeqStep, index: u32) -> TokenId {
        let mut token = self.any_token(seq.id, index);
        let banned: &[TokenId] = if index < seq.banned_until { &seq.banned } else { &[] };
        // Ends with the banned list, which is shorter than any vocabulary.
        for _ in 0..banned.len() {
            if !banned.contains(&token) {
                break;
            }
            token = (token + 1) % self.vocab_size;
        }
        token
    }

    /// The same where nothing is banned.
    fn any_token(&self, id: RequestId, index: u32) -> TokenId {
        // The high half of the product spreads over the vocabulary without a division.
        ((u128::from(hash(self.seed, id, index)) * u128::from(self.vocab_size)) >> 64) as TokenId
    }

    /// Accepts drafts until one is not what the target picks, and picks one more.
    fn verify(&self, seq: &SeqStep, place: u32, sampled: &mut Vec<Sampled>) {
        let drafts = &seq.tokens[seq.tokens.len() - seq.drafts as usize..];
        for (index, draft) in (seq.generated..).zip(drafts.iter().map(Some).chain([None])) {
            let token = self.token(seq, index);
            sampled.push(Sampled { seq: place, token });
            if draft != Some(&token) {
                break;
            }
        }
    }

    /// Guesses at what follows the tokens of this step.
    fn draft(&self, speculation: &Speculation, plan: &StepPlan, sampled: &[Sampled]) -> Vec<Sampled> {
        let mut drafts = Vec::new();
        let mut rest = sampled;
        for (seq, place) in plan.seqs.iter().zip(0..).filter(|(seq, _)| seq.sample) {
            let new = rest.iter().take_while(|sampled| sampled.seq == place).count();
            rest = &rest[new..];
            let generated = seq.generated + new as u32;
            let stream = hash(self.seed ^ ACCEPTANCE, seq.id, generated);
            for (index, draft) in (generated..).zip(0..speculation.drafts()) {
                let right = self.token(seq, index);
                let draw = unit(mix(stream.wrapping_add(draft as u64)));
                let wrong = (right + 1) % self.vocab_size;
                let token = if speculation.accepts(draft, draw) { right } else { wrong };
                drafts.push(Sampled { seq: place, token });
            }
        }
        drafts
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

fn hash(seed: u64, id: RequestId, index: u32) -> u64 {
    let stream = seed ^ id.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mix(stream.wrapping_add(u64::from(index)))
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014).
pub(crate) fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// The upper 53 bits as a number in 0..1.
pub(crate) fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

impl Executor for RooflineExecutor {
    fn execute(&mut self, plan: &StepPlan) -> Result<StepOutcome, ExecutorError> {
        shapes_of(plan, &mut self.shapes);
        let computing = self.computing();
        let mut elapsed = computing;
        if let Some(adapters) = &mut self.adapters {
            elapsed += adapters.step_time(plan);
        }
        let mut sampled = Vec::with_capacity(plan.seqs.len());
        for (seq, place) in plan.seqs.iter().zip(0..).filter(|(seq, _)| seq.sample) {
            self.verify(seq, place, &mut sampled);
        }
        if let Some(speculation) = &mut self.speculation {
            elapsed += speculation.drafting_time(plan, &sampled);
        }
        if let Some(last) = self.stages.last_mut() {
            // Adapters and drafts, which pipelines are not simulated with.
            last.busy += elapsed - computing;
        }
        let speculation = self.speculation.as_ref();
        let drafts = speculation.map_or_else(Vec::new, |speculation| self.draft(speculation, plan, &sampled));
        Ok(StepOutcome { sampled, drafts, elapsed })
    }

    fn foresight(&self) -> Option<&dyn Foresight> {
        Some(self)
    }

    fn stage_times(&self) -> &[StageTime] {
        &self.stages
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
