//! The operations of a step and what each costs.

use std::fmt;

/// The kinds of work a decoder consists of. One kind is one kernel in a serving engine, unless [`OperationCost::launches`]
/// says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    Embedding,
    /// RMSNorm with the residual addition before it.
    Norm,
    /// Query, key and value projections as one product.
    Qkv,
    /// Rotary embedding, and writing keys and values to the cache.
    RopeAndKvWrite,
    /// Sequences with more than one new token.
    AttentionPrefill,
    /// Sequences with one new token.
    AttentionDecode,
    AttentionOutput,
    /// Gate and up projections as one product.
    GateUp,
    Activation,
    Down,
    Router,
    /// All products of the chosen experts.
    Experts,
    SharedExpert,
    /// First product of all adapters of a projection.
    LoraShrink,
    /// Second product of all adapters of a projection, added to the projection's own.
    LoraExpand,
    /// The output projection, on rows that are sampled only.
    LmHead,
    Sampling,
    /// What a step costs before its first kernel: scheduling, preparing inputs.
    StepOverhead,
}

impl Operation {
    pub fn name(self) -> &'static str {
        match self {
            Operation::Embedding => "embedding",
            Operation::Norm => "norm",
            Operation::Qkv => "qkv",
            Operation::RopeAndKvWrite => "rope + kv write",
            Operation::AttentionPrefill => "attention prefill",
            Operation::AttentionDecode => "attention decode",
            Operation::AttentionOutput => "attention output",
            Operation::GateUp => "gate + up",
            Operation::Activation => "activation",
            Operation::Down => "down",
            Operation::Router => "router",
            Operation::Experts => "experts",
            Operation::SharedExpert => "shared expert",
            Operation::LoraShrink => "lora shrink",
            Operation::LoraExpand => "lora expand",
            Operation::LmHead => "lm_head",
            Operation::Sampling => "sampling",
            Operation::StepOverhead => "step overhead",
        }
    }
}

impl Operation {
    /// Whether it depends on contexts, and not on rows alone.
    pub fn is_attention(self) -> bool {
        matches!(self, Operation::AttentionPrefill | Operation::AttentionDecode)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One kind of operation, summed over the layers that are alike.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OperationCost {
    pub operation: Operation,
    pub flops: f64,
    pub bytes: f64,
    /// At the reached share of the arithmetic peak.
    pub compute_s: f64,
    /// At the reached share of the bandwidth.
    pub memory_s: f64,
    /// Kernel launches, and on [`Operation::StepOverhead`] everything.
    pub overhead_s: f64,
}

impl OperationCost {
    pub fn seconds(&self) -> f64 {
        self.compute_s.max(self.memory_s) + self.overhead_s
    }

    pub fn is_memory_bound(&self) -> bool {
        self.memory_s >= self.compute_s
    }
}

/// A step, operation by operation, in network order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StepCost {
    pub operations: Vec<OperationCost>,
}

impl StepCost {
    pub fn seconds(&self) -> f64 {
        self.operations.iter().map(OperationCost::seconds).sum()
    }

    /// Over all layers.
    pub fn of(&self, operation: Operation) -> f64 {
        let same = self.operations.iter().filter(|cost| cost.operation == operation);
        same.map(OperationCost::seconds).sum()
    }
}
