//! From a model, its traffic and an SLO to devices, latency and money.
//!
//! Reading order: [`candidate`] (what is tried), [`resolve`] (a candidate's memory, cost model and floors), [`bound`] (what it
//! could be at best), [`capacity`] with [`limits`] (how much one replica takes, simulated), [`row`] (how many replicas, and what
//! they cost), [`search`] (all of it, side by side), [`skipped`] (what needs no simulation), [`answer`], [`pareto`], [`cluster`]
//! (the chosen rows as the clusters they would be), [`disaggregated`] (prefill and decode apart), [`hybrid`], [`what_if`],
//! [`money`].

pub mod answer;
pub mod bound;
pub mod candidate;
pub mod capacity;
pub mod cluster;
pub mod conversations;
pub mod disaggregated;
pub mod hybrid;
pub mod limits;
pub mod money;
pub mod pareto;
pub mod report;
pub mod resolve;
pub mod row;
pub mod search;
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
