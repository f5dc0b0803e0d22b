use api_types::taint;
use k8s_openapi::api::core::v1::{Pod, Taint, Toleration};

use super::{Candidate, ClusterEvent, Normalize, Plugin, Verdict};
use crate::snapshot::NodeInfo;

/// Keeps pods from nodes whose taints they do not tolerate, and away from those they would rather not have.
pub struct TaintToleration;

/// Whether a pod tolerates a taint.
pub fn tolerates(pod: &Pod, taint: &Taint) -> bool {
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_ref());
    let taint = taint::Taint {
        key: &taint.key,
        value: taint.value.as_deref().unwrap_or_default(),
        effect: &taint.effect,
    };
    tolerations.into_iter().flatten().any(|toleration| look(toleration).tolerates(&taint))
}

fn look(toleration: &Toleration) -> taint::Toleration<'_> {
    taint::Toleration {
        key: toleration.key.as_deref().unwrap_or_default(),
        operator: toleration.operator.as_deref().unwrap_or_default(),
        value: toleration.value.as_deref().unwrap_or_default(),
        effect: toleration.effect.as_deref().unwrap_or_default(),
    }
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

    #[test]
    fn a_pod_tolerates_by_any_of_its_tolerations() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "spec": { "containers": [], "tolerations": [{ "key": "j" }, { "key": "k", "operator": "Exists" }] }
        }))
        .expect("a pod");
        let taint =
            |key: &str| Taint { key: key.to_owned(), effect: "NoExecute".to_owned(), ..Taint::default() };
        assert!(tolerates(&pod, &taint("k")));
        assert!(!tolerates(&pod, &taint("l")));
    }
}
