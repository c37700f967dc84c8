//! Every key of `engine = { ... }`: which policy knows it, what it accepts and what it is when not written.
//!
//! One table drives the parser, the error messages and the JSON schema, so they cannot disagree. Knobs carry the name
//! and default of the system their policy imitates (vLLM 0.33, TGI v3, Triton's dynamic batcher); where this engine
//! deviates, because it runs on CPUs, the description says so.

pub const POLICIES: [&str; 5] = ["vllm", "tgi", "tgi-3.3.6", "static", "dynamic"];

const ALL: &[&str] = &POLICIES;
const VLLM: &[&str] = &["vllm"];
/// The rules without the product's defects, and the exact twin.
const TGI: &[&str] = &["tgi", "tgi-3.3.6"];
const STATIC: &[&str] = &["static"];
const DYNAMIC: &[&str] = &["dynamic"];
const BATCHERS: &[&str] = &["static", "dynamic"];

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
        policies: ALL,
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
];

pub fn find(policy: &str, name: &str) -> Option<&'static Knob> {
    KNOBS.iter().find(|k| k.name == name && k.policies.contains(&policy))
}

/// `policy` first, then its own knobs, then the engine settings.
pub fn names_of(policy: &str) -> Vec<&'static str> {
    let (shared, own): (Vec<_>, Vec<_>) =
        KNOBS.iter().filter(|k| k.policies.contains(&policy)).partition(|k| k.policies.len() == ALL.len());
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
