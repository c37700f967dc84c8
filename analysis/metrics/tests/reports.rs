//! Reports on made-up runs: they say what must be said, load nothing, and cannot be steered by names from outside.

mod common;

use common::{example, manifest, record, refused, trial};
use llmlab_metrics::{analyse, html, markdown, svgs, terminal};

/// Text of the terminal page without colour.
fn page(repeats: u32, width: usize) -> String {
    let (m, trials) = example(repeats);
    terminal(&analyse(&m, &trials), false, width)
}

#[test]
fn the_terminal_page_has_table_verdict_trust_and_roofline() {
    let text = page(2, 110);
    for part in [
        "two-policies  TRUSTED",
        "TTFT p95",
        "output tok/s",
        "Against vllm",
        "tgi: ",
        "Trust: ",
        "Roofline: vllm ",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    let header = text.lines().find(|l| l.trim_start().starts_with("vllm")).unwrap();
    assert!(header.trim_end().ends_with("tgi"), "baseline first: {header}");
    assert!(!text.contains('\u{1b}'), "no colour was asked for");
    assert!(terminal(&analyse(&example(1).0, &example(1).1), true, 110).contains("\u{1b}[1;32mTRUSTED"));
}

#[test]
fn lines_fit_the_terminal() {
    for width in [60, 80, 110] {
        for line in page(2, width).lines() {
            assert!(line.chars().count() <= width, "{} > {width}: {line}", line.chars().count());
        }
    }
}

#[test]
fn many_targets_are_split_over_tables_with_the_baseline_in_each() {
    let names = ["base", "b", "c", "d", "e", "f"];
    let trials: Vec<_> = names
        .iter()
        .flat_map(|n| (1..4).map(|r| trial(n, r, vec![record(0, 0, &[100 + u64::from(r), 150])])))
        .collect();
    let text = terminal(&analyse(&manifest(&names), &trials), false, 80);
    let headers: Vec<&str> = text.lines().filter(|l| l.starts_with("    ") && l.contains("base")).collect();
    assert!(headers.len() >= 2, "{text}");
    assert!(names[1..].iter().all(|n| headers.iter().any(|h| h.split_whitespace().any(|w| w == *n))));
}

#[test]
fn the_html_is_complete_and_loads_nothing() {
    let (m, trials) = example(2);
    let text = html(&analyse(&m, &trials), &m, &trials);
    for part in [
        "TRUSTED",
        "Verdict",
        "Time to first token",
        "Sequences in the batch",
        "Roofline",
        "Service-level objectives",
        "Method",
        "--note &#x27;a b&#x27;",
        "prefers-color-scheme: dark",
        "The scenario as it was read",
    ] {
        assert!(text.contains(part), "{part} is missing");
    }
    for loading in
        ["http://", "https://", "src=", "href=", "@import", "url(", "<link", "<iframe", "fetch(", "import("]
    {
        assert!(!text.contains(loading), "{loading} would load something");
    }
    assert!(text.contains("default-src 'none'"), "the page forbids itself to load anything");
    // Four distributions, four timelines, one waterfall and one picture of the batch per target; five panels for each of
    // four trials.
    assert_eq!(text.matches("<svg class=\"chart\"").count(), 12 + 5 * 4);
    assert!(!text.contains("NaN") && !text.contains("Infinity,"));
}

#[test]
fn the_same_target_has_the_same_colour_everywhere() {
    let (m, trials) = example(1);
    let analysis = analyse(&m, &trials);
    for (name, svg) in svgs(&analysis, &m, &trials) {
        let (own, other) = if name == "timeline-2.svg" { ("t1 ", "t0 ") } else { ("t0 ", "t0 ") };
        assert!(svg.contains(&format!("class=\"{own}")), "{name} lacks {own}");
        assert_eq!(svg.contains(&format!("class=\"{other}")), name != "timeline-2.svg", "{name}");
        assert!(
            svg.starts_with("<svg xmlns=") && svg.trim_end().ends_with("</svg>"),
            "{name} is not a file of its own"
        );
    }
}

/// Short enough that no report cuts the dangerous part off.
const HOSTILE: &str = "\u{1b}[31m\r\n\u{202e}|`\"'&<script>alert(1)</script>";

#[test]
fn names_from_outside_are_only_text() {
    let mut m = manifest(&["base", HOSTILE]);
    m.name = HOSTILE.into();
    m.host.cpu_model = HOSTILE.into();
    m.scenario_text = HOSTILE.into();
    m.command_line = vec!["llmlab".into(), HOSTILE.into()];
    m.targets[1].description = HOSTILE.into();
    m.workload.description = HOSTILE.into();
    let mut failed = refused(1, 10);
    failed.error = Some(HOSTILE.into());
    let mut trials = vec![
        trial("base", 1, vec![record(0, 0, &[100, 130])]),
        trial(HOSTILE, 1, vec![record(0, 0, &[100, 130]), failed]),
    ];
    trials[1].facts.dir = HOSTILE.into();
    let a = analyse(&m, &trials);

    let page = html(&a, &m, &trials);
    assert!(!page.contains("<script>alert") && !page.contains('\u{1b}') && !page.contains('\u{202e}'));
    assert_eq!(page.matches("<script>").count(), 1, "only our own script");
    assert!(page.contains("&lt;script&gt;alert(1)&lt;&#x2f;script&gt;"));

    let text = terminal(&a, false, 100);
    assert!(!text.contains('\u{1b}') && !text.contains('\r') && !text.contains('\u{202e}'));

    let md = markdown(&a);
    let outside_code = md.split("```").step_by(2).collect::<String>();
    assert!(!outside_code.contains("<script>") && !md.contains('\u{1b}') && !md.contains('\r'));
    let rows: Vec<usize> = md
        .lines()
        .skip_while(|l| !l.starts_with("| |"))
        .take_while(|l| l.starts_with('|'))
        .map(|l| l.replace("\\|", "").matches('|').count())
        .collect();
    assert!(rows.len() > 3 && rows.iter().all(|n| *n == 4), "the table keeps its columns: {rows:?}");
}

#[test]
fn failures_are_told_in_every_report() {
    let m = manifest(&["a"]);
    let trials = [trial("a", 1, vec![record(0, 0, &[100, 130]), refused(1, 10)])];
    let a = analyse(&m, &trials);
    let (text, md, page) = (terminal(&a, false, 100), markdown(&a), html(&a, &m, &trials));
    for report in [&text, &md, &page] {
        assert!(report.contains('∞') && report.contains("queue is full") && report.contains("503"));
    }
}

#[test]
fn nothing_measured_still_makes_reports() {
    let m = manifest(&["a", "b"]);
    for trials in [vec![], vec![trial("a", 1, vec![]), trial("b", 1, vec![refused(0, 0)])]] {
        let a = analyse(&m, &trials);
        assert!(terminal(&a, false, 80).contains("UNTRUSTED"));
        assert!(markdown(&a).contains("UNTRUSTED"));
        assert!(html(&a, &m, &trials).contains("UNTRUSTED"));
    }
    let none = manifest(&[]);
    let a = analyse(&none, &[]);
    assert!(terminal(&a, false, 80).contains("No measured trial"));
    assert!(html(&a, &none, &[]).contains("Nothing was measured"));
}
