//! Predictions about deployments that need not exist, and how far they are off.
//!
//! Knows model shapes, devices, and the cost model and scheduler of the simulator. Must not know sockets, clocks or servers: what
//! it says is a function of its inputs.
//!
//! Reading order: [`deployment`] (a model on devices under a serving software), [`closed_loop`] (users who wait for their
//! answers, in short form), [`explain`] (a step operation by operation), [`formats`] (what a format of weights costs), [`plan`] (an SLO to devices
//! and money), [`edge`] (what one person's device runs), [`autoscale`] (a day of a plan under scaling policies), [`validate`] (predictions
//! beside other people's measurements, and the fit to them).

pub mod autoscale;
pub mod closed_loop;
pub mod day_shape;
pub mod deployment;
pub mod edge;
pub mod explain;
pub mod formats;
pub mod plan;
pub mod validate;

pub use closed_loop::{Admission, ClosedLoop, LoopFigures};
pub use deployment::Deployment;
