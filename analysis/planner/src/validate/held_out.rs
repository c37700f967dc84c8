//! Fit on some devices or models, look at the others.

use llmlab_sim::cost_model::Calibration;

use super::case::Case;
use super::fit::{fit, in_parallel};
use super::predict::predict;

/// A case and what was said of it.
#[derive(Debug, Clone)]
pub struct Outcome<'c> {
    pub case: &'c Case,
    /// `None` where the memory has no room for it.
    pub predicted: Option<f64>,
}

impl Outcome<'_> {
    /// Predicted over measured, less 1.
    pub fn error(&self) -> Option<f64> {
        self.predicted.map(|predicted| predicted / self.case.measured - 1.0)
    }
}

/// What is left out together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaveOut {
    Gpu,
    Model,
}

impl LeaveOut {
    pub fn key(self, case: &Case) -> &str {
        match self {
            LeaveOut::Gpu => &case.gpu,
            LeaveOut::Model => &case.model,
        }
    }
}

pub fn outcomes<'c>(cases: &[&'c Case], calibration: &Calibration) -> Vec<Outcome<'c>> {
    in_parallel(cases, |case| Outcome { case, predicted: predict(case, calibration) })
}

/// Each case predicted by a fit that has seen nothing of its device (or model).
pub fn held_out<'c>(
    cases: &'c [Case],
    prior: &Calibration,
    by: LeaveOut,
    iterations: u32,
) -> Vec<Outcome<'c>> {
    let mut keys: Vec<&str> = cases.iter().map(|case| by.key(case)).collect();
    keys.sort_unstable();
    keys.dedup();
    let mut all = Vec::new();
    for key in keys {
        let (left, rest): (Vec<&Case>, Vec<&Case>) = cases.iter().partition(|case| by.key(case) == key);
        all.extend(outcomes(&left, &fit(&rest, prior, iterations)));
    }
    all.sort_by_key(|outcome| outcome.case.line);
    all
}
