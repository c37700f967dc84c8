//! A cost model learnt from measured steps, for machines whose peaks are in no catalogue.
//!
//! A step's time is a sum of terms that grow with what is computed: see [`terms`]. Their prices are found by non-negative least
//! squares on relative errors ([`nnls`]), so each term can only add time, and sizes that were never measured extrapolate along
//! terms that mean something. It is no look-up: thirty prices stand for any batch.

pub mod nnls;
pub mod terms;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cost_model::{CostModel, duration};
use crate::shape::SeqShape;
pub use terms::AttentionShape;

/// A step that was timed.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// For people, e.g. "decode 8 at 256".
    pub name: String,
    pub seqs: Vec<SeqShape>,
    pub seconds: f64,
}

/// Prices of the terms, in their order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fitted {
    pub shape: AttentionShape,
    /// Seconds, one for each of [`terms::NAMES`].
    pub prices: Vec<f64>,
    /// Times everything: what a step takes longer in a server than alone.
    pub stretch: f64,
    /// Seconds on top of that for each step: planning it.
    pub planning_s: f64,
}

/// How well the prices tell what was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Residuals {
    pub cells: usize,
    /// Of the relative errors without sign.
    pub median: f64,
    pub p95: f64,
    pub worst: f64,
    pub worst_cell: String,
}

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum FitError {
    #[error("{measured} measured steps cannot price {terms} terms")]
    TooFew { measured: usize, terms: usize },
    #[error("the step {name:?} took {seconds} s, which is no time")]
    NoTime { name: String, seconds: f64 },
    #[error("the stored prices are not of this version: {found} of {expected}")]
    Prices { found: usize, expected: usize },
}

impl Fitted {
    /// The prices that tell the measured times best, every cell's relative error counting the same.
    pub fn fit(shape: AttentionShape, cells: &[Measured]) -> Result<Fitted, FitError> {
        let count = terms::NAMES.len();
        if cells.len() < count {
            return Err(FitError::TooFew { measured: cells.len(), terms: count });
        }
        if let Some(cell) = cells.iter().find(|cell| !(cell.seconds.is_finite() && cell.seconds > 0.0)) {
            return Err(FitError::NoTime { name: cell.name.clone(), seconds: cell.seconds });
        }
        let rows: Vec<Vec<f64>> = cells
            .iter()
            .map(|cell| terms::of(&shape, &cell.seqs).iter().map(|term| term / cell.seconds).collect())
            .collect();
        let prices = nnls::solve(&rows, &vec![1.0; rows.len()]);
        Ok(Fitted { shape, prices, stretch: 1.0, planning_s: 0.0 })
    }

    /// For prices that were read from a file.
    pub fn check(&self) -> Result<(), FitError> {
        let (found, expected) = (self.prices.len(), terms::NAMES.len());
        if found == expected { Ok(()) } else { Err(FitError::Prices { found, expected }) }
    }

    pub fn seconds(&self, seqs: &[SeqShape]) -> f64 {
        self.priced(&terms::of(&self.shape, seqs))
    }

    fn priced(&self, terms: &[f64]) -> f64 {
        let alone: f64 = terms.iter().zip(&self.prices).map(|(term, price)| term * price).sum();
        self.stretch * alone + self.planning_s
    }

    /// The same prices in a server.
    pub fn served(self, stretch: f64, planning_s: f64) -> Fitted {
        Fitted { stretch, planning_s, ..self }
    }

    pub fn residuals(&self, cells: &[Measured]) -> Residuals {
        let mut errors: Vec<(f64, &str)> = cells
            .iter()
            .map(|cell| ((self.seconds(&cell.seqs) / cell.seconds - 1.0).abs(), cell.name.as_str()))
            .collect();
        errors.sort_by(|a, b| a.0.total_cmp(&b.0));
        let at = |share: f64| errors[((errors.len() - 1) as f64 * share).round() as usize].0;
        let (worst, worst_cell) = errors[errors.len() - 1];
        Residuals {
            cells: cells.len(),
            median: at(0.5),
            p95: at(0.95),
            worst,
            worst_cell: worst_cell.to_string(),
        }
    }
}

impl CostModel for Fitted {
    fn step_time(&self, seqs: &[SeqShape]) -> Duration {
        duration(self.seconds(seqs))
    }

    fn decode_time(&self, sequences: usize, keys: u64) -> Option<Duration> {
        let terms = terms::of_decode(&self.shape, sequences, keys)?;
        Some(duration(self.priced(&terms)))
    }
}
