use super::{Candidate, ClusterEvent, Plugin, Verdict};
use crate::snapshot::NodeInfo;

/// Keeps pods that take the same host port apart.
pub struct NodePorts;

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn filter(&self, candidate: &Candidate<'_>, node: &NodeInfo) -> Verdict {
        let taken = |wanted| node.ports.keys().any(|port| port.conflicts(wanted));
        if candidate.cost.ports.iter().any(taken) {
            return Verdict::reject("node(s) didn't have free ports for the requested pod ports");
        }
        Verdict::Fits
    }

    fn wakes_on(&self) -> &'static [ClusterEvent] {
        &[ClusterEvent::NodeAdded, ClusterEvent::PodRemoved]
    }
}
