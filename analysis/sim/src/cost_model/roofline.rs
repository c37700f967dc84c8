//! A step on one catalogued device, operation by operation.

use std::sync::OnceLock;
use std::time::Duration;

use llmlab_core::executor::StageTime;
use llmlab_models::architecture::Window;

use super::calibration::{Calibration, DEFAULT_RUNTIME};
use super::device::Device;
use super::efficiency::Efficiency;
use super::layers::{AttentionShape, Experts, FeedForward, Layer, Layers, Math, Product};
use super::layout::{Group, Layout};
use super::{CostModel, Operation, OperationCost, StepCost, duration};
use crate::shape::SeqShape;

/// A model on a device, or on one of several that share it. Costs are sums over the sequences of a step, each with its own
/// context, so a mixed batch is exact.
#[derive(Debug, Clone)]
pub struct Roofline {
    device: Device,
    efficiency: Efficiency,
    pub(super) layers: Layers,
    pub(super) layout: Layout,
    /// By sequences, once somebody asked: what decode steps cost beside attention.
    decode_rows: Vec<OnceLock<f64>>,
}

/// Larger batches are computed each time.
const REMEMBERED: usize = 1024;

/// Of the vector peak, what products of few rows reach.
const VECTOR_SHARE: f64 = 0.5;

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
    /// With the shipped figures for the device's class under the default software.
    pub fn new(layers: Layers, device: Device) -> Roofline {
        let efficiency = Calibration::shipped().efficiency(&device, DEFAULT_RUNTIME);
        Roofline::with_efficiency(layers, device, efficiency)
    }

    pub fn with_efficiency(layers: Layers, device: Device, efficiency: Efficiency) -> Roofline {
        let layout = Layout::of(layers.sharding, &device);
        Roofline { device, efficiency, layers, layout, decode_rows: vec![OnceLock::new(); REMEMBERED] }
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    pub fn layers(&self) -> &Layers {
        &self.layers
    }

    pub fn efficiency(&self) -> &Efficiency {
        &self.efficiency
    }

    /// Seconds a step has beside what the device does.
    pub(super) fn outside_s(&self, sequences: f64) -> f64 {
        self.efficiency.step_s + self.efficiency.sequence_s * sequences
    }

    /// Of a step whose operations take so long, what it waits for a host that is slower than the device.
    pub(super) fn host_wait_s(&self, device_s: f64, has_prompts: bool) -> f64 {
        let layers: f64 = self.layers.layers.iter().map(|(count, _)| count).sum();
        let of_prompts = if has_prompts { self.efficiency.prompt_layer_host_s } else { 0.0 };
        (layers * self.efficiency.layer_host_s.max(of_prompts) - device_s).max(0.0)
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
        let outside = self.outside_s(seqs.len() as f64);
        let device_s = operations.iter().map(OperationCost::seconds).sum::<f64>() - outside;
        let waiting = self.host_wait_s(device_s, has_prompts(seqs));
        if waiting > 0.0 {
            operations
                .push(OperationCost { overhead_s: waiting, ..OperationCost::none(Operation::HostLimit) });
        }
        StepCost { operations }
    }

    /// Seconds of a step in which `prefill` computes prompts, and `decoding` sequences with `keys` keys in all one token each.
    pub fn mixed_s(&self, prefill: &[SeqShape], decoding: usize, keys: u64) -> f64 {
        let mut rows = Rows::of(prefill);
        let decode = Rows::decoding(decoding);
        rows.sequences += decode.sequences;
        rows.all += decode.all;
        rows.kept += decode.kept;
        rows.logits += decode.logits;
        rows.sampled += decode.sampled;
        let mut seconds = 0.0;
        let attention = |window: Option<Window>| {
            let (prefill, _) = self.attention_work(prefill, window);
            let seen = window.map_or(keys, |window| window.seen_of(keys, decoding as u64));
            (prefill, self.decoding(decoding, seen))
        };
        self.operations(rows, attention, |cost| seconds += cost.seconds());
        seconds + self.host_wait_s(seconds - self.outside_s(rows.sequences), !prefill.is_empty())
    }

    pub(super) fn each(&self, seqs: &[SeqShape], found: impl FnMut(OperationCost)) {
        self.operations(Rows::of(seqs), |window| self.attention_work(seqs, window), found);
    }

    fn operations(
        &self,
        rows: Rows,
        attention: impl Fn(Option<Window>) -> (Attention, Attention),
        mut found: impl FnMut(OperationCost),
    ) {
        let overhead_s = self.outside_s(rows.sequences);
        found(OperationCost { overhead_s, ..OperationCost::none(Operation::StepOverhead) });
        // Each row is read from the table and written as an activation.
        let embedded = rows.all * (self.layers.embedding_row_bytes + ACTIVATION * self.layers.hidden);
        found(self.moving(Operation::Embedding, 1.0, embedded));
        for (count, layer) in &self.layers.layers {
            self.layer(*count, layer, rows, attention(layer.attention.window), &mut found);
        }
        if !self.layout.crossings.is_empty() {
            self.transfers(rows.all, &mut found);
        }
        found(self.norms(1.0, rows.all));
        if rows.logits > 0.0 {
            found(self.product(Operation::LmHead, 1.0, &self.layers.lm_head, rows.logits));
        }
        if rows.sampled > 0.0 {
            // f32 logits are read to find the largest or to normalise, and once more to draw.
            found(self.moving(Operation::Sampling, 1.0, 2.0 * 4.0 * self.layers.vocab * rows.sampled));
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
        let shape = &layer.attention;
        for product in layer.latent.iter().flatten() {
            found(self.product(Operation::Qkv, count, product, rows.all));
        }
        let turned = 2.0 * ACTIVATION * rows.all * (shape.query_width + shape.kv_width / 2.0);
        let written = rows.kept * (shape.kv_bytes + ACTIVATION * shape.kv_width / 2.0);
        found(self.moving(Operation::RopeAndKvWrite, count, turned + written));
        if prefill.queries > 0.0 {
            found(self.attention(Operation::AttentionPrefill, count, shape, prefill));
        }
        if decode.queries > 0.0 {
            found(self.attention(Operation::AttentionDecode, count, shape, decode));
        }
        found(self.product(Operation::AttentionOutput, count, &layer.output, rows.all));
        self.reduced(count, rows.all, found);
        match &layer.feed_forward {
            FeedForward::Dense(mlp) => {
                found(self.product(Operation::GateUp, count, &mlp.gate_up, rows.all));
                found(self.activation(count, mlp.gate_up.outputs, rows.all));
                found(self.product(Operation::Down, count, &mlp.down, rows.all));
            }
            FeedForward::Experts(experts) => self.experts(count, experts, rows.all, found),
        }
        self.reduced(count, rows.all, found);
    }

    fn experts(&self, count: f64, experts: &Experts, rows: f64, found: &mut impl FnMut(OperationCost)) {
        found(self.product(Operation::Router, count, &experts.router, rows));
        // A token leaves an expert out with probability 1 - k / n, when each chooses at random.
        let left_out = 1.0 - experts.experts_per_token / experts.experts;
        let groups = self.layout.expert.devices;
        // Of an expert group each device has rows of its own, and their experts get those of all.
        let met = if groups > 1.0 { rows * (groups / self.layout.tensor.devices).max(1.0) } else { rows };
        let read = 1.0 - left_out.powf(met);
        let chosen = met * experts.experts_per_token;
        let per_expert = chosen / (experts.experts * read).max(1.0);
        let (gate_up, down) = (&experts.all.gate_up, &experts.all.down);
        // `outputs` of `all` is a sum over experts, a token meets the share of one in each of its k.
        let flops =
            2.0 * chosen * (gate_up.outputs * gate_up.inputs + down.outputs * down.inputs) / experts.experts;
        let width = gate_up.outputs / experts.experts;
        let moved = ACTIVATION * chosen * (2.0 * self.layers.hidden + 1.5 * width);
        let bytes = read * (gate_up.weight_bytes + down.weight_bytes) + moved;
        if groups > 1.0 {
            self.all_to_all(count, chosen, found);
        }
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
        let (math, peak) = match (math, self.device.fp8_flops_per_s) {
            (Math::Fp8, Some(peak)) => (math, peak),
            // As vLLM's Marlin kernels do it, on an A100 for example.
            (Math::Fp8, None) => (Math::WeightOnly, self.device.bf16_flops_per_s),
            // TF32 runs at half the 16-bit rate on tensor cores (NVIDIA data sheets from A100 on).
            (Math::F32, _) => (math, self.device.bf16_flops_per_s / 2.0),
            (Math::Half | Math::WeightOnly, _) => (math, self.device.bf16_flops_per_s),
            (Math::Int8, _) => (math, self.device.int8_ops_per_s),
        };
        // Few rows do not fill a tile; they are computed without.
        let reached = (peak * self.efficiency.product_share(math, rows))
            .max(self.device.vector_flops_per_s * self.efficiency.product_16_bits.min(VECTOR_SHARE));
        let bandwidth = self.device.bandwidth_bytes_per_s * self.efficiency.weight_share(math, bytes);
        // A product of bytes has a kernel before it that makes bytes of its input.
        let kernels = if matches!(math, Math::Fp8 | Math::Int8) { 2.0 } else { 1.0 };
        OperationCost {
            flops: count * flops,
            bytes: count * bytes,
            compute_s: count * flops / reached,
            memory_s: count * bytes / bandwidth,
            overhead_s: count * launches * kernels * self.efficiency.launch_s,
            ..OperationCost::none(operation)
        }
    }

    /// The sum of a tensor group's parts of all rows; nothing on one device. Each device sends and receives `2 (p - 1) / p` of
    /// them (ring; Thakur et al. 2005), and a latency grows with the logarithm of devices. In several nodes each node sums up
    /// first, then its devices exchange a part each with their like in the other nodes (Mikami et al. 2018).
    fn reduced(&self, count: f64, rows: f64, found: &mut impl FnMut(OperationCost)) {
        let Group { local, nodes, .. } = self.layout.tensor;
        let bytes = ACTIVATION * rows * self.layers.hidden;
        if local > 1.0 {
            let sent = 2.0 * (local - 1.0) / local * bytes;
            found(sent_in(Operation::AllReduce, count * self.link_s(sent, local)));
        }
        if nodes > 1.0 {
            let sent = 2.0 * (nodes - 1.0) / nodes * bytes / local;
            found(sent_in(Operation::NetworkAllReduce, count * self.network_s(sent, nodes)));
        }
    }

    /// Rows to their experts and back, all but the share that stays.
    fn all_to_all(&self, count: f64, chosen: f64, found: &mut impl FnMut(OperationCost)) {
        let Group { devices, local, nodes } = self.layout.expert;
        let bytes = 2.0 * ACTIVATION * chosen * self.layers.hidden;
        if local > 1.0 {
            let sent = (local - 1.0) / devices * bytes;
            found(sent_in(Operation::AllToAll, count * self.link_s(sent, local)));
        }
        if nodes > 1.0 {
            let sent = (devices - local) / devices * bytes;
            found(sent_in(Operation::NetworkAllToAll, count * self.network_s(sent, nodes)));
        }
    }

    fn transfers(&self, rows: f64, found: &mut impl FnMut(OperationCost)) {
        let (mut link_s, mut network_s) = (0.0, 0.0);
        for crosses in &self.layout.crossings {
            let (link, network) = self.transfer_s(rows, *crosses);
            link_s += link;
            network_s += network;
        }
        found(sent_in(Operation::StageTransfer, link_s));
        if network_s > 0.0 {
            found(sent_in(Operation::NetworkTransfer, network_s));
        }
    }

    /// Seconds on the link and on the network from one stage to the next. To another node each device sends its part of the rows,
    /// and the parts are put together there (vLLM, `send_tensor_dict`).
    pub(super) fn transfer_s(&self, rows: f64, crosses: bool) -> (f64, f64) {
        let Group { devices, local, .. } = self.layout.tensor;
        let bytes = ACTIVATION * rows * self.layers.hidden;
        if !crosses {
            return (self.link_s(bytes, 2.0), 0.0);
        }
        let gathered = if local > 1.0 { self.link_s((local - 1.0) / local * bytes, local) } else { 0.0 };
        (gathered, self.network_s(bytes / devices, 2.0))
    }

    /// A barrier, and an exchange that takes longer with more devices: of eight twice as long as of two, as NCCL's smallest
    /// messages take within a node.
    fn link_s(&self, bytes: f64, devices: f64) -> f64 {
        let latency = self.efficiency.link_latency_s * (1.0 + devices.log2()) / 2.0;
        latency + bytes / (self.device.link.bytes_per_s() * self.efficiency.link)
    }

    fn network_s(&self, bytes: f64, nodes: f64) -> f64 {
        let latency = self.efficiency.network_latency_s * (1.0 + nodes.log2()) / 2.0;
        latency + bytes / (self.device.network_bytes_per_s * self.efficiency.network)
    }

    /// Adding the residual and normalising: two reads, two writes.
    fn norms(&self, count: f64, rows: f64) -> OperationCost {
        self.moving(Operation::Norm, count, 4.0 * ACTIVATION * rows * self.layers.hidden)
    }

    /// Gate and up are read, their product is written.
    fn activation(&self, count: f64, gate_up_outputs: f64, rows: f64) -> OperationCost {
        self.moving(Operation::Activation, count, 1.5 * ACTIVATION * rows * gate_up_outputs)
    }

    /// Work that is all bytes.
    fn moving(&self, operation: Operation, count: f64, bytes: f64) -> OperationCost {
        OperationCost {
            bytes: count * bytes,
            memory_s: count * bytes
                / (self.device.bandwidth_bytes_per_s * self.efficiency.memory_share(bytes)),
            overhead_s: count * self.efficiency.launch_s,
            ..OperationCost::none(operation)
        }
    }

    /// Scores and weighted sums of all sequences in one launch; keys and values once, queries in and results out.
    fn attention(
        &self,
        operation: Operation,
        count: f64,
        shape: &AttentionShape,
        work: Attention,
    ) -> OperationCost {
        let decode = operation == Operation::AttentionDecode;
        let pair_flops = if decode { shape.decode_pair_flops } else { shape.prefill_pair_flops };
        let bytes = work.seen * shape.kv_bytes + 2.0 * ACTIVATION * work.queries * shape.query_width;
        let share = self.efficiency.memory_share(bytes)
            * if decode { self.efficiency.attention_bandwidth } else { 1.0 };
        OperationCost {
            flops: count * pair_flops * work.pairs,
            bytes: count * bytes,
            compute_s: count * pair_flops * work.stretched_pairs / self.device.bf16_flops_per_s,
            memory_s: count * bytes / (self.device.bandwidth_bytes_per_s * share),
            overhead_s: count * self.efficiency.launch_s,
            ..OperationCost::none(operation)
        }
    }

    /// Sequences with several new tokens, and those with one.
    fn attention_work(&self, seqs: &[SeqShape], window: Option<Window>) -> (Attention, Attention) {
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
            prefill.stretched_pairs += pairs / self.efficiency.attention_share(queries);
        }
        (prefill, self.decoding(queries, keys))
    }

    /// Sequences with one query each, which see so many keys in all.
    fn decoding(&self, queries: usize, keys: u64) -> Attention {
        let keys = keys as f64;
        let stretched_pairs = keys / self.efficiency.attention_share(1.0);
        Attention { queries: queries as f64, seen: keys, pairs: keys, stretched_pairs }
    }
}

fn sent_in(operation: Operation, seconds: f64) -> OperationCost {
    OperationCost { communication_s: seconds, ..OperationCost::none(operation) }
}

impl CostModel for Roofline {
    fn step_time(&self, seqs: &[SeqShape]) -> Duration {
        let (mut rows, mut attention) = (0.0, 0.0);
        self.each(seqs, |cost| {
            *if cost.operation.is_attention() { &mut attention } else { &mut rows } += cost.seconds()
        });
        self.whole(rows, attention, seqs.len(), has_prompts(seqs))
    }

    fn decode_time(&self, sequences: usize, keys: u64) -> Option<Duration> {
        if self.layers.layers.iter().any(|(_, layer)| layer.attention.window.is_some()) {
            return None;
        }
        let mut attention = 0.0;
        let decode = self.decoding(sequences, keys);
        for (count, layer) in &self.layers.layers {
            let cost = self.attention(Operation::AttentionDecode, *count, &layer.attention, decode);
            attention += cost.seconds();
        }
        Some(self.whole(self.decode_rows_s(sequences), attention, sequences, false))
    }

    fn stages(&self) -> usize {
        self.layout.crossings.len() + 1
    }

    fn stage_times(&self, seqs: &[SeqShape], times: &mut Vec<StageTime>) {
        self.in_stages(seqs, times);
    }
}

impl Roofline {
    fn whole(&self, rows_s: f64, attention_s: f64, sequences: usize, has_prompts: bool) -> Duration {
        let seconds = rows_s + attention_s;
        duration(seconds + self.host_wait_s(seconds - self.outside_s(sequences as f64), has_prompts))
    }
}

/// A step in which every sequence has one token is a captured graph.
pub(super) fn has_prompts(seqs: &[SeqShape]) -> bool {
    seqs.iter().any(|seq| seq.new > 1)
}
