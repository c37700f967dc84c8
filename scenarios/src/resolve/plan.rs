//! [`PlanFile`] to [`PlanSpec`]: defaults, ranges, and the busiest hour as the workload's rate.

use std::path::Path;

use toml::Spanned;

use super::{autoscale, find, in_range, positive, run_name, slo, traced_day, workload};
use crate::error::{Finding, unknown_value};
use crate::plan::{Demand, DemandTable, Own, OwnTable, PlanFile, PlanSpec, Space, SpaceTable};
use crate::scenario::WorkloadTable;
use crate::spec::{ArrivalSpec, DayCurve, LengthSpec, RateSpec, Searched, SloSpec, WorkloadSpec};

const SECONDS_A_DAY: f64 = 86_400.0;
const DEFAULT_REQUESTS: u32 = 1000;
const DEFAULT_PEAK_TO_MEAN: f64 = 2.0;
const MAX_PARALLEL: u32 = 1024;
const MAX_DEVICES: u32 = 1_000_000;
pub const PRICINGS: [&str; 4] = ["on-demand", "spot", "reserved", "own"];

pub(crate) fn resolve(file: &PlanFile, base: &Path) -> Result<PlanSpec, Finding> {
    let slo = slo::resolve(&file.slo)?;
    if slo == SloSpec::default() {
        return Err(Finding::new(0..0, "the plan has no [slo] to meet")
            .help("e.g. [slo] with ttft_p95 = \"500ms\" and tpot_p95 = \"50ms\""));
    }
    let (workload, demand) = demanded(file, base)?;
    let model = &file.model.name;
    if model.get_ref().trim().is_empty() {
        return Err(Finding::new(model.span(), "the model has no name").help("e.g. name = \"llama-3.1-8b\""));
    }
    let folder = base.join(model.get_ref());
    let is_folder = model.get_ref().contains('/') && folder.is_dir();
    let len = file.model.max_model_len.as_ref();
    Ok(PlanSpec {
        name: run_name(&file.name)?,
        seed: file.seed.unwrap_or(super::DEFAULT_SEED),
        model: if is_folder { folder.display().to_string() } else { model.get_ref().clone() },
        max_model_len: len.map(|n| in_range(n, "max_model_len", 2, 10_000_000)).transpose()?,
        workload,
        demand,
        slo,
        usd_per_month: match &file.budget {
            Some(budget) => Some(positive(&budget.usd_per_month, "usd_per_month", 1e12)?),
            None => None,
        },
        space: space(&file.search)?,
        autoscale: file.autoscale.as_ref().map(autoscale::resolve).transpose()?,
        apis: file.api.models.as_deref().map(texts),
        own: own(&file.own)?,
    })
}

/// The workload at the busiest hour.
fn demanded(file: &PlanFile, base: &Path) -> Result<(WorkloadSpec, Demand), Finding> {
    let table = file.workload.get_ref();
    let process = table.arrivals.get_ref().process.as_ref();
    if process.is_some_and(|process| process.get_ref() == "trace") {
        return traced(file, base);
    }
    let mut changed: WorkloadTable = table.clone();
    changed.requests.get_or_insert_with(|| Spanned::new(file.workload.span(), DEFAULT_REQUESTS));
    let changed = Spanned::new(file.workload.span(), changed);
    let mut workload = match &file.demand {
        None => workload::resolve(&changed, base)?,
        Some(_) => workload::resolve(&find::with_stand_in(&changed, Searched::Rate)?, base)?,
    };
    // A plan counts requests; a rate in `arrivals` is one of sessions, where there are sessions.
    let turns = workload.sessions.as_ref().map_or(1.0, |sessions| sessions.turns.mean());
    let at = table.arrivals.span();
    let curve = match &workload.arrivals {
        ArrivalSpec::Diurnal { curve, .. } => Some(curve.clone()),
        _ => None,
    };
    let demand = match (&file.demand, workload.arrivals.rate(), curve) {
        (Some(written), _, Some(_)) => {
            return Err(Finding::new(written.span(), "arrivals and [demand] both describe a day")
                .help("write the hours in [demand] hourly, and process = \"poisson\" in arrivals"));
        }
        (Some(written), Some(_), None) => of_a_day(written)?,
        (None, Some(RateSpec::PerSecond { rps }), None) => {
            Demand { mean_rps: *rps * turns, peak_rps: *rps * turns, hourly_rps: None }
        }
        (None, Some(RateSpec::PerSecond { rps }), Some(curve)) => of_curve(*rps * turns, &curve),
        (None, Some(_), _) => {
            return Err(Finding::new(at, "a plan needs a rate, not a share of a saturation")
                .help("e.g. arrivals = { process = \"poisson\", rate = 12.0 }, or a [demand]"));
        }
        (_, None, _) => {
            return Err(Finding::new(at, "a plan needs requests that come at a rate")
                .help("a closed loop has none: e.g. arrivals = { process = \"poisson\", rate = 12.0 }"));
        }
    };
    if let ArrivalSpec::Diurnal { .. } = workload.arrivals {
        // A day's curve is Poisson at each moment; the busiest one is what has to be served.
        workload.arrivals = ArrivalSpec::Poisson { rate: RateSpec::PerSecond { rps: demand.peak_rps } };
    }
    at_least_one(&demand, file)?;
    if let Some(rate) = workload.arrivals.rate_mut() {
        *rate = RateSpec::PerSecond { rps: demand.peak_rps / turns };
    }
    Ok((workload, demand))
}

/// A trace's own day, or as many requests as `[demand]` says in the shape of that day.
fn traced(file: &PlanFile, base: &Path) -> Result<(WorkloadSpec, Demand), Finding> {
    // All of its rows make the day, however many are simulated.
    let mut table: WorkloadTable = file.workload.get_ref().clone();
    let simulated = table.requests.take();
    let at = table.arrivals.span();
    let mut workload = workload::resolve(&Spanned::new(file.workload.span(), table), base)?;
    let (ArrivalSpec::Trace { speed, .. }, LengthSpec::Trace { rows, .. }) =
        (&workload.arrivals, &mut workload.lengths)
    else {
        return Err(Finding::new(at, "process \"trace\" needs `trace = \"<file>\"`"));
    };
    let mut day = traced_day::of(rows, *speed).map_err(|why| Finding::sentence(at, &why))?;
    *rows = std::mem::take(&mut day.lengths);
    let factor = match &file.demand {
        None => 1.0,
        Some(written) => {
            let DemandTable { peak_to_mean, hourly, .. } = written.get_ref();
            let shape = peak_to_mean.as_ref().map(Spanned::span).or(hourly.as_ref().map(Spanned::span));
            if let Some(span) = shape {
                return Err(Finding::new(span, "the trace has the hours of the day")
                    .help("remove this line, or choose another process in arrivals"));
            }
            requests_a_day(written)? / SECONDS_A_DAY / day.mean_rps()
        }
    };
    let hours: Vec<f64> = day.hourly_rps.iter().map(|rps| rps * factor).collect();
    let demand = Demand {
        mean_rps: day.mean_rps() * factor,
        peak_rps: hours.iter().copied().fold(0.0, f64::max),
        hourly_rps: Some(hours),
    };
    at_least_one(&demand, file)?;
    workload.requests =
        simulated.map_or(Ok(DEFAULT_REQUESTS), |n| in_range(&n, "requests", 1, workload::MAX_REQUESTS))?;
    workload.arrivals = day.arrivals(demand.peak_rps);
    Ok((workload, demand))
}

fn at_least_one(demand: &Demand, file: &PlanFile) -> Result<(), Finding> {
    if demand.mean_rps * SECONDS_A_DAY < 1.0 {
        let span = file.demand.as_ref().map_or(file.workload.get_ref().arrivals.span(), Spanned::span);
        return Err(Finding::new(span, "less than one request a day").label("a plan needs one at least"));
    }
    Ok(())
}

fn of_a_day(written: &Spanned<DemandTable>) -> Result<Demand, Finding> {
    let table = written.get_ref();
    let mean_rps = requests_a_day(written)? / SECONDS_A_DAY;
    let (peak_rps, hourly_rps) = match (&table.peak_to_mean, &table.hourly) {
        (Some(ratio), None) => {
            let factor = positive(ratio, "peak_to_mean", 1000.0)?;
            if factor < 1.0 {
                return Err(Finding::new(ratio.span(), format!("peak_to_mean is {factor}"))
                    .label("the busiest hour is no quieter than the mean: 1 or more"));
            }
            (mean_rps * factor, None)
        }
        (None, Some(hours)) => {
            let list = hours.get_ref();
            let sum: f64 = list.iter().sum();
            if list.len() != 24
                || list.iter().any(|hour| hour.is_nan() || *hour < 0.0)
                || !(sum > 0.0 && sum.is_finite())
            {
                return Err(Finding::new(hours.span(), "hourly is no day")
                    .label("must be 24 numbers, 0 or more, not all 0"));
            }
            let day: Vec<f64> = list.iter().map(|hour| hour / sum * 24.0 * mean_rps).collect();
            (day.iter().copied().fold(0.0, f64::max), Some(day))
        }
        (None, None) => (mean_rps * DEFAULT_PEAK_TO_MEAN, None),
        (Some(ratio), Some(_)) => {
            return Err(Finding::new(
                ratio.span(),
                "peak_to_mean and hourly both say how busy the busiest hour is",
            ));
        }
    };
    Ok(Demand { mean_rps, peak_rps, hourly_rps })
}

fn requests_a_day(written: &Spanned<DemandTable>) -> Result<f64, Finding> {
    let table = written.get_ref();
    let a_day = match (&table.requests_per_day, &table.users_per_day, &table.requests_per_user) {
        (Some(requests), None, None) => positive(requests, "requests_per_day", 1e13)?,
        (None, Some(users), Some(each)) => {
            positive(users, "users_per_day", 1e10)? * positive(each, "requests_per_user", 1e4)?
        }
        (None, Some(users), None) => {
            return Err(Finding::new(users.span(), "how many requests does a user send?")
                .help("e.g. requests_per_user = 8"));
        }
        _ => {
            return Err(Finding::new(
                written.span(),
                "[demand] needs exactly one of requests_per_day and users_per_day",
            ));
        }
    };
    Ok(a_day)
}

fn of_curve(mean_rps: f64, curve: &DayCurve) -> Demand {
    let hours: Vec<f64> = match curve {
        DayCurve::Sine { amplitude, period, peak } => (0..24)
            .map(|hour| {
                let phase =
                    (f64::from(hour) + 0.5) / 24.0 - peak.as_secs_f64() / period.as_secs_f64().max(1e-9);
                1.0 + amplitude * (std::f64::consts::TAU * phase).cos()
            })
            .collect(),
        DayCurve::Parts { rates, .. } => {
            (0..24).map(|hour| rates[(hour * rates.len() / 24).min(rates.len() - 1)]).collect()
        }
    };
    let peak = match curve {
        DayCurve::Sine { amplitude, .. } => 1.0 + amplitude,
        DayCurve::Parts { rates, .. } => rates.iter().copied().fold(0.0, f64::max),
    };
    Demand {
        mean_rps,
        peak_rps: mean_rps * peak,
        hourly_rps: Some(hours.iter().map(|factor| factor * mean_rps).collect()),
    }
}

fn space(table: &SpaceTable) -> Result<Space, Finding> {
    not_empty(table)?;
    let counts = |list: &Option<Spanned<Vec<Spanned<u32>>>>, name, default: &[u32]| match list {
        None => Ok(default.to_vec()),
        Some(list) => list.get_ref().iter().map(|n| in_range(n, name, 1, MAX_PARALLEL)).collect(),
    };
    let one = |written: &Option<Spanned<u32>>, name, least, most, default| {
        written.as_ref().map_or(Ok(default), |n| in_range(n, name, least, most))
    };
    let pricing = match &table.pricing {
        None => vec![PRICINGS[0].to_owned()],
        Some(list) => {
            for way in list.get_ref() {
                if !PRICINGS.contains(&way.get_ref().as_str()) {
                    return Err(unknown_value(way.span(), "pricing", way.get_ref(), &PRICINGS));
                }
            }
            texts(list.get_ref())
        }
    };
    let names =
        |list: &Option<Spanned<Vec<Spanned<String>>>>| list.as_ref().map(|list| texts(list.get_ref()));
    Ok(Space {
        hardware: names(&table.hardware),
        weights: names(&table.weights),
        kv: names(&table.kv),
        tensor_parallel: counts(&table.tensor_parallel, "tensor_parallel", &[1, 2, 4, 8])?,
        pipeline_parallel: counts(&table.pipeline_parallel, "pipeline_parallel", &[1])?,
        disaggregated: table.disaggregated,
        network_gb_per_s: match &table.network_gb_per_s {
            Some(written) => Some(positive(written, "network_gb_per_s", 1e4)?),
            None => None,
        },
        pricing,
        max_num_seqs: one(&table.max_num_seqs, "max_num_seqs", 1, 65_536, 256)?,
        max_num_batched_tokens: one(
            &table.max_num_batched_tokens,
            "max_num_batched_tokens",
            1,
            1_048_576,
            8192,
        )?,
        max_devices: one(&table.max_devices, "max_devices", 1, MAX_DEVICES, 1024)?,
        spare_replicas: one(&table.spare_replicas, "spare_replicas", 0, 1000, 0)?,
    })
}

fn own(table: &OwnTable) -> Result<Own, Finding> {
    let number = |written: &Option<Spanned<f64>>, name, most, default| {
        written.as_ref().map_or(Ok(default), |value| positive(value, name, most))
    };
    let pue = number(&table.pue, "pue", 10.0, 1.3)?;
    if let Some(written) = &table.pue
        && pue < 1.0
    {
        return Err(Finding::new(written.span(), format!("pue is {pue}"))
            .label("the building cannot draw less than the machines in it: 1 or more"));
    }
    let not_negative = |written: &Option<Spanned<f64>>, name, most, default| match written {
        Some(value) if *value.get_ref() == 0.0 => Ok(0.0),
        written => number(written, name, most, default),
    };
    let device =
        |(name, usd): (&String, &Spanned<f64>)| Ok((name.clone(), positive(usd, "device_usd", 1e9)?));
    Ok(Own {
        device_usd: table.device_usd.iter().map(device).collect::<Result<_, _>>()?,
        years: number(&table.years, "years", 50.0, 4.0)?,
        usd_per_kwh: number(&table.usd_per_kwh, "usd_per_kwh", 100.0, 0.12)?,
        pue,
        server_overhead: not_negative(&table.server_overhead, "server_overhead", 100.0, 0.35)?,
        upkeep_per_year: not_negative(&table.upkeep_per_year, "upkeep_per_year", 10.0, 0.1)?,
    })
}

/// A list of what to try that has nothing in it.
fn not_empty(table: &SpaceTable) -> Result<(), Finding> {
    fn empty<T>(list: &Option<Spanned<Vec<T>>>) -> Option<std::ops::Range<usize>> {
        list.as_ref().filter(|list| list.get_ref().is_empty()).map(Spanned::span)
    }
    let lists = [
        ("hardware", empty(&table.hardware)),
        ("weights", empty(&table.weights)),
        ("kv", empty(&table.kv)),
        ("tensor_parallel", empty(&table.tensor_parallel)),
        ("pipeline_parallel", empty(&table.pipeline_parallel)),
        ("pricing", empty(&table.pricing)),
    ];
    match lists.into_iter().find_map(|(name, span)| Some((name, span?))) {
        Some((name, span)) => Err(Finding::new(span, format!("{name} has nothing to try"))
            .label("name one at least, or leave the key out")),
        None => Ok(()),
    }
}

fn texts(list: &[Spanned<String>]) -> Vec<String> {
    list.iter().map(|text| text.get_ref().clone()).collect()
}
