//! Each metric on a handful of records, with the value worked out by hand. `definitions.md` gives the formulas.

mod common;

use common::{MS, START_NS, chunked, manifest, record, refused, trial};
use llmlab_metrics::analysis::TrialAnalysis;
use llmlab_metrics::latency::Distribution;
use llmlab_metrics::roofline::Bound;
use llmlab_metrics::window::WindowRule;
use llmlab_metrics::{Trial, Warning, analyse};
use llmlab_results::machine_sample::{GpuSample, HostCpu, MachineSample, ProcessTree};
use llmlab_results::manifest::{CostFacts, Manifest, ServerSample, Slo, TrialKind};
use llmlab_results::record::{Outcome, RequestRecord};
use llmlab_results::step::{StepRow, StepSeq};

/// Times in ms. 0: four tokens, the last two in one event. 1: all three tokens in one event. 2: a single token.
/// 3: five tokens in two events. 4: refused. Their ends: 161, 251, 181, 461 (one ms after the last token), none.
fn five() -> Vec<RequestRecord> {
    vec![
        chunked(0, 0, &[(100, 1), (120, 1), (160, 2)]),
        chunked(1, 50, &[(250, 3)]),
        chunked(2, 100, &[(180, 1)]),
        chunked(3, 200, &[(400, 2), (460, 3)]),
        refused(4, 300),
    ]
}

fn one_trial(m: &Manifest, records: Vec<RequestRecord>) -> TrialAnalysis {
    analyse(m, &[trial("a", 1, records)]).trials.remove(0)
}

fn ms(v: Option<f64>) -> Option<f64> {
    v.map(|ns| (ns / 1e6 * 1e6).round() / 1e6)
}

fn close(got: f64, want: f64) {
    assert!((got - want).abs() <= 1e-9 * want.abs().max(1e-9), "{got} != {want}");
}

#[test]
fn latencies_count_from_the_schedule() {
    let t = one_trial(&manifest(&["a"]), five());
    let ttft = t.latency.ttft.unwrap();
    // 100, 200, 80, 200: the median of [80, 100, 200, 200] is 150.
    assert_eq!((ttft.count, ttft.failures), (4, 1));
    assert_eq!(ms(ttft.raw.p50_ns), Some(150.0));
    assert_eq!(ms(ttft.mean_ns), Some(145.0));
    assert_eq!((ms(ttft.min_ns), ms(ttft.max_ns)), (Some(80.0), Some(200.0)));
    // p90 at rank 2.7 of [80, 100, 200, 200].
    assert_eq!(ms(ttft.raw.p90_ns), Some(200.0));
    let e2e = t.latency.e2e_last.unwrap();
    // 160, 200, 80, 260.
    assert_eq!(ms(e2e.raw.p50_ns), Some(180.0));
    assert_eq!(ms(t.latency.e2e_done.unwrap().raw.p50_ns), Some(181.0));
    assert_eq!(ms(t.latency.send_lag.unwrap().max_ns), Some(0.1));
}

#[test]
fn a_failure_is_slower_than_everything() {
    let ttft = one_trial(&manifest(&["a"]), five()).latency.ttft.unwrap();
    // [80, 100, 200, 200, inf]
    assert_eq!(ms(ttft.adjusted.p50_ns), Some(200.0));
    assert_eq!(ttft.adjusted.p90_ns, None, "rank 3.6 touches the failure");
    assert_eq!(ms(ttft.raw.p99_ns), Some(200.0));
}

#[test]
fn tpot_divides_by_the_tokens_after_the_first_event_and_is_missing_without_any() {
    let tpot = one_trial(&manifest(&["a"]), five()).latency.tpot.unwrap();
    // Request 0: 60 ms / (4 - 1); request 3: 60 ms / (5 - 2); requests 1 and 2 have n = k.
    assert_eq!((tpot.count, tpot.failures), (2, 1));
    assert_eq!((ms(tpot.min_ns), ms(tpot.max_ns)), (Some(20.0), Some(20.0)));
}

#[test]
fn itl_is_per_token_and_icl_per_event() {
    let t = one_trial(&manifest(&["a"]), five());
    let itl = t.latency.itl.unwrap();
    // Request 0: 20, then 40 ms for two tokens = 20, 20; request 3: 60 ms for three tokens = 20, 20, 20.
    assert_eq!(itl.count, 6);
    assert_eq!((ms(itl.min_ns), ms(itl.max_ns)), (Some(20.0), Some(20.0)));
    // The refused request owed five tokens, that is four gaps.
    assert_eq!(itl.failures, 4);
    let icl = t.latency.icl.unwrap();
    // 20, 40, 60.
    assert_eq!((icl.count, ms(icl.raw.p50_ns)), (3, Some(40.0)));
}

#[test]
fn rates_are_over_the_window() {
    let t = one_trial(&manifest(&["a"]), five());
    let w = t.window.unwrap();
    assert_eq!((w.start_ns, w.end_ns, w.rule), (0, 461 * MS, WindowRule::OpenLoop));
    let r = t.rates.unwrap();
    close(r.requests_per_s, 4.0 / 0.461);
    close(r.output_tokens_per_s, 13.0 / 0.461);
    close(r.total_tokens_per_s, 53.0 / 0.461);
}

#[test]
fn the_servers_own_count_wins_over_what_the_stream_showed() {
    let mut r = record(0, 0, &[100, 200, 300]);
    r.output_tokens = 9;
    let t = one_trial(&manifest(&["a"]), vec![r]);
    close(t.rates.unwrap().output_tokens_per_s, 9.0 / 0.301);
    // (300 - 100) / (9 - 1)
    assert_eq!(ms(t.latency.tpot.unwrap().raw.p50_ns), Some(25.0));
}

#[test]
fn warm_up_is_cut_by_index_and_its_late_tokens_still_count_as_work() {
    let mut m = manifest(&["a"]);
    m.workload.warmup_requests = 1;
    let records = vec![record(0, 0, &[100, 900]), record(1, 500, &[600, 1499])];
    let t = one_trial(&m, records);
    assert_eq!((t.requests.warmup, t.requests.measured), (1, 1));
    assert_eq!(ms(t.latency.ttft.unwrap().raw.p50_ns), Some(100.0));
    // Window 500..1500: tokens at 600, 900 and 1499, and both requests end in it.
    let r = t.rates.unwrap();
    close(r.output_tokens_per_s, 3.0);
    close(r.requests_per_s, 2.0);
}

#[test]
fn a_closed_loop_stops_counting_when_users_fall_silent() {
    let mut m = manifest(&["a"]);
    m.resolved = serde_json::json!({ "workload": { "arrivals": { "process": "closed" } } });
    let records = vec![record(0, 0, &[100, 199]), record(1, 200, &[300, 399]), record(2, 400, &[500, 599])];
    let t = one_trial(&m, records);
    let w = t.window.unwrap();
    assert_eq!((w.end_ns, w.rule), (400 * MS, WindowRule::ClosedLoop));
    close(t.rates.unwrap().output_tokens_per_s, 4.0 / 0.4);
    let burst = one_trial(&m, vec![record(0, 0, &[100]), record(1, 0, &[200])]);
    assert_eq!(burst.window.unwrap().rule, WindowRule::ClosedLoopBurst);
}

#[test]
fn goodput_counts_requests_that_meet_every_limit() {
    let mut m = manifest(&["a"]);
    assert_eq!(one_trial(&m, five()).goodput, None, "no limit is not the same as all good");
    m.slo =
        Slo { ttft: vec![(50.0, 90 * MS), (95.0, 150 * MS)], tpot: vec![(95.0, 20 * MS)], ..Slo::default() };
    let t = one_trial(&m, five());
    // TTFT at most 150 ms (the limit of the highest percentile): requests 0 and 2. Request 2 has no TPOT and is not failed for it.
    let g = t.goodput.unwrap();
    close(g.requests_per_s, 2.0 / 0.461);
    close(g.share, 0.4);
    // Adjusted TTFT p50 is 200 ms, p95 is infinite; TPOT p95 over [20, 20, inf] is infinite.
    let verdicts: Vec<(Option<f64>, Option<bool>)> = t.slo.iter().map(|c| (ms(c.value_ns), c.met)).collect();
    assert_eq!(verdicts, vec![(Some(200.0), Some(false)), (None, Some(false)), (None, Some(false))]);
    m.slo.ttft = vec![(50.0, 200 * MS)];
    assert_eq!(one_trial(&m, five()).slo[0].met, Some(true), "a limit is met when it is just reached");
}

#[test]
fn cancelled_requests_are_neither_success_nor_failure() {
    let mut records = five();
    records[3].outcome = Outcome::Cancelled;
    let a = analyse(&manifest(&["a"]), &[trial("a", 1, records)]);
    let r = a.trials[0].requests;
    assert_eq!((r.measured, r.succeeded, r.failed, r.cancelled), (5, 3, 1, 1));
    assert_eq!(a.trials[0].latency.ttft.as_ref().unwrap().failures, 1);
    assert!(a.warnings.iter().any(|w| matches!(w, Warning::Interrupted { cancelled: 1, .. })));
}

#[test]
fn errors_are_counted_by_class() {
    let mut records = five();
    records.extend([refused(5, 310), refused(6, 320)]);
    records[5].http_status = Some(429);
    records[2].outcome = Outcome::WrongLength;
    let t = one_trial(&manifest(&["a"]), records);
    let got: Vec<(Outcome, Option<u16>, u64)> =
        t.errors.iter().map(|e| (e.outcome, e.http_status, e.count)).collect();
    assert_eq!(got[0], (Outcome::Http, Some(503), 2));
    assert!(got.contains(&(Outcome::Http, Some(429), 1)) && got.contains(&(Outcome::WrongLength, None, 1)));
    assert_eq!(t.errors[0].example.as_deref(), Some("queue is full"));
    assert_eq!(t.token_sources.usage, 4);
}

fn seq(new_tokens: u32, context: u32, padding: u32) -> StepSeq {
    StepSeq { id: 1, new_tokens, context, padding, ..StepSeq::default() }
}

/// Two steps inside the window of [`five`] (10 and 30 ms long), one before it.
fn stepped() -> Trial {
    let mut t = trial("a", 1, five());
    let row = |step, at_ms: u64, elapsed_ms: u64, seqs: Vec<StepSeq>, free, kv_tokens, waiting| StepRow {
        step,
        start_monotonic_ns: START_NS + at_ms * MS,
        elapsed_ns: elapsed_ms * MS,
        running: seqs.len() as u32,
        waiting,
        free_blocks: free,
        total_blocks: 10,
        kv_tokens,
        block_size: 16,
        seqs,
        ..StepRow::default()
    };
    let mut before = row(1, 0, 90, vec![seq(50, 0, 0)], 0, 160, 9);
    before.start_monotonic_ns = START_NS - 100 * MS;
    before.admitted = vec![(1, 5 * MS)];
    let mut first = row(2, 100, 10, vec![seq(4, 0, 0), seq(1, 10, 0)], 8, 15, 2);
    first.admitted = vec![(2, 30 * MS), (3, 70 * MS)];
    let mut second = row(3, 120, 30, vec![seq(1, 4, 0), seq(1, 11, 2)], 6, 32, 0);
    second.preempted = vec![7];
    // Waited from before the window: belongs to a warm-up request.
    second.admitted = vec![(4, 121 * MS)];
    t.steps = vec![before, first, second];
    t
}

#[test]
fn the_step_log_is_weighted_by_time() {
    let a = analyse(&manifest(&["a"]), &[stepped()]);
    let e = a.trials[0].engine.clone().unwrap();
    assert_eq!((e.steps, e.preemptions, e.prefill_tokens, e.decode_tokens), (2, 1, 4, 3));
    close(e.busy_share, 40.0 / 461.0);
    close(e.batch_mean, 2.0);
    // 2 waiting for 10 ms, none for 30 ms.
    close(e.waiting_mean, 0.5);
    // 20 % of blocks for 10 ms, 40 % for 30 ms.
    close(e.kv_use_mean.unwrap(), 0.35);
    close(e.kv_use_max.unwrap(), 0.4);
    // 15 of 32 slots for 10 ms, 32 of 64 for 30 ms.
    close(e.internal_fragmentation_mean.unwrap(), ((1.0 - 15.0 / 32.0) * 10.0 + 0.5 * 30.0) / 40.0);
    // A log from before it was written down.
    assert_eq!(e.external_fragmentation_mean, None);
    // Two padding rows beside seven useful ones.
    close(e.padding_share, 2.0 / 9.0);
    let queue = a.trials[0].latency.queue.clone().unwrap();
    assert_eq!((queue.count, ms(queue.min_ns), ms(queue.max_ns)), (2, Some(30.0), Some(70.0)));
}

#[test]
fn fragmentation_counts_shared_blocks_once_and_is_weighted_by_time() {
    let mut t = stepped();
    // 10 ms: two sequences of 20 tokens share a block of 16 and hold one each for the rest; 24 tokens in 48 slots.
    let first = &mut t.steps[1];
    (first.kv_tokens, first.kv_shared_tokens, first.kv_held_tokens) = (40, Some(16), Some(48));
    first.external_fragmentation = Some(0.0);
    // 30 ms: full, and 2 of 5 free blocks are of no use.
    let second = &mut t.steps[2];
    (second.kv_tokens, second.kv_shared_tokens, second.kv_held_tokens) = (64, Some(0), Some(64));
    second.external_fragmentation = Some(0.4);
    let e = analyse(&manifest(&["a"]), &[t]).trials[0].engine.clone().unwrap();
    close(e.internal_fragmentation_mean.unwrap(), 0.5 * 10.0 / 40.0);
    close(e.external_fragmentation_mean.unwrap(), 0.4 * 30.0 / 40.0);
}

#[test]
fn accepted_drafts_and_the_length_they_bring() {
    let mut t = trial("a", 1, five());
    let seq = |id: u64, context: u32, new_tokens: u32, drafts: u32| StepSeq {
        id,
        context,
        new_tokens,
        drafts,
        ..StepSeq::default()
    };
    let row = |at_ms: u64, seqs: Vec<StepSeq>, accepted_drafts: u32| StepRow {
        start_monotonic_ns: START_NS + at_ms * MS,
        elapsed_ns: 10 * MS,
        seqs,
        accepted_drafts,
        ..StepRow::default()
    };
    t.steps = vec![
        row(100, vec![seq(1, 0, 10, 0), seq(2, 20, 4, 3)], 3),
        row(110, vec![seq(1, 10, 4, 3), seq(2, 24, 4, 3)], 1),
    ];
    let e = analyse(&manifest(&["a"]), &[t]).trials[0].engine.clone().unwrap();
    close(e.draft_acceptance_rate.unwrap(), 4.0 / 9.0);
    close(e.acceptance_length.unwrap(), 1.0 + 4.0 / 3.0);
    // A decode with drafts is no prompt.
    assert_eq!((e.prefill_tokens, e.decode_tokens), (10, 12));

    let mut t = trial("a", 1, five());
    t.steps = vec![row(100, vec![seq(1, 0, 10, 0)], 0)];
    let e = analyse(&manifest(&["a"]), &[t]).trials[0].engine.clone().unwrap();
    assert_eq!((e.draft_acceptance_rate, e.acceptance_length), (None, None));
}

#[test]
fn recomputed_tokens_are_those_a_preemption_threw_away() {
    let mut t = trial("a", 1, five());
    let row = |at_ms: u64, seqs: &[(u64, u32, u32)], preempted: &[u64]| StepRow {
        start_monotonic_ns: START_NS + at_ms * MS,
        elapsed_ns: 10 * MS,
        seqs: seqs
            .iter()
            .map(|(id, context, new_tokens)| StepSeq {
                id: *id,
                context: *context,
                new_tokens: *new_tokens,
                ..StepSeq::default()
            })
            .collect(),
        preempted: preempted.to_vec(),
        ..StepRow::default()
    };
    t.steps = vec![
        row(100, &[(1, 0, 10), (2, 0, 6)], &[]),
        row(110, &[(1, 10, 1), (2, 6, 1)], &[]),
        // Seven tokens of request 2 are gone. A cache saves four of them; it computes 4, 5, 6 again and 7, 8 for the first time.
        row(120, &[(1, 11, 1)], &[2]),
        row(130, &[(1, 12, 1), (2, 4, 5)], &[]),
        row(140, &[(1, 13, 1), (2, 9, 1)], &[]),
    ];
    let e = analyse(&manifest(&["a"]), &[t]).trials[0].engine.clone().unwrap();
    assert_eq!(e.preemptions, 1);
    close(e.recomputed_share, 3.0 / 27.0);
}

#[test]
fn roofline_is_the_larger_of_memory_and_arithmetic_time() {
    let mut m = manifest(&["a"]);
    let roof = m.host.roofline.as_mut().unwrap();
    roof.read_bandwidth_bytes_per_s = 1e5;
    roof.int8_ops_per_s = 1e5;
    m.targets[0].weight_bytes = 1000;
    m.targets[0].kv_bytes_per_token = 10;
    m.model.linear_flops_per_token = 100.0;
    m.model.attention_flops_per_token_per_context = 2.0;
    let a = analyse(&m, &[stepped()]);
    let r = a.trials[0].roofline.clone().unwrap();
    // Step 2: 1000 + 10·10 bytes = 11 ms; 5·100 + 2·(4·2.5 + 1·11) = 542 FLOP = 5.42 ms.
    // Step 3: 1000 + 10·15 bytes = 11.5 ms; 2·100 + 2·(5 + 12) = 234 FLOP = 2.34 ms.
    close(r.ideal_s, 0.0225);
    close(r.busy_s, 0.040);
    close(r.share, 0.5625);
    assert_eq!((r.bound, r.memory_bound_share, r.peak_name), (Bound::Memory, 1.0, "int8"));
    close(r.bytes_per_s, 2250.0 / 0.04);
    close(r.flops_per_s, 776.0 / 0.04);
    close(r.bandwidth_share, 0.5625);
    close(r.compute_share, 776.0 / 0.04 / 1e5);

    // Ten times slower arithmetic: 54.2 ms and 23.4 ms bind instead.
    m.host.roofline.as_mut().unwrap().int8_ops_per_s = 1e4;
    let r = analyse(&m, &[stepped()]).trials[0].roofline.clone().unwrap();
    assert_eq!((r.bound, r.memory_bound_share), (Bound::Compute, 0.0));
    close(r.ideal_s, 0.0776);
    // A host without int8 instructions computes in f32.
    m.host.roofline.as_mut().unwrap().int8_ops_per_s = 0.0;
    assert_eq!(analyse(&m, &[stepped()]).trials[0].roofline.as_ref().unwrap().peak_name, "f32");
    m.host.roofline = None;
    let a = analyse(&m, &[stepped()]);
    assert!(a.trials[0].roofline.is_none() && a.warnings.contains(&Warning::HostNotCalibrated));
}

#[test]
fn cost_charges_the_whole_machine_to_the_tokens() {
    let mut m = manifest(&["a"]);
    m.cost = Some(CostFacts { hardware: "x".into(), usd_per_hour: 0.36, source: "test".into() });
    // 100 output tokens in one second beside a prompt of 10.
    let events: Vec<(u64, u32)> = vec![(500, 50), (999, 50)];
    let t = one_trial(&m, vec![chunked(0, 0, &events)]);
    let c = t.cost.unwrap();
    close(c.usd_per_million_output_tokens, 1.0);
    close(c.usd_per_million_tokens, 1.0 / 1.1);
    assert_eq!(one_trial(&m, vec![refused(0, 0)]).cost, None, "nothing produced has no price");
}

#[test]
fn scrapes_stand_in_for_a_step_log() {
    let mut t = trial("a", 1, five());
    let sample = |at_ms: u64, running, preemptions| ServerSample {
        at_ns: at_ms * MS,
        running: Some(running),
        kv_usage: Some(f64::NAN),
        preemptions_total: Some(preemptions),
        ..ServerSample::default()
    };
    t.server = vec![sample(100, 2.0, 5.0), sample(200, 4.0, 8.0), sample(900, 99.0, 99.0)];
    let a = analyse(&manifest(&["a"]), &[t]);
    let v = a.trials[0].server.clone().unwrap();
    assert_eq!((v.samples, v.running_mean, v.running_max), (2, Some(3.0), Some(4.0)));
    assert_eq!((v.preemptions, v.waiting_mean, v.kv_use_mean), (Some(3.0), None, None));
}

#[test]
fn the_machine_is_judged_by_what_its_counters_grew_by() {
    let mut t = trial("a", 1, five());
    let look = |at_ms: u64, cpu_ms: u64, energy_uj: u64| MachineSample {
        at_monotonic_ns: START_NS + at_ms * MS,
        host: Some(HostCpu { busy_ns: cpu_ms * MS, idle_ns: 3 * cpu_ms * MS, steal_ns: 0 }),
        server: Some(ProcessTree { processes: 2, cpu_ns: cpu_ms * MS, rss_bytes: at_ms }),
        cpu_energy_uj: Some(energy_uj),
        gpus: vec![GpuSample {
            power_w: Some(999.0),
            energy_mj: Some(at_ms * 300),
            throttled_by: if at_ms == 100 { vec!["power limit".into()] } else { Vec::new() },
            ..GpuSample::default()
        }],
    };
    // The last look is after the window.
    t.machine = vec![look(100, 10, 0), look(200, 160, 5_000_000), look(900, 900, 99_000_000)];
    let a = analyse(&manifest(&["a"]), &[t]);
    let (m, rates) = (a.trials[0].machine.clone().unwrap(), a.trials[0].rates.unwrap());
    assert_eq!((m.samples, m.server_rss_max_bytes), (2, Some(200)));
    close(m.server_cores.unwrap(), 1.5);
    close(m.host_busy_share.unwrap(), 0.25);
    close(m.cpu_power_w.unwrap(), 50.0);
    // 30 J in 0.1 s by the driver's count, whatever a look at power said.
    close(m.gpu_power_w.unwrap(), 300.0);
    close(m.joules_per_output_token.unwrap(), 350.0 / rates.output_tokens_per_s);
    assert_eq!(m.gpus[0].throttled, [("power limit".to_string(), 0.5)]);
    let mut one = trial("a", 1, five());
    one.machine = vec![look(100, 10, 0)];
    assert_eq!(analyse(&manifest(&["a"]), &[one]).trials[0].machine, None, "nothing can grow in one look");
}

/// A good answer in one piece.
fn whole(index: u64, scheduled_ms: u64, done_ms: u64, output_tokens: u32) -> RequestRecord {
    RequestRecord {
        done_ns: Some(done_ms * MS),
        output_tokens_requested: output_tokens,
        output_tokens,
        ..chunked(index, scheduled_ms, &[])
    }
}

#[test]
fn an_answer_in_one_piece_has_an_end_and_no_first_token() {
    let records = vec![whole(0, 0, 100, 7), whole(1, 50, 300, 7), refused(2, 60)];
    let t = &analyse(&manifest(&["a"]), &[trial("a", 1, records)]).trials[0];
    assert!(t.latency.ttft.is_none() && t.latency.tpot.is_none() && t.latency.itl.is_none());
    let e2e = t.latency.e2e_last.as_ref().unwrap();
    assert_eq!((e2e.count, e2e.failures, e2e.min_ns, e2e.max_ns), (2, 1, Some(100e6), Some(250e6)));
    let rates = t.rates.unwrap();
    close(rates.output_tokens_per_s, 14.0 / 0.3);
    assert!(rates.generates);
}

#[test]
fn an_embedding_has_rows_for_what_it_has() {
    let m = manifest(&["a"]);
    let trials = [trial("a", 1, vec![whole(0, 0, 100, 0), whole(1, 50, 300, 0)])];
    let a = analyse(&m, &trials);
    let rates = a.trials[0].rates.unwrap();
    assert!(!rates.generates);
    close(rates.input_tokens_per_s, f64::from(2 * trials[0].records[0].prompt_tokens) / 0.3);
    let page = llmlab_metrics::terminal(&a, false, 110);
    for shown in ["E2E p95", "requests/s", "input tok/s"] {
        assert!(page.contains(shown), "{shown} is missing in\n{page}");
    }
    for absent in ["TTFT p", "TPOT p", "ITL p", "output tok/s", "total tok/s"] {
        assert!(!page.contains(absent), "{absent} in\n{page}");
    }
}

#[test]
fn probes_are_not_analysed() {
    let mut probe = trial("a", 0, five());
    probe.facts.kind = TrialKind::Probe;
    let a = analyse(&manifest(&["a"]), &[probe]);
    assert!(a.trials.is_empty() && a.warnings.contains(&Warning::NoTrials) && !a.trusted);
}

#[test]
fn a_run_without_success_says_so() {
    let a = analyse(&manifest(&["a"]), &[trial("a", 1, vec![refused(0, 0), refused(1, 10)])]);
    let t = &a.trials[0];
    assert!(a.warnings.contains(&Warning::NothingSucceeded { trial: "a-r1".into(), measured: 2 }));
    assert!(!t.trust.trusted);
    let ttft: &Distribution = t.latency.ttft.as_ref().unwrap();
    assert_eq!((ttft.count, ttft.mean_ns, ttft.adjusted.p50_ns), (0, None, None));
    assert_eq!(t.rates.unwrap().output_tokens_per_s, 0.0);
    let empty = analyse(&manifest(&["a"]), &[trial("a", 1, Vec::new())]);
    assert!(empty.warnings.iter().any(|w| matches!(w, Warning::NothingMeasured { recorded: 0, .. })));
    assert!(empty.trials[0].rates.is_none() && empty.trials[0].window.is_none());
}

#[test]
fn an_overloaded_open_loop_is_called_diverging() {
    // Request i waits 20·i ms: the queue grows all the time.
    let records: Vec<RequestRecord> = (0..60).map(|i| record(i, i * 10, &[i * 10 + 20 * i + 5])).collect();
    let a = analyse(&manifest(&["a"]), &[trial("a", 1, records)]);
    assert!(a.warnings.iter().any(|w| matches!(w, Warning::Diverging { .. })), "{:?}", a.warnings);
}
