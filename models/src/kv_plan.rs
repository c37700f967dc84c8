//! How many KV blocks fit, and how many requests in them, as vLLM 0.33 plans it.
//!
//! Layers are put into groups that share a pool of blocks; a block holds the keys and values of `block_size` tokens in every
//! layer of one group. A model whose layers all see everything has one group. One that mixes sliding windows with full
//! attention has several groups of equal size, and a request takes blocks from the pool for each of them.
//!
//! Source: vLLM 0.33.0, `v1/core/kv_cache_utils.py`; every figure is tested against what its own code computes.

use crate::spec::ModelSpec;

/// What of a model decides the size of its KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    /// KV heads of the whole model; 1 for latent attention.
    pub kv_heads: u32,
    /// Values of a key; of latent attention, of the compressed pair of key and value with its rotary part.
    pub head_size: u32,
    /// Multi-head latent attention: one vector a token stands for key and value, and is not split over devices.
    pub latent: bool,
    pub full_layers: u32,
    pub window_layers: u32,
    /// Tokens a window layer sees, its own included.
    pub window: u32,
}

/// The engine around it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KvBudget {
    /// For the cache, on each device.
    pub available_bytes: u64,
    pub tensor_parallel: u32,
    /// Bytes of a value: 2 for f16 and bf16, 1 for fp8.
    pub value_bytes: u32,
    pub block_size: u32,
    pub max_model_len: u32,
    /// Tokens that steps in flight may compute at most: `max_num_batched_tokens`, twice that with asynchronous scheduling, and as
    /// many times as there are pipeline stages. A window layer holds them beside its window.
    pub in_flight_tokens: u32,
    /// Of a pipeline, the layers of the stage that the device belongs to; `None` for all.
    pub stage_layers: Option<u32>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct KvPlan {
    pub kv_heads_per_device: u32,
    /// One block of one layer.
    pub page_bytes: u64,
    pub groups: u32,
    /// Of the whole model.
    pub layers_per_group: u32,
    /// Layers that exist only to fill the last group.
    pub padding_layers: u32,
    /// One block of the pool.
    pub block_bytes: u64,
    /// Blocks of the pool, the null block included.
    pub num_blocks: u64,
    /// Of a request of `max_model_len` tokens.
    pub blocks_per_request: u64,
    /// Requests of `max_model_len` tokens at a time.
    pub max_concurrency: f64,
    /// What vLLM prints as the size of the cache: `max_concurrency` requests' worth. With several groups it is not
    /// `num_blocks * block_size`.
    pub reported_tokens: u64,
    /// One request of `max_model_len` fits beside the null block; vLLM refuses to start otherwise.
    pub starts: bool,
    /// The longest `max_model_len` that would start, 0 if none would.
    pub longest_that_starts: u32,
}

impl KvShape {
    pub fn of(spec: &ModelSpec) -> Self {
        let windows = || spec.layers.iter().filter_map(|layer| layer.window);
        let window_layers = windows().count() as u32;
        KvShape {
            kv_heads: spec.num_kv_heads,
            head_size: spec.head_dim,
            latent: false,
            full_layers: spec.num_layers - window_layers,
            window_layers,
            window: windows().max().unwrap_or(0),
        }
    }

    /// `None` when the attention heads cannot be split over so many devices, or a size is zero.
    pub fn plan(&self, budget: &KvBudget) -> Option<KvPlan> {
        let devices = budget.tensor_parallel;
        let sizes = [devices, budget.block_size, budget.value_bytes, budget.max_model_len, self.head_size];
        if sizes.contains(&0) || self.kv_heads == 0 || self.full_layers + self.window_layers == 0 {
            return None;
        }
        if !self.latent && !self.kv_heads.is_multiple_of(devices) && !devices.is_multiple_of(self.kv_heads) {
            return None;
        }
        let kv_heads_per_device = if self.latent { 1 } else { (self.kv_heads / devices).max(1) };
        let vectors = if self.latent { 1 } else { 2 };
        let token_bytes = [kv_heads_per_device, self.head_size, budget.value_bytes, vectors];
        let page_bytes =
            token_bytes.iter().map(|n| u64::from(*n)).product::<u64>() * u64::from(budget.block_size);
        let layers_per_group = self.layers_per_group();
        let groups = self.full_groups() + self.window_groups();
        let block_bytes = page_bytes * self.layers_here(budget);
        let num_blocks = budget.available_bytes / block_bytes;
        let blocks_per_request = self.blocks_of(budget.max_model_len, budget);
        let max_concurrency = num_blocks as f64 / blocks_per_request as f64;
        let usable = num_blocks.saturating_sub(1);
        Some(KvPlan {
            kv_heads_per_device,
            page_bytes,
            groups,
            layers_per_group,
            padding_layers: groups * layers_per_group - self.full_layers - self.window_layers,
            block_bytes,
            num_blocks,
            blocks_per_request,
            max_concurrency,
            reported_tokens: (max_concurrency * f64::from(budget.max_model_len)) as u64,
            starts: self.starts(budget.max_model_len, budget, block_bytes),
            longest_that_starts: self.longest(budget, block_bytes, usable),
        })
    }

    /// Sequences of `tokens` tokens that the cache holds at a time.
    pub fn sequences(&self, budget: &KvBudget, tokens: u32) -> f64 {
        let budget = KvBudget { max_model_len: tokens, ..*budget };
        self.plan(&budget).map_or(0.0, |plan| plan.max_concurrency)
    }

    /// Tokens that the cache holds in sequences of `tokens` tokens each. Windows and their groups make that depend on how long
    /// these are.
    pub fn tokens_in_sequences(&self, budget: &KvBudget, tokens: u32) -> u64 {
        match self.window_layers {
            0 => self.plan(budget).map_or(0, |plan| plan.num_blocks * u64::from(budget.block_size)),
            _ => (self.sequences(budget, tokens) * f64::from(tokens)) as u64,
        }
    }

    /// Groups are as large as the smaller kind of layer, or, when the kinds are of about the same number, the larger.
    fn layers_per_group(&self) -> u32 {
        let (least, most) =
            (self.full_layers.min(self.window_layers), self.full_layers.max(self.window_layers));
        if least == 0 || 2 * most < 3 * least { most } else { least }
    }

    /// Layers of the largest group that the device holds. Groups are of the whole model, and each takes layers from all stages
    /// alike.
    fn layers_here(&self, budget: &KvBudget) -> u64 {
        let (group, all) =
            (u64::from(self.layers_per_group()), u64::from(self.full_layers + self.window_layers));
        budget.stage_layers.map_or(group, |layers| (group * u64::from(layers)).div_ceil(all).clamp(1, group))
    }

    fn full_groups(&self) -> u32 {
        self.full_layers.div_ceil(self.layers_per_group())
    }

    fn window_groups(&self) -> u32 {
        self.window_layers.div_ceil(self.layers_per_group())
    }

    /// Blocks of a request of `tokens` tokens. A window may begin inside a block, hence one more.
    fn blocks_of(&self, tokens: u32, budget: &KvBudget) -> u64 {
        let block_size = u64::from(budget.block_size);
        let tokens = u64::from(tokens);
        let seen =
            (u64::from(self.window).saturating_sub(1) + u64::from(budget.in_flight_tokens)).min(tokens);
        let full = u64::from(self.full_groups()) * tokens.div_ceil(block_size);
        let windows = u64::from(self.window_groups()) * (seen.div_ceil(block_size) + 1);
        full + windows
    }

    fn starts(&self, tokens: u32, budget: &KvBudget, block_bytes: u64) -> bool {
        let needed = self.blocks_of(tokens, budget).saturating_mul(block_bytes);
        budget.available_bytes.checked_sub(block_bytes).is_some_and(|usable| needed <= usable)
    }

    /// By halving, since longer requests never take fewer blocks.
    fn longest(&self, budget: &KvBudget, block_bytes: u64, usable_blocks: u64) -> u32 {
        if usable_blocks == 0 {
            return 0;
        }
        let (mut starts, mut fails) = (0, budget.max_model_len.saturating_add(1));
        while fails - starts > 1 {
            let middle = starts + (fails - starts) / 2;
            if self.starts(middle, budget, block_bytes) { starts = middle } else { fails = middle }
        }
        starts
    }
}
