//! Checks against other programs. They need files or programs that are not part of this repository, so they run only when
//! asked for: `cargo test -p llmlab-models --test gguf_peers -- --ignored`, with the environment variables named below.

use std::fs;
use std::path::PathBuf;

use llmlab_models::gguf::{GgufFile, NewModel, NewVocabulary, load_gguf, write_gguf};
use llmlab_models::synthetic::SyntheticWeights;
use llmlab_models::{Family, HfFormat, ModelSpec, Preset, Tokenizer, export_model, load};
use llmlab_quant::{WeightFormat, WeightRecipe};

fn folder(variable: &str) -> PathBuf {
    PathBuf::from(std::env::var(variable).unwrap_or_else(|_| panic!("set {variable} to a folder")))
}

/// Writes every family in the recipes named by `LLMLAB_RECIPES` (names with spaces between) to `LLMLAB_GGUF_DIR`, and in f32 as
/// Hugging Face folders to `LLMLAB_HF_DIR` where that is set.
#[test]
#[ignore = "writes files for other programs: LLMLAB_GGUF_DIR"]
fn write_files_for_other_programs() {
    let folder = folder("LLMLAB_GGUF_DIR");
    let recipes = std::env::var("LLMLAB_RECIPES").unwrap_or("f32".into());
    for family in Family::ALL {
        let model = load(&format!("synthetic:{family}-tiny"), 3).unwrap();
        for recipe in recipes.split_whitespace() {
            let new = NewModel {
                spec: &model.spec,
                weights: &*model.weights,
                recipe: recipe.parse::<WeightRecipe>().unwrap(),
                vocabulary: NewVocabulary::Tokenizer(&model.tokenizer),
                chat_template: model.chat_template.as_deref(),
            };
            write_gguf(&folder.join(format!("{family}-{recipe}.gguf")), &new).unwrap();
        }
        if let Ok(hugging_face) = std::env::var("LLMLAB_HF_DIR") {
            export_model(&model, &PathBuf::from(hugging_face).join(family.name()), HfFormat::F32).unwrap();
        }
    }
}

/// Reads each file of `LLMLAB_GGUF_DIR` that another program wrote, and prints for every matrix a hash of its values.
#[test]
#[ignore = "reads files of other programs: LLMLAB_GGUF_DIR"]
fn read_files_of_other_programs() {
    for entry in fs::read_dir(folder("LLMLAB_GGUF_DIR")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "gguf") {
            let model = load_gguf(&path, "file").unwrap();
            for tensor in model.spec.tensors() {
                let values = model.weights.tensor(&tensor.name).unwrap();
                assert_eq!(values.len() as u64, tensor.elements());
                let hash = values.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, value| {
                    (hash ^ u64::from(value.to_bits())).wrapping_mul(0x0100_0000_01b3)
                });
                println!("{} {} {hash:016x}", path.file_stem().unwrap().display(), tensor.name);
            }
        }
    }
}

/// The tokenizer after a file of ours held it.
fn rewritten(tokenizer: &Tokenizer) -> Tokenizer {
    let tiny = Preset::Tiny(Family::Llama).spec();
    let sizes = ModelSpec {
        hidden_size: 32,
        intermediate_size: 32,
        num_heads: 1,
        num_kv_heads: 1,
        head_dim: 32,
        ..tiny
    };
    let bos = tokenizer.encode("").first().copied();
    let spec = ModelSpec { vocab_size: tokenizer.vocab_size(), num_layers: 1, bos_token_id: bos, ..sizes };
    let spec = spec.with_plain_attention(10_000.0);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let new = NewModel {
        spec: &spec,
        weights: &SyntheticWeights::new(spec.clone(), 1),
        recipe: WeightRecipe::Uniform(WeightFormat::Q4_0),
        vocabulary: NewVocabulary::Tokenizer(tokenizer),
        chat_template: None,
    };
    write_gguf(&path, &new).unwrap();
    load_gguf(&path, "file").unwrap().tokenizer
}

/// Encodes the texts that llama.cpp keeps beside its vocabularies (`models/ggml-vocab-*.gguf`, `.inp` and `.out`), with the
/// vocabulary as it is there and as our own writer passes it on.
#[test]
#[ignore = "needs llama.cpp's vocabularies: LLMLAB_LLAMA_CPP_VOCABS"]
fn vocabularies_of_llama_cpp_encode_as_there() {
    let folder = folder("LLMLAB_LLAMA_CPP_VOCABS");
    let mut failures = Vec::new();
    for name in
        ["llama-spm", "phi-3", "llama-bpe", "qwen2", "gpt-2", "starcoder", "refact", "mpt", "command-r"]
    {
        let file = folder.join(format!("ggml-vocab-{name}.gguf"));
        let tokenizer = match GgufFile::open(&file).and_then(|file| file.tokenizer()) {
            Ok(tokenizer) => tokenizer,
            Err(error) => {
                failures.push(format!("{name}: {error}"));
                continue;
            }
        };
        let text =
            |extension: &str| fs::read_to_string(file.with_extension(format!("gguf.{extension}"))).unwrap();
        let (inputs, outputs) = (text("inp"), text("out"));
        let inputs: Vec<&str> = inputs.split("\n__ggml_vocab_test__\n").collect();
        let passed_on = rewritten(&tokenizer);
        let mut good = 0;
        for (input, output) in inputs.iter().zip(outputs.lines()) {
            let expected: Vec<u32> = output.split_whitespace().map(|id| id.parse().unwrap()).collect();
            for (kind, tokenizer) in [("read", &tokenizer), ("written", &passed_on)] {
                let tokens = tokenizer.try_encode(input, false).unwrap();
                if tokens == expected {
                    good += 1;
                } else {
                    failures
                        .push(format!("{name} {kind}: {input:?}: {tokens:?}; llama.cpp has {expected:?}"));
                }
            }
            assert_eq!(passed_on.encode(input), tokenizer.encode(input), "with special tokens");
        }
        println!("{name}: {good} of {} encodings", 2 * outputs.lines().count());
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
