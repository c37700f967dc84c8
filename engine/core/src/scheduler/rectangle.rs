//! Request-level batching: a batch is formed, padded to a rectangle, and runs until its longest request ends. Shared by
//! `static` and `dynamic`, which differ only in when a batch is formed.
//!
//! The padding takes no blocks: padded rows are computed and thrown away. But the executor holds every row of a step at
//! once, so a rectangle that pads needs the rectangle's memory, and [`Rectangle::fitting`] bounds it. A sequence that is
//! done, or whose client left, keeps its row and its blocks until the batch ends. Tokens are still emitted as they come.

use crate::request::RequestId;
use crate::scheduler::Work;
use crate::scheduler::state::{Admission, State};

#[derive(Debug, Default)]
pub struct Rectangle {
    rows: Vec<Row>,
    prefilled: bool,
}

#[derive(Debug)]
struct Row {
    id: RequestId,
    done: bool,
}

impl Rectangle {
    /// How many of the first `limit` waiting requests fit in the empty pool with their whole lives. A rectangle cannot
    /// preempt, so even with paging, which hands blocks out later, a batch is formed only if all of it can end.
    ///
    /// The padded prompts, `requests * longest prompt` rows, may not exceed the tokens of the pool either. Blocks alone do
    /// not bound them: one long prompt next to many short ones takes few blocks and pads to an allocation that its client
    /// chose. A request alone is never padded, so one always passes this test.
    pub(super) fn fitting(state: &State, limit: usize) -> usize {
        let usable = state.blocks.usable();
        let capacity_tokens = usable * state.blocks.block_size() as usize;
        let (mut blocks, mut count, mut width) = (0, 0, 0);
        let fits = |id: &RequestId| {
            let seq = state.seq(*id);
            blocks += state.life_blocks(seq.longest(state.max_model_len));
            count += 1;
            width = width.max(seq.prompt_len());
            blocks <= usable && (count == 1 || count * width <= capacity_tokens)
        };
        state.waiting.iter().take(limit).take_while(fits).count()
    }

    /// Admits the first `size` waiting requests. Only between batches.
    pub(super) fn form(&mut self, state: &mut State, size: usize) {
        assert!(self.rows.is_empty(), "a batch was formed while {} rows are still running", self.rows.len());
        for _ in 0..size {
            let Some(id) = state.waiting.front() else { break };
            let first_step_end = state.seq(id).tokens.len();
            let admission = Admission { first_step_end, transferred: 0, whole_must_fit: false, keep_free: 0 };
            assert!(state.admit_front(Vec::new(), admission), "request {} does not fit the empty pool", id.0);
            self.rows.push(Row { id, done: false });
        }
        self.prefilled = false;
    }

    pub(super) fn is_running(&self) -> bool {
        !self.rows.is_empty()
    }

    /// The batch's next forward pass: all prompts at once, then one token per row.
    pub(super) fn next_step(&mut self, state: &mut State) -> Vec<Work> {
        let prefill = !std::mem::replace(&mut self.prefilled, true);
        let width = self.rows.iter().map(|row| state.seq(row.id).prompt_len()).max().unwrap_or(0);
        let mut work = Vec::with_capacity(self.rows.len());
        for row in &self.rows {
            let seq = state.seq(row.id);
            let (tokens, padding) = match row.done {
                true => (0, 1),
                false => (seq.uncomputed(), if prefill { width - seq.prompt_len() } else { 0 }),
            };
            let end = seq.computed + tokens;
            assert!(
                state.grow(row.id, end),
                "no block for request {}, though its whole life was admitted",
                row.id.0
            );
            work.push(Work { padding, ..Work::tokens(row.id, tokens) });
        }
        work
    }

    /// A row is done. With the last one the batch ends and all memory comes back.
    pub(super) fn retire(&mut self, state: &mut State, id: RequestId) {
        for row in self.rows.iter_mut().filter(|row| row.id == id) {
            row.done = true;
        }
        if self.rows.iter().all(|row| row.done) {
            for row in self.rows.drain(..) {
                state.release(row.id);
            }
        }
    }
}
