//! What reports of other crates are made of: pages in the same style, escaped in the same way, and charts that follow its colours.

pub use super::page::{html_page, markdown_page};
pub use super::scatter::{Dot, scatter};
pub use super::svg::{Axis, Unit, lines};
