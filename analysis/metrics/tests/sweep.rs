//! The table of a sweep, traced by hand, in each of its forms.

mod common;

use common::{manifest, record, refused, trial};
use llmlab_metrics::metric::Metric;
use llmlab_metrics::sweep::{CellResult, SweepTable};
use llmlab_metrics::{analyse, sweep_csv, sweep_html, sweep_markdown, sweep_table, sweep_terminal};

/// A cell in which each target answered one request, its first token after so many milliseconds, its second 20 ms later.
fn cell(mix: &str, rate: f64, ttft_ms: &[(&str, u64)]) -> CellResult {
    let names: Vec<&str> = ttft_ms.iter().map(|(name, _)| *name).collect();
    let trials: Vec<_> = ttft_ms
        .iter()
        .map(|(name, ms)| trial(name, 1, vec![record(0, 0, &[*ms, ms + 20]), record(1, 0, &[*ms, ms + 20])]))
        .collect();
    CellResult {
        mix: Some(mix.into()),
        arrivals: Some(("rate".into(), rate)),
        label: format!("{mix}, rate {rate}"),
        dir: Some(format!("20250102-030405-{mix}")),
        analysis: Some(analyse(&manifest(&names), &trials)),
        error: None,
    }
}

fn table() -> SweepTable {
    let failed = CellResult {
        analysis: None,
        dir: None,
        error: Some("the engine failed".into()),
        ..cell("chat", 4.0, &[("a", 1)])
    };
    sweep_table("lab", &[cell("chat", 2.0, &[("a", 100), ("b", 50), ("c", 80)]), failed])
}

fn best_of(table: &SweepTable, metric: Metric) -> Vec<&str> {
    let column = table.columns.iter().position(|m| *m == metric).unwrap();
    let rows = table.cells[0].rows.iter().filter(|row| row.figures[column].best);
    rows.map(|row| row.target.as_str()).collect()
}

#[test]
fn the_best_of_a_column_is_marked_once_and_equals_are_not() {
    let table = table();
    assert_eq!(best_of(&table, Metric::TtftP50), ["b"]);
    // Everybody's second token took 20 ms.
    assert_eq!(best_of(&table, Metric::TpotP50), [""; 0]);
    // More requests in less time: two answers of two tokens each in 100 + 20 + 1 ms and so on.
    assert_eq!(best_of(&table, Metric::OutputTokensPerS), ["b"]);
    // Nobody has limits, a step log or failures.
    for absent in [Metric::Goodput, Metric::PaddingShare, Metric::FailedShare] {
        assert!(!table.columns.contains(&absent), "{absent:?}");
    }
    // Nor is one better than those that have no value at all.
    let mut lonely = cell("chat", 2.0, &[("a", 100), ("b", 50)]);
    let silent = [trial("a", 1, vec![record(0, 0, &[100, 120])]), trial("b", 1, vec![])];
    lonely.analysis = Some(analyse(&manifest(&["a", "b"]), &silent));
    let lonely = sweep_table("lab", &[lonely]);
    assert!(lonely.cells[0].rows.iter().flat_map(|row| &row.figures).all(|figure| !figure.best));

    let infinite = cell("chat", 2.0, &[("a", 100), ("b", 50)]);
    let failing = [trial("a", 1, vec![record(0, 0, &[100, 120]), refused(1, 0)])];
    let failing = CellResult { analysis: Some(analyse(&manifest(&["a"]), &failing)), ..infinite };
    let with_failures = sweep_table("lab", &[failing]);
    let text = sweep_terminal(&with_failures, false);
    assert!(with_failures.columns.contains(&Metric::FailedShare) && text.contains('∞'), "{text}");
    assert!(!text.contains("0*"), "one target has nobody to be better than:\n{text}");
}

#[test]
fn the_terminal_table_reads_at_120_columns() {
    let text = sweep_terminal(&table(), false);
    let lines: Vec<&str> = text.lines().collect();
    let at = lines.iter().position(|line| *line == "chat, rate 2").unwrap();
    assert!(
        lines[at + 2].split_whitespace().eq(["tok/s", "p50", "ms", "p95", "ms", "p50", "ms", "p95", "ms"])
    );
    let words: Vec<&str> = lines[at + 4].split_whitespace().collect();
    assert_eq!(words, ["b", "56.3*", "50.0*", "50.0*", "20.0", "20.0"]);
    assert!(text.contains("chat, rate 4  the engine failed"), "{text}");
    assert!(lines.iter().all(|line| line.chars().count() <= 130), "{text}");
    assert!(!text.contains('\u{1b}') && sweep_terminal(&table(), true).contains("\u{1b}[32m"));
}

#[test]
fn files_hold_the_same_numbers() {
    let table = table();
    let csv = sweep_csv(&table).unwrap();
    let lines: Vec<&str> = csv.lines().collect();
    assert!(lines[0].starts_with("mix,arrivals,value,target,output_tok_per_s,ttft_p50_ms,"), "{csv}");
    assert!(lines[2].starts_with("chat,rate,2,b,") && lines[2].ends_with(",50,50,20,20"), "{csv}");
    assert_eq!(lines.len(), 4);

    let md = sweep_markdown(&table);
    assert!(
        md.contains("## chat, rate 2") && md.contains("| b | **56.3** | **50.0** | **50.0** | 20.0 | 20.0 |"),
        "{md}"
    );
    let page = sweep_html(&table);
    assert!(page.contains("href=\"20250102-030405-chat&#x2f;report.html\""), "{page}");
    assert!(page.contains("<td class=\"best\">50.0</td>") && page.contains("the engine failed"));
    for loading in ["http://", "https://", "src=", "@import", "url(", "<script"] {
        assert!(!page.contains(loading), "{loading} would load something");
    }
}

#[test]
fn names_from_outside_are_only_text() {
    let hostile = "\u{1b}[31m\r\n|<script>x</script>";
    let mut table = table();
    table.name = hostile.into();
    table.cells[0].label = hostile.into();
    table.cells[0].rows[0].target = hostile.into();
    table.cells[1].notes = vec![hostile.into()];
    for text in [sweep_terminal(&table, false), sweep_markdown(&table), sweep_html(&table)] {
        assert!(!text.contains('\u{1b}') && !text.contains('\r'), "{text}");
    }
    assert!(!sweep_html(&table).contains("<script>") && !sweep_markdown(&table).contains("<script>"));
}
