//! The order of events.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::time::Duration;

use llmlab_core::request::At;
use llmlab_loadgen::workload::Mode;
use llmlab_loadgen::{Issuer, Silent, Workload};
use llmlab_results::record::RecordSink;

use super::Role;
use super::admission::Bucket;
use super::books::{Books, Mark};
use super::config::{ClusterConfig, ClusterError};
use super::controller::Controller;
use super::observe::{Meter, Seen};
use super::outcome::{ClusterOutcome, Cost, LittlesLaw, ReplicaOutcome, Sample, Scaling, ServedBy};
use super::replica::{Phase, Replica};
use super::response_cache::Answers;
use super::router::{Router, View};
use super::stability::{Saturated, Stability};
use crate::SimulationError;
use crate::driver::clients::{Clients, FRONT_DESK};
use crate::driver::ids;
use crate::driver::server::{Did, Server};

/// Runs the workload to its end. The number of replicas stays what it is.
pub fn simulate(config: &ClusterConfig, workload: &Workload) -> Result<ClusterOutcome, ClusterError> {
    simulate_with(config, workload, None, None)
}

/// The same with somebody who scales, and with the record of each request as a live client would write it, in the order in
/// which replicas compute.
pub fn simulate_with<'a>(
    config: &'a ClusterConfig,
    workload: &Workload,
    controller: Option<&'a mut dyn Controller>,
    records: Option<&'a mut dyn RecordSink>,
) -> Result<ClusterOutcome, ClusterError> {
    config.check()?;
    if let Some(controller) = &controller
        && controller.interval() < Duration::from_millis(1)
    {
        return Err(ClusterError::value("controller", "interval", "times of at least 1 ms"));
    }
    let workload = ids::of_turns(workload);
    let books = Books::new(records);
    let mut clients = Clients::new(Issuer::new(&workload), config.timeouts, books, &Silent);
    clients.ends_matter = workload.sessions.is_some() || matches!(workload.mode, Mode::Closed { .. });
    let mut cluster = Cluster {
        config,
        clients,
        controller,
        replicas: Vec::new(),
        ready: Vec::new(),
        wakes: BinaryHeap::new(),
        events: BinaryHeap::new(),
        announced: 0,
        router: Router::new(config.routing, config.seed),
        queue: VecDeque::new(),
        prefilled: VecDeque::new(),
        bucket: config.admission.rate_limit.map(Bucket::new),
        answers: config.response_cache.map(|cache| Answers::new(cache, config.seed)),
        wanted: config.pools.iter().map(|pool| pool.replicas).collect(),
        in_flight: 0,
        without_token: 0,
        counted_until: At::ZERO,
        request_seconds: 0.0,
        meter: Meter::default(),
        seen: Seen::default(),
        samples: Vec::new(),
        scalings: Vec::new(),
        api_usd: 0.0,
        views: Vec::new(),
    };
    cluster.until_the_end()?;
    Ok(cluster.outcome())
}

/// Things that happen at a time that is known before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    /// A replica has gone through a phase of its start.
    PhaseOver(usize),
    Fails(usize),
    /// The provider takes the machine back soon.
    Notice(usize),
    /// The machine goes, with whatever is still on it.
    Leaves(usize),
    SendAgain(u64),
    /// Has waited long enough at the router.
    Shed(u64),
    Scrape,
    Sample,
    Control,
}

pub(super) struct Cluster<'a, 'w> {
    pub config: &'a ClusterConfig,
    pub clients: Clients<'w, 'a, Books<'w, 'a>>,
    pub controller: Option<&'a mut dyn Controller>,
    /// All there ever were.
    pub replicas: Vec<Replica<'w>>,
    /// Those that get new requests, ascending.
    pub ready: Vec<usize>,
    /// Of replicas; an entry that is not its replica's wake any more means nothing.
    wakes: BinaryHeap<Reverse<(At, usize)>>,
    events: BinaryHeap<Reverse<(At, u64, Event)>>,
    announced: u64,
    pub router: Router,
    /// Requests that wait at the router.
    pub queue: VecDeque<u64>,
    /// Requests whose prompts are done, and that no replica decodes yet.
    pub prefilled: VecDeque<u64>,
    pub bucket: Option<Bucket>,
    pub answers: Option<Answers>,
    /// Replicas that each pool is to have.
    pub wanted: Vec<u32>,
    pub in_flight: usize,
    pub without_token: usize,
    counted_until: At,
    /// In the system, added up.
    request_seconds: f64,
    pub meter: Meter,
    pub seen: Seen,
    pub samples: Vec<Sample>,
    pub scalings: Vec<Scaling>,
    pub api_usd: f64,
    /// Memory for candidates.
    pub views: Vec<View>,
}

impl Cluster<'_, '_> {
    fn until_the_end(&mut self) -> Result<(), SimulationError> {
        self.begin();
        while self.clients.remaining() > 0 || self.in_flight > 0 {
            let next = self.next_event();
            if let Some((replica, limit)) = self.next_to_advance(next.unwrap_or(At::MAX)) {
                self.advance(replica, limit)?;
                continue;
            }
            let Some(now) = next else { break };
            if self.controller.as_ref().is_some_and(|controller| controller.stops()) {
                break;
            }
            self.happens(now)?;
        }
        Ok(())
    }

    fn begin(&mut self) {
        for pool in 0..self.config.pools.len() {
            for _ in 0..self.config.pools[pool].replicas {
                let replica = self.add(pool, At::ZERO);
                self.enter(replica, Phase::Ready, At::ZERO);
            }
        }
        if self.controller.is_some() || self.router.looks_at_scrapes() {
            self.announce(At::ZERO, Event::Scrape);
        }
        if let Some(controller) = &self.controller {
            let first = controller.interval();
            self.announce(first, Event::Control);
        }
        if self.config.sample_interval.is_some() {
            self.announce(At::ZERO, Event::Sample);
        }
    }

    pub fn announce(&mut self, at: At, event: Event) {
        self.announced += 1;
        self.events.push(Reverse((at, self.announced, event)));
    }

    /// When something happens next that is no step.
    fn next_event(&mut self) -> Option<At> {
        let mark = self.clients.ledger.next_mark();
        let event = self.events.peek().map(|Reverse((at, _, _))| *at);
        let patience = self.clients.next_deadline(FRONT_DESK);
        let due = self.clients.next_due();
        [mark, event, patience, due].into_iter().flatten().min()
    }

    /// One thing of those that happen now: news first, arrivals last.
    fn happens(&mut self, now: At) -> Result<(), SimulationError> {
        if self.clients.ledger.next_mark().is_some_and(|at| at <= now) {
            if let Some((at, mark)) = self.clients.ledger.take_mark() {
                self.told(at.max(self.counted_until), mark)?;
            }
            return Ok(());
        }
        if self.events.peek().is_some_and(|Reverse((at, _, _))| *at <= now) {
            if let Some(Reverse((_, _, event))) = self.events.pop() {
                self.event(now, event)?;
            }
            return Ok(());
        }
        if self.clients.next_deadline(FRONT_DESK).is_some_and(|at| at <= now) {
            while let Some(left) = self.clients.next_to_give_up(FRONT_DESK, now)? {
                self.queue.retain(|id| *id != left.id);
                self.prefilled.retain(|id| *id != left.id);
            }
            return self.press(now);
        }
        self.arrive(now)
    }

    fn event(&mut self, now: At, event: Event) -> Result<(), SimulationError> {
        match event {
            Event::PhaseOver(replica) => self.phase_over(replica, now)?,
            Event::Fails(replica) => self.fails(replica, now)?,
            Event::Notice(replica) => self.notice(replica, now)?,
            Event::Leaves(replica) => self.leaves(replica, now)?,
            Event::SendAgain(id) => self.send_again(id, now)?,
            Event::Shed(id) => self.shed(id, now)?,
            Event::Scrape => self.scrape(now)?,
            Event::Sample => self.sample(now)?,
            Event::Control => self.control(now)?,
        }
        Ok(())
    }

    fn told(&mut self, now: At, mark: Mark) -> Result<(), SimulationError> {
        match mark {
            Mark::FirstToken(id) => {
                if let Some(flight) = self.clients.ledger.flights.get_mut(&id)
                    && !flight.has_tokens
                {
                    flight.has_tokens = true;
                    self.without_token -= 1;
                    self.meter.first_token(now, now.saturating_sub(flight.arrival));
                }
                Ok(())
            }
            Mark::Prefilled(id, replica) => self.prefilled(id, replica, now),
            Mark::End(id) => self.ended(id, now),
        }
    }

    /// So many requests more or fewer are in the system from now on.
    pub fn count(&mut self, now: At, more: bool) {
        self.request_seconds += self.in_flight as f64 * now.saturating_sub(self.counted_until).as_secs_f64();
        self.counted_until = now;
        if more {
            self.in_flight += 1;
        } else {
            self.in_flight -= 1;
        }
    }

    /// The replica with the earliest wake before `limit`, and how far it may go.
    fn next_to_advance(&mut self, limit: At) -> Option<(usize, At)> {
        let (at, replica) = self.next_wake()?;
        if at >= limit {
            return None;
        }
        self.wakes.pop();
        self.replicas[replica].wake = At::MAX;
        // An end in another replica, or of a prompt there, may bring a request for this one, but not before a step of that has passed.
        let follows = self.clients.ends_matter || self.config.is_disaggregated();
        let other = if follows { self.next_wake() } else { None };
        let until = |at: At| at.saturating_add(Duration::from_nanos(1)).min(limit);
        Some((replica, other.map_or(limit, |(at, _)| until(at))))
    }

    fn next_wake(&mut self) -> Option<(At, usize)> {
        while let Some(Reverse((at, replica))) = self.wakes.peek().copied() {
            if self.replicas[replica].wake == at && self.replicas[replica].works() {
                return Some((at, replica));
            }
            self.wakes.pop();
        }
        None
    }

    /// Something is to be done for a replica at this time, or when its step is over.
    pub fn wake(&mut self, replica: usize, at: At) {
        let at = at.max(self.replicas[replica].lane.now);
        if at < self.replicas[replica].wake {
            self.replicas[replica].wake = at;
            self.wakes.push(Reverse((at, replica)));
        }
    }

    /// Lets a replica work until a step of it would start at `limit` or later, or something follows from what it did.
    pub fn advance(&mut self, place: usize, limit: At) -> Result<(), SimulationError> {
        let replica = &mut self.replicas[place];
        assert!(replica.lane.now < limit, "replica {place} is at {:?}, beyond {limit:?}", replica.lane.now);
        let before = self.clients.ledger.results.len();
        let wake = loop {
            let mut server = Server {
                engine: &mut replica.engine,
                lane: &mut replica.lane,
                clients: &mut self.clients,
                steps_sink: None,
                time_limit: At::MAX,
                limit,
                horizon: replica.dies_at,
            };
            match server.work()? {
                Did::Steps => {}
                Did::Overran => {
                    replica.stopped = true;
                    break At::MAX;
                }
                Did::Nothing { until } => {
                    let deadline = self.clients.next_deadline(replica.lane.desk);
                    let next = [until, replica.lane.next_arrival(), deadline].into_iter().flatten().min();
                    match next {
                        Some(at) if at < limit => {
                            replica.lane.now = replica.lane.now.max(at);
                            continue;
                        }
                        next => break next.unwrap_or(At::MAX),
                    }
                }
            }
            let handed_on = !replica.lane.prefilled.is_empty();
            for (at, id) in replica.lane.prefilled.drain(..) {
                self.clients.ledger.mark(at, Mark::Prefilled(id, place));
            }
            let news = self.clients.ends_matter && self.clients.ledger.results.len() > before;
            if handed_on || news || replica.lane.now >= limit {
                let deadline = self.clients.next_deadline(replica.lane.desk);
                let known = [replica.lane.next_arrival(), deadline].into_iter().flatten().min();
                let quiet = replica.quiet_until();
                break known.map_or(quiet, |at| at.min(quiet));
            }
        };
        replica.wake = At::MAX;
        self.wake(place, wake);
        Ok(())
    }

    /// Brings a replica that was left alone up to the present.
    pub fn catch_up(&mut self, place: usize, now: At) -> Result<(), SimulationError> {
        let replica = &self.replicas[place];
        if replica.works() && replica.lane.now < now {
            self.advance(place, now)?;
        }
        Ok(())
    }

    fn outcome(self) -> ClusterOutcome {
        let elapsed = self.clients.last_end();
        let mut requests = self.clients.ledger.results;
        requests.sort_unstable_by_key(|result| result.index);
        let last_arrival = requests.iter().map(|result| result.arrival).max().unwrap_or_default();
        let mut cost = Cost { api_usd: self.api_usd, ..Cost::default() };
        let mut saturated: BTreeMap<Role, Saturated> = BTreeMap::new();
        let mut replicas = Vec::with_capacity(self.replicas.len());
        for replica in &self.replicas {
            let pool = &self.config.pools[replica.pool];
            let gone_at = replica.gone_at.unwrap_or(At::MAX).min(elapsed);
            let hours =
                replica.billed_from.map_or(0.0, |from| gone_at.saturating_sub(from).as_secs_f64() / 3600.0);
            cost.replica_hours += hours;
            cost.gpu_hours += hours * f64::from(pool.gpus_per_replica);
            cost.replicas_usd += hours * pool.usd_per_replica_hour;
            let saturated = saturated.entry(pool.role).or_default();
            saturated.time += replica.lane.saturated;
            saturated.ended += replica.lane.ended_saturated;
            let served =
                |until: At| replica.ready_at.map_or(Duration::ZERO, |from| until.saturating_sub(from));
            saturated.replicas +=
                served(gone_at.min(last_arrival)).as_secs_f64() / last_arrival.as_secs_f64().max(1e-9);
            let stats = replica.engine.scheduler.stats();
            replicas.push(ReplicaOutcome {
                pool: replica.pool,
                ready_at: replica.ready_at,
                gone_at: replica.gone_at,
                busy: replica.lane.busy,
                utilisation: replica.lane.busy.as_secs_f64() / served(gone_at).as_secs_f64().max(1e-9),
                requests: replica.sent,
                steps: replica.lane.steps,
                prefix_query_tokens: stats.prefix_query_tokens_total,
                prefix_hit_tokens: stats.prefix_hit_tokens_total,
                preemptions: stats.preemptions_total,
            });
        }
        // Where prompts and answers are apart, those who wait longer for their replicas decide.
        let waited = |of: &Saturated| of.time.as_secs_f64() / of.replicas.max(1e-9);
        let saturated = saturated.into_values().max_by(|a, b| waited(a).total_cmp(&waited(b)));
        let seconds = elapsed.as_secs_f64().max(1e-9);
        let count = requests.len() as f64;
        let sojourns: f64 = requests.iter().map(|result| result.e2e().as_secs_f64()).sum();
        ClusterOutcome {
            little: LittlesLaw {
                mean_in_system: self.request_seconds / seconds,
                arrival_rate_rps: count / seconds,
                mean_sojourn_s: sojourns / count.max(1.0),
            },
            stability: Stability::of(&requests, saturated.unwrap_or_default()),
            cost,
            steps: replicas.iter().map(|replica| replica.steps).sum(),
            requests,
            replicas,
            samples: self.samples,
            scalings: self.scalings,
            elapsed,
        }
    }

    /// Replicas are as if those that wait at the router waited in their own queues.
    pub fn press(&mut self, now: At) -> Result<(), SimulationError> {
        for place in 0..self.ready.len() {
            let replica = self.ready[place];
            let queue = match self.replicas[replica].lane.role {
                Role::Decode => &self.prefilled,
                Role::Whole | Role::Prefill => &self.queue,
            };
            let pressed = !queue.is_empty();
            if self.replicas[replica].lane.pressed != pressed {
                self.catch_up(replica, now)?;
                self.replicas[replica].lane.pressed = pressed;
            }
        }
        Ok(())
    }

    /// A request of so many tokens has left a replica.
    pub fn has_one_less(&mut self, place: usize, tokens: u64, now: At) {
        let replica = &mut self.replicas[place];
        replica.outstanding = replica.outstanding.saturating_sub(1);
        replica.tokens = replica.tokens.saturating_sub(tokens);
        if replica.phase == Phase::Draining && replica.outstanding == 0 {
            self.gone(place, now);
        }
    }

    /// An end reaches the router.
    fn ended(&mut self, id: u64, now: At) -> Result<(), SimulationError> {
        let Some(flight) = self.clients.ledger.flights.remove(&id) else { return Ok(()) };
        self.clients.heard_of_end(id, now);
        self.count(now, false);
        self.without_token -= usize::from(!flight.has_tokens);
        self.meter.ended();
        if let ServedBy::Replica(place) = flight.place {
            self.has_one_less(place, flight.tokens, now);
        }
        if flight.answered
            && flight.place != ServedBy::ResponseCache
            && let Some(answers) = &mut self.answers
        {
            answers.keep(now, id);
        }
        self.send_waiting(now)
    }
}
