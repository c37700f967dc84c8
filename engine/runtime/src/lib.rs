//! The forward pass: turns a step plan into tokens.
//!
//! This crate knows: what a decoder layer of each family computes, how its weights are packed, where a sequence's keys and
//! values lie, how a token is drawn from logits. It must not know: which sequences should run (the scheduler decides), text, HTTP,
//! files; it reads the clock only to time a step.
//!
//! Two executors implement [`llmlab_core::executor::Executor`]: [`CpuExecutor`] on our own kernels and paged cache, and
//! [`CandleExecutor`] on candle's tensors, which is the baseline to beat and the oracle to agree with.
//!
//! Greedy tokens do not depend on how the scheduler cut the work: batch mix, chunking, block size, KV strategy, prefix
//! caching and thread count change no bit of a sequence's logits on [`CpuExecutor`].
//!
//! Reading order: [`config`], [`weights`], [`batch`] (a plan as flat rows), [`model`] (the network), [`lora`] (adapters on it), [`sampler`],
//! [`cpu`] (all of it together), [`speculative`] (a smaller model guesses ahead), [`step_bytes`] (what a step moves), [`perplexity`] (how well a text is predicted), [`candle`].

pub mod batch;
pub mod candle;
pub mod config;
pub mod cpu;
pub mod lora;
pub mod model;
pub mod perplexity;
pub mod sampler;
pub mod speculative;
pub mod step_bytes;
pub mod weights;

pub use candle::CandleExecutor;
pub use config::{RuntimeConfig, RuntimeError};
pub use cpu::CpuExecutor;
pub use llmlab_quant::WeightRecipe;
pub use speculative::DraftModelExecutor;
pub use step_bytes::StepBytes;
