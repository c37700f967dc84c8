//! A plan for people: terminal, Markdown, and one self-contained HTML page.
//!
//! Reading order: [`view`] (the words: [`points`], [`tables`], [`caveats`]), [`charts`], [`terminal`], [`page`].

mod caveats;
mod charts;
mod page;
mod points;
mod tables;
mod terminal;
mod view;

pub(crate) use charts::Chart;
pub use page::{html, markdown};
pub(crate) use terminal::table;
pub use terminal::terminal;
