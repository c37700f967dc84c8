//! `config.json`: what is accepted, what its defaults are, and one clear error for everything else.

use std::path::Path;

use llmlab_models::{ModelError, ModelSpec};
use serde_json::{Value, json};

/// TinyLlama 1.1B Chat v1.0, as published.
fn tinyllama() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "attention_bias": false, "bos_token_id": 1, "eos_token_id": 2,
        "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 5632,
        "max_position_embeddings": 2048, "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 22,
        "num_key_value_heads": 4, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": null,
        "rope_theta": 10000.0, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
        "transformers_version": "4.35.0", "use_cache": true, "vocab_size": 32000
    })
}

fn parse(config: &Value) -> Result<ModelSpec, ModelError> {
    ModelSpec::from_hf_config(&config.to_string(), Path::new("models/tiny/config.json"))
}

fn with(key: &str, value: Value) -> Value {
    let mut config = tinyllama();
    config[key] = value;
    config
}

fn without(key: &str) -> Value {
    let mut config = tinyllama();
    config.as_object_mut().unwrap().remove(key).unwrap();
    config
}

#[test]
fn a_published_config_reads_as_it_is() {
    let spec = parse(&tinyllama()).unwrap();
    assert_eq!((spec.name.as_str(), spec.family.name()), ("tiny", "llama"));
    assert_eq!((spec.num_heads, spec.num_kv_heads, spec.head_dim), (32, 4, 64));
    assert_eq!((spec.bos_token_id, spec.eos_token_ids.as_slice()), (Some(1), &[2][..]));
    assert_eq!((spec.rms_norm_eps, spec.ropes[0].theta, spec.dtype.as_str()), (1e-5, 10_000.0, "bfloat16"));
    assert_eq!(spec.parameters(), 1_100_048_384);
    let shapes: Vec<_> = spec.tensors().into_iter().map(|tensor| (tensor.name, tensor.shape)).collect();
    assert_eq!(shapes.len(), 3 + 22 * 9);
    assert!(shapes.contains(&("model.layers.21.self_attn.k_proj.weight".into(), vec![256, 2048])));
    assert!(shapes.contains(&("model.layers.0.mlp.down_proj.weight".into(), vec![2048, 5632])));
}

#[test]
fn missing_keys_take_the_defaults_of_the_reference() {
    assert_eq!(parse(&without("num_key_value_heads")).unwrap().num_kv_heads, 32);
    assert_eq!(parse(&with("num_key_value_heads", Value::Null)).unwrap().num_kv_heads, 32);
    assert_eq!(
        parse(&with("head_dim", json!(128))).unwrap().query_width(),
        4096,
        "need not be the hidden size"
    );
    assert_eq!(parse(&without("rope_theta")).unwrap().ropes[0].theta, 10_000.0);
    assert_eq!(parse(&without("eos_token_id")).unwrap().eos_token_ids, [0u32; 0]);
    assert_eq!(parse(&with("eos_token_id", json!([2, 5]))).unwrap().eos_token_ids, [2, 5]);
    assert!(!parse(&without("tie_word_embeddings")).unwrap().tie_word_embeddings);
    let new_style = with("rope_parameters", json!({ "rope_type": "default", "rope_theta": 500000.0 }));
    assert_eq!(parse(&new_style).unwrap().ropes[0].theta, 500_000.0);
    assert!(parse(&with("rope_scaling", json!({ "rope_type": "default" }))).is_ok());
}

/// A rotary embedding that is not computed is refused wherever and however it is written.
#[test]
fn an_unknown_rotary_embedding_is_refused() {
    for table in ["rope_parameters", "rope_scaling"] {
        let plain = [
            json!({}),
            json!({ "rope_type": null }),
            json!({ "type": "default" }),
            json!({ "rope_type": null, "type": "default", "partial_rotary_factor": 1.0 }),
        ];
        for value in plain {
            assert_eq!(parse(&with(table, value)).unwrap().ropes[0].theta, 10_000.0);
        }
        let theta = json!({ "rope_type": "default", "rope_theta": 500000.0, "partial_rotary_factor": 1.0 });
        assert_eq!(parse(&with(table, theta)).unwrap().ropes[0].theta, 500_000.0);
        let long = "x".repeat(100_000);
        for (named, value) in [
            (".rope_type: \"dynamic\"", json!({ "rope_type": "dynamic", "factor": 2.0 })),
            (".rope_type: 3", json!({ "rope_type": 3 })),
            (".rope_type: [\"default\"]", json!({ "rope_type": ["default"] })),
            (".type: \"dynamic\"", json!({ "rope_type": null, "type": "dynamic" })),
            (".type: \"su\"", json!({ "type": "su" })),
            (": the key \"finetuned\"", json!({ "type": "yarn", "factor": 4.0, "finetuned": true })),
            (": the key \"mscale\"", json!({ "type": "linear", "factor": 4.0, "mscale": 1.0 })),
            (".partial_rotary_factor: 0.5", json!({ "partial_rotary_factor": 0.5 })),
            (".partial_rotary_factor: \"1.0\"", json!({ "partial_rotary_factor": "1.0" })),
            (": the key \"factor\"", json!({ "rope_type": "default", "factor": 8.0 })),
            (": the key \"full_attention\"", json!({ "full_attention": { "rope_type": "default" } })),
            (": the key \"a\\nb\"", json!({ "a\nb": 1 })),
            (": the key \"xxx", json!({ long: 1 })),
            (": \"default\"", json!("default")),
            (": [{", json!([{ "rope_type": "default" }])),
        ] {
            let error = parse(&with(table, value)).unwrap_err().to_string();
            assert!(error.starts_with(&format!("models/tiny/config.json: {table}{named}")), "{error:.400}");
            assert!(error.contains("not supported yet"), "{error:.400}");
            assert!(error.len() < 400 && !error.contains('\n'), "{} bytes: {error:.400}", error.len());
        }
    }
}

#[test]
fn an_unknown_architecture_lists_the_accepted_ones() {
    for (value, shown) in [
        (json!(["FalconForCausalLM"]), "FalconForCausalLM"),
        (json!([]), "[]"),
        (json!("LlamaForCausalLM"), "\"LlamaForCausalLM\""),
        (Value::Null, "(missing)"),
    ] {
        let error = parse(&with("architectures", value)).unwrap_err().to_string();
        assert!(error.contains(shown) && error.contains("accepted are LlamaForCausalLM"), "{error}");
        assert!(error.contains("models/tiny/config.json"), "{error}");
    }
}

/// Each of these is refused with the file and the key in the message, and in one line.
#[test]
fn nonsense_names_its_key() {
    let long = "9".repeat(100_000);
    let cases = [
        ("hidden_size", json!(0)),
        ("hidden_size", json!(-1)),
        ("hidden_size", json!(2048.5)),
        ("hidden_size", json!("2048")),
        ("hidden_size", json!(u64::MAX)),
        ("hidden_size", json!([2048])),
        ("hidden_size", json!(long)),
        ("hidden_size", Value::Null),
        ("vocab_size", json!(0)),
        ("vocab_size", json!(4_000_000_000u32)),
        ("intermediate_size", json!(1u64 << 40)),
        ("num_hidden_layers", json!(1_000_000)),
        ("num_attention_heads", json!(0)),
        ("num_attention_heads", json!(36)),
        ("num_key_value_heads", json!(5)),
        ("num_key_value_heads", json!(64)),
        ("num_key_value_heads", json!(0)),
        ("head_dim", json!(63)),
        ("head_dim", json!(0)),
        ("head_dim", json!(1 << 20)),
        ("max_position_embeddings", json!(u32::MAX)),
        ("rope_theta", json!(0)),
        ("rope_theta", json!(-10000.0)),
        ("rope_theta", json!("NaN")),
        ("rope_theta", json!(1e300)),
        ("rope_theta", json!(1e-60)),
        ("rms_norm_eps", json!(0.0)),
        ("rms_norm_eps", json!(1.0)),
        ("rms_norm_eps", json!(1e-60)),
        ("eos_token_id", json!(32000)),
        ("eos_token_id", json!([2, -1])),
        ("eos_token_id", json!(vec![2; 1000])),
        ("bos_token_id", json!("<s>")),
        ("tie_word_embeddings", json!("yes")),
        ("torch_dtype", json!(16)),
        ("rope_scaling", json!({ "type": "linear" })),
        ("rope_scaling", json!({ "type": "linear", "factor": 0.0 })),
        ("rope_scaling", json!({ "type": "linear", "factor": 1e300 })),
        ("rope_scaling.type", json!({ "rope_type": "default", "type": "linear" })),
        ("rope_scaling", json!({ "rope_type": "llama3", "factor": 8.0 })),
        (
            "rope_scaling.high_freq_factor",
            json!({ "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0 }),
        ),
        ("rope_scaling", json!({ "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 0 })),
        ("rope_scaling", json!({ "type": "yarn", "factor": 4.0, "truncate": 1 })),
        ("rope_scaling.short_factor", json!({ "type": "longrope", "factor": 4.0 })),
        (
            "rope_scaling.short_factor",
            json!({ "type": "longrope", "factor": 4.0, "short_factor": [1, 2], "long_factor": [1, 2] }),
        ),
        (
            "rope_scaling.long_factor",
            json!({ "type": "longrope", "factor": 4.0, "short_factor": vec![1; 32], "long_factor": vec![0; 32] }),
        ),
        ("rope_scaling", json!(true)),
        ("rope_theta", json!(true)),
        ("rope_parameters", json!({ "rope_theta": -1 })),
        ("attention_bias", json!("yes")),
        ("mlp_bias", json!(1)),
        ("layer_types", json!("full_attention")),
        ("layer_types", json!(["full_attention"])),
        ("layer_types", json!(vec!["chunked_attention"; 22])),
        ("hidden_act", json!("gelu")),
        ("partial_rotary_factor", json!(0.5)),
    ];
    for (key, value) in cases {
        let top = key.split('.').next().unwrap();
        let error = parse(&with(top, value.clone())).expect_err(&format!("{key} = {value:.60}")).to_string();
        assert!(error.starts_with(&format!("models/tiny/config.json: {key}")), "{error}");
        assert!(error.len() < 400 && !error.contains('\n'), "{} bytes: {:.400}", error.len(), error);
    }
}

/// The same for the keys that only some families have.
#[test]
fn nonsense_of_a_family_names_its_key() {
    let dense = [
        ("MistralForCausalLM", "sliding_window", json!(0)),
        ("MistralForCausalLM", "attention_bias", json!(true)),
        ("MistralForCausalLM", "layer_types", json!(vec!["full_attention"; 22])),
        ("Phi3ForCausalLM", "partial_rotary_factor", json!(1.5)),
        ("Phi3ForCausalLM", "partial_rotary_factor", json!(0.05)),
        ("Phi3ForCausalLM", "partial_rotary_factor", json!(0.001)),
        ("Phi3ForCausalLM", "rope_scaling.type", json!({ "type": "linear", "factor": 2.0 })),
        ("Qwen2ForCausalLM", "use_sliding_window", json!(1)),
        ("Qwen2ForCausalLM", "max_window_layers", json!(-1)),
        ("Qwen3ForCausalLM", "layer_types", json!(vec![0; 22])),
        ("Gemma2ForCausalLM", "use_bidirectional_attention", json!(true)),
        ("Gemma2ForCausalLM", "attn_logit_softcapping", json!(0.0)),
        ("Gemma2ForCausalLM", "query_pre_attn_scalar", json!(-1)),
        ("Gemma2ForCausalLM", "sliding_window", Value::Null),
        ("Gemma3ForCausalLM", "sliding_window_pattern", json!(0)),
        ("Gemma3ForCausalLM", "rope_local_base_freq", json!(0)),
        ("Gemma3ForCausalLM", "rope_parameters", json!({ "rope_type": "default" })),
        ("Gemma3ForCausalLM", "rope_parameters", json!({ "full_attention": 3 })),
    ];
    let experts = [
        ("MixtralForCausalLM", "num_local_experts", json!(0)),
        ("MixtralForCausalLM", "num_local_experts", json!(1_000_000)),
        ("MixtralForCausalLM", "num_experts_per_tok", json!(9)),
        ("MixtralForCausalLM", "num_experts_per_tok", json!(0)),
        ("Qwen2MoeForCausalLM", "moe_intermediate_size", json!(1u64 << 40)),
        ("Qwen2MoeForCausalLM", "shared_expert_intermediate_size", json!(0)),
        ("Qwen3MoeForCausalLM", "decoder_sparse_step", json!(0)),
        ("Qwen3MoeForCausalLM", "mlp_only_layers", json!([-1])),
        ("Qwen3MoeForCausalLM", "mlp_only_layers", json!(3)),
        ("Qwen3MoeForCausalLM", "norm_topk_prob", json!("true")),
    ];
    for (architecture, key, value) in dense.into_iter().chain(experts) {
        let mut config = with("architectures", json!([architecture]));
        assert!(parse(&config).is_ok(), "{architecture}");
        config[key.split('.').next().unwrap()] = value.clone();
        let error = parse(&config).expect_err(&format!("{architecture}: {key} = {value:.60}")).to_string();
        assert!(error.starts_with(&format!("models/tiny/config.json: {key}")), "{error}");
        assert!(error.len() < 400 && !error.contains('\n'), "{} bytes: {:.400}", error.len(), error);
    }
    let mut deep = with("architectures", json!(["Qwen3MoeForCausalLM"]));
    (deep["num_hidden_layers"], deep["num_experts"]) = (json!(1024), json!(1024));
    assert!(parse(&deep).unwrap_err().to_string().contains("num_experts: 1024 in 1024 layers"));
}

#[test]
fn text_that_is_no_config_is_an_error() {
    let twice = tinyllama().to_string().replacen('{', "{\"hidden_size\": 4096,", 1);
    let deep = "[".repeat(100_000);
    for (json, expected) in [
        ("", "EOF"),
        ("{", "EOF"),
        ("null", "a JSON object"),
        ("[1]", "a JSON object"),
        (r#"{"hidden_size": NaN}"#, "line 1"),
        (twice.as_str(), "\"hidden_size\" occurs twice"),
        (deep.as_str(), "a JSON object"),
    ] {
        let error = ModelSpec::from_hf_config(json, Path::new("config.json")).unwrap_err().to_string();
        assert!(error.starts_with("config.json: ") && error.contains(expected), "{error}");
    }
    let nested = format!("{{\"x\": {deep}");
    assert!(ModelSpec::from_hf_config(&nested, Path::new("config.json")).is_err(), "no stack overflow");
}

proptest::proptest! {
    /// Whatever the text, it is read or refused, and what is read can be computed with.
    #[test]
    fn no_number_breaks_the_arithmetic(key in 0usize..9, number in proptest::num::u64::ANY) {
        let keys = ["hidden_size", "vocab_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "head_dim", "max_position_embeddings", "eos_token_id"];
        // Shifted by its own low bits, so that small numbers come up as often as large ones.
        if let Ok(spec) = parse(&with(keys[key], json!(number >> (number % 64)))) {
            let bytes = spec.stored_weight_bytes(llmlab_models::WeightFormat::F32);
            proptest::prop_assert!(bytes >= spec.parameters());
            proptest::prop_assert!(spec.tensors().len() < 10_000);
        }
    }
}
