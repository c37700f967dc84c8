//! Reads a model's tensors one by one and packs them, so that memory peaks little above the packed size.

use llmlab_kernels::{Isa, PackedMatrix, ThreadPool, WeightFormat};
use llmlab_models::{ModelSpec, WeightSource};

use crate::config::RuntimeError;

/// One decoder layer. Matrices are [out, in].
pub struct LayerWeights {
    pub input_norm: Vec<f32>,
    /// Query, key and value rows, in this order: one product reads the normed input once.
    pub qkv: PackedMatrix,
    pub o: PackedMatrix,
    pub post_attention_norm: Vec<f32>,
    /// Gate rows, then up rows.
    pub gate_up: PackedMatrix,
    pub down: PackedMatrix,
}

pub struct LlamaWeights {
    /// [vocab, hidden]; also the output projection of a tied model.
    pub embedding: PackedMatrix,
    pub layers: Vec<LayerWeights>,
    pub final_norm: Vec<f32>,
    pub untied_lm_head: Option<PackedMatrix>,
}

impl LlamaWeights {
    /// At most the f32 values of one fused matrix exist beside the packed ones.
    pub fn load(
        spec: &ModelSpec,
        source: &dyn WeightSource,
        format: WeightFormat,
        isa: Isa,
        pool: &ThreadPool,
    ) -> Result<Self, RuntimeError> {
        let loader = Loader { source, format, isa, pool };
        let (hidden, ffn, vocab) =
            (spec.hidden_size as usize, spec.intermediate_size as usize, spec.vocab_size as usize);
        let (query, kv) = (spec.query_width() as usize, spec.kv_width() as usize);
        let embedding = loader.matrix(&[("model.embed_tokens.weight".into(), vocab)], hidden)?;
        let mut layers = Vec::with_capacity(spec.num_layers as usize);
        for layer in 0..spec.num_layers {
            let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
            layers.push(LayerWeights {
                input_norm: loader.vector(name("input_layernorm"), hidden)?,
                qkv: loader.matrix(
                    &[
                        (name("self_attn.q_proj"), query),
                        (name("self_attn.k_proj"), kv),
                        (name("self_attn.v_proj"), kv),
                    ],
                    hidden,
                )?,
                o: loader.matrix(&[(name("self_attn.o_proj"), hidden)], query)?,
                post_attention_norm: loader.vector(name("post_attention_layernorm"), hidden)?,
                gate_up: loader
                    .matrix(&[(name("mlp.gate_proj"), ffn), (name("mlp.up_proj"), ffn)], hidden)?,
                down: loader.matrix(&[(name("mlp.down_proj"), hidden)], ffn)?,
            });
        }
        let final_norm = loader.vector("model.norm.weight".into(), hidden)?;
        let untied_lm_head = if spec.tie_word_embeddings {
            None
        } else {
            Some(loader.matrix(&[("lm_head.weight".into(), vocab)], hidden)?)
        };
        Ok(LlamaWeights { embedding, layers, final_norm, untied_lm_head })
    }

    pub fn lm_head(&self) -> &PackedMatrix {
        self.untied_lm_head.as_ref().unwrap_or(&self.embedding)
    }

    /// Everything kept in memory, padding of the packed tiles included.
    pub fn bytes(&self) -> u64 {
        let head = self.untied_lm_head.as_ref().map_or(0, PackedMatrix::bytes);
        self.layer_bytes() + (self.embedding.bytes() + head + 4 * self.final_norm.len()) as u64
    }

    /// The decoder layers alone: what every step reads whole.
    pub fn layer_bytes(&self) -> u64 {
        let layer = |l: &LayerWeights| {
            let matrices = l.qkv.bytes() + l.o.bytes() + l.gate_up.bytes() + l.down.bytes();
            matrices + 4 * (l.input_norm.len() + l.post_attention_norm.len())
        };
        self.layers.iter().map(|l| layer(l) as u64).sum()
    }
}

pub(crate) struct Loader<'a> {
    pub source: &'a dyn WeightSource,
    pub format: WeightFormat,
    pub isa: Isa,
    pub pool: &'a ThreadPool,
}

impl Loader<'_> {
    /// The named tensors, each of so many rows, one below the other as a single matrix of `cols` columns.
    pub fn matrix(&self, parts: &[(String, usize)], cols: usize) -> Result<PackedMatrix, RuntimeError> {
        let mut values = Vec::new();
        for (name, rows) in parts {
            let part = self.vector(name.clone(), rows * cols)?;
            if parts.len() == 1 {
                values = part;
            } else {
                values.extend_from_slice(&part);
            }
        }
        let rows = parts.iter().map(|(_, rows)| rows).sum();
        PackedMatrix::pack_parallel(self.pool, self.format, rows, cols, &values, self.isa).map_err(|source| {
            let names: Vec<&str> = parts.iter().map(|(name, _)| name.as_str()).collect();
            RuntimeError::Pack { tensor: names.join(" + "), source }
        })
    }

    pub fn vector(&self, name: String, expected: usize) -> Result<Vec<f32>, RuntimeError> {
        let values = self.source.tensor(&name)?;
        if values.len() != expected {
            return Err(RuntimeError::TensorSize { tensor: name, found: values.len(), expected });
        }
        Ok(values)
    }
}
