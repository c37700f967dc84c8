//! The scheduler: decides what each forward pass computes and who owns which KV block.
//!
//! No tensors, no clock, no I/O, no threads, no randomness: the same code serves tokens and is simulated.
//! Reading order: [`request`], [`step`], [`executor`], [`config`] are what the outside sees; then [`sequence`],
//! [`free_blocks`], [`prefix_cache`], [`block_manager`] keep the books; [`speculation`] and [`ngram`] guess ahead; [`scheduler`] drives a policy over them;
//! [`engine`] ties a scheduler to an executor, [`stats`] says why a run went as it did, and [`recording`] is what a run leaves behind to be led
//! through again.

pub mod block_manager;
pub mod config;
pub mod engine;
pub mod executor;
pub mod free_blocks;
pub mod ngram;
pub mod prefix_cache;
pub mod recording;
pub mod request;
pub mod scheduler;
pub mod sequence;
pub mod speculation;
pub mod stats;
pub mod step;

pub use scheduler::{EnqueueError, Planned, Scheduler};
