//! Command lines of known servers, as their documentation has them: what `command = { template = ... }` starts.
//!
//! Everything listens on 127.0.0.1. `{model}` and `{port}` stand for the scenario's values.

/// Protocols by what the server takes: token ids give exact prompt lengths, so completions where it takes them.
const COMPLETIONS: &str = "openai-completions";
const CHAT: &str = "openai-chat";

/// How a server is started and reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Template {
    pub name: &'static str,
    /// Program and arguments.
    pub run: &'static [&'static str],
    /// Variables it needs, with the same stand-ins.
    pub env: &'static [(&'static str, &'static str)],
    /// The server's own default.
    pub port: u16,
    pub health: &'static str,
    pub metrics: Option<&'static str>,
    pub protocol: &'static str,
    /// Whether requests must name `model` itself, because the first model listed may be another.
    pub model_by_name: bool,
}

pub const TEMPLATES: [Template; 7] = [
    Template {
        name: "vllm",
        run: &["vllm", "serve", "{model}", "--host", "127.0.0.1", "--port", "{port}"],
        env: &[],
        port: 8000,
        health: "/health",
        metrics: Some("/metrics"),
        protocol: COMPLETIONS,
        model_by_name: false,
    },
    Template {
        name: "tgi",
        run: &[
            "text-generation-launcher",
            "--model-id",
            "{model}",
            "--hostname",
            "127.0.0.1",
            "--port",
            "{port}",
        ],
        env: &[],
        port: 3000,
        health: "/health",
        metrics: Some("/metrics"),
        // Its completions take text only.
        protocol: CHAT,
        model_by_name: false,
    },
    Template {
        name: "llama-server",
        run: &["llama-server", "--model", "{model}", "--host", "127.0.0.1", "--port", "{port}", "--metrics"],
        env: &[],
        port: 8080,
        health: "/health",
        metrics: Some("/metrics"),
        protocol: COMPLETIONS,
        model_by_name: false,
    },
    Template {
        name: "ollama",
        run: &["ollama", "serve"],
        env: &[("OLLAMA_HOST", "127.0.0.1:{port}")],
        port: 11434,
        health: "/api/version",
        metrics: None,
        protocol: CHAT,
        // It lists every model on the disk.
        model_by_name: true,
    },
    Template {
        name: "sglang",
        run: &[
            "python3",
            "-m",
            "sglang.launch_server",
            "--model-path",
            "{model}",
            "--host",
            "127.0.0.1",
            "--port",
            "{port}",
            "--enable-metrics",
        ],
        env: &[],
        port: 30000,
        health: "/health",
        metrics: Some("/metrics"),
        protocol: COMPLETIONS,
        model_by_name: false,
    },
    Template {
        name: "tensorrt-llm",
        run: &["trtllm-serve", "{model}", "--host", "127.0.0.1", "--port", "{port}"],
        env: &[],
        port: 8000,
        health: "/health",
        // Its /metrics is a JSON list that reading empties.
        metrics: Some("/prometheus/metrics"),
        protocol: COMPLETIONS,
        model_by_name: false,
    },
    // Triton's OpenAI frontend where its container has it; `model` is the model repository.
    Template {
        name: "triton",
        run: &[
            "python3",
            "/opt/tritonserver/python/openai/openai_frontend/main.py",
            "--model-repository",
            "{model}",
            "--host",
            "127.0.0.1",
            "--openai-port",
            "{port}",
        ],
        env: &[],
        port: 9000,
        health: "/health/ready",
        metrics: Some("/metrics"),
        protocol: CHAT,
        model_by_name: false,
    },
];

/// The template of that name.
pub fn find(name: &str) -> Option<&'static Template> {
    TEMPLATES.iter().find(|template| template.name == name)
}

/// `text` with its stand-ins replaced. The model's name is put in last, so that nothing in it is taken for one.
pub(crate) fn fill(text: &str, model: &str, port: u16) -> String {
    text.replace("{port}", &port.to_string()).replace("{model}", model)
}
