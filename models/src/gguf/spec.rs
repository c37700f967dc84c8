//! A file's metadata as a [`ModelSpec`].
//!
//! Keys and defaults are those of llama.cpp (`src/llama-arch.cpp`, `src/llama-model.cpp`, `src/models/*.cpp`). What it knows
//! from a tensor being there (biases, a separate output matrix, rotary factors) is known from that here too. Two things are
//! read that llama.cpp leaves aside: windows of architectures for which it has none, because the models were trained with
//! them, and the keys by which our own writer says what an architecture implies otherwise.

use llmlab_quant::WeightFormat;

use crate::error::ModelError;
use crate::gguf::arch::Arch;
use crate::gguf::file::GgufFile;
use crate::gguf::keys::Keys;
use crate::gguf::rope;
use crate::gguf::value::Value;
use crate::spec::{Activation, Family, LayerSpec, ModelSpec, MoeSpec};

// Upper bounds, each some times the largest published model; they keep products far from overflow.
const MAX_VOCAB: u64 = 1 << 22;
const MAX_WIDTH: u32 = 1 << 17;
const MAX_FFN: u32 = 1 << 20;
const MAX_LAYERS: u32 = 1024;
const MAX_HEADS: u32 = 1024;
const MAX_HEAD_DIM: u32 = 1024;
const MAX_EXPERTS: u32 = 1024;
pub(crate) const MAX_POSITIONS: u32 = 1 << 24;
const MAX_CAP: f64 = 1e6;

/// Texts by which chat models end a turn. A file names one token as the end of text; llama.cpp finds the others by these
/// texts, and a generation that ran over them would never stop.
const END_OF_TURN: [&str; 6] =
    ["<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>"];
const CONTROL: i128 = 3;

impl GgufFile {
    /// The architecture, where it is one with a forward pass here.
    pub(crate) fn arch(&self) -> Result<Arch, ModelError> {
        const KEY: &str = "general.architecture";
        let keys = Keys::new(self, "");
        if let Some(count) = keys.nonzero("split.count", u32::MAX)?.filter(|count| *count > 1) {
            let problem = format!("this is one of {count} files; accepted are models in one file");
            return keys.fail("split.count", problem);
        }
        let found = keys.text(KEY)?;
        match Arch::ALL.into_iter().find(|arch| Some(arch.name()) == found) {
            Some(arch) => Ok(arch),
            None => {
                let accepted = Arch::ALL.map(Arch::name).join(", ");
                let found = found.map_or("missing".into(), |name| format!("{name:.80?} is not supported"));
                keys.fail(KEY, format!("{found}; accepted are {accepted}"))
            }
        }
    }

    /// The model's shape. Norms hold `1 + w` already where Gemma's own checkpoints hold `w`, so
    /// [`ModelSpec::norm_plus_one`] is false for every file.
    pub fn spec(&self) -> Result<ModelSpec, ModelError> {
        let arch = self.arch()?;
        Reader { file: self, keys: Keys::new(self, arch.name()), arch }.spec()
    }
}

struct Reader<'a> {
    file: &'a GgufFile,
    keys: Keys<'a>,
    arch: Arch,
}

impl Reader<'_> {
    fn spec(&self) -> Result<ModelSpec, ModelError> {
        let (keys, arch) = (&self.keys, self.arch);
        let num_layers = keys.required(".block_count", MAX_LAYERS)?;
        if num_layers as usize > self.file.tensors().len() {
            let problem = format!("{num_layers} layers, and {} tensors in all", self.file.tensors().len());
            return keys.fail(".block_count", problem);
        }
        let hidden_size = keys.required(".embedding_length", MAX_WIDTH)?;
        let num_heads = keys.required(".attention.head_count", MAX_HEADS)?;
        let num_kv_heads = keys.optional(".attention.head_count_kv", MAX_HEADS)?.unwrap_or(num_heads);
        if !num_heads.is_multiple_of(num_kv_heads) {
            let problem = format!("{num_kv_heads} does not divide the {num_heads} heads");
            return keys.fail(".attention.head_count_kv", problem);
        }
        let head_dim = self.head_dim(hidden_size, num_heads)?;
        let vocab_size = self.vocab_size(hidden_size)?;
        let moe = self.moe(num_layers)?;
        let intermediate_size = match (keys.optional(".feed_forward_length", MAX_FFN)?, &moe) {
            (Some(width), _) => width,
            (None, Some(moe)) => moe.expert_intermediate,
            (None, None) => keys.required(".feed_forward_length", MAX_FFN)?,
        };
        let (layers, ropes) = self.layers_and_ropes(num_layers, head_dim)?;
        let (score_cap, logit_cap) = arch.default_softcaps();
        let cap =
            |key: &str, default| keys.number(key, MAX_CAP).map(|cap| cap.map(|cap| cap as f32).or(default));
        let attention_scale = match keys.number(".attention.scale", MAX_CAP)? {
            Some(scale) => scale as f32,
            None => arch.default_attention_scale(num_layers, hidden_size, num_heads, head_dim),
        };
        let Some(rms_norm_eps) = keys.number(".attention.layer_norm_rms_epsilon", 0.1)? else {
            return keys
                .fail(".attention.layer_norm_rms_epsilon", "missing; needed is a number above 0".into());
        };
        Ok(ModelSpec {
            name: self.name()?,
            family: self.family(moe.is_some(), layers.iter().any(|layer| layer.window.is_some())),
            vocab_size,
            hidden_size,
            intermediate_size,
            num_layers,
            num_heads,
            num_kv_heads,
            head_dim,
            max_position_embeddings: keys.required(".context_length", MAX_POSITIONS)?,
            rms_norm_eps: rms_norm_eps as f32,
            tie_word_embeddings: !self.has("output.weight"),
            bos_token_id: keys.token("tokenizer.ggml.bos_token_id", vocab_size)?,
            eos_token_ids: self.end_tokens(vocab_size)?,
            dtype: self.dtype(),
            activation: if arch.is_gemma() { Activation::GeluTanh } else { Activation::Silu },
            qkv_bias: self.has("blk.0.attn_q.bias") || self.has("blk.0.attn_qkv.bias"),
            o_bias: self.has("blk.0.attn_output.bias"),
            mlp_bias: self.has("blk.0.ffn_down.bias"),
            qk_norm: arch.qk_norm(),
            norm_plus_one: false,
            sandwich_norms: arch.is_gemma(),
            embedding_scale: if arch.is_gemma() { f64::from(hidden_size).sqrt() as f32 } else { 1.0 },
            attention_scale,
            attention_softcap: cap(".attn_logit_softcapping", score_cap)?,
            logit_softcap: cap(".final_logit_softcapping", logit_cap)?,
            layers,
            ropes,
            moe,
        })
    }

    fn has(&self, tensor: &str) -> bool {
        self.file.tensor(tensor).is_some()
    }

    /// One file format for three families. What tells them apart is all that differs in the forward pass.
    fn family(&self, experts: bool, windows: bool) -> Family {
        match self.arch {
            Arch::Llama if experts => Family::Mixtral,
            Arch::Llama if windows => Family::Mistral,
            Arch::Llama => Family::Llama,
            Arch::Qwen2 => Family::Qwen2,
            Arch::Qwen2Moe => Family::Qwen2Moe,
            Arch::Qwen3 => Family::Qwen3,
            Arch::Qwen3Moe => Family::Qwen3Moe,
            Arch::Gemma2 => Family::Gemma2,
            Arch::Gemma3 => Family::Gemma3,
            Arch::Phi3 => Family::Phi3,
        }
    }

    fn name(&self) -> Result<String, ModelError> {
        let stem = || self.file.path().file_stem().map(|stem| stem.to_string_lossy().into_owned());
        let named = self.keys.text("general.name")?.filter(|name| !name.is_empty() && name.len() <= 200);
        Ok(named.map(String::from).or_else(stem).unwrap_or_else(|| "model".into()))
    }

    fn head_dim(&self, hidden_size: u32, num_heads: u32) -> Result<u32, ModelError> {
        let keys = &self.keys;
        let head_dim = match keys.optional(".attention.key_length", MAX_HEAD_DIM)? {
            Some(head_dim) => head_dim,
            None if hidden_size.is_multiple_of(num_heads) => hidden_size / num_heads,
            None => {
                let problem =
                    format!("missing, and {num_heads} heads do not divide a width of {hidden_size}");
                return keys.fail(".attention.key_length", problem);
            }
        };
        if !head_dim.is_multiple_of(2) || head_dim > MAX_HEAD_DIM {
            let problem = format!("{head_dim} is not an even number up to {MAX_HEAD_DIM}");
            return keys.fail(".attention.key_length", problem);
        }
        let value_length = keys.optional(".attention.value_length", MAX_HEAD_DIM)?.unwrap_or(head_dim);
        if value_length != head_dim {
            let problem =
                format!("{value_length} differs from the {head_dim} of keys; accepted are equal ones");
            return keys.fail(".attention.value_length", problem);
        }
        Ok(head_dim)
    }

    fn vocab_size(&self, hidden_size: u32) -> Result<u32, ModelError> {
        const NAME: &str = "token_embd.weight";
        let Some(embedding) = self.file.tensor(NAME) else {
            return Err(self.file.tensor_error(NAME, "is not in this file".into()));
        };
        match embedding.shape() {
            [rows, cols] if *cols == u64::from(hidden_size) && *rows <= MAX_VOCAB => Ok(*rows as u32),
            shape => {
                let problem = format!("shape {shape:?}; needed is [up to {MAX_VOCAB}, {hidden_size}]");
                Err(self.file.tensor_error(NAME, problem))
            }
        }
    }

    fn layers_and_ropes(
        &self,
        num_layers: u32,
        head_dim: u32,
    ) -> Result<(Vec<LayerSpec>, Vec<crate::spec::RopeSpec>), ModelError> {
        const WINDOW: &str = ".attention.sliding_window";
        let window = match self.keys.value(WINDOW) {
            Some(_) => self.keys.nonzero(WINDOW, u32::MAX)?,
            None => self.arch.default_window(),
        };
        let slides = self.pattern(num_layers)?;
        let ropes = rope::read(&self.keys, self.file, self.arch, head_dim, window.is_some())?;
        let layers = slides
            .into_iter()
            .map(|slides| {
                let window = window.filter(|_| slides);
                // With two rotary embeddings the second is that of the layers with a window.
                LayerSpec { window, rope: u8::from(window.is_some() && ropes.len() > 1) }
            })
            .collect();
        Ok((layers, ropes))
    }

    /// Which layers have the window: a list, or a number `n` for "all but every n-th".
    fn pattern(&self, num_layers: u32) -> Result<Vec<bool>, ModelError> {
        const KEY: &str = ".attention.sliding_window_pattern";
        match self.keys.value(KEY) {
            None => Ok((0..num_layers).map(|layer| self.arch.default_pattern(layer)).collect()),
            Some(Value::Array(list)) => {
                let slides = |value: Value<'_>| match value {
                    Value::Bool(slides) => Some(slides),
                    other => other.integer().map(|number| number != 0),
                };
                if list.len() != num_layers as usize {
                    let problem = format!("{} entries for {num_layers} layers", list.len());
                    return self.keys.fail(KEY, problem);
                }
                match list.iter().map(slides).collect() {
                    Some(pattern) => Ok(pattern),
                    None => {
                        self.keys.fail(KEY, format!("entries of type {:?}; accepted is Bool", list.kind()))
                    }
                }
            }
            Some(_) => {
                let every = self.keys.required(KEY, MAX_LAYERS)?;
                Ok((0..num_layers).map(|layer| layer % every < every - 1).collect())
            }
        }
    }

    fn moe(&self, num_layers: u32) -> Result<Option<MoeSpec>, ModelError> {
        let keys = &self.keys;
        let Some(experts) = keys.nonzero(".expert_count", MAX_EXPERTS)? else {
            if matches!(self.arch, Arch::Qwen2Moe | Arch::Qwen3Moe) {
                return keys.fail(".expert_count", "missing; needed is the number of experts".into());
            }
            return Ok(None);
        };
        if !matches!(self.arch, Arch::Llama | Arch::Qwen2Moe | Arch::Qwen3Moe) {
            let problem = format!("experts in {} are not supported", self.arch.name());
            return keys.fail(".expert_count", problem);
        }
        let experts_per_token = keys.required(".expert_used_count", experts)?;
        let width = keys.optional(".feed_forward_length", MAX_FFN)?;
        let expert_intermediate = match (keys.nonzero(".expert_feed_forward_length", MAX_FFN)?, width) {
            (Some(width), _) => width,
            (None, Some(width)) if self.arch == Arch::Llama => width,
            (None, Some(width)) if width >= experts_per_token => width / experts_per_token,
            _ => return keys.fail(".expert_feed_forward_length", "missing".into()),
        };
        let shared = keys.nonzero(".expert_shared_feed_forward_length", MAX_FFN)?;
        let normalize = keys.flag(".expert_weights_norm")?;
        let dense_layers: Vec<bool> =
            (0..num_layers).map(|layer| self.has(&format!("blk.{layer}.ffn_gate.weight"))).collect();
        // Names are made for every expert of every layer, so their number must be one the file pays for.
        for layer in (0..num_layers).filter(|layer| !dense_layers[*layer as usize]) {
            let name = format!("blk.{layer}.ffn_down_exps.weight");
            let stacked = self.file.tensor(&name).map(|tensor| tensor.shape()[0]);
            let single = || self.has(&format!("blk.{layer}.ffn_down.{}.weight", experts - 1));
            if stacked.map_or_else(single, |found| found == u64::from(experts)) {
                continue;
            }
            return Err(self.file.tensor_error(&name, format!("does not hold {experts} experts")));
        }
        Ok(Some(MoeSpec {
            experts,
            experts_per_token,
            expert_intermediate,
            normalize_top_k: normalize.unwrap_or(self.arch.default_normalize_top_k()),
            shared_intermediate: match self.arch {
                Arch::Qwen2Moe => shared.or(width),
                _ => None,
            },
            dense_layers,
        }))
    }

    /// The end of text, of a turn, of a message, and tokens with texts that mean the same.
    fn end_tokens(&self, vocab_size: u32) -> Result<Vec<u32>, ModelError> {
        let mut ids = Vec::new();
        for key in ["eos", "eot", "eom"] {
            ids.extend(self.keys.token(&format!("tokenizer.ggml.{key}_token_id"), vocab_size)?);
        }
        let (tokens, types) =
            (self.keys.array("tokenizer.ggml.tokens")?, self.keys.array("tokenizer.ggml.token_type")?);
        if let (Some(tokens), Some(types)) = (tokens, types) {
            let control = tokens.iter().zip(types.iter()).zip(0..vocab_size);
            let control = control.filter(|((_, kind), _)| kind.integer() == Some(CONTROL));
            ids.extend(control.filter_map(|((text, _), id)| {
                let text = str::from_utf8(text.str_bytes()?).ok()?;
                END_OF_TURN.contains(&text).then_some(id)
            }));
        }
        let mut seen = Vec::new();
        ids.retain(|id| {
            !seen.contains(id) && {
                seen.push(*id);
                true
            }
        });
        Ok(ids)
    }

    /// The format of most weights.
    fn dtype(&self) -> String {
        let mut values: Vec<(WeightFormat, u128)> = Vec::new();
        for tensor in self.file.tensors() {
            let count = u128::from(tensor.rows()) * u128::from(tensor.cols());
            match values.iter_mut().find(|(format, _)| *format == tensor.format) {
                Some((_, sum)) => *sum += count,
                None => values.push((tensor.format, count)),
            }
        }
        match values.into_iter().max_by_key(|(_, count)| *count).map(|(format, _)| format) {
            Some(WeightFormat::Bf16) => "bfloat16".into(),
            Some(WeightFormat::F16) => "float16".into(),
            Some(WeightFormat::F32) | None => "float32".into(),
            Some(format) => format.to_string(),
        }
    }
}
