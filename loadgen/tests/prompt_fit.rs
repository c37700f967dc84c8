//! Text prompts of exact length, against a server that counts by rules of its own and tells in each of the known forms.

mod support;

use std::sync::Arc;
use std::time::Duration;

use llmlab_loadgen::{Arrivals, Prompt, PromptStyle, Protocol, Workload, fit_prompts, generate};
use llmlab_results::prompt_fit::PromptFitMethod;
use serde_json::{Value, json};
use support::{config, endpoint, read_request};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What a chat template adds.
const TEMPLATE: u64 = 9;

/// A word of more than five letters is two tokens, and every text begins with a special one.
fn tokens(text: &str) -> u64 {
    1 + text.split_whitespace().map(|word| if word.len() > 5 { 2 } else { 1 }).sum::<u64>()
}

/// Its answer to `/tokenize`, or `None`: no such path.
type Tokenize = fn(&Value) -> Option<Value>;

/// Serves chat completions that count, or do not, until the runtime is dropped.
fn serve(tokenize: Tokenize, usage: bool) -> (tokio::runtime::Runtime, String) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answer = Arc::new(move |request: &str| answer(request, tokenize, usage));
    runtime.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            tokio::spawn(async move {
                while let Some(request) = read_request(&mut stream).await {
                    if stream.write_all(answer(&request).as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (runtime, url)
}

fn answer(request: &str, tokenize: Tokenize, usage: bool) -> String {
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let body: Value = serde_json::from_str(body).unwrap();
    let page = |status, kind, body: &str| {
        format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    };
    if head.starts_with("POST /tokenize ") {
        return match tokenize(&body) {
            Some(answer) => page("200 OK", "application/json", &answer.to_string()),
            None => page("404 Not Found", "application/json", "{}"),
        };
    }
    let prompt = TEMPLATE + tokens(body["messages"][0]["content"].as_str().unwrap());
    let max = body["max_tokens"].as_u64().unwrap();
    let choice = json!({"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "length"}]});
    let counts = json!({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": max}});
    let counts = if usage { format!("data: {counts}\n\n") } else { String::new() };
    page("200 OK", "text/event-stream", &format!("data: {choice}\n\n{counts}data: [DONE]\n\n"))
}

fn list(text: &str) -> Vec<u64> {
    (0..tokens(text)).collect()
}

fn vllm(body: &Value) -> Option<Value> {
    let ids = list(body["prompt"].as_str()?);
    Some(json!({"count": ids.len(), "max_model_len": 4096, "tokens": ids}))
}

/// It answers whatever it is asked.
fn llamacpp(body: &Value) -> Option<Value> {
    let ids = body["content"].as_str().map(list).unwrap_or_default();
    Some(json!({ "tokens": ids }))
}

fn tgi(body: &Value) -> Option<Value> {
    let ids = list(body["inputs"].as_str()?);
    Some(ids.iter().map(|id| json!({"id": id, "text": "x", "start": 0, "stop": 1})).collect())
}

fn words() -> Workload {
    let arrivals = Arrivals::Closed { users: 1, think_time: Duration::ZERO };
    let mut config = config(12, 4, arrivals);
    config.prompts = PromptStyle::Words { tokens_per_word: 1.3 };
    config.lengths = llmlab_loadgen::Lengths::Independent {
        input: llmlab_loadgen::LengthDist::Uniform { min: 20, max: 300 },
        output: llmlab_loadgen::LengthDist::Fixed { tokens: 4 },
    };
    generate(&config).unwrap()
}

/// Fits prompts to the server and returns how far each is off, by the server's rule, with the method.
fn fitted(tokenize: Tokenize, usage: bool) -> (Vec<u64>, PromptFitMethod) {
    let (_server, url) = serve(tokenize, usage);
    let mut endpoint = endpoint(url);
    endpoint.protocol = Protocol::OpenAiChat;
    let workload = words();
    let fitted = fit_prompts(&endpoint, &workload, &CancellationToken::new()).unwrap().unwrap();
    assert_eq!(fitted.workload.mode, workload.mode);
    let off = fitted.workload.requests.iter().zip(&workload.requests).map(|(fitted, planned)| {
        assert_eq!((fitted.index, fitted.prompt_tokens), (planned.index, planned.prompt_tokens));
        let Prompt::Text(text) = &fitted.prompt else { panic!("text stays text") };
        (TEMPLATE + tokens(text)).abs_diff(u64::from(planned.prompt_tokens))
    });
    (off.collect(), fitted.facts.method)
}

#[test]
fn every_form_of_a_tokenizer_makes_prompts_exact() {
    for (name, form) in [("vllm", vllm as Tokenize), ("llamacpp", llamacpp), ("tgi", tgi)] {
        let (off, method) = fitted(form, true);
        assert_eq!((off.iter().sum::<u64>(), method), (0, PromptFitMethod::Tokenizer), "{name}: {off:?}");
    }
}

#[test]
fn without_a_tokenizer_usage_comes_near() {
    let (off, method) = fitted(|_| None, true);
    assert_eq!(method, PromptFitMethod::Usage);
    // The template is known; what is left is that words differ in length.
    assert!(off.iter().all(|off| *off <= 30), "{off:?}");
}

#[test]
fn a_tokenizer_of_something_else_is_not_believed() {
    // It counts letters.
    let (_, method) = fitted(|body| Some(json!({ "count": body["prompt"].as_str()?.len() })), true);
    assert_eq!(method, PromptFitMethod::Usage);
    // One that counts right where no request is counted: nothing says that it does.
    assert_eq!(fitted(vllm, false).1, PromptFitMethod::Estimate);
}

#[test]
fn a_server_that_tells_nothing_is_measured_as_it_is() {
    let (_, method) = fitted(|_| None, false);
    assert_eq!(method, PromptFitMethod::Estimate);
}

#[test]
fn token_ids_need_no_fitting() {
    let workload = support::closed(3, 1, 2);
    let nobody = endpoint("http://127.0.0.1:1".into());
    assert!(fit_prompts(&nobody, &workload, &CancellationToken::new()).unwrap().is_none());
}
