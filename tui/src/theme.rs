//! Colours, all in one place. With NO_COLOR set, bold and reverse carry the same meaning.

use ratatui::style::{Color, Modifier, Style};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Theme {
    pub color: bool,
}

impl Theme {
    /// Honours <https://no-color.org>: a non-empty NO_COLOR means no colour.
    pub fn from_environment() -> Theme {
        Theme { color: std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()) }
    }

    fn fg(self, color: Color) -> Style {
        if self.color { Style::new().fg(color) } else { Style::new() }
    }

    pub(crate) fn border(self) -> Style {
        self.fg(Color::DarkGray)
    }
    pub(crate) fn title(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }
    pub(crate) fn quiet(self) -> Style {
        self.fg(Color::DarkGray)
    }
    pub(crate) fn selected(self) -> Style {
        self.fg(Color::Cyan).add_modifier(Modifier::BOLD)
    }
    pub(crate) fn bad(self) -> Style {
        self.fg(Color::Red).add_modifier(Modifier::BOLD)
    }
    pub(crate) fn bar(self) -> Style {
        if self.color { Style::new().fg(Color::Cyan).bg(Color::DarkGray) } else { Style::new() }
    }
    pub(crate) fn chart(self) -> Style {
        self.fg(Color::Cyan)
    }

    pub(crate) fn phase(self, phase: &str) -> Style {
        match phase {
            "running" | "probing" => self.fg(Color::Green),
            "failed" => self.bad(),
            "starting" => self.fg(Color::Yellow),
            _ => Style::new(),
        }
    }
}
