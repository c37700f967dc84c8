//! `find = "max rate meeting the SLO"`: the load is not given but searched.

use toml::Spanned;

use super::out_of_range;
use super::sweep::fixed_too;
use crate::error::{Finding, unknown_value};
use crate::scenario::{ArrivalsTable, Scenario, SearchTable, WorkloadTable};
use crate::spec::{FindSpec, RateSpec, Searched, SloSpec, WorkloadSpec};

/// In the order of [`Searched::ALL`].
pub const FINDS: [&str; 3] =
    ["max rate meeting the SLO", "max load meeting the SLO", "max users meeting the SLO"];

const DEFAULT_TOLERANCE: f64 = 0.05;
const MAX_TOLERANCE: f64 = 1.0;
const MIN_TOLERANCE: f64 = 0.001;
const MAX_VALUE: f64 = 1e6;

pub(super) fn resolve(scenario: &Scenario, slo: &SloSpec) -> Result<Option<FindSpec>, Finding> {
    let Some(written) = &scenario.find else {
        return match &scenario.search {
            Some(search) => Err(Finding::new(search.span(), "[search] without `find` searches nothing")
                .help(format!("write find = \"{}\" above the tables", FINDS[0]))),
            None => Ok(None),
        };
    };
    let Some(place) = FINDS.iter().position(|find| find == written.get_ref()) else {
        return Err(unknown_value(written.span(), "goal", written.get_ref(), &FINDS));
    };
    let searched = Searched::ALL[place];
    if let Some(sweep) = &scenario.sweep {
        return Err(Finding::new(sweep.span(), "the scenario searches, so it cannot sweep too")
            .help("a search measures the curve over the load; keep one of `find` and [sweep]"));
    }
    if let Some(claim) = scenario.claim.first() {
        return Err(Finding::new(claim.span(), "a search has no one figure to hold a claim against")
            .help("put the claim into a scenario without `find`"));
    }
    if *slo == SloSpec::default() {
        return Err(
            Finding::new(written.span(), "there is no [slo] to meet").help("e.g. [slo] ttft_p95 = \"200ms\"")
        );
    }
    let none = SearchTable::default();
    let table = scenario.search.as_ref().map_or(&none, Spanned::get_ref);
    let tolerance = match &table.tolerance {
        None => DEFAULT_TOLERANCE,
        Some(written) => within(written, "tolerance", MIN_TOLERANCE, MAX_TOLERANCE)?,
    };
    let least = if searched == Searched::Users { 1.0 } else { 1e-6 };
    let value = |value: &Option<Spanned<f64>>, name| {
        value.as_ref().map(|written| within(written, name, least, MAX_VALUE)).transpose()
    };
    let (lowest, highest) = (value(&table.lowest, "lowest")?, value(&table.highest, "highest")?);
    if let (Some(low), Some(high), Some(written)) = (lowest, highest, &table.highest)
        && low > high
    {
        return Err(Finding::new(written.span(), format!("highest {high} is below lowest {low}")));
    }
    Ok(Some(FindSpec { searched, tolerance, lowest, highest }))
}

fn within(written: &Spanned<f64>, name: &str, min: f64, max: f64) -> Result<f64, Finding> {
    let number = *written.get_ref();
    if !(min..=max).contains(&number) {
        return Err(out_of_range(written.span(), name, number, format!("must be from {min} to {max}")));
    }
    Ok(number)
}

/// The workload with a stand-in for the value that is searched, so that the rest of it is checked as always.
pub(super) fn with_stand_in(
    workload: &Spanned<WorkloadTable>,
    searched: Searched,
) -> Result<Spanned<WorkloadTable>, Finding> {
    if searched == Searched::Load
        && let Some(sessions) = &workload.get_ref().sessions
    {
        return Err(Finding::new(sessions.span(), "load is a share of requests/s, and sessions arrive here")
            .help("search the rate or the users"));
    }
    let arrivals = &workload.get_ref().arrivals;
    fixed_too(arrivals.get_ref(), |key| {
        (
            format!("arrivals fix `{key}`, and `find` searches the highest {}", searched.name()),
            format!("remove `{key}` here, or `find`"),
        )
    })?;
    let mut table: ArrivalsTable = arrivals.get_ref().clone();
    let process = table.process.as_ref().map_or("poisson", |written| written.get_ref().as_str());
    let has_rate = !matches!(process, "closed" | "trace");
    if let Some(written) = &table.process
        && has_rate == (searched == Searched::Users)
    {
        let (message, help) = match searched {
            Searched::Users => ("only a closed loop has users", "remove `process`, or search the rate"),
            _ => (
                "this process has no rate to search",
                "choose one that has, or search the users of a closed loop",
            ),
        };
        return Err(Finding::new(written.span(), message).help(help));
    }
    if let Some(rates) = &table.rates {
        return Err(Finding::new(rates.span(), "these rates fix the mean, and `find` searches it")
            .help("write burst_ratio in place of rates"));
    }
    match searched {
        Searched::Users => table.users = Some(Spanned::new(arrivals.span(), 1)),
        Searched::Rate | Searched::Load => table.rate = Some(Spanned::new(arrivals.span(), 1.0)),
    }
    let mut changed = workload.get_ref().clone();
    changed.arrivals = Spanned::new(arrivals.span(), table);
    Ok(Spanned::new(workload.span(), changed))
}

pub(super) fn sought(mut workload: WorkloadSpec) -> WorkloadSpec {
    if let Some(rate) = workload.arrivals.rate_mut() {
        *rate = RateSpec::Sought;
    }
    workload
}
