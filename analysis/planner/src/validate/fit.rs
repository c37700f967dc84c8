//! Figures of the cost model from measurements: the most likely ones, given what the literature says (`prior.toml`).
//!
//! Every figure is positive and enters as its logarithm; an error is the logarithm of predicted over measured. Gauss-Newton steps
//! on squared errors, of which those far out count less (Cauchy weights), plus squared distances from the prior in units of how
//! sure it is. So a figure that no case depends on keeps its prior, and one that few depend on moves little.
//!
//! Today's serving software is alike: its figures lie around a mean that is not known either (a hierarchical prior). Cases of one
//! move the mean, and with it those of which nothing was measured.

use llmlab_sim::cost_model::Calibration;
use llmlab_sim::cost_model::calibration::{Pair, link_key, pair_key};

use super::case::Case;
use super::predict::{Predictor, predict};

/// What the literature says.
const PRIOR: &str = include_str!("prior.toml");

/// An error of a measurement that model and figures cannot explain.
const NOISE: f64 = 0.10;
/// Errors beyond this lose their weight.
const FAR: f64 = 0.20;
/// Relative step of the derivatives: wide, since a schedule changes in jumps.
const STEP: f64 = 0.04;
/// Most that one iteration changes a logarithm.
const LONGEST: f64 = 0.7;

/// A figure that is fitted.
#[derive(Debug, Clone, PartialEq)]
struct Figure {
    table: Table,
    entry: String,
    key: &'static str,
    /// Logarithm of the prior, and how sure it is.
    prior: f64,
    deviation: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Table {
    Class,
    Runtime,
    Pair,
    Link,
}

impl Figure {
    fn value<'c>(&self, calibration: &'c mut Calibration) -> &'c mut f64 {
        match self.table {
            Table::Class => {
                let kernels = calibration.class.get_mut(&self.entry).expect("a class of the prior");
                match self.key {
                    "bandwidth" => &mut kernels.bandwidth,
                    "few_bits_bandwidth" => &mut kernels.few_bits_bandwidth,
                    "attention_bandwidth" => &mut kernels.attention_bandwidth,
                    "product_16_bits" => &mut kernels.product_16_bits,
                    "product_8_bits" => &mut kernels.product_8_bits,
                    "product_few_bits" => &mut kernels.product_few_bits,
                    _ => &mut kernels.attention,
                }
            }
            Table::Runtime => {
                let host = calibration.runtime.get_mut(&self.entry).expect("a runtime of the prior");
                match self.key {
                    "launch_us" => &mut host.launch_us,
                    "layer_host_us" => &mut host.layer_host_us,
                    "prompt_layer_host_us" => &mut host.prompt_layer_host_us,
                    "step_us" => &mut host.step_us,
                    "sequence_us" => &mut host.sequence_us,
                    "serial_ms" => &mut host.serial_ms,
                    "serial_token_us" => &mut host.serial_token_us,
                    "request_ms" => &mut host.request_ms,
                    "admission_ms" => &mut host.admission_ms,
                    _ => &mut host.token_us,
                }
            }
            Table::Pair => {
                let pair = calibration.pair.entry(self.entry.clone()).or_insert(Pair::NONE);
                match self.key {
                    "compute" => &mut pair.compute,
                    "compute_8_bits" => &mut pair.compute_8_bits,
                    _ => &mut pair.bandwidth,
                }
            }
            Table::Link => {
                let link = calibration.link.get_mut(&self.entry).expect("a link of the prior");
                if self.key == "share" { &mut link.share } else { &mut link.latency_us }
            }
        }
    }

    /// Figures that are alike share it.
    fn family(&self) -> Option<(Table, &str, &'static str)> {
        let todays = |runtime: &str| TODAYS.contains(&runtime);
        match self.table {
            Table::Runtime if todays(&self.entry) => Some((self.table, "", self.key)),
            Table::Pair => {
                let (class, runtime) = self.entry.split_once('/')?;
                todays(runtime).then_some((self.table, class, self.key))
            }
            _ => None,
        }
    }

    fn concerns(&self, case: &Case) -> bool {
        let deployment = &case.deployment;
        match self.table {
            Table::Class => self.entry == case.class().name(),
            Table::Runtime => self.entry == deployment.runtime,
            Table::Pair => self.entry == pair_key(case.class(), &deployment.runtime),
            Table::Link => {
                deployment.sharding.devices() > 1
                    && self.entry == link_key(deployment.device.link, &deployment.runtime)
            }
        }
    }
}

const CLASS: [(&str, f64); 7] = [
    ("bandwidth", 0.10),
    ("few_bits_bandwidth", 0.2),
    ("attention_bandwidth", 0.3),
    ("product_16_bits", 0.2),
    ("product_8_bits", 0.2),
    ("product_few_bits", 0.25),
    ("attention", 0.4),
];
const RUNTIME: [(&str, f64); 10] = [
    ("launch_us", 0.7),
    ("layer_host_us", 1.0),
    ("prompt_layer_host_us", 0.7),
    ("step_us", 1.0),
    ("sequence_us", 1.0),
    ("request_ms", 0.7),
    ("serial_ms", 1.0),
    ("serial_token_us", 1.0),
    ("admission_ms", 1.0),
    ("token_us", 1.0),
];
/// Software whose engine runs ahead of its host: captured graphs, a front end of its own, batches prepared beside the device.
const TODAYS: [&str; 3] = ["sglang", "tensorrt-llm", "vllm"];
/// How far one of a family is from its mean, against how sure the prior is of the mean.
const KIN: f64 = 0.5;
const PAIR: [(&str, f64); 3] = [("compute", 0.3), ("compute_8_bits", 0.3), ("bandwidth", 0.3)];
const LINK: [(&str, f64); 2] = [("share", 0.4), ("latency_us", 0.5)];

/// Before any measurement.
pub fn prior() -> Calibration {
    toml::from_str(PRIOR).unwrap_or_else(|error| panic!("prior.toml: {error}"))
}

/// The figures that `cases` say something about.
fn figures(cases: &[&Case], prior: &Calibration) -> Vec<Figure> {
    let mut prior = prior.clone();
    let mut all = Vec::new();
    let mut add = |table, entries: Vec<String>, keys: &[(&'static str, f64)]| {
        for entry in entries {
            for (key, deviation) in keys {
                all.push(Figure { table, entry: entry.clone(), key, prior: 0.0, deviation: *deviation });
            }
        }
    };
    let mut pairs: Vec<String> =
        cases.iter().map(|case| pair_key(case.class(), &case.deployment.runtime)).collect();
    pairs.sort();
    pairs.dedup();
    add(Table::Class, prior.class.keys().cloned().collect(), &CLASS);
    add(Table::Runtime, prior.runtime.keys().cloned().collect(), &RUNTIME);
    add(Table::Pair, pairs, &PAIR);
    add(Table::Link, prior.link.keys().cloned().collect(), &LINK);
    let concerned: Vec<Figure> =
        all.iter().filter(|figure| cases.iter().any(|case| figure.concerns(case))).cloned().collect();
    all.retain(|figure| {
        let kin = |other: &Figure| figure.family().is_some() && figure.family() == other.family();
        concerned.iter().any(|other| other == figure || kin(other))
    });
    for figure in &mut all {
        figure.prior = figure.value(&mut prior).ln();
    }
    all
}

/// The inverse of the prior's covariance. Of a family of `n` whose members have deviation `a` from a mean with deviation `b`,
/// that is `(1 - b^2 / (a^2 + n b^2)) / a^2` on the diagonal and `-b^2 / (a^2 + n b^2) / a^2` beside it.
fn precision(figures: &[Figure]) -> Vec<Vec<f64>> {
    let mut matrix = vec![vec![0.0; figures.len()]; figures.len()];
    for (row, figure) in figures.iter().enumerate() {
        let of_mean = figure.deviation.powi(2);
        let Some(family) = figure.family() else {
            matrix[row][row] = 1.0 / of_mean;
            continue;
        };
        let own = of_mean * KIN * KIN;
        let kin: Vec<usize> =
            (0..figures.len()).filter(|other| figures[*other].family() == Some(family)).collect();
        let shared = of_mean / (own + kin.len() as f64 * of_mean);
        for column in kin {
            matrix[row][column] = (f64::from(u8::from(column == row)) - shared) / own;
        }
    }
    matrix
}

/// The most likely figures; the search starts from `prior`.
pub fn fit(cases: &[&Case], prior: &Calibration, iterations: u32) -> Calibration {
    let figures = figures(cases, prior);
    let weights = weights(cases);
    let precision = precision(&figures);
    let mut current = prior.clone();
    current.spread.clear();
    let mut errors = errors(cases, &current);
    for _ in 0..iterations {
        let columns = derivatives(cases, &current, &errors, &figures);
        let change = step(&figures, &precision, &weights, &errors, &columns, &mut current);
        let mut shrink = 1.0;
        let before = loss(&figures, &precision, &weights, &errors, &mut current);
        // Half the way, and half of that, until it is no worse.
        loop {
            let mut next = current.clone();
            for (figure, change) in figures.iter().zip(&change) {
                *figure.value(&mut next) *= (shrink * change).exp();
            }
            let found = self::errors(cases, &next);
            if loss(&figures, &precision, &weights, &found, &mut next) <= before {
                (current, errors) = (next, found);
                break;
            }
            shrink /= 2.0;
            if shrink < 0.1 {
                return current;
            }
        }
    }
    current
}

/// Alike cases (a source's rows of one model on one device and metric) count together as their root.
fn weights(cases: &[&Case]) -> Vec<f64> {
    let alike = |case: &Case, other: &Case| {
        case.model == other.model
            && case.gpu == other.gpu
            && case.framework == other.framework
            && case.metric == other.metric
    };
    cases
        .iter()
        .map(|case| 1.0 / (cases.iter().filter(|other| alike(case, other)).count() as f64).sqrt())
        .collect()
}

/// Where the model has no answer, none.
fn error(case: &Case, calibration: &Calibration) -> Option<f64> {
    predict(case, calibration).map(|predicted| (predicted / case.measured).ln())
}

fn errors(cases: &[&Case], calibration: &Calibration) -> Vec<Option<f64>> {
    in_parallel(cases, |case| error(case, calibration))
}

/// On as many threads as there are cores.
pub(super) fn in_parallel<T: Sync, R: Send>(items: &[T], compute: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(8);
    let compute = &compute;
    // Neighbours cost alike, so they go to different threads.
    let mut results: Vec<Vec<R>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|first| {
                scope.spawn(move || items.iter().skip(first).step_by(threads).map(compute).collect())
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("a prediction does not panic")).collect()
    });
    for part in &mut results {
        part.reverse();
    }
    (0..items.len()).map(|place| results[place % threads].pop().expect("one an item")).collect()
}

/// Of each figure: how the error of each case changes with its logarithm.
fn derivatives(
    cases: &[&Case],
    current: &Calibration,
    errors: &[Option<f64>],
    figures: &[Figure],
) -> Vec<Vec<f64>> {
    in_parallel(figures, |figure| {
        let mut moved = current.clone();
        *figure.value(&mut moved) *= STEP.exp();
        let mut predictor = Predictor::new(&moved);
        let mut after = |case: &Case| Some((predictor.predict(case)? / case.measured).ln());
        cases
            .iter()
            .zip(errors)
            .map(|(case, before)| match before {
                Some(before) if figure.concerns(case) => {
                    after(case).map_or(0.0, |after| (after - before) / STEP)
                }
                _ => 0.0,
            })
            .collect()
    })
}

fn robust(error: f64) -> f64 {
    1.0 / (1.0 + (error / FAR).powi(2))
}

/// Of each figure, how far it is from its prior.
fn distances(figures: &[Figure], current: &mut Calibration) -> Vec<f64> {
    figures.iter().map(|figure| figure.value(current).ln() - figure.prior).collect()
}

fn dot(left: &[f64], right: &[f64]) -> f64 {
    left.iter().zip(right).map(|(left, right)| left * right).sum()
}

fn loss(
    figures: &[Figure],
    precision: &[Vec<f64>],
    weights: &[f64],
    errors: &[Option<f64>],
    current: &mut Calibration,
) -> f64 {
    let far = FAR * FAR / (NOISE * NOISE);
    let of_cases: f64 = weights
        .iter()
        .zip(errors)
        .filter_map(|(weight, error)| Some(weight * far * (1.0 + (error.as_ref()? / FAR).powi(2)).ln()))
        .sum();
    let distances = distances(figures, current);
    let of_prior: f64 =
        precision.iter().zip(&distances).map(|(row, distance)| distance * dot(row, &distances)).sum();
    of_cases + of_prior
}

/// The Gauss-Newton step: `(J'WJ + P) d = -(J'Wr + P (x - prior))`.
fn step(
    figures: &[Figure],
    precision: &[Vec<f64>],
    weights: &[f64],
    errors: &[Option<f64>],
    columns: &[Vec<f64>],
    current: &mut Calibration,
) -> Vec<f64> {
    let size = figures.len();
    let distances = distances(figures, current);
    let mut matrix = vec![vec![0.0; size + 1]; size];
    let weight =
        |place: usize| errors[place].map_or(0.0, |error| weights[place] * robust(error) / (NOISE * NOISE));
    for row in 0..size {
        for column in row..size {
            let sum: f64 = (0..errors.len())
                .map(|place| weight(place) * columns[row][place] * columns[column][place])
                .sum();
            matrix[row][column] = sum + precision[row][column];
            matrix[column][row] = matrix[row][column];
        }
        let pull: f64 = (0..errors.len())
            .map(|place| weight(place) * columns[row][place] * errors[place].unwrap_or(0.0))
            .sum();
        matrix[row][size] = -(pull + dot(&precision[row], &distances));
    }
    let mut change = solve(matrix);
    for value in &mut change {
        *value = value.clamp(-LONGEST, LONGEST);
    }
    change
}

/// Gauss-Jordan; the prior keeps the matrix positive definite, so no pivoting is needed.
fn solve(mut matrix: Vec<Vec<f64>>) -> Vec<f64> {
    let size = matrix.len();
    for pivot in 0..size {
        let scale = matrix[pivot][pivot];
        for value in &mut matrix[pivot] {
            *value /= scale;
        }
        let line = matrix[pivot].clone();
        for (_, row) in matrix.iter_mut().enumerate().filter(|(place, _)| *place != pivot) {
            let times = row[pivot];
            for (value, of_pivot) in row.iter_mut().zip(&line) {
                *value -= times * of_pivot;
            }
        }
    }
    matrix.iter().map(|row| row[size]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equations_are_solved() {
        let solved = solve(vec![vec![4.0, 1.0, 9.0], vec![1.0, 3.0, 5.0]]);
        assert!((solved[0] - 2.0).abs() < 1e-12 && (solved[1] - 1.0).abs() < 1e-12, "{solved:?}");
    }

    #[test]
    fn parallel_results_keep_their_order() {
        let items: Vec<usize> = (0..37).collect();
        assert_eq!(
            in_parallel(&items, |item| item * 2),
            items.iter().map(|item| item * 2).collect::<Vec<_>>()
        );
    }

    #[test]
    fn kin_of_a_moved_figure_moves_with_it() {
        let all: Vec<Figure> = TODAYS
            .map(|name| Figure {
                table: Table::Runtime,
                entry: name.into(),
                key: "token_us",
                prior: prior().runtime[name].token_us.ln(),
                deviation: 0.8,
            })
            .into();
        let precision = precision(&all);
        // One is measured to be e times its prior; the others follow as far as the mean is shared.
        let mut matrix: Vec<Vec<f64>> = precision.into_iter().map(|row| [row, vec![0.0]].concat()).collect();
        matrix[0][0] += 1e9;
        matrix[0][3] = 1e9;
        let moved = solve(matrix);
        let follows = 1.0 / (1.0 + KIN * KIN);
        assert!((moved[0] - 1.0).abs() < 1e-6, "{moved:?}");
        assert!(moved[1..].iter().all(|moved| (moved - follows).abs() < 1e-6), "{moved:?}");
    }

    #[test]
    fn without_cases_the_prior_stays() {
        assert_eq!(fit(&[], &prior(), 3), prior());
    }
}
