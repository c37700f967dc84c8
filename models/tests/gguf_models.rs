//! Models of every family as GGUF files: what is written is what the recipe says, and reading it gives the same model.

use std::path::{Path, PathBuf};

use llmlab_models::gguf::{GgufFile, GgufWeights, NewModel, NewVocabulary, Value, load_gguf, write_gguf};
use llmlab_models::synthetic::SyntheticWeights;
use llmlab_models::{
    Family, HfFormat, LoadedModel, ModelSpec, Preset, TensorRole, TensorSpec, WeightSource, export_model,
    load,
};
use llmlab_quant::{StoredMatrix, WeightFormat, WeightRecipe, quantize_matrix};

fn tiny(family: Family) -> LoadedModel {
    load(&format!("synthetic:{family}-tiny"), 3).unwrap()
}

fn write(folder: &Path, model: &LoadedModel, recipe: WeightRecipe) -> PathBuf {
    let path = folder.join(format!("{}-{recipe}.gguf", model.spec.name));
    let new = NewModel {
        spec: &model.spec,
        weights: &*model.weights,
        recipe,
        vocabulary: NewVocabulary::Tokenizer(&model.tokenizer),
        chat_template: model.chat_template.as_deref(),
    };
    write_gguf(&path, &new).unwrap();
    path
}

/// What a file cannot know or says otherwise, taken from `original`.
fn as_in(original: &ModelSpec, read: ModelSpec) -> ModelSpec {
    assert!(!read.norm_plus_one, "norms in files hold 1 + w");
    let ropes = read.ropes.iter().zip(&original.ropes).map(|(read, original)| {
        for length in [1, original_length(original), u32::MAX] {
            let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-6 * b.abs();
            assert!(read.inv_freq(length).iter().zip(&original.inv_freq(length)).all(close), "{original:?}");
        }
        assert!((read.magnitude() - original.magnitude()).abs() < 1e-6);
        original.clone()
    });
    // Other programs take a file with this name for one with Phi-3's tokens.
    let name = if original.family == Family::Phi3 { "phi_3-tiny" } else { original.name.as_str() };
    assert_eq!(read.name, name);
    ModelSpec {
        name: original.name.clone(),
        ropes: ropes.collect(),
        norm_plus_one: original.norm_plus_one,
        dtype: original.dtype.clone(),
        ..read
    }
}

fn original_length(rope: &llmlab_models::RopeSpec) -> u32 {
    match rope.scaling {
        llmlab_models::RopeScaling::LongRope { original_max_position, .. } => original_max_position + 1,
        _ => 4096,
    }
}

/// The values a file should hold: Gemma's norms with one added.
fn expected(spec: &ModelSpec, tensor: &TensorSpec, source: &dyn WeightSource) -> Vec<f32> {
    let mut values = source.tensor(&tensor.name).unwrap();
    if spec.norm_plus_one && matches!(tensor.role, TensorRole::Norm | TensorRole::HeadNorm) {
        values.iter_mut().for_each(|value| *value += 1.0);
    }
    values
}

#[test]
fn every_family_comes_back_bit_for_bit_in_f32() {
    let folder = tempfile::tempdir().unwrap();
    for family in Family::ALL {
        let model = tiny(family);
        let path = write(folder.path(), &model, WeightRecipe::Uniform(WeightFormat::F32));
        let read = load_gguf(&path, "file").unwrap();
        assert_eq!(as_in(&model.spec, read.spec.clone()), model.spec, "{family}");
        assert_eq!(read.chat_template, model.chat_template);
        assert_eq!((read.bos_token, read.eos_token), (model.bos_token, model.eos_token));
        for tensor in model.spec.tensors() {
            let values = read.weights.tensor(&tensor.name).unwrap();
            assert_eq!(values, expected(&model.spec, &tensor, &*model.weights), "{}", tensor.name);
        }
    }
}

#[test]
fn quantized_matrices_hold_what_the_quantizer_makes_of_hugging_face_rows() {
    let folder = tempfile::tempdir().unwrap();
    for family in Family::ALL {
        let model = tiny(family);
        let path = write(folder.path(), &model, WeightRecipe::Q4KM);
        let read = load_gguf(&path, "file").unwrap();
        let mut formats = Vec::new();
        for tensor in model.spec.tensors() {
            let [rows, cols] = tensor.shape[..] else { continue };
            let (rows, cols) = (rows as usize, cols as usize);
            let stored = read.weights.stored(&tensor.name).unwrap();
            assert_eq!(stored.format(), read.weights.format(&tensor.name).unwrap());
            let source = model.weights.tensor(&tensor.name).unwrap();
            let quantized = quantize_matrix(stored.format(), rows, cols, &source).unwrap();
            let values = read.weights.tensor(&tensor.name).unwrap();
            assert_eq!(values, quantized.dequantize(rows, cols), "{}", tensor.name);
            if let (StoredMatrix::Blocks { bytes: a, .. }, StoredMatrix::Blocks { bytes: b, .. }) =
                (&stored, &quantized)
            {
                assert_eq!(a, b, "{}", tensor.name);
            }
            formats.push((tensor.role, stored.format()));
        }
        let of = |role: TensorRole| {
            formats.iter().filter(move |(found, _)| *found == role).map(|(_, format)| *format)
        };
        assert!(of(TensorRole::Gate).chain(of(TensorRole::GateUp)).all(|format| format == WeightFormat::Q4K));
        assert!(
            of(TensorRole::Router)
                .chain(of(TensorRole::SharedGate))
                .all(|format| format == WeightFormat::F32)
        );
        let output = if model.spec.tie_word_embeddings { TensorRole::Embedding } else { TensorRole::LmHead };
        assert_eq!(of(output).collect::<Vec<_>>(), [WeightFormat::Q6K], "{family}");
    }
}

#[test]
fn a_file_copied_as_stored_is_the_same_file() {
    let folder = tempfile::tempdir().unwrap();
    for family in [Family::Llama, Family::Gemma3, Family::Phi3, Family::Qwen2Moe] {
        for recipe in [WeightRecipe::Q3KM, WeightRecipe::Uniform(WeightFormat::Bf16)] {
            let path = write(folder.path(), &tiny(family), recipe);
            let (file, original) = (GgufFile::open(&path).unwrap(), GgufFile::open(&path).unwrap());
            let spec = file.spec().unwrap();
            let copy = folder.path().join("copy.gguf");
            let weights = GgufWeights::new(file, &spec).unwrap();
            let new = NewModel {
                spec: &spec,
                weights: &weights,
                recipe: WeightRecipe::AsStored,
                vocabulary: NewVocabulary::CopyOf(&original),
                chat_template: None,
            };
            write_gguf(&copy, &new).unwrap();
            let copied = GgufFile::open(&copy).unwrap();
            let tensors = |file: &GgufFile| -> Vec<(String, WeightFormat, Vec<u8>)> {
                let bytes = |tensor: &llmlab_models::gguf::Tensor<'_>| {
                    file.read_rows(tensor, 0, tensor.rows()).unwrap()
                };
                file.tensors().map(|tensor| (tensor.name.into(), tensor.format, bytes(&tensor))).collect()
            };
            assert_eq!(tensors(&copied), tensors(&original), "{family} {recipe}");
            // The mix's own number is lost; everything else is the same.
            let keys = |file: &GgufFile| -> Vec<String> {
                let shown = file.metadata().filter(|(key, _)| *key != "general.file_type");
                shown.map(|(key, value)| format!("{key} {value:?}").replace(' ', "")).collect()
            };
            assert_eq!(keys(&copied).len(), keys(&original).len());
            for key in ["tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.chat_template"] {
                let elements = |file: &GgufFile| match file.value(key) {
                    Some(Value::Array(array)) => array.iter().map(|value| value.shown()).collect(),
                    other => vec![other.unwrap().shown()],
                };
                assert_eq!(elements(&copied), elements(&original), "{key}");
            }
        }
    }
}

#[test]
fn a_folder_becomes_a_file_and_a_folder_again_without_a_changed_bit() {
    let work = tempfile::tempdir().unwrap();
    for family in [Family::Llama, Family::Gemma2, Family::Phi3, Family::Qwen2Moe] {
        let folder = work.path().join(format!("{family}-tiny"));
        export_model(&tiny(family), &folder, HfFormat::Bf16).unwrap();
        let original = load(folder.to_str().unwrap(), 0).unwrap();
        let path = write(work.path(), &original, WeightRecipe::AsStored);
        let file = load_gguf(&path, "file").unwrap();
        let back = work.path().join(format!("{family}-back"));
        export_model(&file, &back, HfFormat::Bf16).unwrap();
        let back = load(back.to_str().unwrap(), 0).unwrap();
        for tensor in original.spec.tensors() {
            let values = original.weights.tensor(&tensor.name).unwrap();
            if tensor.shape.len() == 2 {
                let router = tensor.role.is_router();
                let format = if router { WeightFormat::F32 } else { WeightFormat::Bf16 };
                assert_eq!(file.weights.format(&tensor.name).unwrap(), format, "{}", tensor.name);
                assert_eq!(file.weights.tensor(&tensor.name).unwrap(), values, "{}", tensor.name);
            }
            assert_eq!(back.weights.tensor(&tensor.name).unwrap(), values, "{family} {}", tensor.name);
        }
        for text in ["Hello <|user|> w\u{f6}rld", ""] {
            assert_eq!(back.tokenizer.encode(text), original.tokenizer.encode(text));
        }
        assert_eq!(back.chat_template, original.chat_template);
    }
}

#[test]
fn every_format_and_mix_can_be_written_and_read() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny(Family::Llama);
    for recipe in WeightRecipe::ALL {
        let path = folder.path().join("model.gguf");
        let new = NewModel {
            spec: &model.spec,
            weights: &*model.weights,
            recipe,
            vocabulary: NewVocabulary::Tokenizer(&model.tokenizer),
            chat_template: None,
        };
        let written = write_gguf(&path, &new);
        if recipe.base().is_some_and(|format| !format.is_gguf()) {
            let error = written.unwrap_err().to_string();
            assert!(error.contains(&recipe.to_string()) && error.contains("q4_k"), "{error}");
            continue;
        }
        written.unwrap();
        let read = load_gguf(&path, "file").unwrap();
        for tensor in model.spec.tensors() {
            let source = model.weights.tensor(&tensor.name).unwrap();
            let values = read.weights.tensor(&tensor.name).unwrap();
            let error: f64 = source.iter().zip(&values).map(|(a, b)| f64::from(a - b).powi(2)).sum();
            let size: f64 = source.iter().map(|a| f64::from(*a).powi(2)).sum();
            // Two bits leave some 30 % of a normal distribution's spread.
            assert!(error <= 0.15 * size, "{recipe} {}: {error} of {size}", tensor.name);
        }
    }
}

#[test]
fn text_passes_through_a_files_tokenizer_as_through_the_models_own() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny(Family::Qwen3);
    let path = write(folder.path(), &model, WeightRecipe::Uniform(WeightFormat::Q8_0));
    let read = load(path.to_str().unwrap(), 0).unwrap();
    for text in ["", "Hello, world", "<|user|>grüße\n\n  12<|eos|>", "日本語 🦙", " leading"] {
        let tokens = model.tokenizer.encode(text);
        assert_eq!(read.tokenizer.encode(text), tokens, "{text}");
        assert_eq!(read.tokenizer.decode(&tokens), model.tokenizer.decode(&tokens));
    }
    let words: Vec<u32> = (262..300).collect();
    assert_eq!(read.tokenizer.decode(&words), model.tokenizer.decode(&words));
    assert_eq!(read.tokenizer.special_tokens(), model.tokenizer.special_tokens());
}

#[test]
fn a_spec_the_format_has_no_words_for_is_refused_before_writing() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny(Family::Gemma2);
    let mut spec = model.spec.clone();
    spec.layers[0].window = Some(7);
    let other = SyntheticWeights::new(spec.clone(), 1);
    let path = folder.path().join("model.gguf");
    let new = |spec| NewModel {
        spec,
        weights: &other,
        recipe: WeightRecipe::Q4KM,
        vocabulary: NewVocabulary::Tokenizer(&model.tokenizer),
        chat_template: None,
    };
    let error = write_gguf(&path, &new(&spec)).unwrap_err().to_string();
    assert!(error.contains("windows of different widths"), "{error}");
    let mut spec = model.spec.clone();
    spec.embedding_scale = 2.0;
    let error = write_gguf(&path, &new(&spec)).unwrap_err().to_string();
    assert!(error.contains("gemma2") && error.contains("embedding scale"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn presets_keep_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let spec = Preset::Llama15m.spec();
    let weights = SyntheticWeights::new(spec.clone(), 1);
    let tokenizer = llmlab_models::Tokenizer::byte_level(spec.vocab_size);
    let path = folder.path().join("other-name.gguf");
    let new = NewModel {
        spec: &spec,
        weights: &weights,
        recipe: WeightRecipe::Uniform(WeightFormat::Q4_0),
        vocabulary: NewVocabulary::Tokenizer(&tokenizer),
        chat_template: None,
    };
    write_gguf(&path, &new).unwrap();
    let file = GgufFile::open(&path).unwrap();
    let read = file.spec().unwrap();
    assert_eq!((read.name.as_str(), read.dtype.as_str()), ("llama-15m", "q4_0"));
    assert_eq!(file.value("general.file_type"), Some(Value::U32(2)));
}
