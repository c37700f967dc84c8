//! A small model of every family, with the features that published checkpoints of the family have, at sizes where each of
//! them matters within a few dozen tokens: windows of 16 positions, rotary embeddings stretched from 64.

use crate::spec::{Activation, Family, LayerSpec, ModelSpec, MoeSpec, RopeScaling, RopeSpec};

const WINDOW: u32 = 16;
/// Positions before stretching.
const ORIGINAL: u32 = 64;

/// `base` has the name, the tokens and the width of heads.
pub fn spec(family: Family, base: ModelSpec) -> ModelSpec {
    let common = ModelSpec {
        family,
        vocab_size: 512,
        hidden_size: 256,
        intermediate_size: 512,
        num_layers: 4,
        num_heads: 4,
        num_kv_heads: 2,
        max_position_embeddings: 512,
        tie_word_embeddings: false,
        rms_norm_eps: 1e-6,
        ..base
    }
    .with_plain_attention(10_000.0);
    match family {
        Family::Llama => llama(common),
        Family::Mistral => ModelSpec { layers: windows(&common, |_| true), intermediate_size: 768, ..common },
        Family::Qwen2 => qwen2(common),
        Family::Qwen3 => ModelSpec {
            qk_norm: true,
            num_heads: 8,
            ropes: vec![RopeSpec::plain(1e6, 64)],
            tie_word_embeddings: true,
            ..common
        },
        Family::Gemma2 => ModelSpec {
            layers: windows(&common, |layer| layer % 2 == 0),
            attention_softcap: Some(5.0),
            logit_softcap: Some(6.0),
            ..gemma(common)
        },
        Family::Gemma3 => gemma3(common),
        Family::Phi3 => phi3(common),
        Family::Mixtral => ModelSpec {
            ropes: vec![RopeSpec::plain(1e6, 64)],
            moe: Some(MoeSpec { expert_intermediate: 512, normalize_top_k: true, ..experts(&common) }),
            ..common
        },
        Family::Qwen2Moe => ModelSpec {
            qkv_bias: true,
            moe: Some(MoeSpec { shared_intermediate: Some(512), ..experts(&common) }),
            ..common
        },
        Family::Qwen3Moe => ModelSpec {
            qk_norm: true,
            num_heads: 8,
            moe: Some(MoeSpec { normalize_top_k: true, ..experts(&common) }),
            ..common
        },
    }
}

/// Llama 3.1's stretching, and the biases that few Llamas have.
fn llama(common: ModelSpec) -> ModelSpec {
    let scaling = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position: ORIGINAL,
    };
    ModelSpec {
        qkv_bias: true,
        o_bias: true,
        mlp_bias: true,
        ropes: vec![RopeSpec { scaling, ..RopeSpec::plain(10_000.0, 64) }],
        ..common
    }
}

fn qwen2(common: ModelSpec) -> ModelSpec {
    let scaling = RopeScaling::Yarn {
        factor: 4.0,
        original_max_position: ORIGINAL,
        beta_fast: 32.0,
        beta_slow: 1.0,
        attention_factor: 0.1 * 4.0f64.ln() + 1.0,
        truncate: true,
    };
    ModelSpec {
        qkv_bias: true,
        max_position_embeddings: 256,
        tie_word_embeddings: true,
        ropes: vec![RopeSpec { scaling, ..RopeSpec::plain(1e6, 64) }],
        ..common
    }
}

fn gemma(common: ModelSpec) -> ModelSpec {
    ModelSpec {
        activation: Activation::GeluTanh,
        norm_plus_one: true,
        sandwich_norms: true,
        embedding_scale: (common.hidden_size as f32).sqrt(),
        tie_word_embeddings: true,
        ..common
    }
}

/// Six layers, because every sixth is the one without a window, and llama.cpp knows no other rhythm.
fn gemma3(common: ModelSpec) -> ModelSpec {
    let common = ModelSpec { num_layers: 6, ..common };
    let mut layers = windows(&common, |layer| (layer + 1) % 6 != 0);
    for layer in layers.iter_mut().filter(|layer| layer.window.is_some()) {
        layer.rope = 1;
    }
    let global = RopeSpec { scaling: RopeScaling::Linear { factor: 8.0 }, ..RopeSpec::plain(1e6, 64) };
    ModelSpec { qk_norm: true, layers, ropes: vec![global, RopeSpec::plain(10_000.0, 64)], ..gemma(common) }
}

/// Three quarters of each head turn, by LongRoPE's divisors.
fn phi3(common: ModelSpec) -> ModelSpec {
    const PAIRS: usize = 24;
    let stretch = f64::from(common.max_position_embeddings) / f64::from(ORIGINAL);
    let scaling = RopeScaling::LongRope {
        short_factor: (0..PAIRS).map(|pair| 1.0 + 0.0625 * pair as f64).collect(),
        long_factor: (0..PAIRS).map(|pair| 1.0 + 0.5 * pair as f64).collect(),
        original_max_position: ORIGINAL,
        attention_factor: (1.0 + stretch.ln() / f64::from(ORIGINAL).ln()).sqrt(),
    };
    ModelSpec {
        rms_norm_eps: 1e-5,
        layers: windows(&common, |_| true),
        ropes: vec![RopeSpec { scaling, ..RopeSpec::plain(10_000.0, 2 * PAIRS as u32) }],
        ..common
    }
}

fn experts(common: &ModelSpec) -> MoeSpec {
    MoeSpec {
        experts: 4,
        experts_per_token: 2,
        expert_intermediate: 256,
        normalize_top_k: false,
        shared_intermediate: None,
        dense_layers: vec![false; common.num_layers as usize],
    }
}

fn windows(common: &ModelSpec, slides: impl Fn(u32) -> bool) -> Vec<LayerSpec> {
    let window = |layer| slides(layer).then_some(WINDOW);
    (0..common.num_layers).map(|layer| LayerSpec { window: window(layer), rope: 0 }).collect()
}
