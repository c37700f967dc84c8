//! What happened. Records, step log, manifest and the crash-safe journal they are kept in.
//!
//! Knows no metric and no server. Reading order: [`record`], [`step`], [`manifest`].

pub mod manifest;
pub mod record;
pub mod step;
