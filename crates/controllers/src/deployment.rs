//! A Deployment rolls its ReplicaSets from one template to the next.

mod proportion;

use std::sync::Arc;
use std::time::Duration;

use api_types::{meta, time};
use client::{Change, DeleteParams, EventType};
use serde_json::{Value, json};

use crate::claim::{self, Claimable};
use crate::controller::{Controller, Key, Listers, Now, Watch, controller_key, kind, own_key};
use crate::plan::{Action, Plan};
use crate::template::{self, HASH_LABEL, condition};

const DEPLOYMENTS: &str = "deployments.apps";
const SETS: &str = "replicasets.apps";
const REVISION: &str = "deployment.kubernetes.io/revision";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// Annotations that a ReplicaSet does not take over from its Deployment (upstream: `annotationsToSkip`).
const OWN: [&str; 6] = [
    REVISION,
    DESIRED,
    MAX,
    "deployment.kubernetes.io/revision-history",
    "deprecated.deployment.rollback.to",
    "kubectl.kubernetes.io/last-applied-configuration",
];

/// See the module.
pub struct Deployments;

impl Controller for Deployments {
    fn name(&self) -> &'static str {
        "deployment-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch {
                resource: kind("apps", "v1", "deployments"),
                keys: |change, _| own_key(DEPLOYMENTS, change),
            },
            Watch {
                resource: kind("apps", "v1", "replicasets"),
                keys: |change, listers| claim::keys(DEPLOYMENTS, "Deployment", change, listers),
            },
            Watch { resource: kind("", "v1", "pods"), keys: pod_changed },
        ]
    }

    fn reconcile(&self, listers: &Listers, key: &Key, now: Now) -> Plan {
        let Some(deployment) = listers.object(key) else { return Plan::nothing() };
        let Some(selector) = claim::selector(&deployment) else { return Plan::nothing() };
        let mut claims = Vec::new();
        let all = Claimable { resource: kind("apps", "v1", "replicasets"), name: SETS, is_wanted: |_| true };
        let mut sets = all.claim(listers, &deployment, &selector, &mut claims);
        sets.sort_by_key(|set| (revision(set), meta::creation_timestamp(set).to_owned()));
        if meta::is_being_deleted(&deployment) {
            return Plan { actions: status_action(&deployment, &sets, now.wall_millis), recheck_after: None };
        }
        if !claims.is_empty() {
            return Plan { actions: claims, recheck_after: None };
        }
        let rollout = Rollout::of(listers, deployment, sets);
        rollout.plan(now.wall_millis)
    }
}

/// A pod that goes lets a Deployment that recreates go on.
fn pod_changed(change: &Change, listers: &Listers) -> Vec<Key> {
    let Change::Deleted(pod) = change else { return Vec::new() };
    let set = controller_key(SETS, "ReplicaSet", &Change::Deleted(pod.clone())).into_iter().next();
    let set = set.and_then(|key| listers.object(&key));
    let owner = set.as_ref().and_then(|set| meta::controller(set));
    owner.map(|owner| Key::new(DEPLOYMENTS, &pod.peek().namespace(), &owner.name)).into_iter().collect()
}

fn revision(object: &Value) -> i64 {
    meta::annotation(object, REVISION).and_then(|revision| revision.parse().ok()).unwrap_or(0)
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

fn spec_replicas(object: &Value) -> i64 {
    object["spec"]["replicas"].as_i64().unwrap_or(1)
}

fn size(set: &Value) -> proportion::Size<'_> {
    proportion::Size {
        replicas: spec_replicas(set),
        noted_max: meta::annotation(set, MAX).and_then(|max| max.parse().ok()),
        created: meta::creation_timestamp(set),
    }
}

/// A count, or a percentage of `total`.
fn resolve(value: &Value, total: i64, round_up: bool) -> i64 {
    let Some(percent) =
        value.as_str().and_then(|text| text.strip_suffix('%')).and_then(|text| text.parse::<i64>().ok())
    else {
        return number(value);
    };
    if round_up { (total * percent + 99) / 100 } else { total * percent / 100 }
}

/// The hash label of the present template's set.
fn new_hash(deployment: &Value) -> String {
    let collisions = number(&deployment["status"]["collisionCount"]);
    template::hash(&deployment["spec"]["template"], collisions)
}

struct Rollout {
    deployment: Arc<Value>,
    /// The set of the present template, if it is there.
    new: Option<Arc<Value>>,
    /// The others, oldest first.
    old: Vec<Arc<Value>>,
    all: Vec<Arc<Value>>,
    /// Whether pods of other sets still run.
    old_pods: bool,
    /// Whether a set of another template has the name that the new one would get.
    name_taken: bool,
}

impl Rollout {
    fn of(listers: &Listers, deployment: Arc<Value>, sets: Vec<Arc<Value>>) -> Self {
        let fits =
            |set: &&Arc<Value>| template::same(&set["spec"]["template"], &deployment["spec"]["template"]);
        // Of several the oldest, so that all replicas choose the same.
        let new =
            sets.iter().filter(fits).min_by_key(|set| meta::creation_timestamp(set).to_owned()).cloned();
        let is_new = |set: &Arc<Value>| new.as_ref().is_some_and(|new| meta::uid(new) == meta::uid(set));
        let old: Vec<_> = sets.iter().filter(|set| !is_new(set)).cloned().collect();
        let running =
            |set: &Arc<Value>| listers.controlled("pods", set).iter().any(|pod| !template::is_over(pod));
        let old_pods = old.iter().any(running);
        let name = format!("{}-{}", meta::name(&deployment), new_hash(&deployment));
        let there =
            listers.get(SETS).is_some_and(|all| all.get(meta::namespace(&deployment), &name).is_some());
        let name_taken = new.is_none() && there;
        Self { deployment, new, old, all: sets, old_pods, name_taken }
    }

    fn replicas(&self) -> i64 {
        spec_replicas(&self.deployment)
    }

    fn recreates(&self) -> bool {
        self.deployment["spec"]["strategy"]["type"] == "Recreate"
    }

    /// How many pods there may be in all, and how many of them may be unavailable.
    fn margins(&self) -> (i64, i64) {
        if self.recreates() {
            return (self.replicas(), self.replicas());
        }
        let rolling = &self.deployment["spec"]["strategy"]["rollingUpdate"];
        let surge = resolve(&rolling["maxSurge"], self.replicas(), true);
        let mut unavailable = resolve(&rolling["maxUnavailable"], self.replicas(), false);
        if surge == 0 && unavailable == 0 {
            unavailable = 1;
        }
        (self.replicas() + surge, unavailable.min(self.replicas()))
    }

    fn plan(&self, now_millis: i64) -> Plan {
        let mut actions = Vec::new();
        let paused = self.deployment["spec"]["paused"] == true;
        if self.name_taken && !paused {
            return Plan::of(self.collision());
        }
        if let Some(new) = &self.new {
            self.number_revision(new, &mut actions);
            self.scale_all(new, paused, &mut actions);
        } else if !paused && !(self.recreates() && (self.old_running() > 0 || self.old_pods)) {
            self.make_new(&mut actions);
        } else if !paused {
            self.old.iter().for_each(|set| self.scale(set, 0, &mut actions));
        }
        self.clean_up(&mut actions);
        actions.extend(status_action(&self.deployment, &self.all, now_millis));
        Plan { actions, recheck_after: self.recheck(now_millis) }
    }

    fn old_running(&self) -> i64 {
        self.old.iter().map(|set| number(&set["status"]["replicas"])).sum()
    }

    /// The newest set has the highest number, also when it is an old one that was returned to, and what the Deployment
    /// says of itself: the cause of a change is read there.
    fn number_revision(&self, new: &Arc<Value>, actions: &mut Vec<Action>) {
        let highest = self.old.iter().map(|set| revision(set)).max().unwrap_or(0);
        let wanted = if revision(new) > highest { revision(new) } else { highest + 1 };
        let mut changed = (**new).clone();
        meta::set_annotation(&mut changed, REVISION, &wanted.to_string());
        self.annotate(&mut changed);
        let ready = &self.deployment["spec"]["minReadySeconds"];
        if number(ready) != number(&new["spec"]["minReadySeconds"]) {
            changed["spec"]["minReadySeconds"] = ready.clone();
        }
        if changed != **new {
            actions.push(Action::Update(kind("apps", "v1", "replicasets"), changed));
        }
        if revision(&self.deployment) != wanted {
            let mut changed = (*self.deployment).clone();
            meta::set_annotation(&mut changed, REVISION, &wanted.to_string());
            actions.push(Action::Update(kind("apps", "v1", "deployments"), changed));
        }
    }

    /// Gives a set what its Deployment is annotated with.
    fn annotate(&self, set: &mut Value) {
        let given = self.deployment["metadata"]["annotations"].as_object().into_iter().flatten();
        for (name, text) in given.filter(|(name, _)| !OWN.contains(&name.as_str())) {
            meta::set_annotation(set, name, text.as_str().unwrap_or_default());
        }
    }

    /// Another count gives the new set another name.
    fn collision(&self) -> Action {
        let mut changed = (*self.deployment).clone();
        let collisions = number(&changed["status"]["collisionCount"]) + 1;
        meta::child_mut(&mut changed, &["status"]).insert("collisionCount".to_owned(), json!(collisions));
        Action::UpdateStatus(kind("apps", "v1", "deployments"), changed)
    }

    fn make_new(&self, actions: &mut Vec<Action>) {
        let deployment = &self.deployment;
        let hash = new_hash(deployment);
        let mut template = deployment["spec"]["template"].clone();
        let mut selector = deployment["spec"]["selector"].clone();
        meta::set_label(&mut template, HASH_LABEL, &hash);
        meta::child_mut(&mut selector, &["matchLabels"]).insert(HASH_LABEL.to_owned(), json!(hash));
        let (max, _) = self.margins();
        let replicas = if self.recreates() { self.replicas() } else { self.room(max).min(self.replicas()) };
        let revision = self.old.iter().map(|set| revision(set)).max().unwrap_or(0) + 1;
        let name = format!("{}-{hash}", meta::name(deployment));
        let mut set = json!({
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {
                "name": name,
                "namespace": meta::namespace(deployment),
                "labels": template["metadata"]["labels"],
                "annotations": {
                    REVISION: revision.to_string(),
                    DESIRED: self.replicas().to_string(),
                    MAX: max.to_string(),
                },
                "ownerReferences": [meta::OwnerReference::controller_of(deployment).to_value()],
            },
            "spec": {
                "replicas": replicas,
                "selector": selector,
                "template": template,
                "minReadySeconds": number(&deployment["spec"]["minReadySeconds"]),
            },
        });
        self.annotate(&mut set);
        actions.push(Action::Create(kind("apps", "v1", "replicasets"), set));
        let text = format!("Scaled up replica set {name} from 0 to {replicas}");
        actions.push(Action::Event(deployment.clone(), EventType::Normal, "ScalingReplicaSet", text));
    }

    /// How many more pods there may be.
    fn room(&self, max: i64) -> i64 {
        let there: i64 = self.all.iter().map(|set| spec_replicas(set)).sum();
        (max - there).max(0)
    }

    fn scale_all(&self, new: &Arc<Value>, paused: bool, actions: &mut Vec<Action>) {
        let (max, unavailable) = self.margins();
        if self.resized() || paused {
            return self.resize(actions);
        }
        if self.recreates() {
            if self.old_running() > 0 || self.old_pods {
                self.old.iter().for_each(|set| self.scale(set, 0, actions));
            } else {
                self.scale(new, self.replicas(), actions);
            }
            return;
        }
        let wanted = if spec_replicas(new) > self.replicas() {
            self.replicas()
        } else {
            (spec_replicas(new) + self.room(max)).min(self.replicas())
        };
        self.scale(new, wanted, actions);
        self.shrink_old(new, unavailable, actions);
    }

    /// Whether the Deployment's size changed since its sets were given theirs (upstream's `isScalingEvent`).
    fn resized(&self) -> bool {
        let size = self.replicas().to_string();
        let noted = |set: &&Arc<Value>| meta::annotation(set, DESIRED).is_some_and(|noted| noted != size);
        self.all.iter().filter(|set| spec_replicas(set) > 0).any(|set| noted(&set))
    }

    /// Only the size changes, as far as the rollout has come: of several sets each gets its share (upstream's
    /// `scale`).
    fn resize(&self, actions: &mut Vec<Action>) {
        let running: Vec<&Arc<Value>> = self.all.iter().filter(|set| spec_replicas(set) > 0).collect();
        if let [only] = running.as_slice() {
            return self.scale(only, self.replicas(), actions);
        }
        let Some(new) = self.new.as_ref() else { return };
        let complete = spec_replicas(new) == self.replicas()
            && number(&new["status"]["availableReplicas"]) == self.replicas();
        if running.is_empty() || complete {
            self.scale(new, self.replicas(), actions);
            return self.old.iter().for_each(|set| self.scale(set, 0, actions));
        }
        if self.recreates() {
            return;
        }
        let (max, _) = self.margins();
        let sizes: Vec<_> = running.iter().map(|set| size(set)).collect();
        let allowed = if self.replicas() > 0 { max } else { 0 };
        let shares = proportion::shares(&sizes, allowed, number(&self.deployment["status"]["replicas"]));
        running.iter().zip(shares).for_each(|(set, share)| self.scale(set, share, actions));
    }

    /// Old pods go as far as enough pods stay available: first those that are not, then the oldest.
    fn shrink_old(&self, new: &Arc<Value>, unavailable: i64, actions: &mut Vec<Action>) {
        let least = self.replicas() - unavailable;
        let total: i64 = self.all.iter().map(|set| spec_replicas(set)).sum();
        let new_missing = spec_replicas(new) - number(&new["status"]["availableReplicas"]);
        let mut may_go = total - least - new_missing.max(0);
        let mut sizes: Vec<i64> = self.old.iter().map(|set| spec_replicas(set)).collect();
        for (set, size) in self.old.iter().zip(&mut sizes) {
            let unhealthy = (*size - number(&set["status"]["availableReplicas"])).max(0);
            let gone = unhealthy.min(may_go.max(0));
            *size -= gone;
            may_go -= gone;
        }
        let available: i64 = self.all.iter().map(|set| number(&set["status"]["availableReplicas"])).sum();
        let mut spare = (available - least).min(may_go).max(0);
        for size in &mut sizes {
            let gone = spare.min(*size);
            *size -= gone;
            spare -= gone;
        }
        for (set, size) in self.old.iter().zip(sizes) {
            self.scale(set, size, actions);
        }
    }

    fn scale(&self, set: &Arc<Value>, replicas: i64, actions: &mut Vec<Action>) {
        let before = spec_replicas(set);
        let (max, _) = self.margins();
        let noted = meta::annotation(set, DESIRED) == Some(&self.replicas().to_string());
        if before == replicas && (noted || before == 0) {
            return;
        }
        let mut changed = (**set).clone();
        changed["spec"]["replicas"] = json!(replicas);
        meta::set_annotation(&mut changed, DESIRED, &self.replicas().to_string());
        meta::set_annotation(&mut changed, MAX, &max.to_string());
        actions.push(Action::Update(kind("apps", "v1", "replicasets"), changed));
        if before != replicas {
            let way = if replicas > before { "up" } else { "down" };
            let text = format!("Scaled {way} replica set {} from {before} to {replicas}", meta::name(set));
            actions.push(Action::Event(
                self.deployment.clone(),
                EventType::Normal,
                "ScalingReplicaSet",
                text,
            ));
        }
    }

    /// Old sets that are empty are kept only as far back as the Deployment says.
    fn clean_up(&self, actions: &mut Vec<Action>) {
        let kept = usize::try_from(self.deployment["spec"]["revisionHistoryLimit"].as_i64().unwrap_or(10))
            .unwrap_or(0);
        let empty = |set: &&Arc<Value>| spec_replicas(set) == 0 && number(&set["status"]["replicas"]) == 0;
        let idle: Vec<_> = self.old.iter().filter(empty).filter(|set| !meta::is_being_deleted(set)).collect();
        for set in idle.iter().take(idle.len().saturating_sub(kept)) {
            actions.push(Action::Delete(
                kind("apps", "v1", "replicasets").into(),
                (*set).clone(),
                DeleteParams::default(),
            ));
        }
    }

    /// When the rollout's deadline is to be looked at.
    fn recheck(&self, now_millis: i64) -> Option<Duration> {
        let deadline = self.deployment["spec"]["progressDeadlineSeconds"].as_i64()?;
        let progressing = condition(&self.deployment, "Progressing")?;
        if progressing["reason"] == "NewReplicaSetAvailable"
            || progressing["reason"] == "ProgressDeadlineExceeded"
        {
            return None;
        }
        let since = progressing["lastUpdateTime"].as_str().and_then(time::to_millis)?;
        let left = since + deadline * 1000 - now_millis;
        Some(Duration::from_millis(left.max(1000).cast_unsigned()))
    }
}

fn status_action(deployment: &Arc<Value>, sets: &[Arc<Value>], now_millis: i64) -> Vec<Action> {
    let status = status(deployment, sets, now_millis);
    if status == deployment["status"] {
        return Vec::new();
    }
    let mut changed = (**deployment).clone();
    changed["status"] = status;
    vec![Action::UpdateStatus(kind("apps", "v1", "deployments"), changed)]
}

fn status(deployment: &Value, sets: &[Arc<Value>], now_millis: i64) -> Value {
    let sum = |field: &str| sets.iter().map(|set| number(&set["status"][field])).sum::<i64>();
    let new =
        sets.iter().find(|set| template::same(&set["spec"]["template"], &deployment["spec"]["template"]));
    let updated = new.map_or(0, |set| number(&set["status"]["replicas"]));
    let (replicas, ready, available) = (sum("replicas"), sum("readyReplicas"), sum("availableReplicas"));
    let unavailable = (sets.iter().map(|set| spec_replicas(set)).sum::<i64>() - available).max(0);
    let mut status = json!({ "observedGeneration": meta::generation(deployment) });
    let counts = [
        ("replicas", replicas),
        ("updatedReplicas", updated),
        ("readyReplicas", ready),
        ("availableReplicas", available),
        ("unavailableReplicas", unavailable),
    ];
    for (field, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
        status[field] = json!(count);
    }
    if let Some(collisions) = deployment["status"].get("collisionCount") {
        status["collisionCount"] = collisions.clone();
    }
    let progress =
        Progress { deployment, new: new.map(|set| &**set), replicas, updated, available, now_millis };
    status["conditions"] = json!(progress.conditions());
    status
}

struct Progress<'a> {
    deployment: &'a Value,
    new: Option<&'a Value>,
    replicas: i64,
    updated: i64,
    available: i64,
    now_millis: i64,
}

impl Progress<'_> {
    fn conditions(&self) -> Vec<Value> {
        let wanted = spec_replicas(self.deployment);
        let rolling = &self.deployment["spec"]["strategy"]["rollingUpdate"];
        let unavailable = resolve(&rolling["maxUnavailable"], wanted, false);
        let (status, reason, text) = if self.available >= wanted - unavailable {
            ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
        } else {
            ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
        };
        let available = self.condition("Available", status, reason, text.to_owned(), false);
        let mut conditions = vec![available];
        conditions.extend(self.progressing(wanted));
        conditions
    }

    fn progressing(&self, wanted: i64) -> Option<Value> {
        let new = self.new?;
        let name = meta::name(new);
        let complete = self.updated == wanted && self.replicas == wanted && self.available == wanted;
        if complete {
            let text = format!("ReplicaSet {name:?} has successfully progressed.");
            return Some(self.condition("Progressing", "True", "NewReplicaSetAvailable", text, false));
        }
        let before = &self.deployment["status"];
        let moved = number(&before["updatedReplicas"]) < self.updated
            || number(&before["readyReplicas"]) < number(&new["status"]["readyReplicas"])
            || number(&before["availableReplicas"]) < self.available
            || number(&before["replicas"]) > self.replicas;
        if !moved && self.is_late() {
            let text = format!("ReplicaSet {name:?} has timed out progressing.");
            return Some(self.condition("Progressing", "False", "ProgressDeadlineExceeded", text, false));
        }
        let text = format!("ReplicaSet {name:?} is progressing.");
        Some(self.condition("Progressing", "True", "ReplicaSetUpdated", text, moved))
    }

    fn is_late(&self) -> bool {
        let Some(deadline) = self.deployment["spec"]["progressDeadlineSeconds"].as_i64() else {
            return false;
        };
        let Some(last) = condition(self.deployment, "Progressing") else { return false };
        if last["reason"] == "NewReplicaSetAvailable" {
            return false;
        }
        let since = last["lastUpdateTime"].as_str().and_then(time::to_millis);
        since.is_some_and(|since| since + deadline * 1000 < self.now_millis)
    }

    /// A condition whose times change only when it does, or when `touched`.
    fn condition(&self, kind: &str, status: &str, reason: &str, message: String, touched: bool) -> Value {
        let now = time::from_millis(self.now_millis);
        let mut made = json!({ "type": kind, "status": status, "reason": reason, "message": message });
        let before = condition(self.deployment, kind);
        let same = |field: &str| before.is_some_and(|before| before[field] == made[field]);
        let (same_status, same_all) = (same("status"), same("status") && same("reason") && same("message"));
        let kept = |field: &str| before.map_or(Value::Null, |before| before[field].clone());
        let update = if same_all && !touched { kept("lastUpdateTime") } else { json!(now) };
        let transition = if same_status { kept("lastTransitionTime") } else { json!(now) };
        made["lastUpdateTime"] = update;
        made["lastTransitionTime"] = transition;
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{listers, show};
    use client::Patch;

    fn deployment(replicas: i64, image: &str) -> Value {
        json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": { "name": "d", "namespace": "ns", "uid": "u", "generation": 1 },
            "spec": {
                "replicas": replicas,
                "selector": { "matchLabels": { "a": "b" } },
                "strategy": {
                    "type": "RollingUpdate",
                    "rollingUpdate": { "maxSurge": "25%", "maxUnavailable": "25%" },
                },
                "template": { "metadata": { "labels": { "a": "b" } }, "spec": { "image": image } },
                "revisionHistoryLimit": 1,
                "progressDeadlineSeconds": 600,
            },
        })
    }

    fn set(name: &str, image: &str, replicas: i64, available: i64, revision: i64) -> Value {
        json!({
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {
                "name": name, "namespace": "ns", "uid": name, "labels": { "a": "b" },
                "annotations": { REVISION: revision.to_string(), DESIRED: "4" },
                "ownerReferences": [meta::OwnerReference::controller_of(&deployment(0, "")).to_value()],
            },
            "spec": {
                "replicas": replicas,
                "template": { "metadata": { "labels": { "a": "b", HASH_LABEL: "x" } }, "spec": { "image": image } },
            },
            "status": { "replicas": replicas, "readyReplicas": available, "availableReplicas": available },
        })
    }

    fn plan(objects: Vec<Value>) -> Plan {
        Deployments.reconcile(&listers(objects), &Key::new(DEPLOYMENTS, "ns", "d"), Now::at(0))
    }

    fn sizes(plan: &Plan) -> Vec<(String, i64)> {
        let changed = plan.actions.iter().filter_map(|action| match action {
            Action::Update(resource, set) if resource.resource == "replicasets" => {
                Some((meta::name(set).to_owned(), spec_replicas(set)))
            }
            _ => None,
        });
        changed.collect()
    }

    #[test]
    fn a_new_deployment_gets_its_set_at_once() {
        let done = plan(vec![deployment(3, "one")]);
        let Some(Action::Create(_, set)) = done.actions.first() else { panic!("{done:?}") };
        assert_eq!((spec_replicas(set), revision(set)), (3, 1));
        let hash = meta::label(set, HASH_LABEL).expect("a hash");
        assert_eq!(meta::name(set), format!("d-{hash}"));
        assert_eq!(set["spec"]["selector"]["matchLabels"][HASH_LABEL], hash);
        assert!(show(&done).iter().any(|line| line.ends_with("from 0 to 3")));
    }

    #[test]
    fn a_set_without_an_owner_that_fits_is_adopted_and_counts_then() {
        let mut orphan = set("orphan", "old", 1, 1, 7);
        meta::child_mut(&mut orphan, &["metadata"]).remove("ownerReferences");
        let owners = |plan: &Plan| match plan.actions.as_slice() {
            [Action::Patch(_, set, Patch::Strategic(patch))] => {
                (meta::name(set).to_owned(), patch["metadata"]["ownerReferences"].clone())
            }
            other => panic!("{other:?}"),
        };
        let adopts = plan(vec![deployment(1, "one"), orphan.clone()]);
        let own = meta::OwnerReference::controller_of(&deployment(0, "")).to_value();
        assert_eq!(owners(&adopts), ("orphan".to_owned(), json!([own])));
        // Another's, and one that does not fit, are left alone; one that fits no more is let go.
        let mut foreign = orphan.clone();
        foreign["metadata"]["ownerReferences"] =
            json!([{"kind": "X", "name": "x", "uid": "x", "controller": true}]);
        let mut other = orphan.clone();
        other["metadata"]["labels"] = json!({ "a": "c" });
        for left in [foreign, other] {
            assert!(
                show(&plan(vec![deployment(1, "one"), left])).iter().all(|line| !line.contains("orphan"))
            );
        }
        let mut lost = set("lost", "old", 1, 1, 7);
        lost["metadata"]["labels"] = json!({ "a": "c" });
        let released = owners(&plan(vec![deployment(1, "one"), lost]));
        assert_eq!(released, ("lost".to_owned(), json!([{"$patch": "delete", "uid": "u"}])));
        // Once it is its own, the next revision is behind the set's.
        let made = plan(vec![deployment(1, "one"), set("orphan", "old", 1, 1, 3_546_343_826_724_305_832)]);
        let Some(Action::Create(_, new)) = made.actions.first() else { panic!("{made:?}") };
        assert_eq!(revision(new), 3_546_343_826_724_305_833);
    }

    #[test]
    fn a_set_is_annotated_as_its_deployment() {
        let mut world = deployment(4, "one");
        for (name, text) in [(REVISION, "1"), ("cause", "first"), (OWN[5], "{}")] {
            meta::set_annotation(&mut world, name, text);
        }
        let made = plan(vec![world.clone()]);
        let Some(Action::Create(_, new)) = made.actions.first() else { panic!("{made:?}") };
        assert_eq!((meta::annotation(new, "cause"), meta::annotation(new, OWN[5])), (Some("first"), None));
        world["spec"]["minReadySeconds"] = json!(7);
        let there = plan(vec![world.clone(), set("new", "one", 4, 4, 1)]);
        let Some(Action::Update(_, changed)) = there.actions.first() else { panic!("{there:?}") };
        assert_eq!(meta::annotation(changed, "cause"), Some("first"));
        assert_eq!(changed["spec"]["minReadySeconds"], 7);
        let again = plan(vec![world, changed.clone()]);
        assert!(!show(&again).iter().any(|line| line.contains("replicasets")), "{:?}", show(&again));
    }

    #[test]
    fn a_rollout_never_exceeds_its_margins() {
        let mut world = deployment(4, "two");
        meta::set_annotation(&mut world, REVISION, "2");
        // One more than four may be there, one less available.
        let start = plan(vec![world.clone(), set("old", "one", 4, 4, 1)]);
        let Some(Action::Create(_, new)) = start.actions.first() else { panic!("{start:?}") };
        assert_eq!(spec_replicas(new), 1);
        let next = plan(vec![world.clone(), set("old", "one", 4, 4, 1), set("new", "two", 1, 0, 2)]);
        assert_eq!(sizes(&next), [("old".to_owned(), 3)]);
        let last = plan(vec![world, set("old", "one", 1, 1, 1), set("new", "two", 4, 4, 2)]);
        assert_eq!(sizes(&last), [("old".to_owned(), 0)]);
    }

    #[test]
    fn a_rollout_that_is_resized_keeps_its_proportions() {
        let mut world = deployment(8, "two");
        meta::set_annotation(&mut world, REVISION, "2");
        let noted = |mut set: Value| {
            meta::set_annotation(&mut set, MAX, "5");
            set
        };
        let done = plan(vec![world, noted(set("old", "one", 3, 3, 1)), noted(set("new", "two", 2, 0, 2))]);
        assert_eq!(sizes(&done), [("old".to_owned(), 6), ("new".to_owned(), 4)]);
    }

    #[test]
    fn a_name_that_another_set_has_is_avoided() {
        let world = deployment(1, "one");
        let taken = format!("d-{}", new_hash(&world));
        let mut foreign = set(&taken, "other", 0, 0, 1);
        foreign["metadata"]["ownerReferences"] =
            json!([{ "kind": "Deployment", "name": "x", "uid": "x", "controller": true }]);
        let done = plan(vec![world, foreign]);
        let [Action::UpdateStatus(_, told)] = done.actions.as_slice() else { panic!("{done:?}") };
        assert_eq!(told["status"]["collisionCount"], 1);
        assert_ne!(format!("d-{}", new_hash(told)), taken);
    }

    #[test]
    fn a_recreating_deployment_waits_for_the_old_pods() {
        let mut world = deployment(2, "two");
        world["spec"]["strategy"] = json!({ "type": "Recreate" });
        let first = plan(vec![world.clone(), set("old", "one", 2, 2, 1)]);
        assert_eq!(sizes(&first), [("old".to_owned(), 0)]);
        let then = plan(vec![world, set("old", "one", 0, 0, 1)]);
        assert!(matches!(then.actions.first(), Some(Action::Create(..))), "{then:?}");
    }

    #[test]
    fn going_back_gives_the_old_set_the_highest_number() {
        let done = plan(vec![deployment(4, "one"), set("one", "one", 0, 0, 1), set("two", "two", 4, 4, 2)]);
        let Some(Action::Update(_, back)) = done.actions.first() else { panic!("{done:?}") };
        assert_eq!((meta::name(back), revision(back)), ("one", 3));
    }

    #[test]
    fn empty_sets_are_kept_only_so_far_back() {
        let mut objects = vec![deployment(4, "now"), set("now", "now", 4, 4, 4)];
        objects.extend((1..4).map(|n| set(&format!("s{n}"), &n.to_string(), 0, 0, n)));
        let done = show(&plan(objects));
        let deleted: Vec<_> = done.iter().filter(|line| line.starts_with("delete")).collect();
        assert_eq!(deleted, ["delete replicasets.apps ns/s1", "delete replicasets.apps ns/s2"]);
    }

    #[test]
    fn the_status_says_that_it_is_complete() {
        let done = plan(vec![deployment(4, "one"), set("one", "one", 4, 4, 1)]);
        let Some(Action::UpdateStatus(_, told)) = done.actions.last() else { panic!("{done:?}") };
        let progressing = condition(told, "Progressing").expect("progressing");
        assert_eq!(progressing["reason"], "NewReplicaSetAvailable");
        assert_eq!(told["status"]["updatedReplicas"], 4);
        assert!(told["status"].get("unavailableReplicas").is_none());
    }
}
