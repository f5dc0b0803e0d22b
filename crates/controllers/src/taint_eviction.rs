//! Pods leave nodes whose `NoExecute` taints they do not tolerate, when what they tolerate is over (upstream's
//! `tainteviction` controller).
//!
//! The time counts from the taint's `timeAdded`, so that it does not start again with a new leader; for a taint
//! without one, from when this replica saw it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api_types::taint::{Taint, Toleration};
use api_types::{meta, time};
use client::{Change, DeleteParams, EventType};
use parking_lot::Mutex;
use serde_json::Value;

use crate::controller::{Controller, Key, Listers, Now, Watch, kind, own_key};
use crate::plan::{Action, Plan};
use crate::template::{disrupted, is_over};

const PODS: &str = "pods";

/// See the module.
#[derive(Default)]
pub struct TaintEviction {
    /// When a pod was first seen beside a taint without a time: wall clock, milliseconds.
    seen: Mutex<HashMap<Key, i64>>,
}

impl Controller for TaintEviction {
    fn name(&self) -> &'static str {
        "taint-eviction-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch { resource: kind("", "v1", PODS), keys: pod_changed },
            Watch { resource: kind("", "v1", "nodes"), keys: node_changed },
        ]
    }

    fn reconcile(&self, listers: &Listers, key: &Key, now: Now) -> Plan {
        let Some((pod, left)) = self.left(listers, key, now.wall_millis) else {
            self.seen.lock().remove(key);
            return Plan::nothing();
        };
        if left > 0 {
            let pause = Duration::from_millis(left.unsigned_abs());
            return Plan { actions: Vec::new(), recheck_after: Some(pause) };
        }
        let text = format!("Marking for deletion Pod {}", meta::key(&pod));
        let why = "Taint manager: deleting due to NoExecute taint";
        let marked = disrupted(&pod, "DeletionByTaintManager", why, now.wall_millis);
        Plan {
            actions: vec![
                Action::Event(pod.clone(), EventType::Normal, "TaintManagerEviction", text),
                Action::UpdateStatus(kind("", "v1", PODS), marked),
                Action::Delete(kind("", "v1", PODS).into(), pod, DeleteParams::default()),
            ],
            recheck_after: None,
        }
    }
}

impl TaintEviction {
    /// The pod, if it has to go, and the milliseconds that are left to it.
    fn left(&self, listers: &Listers, key: &Key, now: i64) -> Option<(Arc<Value>, i64)> {
        let pod = listers.object(key)?;
        let node = pod["spec"]["nodeName"].as_str()?;
        if meta::is_being_deleted(&pod) || is_over(&pod) {
            return None;
        }
        let node = listers.object(&Key::new("nodes", "", node))?;
        let taints: Vec<&Value> = node_taints(&node).collect();
        let seconds = tolerated_seconds(&pod, &taints)?;
        let added =
            taints.iter().map(|taint| time::to_millis(taint["timeAdded"].as_str().unwrap_or_default()));
        let since = match added.max().flatten() {
            Some(added) => added.max(time::to_millis(meta::creation_timestamp(&pod)).unwrap_or(0)),
            None => *self.seen.lock().entry(key.clone()).or_insert(now),
        };
        Some((pod, since + seconds * 1000 - now))
    }
}

fn node_taints(node: &Value) -> impl Iterator<Item = &Value> {
    let taints = node["spec"]["taints"].as_array().into_iter().flatten();
    taints.filter(|taint| taint["effect"] == "NoExecute")
}

/// The pod, if its node has taints or it is gone; when taints come later, they concern all pods of their node.
fn pod_changed(change: &Change, listers: &Listers) -> Vec<Key> {
    let pod = change.object().peek();
    let Some(node) = pod.scalar(&["spec", "nodeName"]) else { return Vec::new() };
    let is_tainted = || {
        let node = listers.object(&Key::new("nodes", "", &node));
        node.is_some_and(|node| node_taints(&node).next().is_some())
    };
    match matches!(change, Change::Deleted(_)) || is_tainted() {
        true => own_key(PODS, change),
        false => Vec::new(),
    }
}

/// The pods of a node whose taints changed.
fn node_changed(change: &Change, listers: &Listers) -> Vec<Key> {
    let now: Vec<&Value> = node_taints(change.object()).collect();
    let changed = match change {
        Change::Updated { old, .. } => node_taints(old).ne(now.iter().copied()),
        _ => !now.is_empty(),
    };
    if !changed {
        return Vec::new();
    }
    listers.pods_on(meta::name(change.object())).iter().map(|pod| Key::of(PODS, pod)).collect()
}

/// How long a pod bears these taints: `None` for ever, zero not at all.
fn tolerated_seconds(pod: &Value, taints: &[&Value]) -> Option<i64> {
    let all: Vec<&Value> = pod["spec"]["tolerations"].as_array().into_iter().flatten().collect();
    let mut least: Option<i64> = None;
    for taint in taints {
        let taint = Taint::of(taint);
        let bearing: Vec<_> =
            all.iter().filter(|toleration| Toleration::of(toleration).tolerates(&taint)).collect();
        if bearing.is_empty() {
            return Some(0);
        }
        let limits = bearing.iter().filter_map(|toleration| toleration["tolerationSeconds"].as_i64());
        least = limits.map(|seconds| seconds.max(0)).chain(least).min();
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{listers, show};
    use serde_json::json;

    const ADDED: &str = "1970-01-01T00:00:10Z";

    fn plan(taints: &Value, tolerations: &Value, seconds: i64) -> Plan {
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": { "name": "n" }, "spec": { "taints": taints },
        });
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": "p", "namespace": "ns", "creationTimestamp": "1970-01-01T00:00:00Z" },
            "spec": { "nodeName": "n", "tolerations": tolerations },
        });
        let (listers, key) = (listers(vec![node, pod]), Key::new(PODS, "ns", "p"));
        TaintEviction::default().reconcile(&listers, &key, Now::at(seconds * 1000))
    }

    fn unreachable() -> Value {
        json!([{ "key": "k", "effect": "NoExecute", "timeAdded": ADDED }])
    }

    fn for_seconds(seconds: i64) -> Value {
        json!({ "key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds })
    }

    const GONE: [&str; 3] =
        ["event TaintManagerEviction: Marking for deletion Pod ns/p", "status pods ns/p", "delete pods ns/p"];

    #[test]
    fn a_pod_that_tolerates_nothing_goes_at_once() {
        assert_eq!(show(&plan(&unreachable(), &json!([]), 10)), GONE);
        let soft = json!([{ "key": "k", "effect": "NoSchedule" }]);
        assert!(show(&plan(&soft, &json!([]), 10)).is_empty());
    }

    #[test]
    fn a_pod_goes_when_its_time_is_over_and_not_before() {
        let tolerations = json!([for_seconds(300)]);
        let early = plan(&unreachable(), &tolerations, 309);
        assert!(early.actions.is_empty());
        assert_eq!(early.recheck_after, Some(Duration::from_secs(1)));
        assert_eq!(show(&plan(&unreachable(), &tolerations, 310)), GONE);
    }

    #[test]
    fn the_shortest_of_all_tolerations_counts_and_one_without_limit_stays() {
        let both = json!([for_seconds(300), for_seconds(5)]);
        assert_eq!(show(&plan(&unreachable(), &both, 15)), GONE);
        let forever = json!([{ "operator": "Exists" }]);
        let plan = plan(&unreachable(), &forever, 1_000_000);
        assert!(plan.actions.is_empty() && plan.recheck_after.is_none());
    }

    #[test]
    fn pods_concern_us_where_there_are_taints() {
        let node = |name: &str, taints: Value| json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name }, "spec": { "taints": taints } });
        let soft = json!([{ "key": "k", "effect": "NoSchedule" }]);
        let known =
            listers(vec![node("tainted", unreachable()), node("soft", soft), node("plain", json!([]))]);
        let pod = |node: &str| {
            let pod = json!({ "metadata": { "name": "p", "namespace": "ns" }, "spec": { "nodeName": node } });
            Arc::new(pod.into())
        };
        let keys = |change: Change| pod_changed(&change, &known).len();
        for (node, expected) in [("tainted", 1), ("soft", 0), ("plain", 0), ("unknown", 0), ("", 0)] {
            assert_eq!(keys(Change::Added(pod(node))), expected, "{node}");
            assert_eq!(keys(Change::Updated { old: pod(""), new: pod(node) }), expected, "{node}");
            assert_eq!(keys(Change::Deleted(pod(node))), 1, "{node}: what was remembered of it goes");
        }
    }

    #[test]
    fn a_taint_without_a_time_counts_from_when_it_was_seen() {
        let taints = json!([{ "key": "k", "effect": "NoExecute" }]);
        assert_eq!(
            plan(&taints, &json!([for_seconds(5)]), 1_000).recheck_after,
            Some(Duration::from_secs(5))
        );
    }
}
