//! A day of traffic under autoscaling policies: the same requests under each, in virtual time, and which one is cheapest
//! within its share of missed limits.
//!
//! Reading order: [`day`] (the traffic), [`policy`] (a policy's targets and its controller), [`replay`], [`score`] (what
//! came of it), [`answer`] (all policies side by side), [`report`].

pub mod answer;
pub mod day;
pub mod policy;
pub mod replay;
pub mod report;
pub mod score;

pub use answer::{Autoscaling, Question, Replayed, answer};
pub use day::Day;
pub use policy::{Facts, Rule, Scaler, activation_scale};
pub use replay::{Setup, Watch, replay};
pub use score::Score;

#[derive(Debug, thiserror::Error)]
pub enum AutoscaleError {
    #[error("{0}")]
    Input(String),
    #[error("the day cannot be simulated: {0}")]
    Cluster(#[from] llmlab_sim::cluster::ClusterError),
}
