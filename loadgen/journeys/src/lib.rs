//! Closed-loop user journeys: people who log in, ask, read the answer and ask again. The users are goose's, one
//! transaction for each step; what a stream's bytes and their times mean is read by `llmlab-loadgen`, so an ask leaves the
//! same record here as in a run of independent requests.
//!
//! Meant for a process of its own: goose installs a Ctrl-C handler, prints, and keeps its state process-wide. The plan
//! comes in as one line of JSON and what happens goes out as one line each ([`client`]).
//!
//! Knows HTTP, plans and records. Must not know scenarios, metrics, servers of ours or reports.
//!
//! Reading order: [`plan`] (what the users do), [`event`] (what is told of it), `template` (captured values in texts),
//! `session` (what a user remembers), `page` and `ask` (the two kinds of step), `attack` (goose), [`client`] (the process).

mod ask;
mod attack;
pub mod client;
pub mod event;
mod page;
pub mod plan;
mod session;
mod template;

pub use event::{Event, GooseStep, StepSample};
pub use plan::{Action, EndpointPlan, Flow, JourneyPlan, Method, PageBody, Step};
