//! `config.json` of every family, against what transformers builds from the same file (`fixtures/make_configs.py`).

use std::path::Path;

use llmlab_models::{ModelSpec, RopeSpec};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Fixture {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    config: Value,
    expect: Facts,
}

#[derive(Deserialize)]
struct Facts {
    query_width: u64,
    kv_heads: u32,
    max_positions: u32,
    eps: f32,
    tied: bool,
    qkv_bias: bool,
    o_bias: bool,
    mlp_bias: bool,
    qk_norm: bool,
    sandwich: bool,
    attention_scale: f32,
    attention_cap: Option<f32>,
    logit_cap: Option<f32>,
    embedding_scale: f32,
    windows: Vec<Option<u32>>,
    ropes: Vec<Rope>,
    experts: Vec<bool>,
    normalize: bool,
    parameters: u64,
}

#[derive(Deserialize)]
struct Rope {
    short: Vec<f32>,
    long: Vec<f32>,
    magnitude: f32,
}

fn cases() -> Vec<Case> {
    let fixture: Fixture = serde_json::from_str(include_str!("fixtures/configs.json")).unwrap();
    assert!(fixture.cases.len() >= 30);
    fixture.cases
}

fn parse(config: &Value) -> Result<ModelSpec, llmlab_models::ModelError> {
    ModelSpec::from_hf_config(&config.to_string(), Path::new("models/case/config.json"))
}

#[test]
fn every_number_is_that_of_transformers() {
    for Case { name, config, expect } in cases() {
        let spec = parse(&config).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(spec.query_width(), expect.query_width, "{name}: query width");
        assert_eq!(spec.num_kv_heads, expect.kv_heads, "{name}: kv heads");
        assert_eq!(spec.max_position_embeddings, expect.max_positions, "{name}: positions");
        assert_eq!(spec.rms_norm_eps, expect.eps, "{name}: eps");
        assert_eq!(spec.tie_word_embeddings, expect.tied, "{name}: tied");
        let biases = (spec.qkv_bias, spec.o_bias, spec.mlp_bias);
        assert_eq!(biases, (expect.qkv_bias, expect.o_bias, expect.mlp_bias), "{name}: biases");
        assert_eq!(spec.qk_norm, expect.qk_norm, "{name}: head norms");
        assert_eq!(spec.sandwich_norms, expect.sandwich, "{name}: sandwich norms");
        assert_eq!(spec.norm_plus_one, expect.sandwich, "{name}: only Gemma's norms have both");
        assert_eq!(spec.attention_scale, expect.attention_scale, "{name}: attention scale");
        assert_eq!(spec.attention_softcap, expect.attention_cap, "{name}: attention cap");
        assert_eq!(spec.logit_softcap, expect.logit_cap, "{name}: logit cap");
        assert_eq!(spec.embedding_scale, expect.embedding_scale, "{name}: embedding scale");
        let windows: Vec<_> = spec.layers.iter().map(|layer| layer.window).collect();
        assert_eq!(windows, expect.windows, "{name}: windows");
        assert_eq!(spec.parameters(), expect.parameters, "{name}: parameters");
        let experts: Vec<_> = (0..spec.num_layers)
            .map(|layer| spec.moe.as_ref().is_some_and(|moe| moe.is_moe(layer)))
            .collect();
        assert_eq!(experts, expect.experts, "{name}: layers with experts");
        if let Some(moe) = &spec.moe {
            assert_eq!(moe.normalize_top_k, expect.normalize, "{name}: normalised");
        }
    }
}

/// Frequencies within two units in the last place of f32: the reference computes them in f32, this crate in f64.
#[test]
fn rotary_frequencies_are_those_of_transformers() {
    let mut scaled = 0;
    for Case { name, config, expect } in cases() {
        let spec = parse(&config).unwrap();
        for (layer, spec_layer) in spec.layers.iter().enumerate() {
            let rope = &spec.ropes[usize::from(spec_layer.rope)];
            let expected = &expect.ropes[layer.min(expect.ropes.len() - 1)];
            close(&name, &rope.inv_freq(16), &expected.short);
            close(&name, &rope.inv_freq(1 << 20), &expected.long);
            close(&name, &[rope.magnitude()], &[expected.magnitude]);
            scaled +=
                usize::from(expected.short != RopeSpec::plain(rope.theta, rope.rotary_dim).inv_freq(16));
        }
    }
    assert!(scaled > 20, "{scaled} layers with a scaled embedding");
}

fn close(name: &str, ours: &[f32], theirs: &[f32]) {
    assert_eq!(ours.len(), theirs.len(), "{name}: pairs");
    for (ours, theirs) in ours.iter().zip(theirs) {
        assert!((ours - theirs).abs() <= 3e-7 * theirs.abs(), "{name}: {ours} for {theirs}");
    }
}
