//! Where you see it: [`snapshot::Snapshot`] in, panels out. Knows no engine, no files and no network.
//!
//! ```text
//! ┌ llmlab: vllm-vs-tgi ─────────────────────────────────────────┐  panels/header.rs
//! │ vllm: measuring, repeat 2 of 3         0:41, about 0:25 left │
//! │ ████████████████████████                        62 %         │
//! ┌ Targets ─────────────────────────────────────────────────────┐  panels/targets.rs
//! │  target  phase    done     fail fly TTFT    TPOT   tok/s ... │
//! │> vllm    running  120/300  0    12  45/210  12/40  3200      │
//! ┌ tok/s ─────────────┐┌ batch ────────────┐┌ KV % ─────────────┐  panels/charts.rs
//! │ ▁▂▄▆██▇▇           ││ ▁▃▅▇███           ││ ▁▁▂▃▄▄            │
//! ┌ Log ─────────────────────────────────────────────────────────┐  panels/log.rs
//! │ vllm is up after 0.4 s                                       │
//!  q leave  tab next target  ? help                                 panels/keys.rs
//! ```
//!
//! Reading order: [`snapshot`], `view` (layout), `panels/*` (one file each), [`app`] (the loop), [`plain`] (without a
//! terminal), `text` and `theme` (helpers). Panels are pure functions of a snapshot, so tests draw them into memory.

pub mod app;
pub mod plain;
pub mod snapshot;
pub mod view;

mod panels;
mod text;
mod theme;

pub use app::{Leave, run};
pub use theme::Theme;
