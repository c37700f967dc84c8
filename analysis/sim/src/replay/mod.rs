//! Running a recorded run again: its calls, times and tokens in place of clients, a clock and a forward pass.
//!
//! A scheduler that gets the same calls must plan the same steps. That is the parity that a simulation rests on. Two ways:
//! [`replay`] leads a fresh scheduler through the recording of a server, call by call; [`ReplayExecutor`] stands in for the
//! executor of a run in virtual time. Both stop at the first plan that differs and name the difference.

mod calls;
mod difference;
mod executor;
mod file;

pub use calls::{CallError, Replay};
pub use executor::{RecordedStep, Recorder, Recording, ReplayExecutor};
pub use file::{ReplayError, Replayed, replay};
