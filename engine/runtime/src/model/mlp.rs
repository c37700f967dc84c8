//! The gated MLP (Shazeer 2020): `down(activation(gate(x)) * up(x))`.

use llmlab_kernels::ThreadPool;
use llmlab_kernels::ops::{gelu_tanh_mul_fused, silu_mul_fused};
use llmlab_models::Activation;

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
    pub fn compute(&self, pool: &ThreadPool, mlp: &Mlp, work: &mut Workspace) {
        self.apply(pool, mlp, &work.normed, &mut work.update, &mut work.mlp, &mut work.projection);
    }

    /// `x` is [rows, hidden], `out` becomes [rows, hidden].
    pub fn apply(
        &self,
        pool: &ThreadPool,
        mlp: &Mlp,
        x: &[f32],
        out: &mut Vec<f32>,
        space: &mut MlpSpace,
        scratch: &mut ProjectionScratch,
    ) {
        mlp.gate_up.apply(pool, x, &mut space.gate_up, scratch);
        let width = mlp.down.cols();
        space.activated.resize(space.gate_up.len() / 2, 0.0);
        match self.activation {
            Activation::Silu => silu_mul_fused(pool, &space.gate_up, width, &mut space.activated),
            Activation::GeluTanh => gelu_tanh_mul_fused(pool, &space.gate_up, width, &mut space.activated),
        }
        mlp.down.apply(pool, &space.activated, out, scratch);
    }
}
