//! How long a step takes on a device.
//!
//! Every operation takes the longer of computing and moving bytes, at what the device reaches for that kind of operation and
//! size, plus a launch (Williams, Waterman, Patterson 2009, Roofline; per operation as in LLM-Viewer, Yuan et al. 2024).
//! Reading order: [`operation`], [`layers`] (what a model consists of), [`sharded`] (of any family, and divided over devices),
//! `layout` (what crosses nodes), `pipeline` (a step stage by
//! stage), [`device`], [`efficiency`] (what share of a peak is reached) with [`calibration`] (the fitted figures), [`roofline`] (all of it
//! together), [`lora`] (what adapters add).

pub mod calibration;
pub mod device;
pub mod efficiency;
pub mod layers;
mod layout;
pub mod lora;
pub mod operation;
mod pipeline;
pub mod roofline;
pub mod sharded;

use std::sync::Arc;
use std::time::Duration;

pub use calibration::Calibration;
pub use device::{Device, DeviceClass, Link};
pub use efficiency::Efficiency;
pub use operation::{Operation, OperationCost, Resource, StepCost};
pub use roofline::Roofline;
pub use sharded::{MXFP4_BITS, Sharding, Weights};

use llmlab_core::executor::StageTime;

use crate::shape::SeqShape;

/// Tells how long a step takes. Pure: the same shapes give the same time.
pub trait CostModel: Send + Sync {
    /// `seqs` in any order; not empty.
    fn step_time(&self, seqs: &[SeqShape]) -> Duration;

    /// The same for a step in which so many sequences compute one token each, seeing `keys` keys in all, if no more needs to be
    /// known.
    fn decode_time(&self, _sequences: usize, _keys: u64) -> Option<Duration> {
        None
    }

    /// Groups of devices that a step passes one after the other; each can be at another step meanwhile.
    fn stages(&self) -> usize {
        1
    }

    /// The stages of a step, behind what is in `times`; their sum is [`CostModel::step_time`].
    fn stage_times(&self, seqs: &[SeqShape], times: &mut Vec<StageTime>) {
        times.push(StageTime { busy: self.step_time(seqs), to_next: Duration::ZERO });
    }
}

impl<M: CostModel + ?Sized> CostModel for Arc<M> {
    fn step_time(&self, seqs: &[SeqShape]) -> Duration {
        (**self).step_time(seqs)
    }

    fn decode_time(&self, sequences: usize, keys: u64) -> Option<Duration> {
        (**self).decode_time(sequences, keys)
    }

    fn stages(&self) -> usize {
        (**self).stages()
    }

    fn stage_times(&self, seqs: &[SeqShape], times: &mut Vec<StageTime>) {
        (**self).stage_times(seqs, times);
    }
}

/// Virtual time is kept in nanoseconds. A step takes at least one, so that time moves.
pub(crate) fn duration(seconds: f64) -> Duration {
    let ns = (seconds * 1e9).round();
    // The cast saturates, and NaN becomes 0.
    Duration::from_nanos((ns as u64).max(1))
}
