//! Which runs make one, and why others do not.

use llmlab_results::TrialFiles;
use llmlab_results::calibration::{CalibrationFacts, ClientCalibration, Errors};
use llmlab_results::manifest::{
    ClientFacts, HostFacts, Manifest, RunStatus, ShardFacts, Sharding, TrialFacts, TrialKind, WorkloadFacts,
};
use llmlab_results::merge::{Part, merge};
use llmlab_results::prompt_fit::{PromptFit, PromptFitMethod};

use crate::sample;

/// Shard `index` of a schedule of 12 requests.
fn part(index: u32, total: u32) -> Part {
    let whole = WorkloadFacts { requests: 12, prompt_tokens_total: 96, ..WorkloadFacts::default() };
    let facts = TrialFacts { elapsed_ns: 1_000, complete: true, ..sample::facts("vllm-r1", 5) };
    let mine = (0..12).filter(|i| i % u64::from(total) == u64::from(index));
    let manifest = Manifest {
        status: RunStatus::Complete,
        finished_at: Some(format!("2026-11-21T10:16:0{index}Z")),
        sharding: Some(Sharding::Shard(ShardFacts {
            index,
            total,
            start_at: "2026-11-21T10:15:10Z".into(),
            whole,
            schedule_digest: "d1".into(),
            clock: None,
        })),
        ..sample::manifest(vec![facts.clone()])
    };
    let trial = TrialFiles {
        facts,
        records: mine.map(sample::record).collect(),
        steps: Vec::new(),
        server: vec![sample::sample(100 - u64::from(index))],
        machine: Vec::new(),
        warnings: Vec::new(),
    };
    Part { run: format!("run-{index}"), manifest, trials: vec![trial], trusted: true, causes: Vec::new() }
}

fn shard(part: &mut Part) -> &mut ShardFacts {
    match &mut part.manifest.sharding {
        Some(Sharding::Shard(facts)) => facts,
        other => panic!("{other:?}"),
    }
}

#[test]
fn shards_in_any_order_make_the_whole() {
    let (manifest, trial) = merge(vec![part(2, 3), part(0, 3), part(1, 3)]).unwrap();
    let mut indexes: Vec<u64> = trial.records.iter().map(|record| record.index).collect();
    indexes.sort_unstable();
    assert_eq!(indexes, (0..12).collect::<Vec<_>>());
    assert_eq!(manifest.workload.requests, 12);
    assert_eq!(manifest.status, RunStatus::Complete);
    assert_eq!(manifest.finished_at.as_deref(), Some("2026-11-21T10:16:02Z"));
    assert_eq!(manifest.trials, std::slice::from_ref(&trial.facts));
    assert!(trial.server.is_sorted_by_key(|sample| sample.at_ns) && trial.server.len() == 3);
    let Some(Sharding::Merged(parts)) = &manifest.sharding else { panic!("{:?}", manifest.sharding) };
    let kept: Vec<(&str, u64)> = parts.iter().map(|part| (part.run.as_str(), part.requests)).collect();
    assert_eq!(kept, [("run-0", 4), ("run-1", 4), ("run-2", 4)]);
    // A merged run is a run like others: written and read back it is the same.
    let text = serde_json::to_string(&manifest).unwrap();
    assert_eq!(serde_json::from_str::<Manifest>(&text).unwrap(), manifest);
}

#[test]
fn the_worst_machine_stands_for_the_client() {
    let with = |index: u32, cores: u32, elapsed_ns: u64, client: ClientFacts| {
        let mut part = part(index, 2);
        part.manifest.host = HostFacts { cores, ..HostFacts::default() };
        part.trials[0].facts = TrialFacts { elapsed_ns, client, ..part.trials[0].facts.clone() };
        part
    };
    let client = |cpu_ns, steal_ns, delay| ClientFacts {
        cpu_ns,
        steal_ns,
        loop_delay_p99_ns: delay,
        loop_delay_max_ns: 2 * delay,
        peak_rss_bytes: delay,
    };
    // 50 % of a core and 1 % stolen of 2 cores; 20 % of a core and 5 % stolen of 8 cores.
    let fast = with(0, 2, 1_000_000, client(500_000, 20_000, 7));
    let slow = with(1, 8, 2_000_000, client(400_000, 800_000, 5));
    let mut interrupted = slow.clone();
    let (_, trial) = merge(vec![fast.clone(), slow]).unwrap();
    assert_eq!(trial.facts.elapsed_ns, 2_000_000);
    // Of the 2 cores that the merged run names as its host's.
    assert_eq!(trial.facts.client, client(1_000_000, 200_000, 7));
    assert!(trial.facts.complete);

    interrupted.manifest.status = RunStatus::Interrupted;
    interrupted.trials[0].facts.complete = false;
    let (manifest, trial) = merge(vec![fast, interrupted]).unwrap();
    assert_eq!((manifest.status, trial.facts.complete), (RunStatus::Interrupted, false));
}

#[test]
fn runs_that_do_not_belong_together_are_refused_by_name() {
    let refused = |change: &dyn Fn(&mut Vec<Part>)| {
        let mut parts = vec![part(0, 3), part(1, 3), part(2, 3)];
        change(&mut parts);
        merge(parts).unwrap_err().to_string()
    };
    for (words, error) in [
        ("no runs", refused(&|parts| parts.clear())),
        ("run-1 is not the run of a shard", refused(&|parts| parts[1].manifest.sharding = None)),
        ("run-2 does not belong to run-0: another scenario", refused(&|p| p[2].manifest.name = "x".into())),
        ("another seed (43; run-0 has 42)", refused(&|p| p[2].manifest.seed = 43)),
        ("another number of shards (4; run-0 has 3)", refused(&|p| shard(&mut p[1]).total = 4)),
        ("another start", refused(&|p| shard(&mut p[1]).start_at = "2026-11-21T10:15:11Z".into())),
        ("another schedule (d2", refused(&|p| shard(&mut p[1]).schedule_digest = "d2".into())),
        ("another version of llmlab", refused(&|p| p[1].manifest.llmlab_version = "0.0.9".into())),
        (
            "another resolved scenario",
            refused(&|p| p[1].manifest.resolved = serde_json::json!({ "name": "é".repeat(200) })),
        ),
        ("another target", refused(&|p| p[1].trials[0].facts.target = "tgi".into())),
        ("run-1 and run-0 are both shard 0/3", refused(&|parts| shard(&mut parts[1]).index = 0)),
        ("shards 1 of 3 are missing", refused(&|parts| drop(parts.remove(1)))),
        ("run-0 is shard 3 of 3", refused(&|parts| shard(&mut parts[0]).index = 3)),
        ("run-1 has 0 measured trials", refused(&|p| p[1].trials[0].facts.kind = TrialKind::Probe)),
        ("run-1 has 2 measured trials", {
            refused(&|parts| {
                let again = parts[1].trials[0].clone();
                parts[1].trials.push(again);
            })
        }),
        ("request 1 is in run-1 and in run-2", refused(&|p| p[2].trials[0].records.push(sample::record(1)))),
    ] {
        assert!(error.contains(words), "{words}: {error}");
    }
}

#[test]
fn a_total_from_a_file_allocates_nothing() {
    let mut one = part(0, 3);
    shard(&mut one).total = u32::MAX;
    let error = merge(vec![one]).unwrap_err().to_string();
    assert!(error.contains("1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 4294967284 more of 4294967295"), "{error}");
}

#[test]
fn a_merged_run_is_calibrated_as_its_worst_client_is() {
    let measured = |p99_ns: u64| {
        let errors = Errors { samples: 9, p50_ns: 1, p99_ns, max_ns: p99_ns };
        Some(ClientCalibration::Measured(CalibrationFacts {
            trial: "vllm-r1".into(),
            protocol: "openai-completions".into(),
            tls: false,
            keep_answers: false,
            streams: 4,
            requests: 9,
            rate_rps: 3.0,
            events_per_s: 30.0,
            ttft_ns: 50,
            itl_ns: 10,
            elapsed_ns: 2_000,
            left_out: 0,
            send_lag: errors,
            ttft: errors,
            itl: errors,
            served_late: errors,
        }))
    };
    let merged = |of: [Option<ClientCalibration>; 3]| {
        let parts = (0..3).zip(of).map(|(index, calibration)| {
            let mut part = part(index, 3);
            part.manifest.client_calibration = calibration;
            part
        });
        merge(parts.collect()).unwrap().0.client_calibration
    };
    assert_eq!(merged([measured(5), measured(80), measured(7)]), measured(80));
    let skipped = Some(ClientCalibration::Skipped { why: "--no-client-calibration".into() });
    assert_eq!(merged([measured(5), skipped.clone(), measured(7)]), measured(7));
    assert_eq!(merged([measured(80), None, measured(7)]), measured(80));
    assert_eq!(merged([None, skipped.clone(), None]), skipped);
}

#[test]
fn prompts_are_as_uncertain_as_those_of_the_least_certain_part() {
    let merged = |of: [Option<(PromptFitMethod, u64)>; 3]| {
        let parts = (0..3).zip(of).map(|(index, fit)| {
            let mut part = part(index, 3);
            part.trials[0].facts.prompt_fit = fit.map(|(method, missed)| PromptFit {
                method,
                overhead_tokens: f64::from(index),
                tokens_per_word: 1.3,
                missed,
            });
            part
        });
        merge(parts.collect()).unwrap().1.facts.prompt_fit
    };
    use PromptFitMethod::{Tokenizer, Usage};
    let fit = merged([Some((Tokenizer, 2)), Some((Usage, 0)), Some((Tokenizer, 3))]).unwrap();
    assert_eq!((fit.method, fit.overhead_tokens, fit.missed), (Usage, 1.0, 5));
    assert_eq!(merged([None, None, None]), None);
}
