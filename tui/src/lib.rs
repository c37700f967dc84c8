//! Where you see it: [`snapshot::Snapshot`] in, panels out. Knows no engine, no files and no network.

pub mod snapshot;
