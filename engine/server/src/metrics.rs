//! The metric families vLLM exports (0.33 names and buckets), so that existing dashboards and autoscalers work unchanged.
//!
//! Only families this engine can fill are exported. Latency histograms count from the request's arrival at the HTTP
//! side, as vLLM's do. `request_success` counts every request that left the engine, by reason; `stop` includes those ended
//! by a stop string.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use llmlab_core::request::FinishReason;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

const REQUEST_LATENCY_S: [f64; 21] = [
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0,
    960.0, 1920.0, 7680.0,
];
const TIME_TO_FIRST_TOKEN_S: [f64; 22] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
    80.0, 160.0, 640.0, 2560.0,
];
const INTER_TOKEN_LATENCY_S: [f64; 19] = [
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
];
const ITERATION_TOKENS: [f64; 13] =
    [1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0];
const REQUEST_PREEMPTIONS: [f64; 7] = [1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 20.0];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exposition {
    /// text/plain; version=0.0.4
    Prometheus,
    OpenMetrics,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Finished {
    finished_reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CacheConfig {
    block_size: u32,
    num_gpu_blocks: u64,
}

/// Sizes of the KV pool, constant over the life of the server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CacheShape {
    pub block_size: u32,
    pub usable_blocks: u64,
}

/// When things happened to one finished request; all times since the engine started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeline {
    pub arrived: Duration,
    pub scheduled: Option<Duration>,
    pub first_token: Option<Duration>,
    pub last_token: Option<Duration>,
    pub prompt_tokens: u32,
    pub generated: u32,
    pub max_tokens: u32,
    pub preemptions: u32,
}

pub(crate) struct Metrics {
    registry: Registry,
    running: Gauge,
    waiting: Gauge,
    kv_usage: Gauge<f64, AtomicU64>,
    preemptions: Counter,
    prefix_queries: Counter,
    prefix_hits: Counter,
    draft_tokens: Counter,
    accepted_tokens: Counter,
    prompt_tokens: Counter,
    generation_tokens: Counter,
    finished: Family<Finished, Counter>,
    time_to_first_token: Histogram,
    inter_token_latency: Histogram,
    e2e_latency: Histogram,
    queue_time: Histogram,
    inference_time: Histogram,
    prefill_time: Histogram,
    decode_time: Histogram,
    time_per_output_token: Histogram,
    request_prompt_tokens: Histogram,
    request_generation_tokens: Histogram,
    request_max_tokens: Histogram,
    request_preemptions: Histogram,
    iteration_tokens: Histogram,
}

impl Metrics {
    pub fn new(model_name: &str, max_model_len: u32, cache: CacheShape) -> Self {
        let labels = [("model_name", model_name.to_owned()), ("engine", "0".to_owned())];
        let mut r = Registry::with_labels(labels.into_iter().map(|(k, v)| (k.into(), v.into())));
        let tokens = request_token_buckets(max_model_len);
        let cache_info: Family<CacheConfig, Gauge> = Family::default();
        cache_info
            .get_or_create(&CacheConfig { block_size: cache.block_size, num_gpu_blocks: cache.usable_blocks })
            .set(1);
        add(&mut r, "cache_config_info", "Sizes of the KV cache as labels, value always 1", cache_info);
        let finished: Family<Finished, Counter> = Family::default();
        for reason in ["stop", "length", "abort", "error"] {
            // Counters must exist at 0, or a rate over the first event is lost.
            let _exists = finished.get_or_create(&Finished { finished_reason: reason });
        }
        Metrics {
            running: add(&mut r, "num_requests_running", "Requests in the running set", Gauge::default()),
            waiting: add(
                &mut r,
                "num_requests_waiting",
                "Requests waiting to be scheduled",
                Gauge::default(),
            ),
            kv_usage: add(
                &mut r,
                "kv_cache_usage_perc",
                "Used share of the KV blocks, 0 to 1",
                Gauge::default(),
            ),
            preemptions: add(&mut r, "num_preemptions", "Preemptions since the start", Counter::default()),
            prefix_queries: add(
                &mut r,
                "prefix_cache_queries",
                "Tokens looked up in the prefix cache",
                Counter::default(),
            ),
            prefix_hits: add(
                &mut r,
                "prefix_cache_hits",
                "Tokens found in the prefix cache",
                Counter::default(),
            ),
            draft_tokens: add(
                &mut r,
                "spec_decode_num_draft_tokens",
                "Draft tokens that were verified",
                Counter::default(),
            ),
            accepted_tokens: add(
                &mut r,
                "spec_decode_num_accepted_tokens",
                "Draft tokens that were accepted",
                Counter::default(),
            ),
            prompt_tokens: add(
                &mut r,
                "prompt_tokens",
                "Prompt tokens of requests whose prefill ended",
                Counter::default(),
            ),
            generation_tokens: add(&mut r, "generation_tokens", "Tokens generated", Counter::default()),
            finished: add(&mut r, "request_success", "Requests that left the engine, by reason", finished),
            time_to_first_token: seconds(
                &mut r,
                "time_to_first_token_seconds",
                "Arrival to first token",
                &TIME_TO_FIRST_TOKEN_S,
            ),
            inter_token_latency: seconds(
                &mut r,
                "inter_token_latency_seconds",
                "Time between two tokens of a request",
                &INTER_TOKEN_LATENCY_S,
            ),
            e2e_latency: seconds(
                &mut r,
                "e2e_request_latency_seconds",
                "Arrival to last token",
                &REQUEST_LATENCY_S,
            ),
            queue_time: seconds(
                &mut r,
                "request_queue_time_seconds",
                "Arrival to first scheduling",
                &REQUEST_LATENCY_S,
            ),
            inference_time: seconds(
                &mut r,
                "request_inference_time_seconds",
                "First scheduling to last token",
                &REQUEST_LATENCY_S,
            ),
            prefill_time: seconds(
                &mut r,
                "request_prefill_time_seconds",
                "First scheduling to first token",
                &REQUEST_LATENCY_S,
            ),
            decode_time: seconds(
                &mut r,
                "request_decode_time_seconds",
                "First to last token",
                &REQUEST_LATENCY_S,
            ),
            time_per_output_token: seconds(
                &mut r,
                "request_time_per_output_token_seconds",
                "Mean time between the tokens of a request",
                &INTER_TOKEN_LATENCY_S,
            ),
            request_prompt_tokens: seconds(
                &mut r,
                "request_prompt_tokens",
                "Prompt tokens of a request",
                &tokens,
            ),
            request_generation_tokens: seconds(
                &mut r,
                "request_generation_tokens",
                "Tokens generated for a request",
                &tokens,
            ),
            request_max_tokens: seconds(
                &mut r,
                "request_params_max_tokens",
                "The max_tokens of a request",
                &tokens,
            ),
            request_preemptions: seconds(
                &mut r,
                "request_num_preemptions",
                "Preemptions of a request",
                &REQUEST_PREEMPTIONS,
            ),
            // vLLM's name; a histogram despite the suffix.
            iteration_tokens: seconds(
                &mut r,
                "iteration_tokens_total",
                "Tokens computed per step",
                &ITERATION_TOKENS,
            ),
            registry: r,
        }
    }

    pub fn set_load(&self, running: usize, waiting: usize, kv_usage: f64) {
        self.running.set(running as i64);
        self.waiting.set(waiting as i64);
        self.kv_usage.set(kv_usage);
    }

    /// Totals since the start, in tokens.
    pub fn set_prefix_cache(&self, queried_total: u64, hit_total: u64) {
        self.prefix_queries.inner().store(queried_total, Ordering::Relaxed);
        self.prefix_hits.inner().store(hit_total, Ordering::Relaxed);
    }

    /// Totals since the start.
    pub fn set_speculation(&self, drafted_total: u64, accepted_total: u64) {
        self.draft_tokens.inner().store(drafted_total, Ordering::Relaxed);
        self.accepted_tokens.inner().store(accepted_total, Ordering::Relaxed);
    }

    pub fn step(&self, new_tokens: usize, preempted: usize) {
        self.iteration_tokens.observe(new_tokens as f64);
        self.preemptions.inc_by(preempted as u64);
    }

    pub fn scheduled(&self, waited: Duration) {
        self.queue_time.observe(waited.as_secs_f64());
    }

    pub fn first_token(&self, since_arrival: Duration, prompt_tokens: u32) {
        self.time_to_first_token.observe(since_arrival.as_secs_f64());
        self.prompt_tokens.inc_by(u64::from(prompt_tokens));
        self.generation_tokens.inc();
    }

    pub fn next_token(&self, since_previous: Duration) {
        self.inter_token_latency.observe(since_previous.as_secs_f64());
        self.generation_tokens.inc();
    }

    pub fn finished(&self, reason: FinishReason, t: &Timeline) {
        let finished_reason = match reason {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::Abort => "abort",
            FinishReason::Error => "error",
        };
        self.finished.get_or_create(&Finished { finished_reason }).inc();
        self.request_prompt_tokens.observe(f64::from(t.prompt_tokens));
        self.request_generation_tokens.observe(f64::from(t.generated));
        self.request_max_tokens.observe(f64::from(t.max_tokens));
        self.request_preemptions.observe(f64::from(t.preemptions));
        let (Some(scheduled), Some(first), Some(last)) = (t.scheduled, t.first_token, t.last_token) else {
            return;
        };
        self.e2e_latency.observe(last.saturating_sub(t.arrived).as_secs_f64());
        self.inference_time.observe(last.saturating_sub(scheduled).as_secs_f64());
        self.prefill_time.observe(first.saturating_sub(scheduled).as_secs_f64());
        let decode = last.saturating_sub(first);
        self.decode_time.observe(decode.as_secs_f64());
        if t.generated > 1 {
            self.time_per_output_token.observe(decode.as_secs_f64() / f64::from(t.generated - 1));
        }
    }

    /// A request the engine itself failed.
    pub fn errored(&self) {
        self.finished.get_or_create(&Finished { finished_reason: "error" }).inc();
    }

    pub fn encode(&self, exposition: Exposition) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        text::encode(&mut out, &self.registry)?;
        Ok(match exposition {
            Exposition::OpenMetrics => out,
            Exposition::Prometheus => classic(&out),
        })
    }
}

fn add<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(format!("vllm:{name}"), help, metric.clone());
    metric
}

fn seconds(registry: &mut Registry, name: &str, help: &str, buckets: &[f64]) -> Histogram {
    add(registry, name, help, Histogram::new(buckets.iter().copied()))
}

/// 1, 2, 5, 10, 20, 50, ... up to the longest request.
fn request_token_buckets(max_model_len: u32) -> Vec<f64> {
    let limit = f64::from(max_model_len);
    let mut buckets: Vec<f64> = (0..10)
        .flat_map(|exponent| [1.0, 2.0, 5.0].map(|mantissa| mantissa * 10f64.powi(exponent)))
        .take_while(|&b| b <= limit)
        .collect();
    if buckets.is_empty() {
        buckets.push(1.0);
    }
    buckets
}

/// OpenMetrics names a counter's family without `_total`, the older text format with it; the samples agree.
fn classic(open_metrics: &str) -> String {
    let mut counters = std::collections::HashSet::new();
    for line in open_metrics.lines() {
        if let Some(name) = line.strip_prefix("# TYPE ").and_then(|l| l.strip_suffix(" counter")) {
            counters.insert(name);
        }
    }
    let mut out = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines().filter(|&l| l != "# EOF") {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(kind), Some(name), Some(rest)) if counters.contains(name) => {
                out.push_str(&format!("# {kind} {name}_total {rest}"));
            }
            _ => out.push_str(line),
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(name: &str) -> Metrics {
        Metrics::new(name, 4096, CacheShape { block_size: 16, usable_blocks: 63 })
    }

    fn timeline(scheduled: Option<u64>, first: Option<u64>, last: Option<u64>, generated: u32) -> Timeline {
        Timeline {
            arrived: Duration::from_secs(1),
            scheduled: scheduled.map(Duration::from_secs),
            first_token: first.map(Duration::from_secs),
            last_token: last.map(Duration::from_secs),
            prompt_tokens: 7,
            generated,
            max_tokens: 9,
            preemptions: 0,
        }
    }

    fn sample(text: &str, name: &str) -> f64 {
        let line =
            text.lines().find(|l| l.starts_with(&format!("{name}{{"))).unwrap_or_else(|| panic!("no {name}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    #[test]
    fn a_finished_request_lands_in_the_histograms() {
        let m = metrics("tiny");
        m.finished(FinishReason::Length, &timeline(Some(2), Some(4), Some(10), 4));
        let text = m.encode(Exposition::Prometheus).unwrap();
        assert_eq!(sample(&text, "vllm:e2e_request_latency_seconds_sum"), 9.0);
        assert_eq!(sample(&text, "vllm:request_prefill_time_seconds_sum"), 2.0);
        assert_eq!(sample(&text, "vllm:request_decode_time_seconds_sum"), 6.0);
        assert_eq!(sample(&text, "vllm:request_time_per_output_token_seconds_sum"), 2.0);
        assert_eq!(sample(&text, "vllm:request_prompt_tokens_sum"), 7.0);
    }

    #[test]
    fn a_request_aborted_before_its_first_token_has_no_latency() {
        let m = metrics("tiny");
        m.finished(FinishReason::Abort, &timeline(None, None, None, 0));
        let text = m.encode(Exposition::Prometheus).unwrap();
        assert_eq!(sample(&text, "vllm:e2e_request_latency_seconds_count"), 0.0);
        assert!(text.contains("finished_reason=\"abort\"} 1\n"), "{text}");
    }

    #[test]
    fn classic_text_names_counters_with_their_suffix_and_open_metrics_without() {
        let m = metrics("tiny");
        let classic = m.encode(Exposition::Prometheus).unwrap();
        assert!(classic.contains("# TYPE vllm:prompt_tokens_total counter\n"));
        assert!(classic.contains("# TYPE vllm:iteration_tokens_total histogram\n"));
        assert!(!classic.contains("# EOF"));
        let open = m.encode(Exposition::OpenMetrics).unwrap();
        assert!(open.contains("# TYPE vllm:prompt_tokens counter\n"));
        assert!(open.ends_with("# EOF\n"));
    }

    #[test]
    fn a_hostile_model_name_stays_inside_its_label() {
        let text = metrics("a\"} 1\nfake 2\\").encode(Exposition::Prometheus).unwrap();
        assert!(!text.lines().any(|l| l.starts_with("fake")), "{text}");
    }

    #[test]
    fn token_buckets_are_a_one_two_five_series_up_to_the_limit() {
        assert_eq!(request_token_buckets(100), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]);
        assert_eq!(request_token_buckets(0), [1.0]);
    }
}
