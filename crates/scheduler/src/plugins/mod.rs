//! One file a plugin. A plugin filters nodes, scores them, or both; it sees one pod, one node and nothing else.

use k8s_openapi::api::core::v1::Pod;

use crate::snapshot::{NodeInfo, PodCost};

mod balanced_allocation;
mod image_locality;
mod node_affinity;
mod node_name;
mod node_ports;
mod node_resources_fit;
mod node_unschedulable;
mod scheduling_gates;
mod taint_toleration;

pub use scheduling_gates::gated_by;

/// The highest score of a plugin (upstream's `MaxNodeScore`).
pub const MAX_SCORE: i64 = 100;

/// A pod on its way to a node, with what every plugin would compute anew.
pub struct Candidate<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// What it takes.
    pub cost: &'a PodCost,
}

/// What a filter says of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The pod may run there.
    Fits,
    /// It may not, for these reasons; upstream's words, without the count. A later change may help.
    Rejects(Vec<String>),
}

impl Verdict {
    /// Rejects with one reason.
    pub fn reject(reason: &str) -> Self {
        Self::Rejects(vec![reason.to_owned()])
    }
}

/// What happened in the cluster: a pod that waits is tried again when a plugin that refused it wakes on the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClusterEvent {
    /// A node came.
    NodeAdded,
    /// A node's labels, taints, `unschedulable` or allocatable amounts changed.
    NodeChanged,
    /// A pod that was bound is gone or has ended.
    PodRemoved,
    /// The waiting pod itself changed.
    PodChanged,
}

/// How a plugin's raw scores become 0 to [`MAX_SCORE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Normalize {
    /// They are already.
    No,
    /// The highest becomes 100.
    ToHighest,
    /// The highest becomes 0: raw scores count what is bad.
    Reversed,
}

/// One concern of placement.
pub trait Plugin: Send + Sync {
    /// Upstream's name.
    fn name(&self) -> &'static str;

    /// Whether the pod may run on the node.
    fn filter(&self, _candidate: &Candidate<'_>, _node: &NodeInfo) -> Verdict {
        Verdict::Fits
    }

    /// How well it would run there, 0 to 100 or anything that [`Plugin::normalize`] brings there.
    fn score(&self, _candidate: &Candidate<'_>, _node: &NodeInfo) -> i64 {
        0
    }

    /// The weight of the score; 0 means that the plugin does not score.
    fn weight(&self) -> i64 {
        0
    }

    /// How raw scores are brought to 0..=100.
    fn normalize(&self) -> Normalize {
        Normalize::No
    }

    /// The events after which a pod that this plugin refused is worth another try.
    fn wakes_on(&self) -> &'static [ClusterEvent] {
        &[]
    }
}

/// The plugins of the default profile, in upstream's order, with upstream's weights.
pub fn default_plugins() -> Vec<Box<dyn Plugin>> {
    vec![
        Box::new(node_unschedulable::NodeUnschedulable),
        Box::new(node_name::NodeName),
        Box::new(taint_toleration::TaintToleration),
        Box::new(node_affinity::NodeAffinity),
        Box::new(node_ports::NodePorts),
        Box::new(node_resources_fit::NodeResourcesFit),
        Box::new(balanced_allocation::BalancedAllocation),
        Box::new(image_locality::ImageLocality),
    ]
}
