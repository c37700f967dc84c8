//! Reads vLLM recordings: configuration, requests, and the names used in them.

use super::{at, request};
use llmlab_core::Scheduler;
use llmlab_core::config::{
    EngineConfig, KvStrategy, PolicyConfig, SpeculativeConfig, SpeculativeMethod, VllmConfig,
};
use llmlab_core::request::{At, Request, RequestId};
use serde_json::Value;

/// A recorded request with the time it arrived.
pub fn recorded_request(index: usize, r: &Value) -> (At, Request) {
    let prompt = array(&r["prompt"]).iter().map(|t| int(t) as u32).collect();
    let mut request = request(index as u64, prompt, int(&r["max_tokens"]) as u32);
    request.priority = int(&r["priority"]) as i32;
    request.stop.ignore_eos = r["ignore_eos"].as_bool().unwrap_or(true);
    request.stop.eos_ids = [2].into();
    request.stop.stop_token_ids = [3].into();
    (at(int(&r["arrival"])), request)
}

pub fn blocks(scheduler: &Scheduler) -> Value {
    let running = scheduler.running().iter();
    running.map(|id| (name(*id), table(scheduler, *id))).collect::<serde_json::Map<_, _>>().into()
}

pub fn config(s: &Value) -> EngineConfig {
    let flag = |key: &str| s[key].as_bool().unwrap_or_else(|| panic!("{key} is not a flag"));
    EngineConfig {
        policy: PolicyConfig::Vllm(VllmConfig {
            max_num_seqs: int(&s["max_num_seqs"]) as u32,
            max_num_batched_tokens: int(&s["max_num_batched_tokens"]) as u32,
            enable_chunked_prefill: flag("chunked_prefill"),
            enable_prefix_caching: flag("prefix_caching"),
            long_prefill_token_threshold: int(&s["long_prefill_token_threshold"]) as u32,
            prefill_schedule_interval: int(&s["prefill_schedule_interval"]) as u32,
            scheduler_reserve_full_isl: flag("reserve_full_isl"),
            watermark: s["watermark"].as_f64().unwrap_or_else(|| panic!("watermark is not a number")),
            priority: s["policy"] == "priority",
            max_loras: 1,
            async_scheduling: s["async"] == true,
            speculative_config: speculation(&s["spec"]),
            upstream_defects: true,
        }),
        kv: KvStrategy::Paged,
        block_size: int(&s["block_size"]) as u32,
        num_blocks: int(&s["num_blocks"]) as u32,
        max_model_len: int(&s["max_model_len"]) as u32,
    }
}

fn speculation(spec: &Value) -> Option<SpeculativeConfig> {
    let method = match spec["mode"].as_str()? {
        "ngram" => SpeculativeMethod::Ngram,
        "eagle" => SpeculativeMethod::Eagle,
        "eagle_drop" => SpeculativeMethod::EagleDropLastBlock,
        "draft_model" => SpeculativeMethod::DraftModel,
        other => panic!("unknown way to speculate: {other}"),
    };
    Some(SpeculativeConfig {
        method,
        num_speculative_tokens: int(&spec["k"]) as u32,
        prompt_lookup_min: 0,
        prompt_lookup_max: 0,
    })
}

pub fn table(scheduler: &Scheduler, id: RequestId) -> Value {
    scheduler.block_table(id).iter().map(|b| b.0).collect()
}

pub fn name(id: RequestId) -> String {
    format!("r{}", id.0)
}

pub fn names(ids: &[RequestId]) -> Vec<String> {
    ids.iter().map(|id| name(*id)).collect()
}

pub fn array(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("not a list: {value}"))
}

pub fn int(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("not a whole number: {value}"))
}
