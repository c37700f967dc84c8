//! Every candidate, side by side on the machine's cores, the cheapest at best first.
//!
//! Rounds of a fixed number of candidates, so that what a round takes from those before it, and with it the answer, does not
//! depend on the machine: where to begin, and which candidates need no simulation.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use llmlab_models::catalogue::Hardware;
use rayon::prelude::*;

use super::PlanError;
use super::answer::{Clusters, Market, Plan, answer, surplus};
use super::candidate::{Candidate, candidates};
use super::money::{HOURS_PER_MONTH, HourlyPrice};
use super::resolve::{KV, Question, WEIGHTS};
use super::row::{AtPeak, Refusal, Sized, held};
use super::sizing::Prepared;
use super::skipped::{Figures, Skipped, at_best, undecided};

/// Candidates of a round: more than most machines have cores.
const ROUND: usize = 32;
/// Of the first, which begins without knowing where.
const FIRST_ROUND: usize = 8;

/// What became of a candidate.
#[derive(Debug, Clone, PartialEq)]
pub enum Found {
    Serves(Box<Sized>, AtPeak),
    Refused(Candidate, Refusal),
}

/// What became of all.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Searched {
    /// In the order of the candidates.
    pub found: Vec<Found>,
    pub skipped: Vec<Skipped>,
    /// Devices without a price for the ways of paying that were asked for.
    pub unpriced: Vec<String>,
    pub candidates: usize,
    pub complete: bool,
}

/// How a search is watched.
pub struct Watch<'w> {
    /// Candidates done, of how many that have to be simulated.
    pub progress: &'w (dyn Fn(usize, usize) + Sync),
    pub cancelled: &'w (dyn Fn() -> bool + Sync),
}

/// Sizes and prices the configurations of a plan. When it is cancelled, the plan has those that are done. `exhaustive`: those that
/// cannot matter are simulated too.
pub fn plan(
    question: &Question<'_>,
    market: &Market,
    exhaustive: bool,
    watch: &Watch<'_>,
) -> Result<Plan, PlanError> {
    let priced = |device: &Hardware| !market.prices(&device.name).is_empty();
    let tried = candidates(&question.spec.space, &WEIGHTS, &KV, priced)?;
    let mut search = Search::prepare(question, market, tried, watch)?;
    search.in_rounds()?;
    if exhaustive {
        search.simulate_skipped(|_| true)?;
    }
    let mut clusters = Clusters::new();
    loop {
        let plan = answer(
            question.spec,
            &question.limits,
            &search.searched(),
            &question.lengths,
            question.conversations,
            market,
            &|candidate, replicas, routing| question.together(candidate, replicas, routing),
            &mut clusters,
            watch.cancelled,
        )?;
        let again: HashSet<Candidate> = undecided(&plan).into_iter().collect();
        if again.is_empty() || (watch.cancelled)() {
            return Ok(plan);
        }
        search.simulate_skipped(|candidate| again.contains(candidate))?;
    }
}

struct Search<'a> {
    question: &'a Question<'a>,
    watch: &'a Watch<'a>,
    candidates: Vec<Candidate>,
    /// By candidate.
    found: Vec<Option<Found>>,
    /// What is left: place of the candidate.
    waiting: Vec<Waiting>,
    skipped: Vec<(Waiting, Skipped)>,
    unpriced: Vec<String>,
    figures: Vec<(Figures, String)>,
    done: AtomicUsize,
}

struct Waiting {
    place: usize,
    prepared: Prepared,
    prices: Vec<HourlyPrice>,
    /// Where the search would have begun when it was skipped, so that it ends alike whenever it is simulated after all.
    hint: Option<f64>,
}

impl Waiting {
    /// Its cheapest way of paying, with replicas and dollars a month at best.
    fn at_best(&self, question: &Question<'_>) -> Option<(&HourlyPrice, u32, f64)> {
        let bound = self.prepared.bound.as_ref()?;
        let priced = self.prices.iter().map(|price| {
            let (replicas, usd) = at_best(question.spec, &self.prepared.candidate, bound, price);
            (price, replicas, usd)
        });
        priced.min_by(|a, b| a.2.total_cmp(&b.2))
    }
}

impl<'a> Search<'a> {
    /// Refuses what needs no simulation for it.
    fn prepare(
        question: &'a Question<'a>,
        market: &Market,
        candidates: Vec<Candidate>,
        watch: &'a Watch<'a>,
    ) -> Result<Search<'a>, PlanError> {
        let prepared: Vec<Result<Prepared, Refusal>> =
            candidates.par_iter().map(|candidate| question.prepare(candidate)).collect::<Result<_, _>>()?;
        let mut search = Search {
            question,
            watch,
            found: Vec::new(),
            waiting: Vec::new(),
            skipped: Vec::new(),
            unpriced: Vec::new(),
            figures: Vec::new(),
            done: AtomicUsize::new(0),
            candidates,
        };
        for (place, prepared) in prepared.into_iter().enumerate() {
            let candidate = &search.candidates[place];
            search.found.push(match prepared {
                Err(refusal) => Some(Found::Refused(candidate.clone(), refusal)),
                Ok(prepared) => {
                    let prices = market.prices(&candidate.hardware);
                    if !prices.is_empty() {
                        search.waiting.push(Waiting { place, prepared, prices, hint: None });
                    } else if !search.unpriced.contains(&candidate.hardware) {
                        search.unpriced.push(candidate.hardware.clone());
                    }
                    None
                }
            });
        }
        let usd = |one: &Waiting| one.at_best(question).map_or(0.0, |(_, _, usd)| usd);
        // The dearest first: they are taken from the end.
        search.waiting.sort_by(|a, b| usd(b).total_cmp(&usd(a)).then(b.place.cmp(&a.place)));
        Ok(search)
    }

    fn in_rounds(&mut self) -> Result<(), PlanError> {
        let mut size = FIRST_ROUND;
        while !self.waiting.is_empty() && !(self.watch.cancelled)() {
            let mut round = Vec::with_capacity(size);
            while round.len() < size
                && let Some(mut next) = self.waiting.pop()
            {
                match self.beaten(&next) {
                    Some(skipped) => {
                        next.hint = self.hint(&next.prepared.candidate);
                        self.skipped.push((next, skipped));
                    }
                    None => round.push(next),
                }
            }
            self.simulate(round, self.waiting.len())?;
            size = ROUND;
        }
        Ok(())
    }

    /// Those that are wanted, after all.
    fn simulate_skipped(&mut self, wanted: impl Fn(&Candidate) -> bool) -> Result<(), PlanError> {
        let (mut again, others) =
            std::mem::take(&mut self.skipped).into_iter().partition(|(_, one)| wanted(&one.candidate));
        self.skipped = others;
        while !again.is_empty() && !(self.watch.cancelled)() {
            let round: Vec<(Waiting, Skipped)> = again.drain(..ROUND.min(again.len())).collect();
            self.simulate(round.into_iter().map(|(waiting, _)| waiting).collect(), again.len())?;
        }
        // What was not reached is still only known at best.
        self.skipped.append(&mut again);
        Ok(())
    }

    /// One round; `left` are to follow.
    fn simulate(&mut self, round: Vec<Waiting>, left: usize) -> Result<(), PlanError> {
        let cancelled = self.watch.cancelled;
        let done = &self.done;
        let all = done.load(Ordering::Relaxed) + round.len() + left;
        let found: Vec<Option<Found>> = round
            .par_iter()
            .with_max_len(1)
            .map(|one| {
                if cancelled() {
                    return Ok(None);
                }
                let hint = one.hint.or_else(|| self.hint(&one.prepared.candidate));
                let found = self.question.size(&one.prepared, hint)?;
                (self.watch.progress)(done.fetch_add(1, Ordering::Relaxed) + 1, all);
                // A search that was cut short says nothing.
                Ok((!cancelled()).then_some(found))
            })
            .collect::<Result<_, PlanError>>()?;
        for (one, found) in round.into_iter().zip(found) {
            if let Some(Found::Serves(sized, peak)) = &found {
                self.remember(sized, peak, &one.prices);
            }
            self.found[one.place] = found;
        }
        Ok(())
    }

    fn remember(&mut self, sized: &Sized, peak: &AtPeak, prices: &[HourlyPrice]) {
        let spec = self.question.spec;
        let needed = sized.replicas(spec.demand.peak_rps).0.saturating_add(peak.added);
        let cheapest = prices.iter().map(|price| {
            let surplus = surplus(price.pricing);
            let replicas = held(needed, surplus, spec.space.spare_replicas);
            (f64::from(replicas) * f64::from(sized.candidate.devices()) * price.usd, price)
        });
        let Some((usd_per_hour, price)) = cheapest.min_by(|a, b| a.0.total_cmp(&b.0)) else { return };
        let figures = Figures {
            usd_per_month: usd_per_hour * HOURS_PER_MONTH,
            ttft_p95_s: peak.tried.observed.ttft_p95_s,
            tpot_p95_s: peak.tried.observed.tpot_p95_s,
        };
        self.figures.push((figures, format!("{}, {}", sized.candidate.words(), price.pricing.name())));
    }

    fn beaten(&self, one: &Waiting) -> Option<Skipped> {
        let (price, replicas, usd_per_month) = one.at_best(self.question)?;
        let bound = one.prepared.bound?;
        let (_, beaten_by) = self.figures.iter().find(|(row, _)| row.beat(usd_per_month, &bound))?;
        Some(Skipped {
            candidate: one.prepared.candidate.clone(),
            price: price.clone(),
            throughput_error: one.prepared.errors.throughput,
            bound,
            replicas,
            usd_per_month,
            beaten_by: beaten_by.clone(),
        })
    }

    /// How far the capacity of the most similar candidate of earlier rounds was from its guess.
    fn hint(&self, candidate: &Candidate) -> Option<f64> {
        let alike = |other: &Candidate| {
            let same = |same: bool, weight: u32| u32::from(same) * weight;
            same(other.hardware == candidate.hardware, 8)
                + same(other.tensor_parallel == candidate.tensor_parallel, 4)
                + same(other.weights == candidate.weights, 2)
                + same(other.kv == candidate.kv, 1)
                + same(other.pipeline_parallel == candidate.pipeline_parallel, 1)
        };
        let served = self.found.iter().flatten().filter_map(|found| match found {
            Found::Serves(sized, _) => sized.candidate.split.is_none().then_some(sized),
            Found::Refused(..) => None,
        });
        let nearest = served.max_by_key(|sized| alike(&sized.candidate))?;
        Some(nearest.replica_rps() / nearest.guess_rps)
    }

    fn searched(&self) -> Searched {
        let mut skipped: Vec<Skipped> = self.skipped.iter().map(|(_, skipped)| skipped.clone()).collect();
        skipped.sort_by(|a, b| a.usd_per_month.total_cmp(&b.usd_per_month));
        Searched {
            found: self.found.iter().flatten().cloned().collect(),
            skipped,
            unpriced: self.unpriced.clone(),
            candidates: self.candidates.len(),
            complete: !(self.watch.cancelled)(),
        }
    }
}
