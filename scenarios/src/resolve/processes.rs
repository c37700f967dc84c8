//! Arrival processes with more to say than a rate: bursts, days, phases, many clients.

use std::ops::Range;
use std::time::Duration;

use toml::{Spanned, Value};

use super::workload::{need, only, rate_spec};
use super::{in_range, out_of_range, positive};
use crate::client_mix;
use crate::error::{Finding, unknown_value};
use crate::scenario::{ArrivalsTable, PhaseTable};
use crate::spec::{ArrivalSpec, ClientMix, DayCurve, DwellSpec, PhaseSpec, RateSpec};
use crate::traffic::NativeMmpp;
use crate::units::DurationText;

const MAX_RATE: f64 = 1e6;
const MAX_CLIENTS: u32 = 100_000;
const MAX_PARTS: usize = 1000;
/// The load generator's own limits of a client's coefficient of variation.
const CV_RANGE: (f64, f64) = (0.05, 50.0);
const DAY: Duration = Duration::from_secs(24 * 3600);

type Table = Spanned<ArrivalsTable>;

pub(super) fn mmpp(table: &Table) -> Result<ArrivalSpec, Finding> {
    let ArrivalsTable { rates, burst_ratio, dwell, rate, load, .. } = table.get_ref();
    let written = need(dwell, table.span(), "dwell")?;
    let (calm, burst) = (written.get_ref().0.0, written.get_ref().1.0);
    if calm.is_zero() || burst.is_zero() {
        return Err(
            Finding::new(written.span(), "a dwell time is zero").help("e.g. dwell = [\"60s\", \"5s\"]")
        );
    }
    let mean_of = |rates: (f64, f64)| {
        let (calm, burst) = (calm.as_secs_f64(), burst.as_secs_f64());
        (rates.0 * calm + rates.1 * burst) / (calm + burst)
    };
    let (rate, rates) = match (rates, burst_ratio) {
        (Some(written), None) => {
            if let Some(second) = rate.as_ref().or(load.as_ref()) {
                return Err(Finding::new(second.span(), "rates fix the mean rate already")
                    .help("write rate or load with burst_ratio, or rates alone"));
            }
            let rates = *written.get_ref();
            let usable = |rate: f64| (0.0..=MAX_RATE).contains(&rate);
            if !usable(rates.0) || !usable(rates.1) || rates.0 + rates.1 <= 0.0 {
                return Err(Finding::new(written.span(), "the rates are not usable")
                    .label(format!("must be from 0 to {MAX_RATE}, not both 0")));
            }
            (RateSpec::PerSecond { rps: mean_of(rates) }, rates)
        }
        (None, Some(written)) => {
            let ratio = *written.get_ref();
            if !(1.0..=MAX_RATE).contains(&ratio) {
                let range = format!("must be from 1 to {MAX_RATE}");
                return Err(out_of_range(written.span(), "burst_ratio", ratio, range));
            }
            (rate_spec(table)?, (1.0, ratio))
        }
        _ => {
            return Err(Finding::new(table.span(), "mmpp needs exactly one of rates and burst_ratio")
                .help("e.g. rates = [2, 40], or rate = 5 with burst_ratio = 20"));
        }
    };
    let mean = mean_of(rates);
    let factors = (rates.0 / mean, rates.1 / mean);
    Ok(ArrivalSpec::Mmpp { rate, factors, dwell: DwellSpec::Time { calm, burst } })
}

/// The trace's own two states, at whatever rate.
pub(super) fn native_mmpp(states: &NativeMmpp, rate: RateSpec) -> ArrivalSpec {
    let NativeMmpp { rates_rps: [calm, burst], dwell_s: [calm_s, burst_s] } = *states;
    let mean = (calm * calm_s + burst * burst_s) / (calm_s + burst_s);
    let dwell = DwellSpec::MeanGaps { calm: calm_s * mean, burst: burst_s * mean };
    ArrivalSpec::Mmpp { rate, factors: (calm / mean, burst / mean), dwell }
}

pub(super) fn diurnal(table: &Table) -> Result<ArrivalSpec, Finding> {
    let ArrivalsTable { amplitude, hourly, period, peak, speed, .. } = table.get_ref();
    let speed = speed.as_ref().map_or(Ok(1.0), |speed| positive(speed, "speed", 1e6))?;
    let played = |written: &Option<Spanned<DurationText>>, name: &str| match written {
        None => Ok(None),
        Some(written) if written.get_ref().0.is_zero() && name == "period" => {
            Err(Finding::new(written.span(), "the period is zero"))
        }
        Some(written) => Ok(Some(written.get_ref().0.div_f64(speed))),
    };
    let period = played(period, "period")?.unwrap_or(DAY.div_f64(speed));
    if period.is_zero() {
        return Err(Finding::new(table.span(), "at this speed a day takes no time"));
    }
    let curve = match (amplitude, hourly) {
        (Some(written), None) => {
            let amplitude = *written.get_ref();
            if !(0.0..=1.0).contains(&amplitude) {
                return Err(out_of_range(
                    written.span(),
                    "amplitude",
                    amplitude,
                    "must be from 0 to 1".into(),
                ));
            }
            let peak = played(peak, "peak")?.unwrap_or(period / 2);
            DayCurve::Sine { amplitude, period, peak }
        }
        (None, Some(written)) => {
            if let Some(peak) = peak {
                return Err(Finding::new(peak.span(), "hourly rates say themselves when they are highest")
                    .label("would be ignored"));
            }
            let rates = written.get_ref();
            let sum: f64 = rates.iter().sum();
            let usable = rates.iter().all(|rate| (0.0..=MAX_RATE).contains(rate)) && sum > 0.0;
            if !usable || !(2..=MAX_PARTS).contains(&rates.len()) {
                return Err(Finding::new(written.span(), "the hourly rates are not usable")
                    .label(format!("must be 2 to {MAX_PARTS} numbers of 0 or more, not all 0")));
            }
            let mean = sum / rates.len() as f64;
            DayCurve::Parts { rates: rates.iter().map(|rate| rate / mean).collect(), period }
        }
        _ => {
            return Err(Finding::new(table.span(), "diurnal needs exactly one of amplitude and hourly")
                .help("e.g. amplitude = 0.6, peak = \"14h\", or hourly = [2, 1, 1, 3, ...]"));
        }
    };
    Ok(ArrivalSpec::Diurnal { rate: rate_spec(table)?, curve })
}

pub(super) fn phases(table: &Table) -> Result<ArrivalSpec, Finding> {
    let ArrivalsTable { phases, rate, load, .. } = table.get_ref();
    let written = need(phases, table.span(), "phases")?;
    if written.get_ref().is_empty() || written.get_ref().len() > MAX_PARTS {
        return Err(Finding::new(written.span(), format!("{} phases", written.get_ref().len()))
            .label(format!("must be from 1 to {MAX_PARTS}")));
    }
    let phases = written.get_ref().iter().map(phase).collect::<Result<Vec<_>, _>>()?;
    if phases.iter().all(|phase| phase.from + phase.to <= 0.0) {
        return Err(Finding::new(written.span(), "no phase sends anything"));
    }
    let rate = match (rate, load) {
        // What stands in the phases is requests per second.
        (None, None) => RateSpec::PerSecond { rps: 1.0 },
        _ => rate_spec(table)?,
    };
    Ok(ArrivalSpec::Phases { rate, phases })
}

fn phase(table: &Spanned<PhaseTable>) -> Result<PhaseSpec, Finding> {
    let PhaseTable { name, rate, time } = table.get_ref();
    let number = |value: &Value| match value {
        Value::Integer(number) => Some(*number as f64),
        Value::Float(number) => Some(*number),
        _ => None,
    };
    let ends = match rate.get_ref() {
        Value::Array(both) => match both.as_slice() {
            [from, to] => number(from).zip(number(to)),
            _ => None,
        },
        one => number(one).map(|rate| (rate, rate)),
    };
    let usable = |rate: f64| (0.0..=MAX_RATE).contains(&rate);
    let Some((from, to)) = ends.filter(|(from, to)| usable(*from) && usable(*to)) else {
        return Err(Finding::new(rate.span(), "the rate of a phase is not usable")
            .label(format!("must be a number or [from, to], from 0 to {MAX_RATE}")));
    };
    if time.get_ref().0.is_zero() {
        return Err(Finding::new(time.span(), "a phase that takes no time"));
    }
    Ok(PhaseSpec { name: name.clone(), from, to, duration: time.get_ref().0 })
}

/// How many requests one pass through the phases has, on average, where their rates are known.
pub(super) fn requests_of_phases(arrivals: &ArrivalSpec) -> Option<u32> {
    let ArrivalSpec::Phases { rate: RateSpec::PerSecond { rps }, phases } = arrivals else { return None };
    let area: f64 =
        phases.iter().map(|phase| (phase.from + phase.to) / 2.0 * phase.duration.as_secs_f64()).sum();
    // The cast saturates; too many are refused by whoever asked.
    Some(((area * rps).round() as u32).max(1))
}

pub(super) fn clients(table: &Table) -> Result<ArrivalSpec, Finding> {
    let ArrivalsTable { clients, like, exponent, offset, cv, cv_mean, weibull_share, .. } = table.get_ref();
    let rate = rate_spec(table)?;
    if let Some(name) = like {
        let of_its_own = [
            ("clients", clients.as_ref().map(Spanned::span)),
            ("exponent", exponent.as_ref().map(Spanned::span)),
            ("offset", offset.as_ref().map(Spanned::span)),
            ("cv", cv.as_ref().map(Spanned::span)),
            ("cv_mean", cv_mean.as_ref().map(Spanned::span)),
            ("weibull_share", weibull_share.as_ref().map(Spanned::span)),
        ];
        only(&of_its_own, &["like", "rate", "load"], "a published mix")?;
        let known = client_mix::all();
        let Some(mix) = known.iter().find(|mix| mix.name == *name.get_ref()) else {
            let names: Vec<&str> = known.iter().map(|mix| mix.name.as_str()).collect();
            return Err(unknown_value(name.span(), "mix of clients", name.get_ref(), &names));
        };
        return Ok(ArrivalSpec::Clients { rate, mix: mix.clone() });
    }
    let number = |value: &Option<Spanned<f64>>, name: &str, default: f64, range: (f64, f64)| match value {
        None => Ok(default),
        Some(written) if (range.0..=range.1).contains(written.get_ref()) => Ok(*written.get_ref()),
        Some(written) => {
            let words = format!("must be from {} to {}", range.0, range.1);
            Err(out_of_range(written.span(), name, *written.get_ref(), words))
        }
    };
    let count = in_range(need(clients, table.span(), "clients")?, "clients", 1, MAX_CLIENTS)?;
    let cv_median = number(cv, "cv", 1.0, CV_RANGE)?;
    Ok(ArrivalSpec::Clients {
        rate,
        mix: ClientMix {
            name: "of the scenario itself".into(),
            clients: count,
            exponent: number(exponent, "exponent", 1.0, (0.0, 10.0))?,
            offset: number(offset, "offset", 0.0, (0.0, 1e6))?,
            cv_median,
            cv_mean: number(cv_mean, "cv_mean", cv_median, (cv_median, CV_RANGE.1))?,
            weibull_share: number(weibull_share, "weibull_share", 0.0, (0.0, 1.0))?,
            note: String::new(),
        },
    })
}

/// Every key beside `process`, with its place where it is written.
pub(super) fn spans(table: &ArrivalsTable) -> [(&'static str, Option<Range<usize>>); 21] {
    fn of<T>(value: &Option<Spanned<T>>) -> Option<Range<usize>> {
        value.as_ref().map(Spanned::span)
    }
    [
        ("rate", of(&table.rate)),
        ("load", of(&table.load)),
        ("cv", of(&table.cv)),
        ("users", of(&table.users)),
        ("think_time", of(&table.think_time)),
        ("speed", of(&table.speed)),
        ("jitter", of(&table.jitter)),
        ("rates", of(&table.rates)),
        ("burst_ratio", of(&table.burst_ratio)),
        ("dwell", of(&table.dwell)),
        ("amplitude", of(&table.amplitude)),
        ("hourly", of(&table.hourly)),
        ("period", of(&table.period)),
        ("peak", of(&table.peak)),
        ("phases", of(&table.phases)),
        ("clients", of(&table.clients)),
        ("like", of(&table.like)),
        ("exponent", of(&table.exponent)),
        ("offset", of(&table.offset)),
        ("cv_mean", of(&table.cv_mean)),
        ("weibull_share", of(&table.weibull_share)),
    ]
}
