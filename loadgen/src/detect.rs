//! Which server answers at an address, from what it says to a few GETs, and so which protocol to speak with it.
//!
//! Without I/O: whoever asks sends a GET to each of [`PROBES`] and hands in the replies. A server's own protocol is
//! preferred over its OpenAI one where it counts better: per event (TGI, llama.cpp, SGLang), or at all (Ollama).

use std::fmt;

use serde_json::Value;
use thiserror::Error;

use crate::endpoint::Protocol;

const MODELS: &str = "/v1/models";
const TGI_INFO: &str = "/info";
const OLLAMA_VERSION: &str = "/api/version";
const OLLAMA_TAGS: &str = "/api/tags";
const LLAMACPP_PROPS: &str = "/props";
const SGLANG_INFO: [&str; 2] = ["/get_server_info", "/server_info"];
const TRITON_READY: &str = "/v2/health/ready";
const TRITON: &str = "/v2";
const VERSION: &str = "/version";
const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";
const EMBEDDINGS: &str = "/v1/embeddings";

/// Paths below the base URL to send a GET to. None of them makes a server generate.
pub const PROBES: [&str; 13] = [
    MODELS,
    TGI_INFO,
    OLLAMA_VERSION,
    OLLAMA_TAGS,
    LLAMACPP_PROPS,
    SGLANG_INFO[0],
    SGLANG_INFO[1],
    TRITON_READY,
    TRITON,
    VERSION,
    COMPLETIONS,
    CHAT,
    EMBEDDINGS,
];

/// What came back for one of [`PROBES`]. A probe that failed has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub path: &'static str,
    pub status: u16,
    pub body: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detected {
    /// For people, with its version where it tells.
    pub server: String,
    /// The reply that gave it away.
    pub by: &'static str,
    pub protocol: Protocol,
    /// The first model it lists.
    pub model: Option<String>,
}

impl fmt::Display for Detected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (by {}), protocol {}", self.server, self.by, self.protocol.name())?;
        match &self.model {
            Some(model) => write!(f, ", model {model}"),
            None => Ok(()),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unknown {
    #[error(
        "the server wants a key ({path}: HTTP {status}); name the environment variable that holds it with api_key_env"
    )]
    Locked { path: &'static str, status: u16 },
    #[error("not a server llmlab knows; tried GET {tried}; say which protocol it speaks: {known}")]
    NoMatch { tried: String, known: String },
}

pub fn identify(replies: &[Reply]) -> Result<Detected, Unknown> {
    let replies = Replies(replies);
    ollama(&replies)
        .or_else(|| tgi(&replies))
        .or_else(|| tei(&replies))
        .or_else(|| sglang(&replies))
        .or_else(|| llamacpp(&replies))
        .or_else(|| triton(&replies))
        .or_else(|| openai(&replies))
        .ok_or_else(|| replies.unknown())
}

struct Replies<'a>(&'a [Reply]);

impl Replies<'_> {
    fn status(&self, path: &str) -> Option<u16> {
        self.0.iter().find(|reply| reply.path == path).map(|reply| reply.status)
    }

    /// The JSON of a good reply. Servers that answer every path with a web page have none.
    fn json(&self, path: &str) -> Option<Value> {
        let reply = self.0.iter().find(|reply| reply.path == path && reply.status == 200)?;
        serde_json::from_str(&reply.body).ok()
    }

    fn first_model(&self) -> Option<String> {
        text(&self.json(MODELS)?, "/data/0/id")
    }

    fn unknown(&self) -> Unknown {
        let locked = self.0.iter().find(|reply| matches!(reply.status, 401 | 403));
        if let Some(reply) = locked {
            return Unknown::Locked { path: reply.path, status: reply.status };
        }
        let tried = PROBES.map(|path| match self.status(path) {
            Some(status) => format!("{path} (HTTP {status})"),
            None => format!("{path} (no answer)"),
        });
        Unknown::NoMatch { tried: tried.join(", "), known: Protocol::ALL.map(Protocol::name).join(", ") }
    }
}

fn text(json: &Value, pointer: &str) -> Option<String> {
    let text = json.pointer(pointer)?.as_str()?;
    (!text.is_empty()).then(|| text.to_owned())
}

/// `product`, with the version that is at `pointer`.
fn versioned(product: &str, json: Option<&Value>, pointer: &str) -> String {
    match json.and_then(|json| text(json, pointer)) {
        Some(version) => format!("{product} {version}"),
        None => product.to_owned(),
    }
}

fn ollama(replies: &Replies<'_>) -> Option<Detected> {
    let version = replies.json(OLLAMA_VERSION)?;
    let tags = replies.json(OLLAMA_TAGS)?;
    tags.get("models")?.as_array()?;
    text(&version, "/version")?;
    Some(Detected {
        server: versioned("Ollama", Some(&version), "/version"),
        by: OLLAMA_VERSION,
        protocol: Protocol::OllamaGenerate,
        model: text(&tags, "/models/0/name"),
    })
}

fn tgi(replies: &Replies<'_>) -> Option<Detected> {
    let info = replies.json(TGI_INFO)?;
    info.get("max_total_tokens")?;
    let model = text(&info, "/model_id")?;
    let server = versioned("TGI", Some(&info), "/version");
    Some(Detected { server, by: TGI_INFO, protocol: Protocol::Tgi, model: Some(model) })
}

/// The embedding server of TGI's family; one that ranks or classifies is not meant.
fn tei(replies: &Replies<'_>) -> Option<Detected> {
    let info = replies.json(TGI_INFO)?;
    info.pointer("/model_type/embedding")?;
    Some(Detected {
        server: versioned("text-embeddings-inference", Some(&info), "/version"),
        by: TGI_INFO,
        protocol: Protocol::TeiEmbed,
        model: text(&info, "/model_id"),
    })
}

fn sglang(replies: &Replies<'_>) -> Option<Detected> {
    let (by, info) = SGLANG_INFO.into_iter().find_map(|path| Some((path, replies.json(path)?)))?;
    info.get("internal_states")?;
    Some(Detected {
        server: versioned("SGLang", Some(&info), "/version"),
        by,
        protocol: Protocol::SgLang,
        model: replies.first_model().or_else(|| text(&info, "/model_path")),
    })
}

fn llamacpp(replies: &Replies<'_>) -> Option<Detected> {
    let props = replies.json(LLAMACPP_PROPS)?;
    props.get("default_generation_settings")?;
    Some(Detected {
        server: versioned("llama.cpp", Some(&props), "/build_info"),
        by: LLAMACPP_PROPS,
        protocol: Protocol::LlamaCpp,
        model: replies.first_model().or_else(|| text(&props, "/model_path")),
    })
}

/// Which models it has it tells no GET.
fn triton(replies: &Replies<'_>) -> Option<Detected> {
    let metadata = replies.json(TRITON)?;
    metadata.get("extensions")?.as_array()?;
    (replies.status(TRITON_READY)? == 200).then(|| Detected {
        server: versioned("Triton", Some(&metadata), "/version"),
        by: TRITON,
        protocol: Protocol::Triton,
        model: None,
    })
}

fn openai(replies: &Replies<'_>) -> Option<Detected> {
    let models = replies.json(MODELS)?;
    models.get("data")?.as_array()?;
    let server = match text(&models, "/data/0/owned_by").as_deref() {
        Some("vllm") => versioned("vLLM", replies.json(VERSION).as_ref(), "/version"),
        Some(owner) => format!("an OpenAI-compatible server of {owner}"),
        None => "an OpenAI-compatible server".to_owned(),
    };
    // A path that exists refuses a GET with 405.
    let exists = [COMPLETIONS, CHAT, EMBEDDINGS].map(|path| match replies.status(path) {
        Some(405) => Some(true),
        Some(404) => Some(false),
        _ => None,
    });
    let protocol = match exists {
        [Some(false), Some(true), _] => Protocol::OpenAiChat,
        [Some(false), Some(false), Some(true)] => Protocol::OpenAiEmbeddings,
        _ => Protocol::OpenAiCompletions,
    };
    Some(Detected { server, by: MODELS, protocol, model: replies.first_model() })
}
