//! A model whose next token is a hash of everything before it, and an executor that computes it only from what it finds
//! in the block slots it was told to read. Any wrong block table, lost write, stale cache entry or wrong position changes
//! the tokens or trips a check.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use llmlab_core::executor::{Executor, ExecutorError};
use llmlab_core::request::{FinishReason, Request, RequestId, TokenId};
use llmlab_core::step::{Sampled, SeqStep, StepOutcome, StepPlan};

pub const EOS: TokenId = 0;

/// Greedy choice over a small vocabulary, so that eos comes up and prompts repeat.
pub fn next_token(history: &[TokenId], banned: &[TokenId]) -> TokenId {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for &token in history {
        hash = (hash ^ u64::from(token)).wrapping_mul(0x0100_0000_01b3);
    }
    let mut token = (hash >> 32) as TokenId % 24;
    while banned.contains(&token) {
        token += 1;
    }
    token
}

/// What a request generates when it runs alone, and why it ends: the truth every schedule must reproduce.
pub fn alone(request: &Request, max_model_len: usize) -> (Vec<TokenId>, FinishReason) {
    let mut history = request.prompt.to_vec();
    let stop = &request.stop;
    for generated in 1.. {
        let banned: &[TokenId] =
            if generated <= stop.min_tokens && !stop.ignore_eos { &stop.eos_ids } else { &[] };
        let token = next_token(&history, banned);
        history.push(token);
        let is_eos = !stop.ignore_eos && stop.eos_ids.contains(&token);
        let is_long = generated >= stop.max_tokens || history.len() >= max_model_len;
        if is_eos || is_long {
            let reason = if is_eos { FinishReason::Stop } else { FinishReason::Length };
            return (history.split_off(request.prompt.len()), reason);
        }
    }
    unreachable!("max_tokens ends the loop")
}

/// Keys and values are stood in for by the token they belong to, one per slot.
pub struct FakeExecutor {
    block_size: usize,
    slots: HashMap<usize, TokenId>,
    /// Prompt and output of each request, from the request itself and from what was sampled here.
    history: HashMap<RequestId, Vec<TokenId>>,
    prompts: HashMap<RequestId, usize>,
    last_step: u64,
    /// Drafts it proposes for each sequence.
    pub drafts: usize,
    /// Steps were planned before the ones before were committed.
    pub planned_ahead: bool,
    /// Takes histories from the requests, not from the slots: for a policy that starts from blocks nobody wrote.
    pub blind: bool,
    /// Several sequences may compute the same token at the same place: a prompt that is cached whole computes its last
    /// token once more.
    pub may_rewrite: bool,
}

impl FakeExecutor {
    pub fn new(block_size: u32) -> Self {
        FakeExecutor {
            block_size: block_size as usize,
            slots: HashMap::new(),
            history: HashMap::new(),
            prompts: HashMap::new(),
            last_step: 0,
            drafts: 0,
            planned_ahead: false,
            blind: false,
            may_rewrite: false,
        }
    }

    pub fn expect(&mut self, request: &Request) {
        self.history.insert(request.id, request.prompt.to_vec());
        self.prompts.insert(request.id, request.prompt.len());
    }

    /// A step that is planned and not executed.
    pub fn fail(&mut self, plan: &StepPlan) {
        self.last_step = plan.step;
    }

    fn slot(&self, seq: &SeqStep, position: usize) -> usize {
        seq.blocks[position / self.block_size].0 as usize * self.block_size + position % self.block_size
    }

    /// What comes next, right up to a place that differs from case to case; sometimes fewer than it might.
    fn guess(&self, id: RequestId) -> Vec<TokenId> {
        let mut history = self.history[&id].clone();
        let known = history.len();
        let right = (known * 7 + id.0 as usize * 3) % (self.drafts + 1);
        let count = self.drafts - usize::from(known.is_multiple_of(5) && self.drafts > 0);
        for place in 0..count {
            let token = next_token(&history, &[]);
            history.push(if place < right { token } else { token + 1 });
        }
        history.split_off(known)
    }

    fn check_shape(&self, seq: &SeqStep) {
        let history = &self.history[&seq.id];
        let verified = seq.tokens.len() - seq.drafts as usize;
        let (start, end) = (seq.context as usize, seq.context as usize + verified);
        assert_eq!(
            seq.tokens[..verified],
            history[start..end],
            "{:?} was given other tokens than its own",
            seq.id
        );
        let covering = (start + seq.tokens.len()).div_ceil(self.block_size);
        assert!(
            if self.drafts == 0 && !self.planned_ahead {
                seq.blocks.len() == covering
            } else {
                seq.blocks.len() >= covering
            },
            "{:?} has the wrong number of blocks",
            seq.id
        );
        assert!(seq.blocks.iter().all(|b| b.0 != 0), "{:?} was given the null block", seq.id);
        // A row that only pads may belong to a client that left while its last token was being computed.
        let generated = history.len() - self.prompts[&seq.id];
        assert!(seq.tokens.is_empty() || seq.generated as usize == generated, "{:?} {generated}", seq.id);
        let at_the_end = !seq.tokens.is_empty() && end == history.len();
        // A request that ended after its step was planned is computed without a sample.
        assert!(
            if self.planned_ahead { at_the_end || !seq.sample } else { at_the_end == seq.sample },
            "{:?} samples at the wrong place",
            seq.id
        );
        assert!(!seq.tokens.is_empty() || seq.padding > 0, "{:?} is in the plan for nothing", seq.id);
    }
}

impl Executor for FakeExecutor {
    fn execute(&mut self, plan: &StepPlan) -> Result<StepOutcome, ExecutorError> {
        assert_eq!(plan.step, self.last_step + 1, "steps are counted without gaps");
        self.last_step = plan.step;
        let mut ids = HashSet::new();
        let mut written = HashMap::new();
        for seq in &plan.seqs {
            assert!(ids.insert(seq.id), "{:?} is in the plan twice", seq.id);
            self.check_shape(seq);
            for (i, &token) in seq.tokens.iter().enumerate() {
                let slot = self.slot(seq, seq.context as usize + i);
                let before = written.insert(slot, token);
                let fine = before.is_none() || (self.may_rewrite && before == Some(token));
                assert!(fine, "slot {slot} is written twice in step {}", plan.step);
                self.slots.insert(slot, token);
            }
        }
        let (mut sampled, mut drafts) = (Vec::new(), Vec::new());
        for (i, seq) in plan.seqs.iter().enumerate().filter(|(_, seq)| !seq.tokens.is_empty()) {
            let end = seq.context as usize + seq.tokens.len();
            let stored = |p: usize| self.slots.get(&self.slot(seq, p)).copied();
            let known = end - seq.drafts as usize;
            let read: Vec<TokenId> = if self.blind {
                self.history[&seq.id][..end].to_vec()
            } else {
                (0..end)
                    .map(|p| stored(p).unwrap_or_else(|| panic!("{:?} reads an empty slot", seq.id)))
                    .collect()
            };
            assert_eq!(
                read[..known],
                self.history[&seq.id][..known],
                "{:?} reads back another history",
                seq.id
            );
            if !seq.sample {
                continue;
            }
            for place in known..=end {
                let ahead = (place - known) as u32;
                let banned: &[TokenId] =
                    if ahead > 0 && seq.generated + ahead >= seq.banned_until { &[] } else { &seq.banned };
                let token = next_token(&read[..place], banned);
                sampled.push(Sampled { seq: i as u32, token });
                self.history.entry(seq.id).and_modify(|history| history.push(token));
                if read.get(place) != Some(&token) {
                    break;
                }
            }
            drafts.extend(self.guess(seq.id).into_iter().map(|token| Sampled { seq: i as u32, token }));
        }
        Ok(StepOutcome { sampled, drafts, elapsed: Duration::from_millis(1) })
    }
}
