//! Which server is behind an address, from replies as those servers give them.

use llmlab_loadgen::Protocol;
use llmlab_loadgen::detect::{PROBES, Reply, Unknown, identify};

/// Path, status and body.
type Page<'a> = (&'a str, u16, &'a str);

/// Replies with 404 to everything but what is given.
fn replies(known: &[Page<'_>]) -> Vec<Reply> {
    let reply = |path| match known.iter().find(|(at, ..)| *at == path) {
        Some((_, status, body)) => Reply { path, status: *status, body: (*body).to_owned() },
        None => Reply { path, status: 404, body: "Not Found".into() },
    };
    assert!(known.iter().all(|(path, ..)| PROBES.contains(path)), "only what is asked can be answered");
    PROBES.map(reply).to_vec()
}

fn recorded(name: &str) -> String {
    let path = format!("{}/tests/fixtures/tgi/{name}.response.http", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).unwrap().split_once("\r\n\r\n").unwrap().1.to_owned()
}

fn models(id: &str, owner: &str) -> String {
    format!(
        r#"{{"object":"list","data":[{{"id":"{id}","object":"model","created":1,"owned_by":"{owner}"}}]}}"#
    )
}

#[test]
fn every_kind_of_server() {
    let (tgi_info, tgi_models) = (recorded("info"), recorded("models"));
    let (vllm, library, sglang, llamacpp, own) = (
        models("meta-llama/Llama-3.1-8B", "vllm"),
        models("llama3.2:latest", "library"),
        models("Qwen/Qwen3-8B", "sglang"),
        models("qwen.gguf", "llamacpp"),
        models("llmlab", "llmlab"),
    );
    let ollama_tags = r#"{"models":[{"name":"llama3.2:latest","model":"llama3.2:latest","size":1}]}"#;
    let sglang_info = r#"{"model_path":"Qwen/Qwen3-8B","version":"0.5.23","internal_states":[{}]}"#;
    let props = r#"{"default_generation_settings":{"n_ctx":4096},"total_slots":4,"model_path":"/m/qwen.gguf","build_info":"b6000-abc"}"#;
    let triton = r#"{"name":"triton","version":"2.60.0","extensions":["classification","generate"]}"#;
    let cases: [(&[Page<'_>], Protocol, &str, Option<&str>); 8] = [
        (
            &[("/info", 200, &tgi_info), ("/v1/models", 200, &tgi_models)],
            Protocol::Tgi,
            "TGI 3.3.6-dev0",
            Some("fake-model"),
        ),
        (
            &[
                ("/v1/models", 200, &library),
                ("/api/version", 200, r#"{"version":"0.12.0"}"#),
                ("/api/tags", 200, ollama_tags),
            ],
            Protocol::OllamaGenerate,
            "Ollama 0.12.0",
            Some("llama3.2:latest"),
        ),
        (
            &[("/v1/models", 200, &sglang), ("/get_server_info", 200, sglang_info)],
            Protocol::SgLang,
            "SGLang 0.5.23",
            Some("Qwen/Qwen3-8B"),
        ),
        (&[("/server_info", 200, sglang_info)], Protocol::SgLang, "SGLang 0.5.23", Some("Qwen/Qwen3-8B")),
        (
            &[("/v1/models", 200, &llamacpp), ("/props", 200, props)],
            Protocol::LlamaCpp,
            "llama.cpp b6000-abc",
            Some("qwen.gguf"),
        ),
        (&[("/v2/health/ready", 200, ""), ("/v2", 200, triton)], Protocol::Triton, "Triton 2.60.0", None),
        (
            &[
                ("/v1/models", 200, &vllm),
                ("/version", 200, r#"{"version":"0.33.0"}"#),
                ("/v1/completions", 405, ""),
            ],
            Protocol::OpenAiCompletions,
            "vLLM 0.33.0",
            Some("meta-llama/Llama-3.1-8B"),
        ),
        (
            &[("/v1/models", 200, &own), ("/v1/completions", 405, ""), ("/v1/chat/completions", 405, "")],
            Protocol::OpenAiCompletions,
            "an OpenAI-compatible server of llmlab",
            Some("llmlab"),
        ),
    ];
    for (known, protocol, server, model) in cases {
        let found = identify(&replies(known)).unwrap();
        assert_eq!(
            (found.protocol, found.server.as_str(), found.model.as_deref()),
            (protocol, server, model)
        );
    }
}

#[test]
fn a_server_with_chat_only() {
    let models = models("m", "me");
    let found =
        identify(&replies(&[("/v1/models", 200, &models), ("/v1/chat/completions", 405, "")])).unwrap();
    assert_eq!(found.protocol, Protocol::OpenAiChat);
    let without_routes = identify(&replies(&[("/v1/models", 200, &models)])).unwrap();
    assert_eq!(without_routes.protocol, Protocol::OpenAiCompletions);
}

#[test]
fn what_was_tried_is_named() {
    let mut silent = replies(&[]);
    silent.retain(|reply| reply.path != "/props");
    let error = identify(&silent).unwrap_err().to_string();
    for path in PROBES {
        assert!(error.contains(path), "{error}");
    }
    assert!(error.contains("/props (no answer)") && error.contains("/info (HTTP 404)"), "{error}");
    assert!(error.contains("openai-completions, openai-chat, tgi"), "{error}");

    let locked = identify(&replies(&[("/v1/models", 401, r#"{"error":"Unauthorized"}"#)])).unwrap_err();
    assert_eq!(locked, Unknown::Locked { path: "/v1/models", status: 401 });
}

#[test]
fn neither_junk_nor_a_page_for_every_path_is_a_server() {
    let everywhere = |body: &str| PROBES.map(|path| Reply { path, status: 200, body: body.into() }).to_vec();
    for body in ["", "<html>welcome</html>", "null", "[]", "{}", "{\"data\":5}", "{\"version\":1}", "\"x\""] {
        assert!(identify(&everywhere(body)).is_err(), "{body}");
    }
    // The embedding server of TGI's family is one, but it embeds.
    let embeddings = r#"{"model_id":"bge","model_type":{"embedding":{}},"max_concurrent_requests":512,"max_input_length":512,"version":"1.8.0"}"#;
    let found = identify(&replies(&[("/info", 200, embeddings)])).unwrap();
    assert_eq!(
        (found.protocol, found.server.as_str()),
        (Protocol::TeiEmbed, "text-embeddings-inference 1.8.0")
    );
    let reranker = embeddings.replace("embedding", "reranker");
    assert!(identify(&replies(&[("/info", 200, &reranker)])).is_err());
}

#[test]
fn a_server_with_embeddings_only() {
    let models = models("m", "me");
    let found = identify(&replies(&[("/v1/models", 200, &models), ("/v1/embeddings", 405, "")])).unwrap();
    assert_eq!(found.protocol, Protocol::OpenAiEmbeddings);
    let both = [("/v1/models", 200, &*models), ("/v1/embeddings", 405, ""), ("/v1/completions", 405, "")];
    assert_eq!(identify(&replies(&both)).unwrap().protocol, Protocol::OpenAiCompletions);
}
