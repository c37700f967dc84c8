//! A step on one catalogued device, operation by operation.

use std::sync::OnceLock;
use std::time::Duration;

use llmlab_models::ModelSpec;

use super::device::Device;
use super::efficiency::{
    LAUNCH_S, STEP_S, STEP_SEQUENCE_S, WEIGHT_ONLY_MEMORY, attention_share, memory_share, product_share,
};
use super::layers::{Experts, FeedForward, Layer, Layers, Math, Product};
use super::{CostModel, Operation, OperationCost, StepCost, duration};
use crate::shape::SeqShape;

/// A model on a device. Costs are sums over the sequences of a step, each with its own context, so a mixed batch is exact.
#[derive(Debug, Clone)]
pub struct Roofline {
    device: Device,
    pub(super) layers: Layers,
    hidden: f64,
    vocab: f64,
    query_width: f64,
    kv_width: f64,
    /// Keys and values of one token in one layer.
    kv_layer_bytes: f64,
    /// By sequences, once somebody asked: what decode steps cost beside attention.
    decode_rows: Vec<OnceLock<f64>>,
}

/// Larger batches are computed each time.
const REMEMBERED: usize = 1024;

/// Bytes of one activation.
pub(super) const ACTIVATION: f64 = 2.0;

/// What a step asks of the linear layers.
#[derive(Debug, Clone, Copy)]
struct Rows {
    sequences: f64,
    /// Through every layer, padding included.
    all: f64,
    /// Of these, the ones whose keys and values are kept.
    kept: f64,
    logits: f64,
    sampled: f64,
}

impl Rows {
    fn of(seqs: &[SeqShape]) -> Rows {
        let (mut all, mut kept, mut logits, mut sampled) = (0, 0, 0, 0);
        for seq in seqs {
            all += seq.rows();
            kept += u64::from(seq.new);
            logits += seq.logits();
            sampled += seq.sampled();
        }
        Rows {
            sequences: seqs.len() as f64,
            all: all as f64,
            kept: kept as f64,
            logits: logits as f64,
            sampled: sampled as f64,
        }
    }

    /// A token for each sequence.
    fn decoding(sequences: usize) -> Rows {
        let rows = sequences as f64;
        Rows { sequences: rows, all: rows, kept: rows, logits: rows, sampled: rows }
    }
}

/// What a step asks of attention in layers of one window.
#[derive(Debug, Clone, Copy, Default)]
struct Attention {
    queries: f64,
    seen: f64,
    pairs: f64,
    /// Pairs, each divided by the share of the peak that its sequence reaches.
    stretched_pairs: f64,
}

impl Roofline {
    /// `kv_bytes_per_token` is over all layers.
    pub fn new(spec: &ModelSpec, layers: Layers, kv_bytes_per_token: u64, device: Device) -> Roofline {
        Roofline {
            device,
            layers,
            hidden: f64::from(spec.hidden_size),
            vocab: f64::from(spec.vocab_size),
            query_width: spec.query_width() as f64,
            kv_width: spec.kv_width() as f64,
            decode_rows: vec![OnceLock::new(); REMEMBERED],
            kv_layer_bytes: kv_bytes_per_token as f64 / f64::from(spec.num_layers.max(1)),
        }
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Seconds of all operations of a decode step but attention.
    fn decode_rows_s(&self, sequences: usize) -> f64 {
        let compute = || {
            let mut seconds = 0.0;
            let none = |_| (Attention::default(), Attention::default());
            self.operations(Rows::decoding(sequences), none, |cost| seconds += cost.seconds());
            seconds
        };
        self.decode_rows.get(sequences).map_or_else(compute, |known| *known.get_or_init(compute))
    }

    /// The step operation by operation.
    pub fn step(&self, seqs: &[SeqShape]) -> StepCost {
        let mut operations = Vec::with_capacity(16 * self.layers.layers.len());
        self.each(seqs, |cost| operations.push(cost));
        StepCost { operations }
    }

    fn each(&self, seqs: &[SeqShape], found: impl FnMut(OperationCost)) {
        self.operations(Rows::of(seqs), |window| attention(seqs, window), found);
    }

    fn operations(
        &self,
        rows: Rows,
        attention: impl Fn(Option<u32>) -> (Attention, Attention),
        mut found: impl FnMut(OperationCost),
    ) {
        let overhead_s = STEP_S + STEP_SEQUENCE_S * rows.sequences;
        found(OperationCost {
            operation: Operation::StepOverhead,
            flops: 0.0,
            bytes: 0.0,
            compute_s: 0.0,
            memory_s: 0.0,
            overhead_s,
        });
        // Each row is read from the table and written as an activation.
        let embedded = rows.all * (self.layers.embedding_row_bytes + ACTIVATION * self.hidden);
        found(self.moving(Operation::Embedding, 1.0, embedded));
        for (count, layer) in &self.layers.layers {
            self.layer(*count, layer, rows, attention(layer.window), &mut found);
        }
        found(self.norms(1.0, rows.all));
        if rows.logits > 0.0 {
            found(self.product(Operation::LmHead, 1.0, &self.layers.lm_head, rows.logits));
        }
        if rows.sampled > 0.0 {
            // f32 logits are read to find the largest or to normalise, and once more to draw.
            found(self.moving(Operation::Sampling, 1.0, 2.0 * 4.0 * self.vocab * rows.sampled));
        }
    }

    fn layer(
        &self,
        count: f64,
        layer: &Layer,
        rows: Rows,
        (prefill, decode): (Attention, Attention),
        found: &mut impl FnMut(OperationCost),
    ) {
        found(self.norms(count * layer.norms, rows.all));
        found(self.product(Operation::Qkv, count, &layer.qkv, rows.all));
        // Queries and keys are read and written; keys and values go to the cache.
        let turned = 2.0 * ACTIVATION * rows.all * (self.query_width + self.kv_width);
        let written = rows.kept * (self.kv_layer_bytes + ACTIVATION * self.kv_width);
        found(self.moving(Operation::RopeAndKvWrite, count, turned + written));
        if prefill.queries > 0.0 {
            found(self.attention(Operation::AttentionPrefill, count, prefill));
        }
        if decode.queries > 0.0 {
            found(self.attention(Operation::AttentionDecode, count, decode));
        }
        found(self.product(Operation::AttentionOutput, count, &layer.output, rows.all));
        match &layer.feed_forward {
            FeedForward::Dense(mlp) => {
                found(self.product(Operation::GateUp, count, &mlp.gate_up, rows.all));
                found(self.activation(count, mlp.gate_up.outputs, rows.all));
                found(self.product(Operation::Down, count, &mlp.down, rows.all));
            }
            FeedForward::Experts(experts) => self.experts(count, experts, rows.all, found),
        }
    }

    fn experts(&self, count: f64, experts: &Experts, rows: f64, found: &mut impl FnMut(OperationCost)) {
        found(self.product(Operation::Router, count, &experts.router, rows));
        // A token leaves an expert out with probability 1 - k / n, when each chooses at random.
        let left_out = 1.0 - experts.experts_per_token / experts.experts;
        let read = 1.0 - left_out.powf(rows);
        let chosen = rows * experts.experts_per_token;
        let per_expert = chosen / (experts.experts * read).max(1.0);
        let (gate_up, down) = (&experts.all.gate_up, &experts.all.down);
        // `outputs` of `all` is a sum over experts, a token meets the share of one in each of its k.
        let flops =
            2.0 * chosen * (gate_up.outputs * gate_up.inputs + down.outputs * down.inputs) / experts.experts;
        let width = gate_up.outputs / experts.experts;
        let moved = ACTIVATION * chosen * (2.0 * self.hidden + 1.5 * width);
        let bytes = read * (gate_up.weight_bytes + down.weight_bytes) + moved;
        found(self.cost(Operation::Experts, count, 2.0, flops, bytes, gate_up.math, per_expert));
        if let Some(shared) = &experts.shared {
            found(self.product(Operation::SharedExpert, count, &shared.gate_up, rows));
            found(self.activation(count, shared.gate_up.outputs, rows));
            found(self.product(Operation::SharedExpert, count, &shared.down, rows));
        }
    }

    fn product(&self, operation: Operation, count: f64, product: &Product, rows: f64) -> OperationCost {
        self.cost(operation, count, 1.0, product.flops(rows), product.bytes(rows), product.math, rows)
    }

    /// `count` products of so many rows, of this many FLOPs and bytes each, in so many launches each.
    pub(super) fn cost(
        &self,
        operation: Operation,
        count: f64,
        launches: f64,
        flops: f64,
        bytes: f64,
        math: Math,
        rows: f64,
    ) -> OperationCost {
        let peak = match math {
            // TF32 runs at half the 16-bit rate on tensor cores (NVIDIA data sheets from A100 on).
            Math::F32 => self.device.bf16_flops_per_s / 2.0,
            Math::Half | Math::WeightOnly => self.device.bf16_flops_per_s,
            Math::Fp8 => self.device.fp8_flops_per_s,
            Math::Int8 => self.device.int8_ops_per_s,
        };
        let through_memory = if math == Math::WeightOnly { WEIGHT_ONLY_MEMORY } else { 1.0 };
        OperationCost {
            operation,
            flops: count * flops,
            bytes: count * bytes,
            compute_s: count * flops / (peak * product_share(math, self.device.class, rows).max(1e-9)),
            memory_s: count * bytes
                / (self.device.bandwidth_bytes_per_s * memory_share(bytes) * through_memory),
            overhead_s: count * launches * LAUNCH_S,
        }
    }

    /// Adding the residual and normalising: two reads, two writes.
    fn norms(&self, count: f64, rows: f64) -> OperationCost {
        self.moving(Operation::Norm, count, 4.0 * ACTIVATION * rows * self.hidden)
    }

    /// Gate and up are read, their product is written.
    fn activation(&self, count: f64, gate_up_outputs: f64, rows: f64) -> OperationCost {
        self.moving(Operation::Activation, count, 1.5 * ACTIVATION * rows * gate_up_outputs)
    }

    /// Work that is all bytes.
    fn moving(&self, operation: Operation, count: f64, bytes: f64) -> OperationCost {
        OperationCost {
            operation,
            flops: 0.0,
            bytes: count * bytes,
            compute_s: 0.0,
            memory_s: count * bytes / (self.device.bandwidth_bytes_per_s * memory_share(bytes)),
            overhead_s: count * LAUNCH_S,
        }
    }

    /// q·k and p·v of all sequences in one launch: 4 FLOPs for each pair and value of the queries; keys and values once,
    /// queries in and results out.
    fn attention(&self, operation: Operation, count: f64, work: Attention) -> OperationCost {
        let flops = 4.0 * self.query_width * work.pairs;
        let bytes = work.seen * self.kv_layer_bytes + 2.0 * ACTIVATION * work.queries * self.query_width;
        OperationCost {
            operation,
            flops: count * flops,
            bytes: count * bytes,
            compute_s: count * 4.0 * self.query_width * work.stretched_pairs / self.device.bf16_flops_per_s,
            memory_s: count * bytes / (self.device.bandwidth_bytes_per_s * memory_share(bytes)),
            overhead_s: count * LAUNCH_S,
        }
    }
}

/// Sequences with several new tokens, and those with one.
fn attention(seqs: &[SeqShape], window: Option<u32>) -> (Attention, Attention) {
    let mut prefill = Attention::default();
    let (mut queries, mut keys) = (0, 0);
    for seq in seqs.iter().filter(|seq| seq.new > 0) {
        if seq.new == 1 {
            queries += 1;
            keys += seq.seen(window);
            continue;
        }
        let (queries, pairs) = (f64::from(seq.new), seq.pairs(window) as f64);
        prefill.queries += queries;
        prefill.seen += seq.seen(window) as f64;
        prefill.pairs += pairs;
        prefill.stretched_pairs += pairs / attention_share(queries);
    }
    (prefill, Attention::decoding(queries, keys))
}

impl Attention {
    /// Of sequences with one query each, which see so many keys in all.
    fn decoding(queries: usize, keys: u64) -> Attention {
        let keys = keys as f64;
        let stretched_pairs = keys / attention_share(1.0);
        Attention { queries: queries as f64, seen: keys, pairs: keys, stretched_pairs }
    }
}

impl CostModel for Roofline {
    fn step_time(&self, seqs: &[SeqShape]) -> Duration {
        let (mut rows, mut attention) = (0.0, 0.0);
        self.each(seqs, |cost| {
            *if cost.operation.is_attention() { &mut attention } else { &mut rows } += cost.seconds()
        });
        duration(rows + attention)
    }

    fn decode_time(&self, sequences: usize, keys: u64) -> Option<Duration> {
        if self.layers.layers.iter().any(|(_, layer)| layer.window.is_some()) {
            return None;
        }
        let mut attention = 0.0;
        let decode = Attention::decoding(sequences, keys);
        for (count, _) in &self.layers.layers {
            attention += self.attention(Operation::AttentionDecode, *count, decode).seconds();
        }
        Some(duration(self.decode_rows_s(sequences) + attention))
    }
}
