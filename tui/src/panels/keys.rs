//! The line that names the keys, and the help that explains them and the columns.

use ratatui::Frame;
use ratatui::layout::{Constraint, Rect};
use ratatui::text::Line;
use ratatui::widgets::{Clear, Paragraph};

use super::frame_with_title;
use crate::theme::Theme;

const HELP: [&str; 15] = [
    "q, Esc      leave this view; the run goes on",
    "Ctrl-C      stop the run; what was recorded is kept",
    "Tab, arrows choose a target",
    "f           follow the target being driven",
    "?           this help",
    "",
    "TTFT        time to first token, from the scheduled time",
    "TPOT        time per output token after the first",
    "fail        requests that failed",
    "fly         requests sent and not yet answered",
    "tok/s       output tokens per second",
    "wait        requests queued in the server",
    "run         sequences in the server's batch",
    "KV          share of the KV cache in use",
    "-           not known",
];

pub fn draw(frame: &mut Frame, area: Rect, theme: Theme) {
    frame.render_widget(
        Line::from(" q leave  Ctrl-C stop  Tab target  f follow  ? help").style(theme.quiet()),
        area,
    );
}

pub fn draw_help(frame: &mut Frame, area: Rect, theme: Theme) {
    let width = HELP.iter().map(|l| l.len()).max().unwrap_or(0) as u16 + 4;
    let area = area.centered(Constraint::Max(width), Constraint::Max(HELP.len() as u16 + 2));
    let lines: Vec<Line> = HELP.iter().map(|l| Line::from(format!(" {l}"))).collect();
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(lines).block(frame_with_title("Help".into(), theme)), area);
}
