//! The operations of a step and what each costs.

use std::fmt;

/// The kinds of work a decoder consists of. One kind is one kernel in a serving engine, or a few: what their launches
/// take is in [`OperationCost::overhead_s`].
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
    /// Sums over the devices of a tensor-parallel group, after attention and after the feed-forward part.
    AllReduce,
    /// Rows to the devices of their experts and back.
    AllToAll,
    /// Activations to the devices of the next pipeline stage.
    StageTransfer,
    /// The parts of these three that cross nodes.
    NetworkAllReduce,
    NetworkAllToAll,
    NetworkTransfer,
    /// What a step costs before its first kernel: scheduling, preparing inputs.
    StepOverhead,
    /// The device waits for the host that queues its kernels.
    HostLimit,
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
            Operation::AllReduce => "all-reduce",
            Operation::AllToAll => "all-to-all",
            Operation::StageTransfer => "stage transfer",
            Operation::NetworkAllReduce => "all-reduce, nodes",
            Operation::NetworkAllToAll => "all-to-all, nodes",
            Operation::NetworkTransfer => "transfer, nodes",
            Operation::StepOverhead => "step overhead",
            Operation::HostLimit => "host limit",
        }
    }
}

impl Operation {
    /// Whether it depends on contexts, and not on rows alone.
    pub fn is_attention(self) -> bool {
        matches!(self, Operation::AttentionPrefill | Operation::AttentionDecode)
    }

    /// Whether it goes over the network between nodes.
    pub fn crosses_nodes(&self) -> bool {
        use Operation::{NetworkAllReduce, NetworkAllToAll, NetworkTransfer};
        matches!(self, NetworkAllReduce | NetworkAllToAll | NetworkTransfer)
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
    /// Links: latency and bytes.
    pub communication_s: f64,
    /// Kernel launches, and on [`Operation::StepOverhead`] everything.
    pub overhead_s: f64,
}

/// What an operation waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    Compute,
    Memory,
    Link,
    Network,
    Overhead,
}

impl Resource {
    pub fn name(self) -> &'static str {
        match self {
            Resource::Compute => "compute",
            Resource::Memory => "memory",
            Resource::Link => "link",
            Resource::Network => "network",
            Resource::Overhead => "overhead",
        }
    }
}

impl OperationCost {
    /// Nothing, to be completed.
    pub const fn none(operation: Operation) -> OperationCost {
        OperationCost {
            operation,
            flops: 0.0,
            bytes: 0.0,
            compute_s: 0.0,
            memory_s: 0.0,
            communication_s: 0.0,
            overhead_s: 0.0,
        }
    }

    pub fn seconds(&self) -> f64 {
        self.compute_s.max(self.memory_s) + self.communication_s + self.overhead_s
    }

    /// The largest part of its time.
    pub fn bound_by(&self) -> Resource {
        let work = self.compute_s.max(self.memory_s);
        if self.communication_s > work.max(self.overhead_s) {
            if self.operation.crosses_nodes() { Resource::Network } else { Resource::Link }
        } else if self.overhead_s > work {
            Resource::Overhead
        } else if self.memory_s >= self.compute_s {
            Resource::Memory
        } else {
            Resource::Compute
        }
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
