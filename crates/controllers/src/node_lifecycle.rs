//! Nodes that fall silent become NotReady; conditions become taints (upstream's `nodelifecycle` controller).
//!
//! A node's heartbeat is its Lease's `renewTime` or its Ready condition's `lastHeartbeatTime`. The two are compared
//! with what was there before, never with a clock: a node whose clock is wrong is as alive as any other, and a new
//! leader gives every node the whole grace period.

mod zones;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api_types::{meta, time};
use client::{Change, EventType, Patch};
use parking_lot::Mutex;
use serde_json::{Value, json};

use self::zones::Zones;
use crate::controller::{Controller, Key, Listers, Now, Watch, kind, own_key};
use crate::plan::{Action, Plan};
use crate::template::{condition, is_ready};

const NODES: &str = "nodes";
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// A node that has never reported has longer (upstream's `--node-startup-grace-period`).
const STARTUP_GRACE: Duration = Duration::from_secs(60);
/// Before a node that may not be tainted yet is looked at again (upstream's `--node-monitor-period`).
const MONITOR_PERIOD: Duration = Duration::from_secs(5);
/// The conditions that only the agent can know.
const AGENT_CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
/// Taints with effect `NoSchedule` that follow conditions: type, status, key.
const CONDITION_TAINTS: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
];
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// See the module.
pub struct NodeLifecycle {
    grace: Duration,
    heard: Mutex<HashMap<String, Heard>>,
    zones: Mutex<Zones>,
}

/// A node's last heartbeat and when it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Heard {
    heartbeat: String,
    steady_millis: i64,
}

impl NodeLifecycle {
    /// `grace` is how long a node may be silent (upstream's `--node-monitor-grace-period`).
    pub fn new(grace: Duration) -> Self {
        Self { grace, heard: Mutex::default(), zones: Mutex::default() }
    }

    /// How long a node may still be silent; zero when it was for too long.
    fn patience(&self, listers: &Listers, node: &Value, now: Now) -> Duration {
        let heartbeat = heartbeat(listers, node);
        let mut all = self.heard.lock();
        let heard = all.entry(meta::uid(node).to_owned());
        let fresh = Heard { heartbeat: heartbeat.clone(), steady_millis: now.steady_millis };
        let heard = heard.or_insert_with(|| fresh.clone());
        if heard.heartbeat != heartbeat {
            *heard = fresh;
        }
        let grace = if condition(node, "Ready").is_none() { STARTUP_GRACE } else { self.grace };
        let silent = u64::try_from(now.steady_millis - heard.steady_millis).unwrap_or(0);
        grace.saturating_sub(Duration::from_millis(silent))
    }

    fn forget(&self, listers: &Listers) {
        let nodes = all_nodes(listers);
        self.heard.lock().retain(|uid, _| nodes.iter().any(|node| meta::uid(node) == uid));
    }

    /// Whether pods may be driven from a node that is not ready: not faster than its zone may lose nodes.
    fn may_evict(&self, listers: &Listers, node: &Value, now: Now) -> bool {
        let evicted = node["spec"]["taints"].as_array().into_iter().flatten();
        let evicted = evicted.filter(|taint| taint["effect"] == "NoExecute").any(is_ours);
        self.zones.lock().may_evict(&all_nodes(listers), node, evicted, now.steady_millis)
    }
}

impl Controller for NodeLifecycle {
    fn name(&self) -> &'static str {
        "node-lifecycle-controller"
    }

    fn component(&self) -> &'static str {
        "node-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch { resource: kind("", "v1", NODES), keys: |change, _| own_key(NODES, change) },
            Watch { resource: kind("coordination.k8s.io", "v1", "leases"), keys: lease_changed },
            Watch { resource: kind("", "v1", "pods"), keys: |_, _| Vec::new() },
        ]
    }

    fn reconcile(&self, listers: &Listers, key: &Key, now: Now) -> Plan {
        let Some(node) = listers.object(key) else {
            self.forget(listers);
            return Plan::nothing();
        };
        let patience = self.patience(listers, &node, now);
        if patience.is_zero()
            && let Some(silent) = silenced(&node, now)
        {
            return Plan { actions: became_silent(&node, silent), recheck_after: Some(MONITOR_PERIOD) };
        }
        let lost = condition(&node, "Ready").is_some() && !is_ready(&node);
        let evicts = lost && self.may_evict(listers, &node, now);
        let taints = taints(&node, evicts, now);
        let pause = if patience.is_zero() { MONITOR_PERIOD } else { patience.min(MONITOR_PERIOD) };
        Plan { actions: tainted(listers, &node, &taints, now), recheck_after: Some(pause) }
    }
}

fn lease_changed(change: &Change, _: &Listers) -> Vec<Key> {
    let lease = change.object();
    let ours = meta::namespace(lease) == LEASE_NAMESPACE;
    ours.then(|| Key::new(NODES, "", meta::name(lease))).into_iter().collect()
}

fn all_nodes(listers: &Listers) -> Vec<Arc<Value>> {
    listers.get(NODES).map(client::Lister::all).unwrap_or_default()
}

fn heartbeat(listers: &Listers, node: &Value) -> String {
    let lease = listers.get("leases.coordination.k8s.io");
    let lease = lease.and_then(|lister| lister.get(LEASE_NAMESPACE, meta::name(node)));
    let renewed = lease.as_ref().and_then(|lease| lease["spec"]["renewTime"].as_str()).unwrap_or_default();
    // What this controller wrote itself is no sign of life.
    let ready = condition(node, "Ready").filter(|ready| ready["status"] != "Unknown");
    let reported = ready.and_then(|ready| ready["lastHeartbeatTime"].as_str()).unwrap_or_default();
    format!("{renewed} {reported}")
}

fn has(node: &Value, name: &str, status: &str) -> bool {
    condition(node, name).is_some_and(|condition| condition["status"] == status)
}

/// The node with what nobody knows any more, unless it says so already.
fn silenced(node: &Value, now: Now) -> Option<Value> {
    let at = time::from_millis(now.wall_millis);
    let unknown = |name: &str| {
        let (reason, message, heartbeat) = match condition(node, name) {
            Some(known) if known["status"] == "Unknown" => return known.clone(),
            Some(known) => {
                let last = known["lastHeartbeatTime"].clone();
                ("NodeStatusUnknown", "Kubelet stopped posting node status.", last)
            }
            None => {
                let created = json!(meta::creation_timestamp(node));
                ("NodeStatusNeverUpdated", "Kubelet never posted node status.", created)
            }
        };
        json!({
            "type": name, "status": "Unknown", "reason": reason, "message": message,
            "lastHeartbeatTime": heartbeat, "lastTransitionTime": at,
        })
    };
    let mut conditions: Vec<Value> = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
    for name in AGENT_CONDITIONS {
        let changed = unknown(name);
        match conditions.iter_mut().find(|condition| condition["type"] == name) {
            Some(found) => *found = changed,
            None => conditions.push(changed),
        }
    }
    if node["status"]["conditions"].as_array() == Some(&conditions) {
        return None;
    }
    let mut silenced = node.clone();
    meta::child_mut(&mut silenced, &["status"]).insert("conditions".to_owned(), conditions.into());
    Some(silenced)
}

fn became_silent(node: &Arc<Value>, silenced: Value) -> Vec<Action> {
    let text = format!("Node {} status is now: NodeNotReady", meta::name(node));
    let mut actions = vec![Action::UpdateStatus(kind("", "v1", NODES), silenced)];
    if is_ready(node) {
        actions.push(Action::Event(node.clone(), EventType::Normal, "NodeNotReady", text));
    }
    actions
}

/// The taints that a node ought to have: those of its conditions and those that are none of this controller's.
fn taints(node: &Value, evicts: bool, now: Now) -> Vec<Value> {
    let old = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    let mut wanted: Vec<(&str, &str)> = CONDITION_TAINTS
        .iter()
        .filter(|(name, status, _)| has(node, name, status))
        .map(|(_, _, key)| (*key, "NoSchedule"))
        .collect();
    if condition(node, "Ready").is_none() {
        wanted.push((NOT_READY, "NoSchedule"));
    }
    if node["spec"]["unschedulable"] == true {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    if evicts {
        let key = if has(node, "Ready", "Unknown") { UNREACHABLE } else { NOT_READY };
        wanted.push((key, "NoExecute"));
    }
    let is = |taint: &Value, key: &str, effect: &str| taint["key"] == key && taint["effect"] == effect;
    let mut taints: Vec<Value> = old
        .into_iter()
        .filter(|taint| !is_ours(taint) || wanted.iter().any(|(key, effect)| is(taint, key, effect)))
        .collect();
    for (key, effect) in wanted {
        if !taints.iter().any(|taint| is(taint, key, effect)) {
            let added = time::from_millis(now.wall_millis);
            taints.push(json!({ "key": key, "effect": effect, "timeAdded": added }));
        }
    }
    taints
}

fn is_ours(taint: &Value) -> bool {
    let key = taint["key"].as_str().unwrap_or_default();
    match taint["effect"].as_str() {
        Some("NoSchedule") => key == UNSCHEDULABLE || CONDITION_TAINTS.iter().any(|(_, _, own)| *own == key),
        Some("NoExecute") => key == NOT_READY || key == UNREACHABLE,
        _ => false,
    }
}

/// Writes the taints if they change. A node that is just now tainted as not ready takes its pods along: nothing
/// behind a Service is sent to them any more.
fn tainted(listers: &Listers, node: &Arc<Value>, taints: &[Value], now: Now) -> Vec<Action> {
    let old = node["spec"]["taints"].as_array().map(Vec::as_slice).unwrap_or_default();
    if old == taints {
        return Vec::new();
    }
    let mut actions = Vec::new();
    if !is_ready(node) {
        listers.pods_on(meta::name(node)).iter().for_each(|pod| actions.extend(not_ready(pod, now)));
    }
    let patch = json!({
        "metadata": { "resourceVersion": meta::resource_version(node) },
        "spec": { "taints": taints },
    });
    actions.push(Action::Patch(kind("", "v1", NODES).into(), node.clone(), Patch::Merge(patch)));
    actions
}

/// Marks a pod as not ready, if it is.
fn not_ready(pod: &Arc<Value>, now: Now) -> Vec<Action> {
    if !is_ready(pod) {
        return Vec::new();
    }
    let mut changed = (**pod).clone();
    let conditions = changed["status"]["conditions"].as_array_mut();
    for condition in conditions.into_iter().flatten().filter(|condition| condition["type"] == "Ready") {
        condition["status"] = json!("False");
        condition["lastTransitionTime"] = json!(time::from_millis(now.wall_millis));
    }
    vec![
        Action::Event(pod.clone(), EventType::Warning, "NodeNotReady", "Node is not ready".to_owned()),
        Action::UpdateStatus(kind("", "v1", "pods"), changed),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{listers, show};

    fn node(ready: &str, taints: &Value) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": { "name": "n", "uid": "u", "resourceVersion": "7" },
            "spec": { "taints": taints },
            "status": { "conditions": [
                { "type": "Ready", "status": ready, "lastHeartbeatTime": "2026-01-01T00:00:00Z" },
            ] },
        })
    }

    /// Another node that is well, so that not all of them are lost.
    fn other() -> Value {
        let mut other = node("True", &json!([]));
        (other["metadata"]["name"], other["metadata"]["uid"]) = (json!("other"), json!("other"));
        other
    }

    fn lease(renewed: &str) -> Value {
        json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": { "name": "n", "namespace": "kube-node-lease" }, "spec": { "renewTime": renewed },
        })
    }

    fn pod() -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p", "namespace": "ns", "uid": "p" },
            "spec": { "nodeName": "n" },
            "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
        })
    }

    fn step(controller: &NodeLifecycle, objects: Vec<Value>, seconds: i64) -> Plan {
        controller.reconcile(&listers(objects), &Key::new(NODES, "", "n"), Now::at(seconds * 1000))
    }

    fn written_taints(plan: &Plan) -> Value {
        match plan.actions.last() {
            Some(Action::Patch(_, _, Patch::Merge(patch))) => patch["spec"]["taints"].clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_node_is_unknown_when_it_was_silent_for_the_grace_period_and_not_before() {
        let controller = NodeLifecycle::new(Duration::from_secs(50));
        let objects = |renewed| vec![node("True", &json!([])), lease(renewed), other()];
        assert!(show(&step(&controller, objects("a"), 0)).is_empty());
        assert!(show(&step(&controller, objects("a"), 40)).is_empty());
        assert!(show(&step(&controller, objects("b"), 49)).is_empty());
        assert!(show(&step(&controller, objects("b"), 98)).is_empty());
        let plan = step(&controller, objects("b"), 99);
        assert_eq!(show(&plan), ["status nodes n", "event NodeNotReady: Node n status is now: NodeNotReady"]);
        let Action::UpdateStatus(_, silent) = &plan.actions[0] else { panic!("{plan:?}") };
        assert_eq!(condition(silent, "Ready").expect("there")["reason"], "NodeStatusUnknown");
        assert_eq!(condition(silent, "DiskPressure").expect("there")["reason"], "NodeStatusNeverUpdated");
    }

    #[test]
    fn conditions_become_taints_and_pods_not_ready() {
        let controller = NodeLifecycle::new(Duration::from_secs(50));
        let foreign = json!({ "key": "mine", "effect": "NoExecute" });
        let plan = step(&controller, vec![node("Unknown", &json!([foreign])), pod(), other()], 0);
        assert_eq!(
            show(&plan),
            ["event NodeNotReady: Node is not ready", "status pods ns/p", "patch nodes n"]
        );
        let at = "1970-01-01T00:00:00Z";
        assert_eq!(
            written_taints(&plan),
            json!([
                foreign,
                { "key": UNREACHABLE, "effect": "NoSchedule", "timeAdded": at },
                { "key": UNREACHABLE, "effect": "NoExecute", "timeAdded": at },
            ])
        );
    }

    #[test]
    fn a_node_that_is_well_again_loses_its_taints_but_not_others() {
        let controller = NodeLifecycle::new(Duration::from_secs(50));
        let foreign = json!({ "key": "mine", "effect": "NoSchedule" });
        let old = json!([{ "key": NOT_READY, "effect": "NoSchedule" }, foreign, { "key": UNREACHABLE, "effect": "NoExecute" }]);
        let plan = step(&controller, vec![node("True", &old), other()], 0);
        assert_eq!(written_taints(&plan), json!([foreign]));
        assert!(show(&step(&controller, vec![node("True", &json!([foreign])), other()], 0)).is_empty());
    }

    #[test]
    fn no_pods_are_driven_out_when_all_nodes_are_lost() {
        let controller = NodeLifecycle::new(Duration::from_secs(50));
        let plan = step(&controller, vec![node("Unknown", &json!([]))], 0);
        assert_eq!(written_taints(&plan).as_array().map(Vec::len), Some(1), "NoSchedule only");
    }

    #[test]
    fn a_node_that_has_not_reported_yet_stays_tainted() {
        let controller = NodeLifecycle::new(Duration::from_secs(50));
        let mut new = node("True", &json!([{ "key": NOT_READY, "effect": "NoSchedule" }]));
        new["status"] = json!({});
        assert!(show(&step(&controller, vec![new.clone(), other()], 0)).is_empty());
        assert!(
            show(&step(&controller, vec![new.clone(), other()], 59)).is_empty(),
            "the startup grace period"
        );
        assert_eq!(show(&step(&controller, vec![new, other()], 60)), ["status nodes n"]);
    }

    #[test]
    fn a_cordoned_node_is_tainted() {
        let controller = NodeLifecycle::new(Duration::from_secs(50));
        let mut cordoned = node("True", &json!([]));
        cordoned["spec"]["unschedulable"] = json!(true);
        let plan = step(&controller, vec![cordoned, other()], 0);
        assert_eq!(written_taints(&plan)[0]["key"], UNSCHEDULABLE);
    }
}
