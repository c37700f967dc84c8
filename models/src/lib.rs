//! What runs, and on what: model shapes and their arithmetic, weights, tokenizers, chat templates, and the catalogue of
//! hardware and prices.
//!
//! Knows: Hugging Face folders (`config.json`, safetensors, `tokenizer.json`), the seeded synthetic models, the formulas
//! that turn a shape into FLOPs and bytes, the device and price tables. Every file it reads is taken as hostile: sizes
//! are bounded and checked against the file before anything is allocated by them.
//!
//! Must not know: kernels and their packed layouts, the scheduler, HTTP, clocks.
//!
//! Reading order: [`spec`] (a model's shape) and [`hf_config`] (where it is read), [`arithmetic`] (what it
//! costs), [`architecture`] (the sizes of any model), [`weights`] and [`synthetic`] (the values), [`export`] (writing them), [`tokenizer`] and [`chat`] (text), [`mod@load`] (all of it together),
//! [`catalogue`] (models, devices and prices), [`memory`] (what fits on a device).

pub mod architecture;
pub mod arithmetic;
pub mod catalogue;
pub mod chat;
mod error;
pub mod export;
mod files;
pub mod gguf;
pub mod hf_config;
pub mod kv_plan;
pub mod load;
pub mod lora;
pub mod memory;
pub mod read_at;
pub mod spec;
pub mod synthetic;
pub mod tokenizer;
pub mod weights;

pub use architecture::Architecture;
pub use chat::{ChatMessage, ChatTemplate};
pub use error::ModelError;
pub use export::{HfFormat, export_model, write_hf};
pub use llmlab_quant::WeightFormat;
pub use load::{LoadedModel, load, load_spec};
pub use spec::{
    Activation, Family, FeedForward, LayerNames, LayerSpec, Linear, MlpNames, ModelSpec, MoeNames, MoeSpec,
    RopeScaling, RopeSpec, TensorRole, TensorSpec,
};
pub use synthetic::{Preset, write_synthetic_hf};
pub use tokenizer::{StreamDecoder, Tokenizer};
pub use weights::WeightSource;
