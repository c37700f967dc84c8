//! The gated MLP (Shazeer 2020): `down(activation(gate(x)) * up(x))`.

use llmlab_kernels::ThreadPool;
use llmlab_kernels::ops::{gelu_tanh_mul_fused, silu_mul_fused};
use llmlab_models::Activation;

use crate::lora::AdaptedLayer;
use crate::model::decoder::Workspace;
use crate::weights::{Mlp, ProjectionScratch};

/// What an MLP computes, whatever its width.
pub struct Shape {
    pub activation: Activation,
}

#[derive(Default)]
pub struct MlpSpace {
    /// [rows, 2 * width].
    gate_up: Vec<f32>,
    /// [rows, width].
    activated: Vec<f32>,
}

impl Shape {
    /// normed -> update
    pub fn compute(&self, pool: &ThreadPool, mlp: &Mlp, adapted: AdaptedLayer<'_>, work: &mut Workspace) {
        let Workspace { normed, update, mlp: space, projection, .. } = work;
        self.apply(pool, mlp, Some(adapted), normed, update, space, projection);
    }

    /// `x` is [rows, hidden], `out` becomes [rows, hidden].
    pub fn apply(
        &self,
        pool: &ThreadPool,
        mlp: &Mlp,
        adapted: Option<AdaptedLayer<'_>>,
        x: &[f32],
        out: &mut Vec<f32>,
        space: &mut MlpSpace,
        scratch: &mut ProjectionScratch,
    ) {
        mlp.gate_up.apply(pool, x, &mut space.gate_up, scratch);
        if let Some(adapted) = adapted {
            adapted.add(pool, |deltas| &deltas.gate_up, &mlp.gate_up, x, &mut space.gate_up, scratch);
        }
        let width = mlp.down.cols();
        space.activated.resize(space.gate_up.len() / 2, 0.0);
        match self.activation {
            Activation::Silu => silu_mul_fused(pool, &space.gate_up, width, &mut space.activated),
            Activation::GeluTanh => gelu_tanh_mul_fused(pool, &space.gate_up, width, &mut space.activated),
        }
        mlp.down.apply(pool, &space.activated, out, scratch);
        if let Some(adapted) = adapted {
            adapted.add(pool, |deltas| &deltas.down, &mlp.down, &space.activated, out, scratch);
        }
    }
}
