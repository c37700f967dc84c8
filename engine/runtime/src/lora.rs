//! Adapters of different requests in one batch: `y += scale * b * (a * x)` for the rows that ask for one.
//!
//! The base model's product is computed for all rows together; then each adapter's two thin products for its rows, gathered
//! from the batch and added back (Chen et al., 2023, "Punica"; Sheng et al., 2023, "S-LoRA"). Cost: `2 * rank * (cols + rows)`
//! FLOPs per row and matrix, and the adapter's bytes once per step.

use llmlab_core::request::LoraId;
use llmlab_kernels::{Activations, Isa, PackedMatrix, ThreadPool, matmul_many};
use llmlab_models::ModelSpec;
use llmlab_models::lora::{LoraAdapter, LoraDelta};
use llmlab_models::spec::{FeedForward, Linear};
use llmlab_quant::WeightFormat;

use crate::config::RuntimeError;
use crate::weights::{Projection, ProjectionScratch};

/// All adapters that requests may name; [`LoraId`] is the place in this list.
#[derive(Default)]
pub struct Adapters {
    adapters: Vec<Vec<LayerDeltas>>,
}

/// What one adapter adds in one layer.
#[derive(Default)]
pub struct LayerDeltas {
    pub qkv: ProjectionDelta,
    pub o: ProjectionDelta,
    pub gate_up: ProjectionDelta,
    pub down: ProjectionDelta,
}

/// What is added to a projection, part by part; no part where the adapter leaves it alone.
#[derive(Default)]
pub struct ProjectionDelta {
    parts: Vec<PartDelta>,
}

struct PartDelta {
    /// Output column where the part begins.
    first: usize,
    /// [rank, cols].
    a: PackedMatrix,
    /// [rows, rank].
    b: PackedMatrix,
    scale: f32,
}

/// The rows of a batch that one adapter computes, ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdaptedRows {
    pub lora: LoraId,
    pub rows: Vec<usize>,
}

/// Buffers, kept between calls.
#[derive(Default)]
pub struct LoraScratch {
    gathered: Vec<f32>,
    shrunk: Vec<f32>,
    expanded: Vec<f32>,
    activations: Activations,
}

impl Adapters {
    pub fn new(spec: &ModelSpec, adapters: &[LoraAdapter], pool: &ThreadPool) -> Result<Self, RuntimeError> {
        let isa = Isa::detect();
        let pack = |adapter: &LoraAdapter| -> Result<Vec<LayerDeltas>, RuntimeError> {
            (0..spec.num_layers).map(|layer| LayerDeltas::pack(spec, adapter, layer, pool, isa)).collect()
        };
        Ok(Adapters { adapters: adapters.iter().map(pack).collect::<Result<_, _>>()? })
    }

    pub fn len(&self) -> usize {
        self.adapters.len()
    }

    pub fn is_empty(&self) -> bool {
        self.adapters.is_empty()
    }

    /// What changes in a layer of a batch with these adapted rows.
    pub fn layer<'a>(&'a self, layer: usize, rows: &'a [AdaptedRows]) -> AdaptedLayer<'a> {
        AdaptedLayer { adapters: self, layer, rows }
    }
}

/// A layer with the adapters that its rows ask for; adds nothing where they ask for none.
#[derive(Clone, Copy)]
pub struct AdaptedLayer<'a> {
    adapters: &'a Adapters,
    layer: usize,
    rows: &'a [AdaptedRows],
}

impl AdaptedLayer<'_> {
    /// Adds to `out`, the product of a projection with `x`, what each adapter makes of its rows.
    pub fn add(
        &self,
        pool: &ThreadPool,
        which: impl Fn(&LayerDeltas) -> &ProjectionDelta,
        projection: &Projection,
        x: &[f32],
        out: &mut [f32],
        scratch: &mut ProjectionScratch,
    ) {
        for group in self.rows {
            let delta = which(&self.adapters.adapters[group.lora.0 as usize][self.layer]);
            delta.add(pool, &group.rows, x, out, projection.rows(), &mut scratch.lora);
        }
    }
}

impl LayerDeltas {
    fn pack(
        spec: &ModelSpec,
        adapter: &LoraAdapter,
        layer: u32,
        pool: &ThreadPool,
        isa: Isa,
    ) -> Result<Self, RuntimeError> {
        let names = spec.names(layer);
        let pack = |linears: &[Linear]| ProjectionDelta::pack(linears, adapter, pool, isa);
        let mut deltas = LayerDeltas {
            qkv: pack(&names.qkv)?,
            o: pack(std::slice::from_ref(&names.o))?,
            ..LayerDeltas::default()
        };
        if let FeedForward::Dense(mlp) = &names.feed_forward {
            deltas.gate_up = pack(&mlp.gate_up)?;
            deltas.down = pack(std::slice::from_ref(&mlp.down))?;
        }
        Ok(deltas)
    }
}

impl ProjectionDelta {
    fn pack(
        linears: &[Linear],
        adapter: &LoraAdapter,
        pool: &ThreadPool,
        isa: Isa,
    ) -> Result<Self, RuntimeError> {
        let mut delta = ProjectionDelta::default();
        let mut first = 0;
        for linear in linears {
            if let Some(LoraDelta { a, b, scale }) = adapter.deltas.get(&linear.weight) {
                let rank = adapter.rank as usize;
                let matrix = |rows, cols, values: &[f32]| {
                    PackedMatrix::pack_parallel(pool, WeightFormat::F32, rows, cols, values, isa)
                        .map_err(|source| RuntimeError::Pack { tensor: linear.weight.clone(), source })
                };
                let (rows, cols) = (linear.rows as usize, linear.cols as usize);
                for (half, expected) in [(a, rank * cols), (b, rows * rank)] {
                    if half.len() != expected {
                        let (tensor, found) = (linear.weight.clone(), half.len());
                        return Err(RuntimeError::TensorSize { tensor, found, expected });
                    }
                }
                delta.parts.push(PartDelta {
                    first,
                    a: matrix(rank, cols, a)?,
                    b: matrix(rows, rank, b)?,
                    scale: *scale,
                });
            }
            first += linear.rows as usize;
        }
        Ok(delta)
    }

    fn add(
        &self,
        pool: &ThreadPool,
        rows: &[usize],
        x: &[f32],
        out: &mut [f32],
        width: usize,
        scratch: &mut LoraScratch,
    ) {
        let Some(any) = self.parts.first() else { return };
        let (cols, count) = (any.a.cols(), rows.len());
        let LoraScratch { gathered, shrunk, expanded, activations } = scratch;
        gathered.clear();
        rows.iter().for_each(|row| gathered.extend_from_slice(&x[row * cols..(row + 1) * cols]));
        for PartDelta { first, a, b, scale } in &self.parts {
            shrunk.resize(count * a.rows(), 0.0);
            matmul_many(pool, &[a], gathered, count, shrunk, activations);
            expanded.resize(count * b.rows(), 0.0);
            matmul_many(pool, &[b], shrunk, count, expanded, activations);
            for (row, added) in rows.iter().zip(expanded.chunks_exact(b.rows())) {
                let out = &mut out[row * width + first..][..b.rows()];
                out.iter_mut().zip(added).for_each(|(out, added)| *out += scale * added);
            }
        }
    }
}
