//! Start, run, drain, stop: who owns what and in which order it ends.
//!
//! ```text
//! listener --> connection tasks --> Engine (handle) --commands--> engine thread: Scheduler + Executor
//!                     ^                                              |        |
//!                     +--------- per-request channel of updates -----+        +--> step log and recorder threads
//! ```

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;

use llmlab_core::executor::Executor;
use llmlab_core::scheduler::Scheduler;
use llmlab_models::{ChatTemplate, ModelSpec, Tokenizer};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};

use crate::api::{self, App};
use crate::auth::ApiKey;
use crate::config::ServerConfig;
use crate::connections::Connections;
use crate::engine::{Clock, Engine};
use crate::engine_thread::EngineThread;
use crate::error::ServerError;
use crate::line_log::LineLogWriter;
use crate::metrics::{CacheShape, Metrics};
use crate::params::Bounds;
use crate::recorder::{self, Recorded};
use crate::step_log;

/// How long cancelled requests may take to send their last event.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long the engine thread may take to finish the step it is in.
const LAST_STEP: Duration = Duration::from_secs(10);

/// What the HTTP side needs to know about the model.
pub struct ModelInfo {
    pub spec: ModelSpec,
    pub tokenizer: Tokenizer,
    /// Without one, `/v1/chat/completions` answers 400.
    pub chat_template: Option<ChatTemplate>,
    pub eos_token_ids: Vec<u32>,
}

/// Serves until `shutdown` resolves, then drains: new requests get 503, those in flight may finish within
/// `config.drain_grace`, the rest end with an error event.
///
/// # Errors
/// At the start when the configuration, the address, the step log or the recording cannot be used; at the end when the
/// engine had failed (the server goes on answering 503 until `shutdown`) or one of the two files could not be written.
pub async fn serve(
    config: ServerConfig,
    model: Arc<ModelInfo>,
    scheduler: Scheduler,
    executor: Box<dyn Executor>,
    on_listening: impl FnOnce(SocketAddr),
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServerError> {
    config.check(model.spec.vocab_size, scheduler.config().max_model_len)?;
    let listener = TcpListener::bind(config.addr)
        .await
        .map_err(|source| ServerError::Listen { addr: config.addr, source })?;
    let addr = listener.local_addr().map_err(|source| ServerError::Listen { addr: config.addr, source })?;

    let running = start_engine(&config, scheduler, executor)?;
    let app = Arc::new(App {
        bounds: Bounds {
            vocab_size: model.spec.vocab_size,
            max_model_len: config.max_model_len,
            eos_ids: model.eos_token_ids.clone().into(),
            limits: config.limits.clone(),
        },
        model,
        model_name: config.served_model_name.clone(),
        adapters: config.lora_modules.clone(),
        engine: running.engine.clone(),
        metrics: running.metrics.clone(),
        large_bodies: Semaphore::new(config.limits.max_large_bodies),
        started: api::unix_seconds(),
    });
    let key = config.api_key.as_ref().and_then(|key| ApiKey::new(key.as_bytes()));
    let connections =
        Connections::new(api::router(app.clone(), key), api::overflow_router(app), config.limits.clone());
    on_listening(addr);

    tokio::select! {
        never = connections.accept(&listener) => match never {},
        () = shutdown => {}
    }
    running.engine.start_draining();
    connections.start_draining();
    tokio::select! {
        never = connections.accept(&listener) => match never {},
        () = finish(&config, &running, &connections) => {}
    }
    drop(listener);
    running.join().await
}

/// From the first refused request to the last closed connection.
async fn finish(config: &ServerConfig, running: &RunningEngine, connections: &Connections) {
    let in_time = tokio::time::timeout(config.drain_grace, connections.drained()).await.is_ok();
    running.engine.shut_down();
    if !in_time {
        // The engine fails what is left; the error events get a moment to go out.
        let _ = tokio::time::timeout(FAREWELL, connections.drained()).await;
    }
    connections.close_all();
}

struct RunningEngine {
    engine: Arc<Engine>,
    metrics: Arc<Metrics>,
    failure: Arc<OnceLock<String>>,
    /// Resolves (to an error: the sender is dropped) when the thread ends.
    ended: oneshot::Receiver<()>,
    step_log: Option<LineLogWriter>,
    recording: Option<LineLogWriter>,
}

fn start_engine(
    config: &ServerConfig,
    scheduler: Scheduler,
    executor: Box<dyn Executor>,
) -> Result<RunningEngine, ServerError> {
    let (step_log, step_log_writer) = match &config.step_log {
        None => (None, None),
        Some(path) => step_log::open(path)
            .map(|(log, writer)| (Some(log), Some(writer)))
            .map_err(|source| ServerError::StepLog { path: path.clone(), source })?,
    };
    let (calls, recording) = match &config.record {
        None => (None, None),
        Some(path) => recorder::open(path, config, &scheduler)
            .map(|(calls, writer)| (Some(calls), Some(writer)))
            .map_err(|source| ServerError::Recording { path: path.clone(), source })?,
    };
    let block_size = scheduler.config().block_size;
    let cache = CacheShape { block_size, usable_blocks: scheduler.stats().total_blocks as u64 };
    let metrics = Arc::new(Metrics::new(&config.served_model_name, config.max_model_len, cache));
    let failure = Arc::new(OnceLock::new());
    let clock = Clock::start();
    let (commands, queue) = mpsc::channel();
    let thread = EngineThread {
        scheduler: Recorded::new(scheduler, calls),
        executor,
        commands: queue,
        clock,
        metrics: metrics.clone(),
        step_log,
        failure: failure.clone(),
        block_size,
        live: HashMap::new(),
    };
    let (alive, ended) = oneshot::channel();
    std::thread::Builder::new()
        .name("engine".to_owned())
        .spawn(move || {
            thread.run();
            drop(alive);
        })
        .map_err(ServerError::Thread)?;
    let engine = Arc::new(Engine::new(
        commands,
        clock,
        failure.clone(),
        config.max_queue,
        config.limits.max_unread_tokens,
    ));
    Ok(RunningEngine { engine, metrics, failure, ended, step_log: step_log_writer, recording })
}

impl RunningEngine {
    async fn join(self) -> Result<(), ServerError> {
        if tokio::time::timeout(LAST_STEP, self.ended).await.is_err() {
            return Err(ServerError::Engine(format!(
                "still inside a step {} s after the end",
                LAST_STEP.as_secs()
            )));
        }
        written(self.step_log).await.map_err(ServerError::StepLogWrite)?;
        written(self.recording).await.map_err(ServerError::RecordingWrite)?;
        match self.failure.get() {
            Some(reason) => Err(ServerError::Engine(reason.clone())),
            None => Ok(()),
        }
    }
}

/// Waits until all is in the file.
async fn written(writer: Option<LineLogWriter>) -> std::io::Result<()> {
    let Some(writer) = writer else { return Ok(()) };
    let joined = tokio::task::spawn_blocking(|| writer.join()).await;
    joined.map_err(std::io::Error::other).and_then(|result| result)
}
