//! Everything that can be wrong with a model, each as one sentence that names the file and the key.

use std::path::PathBuf;

/// A model, tokenizer or catalogue entry that cannot be used, and why.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// `--model` names neither a preset nor a folder.
    #[error("model {source_name:?}: {problem}; accepted are a Hugging Face folder, a .gguf file or one of {}", .accepted.join(", "))]
    Source { source_name: String, problem: String, accepted: Vec<String> },
    /// The operating system refused.
    #[error("{}: {source}", .path.display())]
    Read { path: PathBuf, source: std::io::Error },
    /// A text file larger than any real one of its kind.
    #[error("{}: {bytes} bytes; accepted are at most {limit}", .path.display())]
    TooLarge { path: PathBuf, bytes: u64, limit: u64 },
    /// Not JSON, or not the JSON the file should hold.
    #[error("{}: {problem}", .path.display())]
    Json { path: PathBuf, problem: String },
    /// One key of a JSON file is missing, of the wrong type or out of range.
    #[error("{}: {key}: {problem}", .path.display())]
    Key { path: PathBuf, key: String, problem: String },
    /// A model family this crate has no forward pass for.
    #[error("{}: architectures: {found} is not supported; accepted are {}", .path.display(), .accepted.join(", "))]
    Architecture { path: PathBuf, found: String, accepted: Vec<String> },
    /// A weight file whose structure is broken.
    #[error("{}: {problem}", .path.display())]
    Weights { path: PathBuf, problem: String },
    /// One tensor is missing, or has the wrong shape, dtype or values.
    #[error("{}: tensor {tensor}: {problem}", .path.display())]
    Tensor { path: PathBuf, tensor: String, problem: String },
    /// A name that is not in [`crate::ModelSpec::tensors`].
    #[error("the model has no tensor {tensor:?}")]
    NoSuchTensor { tensor: String },
    /// `tokenizer.json` does not fit the model or cannot be read.
    #[error("{}: {problem}", .path.display())]
    Tokenizer { path: PathBuf, problem: String },
    /// Text the tokenizer has no tokens for.
    #[error("the tokenizer cannot encode this text: {0}")]
    Encode(String),
    /// A chat template that does not parse, or that refused the messages.
    #[error("chat template: {0}")]
    ChatTemplate(String),
    /// A model of the catalogue that our engine has no forward pass for.
    #[error("the engine does not run {name}: plans can use it (llmlab models show {name}), servers and simulations of the engine cannot; accepted are {}", .accepted.join(", "))]
    NotRunnable { name: String, accepted: Vec<String> },
    /// An entry of a user's catalogue that cannot be.
    #[error("{}:{line}: {problem}", .path.display())]
    Catalogue { path: PathBuf, line: usize, problem: String },
    /// A name that is not in the catalogue.
    #[error("no {kind} named {name:?}; {}", suggestion(.close, .known))]
    NotInCatalogue { kind: &'static str, name: String, close: Vec<String>, known: Vec<String> },
}

fn suggestion(close: &[String], known: &[String]) -> String {
    if close.is_empty() {
        format!("known are {}", known.join(", "))
    } else {
        format!("did you mean {}?", close.join(" or "))
    }
}
