//! What can be known from outside: scrapes that arrive late, counts of a window, samples of replicas.

use std::collections::VecDeque;
use std::time::Duration;

use llmlab_core::request::At;

use super::controller::{PoolState, Scraped};
use super::outcome::Sample;
use super::replica::Phase;
use super::run::{Cluster, Event};
use crate::SimulationError;

/// How far back the rate of first tokens looks.
const RATE_WINDOW: Duration = Duration::from_secs(10);
/// First tokens that make a rate.
const FEWEST: usize = 10;

/// Counts since the last scrape.
#[derive(Debug, Default)]
pub(super) struct Meter {
    since: At,
    arrivals: u64,
    ends: u64,
    input_tokens: u64,
    output_tokens: u64,
    ttfts: Vec<Duration>,
    /// First tokens of the last seconds.
    lately: VecDeque<At>,
}

impl Meter {
    pub fn arrived(&mut self, prompt_tokens: u32, max_tokens: u32) {
        self.arrivals += 1;
        self.input_tokens += u64::from(prompt_tokens);
        self.output_tokens += u64::from(max_tokens);
    }

    pub fn first_token(&mut self, now: At, ttft: Duration) {
        self.ttfts.push(ttft);
        self.lately.push_back(now);
        self.forget(now);
    }

    pub fn ended(&mut self) {
        self.ends += 1;
    }

    /// None of too few.
    pub fn first_tokens_rps(&mut self, now: At) -> Option<f64> {
        self.forget(now);
        let span = now.min(RATE_WINDOW).as_secs_f64();
        (self.lately.len() >= FEWEST && span > 0.0).then(|| self.lately.len() as f64 / span)
    }

    fn forget(&mut self, now: At) {
        while self.lately.front().is_some_and(|at| now.saturating_sub(*at) > RATE_WINDOW) {
            self.lately.pop_front();
        }
    }

    /// What was counted, and from zero again. The state of replicas is left open.
    fn read(&mut self, now: At) -> Scraped {
        let mut ttfts = std::mem::take(&mut self.ttfts);
        ttfts.sort_unstable();
        let sum: Duration = ttfts.iter().sum();
        let rank = (ttfts.len() * 95).div_ceil(100);
        let scraped = Scraped {
            at: now,
            window: now.saturating_sub(self.since),
            arrivals: self.arrivals,
            ends: self.ends,
            input_tokens: self.input_tokens,
            output_tokens: self.output_tokens,
            ttft_mean: (!ttfts.is_empty()).then(|| sum.div_f64(ttfts.len() as f64)),
            ttft_p95: rank.checked_sub(1).map(|place| ttfts[place]),
            ..Scraped::default()
        };
        let lately = std::mem::take(&mut self.lately);
        *self = Meter { since: now, lately, ..Meter::default() };
        scraped
    }
}

/// Scrapes, some of them not to be seen yet.
#[derive(Debug, Default)]
pub(super) struct Seen {
    scrapes: VecDeque<Scrape>,
}

#[derive(Debug)]
struct Scrape {
    visible_from: At,
    scraped: Scraped,
    /// By replica: requests that wait, and the share of KV blocks in use.
    replicas: Vec<(usize, f64)>,
}

impl Seen {
    fn newest(&self, now: At) -> Option<&Scrape> {
        self.scrapes.iter().rev().find(|scrape| scrape.visible_from <= now)
    }

    fn add(&mut self, now: At, scrape: Scrape) {
        while self.scrapes.get(1).is_some_and(|next| next.visible_from <= now) {
            self.scrapes.pop_front();
        }
        self.scrapes.push_back(scrape);
    }

    /// Requests that wait in a replica and its share of KV blocks in use; nothing for one that was not scraped yet.
    pub fn of(&self, replica: usize, now: At) -> (usize, f64) {
        let newest = self.newest(now);
        newest.and_then(|scrape| scrape.replicas.get(replica).copied()).unwrap_or_default()
    }
}

impl Cluster<'_, '_> {
    fn catch_all_up(&mut self, now: At) -> Result<(), SimulationError> {
        for place in 0..self.replicas.len() {
            self.catch_up(place, now)?;
        }
        Ok(())
    }

    pub fn scrape(&mut self, now: At) -> Result<(), SimulationError> {
        self.catch_all_up(now)?;
        let mut scraped = self.meter.read(now);
        scraped.router_queue = self.queue.len();
        scraped.without_token = self.without_token;
        scraped.in_flight = self.in_flight;
        scraped.pools = vec![PoolState::default(); self.config.pools.len()];
        let mut replicas = Vec::with_capacity(self.replicas.len());
        for replica in &self.replicas {
            let pool = &mut scraped.pools[replica.pool];
            let mut state = (0, 0.0);
            if matches!(replica.phase, Phase::Ready | Phase::Draining) {
                let stats = replica.engine.scheduler.stats();
                pool.waiting += stats.waiting;
                pool.running += stats.running;
                state = (stats.waiting, replica.share_of_kv());
            }
            match replica.phase {
                Phase::Ready => {
                    pool.ready += 1;
                    pool.kv_share += state.1;
                }
                Phase::Draining => pool.draining += 1,
                Phase::Gone => {}
                phase => {
                    pool.starting += 1;
                    pool.pending += u32::from(matches!(phase, Phase::Provision | Phase::ImagePull));
                }
            }
            replicas.push(state);
        }
        for pool in &mut scraped.pools {
            pool.kv_share /= f64::from(pool.ready.max(1));
        }
        let visible_from = now.saturating_add(self.config.scrape.lag);
        self.seen.add(now, Scrape { visible_from, scraped, replicas });
        self.announce(now.saturating_add(self.config.scrape.interval), Event::Scrape);
        Ok(())
    }

    pub fn sample(&mut self, now: At) -> Result<(), SimulationError> {
        self.catch_all_up(now)?;
        for (place, replica) in self.replicas.iter().enumerate() {
            if replica.phase == Phase::Gone {
                continue;
            }
            let stats = replica.engine.scheduler.stats();
            self.samples.push(Sample {
                at: now,
                replica: place,
                phase: replica.phase,
                waiting: stats.waiting,
                running: stats.running,
                kv_share: replica.share_of_kv(),
            });
        }
        if let Some(interval) = self.config.sample_interval {
            self.announce(now.saturating_add(interval), Event::Sample);
        }
        Ok(())
    }

    pub fn control(&mut self, now: At) -> Result<(), SimulationError> {
        let Some(controller) = &mut self.controller else { return Ok(()) };
        let next = now.saturating_add(controller.interval());
        let seen = self.seen.newest(now);
        let wanted = seen.map(|scrape| controller.wanted(now, &scrape.scraped, &self.wanted));
        for (pool, wanted) in wanted.unwrap_or_default().into_iter().take(self.config.pools.len()).enumerate()
        {
            self.scale(pool, wanted, now)?;
        }
        self.announce(next, Event::Control);
        self.send_waiting(now)
    }
}
