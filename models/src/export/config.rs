//! A [`ModelSpec`] as `config.json`: the inverse of [`crate::hf_config`], in the keys that transformers 4 and 5, vLLM and
//! llama.cpp's converter all read.

use serde_json::{Map, Value, json};

use crate::hf_config::ACCEPTED_ARCHITECTURES;
use crate::spec::{Activation, Family, LayerSpec, ModelSpec, MoeSpec, RopeScaling, RopeSpec};

/// The keys of `config.json`. What the family's config has no key for is lost; [`super::write_hf`] reads the result back to
/// find out.
pub fn config(spec: &ModelSpec, dtype: &str) -> Value {
    let (architecture, _) = ACCEPTED_ARCHITECTURES
        .into_iter()
        .find(|(_, family)| *family == spec.family)
        .expect("every family has an architecture");
    let activation = match spec.activation {
        Activation::Silu => "silu",
        Activation::GeluTanh => "gelu_pytorch_tanh",
    };
    let mut keys = Map::new();
    let mut set = |key: &str, value: Value| drop(keys.insert(key.to_string(), value));
    set("architectures", json!([architecture]));
    set("model_type", json!(model_type(spec.family)));
    set("vocab_size", json!(spec.vocab_size));
    set("hidden_size", json!(spec.hidden_size));
    set("intermediate_size", json!(spec.intermediate_size));
    set("num_hidden_layers", json!(spec.num_layers));
    set("num_attention_heads", json!(spec.num_heads));
    set("num_key_value_heads", json!(spec.num_kv_heads));
    set("head_dim", json!(spec.head_dim));
    set(if is_gemma(spec) { "hidden_activation" } else { "hidden_act" }, json!(activation));
    set("max_position_embeddings", json!(spec.max_position_embeddings));
    set("rms_norm_eps", json!(short(spec.rms_norm_eps)));
    set("tie_word_embeddings", json!(spec.tie_word_embeddings));
    set("bos_token_id", json!(spec.bos_token_id));
    set("eos_token_id", json!(spec.eos_token_ids));
    set("pad_token_id", Value::Null);
    set("torch_dtype", json!(dtype));
    biases(spec, &mut set);
    rope(spec, &mut set);
    windows(spec, &mut set);
    if let Some(moe) = &spec.moe {
        experts(spec, moe, &mut set);
    }
    if is_gemma(spec) {
        let scalar = f64::from(spec.attention_scale).powi(-2);
        set("query_pre_attn_scalar", json!(scalar.round() as u64));
        set("attn_logit_softcapping", json!(spec.attention_softcap.map(short)));
        set("final_logit_softcapping", json!(spec.logit_softcap.map(short)));
    }
    Value::Object(keys)
}

fn model_type(family: Family) -> &'static str {
    match family {
        Family::Gemma3 => "gemma3_text",
        Family::Qwen2Moe => "qwen2_moe",
        Family::Qwen3Moe => "qwen3_moe",
        other => other.name(),
    }
}

pub fn is_gemma(spec: &ModelSpec) -> bool {
    matches!(spec.family, Family::Gemma2 | Family::Gemma3)
}

fn biases(spec: &ModelSpec, set: &mut impl FnMut(&str, Value)) {
    match spec.family {
        Family::Llama => {
            set("attention_bias", json!(spec.qkv_bias));
            set("mlp_bias", json!(spec.mlp_bias));
        }
        Family::Qwen3 | Family::Qwen3Moe | Family::Gemma2 | Family::Gemma3 => {
            set("attention_bias", json!(spec.qkv_bias));
        }
        Family::Qwen2Moe => set("qkv_bias", json!(spec.qkv_bias)),
        Family::Mistral | Family::Qwen2 | Family::Phi3 | Family::Mixtral => {}
    }
}

fn rope(spec: &ModelSpec, set: &mut impl FnMut(&str, Value)) {
    let rope = &spec.ropes[0];
    set("rope_theta", json!(rope.theta));
    set("rope_scaling", scaling(spec, rope));
    if let Some(local) = spec.ropes.get(1) {
        set("rope_local_base_freq", json!(local.theta));
    }
    if spec.family == Family::Phi3 {
        set("partial_rotary_factor", json!(f64::from(rope.rotary_dim) / f64::from(spec.head_dim)));
        let original = match rope.scaling {
            RopeScaling::LongRope { original_max_position, .. } => original_max_position,
            _ => spec.max_position_embeddings,
        };
        set("original_max_position_embeddings", json!(original));
    }
}

fn scaling(spec: &ModelSpec, rope: &RopeSpec) -> Value {
    match &rope.scaling {
        RopeScaling::None => Value::Null,
        RopeScaling::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position } => json!({
            "rope_type": "llama3", "factor": factor, "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor, "original_max_position_embeddings": original_max_position,
        }),
        RopeScaling::Yarn {
            factor,
            original_max_position,
            beta_fast,
            beta_slow,
            attention_factor,
            truncate,
        } => {
            let mut table = json!({
                "rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original_max_position,
                "beta_fast": beta_fast, "beta_slow": beta_slow,
            });
            // Left out where it is what the factor gives: not every server knows the key.
            if *attention_factor != 0.1 * factor.ln() + 1.0 {
                table["attention_factor"] = json!(attention_factor);
            }
            if !truncate {
                table["truncate"] = json!(false);
            }
            table
        }
        RopeScaling::LongRope { short_factor, long_factor, original_max_position, attention_factor } => {
            let mut table = json!({
                "rope_type": "longrope", "short_factor": short_factor, "long_factor": long_factor,
            });
            let stretch = f64::from(spec.max_position_embeddings) / f64::from(*original_max_position);
            if *attention_factor != (1.0 + stretch.ln() / f64::from(*original_max_position).ln()).sqrt() {
                table["attention_factor"] = json!(attention_factor);
            }
            if spec.family != Family::Phi3 {
                table["original_max_position_embeddings"] = json!(original_max_position);
            }
            table
        }
        RopeScaling::Factors { .. } => unreachable!("written as LongRope"),
    }
}

/// The same frequencies without [`RopeScaling::Factors`], which no config has: LongRope with the same divisors for long and for
/// short contexts.
pub fn without_factors(rope: &RopeSpec, max_positions: u32) -> RopeSpec {
    let RopeScaling::Factors { factors } = &rope.scaling else { return rope.clone() };
    let factors: Vec<f64> = factors.iter().map(|&factor| f64::from(factor)).collect();
    let scaling = RopeScaling::LongRope {
        short_factor: factors.clone(),
        long_factor: factors,
        original_max_position: max_positions,
        attention_factor: 1.0,
    };
    RopeSpec { scaling, ..rope.clone() }
}

fn windows(spec: &ModelSpec, set: &mut impl FnMut(&str, Value)) {
    let window = spec.layers.iter().find_map(|layer| layer.window);
    match spec.family {
        Family::Llama => return,
        Family::Mistral | Family::Phi3 | Family::Mixtral => return set("sliding_window", json!(window)),
        Family::Qwen2 | Family::Qwen3 | Family::Qwen2Moe | Family::Qwen3Moe => {
            set("use_sliding_window", json!(window.is_some()));
        }
        Family::Gemma2 | Family::Gemma3 => {}
    }
    set("sliding_window", json!(window));
    if spec.family != Family::Qwen3Moe {
        let kind = |layer: &LayerSpec| match layer.window {
            Some(_) => "sliding_attention",
            None => "full_attention",
        };
        set("layer_types", spec.layers.iter().map(kind).collect());
    }
}

fn experts(spec: &ModelSpec, moe: &MoeSpec, set: &mut impl FnMut(&str, Value)) {
    set("num_experts_per_tok", json!(moe.experts_per_token));
    if spec.family == Family::Mixtral {
        return set("num_local_experts", json!(moe.experts));
    }
    set("num_experts", json!(moe.experts));
    set("moe_intermediate_size", json!(moe.expert_intermediate));
    set("norm_topk_prob", json!(moe.normalize_top_k));
    set("decoder_sparse_step", json!(1));
    let dense = (0..spec.num_layers).filter(|layer| !moe.is_moe(*layer));
    set("mlp_only_layers", dense.collect());
    if let Some(width) = moe.shared_intermediate {
        set("shared_expert_intermediate_size", json!(width));
    }
}

/// The shortest decimal of an f32: 1e-5 and not 0.000009999999747378752.
fn short(value: f32) -> f64 {
    value.to_string().parse().expect("the display form of a finite f32 is a number")
}
