//! TGI v3: the router's batching loop with the shard's chunking. Recorded behaviour of 3.3.6; files in `backends/v3/src`
//! of text-generation-inference: `backend.rs` (the loop), `queue.rs` (`admission`), `radix.rs` and `block_allocator.rs`
//! (`allocator`).
//!
//! Memory for prompt + output - 1 is reserved at admission whatever the KV strategy says, so nothing is ever preempted.
//! At most 1024 tokens of output at a time: see `leg`. The loop alternates: look for new requests and, if there are
//! any, one prefill forward; then always one decode forward. Without chunking the prefill runs alone and the running
//! batch stalls; with chunking it carries the running batch along. `padded` is the accounting of models without flash
//! attention, which have no blocks in TGI.
//!
//! Two policies. `tgi-3.3.6` is the exact twin. `tgi` keeps the rules and leaves out what is a defect:
//!
//! | `tgi-3.3.6` | `tgi` |
//! |---|---|
//! | a request that needs more memory than there is waits for ever, and all behind it | refused when it arrives |
//! | memory given back before anything was computed puts the prompt into the prefix cache, so a later request starts from blocks nobody wrote: right for a simulation, wrong text from a real model | only what was computed is cached |
//! | a prompt that begins like a part of one in the cache keeps all of that one from being evicted, so that a request that needs nearly all the memory can wait for ever | only the part it uses, when memory is short |
//! | a client that leaves during a chunked prefill is dropped at its first token | dropped at once |
//! | a client that leaves the queue counts as waiting until its turn | does not |
//! | `max_tokens` above 1024 is overrun to whole legs, or cut at 1024 when the next leg fails validation | honoured; cut only at a leg whose prompt is longer than `max_input_tokens`, or without chunking than a prefill |
//!
//! Both refuse a prompt longer than `max_input_tokens`. Both end an answer at the context length where the router would
//! refuse a `max_tokens` beyond it. When a forward fails, all in it end with an error: the new requests of a prefill that
//! runs alone, the whole batch otherwise.

mod admission;
mod allocator;
mod leg;
mod padded;
mod radix;

use crate::config::{EngineConfig, TgiConfig};
use crate::request::{At, FinishReason, RequestId};
use crate::scheduler::state::State;
use crate::scheduler::tgi::admission::Wanted;
use crate::scheduler::tgi::allocator::{Allocation, Allocator};
use crate::scheduler::tgi::leg::Leg;
use crate::scheduler::tgi::padded::{Member, PaddedBatch};
use crate::scheduler::{Decision, EnqueueError, Policy, Work};

#[derive(Debug)]
pub struct Tgi {
    config: TgiConfig,
    allocator: Allocator,
    /// The longest prompt a leg may have.
    max_input_tokens: usize,
    /// The batch on the shard, oldest admission first. Those that left stay listed until the next forward is planned,
    /// because the shard sizes the next chunks before the router filters them out.
    batch: Vec<Entry>,
    padded: PaddedBatch,
    /// A prefill forward just ran, so a decode forward is next.
    decode_next: bool,
    /// Forwards since the last prefill, counted as the router does: 1 right after it.
    waiting_tokens: u32,
    /// At the end of the queue for their next leg. The HTTP task that brings them needs a moment, so the forward that is
    /// planned next cannot see them, nor who came after them.
    returning: Vec<RequestId>,
    /// Clients that left the queue and are not yet popped: for each, the waiting requests before it. Only with the
    /// defects.
    ghosts: Vec<usize>,
}

#[derive(Debug)]
struct Entry {
    id: RequestId,
    leg: Leg,
    /// None once it is gone.
    allocation: Option<Allocation>,
    gone: bool,
}

impl Tgi {
    pub fn new(config: TgiConfig, engine: &EngineConfig) -> Self {
        let longest = config.max_input_tokens.unwrap_or(engine.max_model_len - 1) as usize;
        // Without chunking a prompt must fit into one prefill, whose budget counts in whole blocks. TGI's launcher refuses
        // a configuration that allows longer ones.
        let one_prefill =
            config.max_batch_prefill_tokens.div_ceil(engine.block_size) as usize * engine.block_size as usize;
        Tgi {
            allocator: Allocator::new(&config, engine.block_size),
            max_input_tokens: if config.prefill_chunking { longest } else { longest.min(one_prefill) },
            config,
            batch: Vec::new(),
            padded: PaddedBatch::default(),
            decode_next: false,
            waiting_tokens: 0,
            returning: Vec::new(),
            ghosts: Vec::new(),
        }
    }

    /// Tokens each batch entry feeds in the next forward, by the shard's rule: one for a decode; prompts that are not
    /// done share what the decodes leave of the prefill budget, newest first, and get at least one token each.
    fn next_inputs(&self, state: &State) -> Vec<usize> {
        let others = self.batch.len().saturating_sub(1);
        let mut budget = (self.config.max_batch_prefill_tokens as usize).saturating_sub(others);
        let mut inputs = vec![1; self.batch.len()];
        for (entry, input) in self.batch.iter().zip(&mut inputs).rev() {
            if !entry.gone && state.seq(entry.id).prefilling {
                *input = state.seq(entry.id).uncomputed().min(budget).max(1);
                budget = budget.saturating_sub(*input);
            }
        }
        inputs
    }

    /// Takes out of the batch who is gone, and returns what the others feed next.
    fn filter(&mut self, state: &State) -> Vec<usize> {
        let inputs = self.next_inputs(state);
        if self.config.requires_padding {
            let member = |entry: &Entry| match entry.gone {
                true => Member { gone: true, tokens: 0, remaining: 0 },
                false => {
                    let seq = state.seq(entry.id);
                    Member { gone: false, tokens: seq.tokens.len(), remaining: entry.leg.remaining(seq) }
                }
            };
            self.padded.filter(&self.batch.iter().map(member).collect::<Vec<_>>());
        }
        let kept = self.batch.iter().map(|entry| !entry.gone);
        let inputs = inputs.into_iter().zip(kept).filter(|(_, kept)| *kept).map(|(input, _)| input).collect();
        self.batch.retain(|entry| !entry.gone);
        inputs
    }

    fn next_forward(&mut self, state: &mut State) -> Decision {
        let inputs = self.filter(state);
        if self.batch.is_empty() {
            return self.start(state);
        }
        let mut running: Vec<Work> =
            self.batch.iter().zip(&inputs).map(|(entry, &tokens)| Work::tokens(entry.id, tokens)).collect();
        if !std::mem::take(&mut self.decode_next) {
            let wanted = self.join_limits(&inputs, state.blocks.block_size() as usize);
            let new = self.next_batch(state, &wanted);
            if !new.is_empty() {
                self.waiting_tokens = 1;
                self.decode_next = true;
                if !self.config.prefill_chunking {
                    return Decision::Run(new);
                }
                running.extend(new);
                return Decision::Run(running);
            }
        }
        self.waiting_tokens += 1;
        if self.config.requires_padding {
            let tokens: Vec<usize> =
                self.batch.iter().map(|entry| state.seq(entry.id).tokens.len()).collect();
            self.padded.concatenate(&tokens);
        }
        Decision::Run(running)
    }

    /// From idle: a prefill of whatever fits, with no minimum.
    fn start(&mut self, state: &mut State) -> Decision {
        let new = self.next_batch(
            state,
            &Wanted {
                min_size: 0,
                max_size: self.config.max_batch_size.map_or(usize::MAX, |n| n as usize),
                prefill_tokens: self.config.max_batch_prefill_tokens as usize,
                total_tokens: self.config.max_batch_total_tokens as usize,
            },
        );
        self.waiting_tokens = 1;
        // The first pass of the loop looks for more before it decodes.
        self.decode_next = false;
        if new.is_empty() { Decision::Idle } else { Decision::Run(new) }
    }

    /// The limits under which waiting requests may join the running batch, whose next forward feeds `inputs` tokens.
    fn join_limits(&self, inputs: &[usize], block_size: usize) -> Wanted {
        let blocks = |entry: &Entry| entry.allocation.as_ref().map_or(0, |held| held.blocks.len());
        let held_tokens = match self.config.requires_padding {
            true => self.padded.max_tokens(),
            false => self.batch.iter().map(blocks).sum::<usize>() * block_size,
        };
        let total_tokens = (self.config.max_batch_total_tokens as usize).saturating_sub(held_tokens);
        let prefill_tokens = self.config.max_batch_prefill_tokens as usize;
        if self.config.prefill_chunking {
            let current: usize = inputs.iter().sum();
            let prefill_tokens = prefill_tokens.saturating_sub(current);
            return Wanted { min_size: 0, max_size: usize::MAX, prefill_tokens, total_tokens };
        }
        let size = self.batch.len();
        let patient = self.waiting_tokens < self.config.max_waiting_tokens;
        // In single precision, as the router computes it.
        let ratio = (size as f32 * self.config.waiting_served_ratio as f32).floor() as usize;
        Wanted {
            min_size: if patient { ratio } else { 0 },
            max_size: self.config.max_batch_size.map_or(usize::MAX, |n| (n as usize).saturating_sub(size)),
            prefill_tokens,
            total_tokens,
        }
    }

    /// Gives back the memory of a batch entry.
    fn leave_batch(&mut self, state: &mut State, id: RequestId) {
        let Some(entry) = self.batch.iter_mut().find(|entry| entry.id == id && !entry.gone) else { return };
        entry.gone = true;
        let Some(allocation) = entry.allocation.take() else { return };
        let seq = &state.seqs[&id];
        let computed = if self.config.upstream_defects { usize::MAX } else { seq.computed };
        let prompt = &seq.tokens[..entry.leg.prompt_tokens.min(computed)];
        let prompt = (!seq.request.skip_prefix_cache).then_some(prompt);
        self.allocator.free(&mut state.blocks, allocation, prompt);
        // Given back here, in the allocator's order.
        state.seq_mut(id).blocks.clear();
    }
}

impl Policy for Tgi {
    fn plan(&mut self, state: &mut State, _now: At) -> Decision {
        let decision = self.next_forward(state);
        let returned = !std::mem::take(&mut self.returning).is_empty();
        match decision {
            Decision::Idle if returned => self.next_forward(state),
            decision => decision,
        }
    }

    fn refuses(&self, state: &State, prompt_tokens: usize, longest_tokens: usize) -> Option<EnqueueError> {
        if prompt_tokens > self.max_input_tokens {
            return Some(EnqueueError::TooLong { tokens: prompt_tokens, limit: self.max_input_tokens });
        }
        if self.config.upstream_defects {
            return None;
        }
        let tokens = longest_tokens + self.config.speculate as usize;
        let limit = self.config.max_batch_total_tokens as usize;
        if self.config.requires_padding && tokens > limit {
            return Some(EnqueueError::TooLong { tokens, limit });
        }
        let blocks = self.allocator.blocks_for(&state.blocks, tokens - 1);
        let total = state.blocks.usable();
        (blocks > total).then_some(EnqueueError::NeverFits { blocks, total })
    }

    fn retire(&mut self, state: &mut State, id: RequestId) {
        self.leave_batch(state, id);
        state.release(id);
    }

    /// The router notices at the next token of the request. Until then it is in the batch like any other.
    fn client_left(&mut self, state: &mut State, id: RequestId, token_due: bool) {
        if !self.config.upstream_defects && !token_due {
            self.retire(state, id);
        }
    }

    fn token_for_nobody(&mut self, state: &mut State, id: RequestId) {
        self.retire(state, id);
    }

    fn left_the_queue(&mut self, place: usize) {
        if self.config.upstream_defects {
            for ahead in self.ghosts.iter_mut().filter(|ahead| **ahead > place) {
                *ahead -= 1;
            }
            self.ghosts.push(place);
        }
    }

    fn ends(&mut self, state: &mut State, id: RequestId, end: Option<FinishReason>) -> Option<FinishReason> {
        if end == Some(FinishReason::Stop) {
            return end;
        }
        let seq = state.seq(id);
        let leg = self.batch.iter().find(|entry| entry.id == id && !entry.gone).map(|entry| entry.leg);
        if leg.is_some_and(|leg| !leg.is_over(seq)) {
            return None;
        }
        if !leg::continues(&self.config, seq, self.max_input_tokens, state.max_model_len) {
            return Some(FinishReason::Length);
        }
        self.leave_batch(state, id);
        state.requeue(id);
        self.returning.push(id);
        None
    }
}
