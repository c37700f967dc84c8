//! Bytes as a GGUF file: header, shape, tokenizer, chat template, and the first row of every tensor. Nothing may panic, hang
//! or take memory that the bytes do not pay for.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use llmlab_models::gguf::{GgufFile, GgufWeights, Value};
use llmlab_models::{ChatTemplate, WeightSource};

const LARGEST_BUILT: usize = 1500;

fuzz_target!(|bytes: &[u8]| {
    let open = || GgufFile::from_source(Path::new("fuzzed.gguf"), Box::new(bytes.to_vec()));
    let Ok(file) = open() else { return };
    for (_, value) in file.metadata() {
        visit(value);
    }
    for tensor in file.tensors() {
        let cols = tensor.cols() as usize;
        let row = file.stored_rows(&tensor, 0, 1).expect("tensors are inside the file");
        assert_eq!(row.dequantize(1, cols).len(), cols);
    }
    if let Ok(Some(template)) = file.chat_template() {
        let _ = ChatTemplate::new(template, None, None);
    }
    // Its text is ours; building it is the `tokenizers` crate's work and a hundred times slower, so only for small inputs.
    let json = file.tokenizer_json();
    if json.is_ok()
        && bytes.len() < LARGEST_BUILT
        && let Ok(tokenizer) = file.tokenizer()
    {
        let tokens = tokenizer.encode("Hello <|user|> w\u{f6}rld 12\n\u{1f999}");
        let _ = tokenizer.decode(&tokens);
    }
    if let Ok(spec) = file.spec()
        && let Ok(weights) = GgufWeights::new(file, &spec)
    {
        for tensor in spec.tensors() {
            let _ = weights.stored(&tensor.name).map(|matrix| matrix.format());
            if let Ok(values) = weights.tensor(&tensor.name) {
                assert_eq!(values.len() as u64, tensor.elements());
            }
        }
        for rope in &spec.ropes {
            let _ = rope.inv_freq(spec.max_position_embeddings);
        }
    }
});

fn visit(value: Value<'_>) {
    let _ = value.shown();
    if let Value::Array(array) = value {
        array.iter().for_each(visit);
    }
}
