//! A ReplicaSet keeps as many pods as it says; so does a ReplicationController, which is the same with a plainer selector.

use std::sync::Arc;
use std::time::Duration;

use api_types::{Resource, meta, time};
use client::{Change, DeleteParams, EventType};
use serde_json::{Value, json};

use crate::claim::{self, Claimable};
use crate::controller::{Controller, Key, Listers, Now, Watch, kind, own_key};
use crate::plan::{Action, Plan};
use crate::template::{self, is_available, is_over, is_ready};

const SETS: &str = "replicasets.apps";
const CONTROLLERS: &str = "replicationcontrollers";
/// Pods made or deleted at a time (upstream's `BurstReplicas`).
const BURST: usize = 500;
/// The condition of an owner whose pods cannot be made.
const FAILURE: &str = "ReplicaFailure";

/// A kind of owners that want so many pods.
#[derive(Debug)]
pub struct Replicas {
    name: &'static str,
    group: &'static str,
    resource: &'static str,
    owner_changed: fn(&Change, &Listers) -> Vec<Key>,
    pod_changed: fn(&Change, &Listers) -> Vec<Key>,
}

/// ReplicaSets.
pub static REPLICA_SETS: Replicas = Replicas {
    name: "replicaset-controller",
    group: "apps",
    resource: "replicasets",
    owner_changed: |change, _| own_key(SETS, change),
    pod_changed: |change, listers| claim::keys(SETS, "ReplicaSet", change, listers),
};

/// ReplicationControllers.
pub static REPLICATION_CONTROLLERS: Replicas = Replicas {
    name: "replication-controller",
    group: "",
    resource: "replicationcontrollers",
    owner_changed: |change, _| own_key(CONTROLLERS, change),
    pod_changed: |change, listers| claim::keys(CONTROLLERS, "ReplicationController", change, listers),
};

impl Controller for &'static Replicas {
    fn name(&self) -> &'static str {
        self.name
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch { resource: self.owners(), keys: self.owner_changed },
            Watch { resource: kind("", "v1", "pods"), keys: self.pod_changed },
        ]
    }

    fn reconcile(&self, listers: &Listers, key: &Key, now: Now) -> Plan {
        let Some(set) = listers.object(key) else { return Plan::nothing() };
        let mut actions = Vec::new();
        let Some(active) = active(listers, &set, &mut actions) else { return Plan::nothing() };
        if !meta::is_being_deleted(&set) && actions.is_empty() {
            scale(&set, wanted(&set), &active, &mut actions);
        }
        let (status, recheck_after) = status(&set, &active, now.wall_millis);
        actions.extend(self.show(&set, status));
        Plan { actions, recheck_after }
    }

    fn no_pod(&self, listers: &Listers, key: &Key, why: &str, now: Now) -> Option<Action> {
        let set = listers.object(key)?;
        let active = active(listers, &set, &mut Vec::new())?;
        let (mut status, _) = status(&set, &active, now.wall_millis);
        let mut conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        let is_told = |condition: &Value| condition["type"] == FAILURE && condition["message"] == why;
        if !conditions.iter().any(is_told) {
            conditions.retain(|condition| condition["type"] != FAILURE);
            conditions.push(json!({
                "type": FAILURE, "status": "True", "reason": "FailedCreate", "message": why,
                "lastTransitionTime": time::from_millis(now.wall_millis),
            }));
            status["conditions"] = json!(conditions);
        }
        self.show(&set, status)
    }
}

impl Replicas {
    fn owners(&self) -> &'static Resource {
        kind(self.group, "v1", self.resource)
    }

    /// Writes a status that is another one than before.
    fn show(&self, set: &Arc<Value>, status: Value) -> Option<Action> {
        if status == set["status"] {
            return None;
        }
        let mut changed = (**set).clone();
        changed["status"] = status;
        Some(Action::UpdateStatus(self.owners(), changed))
    }
}

fn wanted(set: &Value) -> usize {
    usize::try_from(set["spec"]["replicas"].as_i64().unwrap_or(1)).unwrap_or(0)
}

/// The owner's pods that count. None: its selector cannot be read.
fn active(listers: &Listers, set: &Arc<Value>, actions: &mut Vec<Action>) -> Option<Vec<Arc<Value>>> {
    let pods = Claimable { resource: kind("", "v1", "pods"), name: "pods", is_wanted: |pod| !is_over(pod) };
    let owned = pods.claim(listers, set, &claim::selector(set)?, actions);
    Some(owned.into_iter().filter(|pod| !is_over(pod) && !meta::is_being_deleted(pod)).collect())
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
    let conditions = set["status"]["conditions"].as_array().into_iter().flatten();
    // As long as pods are to be made, it is not known whether they can be.
    let holds = |condition: &&Value| condition["type"] != FAILURE || active.len() < wanted(set);
    let conditions: Vec<&Value> = conditions.filter(holds).collect();
    if !conditions.is_empty() {
        status["conditions"] = json!(conditions);
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
        (&REPLICA_SETS).reconcile(&listers(objects), &Key::new(SETS, "ns", "rs"), Now::at(0))
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
    fn a_replication_controller_does_the_same() {
        let mut owner = set(2);
        (owner["apiVersion"], owner["kind"]) = (json!("v1"), json!("ReplicationController"));
        owner["spec"]["selector"] = json!({ "a": "b" });
        let mut own = pod("own", true);
        own["metadata"]["ownerReferences"] = json!([meta::OwnerReference::controller_of(&owner).to_value()]);
        let mut other = own.clone();
        (other["metadata"]["name"], other["metadata"]["uid"]) = (json!("other"), json!("other"));
        other["metadata"]["labels"] = json!({ "a": "c" });
        let plan = |objects| {
            let key = Key::new(CONTROLLERS, "ns", "rs");
            show(&(&REPLICATION_CONTROLLERS).reconcile(&listers(objects), &key, Now::at(0)))
        };
        let made = plan(vec![owner.clone(), own.clone()]);
        assert_eq!(made, ["create pod rs- for ns/rs", "status replicationcontrollers ns/rs"]);
        let released = plan(vec![owner, own, other]);
        assert_eq!(released, ["patch pods ns/other", "status replicationcontrollers ns/rs"]);
    }

    #[test]
    fn pods_that_cannot_be_made_are_told_of_until_they_need_not_be() {
        let key = Key::new(SETS, "ns", "rs");
        let refused = |set: Value| {
            let world = listers(vec![set, pod("a", true)]);
            (&REPLICA_SETS).no_pod(&world, &key, "exceeded quota", Now::at(0))
        };
        let Some(Action::UpdateStatus(_, told)) = refused(set(2)) else { panic!("nothing is said") };
        let condition = &told["status"]["conditions"][0];
        assert_eq!((&condition["type"], &condition["status"]), (&json!("ReplicaFailure"), &json!("True")));
        assert_eq!(condition["message"], "exceeded quota");
        assert_eq!(told["status"]["replicas"], 1);
        assert!(refused(told.clone()).is_none(), "once is enough");
        let still = plan(vec![told.clone(), pod("a", true)]);
        assert!(show(&still).iter().all(|line| !line.starts_with("status")), "{still:?}");
        let enough = plan(vec![told, pod("a", true), pod("b", true)]);
        let Some(Action::UpdateStatus(_, well)) = enough.actions.last() else { panic!("{enough:?}") };
        assert!(well["status"]["conditions"].is_null());
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
