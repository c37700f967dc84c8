//! What each server calls its queue, its batch, its KV cache and its latencies, and a page reduced to these.
//!
//! Names are as of vLLM 0.33 and older, SGLang 0.5, TGI 3.3, llama.cpp, TensorRT-LLM (behind Triton and by itself),
//! LMDeploy and Ray Serve. docs/protocols.md has the table for people.

use llmlab_results::server_sample::ServerSample;

use super::histogram::Building;
use super::{Sample, samples};

/// What a family tells. Several series of one family add up, except shares, of which the highest counts.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Tells {
    Running,
    Waiting,
    /// A queue in front of the server's own; counts where there is no other.
    WaitingOutside,
    RunningOutside,
    /// A share, 0 to 1.
    KvUse,
    /// KV use as part of a whole: tokens or blocks.
    KvPart,
    KvWhole,
    Preemptions,
    PromptTokens,
    GenerationTokens,
    PrefixLookups,
    PrefixHits,
    /// Histograms, with their unit in seconds.
    Ttft(f64),
    Itl(f64),
    Queue(f64),
}

use Tells::*;

struct Family {
    /// Without `_total`, which counters may have or not.
    name: &'static str,
    /// Only series with this label.
    only: Option<(&'static str, &'static str)>,
    tells: Tells,
}

const fn family(name: &'static str, tells: Tells) -> Family {
    Family { name, only: None, tells }
}

const fn series(name: &'static str, label: &'static str, value: &'static str, tells: Tells) -> Family {
    Family { name, only: Some((label, value)), tells }
}

/// A prefix of names and what follows it.
const SERVERS: [(&str, &[Family]); 10] = [
    ("vllm:", VLLM),
    // Ray writes the colon as an underscore.
    ("ray_vllm_", VLLM),
    ("sglang:", SGLANG),
    ("tgi_", TGI),
    ("llamacpp:", LLAMACPP),
    ("lmdeploy:", LMDEPLOY),
    ("trtllm_", TRTLLM),
    ("nv_trt_llm_", TRTLLM_IN_TRITON),
    ("nv_", TRITON),
    ("ray_serve_", RAY_SERVE),
];

const VLLM: &[Family] = &[
    family("num_requests_running", Running),
    family("num_requests_waiting", Waiting),
    family("kv_cache_usage_perc", KvUse),
    family("num_preemptions", Preemptions),
    family("prompt_tokens", PromptTokens),
    family("generation_tokens", GenerationTokens),
    family("prefix_cache_queries", PrefixLookups),
    family("prefix_cache_hits", PrefixHits),
    family("time_to_first_token_seconds", Ttft(1.0)),
    family("inter_token_latency_seconds", Itl(1.0)),
    family("request_queue_time_seconds", Queue(1.0)),
    // Until 0.10.
    family("gpu_cache_usage_perc", KvUse),
    family("gpu_prefix_cache_queries", PrefixLookups),
    family("gpu_prefix_cache_hits", PrefixHits),
    family("time_per_output_token_seconds", Itl(1.0)),
];

const SGLANG: &[Family] = &[
    family("num_running_reqs", Running),
    family("num_queue_reqs", Waiting),
    family("token_usage", KvUse),
    family("prompt_tokens", PromptTokens),
    family("prompt_tokens", PrefixLookups),
    family("cached_tokens", PrefixHits),
    family("generation_tokens", GenerationTokens),
    family("time_to_first_token_seconds", Ttft(1.0)),
    family("inter_token_latency_seconds", Itl(1.0)),
    family("queue_time_seconds", Queue(1.0)),
];

/// The scheduler of TGI reserves memory for all tokens that a batch may come to have, so that is its KV use. It counts
/// tokens when a request ends.
const TGI: &[Family] = &[
    family("batch_current_size", Running),
    family("queue_size", Waiting),
    family("batch_current_max_tokens", KvPart),
    family("batch_max_total_tokens", KvWhole),
    family("request_input_length_sum", PromptTokens),
    family("request_generated_tokens_sum", GenerationTokens),
    family("request_queue_duration", Queue(1.0)),
];

/// `prompt_tokens_total` leaves out what the cache had.
const LLAMACPP: &[Family] = &[
    family("requests_processing", Running),
    family("requests_deferred", Waiting),
    family("kv_cache_usage_ratio", KvUse),
    family("prompt_tokens", PromptTokens),
    family("tokens_predicted", GenerationTokens),
    family("prompt_tokens", PrefixLookups),
    family("prompt_tokens_cached", PrefixLookups),
    family("prompt_tokens_cached", PrefixHits),
];

const LMDEPLOY: &[Family] = &[
    family("num_requests_running", Running),
    family("num_requests_waiting", Waiting),
    family("gpu_cache_usage_perc", KvUse),
    family("prompt_tokens", PromptTokens),
    family("prompt_tokens", PrefixLookups),
    family("cached_tokens", PrefixHits),
    family("generation_tokens", GenerationTokens),
    family("time_to_first_token_seconds", Ttft(1.0)),
    family("iter_token_latency", Itl(1.0)),
    family("request_queue_time_seconds", Queue(1.0)),
];

const TRTLLM: &[Family] = &[
    family("num_requests_running", Running),
    family("num_requests_waiting", Waiting),
    family("kv_cache_utilization", KvUse),
    family("prompt_tokens", PromptTokens),
    family("generation_tokens", GenerationTokens),
    family("kv_cache_reused_blocks", PrefixLookups),
    family("kv_cache_missed_blocks", PrefixLookups),
    family("kv_cache_reused_blocks", PrefixHits),
    family("time_to_first_token_seconds", Ttft(1.0)),
    family("request_queue_time_seconds", Queue(1.0)),
];

const TRTLLM_IN_TRITON: &[Family] = &[
    series("request_metrics", "request_type", "scheduled", Running),
    series("request_metrics", "request_type", "waiting", Waiting),
    series("kv_cache_block_metrics", "kv_cache_block_type", "used", KvPart),
    series("kv_cache_block_metrics", "kv_cache_block_type", "max", KvWhole),
];

const TRITON: &[Family] = &[
    family("inference_pending_request_count", WaitingOutside),
    family("inference_first_response_histogram_ms", Ttft(1e-3)),
    family("llm_input_token_len_sum", PromptTokens),
    family("llm_output_token_len_sum", GenerationTokens),
];

const RAY_SERVE: &[Family] = &[
    family("deployment_queued_queries", WaitingOutside),
    family("replica_processing_queries", RunningOutside),
];

/// Reduces a page to the families the reports use. Values that are not finite count as absent.
pub fn server_sample(at_ns: u64, scrape_ns: u64, page: &[u8]) -> ServerSample {
    let text = String::from_utf8_lossy(page);
    let mut told = Told::default();
    for sample in samples(&text) {
        if !sample.value.is_finite() || other_rank(&sample) {
            continue;
        }
        let server = SERVERS
            .iter()
            .find_map(|(prefix, families)| Some((sample.name.strip_prefix(prefix)?, *families)));
        let Some((name, families)) = server else { continue };
        let counter = name.strip_suffix("_total").unwrap_or(name);
        for family in families {
            let is_meant = family
                .only
                .is_none_or(|(label, value)| sample.label(label).is_some_and(|found| found == value));
            if is_meant {
                told.take(family, name, counter, &sample);
            }
        }
    }
    told.finish(at_ns, scrape_ns)
}

/// SGLang's workers of one model each tell the same.
fn other_rank(sample: &Sample<'_>) -> bool {
    sample.name.starts_with("sglang:")
        && ["tp_rank", "pp_rank"].iter().any(|rank| sample.label(rank).is_some_and(|rank| rank != "0"))
}

#[derive(Debug, Default)]
struct Told {
    sample: ServerSample,
    running_outside: Option<f64>,
    waiting_outside: Option<f64>,
    kv_part: Option<f64>,
    kv_whole: Option<f64>,
    ttft: Building,
    itl: Building,
    queue: Building,
}

impl Told {
    fn take(&mut self, family: &Family, name: &str, counter: &str, sample: &Sample<'_>) {
        let histogram = match family.tells {
            Ttft(unit) => Some((&mut self.ttft, unit)),
            Itl(unit) => Some((&mut self.itl, unit)),
            Queue(unit) => Some((&mut self.queue, unit)),
            _ => None,
        };
        if let Some((building, unit)) = histogram {
            if let Some(part) = name.strip_prefix(family.name) {
                building.take(part, sample, unit);
            }
            return;
        }
        if counter != family.name {
            return;
        }
        let s = &mut self.sample;
        let slot = match family.tells {
            Running => &mut s.running,
            Waiting => &mut s.waiting,
            RunningOutside => &mut self.running_outside,
            WaitingOutside => &mut self.waiting_outside,
            KvUse => {
                s.kv_usage = Some(s.kv_usage.map_or(sample.value, |most| most.max(sample.value)));
                return;
            }
            KvPart => &mut self.kv_part,
            KvWhole => &mut self.kv_whole,
            Preemptions => &mut s.preemptions_total,
            PromptTokens => &mut s.prompt_tokens_total,
            GenerationTokens => &mut s.generation_tokens_total,
            PrefixLookups => &mut s.prefix_lookups_total,
            PrefixHits => &mut s.prefix_hits_total,
            Ttft(_) | Itl(_) | Queue(_) => return,
        };
        *slot = Some(slot.unwrap_or(0.0) + sample.value);
    }

    fn finish(self, at_ns: u64, scrape_ns: u64) -> ServerSample {
        let share = self.kv_part.zip(self.kv_whole).filter(|(_, whole)| *whole > 0.0);
        ServerSample {
            at_ns,
            scrape_ns: Some(scrape_ns),
            running: self.sample.running.or(self.running_outside),
            waiting: self.sample.waiting.or(self.waiting_outside),
            kv_usage: self.sample.kv_usage.or(share.map(|(part, whole)| part / whole)),
            ttft: self.ttft.finish(),
            itl: self.itl.finish(),
            queue: self.queue.finish(),
            ..self.sample
        }
    }
}
