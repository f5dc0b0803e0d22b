use k8s_openapi::api::core::v1::Taint;

use super::taint_toleration::tolerates;
use super::{Candidate, ClusterEvent, Plugin, Verdict};
use crate::snapshot::NodeInfo;

/// Keeps pods from cordoned nodes, unless they tolerate the taint that cordoning implies.
pub struct NodeUnschedulable;

const UNSCHEDULABLE_TAINT: &str = "node.kubernetes.io/unschedulable";

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn filter(&self, candidate: &Candidate<'_>, node: &NodeInfo) -> Verdict {
        let spec = node.node.as_ref().and_then(|node| node.spec.as_ref());
        if spec.is_none_or(|spec| spec.unschedulable != Some(true)) {
            return Verdict::Fits;
        }
        let taint = Taint {
            key: UNSCHEDULABLE_TAINT.to_owned(),
            effect: "NoSchedule".to_owned(),
            ..Taint::default()
        };
        if tolerates(candidate.pod, &taint) {
            return Verdict::Fits;
        }
        Verdict::reject("node(s) were unschedulable")
    }

    fn wakes_on(&self) -> &'static [ClusterEvent] {
        &[ClusterEvent::NodeAdded, ClusterEvent::NodeChanged, ClusterEvent::PodChanged]
    }
}
