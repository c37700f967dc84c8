//! Every candidate, side by side on the machine's cores.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rayon::prelude::*;

use super::PlanError;
use super::candidate::Candidate;
use super::row::{Refusal, Sized};

/// What became of a candidate.
#[derive(Debug, Clone, PartialEq)]
pub enum Found {
    Serves(Box<Sized>),
    Refused(Candidate, Refusal),
}

/// Candidates done, of how many.
pub type Progress<'p> = dyn Fn(usize, usize) + Sync + 'p;

/// Sizes every candidate. When `cancelled` is set, those that are done are returned, in the order of `candidates`.
pub fn search(
    candidates: &[Candidate],
    size: &(dyn Fn(&Candidate) -> Result<Found, PlanError> + Sync),
    cancelled: &AtomicBool,
    progress: &Progress<'_>,
) -> Result<Vec<Found>, PlanError> {
    let done = AtomicUsize::new(0);
    let found: Vec<Option<Found>> = candidates
        .par_iter()
        .with_max_len(1)
        .map(|candidate| {
            if cancelled.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let found = size(candidate)?;
            let complete = !cancelled.load(Ordering::Relaxed);
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, candidates.len());
            Ok(complete.then_some(found))
        })
        .collect::<Result<_, PlanError>>()?;
    Ok(found.into_iter().flatten().collect())
}
