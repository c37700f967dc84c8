//! What runs, what it is doing now, how far it is.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::Line;
use ratatui::widgets::Gauge;

use super::frame_with_title;
use crate::snapshot::Snapshot;
use crate::text::{clean, clock, percent};
use crate::theme::Theme;

pub fn draw(frame: &mut Frame, area: Rect, snapshot: &Snapshot, theme: Theme) {
    let inner = if area.height >= 4 {
        let block = frame_with_title(format!("llmlab: {}", clean(&snapshot.run_name)), theme);
        let inner = block.inner(area);
        frame.render_widget(block, area);
        inner
    } else {
        area
    };
    let [words, bar] = Layout::vertical([Constraint::Length(1), Constraint::Length(1)]).areas(inner);
    let times = times(snapshot);
    let [activity, clock] = Layout::horizontal([Constraint::Fill(1), Constraint::Length(times.len() as u16)])
        .spacing(1)
        .areas(words);
    frame.render_widget(Line::from(clean(&snapshot.activity)), activity);
    frame.render_widget(Line::from(times).style(theme.quiet()).right_aligned(), clock);
    let share = if snapshot.progress.is_finite() { snapshot.progress.clamp(0.0, 1.0) } else { 0.0 };
    let gauge =
        Gauge::default().ratio(share).label(percent(share)).gauge_style(theme.bar()).use_unicode(true);
    frame.render_widget(gauge, bar);
}

fn times(snapshot: &Snapshot) -> String {
    let elapsed = clock(snapshot.elapsed_s);
    match snapshot.eta_s {
        _ if snapshot.finished => format!("{elapsed}, finished"),
        Some(left) => format!("{elapsed}, about {} left", clock(left)),
        None => elapsed,
    }
}
