//! `[workload]`: lengths, counts and arrival times.

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use toml::Spanned;

use super::{behaviour, beside, in_range, out_of_range, positive, processes, sharing};
use crate::error::{Finding, unknown_value};
use crate::scenario::{
    ArrivalsTable, DistributionTable, LengthsTable, ScaleTable, TimeoutsTable, WorkloadTable,
};
use crate::spec::{
    ArrivalSpec, LengthDist, LengthSpec, QuantileTable, RateSpec, TimeoutSpec, TraceRow, WarmupSpec,
    WorkloadSpec,
};
use crate::trace;
use crate::traffic::{self, NativeArrivals, Traffic};
use crate::units::DurationText;

pub const DISTRIBUTIONS: [&str; 4] = ["fixed", "uniform", "lognormal", QUANTILES];
pub(super) const QUANTILES: &str = "quantiles";
pub const PROCESSES: [&str; 10] =
    ["poisson", "gamma", "constant", "closed", "trace", "native", "mmpp", "diurnal", "phases", "clients"];

pub(super) const MAX_REQUESTS: u32 = 10_000_000;
pub(super) const MAX_TOKENS: u32 = 10_000_000;
const DEFAULT_RANGE: (u32, u32) = (1, 131_072);

pub(super) fn resolve(table: &Spanned<WorkloadTable>, base: &Path) -> Result<WorkloadSpec, Finding> {
    let workload = table.get_ref();
    let written = workload.requests.as_ref().map(|n| in_range(n, "requests", 1, MAX_REQUESTS)).transpose()?;
    let (lengths, published) = lengths(table, written, base)?;
    behaviour::fits_lengths(workload, &lengths)?;
    let arrivals = arrivals(&workload.arrivals, &lengths, published.as_ref(), written)?;
    let requests = match (&lengths, written, processes::requests_of_phases(&arrivals)) {
        (_, Some(requests), _) => requests,
        (LengthSpec::Trace { rows, .. }, None, _) => rows.len() as u32,
        (_, None, Some(requests)) if requests <= MAX_REQUESTS => requests,
        (_, None, Some(requests)) => {
            let range = format!("must be from 1 to {MAX_REQUESTS}");
            return Err(out_of_range(
                workload.arrivals.span(),
                "the number of requests in the phases",
                requests,
                range,
            ));
        }
        (_, None, None) => {
            return Err(Finding::new(table.span(), "the workload does not say how many requests to send")
                .help("e.g. requests = 300"));
        }
    };
    let scale = |pick: fn(&ScaleTable) -> &Option<Spanned<f64>>, name| {
        workload
            .scale
            .as_ref()
            .and_then(|s| pick(s).as_ref())
            .map_or(Ok(1.0), |factor| positive(factor, name, 1000.0))
    };
    Ok(WorkloadSpec {
        scale_input: scale(|s| &s.input, "scale.input")?,
        scale_output: scale(|s| &s.output, "scale.output")?,
        input_range: token_range(&workload.input_range, "input_range")?,
        output_range: token_range(&workload.output_range, "output_range")?,
        requests,
        warmup: warmup(&workload.warmup, requests)?,
        arrivals,
        shared_prefix_tokens: workload.shared_prefix_tokens.unwrap_or(0),
        prefixes: sharing::prefixes(workload)?,
        adapters: sharing::adapters(workload, base)?,
        sessions: behaviour::sessions(workload)?,
        abandon: behaviour::abandonment(workload)?,
        timeout: timeouts(&workload.timeouts)?,
        lengths,
    })
}

fn lengths(
    table: &Spanned<WorkloadTable>,
    requests: Option<u32>,
    base: &Path,
) -> Result<(LengthSpec, Option<Traffic>), Finding> {
    let workload = table.get_ref();
    match (&workload.traffic, &workload.trace, &workload.lengths) {
        (Some(name), None, None) => {
            let Some(traffic) = traffic::find(name.get_ref()) else {
                return Err(unknown_value(name.span(), "traffic", name.get_ref(), &traffic::NAMES));
            };
            let lengths = LengthSpec::Quantiles {
                name: traffic.name.clone(),
                input: traffic.input.table(),
                output: traffic.output.table(),
                rank_correlation: traffic.correlation.rank,
                source: format!("{}; {}", traffic.source, traffic.licence),
            };
            Ok((lengths, Some(traffic)))
        }
        (None, Some(path), None) => {
            let file = beside(base, path.get_ref());
            let rows = trace::read(&file, requests).map_err(|why| Finding::sentence(path.span(), &why))?;
            Ok((LengthSpec::Trace { path: file.display().to_string(), rows }, None))
        }
        (None, None, Some(both)) => Ok((written_lengths(both)?, None)),
        (None, None, None) => {
            Err(Finding::new(table.span(), "the workload does not say how long requests are").help(format!(
                "write one of: traffic = \"{}\", trace = \"<file>\", lengths = {{ ... }}",
                traffic::NAMES[0]
            )))
        }
        (traffic, trace, _) => {
            let first = traffic.as_ref().or(trace.as_ref()).map_or(table.span(), Spanned::span);
            Err(Finding::new(first, "more than one of traffic, trace and lengths").help("keep one of them"))
        }
    }
}

fn written_lengths(both: &LengthsTable) -> Result<LengthSpec, Finding> {
    let is_table = |side: &Spanned<DistributionTable>| side.get_ref().distribution.get_ref() == QUANTILES;
    match (is_table(&both.input), is_table(&both.output), &both.rank_correlation) {
        (true, true, correlation) => {
            let rank_correlation = correlation.as_ref().map_or(0.0, |written| *written.get_ref());
            if let (Some(written), false) = (correlation, (-1.0..=1.0).contains(&rank_correlation)) {
                let range = "must be from -1 to 1".to_string();
                return Err(out_of_range(written.span(), "rank_correlation", rank_correlation, range));
            }
            Ok(LengthSpec::Quantiles {
                name: "quantiles".into(),
                input: quantiles(&both.input)?,
                output: quantiles(&both.output)?,
                rank_correlation,
                source: "tables of the scenario itself".into(),
            })
        }
        (false, false, None) => Ok(LengthSpec::Distributions {
            input: distribution(&both.input)?,
            output: distribution(&both.output)?,
        }),
        (input, _, None) => {
            let other = if input { &both.output } else { &both.input };
            Err(Finding::new(other.get_ref().distribution.span(), "only one of the two lengths is quantiles")
                .label("must be quantiles too"))
        }
        (_, _, Some(written)) => {
            Err(Finding::new(written.span(), "rank_correlation needs quantiles on both sides")
                .label("would be ignored"))
        }
    }
}

fn quantiles(table: &Spanned<DistributionTable>) -> Result<QuantileTable, Finding> {
    only(&written_keys(table.get_ref()), &["values"], "distribution \"quantiles\"")?;
    let written = need(&table.get_ref().values, table.span(), "values")?;
    let usable =
        |values: &[f64; 11]| values.is_sorted() && values[0] >= 1.0 && values[10] <= f64::from(MAX_TOKENS);
    match <[f64; 11]>::try_from(written.get_ref().as_slice()) {
        Ok(values) if usable(&values) => Ok(QuantileTable { values }),
        _ => Err(Finding::new(written.span(), "the quantiles are not usable")
            .label(format!("must be 11 lengths from 1 to {MAX_TOKENS}, none smaller than the one before"))
            .help("at probabilities 0, .01, .05, .10, .25, .50, .75, .90, .95, .99, 1")),
    }
}

fn written_keys(table: &DistributionTable) -> [(&'static str, Option<Range<usize>>); 6] {
    let DistributionTable { distribution: _, tokens, min, max, median, p95, values } = table;
    [
        ("tokens", tokens.as_ref().map(Spanned::span)),
        ("min", min.as_ref().map(Spanned::span)),
        ("max", max.as_ref().map(Spanned::span)),
        ("median", median.as_ref().map(Spanned::span)),
        ("p95", p95.as_ref().map(Spanned::span)),
        ("values", values.as_ref().map(Spanned::span)),
    ]
}

pub(super) fn distribution(table: &Spanned<DistributionTable>) -> Result<LengthDist, Finding> {
    let DistributionTable { distribution, tokens, min, max, median, p95, values: _ } = table.get_ref();
    let kind = distribution.get_ref().as_str();
    let accepted: &[&str] = match kind {
        "fixed" => &["tokens"],
        "uniform" => &["min", "max"],
        "lognormal" => &["median", "p95"],
        _ => return Err(unknown_value(distribution.span(), "distribution", kind, &DISTRIBUTIONS)),
    };
    only(&written_keys(table.get_ref()), accepted, &format!("distribution \"{kind}\""))?;
    let count =
        |value: &Option<Spanned<u32>>, name| in_range(need(value, table.span(), name)?, name, 1, MAX_TOKENS);
    let number = |value: &Option<Spanned<f64>>, name| {
        positive(need(value, table.span(), name)?, name, MAX_TOKENS.into())
    };
    match kind {
        "fixed" => Ok(LengthDist::Fixed { tokens: count(tokens, "tokens")? }),
        "uniform" => {
            let (shortest, longest) = (count(min, "min")?, count(max, "max")?);
            if shortest > longest {
                return Err(Finding::new(
                    table.span(),
                    format!("min {shortest} is larger than max {longest}"),
                ));
            }
            Ok(LengthDist::Uniform { min: shortest, max: longest })
        }
        _ => {
            let (median, p95) = (number(median, "median")?, number(p95, "p95")?);
            if p95 < median {
                return Err(Finding::new(
                    table.span(),
                    format!("p95 {p95} is smaller than the median {median}"),
                ));
            }
            Ok(LengthDist::Lognormal { median, p95 })
        }
    }
}

fn token_range(range: &Option<Spanned<(u32, u32)>>, name: &str) -> Result<(u32, u32), Finding> {
    let Some(written) = range else { return Ok(DEFAULT_RANGE) };
    let (min, max) = *written.get_ref();
    if min == 0 || min > max || max > MAX_TOKENS {
        return Err(Finding::new(written.span(), format!("{name} is [{min}, {max}]"))
            .label(format!("must be [min, max] with 1 <= min <= max <= {MAX_TOKENS}")));
    }
    Ok((min, max))
}

pub(super) fn warmup(warmup: &Option<Spanned<u32>>, requests: u32) -> Result<WarmupSpec, Finding> {
    let Some(written) = warmup else { return Ok(WarmupSpec::Auto) };
    let count = *written.get_ref();
    if count >= requests {
        let range = format!("must be less than requests, {requests}");
        return Err(out_of_range(written.span(), "warmup", count, range));
    }
    Ok(WarmupSpec::Requests { count })
}

fn arrivals(
    table: &Spanned<ArrivalsTable>,
    lengths: &LengthSpec,
    traffic: Option<&Traffic>,
    requests: Option<u32>,
) -> Result<ArrivalSpec, Finding> {
    let ArrivalsTable { process, cv, users, think_time, speed, jitter, .. } = table.get_ref();
    let name = match process {
        Some(written) => written.get_ref().as_str(),
        None if users.is_some() => "closed",
        None => "poisson",
    };
    let accepted: &[&str] = match name {
        "poisson" | "constant" | "native" => &["rate", "load"],
        "gamma" => &["rate", "load", "cv"],
        "closed" => &["users", "think_time"],
        "trace" => &["speed", "jitter"],
        "mmpp" => &["rate", "load", "rates", "burst_ratio", "dwell"],
        "diurnal" => &["rate", "load", "amplitude", "hourly", "period", "peak", "speed"],
        "phases" => &["rate", "load", "phases"],
        "clients" => {
            &["rate", "load", "clients", "like", "exponent", "offset", "cv", "cv_mean", "weibull_share"]
        }
        _ => {
            let span = process.as_ref().map_or(table.span(), Spanned::span);
            return Err(unknown_value(span, "process", name, &PROCESSES));
        }
    };
    only(&processes::spans(table.get_ref()), accepted, &format!("process \"{name}\""))?;
    match name {
        "closed" => {
            let users = in_range(need(users, table.span(), "users")?, "users", 1, 100_000)?;
            Ok(ArrivalSpec::Closed {
                users,
                think_time: think_time.as_ref().map_or(Duration::ZERO, |t| t.get_ref().0),
            })
        }
        "trace" => {
            let speed = speed.as_ref().map_or(Ok(1.0), |s| positive(s, "speed", 1e6))?;
            trace_times(lengths, requests).map_err(|why| Finding::sentence(table.span(), &why))?;
            let jitter = jitter.as_ref().map_or(Duration::ZERO, |written| written.get_ref().0);
            Ok(ArrivalSpec::Trace { speed, jitter })
        }
        "mmpp" => processes::mmpp(table),
        "diurnal" => processes::diurnal(table),
        "phases" => processes::phases(table),
        "clients" => processes::clients(table),
        "poisson" => Ok(ArrivalSpec::Poisson { rate: rate_spec(table)? }),
        "constant" => Ok(ArrivalSpec::Constant { rate: rate_spec(table)? }),
        "gamma" => {
            let cv = positive(need(cv, table.span(), "cv")?, "cv", 100.0)?;
            Ok(ArrivalSpec::Gamma { rate: rate_spec(table)?, cv })
        }
        _ => match traffic {
            Some(Traffic { arrivals: NativeArrivals { mmpp: Some(states), .. }, .. }) => {
                Ok(processes::native_mmpp(states, rate_spec(table)?))
            }
            Some(Traffic { arrivals: NativeArrivals { cv: Some(cv), .. }, .. }) => {
                Ok(ArrivalSpec::Gamma { rate: rate_spec(table)?, cv: *cv })
            }
            Some(_) => {
                Err(Finding::new(table.span(), "nobody measured when the requests of this traffic came")
                    .help("choose another process, e.g. poisson"))
            }
            None => Err(Finding::new(
                table.span(),
                "process \"native\" needs `traffic`, whose publisher measured it",
            )),
        },
    }
}

pub(super) fn rate_spec(table: &Spanned<ArrivalsTable>) -> Result<RateSpec, Finding> {
    let ArrivalsTable { rate, load, .. } = table.get_ref();
    match (rate, load) {
        (Some(rate), None) => Ok(RateSpec::PerSecond { rps: positive(rate, "rate", 1e6)? }),
        (None, Some(load)) => Ok(RateSpec::Load { share: positive(load, "load", 2.0)? }),
        (Some(_), Some(second)) => Err(Finding::new(second.span(), "rate and load both set how often requests are sent")
            .label("the second of the two")
            .help("rate is requests per second; load is a share of the measured saturation, e.g. 0.7")),
        (None, None) => Err(Finding::new(table.span(), "arrivals do not say how often requests are sent").help(
            "write rate = 12.0 (requests per second), load = 0.7 (share of the measured saturation) or users = 32",
        )),
    }
}

fn trace_times(lengths: &LengthSpec, requests: Option<u32>) -> Result<(), String> {
    let LengthSpec::Trace { rows, .. } = lengths else {
        return Err("process \"trace\" needs `trace = \"<file>\"`".into());
    };
    if rows.iter().any(|TraceRow { arrival_s, .. }| arrival_s.is_none()) {
        return Err("the trace has no arrival times; use another process".into());
    }
    if let Some(requests) = requests.filter(|requests| (rows.len() as u64) < u64::from(*requests)) {
        return Err(format!("the trace has arrival times for {} requests, not for {requests}", rows.len()));
    }
    Ok(())
}

pub(super) fn timeouts(table: &TimeoutsTable) -> Result<TimeoutSpec, Finding> {
    let timeout = |value: &Option<Spanned<DurationText>>, name: &str, default_s: u64| match value {
        None => Ok(Duration::from_secs(default_s)),
        Some(written) if written.get_ref().0.is_zero() => {
            Err(Finding::new(written.span(), format!("{name} timeout is zero"))
                .label("every request would fail"))
        }
        Some(written) => Ok(written.get_ref().0),
    };
    Ok(TimeoutSpec {
        connect: timeout(&table.connect, "connect", 5)?,
        first_token: timeout(&table.first_token, "first_token", 120)?,
        inter_token: timeout(&table.inter_token, "inter_token", 60)?,
        total: timeout(&table.total, "total", 600)?,
    })
}

pub(super) fn need<'a, T>(
    value: &'a Option<Spanned<T>>,
    table: Range<usize>,
    name: &str,
) -> Result<&'a Spanned<T>, Finding> {
    value.as_ref().ok_or_else(|| Finding::new(table, format!("`{name}` is missing")))
}

/// A key that another kind would have understood must not be ignored silently.
pub(super) fn only(
    written: &[(&str, Option<Range<usize>>)],
    accepted: &[&str],
    of: &str,
) -> Result<(), Finding> {
    for (name, span) in written {
        if let Some(span) = span
            && !accepted.contains(name)
        {
            return Err(Finding::new(span.clone(), format!("{of} has no `{name}`"))
                .label("would be ignored")
                .help(format!("accepted with {of}: {}", accepted.join(", "))));
        }
    }
    Ok(())
}
