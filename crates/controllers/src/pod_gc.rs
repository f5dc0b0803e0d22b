//! Pods that nobody looks after any more are deleted for good (upstream's `podgc` controller): those of a node that
//! is gone, those that are being deleted and were never scheduled, those on a node that is out of service, and the
//! oldest of those that have ended when there are too many.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api_types::meta;
use client::{Change, DeleteParams, Lister};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::controller::{Controller, GOING, Key, Listers, NODE_INDEX, Now, OVER, STATE_INDEX, Watch, kind};
use crate::plan::{Action, Plan};
use crate::template::{disrupted, is_over};

const PODS: &str = "pods";
/// Between two looks.
const PERIOD: Duration = Duration::from_secs(20);
/// How long a node has to be missing before its pods go: its Node object may only be made anew.
const QUARANTINE_MILLIS: i64 = 40_000;
/// Pods that have ended and are kept (upstream's `--terminated-pod-gc-threshold`).
const ENDED_PODS: usize = 12_500;
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// See the module.
#[derive(Default)]
pub struct PodGc {
    /// Since when a node that pods are bound to is missing, by the steady clock.
    missing: Mutex<HashMap<String, i64>>,
}

impl Controller for PodGc {
    fn name(&self) -> &'static str {
        "pod-garbage-collector-controller"
    }

    /// There is one key, for all pods, which time brings up again; and nodes that may be out of service.
    fn watches(&self) -> Vec<Watch> {
        let tainted = |change: &Change, _: &Listers| match has_taint(change.object()) {
            true => vec![all_pods()],
            false => Vec::new(),
        };
        vec![
            Watch { resource: kind("", "v1", "nodes"), keys: tainted },
            Watch { resource: kind("", "v1", PODS), keys: |_, _| Vec::new() },
        ]
    }

    fn first(&self) -> Vec<Key> {
        vec![all_pods()]
    }

    fn reconcile(&self, listers: &Listers, _key: &Key, now: Now) -> Plan {
        let Some(pods) = listers.get(PODS) else { return Plan::nothing() };
        let mut actions = Vec::new();
        let lost = self.lost(listers, &pods.index_values(NODE_INDEX), now);
        for pod in lost.iter().flat_map(|node| listers.pods_on(node)) {
            actions.extend(force(&pod, Some("PodGC: node no longer exists"), now));
        }
        let is_lost = |node: &str| lost.iter().any(|name| name == node);
        let is_left = |pod: &Value| match pod["spec"]["nodeName"].as_str() {
            Some(node) => !is_lost(node) && is_out_of_service(listers, node),
            None => true,
        };
        for pod in pods.by_index(STATE_INDEX, GOING).iter().filter(|pod| is_left(pod)) {
            actions.extend(force(pod, None, now));
        }
        actions.extend(excess(pods, is_lost).iter().flat_map(|pod| force(pod, None, now)));
        Plan { actions, recheck_after: Some(PERIOD) }
    }
}

/// The oldest of the pods that have ended, as many as there are too many.
fn excess(pods: &Lister, is_lost: impl Fn(&str) -> bool) -> Vec<Arc<Value>> {
    if pods.index_len(STATE_INDEX, OVER) <= ENDED_PODS {
        return Vec::new();
    }
    let mut ended = pods.by_index(STATE_INDEX, OVER);
    ended.retain(|pod| {
        !meta::is_being_deleted(pod) && !pod["spec"]["nodeName"].as_str().is_some_and(&is_lost)
    });
    ended.sort_by(|a, b| meta::creation_timestamp(a).cmp(meta::creation_timestamp(b)));
    ended.truncate(ended.len().saturating_sub(ENDED_PODS));
    ended
}

fn all_pods() -> Key {
    Key::new(PODS, "", "")
}

impl PodGc {
    /// Nodes that pods name and that have been missing for the quarantine.
    fn lost(&self, listers: &Listers, named: &[String], now: Now) -> Vec<String> {
        let known = |name: &str| listers.get("nodes").is_some_and(|nodes| nodes.get("", name).is_some());
        let mut missing = self.missing.lock();
        let absent: HashMap<String, i64> = named
            .iter()
            .filter(|name| !known(name))
            .map(|name| (name.clone(), missing.get(name).copied().unwrap_or(now.steady_millis)))
            .collect();
        *missing = absent;
        let old = missing.iter().filter(|(_, since)| now.steady_millis - **since >= QUARANTINE_MILLIS);
        old.map(|(name, _)| name.clone()).collect()
    }
}

fn is_out_of_service(listers: &Listers, node: &str) -> bool {
    let Some(node) = listers.object(&Key::new("nodes", "", node)) else { return false };
    !crate::template::is_ready(&node) && has_taint(&node)
}

fn has_taint(node: &Value) -> bool {
    let mut taints = node["spec"]["taints"].as_array().into_iter().flatten();
    taints.any(|taint| taint["key"] == OUT_OF_SERVICE)
}

/// Says that the pod has failed, unless it has ended, and deletes it at once.
fn force(pod: &Arc<Value>, disruption: Option<&str>, now: Now) -> Vec<Action> {
    let mut actions = Vec::new();
    if !is_over(pod) {
        let mut failed = match disruption {
            Some(message) => disrupted(pod, "DeletionByPodGC", message, now.wall_millis),
            None => (**pod).clone(),
        };
        meta::child_mut(&mut failed, &["status"]).insert("phase".to_owned(), json!("Failed"));
        actions.push(Action::UpdateStatus(kind("", "v1", PODS), failed));
    }
    let at_once = DeleteParams { grace_seconds: Some(0), ..DeleteParams::default() };
    actions.push(Action::Delete(kind("", "v1", PODS).into(), pod.clone(), at_once));
    actions
}

#[cfg(test)]
mod tests {
    use client::Object;

    use super::*;
    use crate::testing::{listers, show};

    fn pod(node: Option<&str>, deleted: bool) -> Value {
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p", "namespace": "ns" },
            "spec": { "nodeName": node }, "status": { "phase": "Running" },
        });
        if deleted {
            pod["metadata"]["deletionTimestamp"] = json!("1970-01-01T00:00:00Z");
        }
        pod
    }

    fn node(taint: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Node", "metadata": { "name": "n" },
            "spec": { "taints": [{ "key": taint, "effect": "NoExecute" }] },
        })
    }

    fn step(collector: &PodGc, objects: Vec<Value>, seconds: i64) -> Vec<String> {
        let key = Key::new(PODS, "", "");
        show(&collector.reconcile(&listers(objects), &key, Now::at(seconds * 1000)))
    }

    const FORCED: [&str; 2] = ["status pods ns/p", "delete pods ns/p"];

    #[test]
    fn pods_of_a_missing_node_go_after_the_quarantine() {
        let collector = PodGc::default();
        let orphan = || vec![pod(Some("n"), false)];
        assert!(step(&collector, orphan(), 0).is_empty());
        assert!(step(&collector, orphan(), 39).is_empty());
        assert_eq!(step(&collector, orphan(), 40), FORCED);
        let back = vec![pod(Some("n"), false), node("other")];
        assert!(step(&collector, back, 41).is_empty());
        assert!(step(&collector, orphan(), 42).is_empty(), "the quarantine starts anew");
    }

    #[test]
    fn pods_that_come_and_change_bring_nothing_up() {
        let collector = PodGc::default();
        let (listers, pod) = (listers(Vec::new()), Arc::new(Object::from(pod(Some("n"), true))));
        let changes = [
            Change::Added(pod.clone()),
            Change::Updated { old: pod.clone(), new: pod.clone() },
            Change::Deleted(pod),
        ];
        let pods = collector.watches().into_iter().find(|watch| watch.resource.resource == PODS);
        let keys = pods.expect("it reads pods").keys;
        assert!(changes.iter().all(|change| keys(change, &listers).is_empty()));
        assert_eq!(collector.first(), [all_pods()]);
    }

    #[test]
    fn deleted_pods_that_no_agent_will_end_go_at_once() {
        let collector = PodGc::default();
        assert_eq!(step(&collector, vec![pod(None, true)], 0), FORCED);
        assert!(step(&collector, vec![pod(None, false)], 0).is_empty());
        assert!(step(&collector, vec![pod(Some("n"), true), node("other")], 0).is_empty());
        assert_eq!(step(&collector, vec![pod(Some("n"), true), node(OUT_OF_SERVICE)], 0), FORCED);
    }

    #[test]
    fn ended_pods_are_kept_up_to_the_threshold() {
        let ended = |count: usize| -> Vec<Value> {
            let pods = (0..count).map(|number| {
                let mut pod = pod(Some("n"), false);
                pod["metadata"]["name"] = json!(format!("p{number}"));
                pod["metadata"]["creationTimestamp"] =
                    json!(format!("2026-01-01T00:00:{:05}Z", count - number));
                pod["status"]["phase"] = json!("Succeeded");
                pod
            });
            pods.chain([node("other")]).collect()
        };
        assert!(step(&PodGc::default(), ended(ENDED_PODS), 0).is_empty());
        let oldest = format!("delete pods ns/p{ENDED_PODS}");
        assert_eq!(step(&PodGc::default(), ended(ENDED_PODS + 1), 0), [oldest]);
    }
}
