//! What crosses nodes, by hand: eight H100 a node, 450 GB/s within it and 50 GB/s a device between nodes, nothing lost.

use std::time::Duration;

use llmlab_models::{WeightFormat, catalogue};
use llmlab_sim::cost_model::layers::Layers;
use llmlab_sim::cost_model::{Operation, Sharding, Weights};
use llmlab_sim::{CostModel, Device, Roofline, SeqShape, StepCost};

const LINK: f64 = 450e9;
const NETWORK: f64 = 50e9;

fn roofline(model: &str, sharding: Sharding) -> Roofline {
    let device = Device::from_catalogue(catalogue::hardware("h100-sxm").unwrap()).unwrap();
    let model = catalogue::architecture(model).unwrap();
    let layers = Layers::of(model, Weights::of(WeightFormat::Bf16), 2.0, sharding);
    Roofline::with_efficiency(layers, device, llmlab_sim::cost_model::Efficiency::IDEAL)
}

fn step(model: &str, sharding: Sharding) -> StepCost {
    let decode = SeqShape { context: 900, new: 1, padding: 0, sample: true, drafts: 0 };
    roofline(model, sharding).step(&[decode; 4])
}

fn near(found: f64, expected: f64) {
    assert!((found - expected).abs() <= 1e-9 * expected, "{found} s, expected {expected} s");
}

/// Sums of 4 rows of 16384 values in 16 bits, two in each of 126 layers.
#[test]
fn a_sum_over_two_nodes_is_made_in_each_and_then_between_them() {
    let bytes = 4.0 * 16384.0 * 2.0;
    let one = step("llama-3.1-405b", Sharding::tensor(8));
    near(one.of(Operation::AllReduce), 252.0 * 2.0 * 7.0 / 8.0 * bytes / LINK);
    assert_eq!(one.of(Operation::NetworkAllReduce), 0.0);
    let two = step("llama-3.1-405b", Sharding::tensor(16));
    near(two.of(Operation::AllReduce), 252.0 * 2.0 * 7.0 / 8.0 * bytes / LINK);
    // Each of eight devices exchanges its eighth with the one of the other node.
    near(two.of(Operation::NetworkAllReduce), 252.0 * 2.0 / 2.0 * (bytes / 8.0) / NETWORK);
}

#[test]
fn a_stage_in_another_node_gets_a_part_from_each_device() {
    let bytes = 4.0 * 16384.0 * 2.0;
    let within = step("llama-3.1-405b", Sharding { pipeline: 2, ..Sharding::tensor(4) });
    near(within.of(Operation::StageTransfer), bytes / LINK);
    assert_eq!(within.of(Operation::NetworkTransfer), 0.0);
    let between = step("llama-3.1-405b", Sharding { pipeline: 2, ..Sharding::tensor(8) });
    near(between.of(Operation::NetworkTransfer), bytes / 8.0 / NETWORK);
    near(between.of(Operation::StageTransfer), 7.0 / 8.0 * bytes / LINK);
}

/// Only the second of three transfers of four stages of four devices leaves a node.
#[test]
fn each_transfer_takes_its_own_way() {
    let cost = roofline("llama-3.1-405b", Sharding { pipeline: 4, ..Sharding::tensor(4) });
    let decode = SeqShape { context: 900, new: 1, padding: 0, sample: true, drafts: 0 };
    let mut times = Vec::new();
    cost.stage_times(&[decode; 4], &mut times);
    let bytes = 4.0 * 16384.0 * 2.0;
    let ns = |seconds: f64| Duration::from_nanos((seconds * 1e9).round() as u64);
    let crossing = 3.0 / 4.0 * bytes / LINK + bytes / 4.0 / NETWORK;
    let expected = [ns(bytes / LINK), ns(crossing), ns(bytes / LINK), Duration::ZERO];
    assert_eq!(times.iter().map(|stage| stage.to_next).collect::<Vec<_>>(), expected);
}

/// 58 layers with 256 experts, 8 for each of the 16 x 4 rows, of 7168 values; each device has the rows of its 16 experts.
#[test]
fn rows_go_to_experts_of_other_nodes_over_the_network() {
    let experts = |expert| step("deepseek-v3", Sharding { tensor: 1, pipeline: 1, expert });
    let there_and_back = 2.0 * (4.0 * 8.0) * 7168.0 * 2.0;
    let one = experts(8);
    near(one.of(Operation::AllToAll), 58.0 * 7.0 / 8.0 * there_and_back / LINK);
    assert_eq!(one.of(Operation::NetworkAllToAll), 0.0);
    let two = experts(16);
    near(two.of(Operation::AllToAll), 58.0 * 7.0 / 16.0 * there_and_back / LINK);
    near(two.of(Operation::NetworkAllToAll), 58.0 * 8.0 / 16.0 * there_and_back / NETWORK);
}

/// Without a scale-up link devices of a node go over PCIe, and nodes over the smaller network that such servers have.
#[test]
fn boards_without_a_scale_up_link_use_pcie() {
    let device = Device::from_catalogue(catalogue::hardware("l40s").unwrap()).unwrap();
    assert_eq!((device.link.name(), device.link.bytes_per_s()), ("pcie", 32e9));
    assert_eq!((device.devices_per_node, device.network_bytes_per_s), (8, 12.5e9));
    let gb200 = Device::from_catalogue(catalogue::hardware("gb200").unwrap()).unwrap();
    assert_eq!(gb200.devices_per_node, 72);
}
