//! A file as everything an engine needs.

use std::path::Path;

use crate::error::ModelError;
use crate::gguf::file::GgufFile;
use crate::gguf::weights::GgufWeights;
use crate::load::LoadedModel;

/// Loads the model in one GGUF file. Its header is checked, its tokenizer built; weights are read when they are asked for.
/// `source` is the name it was asked for by.
pub fn load_gguf(path: &Path, source: &str) -> Result<LoadedModel, ModelError> {
    let file = GgufFile::open(path)?;
    let spec = file.spec()?;
    let tokenizer = file.tokenizer()?;
    if tokenizer.vocab_size() > spec.vocab_size {
        let (tokens, rows) = (tokenizer.vocab_size(), spec.vocab_size);
        return Err(file
            .key_error("tokenizer.ggml.tokens", format!("{tokens} tokens, and {rows} rows of embeddings")));
    }
    let model = LoadedModel {
        tokenizer,
        chat_template: file.chat_template()?.map(String::from),
        bos_token: file.special_text("bos")?,
        eos_token: file.special_text("eos")?,
        source: source.into(),
        weights: Box::new(GgufWeights::new(file, &spec)?),
        spec,
    };
    // A template that does not parse is found now and not by the first chat request.
    model.chat()?;
    Ok(model)
}
