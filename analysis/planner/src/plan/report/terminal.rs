//! The report as text, for a terminal of eighty columns where words allow it.

use super::super::answer::Plan;
use super::tables::Table;
use super::view::view;

const COLUMNS: usize = 80;

/// The answer first, then what it rests on.
pub fn terminal(plan: &Plan) -> String {
    let view = view(plan);
    let mut out = wrapped("", &view.headline);
    if let Some(change) = &view.change {
        out.push_str(&wrapped("what would help: ", change));
    }
    out.push('\n');
    for (term, words) in &view.question {
        out.push_str(&wrapped(&format!("{term:>10}  "), words));
    }
    if !view.points.is_empty() {
        out.push('\n');
        view.points.iter().for_each(|point| out.push_str(&wrapped("  - ", point)));
    }
    if !view.rows.is_empty() {
        out.push('\n');
        let rows: Vec<Vec<String>> = view
            .rows
            .iter()
            .map(|line| {
                let mark = match (line.best, line.on_front) {
                    (true, _) => ">",
                    (_, true) => "*",
                    _ => "",
                };
                let cells = view.narrow.iter().map(|column| line.cells[*column].clone());
                std::iter::once(mark.to_owned()).chain(cells).collect()
            })
            .collect();
        let headings: Vec<&str> =
            std::iter::once("").chain(view.narrow.iter().map(|column| view.headings[*column])).collect();
        out.push_str(&table(&headings, &rows));
        out.push_str("> the answer   * nothing is better in cost, TTFT and TPOT at once\n");
        view.notes.iter().for_each(|note| out.push_str(&wrapped("", note)));
    }
    for (title, table) in [
        ("As clusters", &view.clusters),
        ("APIs", &view.apis),
        ("What changes the decision", &view.sensitivities),
    ] {
        if !table.rows.is_empty() {
            out.push_str(&format!("\n{title}\n{}", narrowed(table)));
        }
    }
    for reason in &view.refused {
        out.push('\n');
        out.push_str(&wrapped("", &format!("{} x {}", reason.count, reason.title)));
        reason.examples.iter().for_each(|example| out.push_str(&wrapped("  - ", example)));
        out.push_str(&wrapped("  what would help: ", &reason.change));
    }
    for (title, lines) in [("Risks", &view.risks), ("Assumptions", &view.assumptions)] {
        if !lines.is_empty() {
            out.push_str(&format!("\n{title}\n"));
            lines.iter().for_each(|line| out.push_str(&wrapped("  - ", line)));
        }
    }
    out
}

fn narrowed(of: &Table) -> String {
    let headings: Vec<&str> = of.narrow.iter().map(|column| of.headings[*column]).collect();
    let rows: Vec<Vec<String>> =
        of.rows.iter().map(|row| of.narrow.iter().map(|column| row[*column].clone()).collect()).collect();
    table(&headings, &rows)
}

/// `begin`, and words in lines of at most eighty columns, all below the first word.
pub(crate) fn wrapped(begin: &str, words: &str) -> String {
    let indent = begin.chars().count();
    let mut out = begin.to_owned();
    let mut column = indent;
    for word in words.split_whitespace() {
        let width = word.chars().count();
        if column > indent && column + 1 + width > COLUMNS {
            out.push_str(&format!("\n{:indent$}", ""));
            column = indent;
        } else if column > indent {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += width;
    }
    out.push('\n');
    out
}

/// Columns as wide as their longest cell; those of numbers are set right.
pub(crate) fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let cells = |column: usize| rows.iter().filter_map(move |row| row.get(column));
    let width = |column: usize| {
        let widths = cells(column).map(|cell| cell.chars().count());
        widths.chain([headings[column].chars().count()]).max().unwrap_or(0)
    };
    let is_number = |cell: &String| {
        let begin = cell.trim_start_matches(['≥', ' ', '$', '-', '+']);
        begin.starts_with(|c: char| c.is_ascii_digit())
    };
    // A name may begin with a digit too ("2x h100-sxm"); of a column of numbers all others are empty or a word such as "never".
    let numbers = |column: usize| {
        let (numbers, words): (Vec<&String>, Vec<&String>) =
            cells(column).filter(|cell| !cell.is_empty()).partition(|cell| is_number(cell));
        let name = |cell: &&String| cell.contains(',') && cell.contains(|c: char| c.is_ascii_alphabetic());
        !numbers.is_empty() && !numbers.iter().any(name) && words.iter().all(|word| !word.contains(' '))
    };
    let shapes: Vec<(usize, bool)> =
        (0..headings.len()).map(|column| (width(column), numbers(column))).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let cells = cells.zip(&shapes).map(|(cell, (width, right))| match right {
            true => format!("{cell:>width$}"),
            false => format!("{cell:<width$}"),
        });
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    let mut out = line(&mut headings.iter().copied());
    rows.iter().for_each(|row| out.push_str(&line(&mut row.iter().map(String::as_str))));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_broken_between_lines_and_stay_below_the_first() {
        let text = wrapped("  - ", &"word ".repeat(30));
        assert!(text.lines().all(|line| line.chars().count() <= COLUMNS), "{text}");
        assert!(text.lines().skip(1).all(|line| line.starts_with("    word")), "{text}");
        assert_eq!(text.split_whitespace().filter(|word| *word == "word").count(), 30);
        assert_eq!(wrapped("", ""), "\n");
    }

    #[test]
    fn numbers_are_set_right_and_names_that_begin_with_one_are_not() {
        let row = |name: &str, usd: &str| vec![name.to_owned(), usd.to_owned()];
        let text = table(
            &["what", "usd"],
            &[row("2x h100-sxm, fp8", "$1,000"), row("l4", "≥ $20"), row("t4", "never")],
        );
        assert_eq!(
            text,
            "what                 usd\n2x h100-sxm, fp8  $1,000\nl4                 ≥ $20\nt4                 never\n"
        );
    }
}
