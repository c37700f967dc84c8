//! What is on the screen besides the snapshot (the selected target, the help), and where each panel goes.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};

use crate::panels::{charts, header, keys, log, targets};
use crate::snapshot::{Snapshot, TargetState};
use crate::theme::Theme;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// `None` follows the target that is being driven.
    pub selected: Option<usize>,
    pub help: bool,
}

impl View {
    pub(crate) fn selected_index(&self, snapshot: &Snapshot) -> usize {
        self.selected.unwrap_or(snapshot.current).min(snapshot.targets.len().saturating_sub(1))
    }

    pub(crate) fn selected_target<'a>(&self, snapshot: &'a Snapshot) -> Option<&'a TargetState> {
        snapshot.targets.get(self.selected_index(snapshot))
    }

    pub(crate) fn step(&mut self, snapshot: &Snapshot, by: isize) {
        let count = snapshot.targets.len() as isize;
        if count > 0 {
            let next = (self.selected_index(snapshot) as isize + by).rem_euclid(count);
            self.selected = Some(next as usize);
        }
    }
}

const HEADER_ROWS: u16 = 4;
const CHART_ROWS: u16 = 6;
const LOG_ROWS: u16 = 3;

/// Draws every panel that fits. When rows are short the log goes first, then the charts, then targets that are not
/// selected; the header stays to the last.
pub fn draw(frame: &mut Frame, snapshot: &Snapshot, view: &View, theme: Theme) {
    let area = frame.area();
    let table_rows = snapshot.targets.len() as u16 + 3;
    let mut left = area.height;
    let mut take = |rows: u16, least: u16| {
        let given = if left >= least { rows.min(left) } else { 0 };
        left -= given;
        given
    };
    let keys_rows = take(1, 6);
    let header_rows = take(HEADER_ROWS, 1);
    let table_rows = take(table_rows.min(area.height / 2), 4);
    let chart_rows = take(CHART_ROWS, 4);
    let log_rows = take(u16::MAX, LOG_ROWS);
    // Rows that no panel could use make the charts taller.
    let spare = area.height - keys_rows - header_rows - table_rows - chart_rows - log_rows;
    let rows = [header_rows, table_rows, chart_rows + spare.min(chart_rows), log_rows, keys_rows];
    let [header, table, charts, log, keys]: [Rect; 5] =
        Layout::vertical(rows.map(Constraint::Length)).areas(area);

    header::draw(frame, header, snapshot, theme);
    targets::draw(frame, table, snapshot, view.selected_index(snapshot), theme);
    if let Some(target) = view.selected_target(snapshot) {
        charts::draw(frame, charts, target, theme);
    }
    log::draw(frame, log, snapshot, theme);
    keys::draw(frame, keys, theme);
    if view.help {
        keys::draw_help(frame, area, theme);
    }
}
