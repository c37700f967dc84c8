//! Predictions beside other people's measurements.
//!
//! Reading order: [`table`] (rows as published), [`case`] (what a row asks of the planner, or why it cannot be used), [`predict`],
//! [`fit`] (figures of the cost model from cases), [`held_out`] (fit on some, look at others), [`report`].

pub mod case;
pub mod fit;
pub mod held_out;
pub mod names;
pub mod predict;
pub mod report;
pub mod table;

pub use case::{Asked, Case, Metric};
pub use report::Report;
pub use table::{Row, TableError};

/// The table that is shipped.
pub const MEASURED: &str = include_str!("../../../validation/measured.csv");
