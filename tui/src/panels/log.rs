//! The newest log lines, newest at the bottom.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::Line;
use ratatui::widgets::Paragraph;

use super::frame_with_title;
use crate::snapshot::Snapshot;
use crate::text::clean;
use crate::theme::Theme;

pub fn draw(frame: &mut Frame, area: Rect, snapshot: &Snapshot, theme: Theme) {
    if area.height < 3 {
        return;
    }
    let block = frame_with_title("Log".into(), theme);
    let room = usize::from(block.inner(area).height);
    let newest = &snapshot.log[snapshot.log.len().saturating_sub(room)..];
    let lines: Vec<Line> = newest.iter().map(|line| Line::from(clean(line))).collect();
    frame.render_widget(Paragraph::new(lines).block(block), area);
}
