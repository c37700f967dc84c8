//! A server on a free port with an executor that computes nothing: the g-th token of every answer is the g-th of a script.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use llmlab_core::config::{EngineConfig, KvStrategy, PolicyConfig, VllmConfig};
use llmlab_core::executor::{Executor, ExecutorError};
use llmlab_core::scheduler::Scheduler;
use llmlab_core::step::{Sampled, StepOutcome, StepPlan};
use llmlab_models::{ChatTemplate, Tokenizer};
use llmlab_server::{ModelInfo, ServerConfig, ServerError, serve};
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// The byte-level tokenizer's end token; ids below 256 are bytes.
pub const EOS: u32 = 257;
pub const MODEL: &str = "tiny";
/// Far beyond what a test needs; only a hang reaches it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Lets steps through one by one, or all.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<GateState>, Condvar)>);

#[derive(Default)]
struct GateState {
    open: bool,
    permits: usize,
    waiting: bool,
}

impl Gate {
    pub fn open(&self) {
        self.0.0.lock().unwrap().open = true;
        self.0.1.notify_all();
    }

    pub fn allow(&self, steps: usize) {
        self.0.0.lock().unwrap().permits += steps;
        self.0.1.notify_all();
    }

    /// Until the engine stands inside a step.
    pub async fn reached(&self) {
        eventually("the engine is inside a step", async || self.0.0.lock().unwrap().waiting).await;
    }

    fn pass(&self) {
        let mut state = self.0.0.lock().unwrap();
        state.waiting = true;
        while !state.open && state.permits == 0 {
            state = self.0.1.wait(state).unwrap();
        }
        state.permits = state.permits.saturating_sub(1);
        state.waiting = false;
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    Error,
    Panic,
}

pub struct FakeExecutor {
    pub script: Vec<u32>,
    pub gate: Gate,
    /// What happens in the first step that decodes for two requests.
    pub failure: Option<Failure>,
    pub step_time: Duration,
}

impl FakeExecutor {
    pub fn new(script: &[u32]) -> Self {
        let gate = Gate::default();
        gate.open();
        FakeExecutor { script: script.to_vec(), gate, failure: None, step_time: Duration::ZERO }
    }

    pub fn text(text: &str) -> Self {
        Self::new(&text.bytes().map(u32::from).collect::<Vec<_>>())
    }

    pub fn gated(text: &str) -> (Self, Gate) {
        let executor = FakeExecutor { gate: Gate::default(), ..Self::text(text) };
        let gate = executor.gate.clone();
        (executor, gate)
    }
}

impl Executor for FakeExecutor {
    fn execute(&mut self, plan: &StepPlan) -> Result<StepOutcome, ExecutorError> {
        self.gate.pass();
        std::thread::sleep(self.step_time);
        if plan.seqs.len() == 2 && plan.seqs.iter().all(|s| s.generated > 0) {
            match self.failure {
                Some(Failure::Error) => return Err(ExecutorError("injected error".to_owned())),
                Some(Failure::Panic) => panic!("injected panic"),
                None => {}
            }
        }
        let sampled = plan.seqs.iter().enumerate().filter(|(_, s)| s.sample).map(|(index, s)| {
            let wanted = self.script[s.generated as usize % self.script.len()];
            let token = if s.banned.contains(&wanted) { u32::from(b'?') } else { wanted };
            Sampled { seq: index as u32, token }
        });
        Ok(StepOutcome { sampled: sampled.collect(), drafts: Vec::new(), elapsed: self.step_time })
    }
}

pub struct Setup {
    pub config: ServerConfig,
    pub engine: EngineConfig,
    pub executor: FakeExecutor,
    pub chat: bool,
}

impl Setup {
    pub fn new(executor: FakeExecutor) -> Self {
        let mut config = ServerConfig {
            addr: SocketAddr::from(([127, 0, 0, 1], 0)),
            served_model_name: MODEL.to_owned(),
            max_model_len: 256,
            ..ServerConfig::default()
        };
        // The fake engine is far faster than any reader.
        config.limits.max_unread_tokens = 1 << 20;
        let vllm = VllmConfig { max_num_seqs: 4, ..VllmConfig::default() };
        let engine = EngineConfig {
            policy: PolicyConfig::Vllm(vllm),
            kv: KvStrategy::Paged,
            block_size: 16,
            num_blocks: 65,
            max_model_len: config.max_model_len,
        };
        Setup { config, engine, executor, chat: true }
    }

    pub fn max_num_seqs(mut self, n: u32) -> Self {
        let PolicyConfig::Vllm(vllm) = &mut self.engine.policy else { unreachable!("set in new") };
        vllm.max_num_seqs = n;
        self
    }

    pub async fn start(self) -> Server {
        self.try_start().await.unwrap_or_else(|error| panic!("{error}"))
    }

    pub async fn try_start(self) -> Result<Server, ServerError> {
        let spec = llmlab_models::load_spec("synthetic:llama-15m").unwrap();
        let tokenizer = Tokenizer::byte_level(spec.vocab_size);
        let template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]";
        let chat_template = self.chat.then(|| ChatTemplate::new(template, None, None).unwrap());
        let model = Arc::new(ModelInfo { spec, tokenizer, chat_template, eos_token_ids: vec![EOS] });
        let scheduler = Scheduler::new(self.engine).unwrap();
        let gate = self.executor.gate.clone();
        let (listening, addr) = oneshot::channel();
        let (shutdown, signal) = oneshot::channel::<()>();
        let task = tokio::spawn(serve(
            self.config,
            model,
            scheduler,
            Box::new(self.executor),
            move |addr| listening.send(addr).unwrap(),
            async { drop(signal.await) },
        ));
        match addr.await {
            Ok(addr) => {
                let client = reqwest::Client::new();
                Ok(Server { addr, client, shutdown: Some(shutdown), task: Some(task), gate })
            }
            Err(_) => Err(task.await.unwrap().expect_err("it ended before it listened")),
        }
    }
}

pub struct Server {
    pub addr: SocketAddr,
    pub client: reqwest::Client,
    shutdown: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<Result<(), ServerError>>>,
    gate: Gate,
}

impl Drop for Server {
    /// The engine thread must not stay behind a closed gate.
    fn drop(&mut self) {
        self.gate.open();
    }
}

impl Server {
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    pub async fn post(&self, path: &str, body: &Value) -> reqwest::Response {
        self.client.post(self.url(path)).json(body).send().await.unwrap()
    }

    pub async fn get(&self, path: &str) -> reqwest::Response {
        self.client.get(self.url(path)).send().await.unwrap()
    }

    /// The answer must be a 200.
    pub async fn ok(&self, path: &str, body: &Value) -> Value {
        let response = self.post(path, body).await;
        let status = response.status();
        let text = response.text().await.unwrap();
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    /// The data of every event of a streamed answer.
    pub async fn events(&self, path: &str, body: &Value) -> Vec<String> {
        events(self.post(path, body).await).await
    }

    pub async fn metrics(&self) -> String {
        self.get("/metrics").await.text().await.unwrap()
    }

    /// One sample by its name and a part of its labels.
    pub async fn metric(&self, name: &str, labels: &str) -> f64 {
        sample(&self.metrics().await, name, labels)
    }

    pub fn signal_shutdown(&mut self) {
        drop(self.shutdown.take());
    }

    pub async fn stopped(&mut self) -> Result<(), ServerError> {
        let task = self.task.take().expect("waited for once");
        tokio::time::timeout(PATIENCE, task).await.expect("the server stops").unwrap()
    }

    pub async fn stop(&mut self) -> Result<(), ServerError> {
        self.signal_shutdown();
        self.stopped().await
    }
}

pub async fn events(response: reqwest::Response) -> Vec<String> {
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream; charset=utf-8");
    parse_events(&response.text().await.unwrap())
}

pub fn parse_events(text: &str) -> Vec<String> {
    let body = text.strip_suffix("\n\n").unwrap_or_else(|| panic!("no blank line at the end of {text:?}"));
    body.split("\n\n")
        .map(|e| e.strip_prefix("data: ").unwrap_or_else(|| panic!("{e:?}")).to_owned())
        .collect()
}

pub fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e} in {text:?}"))
}

pub fn sample(text: &str, name: &str, labels: &str) -> f64 {
    let start = format!("{name}{{");
    let line = text.lines().find(|l| l.starts_with(&start) && l.contains(labels));
    let line = line.unwrap_or_else(|| panic!("no {name} with {labels:?} in\n{text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// Waits for a condition. Not a timing assertion: the limit only turns a hang into a failure.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("waited too long until {what}"));
}
