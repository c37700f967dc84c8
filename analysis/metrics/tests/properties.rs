//! Whatever was recorded, the analysis answers, and its figures are consistent with each other.

mod common;

use common::{START_NS, chunked, manifest, trial};
use llmlab_metrics::latency::{Distribution, Percentiles};
use llmlab_metrics::{Trial, analyse, html, markdown, terminal};
use llmlab_results::manifest::{CostFacts, ServerSample, Slo};
use llmlab_results::record::{CountSource, Outcome, RequestRecord, TokenEvent};
use llmlab_results::step::{StepRow, StepSeq};
use proptest::prelude::*;

const OUTCOMES: [Outcome; 13] = [
    Outcome::Ok,
    Outcome::WrongLength,
    Outcome::Connect,
    Outcome::Timeout,
    Outcome::Http,
    Outcome::NoResponse,
    Outcome::StreamCut,
    Outcome::NoTerminator,
    Outcome::Malformed,
    Outcome::TooLarge,
    Outcome::Cancelled,
    Outcome::Client,
    Outcome::Abandoned,
];

/// Stages in order of time; every stage but the schedule may be absent.
fn any_record(index: u64) -> impl Strategy<Value = RequestRecord> {
    let gaps = prop::collection::vec((0_u64..2_000_000_000, 1_u32..6), 0..6);
    let sent = prop::option::of(0_u64..50_000_000);
    (0_u64..5_000_000_000, sent, gaps, 0_usize..OUTCOMES.len(), 0_u32..40, any::<bool>()).prop_map(
        move |(scheduled, lag, gaps, outcome, tokens, done)| {
            let mut at = scheduled + lag.unwrap_or(0);
            let mut events = Vec::new();
            for (gap, tokens) in gaps {
                at += gap;
                events.push(TokenEvent { at_ns: at, tokens });
            }
            let outcome =
                if outcome > 9 || index.is_multiple_of(3) { OUTCOMES[outcome] } else { Outcome::Ok };
            RequestRecord {
                scheduled_ns: scheduled,
                sent_ns: lag.map(|lag| scheduled + lag),
                done_ns: done.then_some(at + 1000),
                output_tokens: if outcome == Outcome::Ok {
                    events.iter().map(|e| e.tokens).sum()
                } else {
                    tokens
                },
                output_tokens_requested: tokens,
                output_tokens_source: CountSource::ChunkCount,
                outcome,
                events,
                ..chunked(index, 0, &[])
            }
        },
    )
}

fn any_step(step: u64) -> impl Strategy<Value = StepRow> {
    let seqs = prop::collection::vec((0_u32..300, 0_u32..2000, 0_u32..4), 0..5);
    let admitted = prop::collection::vec((0_u64..20, 0_u64..9_000_000_000), 0..3);
    (0_u64..9_000_000_000, 0_u64..200_000_000, seqs, 0_u32..40, 0_u32..20, admitted).prop_map(
        move |(at, elapsed_ns, seqs, blocks, block_size, admitted)| StepRow {
            step,
            // Also before the trial.
            start_monotonic_ns: (START_NS - 1_000_000_000) + at,
            elapsed_ns,
            running: seqs.len() as u32,
            waiting: blocks / 3,
            free_blocks: blocks / 2,
            total_blocks: blocks,
            kv_tokens: u64::from(blocks) * 7,
            block_size,
            preempted: vec![1; (blocks % 3) as usize],
            admitted,
            accepted_drafts: blocks % 7,
            kv_shared_tokens: (blocks > 9).then_some(u64::from(blocks)),
            kv_held_tokens: (blocks > 5).then_some(u64::from(blocks * block_size)),
            external_fragmentation: (blocks > 3).then_some(f64::from(blocks % 5) / 4.0),
            seqs: seqs
                .into_iter()
                .map(|(new_tokens, context, padding)| StepSeq {
                    id: 1,
                    new_tokens,
                    context,
                    padding,
                    ..StepSeq::default()
                })
                .collect(),
        },
    )
}

fn any_trial(target: &'static str, repeat: u32) -> impl Strategy<Value = Trial> {
    let records = (0_usize..12).prop_flat_map(|n| (0..n as u64).map(any_record).collect::<Vec<_>>());
    let steps = (0_usize..8).prop_flat_map(|n| (0..n as u64).map(any_step).collect::<Vec<_>>());
    let client = (0_u64..20_000_000_000, 0_u64..9_000_000_000, 0_u64..90_000_000);
    (records, steps, client, any::<bool>(), 0_u64..12_000_000_000).prop_map(
        move |(records, steps, (cpu_ns, steal_ns, delay), complete, elapsed_ns)| {
            let mut t = trial(target, repeat, records);
            t.steps = steps;
            t.facts.complete = complete;
            t.facts.elapsed_ns = elapsed_ns;
            t.facts.client.cpu_ns = cpu_ns;
            t.facts.client.steal_ns = steal_ns;
            t.facts.client.loop_delay_p99_ns = delay;
            t.server = vec![ServerSample {
                at_ns: delay,
                running: Some(1.0),
                waiting: Some(f64::INFINITY),
                preemptions_total: Some(1.0),
                ..ServerSample::default()
            }];
            t
        },
    )
}

fn ascending(p: &Percentiles) -> bool {
    // None is infinite: nothing finite may follow it.
    let v: Vec<f64> =
        [p.p50_ns, p.p90_ns, p.p95_ns, p.p99_ns].iter().map(|v| v.unwrap_or(f64::INFINITY)).collect();
    v.is_sorted()
}

fn consistent(d: &Distribution) -> bool {
    let over = |a: Option<f64>, b: Option<f64>| a.unwrap_or(f64::INFINITY) >= b.unwrap_or(0.0);
    ascending(&d.adjusted)
        && (d.count == 0 || ascending(&d.raw))
        && over(d.adjusted.p50_ns, d.raw.p50_ns)
        && over(d.adjusted.p99_ns, d.raw.p99_ns)
        && (d.failures > 0 || d.adjusted == d.raw)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn any_record_can_be_analysed(
        trials in (any_trial("a", 1), any_trial("b", 1), any_trial("a", 2), any_trial("b", 2)),
        warmup in 0_u64..4,
        limit in 0_u64..3_000_000_000,
        closed in any::<bool>(),
    ) {
        let trials = [trials.0, trials.1, trials.2, trials.3];
        let mut m = manifest(&["a", "b"]);
        m.workload.warmup_requests = warmup;
        m.slo = Slo { ttft: vec![(95.0, limit)], itl: vec![(99.0, limit / 9)], ..Slo::default() };
        m.cost = Some(CostFacts { hardware: "x".into(), usd_per_hour: 1.0, source: "test".into() });
        let process = if closed { "closed" } else { "poisson" };
        m.resolved = serde_json::json!({ "workload": { "arrivals": { "process": process } } });
        let a = analyse(&m, &trials);

        // serde_json would silently write null for these, so they are looked for in the values themselves.
        let shown = format!("{a:?}");
        let mut words = shown.split(|c: char| !c.is_alphanumeric());
        prop_assert!(!words.any(|w| w == "NaN" || w == "inf"), "{shown}");
        for t in &a.trials {
            let r = &t.requests;
            prop_assert_eq!(r.recorded, r.warmup + r.measured);
            prop_assert_eq!(r.measured, r.succeeded + r.failed + r.abandoned + r.cancelled);
            let l = &t.latency;
            for d in [&l.ttft, &l.tpot, &l.itl, &l.icl, &l.e2e_last, &l.e2e_done, &l.queue, &l.send_lag] {
                prop_assert!(d.as_ref().is_none_or(consistent), "{:?}", d);
            }
            if let (Some(g), Some(rates)) = (t.goodput, t.rates) {
                prop_assert!(g.requests_per_s <= rates.requests_per_s && (0.0..=1.0).contains(&g.share));
                prop_assert!(rates.total_tokens_per_s >= rates.output_tokens_per_s);
            }
            if let Some(e) = &t.engine {
                prop_assert!((0.0..=1.0).contains(&e.padding_share) && e.waiting_mean <= e.waiting_max);
            }
        }
        prop_assert!(!terminal(&a, true, 90).is_empty());
        prop_assert!(!markdown(&a).is_empty());
        prop_assert!(html(&a, &m, &trials).contains("</html>"));
        prop_assert_eq!(analyse(&m, &trials), a);
    }
}
