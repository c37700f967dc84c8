//! One file, several runs: what a sweep resolves to, and what is wrong with one.

use llmlab_scenarios::spec::{ArrivalSpec, Cell, LengthDist, LengthSpec, RateSpec};
use llmlab_scenarios::{ScenarioError, parse, parse_cells};
use miette::{GraphicalReportHandler, GraphicalTheme};

const GOOD: &str = r#"name = "test"
[model]
source = "synthetic:llama-15m"
[workload]
traffic = "azure-2023-conversation"
scale = { output = 0.5 }
input_range = [4, 900]
requests = 30
arrivals = { process = "gamma", cv = 2.0 }
[sweep]
rate = [2, 4.5]
[[sweep.mix]]
name = "chat"
[[sweep.mix]]
name = "code"
traffic = "azure-2023-code"
scale = { input = 0.1 }
[[sweep.mix]]
name = "short"
lengths = { input = { distribution = "fixed", tokens = 8 }, output = { distribution = "fixed", tokens = 9 } }
output_range = [1, 12]
[[target]]
name = "vllm"
engine = { policy = "vllm" }
"#;

fn with(line: &str, replacement: &str) -> String {
    assert!(GOOD.contains(line), "{line}");
    GOOD.replacen(line, replacement, 1)
}

/// The good scenario without what stands from one text to another.
fn without(from: &str, to: &str) -> String {
    let at = |text: &str| GOOD.find(text).unwrap();
    [&GOOD[..at(from)], &GOOD[at(to)..]].concat()
}

fn error_of(text: &str) -> String {
    let error = parse_cells(text, "scenarios/test.toml").expect_err(text);
    let mut drawn = String::new();
    let handler = GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor()).with_width(110);
    handler.render_report(&mut drawn, &error).unwrap();
    drawn
}

fn labels(cells: &[Cell]) -> Vec<String> {
    cells.iter().map(|cell| cell.point.as_ref().unwrap().to_string()).collect()
}

#[test]
fn every_mix_meets_every_rate_and_the_rest_stays() {
    let cells = parse_cells(GOOD, "t.toml").unwrap();
    assert_eq!(
        labels(&cells),
        [
            "chat, rate 2",
            "chat, rate 4.5",
            "code, rate 2",
            "code, rate 4.5",
            "short, rate 2",
            "short, rate 4.5"
        ]
    );
    let rate = |cell: &Cell| match &cell.spec.workload.arrivals {
        ArrivalSpec::Gamma { rate: RateSpec::PerSecond { rps }, cv } => (*rps, *cv),
        other => panic!("{other:?}"),
    };
    assert_eq!(rate(&cells[0]), (2.0, 2.0));
    assert_eq!(rate(&cells[5]), (4.5, 2.0));
    assert_eq!(cells[5].point.as_ref().unwrap().arrivals, Some(("rate".into(), 4.5)));

    let traffic = |cell: &Cell| match &cell.spec.workload.lengths {
        LengthSpec::Quantiles { name, .. } => name.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        (traffic(&cells[0]), traffic(&cells[2])),
        ("azure-2023-conversation".into(), "azure-2023-code".into())
    );
    let sizes = |cell: &Cell| {
        let w = &cell.spec.workload;
        (w.scale_input, w.scale_output, w.input_range, w.output_range)
    };
    let all = (1, 131_072);
    assert_eq!(sizes(&cells[0]), (1.0, 0.5, (4, 900), all));
    // A table replaces its namesake as a whole.
    assert_eq!(sizes(&cells[2]), (0.1, 1.0, (4, 900), all));
    assert_eq!(sizes(&cells[4]), (1.0, 0.5, (4, 900), (1, 12)));
    let fixed = |tokens| LengthDist::Fixed { tokens };
    let short = LengthSpec::Distributions { input: fixed(8), output: fixed(9) };
    assert_eq!(cells[4].spec.workload.lengths, short);
    // The rest is one scenario.
    for cell in &cells {
        assert_eq!((cell.spec.name.as_str(), cell.spec.seed, cell.spec.workload.requests), ("test", 42, 30));
        assert_eq!(cell.spec.targets, cells[0].spec.targets);
    }
}

#[test]
fn either_side_may_stand_alone() {
    let rates = without("[[sweep.mix]]", "[[target]]");
    assert_eq!(labels(&parse_cells(&rates, "t.toml").unwrap()), ["rate 2", "rate 4.5"]);

    let mixes = with("rate = [2, 4.5]\n", "").replace("cv = 2.0", "cv = 2.0, load = 0.5");
    let cells = parse_cells(&mixes, "t.toml").unwrap();
    assert_eq!(labels(&cells), ["chat", "code", "short"]);

    let users = with("rate = [2, 4.5]", "users = [1, 8]").replace("process = \"gamma\", cv = 2.0", "");
    let cells = parse_cells(&users, "t.toml").unwrap();
    assert_eq!(labels(&cells)[..2], ["chat, users 1", "chat, users 8"]);
    assert!(matches!(cells[1].spec.workload.arrivals, ArrivalSpec::Closed { users: 8, .. }));

    let load = with("rate = [2, 4.5]", "load = [0.5, 0.9]");
    assert!(matches!(
        parse_cells(&load, "t.toml").unwrap()[1].spec.workload.arrivals,
        ArrivalSpec::Gamma { rate: RateSpec::Load { share: 0.9 }, .. }
    ));
}

#[test]
fn a_plain_scenario_is_a_list_of_one_and_a_sweep_is_not_one_run() {
    let plain = without("[sweep]", "[[target]]").replace("cv = 2.0", "cv = 2.0, rate = 3.0");
    let cells = parse_cells(&plain, "t.toml").unwrap();
    assert_eq!((cells.len(), cells[0].point.clone()), (1, None));
    assert_eq!(parse(&plain, "t.toml").unwrap(), cells[0].spec);
    let ScenarioError::Invalid(mistake) = parse(GOOD, "t.toml").unwrap_err() else { panic!() };
    assert_eq!(mistake.line(), 10);
}

#[test]
fn mistakes_are_told_where_they_stand() {
    let many = (1..100).map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
    for (line, replacement, wrong_line) in [
        ("rate = [2, 4.5]", "rate = []", 11),
        ("rate = [2, 4.5]", "rate = [2, 0]", 11),
        ("rate = [2, 4.5]", "rate = [2, nan]", 11),
        ("rate = [2, 4.5]", "rate = [2, 2.0]", 11),
        ("rate = [2, 4.5]", "rate = [\"2\"]", 11),
        ("rate = [2, 4.5]", "rate = 2", 11),
        ("rate = [2, 4.5]", "rate = [2]\nload = [0.5]", 12),
        ("rate = [2, 4.5]", "rates = [2]", 11),
        ("rate = [2, 4.5]", "users = [4]", 11),
        ("rate = [2, 4.5]", &format!("rate = [{many}]"), 10),
        ("cv = 2.0", "cv = 2.0, rate = 3.0", 9),
        ("name = \"code\"", "name = \"chat\"", 15),
        ("name = \"code\"", "name = \"../up\"", 15),
        ("name = \"code\"\n", "", 14),
        ("traffic = \"azure-2023-code\"", "traffic = \"azure\"", 16),
        ("scale = { input = 0.1 }", "requests = 3", 17),
        ("output_range = [1, 12]", "output_range = [9, 2]", 21),
        ("tokens = 8", "token = 8", 20),
        (
            "[[target]]",
            "[[claim]]\nname = \"c\"\nsays = \"s\"\nsource = \"t\"\nmetric = \"output_tokens_per_s\"\nratio = [1, 2]\ntarget = \"a\"\nagainst = \"b\"\n[[target]]",
            22,
        ),
    ] {
        let error = parse_cells(&with(line, replacement), "t.toml").expect_err(replacement);
        let ScenarioError::Invalid(mistake) = error else { panic!("{replacement}") };
        assert_eq!(mistake.line(), wrong_line, "{replacement}: {mistake}");
    }
}

#[test]
fn mistakes_are_drawn() {
    insta::assert_snapshot!("rate_fixed_and_swept", error_of(&with("cv = 2.0", "cv = 2.0, rate = 3.0")));
    insta::assert_snapshot!("two_mixes_of_one_name", error_of(&with("\"code\"", "\"chat\"")));
    insta::assert_snapshot!("nothing_to_sweep", error_of(&without("rate =", "[[target]]")));
}
