//! Reports: functions from an analysis to text. They compute nothing that the analysis does not hold, and escape everything
//! that came from outside (target names, error messages, host names) for the medium they write.
//!
//! Reading order: [`format`] (numbers and escaping), [`view`] (the analysis as words) with [`turns`], [`terminal`], [`series`] (points for
//! charts), [`svg`] and [`charts`], [`server_side`] and [`timeline`] (the server under the requests), [`composition`] (the batch step by
//! step), [`page`] (Markdown and HTML), [`journey`] (the steps of users), [`sweep`] (the table of a sweep), [`search`] (the edge and the
//! curve of a search), [`kit`] (the same for reports of other crates).

pub mod charts;
pub mod composition;
pub mod format;
pub mod journey;
pub mod kit;
pub mod page;
mod scatter;
pub mod search;
pub mod series;
pub mod server_side;
pub mod svg;
pub mod sweep;
pub mod terminal;
pub mod timeline;
pub mod turns;
pub mod view;

pub use charts::svgs;
pub use composition::compositions;
pub use page::{html, markdown};
pub use search::{search_html, search_markdown, search_svgs, search_terminal};
pub use sweep::{sweep_csv, sweep_html, sweep_markdown, sweep_terminal};
pub use terminal::terminal;
