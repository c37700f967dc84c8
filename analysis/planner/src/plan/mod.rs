//! From a model, its traffic and an SLO to devices, latency and money.
//!
//! Reading order: [`candidate`] (what is tried), [`resolve`] (a candidate's memory, and what it is to the simulator), `estimate`
//! and [`bound`] (what the cost model says of it alone, and what it could be at best), [`sizing`] and [`capacity`] with
//! [`limits`] (how much one replica takes, simulated), [`row`] (how many replicas, and what they cost), [`search`] (all of it,
//! side by side), [`skipped`] (what needs no simulation), [`answer`], [`sensitivity`] (what changes it), [`pareto`], [`cluster`]
//! (the chosen rows as the clusters they would be), [`disaggregated`] (prefill and decode apart), [`hybrid`], [`what_if`],
//! [`money`].

pub mod answer;
pub mod bound;
pub mod candidate;
pub mod capacity;
pub mod cluster;
pub mod conversations;
pub mod disaggregated;
mod estimate;
pub mod hybrid;
pub mod limits;
pub mod money;
pub mod pareto;
pub mod report;
pub mod resolve;
pub mod row;
pub mod search;
pub mod sensitivity;
pub mod sizing;
pub mod skipped;
pub mod what_if;
pub mod words;

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PlanError {
    #[error("{0}")]
    Catalogue(String),
    #[error("{key}: unknown {what} \"{name}\"; accepted: {accepted}")]
    UnknownName { key: &'static str, what: &'static str, name: String, accepted: String },
    #[error("the workload cannot be made: {0}")]
    Workload(String),
    #[error("the engine cannot be simulated: {0}")]
    Engine(String),
    #[error("what-if {change:?}: {why}; accepted: {}", what_if::KEYS)]
    WhatIf { change: String, why: String },
}
