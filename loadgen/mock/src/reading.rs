//! Requests that read a text and generate nothing: embeddings, and how many tokens a text has.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::answering::words;
use crate::http::Request;

pub(crate) const EMBEDDINGS: &str = "/v1/embeddings";
pub(crate) const TOKENIZE: &str = "/tokenize";
/// Numbers of an embedding; enough to be one.
const DIMENSIONS: usize = 8;

#[derive(Deserialize)]
struct EmbeddingsBody {
    input: Input,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Input {
    Text(String),
    Ids(Vec<u32>),
    Texts(Vec<String>),
    ManyIds(Vec<Vec<u32>>),
}

impl Input {
    /// Tokens of each text, a word being one.
    fn tokens(&self) -> Vec<u64> {
        match self {
            Input::Text(text) => vec![words(text)],
            Input::Ids(ids) => vec![ids.len() as u64],
            Input::Texts(texts) => texts.iter().map(|text| words(text)).collect(),
            Input::ManyIds(all) => all.iter().map(|ids| ids.len() as u64).collect(),
        }
    }
}

/// The prompt's tokens and the answer; `Err` says what is wrong with the request.
pub(crate) fn embeddings(request: &Request, model: &str) -> Result<(u64, String), String> {
    let body: EmbeddingsBody = serde_json::from_slice(&request.body)
        .map_err(|error| format!("the body is not a request: {error}"))?;
    let tokens = body.input.tokens();
    let vector = vec![0.125; DIMENSIONS];
    let data: Vec<Value> = (0..tokens.len())
        .map(|index| json!({ "object": "embedding", "index": index, "embedding": vector }))
        .collect();
    let total: u64 = tokens.iter().sum();
    let usage = json!({ "prompt_tokens": total, "total_tokens": total });
    let answer = json!({ "object": "list", "data": data, "model": model, "usage": usage });
    Ok((total, answer.to_string()))
}

#[derive(Deserialize)]
struct TokenizeBody {
    prompt: String,
}

/// In vLLM's form: a word is a token, and its number is its place.
pub(crate) fn tokenize(request: &Request) -> Result<String, String> {
    let body: TokenizeBody = serde_json::from_slice(&request.body)
        .map_err(|error| format!("the body is not a request: {error}"))?;
    let tokens: Vec<u64> = (0..words(&body.prompt)).collect();
    Ok(json!({ "count": tokens.len(), "max_model_len": 1 << 20, "tokens": tokens }).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(body: &str) -> Request {
        Request { body: body.as_bytes().to_vec(), ..Request::default() }
    }

    #[test]
    fn every_kind_of_input_has_its_embeddings() {
        for (input, tokens, vectors) in
            [(r#""a b""#, 2, 1), ("[7,8,9]", 3, 1), (r#"["a","b c"]"#, 3, 2), ("[[1],[2,3]]", 3, 2)]
        {
            let (counted, answer) = embeddings(&request(&format!(r#"{{"input":{input}}}"#)), "m").unwrap();
            let answer: Value = serde_json::from_str(&answer).unwrap();
            assert_eq!((counted, &answer["usage"]["prompt_tokens"]), (tokens, &json!(tokens)), "{input}");
            assert_eq!(answer["data"].as_array().unwrap().len(), vectors, "{input}");
        }
        assert!(embeddings(&request("{}"), "m").is_err());
    }

    #[test]
    fn a_word_is_a_token() {
        let answer: Value =
            serde_json::from_str(&tokenize(&request(r#"{"prompt":"a b  c"}"#)).unwrap()).unwrap();
        assert_eq!((&answer["count"], &answer["tokens"]), (&json!(3), &json!([0, 1, 2])));
        assert!(tokenize(&request(r#"{"content":"a"}"#)).is_err());
    }
}
