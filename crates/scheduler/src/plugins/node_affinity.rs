use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, Pod};

use super::{Candidate, ClusterEvent, Normalize, Plugin, Verdict};
use crate::snapshot::NodeInfo;

/// Holds pods to the nodes that `nodeSelector` and node affinity name, and prefers those they would like.
pub struct NodeAffinity;

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn filter(&self, candidate: &Candidate<'_>, node: &NodeInfo) -> Verdict {
        if matches_selector(candidate.pod, node) && matches_required(candidate.pod, node) {
            return Verdict::Fits;
        }
        Verdict::reject("node(s) didn't match Pod's node affinity/selector")
    }

    fn score(&self, candidate: &Candidate<'_>, node: &NodeInfo) -> i64 {
        let affinity = node_affinity(candidate.pod);
        let preferred = affinity
            .and_then(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.as_ref())
            .into_iter()
            .flatten();
        let wanted = preferred.filter(|term| matches_term(&term.preference, node));
        wanted.map(|term| i64::from(term.weight)).sum()
    }

    fn weight(&self) -> i64 {
        2
    }

    fn normalize(&self) -> Normalize {
        Normalize::ToHighest
    }

    fn wakes_on(&self) -> &'static [ClusterEvent] {
        &[ClusterEvent::NodeAdded, ClusterEvent::NodeChanged, ClusterEvent::PodChanged]
    }
}

fn node_affinity(pod: &Pod) -> Option<&k8s_openapi::api::core::v1::NodeAffinity> {
    pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()
}

fn matches_selector(pod: &Pod, node: &NodeInfo) -> bool {
    let wanted = pod.spec.as_ref().and_then(|spec| spec.node_selector.as_ref());
    wanted.into_iter().flatten().all(|(key, value)| label(node.labels(), key) == Some(value.as_str()))
}

/// The terms are alternatives; none of them at all matches nothing.
fn matches_required(pod: &Pod, node: &NodeInfo) -> bool {
    let required = node_affinity(pod)
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    required.is_none_or(|selector| selector.node_selector_terms.iter().any(|term| matches_term(term, node)))
}

/// All requirements of a term hold; an empty term matches nothing.
fn matches_term(term: &NodeSelectorTerm, node: &NodeInfo) -> bool {
    let labels: Vec<_> = term.match_expressions.iter().flatten().collect();
    let fields: Vec<_> = term.match_fields.iter().flatten().collect();
    if labels.is_empty() && fields.is_empty() {
        return false;
    }
    labels.iter().all(|requirement| holds(requirement, label(node.labels(), &requirement.key)))
        && fields.iter().all(|requirement| holds(requirement, field(node, &requirement.key)))
}

fn label<'a>(labels: Option<&'a BTreeMap<String, String>>, key: &str) -> Option<&'a str> {
    labels?.get(key).map(String::as_str)
}

/// `metadata.name` is the only field that can be selected by.
fn field<'a>(node: &'a NodeInfo, key: &str) -> Option<&'a str> {
    (key == "metadata.name").then_some(node.name.as_str())
}

fn holds(requirement: &NodeSelectorRequirement, has: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = |has: &str| values.iter().any(|value| value == has);
    let number = |text: &str| text.parse::<i64>().ok();
    let bound = values.first().and_then(|value| number(value));
    match requirement.operator.as_str() {
        "In" => has.is_some_and(listed),
        "NotIn" => !has.is_some_and(listed),
        "Exists" => has.is_some(),
        "DoesNotExist" => has.is_none(),
        "Gt" => has.and_then(number).zip(bound).is_some_and(|(has, bound)| has > bound),
        "Lt" => has.and_then(number).zip(bound).is_some_and(|(has, bound)| has < bound),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn node(labels: serde_json::Value) -> NodeInfo {
        let mut info = NodeInfo::empty("n1");
        let node = serde_json::from_value(serde_json::json!({"metadata": {"name": "n1", "labels": labels}}));
        info.set_node(Some(Arc::new(node.expect("a node"))));
        info
    }

    fn term(expressions: serde_json::Value) -> NodeSelectorTerm {
        serde_json::from_value(serde_json::json!({"matchExpressions": expressions})).expect("a term")
    }

    #[test]
    fn every_operator() {
        let node = node(serde_json::json!({"zone": "a", "cores": "8"}));
        let holds = |key: &str, operator: &str, values: &[&str]| {
            matches_term(
                &term(serde_json::json!([{"key": key, "operator": operator, "values": values}])),
                &node,
            )
        };
        assert!(
            holds("zone", "In", &["a", "b"]) && !holds("zone", "In", &["b"]) && !holds("rack", "In", &["a"])
        );
        assert!(
            !holds("zone", "NotIn", &["a"])
                && holds("zone", "NotIn", &["b"])
                && holds("rack", "NotIn", &["a"])
        );
        assert!(holds("zone", "Exists", &[]) && !holds("rack", "Exists", &[]));
        assert!(!holds("zone", "DoesNotExist", &[]) && holds("rack", "DoesNotExist", &[]));
        assert!(
            holds("cores", "Gt", &["7"]) && !holds("cores", "Gt", &["8"]) && !holds("zone", "Gt", &["7"])
        );
        assert!(holds("cores", "Lt", &["9"]) && !holds("cores", "Lt", &["8"]));
    }

    #[test]
    fn an_empty_term_matches_nothing_and_fields_match_the_name() {
        let node = node(serde_json::json!({}));
        assert!(!matches_term(&NodeSelectorTerm::default(), &node));
        let by_name = serde_json::json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]});
        assert!(matches_term(&serde_json::from_value(by_name).expect("a term"), &node));
    }
}
