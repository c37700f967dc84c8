//! A file that llama.cpp's own Python package wrote (`fixtures/gguf/make_gguf.py`).

use std::path::Path;

use llmlab_models::gguf::{GgufFile, GgufWeights, NewModel, NewVocabulary, load_gguf, write_gguf};
use llmlab_models::{ChatMessage, Family};
use llmlab_quant::WeightRecipe;

fn path() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/gguf/small.gguf"))
}

/// Row r, column c: start + r + c / 64.
fn values(rows: usize, cols: usize, start: f32) -> Vec<f32> {
    (0..rows * cols).map(|i| start + (i / cols) as f32 + (i % cols) as f32 / 64.0).collect()
}

#[test]
fn shape_weights_and_text_are_read() {
    let model = load_gguf(path(), "small").unwrap();
    let spec = &model.spec;
    assert_eq!((spec.name.as_str(), spec.family), ("small", Family::Llama));
    assert_eq!((spec.hidden_size, spec.num_heads, spec.num_kv_heads, spec.head_dim), (8, 2, 1, 4));
    assert_eq!((spec.vocab_size, spec.intermediate_size, spec.num_layers), (12, 12, 1));
    assert_eq!((spec.bos_token_id, spec.eos_token_ids.as_slice()), (Some(1), &[2][..]));
    assert_eq!(spec.ropes[0].theta, 5000.0);
    assert!(!spec.tie_word_embeddings);
    for (name, rows, cols, start) in [
        ("model.embed_tokens.weight", 12, 8, 0.0),
        ("model.norm.weight", 1, 8, 1.0),
        ("lm_head.weight", 12, 8, 2.0),
        ("model.layers.0.input_layernorm.weight", 1, 8, 3.0),
        ("model.layers.0.self_attn.q_proj.weight", 8, 8, 4.0),
        ("model.layers.0.self_attn.k_proj.weight", 4, 8, 5.0),
        ("model.layers.0.self_attn.v_proj.weight", 4, 8, 6.0),
        ("model.layers.0.self_attn.o_proj.weight", 8, 8, 7.0),
        ("model.layers.0.post_attention_layernorm.weight", 1, 8, 8.0),
        ("model.layers.0.mlp.gate_proj.weight", 12, 8, 9.0),
        ("model.layers.0.mlp.up_proj.weight", 12, 8, 10.0),
        ("model.layers.0.mlp.down_proj.weight", 8, 12, 11.0),
    ] {
        assert_eq!(model.weights.tensor(name).unwrap(), values(rows, cols, start), "{name}");
    }

    let tokenizer = &model.tokenizer;
    // A space goes in front; "ab" and the space join to one token, an unknown character becomes its bytes.
    assert_eq!(tokenizer.encode("ab"), [1, 10]);
    assert_eq!(tokenizer.try_encode("a ab<user>b\u{e9}", false).unwrap(), [6, 7, 10, 11, 6, 8, 4, 5]);
    assert_eq!(tokenizer.decode(&[1, 10, 7, 6, 8, 4, 5]), "aba b\u{e9}");
    let chat = model.chat().unwrap().unwrap();
    let message = ChatMessage { role: "user".into(), content: "hi".into() };
    assert_eq!(chat.render(&[message], true).unwrap(), "<s>hi");
}

#[test]
fn every_block_format_dequantizes_to_the_packages_values() {
    let file = GgufFile::open(path()).unwrap();
    let mut formats = 0;
    for tensor in file.tensors().filter(|tensor| tensor.format.block() > 1) {
        let expected = file.tensor(&format!("{}.expected", tensor.name)).unwrap();
        let cols = tensor.cols() as usize;
        let row = |tensor| file.stored_rows(tensor, 0, 1).unwrap().dequantize(1, cols);
        assert_eq!(row(&tensor), row(&expected), "{}", tensor.name);
        formats += 1;
    }
    assert_eq!(formats, 11);
}

#[test]
fn the_tokenizer_survives_being_written_by_us() {
    let folder = tempfile::tempdir().unwrap();
    let model = load_gguf(path(), "small").unwrap();
    let original = GgufFile::open(path()).unwrap();
    let weights = GgufWeights::new(GgufFile::open(path()).unwrap(), &model.spec).unwrap();
    for vocabulary in [NewVocabulary::Tokenizer(&model.tokenizer), NewVocabulary::CopyOf(&original)] {
        let copy = folder.path().join("copy.gguf");
        let new = NewModel {
            spec: &model.spec,
            weights: &weights,
            recipe: WeightRecipe::AsStored,
            vocabulary,
            chat_template: model.chat_template.as_deref(),
        };
        write_gguf(&copy, &new).unwrap();
        let read = load_gguf(&copy, "copy").unwrap();
        for text in ["", "ab", "a ab<user>b\u{e9}", "  aabb ", "</s>ab", "A\u{e9}"] {
            let tokens = model.tokenizer.encode(text);
            assert_eq!(read.tokenizer.encode(text), tokens, "{text:?}");
            assert_eq!(read.tokenizer.decode(&tokens), model.tokenizer.decode(&tokens));
        }
        assert_eq!((&read.bos_token, &read.eos_token), (&model.bos_token, &model.eos_token));
    }
}
