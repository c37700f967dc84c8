//! Bytes of weights on one device, by class of tensor.

use std::collections::BTreeMap;
use std::ops::Range;

use llmlab_quant::TensorPlace;

use super::MemoryConfig;
use super::matrices::{self, Matrix, TensorClass};
use crate::architecture::{Architecture, Attention, Block, FeedForward, layers_of_stages};

/// The layers of one pipeline stage.
#[derive(Debug, Clone)]
pub(super) struct Stage {
    /// Counted from 0.
    pub index: u32,
    /// Of the model's layers.
    pub layers: Range<usize>,
    /// How many there are of each kind.
    pub blocks: Vec<(u32, Block)>,
    pub first: bool,
    pub last: bool,
}

/// Values and bytes of one class of tensor on one device.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ClassBytes {
    pub values: u64,
    pub bytes: u64,
}

/// The layers of each stage.
pub(super) fn stages(model: &Architecture, count: u32) -> Vec<Stage> {
    let mut first_layer = 0;
    (0..)
        .zip(layers_of_stages(model.num_layers(), count))
        .map(|(index, layers)| {
            let layers = first_layer..first_layer + layers as usize;
            first_layer = layers.end;
            let kinds = model.blocks.iter().enumerate().map(|(place, (_, block))| {
                let here = model.order[layers.clone()].iter().filter(|kind| **kind == place).count();
                (here as u32, *block)
            });
            Stage {
                index,
                blocks: kinds.filter(|(count, _)| *count > 0).collect(),
                first: index == 0,
                last: index + 1 == count,
                layers,
            }
        })
        .collect()
}

/// Of one device of the stage.
pub(super) fn by_class(
    model: &Architecture,
    stage: &Stage,
    config: &MemoryConfig,
) -> BTreeMap<TensorClass, ClassBytes> {
    let mut classes: BTreeMap<TensorClass, ClassBytes> = BTreeMap::new();
    let weights = config.weights.of(model);
    let mut add = |matrix: &Matrix, layer: usize, block: Option<&Block>| {
        let (rows, cols) = matrix.part(u64::from(config.tp));
        let place = place(model, matrix, layer, block);
        let entry = classes.entry(matrix.class).or_default();
        entry.values += matrix.count * rows * cols;
        entry.bytes += matrix.count * weights.matrix_bytes(matrix, rows, cols, &place);
    };
    let (first, last) = matrices::tables(model);
    // A tied table is at both ends of a pipeline.
    first.iter().filter(|_| stage.first).for_each(|matrix| add(matrix, 0, None));
    match last {
        Some(output) if stage.last => add(&output, 0, None),
        None if stage.last && !stage.first => add(&first[0], 0, None),
        _ => {}
    }
    let mut vectors = if stage.last { u64::from(model.outer_norm_values) } else { 0 };
    for (layer, block) in model.layers().enumerate().take(stage.layers.end).skip(stage.layers.start) {
        matrices::layer(model, block).iter().for_each(|matrix| add(matrix, layer, Some(block)));
        vectors += u64::from(block.norm_values);
    }
    let norms = ClassBytes { values: vectors, bytes: vectors * weights.vector_bytes() };
    classes.insert(TensorClass::Norms, norms);
    classes
}

fn place(model: &Architecture, matrix: &Matrix, layer: usize, block: Option<&Block>) -> TensorPlace {
    let gqa = block.map_or(1, |block| match block.attention {
        Attention::Grouped { heads, kv_heads, .. } => heads / kv_heads.max(1),
        Attention::Latent { .. } => 1,
    });
    // A model with experts in some layers has them in the eyes of a mix.
    let experts = model.blocks.iter().map(|(_, block)| match block.feed_forward {
        FeedForward::Experts { experts, .. } => experts,
        FeedForward::Dense { .. } => 0,
    });
    TensorPlace {
        role: matrix.role,
        layer,
        layers: model.num_layers() as usize,
        cols: matrix.cols as usize,
        gqa: gqa as usize,
        experts: experts.max().unwrap_or(0) as usize,
    }
}
