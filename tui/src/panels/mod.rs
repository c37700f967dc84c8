//! One file per panel; each draws into the rectangle it is given, whatever its size.

use ratatui::widgets::Block;

use crate::theme::Theme;

pub mod charts;
pub mod header;
pub mod keys;
pub mod log;
pub mod targets;

fn frame_with_title(title: String, theme: Theme) -> Block<'static> {
    Block::bordered().border_style(theme.border()).title(format!(" {title} ")).title_style(theme.title())
}
