//! The endpoints.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::{HeaderMap, StatusCode, header};
use llmlab_core::request::{LoraId, TokenId};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::ModelInfo;
use crate::auth::{self, ApiKey};
use crate::body;
use crate::engine::Engine;
use crate::error::ApiError;
use crate::fields::Fields;
use crate::generation::Generation;
use crate::metrics::{Exposition, Metrics};
use crate::openai::{Kind, Reply};
use crate::params::{Bounds, GenerationParams, MaxTokens};
use crate::prompt::{self, Prompt};

pub(crate) struct App {
    pub model: Arc<ModelInfo>,
    pub model_name: String,
    /// Names of adapters, in the executor's order.
    pub adapters: Vec<String>,
    pub bounds: Bounds,
    pub engine: Arc<Engine>,
    pub metrics: Arc<Metrics>,
    pub large_bodies: Semaphore,
    /// Unix seconds.
    pub started: u64,
}

/// Every endpoint.
pub(crate) fn router(app: Arc<App>, key: Option<ApiKey>) -> Router {
    let guarded = Router::new()
        .route("/v1/completions", post(completions))
        .route("/v1/chat/completions", post(chat_completions))
        .route("/v1/models", get(models))
        .route("/tokenize", post(tokenize))
        .route("/detokenize", post(detokenize))
        .route_layer(axum::middleware::from_fn_with_state(key, auth::require));
    let open = Router::new()
        .route("/health", get(health))
        .route("/ping", get(health))
        .route("/version", get(version))
        .route("/metrics", get(metrics));
    guarded
        .merge(open)
        .fallback(async || ApiError::not_found())
        .method_not_allowed_fallback(async || ApiError::method_not_allowed())
        .with_state(app)
}

/// For connections beyond the limit: an orchestrator can still see that the server is alive.
pub(crate) fn overflow_router(app: Arc<App>) -> Router {
    let full = || ApiError { retry_after_s: Some(1), ..ApiError::unavailable("too many connections") };
    Router::new()
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .fallback(async move || full())
        .with_state(app)
}

async fn completions(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    generate(&app, request, Kind::Completion).await
}

async fn chat_completions(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    generate(&app, request, Kind::Chat).await
}

async fn generate(app: &Arc<App>, request: Request, kind: Kind) -> Result<Response, ApiError> {
    let arrived = app.engine.arrival();
    // Refused before the body is read: a draining server should not be kept busy by uploads.
    if let Some(error) = app.engine.unavailable() {
        return Err(error);
    }
    let mut parsed = body::read(request, &app.bounds.limits, &app.large_bodies).await?;
    let f = &mut parsed.fields;
    let (model, lora) = chosen_model(app, f)?;
    let default_max_tokens = match kind {
        Kind::Completion => MaxTokens::Given(16),
        Kind::Chat => MaxTokens::RestOfContext,
    };
    let params = GenerationParams::take(f, &app.bounds, default_max_tokens)?;
    let prompt = match kind {
        Kind::Completion => prompt::completion(f, &app.bounds)?,
        Kind::Chat => prompt::chat(f)?,
    };
    let prompt: Arc<[TokenId]> = prompt.encode(&app.model).await?.into();
    drop(parsed);
    let stop = params.stop_rules(prompt.len(), &app.bounds)?;

    let seeded = |id| params.sampling.with_default_seed(id);
    let updates = app.engine.submit(arrived, prompt.clone(), seeded, stop, params.priority, lora).await?;
    let reply = Reply {
        kind,
        id: match kind {
            Kind::Completion => format!("cmpl-{}", updates.id.0),
            Kind::Chat => format!("chatcmpl-{}", updates.id.0),
        },
        created: unix_seconds(),
        model,
        usage: params.usage,
        return_token_ids: params.return_token_ids,
    };
    let decoder = app.model.tokenizer.stream_decoder();
    let generation = Generation::new(updates, decoder, params.stop, app.bounds.eos_ids.clone(), prompt);
    if params.stream { Ok(reply.stream(generation)) } else { reply.whole(generation).await }
}

/// The name of the model or of one of its adapters. An absent `model` means the model itself, as in vLLM.
fn chosen_model(app: &App, f: &mut Fields) -> Result<(String, Option<LoraId>), ApiError> {
    let Some(name) = f.string("model")?.filter(|name| *name != app.model_name) else {
        return Ok((app.model_name.clone(), None));
    };
    match app.adapters.iter().position(|adapter| *adapter == name) {
        Some(place) => Ok((name, Some(LoraId(place as u32)))),
        None => Err(ApiError::no_such_model(&name)),
    }
}

async fn models(State(app): State<Arc<App>>) -> Response {
    let model = |id: &str, parent: Option<&str>| {
        json!({
            "id": id, "object": "model", "created": app.started, "owned_by": "llmlab",
            "root": app.model.spec.name, "parent": parent, "max_model_len": app.bounds.max_model_len,
        })
    };
    let adapters = app.adapters.iter().map(|adapter| model(adapter, Some(&app.model_name)));
    let data: Vec<_> = [model(&app.model_name, None)].into_iter().chain(adapters).collect();
    axum::Json(json!({"object": "list", "data": data})).into_response()
}

async fn tokenize(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let mut parsed = body::read(request, &app.bounds.limits, &app.large_bodies).await?;
    let f = &mut parsed.fields;
    chosen_model(&app, f)?;
    let with_strings = f.bool("return_token_strs")?;
    let prompt = match f.string("prompt")? {
        Some(text) => Prompt::Text { text, add_special_tokens: f.bool_or("add_special_tokens", true)? },
        None => prompt::chat(f)?,
    };
    let tokens = prompt.encode(&app.model).await?;
    let strings: Option<Vec<Option<String>>> =
        with_strings.then(|| tokens.iter().map(|&id| app.model.tokenizer.token_text(id)).collect());
    let body = json!({
        "count": tokens.len(), "max_model_len": app.bounds.max_model_len, "tokens": tokens, "token_strs": strings,
    });
    Ok(axum::Json(body).into_response())
}

async fn detokenize(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let mut parsed = body::read(request, &app.bounds.limits, &app.large_bodies).await?;
    let f = &mut parsed.fields;
    chosen_model(&app, f)?;
    let ids = f.token_ids("tokens", app.bounds.vocab_size, app.bounds.limits.max_body_bytes)?;
    let ids = ids.ok_or_else(|| ApiError::field("tokens", "tokens is required: an array of token ids"))?;
    Ok(axum::Json(json!({"prompt": app.model.tokenizer.decode(&ids)})).into_response())
}

/// 200 and empty while requests can be served.
async fn health(State(app): State<Arc<App>>) -> Result<StatusCode, ApiError> {
    app.engine.unavailable().map_or(Ok(StatusCode::OK), Err)
}

async fn version() -> axum::Json<Value> {
    axum::Json(json!({"version": env!("CARGO_PKG_VERSION")}))
}

async fn metrics(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response, ApiError> {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
    let (exposition, content_type) = if accept.contains("application/openmetrics-text") {
        (Exposition::OpenMetrics, "application/openmetrics-text; version=1.0.0; charset=utf-8")
    } else {
        (Exposition::Prometheus, "text/plain; version=0.0.4; charset=utf-8")
    };
    let text =
        app.metrics.encode(exposition).map_err(|_| ApiError::internal("the metrics cannot be encoded"))?;
    Ok(([(header::CONTENT_TYPE, content_type)], text).into_response())
}

/// For `created`, which clients show and nothing here computes with.
#[allow(clippy::disallowed_methods, reason = "wall-clock time is a field of the protocol")]
pub(crate) fn unix_seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
