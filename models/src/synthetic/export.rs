//! A synthetic model as a Hugging Face folder, for other servers to load: the same weights everywhere, nothing downloaded.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use half::{bf16, f16};
use llmlab_quant::WeightFormat;
use rayon::prelude::*;
use safetensors::{Dtype, View};
use serde_json::{Value, json};

use crate::error::ModelError;
use crate::files::read_error;
use crate::spec::{ModelSpec, TensorSpec};
use crate::synthetic::values::SyntheticWeights;
use crate::synthetic::{CHAT_TEMPLATE, Preset};
use crate::tokenizer::byte_level::{BOS_TOKEN_ID, ByteLevel, EOS_TOKEN_ID, FIRST_WORD, Piece, SPECIAL};

/// Writes `config.json`, `model.safetensors`, `tokenizer.json` and `tokenizer_config.json` into `folder`, which is made if
/// it does not exist. `dtype` is f32, bf16 or f16; the quantised formats have no place in safetensors and are an error.
/// One tensor at a time is in memory.
pub fn write_synthetic_hf(
    preset: Preset,
    seed: u64,
    folder: &Path,
    dtype: WeightFormat,
) -> Result<(), ModelError> {
    let (st_dtype, dtype_name) = match dtype {
        WeightFormat::F32 => (Dtype::F32, "float32"),
        WeightFormat::Bf16 => (Dtype::BF16, "bfloat16"),
        WeightFormat::F16 => (Dtype::F16, "float16"),
        _ => {
            let problem =
                format!("{dtype} weights cannot be written as safetensors; accepted are f32, bf16, f16");
            return Err(ModelError::Weights { path: folder.to_path_buf(), problem });
        }
    };
    let spec = preset.spec();
    fs::create_dir_all(folder).map_err(|error| read_error(folder, error))?;
    write_json(&folder.join("config.json"), &config(&spec, dtype_name))?;
    write_json(&folder.join("tokenizer.json"), &tokenizer(spec.vocab_size))?;
    write_json(&folder.join("tokenizer_config.json"), &tokenizer_config(&spec))?;

    let path = folder.join("model.safetensors");
    let source = SyntheticWeights::new(spec.clone(), seed);
    let tensors = spec.tensors().into_iter().map(|tensor| {
        let shape = tensor.shape.iter().map(|&size| size as usize).collect();
        (tensor.name.clone(), LazyTensor { source: &source, tensor, shape, dtype: st_dtype })
    });
    // transformers refuses a file without this key.
    let metadata = [("format".to_string(), "pt".to_string())].into();
    safetensors::serialize_to_file(tensors, Some(metadata), &path)
        .map_err(|error| ModelError::Weights { path, problem: error.to_string() })
}

/// A tensor that is generated while the file is written.
struct LazyTensor<'a> {
    source: &'a SyntheticWeights,
    tensor: TensorSpec,
    shape: Vec<usize>,
    dtype: Dtype,
}

impl View for LazyTensor<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let values = self.source.generate(&self.tensor);
        Cow::Owned(match self.dtype {
            Dtype::BF16 => to_bytes(&values, |value| bf16::from_f32(value).to_le_bytes()),
            Dtype::F16 => to_bytes(&values, |value| f16::from_f32(value).to_le_bytes()),
            _ => to_bytes(&values, f32::to_le_bytes),
        })
    }

    fn data_len(&self) -> usize {
        self.tensor.elements() as usize * self.dtype.bitsize() / 8
    }
}

fn to_bytes<const N: usize>(values: &[f32], bytes: impl Fn(f32) -> [u8; N] + Sync) -> Vec<u8> {
    let mut out = vec![0; values.len() * N];
    out.par_chunks_mut(N << 16).zip(values.par_chunks(1 << 16)).for_each(|(out, values)| {
        for (out, value) in out.as_chunks_mut::<N>().0.iter_mut().zip(values) {
            *out = bytes(*value);
        }
    });
    out
}

fn write_json(path: &Path, value: &Value) -> Result<(), ModelError> {
    fs::write(path, format!("{value:#}\n")).map_err(|error| read_error(path, error))
}

fn config(spec: &ModelSpec, dtype: &str) -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size,
        "num_hidden_layers": spec.num_layers,
        "num_attention_heads": spec.num_heads,
        "num_key_value_heads": spec.num_kv_heads,
        "head_dim": spec.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": spec.max_position_embeddings,
        "rms_norm_eps": short(spec.rms_norm_eps),
        "rope_theta": spec.ropes[0].theta,
        "rope_scaling": null,
        "tie_word_embeddings": spec.tie_word_embeddings,
        "attention_bias": false,
        "mlp_bias": false,
        "bos_token_id": spec.bos_token_id,
        "eos_token_id": spec.eos_token_ids,
        "torch_dtype": dtype,
    })
}

/// The shortest decimal of an f32: 1e-5 and not 0.000009999999747378752.
fn short(value: f32) -> f64 {
    value.to_string().parse().expect("the display form of a finite f32 is a number")
}

/// The byte-level tokenizer as a BPE model without merges: each byte stays its own token. Words are in the vocabulary, so
/// they decode, but no merge leads to one, so no text encodes to them.
fn tokenizer(vocab_size: u32) -> Value {
    let bytes = byte_characters();
    let byte_level = ByteLevel::new(vocab_size);
    let mut vocab = BTreeMap::new();
    for token in 0..vocab_size {
        let text = match byte_level.piece(token) {
            Piece::Byte(byte) => bytes[byte as usize].to_string(),
            Piece::Word(word) => word.bytes().map(|byte| bytes[byte as usize]).collect(),
            Piece::Nothing => SPECIAL[(token - 256) as usize].to_string(),
        };
        vocab.insert(text, token);
    }
    let added: Vec<Value> = (256..FIRST_WORD)
        .zip(SPECIAL)
        .map(|(id, content)| {
            json!({
                "id": id, "content": content, "special": true,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            })
        })
        .collect();
    let byte_level =
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false });
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": null,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": [],
        },
    })
}

/// GPT-2's `bytes_to_unicode`: printable bytes stand for themselves, the others for the characters from U+0100 on.
fn byte_characters() -> Vec<char> {
    let mut next = 0x100u32;
    (0..=255u8)
        .map(|byte| match byte {
            b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
            _ => {
                next += 1;
                char::from_u32(next - 1).expect("U+0100 to U+0143 are characters")
            }
        })
        .collect()
}

fn tokenizer_config(spec: &ModelSpec) -> Value {
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL[(BOS_TOKEN_ID - 256) as usize],
        "eos_token": SPECIAL[(EOS_TOKEN_ID - 256) as usize],
        "add_bos_token": false,
        "clean_up_tokenization_spaces": false,
        "model_max_length": spec.max_position_embeddings,
        "chat_template": CHAT_TEMPLATE,
    })
}
