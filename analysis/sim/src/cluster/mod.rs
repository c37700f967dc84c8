//! A cluster in virtual time: replicas behind a router, each the real scheduler with a cost model of its own.
//!
//! Replicas are advanced only as far as nothing unknown can reach them: to the next arrival, mark or event. A step is never
//! interrupted, so what it brings is known before its time and kept back until then (`books`). A replica that only decodes
//! is left alone until one of its requests can end, so that it takes long stretches also beside others.
//!
//! Reading order: [`config`], `run` (the order of events), `dispatch` (from arrival to replica), `lifecycle` (starts, drains,
//! deaths), [`router`], [`admission`], [`response_cache`], [`spill_over`], [`transfer`] (prefill and decode apart), [`controller`],
//! [`outcome`] with [`stability`] and
//! [`interval`]; [`autoscale`] has controllers. What is modelled and what is not: docs/cluster.md.

pub mod admission;
pub mod autoscale;
mod books;
pub mod config;
pub mod controller;
mod dispatch;
pub mod interval;
mod lifecycle;
mod observe;
pub mod outcome;
mod random;
pub mod replica;
pub mod response_cache;
pub mod router;
mod run;
pub mod spill_over;
pub mod stability;
pub mod transfer;

pub use admission::{Admission, Limited, RateLimit};
pub use config::{ClusterConfig, ClusterError, ColdStart, Failures, Pool, Retry, Scrape, Spot};
pub use controller::{Controller, PoolState, Scraped};
pub use interval::{Interval, batch_means, replications};
pub use outcome::{
    ClusterOutcome, Cost, LittlesLaw, ReplicaOutcome, RequestResult, Sample, Scaling, ServedBy,
};
pub use replica::Phase;
pub use response_cache::{Repeats, ResponseCache};
pub use router::{PrefixAware, Routing};
pub use run::{simulate, simulate_with};
pub use spill_over::SpillOver;
pub use stability::{Stability, Verdict};
pub use transfer::KvTransfer;

pub use crate::driver::role::Role;
