use super::{Candidate, ClusterEvent, Plugin, Verdict};
use crate::snapshot::NodeInfo;

/// Keeps a pod that names its node from any other.
pub struct NodeName;

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn filter(&self, candidate: &Candidate<'_>, node: &NodeInfo) -> Verdict {
        let wanted =
            candidate.pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
        if wanted.is_empty() || wanted == node.name {
            return Verdict::Fits;
        }
        Verdict::reject("node(s) didn't match the requested node name")
    }

    fn wakes_on(&self) -> &'static [ClusterEvent] {
        &[ClusterEvent::NodeAdded]
    }
}
