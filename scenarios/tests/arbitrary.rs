//! Whatever the text, the answer is a spec or an error, never a panic, and the error can be drawn.

use llmlab_scenarios::{engine_from_knobs, parse_cells, template};
use miette::{GraphicalReportHandler, GraphicalTheme};
use proptest::prelude::*;

fn parse_and_draw(text: &str) {
    if let Err(error) = parse_cells(text, "fuzz.toml") {
        let mut drawn = String::new();
        GraphicalReportHandler::new_themed(GraphicalTheme::ascii())
            .render_report(&mut drawn, &error)
            .unwrap();
        assert!(!error.to_string().is_empty());
    }
}

/// Values of every TOML type, at and beyond the edges.
const VALUES: [&str; 22] = [
    "0",
    "-1",
    "1",
    "4294967296",
    "-9223372036854775808",
    "9223372036854775807",
    "0.0",
    "nan",
    "inf",
    "-inf",
    "1e308",
    "true",
    "\"\"",
    "\"x\"",
    "\"1s\"",
    "\"\\u0000\"",
    "[]",
    "[1]",
    "[1, 2]",
    "{}",
    "{ a = 1 }",
    "1979-05-27",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn text(text in "\\PC{0,200}") {
        parse_and_draw(&text);
    }

    #[test]
    fn a_template_with_bytes_changed(edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<char>()), 1..4)) {
        let mut text: Vec<char> = template().chars().collect();
        for (at, c) in edits {
            let at = at.index(text.len());
            text[at] = c;
        }
        parse_and_draw(&text.into_iter().collect::<String>());
    }

    /// Any value for any key keeps the TOML valid, so this reaches the checks behind the parser.
    #[test]
    fn a_template_with_values_changed(line in any::<prop::sample::Index>(), value in prop::sample::select(&VALUES[..])) {
        let lines: Vec<&str> = template().lines().collect();
        let keys: Vec<usize> = (0..lines.len()).filter(|&i| lines[i].contains(" = ")).collect();
        let changed = keys[line.index(keys.len())];
        let key = lines[changed].trim_start_matches("# ").split(" = ").next().unwrap();
        let new = format!("{key} = {value}");
        let text: Vec<&str> = lines.iter().enumerate().map(|(i, l)| if i == changed { new.as_str() } else { l }).collect();
        parse_and_draw(&text.join("\n"));
    }

    #[test]
    fn knobs(policy in "vllm|tgi|tgi-3\\.3\\.6|static|dynamic|orca|sarathi|fastgen|trtllm|llamacpp|sglang|\\PC{0,8}", knobs in proptest::collection::vec("[a-z_]{0,24}=?\\PC{0,12}", 0..3)) {
        let _ = engine_from_knobs(&policy, &knobs);
    }
}
