//! The metrics reader takes anything and finds what is there.

use llmlab_loadgen::prometheus::{Sample, samples};
use llmlab_results::server_sample::{HistogramSample, ServerSample};
use proptest::prelude::*;

fn server_sample(at_ns: u64, page: &[u8]) -> ServerSample {
    llmlab_loadgen::prometheus::server_sample(at_ns, 0, page)
}

#[test]
fn reads_a_page_of_vllm() {
    let page = br#"# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a{b}\"c\\"} 3.0
vllm:num_requests_running{engine="1",model_name="x"} 4.0
vllm:num_requests_waiting{engine="0"} 1e1 1700000000000
vllm:kv_cache_usage_perc{engine="0"} 0.25
vllm:kv_cache_usage_perc{engine="1"} 0.75
vllm:num_preemptions_total 5
vllm:prompt_tokens_total 100.0 # {trace_id="abc"} 1.0
vllm:generation_tokens_total NaN
vllm:e2e_request_latency_seconds_bucket{le="+Inf"} 7
process_cpu_seconds_total 12.5
"#;
    let s = server_sample(9, page);
    assert_eq!((s.at_ns, s.running, s.waiting), (9, Some(7.0), Some(10.0)));
    assert_eq!(s.kv_usage, Some(0.75));
    assert_eq!((s.preemptions_total, s.prompt_tokens_total), (Some(5.0), Some(100.0)));
    assert_eq!(s.generation_tokens_total, None, "NaN is no count");
}

#[test]
fn reads_the_older_name_and_nothing_of_others() {
    let s = server_sample(
        0,
        b"vllm:gpu_cache_usage_perc 0.5\nnum_requests_running 9\nother:num_requests_running 9\n",
    );
    assert_eq!((s.kv_usage, s.running), (Some(0.5), None));
    let html = server_sample(0, b"<html>vllm:num_requests_running 3</html>");
    assert_eq!(html.running, None);
}

/// What a page of one server comes to: running, waiting, KV use, preemptions, prompt and generated tokens.
type Told = [Option<f64>; 6];
/// A page, what it tells, and what its prefix cache was asked for and had.
type Case<'a> = (&'a str, Told, Option<(f64, f64)>);

fn told(s: &ServerSample) -> Told {
    [s.running, s.waiting, s.kv_usage, s.preemptions_total, s.prompt_tokens_total, s.generation_tokens_total]
}

#[test]
fn each_server_has_names_of_its_own() {
    let sglang = "sglang:num_running_reqs{tp_rank=\"0\"} 4\nsglang:num_running_reqs{tp_rank=\"1\"} 4\n\
        sglang:num_queue_reqs{tp_rank=\"0\"} 2\nsglang:token_usage 0.5\nsglang:prompt_tokens_total 100\n\
        sglang:cached_tokens_total 40\nsglang:generation_tokens_total 9\n";
    let llamacpp = "llamacpp:requests_processing 3\nllamacpp:requests_deferred 1\nllamacpp:tokens_predicted_total 7\n\
        llamacpp:prompt_tokens_total 60\nllamacpp:prompt_tokens_cached_total 40\n";
    let triton = "nv_inference_pending_request_count{model=\"e\"} 9\n\
        nv_trt_llm_request_metrics{model=\"e\",request_type=\"scheduled\"} 5\n\
        nv_trt_llm_request_metrics{model=\"e\",request_type=\"waiting\"} 6\n\
        nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=\"used\"} 25\n\
        nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=\"max\"} 100\nnv_llm_output_token_len_sum 11\n";
    let ray = "ray_vllm_num_requests_running 2\nray_serve_deployment_queued_queries{deployment=\"d\"} 8\n";
    let trtllm = "trtllm_num_requests_running 1\ntrtllm_kv_cache_utilization 0.125\n\
        trtllm_kv_cache_reused_blocks_total 1\ntrtllm_kv_cache_missed_blocks_total 3\n";
    let cases: [Case<'_>; 5] = [
        (sglang, [Some(4.0), Some(2.0), Some(0.5), None, Some(100.0), Some(9.0)], Some((100.0, 40.0))),
        (llamacpp, [Some(3.0), Some(1.0), None, None, Some(60.0), Some(7.0)], Some((100.0, 40.0))),
        (triton, [Some(5.0), Some(6.0), Some(0.25), None, None, Some(11.0)], None),
        (ray, [Some(2.0), Some(8.0), None, None, None, None], None),
        (trtllm, [Some(1.0), None, Some(0.125), None, None, None], Some((4.0, 1.0))),
    ];
    for (page, expected, prefix) in cases {
        let s = server_sample(0, page.as_bytes());
        assert_eq!(told(&s), expected, "{page}");
        assert_eq!(s.prefix_lookups_total.zip(s.prefix_hits_total), prefix, "{page}");
    }
}

/// Recorded from a router under load.
#[test]
fn reads_a_page_of_tgi() {
    let page = include_bytes!("fixtures/tgi/metrics_under_load.response.http");
    let s = server_sample(0, page);
    // It holds what the batch may take, but not of how much.
    assert_eq!(told(&s), [Some(1.0), Some(3.0), None, None, Some(20.0), None]);
    let whole = [&page[..], b"\ntgi_batch_max_total_tokens 32\n"].concat();
    assert_eq!(server_sample(0, &whole).kv_usage, Some(0.25));
}

#[test]
fn histograms_of_engines_add_up_and_units_become_seconds() {
    let page = "vllm:time_to_first_token_seconds_bucket{engine=\"0\",le=\"0.5\"} 1\n\
        vllm:time_to_first_token_seconds_bucket{engine=\"0\",le=\"0.1\"} 1\n\
        vllm:time_to_first_token_seconds_bucket{engine=\"0\",le=\"+Inf\"} 3\n\
        vllm:time_to_first_token_seconds_bucket{engine=\"1\",le=\"0.5\"} 2\n\
        vllm:time_to_first_token_seconds_count{engine=\"0\"} 3\nvllm:time_to_first_token_seconds_count{engine=\"1\"} 2\n\
        vllm:time_to_first_token_seconds_sum{engine=\"0\"} 1.25\nvllm:time_to_first_token_seconds_created 1.7e9\n\
        vllm:request_time_per_output_token_seconds_count 4\n";
    let s = server_sample(0, page.as_bytes());
    let expected =
        HistogramSample { bounds: vec![0.1, 0.5], cumulative: vec![1.0, 3.0], count: 5.0, sum: 1.25 };
    assert_eq!((s.ttft, s.itl), (Some(expected), None));
    let triton = "nv_inference_first_response_histogram_ms_bucket{le=\"100\"} 1\n\
        nv_inference_first_response_histogram_ms_count 1\nnv_inference_first_response_histogram_ms_sum 50\n";
    let ttft = server_sample(0, triton.as_bytes()).ttft.unwrap();
    assert_eq!((ttft.bounds, ttft.sum), (vec![0.1], 0.05));
}

#[test]
fn openmetrics_has_exemplars_timestamps_and_an_end() {
    let page = "# TYPE a counter\n# UNIT a seconds\na_total{x=\"# }\"} 1.5 1700000000.25 # {trace=\"t\"} 0.5 1.0\n\
        a_created 1 # {} 2\n# EOF\nlate 7\n";
    let found: Vec<Sample<'_>> = samples(page).collect();
    assert_eq!(found.len(), 2, "nothing counts after the end");
    assert_eq!((found[0].value, found[0].timestamp), (1.5, Some(1_700_000_000.25)));
    assert_eq!(found[0].label("x").as_deref(), Some("# }"));
    assert_eq!((found[1].value, found[1].timestamp), (1.0, None));
}

#[test]
fn broken_lines_are_skipped() {
    let text = "ok 1\nno_value\nbad{open=\"} 2\n{} 3\n9digit 4\nword x\nlabels{a=\"b\"}5\ninf +Inf\n";
    let found: Vec<(&str, f64)> = samples(text).map(|s| (s.name, s.value)).collect();
    assert_eq!(found, [("ok", 1.0), ("labels", 5.0), ("inf", f64::INFINITY)]);
}

proptest! {
    #[test]
    fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        server_sample(0, &bytes);
    }

    #[test]
    fn never_panics_on_what_looks_like_metrics(text in r#"([a-z:_]{0,8}\{?[a-z"\\}=,é]{0,12}\}? ?[0-9NaInf.e+-]{0,6}[\n\r ]?){0,20}"#) {
        for sample in samples(&text) {
            prop_assert!(!sample.name.is_empty());
        }
    }

    #[test]
    fn what_is_written_is_read(name in "[a-zA-Z_:][a-zA-Z0-9_:]{0,10}", label in any::<String>(), value: f64) {
        let escaped = label.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
        // Other line breaks cannot stand in a label; the format has no escape for them.
        prop_assume!(!escaped.contains('\r'));
        let line = format!("{name}{{l=\"{escaped}\"}} {value}");
        let read: Vec<_> = samples(&line).collect();
        prop_assert_eq!(read.len(), 1);
        prop_assert_eq!(read[0].name, &name);
        let found = read[0].label("l");
        prop_assert_eq!(found.as_deref(), Some(label.as_str()));
        prop_assert!(read[0].value == value || value.is_nan());
    }
}
