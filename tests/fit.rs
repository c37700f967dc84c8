//! `llmlab fit`: logs of known traffic come back as scenarios of that traffic.

mod common;

use std::path::Path;

use common::{llmlab, stderr, stdout};
use llmlab_loadgen::{Arrivals, Lengths, Prefixes, PromptStyle, WorkloadConfig, shapes};
use llmlab_scenarios::spec::{ArrivalSpec, LengthSpec, RateSpec};

const INPUT: [f64; 11] = [2.0, 29.0, 181.0, 207.0, 396.0, 1020.0, 1189.0, 2734.0, 4083.0, 4142.0, 14050.0];
const OUTPUT: [f64; 11] = [7.0, 16.0, 41.0, 54.0, 85.0, 129.0, 395.0, 424.0, 451.0, 601.0, 1000.0];

/// A log of known traffic: Azure's lengths with rank correlation -0.4, gamma arrivals with cv 2 at 4 requests/s.
fn log(dir: &Path, header: &str) {
    let config = WorkloadConfig {
        seed: 5,
        requests: 6000,
        lengths: Lengths::Quantiles { input: INPUT, output: OUTPUT, rank_correlation: -0.4 },
        scale_input: 1.0,
        scale_output: 1.0,
        input_range: (1, 100_000),
        output_range: (1, 100_000),
        arrivals: Arrivals::Gamma { rate_rps: 4.0, cv: 2.0 },
        prompts: PromptStyle::TokenIds { first: 0, end: 1 },
        prefixes: Prefixes::NONE,
        adapters: None,
        sessions: None,
        abandonment: None,
    };
    let mut lines: Vec<String> = shapes(&config)
        .unwrap()
        .iter()
        .map(|r| format!("{},{},{}\n", r.at.as_secs_f64() + 1e9, r.prompt_tokens, r.max_tokens))
        .collect();
    // As a server logs them: not quite in order, failures among them.
    lines.swap(100, 101);
    lines.push("1000000007.5,12,0\n".into());
    std::fs::write(dir.join("log.csv"), format!("{header}\n{}", lines.concat())).unwrap();
}

#[test]
fn a_log_comes_back_as_a_scenario_of_the_same_traffic() {
    let dir = tempfile::tempdir().unwrap();
    log(dir.path(), "Timestamp,Request tokens,Response tokens");
    let output = llmlab(dir.path()).args(["fit", "log.csv", "-o", "mine.toml"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let said = stdout(&output);
    for part in ["6000 requests", "1 without tokens left out", "gamma with cv", "KS distance"] {
        assert!(said.contains(part), "{part} is missing in:\n{said}");
    }
    assert!(!said.contains("left out: "), "a renewal process at a steady rate keeps everything:\n{said}");
    for name in ["input tokens", "output tokens", "gaps, ms"] {
        let line = said.lines().find(|line| line.starts_with(name)).unwrap();
        let distance: f64 = line.split_whitespace().last().unwrap().parse().unwrap();
        // 1.63 sqrt(2/n): what two samples of one distribution exceed in one case of a hundred.
        assert!(distance < 0.03, "{line}");
    }

    let (_, spec) = llmlab_scenarios::load(&dir.path().join("mine.toml")).unwrap();
    assert_eq!(spec.workload.requests, 1000);
    let ArrivalSpec::Gamma { rate: RateSpec::PerSecond { rps }, cv } = spec.workload.arrivals else {
        panic!()
    };
    assert!((rps - 4.0).abs() < 0.4 && (cv - 2.0).abs() < 0.15, "{rps} {cv}");
    let LengthSpec::Quantiles { input, output, rank_correlation, .. } = spec.workload.lengths else {
        panic!()
    };
    assert!((rank_correlation + 0.4).abs() < 0.05, "{rank_correlation}");
    // The middle of the tables; their ends are single requests.
    for (found, known) in [(input.values, INPUT), (output.values, OUTPUT)] {
        for i in 2..9 {
            assert!((found[i] / known[i] - 1.0).abs() < 0.15, "{found:?} {known:?}");
        }
    }

    let explained = llmlab(dir.path()).args(["run", "mine.toml", "--explain"]).output().unwrap();
    assert_eq!(explained.status.code(), Some(0), "{}", stderr(&explained));
    let again = llmlab(dir.path()).args(["fit", "log.csv", "-o", "mine.toml"]).output().unwrap();
    assert_eq!(again.status.code(), Some(2), "a file is never overwritten unasked");
}

#[test]
fn columns_of_any_name_can_be_mapped_and_mistakes_are_said() {
    let dir = tempfile::tempdir().unwrap();
    log(dir.path(), "at,how much in,how much out");
    let fit = |columns: &str| {
        llmlab(dir.path()).args(["fit", "log.csv", "--force", "--columns", columns]).output().unwrap()
    };
    let output = fit("input=how much in,output=how_much_out,arrival=at");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains("gamma"), "{}", stdout(&output));
    // Without the arrivals there is no rate to know.
    let output = fit("input=how much in,output=how much out");
    assert!(stdout(&output).contains("the log has no times"), "{}", stdout(&output));
    for (columns, part) in [
        ("input=absent,output=how much out", "no prompt length column"),
        ("input=how much in,output=how much out,arrival=absent", "no arrival time column"),
        ("prompt=how much in", "none of input, output and arrival"),
        ("input", "WHAT=COLUMN"),
    ] {
        let output = fit(columns);
        assert_eq!(output.status.code(), Some(2), "{columns}");
        let flat = stderr(&output).split(['│', '\n']).map(str::trim).collect::<Vec<_>>().join(" ");
        assert!(flat.contains(part), "{columns}: {flat}");
    }
}
