//! The engine in virtual time: the scheduler that serves requests, with a cost model in place of the forward pass and
//! `now += elapsed` in place of a clock.
//!
//! Knows the scheduler, the load generator's schedule, model shapes and records. Must not know sockets, clocks, kernels or
//! metrics: what it writes are the records of a live run, and everything after that is the same code.
//!
//! Reading order: [`shape`] (a step in numbers), [`cost_model`] (how long it takes on a device), [`fit`] (the same, learnt
//! from measured steps), [`executor`] with [`speculation`], and [`replay`] (the two virtual executors), [`overhead`] (what a request pays outside its steps), [`driver`] (virtual time). Formulas and limits: docs/simulation.md.

pub mod cluster;
pub mod cost_model;
pub mod driver;
pub mod executor;
pub mod fit;
pub mod overhead;
pub mod replay;
pub mod shape;
pub mod speculation;

pub use cost_model::{CostModel, Device, Roofline, StepCost};
pub use driver::{Facts, Options, SimulationError, StepSink, simulate};
pub use executor::RooflineExecutor;
pub use overhead::Overhead;
pub use replay::{Recorder, Recording, ReplayExecutor};
pub use shape::SeqShape;
pub use speculation::Speculation;
