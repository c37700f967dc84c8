//! From arrival to replica.

use std::borrow::Cow;
use std::cmp::Reverse;

use llmlab_core::executor::Executor;
use llmlab_core::request::{At, FinishReason, RequestId};
use llmlab_loadgen::Prompt;
use llmlab_loadgen::workload::PlannedRequest;

use super::Role;
use super::books::Flight;
use super::outcome::ServedBy;
use super::replica::Replica;
use super::router::View;
use super::run::{Cluster, Event};
use crate::SimulationError;
use crate::driver::clients::ns;
use crate::driver::server::Travelling;

impl<'w> Cluster<'_, 'w> {
    /// The next request arrives.
    pub fn arrive(&mut self, now: At) -> Result<(), SimulationError> {
        let Some(request) = self.clients.issue() else { return Ok(()) };
        let id = request.index;
        let tokens = u64::from(request.prompt_tokens) + u64::from(request.max_tokens);
        self.count(now, true);
        self.without_token += 1;
        self.meter.arrived(request.prompt_tokens, request.max_tokens);
        let kept = self.answers.as_ref().and_then(|answers| answers.finds(now, id));
        let answer = kept.map(|at| vec![ns(at); request.max_tokens as usize]);
        let flight = Flight {
            max_tokens: request.max_tokens,
            request: Some(request),
            arrival: now,
            place: ServedBy::Router,
            part: self.first_part(),
            tokens,
            sent: 0,
            has_tokens: false,
            answered: false,
        };
        self.clients.ledger.flights.insert(id, flight);
        if self.bucket.as_mut().is_some_and(|bucket| !bucket.takes(now, tokens)) {
            let words = "HTTP 429 Too Many Requests: more than the rate limit".into();
            return Ok(self.clients.refused(id, now, 429, words)?);
        }
        match answer {
            Some(times_ns) => self.answer(id, now, ServedBy::ResponseCache, &times_ns),
            None => self.place(id, now),
        }
    }

    /// To the API, a replica, or the queue.
    fn place(&mut self, id: u64, now: At) -> Result<(), SimulationError> {
        if self.spills(id, now)? || (self.queue.is_empty() && self.send(id, now)) {
            return Ok(());
        }
        let waiting = self.queue.len();
        if waiting >= self.config.admission.max_queue {
            let words = format!("HTTP 429 Too Many Requests: {waiting} requests wait at the router already");
            return Ok(self.clients.refused(id, now, 429, words)?);
        }
        self.queue.push_back(id);
        self.press(now)?;
        if let Some(longest) = self.config.admission.longest_wait {
            self.announce(now.saturating_add(longest), Event::Shed(id));
        }
        Ok(())
    }

    /// Sends to the API what should go there. An answer that has begun is not continued by another model.
    fn spills(&mut self, id: u64, now: At) -> Result<bool, SimulationError> {
        let Some(api) = &self.config.spill_over else { return Ok(false) };
        let rate = self.meter.first_tokens_rps(now);
        let flight = self.clients.ledger.flights.get(&id);
        let Some(request) = flight.filter(|flight| !flight.has_tokens).and_then(|f| f.request.as_ref())
        else {
            return Ok(false);
        };
        // The request itself is among those without a token.
        if !api.wanted(self.without_token - 1, self.ready.len(), rate) {
            return Ok(false);
        }
        let times_ns = api.answer_ns(now, request, self.config.seed);
        self.api_usd += api.usd(request.prompt_tokens, request.max_tokens);
        self.answer(id, now, ServedBy::Api, &times_ns)?;
        Ok(true)
    }

    /// An answer that comes from no replica, a token at each of these times.
    fn answer(&mut self, id: u64, now: At, by: ServedBy, times_ns: &[u64]) -> Result<(), SimulationError> {
        if let Some(flight) = self.clients.ledger.flights.get_mut(&id) {
            flight.place = by;
        }
        self.clients.accepted(id, now);
        let mut at = now;
        for at_ns in times_ns {
            at = At::from_nanos(*at_ns);
            if self.clients.token(id, at, 0) {
                return Ok(self.clients.hang_up(id, at)?);
            }
        }
        Ok(self.clients.finished(id, at, FinishReason::Length)?)
    }

    /// False where no replica takes it now.
    fn send(&mut self, id: u64, now: At) -> bool {
        let most = self.config.admission.most_in_flight_per_replica.unwrap_or(u32::MAX);
        let mut views = std::mem::take(&mut self.views);
        views.clear();
        let part = self.clients.ledger.flights.get(&id).map_or(Role::Whole, |flight| flight.part);
        let fits = |replica: &Replica<'_>| replica.lane.role == part && replica.outstanding < most;
        let room = self.ready.iter().filter(|place| fits(&self.replicas[**place]));
        views.extend(room.map(|place| {
            let replica = &self.replicas[*place];
            let (waiting, kv_share) = self.seen.of(*place, now);
            View {
                replica: *place,
                weight: self.config.pools[replica.pool].weight,
                outstanding: replica.outstanding,
                tokens: replica.tokens,
                waiting,
                kv_share,
            }
        }));
        let sent = !views.is_empty() && self.send_to_one_of(id, now, &views);
        self.views = views;
        sent
    }

    fn send_to_one_of(&mut self, id: u64, now: At, views: &[View]) -> bool {
        let Some(flight) = self.clients.ledger.flights.get_mut(&id) else { return false };
        let again = self.config.retry.attempts > 0 || flight.part == Role::Prefill;
        let request = if again { flight.request.clone() } else { flight.request.take() };
        let Some(request) = request else { return false };
        let place = views[self.router.pick(&request, views)].replica;
        let from = std::mem::replace(&mut flight.place, ServedBy::Replica(place));
        let mut fetched = now;
        if flight.part == Role::Decode {
            let transfer = self.config.kv_transfer;
            let sending = transfer.sending(request.prompt_tokens);
            fetched = match from {
                ServedBy::Replica(from) => {
                    let from = &mut self.replicas[from];
                    from.sends_until = from.sends_until.max(now) + sending;
                    from.sends_until
                }
                _ => now + sending,
            } + transfer.latency;
        } else {
            flight.sent += 1;
        }
        let replica = &mut self.replicas[place];
        replica.outstanding += 1;
        replica.tokens += flight.tokens;
        replica.sent += 1;
        self.clients.move_to(id, replica.lane.desk);
        let lane = &mut replica.lane;
        let arrives = lane.front_end.take_in(fetched, request.prompt_tokens, &lane.overhead);
        replica.lane.travelling.push(Reverse(Travelling { arrives, request }));
        // Its client may give up on the way.
        let patience = self.clients.next_deadline(self.replicas[place].lane.desk);
        self.wake(place, patience.map_or(arrives, |at| at.min(arrives)));
        true
    }

    /// What a request needs first.
    fn first_part(&self) -> Role {
        if self.config.is_disaggregated() { Role::Prefill } else { Role::Whole }
    }

    /// A prompt is done: the request goes on to a replica that decodes.
    pub fn prefilled(&mut self, id: u64, replica: usize, now: At) -> Result<(), SimulationError> {
        let Some(flight) = self.clients.ledger.flights.get_mut(&id) else { return Ok(()) };
        // The replica may have been lost since, and the request sent again.
        if flight.place != ServedBy::Replica(replica) || flight.part != Role::Prefill {
            return Ok(());
        }
        flight.part = Role::Decode;
        let tokens = flight.tokens;
        self.has_one_less(replica, tokens, now);
        self.clients.forget_server(id);
        self.clients.move_to(id, crate::driver::clients::FRONT_DESK);
        self.prefilled.push_back(id);
        self.send_waiting(now)
    }

    /// There may be room for those that wait at the router.
    pub fn send_waiting(&mut self, now: At) -> Result<(), SimulationError> {
        let before = self.queue.len() + self.prefilled.len();
        while let Some(id) = self.prefilled.front().copied() {
            if self.clients.waits_for(id) && !self.send(id, now) {
                break;
            }
            self.prefilled.pop_front();
        }
        while let Some(id) = self.queue.front().copied() {
            if self.clients.waits_for(id) && !self.send(id, now) {
                break;
            }
            self.queue.pop_front();
        }
        if before > 0 { self.press(now) } else { Ok(()) }
    }

    pub fn shed(&mut self, id: u64, now: At) -> Result<(), SimulationError> {
        let Some(waiting) = self.queue.iter().position(|waiting| *waiting == id) else { return Ok(()) };
        self.queue.remove(waiting);
        self.press(now)?;
        let words = "HTTP 503 Service Unavailable: waited too long at the router".into();
        Ok(self.clients.refused(id, now, 503, words)?)
    }

    /// What a dead replica had: sent again after a while, or failed.
    pub fn lose(&mut self, place: usize, now: At) -> Result<(), SimulationError> {
        let flights = self.clients.ledger.flights.iter();
        // What waits for a decode replica has its keys and values still there.
        let here = flights.filter(|(_, flight)| flight.place == ServedBy::Replica(place));
        let mut lost: Vec<u64> = here.map(|(id, _)| *id).collect();
        // Maps have no order.
        lost.sort_unstable();
        let (retry, first_part) = (self.config.retry, self.first_part());
        for id in lost {
            let Some(tokens) = self.clients.has(id) else { continue };
            let Some(flight) = self.clients.ledger.flights.get_mut(&id) else { continue };
            if flight.sent <= retry.attempts && (tokens == 0 || retry.migrate) {
                flight.place = ServedBy::Router;
                flight.part = first_part;
                self.prefilled.retain(|waiting| *waiting != id);
                self.clients.move_to(id, crate::driver::clients::FRONT_DESK);
                self.clients.forget_server(id);
                self.announce(now.saturating_add(retry.delay), Event::SendAgain(id));
            } else {
                self.clients.lost(id, now, "the replica was lost".into())?;
            }
        }
        let replica = &mut self.replicas[place];
        (replica.outstanding, replica.tokens) = (0, 0);
        replica.lane.travelling.clear();
        Ok(())
    }

    /// A request that was on a dead replica.
    pub fn send_again(&mut self, id: u64, now: At) -> Result<(), SimulationError> {
        let Some(tokens) = self.clients.has(id) else { return Ok(()) };
        if tokens > 0 {
            let executor = self.replicas.first().and_then(|replica| replica.engine.executor.foresight());
            let said: Vec<u32> = executor.map_or_else(Vec::new, |executor| {
                (0..tokens).map(|index| executor.token(RequestId(id), index)).collect()
            });
            if let Some(flight) = self.clients.ledger.flights.get_mut(&id)
                && let Some(request) = flight.request.take()
            {
                flight.request = Some(Cow::Owned(continued(request.into_owned(), &said, flight.max_tokens)));
            }
        }
        self.place(id, now)
    }
}

/// The rest of a request for `max_tokens` after what was said already, some of which it may hold.
fn continued(mut request: PlannedRequest, said: &[u32], max_tokens: u32) -> PlannedRequest {
    let rest = max_tokens.saturating_sub(said.len() as u32);
    let new = request.max_tokens.saturating_sub(rest);
    if let Prompt::Tokens(prompt) = &mut request.prompt {
        prompt.extend_from_slice(&said[said.len().saturating_sub(new as usize)..]);
    }
    request.prompt_tokens += new;
    request.max_tokens = rest;
    request
}
