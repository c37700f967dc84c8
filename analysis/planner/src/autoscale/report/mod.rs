//! The answer for people: terminal, and one self-contained HTML page with a chart for each policy.

mod charts;
mod page;
mod terminal;
mod view;

pub use page::html;
pub use terminal::terminal;
