//! Steps between their plan and their commit: what each sequence counts as computed before it is, and how that is put
//! right once the outcome is there.

use crate::config::SpeculativeConfig;
use crate::request::{RequestId, TokenId};
use crate::scheduler::Work;
use crate::scheduler::state::State;
use crate::sequence::Sequence;
use crate::step::{Sampled, SeqStep, StepPlan};

/// In the place of a token that only the commit of the step before will bring.
const UNKNOWN: TokenId = TokenId::MAX;

#[derive(Debug)]
pub struct Flight {
    pub step: u64,
    /// One for each sequence of the plan.
    pub parts: Vec<Part>,
    /// Sequences that ended since; what comes out for them is dropped.
    pub gone: Vec<RequestId>,
}

#[derive(Debug)]
pub struct Part {
    pub id: RequestId,
    /// Drafts included.
    tokens: usize,
    pub drafts: usize,
    pub dummy_drafts: usize,
    pub emits: bool,
}

impl Part {
    pub fn rows(&self) -> usize {
        self.tokens + self.dummy_drafts
    }
}

impl Sequence {
    /// Tokens that counted as computed turned out to be none. Returns by how many the cache's contents shrink.
    pub fn take_back(&mut self, tokens: usize) -> usize {
        self.computed -= tokens;
        self.placeholders = self.placeholders.saturating_sub(tokens);
        tokens
    }
}

/// What holds for every plan of a scheduler.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    pub block_size: usize,
    pub speculation: Option<SpeculativeConfig>,
    /// The next step will be planned before this one is known.
    pub ahead: bool,
    /// Plans bring block tables.
    pub tables: bool,
}

/// Counts a sequence's work as computed, since planning takes a step in flight for done, and describes it to the executor.
pub fn launch(seq: &mut Sequence, work: &Work, rules: &Rules, step: &mut SeqStep) -> Part {
    let Rules { block_size, speculation, ahead, tables } = *rules;
    let (context, end, expected) = (seq.computed, seq.computed + work.tokens, seq.expected());
    assert!(end <= seq.blocks.len() * block_size, "request {} has no block for token {end}", seq.id().0);
    let drafts = end.saturating_sub(expected);
    let rows = work.tokens + work.dummy_drafts;
    seq.computed += rows;
    seq.in_flight += rows;
    seq.prefilling = seq.computed < expected;
    let emits = work.tokens > 0 && !seq.prefilling;
    if work.tokens == 1 && end <= seq.tokens.len() {
        step.tokens.clear();
        step.tokens.push(seq.tokens[context]);
    } else {
        put_tokens(&mut step.tokens, seq, context, end);
    }
    step.blocks.clear();
    if tables {
        let table = if speculation.is_some() { seq.blocks.len() } else { end.div_ceil(block_size) };
        step.blocks.extend_from_slice(&seq.blocks[..table]);
    }
    step.id = seq.id();
    step.context = context as u32;
    step.drafts = drafts as u32;
    step.sample = emits;
    step.sampling.clone_from(&seq.request.sampling);
    step.lora = seq.request.lora;
    step.generated = seq.generated() as u32;
    step.banned.clear();
    if seq.bans() {
        step.banned.extend(seq.banned());
    }
    step.banned_until = seq.request.stop.min_tokens;
    step.padding = (work.padding + work.dummy_drafts) as u32;
    if work.tokens > 0 {
        seq.draft_count = 0;
    }
    if ahead && emits {
        seq.placeholders += 1 + drafts + work.dummy_drafts;
        seq.draft_count = speculation.map_or(0, |s| s.num_speculative_tokens as usize);
    }
    Part { id: seq.id(), tokens: work.tokens, drafts, dummy_drafts: work.dummy_drafts, emits }
}

/// Tokens at these positions: known ones, then drafts, then unknown ones.
#[inline(never)]
fn put_tokens(tokens: &mut Vec<TokenId>, seq: &Sequence, start: usize, end: usize) {
    tokens.clear();
    tokens.extend_from_slice(&seq.tokens[start.min(seq.tokens.len())..end.min(seq.tokens.len())]);
    if seq.placeholders == 0 {
        tokens.extend(seq.drafts.iter().take(end - start - tokens.len()));
    }
    tokens.resize(end - start, UNKNOWN);
}

/// Puts what is known by now into a plan that was made while the step before it ran: every step before it is committed and
/// none after it is planned. Drafts that the drafter did not bring become padding.
pub fn resolve(plan: &mut StepPlan, state: &State) {
    for step in &mut plan.seqs {
        let Some(seq) = state.seqs.get(&step.id).filter(|seq| !seq.left) else {
            // It ended since. Its known tokens are computed all the same: others may already count on their blocks.
            let known = step.tokens.iter().take_while(|token| **token != UNKNOWN).count();
            step.padding += (step.tokens.len() - known) as u32;
            step.tokens.truncate(known);
            (step.drafts, step.sample) = (0, false);
            if known == 0 {
                step.context = 0;
            }
            continue;
        };
        let rows = step.tokens.len();
        let context = seq.computed - seq.in_flight;
        let known = &seq.tokens[context..seq.tokens.len().min(context + rows)];
        step.context = context as u32;
        step.tokens.clear();
        step.tokens.extend_from_slice(known);
        step.tokens.extend(seq.drafts.iter().take(rows - known.len()));
        step.drafts = (step.tokens.len() - known.len()) as u32;
        step.padding += (rows - step.tokens.len()) as u32;
        step.generated = seq.generated() as u32;
        step.banned.clear();
        step.banned.extend(seq.banned());
    }
}

/// Takes the leading entries that belong to one sequence of the plan.
#[inline]
pub fn split_off<'a>(rest: &mut &'a [Sampled], seq: usize) -> &'a [Sampled] {
    let mut count = 0;
    while count < rest.len() && rest[count].seq as usize == seq {
        count += 1;
    }
    let (own, others) = rest.split_at(count);
    *rest = others;
    own
}
