use k8s_openapi::api::core::v1::{Pod, Taint, Toleration};

use super::{Candidate, ClusterEvent, Normalize, Plugin, Verdict};
use crate::snapshot::NodeInfo;

/// Keeps pods from nodes whose taints they do not tolerate, and away from those they would rather not have.
pub struct TaintToleration;

/// Whether a pod tolerates a taint.
pub fn tolerates(pod: &Pod, taint: &Taint) -> bool {
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_ref());
    tolerations.into_iter().flatten().any(|toleration| matches(toleration, taint))
}

/// Upstream's `Toleration.ToleratesTaint`: an empty effect or key matches all; `Exists` ignores the value; the numeric
/// operators compare integers (KEP-5471).
fn matches(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    let (wanted, has) =
        (toleration.value.as_deref().unwrap_or_default(), taint.value.as_deref().unwrap_or_default());
    match toleration.operator.as_deref().unwrap_or_default() {
        "" | "Equal" => !key.is_empty() && wanted == has,
        "Exists" => true,
        "Lt" => compare(has, wanted).is_some_and(std::cmp::Ordering::is_lt),
        "Gt" => compare(has, wanted).is_some_and(std::cmp::Ordering::is_gt),
        _ => false,
    }
}

fn compare(left: &str, right: &str) -> Option<std::cmp::Ordering> {
    Some(left.parse::<i64>().ok()?.cmp(&right.parse::<i64>().ok()?))
}

fn taints<'a>(node: &'a NodeInfo, effects: &'static [&'static str]) -> impl Iterator<Item = &'a Taint> {
    let spec = node.node.as_ref().and_then(|node| node.spec.as_ref());
    let taints = spec.and_then(|spec| spec.taints.as_ref()).into_iter().flatten();
    taints.filter(move |taint| effects.contains(&taint.effect.as_str()))
}

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn filter(&self, candidate: &Candidate<'_>, node: &NodeInfo) -> Verdict {
        let mut hard = taints(node, &["NoSchedule", "NoExecute"]);
        match hard.find(|taint| !tolerates(candidate.pod, taint)) {
            Some(_) => Verdict::reject("node(s) had untolerated taint(s)"),
            None => Verdict::Fits,
        }
    }

    fn score(&self, candidate: &Candidate<'_>, node: &NodeInfo) -> i64 {
        let soft = taints(node, &["PreferNoSchedule"]);
        i64::try_from(soft.filter(|taint| !tolerates(candidate.pod, taint)).count()).unwrap_or(i64::MAX)
    }

    fn weight(&self) -> i64 {
        3
    }

    fn normalize(&self) -> Normalize {
        Normalize::Reversed
    }

    fn wakes_on(&self) -> &'static [ClusterEvent] {
        &[ClusterEvent::NodeAdded, ClusterEvent::NodeChanged, ClusterEvent::PodChanged]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(toleration: serde_json::Value, expected: bool) {
        let pod: Pod = serde_json::from_value(
            serde_json::json!({"spec": {"containers": [], "tolerations": [toleration]}}),
        )
        .expect("a pod");
        let taint = Taint {
            key: "k".to_owned(),
            value: Some("5".to_owned()),
            effect: "NoExecute".to_owned(),
            time_added: None,
        };
        assert_eq!(tolerates(&pod, &taint), expected, "{toleration}");
    }

    #[test]
    fn operators_keys_and_effects() {
        let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
        check(json(r#"{"operator": "Exists"}"#), true);
        check(json(r#"{"key": "k", "operator": "Exists"}"#), true);
        check(json(r#"{"key": "k", "operator": "Exists", "effect": "NoSchedule"}"#), false);
        check(json(r#"{"key": "k", "value": "5"}"#), true);
        check(json(r#"{"key": "k", "value": "6"}"#), false);
        check(json(r#"{"key": "j", "value": "5"}"#), false);
        check(json(r#"{"value": "5"}"#), false);
        check(json(r#"{"key": "k", "operator": "Gt", "value": "4"}"#), true);
        check(json(r#"{"key": "k", "operator": "Lt", "value": "4"}"#), false);
    }
}
