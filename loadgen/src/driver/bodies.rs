//! Bodies of requests, built ahead of their time: serialising thousands of token ids takes longer than a send may be late.

use std::collections::{HashMap, VecDeque};

use crate::client::Built;
use crate::conversations::{Conversations, Said};
use crate::endpoint::Endpoint;
use crate::workload::{PlannedRequest, Workload};

const BODIES_AHEAD: usize = 32;

pub(super) struct Bodies<'s> {
    endpoint: &'s Endpoint,
    requests: &'s [PlannedRequest],
    conversations: Conversations,
    /// Place of the next request whose body needs no answer and is not built.
    next_opening: usize,
    /// Places of turns whose answers are known and whose bodies are not built.
    told: VecDeque<usize>,
    /// By index.
    ready: HashMap<u64, Built>,
    /// Of `ready`, those that need no answer. Turns lie there for as long as their users think, and must not keep these out.
    openings_ready: usize,
}

impl<'s> Bodies<'s> {
    pub fn new(endpoint: &'s Endpoint, workload: &'s Workload) -> Self {
        Bodies {
            endpoint,
            requests: &workload.requests,
            conversations: Conversations::new(endpoint.protocol.takes_messages()),
            next_opening: 0,
            told: VecDeque::new(),
            ready: HashMap::new(),
            openings_ready: 0,
        }
    }

    pub fn wants_more(&self) -> bool {
        !self.told.is_empty()
            || (self.openings_ready < BODIES_AHEAD && self.next_opening < self.requests.len())
    }

    pub fn build_ahead(&mut self) {
        let place = match self.told.pop_front() {
            Some(place) => place,
            None => self.opening(),
        };
        let Some(request) = self.requests.get(place) else { return };
        self.openings_ready += usize::from(!follows(request));
        let built = self.build(request);
        self.ready.insert(request.index, built);
    }

    /// The body of a request that is due.
    pub fn take(&mut self, request: &'s PlannedRequest) -> Built {
        if let Some(built) = self.ready.remove(&request.index) {
            self.openings_ready -= usize::from(!follows(request));
            return built;
        }
        // Openings are built and issued in the same order, and so are turns once their answers are known.
        match follows(request) {
            true => self.told.retain(|&place| self.requests[place].index != request.index),
            false => drop(self.opening()),
        }
        self.build(request)
    }

    /// The request ended; `said` where a turn follows it.
    pub fn answered(&mut self, index: u64, said: Option<Said>) {
        let Some(said) = said else { return };
        // Indexes ascend in a workload.
        let Ok(place) = self.requests.binary_search_by_key(&index, |request| request.index) else { return };
        self.conversations.answered(&self.requests[place], said);
        // Of a part of a workload the turn that asks for the answer may not be there.
        if self.requests.get(place + 1).is_some_and(follows) {
            self.told.push_back(place + 1);
        }
    }

    /// The place of the next opening, which is then no longer the next.
    fn opening(&mut self) -> usize {
        let place = self.next_opening;
        let turns = self.requests.get(place + 1..).unwrap_or_default();
        self.next_opening = place + 1 + turns.iter().take_while(|request| follows(request)).count();
        place
    }

    fn build(&mut self, request: &PlannedRequest) -> Built {
        let composed = self.conversations.compose(request);
        let (request, turn) = match &composed {
            Some((composed, facts)) => (composed, Some((*facts, composed.prompt_tokens))),
            None => (request, None),
        };
        let body = self.endpoint.protocol.body(&self.endpoint.model, request);
        Built { body, turn }
    }
}

/// A later turn, whose prompt has an answer in it.
fn follows(request: &PlannedRequest) -> bool {
    request.turn.as_ref().is_some_and(|turn| turn.turn > 0)
}
