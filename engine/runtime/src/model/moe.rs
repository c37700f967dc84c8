//! A mixture of experts in place of the MLP (Shazeer et al. 2017, in the form of Mixtral, Jiang et al. 2024).
//!
//! Tokens are gathered per expert, so that an expert's weights are read once however many tokens chose it. Each token's
//! results are added in the order of the experts and the shared one last, so its sum does not depend on the batch.

use llmlab_kernels::ThreadPool;
use llmlab_models::ModelSpec;
use llmlab_models::spec::MoeSpec;

use crate::model::decoder::Workspace;
use crate::model::mlp;
use crate::weights::Experts;

/// What the mixture computes, for all layers.
pub struct Shape {
    experts: usize,
    per_token: usize,
    normalize_top_k: bool,
    hidden: usize,
}

#[derive(Default)]
pub struct MoeSpace {
    /// [rows, experts (+ 1 for the shared expert's gate)]: logits, then probabilities.
    router: Vec<f32>,
    /// The choices of all rows, [rows, per token], each row's by falling probability.
    choices: Vec<Choice>,
    /// Where each expert's entries end in `by_expert`.
    ends: Vec<usize>,
    /// Indices into `choices`, expert after expert, in each by row.
    by_expert: Vec<u32>,
    /// Inputs and outputs of one expert, [its rows, hidden].
    gathered: Vec<f32>,
    computed: Vec<f32>,
}

#[derive(Clone, Copy, Default)]
struct Choice {
    expert: u32,
    weight: f32,
}

impl Shape {
    pub fn new(moe: &MoeSpec, spec: &ModelSpec) -> Self {
        Shape {
            experts: moe.experts as usize,
            per_token: moe.experts_per_token as usize,
            normalize_top_k: moe.normalize_top_k,
            hidden: spec.hidden_size as usize,
        }
    }

    /// normed -> update
    pub fn compute(&self, pool: &ThreadPool, layer: &Experts, mlp: &mlp::Shape, work: &mut Workspace) {
        let Workspace { normed, update, moe: space, mlp: mlp_space, projection, .. } = work;
        layer.router.apply(pool, normed, &mut space.router, projection);
        self.choose(layer.router.rows(), space);
        update.clear();
        update.resize(normed.len(), 0.0);
        let mut start = 0;
        for (expert, end) in layer.experts.iter().zip(&space.ends) {
            let chosen = &space.by_expert[start..*end];
            start = *end;
            if chosen.is_empty() {
                continue;
            }
            space.gathered.clear();
            for choice in chosen {
                space.gathered.extend_from_slice(self.row(normed, *choice));
            }
            mlp.apply(pool, expert, None, &space.gathered, &mut space.computed, mlp_space, projection);
            for (choice, computed) in chosen.iter().zip(space.computed.chunks_exact(self.hidden)) {
                let row = *choice as usize / self.per_token * self.hidden;
                add_scaled(
                    &mut update[row..row + self.hidden],
                    computed,
                    space.choices[*choice as usize].weight,
                );
            }
        }
        if let Some(shared) = &layer.shared {
            mlp.apply(pool, shared, None, normed, &mut space.computed, mlp_space, projection);
            let rows = update.chunks_exact_mut(self.hidden).zip(space.computed.chunks_exact(self.hidden));
            for ((update, computed), router) in rows.zip(space.router.chunks_exact(self.experts + 1)) {
                add_scaled(update, computed, 1.0 / (1.0 + (-router[self.experts]).exp()));
            }
        }
    }

    fn row<'a>(&self, values: &'a [f32], choice: u32) -> &'a [f32] {
        let row = choice as usize / self.per_token;
        &values[row * self.hidden..(row + 1) * self.hidden]
    }

    /// From router logits to the rows of each expert. `width` is the length of a row of logits.
    ///
    /// The experts with the largest logits compute a token, the lower index first where equal. Their weights are their
    /// probabilities among all experts, divided by the sum of those chosen where the model normalises.
    fn choose(&self, width: usize, space: &mut MoeSpace) {
        space.choices.clear();
        space.ends.clear();
        space.ends.resize(self.experts, 0);
        for row in space.router.chunks_exact_mut(width) {
            let logits = &mut row[..self.experts];
            softmax(logits);
            let first = space.choices.len();
            for _ in 0..self.per_token {
                let mut best = Choice { expert: 0, weight: f32::NEG_INFINITY };
                for (expert, weight) in logits.iter().enumerate() {
                    if *weight > best.weight {
                        best = Choice { expert: expert as u32, weight: *weight };
                    }
                }
                // Out of the running for the next pick. With a NaN among the logits nothing compares and expert 0 is
                // picked with this weight again and again; the NaN of its input reaches the logits and is reported there.
                logits[best.expert as usize] = f32::NEG_INFINITY;
                space.ends[best.expert as usize] += 1;
                space.choices.push(best);
            }
            if self.normalize_top_k {
                let chosen = &mut space.choices[first..];
                let sum: f32 = chosen.iter().map(|choice| choice.weight).sum();
                chosen.iter_mut().for_each(|choice| choice.weight /= sum);
            }
        }
        self.sort_by_expert(space);
    }

    /// A counting sort; `ends` holds the counts.
    fn sort_by_expert(&self, space: &mut MoeSpace) {
        let mut start = 0;
        for end in &mut space.ends {
            start += std::mem::replace(end, start);
        }
        space.by_expert.resize(space.choices.len(), 0);
        for (index, choice) in space.choices.iter().enumerate() {
            let next = &mut space.ends[choice.expert as usize];
            space.by_expert[*next] = index as u32;
            *next += 1;
        }
    }
}

fn softmax(logits: &mut [f32]) {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter_mut().for_each(|logit| *logit = (*logit - max).exp());
    let sum: f32 = logits.iter().sum();
    logits.iter_mut().for_each(|logit| *logit /= sum);
}

fn add_scaled(to: &mut [f32], from: &[f32], weight: f32) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += weight * from);
}
