//! A server whose timing is known: it answers when its configuration says, writes down when it did, and misbehaves on
//! request. The client is checked against it.
//!
//! Knows: the streamed protocols of docs/protocols.md on the wire, over HTTP, TLS and a WebSocket, a timetable, faults, the load generator's clock and timer.
//! Must not know: an engine, scenarios, metrics, or how the client reads what it is sent.
//!
//! Reading order: [`timing`] (when), [`fault`] (what goes wrong), `alarm` (waiting for many moments at once), `stream`, `http`,
//! `answering`, `openai` and `dialects` (bytes in, bytes out), `connection` and `sending`, `websocket`, `reading` (embeddings), [`server`], [`log`] (the truth), [`accuracy`] (a run beside it).

pub mod accuracy;
pub mod affinity;
mod alarm;
mod answering;
mod connection;
mod dialects;
pub mod fault;
mod http;
pub mod log;
mod openai;
mod reading;
mod sending;
pub mod server;
mod stream;
pub mod timing;
mod websocket;

pub use accuracy::{Accuracy, compare};
pub use fault::{Fault, Faults};
pub use log::Served;
pub use server::{Mock, MockConfig, serve};
pub use stream::Certificate;
pub use timing::{Jitter, Stall, Timing};
