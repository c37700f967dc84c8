//! A plan for people: terminal, Markdown, and one self-contained HTML page.
//!
//! Reading order: [`view`] (the words), [`charts`], [`terminal`], [`page`].

mod charts;
mod page;
mod terminal;
mod view;

pub(crate) use charts::Chart;
pub use page::{html, markdown};
pub(crate) use terminal::table;
pub use terminal::terminal;
