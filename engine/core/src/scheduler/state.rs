//! The books every policy works on: who waits, who runs, and which blocks each sequence holds. A policy reads them and
//! moves requests only through the methods here, so that no policy can lose a request or a block.

use rustc_hash::FxHashMap;

use crate::block_manager::{BlockManager, Discipline};
use crate::config::{EngineConfig, KvStrategy, PolicyConfig, SpeculativeConfig, SpeculativeMethod};
use crate::request::RequestId;
use crate::scheduler::Work;
use crate::scheduler::queue::WaitingQueue;
use crate::sequence::Sequence;
use crate::stats::Stats;
use crate::step::BlockId;

#[derive(Debug)]
pub struct State {
    /// Everything that waits, runs or still holds blocks. Looked up by id, never iterated: its order is random.
    pub seqs: FxHashMap<RequestId, Sequence>,
    pub waiting: WaitingQueue,
    /// Admitted and neither finished nor aborted, oldest admission first.
    pub running: Vec<RequestId>,
    pub blocks: BlockManager,
    pub kv: KvStrategy,
    pub prefix_caching: bool,
    pub max_model_len: usize,
    pub speculation: Option<SpeculativeConfig>,
    /// Steps are planned before the one before is known.
    pub plans_ahead: bool,
    /// A victim's blocks stay in the prefix cache even if the step that was going to fill them no longer does.
    keeps_unwritten_blocks: bool,
    /// Thrown out of `running` since the last plan, in order.
    pub preempted: Vec<RequestId>,
    /// Memory of the last step's work, for policies that want it for the next.
    pub spare_work: Vec<Work>,
    /// Gave up waiting, by their policy's rule, since this was last asked for.
    pub expired: Vec<RequestId>,
    pub stats: Stats,
}

/// What an admission has to cover.
#[derive(Debug, Clone, Copy)]
pub struct Admission {
    /// Tokens that are computed already plus tokens of the first step.
    pub first_step_end: usize,
    /// Of these, the ones that are computed already, if they are more than the cache has.
    pub transferred: usize,
    /// Refuse unless all known tokens would fit, even if the first step takes fewer.
    pub whole_must_fit: bool,
    /// Blocks that must stay free.
    pub keep_free: usize,
}

impl State {
    pub fn new(config: &EngineConfig) -> Self {
        let kv = config.kv_in_use();
        let (num_blocks, discipline, prefix_caching, by_priority) = match &config.policy {
            PolicyConfig::Tgi(c) => {
                // TGI sizes its pool by tokens; the smaller of the two is what is really there. A batch that is padded
                // has no pool in TGI, so all of ours.
                let by_tokens = c.max_batch_total_tokens / config.block_size;
                let pool = if c.requires_padding { u32::MAX } else { by_tokens };
                (config.num_blocks.min(pool), Discipline::Tail, false, false)
            }
            PolicyConfig::Vllm(c) => {
                (config.num_blocks, discipline(config.kv), c.enable_prefix_caching, c.priority)
            }
            other => (config.num_blocks, discipline(kv), false, other.knobs().queue_by_priority()),
        };
        let (speculation, plans_ahead, keeps_unwritten_blocks) = match &config.policy {
            PolicyConfig::Vllm(c) => (c.speculative_config, c.async_scheduling, c.upstream_defects),
            _ => (None, false, false),
        };
        State {
            seqs: FxHashMap::default(),
            waiting: WaitingQueue::new(by_priority),
            running: Vec::new(),
            blocks: BlockManager::new(discipline, num_blocks, config.block_size),
            kv,
            prefix_caching,
            max_model_len: config.max_model_len as usize,
            speculation,
            plans_ahead,
            keeps_unwritten_blocks,
            preempted: Vec::new(),
            spare_work: Vec::new(),
            expired: Vec::new(),
            stats: Stats::default(),
        }
    }

    pub fn seq(&self, id: RequestId) -> &Sequence {
        self.seqs.get(&id).unwrap_or_else(|| panic!("request {} is in a queue but unknown", id.0))
    }

    pub fn seq_mut(&mut self, id: RequestId) -> &mut Sequence {
        self.seqs.get_mut(&id).unwrap_or_else(|| panic!("request {} is in a queue but unknown", id.0))
    }

    /// Blocks the whole life of a request takes at most. Reserving strategies take them at admission. The last token is
    /// sampled and never fed back, so paging needs one token less.
    pub fn life_blocks(&self, longest_tokens: usize) -> usize {
        match self.kv {
            KvStrategy::Paged => self.blocks.blocks_for(self.with_look_ahead(longest_tokens - 1)),
            KvStrategy::Reserve => self.blocks.blocks_for(self.with_overshoot(longest_tokens)),
            KvStrategy::Contiguous => self.blocks.blocks_for(self.max_model_len),
        }
    }

    /// Slots up to which a sequence of this length may compute: drafts reach beyond its end, and a step planned ahead
    /// takes all drafts of the step before for accepted.
    fn with_overshoot(&self, longest_tokens: usize) -> usize {
        let Some(speculation) = &self.speculation else { return longest_tokens };
        let drafts = speculation.num_speculative_tokens as usize;
        let in_flight = if self.plans_ahead { 2 * (1 + drafts) } else { 0 };
        let slots = longest_tokens + drafts + in_flight + speculation.look_ahead_slots();
        slots.min(self.max_model_len.max(longest_tokens))
    }

    /// Cached blocks a waiting sequence could start from. Its last token is always computed, since its logits are
    /// needed.
    pub fn longest_prefix(&mut self, id: RequestId) -> Vec<BlockId> {
        if self.prefix_caching && !self.seq(id).request.skip_prefix_cache {
            self.known_prefix(id)
        } else {
            Vec::new()
        }
    }

    /// What the cache knows of a sequence's beginning, whether or not this policy asks it by itself.
    pub fn known_prefix(&mut self, id: RequestId) -> Vec<BlockId> {
        let block_size = self.blocks.block_size() as usize;
        let look_ahead = self.hashes_look_ahead();
        let seq = self.seqs.get_mut(&id).unwrap_or_else(|| panic!("request {} is unknown", id.0));
        let hashes = seq.block_hashes((seq.tokens.len() - 1) / block_size, block_size, look_ahead);
        let mut found = self.blocks.longest_prefix(hashes);
        if self.speculates_by(SpeculativeMethod::EagleDropLastBlock) {
            found.pop();
        }
        found
    }

    /// Moves the front of the waiting queue to the running set if memory allows, starting from `cached` blocks.
    pub fn admit_front(&mut self, cached: Vec<BlockId>, admission: Admission) -> bool {
        self.admit_at(0, cached, admission)
    }

    /// The same for the request at this place of the waiting queue.
    pub fn admit_at(&mut self, place: usize, cached: Vec<BlockId>, admission: Admission) -> bool {
        let Some(id) = self.waiting.get(place) else { return false };
        let seq = self.seq(id);
        let covers = match self.kv {
            KvStrategy::Paged => self.blocks.blocks_for(self.with_look_ahead(admission.first_step_end)),
            _ => self.life_blocks(seq.longest(self.max_model_len)),
        };
        let known = self.blocks.blocks_for(seq.tokens.len().min(self.max_model_len));
        let unheld = self.blocks.unheld(&cached);
        let short = |table: usize| {
            let fresh = table.saturating_sub(cached.len());
            fresh + unheld + admission.keep_free > self.blocks.free().len()
        };
        if (admission.whole_must_fit && short(known)) || short(covers) {
            return false;
        }
        let fresh = covers.saturating_sub(cached.len());
        if !self.blocks.free().can_take(fresh) {
            return false;
        }
        self.blocks.share(&cached);
        let taken = self.blocks.take(fresh);
        self.start_at(place, cached, taken, admission.transferred);
        self.register_full_blocks(id, admission.first_step_end);
        true
    }

    /// The bookkeeping of an admission from the front of the queue whose blocks are already taken.
    pub fn start_front(&mut self, cached: Vec<BlockId>, fresh: Vec<BlockId>) {
        self.start_at(0, cached, fresh, 0);
    }

    fn start_at(&mut self, place: usize, cached: Vec<BlockId>, fresh: Vec<BlockId>, transferred: usize) {
        let Some(id) = self.waiting.get(place) else { panic!("nobody waits at place {place}") };
        let (hit_blocks, hit) = (cached.len(), cached.len() * self.blocks.block_size() as usize);
        self.start(id, cached.into_iter().chain(fresh).collect(), hit.max(transferred));
        self.seq_mut(id).registered = hit_blocks;
        if self.prefix_caching {
            self.count_prefix_lookup(id, hit);
        }
    }

    /// Moves a request to the running set from wherever it waits. It holds `blocks` from here on, and their first
    /// `computed` tokens are its own beginning.
    pub fn start(&mut self, id: RequestId, blocks: Vec<BlockId>, computed: usize) {
        assert!(self.waiting.remove(id), "request {} was admitted and does not wait", id.0);
        let seq = self.seq_mut(id);
        seq.computed = computed;
        seq.registered = 0;
        seq.prefilling = true;
        seq.deferred = false;
        seq.blocks = blocks;
        self.running.push(id);
        self.stats.kv_tokens += computed;
    }

    /// A cache was asked for the tokens of this request and knew `hit` of them.
    pub fn count_prefix_lookup(&mut self, id: RequestId, hit: usize) {
        self.stats.prefix_query_tokens_total += self.seq(id).tokens.len() as u64;
        self.stats.prefix_hit_tokens_total += hit as u64;
    }

    /// Makes room for the first `end` tokens of a running sequence. False when the pool is short.
    pub fn grow(&mut self, id: RequestId, end: usize) -> bool {
        let block_size = self.blocks.block_size() as usize;
        let slots = self.with_look_ahead(end);
        let Some(seq) = self.seqs.get_mut(&id) else { panic!("request {} is unknown", id.0) };
        if slots > seq.blocks.len() * block_size {
            let missing = self.blocks.blocks_for(slots) - seq.blocks.len();
            if !self.blocks.free().can_take(missing) {
                return false;
            }
            seq.blocks.extend(self.blocks.take(missing));
        }
        if self.prefix_caching && end >= (seq.registered + 1) * block_size {
            self.register(id, end);
        }
        true
    }

    /// Throws a running sequence out; all it has computed is lost. It must not be in the step being planned.
    pub fn preempt(&mut self, id: RequestId) {
        self.running.retain(|running| *running != id);
        if !self.keeps_unwritten_blocks {
            self.forget_unwritten_blocks(id);
        }
        let seq = self.seq_mut(id);
        let blocks = std::mem::take(&mut seq.blocks);
        let lost = std::mem::take(&mut seq.computed) as u64;
        (seq.registered, seq.prefilling) = (0, true);
        (seq.stale, seq.placeholders) = (seq.in_flight, 0);
        seq.transferred = 0;
        seq.draft_count = 0;
        seq.drafts.clear();
        self.blocks.release(&blocks);
        self.waiting.push_again(&self.seqs[&id]);
        self.preempted.push(id);
        self.stats.preemptions_total += 1;
        self.stats.preempted_tokens_total += lost;
        self.stats.kv_tokens -= lost as usize;
    }

    /// As [`State::preempt`], but behind everybody who waits.
    pub fn preempt_to_back(&mut self, id: RequestId) {
        self.preempt(id);
        self.waiting.remove(id);
        self.waiting.push_new(&self.seqs[&id]);
    }

    /// Ends a request that waits, because its policy does not let it wait any longer.
    pub fn expire(&mut self, id: RequestId) {
        assert!(self.waiting.remove(id), "request {} expired and does not wait", id.0);
        self.seqs.remove(&id);
        self.stats.aborted_total += 1;
        self.expired.push(id);
    }

    /// Gives back the blocks of a request that left, and forgets it.
    pub fn release(&mut self, id: RequestId) {
        if let Some(seq) = self.seqs.remove(&id) {
            self.blocks.release(&seq.blocks);
            self.stats.kv_tokens -= seq.computed;
        }
    }

    /// Tells the cache about every block that is full once the first `end` tokens are computed. Like vLLM this happens
    /// when the step is planned: a later admission in the same step can already share them.
    pub fn register_full_blocks(&mut self, id: RequestId, end: usize) {
        if self.prefix_caching {
            self.register(id, end);
        }
    }

    /// Tells the cache about the full blocks among the first `end` tokens, whether or not this policy does so by itself.
    pub fn register(&mut self, id: RequestId, end: usize) {
        let block_size = self.blocks.block_size() as usize;
        let look_ahead = self.hashes_look_ahead();
        let Some(seq) = self.seqs.get_mut(&id) else { return };
        let full = (end / block_size).min(seq.hashable_blocks(block_size, look_ahead));
        let known = seq.registered;
        if full > known {
            seq.block_hashes(full, block_size, look_ahead);
            seq.registered = full;
            for place in known..full {
                self.blocks.register(seq.blocks[place], seq.block_hash(place));
            }
        }
    }

    fn speculates_by(&self, method: SpeculativeMethod) -> bool {
        self.speculation.is_some_and(|speculation| speculation.method == method)
    }

    fn hashes_look_ahead(&self) -> bool {
        self.speculates_by(SpeculativeMethod::Eagle)
    }

    /// Slots a sequence must have when it computes up to `end`.
    fn with_look_ahead(&self, end: usize) -> usize {
        let slots = self.speculation.map_or(0, |speculation| speculation.look_ahead_slots());
        if slots == 0 { end } else { (end + slots).min(self.max_model_len.max(end)) }
    }

    /// Queues a running sequence once more, last, with all its tokens so far as prompt. Its blocks are the policy's to
    /// give back.
    pub fn requeue(&mut self, id: RequestId) {
        self.running.retain(|running| *running != id);
        let seq = self.seq_mut(id);
        seq.blocks.clear();
        seq.prefilling = true;
        let computed = std::mem::take(&mut seq.computed);
        self.stats.kv_tokens -= computed;
        self.waiting.push_new(&self.seqs[&id]);
    }

    /// The steps in flight did not compute their tokens of a sequence.
    pub fn roll_back(&mut self, id: RequestId) {
        let seq = self.seq_mut(id);
        // What was in flight when it was preempted is not in its count.
        let lost = std::mem::take(&mut seq.in_flight).min(seq.computed);
        seq.computed -= lost;
        self.stats.kv_tokens -= lost;
        self.forget_unwritten_blocks(id);
    }

    /// A sequence that loses the step it was part of has blocks in the cache that this step was going to fill. It will
    /// not, so nobody may find them.
    fn forget_unwritten_blocks(&mut self, id: RequestId) {
        let block_size = self.blocks.block_size() as usize;
        let seq = &self.seqs[&id];
        for &block in &seq.blocks[..seq.registered][(seq.computed / block_size).min(seq.registered)..] {
            self.blocks.unregister(block);
        }
    }
}

fn discipline(kv: KvStrategy) -> Discipline {
    match kv {
        KvStrategy::Paged | KvStrategy::Reserve => Discipline::Queue,
        KvStrategy::Contiguous => Discipline::Runs,
    }
}
