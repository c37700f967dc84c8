//! Decode steps without plans, for executors that compute nothing.
//!
//! While nobody is admitted, arrives or leaves, a step gives each running sequence one token, and almost nothing in the books
//! changes: a sequence needs a block, or fills one, every `block_size` steps, and ends once. A stretch goes from one such
//! moment to the next and does there what the long way does, by the same methods. It ends in the state that planning and
//! committing every step would have led to; tests hold it to that, step for step.

use crate::executor::Foresight;
use crate::request::{At, FinishReason, RequestId};
use crate::scheduler::Scheduler;
use crate::scheduler::state::State;
use crate::sequence::Sequence;

/// Until it is closed, the sequences in it lack the tokens that it brought.
#[derive(Debug)]
pub struct Stretch<'s> {
    scheduler: &'s mut Scheduler,
    /// One for each running sequence, in batch order.
    lanes: Vec<Lane>,
    steps: u32,
    first_end: u32,
    /// Somebody waits, and can be admitted once one of so many has left.
    full: Option<usize>,
    /// Keys that the next step's sequences see, each its own.
    keys: u64,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Lane {
    id: RequestId,
    /// The step in which it needs a block or fills one, and the one in which it gets its last token; counted from 1.
    attention: u32,
    end: u32,
}

/// A request that got its last token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    pub id: RequestId,
    pub reason: FinishReason,
}

impl Scheduler {
    /// A stretch, if the next steps are plain decodes as far as the scheduler can see.
    pub fn stretch(&mut self) -> Option<Stretch<'_>> {
        let state = &self.state;
        let quiet = self.flights.is_empty()
            && self.leaving.is_empty()
            && self.batches == 1
            && !state.plans_ahead
            && state.speculation.is_none()
            && !state.running.is_empty()
            && state.expired.is_empty()
            && state.preempted.is_empty();
        if !quiet || !self.policy.decodes_evenly(state) {
            return None;
        }
        let mut lanes = std::mem::take(&mut self.spare_lanes);
        lanes.clear();
        let mut keys = 0;
        for &id in &state.running {
            let seq = state.seq(id);
            if !decodes_to_its_end(seq) {
                self.spare_lanes = lanes;
                return None;
            }
            let length = (seq.request.stop.max_tokens as usize - seq.generated())
                .min(state.max_model_len - seq.tokens.len());
            keys += seq.computed as u64 + 1;
            lanes.push(Lane { id, attention: attention(state, seq, 0), end: length as u32 });
        }
        let full = (!state.waiting.is_empty()).then_some(lanes.len());
        let first_end = first_end(&lanes);
        Some(Stretch { scheduler: self, lanes, steps: 0, first_end, full, keys })
    }

    /// Steps at least until a request that is here now gets its first token or ends by its length. None without requests, and
    /// where a step may bring a request several tokens.
    pub fn steps_to_news(&self) -> Option<usize> {
        let state = &self.state;
        if state.speculation.is_some() || state.plans_ahead {
            return None;
        }
        // Who waits is let in when somebody leaves, or at any time.
        if !state.waiting.is_empty() && !self.policy.decodes_evenly(state) {
            return Some(1);
        }
        let left = state.running.iter().map(|id| {
            let seq = state.seq(*id);
            if seq.generated() == 0 {
                return 1;
            }
            let wanted = (seq.request.stop.max_tokens as usize).saturating_sub(seq.generated());
            wanted.min(state.max_model_len.saturating_sub(seq.tokens.len()))
        });
        left.min()
    }
}

/// Nothing but its length ends it, and it has one token to compute.
fn decodes_to_its_end(seq: &Sequence) -> bool {
    let stop = &seq.request.stop;
    seq.uncomputed() == 1
        && seq.ever_admitted
        && !seq.prefilling
        && seq.request.lora.is_none()
        && stop.stop_token_ids.is_empty()
        && (stop.ignore_eos || stop.eos_ids.is_empty())
}

/// The step, at the earliest the one after `steps`, in which a sequence computes a token that needs a block or fills one.
fn attention(state: &State, seq: &Sequence, steps: u32) -> u32 {
    let block_size = state.blocks.block_size() as usize;
    let needs = seq.blocks.len() * block_size + 1;
    let fills = if state.prefix_caching { (seq.registered + 1) * block_size } else { usize::MAX };
    u32::try_from(needs.min(fills) - seq.computed).unwrap_or(u32::MAX).max(steps + 1)
}

impl Stretch<'_> {
    /// Sequences in the next step.
    pub fn sequences(&self) -> usize {
        self.lanes.len()
    }

    /// Keys that they see in all.
    pub fn keys(&self) -> u64 {
        self.keys
    }

    /// Whether the next step is as plain as the last one: there is somebody, a block for everybody, and no new place for who
    /// waits.
    pub fn goes_on(&self) -> bool {
        !self.lanes.is_empty()
            && self.full.is_none_or(|full| self.lanes.len() == full)
            && self.lanes.len() <= self.scheduler.state.blocks.free().len()
            && self.steps < u32::MAX - 1
    }

    /// The next step, over at `now`. Requests that end with it are added to `ended` in batch order. Only while
    /// [`Stretch::goes_on`].
    pub fn step(&mut self, now: At, foresight: &dyn Foresight, ended: &mut Vec<Ended>) {
        self.steps += 1;
        let (step, sequences) = (self.steps, self.lanes.len());
        let state = &mut self.scheduler.state;
        for lane in &mut self.lanes {
            if lane.attention == step {
                let seq = state.seq_mut(lane.id);
                let end = seq.computed + step as usize;
                // The last token of the sequence so far is the one that this step computes.
                extend(seq, end, foresight);
                assert!(state.grow(lane.id, end), "no block for request {}, though one is free", lane.id.0);
                lane.attention = attention(state, state.seq(lane.id), step);
            }
        }
        state.stats.steps_total += 1;
        state.stats.computed_tokens_total += sequences as u64;
        state.stats.sampled_tokens_total += sequences as u64;
        state.stats.kv_tokens += sequences;
        self.keys += sequences as u64;
        self.scheduler.tick(now);
        if step == self.first_end {
            self.end(foresight, ended);
        }
    }

    fn end(&mut self, foresight: &dyn Foresight, ended: &mut Vec<Ended>) {
        let (step, scheduler) = (self.steps, &mut *self.scheduler);
        let mut place = 0;
        while place < self.lanes.len() {
            let Lane { id, end, .. } = self.lanes[place];
            if end != step {
                place += 1;
                continue;
            }
            self.lanes.remove(place);
            let last = write(&mut scheduler.state, id, step, foresight);
            self.keys -= scheduler.state.seq(id).computed as u64 + 1;
            if let Some(reason) = scheduler.policy.ends(&mut scheduler.state, id, last) {
                scheduler.state.stats.finished_total += 1;
                scheduler.finish(id, false, reason);
                ended.push(Ended { id, reason });
            }
        }
        self.first_end = first_end(&self.lanes);
    }

    /// Gives the sequences their tokens. Those that are left are the running set.
    pub fn close(self, foresight: &dyn Foresight) {
        for lane in &self.lanes {
            let end = write(&mut self.scheduler.state, lane.id, self.steps, foresight);
            assert_eq!(end, None, "request {} ended unnoticed", lane.id.0);
        }
        self.scheduler.spare_lanes = self.lanes;
    }
}

/// Brings a sequence's tokens and their count up to date after so many steps. Says whether the last one ended it.
fn write(state: &mut State, id: RequestId, steps: u32, foresight: &dyn Foresight) -> Option<FinishReason> {
    let max_model_len = state.max_model_len;
    let seq = state.seq_mut(id);
    seq.computed += steps as usize;
    extend(seq, seq.computed, foresight);
    if seq.tokens.len() > seq.computed {
        return None;
    }
    seq.append(foresight.token(id, seq.generated() as u32), max_model_len)
}

/// Gives a sequence what it generated, up to so many tokens in all. None of these ends it.
fn extend(seq: &mut Sequence, length: usize, foresight: &dyn Foresight) {
    while seq.tokens.len() < length {
        seq.tokens.push(foresight.token(seq.id(), seq.generated() as u32));
    }
}

fn first_end(lanes: &[Lane]) -> u32 {
    lanes.iter().map(|lane| lane.end).min().unwrap_or(u32::MAX)
}
