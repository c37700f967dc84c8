//! What the records of a run mean.
//!
//! Knows [`llmlab_results`] and arithmetic. Must not know servers, engines, sockets, clocks or file paths: everything here is
//! a function of the manifest and the records, so a stored run can be analysed again at any time with the same result.
//! Each metric is defined in `definitions.md` beside this crate's manifest.
//!
//! Reading order: [`analysis`] (what comes out, and [`analyse`]), [`frame`] (records as columns), [`window`] (which part of the
//! run counts), [`quantile`] and [`latency`], [`rates`] and [`slo`], [`journey`], [`turns`], [`engine_log`], [`prefix_hits`], [`server_view`],
//! [`machine`], [`roofline`], [`cost`], [`trust`], [`client_error`] and [`shards`], [`metric`] (the list every table is made from), [`stats`] and [`compare`],
//! [`warning`], [`sweep`], [`search`] (the highest load that meets the SLO), [`report`], [`claims`] (what is said of a
//! technique against what was measured).

pub mod analysis;
pub mod claims;
pub mod client_error;
pub mod compare;
pub mod compat;
pub mod cost;
pub mod engine_log;
pub mod frame;
pub mod journey;
pub mod latency;
pub mod machine;
pub mod metric;
pub mod prefix_hits;
pub mod quantile;
pub mod rates;
pub mod report;
pub mod roofline;
pub mod search;
pub mod server_view;
pub mod shards;
pub mod slo;
pub mod stats;
pub mod sweep;
pub mod trust;
pub mod turns;
pub mod warning;
pub mod window;

use llmlab_results::machine_sample::MachineSample;
use llmlab_results::manifest::{ServerSample, TrialFacts};
use llmlab_results::record::RequestRecord;
use llmlab_results::step::StepRow;

pub use analysis::{Analysis, analyse};
pub use report::{compositions, html, markdown, svgs, terminal};
pub use report::{search_html, search_markdown, search_svgs, search_terminal};
pub use report::{sweep_csv, sweep_html, sweep_markdown, sweep_terminal};
pub use sweep::sweep_table;
pub use warning::Warning;

/// Everything recorded in one trial: one target, one pass over the workload.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    pub facts: TrialFacts,
    pub records: Vec<RequestRecord>,
    /// The engine's step log; empty for servers that have none.
    pub steps: Vec<StepRow>,
    /// Scrapes of the server's own metrics; empty for servers that have none.
    pub server: Vec<ServerSample>,
    /// Looks at the machine the server ran on; empty where that was another one.
    pub machine: Vec<MachineSample>,
}
