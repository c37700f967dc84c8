//! The reference engine as an HTTP server: an engine thread behind OpenAI-compatible endpoints.
//!
//! Knows: HTTP/1.1, the OpenAI request and response shapes as vLLM 0.33 serves them, vLLM's metric names, detokenising
//! and stop strings, admission (bounded queue), cancellation, draining, the step log, the recording
//! of the scheduler's calls.
//!
//! Must not know: how a step is planned (`llmlab-core` decides) or computed (any [`Executor`] will do), the load
//! generator, the results store. It never loads code, templates or URLs from a request.
//!
//! Two sides meet in `engine`: async tasks that own one request's text each, and one thread that owns the scheduler
//! and the executor. The thread sends each request's tokens into a bounded channel and never waits; a reader that falls too
//! far behind is cancelled. Dropping a response cancels its request, and its blocks are free before the next step.
//!
//! Reading order: `config`, `engine` (the handle), `engine_thread` (the loop), `generation` (tokens to text),
//! `stop_text`, `openai` (response bodies), then the way in: `serve`, `connections`, `stall`, `api`, `auth`, `body`, `json`,
//! `fields`, `params`, `prompt`; beside it `metrics`, `line_log`, `step_log`, `recorder`, `error`.
//!
//! [`Executor`]: llmlab_core::executor::Executor

mod api;
mod auth;
mod body;
mod config;
mod connections;
mod engine;
mod engine_thread;
mod error;
mod fields;
mod generation;
mod json;
mod line_log;
mod metrics;
mod openai;
mod params;
mod prompt;
mod recorder;
mod serve;
mod stall;
pub mod step_log;
mod stop_text;

pub use config::{Limits, MAX_API_KEY_BYTES, ServerConfig};
pub use error::ServerError;
pub use serve::{ModelInfo, serve};
