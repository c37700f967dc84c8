//! Which devices of a sharding are in one node, and which of its exchanges cross nodes. Ranks are laid out as vLLM lays them:
//! the devices of a tensor group next to each other, stage after stage, and nodes are filled in that order.

use super::{Device, Sharding};

/// A group of devices that exchange data, all of them with all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Group {
    pub devices: f64,
    /// Of these, the ones in one node.
    pub local: f64,
    pub nodes: f64,
}

impl Group {
    fn of(devices: u32, per_node: u32) -> Group {
        let (devices, per_node) = (devices.max(1), per_node.max(1));
        Group {
            devices: f64::from(devices),
            local: f64::from(devices.min(per_node)),
            nodes: f64::from(devices.div_ceil(per_node)),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Layout {
    pub tensor: Group,
    pub expert: Group,
    /// For each stage but the last, whether the next one is in another node, for one of its devices at least.
    pub crossings: Vec<bool>,
}

impl Layout {
    pub fn of(sharding: Sharding, device: &Device) -> Layout {
        let per_node = device.devices_per_node.max(1);
        let width = sharding.tensor.max(sharding.expert).max(1);
        let node = |rank: u32| rank / per_node;
        let crosses = |stage: u32| {
            let first = stage.saturating_mul(width);
            // Which devices cross repeats with the nodes.
            (first..first.saturating_add(width.min(per_node)))
                .any(|rank| node(rank) != node(rank.saturating_add(width)))
        };
        Layout {
            tensor: Group::of(sharding.tensor, per_node),
            expert: Group::of(sharding.expert, per_node),
            crossings: (0..sharding.pipeline.saturating_sub(1)).map(crosses).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use llmlab_models::catalogue;

    use super::*;

    fn crossings(tensor: u32, pipeline: u32, per_node: u32) -> Vec<bool> {
        let h100 = Device::from_catalogue(catalogue::hardware("h100-sxm").unwrap()).unwrap();
        let device = Device { devices_per_node: per_node, ..h100 };
        Layout::of(Sharding { tensor, pipeline, expert: 1 }, &device).crossings
    }

    #[test]
    fn stages_fill_nodes_in_order() {
        assert_eq!(crossings(2, 4, 8), [false, false, false]);
        assert_eq!(crossings(4, 4, 8), [false, true, false]);
        assert_eq!(crossings(8, 3, 8), [true, true]);
        // Of the third stage the last device is in the next node.
        assert_eq!(crossings(3, 3, 8), [false, true]);
        assert_eq!(crossings(1, 1, 8), Vec::<bool>::new());
        assert_eq!(crossings(16, 2, 8), [true]);
    }

    #[test]
    fn a_group_larger_than_a_node_has_several() {
        assert_eq!(Group::of(16, 8), Group { devices: 16.0, local: 8.0, nodes: 2.0 });
        assert_eq!(Group::of(4, 8), Group { devices: 4.0, local: 4.0, nodes: 1.0 });
    }
}
