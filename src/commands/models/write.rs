//! `llmlab models convert` and `synth`: the same weights in another file.

use std::path::Path;

use llmlab_models::gguf::{GgufFile, NewModel, NewVocabulary, write_gguf};
use llmlab_models::{HfFormat, LoadedModel, ModelError, export_model};
use llmlab_quant::{UnknownFormat, WeightRecipe};

use super::output::{Output, is_gguf};
use super::progress::Progress;
use crate::cli::{ConvertArgs, Layout, OutputFormat, SynthArgs};
use crate::exit::{Code, Failure};
use crate::text::{bytes, print};

/// Means nothing for a checkpoint, and is what `synthetic:<preset>` has by default.
const DEFAULT_SEED: u64 = 0;

pub fn convert(args: ConvertArgs) -> Result<Code, Failure> {
    write(&args.input, DEFAULT_SEED, &args.output, &args.format)
}

pub fn synth(args: SynthArgs) -> Result<Code, Failure> {
    let preset = args.preset.strip_prefix("synthetic:").unwrap_or(&args.preset);
    write(&format!("synthetic:{preset}"), args.seed, &args.output, &args.format)
}

fn write(source: &str, seed: u64, to: &Path, format: &OutputFormat) -> Result<Code, Failure> {
    let kind = Kind::of(to, format)?;
    let model = llmlab_models::load(source, seed).map_err(Failure::bad_input)?;
    let output = Output::new(to, format.force)?;
    let weights = Progress::new(&model.spec, model.weights);
    let model = LoadedModel { weights: Box::new(weights), ..model };
    let written = match kind {
        Kind::Folder(format) => export_model(&model, output.partial(), format),
        Kind::Gguf(recipe) => export_gguf(&model, output.partial(), recipe),
    };
    written.map_err(|error| failure(error, output.partial()))?;
    let size = size_bytes(output.partial());
    output.keep()?;
    print(&format!(
        "wrote {} ({})\nnext: llmlab models inspect {}\n",
        to.display(),
        bytes(size),
        to.display()
    ))
}

/// What is written, checked before anything is read.
enum Kind {
    Folder(HfFormat),
    Gguf(WeightRecipe),
}

impl Kind {
    fn of(to: &Path, format: &OutputFormat) -> Result<Kind, Failure> {
        if !is_gguf(to) {
            return Ok(Kind::Folder(folder_format(&format.weights, format.layout)?));
        }
        if format.layout.is_some() {
            return Err(Failure::bad_input(
                "--layout is for folders; a GGUF file has one layout for each format",
            ));
        }
        let recipe: WeightRecipe = format
            .weights
            .parse()
            .map_err(|error: UnknownFormat| Failure::bad_input(format!("--weights: {error}")))?;
        if recipe.base().is_some_and(|base| !base.is_gguf()) {
            return Err(Failure::bad_input(format!(
                "--weights {recipe}: GGUF files cannot hold it; name a folder as output"
            )));
        }
        Ok(Kind::Gguf(recipe))
    }
}

/// A GGUF file's tokenizer is copied key by key from another one, and translated from anything else.
fn export_gguf(model: &LoadedModel, path: &Path, recipe: WeightRecipe) -> Result<(), ModelError> {
    let original =
        is_gguf(Path::new(&model.source)).then(|| GgufFile::open(Path::new(&model.source))).transpose()?;
    let vocabulary = match &original {
        Some(file) => NewVocabulary::CopyOf(file),
        None => NewVocabulary::Tokenizer(&model.tokenizer),
    };
    let new = NewModel {
        spec: &model.spec,
        weights: model.weights.as_ref(),
        recipe,
        vocabulary,
        chat_template: model.chat_template.as_deref(),
    };
    write_gguf(path, &new)
}

/// The format of a folder: `int4` and `int8_group` name what the engine computes, the layout says who can read it.
fn folder_format(weights: &str, layout: Option<Layout>) -> Result<HfFormat, Failure> {
    let name = match (weights, layout) {
        ("int4", None | Some(Layout::CompressedTensors)) => "w4a16_asym",
        ("int4", Some(Layout::Gptq)) => "gptq",
        ("int4", Some(Layout::GptqV2)) => "gptq_v2",
        ("int4", Some(Layout::Awq)) => "awq",
        ("int4", Some(Layout::AwqGemv)) => "awq_gemv",
        ("int8_group", None | Some(Layout::Gptq)) => "gptq_8bit",
        ("int8_group", Some(Layout::GptqV2)) => "gptq_v2_8bit",
        ("int8_group", Some(other)) => {
            return Err(Failure::bad_input(format!(
                "--layout {other:?} holds 4 bits; int8_group takes gptq or gptq_v2"
            )));
        }
        ("int8" | "fp8", Some(Layout::CompressedTensors)) | (_, None) => weights,
        (_, Some(_)) => {
            return Err(Failure::bad_input(format!(
                "--layout is for --weights int4 and int8_group, not for {weights}"
            )));
        }
    };
    name.parse().map_err(|_| {
        Failure::bad_input(format!(
            "--weights {weights}: a folder takes f32, f16, bf16, int8, fp8, int4, int8_group, or by their own names {}; \
             GGUF formats such as q4_k_m need an output that ends in .gguf",
            HfFormat::ALL.map(|(name, _)| name).join(", ")
        ))
    })
}

/// A write that failed is the machine's fault, anything else is the model's.
fn failure(error: ModelError, partial: &Path) -> Failure {
    match &error {
        ModelError::Read { path, .. } if path.starts_with(partial) => Failure::internal(error),
        _ => Failure::bad_input(error),
    }
}

fn size_bytes(path: &Path) -> u64 {
    let files = std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let files: Vec<_> = if path.is_dir() { files.collect() } else { vec![path.to_path_buf()] };
    files.iter().filter_map(|file| std::fs::metadata(file).ok()).map(|found| found.len()).sum()
}
