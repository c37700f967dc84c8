//! Rows of other people's tables: each is predicted or refused with a reason, whatever stands in it.

use llmlab_planner::validate::held_out::outcomes;
use llmlab_planner::validate::report::sorted;
use llmlab_planner::validate::{Case, table};
use llmlab_sim::cost_model::Calibration;

const HEADING: &str = "source,model,gpu,n_gpus,tp,pp,dtype_weights,dtype_kv,isl,osl,batch_or_concurrency,framework,version,metric,value,unit,notes";

/// What a row may say wrong, by column, and a word of the reason.
const WRONG: [(&str, &str, &str); 14] = [
    ("model", "no-such-model", "catalogue"),
    ("model", "\"a, quoted \"\"name\"\"\"", "a, quoted \"name\""),
    ("gpu", "RTX 9999", "catalogue"),
    ("dtype_weights", "weird", "dtype_weights"),
    ("value", "0", "positive"),
    ("value", "1e400", "positive"),
    ("value", "-3", "positive"),
    ("value", "many", "value"),
    ("isl", "", "isl"),
    ("isl", "99999999999999999999", "isl"),
    ("osl", "0.5", "osl"),
    ("batch_or_concurrency", "4097", "batch_or_concurrency"),
    ("tp", "4000000000", "tp"),
    ("metric", "é1", "metric"),
];

/// Sizes that are read and only just fit, or do not.
const LARGE: [(&str, &str); 6] = [
    ("osl", "1048576"),
    ("isl", "1048576"),
    ("batch_or_concurrency", "4096"),
    ("tp", "1024"),
    ("pp", "1024"),
    ("value", "1e308"),
];

fn row(column: &str, value: &str) -> String {
    let usual = [
        ("source", "mine"),
        ("model", "llama-3.1-8b"),
        ("gpu", "h100-sxm"),
        ("n_gpus", "1"),
        ("tp", "1"),
        ("pp", "1"),
        ("dtype_weights", "bf16"),
        ("dtype_kv", ""),
        ("isl", "1024"),
        ("osl", "16"),
        ("batch_or_concurrency", "8"),
        ("framework", "vllm"),
        ("version", "0.11"),
        ("metric", "tpot"),
        ("value", "8"),
        ("unit", "ms"),
        ("notes", "\"one, two\""),
    ];
    usual.map(|(name, usual)| if name == column { value } else { usual }).join(",")
}

#[test]
fn a_row_that_is_wrong_has_a_reason() {
    for (column, value, word) in WRONG {
        let rows = table::read(&format!("{HEADING}\n{}\n", row(column, value)), "mine.csv").unwrap();
        let (cases, unusable) = sorted(&rows);
        assert!(cases.is_empty(), "{column} {value}");
        assert!(unusable[0].reason.contains(word), "{column} {value}: {}", unusable[0].reason);
    }
}

#[test]
fn a_row_of_large_sizes_is_answered_or_has_no_room() {
    let table: String = LARGE.map(|(column, value)| row(column, value) + "\n").concat();
    let rows = table::read(&format!("{HEADING}\n{}\n{table}", row("", "")), "mine.csv").unwrap();
    let (cases, unusable) = sorted(&rows);
    assert!(unusable.is_empty(), "{unusable:?}");
    let cases: Vec<&Case> = cases.iter().collect();
    let found = outcomes(&cases, Calibration::shipped());
    assert!(found[0].predicted.is_some());
    for outcome in found {
        assert!(outcome.predicted.is_none_or(|value| value.is_finite() && value > 0.0), "{outcome:?}");
    }
}
