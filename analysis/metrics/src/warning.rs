//! What a reader must know before believing a number, and what to do about it.

use std::fmt;

use llmlab_results::manifest::RunStatus;
use serde::Serialize;

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Warning {
    NoTrials,
    NothingMeasured {
        trial: String,
        recorded: u64,
        warmup: u64,
    },
    NothingSucceeded {
        trial: String,
        measured: u64,
    },
    Failures {
        trial: String,
        failed: u64,
        measured: u64,
    },
    Interrupted {
        trial: String,
        cancelled: u64,
    },
    OneRepeat,
    Unpaired {
        target: String,
    },
    FewRequests {
        measured: u64,
    },
    /// No repeat has the latency that a limit is on, a TPOT of answers that came in one event for example.
    SloNotJudged {
        target: String,
        limit: String,
    },
    /// Stopped, killed or failed before its last trial.
    RunNotComplete {
        status: RunStatus,
    },
    WrongLength {
        target: String,
        requests: u64,
    },
    /// Prompts are of another length than asked, by the server's count.
    PromptLengths {
        target: String,
        off: u64,
        counted: u64,
        median_off: u32,
        most_off: u32,
    },
    CountsFromChunks {
        target: String,
        requests: u64,
    },
    CoalescedTokens {
        target: String,
        tokens_per_event: f64,
    },
    ClockBackwards {
        trial: String,
        records: u64,
    },
    Diverging {
        trial: String,
        early_ttft_ms: f64,
        late_ttft_ms: f64,
    },
    LoopDelayNearItl {
        trial: String,
        loop_delay_ms: f64,
        itl_ms: f64,
    },
    HostNotCalibrated,
    RooflineExceeded {
        target: String,
        share: f64,
    },
    RooflineThreads {
        target: String,
        calibrated: u32,
        used: u32,
    },
    UnknownTarget {
        target: String,
    },
    ClientNotCalibrated {
        why: String,
    },
}

impl Warning {
    /// The trial it is about; several trials of a target often share a warning.
    pub fn trial(&self) -> Option<&str> {
        match self {
            Warning::NothingMeasured { trial, .. }
            | Warning::NothingSucceeded { trial, .. }
            | Warning::Failures { trial, .. }
            | Warning::Interrupted { trial, .. }
            | Warning::ClockBackwards { trial, .. }
            | Warning::Diverging { trial, .. }
            | Warning::LoopDelayNearItl { trial, .. } => Some(trial),
            _ => None,
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::NoTrials => write!(f, "No measured trial was recorded: run the scenario again."),
            Warning::NothingMeasured { trial, recorded, warmup } => write!(
                f,
                "{trial}: all {recorded} recorded requests belong to the warm-up ({warmup} requests): raise `requests` or lower the warm-up."
            ),
            Warning::NothingSucceeded { trial, measured } => {
                write!(
                    f,
                    "{trial}: none of {measured} measured requests succeeded: fix the errors listed and run again."
                )
            }
            Warning::Failures { trial, failed, measured } => write!(
                f,
                "{trial}: {failed} of {measured} measured requests failed. Latency percentiles count them as infinite; throughput leaves them out. See the errors."
            ),
            Warning::Interrupted { trial, cancelled } => write!(
                f,
                "{trial}: stopped early ({cancelled} requests cancelled in flight): what remains leans towards short requests. Run again for a result."
            ),
            Warning::OneRepeat => write!(
                f,
                "Every target ran once: differences have no interval and may be noise. Set `[compare] repeats = 3` or more."
            ),
            Warning::Unpaired { target } => write!(
                f,
                "{target}: no repeat was completed by both this target and the baseline, so they are not compared. Run again."
            ),
            Warning::SloNotJudged { target, limit } => {
                write!(
                    f,
                    "{target}: nothing was measured that {limit} could be judged by; it counts as neither met nor missed."
                )
            }
            Warning::RunNotComplete { status } => {
                let how = match status {
                    RunStatus::Running => "was killed, or is still going on",
                    RunStatus::Interrupted => "was interrupted",
                    RunStatus::Failed => "failed",
                    RunStatus::Complete => "is complete",
                };
                write!(
                    f,
                    "The run {how}: trials may be missing, so it is UNTRUSTED. Run it again for a verdict."
                )
            }
            Warning::FewRequests { measured } => write!(
                f,
                "{measured} measured requests per trial: a p99 then rests on one or two of them. Use at least 1000 to judge p99, 100 for p95."
            ),
            Warning::WrongLength { target, requests } => write!(
                f,
                "{target}: {requests} answers had another length than asked. The server may not honour `ignore_eos`; compare tokens per second with care."
            ),
            Warning::PromptLengths { target, off, counted, median_off, most_off } => write!(
                f,
                "{target}: {off} of {counted} prompts had another length than asked, by the server's count: {median_off} tokens off in the median of all, {most_off} at most."
            ),
            Warning::CountsFromChunks { target, requests } => write!(
                f,
                "{target}: for {requests} requests tokens were counted as one per event, because the server sent no usage. Switch on usage in streams, or use a tokenizer."
            ),
            Warning::CoalescedTokens { target, tokens_per_event } => write!(
                f,
                "{target}: {tokens_per_event:.1} tokens arrived per event, so single gaps are not seen. Compare TPOT, not ITL."
            ),
            Warning::ClockBackwards { trial, records } => write!(
                f,
                "{trial}: {records} records have a later stage before an earlier one; those values were left out. Report this as a bug."
            ),
            Warning::Diverging { trial, early_ttft_ms, late_ttft_ms } => write!(
                f,
                "{trial}: TTFT grew from {early_ttft_ms:.0} ms to {late_ttft_ms:.0} ms over the run: more arrives than the server can serve, so latency depends on the length of the run. Lower the rate to judge latency."
            ),
            Warning::LoopDelayNearItl { trial, loop_delay_ms, itl_ms } => write!(
                f,
                "{trial}: the client's own timing jitter (p99 {loop_delay_ms:.1} ms) is as large as half the token gap (p50 {itl_ms:.1} ms). Trust TPOT more than ITL percentiles."
            ),
            Warning::HostNotCalibrated => {
                write!(
                    f,
                    "No roofline was measured on this host: run `llmlab calibrate` to see how much of it is used."
                )
            }
            Warning::RooflineExceeded { target, share } => write!(
                f,
                "{target}: {:.0} % of the roofline is more than possible: the calibration was disturbed, or weights stay in cache. Run `llmlab calibrate` on a quiet machine.",
                share * 100.0
            ),
            Warning::RooflineThreads { target, calibrated, used } => write!(
                f,
                "{target}: ran with {used} threads, but the host was calibrated with {calibrated}: run `llmlab calibrate` with the same number."
            ),
            Warning::ClientNotCalibrated { why } => write!(
                f,
                "The client could not be checked against our timing server: {why}. Ask `llmlab doctor --client`."
            ),
            Warning::UnknownTarget { target } => {
                write!(
                    f,
                    "{target}: trials of this name exist but the manifest lists no such target; the run's files may be mixed up."
                )
            }
        }
    }
}
