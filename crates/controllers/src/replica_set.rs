//! A ReplicaSet keeps as many pods as it says.

use std::sync::Arc;
use std::time::Duration;

use api_types::meta;
use api_types::selector::LabelSelector;
use client::{Change, DeleteParams, EventType};
use serde_json::{Value, json};

use crate::claim::{self, Claimable};
use crate::controller::{Controller, Key, Listers, Now, Watch, kind, own_key};
use crate::plan::{Action, Plan};
use crate::template::{self, is_available, is_over, is_ready};

const SETS: &str = "replicasets.apps";
/// Pods made or deleted at a time (upstream's `BurstReplicas`).
const BURST: usize = 500;

/// See the module.
pub struct ReplicaSets;

impl Controller for ReplicaSets {
    fn name(&self) -> &'static str {
        "replicaset-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch { resource: kind("apps", "v1", "replicasets"), keys: |change, _| own_key(SETS, change) },
            Watch { resource: kind("", "v1", "pods"), keys: pod_changed },
        ]
    }

    fn reconcile(&self, listers: &Listers, key: &Key, now: Now) -> Plan {
        let Some(set) = listers.object(key) else { return Plan::nothing() };
        let Ok(selector) = LabelSelector::from_value(&set["spec"]["selector"]) else {
            return Plan::nothing();
        };
        let mut actions = Vec::new();
        let pods =
            Claimable { resource: kind("", "v1", "pods"), name: "pods", is_wanted: |pod| !is_over(pod) };
        let owned = pods.claim(listers, &set, &selector, &mut actions);
        let active: Vec<Arc<Value>> =
            owned.iter().filter(|pod| !is_over(pod) && !meta::is_being_deleted(pod)).cloned().collect();
        let wanted = usize::try_from(set["spec"]["replicas"].as_i64().unwrap_or(1)).unwrap_or(0);
        if !meta::is_being_deleted(&set) && actions.is_empty() {
            scale(&set, wanted, &active, &mut actions);
        }
        let (status, recheck_after) = status(&set, &active, now.wall_millis);
        if status != set["status"] {
            let mut changed = (*set).clone();
            changed["status"] = status;
            actions.push(Action::UpdateStatus(kind("apps", "v1", "replicasets"), changed));
        }
        Plan { actions, recheck_after }
    }
}

fn pod_changed(change: &Change, listers: &Listers) -> Vec<Key> {
    claim::keys(SETS, "ReplicaSet", change, listers)
}

fn scale(set: &Arc<Value>, wanted: usize, active: &[Arc<Value>], actions: &mut Vec<Action>) {
    let pods = kind("", "v1", "pods");
    if active.len() < wanted {
        let missing = (wanted - active.len()).min(BURST);
        let prefix = format!("{}-", meta::name(set));
        let pod = template::pod(&set["spec"]["template"], set, &prefix);
        actions.extend((0..missing).map(|_| Action::CreatePod(set.clone(), pod.clone())));
    } else if active.len() > wanted {
        let mut ranked = active.to_vec();
        ranked.sort_by_key(|pod| rank(pod, active));
        let surplus = (active.len() - wanted).min(BURST);
        for pod in ranked.into_iter().take(surplus) {
            let text = format!("Deleted pod: {}", meta::name(&pod));
            actions.push(Action::Delete(pods.into(), pod, DeleteParams::default()));
            actions.push(Action::Event(set.clone(), EventType::Normal, "SuccessfulDelete", text));
        }
    }
}

/// Who goes first (upstream's `ActivePodsWithRanks`): not placed, then pending, then not ready, then the cheapest, then
/// where most are together, then the youngest.
fn rank(
    pod: &Value,
    all: &[Arc<Value>],
) -> (bool, u8, bool, i64, std::cmp::Reverse<usize>, std::cmp::Reverse<String>) {
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    let phase = match pod["status"]["phase"].as_str() {
        Some("Running") => 2,
        Some("Unknown") => 1,
        _ => 0,
    };
    let cost = meta::annotation(pod, "controller.kubernetes.io/pod-deletion-cost");
    let cost = cost.and_then(|cost| cost.parse().ok()).unwrap_or(0);
    let together = all.iter().filter(|other| other["spec"]["nodeName"].as_str() == Some(node)).count();
    let created = meta::creation_timestamp(pod).to_owned();
    (!node.is_empty(), phase, is_ready(pod), cost, std::cmp::Reverse(together), std::cmp::Reverse(created))
}

/// The status, and when pods that are ready will count as available.
fn status(set: &Value, active: &[Arc<Value>], now_millis: i64) -> (Value, Option<Duration>) {
    let min_ready = set["spec"]["minReadySeconds"].as_i64().unwrap_or(0);
    let count = |fits: &dyn Fn(&Value) -> bool| active.iter().filter(|pod| fits(pod)).count();
    let labels = set["spec"]["template"]["metadata"]["labels"].as_object();
    let labelled = |pod: &Value| {
        labels.is_none_or(|labels| labels.iter().all(|(key, value)| meta::label(pod, key) == value.as_str()))
    };
    let (ready, available) = (count(&is_ready), count(&|pod| is_available(pod, min_ready, now_millis)));
    let mut status = json!({ "replicas": active.len(), "observedGeneration": meta::generation(set) });
    let mut put = |field: &str, number: usize| {
        if number > 0 {
            status[field] = json!(number);
        }
    };
    put("fullyLabeledReplicas", count(&labelled));
    put("readyReplicas", ready);
    put("availableReplicas", available);
    if let Some(conditions) = set["status"].get("conditions") {
        status["conditions"] = conditions.clone();
    }
    let recheck = (available < ready).then(|| Duration::from_secs(min_ready.max(1).cast_unsigned()));
    (status, recheck)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{listers, show};

    fn set(replicas: i64) -> Value {
        json!({
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": { "name": "rs", "namespace": "ns", "uid": "u", "generation": 1 },
            "spec": {
                "replicas": replicas,
                "selector": { "matchLabels": { "a": "b" } },
                "template": { "metadata": { "labels": { "a": "b" } }, "spec": {} },
            },
            "status": { "replicas": 0, "observedGeneration": 1 },
        })
    }

    fn pod(name: &str, ready: bool) -> Value {
        let status = if ready { "True" } else { "False" };
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name, "namespace": "ns", "uid": name, "labels": { "a": "b" },
                "ownerReferences": [meta::OwnerReference::controller_of(&set(0)).to_value()],
            },
            "spec": { "nodeName": "n" },
            "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": status }] },
        })
    }

    fn plan(objects: Vec<Value>) -> Plan {
        ReplicaSets.reconcile(&listers(objects), &Key::new(SETS, "ns", "rs"), Now::at(0))
    }

    #[test]
    fn missing_pods_are_made_and_surplus_ones_go_unready_first() {
        let made = show(&plan(vec![set(2)]));
        assert_eq!(made.iter().filter(|line| *line == "create pod rs- for ns/rs").count(), 2, "{made:?}");
        let gone = show(&plan(vec![set(1), pod("good", true), pod("bad", false)]));
        assert!(gone.contains(&"delete pods ns/bad".to_owned()), "{gone:?}");
        assert!(!gone.contains(&"delete pods ns/good".to_owned()), "{gone:?}");
    }

    #[test]
    fn the_status_counts_what_is_ready() {
        let done = plan(vec![set(2), pod("a", true), pod("b", false)]);
        let Some(Action::UpdateStatus(_, set)) = done.actions.last() else { panic!("{done:?}") };
        assert_eq!(set["status"]["replicas"], 2);
        assert_eq!(set["status"]["readyReplicas"], 1);
        assert_eq!(set["status"]["availableReplicas"], 1);
    }

    #[test]
    fn an_orphan_that_fits_is_adopted_before_another_is_made() {
        let mut orphan = pod("p", true);
        orphan["metadata"]["ownerReferences"] = json!([]);
        let done = show(&plan(vec![set(1), orphan]));
        assert_eq!(done, ["patch pods ns/p"]);
    }

    #[test]
    fn a_pod_that_is_going_does_not_count() {
        let mut going = pod("p", true);
        going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert!(show(&plan(vec![set(1), going])).contains(&"create pod rs- for ns/rs".to_owned()));
    }

    #[test]
    fn a_settled_set_is_left_alone() {
        let mut settled = set(1);
        settled["status"] = json!({
            "replicas": 1, "observedGeneration": 1, "fullyLabeledReplicas": 1, "readyReplicas": 1, "availableReplicas": 1,
        });
        assert!(plan(vec![settled, pod("p", true)]).actions.is_empty());
    }
}
