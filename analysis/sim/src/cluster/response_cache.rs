//! A cache of whole answers in front of the router. Generated prompts are all different, so which requests ask the same is
//! drawn by popularity.

use std::collections::VecDeque;
use std::time::Duration;

use llmlab_core::request::At;
use rustc_hash::FxHashMap;

use super::config::ClusterError;
use super::random::{Draws, Purpose};

/// Distinct questions that can be told apart.
const MOST_QUESTIONS: u32 = 10_000_000;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ResponseCache {
    pub repeats: Repeats,
    /// Answers that are kept; the oldest goes first.
    pub capacity: usize,
    /// Answers older than this are not given.
    pub ttl: Duration,
    /// From a request that is found to its whole answer.
    pub latency: Duration,
}

/// How requests repeat each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Repeats {
    /// Each is found with this probability, whatever was asked before.
    HitRate(f64),
    /// Each asks one of so many questions, the k-th most popular `k^-exponent` times as often as the first; it is found if an
    /// answer to the same question is kept.
    Zipf { questions: u32, exponent: f64 },
}

impl ResponseCache {
    pub(super) fn check(&self) -> Result<(), ClusterError> {
        let wrong = |key, accepted| Err(ClusterError::value("response_cache", key, accepted));
        match self.repeats {
            Repeats::HitRate(rate) if !(0.0..=1.0).contains(&rate) => wrong("hit_rate", "0 to 1"),
            Repeats::Zipf { questions, .. } if !(1..=MOST_QUESTIONS).contains(&questions) => {
                wrong("questions", "1 to 10000000")
            }
            Repeats::Zipf { exponent, .. } if !(0.0..=10.0).contains(&exponent) => {
                wrong("exponent", "0 to 10")
            }
            _ => Ok(()),
        }
    }
}

#[derive(Debug)]
pub(super) struct Answers {
    config: ResponseCache,
    seed: u64,
    /// Shares of the questions, added up.
    cumulative: Vec<f64>,
    kept: FxHashMap<u32, At>,
    /// In the order in which they came; one that was renewed since is passed over.
    ages: VecDeque<(At, u32)>,
}

impl Answers {
    pub fn new(config: ResponseCache, seed: u64) -> Answers {
        let mut sum = 0.0;
        let cumulative = match config.repeats {
            Repeats::HitRate(_) => Vec::new(),
            Repeats::Zipf { questions, exponent } => (1..=questions)
                .map(|rank| {
                    sum += libm::pow(f64::from(rank), -exponent);
                    sum
                })
                .collect(),
        };
        Answers { config, seed, cumulative, kept: FxHashMap::default(), ages: VecDeque::new() }
    }

    /// When the answer is there, if it is kept.
    pub fn finds(&self, now: At, id: u64) -> Option<At> {
        let found = match self.config.repeats {
            Repeats::HitRate(rate) => self.draw(id) < rate,
            Repeats::Zipf { .. } => {
                let since = self.kept.get(&self.question(id));
                since.is_some_and(|since| now.saturating_sub(*since) <= self.config.ttl)
            }
        };
        found.then(|| now + self.config.latency)
    }

    /// A replica has answered.
    pub fn keep(&mut self, now: At, id: u64) {
        if self.cumulative.is_empty() || self.config.capacity == 0 {
            return;
        }
        let question = self.question(id);
        self.kept.insert(question, now);
        self.ages.push_back((now, question));
        while self.kept.len() > self.config.capacity {
            let Some((at, oldest)) = self.ages.pop_front() else { break };
            if self.kept.get(&oldest) == Some(&at) {
                self.kept.remove(&oldest);
            }
        }
    }

    fn draw(&self, id: u64) -> f64 {
        Draws::new(self.seed, Purpose::Question, id).unit()
    }

    fn question(&self, id: u64) -> u32 {
        let last = self.cumulative.len() - 1;
        let place = self.draw(id) * self.cumulative[last];
        self.cumulative.partition_point(|sum| *sum <= place).min(last) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(repeats: Repeats, capacity: usize) -> Answers {
        let ttl = Duration::from_secs(10);
        Answers::new(ResponseCache { repeats, capacity, ttl, latency: Duration::from_millis(1) }, 5)
    }

    #[test]
    fn an_answer_is_found_until_it_is_old_or_displaced() {
        let mut one = answers(Repeats::Zipf { questions: 1, exponent: 1.0 }, 8);
        let at = Duration::from_secs;
        assert_eq!(one.finds(at(0), 1), None);
        one.keep(at(1), 1);
        assert_eq!(one.finds(at(2), 2), Some(at(2) + Duration::from_millis(1)));
        assert!(one.finds(at(11), 3).is_some() && one.finds(at(12), 3).is_none());
        let mut many = answers(Repeats::Zipf { questions: 1000, exponent: 0.0 }, 8);
        (0..500).for_each(|id| many.keep(at(0), id));
        assert_eq!(many.kept.len(), 8);
    }

    #[test]
    fn a_hit_rate_is_met() {
        let cache = answers(Repeats::HitRate(0.3), 0);
        let hits = (0..10_000).filter(|id| cache.finds(Duration::ZERO, *id).is_some()).count();
        // 3000 expected; the standard deviation is 46.
        assert!((2800..3200).contains(&hits), "{hits}");
    }
}
