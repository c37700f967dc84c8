//! What a model costs: parameters, operations and bytes, from its shape alone.
//!
//! A multiply-add counts as 2 FLOPs, the convention of data sheets. Norms, activations, softmax and rotary embedding are
//! not counted: together they are under 1 % of the matrix work at any size that matters.

use llmlab_quant::WeightFormat;

use crate::spec::{ModelSpec, TensorRole, TensorSpec};

impl ModelSpec {
    /// Trainable values. A tied output projection is the embedding table and counts once.
    pub fn parameters(&self) -> u64 {
        self.tensors().iter().map(|tensor| tensor.elements()).sum()
    }

    /// FLOPs of all matrix products for one token, output projection included: 2 per weight. The embedding is a look-up
    /// and costs none; tied, the same table is also the output projection and is counted as that. Of experts, those one
    /// token uses.
    ///
    /// A prompt token whose logits nobody reads needs no output projection; subtract `2 * vocab * hidden` for those.
    pub fn linear_flops_per_token(&self) -> f64 {
        let tensors = self.tensors();
        let weights = tensors.iter().filter(|tensor| match tensor.role {
            TensorRole::Embedding => self.tie_word_embeddings,
            role => !role.is_vector(),
        });
        2.0 * weights.map(|tensor| self.share(tensor) * tensor.elements() as f64).sum::<f64>()
    }

    /// FLOPs of attention for one token, per token it attends to, over all layers: `q·k` and `p·v`, each
    /// `2 * num_heads * head_dim`. Grouped queries share keys but not work. Sliding windows are not taken off.
    pub fn attention_flops_per_token_per_context(&self) -> f64 {
        4.0 * f64::from(self.num_layers) * self.query_width() as f64
    }

    /// Bytes of weights read once per decode step, whatever the batch: every matrix of every layer, the output
    /// projection, and the norms in f32.
    ///
    /// The embedding table counts only when it is tied, because then it is the output projection and is read whole. An
    /// untied table is looked up, one row a token, and is left out; [`Self::stored_weight_bytes`] has it. Of experts, those
    /// one token uses: the least a step reads, reached at batch 1.
    pub fn weight_bytes(&self, format: WeightFormat) -> u64 {
        let tensors = self.tensors();
        let read =
            tensors.iter().filter(|tensor| tensor.role != TensorRole::Embedding || self.tie_word_embeddings);
        read.map(|tensor| (self.share(tensor) * tensor_bytes(format, tensor) as f64) as u64).sum()
    }

    /// Bytes of all weights in memory: what must fit on the device.
    pub fn stored_weight_bytes(&self, format: WeightFormat) -> u64 {
        self.tensors().iter().map(|tensor| tensor_bytes(format, tensor)).sum()
    }

    /// Bytes one token adds to the KV cache over all layers, keys and values, rounded up.
    pub fn kv_bytes_per_token(&self, bytes_per_value: f64) -> u64 {
        let values = 2 * u64::from(self.num_layers) * self.kv_width();
        (values as f64 * bytes_per_value).ceil() as u64
    }

    /// The part of a tensor that one token needs, on average over the experts of its layer.
    fn share(&self, tensor: &TensorSpec) -> f64 {
        match &self.moe {
            Some(moe) if tensor.routed => f64::from(moe.experts_per_token) / f64::from(moe.experts),
            _ => 1.0,
        }
    }
}

/// Vectors and routers stay f32 in every format: together they are under 0.1 % of a model, and rounding them is the one
/// rounding every later layer sees.
fn tensor_bytes(format: WeightFormat, tensor: &TensorSpec) -> u64 {
    let exact = tensor.role.is_vector() || tensor.role.is_router();
    tensor.bytes(if exact { WeightFormat::F32 } else { format })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::Preset;

    fn llama(hidden: u32, ffn: u32, layers: u32, heads: u32, kv_heads: u32, vocab: u32) -> ModelSpec {
        ModelSpec {
            name: "worked example".into(),
            vocab_size: vocab,
            hidden_size: hidden,
            intermediate_size: ffn,
            num_layers: layers,
            num_heads: heads,
            num_kv_heads: kv_heads,
            head_dim: hidden / heads,
            tie_word_embeddings: false,
            ..Preset::Llama1_1b.spec()
        }
        .with_plain_attention(10_000.0)
    }

    /// Llama-1 and 2 7B: 6,738,415,616 parameters by the published checkpoints.
    #[test]
    fn llama_7b_has_the_published_size() {
        let model = llama(4096, 11008, 32, 32, 32, 32000);
        assert_eq!(model.parameters(), 6_738_415_616);
        let stored = model.stored_weight_bytes(WeightFormat::F16) as f64;
        assert!((stored / 13.5e9 - 1.0).abs() < 0.005, "13.5 GB in fp16, got {stored}");
        assert_eq!(model.kv_bytes_per_token(2.0), 524_288);
        let at_4096 = (model.kv_bytes_per_token(2.0) * 4096) as f64;
        assert!((at_4096 / 2.147_483_648e9 - 1.0).abs() < 1e-12, "2.1 GB decimal, got {at_4096}");
        // 2 FLOPs for each weight but the embedding and the norms.
        let linear = 6_738_415_616u64 - 32000 * 4096 - 65 * 4096;
        assert_eq!(model.linear_flops_per_token(), 2.0 * linear as f64);
        assert_eq!(model.attention_flops_per_token_per_context(), 4.0 * 32.0 * 4096.0);
    }

    /// Llama-2 70B: 68,976,648,192 parameters; 8 of 64 heads keep KV at 320 KiB a token in 16 bits.
    #[test]
    fn llama_2_70b_grouped_queries_shrink_the_cache_eightfold() {
        let model = llama(8192, 28672, 80, 64, 8, 32000);
        assert_eq!(model.parameters(), 68_976_648_192);
        assert_eq!(model.kv_bytes_per_token(2.0), 327_680);
        let full = llama(8192, 28672, 80, 64, 64, 32000);
        assert_eq!(full.kv_bytes_per_token(2.0), 8 * model.kv_bytes_per_token(2.0));
    }

    #[test]
    fn tinyllama_shape_has_the_published_parameter_count() {
        assert_eq!(Preset::Llama1_1b.spec().parameters(), 1_100_048_384);
    }

    #[test]
    fn an_untied_embedding_is_stored_but_not_read_each_step() {
        let model = llama(4096, 11008, 32, 32, 32, 32000);
        for format in WeightFormat::ALL {
            let row_scale = if matches!(format, WeightFormat::Int8 | WeightFormat::Fp8) { 4 } else { 0 };
            let table = 32000 * (format.row_bytes(4096) + row_scale) as u64;
            assert_eq!(model.stored_weight_bytes(format) - model.weight_bytes(format), table, "{format}");
        }
        let tied = ModelSpec { tie_word_embeddings: true, ..model.clone() };
        assert_eq!(tied.stored_weight_bytes(WeightFormat::Bf16), tied.weight_bytes(WeightFormat::Bf16));
        assert_eq!(tied.weight_bytes(WeightFormat::Bf16), model.weight_bytes(WeightFormat::Bf16));
        assert_eq!(tied.linear_flops_per_token(), model.linear_flops_per_token());
    }

    #[test]
    fn norms_stay_f32_in_every_format() {
        let model = llama(4096, 11008, 32, 32, 32, 32000);
        let matrices = model.parameters() - 65 * 4096;
        assert_eq!(model.stored_weight_bytes(WeightFormat::Q4_0), matrices / 32 * 18 + 65 * 4096 * 4);
    }

    #[test]
    fn one_byte_and_fractional_kv_formats() {
        let model = llama(4096, 11008, 32, 32, 32, 32000);
        assert_eq!(model.kv_bytes_per_token(1.0), 262_144);
        assert_eq!(model.kv_bytes_per_token(1.0625), 278_528, "8-bit blocks of 32 with an f16 scale");
    }
}
