//! `[sweep]`: every combination of a mix of lengths and a rate, as a workload of its own.

use std::ops::Range;

use toml::Spanned;

use super::target::plain_name;
use crate::error::Finding;
use crate::scenario::{ArrivalsTable, MixTable, SweepTable, WorkloadTable};
use crate::spec::SweepPoint;

/// Each cell is a run with a report of its own.
const MAX_CELLS: usize = 256;

/// The cells in the order they run: mixes as written, the rates of each in theirs.
pub(super) fn points(
    table: &Spanned<SweepTable>,
    workload: &Spanned<WorkloadTable>,
) -> Result<Vec<(SweepPoint, Spanned<WorkloadTable>)>, Finding> {
    let mixes = mixes(&table.get_ref().mix)?;
    let steps = arrivals(table, workload)?;
    if mixes.is_empty() && steps.is_empty() {
        return Err(Finding::new(table.span(), "the sweep says nothing to sweep over")
            .help("e.g. rate = [2, 4, 8], or load, users, or [[sweep.mix]] tables"));
    }
    let cells = mixes.len().max(1) * steps.len().max(1);
    if cells > MAX_CELLS {
        return Err(Finding::new(table.span(), format!("the sweep has {cells} cells"))
            .label(format!("must be at most {MAX_CELLS}")));
    }
    // A side that is not swept is one step that changes nothing.
    let mixes = or_once(mixes);
    let steps = or_once(steps);
    let mut points = Vec::with_capacity(cells);
    for mix in &mixes {
        for step in &steps {
            let mut changed = workload.get_ref().clone();
            if let Some(mix) = mix {
                replace_lengths(&mut changed, mix);
            }
            let point = SweepPoint {
                mix: mix.map(|mix| mix.name.get_ref().clone()),
                arrivals: step.as_ref().map(|step| (step.key().to_owned(), step.value())),
            };
            if let Some(step) = step {
                changed.arrivals = step.written_into(&changed.arrivals);
            }
            points.push((point, Spanned::new(workload.span(), changed)));
        }
    }
    Ok(points)
}

fn or_once<T>(values: Vec<T>) -> Vec<Option<T>> {
    if values.is_empty() { vec![None] } else { values.into_iter().map(Some).collect() }
}

fn mixes(tables: &[Spanned<MixTable>]) -> Result<Vec<&MixTable>, Finding> {
    let mut mixes: Vec<&MixTable> = Vec::new();
    for table in tables {
        let mix = table.get_ref();
        plain_name(&mix.name, "mix")?;
        if mixes.iter().any(|known| known.name.get_ref() == mix.name.get_ref()) {
            let message = format!("two mixes are named \"{}\"", mix.name.get_ref());
            return Err(Finding::new(mix.name.span(), message).label("the second one"));
        }
        mixes.push(mix);
    }
    Ok(mixes)
}

fn replace_lengths(workload: &mut WorkloadTable, mix: &MixTable) {
    let MixTable { name: _, traffic, trace, lengths, scale, input_range, output_range } = mix.clone();
    if traffic.is_some() || trace.is_some() || lengths.is_some() {
        (workload.traffic, workload.trace, workload.lengths) = (traffic, trace, lengths);
    }
    workload.scale = scale.or(workload.scale.take());
    workload.input_range = input_range.or(workload.input_range.take());
    workload.output_range = output_range.or(workload.output_range.take());
}

/// One value of the swept key.
enum Step {
    Rate(Spanned<f64>),
    Load(Spanned<f64>),
    Users(Spanned<u32>),
}

impl Step {
    fn key(&self) -> &'static str {
        match self {
            Step::Rate(_) => "rate",
            Step::Load(_) => "load",
            Step::Users(_) => "users",
        }
    }

    fn value(&self) -> f64 {
        match self {
            Step::Rate(value) | Step::Load(value) => *value.get_ref(),
            Step::Users(users) => f64::from(*users.get_ref()),
        }
    }

    fn span(&self) -> Range<usize> {
        match self {
            Step::Rate(value) | Step::Load(value) => value.span(),
            Step::Users(users) => users.span(),
        }
    }

    fn written_into(&self, arrivals: &Spanned<ArrivalsTable>) -> Spanned<ArrivalsTable> {
        let mut table = arrivals.get_ref().clone();
        match self {
            Step::Rate(rate) => table.rate = Some(rate.clone()),
            Step::Load(load) => table.load = Some(load.clone()),
            Step::Users(users) => table.users = Some(users.clone()),
        }
        Spanned::new(arrivals.span(), table)
    }
}

fn arrivals(table: &Spanned<SweepTable>, workload: &Spanned<WorkloadTable>) -> Result<Vec<Step>, Finding> {
    let SweepTable { rate, load, users, mix: _ } = table.get_ref();
    let mut lists = Vec::new();
    lists.extend(rate.as_ref().map(|list| (list.span(), steps(list, Step::Rate))));
    lists.extend(load.as_ref().map(|list| (list.span(), steps(list, Step::Load))));
    lists.extend(users.as_ref().map(|list| (list.span(), steps(list, Step::Users))));
    if let Some((span, _)) = lists.get(1) {
        return Err(Finding::new(span.clone(), "the sweep has more than one of rate, load and users")
            .label("the second of them")
            .help("keep one of them"));
    }
    let Some((span, steps)) = lists.pop() else { return Ok(Vec::new()) };
    let Some(first) = steps.first() else {
        return Err(Finding::new(span, "the list is empty").label("at least one value"));
    };
    let swept = first.key();
    fixed_too(workload.get_ref().arrivals.get_ref(), |key| {
        (
            format!("arrivals fix `{key}`, and the sweep varies `{swept}`"),
            format!("remove `{key}` here, or `{swept}` from [sweep]"),
        )
    })?;
    for (i, step) in steps.iter().enumerate() {
        if steps[..i].iter().any(|known| known.value() == step.value()) {
            return Err(Finding::new(step.span(), format!("{} {} stands twice", step.key(), step.value()))
                .label("the second one"));
        }
    }
    Ok(steps)
}

fn steps<T: Clone>(list: &Spanned<Vec<Spanned<T>>>, step: fn(Spanned<T>) -> Step) -> Vec<Step> {
    list.get_ref().iter().cloned().map(step).collect()
}

/// Which of two numbers counts must not be a riddle. `words` are message and help for the key that is written.
pub(super) fn fixed_too(
    arrivals: &ArrivalsTable,
    words: impl Fn(&str) -> (String, String),
) -> Result<(), Finding> {
    let written = [
        ("rate", arrivals.rate.as_ref().map(Spanned::span)),
        ("load", arrivals.load.as_ref().map(Spanned::span)),
        ("users", arrivals.users.as_ref().map(Spanned::span)),
    ];
    match written.into_iter().find_map(|(key, span)| Some((key, span?))) {
        Some((key, span)) => {
            let (message, help) = words(key);
            Err(Finding::new(span, message).help(help))
        }
        None => Ok(()),
    }
}
