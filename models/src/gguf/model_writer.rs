//! Any model as a GGUF file.

use std::io::Write;
use std::path::Path;

use llmlab_quant::{MatrixRole, StoredMatrix, TensorPlace, WeightFormat, WeightRecipe, quantize_matrix};
use rayon::prelude::*;

use crate::error::ModelError;
use crate::files::read_error;
use crate::gguf::container::{NewTensor, NewValue, write_container};
use crate::gguf::file::GgufFile;
use crate::gguf::metadata::{Divisors, NewKeys, check_reads_back, file_type, shape_keys};
use crate::gguf::names::{Place, hf_row, places};
use crate::gguf::tokenizer::is_phi3_name;
use crate::gguf::tokenizer_writer::{copied_keys, token_keys};
use crate::spec::{ModelSpec, TensorRole};
use crate::tokenizer::Tokenizer;
use crate::weights::WeightSource;

/// Rows quantized by one task: enough to hide the cost of handing them out.
const ROWS: usize = 64;

/// What a file is to hold.
#[derive(Clone, Copy)]
pub struct NewModel<'a> {
    pub spec: &'a ModelSpec,
    pub weights: &'a dyn WeightSource,
    /// The format of each matrix. Vectors and routers are f32, as in llama.cpp's own files.
    pub recipe: WeightRecipe,
    pub vocabulary: NewVocabulary<'a>,
    pub chat_template: Option<&'a str>,
}

/// Where the file's tokenizer comes from.
#[derive(Clone, Copy)]
pub enum NewVocabulary<'a> {
    /// A tokenizer of the kinds GGUF has: BPE over bytes, or SentencePiece's.
    Tokenizer(&'a Tokenizer),
    /// Another file's, key by key, chat template included.
    CopyOf(&'a GgufFile),
}

/// Writes `model` to `path`. One tensor at a time is in memory; the file appears under its name when it is complete.
///
/// With [`WeightRecipe::AsStored`] blocks are copied as they are. Fails before anything is written where the format cannot
/// say what the spec says, or the recipe asks for a format that GGUF does not have.
pub fn write_gguf(path: &Path, model: &NewModel<'_>) -> Result<(), ModelError> {
    let groups = groups(path, model)?;
    let (keys, divisors, tensors) = plan(path, model, &groups)?;
    check_reads_back(path, model.spec, &keys, &tensors, &divisors)?;
    write_container(path, &keys, &tensors, |index, out| match index.checked_sub(divisors.len()) {
        None => {
            let bytes: Vec<u8> = divisors[index].1.iter().flat_map(|value| value.to_le_bytes()).collect();
            out.write_all(&bytes).map_err(|error| read_error(path, error))
        }
        Some(index) => {
            let group = &groups[index];
            group.parts.iter().try_for_each(|place| write_part(path, model, place, group.format, out))
        }
    })
}

/// One tensor of the file, and the Hugging Face tensors it is made of, in order.
struct Group {
    parts: Vec<Place>,
    format: WeightFormat,
}

fn groups(path: &Path, model: &NewModel<'_>) -> Result<Vec<Group>, ModelError> {
    let mut groups: Vec<Group> = Vec::new();
    // The experts' matrices come interleaved: gate, up, down of the first, then of the second.
    let mut index = std::collections::HashMap::new();
    for place in places(model.spec) {
        let format = format_of(path, model, &place)?;
        let at = *index.entry(place.gguf.clone()).or_insert(groups.len());
        match groups.get_mut(at) {
            None => groups.push(Group { parts: vec![place], format }),
            Some(group) if group.format == format => group.parts.push(place),
            Some(group) => {
                let first = &group.parts[0].name;
                let problem =
                    format!("is stored as {format} and {first} as {}; one tensor holds both", group.format);
                return Err(ModelError::Tensor { path: path.to_path_buf(), tensor: place.name, problem });
            }
        }
    }
    Ok(groups)
}

fn format_of(path: &Path, model: &NewModel<'_>, place: &Place) -> Result<WeightFormat, ModelError> {
    if place.role.is_vector() {
        return Ok(WeightFormat::F32);
    }
    let spec = model.spec;
    let wanted = match role_of(place.role, spec.tie_word_embeddings) {
        None => None,
        Some(role) => model.recipe.format(&TensorPlace {
            role,
            layer: place.layer.unwrap_or(0) as usize,
            layers: spec.num_layers as usize,
            cols: place.shape[1] as usize,
            gqa: (spec.num_heads / spec.num_kv_heads) as usize,
            experts: spec.moe.as_ref().map_or(0, |moe| moe.experts as usize),
        }),
    };
    let format = match wanted {
        Some(format) => format,
        None => model.weights.format(&place.name)?,
    };
    if !format.is_gguf() {
        let accepted: Vec<String> = WeightFormat::ALL
            .iter()
            .filter(|format| format.is_gguf())
            .map(|format| format.to_string())
            .collect();
        let problem =
            format!("GGUF has no format {format}; accepted are {} and the mixes", accepted.join(", "));
        return Err(ModelError::Tensor { path: path.to_path_buf(), tensor: place.name.clone(), problem });
    }
    // Routers widen to f32 without changing a value; llama.cpp expects them so.
    Ok(if place.role.is_router() && format.block() == 1 { WeightFormat::F32 } else { format })
}

/// The role by which a recipe chooses; `None` where it is not asked.
fn role_of(role: TensorRole, tied: bool) -> Option<MatrixRole> {
    Some(match role {
        TensorRole::Embedding if tied => MatrixRole::TiedEmbedding,
        TensorRole::Embedding => MatrixRole::Embedding,
        TensorRole::LmHead => MatrixRole::Output,
        TensorRole::Query => MatrixRole::Query,
        TensorRole::Key => MatrixRole::Key,
        TensorRole::Value => MatrixRole::Value,
        TensorRole::Qkv => MatrixRole::Qkv,
        TensorRole::AttentionOutput => MatrixRole::AttentionOutput,
        TensorRole::Gate => MatrixRole::Gate,
        TensorRole::Up => MatrixRole::Up,
        TensorRole::GateUp => MatrixRole::GateUp,
        TensorRole::Down => MatrixRole::Down,
        TensorRole::Router | TensorRole::SharedGate => return None,
        TensorRole::Norm | TensorRole::HeadNorm | TensorRole::Bias => return None,
    })
}

/// Keys, rotary divisors, and descriptions: those of the divisors first, then one for each group.
fn plan(
    path: &Path,
    model: &NewModel<'_>,
    groups: &[Group],
) -> Result<(NewKeys, Divisors, Vec<NewTensor>), ModelError> {
    let spec = model.spec;
    let refuse = |what: String| ModelError::Weights {
        path: path.to_path_buf(),
        problem: format!("GGUF files of {} models cannot say this model's {what}", spec.family),
    };
    let main = model.recipe.base().unwrap_or_else(|| most_used(groups));
    let (mut keys, divisors) = shape_keys(spec, main, file_type(model.recipe, main)).map_err(refuse)?;
    keys.extend(match model.vocabulary {
        NewVocabulary::CopyOf(file) => copied_keys(file),
        NewVocabulary::Tokenizer(tokenizer) => {
            token_keys(spec, tokenizer).map_err(|problem| ModelError::Tokenizer {
                path: path.to_path_buf(),
                problem: format!("GGUF cannot hold this tokenizer: {problem}"),
            })?
        }
    });
    rename_for_llama_cpp(&mut keys);
    const TEMPLATE: &str = "tokenizer.chat_template";
    if let Some(template) = model.chat_template {
        keys.retain(|(key, _)| key != TEMPLATE);
        keys.push((TEMPLATE.into(), NewValue::Str(template.into())));
    }
    let vector = |(name, values): &(&str, Vec<f32>)| NewTensor {
        name: name.to_string(),
        shape: vec![values.len() as u64],
        format: WeightFormat::F32,
    };
    let mut tensors: Vec<NewTensor> = divisors.iter().map(vector).collect();
    tensors.extend(groups.iter().map(|group| {
        let first = &group.parts[0];
        let shape = match first.expert {
            Some((_, experts)) => [&[u64::from(experts)], &first.shape[..]].concat(),
            None => first.shape.clone(),
        };
        NewTensor { name: first.gguf.clone(), shape, format: group.format }
    }));
    Ok((keys, divisors, tensors))
}

/// llama.cpp looks up four of Phi-3's own tokens in any file with that model's name, and refuses a file that has the name and
/// not the tokens (`src/llama-vocab.cpp`).
fn rename_for_llama_cpp(keys: &mut NewKeys) {
    let has_tokens = keys.iter().any(|(key, value)| match value {
        NewValue::Strs(texts) if key == "tokenizer.ggml.tokens" => ["</s>", "<unk>", "<s>", "<|endoftext|>"]
            .iter()
            .all(|text| texts.iter().any(|found| found == text)),
        _ => false,
    });
    for (key, value) in keys {
        if let NewValue::Str(name) = value
            && key == "general.name"
            && !has_tokens
            && is_phi3_name(name)
        {
            *name = name.to_lowercase().replace("phi-3", "phi_3").replace("phi3", "phi_3");
        }
    }
}

fn most_used(groups: &[Group]) -> WeightFormat {
    let matrices = groups.iter().filter(|group| group.parts[0].shape.len() == 2);
    let mut values: Vec<(WeightFormat, u64)> = Vec::new();
    for group in matrices {
        let count = group.parts.iter().map(|place| place.shape.iter().product::<u64>()).sum::<u64>();
        match values.iter_mut().find(|(format, _)| *format == group.format) {
            Some((_, sum)) => *sum += count,
            None => values.push((group.format, count)),
        }
    }
    values.into_iter().max_by_key(|(_, count)| *count).map_or(WeightFormat::F32, |(format, _)| format)
}

fn write_part(
    path: &Path,
    model: &NewModel<'_>,
    place: &Place,
    format: WeightFormat,
    out: &mut dyn Write,
) -> Result<(), ModelError> {
    let written = |result: std::io::Result<()>| result.map_err(|error| read_error(path, error));
    let order: Option<Vec<usize>> = place
        .permuted_heads_of
        .map(|head_dim| (0..place.rows()).map(|row| hf_row(row, head_dim) as usize).collect());
    if place.role.is_vector() {
        let mut values = model.weights.tensor(&place.name)?;
        if model.spec.norm_plus_one && place.role != TensorRole::Bias {
            values.iter_mut().for_each(|value| *value += 1.0);
        }
        if let Some(order) = order {
            values = order.into_iter().map(|from| values[from]).collect();
        }
        return written(values.iter().try_for_each(|value| out.write_all(&value.to_le_bytes())));
    }
    let (rows, cols) = (place.shape[0] as usize, place.shape[1] as usize);
    let failed = |problem: String| ModelError::Tensor {
        path: path.to_path_buf(),
        tensor: place.name.clone(),
        problem,
    };
    let mut matrix = model.weights.stored(&place.name)?;
    if let Some(order) = order {
        matrix = matrix.permute_rows(rows, cols, &order).map_err(|error| failed(error.to_string()))?;
    }
    match &matrix {
        StoredMatrix::Blocks { format: stored, bytes } if *stored == format => written(out.write_all(bytes)),
        _ => {
            matrix.validate(rows, cols).map_err(|error| failed(error.to_string()))?;
            let chunks: Result<Vec<Vec<u8>>, ModelError> = (0..rows)
                .into_par_iter()
                .step_by(ROWS)
                .map(|first| {
                    let count = ROWS.min(rows - first);
                    quantized(&matrix, format, first, count, cols)
                        .map_err(|problem| failed(format!("rows from {first} on: {problem}")))
                })
                .collect();
            written(chunks?.iter().try_for_each(|chunk| out.write_all(chunk)))
        }
    }
}

/// Some rows of `matrix` in `format`.
fn quantized(
    matrix: &StoredMatrix<'_>,
    format: WeightFormat,
    first: usize,
    count: usize,
    cols: usize,
) -> Result<Vec<u8>, String> {
    let mut values = vec![0.0; count * cols];
    for (row, values) in values.chunks_exact_mut(cols).enumerate() {
        matrix.dequantize_row(first + row, cols, values);
    }
    match quantize_matrix(format, count, cols, &values) {
        Ok(StoredMatrix::Blocks { bytes, .. }) => Ok(bytes.into_owned()),
        Ok(StoredMatrix::Floats(values)) => Ok(values.iter().flat_map(|value| value.to_le_bytes()).collect()),
        Ok(_) => unreachable!("{format} was checked to be a format of GGUF"),
        Err(error) => Err(error.to_string()),
    }
}
