//! What a server says of itself on its metrics page, in the Prometheus text format 0.0.4 or OpenMetrics 1.0.
//!
//! Reading never fails: a line that is neither is skipped, because a broken metric must not spoil a measurement.
//! [`exposition`] reads lines, `histogram` puts buckets together, `families` knows what each server calls what.

pub mod exposition;
mod families;
mod histogram;

pub use exposition::{Sample, samples};
pub use families::server_sample;
