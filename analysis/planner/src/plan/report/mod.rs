//! A plan for people: terminal, Markdown, and one self-contained HTML page.
//!
//! Reading order: [`view`] (the words), [`charts`], [`terminal`], [`page`].

mod charts;
mod page;
mod terminal;
mod view;

pub use page::{html, markdown};
pub use terminal::terminal;
