//! Pods that nobody looks after any more are deleted for good (upstream's `podgc` controller): those of a node that
//! is gone, those that are being deleted and were never scheduled, those on a node that is out of service, and the
//! oldest of those that have ended when there are too many.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api_types::meta;
use client::{Change, DeleteParams};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::controller::{Controller, Key, Listers, Now, Watch, kind};
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

    /// There is one key: each look is at all pods.
    fn watches(&self) -> Vec<Watch> {
        let added = |change: &Change, _: &Listers| match change {
            Change::Added(_) => vec![Key::new(PODS, "", "")],
            _ => Vec::new(),
        };
        vec![
            Watch { resource: kind("", "v1", "nodes"), keys: |_, _| vec![Key::new(PODS, "", "")] },
            Watch { resource: kind("", "v1", PODS), keys: added },
        ]
    }

    fn reconcile(&self, listers: &Listers, _key: &Key, now: Now) -> Plan {
        let pods = listers.get(PODS).map(client::Lister::all).unwrap_or_default();
        let lost = self.lost(listers, &pods, now);
        let mut actions = Vec::new();
        let mut ended: Vec<&Arc<Value>> = Vec::new();
        for pod in &pods {
            match pod["spec"]["nodeName"].as_str() {
                Some(node) if lost.iter().any(|name| name == node) => {
                    actions.extend(force(pod, Some("PodGC: node no longer exists"), now));
                }
                Some(node) if meta::is_being_deleted(pod) && is_out_of_service(listers, node) => {
                    actions.extend(force(pod, None, now));
                }
                None if meta::is_being_deleted(pod) => actions.extend(force(pod, None, now)),
                _ if is_over(pod) => ended.push(pod),
                _ => {}
            }
        }
        ended.sort_by_key(|pod| meta::creation_timestamp(pod));
        let excess = ended.len().saturating_sub(ENDED_PODS);
        actions.extend(ended.into_iter().take(excess).flat_map(|pod| force(pod, None, now)));
        Plan { actions, recheck_after: Some(PERIOD) }
    }
}

impl PodGc {
    /// Nodes that pods name and that have been missing for the quarantine.
    fn lost(&self, listers: &Listers, pods: &[Arc<Value>], now: Now) -> Vec<String> {
        let known = |name: &str| listers.get("nodes").is_some_and(|nodes| nodes.get("", name).is_some());
        let mut missing = self.missing.lock();
        let named = pods.iter().filter_map(|pod| pod["spec"]["nodeName"].as_str());
        let absent: HashMap<String, i64> = named
            .filter(|name| !known(name))
            .map(|name| (name.to_owned(), missing.get(name).copied().unwrap_or(now.steady_millis)))
            .collect();
        *missing = absent;
        let old = missing.iter().filter(|(_, since)| now.steady_millis - **since >= QUARANTINE_MILLIS);
        old.map(|(name, _)| name.clone()).collect()
    }
}

fn is_out_of_service(listers: &Listers, node: &str) -> bool {
    let Some(node) = listers.object(&Key::new("nodes", "", node)) else { return false };
    let mut taints = node["spec"]["taints"].as_array().into_iter().flatten();
    !crate::template::is_ready(&node) && taints.any(|taint| taint["key"] == OUT_OF_SERVICE)
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
