//! What people see first: one page of text. Table, verdicts, trust, roofline, warnings.

use crate::analysis::Analysis;
use crate::report::format::{cut, plain, wrap};
use crate::report::journey;
use crate::report::view::{Cell, Row, View, view};

const NAME_WIDTH: usize = 24;

struct Paint {
    on: bool,
}

impl Paint {
    fn tone(&self, tone: &str, text: &str) -> String {
        match tone {
            "good" => self.code("32", text),
            "bad" => self.code("31", text),
            _ => text.to_owned(),
        }
    }
    fn code(&self, code: &str, text: &str) -> String {
        if self.on { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// A page at most `width` characters wide (but at least 40). Names from outside cannot inject escape sequences.
pub fn terminal(analysis: &Analysis, color: bool, width: usize) -> String {
    let width = width.max(40);
    let paint = Paint { on: color };
    let v = view(analysis);
    let mut out = String::new();
    let badge = paint.code(if v.trusted { "1;32" } else { "1;31" }, v.badge);
    out.push_str(&format!("{}  {badge}\n", paint.code("1", &cut(&plain(&v.name), width - 12))));
    for (key, value) in v.facts.iter().filter(|(k, _)| {
        matches!(k.as_str(), "Model" | "Workload" | "Rate" | "Sessions" | "Prefixes" | "Host")
    }) {
        out.push_str(&paint.code("2", &wrap(&format!("{key}: {}", plain(value)), width, "  ")));
        out.push('\n');
    }
    out.push('\n');
    tables(&mut out, &v, &paint, width);
    if v.table.iter().any(|r| r.cells.iter().any(|c| !c.range.is_empty())) {
        out.push_str(&paint.code("2", &wrap("Median over repeats [lowest, highest].", width, "")));
        out.push('\n');
    }
    if v.has_failures {
        out.push_str(&wrap("Percentiles count failed requests as infinitely slow.", width, ""));
        out.push('\n');
    }
    verdicts(&mut out, &v, &paint, width);
    out.push_str(&journey::terminal(&v.journeys, width));
    out.push('\n');
    for line in &v.trust {
        let text = wrap(&format!("Trust: {}", plain(line)), width, "  ");
        out.push_str(&if v.trusted { text } else { paint.code("31", &text) });
        out.push('\n');
    }
    if let Some(line) = &v.client_error {
        out.push_str(&wrap(&format!("Trust: {}", plain(line)), width, "  "));
        out.push('\n');
    }
    if !v.roofline.is_empty() {
        let words: Vec<String> = v.roofline.iter().map(|r| plain(&r.brief)).collect();
        out.push_str(&wrap(&format!("Roofline: {}", words.join(", ")), width, "  "));
        out.push('\n');
    }
    for row in &v.errors {
        let line: Vec<String> = row.iter().map(|s| plain(s)).collect();
        let example = if line[3].is_empty() { String::new() } else { format!(", e.g. \"{}\"", line[3]) };
        let text = format!("Errors: {}: {} x {}{example}", line[0], line[2], line[1]);
        out.push_str(&paint.code("31", &wrap(&text, width, "  ")));
        out.push('\n');
    }
    for warning in &v.warnings {
        out.push_str(&paint.code("33", &wrap(&format!("Note: {}", plain(warning)), width, "  ")));
        out.push('\n');
    }
    out
}

fn verdicts(out: &mut String, v: &View, paint: &Paint, width: usize) {
    if v.verdicts.is_empty() {
        return;
    }
    let baseline = v.targets.first().map(|t| plain(&t.name)).unwrap_or_default();
    let heading = format!("Against {}, {}:", cut(&baseline, NAME_WIDTH), v.verdict_note);
    out.push_str(&format!("\n{}\n", wrap(&heading, width, "  ")));
    for verdict in &v.verdicts {
        let name = cut(&plain(&verdict.target), NAME_WIDTH);
        out.push_str(&format!("  {}:", paint.code("1", &name)));
        let mut used = name.chars().count() + 3;
        for (i, part) in verdict.parts.iter().enumerate() {
            // A part starts on a fresh line rather than be broken, unless no line can hold it.
            let comma = if i + 1 < verdict.parts.len() { "," } else { "" };
            let text = format!("{}{comma}", part.text);
            let length = text.chars().count();
            if i > 0 && used + 1 + length > width {
                out.push_str("\n   ");
                used = 3;
            }
            let first_line = width.saturating_sub(used + 1);
            if length <= first_line {
                out.push_str(&format!(" {}", paint.tone(part.tone, &text)));
                used += 1 + length;
            } else {
                // Colour must not span a line end.
                let lines = wrap(&text, width - 6, "");
                let lines: Vec<String> = lines.lines().map(|l| paint.tone(part.tone, l)).collect();
                out.push_str(&format!("\n    {}", lines.join("\n      ")));
                used = width;
            }
        }
        out.push('\n');
    }
}

/// Targets side by side; what does not fit goes into further tables that repeat the baseline.
fn tables(out: &mut String, v: &View, paint: &Paint, width: usize) {
    let rows: Vec<&Row> = v.table.iter().chain(&v.turns).chain(&v.slo).filter(|r| r.brief).collect();
    if rows.is_empty() || v.targets.is_empty() {
        return;
    }
    let parts = |t: usize, part: fn(&Cell) -> &String| {
        rows.iter().map(|r| part(&r.cells[t]).chars().count()).max().unwrap_or(0)
    };
    let (value_widths, range_widths): (Vec<usize>, Vec<usize>) =
        (0..v.targets.len()).map(|t| (parts(t, |c| &c.value), parts(t, |c| &c.range))).unzip();
    let text = |r: &Row, t: usize| {
        let cell = &r.cells[t];
        let (value, range) = (value_widths[t], range_widths[t]);
        format!("{:>value$} {:<range$}", cell.value, cell.range)
    };
    let label_width = rows.iter().map(|r| r.label.chars().count()).max().unwrap_or(0);
    let names: Vec<String> = v.targets.iter().map(|t| cut(&plain(&t.name), NAME_WIDTH)).collect();
    let widths: Vec<usize> = (0..names.len())
        .map(|t| {
            rows.iter()
                .map(|r| text(r, t).chars().count())
                .chain([names[t].chars().count()])
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut next = 0;
    while next < names.len() {
        // A terminal too narrow for two columns shows one target after the other.
        let with_baseline = next > 0 && label_width + widths[0] + widths[next] + 4 <= width;
        let mut columns = if with_baseline { vec![0] } else { Vec::new() };
        let mut used = label_width + columns.iter().map(|c| widths[*c] + 2).sum::<usize>();
        let first = next;
        while next < names.len() && (next == first || used + 2 + widths[next] <= width) {
            used += 2 + widths[next];
            columns.push(next);
            next += 1;
        }
        let mut line = " ".repeat(label_width);
        for &c in &columns {
            line.push_str(&format!("  {}", paint.code("1", &format!("{:>w$}", names[c], w = widths[c]))));
        }
        out.push_str(&format!("{line}\n"));
        for (i, row) in rows.iter().enumerate() {
            if i > 0 && (row.group_start || starts_slo(v, row)) {
                out.push_str(&paint.code("2", &"─".repeat(used.min(width))));
                out.push('\n');
            }
            let mut line = format!("{:<label_width$}", row.label);
            for &c in &columns {
                let padded = format!("{:>w$}", text(row, c), w = widths[c]);
                line.push_str(&format!("  {}", paint.tone(row.cells[c].tone, &padded)));
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        if next < names.len() {
            out.push('\n');
        }
    }
}

fn starts_slo(v: &View, row: &Row) -> bool {
    v.slo.first().is_some_and(|first| std::ptr::eq(first, row))
}
