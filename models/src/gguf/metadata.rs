//! A model's shape as metadata: the inverse of [`crate::gguf::spec`].

use std::path::Path;

use llmlab_quant::{WeightFormat, WeightRecipe};

use crate::error::ModelError;
use crate::gguf::arch::Arch;
use crate::gguf::container::{NewTensor, NewValue, header};
use crate::gguf::file::GgufFile;
use crate::gguf::rope;
use crate::read_at::ReadAt;
use crate::spec::{ModelSpec, MoeSpec};

/// Keys in the order they are written.
pub(crate) type NewKeys = Vec<(String, NewValue)>;

/// Tensors of rotary divisors by name.
pub(crate) type Divisors = Vec<(&'static str, Vec<f32>)>;

/// The version of ggml's block layouts, the only one since 2023.
const QUANTIZATION_VERSION: u32 = 2;

/// The keys that describe `spec` and the tensors of rotary divisors that belong to them, or what the format has no words for.
pub(crate) fn shape_keys(
    spec: &ModelSpec,
    main: WeightFormat,
    file_type: u32,
) -> Result<(NewKeys, Divisors), String> {
    let arch = Arch::of(spec.family);
    let mut keys: NewKeys = vec![
        ("general.architecture".into(), NewValue::Str(arch.name().into())),
        ("general.type".into(), NewValue::Str("model".into())),
        ("general.name".into(), NewValue::Str(spec.name.clone())),
        ("general.file_type".into(), NewValue::U32(file_type)),
    ];
    if main.block() > 1 {
        keys.push(("general.quantization_version".into(), NewValue::U32(QUANTIZATION_VERSION)));
    }
    let mut add = |key: &str, value| keys.push((format!("{}{key}", arch.name()), value));
    add(".vocab_size", NewValue::U32(spec.vocab_size));
    add(".context_length", NewValue::U32(spec.max_position_embeddings));
    add(".embedding_length", NewValue::U32(spec.hidden_size));
    add(".block_count", NewValue::U32(spec.num_layers));
    add(".feed_forward_length", NewValue::U32(spec.intermediate_size));
    add(".attention.head_count", NewValue::U32(spec.num_heads));
    add(".attention.head_count_kv", NewValue::U32(spec.num_kv_heads));
    add(".attention.key_length", NewValue::U32(spec.head_dim));
    add(".attention.value_length", NewValue::U32(spec.head_dim));
    add(".attention.layer_norm_rms_epsilon", NewValue::F32(spec.rms_norm_eps));
    let implied =
        arch.default_attention_scale(spec.num_layers, spec.hidden_size, spec.num_heads, spec.head_dim);
    if spec.attention_scale != implied {
        add(".attention.scale", NewValue::F32(spec.attention_scale));
    }
    if let Some(cap) = spec.attention_softcap {
        add(".attn_logit_softcapping", NewValue::F32(cap));
    }
    if let Some(cap) = spec.logit_softcap {
        add(".final_logit_softcapping", NewValue::F32(cap));
    }
    for (key, value) in window_keys(spec, arch)? {
        add(key, value);
    }
    if let Some(moe) = &spec.moe {
        for (key, value) in expert_keys(moe, arch) {
            add(key, value);
        }
    }
    let (rope_keys, tensors) = rope::write(spec).ok_or("the rotary embedding's scaling")?;
    for (key, value) in rope_keys {
        add(key, value);
    }
    Ok((keys, tensors))
}

fn window_keys(spec: &ModelSpec, arch: Arch) -> Result<Vec<(&'static str, NewValue)>, String> {
    const WINDOW: &str = ".attention.sliding_window";
    let mut windows: Vec<u32> = spec.layers.iter().filter_map(|layer| layer.window).collect();
    windows.dedup();
    match windows[..] {
        // Phi-3 without a window says so, as its converter does; Gemma 2 must, because it would have one.
        [] if arch == Arch::Phi3 || arch.default_window().is_some() => Ok(vec![(WINDOW, NewValue::U32(0))]),
        [] => Ok(Vec::new()),
        [window] => {
            let mut keys = vec![(WINDOW, NewValue::U32(window))];
            let slides: Vec<bool> = spec.layers.iter().map(|layer| layer.window.is_some()).collect();
            if !(0..).zip(&slides).all(|(layer, slides)| arch.default_pattern(layer) == *slides) {
                keys.push((".attention.sliding_window_pattern", NewValue::Bools(slides)));
            }
            Ok(keys)
        }
        _ => Err("windows of different widths".into()),
    }
}

fn expert_keys(moe: &MoeSpec, arch: Arch) -> Vec<(&'static str, NewValue)> {
    let mut keys = vec![
        (".expert_count", NewValue::U32(moe.experts)),
        (".expert_used_count", NewValue::U32(moe.experts_per_token)),
        (".expert_feed_forward_length", NewValue::U32(moe.expert_intermediate)),
    ];
    if let Some(width) = moe.shared_intermediate {
        keys.push((".expert_shared_feed_forward_length", NewValue::U32(width)));
    }
    if moe.normalize_top_k != arch.default_normalize_top_k() {
        keys.push((".expert_weights_norm", NewValue::Bool(moe.normalize_top_k)));
    }
    keys
}

/// `general.file_type` (llama.cpp's `llama_ftype`) of a recipe, or of the format of most weights.
pub(crate) fn file_type(recipe: WeightRecipe, main: WeightFormat) -> u32 {
    match recipe {
        WeightRecipe::Q3KM => 12,
        WeightRecipe::Q3KL => 13,
        WeightRecipe::Q4KM => 15,
        WeightRecipe::Q5KM => 17,
        _ => match main {
            WeightFormat::F32 => 0,
            WeightFormat::F16 => 1,
            WeightFormat::Q4_0 => 2,
            WeightFormat::Q4_1 => 3,
            WeightFormat::Q8_0 => 7,
            WeightFormat::Q5_0 => 8,
            WeightFormat::Q5_1 => 9,
            WeightFormat::Q2K => 10,
            WeightFormat::Q3K => 11,
            WeightFormat::Q4K => 14,
            WeightFormat::Q5K => 16,
            WeightFormat::Q6K => 18,
            WeightFormat::Iq4Nl => 25,
            WeightFormat::Bf16 => 32,
            other => unreachable!("{other} is refused before a file type is needed"),
        },
    }
}

/// Reads the header back before any weight is written, and fails where the shape in it is another one: a family's spec can
/// say more than the family's files can, and such a file would compute something else in silence.
pub(crate) fn check_reads_back(
    path: &Path,
    spec: &ModelSpec,
    keys: &[(String, NewValue)],
    tensors: &[NewTensor],
    divisors: &Divisors,
) -> Result<(), ModelError> {
    let bytes = header(keys, tensors);
    let source = Unwritten { header: bytes, tensors: tensors.to_vec(), divisors: divisors.clone() };
    let read = GgufFile::from_source(path, Box::new(source))?.spec()?;
    match difference(spec, &read) {
        None => Ok(()),
        Some(what) => Err(ModelError::Weights {
            path: path.to_path_buf(),
            problem: format!("GGUF files of {} models cannot say this model's {what}", spec.family),
        }),
    }
}

/// The first thing that differs in what is computed.
fn difference(a: &ModelSpec, b: &ModelSpec) -> Option<&'static str> {
    let lengths = |spec: &ModelSpec| [1, spec.max_position_embeddings];
    let turns = |spec: &ModelSpec| -> Vec<(Vec<Vec<f32>>, f32)> {
        let ropes = spec.layers.iter().map(|layer| &spec.ropes[usize::from(layer.rope)]);
        ropes
            .map(|rope| (lengths(spec).map(|length| rope.inv_freq(length)).to_vec(), rope.magnitude()))
            .collect()
    };
    // Rounded once more on the way into the file.
    let close = |a: f32, b: f32| (a - b).abs() <= 1e-6 * a.abs();
    let same_turns = || {
        turns(a).iter().zip(turns(b)).all(|((a, am), (b, bm))| {
            close(*am, bm) && a.iter().flatten().zip(b.iter().flatten()).all(|(a, b)| close(*a, *b))
        })
    };
    let windows = |spec: &ModelSpec| spec.layers.iter().map(|layer| layer.window).collect::<Vec<_>>();
    [
        (a.vocab_size == b.vocab_size, "vocabulary"),
        (
            (a.hidden_size, a.intermediate_size, a.num_layers)
                == (b.hidden_size, b.intermediate_size, b.num_layers),
            "width or depth",
        ),
        ((a.num_heads, a.num_kv_heads, a.head_dim) == (b.num_heads, b.num_kv_heads, b.head_dim), "heads"),
        (a.max_position_embeddings == b.max_position_embeddings, "context length"),
        (a.rms_norm_eps == b.rms_norm_eps, "norm epsilon"),
        (a.tie_word_embeddings == b.tie_word_embeddings, "output matrix"),
        (a.activation == b.activation, "activation"),
        ((a.qkv_bias, a.o_bias, a.mlp_bias) == (b.qkv_bias, b.o_bias, b.mlp_bias), "biases"),
        ((a.qk_norm, a.sandwich_norms) == (b.qk_norm, b.sandwich_norms), "norms"),
        (a.embedding_scale == b.embedding_scale, "embedding scale"),
        (a.attention_scale == b.attention_scale, "attention scale"),
        ((a.attention_softcap, a.logit_softcap) == (b.attention_softcap, b.logit_softcap), "soft caps"),
        (windows(a) == windows(b), "windows"),
        (a.moe == b.moe, "experts"),
        (same_turns(), "rotary embedding"),
    ]
    .into_iter()
    .find(|(same, _)| !same)
    .map(|(_, what)| what)
}

/// A file of which only the header and the rotary divisors exist yet.
struct Unwritten {
    header: Vec<u8>,
    tensors: Vec<NewTensor>,
    divisors: Divisors,
}

impl ReadAt for Unwritten {
    fn len_bytes(&self) -> std::io::Result<u64> {
        let mut bytes = self.header.len() as u64;
        for tensor in &self.tensors {
            bytes = bytes.next_multiple_of(crate::gguf::header::DEFAULT_ALIGNMENT) + tensor.bytes();
        }
        Ok(bytes)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        buffer.fill(0);
        let mut put = |start: u64, bytes: &[u8]| {
            let from = offset.max(start);
            let to = (offset + buffer.len() as u64).min(start + bytes.len() as u64);
            if from < to {
                let source = &bytes[(from - start) as usize..(to - start) as usize];
                buffer[(from - offset) as usize..(to - offset) as usize].copy_from_slice(source);
            }
        };
        put(0, &self.header);
        let mut start = self.header.len() as u64;
        for tensor in &self.tensors {
            start = start.next_multiple_of(crate::gguf::header::DEFAULT_ALIGNMENT);
            if let Some((_, values)) = self.divisors.iter().find(|(name, _)| *name == tensor.name) {
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                put(start, &bytes);
            }
            start += tensor.bytes();
        }
        Ok(())
    }
}
