//! Every key of `engine = { ... }`: which policy knows it, what it accepts and what it is when not written.
//!
//! One table drives the parser, the error messages and the JSON schema, so they cannot disagree. Knobs carry the name
//! and default of the system their policy imitates (`docs/policies.md` names the versions); where this engine deviates,
//! because it runs on CPUs, the description says so.

pub const POLICIES: [&str; 12] = [
    "vllm",
    "vllm-0.33.0",
    "tgi",
    "tgi-3.3.6",
    "static",
    "dynamic",
    "orca",
    "sarathi",
    "fastgen",
    "trtllm",
    "llamacpp",
    "sglang",
];

const ALL: &[&str] = &POLICIES;
const VLLM: &[&str] = &["vllm", "vllm-0.33.0"];
/// The rules without the product's defects, and the exact twin.
const TGI: &[&str] = &["tgi", "tgi-3.3.6"];
const STATIC: &[&str] = &["static"];
const DYNAMIC: &[&str] = &["dynamic"];
const BATCHERS: &[&str] = &["static", "dynamic"];
const SARATHI: &[&str] = &["sarathi"];
const FASTGEN: &[&str] = &["fastgen"];
const TRTLLM: &[&str] = &["trtllm"];
const LLAMACPP: &[&str] = &["llamacpp"];
const SGLANG: &[&str] = &["sglang"];
/// The others hand out memory by their own rule.
const WITH_KV_STRATEGY: &[&str] = &["vllm", "vllm-0.33.0", "tgi", "static", "dynamic"];

#[derive(Debug)]
pub struct Knob {
    pub name: &'static str,
    /// Policies that have it.
    pub policies: &'static [&'static str],
    pub kind: Kind,
    pub default: Default,
    pub description: &'static str,
}

/// What a knob accepts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    Count {
        min: u32,
        max: u32,
    },
    Number {
        min: f64,
        max: f64,
    },
    Switch,
    Choice(&'static [&'static str]),
    Time,
    Memory,
    /// A list of counts, each at least 1.
    Counts,
    /// A model source.
    Model,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Default {
    /// Absent means absent: the engine decides, or there is no limit.
    Unset,
    Count(u32),
    Number(f64),
    Switch(bool),
    Text(&'static str),
    EmptyList,
}

/// Accepted as `speculative_method`.
pub const SPECULATIVE_METHODS: &[&str] = &["ngram", "draft_model"];

const AT_LEAST_1: Kind = Kind::Count { min: 1, max: u32::MAX };
const BATCH: Kind = Kind::Count { min: 1, max: 65_536 };

/// Accepted as `weights`: the checkpoint's own formats, one format for every matrix, or the mixes of llama.cpp.
pub const WEIGHTS: &[&str] = &[
    "as_stored",
    "f32",
    "f16",
    "bf16",
    "q8_0",
    "q4_0",
    "q4_1",
    "q5_0",
    "q5_1",
    "iq4_nl",
    "q2_k_pure",
    "q3_k",
    "q4_k",
    "q5_k",
    "q6_k",
    "int8",
    "fp8",
    "int4",
    "int8_group",
    "q2_k",
    "q3_k_s",
    "q3_k_m",
    "q3_k_l",
    "q4_k_s",
    "q4_k_m",
    "q5_k_s",
    "q5_k_m",
];

/// Accepted as `kv`.
pub const KV: &[&str] = &["f32", "f16", "bf16", "int8", "fp8"];

pub const KNOBS: &[Knob] = &[
    // Engine settings, the same under every policy.
    Knob {
        name: "executor",
        policies: ALL,
        kind: Kind::Choice(&["cpu", "candle"]),
        default: Default::Text("cpu"),
        description: "Who computes: our CPU kernels, or candle in f32 as a baseline.",
    },
    Knob {
        name: "weights",
        policies: ALL,
        kind: Kind::Choice(WEIGHTS),
        default: Default::Unset,
        description: "Format of the weights in memory: one for all matrices, or a mix such as q4_k_m. Default: bf16 for models \
                      in floats and synthetic ones, as_stored for quantized checkpoints, f32 with executor candle.",
    },
    Knob {
        name: "kv",
        policies: ALL,
        kind: Kind::Choice(KV),
        default: Default::Text("bf16"),
        description: "Format of the KV cache. Default bf16; f32 with executor candle. int8 and fp8 have a scale per token and head.",
    },
    Knob {
        name: "kv_strategy",
        policies: WITH_KV_STRATEGY,
        kind: Kind::Choice(&["paged", "reserve", "contiguous"]),
        default: Default::Text("paged"),
        description: "How KV memory is handed out: a block at a time; prompt plus output up front; or the model's whole \
                      length up front, in one piece.",
    },
    Knob {
        name: "block_size",
        policies: ALL,
        kind: Kind::Count { min: 1, max: 1024 },
        default: Default::Count(16),
        description: "Tokens per KV block.",
    },
    Knob {
        name: "kv_memory",
        policies: ALL,
        kind: Kind::Memory,
        default: Default::Unset,
        description: "Size of the KV pool, e.g. \"256MiB\". Default 256MiB, or what max_batch_total_tokens needs.",
    },
    Knob {
        name: "num_blocks",
        policies: ALL,
        kind: Kind::Count { min: 2, max: u32::MAX },
        default: Default::Unset,
        description: "Size of the KV pool in blocks, instead of kv_memory. Block 0 is never handed out, as in vLLM.",
    },
    Knob {
        name: "threads",
        policies: ALL,
        kind: Kind::Count { min: 1, max: 1024 },
        default: Default::Unset,
        description: "Compute threads. Default: all cores but one, which the load generator needs.",
    },
    Knob {
        name: "max_queue",
        policies: ALL,
        kind: AT_LEAST_1,
        default: Default::Count(4096),
        description: "Requests that may wait; more are refused with HTTP 429. vLLM has no limit by default.",
    },
    // vLLM 0.33.
    Knob {
        name: "max_num_seqs",
        policies: VLLM,
        kind: BATCH,
        default: Default::Count(128),
        description: "Most sequences running at once. vLLM's class default; its server uses 256 to 1024 on large GPUs.",
    },
    Knob {
        name: "max_num_batched_tokens",
        policies: VLLM,
        kind: AT_LEAST_1,
        default: Default::Count(2048),
        description: "Token budget of one step. vLLM's class default; its server uses 8192 or more on large GPUs.",
    },
    Knob {
        name: "enable_chunked_prefill",
        policies: VLLM,
        kind: Kind::Switch,
        default: Default::Switch(true),
        description: "Split prompts that do not fit into a step's budget.",
    },
    Knob {
        name: "enable_prefix_caching",
        policies: VLLM,
        kind: Kind::Switch,
        default: Default::Switch(true),
        description: "Reuse KV blocks of equal prompt beginnings. Off with kv_strategy contiguous and executor candle, which have none to share.",
    },
    Knob {
        name: "long_prefill_token_threshold",
        policies: VLLM,
        kind: Kind::Count { min: 0, max: u32::MAX },
        default: Default::Count(0),
        description: "Longest piece of one prompt per step while other requests exist; 0 is no limit.",
    },
    Knob {
        name: "prefill_schedule_interval",
        policies: VLLM,
        kind: AT_LEAST_1,
        default: Default::Count(1),
        description: "Steps from one prefill to the next while something decodes.",
    },
    Knob {
        name: "scheduler_reserve_full_isl",
        policies: VLLM,
        kind: Kind::Switch,
        default: Default::Switch(true),
        description: "Admit a request only when its whole prompt fits into free KV blocks.",
    },
    Knob {
        name: "watermark",
        policies: VLLM,
        kind: Kind::Number { min: 0.0, max: 0.99 },
        default: Default::Number(0.0),
        description: "Share of the KV blocks kept free while something runs.",
    },
    Knob {
        name: "scheduling_policy",
        policies: VLLM,
        kind: Kind::Choice(&["fcfs", "priority"]),
        default: Default::Text("fcfs"),
        description: "Order of the waiting queue, vLLM's --scheduling-policy.",
    },
    Knob {
        name: "async_scheduling",
        policies: VLLM,
        kind: Kind::Switch,
        default: Default::Switch(false),
        description: "Plan each step while the one before it runs. vLLM's default on GPUs; on CPUs there is nothing to overlap.",
    },
    Knob {
        name: "speculative_method",
        policies: VLLM,
        kind: Kind::Choice(SPECULATIVE_METHODS),
        default: Default::Unset,
        description: "Guess tokens ahead and verify them in one pass: by prompt lookup, or with speculative_model.",
    },
    Knob {
        name: "num_speculative_tokens",
        policies: VLLM,
        kind: Kind::Count { min: 1, max: 64 },
        default: Default::Count(3),
        description: "Drafts a step verifies for each sequence.",
    },
    Knob {
        name: "prompt_lookup_min",
        policies: VLLM,
        kind: Kind::Count { min: 1, max: 64 },
        default: Default::Count(2),
        description: "Method ngram: tokens at the end of the text that must have occurred before, at least.",
    },
    Knob {
        name: "prompt_lookup_max",
        policies: VLLM,
        kind: Kind::Count { min: 1, max: 64 },
        default: Default::Count(4),
        description: "Method ngram: tokens at the end of the text that are looked for, at most.",
    },
    Knob {
        name: "speculative_model",
        policies: VLLM,
        kind: Kind::Model,
        default: Default::Unset,
        description: "Method draft_model: a smaller model with the same vocabulary.",
    },
    Knob {
        name: "speculative_weights",
        policies: VLLM,
        kind: Kind::Choice(WEIGHTS),
        default: Default::Unset,
        description: "Method draft_model: format of the draft model's weights. Default: that of the model's own.",
    },
    Knob {
        name: "max_loras",
        policies: VLLM,
        kind: AT_LEAST_1,
        default: Default::Count(1),
        description: "Different adapters among the running requests at most.",
    },
    Knob {
        name: "enable_lora",
        policies: VLLM,
        kind: Kind::Switch,
        default: Default::Switch(true),
        description: "With adapters in the workload: false sends every request to the model itself, as a baseline of what \
                      adapters cost.",
    },
    // TGI v3 router.
    Knob {
        name: "max_batch_prefill_tokens",
        policies: TGI,
        kind: AT_LEAST_1,
        default: Default::Count(4096),
        description: "Token budget of one prefill. TGI's fallback where it cannot derive one from the GPU.",
    },
    Knob {
        name: "max_batch_total_tokens",
        policies: TGI,
        kind: AT_LEAST_1,
        default: Default::Count(16_384),
        description: "Prompt plus output tokens of all running requests. TGI measures it on the GPU; here it is fixed.",
    },
    Knob {
        name: "waiting_served_ratio",
        policies: TGI,
        kind: Kind::Number { min: 0.0, max: 1000.0 },
        default: Default::Number(0.3),
        description: "Waiting requests per running one from which decoding pauses for a prefill.",
    },
    Knob {
        name: "max_waiting_tokens",
        policies: TGI,
        kind: Kind::Count { min: 0, max: u32::MAX },
        default: Default::Count(20),
        description: "Decode steps after which waiting requests are let in whatever the ratio.",
    },
    Knob {
        name: "max_batch_size",
        policies: TGI,
        kind: BATCH,
        default: Default::Unset,
        description: "Most requests running at once. TGI sets no limit by default.",
    },
    Knob {
        name: "max_input_tokens",
        policies: TGI,
        kind: AT_LEAST_1,
        default: Default::Unset,
        description: "Longest prompt. Default: the context less one token.",
    },
    Knob {
        name: "prefill_chunking",
        policies: TGI,
        kind: Kind::Switch,
        default: Default::Switch(true),
        description: "Split prompts that do not fit into a prefill's budget, as TGI v3 does. Off with requires_padding.",
    },
    Knob {
        name: "use_prefix_caching",
        policies: TGI,
        kind: Kind::Switch,
        default: Default::Switch(true),
        description: "Reuse KV blocks of equal prompt beginnings once their request is over. Off with requires_padding and \
                      executor candle, which have none to share. Under tgi-3.3.6 it can serve blocks that were never computed.",
    },
    Knob {
        name: "requires_padding",
        policies: TGI,
        kind: Kind::Switch,
        default: Default::Switch(false),
        description: "Pad prefills to rectangles and count a batch by its rectangle, as TGI does without flash attention.",
    },
    // Static batching and Triton's dynamic batcher.
    Knob {
        name: "batch_size",
        policies: STATIC,
        kind: BATCH,
        default: Default::Count(8),
        description: "Requests per batch. There is no conventional default; 8 is ours.",
    },
    Knob {
        name: "max_batch_size",
        policies: DYNAMIC,
        kind: BATCH,
        default: Default::Count(8),
        description: "Most requests per batch. Triton has no default; 8 is ours.",
    },
    Knob {
        name: "preferred_batch_size",
        policies: DYNAMIC,
        kind: Kind::Counts,
        default: Default::EmptyList,
        description: "Batch sizes worth waiting for, none above max_batch_size. Default: none.",
    },
    Knob {
        name: "max_queue_delay",
        policies: BATCHERS,
        kind: Kind::Time,
        default: Default::Text("0ms"),
        description: "How long the oldest request may wait for its batch to fill.",
    },
    Knob {
        name: "priority_levels",
        policies: DYNAMIC,
        kind: Kind::Count { min: 0, max: u32::MAX },
        default: Default::Count(0),
        description: "Priorities requests may have, 1 (first) to this; 0 is none.",
    },
    Knob {
        name: "default_priority_level",
        policies: DYNAMIC,
        kind: Kind::Count { min: 0, max: u32::MAX },
        default: Default::Count(0),
        description: "Priority of requests that name none of the levels.",
    },
    Knob {
        name: "timeout_action",
        policies: DYNAMIC,
        kind: Kind::Choice(&["reject", "delay"]),
        default: Default::Text("reject"),
        description: "What happens to a request that waited for default_timeout: it ends, or goes behind the others of \
                      its level.",
    },
    Knob {
        name: "default_timeout",
        policies: DYNAMIC,
        kind: Kind::Time,
        default: Default::Text("0ms"),
        description: "Longest wait before timeout_action, Triton's default_timeout_microseconds; 0ms is for ever.",
    },
    // Orca and Sarathi as in sarathi-serve.
    Knob {
        name: "max_num_seqs",
        policies: &["orca", "sarathi"],
        kind: BATCH,
        default: Default::Count(128),
        description: "Most sequences running at once.",
    },
    Knob {
        name: "chunk_size",
        policies: SARATHI,
        kind: AT_LEAST_1,
        default: Default::Count(512),
        description: "Token budget of one iteration, decodes included.",
    },
    Knob {
        name: "enable_dynamic_chunking_schedule",
        policies: SARATHI,
        kind: Kind::Switch,
        default: Default::Switch(false),
        description: "Let chunk sizes fall from high_chunk_size to low_chunk_size as a prompt progresses; the other four knobs must be set.",
    },
    Knob {
        name: "low_chunk_size",
        policies: SARATHI,
        kind: Kind::Count { min: 32, max: u32::MAX },
        default: Default::Unset,
        description: "Last chunk size of the dynamic schedule, a multiple of 32.",
    },
    Knob {
        name: "high_chunk_size",
        policies: SARATHI,
        kind: Kind::Count { min: 32, max: u32::MAX },
        default: Default::Unset,
        description: "First chunk size of the dynamic schedule, a multiple of 32.",
    },
    Knob {
        name: "chunk_schedule_max_tokens",
        policies: SARATHI,
        kind: AT_LEAST_1,
        default: Default::Unset,
        description: "Prompt length over which the dynamic schedule is spread.",
    },
    Knob {
        name: "chunk_schedule_stages",
        policies: SARATHI,
        kind: Kind::Count { min: 1, max: 1024 },
        default: Default::Unset,
        description: "Steps of the dynamic schedule.",
    },
    // DeepSpeed-FastGen, DeepSpeed-MII 0.3.
    Knob {
        name: "max_ragged_batch_size",
        policies: FASTGEN,
        kind: AT_LEAST_1,
        default: Default::Count(768),
        description: "Tokens of one forward pass.",
    },
    Knob {
        name: "max_ragged_sequence_count",
        policies: FASTGEN,
        kind: BATCH,
        default: Default::Count(512),
        description: "Most sequences in one forward pass.",
    },
    Knob {
        name: "max_tracked_sequences",
        policies: FASTGEN,
        kind: BATCH,
        default: Default::Count(2048),
        description: "Most sequences that hold KV memory.",
    },
    // TensorRT-LLM.
    Knob {
        name: "capacity_scheduler_policy",
        policies: TRTLLM,
        kind: Kind::Choice(&["guaranteed_no_evict", "max_utilization", "static_batch"]),
        default: Default::Text("guaranteed_no_evict"),
        description: "Who may run: whoever fits to completion; whoever fits for one more iteration; or nobody new while \
                      anybody generates.",
    },
    Knob {
        name: "enable_chunked_context",
        policies: TRTLLM,
        kind: Kind::Switch,
        default: Default::Switch(false),
        description: "Split prompts that do not fit into max_num_tokens, into whole blocks.",
    },
    Knob {
        name: "context_chunking_policy",
        policies: TRTLLM,
        kind: Kind::Choice(&["first_come_first_served", "equal_progress"]),
        default: Default::Text("first_come_first_served"),
        description: "How prompts share a budget that is too small for all of them.",
    },
    Knob {
        name: "max_batch_size",
        policies: TRTLLM,
        kind: BATCH,
        default: Default::Count(2048),
        description: "Most requests in one iteration.",
    },
    Knob {
        name: "max_num_tokens",
        policies: TRTLLM,
        kind: AT_LEAST_1,
        default: Default::Count(8192),
        description: "Tokens of one iteration.",
    },
    Knob {
        name: "enable_block_reuse",
        policies: TRTLLM,
        kind: Kind::Switch,
        default: Default::Switch(true),
        description: "Reuse KV blocks of equal beginnings. Off with executor candle, which has none to share.",
    },
    // llama-server.
    Knob {
        name: "n_parallel",
        policies: LLAMACPP,
        kind: BATCH,
        default: Default::Count(4),
        description: "Slots, llama-server's --parallel; 4 is what its -1 (auto) comes to.",
    },
    Knob {
        name: "kv_unified",
        policies: LLAMACPP,
        kind: Kind::Switch,
        default: Default::Switch(true),
        description: "One KV pool for all slots instead of an equal share for each.",
    },
    Knob {
        name: "n_batch",
        policies: LLAMACPP,
        kind: AT_LEAST_1,
        default: Default::Count(2048),
        description: "Tokens of one batch.",
    },
    Knob {
        name: "n_ubatch",
        policies: LLAMACPP,
        kind: AT_LEAST_1,
        default: Default::Count(512),
        description: "Tokens of one forward pass; a batch is computed in such pieces.",
    },
    Knob {
        name: "cont_batching",
        policies: LLAMACPP,
        kind: Kind::Switch,
        default: Default::Switch(true),
        description: "Let prompts join a batch in which others generate.",
    },
    Knob {
        name: "cache_prompt",
        policies: LLAMACPP,
        kind: Kind::Switch,
        default: Default::Switch(true),
        description: "Continue after what a slot still knows of a prompt. Off with executor candle.",
    },
    Knob {
        name: "slot_prompt_similarity",
        policies: LLAMACPP,
        kind: Kind::Number { min: 0.0, max: 1.0 },
        default: Default::Number(0.1),
        description: "Share of a prompt that a slot must know to be chosen for that; 0 always takes the one idle for longest.",
    },
    // SGLang 0.5.
    Knob {
        name: "schedule_policy",
        policies: SGLANG,
        kind: Kind::Choice(&["fcfs", "lpm"]),
        default: Default::Text("fcfs"),
        description: "Order of the waiting queue: arrival, or longest cached prefix first.",
    },
    Knob {
        name: "max_running_requests",
        policies: SGLANG,
        kind: BATCH,
        default: Default::Count(2048),
        description: "Most sequences running at once. SGLang derives it from the memory.",
    },
    Knob {
        name: "max_prefill_tokens",
        policies: SGLANG,
        kind: AT_LEAST_1,
        default: Default::Count(16_384),
        description: "Prompt tokens of one batch.",
    },
    Knob {
        name: "chunked_prefill_size",
        policies: SGLANG,
        kind: Kind::Count { min: 0, max: u32::MAX },
        default: Default::Count(2048),
        description: "Split prompts beyond so many tokens of a batch; 0 never does. SGLang takes 2048 to 16384 by the size of the GPU.",
    },
    Knob {
        name: "enable_mixed_chunk",
        policies: SGLANG,
        kind: Kind::Switch,
        default: Default::Switch(false),
        description: "Decode in the same batch as a prefill.",
    },
    Knob {
        name: "disable_radix_cache",
        policies: SGLANG,
        kind: Kind::Switch,
        default: Default::Switch(false),
        description: "Do not reuse KV blocks of equal beginnings. On with executor candle, which has none to share.",
    },
    Knob {
        name: "schedule_conservativeness",
        policies: SGLANG,
        kind: Kind::Number { min: 0.0, max: 100.0 },
        default: Default::Number(1.0),
        description: "Factor on the memory kept for the outputs of running sequences.",
    },
];

pub fn find(policy: &str, name: &str) -> Option<&'static Knob> {
    KNOBS.iter().find(|k| k.name == name && k.policies.contains(&policy))
}

/// Knobs of the policy itself: those that not every policy has, and that are not about memory.
pub fn own(policy: &str) -> impl Iterator<Item = &'static Knob> {
    KNOBS.iter().filter(move |k| k.policies.contains(&policy) && !is_engine_setting(k))
}

fn is_engine_setting(knob: &Knob) -> bool {
    knob.policies.len() == ALL.len() || knob.name == "kv_strategy"
}

/// `policy` first, then its own knobs, then the engine settings.
pub fn names_of(policy: &str) -> Vec<&'static str> {
    let (shared, own): (Vec<_>, Vec<_>) =
        KNOBS.iter().filter(|k| k.policies.contains(&policy)).partition(|k| is_engine_setting(k));
    ["policy"].into_iter().chain(own.into_iter().chain(shared).map(|k| k.name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_has_each_name_once_and_only_known_policies_are_named() {
        for policy in POLICIES {
            let mut names = names_of(policy);
            let count = names.len();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), count, "{policy}");
        }
        for knob in KNOBS {
            assert!(knob.policies.iter().all(|p| POLICIES.contains(p)), "{}", knob.name);
        }
    }
}
