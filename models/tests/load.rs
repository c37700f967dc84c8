//! Sources, end to end: synthetic models, the folders they export, and what is wrong with other sources.

mod folder;

use std::fs;
use std::path::Path;

use folder::write;
use llmlab_models::{
    ChatMessage, HfFormat, LoadedModel, ModelError, Preset, load, load_spec, write_synthetic_hf,
};
use proptest::prelude::*;
use safetensors::Dtype;

const SMALL: &str = "synthetic:llama-15m";

fn message(role: &str, content: &str) -> ChatMessage {
    ChatMessage { role: role.into(), content: content.into() }
}

fn exported(dtype: HfFormat) -> (tempfile::TempDir, LoadedModel) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("llama-15m");
    write_synthetic_hf(Preset::Llama15m, 3, &path, dtype).unwrap();
    let model = load(path.to_str().unwrap(), 0).unwrap();
    (folder, model)
}

#[test]
fn an_exported_model_loads_as_the_same_model() {
    let original = load(SMALL, 3).unwrap();
    for (dtype, round) in [
        (HfFormat::F32, (|value| value) as fn(f32) -> f32),
        (HfFormat::Bf16, |value| half::bf16::from_f32(value).to_f32()),
        (HfFormat::F16, |value| half::f16::from_f32(value).to_f32()),
    ] {
        let (_folder, model) = exported(dtype);
        let spec = llmlab_models::ModelSpec { dtype: original.spec.dtype.clone(), ..model.spec.clone() };
        assert_eq!(spec, original.spec, "every number of the config survives");
        for tensor in model.spec.tensors() {
            let written = original.weights.tensor(&tensor.name).unwrap();
            let read = model.weights.tensor(&tensor.name).unwrap();
            assert!(
                read.iter().eq(written.iter().map(|&value| round(value)).collect::<Vec<_>>().iter()),
                "{dtype} {}",
                tensor.name
            );
        }
        assert_eq!(model.chat_template, original.chat_template);
        assert_eq!(
            (model.bos_token, model.eos_token),
            (original.bos_token.clone(), original.eos_token.clone())
        );
    }
}

#[test]
fn the_exported_tokenizer_is_the_same_tokenizer() {
    let original = load(SMALL, 3).unwrap().tokenizer;
    let (_folder, model) = exported(HfFormat::Bf16);
    let copy = model.tokenizer;
    assert_eq!(copy.vocab_size(), original.vocab_size());
    assert_eq!(copy.special_tokens(), original.special_tokens());
    for token in 0..original.vocab_size() {
        assert_eq!(copy.decode(&[token]), original.decode(&[token]), "{token}");
    }
    let mut runner = proptest::test_runner::TestRunner::default();
    let text = prop_oneof!["\\PC{0,60}", "(<\\|bos\\|>|<\\|eos\\|>|<\\|us|é| |\n|a){0,30}"];
    runner
        .run(&(text, prop::collection::vec(0u32..512, 0..60)), |(text, tokens)| {
            prop_assert_eq!(copy.encode(&text), original.encode(&text));
            prop_assert_eq!(copy.decode(&tokens), original.decode(&tokens));
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_synthetic_chat_prompt_is_one_token_a_role() {
    let model = load(SMALL, 0).unwrap();
    let chat = model.chat().unwrap().unwrap();
    let messages = [message("system", "Be brief."), message("user", "Hi")];
    let prompt = chat.render(&messages, true).unwrap();
    assert_eq!(prompt, "<|bos|><|system|>Be brief.<|eos|><|user|>Hi<|eos|><|assistant|>");
    let tokens = model.tokenizer.try_encode(&prompt, false).unwrap();
    assert_eq!(tokens.len(), 6 + "Be brief.Hi".len());
    assert!(!chat.render(&messages, false).unwrap().contains("assistant"));
}

#[test]
fn a_bad_source_says_what_is_accepted() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for (source, expected) in [
        ("synthetic:llama-7b", "no such synthetic model"),
        ("synthetic:", "no such synthetic model"),
        ("", "No such file"),
        ("no/such/folder", "No such file"),
        ("no/such/model.gguf", "No such file"),
        (file.path().to_str().unwrap(), "is neither a folder nor a .gguf file"),
    ] {
        for error in [load(source, 0).err(), load_spec(source).err()] {
            let error = error.expect(source).to_string();
            assert!(error.contains(expected) && error.contains("synthetic:llama-1.1b"), "{error}");
        }
    }
}

/// A folder with everything a model needs.
fn complete() -> tempfile::TempDir {
    let (folder, spec) = folder::folder();
    write(folder.path(), "model.safetensors", folder::file(&spec, Dtype::BF16, |_| true));
    let export = tempfile::tempdir().unwrap();
    write_synthetic_hf(Preset::Llama15m, 0, export.path(), HfFormat::Bf16).unwrap();
    fs::copy(export.path().join("tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    folder
}

fn load_folder(folder: &Path) -> Result<LoadedModel, ModelError> {
    load(folder.to_str().unwrap(), 0)
}

#[test]
fn chat_files_are_read_as_transformers_reads_them() {
    let folder = complete();
    let model = load_folder(folder.path()).unwrap();
    assert!(model.chat_template.is_none() && model.chat().unwrap().is_none(), "a base model has no template");

    let config = r#"{"bos_token": {"content": "<s>", "special": true}, "eos_token": "</s>",
        "chat_template": [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "{{ bos_token }}x"}]}"#;
    write(folder.path(), "tokenizer_config.json", config);
    let model = load_folder(folder.path()).unwrap();
    assert_eq!((model.bos_token.as_deref(), model.eos_token.as_deref()), (Some("<s>"), Some("</s>")));
    assert_eq!(model.chat().unwrap().unwrap().render::<ChatMessage>(&[], false).unwrap(), "<s>x");

    write(folder.path(), "chat_template.jinja", "from the file");
    assert_eq!(load_folder(folder.path()).unwrap().chat_template.as_deref(), Some("from the file"));

    write(folder.path(), "chat_template.jinja", "{% for %}");
    assert!(matches!(load_folder(folder.path()), Err(ModelError::ChatTemplate(_))), "found when loading");
}

#[test]
fn generation_config_adds_end_tokens() {
    let folder = complete();
    write(folder.path(), "generation_config.json", r#"{"eos_token_id": [2, 3, 2]}"#);
    assert_eq!(load_folder(folder.path()).unwrap().spec.eos_token_ids, [2, 3]);
    write(folder.path(), "generation_config.json", r#"{"eos_token_id": 6}"#);
    let error = load_spec(folder.path().to_str().unwrap()).unwrap_err().to_string();
    assert!(error.contains("generation_config.json: eos_token_id: 6 is not a token id below 6"), "{error}");
}

#[test]
fn a_missing_or_oversized_file_is_named() {
    let folder = complete();
    for file in ["tokenizer.json", "model.safetensors", "config.json"] {
        let path = folder.path().join(file);
        let kept = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let error = load_folder(folder.path()).err().expect(file).to_string();
        assert!(error.contains(file), "{error}");
        fs::write(&path, kept).unwrap();
    }
    let config = fs::OpenOptions::new().write(true).open(folder.path().join("config.json")).unwrap();
    config.set_len(1 << 40).unwrap();
    assert!(matches!(load_folder(folder.path()), Err(ModelError::TooLarge { .. })));
}
