//! A decoder's weights, packed: what each part of the network multiplies with.
//!
//! Reading order: this file (what there is), [`projection`] (matrices that read the same input), [`loader`] (where the
//! values come from and in which format they are packed).

pub mod loader;
pub mod projection;

pub use projection::{Projection, ProjectionScratch};

pub struct DecoderWeights {
    /// [vocab, hidden]; also the output projection of a tied model.
    pub embedding: Projection,
    pub layers: Vec<LayerWeights>,
    pub final_norm: Vec<f32>,
    pub untied_head: Option<Projection>,
}

/// One decoder layer. Norm weights are as they multiply: a family's `1 + w` is already added.
pub struct LayerWeights {
    pub attention: AttentionWeights,
    /// Norm of the residual stream before the feed-forward half.
    pub feed_forward_norm: Vec<f32>,
    pub feed_forward: FeedForward,
    /// Norm of what the feed-forward half adds, where the family has one.
    pub feed_forward_output_norm: Option<Vec<f32>>,
}

pub struct AttentionWeights {
    /// Norm of the residual stream before attention.
    pub input_norm: Vec<f32>,
    /// Query, key and value rows, in this order.
    pub qkv: Projection,
    /// Norms over each head, [head_dim].
    pub q_norm: Option<Vec<f32>>,
    pub k_norm: Option<Vec<f32>>,
    pub o: Projection,
    /// Norm of what attention adds, where the family has one.
    pub output_norm: Option<Vec<f32>>,
}

pub enum FeedForward {
    Dense(Mlp),
    Experts(Experts),
}

/// `down(activation(gate(x)) * up(x))`.
pub struct Mlp {
    /// Gate rows, then up rows.
    pub gate_up: Projection,
    pub down: Projection,
}

/// A mixture of experts.
pub struct Experts {
    /// Rows of the experts' router, then the row of the shared expert's gate where there is one; always f32, because a
    /// rounded router sends tokens to other experts.
    pub router: Projection,
    pub experts: Vec<Mlp>,
    /// Computes every token.
    pub shared: Option<Mlp>,
}

impl DecoderWeights {
    pub fn head(&self) -> &Projection {
        self.untied_head.as_ref().unwrap_or(&self.embedding)
    }

    /// Everything kept in memory, padding of the packed tiles included.
    pub fn bytes(&self) -> u64 {
        let head = self.untied_head.as_ref().map_or(0, Projection::bytes);
        let layers: u64 = self.layers.iter().map(|l| l.attention.bytes() + l.feed_forward_bytes()).sum();
        layers + self.embedding.bytes() + head + 4 * self.final_norm.len() as u64
    }

    /// One row of the embedding table.
    pub fn embedding_row_bytes(&self) -> u64 {
        self.embedding.bytes() / self.embedding.rows() as u64
    }
}

impl AttentionWeights {
    pub fn bytes(&self) -> u64 {
        let norms =
            [Some(&self.input_norm), self.q_norm.as_ref(), self.k_norm.as_ref(), self.output_norm.as_ref()];
        self.qkv.bytes() + self.o.bytes() + vector_bytes(norms)
    }
}

impl LayerWeights {
    /// The feed-forward half with its norms, all experts included.
    pub fn feed_forward_bytes(&self) -> u64 {
        let inside = match &self.feed_forward {
            FeedForward::Dense(mlp) => mlp.bytes(),
            FeedForward::Experts(moe) => moe.every_step_bytes() + moe.routed_bytes(),
        };
        inside + self.feed_forward_norm_bytes()
    }

    pub fn feed_forward_norm_bytes(&self) -> u64 {
        vector_bytes([Some(&self.feed_forward_norm), self.feed_forward_output_norm.as_ref()])
    }
}

impl Mlp {
    pub fn bytes(&self) -> u64 {
        self.gate_up.bytes() + self.down.bytes()
    }
}

impl Experts {
    /// What is read whatever the router says.
    pub fn every_step_bytes(&self) -> u64 {
        self.router.bytes() + self.shared.as_ref().map_or(0, Mlp::bytes)
    }

    /// All experts that only some tokens use.
    pub fn routed_bytes(&self) -> u64 {
        self.experts.iter().map(Mlp::bytes).sum()
    }
}

fn vector_bytes<const N: usize>(vectors: [Option<&Vec<f32>>; N]) -> u64 {
    vectors.into_iter().flatten().map(|vector| 4 * vector.len() as u64).sum()
}
