//! Controllers by the rules of autoscalers in use, each for one pool. They see what was scraped, as late as it was.
//!
//! [`Hpa`] is Kubernetes' Horizontal Pod Autoscaler (autoscaling/v2), [`Keda`] adds activation and scaling to zero to it,
//! [`Predictive`] looks ahead by the time that a replica needs to start.

mod forecast;
mod holt_winters;
mod hpa;
mod keda;
mod predictive;
mod signal;

pub use forecast::Forecast;
pub use holt_winters::HoltWinters;
pub use hpa::{Hpa, HpaConfig, Rules, ScalingPolicy};
pub use keda::{Keda, KedaConfig};
pub use predictive::{Predictive, PredictiveConfig};
pub use signal::{Metric, Signal, Target};
