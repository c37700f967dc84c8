//! Layers that are not attention over a cache of keys and values, or not alike in heads, by the keys that say so.
//!
//! A reader that knew only the usual keys would take such a model for one that attends in every layer, and its cache for several
//! times what it is. Keys: those of the configuration classes in transformers and in the models' own repositories.

use serde_json::Value;

use crate::error::ModelError;
use crate::hf_config::{Keys, shown};

const STATE_SPACE: &str = "layers with a recurrent state are not supported yet";
const LINEAR: &str = "layers of linear attention are not supported yet";
const UNLIKE: &str = "layers with heads or widths of their own are not supported yet";
const SHARED: &str = "layers that share keys and values are not supported yet";

const KEYS: &[(&str, &str)] = &[
    // Jamba.
    ("attn_layer_period", STATE_SPACE),
    ("expert_layer_period", "expert_layer_period is not read yet"),
    // Nemotron-H, Bamba, Zamba and Zamba2, RecurrentGemma.
    ("hybrid_override_pattern", STATE_SPACE),
    ("attn_layer_indices", STATE_SPACE),
    ("layers_block_type", STATE_SPACE),
    ("hybrid_layer_ids", STATE_SPACE),
    ("block_types", STATE_SPACE),
    ("_block_types", STATE_SPACE),
    // Falcon-H1, Hymba, Phi-4-mini-flash, LFM2, Plamo 2.
    ("ssm_cfg", STATE_SPACE),
    ("mb_per_layer", STATE_SPACE),
    ("full_attn_idxs", STATE_SPACE),
    // Qwen3-Next and Qwen3.5, Kimi Linear, Ling and Ring 2.5.
    ("full_attention_interval", LINEAR),
    ("linear_attn_config", LINEAR),
    ("layer_group_size", LINEAR),
    // Nemotron's searched shapes, MiMo-V2, Step 3.5, Gemma 4.
    ("block_configs", UNLIKE),
    ("num_key_value_heads_per_layer", UNLIKE),
    ("hybrid_layer_pattern", UNLIKE),
    ("swa_num_key_value_heads", UNLIKE),
    ("attention_other_setting", UNLIKE),
    ("global_head_dim", UNLIKE),
    ("num_global_key_value_heads", UNLIKE),
    // Gemma 3n, Hunyuan.
    ("num_kv_shared_layers", SHARED),
    ("use_cla", SHARED),
    ("kv_reuse_group", SHARED),
    // LongCat: two attentions a layer, and experts that compute nothing.
    ("zero_expert_num", "experts without weights are not supported yet"),
    // DeepSeek V3.2, GLM 5.
    ("index_topk", "an index beside keys and values is not supported yet"),
];

/// Beginnings of the keys of recurrent and of linear layers.
const PREFIXES: &[(&str, &str)] = &[
    ("mamba_", STATE_SPACE),
    ("ssm_", STATE_SPACE),
    ("linear_key_", LINEAR),
    ("linear_num_", LINEAR),
    ("linear_value_", LINEAR),
];

/// Refuses what this crate would size wrongly.
pub(super) fn refuse(keys: &Keys) -> Result<(), ModelError> {
    for (key, value) in keys.map {
        let of_key = KEYS.iter().find(|(name, _)| name == key);
        let of_prefix = || PREFIXES.iter().find(|(prefix, _)| key.starts_with(prefix));
        if let Some((_, problem)) = of_key.or_else(of_prefix)
            && !is_off(value)
        {
            return keys.fail(key, format!("{}; {problem}; accepted is the key left out", shown(value)));
        }
    }
    // MiniMax: 1 for each layer that attends. Its later models have nothing else.
    match keys.value("attn_type_list") {
        Some(Value::Array(kinds)) if kinds.iter().all(|kind| kind.as_u64() == Some(1)) => Ok(()),
        None => Ok(()),
        Some(other) => {
            keys.fail("attn_type_list", format!("{}; {LINEAR}; accepted is a list of 1 alone", shown(other)))
        }
    }
}

fn is_off(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::architecture::Architecture;

    fn read(more: &str) -> Result<Architecture, String> {
        let json = format!(
            r#"{{"model_type": "x", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4,
            "num_attention_heads": 4, "vocab_size": 100, {more}}}"#
        );
        Architecture::from_hf_config(&json, Path::new("model/config.json")).map_err(|error| error.to_string())
    }

    /// The keys of the published configurations of the models named above.
    #[test]
    fn a_model_that_does_not_attend_in_every_layer_is_refused() {
        for (more, key) in [
            (r#""attn_layer_period": 8, "attn_layer_offset": 4"#, "attn_layer_period"),
            (r#""hybrid_override_pattern": "M-M*""#, "hybrid_override_pattern"),
            (r#""attn_layer_indices": [9, 18, 27]"#, "attn_layer_indices"),
            (r#""layers_block_type": ["mamba", "hybrid"]"#, "layers_block_type"),
            (r#""block_types": ["recurrent", "recurrent", "attention"]"#, "block_types"),
            (r#""mamba_d_ssm": 1536"#, "mamba_d_ssm"),
            (r#""full_attention_interval": 4"#, "full_attention_interval"),
            (r#""linear_num_key_heads": 16"#, "linear_num_key_heads"),
            (r#""attn_type_list": [0, 0, 0, 1]"#, "attn_type_list"),
            (r#""linear_attn_config": {"full_attn_layers": [4]}"#, "linear_attn_config"),
            (r#""hybrid_layer_pattern": [0, 1, 1, 0]"#, "hybrid_layer_pattern"),
            (r#""block_configs": [{"attention": {"n_heads_in_group": 8}}]"#, "block_configs"),
            (r#""num_kv_shared_layers": 2"#, "num_kv_shared_layers"),
            (r#""zero_expert_num": 256"#, "zero_expert_num"),
            (r#""index_topk": 2048"#, "index_topk"),
        ] {
            let error = read(more).unwrap_err();
            assert!(error.starts_with(&format!("model/config.json: {key}: ")), "{more}: {error}");
            assert!(error.contains("supported yet") && error.contains("accepted is"), "{more}: {error}");
        }
        let text = read(
            r#""text_config": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4,
            "num_attention_heads": 4, "vocab_size": 100, "full_attention_interval": 4}"#,
        );
        assert!(text.unwrap_err().contains("full_attention_interval"));
    }

    #[test]
    fn keys_that_switch_nothing_on_are_read_over() {
        for more in [
            r#""attn_type_list": [1, 1, 1, 1]"#,
            r#""num_kv_shared_layers": 0"#,
            r#""use_cla": false"#,
            r#""block_configs": null"#,
            r#""linear_bias": true"#,
        ] {
            assert_eq!(read(more).unwrap().kv_shape().full_layers, 4, "{more}");
        }
    }
}
