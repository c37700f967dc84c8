//! Writes the first inputs of each target: small valid files, so that a fuzzer starts behind the checks and not in front of
//! them. `seeds CORPUS_FOLDER`.

use std::fs;
use std::path::Path;

use llmlab_models::gguf::{
    GgufFile, NewModel, NewTensor, NewValue, NewVocabulary, write_container, write_gguf,
};
use llmlab_models::synthetic::{CHAT_TEMPLATE, SyntheticWeights};
use llmlab_models::{Family, ModelSpec, MoeSpec, Preset, RopeScaling};
use llmlab_quant::{WeightFormat, WeightRecipe};

fn main() {
    let corpus = std::env::args().nth(1).expect("usage: seeds CORPUS_FOLDER");
    let (gguf, safetensors) =
        (Path::new(&corpus).join("gguf_open"), Path::new(&corpus).join("safetensors_open"));
    fs::create_dir_all(&gguf).expect("the folder can be made");
    fs::create_dir_all(&safetensors).expect("the folder can be made");
    let words = gguf.join("sentence-piece");
    sentence_piece(&words);
    byte_bpe(&gguf.join("byte-bpe"));
    for family in Family::ALL {
        for format in [WeightFormat::F16, WeightFormat::Iq4Nl] {
            model(&gguf.join(format!("{family}-{format}")), family, format, &words);
        }
    }
    every_format(&gguf.join("formats"));
    for (target, name, text) in STREAMS {
        let folder = Path::new(&corpus).join(target);
        fs::create_dir_all(&folder).expect("the folder can be made");
        fs::write(folder.join(name), text).expect("the seed can be written");
    }
    for (name, bytes) in safetensors_files() {
        fs::write(safetensors.join(name), bytes).expect("the seed can be written");
    }
}

/// Target, file, bytes. The first byte of a stream says where it is cut.
const STREAMS: [(&str, &str, &[u8]); 10] = [
    ("sse_read", "openai", b"\x05data: {\"choices\":[{\"text\":\"a\"}]}\n\ndata: [DONE]\n\n"),
    ("sse_read", "fields", b"\x02\xef\xbb\xbf: ping\r\nevent: error\r\nid: 1\r\ndata:a\r\ndata: b\r\rdata"),
    ("ndjson_read", "ollama", b"\x07{\"response\":\"a\",\"done\":false}\n{\"done\":true}\r\n\n"),
    ("ndjson_read", "unended", b"\x01{}\n \xff{}"),
    ("http1_read", "chunked", b"\x03HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4;a=b\r\nabcd\r\n0\r\nc: d\r\n\r\n"),
    ("http1_read", "length", b"\x07HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 OK\r\ncontent-length: 3\r\nconnection: keep-alive\r\n\r\nabcd"),
    ("event_scan", "completions", br#"{"id":"c","object":"text_completion","created":1,"choices":[{"index":0,"text":"a","logprobs":null,"finish_reason":"length"}],"usage":{"prompt_tokens":8,"completion_tokens":1}}"#),
    ("event_scan", "chat", br#"{"choices":[{"index":0,"delta":{"role":"assistant","content":"","reasoning":"a","tool_calls":null},"token_ids":null}],"usage":null,"error":null}"#),
    ("prometheus_read", "text", b"# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{engine=\"0\",a=\"x\\\"\\n\"} 3.0 1700000000000\n"),
    ("prometheus_read", "openmetrics", b"vllm:time_to_first_token_seconds_bucket{le=\"0.1\"} 2 # {a=\"b\"} 1 2\nvllm:time_to_first_token_seconds_bucket{le=\"+Inf\"} 4\nvllm:time_to_first_token_seconds_sum 1.5\nvllm:time_to_first_token_seconds_count 4\n# EOF\n"),
];

/// A model of a few kilobytes with the vocabulary of another file.
fn model(path: &Path, family: Family, format: WeightFormat, words: &Path) {
    let words = GgufFile::open(words).expect("the vocabulary was just written");
    let tiny = Preset::Tiny(family).spec();
    let small = ModelSpec {
        vocab_size: 10,
        hidden_size: 32,
        intermediate_size: 32,
        num_layers: 1,
        num_heads: 2,
        num_kv_heads: 1,
        head_dim: 16,
        embedding_scale: if tiny.norm_plus_one { 32f32.sqrt() } else { 1.0 },
        moe: tiny.moe.map(|moe| MoeSpec {
            experts: 2,
            experts_per_token: 1,
            expert_intermediate: 32,
            shared_intermediate: moe.shared_intermediate.map(|_| 32),
            dense_layers: vec![false],
            ..moe
        }),
        ..tiny
    };
    let mut spec = small.with_plain_attention(10_000.0);
    match family {
        Family::Llama => spec.ropes[0].scaling = RopeScaling::Factors { factors: vec![1.5; 8] },
        Family::Mistral | Family::Gemma2 => spec.layers[0].window = Some(4),
        Family::Gemma3 => {
            let rope = spec.ropes[0].clone();
            spec.ropes.push(rope);
            spec.layers[0].window = Some(4);
            spec.layers[0].rope = 1;
        }
        Family::Phi3 => {
            spec.ropes[0].scaling = RopeScaling::LongRope {
                short_factor: vec![1.0; 8],
                long_factor: vec![2.0; 8],
                original_max_position: 8,
                attention_factor: 1.25,
            };
        }
        _ => {}
    }
    let new = NewModel {
        spec: &spec,
        weights: &SyntheticWeights::new(spec.clone(), 1),
        recipe: WeightRecipe::Uniform(format),
        vocabulary: NewVocabulary::CopyOf(&words),
        chat_template: Some(CHAT_TEMPLATE),
    };
    write_gguf(path, &new).unwrap_or_else(|error| panic!("{family}: {error}"));
}

/// A vocabulary with scores and no weights.
fn sentence_piece(path: &Path) {
    let texts = ["<unk>", "<s>", "</s>", "<0x41>", "\u{2581}", "a", "b", "ab", "\u{2581}ab", "<user>"];
    let text = |value: &str| NewValue::Str(value.into());
    let keys = [
        ("general.architecture", text("llama")),
        ("tokenizer.ggml.model", text("llama")),
        ("tokenizer.ggml.tokens", NewValue::Strs(texts.map(String::from).to_vec())),
        ("tokenizer.ggml.token_type", NewValue::I32s(vec![2, 3, 3, 6, 1, 1, 1, 1, 1, 4])),
        ("tokenizer.ggml.scores", NewValue::F32s((0..10).map(|id| -(id as f32)).collect())),
        ("tokenizer.ggml.bos_token_id", NewValue::U32(1)),
        ("tokenizer.ggml.add_eos_token", NewValue::Bool(true)),
    ];
    let keys = keys.map(|(key, value)| (key.to_string(), value));
    write_container(path, &keys, &[], |_, _| Ok(())).expect("the seed can be written");
}

/// A vocabulary with merges and no weights.
fn byte_bpe(path: &Path) {
    let text = |value: &str| NewValue::Str(value.into());
    let texts = |list: &[&str]| NewValue::Strs(list.iter().map(|text| text.to_string()).collect());
    let keys = [
        ("general.architecture", text("qwen2")),
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("gpt-2")),
        ("tokenizer.ggml.tokens", texts(&["H", "e", "l", "o", "\u{120}", "He", "ll", "<|user|>"])),
        ("tokenizer.ggml.token_type", NewValue::I32s(vec![1, 1, 1, 1, 1, 1, 1, 3])),
        ("tokenizer.ggml.merges", texts(&["H e", "l l"])),
        ("tokenizer.ggml.eos_token_id", NewValue::U32(7)),
    ];
    let keys = keys.map(|(key, value)| (key.to_string(), value));
    write_container(path, &keys, &[], |_, _| Ok(())).expect("the seed can be written");
}

/// One block of every format and no shape.
fn every_format(path: &Path) {
    let formats = WeightFormat::ALL.into_iter().filter(|format| format.is_gguf());
    let tensors: Vec<NewTensor> = formats
        .map(|format| NewTensor { name: format.to_string(), shape: vec![1, format.block() as u64], format })
        .collect();
    write_container(path, &[], &tensors, |index, out| {
        out.write_all(&vec![0x3c; tensors[index].bytes() as usize]).expect("the seed can be written");
        Ok(())
    })
    .expect("the seed can be written");
}

fn safetensors_files() -> Vec<(&'static str, Vec<u8>)> {
    let file = |header: &str, data: usize| {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend((0..data).map(|index| (index % 60) as u8));
        bytes
    };
    vec![
        ("empty", file("{}", 0)),
        ("one", file(r#"{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}"#, 16)),
        (
            "several",
            file(
                r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[4],"data_offsets":[0,8]},"b":{"dtype":"F16","shape":[2,1],"data_offsets":[8,12]},"c":{"dtype":"I32","shape":[1],"data_offsets":[12,16]},"d":{"dtype":"F8_E4M3","shape":[0,3],"data_offsets":[16,16]}}"#,
                16,
            ),
        ),
    ]
}
