//! One row per target. Columns that do not fit are left out, least important first.

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Text};
use ratatui::widgets::{Cell, Row, Table, TableState};

use super::frame_with_title;
use crate::snapshot::{Percentiles, Snapshot, TargetState};
use crate::text::{clean, ms, percent, short};
use crate::theme::Theme;

struct Column {
    title: &'static str,
    width: u16,
    /// Columns with a larger number are left out first.
    rank: u8,
    cell: fn(&TargetState) -> String,
}

const MARK: &str = "> ";

const NAME: &str = "target";
const DESCRIPTION: &str = "what it is";

const COLUMNS: [Column; 12] = [
    Column { title: NAME, width: 8, rank: 0, cell: |t| clean(&t.name) },
    Column { title: DESCRIPTION, width: 30, rank: 10, cell: |t| clean(&t.description) },
    Column { title: "phase", width: 8, rank: 3, cell: |t| clean(&t.phase) },
    Column { title: "done", width: 7, rank: 1, cell: done },
    Column { title: "fail", width: 4, rank: 2, cell: |t| short(t.requests_failed as f64) },
    Column { title: "fly", width: 3, rank: 7, cell: |t| short(t.in_flight as f64) },
    Column { title: "TTFT", width: 9, rank: 4, cell: |t| pair(&t.ttft) },
    Column { title: "TPOT", width: 9, rank: 5, cell: |t| pair(&t.tpot) },
    Column { title: "tok/s", width: 6, rank: 4, cell: |t| short(t.output_tokens_per_s) },
    Column { title: "wait", width: 4, rank: 9, cell: |t| optional(t.queue, short) },
    Column { title: "run", width: 4, rank: 8, cell: |t| optional(t.batch, short) },
    Column { title: "KV", width: 4, rank: 6, cell: |t| optional(t.kv_usage, percent) },
];

pub fn draw(frame: &mut Frame, area: Rect, snapshot: &Snapshot, selected: usize, theme: Theme) {
    let block = frame_with_title("Targets, TTFT and TPOT as p50/p99 in ms".into(), theme);
    let columns = columns_that_fit(block.inner(area).width.saturating_sub(MARK.len() as u16));
    let header =
        Row::new(columns.iter().map(|c| aligned(c, c.title.to_owned(), Style::new()))).style(theme.quiet());
    let rows = snapshot.targets.iter().enumerate().map(|(i, target)| {
        let cells = columns.iter().map(|c| aligned(c, (c.cell)(target), cell_style(c, target, theme)));
        Row::new(cells).style(if i == selected { theme.selected() } else { Style::new() })
    });
    // The description takes what the other columns leave; without it, the name does.
    let described = columns.iter().any(|c| c.title == DESCRIPTION);
    let widths = columns.iter().map(|c| match c.title {
        NAME if described => Constraint::Length(2 * c.width),
        NAME | DESCRIPTION => Constraint::Min(c.width),
        _ => Constraint::Length(c.width),
    });
    let table = Table::new(rows, widths).header(header).block(block).column_spacing(1).highlight_symbol(MARK);
    // The state makes a table with more targets than rows scroll to the selected one.
    let mut state = TableState::default().with_selected((!snapshot.targets.is_empty()).then_some(selected));
    frame.render_stateful_widget(table, area, &mut state);
}

fn columns_that_fit(width: u16) -> Vec<&'static Column> {
    let mut columns: Vec<&Column> = COLUMNS.iter().collect();
    while columns.len() > 1 && columns.iter().map(|c| c.width + 1).sum::<u16>() - 1 > width {
        let least = columns.iter().enumerate().max_by_key(|(_, c)| c.rank).map_or(0, |(i, _)| i);
        columns.remove(least);
    }
    columns
}

fn aligned(column: &Column, text: String, style: Style) -> Cell<'static> {
    let alignment =
        if matches!(column.title, NAME | DESCRIPTION | "phase") { Alignment::Left } else { Alignment::Right };
    Cell::new(Text::from(Line::from(text).style(style)).alignment(alignment))
}

fn cell_style(column: &Column, target: &TargetState, theme: Theme) -> Style {
    match column.title {
        "phase" => theme.phase(&target.phase),
        "fail" if target.requests_failed > 0 => theme.bad(),
        _ => Style::new(),
    }
}

/// A share where the two counts would not fit.
fn done(target: &TargetState) -> String {
    let (done, total) = (target.requests_done, target.requests_total);
    match total {
        0 => short(done as f64),
        1..=999 => format!("{done}/{total}"),
        _ => percent(done as f64 / total as f64),
    }
}

fn pair(percentiles: &Percentiles) -> String {
    if percentiles.count == 0 {
        return "-".into();
    }
    format!("{}/{}", ms(percentiles.p50_ms), ms(percentiles.p99_ms))
}

fn optional(value: Option<f64>, format: fn(f64) -> String) -> String {
    value.map_or_else(|| "-".into(), format)
}
