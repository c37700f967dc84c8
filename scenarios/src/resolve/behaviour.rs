//! What the people behind requests do: they talk in sessions, and they hang up.

use std::time::Duration;

use toml::Spanned;

use super::workload::{distribution, need, only};
use super::{in_range, out_of_range};
use crate::error::{Finding, unknown_value};
use crate::scenario::{AbandonTable, SessionsTable, TimeTable, TurnsTable, WorkloadTable};
use crate::spec::{AbandonSpec, LengthSpec, PatienceSpec, SessionSpec, TimeDist, TurnCount};
use crate::units::DurationText;

pub const TURN_DISTRIBUTIONS: [&str; 3] = ["fixed", "uniform", "geometric"];
pub const TIME_DISTRIBUTIONS: [&str; 3] = ["fixed", "exponential", "lognormal"];

const MAX_TURNS: u32 = 10_000;

pub(super) fn sessions(workload: &WorkloadTable) -> Result<Option<SessionSpec>, Finding> {
    let Some(written) = &workload.sessions else { return Ok(None) };
    let arrivals = workload.arrivals.get_ref();
    if let Some(load) = &arrivals.load {
        return Err(Finding::new(
            load.span(),
            "load is a share of the requests/s that a target can take, and sessions arrive here",
        )
        .label("not with `sessions`")
        .help("write rate = 0.5 (sessions per second) or users = 8 (each in one session after the other)"));
    }
    if let Some(process) = arrivals.process.as_ref().filter(|process| process.get_ref() == "trace") {
        return Err(Finding::new(
            process.span(),
            "a trace has the times of requests, and sessions arrive here",
        )
        .label("not with `sessions`"));
    }
    let SessionsTable { turns, think_time } = written.get_ref();
    let think_time = match think_time {
        Some(written) => time(written)?,
        None => TimeDist::Fixed { time: Duration::ZERO },
    };
    Ok(Some(SessionSpec { turns: turn_count(turns)?, think_time }))
}

pub(super) fn abandonment(workload: &WorkloadTable) -> Result<Option<AbandonSpec>, Finding> {
    let Some(written) = &workload.abandon else { return Ok(None) };
    let AbandonTable { share, after_tokens, after } = written.get_ref();
    let value = *share.get_ref();
    if !(0.0..=1.0).contains(&value) {
        return Err(out_of_range(share.span(), "abandon.share", value, "must be from 0 to 1".into()));
    }
    let patience = match (after_tokens, after) {
        (Some(tokens), None) => PatienceSpec::Tokens { tokens: distribution(tokens)? },
        (None, Some(written)) => PatienceSpec::Time { time: time(written)? },
        _ => {
            return Err(Finding::new(written.span(), "abandon needs exactly one of after_tokens and after").help(
                "after_tokens = { distribution = \"uniform\", min = 1, max = 50 } hangs up with so many tokens, \
                 after = { distribution = \"fixed\", time = \"2s\" } at that time after the request was due",
            ));
        }
    };
    Ok(Some(AbandonSpec { share: value, patience }))
}

fn turn_count(table: &Spanned<TurnsTable>) -> Result<TurnCount, Finding> {
    let TurnsTable { distribution, count, min, max, mean } = table.get_ref();
    let kind = distribution.get_ref().as_str();
    let accepted: &[&str] = match kind {
        "fixed" => &["count"],
        "uniform" => &["min", "max"],
        "geometric" => &["mean"],
        _ => return Err(unknown_value(distribution.span(), "distribution", kind, &TURN_DISTRIBUTIONS)),
    };
    let written = [
        ("count", count.as_ref().map(Spanned::span)),
        ("min", min.as_ref().map(Spanned::span)),
        ("max", max.as_ref().map(Spanned::span)),
        ("mean", mean.as_ref().map(Spanned::span)),
    ];
    only(&written, accepted, &format!("distribution \"{kind}\""))?;
    let turns = |value: &Option<Spanned<u32>>, name: &str| {
        in_range(need(value, table.span(), name)?, &format!("turns.{name}"), 1, MAX_TURNS)
    };
    match kind {
        "fixed" => Ok(TurnCount::Fixed { turns: turns(count, "count")? }),
        "uniform" => {
            let (min, max) = (turns(min, "min")?, turns(max, "max")?);
            if min > max {
                return Err(Finding::new(table.span(), format!("min {min} is larger than max {max}")));
            }
            Ok(TurnCount::Uniform { min, max })
        }
        _ => {
            let written = need(mean, table.span(), "mean")?;
            let mean = *written.get_ref();
            if !(1.0..=f64::from(MAX_TURNS)).contains(&mean) {
                let range = format!("must be from 1 to {MAX_TURNS}");
                return Err(out_of_range(written.span(), "turns.mean", mean, range));
            }
            Ok(TurnCount::Geometric { mean })
        }
    }
}

fn time(table: &Spanned<TimeTable>) -> Result<TimeDist, Finding> {
    let TimeTable { distribution, time, mean, median, p95 } = table.get_ref();
    let kind = distribution.get_ref().as_str();
    let accepted: &[&str] = match kind {
        "fixed" => &["time"],
        "exponential" => &["mean"],
        "lognormal" => &["median", "p95"],
        _ => return Err(unknown_value(distribution.span(), "distribution", kind, &TIME_DISTRIBUTIONS)),
    };
    let written = [
        ("time", time.as_ref().map(Spanned::span)),
        ("mean", mean.as_ref().map(Spanned::span)),
        ("median", median.as_ref().map(Spanned::span)),
        ("p95", p95.as_ref().map(Spanned::span)),
    ];
    only(&written, accepted, &format!("distribution \"{kind}\""))?;
    let duration = |value: &Option<Spanned<DurationText>>, name| {
        need(value, table.span(), name).map(|written| written.get_ref().0)
    };
    match kind {
        "fixed" => Ok(TimeDist::Fixed { time: duration(time, "time")? }),
        "exponential" => Ok(TimeDist::Exponential { mean: duration(mean, "mean")? }),
        _ => {
            let (median, p95) = (duration(median, "median")?, duration(p95, "p95")?);
            if median.is_zero() || p95 < median {
                let message = format!("median {median:?} and p95 {p95:?} are of no lognormal distribution");
                return Err(Finding::new(table.span(), message).label("must be 0 < median <= p95"));
            }
            Ok(TimeDist::Lognormal { median, p95 })
        }
    }
}

/// A conversation takes its lengths in the order of its turns; a trace has requests of no order.
pub(super) fn fits_lengths(workload: &WorkloadTable, lengths: &LengthSpec) -> Result<(), Finding> {
    match (&workload.sessions, lengths) {
        (Some(sessions), LengthSpec::Trace { .. }) => {
            Err(Finding::new(sessions.span(), "the rows of a trace are requests, not turns of sessions")
                .help("write lengths = { ... } or traffic = \"...\" in place of trace"))
        }
        _ => Ok(()),
    }
}
