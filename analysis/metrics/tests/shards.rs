//! A run taken apart into shards and put together again says what it said.

mod common;

use common::{CHUNKED, manifest, simulate};
use llmlab_metrics::{Analysis, Trial, analyse};
use llmlab_results::TrialFiles;
use llmlab_results::manifest::{ClockOffset, Manifest, ShardFacts, Sharding, Slo, TargetKind, WorkloadFacts};
use llmlab_results::merge::{Part, merge};

const MS: u64 = 1_000_000;

/// A live server under a schedule of 300 requests, a few of them refused, with warm-up and a limit.
fn whole() -> (Manifest, Trial) {
    let mut trial = simulate("vllm", 1, 9, 300, 9.5, &common::Toy { refuse_every: 40, ..CHUNKED });
    trial.steps.clear();
    let mut m = manifest(&["vllm"]);
    m.targets[0].kind = TargetKind::Endpoint;
    m.workload.requests = 300;
    m.workload.warmup_requests = 20;
    m.slo = Slo { ttft: vec![(95.0, 300 * MS)], tpot: vec![(95.0, 30 * MS)], ..Slo::default() };
    m.trials = vec![trial.facts.clone()];
    (m, trial)
}

fn parts(m: &Manifest, trial: &Trial, total: u32) -> Vec<Part> {
    (0..total)
        .map(|index| {
            let mine = trial.records.iter().filter(|r| r.index % u64::from(total) == u64::from(index));
            let records: Vec<_> = mine.cloned().collect();
            let manifest = Manifest {
                workload: WorkloadFacts { requests: records.len() as u64, ..m.workload.clone() },
                sharding: Some(Sharding::Shard(ShardFacts {
                    index,
                    total,
                    start_at: m.started_at.clone(),
                    whole: m.workload.clone(),
                    schedule_digest: "d".into(),
                    clock: None,
                })),
                ..m.clone()
            };
            let files = TrialFiles {
                facts: trial.facts.clone(),
                records,
                steps: Vec::new(),
                server: Vec::new(),
                machine: Vec::new(),
                warnings: Vec::new(),
            };
            let own = analyse(&manifest, &[as_trial(files.clone())]);
            Part {
                run: format!("run-{index}"),
                manifest,
                trials: vec![files],
                trusted: own.trusted,
                causes: own.trials[0].trust.causes.iter().map(ToString::to_string).collect(),
            }
        })
        .collect()
}

fn as_trial(files: TrialFiles) -> Trial {
    Trial {
        facts: files.facts,
        records: files.records,
        steps: files.steps,
        server: files.server,
        machine: files.machine,
    }
}

fn merged(parts: Vec<Part>) -> Analysis {
    let (manifest, files) = merge(parts).unwrap();
    analyse(&manifest, &[as_trial(files)])
}

#[test]
fn taken_apart_and_merged_the_analysis_is_the_same() {
    let (m, trial) = whole();
    let before = analyse(&m, std::slice::from_ref(&trial));
    assert!(before.trusted && before.trials[0].requests.failed > 0, "{:?}", before.trials[0].trust);
    for total in [1, 2, 3, 7] {
        let after = merged(parts(&m, &trial, total));
        assert_eq!(
            serde_json::to_string(&after).unwrap(),
            serde_json::to_string(&before).unwrap(),
            "{total} shards"
        );
    }
}

#[test]
fn the_verdict_is_that_of_the_worst_shard() {
    let (m, trial) = whole();
    let mut parts = parts(&m, &trial, 3);
    parts[1].trusted = false;
    parts[1].causes = vec!["other tenants took 9 % of the machine".into()];
    parts[1].manifest.host.hostname = "bench-2".into();
    let after = merged(parts);
    assert!(!after.trusted);
    let words: Vec<String> = after.trials[0].trust.causes.iter().map(ToString::to_string).collect();
    assert_eq!(words, ["shard 1 on bench-2: other tenants took 9 % of the machine"]);
    assert!(after.setting.host.contains("first of 2: bench-1, bench-2"), "{}", after.setting.host);
}

#[test]
fn clocks_that_cannot_agree_are_told_apart_from_those_that_can() {
    let (m, trial) = whole();
    let with = |clocks: [Option<(i64, i64)>; 3]| {
        let mut parts = parts(&m, &trial, 3);
        for (part, clock) in parts.iter_mut().zip(clocks) {
            let Some(Sharding::Shard(facts)) = &mut part.manifest.sharding else { unreachable!() };
            facts.clock = clock.map(|(least_ms, most_ms)| ClockOffset { least_ms, most_ms });
        }
        merged(parts)
    };
    assert!(with([Some((-900, 300)), None, Some((250, 900))]).trusted);
    let apart = with([Some((-900, 300)), Some((-100, 800)), Some((450, 900))]);
    let words = apart.trials[0].trust.causes[0].to_string();
    assert!(words.starts_with("the clocks of shards 2 and 0 were 0.1 s or more apart"), "{words}");
    assert!(!apart.trusted);
}
