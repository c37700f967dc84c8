//! How requests arrive, and what came back: builds a seeded workload, issues it on time over HTTP, and records raw
//! timestamps for every request, failed ones included.
//!
//! Knows wire protocols and clocks. Knows no metric (that is `llmlab-metrics`), no scenario file and no engine: a
//! target is a URL.
//!
//! Reading order, along the data path:
//! 1. [`workload`] (with [`lengths`], [`arrivals`], [`prompts`], [`prefix_tree`], [`popularity`], [`sessions`], [`abandon`], [`time_dist`], `streams`): what to send
//!    and when. Pure. [`shard`]: one schedule dealt out to several machines. Pure.
//! 2. [`issuer`]: the schedule as a state machine without a clock; [`conversations`]: what a turn's prompt has in it of the turns before.
//! 3. [`http1`], `protocols` (with `json_scan`), [`sse`], [`ndjson`], `framing`, `tally`, `answer`: bytes of a response to token events of a record. Pure.
//! 4. [`endpoint`], `http`, `connection`, `tls`, `client`, `websocket`: one request over one connection; `control`: questions outside the timed path.
//! 5. [`driver`] (with `clock`, `pacing`, `client_facts`, `fd_limit`): the wall clock, and the loop around it all.
//!    `exchange` and `transcript`: the same for a request that another HTTP client carries (`loadgen/journeys`).
//! 6. [`detect`]: which server answers, and so which protocol to speak. Pure.
//! 7. [`prometheus`], `scrape`, [`saturation`]: the server's own gauges, and how much load a server can take.
//! 8. `prompt_fit`, `tokenizer`: text prompts as long as they should be, by the server's own count.

pub mod abandon;
mod answer;
pub mod arrivals;
mod client;
mod client_facts;
mod clock;
mod connection;
mod control;
pub mod conversations;
pub mod detect;
pub mod driver;
pub mod endpoint;
mod exchange;
mod fd_limit;
mod framing;
mod http;
pub mod http1;
pub mod issuer;
mod json_scan;
pub mod lengths;
pub mod ndjson;
mod pacing;
pub mod popularity;
pub mod prefix_tree;
pub mod prometheus;
mod prompt_fit;
pub mod prompts;
mod protocols;
pub mod saturation;
mod scrape;
pub mod sessions;
pub mod shard;
pub mod sse;
mod streams;
mod tally;
pub mod time_dist;
mod tls;
mod tokenizer;
mod transcript;
mod websocket;
pub mod workload;

pub use abandon::{Abandonment, HangUp, Patience};
pub use arrivals::Arrivals;
pub use client::chain;
pub use client_facts::ClientWatch;
pub use clock::Clock;
pub use control::{date, get};
pub use conversations::{Conversations, Said};
pub use driver::{DriveError, DriveFacts, DriveOptions, Ended, Observer, Silent, drive, drive_with};
pub use endpoint::{Address, Endpoint, Protocol, Secret, Timeouts, request_id};
pub use exchange::Exchange;
pub use fd_limit::prepare_users;
pub use issuer::{At, Issuer};
pub use lengths::{LengthDist, Lengths, TraceRow};
pub use pacing::Pacer;
pub use popularity::Popularity;
pub use prefix_tree::PrefixTree;
pub use prompt_fit::{Fitted, Fitter, fit_prompts};
pub use prompts::PromptStyle;
pub use scrape::Scrape;
pub use sessions::{Sessions, Turn, TurnCount};
pub use shard::Shard;
pub use tally::Failure;
pub use time_dist::TimeDist;
pub use tls::{check_ca_file, tls_config};
pub use transcript::{Transcript, Turn as SaidTurn};
pub use workload::{
    Adapter, Adapters, Mode, PlannedRequest, Prefixes, Prompt, RequestShape, Workload, WorkloadConfig,
    WorkloadError, generate, shapes,
};
