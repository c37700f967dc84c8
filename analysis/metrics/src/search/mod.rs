//! Finding the highest load at which a target meets its SLO: which value to try next ([`bisect`]), when a trial need not go
//! on ([`watch`]), what the trials of a value say ([`judge`]), and what came out ([`report`]). All of it is a function of
//! records and of values told, so that a stored search gives the same result again.

pub mod bisect;
pub mod judge;
pub mod report;
pub mod watch;

pub use bisect::Bisection;
pub use judge::{Decision, TrialJudgement, decide, judge_trial};
pub use report::{CurvePoint, Edge, SearchReport, Searched, TargetSearch, TriedValue};
pub use watch::{StopReason, Watch};
