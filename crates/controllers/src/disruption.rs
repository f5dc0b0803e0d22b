//! Keeps a PodDisruptionBudget's status: how many of its pods are healthy, how many must be, and so how many may be
//! disrupted (upstream's `disruption` controller). An eviction spends from that; what was spent is remembered for a pod
//! until it is being deleted, or for two minutes. Conditions of pods that say they are being disrupted, and are not, are
//! taken back.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use api_rules::pod_disruption;
use api_types::selector::LabelSelector;
use api_types::{Resource, meta, time};
use client::{Change, EventType};
use serde_json::{Map, Value, json};

use crate::controller::{Controller, Key, Listers, Now, Watch, kind, own_key};
use crate::plan::{Action, Plan};
use crate::template::{condition, condition_of, is_over, is_ready};

const BUDGETS: &str = "poddisruptionbudgets.policy";
const PODS: &str = "pods";
/// How long an eviction may take to delete its pod, and how long a pod may say that it is being disrupted.
const PATIENCE: Duration = Duration::from_secs(120);
const TARGET: &str = "DisruptionTarget";

/// See the module.
pub struct Disruption;

fn budgets() -> &'static Resource {
    kind("policy", "v1", "poddisruptionbudgets")
}

fn pods() -> &'static Resource {
    kind("", "v1", PODS)
}

impl Controller for Disruption {
    fn name(&self) -> &'static str {
        "disruption-controller"
    }

    fn component(&self) -> &'static str {
        "controllermanager"
    }

    fn watches(&self) -> Vec<Watch> {
        let looked_up =
            |group, resource| Watch { resource: kind(group, "v1", resource), keys: |_, _| Vec::new() };
        vec![
            Watch { resource: budgets(), keys: |change, _| own_key(BUDGETS, change) },
            Watch { resource: pods(), keys: pod_changed },
            looked_up("", "replicationcontrollers"),
            looked_up("apps", "replicasets"),
            looked_up("apps", "deployments"),
            looked_up("apps", "statefulsets"),
        ]
    }

    fn reconcile(&self, listers: &Listers, key: &Key, now: Now) -> Plan {
        let Some(object) = listers.object(key) else { return Plan::nothing() };
        match key.resource.as_str() {
            PODS => stale(&object, now),
            _ => sync(listers, &object, now),
        }
    }
}

/// The budgets that select the pod, or did; and the pod, when it says that it is being disrupted.
fn pod_changed(change: &Change, listers: &Listers) -> Vec<Key> {
    let (pod, before) = (change.object().peek(), change.before().map(|before| before.peek()));
    let all = listers.get(BUDGETS).map(|lister| lister.in_namespace(&pod.namespace())).unwrap_or_default();
    let concerns = |budget: &Value| {
        let Ok(selector) = LabelSelector::from_value(&budget["spec"]["selector"]) else { return false };
        before.is_some_and(|before| selector.matches_peek(&before)) || selector.matches_peek(&pod)
    };
    let mut keys: Vec<Key> =
        all.iter().filter(|budget| concerns(budget)).map(|budget| Key::of(BUDGETS, budget)).collect();
    let is_target = || condition_of(&pod.part(&["status", "conditions"]), TARGET).is_some();
    if !matches!(change, Change::Deleted(_)) && is_target() && disrupted_since(change.object()).is_some() {
        keys.push(Key::peeked(PODS, &pod));
    }
    keys
}

/// Since when a pod says that it is being disrupted and is not; the agent's own word stays.
fn disrupted_since(pod: &Value) -> Option<i64> {
    let target = condition(pod, TARGET)?;
    let stays = meta::is_being_deleted(pod)
        || is_over(pod)
        || target["status"] != "True"
        || target["reason"] == "TerminationByKubelet";
    if stays { None } else { time::to_millis(target["lastTransitionTime"].as_str()?) }
}

fn stale(pod: &Arc<Value>, now: Now) -> Plan {
    let Some(since) = disrupted_since(pod) else { return Plan::nothing() };
    let left = since + millis(PATIENCE) - now.wall_millis;
    if left > 0 {
        return Plan { actions: Vec::new(), recheck_after: Some(duration(left)) };
    }
    let mut changed = Value::clone(pod);
    let list = changed["status"]["conditions"].as_array_mut().into_iter().flatten();
    for target in list.filter(|condition| condition["type"] == TARGET) {
        *target = json!({
            "type": TARGET, "status": "False", "lastTransitionTime": time::from_millis(now.wall_millis),
        });
    }
    Plan::of(Action::UpdateStatus(pods(), changed))
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn duration(millis: i64) -> Duration {
    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

/// What is wanted of a budget's pods.
struct Wanted {
    expected: i64,
    healthy: i64,
    /// Pods that nothing controls, where their number counts.
    unmanaged: bool,
}

fn sync(listers: &Listers, budget: &Arc<Value>, now: Now) -> Plan {
    let found = match LabelSelector::from_value(&budget["spec"]["selector"]) {
        Ok(selector) => listers
            .get(PODS)
            .map(|lister| lister.select(meta::namespace(budget), &selector))
            .unwrap_or_default(),
        Err(error) => return failed(budget, &error.to_string(), now),
    };
    let wanted = match wanted(listers, budget, &found) {
        Ok(wanted) => wanted,
        Err(why) => return failed(budget, &why, now),
    };
    let (disrupted, overdue) = under_way(budget, &found, now);
    let healthy = found
        .iter()
        .filter(|pod| {
            !meta::is_being_deleted(pod) && !disrupted.contains_key(meta::name(pod)) && is_ready(pod)
        })
        .count();
    let healthy = i64::try_from(healthy).unwrap_or(i64::MAX);
    let allowed = if wanted.expected <= 0 { 0 } else { (healthy - wanted.healthy).max(0) };
    let mut changed = Value::clone(budget);
    let generation = meta::generation(budget);
    let mut status = json!({
        "currentHealthy": healthy, "desiredHealthy": wanted.healthy, "expectedPods": wanted.expected,
        "disruptionsAllowed": allowed, "observedGeneration": generation,
        "conditions": budget["status"]["conditions"].as_array().cloned().unwrap_or_default(),
    });
    if !disrupted.is_empty() {
        status["disruptedPods"] = Value::Object(disrupted.into_iter().collect::<Map<_, _>>());
    }
    pod_disruption::tell(&mut status, &time::from_millis(now.wall_millis));
    let recheck_after = overdue.map(duration);
    if same_status(&status, &budget["status"]) {
        return Plan { actions: Vec::new(), recheck_after };
    }
    changed["status"] = status;
    let mut actions = vec![Action::UpdateStatus(budgets(), changed)];
    if found.is_empty() {
        let text = "No matching pods found".to_owned();
        actions.push(Action::Event(budget.clone(), EventType::Normal, "NoPods", text));
    }
    if wanted.unmanaged {
        let text = "Pods selected by this PodDisruptionBudget were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.".to_owned();
        actions.push(Action::Event(budget.clone(), EventType::Warning, "UnmanagedPods", text));
    }
    Plan { actions, recheck_after }
}

fn same_status(one: &Value, other: &Value) -> bool {
    let numbers =
        ["currentHealthy", "desiredHealthy", "expectedPods", "disruptionsAllowed", "observedGeneration"];
    let empty = json!({});
    let pods = |status: &'_ Value| status.get("disruptedPods").unwrap_or(&empty).clone();
    numbers.iter().all(|field| one[*field].as_i64() == other[*field].as_i64() && other[*field].is_i64())
        && pods(one) == pods(other)
        && one["conditions"] == other["conditions"]
}

/// Without a number that can be relied on nothing may be disrupted.
fn failed(budget: &Arc<Value>, why: &str, now: Now) -> Plan {
    let mut changed = Value::clone(budget);
    let status = meta::child_mut(&mut changed, &["status"]);
    status.insert("disruptionsAllowed".into(), 0.into());
    for field in ["currentHealthy", "desiredHealthy", "expectedPods"] {
        status.entry(field).or_insert(0.into());
    }
    let generation = status.get("observedGeneration").cloned().unwrap_or(Value::Null);
    let now = time::from_millis(now.wall_millis);
    pod_disruption::set_condition(&mut changed["status"], "False", "SyncFailed", why, &generation, &now);
    if changed["status"] == budget["status"] {
        return Plan { actions: Vec::new(), recheck_after: Some(RETRY) };
    }
    let text = format!("Failed to calculate the number of expected pods: {why}");
    let event = Action::Event(budget.clone(), EventType::Warning, "CalculateExpectedPodCountFailed", text);
    Plan { actions: vec![Action::UpdateStatus(budgets(), changed), event], recheck_after: Some(RETRY) }
}

/// When a budget whose pods cannot be counted is looked at again.
const RETRY: Duration = Duration::from_secs(10);

/// The evictions that may still delete their pod, and in how many milliseconds the first of them is overdue.
fn under_way(budget: &Value, pods: &[Arc<Value>], now: Now) -> (BTreeMap<String, Value>, Option<i64>) {
    let (mut left, mut overdue) = (BTreeMap::new(), None::<i64>);
    for pod in pods.iter().filter(|pod| !meta::is_being_deleted(pod)) {
        let since = &budget["status"]["disruptedPods"][meta::name(pod)];
        let Some(began) = since.as_str().and_then(time::to_millis) else { continue };
        let rest = began + millis(PATIENCE) - now.wall_millis;
        if rest >= 0 {
            left.insert(meta::name(pod).to_owned(), since.clone());
            overdue = Some(overdue.map_or(rest, |first| first.min(rest)).max(1));
        }
    }
    (left, overdue)
}

fn wanted(listers: &Listers, budget: &Value, pods: &[Arc<Value>]) -> Result<Wanted, String> {
    let spec = &budget["spec"];
    if !spec["maxUnavailable"].is_null() {
        let (expected, unmanaged) = scale(listers, pods)?;
        let healthy = (expected - portion(&spec["maxUnavailable"], expected)?).max(0);
        return Ok(Wanted { expected, healthy, unmanaged });
    }
    match &spec["minAvailable"] {
        Value::Null => Ok(Wanted { expected: 0, healthy: 0, unmanaged: false }),
        Value::Number(least) => {
            let expected = i64::try_from(pods.len()).unwrap_or(i64::MAX);
            Ok(Wanted { expected, healthy: least.as_i64().unwrap_or(0), unmanaged: false })
        }
        share => {
            let (expected, unmanaged) = scale(listers, pods)?;
            Ok(Wanted { expected, healthy: portion(share, expected)?, unmanaged })
        }
    }
}

/// A number, or a share of `whole`, rounded up.
fn portion(value: &Value, whole: i64) -> Result<i64, String> {
    if let Some(number) = value.as_i64() {
        return Ok(number);
    }
    let text = value.as_str().unwrap_or_default();
    let percent = text.strip_suffix('%').and_then(|digits| digits.parse::<i64>().ok());
    let percent = percent.ok_or_else(|| {
        format!("invalid value for IntOrString: invalid type: string is not a percentage: {text}")
    })?;
    Ok((percent * whole + 99).div_euclid(100))
}

/// How many pods the controllers of these pods want in all, and whether some pods have none.
fn scale(listers: &Listers, pods: &[Arc<Value>]) -> Result<(i64, bool), String> {
    let (mut scales, mut unmanaged) = (HashMap::new(), false);
    for pod in pods {
        let Some(owner) = meta::controller(pod) else {
            unmanaged = true;
            continue;
        };
        let missing = || format!("found no controllers for pod \"{}\"", meta::name(pod));
        let (uid, scale) = scale_of(listers, meta::namespace(pod), &owner).ok_or_else(missing)?;
        scales.insert(uid, scale);
    }
    Ok((scales.values().sum(), unmanaged))
}

/// The controller that decides how many pods there are, by its uid, and how many it wants.
fn scale_of(listers: &Listers, namespace: &str, owner: &meta::OwnerReference) -> Option<(String, i64)> {
    let resource = match (owner.api_version.as_str(), owner.kind.as_str()) {
        ("v1", "ReplicationController") => "replicationcontrollers",
        ("apps/v1", "ReplicaSet") => "replicasets.apps",
        ("apps/v1", "Deployment") => "deployments.apps",
        ("apps/v1", "StatefulSet") => "statefulsets.apps",
        _ => return None,
    };
    let found = listers.object(&Key::new(resource, namespace, &owner.name))?;
    if meta::uid(&found) != owner.uid {
        return None;
    }
    if let Some(above) = meta::controller(&found).filter(|above| above.kind == "Deployment") {
        return scale_of(listers, namespace, &above);
    }
    Some((owner.uid.clone(), found["spec"]["replicas"].as_i64().unwrap_or(1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{listers, show};

    fn budget(spec: Value, status: Value) -> Value {
        let mut spec = spec;
        spec["selector"] = json!({ "matchLabels": { "app": "x" } });
        json!({
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
            "metadata": { "name": "b", "namespace": "ns", "generation": 3 }, "spec": spec, "status": status,
        })
    }

    fn pod(name: &str, ready: bool, owner: &str) -> Value {
        let status = if ready { "True" } else { "False" };
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": name, "namespace": "ns", "labels": { "app": "x" } },
            "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": status }] },
        });
        if !owner.is_empty() {
            pod["metadata"]["ownerReferences"] = json!([{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": owner, "uid": owner, "controller": true,
            }]);
        }
        pod
    }

    fn replica_set(name: &str, replicas: i64) -> Value {
        json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": { "name": name, "namespace": "ns", "uid": name }, "spec": { "replicas": replicas },
        })
    }

    fn plan(objects: Vec<Value>, now: i64) -> Plan {
        Disruption.reconcile(&listers(objects), &Key::new(BUDGETS, "ns", "b"), Now::at(now))
    }

    fn status(plan: &Plan) -> Value {
        let Some(Action::UpdateStatus(_, written)) = plan.actions.first() else { panic!("{plan:?}") };
        written["status"].clone()
    }

    /// Healthy, wanted, expected, allowed.
    fn numbers(plan: &Plan) -> [i64; 4] {
        let status = status(plan);
        ["currentHealthy", "desiredHealthy", "expectedPods", "disruptionsAllowed"]
            .map(|field| status[field].as_i64().expect("a number"))
    }

    #[test]
    fn a_number_counts_the_pods_that_are_there() {
        let least = budget(json!({ "minAvailable": 1 }), json!({}));
        let plan = plan(vec![least, pod("a", true, ""), pod("b", true, ""), pod("c", false, "")], 0);
        assert_eq!(numbers(&plan), [2, 1, 3, 1]);
        let condition = &status(&plan)["conditions"][0];
        assert_eq!((&condition["reason"], &condition["status"]), (&json!("SufficientPods"), &json!("True")));
        assert_eq!(condition["observedGeneration"], 3);
    }

    #[test]
    fn a_share_is_of_what_the_controllers_want() {
        let objects = |spec: Value| {
            vec![
                budget(spec, json!({})),
                replica_set("r", 5),
                pod("a", true, "r"),
                pod("b", true, "r"),
                pod("c", true, "r"),
                pod("d", true, "r"),
            ]
        };
        assert_eq!(numbers(&plan(objects(json!({ "minAvailable": "50%" })), 0)), [4, 3, 5, 1]);
        assert_eq!(numbers(&plan(objects(json!({ "maxUnavailable": 1 })), 0)), [4, 4, 5, 0]);
        assert_eq!(numbers(&plan(objects(json!({ "maxUnavailable": "30%" })), 0)), [4, 3, 5, 1]);
    }

    #[test]
    fn a_deployment_stands_for_its_replica_sets() {
        let mut set = replica_set("r", 1);
        set["metadata"]["ownerReferences"] = json!([{
            "apiVersion": "apps/v1", "kind": "Deployment", "name": "d", "uid": "d", "controller": true,
        }]);
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": { "name": "d", "namespace": "ns", "uid": "d" }, "spec": { "replicas": 4 },
        });
        let budget = budget(json!({ "maxUnavailable": 1 }), json!({}));
        assert_eq!(numbers(&plan(vec![budget, set, deployment, pod("a", true, "r")], 0)), [1, 3, 4, 0]);
    }

    #[test]
    fn without_pods_nothing_may_be_disrupted() {
        let plan = plan(vec![budget(json!({ "minAvailable": 0 }), json!({}))], 0);
        assert_eq!(numbers(&plan), [0, 0, 0, 0]);
        assert_eq!(show(&plan)[1], "event NoPods: No matching pods found");
    }

    #[test]
    fn what_cannot_be_counted_allows_nothing() {
        let before =
            json!({ "disruptionsAllowed": 2, "currentHealthy": 2, "desiredHealthy": 0, "expectedPods": 2 });
        let plan = plan(vec![budget(json!({ "maxUnavailable": 1 }), before), pod("a", true, "gone")], 0);
        let status = status(&plan);
        assert_eq!(status["disruptionsAllowed"], 0);
        assert_eq!(status["conditions"][0]["message"], "found no controllers for pod \"a\"");
        assert!(plan.recheck_after.is_some());
    }

    #[test]
    fn an_eviction_counts_until_its_pod_goes_or_time_is_up() {
        let disrupted = json!({ "a": "1970-01-01T00:00:10Z", "gone": "1970-01-01T00:00:10Z" });
        let objects = || {
            let budget = budget(json!({ "minAvailable": 1 }), json!({ "disruptedPods": disrupted }));
            vec![budget, pod("a", true, ""), pod("b", true, "")]
        };
        let soon = plan(objects(), 20_000);
        assert_eq!(numbers(&soon), [1, 1, 2, 0]);
        assert_eq!(status(&soon)["disruptedPods"], json!({ "a": "1970-01-01T00:00:10Z" }));
        assert_eq!(soon.recheck_after, Some(Duration::from_secs(110)));
        let late = plan(objects(), 130_001);
        assert_eq!(numbers(&late), [2, 1, 2, 1]);
        assert!(status(&late).get("disruptedPods").is_none());
    }

    #[test]
    fn a_status_that_is_right_is_left_alone() {
        let first = plan(vec![budget(json!({ "minAvailable": 1 }), json!({})), pod("a", true, "")], 0);
        let again = budget(json!({ "minAvailable": 1 }), status(&first));
        assert!(plan(vec![again, pod("a", true, "")], 5000).actions.is_empty());
    }

    #[test]
    fn a_pod_that_was_not_disrupted_after_all_says_so() {
        let mut pod = pod("a", true, "");
        let target = json!({ "type": TARGET, "status": "True", "reason": "EvictionByEvictionAPI", "lastTransitionTime": "1970-01-01T00:00:00Z" });
        pod["status"]["conditions"].as_array_mut().expect("a list").push(target);
        let at =
            |now| Disruption.reconcile(&listers(vec![pod.clone()]), &Key::new(PODS, "ns", "a"), Now::at(now));
        assert_eq!(at(20_000).recheck_after, Some(Duration::from_secs(100)));
        assert_eq!(show(&at(120_000)), ["status pods ns/a"]);
    }
}
