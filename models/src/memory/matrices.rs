//! The matrices of a model, and how tensor parallelism divides each.
//!
//! As vLLM does it: columns of the output are divided in query, key, value, gate and up, those of the input in the two that
//! add to the residual stream, rows of the vocabulary in both tables. What has fewer heads than devices is copied.

use llmlab_quant::MatrixRole;

use crate::architecture::{Architecture, Attention, Block, FeedForward};

/// Rows of a table are padded to a multiple of this before they are divided (vLLM's `VocabParallelEmbedding`).
const VOCAB_PADDING: u64 = 64;

/// What a line of the plan is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TensorClass {
    Embedding,
    Positions,
    Attention,
    FeedForward,
    Experts,
    SharedExperts,
    Router,
    Norms,
    OutputProjection,
}

impl TensorClass {
    pub fn name(self) -> &'static str {
        match self {
            TensorClass::Embedding => "token embedding",
            TensorClass::Positions => "position table",
            TensorClass::Attention => "attention",
            TensorClass::FeedForward => "MLP",
            TensorClass::Experts => "routed experts",
            TensorClass::SharedExperts => "shared experts",
            TensorClass::Router => "routers",
            TensorClass::Norms => "norms and biases",
            TensorClass::OutputProjection => "output projection",
        }
    }
}

/// How a matrix is divided over the devices of a tensor-parallel group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Split {
    /// Rows of the output; the number of whole units (heads, columns) they come in, of which each device has at least one.
    Rows(u64),
    /// Columns of the input.
    Cols,
    /// Rows of a vocabulary.
    Vocab,
    /// Each device has all of it.
    Copied,
}

/// Matrices of one shape.
#[derive(Debug, Clone, Copy)]
pub(super) struct Matrix {
    pub class: TensorClass,
    pub role: MatrixRole,
    pub rows: u64,
    pub cols: u64,
    pub count: u64,
    pub split: Split,
    /// Of an expert that only some tokens use.
    pub routed: bool,
}

impl Matrix {
    /// Rows and columns of it on one of `devices`.
    pub fn part(&self, devices: u64) -> (u64, u64) {
        match self.split {
            Split::Rows(units) => (units.div_ceil(devices).max(1) * (self.rows / units), self.cols),
            Split::Cols => (self.rows, self.cols.div_ceil(devices)),
            Split::Vocab => (padded_vocab(self.rows, devices) / devices, self.cols),
            Split::Copied => (self.rows, self.cols),
        }
    }
}

/// Rows of a table over all devices.
pub(super) fn padded_vocab(rows: u64, devices: u64) -> u64 {
    rows.next_multiple_of(VOCAB_PADDING).next_multiple_of(devices)
}

/// The tables: the first for the first pipeline stage, the last for the last.
pub(super) fn tables(model: &Architecture) -> (Vec<Matrix>, Option<Matrix>) {
    let table = |class, role, rows, split| Matrix {
        class,
        role,
        rows: u64::from(rows),
        cols: u64::from(model.hidden_size),
        count: 1,
        split,
        routed: false,
    };
    let role = if model.tied_embeddings { MatrixRole::TiedEmbedding } else { MatrixRole::Embedding };
    let mut first = vec![table(TensorClass::Embedding, role, model.vocab_size, Split::Vocab)];
    if model.position_rows > 0 {
        first.push(table(TensorClass::Positions, MatrixRole::Embedding, model.position_rows, Split::Copied));
    }
    let last = table(TensorClass::OutputProjection, MatrixRole::Output, model.vocab_size, Split::Vocab);
    (first, (!model.tied_embeddings).then_some(last))
}

/// The matrices of one layer.
pub(super) fn layer(model: &Architecture, block: &Block) -> Vec<Matrix> {
    let mut matrices = attention(u64::from(model.hidden_size), &block.attention);
    matrices.extend(feed_forward(u64::from(model.hidden_size), &block.feed_forward));
    matrices
}

fn attention(hidden: u64, attention: &Attention) -> Vec<Matrix> {
    let matrix = |role, rows, cols, split| Matrix {
        class: TensorClass::Attention,
        role,
        rows,
        cols,
        count: 1,
        split,
        routed: false,
    };
    use MatrixRole::{AttentionOutput, Key, Query, Value};
    match *attention {
        Attention::Grouped { heads, kv_heads, head_dim, .. } => {
            let [heads, kv_heads, head_dim] = [heads, kv_heads, head_dim].map(u64::from);
            vec![
                matrix(Query, heads * head_dim, hidden, Split::Rows(heads)),
                matrix(Key, kv_heads * head_dim, hidden, Split::Rows(kv_heads)),
                matrix(Value, kv_heads * head_dim, hidden, Split::Rows(kv_heads)),
                matrix(AttentionOutput, hidden, heads * head_dim, Split::Cols),
            ]
        }
        Attention::Latent { heads, q_rank, kv_rank, rope_dim, nope_dim, v_dim } => {
            let [heads, kv_rank, rope, nope, v] = [heads, kv_rank, rope_dim, nope_dim, v_dim].map(u64::from);
            let query_rows = heads * (nope + rope);
            let mut matrices = match q_rank.map(u64::from) {
                Some(rank) => vec![
                    matrix(Query, rank, hidden, Split::Copied),
                    matrix(Query, query_rows, rank, Split::Rows(heads)),
                ],
                None => vec![matrix(Query, query_rows, hidden, Split::Rows(heads))],
            };
            matrices.extend([
                matrix(Key, kv_rank + rope, hidden, Split::Copied),
                matrix(Value, heads * (nope + v), kv_rank, Split::Rows(heads)),
                matrix(AttentionOutput, hidden, heads * v, Split::Cols),
            ]);
            matrices
        }
    }
}

fn feed_forward(hidden: u64, feed_forward: &FeedForward) -> Vec<Matrix> {
    let mlp = |class, width: u32, count: u32, gated| {
        let (width, count, routed) = (u64::from(width), u64::from(count), class == TensorClass::Experts);
        let up = Matrix {
            class,
            role: MatrixRole::Up,
            rows: width,
            cols: hidden,
            count,
            split: Split::Rows(width.max(1)),
            routed,
        };
        let gate = Matrix { role: MatrixRole::Gate, ..up };
        let down = Matrix { role: MatrixRole::Down, rows: hidden, cols: width, split: Split::Cols, ..up };
        let matrices = if gated { vec![gate, up, down] } else { vec![up, down] };
        matrices.into_iter().filter(|matrix| matrix.rows * matrix.cols > 0)
    };
    match *feed_forward {
        FeedForward::Dense { width, gated } => mlp(TensorClass::FeedForward, width, 1, gated).collect(),
        FeedForward::Experts { experts, width, shared_width, gated, .. } => {
            let router = Matrix {
                class: TensorClass::Router,
                role: MatrixRole::Router,
                rows: u64::from(experts),
                cols: hidden,
                count: 1,
                split: Split::Copied,
                routed: false,
            };
            let experts = mlp(TensorClass::Experts, width, experts, gated);
            let shared = mlp(TensorClass::SharedExperts, shared_width, 1, gated);
            experts.chain(shared).chain([router]).collect()
        }
    }
}
