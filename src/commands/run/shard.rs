//! `llmlab run --shard I/N --start-at TIME`: one of several machines that send one schedule. Nothing is said between them; what
//! they share is the scenario, the number of shards and the moment of the start.

use std::time::Duration;

use llmlab_loadgen::shard::schedule_digest;
use llmlab_loadgen::{Secret, Shard, Workload};
use llmlab_results::manifest::{ClockOffset, ShardFacts, WorkloadFacts};
use llmlab_scenarios::spec::{EndpointSpec, RunSpec, TargetChoice};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use tokio_util::sync::CancellationToken;

use super::plan::{How, Plan};
use super::workload::load_share;
use crate::cli::RunArgs;
use crate::exit::Failure;
use crate::host;
use crate::target;

/// The start is taken over from the wall clock to the monotonic one this long before: late enough that a clock under
/// correction hardly moves in between, early enough to resolve the server's name.
const HAND_OVER: Duration = Duration::from_secs(1);
/// A start further away is a time in other units or of another day.
const LONGEST_WAIT: time::Duration = time::Duration::hours(24);
/// Servers write the date when a second begins, or keep one for about a second: it is never ahead and at most this old.
const DATE_AGE_MS: i64 = 2_000;
const DATE_PROBES: u32 = 5;
const DATE_PROBE_EVERY: Duration = Duration::from_millis(200);
/// A machine that is surely further from the server's clock than this has a clock that nobody sets.
const MOST_OFFSET_MS: i64 = 1_000;

/// This machine's part, and when it begins.
#[derive(Debug, Clone, Copy)]
pub struct ShardPlan {
    pub shard: Shard,
    pub start_at: OffsetDateTime,
}

impl ShardPlan {
    /// `None` without `--shard`.
    pub fn of(args: &RunArgs, plan: &Plan) -> Result<Option<ShardPlan>, Failure> {
        let (Some(shard), Some(start_at)) = (args.shard, args.start_at) else { return Ok(None) };
        can_be_shared(&plan.spec).map_err(|why| Failure::bad_input(format!("--shard: {why}")))?;
        let planned = ShardPlan { shard, start_at };
        if !args.explain {
            planned.still_to_come()?;
        }
        Ok(Some(planned))
    }

    fn still_to_come(&self) -> Result<(), Failure> {
        let ahead = self.start_at - host::wall_clock();
        if ahead.is_negative() {
            return Err(Failure::bad_input(format!(
                "--start-at {} passed {:.1} s ago by this machine's clock; choose a start that every shard can still make",
                host::rfc3339(self.start_at),
                -ahead.as_seconds_f64()
            )));
        }
        if ahead > LONGEST_WAIT {
            return Err(Failure::bad_input(format!(
                "--start-at {} is more than a day away by this machine's clock; accepted is a time within 24 hours",
                host::rfc3339(self.start_at)
            )));
        }
        Ok(())
    }

    /// This machine's requests, and what the manifest says of them. Asks the server for its clock, which takes a second.
    pub fn part(
        &self,
        plan: &Plan,
        whole: &Workload,
        facts: &WorkloadFacts,
    ) -> Result<(Workload, ShardFacts), Failure> {
        let part = self.shard.of(whole).map_err(|error| Failure::bad_input(format!("--shard: {error}")))?;
        let clock = match &plan.targets[0].how {
            How::Endpoint(spec) => clock_offset(spec)?,
            How::Engine { .. } | How::Command(_) | How::Simulate(_) => None,
        };
        let facts = ShardFacts {
            index: self.shard.index(),
            total: self.shard.total(),
            start_at: host::rfc3339(self.start_at),
            whole: facts.clone(),
            schedule_digest: schedule_digest(whole),
            clock,
        };
        Ok((part, facts))
    }

    /// Waits until shortly before the start and gives the start on the monotonic clock.
    pub fn wait(&self, cancel: &CancellationToken) -> Result<u64, Failure> {
        self.still_to_come()?;
        let tick = Duration::from_millis(100);
        loop {
            let (wall, monotonic_ns) = (host::wall_clock(), host::monotonic_ns());
            let ahead: Duration = (self.start_at - wall).try_into().unwrap_or_default();
            if ahead <= HAND_OVER || cancel.is_cancelled() {
                return Ok(monotonic_ns + ahead.as_nanos() as u64);
            }
            std::thread::sleep(tick.min(ahead - HAND_OVER));
        }
    }
}

/// What can be shared: one pass over one server that is up and that all shards reach. The error is the reason why not.
pub fn can_be_shared(spec: &RunSpec) -> Result<(), String> {
    let [target] = spec.targets.as_slice() else {
        return Err(format!(
            "the scenario has {} targets and shards can agree on one start only; keep one [[target]]",
            spec.targets.len()
        ));
    };
    let kind = match &target.kind {
        TargetChoice::Endpoint(_) => None,
        TargetChoice::Engine(_) => Some("an engine that each machine would start for itself"),
        TargetChoice::Command(_) => Some("a server that each machine would start for itself"),
        TargetChoice::Simulate(_) => Some("a simulation, which has no machines to share"),
    };
    if let Some(kind) = kind {
        return Err(format!(
            "target {} is {kind}; accepted is endpoint = {{ url = \"...\" }}, one server for all shards",
            target.name
        ));
    }
    if spec.workload.sessions.is_some() {
        return Err(
            "the workload has conversations, whose turns wait for each other; accepted are single requests"
                .into(),
        );
    }
    if spec.journey.is_some() {
        return Err("a journey's users live in one process; accepted is [workload]".into());
    }
    if spec.find.is_some() {
        return Err(
            "a search has many trials, but shards can agree on one start only; accepted is a rate or users"
                .into(),
        );
    }
    if spec.repeats != 1 {
        return Err(format!(
            "{} repeats, but shards can agree on one start only; use repeats = 1, and run again for each repeat",
            spec.repeats
        ));
    }
    match load_share(spec) {
        Some(_) => Err("arrivals with `load` need the saturation, which every machine would measure against the others; \
             find it with llmlab run on one machine and write `rate`"
            .into()),
        None => Ok(()),
    }
}

/// Where the server's clock is from here, from the dates of a few answers. An offset beyond [`MOST_OFFSET_MS`] is an error,
/// because then machines that are set right would begin at another moment.
fn clock_offset(spec: &EndpointSpec) -> Result<Option<ClockOffset>, Failure> {
    let key = target::api_key(spec)?;
    let mut seen: Option<ClockOffset> = None;
    for probe in 0..DATE_PROBES {
        if probe > 0 {
            std::thread::sleep(DATE_PROBE_EVERY);
        }
        let asked = host::wall_clock();
        let date = server_date(spec, key.as_ref())
            .map_err(|why| Failure::target(format!("{}: {why}; is the server up?", spec.url)))?;
        let answered = host::wall_clock();
        let Some(date) = date else { return Ok(seen) };
        let one = bounds(date, asked, answered);
        seen = Some(seen.map_or(one, |known| ClockOffset {
            least_ms: known.least_ms.max(one.least_ms),
            most_ms: known.most_ms.min(one.most_ms),
        }));
    }
    match seen {
        // A server with several machines behind it may have several clocks; then nothing is known.
        Some(offset) if offset.least_ms > offset.most_ms => Ok(None),
        Some(offset) if offset.least_ms > MOST_OFFSET_MS || offset.most_ms < -MOST_OFFSET_MS => {
            Err(Failure::target(format!(
                "this machine's clock is {:.1} s or more {} that of {}, so it would not begin together with the other shards; \
                 set both by NTP",
                offset.least_ms.max(-offset.most_ms) as f64 / 1e3,
                if offset.least_ms > 0 { "behind" } else { "ahead of" },
                spec.url
            )))
        }
        other => Ok(other),
    }
}

fn server_date(spec: &EndpointSpec, key: Option<&Secret>) -> Result<Option<OffsetDateTime>, String> {
    let ca_file = spec.ca_file.as_deref().map(std::path::Path::new);
    let text =
        llmlab_loadgen::date(&target::server_url(&spec.url, "/"), key, ca_file, target::CONTROL_TIMEOUT)?;
    Ok(text.and_then(|text| OffsetDateTime::parse(&text, &Rfc2822).ok()))
}

/// What one answer says: the date was written between asking and answering, and was up to [`DATE_AGE_MS`] old.
fn bounds(date: OffsetDateTime, asked: OffsetDateTime, answered: OffsetDateTime) -> ClockOffset {
    let ms = |d: time::Duration| d.whole_milliseconds().clamp(i64::MIN.into(), i64::MAX.into()) as i64;
    // Whole milliseconds cut towards zero: one more on either side keeps the truth inside.
    ClockOffset {
        least_ms: ms(date - answered).saturating_sub(1),
        most_ms: ms(date - asked).saturating_add(DATE_AGE_MS + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_header_bounds_the_offset_from_both_sides() {
        let date = OffsetDateTime::parse("Fri, 21 Nov 2025 10:00:07 GMT", &Rfc2822).unwrap();
        let at = |ms: i64| date + time::Duration::milliseconds(ms);
        // The server's clock is 5 s ahead: it wrote 10:00:07 when it was 10:00:07.400 there and 10:00:02.400 here.
        let offset = bounds(date, at(-4_620), at(-4_580));
        assert_eq!(offset, ClockOffset { least_ms: 4_579, most_ms: 6_621 });
        assert!(offset.least_ms <= 5_000 && 5_000 <= offset.most_ms);
    }
}
