//! What is owned goes with its owners: later (background), before them (foreground) or not at all (orphan).

use std::sync::Arc;

use api_types::codec::peek::Peek;
use api_types::{Resource, ResourceRef, meta, table};
use client::{Change, DeleteParams, Patch, Propagation};
use serde_json::{Value, json};

use crate::controller::{Controller, Key, Listers, Now, OWNER_INDEX, UID_INDEX, Watch};
use crate::custom_resources;
use crate::plan::{Action, Plan};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";
/// The controller's name.
pub(crate) const NAME: &str = "garbage-collector-controller";

/// See the module.
pub struct GarbageCollector;

/// Every kind that can own or be owned. Events never are, and there are many of them.
fn kinds() -> impl Iterator<Item = &'static Resource> {
    let stored =
        table::resources().iter().filter(|resource| resource.is_stored() && resource.is_storage_version());
    stored
        .filter(|resource| ["list", "watch", "delete"].iter().all(|verb| resource.has_verb(verb)))
        .filter(|resource| resource.resource != "events" && resource.served_by_default)
}

impl Controller for GarbageCollector {
    fn name(&self) -> &'static str {
        NAME
    }

    fn watches(&self) -> Vec<Watch> {
        kinds().map(|resource| Watch { resource, keys: concerned }).collect()
    }

    fn reconcile(&self, listers: &Listers, key: &Key, _now: Now) -> Plan {
        let Some(resource) = resource_of(listers, &key.resource) else { return Plan::nothing() };
        let Some(object) = listers.object(key) else { return Plan::nothing() };
        if meta::is_being_deleted(&object) {
            return if meta::has_finalizer(&object, ORPHAN) {
                orphan(listers, resource, &object)
            } else if meta::has_finalizer(&object, FOREGROUND) {
                foreground(listers, resource, &object)
            } else {
                Plan::nothing()
            };
        }
        dependent(listers, resource, &object)
    }
}

fn resource_of(listers: &Listers, qualified: &str) -> Option<ResourceRef> {
    let built_in = kinds().find(|resource| resource.qualified() == qualified).map(ResourceRef::from);
    built_in.or_else(|| custom_resources::find(listers, |definition| meta::name(definition) == qualified))
}

/// The kind of an object or an owner, built-in or custom.
pub(crate) fn kind_of(listers: &Listers, api_version: &str, kind: &str) -> Option<ResourceRef> {
    let built_in = table::by_api_version(api_version, kind).map(ResourceRef::from);
    built_in.or_else(|| {
        let (group, _) = api_version.split_once('/')?;
        let found = custom_resources::find(listers, |definition| {
            let names = [&definition["status"]["acceptedNames"], &definition["spec"]["names"]];
            definition["spec"]["group"] == group && names.iter().any(|names| names["kind"] == kind)
        });
        found.filter(|resource| resource.kind == kind)
    })
}

/// The object itself, and those that are tied to it when it goes.
pub(crate) fn concerned(change: &Change, listers: &Listers) -> Vec<Key> {
    let object = &change.object().peek();
    let is_gone = matches!(change, Change::Deleted(_));
    // Most objects have no owner and stay: nothing is to be collected.
    if !is_gone && !object.is_being_deleted() && object.owner_references().is_empty() {
        return Vec::new();
    }
    let Some(resource) = kind_of(listers, object.api_version(), object.kind()) else {
        return Vec::new();
    };
    let mut keys = match change {
        Change::Deleted(_) => dependents(listers, &object.uid())
            .into_iter()
            .map(|(kind, found)| Key::of(&kind, &found))
            .collect(),
        Change::Added(_) | Change::Updated { .. } => vec![Key::peeked(&resource.qualified(), object)],
    };
    // An owner that waits for its dependents looks again when one goes.
    if is_gone {
        keys.extend(owners_that_wait(listers, object));
    }
    keys
}

fn owners_that_wait(listers: &Listers, object: &Peek<'_>) -> Vec<Key> {
    let (owners, own) = (object.owner_references(), object.namespace());
    let kinds = owners.iter().filter_map(|owner| {
        let kind = kind_of(listers, &owner.api_version, &owner.kind)?;
        Some(Key::new(&kind.qualified(), if kind.namespaced { &own } else { "" }, &owner.name))
    });
    kinds.filter(|key| listers.object(key).is_some_and(|owner| meta::is_being_deleted(&owner))).collect()
}

/// Everything that names an object among its owners, by its uid; with its kind.
fn dependents(listers: &Listers, owner: &str) -> Vec<(String, Arc<Value>)> {
    let found = listers.everything().into_iter().flat_map(|(resource, lister)| {
        lister.by_index(OWNER_INDEX, owner).into_iter().map(move |object| (resource.clone(), object))
    });
    found.collect()
}

/// An object whose owners are all gone goes; one of which some are left loses the names of the others.
fn dependent(listers: &Listers, resource: ResourceRef, object: &Arc<Value>) -> Plan {
    let owners = meta::owner_references(object);
    if owners.is_empty() {
        return Plan::nothing();
    }
    let all = listers.everything();
    let gone = |uid: &str| all.iter().all(|(_, lister)| lister.by_index(UID_INDEX, uid).is_empty());
    let known = |owner: &meta::OwnerReference| {
        let kind = kind_of(listers, &owner.api_version, &owner.kind);
        kind.and_then(|kind| listers.any(&kind.qualified())).is_some_and(|lister| lister.is_synced())
    };
    if !owners.iter().all(|owner| known(owner) && gone(&owner.uid)) {
        return Plan::nothing();
    }
    Plan::of(Action::Collect(resource, object.clone()))
}

/// Dependents go first, but for those that another owner keeps; the owner when none that blocks it is left.
fn foreground(listers: &Listers, resource: ResourceRef, owner: &Arc<Value>) -> Plan {
    let mut actions = Vec::new();
    let mut blocked = false;
    for (kind, found) in dependents(listers, meta::uid(owner)) {
        let Some(kind) = resource_of(listers, &kind) else { continue };
        let references = meta::owner_references(&found);
        if references.iter().any(|other| other.uid != meta::uid(owner) && stays(listers, other)) {
            actions.push(forgetting(kind, &found, owner));
            continue;
        }
        blocked |= references.iter().any(|own| own.uid == meta::uid(owner) && own.block_owner_deletion);
        if !meta::is_being_deleted(&found) {
            if dependents(listers, meta::uid(&found)).iter().any(|(_, other)| is_waiting(other)) {
                actions.push(unblocking(kind.clone(), &found));
            }
            let params =
                DeleteParams { propagation: Some(Propagation::Foreground), ..DeleteParams::default() };
            actions.push(Action::Delete(kind, found, params));
        }
    }
    if !blocked {
        actions.push(without_finalizer(resource, owner, FOREGROUND));
    }
    Plan { actions, recheck_after: None }
}

/// Whether an owner is there, and not about to go as soon as its dependents have; one of an unknown kind may be.
fn stays(listers: &Listers, owner: &meta::OwnerReference) -> bool {
    let kind = kind_of(listers, &owner.api_version, &owner.kind);
    let lister = kind.and_then(|kind| listers.any(&kind.qualified())).filter(|lister| lister.is_synced());
    lister.is_none_or(|lister| lister.by_index(UID_INDEX, &owner.uid).iter().any(|one| !is_waiting(one)))
}

/// An object no longer names an owner.
fn forgetting(resource: ResourceRef, object: &Arc<Value>, owner: &Value) -> Action {
    let references = object["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
    let kept: Vec<Value> =
        references.into_iter().filter(|reference| reference["uid"] != owner["metadata"]["uid"]).collect();
    let metadata = json!({ "uid": meta::uid(object), "ownerReferences": kept });
    Action::Patch(resource, object.clone(), Patch::Merge(json!({ "metadata": metadata })))
}

/// Whether an object waits for its dependents to go.
fn is_waiting(object: &Value) -> bool {
    meta::is_being_deleted(object) && meta::has_finalizer(object, FOREGROUND)
}

/// An object lets its owners go before it: one that depends on it waits already, so that they may wait for each other in a
/// circle.
fn unblocking(resource: ResourceRef, object: &Arc<Value>) -> Action {
    let mut references = object["metadata"]["ownerReferences"].clone();
    for reference in references.as_array_mut().into_iter().flatten() {
        reference["blockOwnerDeletion"] = json!(false);
    }
    let metadata = json!({ "uid": meta::uid(object), "ownerReferences": references });
    Action::Patch(resource, object.clone(), Patch::Merge(json!({ "metadata": metadata })))
}

/// Dependents forget the owner, then it goes.
fn orphan(listers: &Listers, resource: ResourceRef, owner: &Arc<Value>) -> Plan {
    let mut actions = Vec::new();
    for (kind, found) in dependents(listers, meta::uid(owner)) {
        let Some(kind) = resource_of(listers, &kind) else { continue };
        actions.push(forgetting(kind, &found, owner));
    }
    actions.push(without_finalizer(resource, owner, ORPHAN));
    Plan { actions, recheck_after: None }
}

fn without_finalizer(resource: ResourceRef, object: &Arc<Value>, finalizer: &str) -> Action {
    let kept: Vec<&str> = meta::finalizers(object).filter(|found| *found != finalizer).collect();
    // At this version: finalizers that others add meanwhile must not be lost.
    let metadata = json!({
        "uid": meta::uid(object),
        "resourceVersion": meta::resource_version(object),
        "finalizers": kept,
    });
    Action::Patch(resource, object.clone(), Patch::Merge(json!({ "metadata": metadata })))
}

#[cfg(test)]
mod tests {
    use client::Object;

    use super::*;
    use crate::testing::{listers, show};

    fn owner(finalizer: Option<&str>) -> Value {
        let mut owner = json!({
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": { "name": "rs", "namespace": "ns", "uid": "u1", "resourceVersion": "1" },
        });
        if let Some(finalizer) = finalizer {
            owner["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            owner["metadata"]["finalizers"] = json!([finalizer]);
        }
        owner
    }

    fn pod(name: &str) -> Value {
        let reference = json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "u1", "blockOwnerDeletion": true,
        });
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": name, "namespace": "ns", "uid": name, "ownerReferences": [reference] },
        })
    }

    fn plan(key: &Key, objects: Vec<Value>) -> Vec<String> {
        show(&GarbageCollector.reconcile(&listers(objects), key, Now::at(0)))
    }

    #[test]
    fn a_dependent_goes_when_its_owner_is_gone() {
        let key = Key::new("pods", "ns", "p");
        assert_eq!(plan(&key, vec![pod("p")]), ["collect pods ns/p"]);
        assert!(plan(&key, vec![pod("p"), owner(None)]).is_empty());
    }

    #[test]
    fn what_has_no_owner_and_stays_concerns_nobody() {
        let mut free = pod("p");
        meta::metadata_mut(&mut free).remove("ownerReferences");
        let mut going = free.clone();
        going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        let known = listers(vec![pod("q"), owner(None)]);
        let [free, going, owned] = [free, going, pod("p")].map(|pod| Arc::new(Object::from(pod)));
        let keys = |change: Change| concerned(&change, &known);
        assert!(keys(Change::Added(free.clone())).is_empty());
        assert!(keys(Change::Updated { old: owned.clone(), new: free.clone() }).is_empty());
        let own = vec![Key::new("pods", "ns", "p")];
        assert_eq!(keys(Change::Updated { old: free.clone(), new: owned }), own);
        assert_eq!(keys(Change::Updated { old: free, new: going }), own);
        let dependents = keys(Change::Deleted(Arc::new(owner(None).into())));
        assert_eq!(dependents, [Key::new("pods", "ns", "q")]);
    }

    #[test]
    fn owners_may_be_of_custom_kinds() {
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "widgets.example.com", "uid": "d"},
            "spec": {"group": "example.com", "scope": "Namespaced",
                "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
                "versions": [{"name": "v1", "served": true, "storage": true}]},
            "status": {"conditions": [{"type": "Established", "status": "True"}]},
        });
        let mut owned = pod("p");
        owned["metadata"]["ownerReferences"][0]["apiVersion"] = json!("example.com/v1");
        owned["metadata"]["ownerReferences"][0]["kind"] = json!("Widget");
        let all = listers(vec![definition, owned]);
        let decide = || show(&GarbageCollector.reconcile(&all, &Key::new("pods", "ns", "p"), Now::at(0)));
        assert!(decide().is_empty(), "nothing is known of widgets yet");
        let widget = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "rs", "namespace": "ns", "uid": "u1"}});
        let indexes = crate::controller::indexes;
        all.set_custom("widgets.example.com", Some(client::Lister::of(indexes(), vec![widget])));
        assert!(decide().is_empty());
        all.set_custom("widgets.example.com", Some(client::Lister::of(indexes(), Vec::new())));
        assert_eq!(decide(), ["collect pods ns/p"]);
    }

    #[test]
    fn foreground_deletion_waits_for_dependents() {
        let key = Key::new("replicasets.apps", "ns", "rs");
        let ending = || owner(Some(FOREGROUND));
        assert_eq!(plan(&key, vec![ending(), pod("p")]), ["delete pods ns/p"]);
        let mut going = pod("p");
        going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert!(plan(&key, vec![ending(), going]).is_empty());
        assert_eq!(plan(&key, vec![ending()]), ["patch replicasets.apps ns/rs"]);
    }

    #[test]
    fn what_another_owner_keeps_stays() {
        let key = Key::new("replicasets.apps", "ns", "rs");
        let mut other = owner(None);
        (other["metadata"]["name"], other["metadata"]["uid"]) = (json!("other"), json!("u2"));
        let mut shared = pod("p");
        let reference = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "other", "uid": "u2"});
        shared["metadata"]["ownerReferences"].as_array_mut().expect("owners").push(reference);
        let ending = owner(Some(FOREGROUND));
        let world = |other: &Value| vec![ending.clone(), other.clone(), shared.clone(), pod("q")];
        assert_eq!(plan(&key, world(&other)), ["patch pods ns/p", "delete pods ns/q"]);
        let alone = plan(&key, vec![ending.clone(), other.clone(), shared.clone()]);
        assert_eq!(alone, ["patch pods ns/p", "patch replicasets.apps ns/rs"], "nothing is waited for");
        // One that waits itself keeps nothing, nor does one that is gone.
        other["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        other["metadata"]["finalizers"] = json!([FOREGROUND]);
        let mut gone = other.clone();
        gone["metadata"]["uid"] = json!("u3");
        for other in [other, gone] {
            let both = plan(&key, world(&other));
            assert!(both.contains(&"delete pods ns/p".to_owned()), "{both:?}");
        }
    }

    #[test]
    fn a_circle_does_not_wait_for_itself() {
        let owned = |name: &str, by: &str| {
            let mut pod = pod(name);
            let reference = &mut pod["metadata"]["ownerReferences"][0];
            (reference["apiVersion"], reference["kind"]) = (json!("v1"), json!("Pod"));
            (reference["name"], reference["uid"]) = (json!(by), json!(by));
            pod
        };
        let waiting = |mut pod: Value| {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            pod["metadata"]["finalizers"] = json!([FOREGROUND]);
            pod
        };
        let (a, b, c) = (waiting(owned("a", "c")), owned("b", "a"), owned("c", "b"));
        let of = |name: &str, b: &Value, c: &Value| {
            plan(&Key::new("pods", "ns", name), vec![a.clone(), b.clone(), c.clone()])
        };
        assert_eq!(of("a", &b, &c), ["delete pods ns/b"]);
        let b = waiting(b);
        assert_eq!(of("b", &b, &c), ["patch pods ns/c", "delete pods ns/c"], "what a waits for waits for a");
        let mut c = waiting(c);
        c["metadata"]["ownerReferences"][0]["blockOwnerDeletion"] = json!(false);
        assert_eq!(of("b", &b, &c), ["patch pods ns/b"], "its finalizer goes");
    }

    #[test]
    fn orphans_forget_their_owner_first() {
        let key = Key::new("replicasets.apps", "ns", "rs");
        let done = plan(&key, vec![owner(Some(ORPHAN)), pod("p")]);
        assert_eq!(done, ["patch pods ns/p", "patch replicasets.apps ns/rs"]);
    }

    #[test]
    fn every_kind_of_the_walk_through_is_collected() {
        let kinds: Vec<String> = kinds().map(Resource::qualified).collect();
        for kind in ["pods", "replicasets.apps", "deployments.apps", "endpointslices.discovery.k8s.io"] {
            assert!(kinds.contains(&kind.to_owned()), "{kind} is not among {kinds:?}");
        }
    }
}
