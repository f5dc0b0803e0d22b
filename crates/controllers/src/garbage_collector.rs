//! What is owned goes with its owners: later (background), before them (foreground) or not at all (orphan).

use std::sync::Arc;

use api_types::{Resource, meta, table};
use client::{Change, DeleteParams, Patch, Propagation};
use serde_json::{Value, json};

use crate::controller::{Controller, Key, Listers, Now, OWNER_INDEX, UID_INDEX, Watch};
use crate::plan::{Action, Plan};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

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
        "garbage-collector-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        kinds().map(|resource| Watch { resource, keys: concerned }).collect()
    }

    fn reconcile(&self, listers: &Listers, key: &Key, _now: Now) -> Plan {
        let Some(resource) = resource_of(&key.resource) else { return Plan::nothing() };
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

fn resource_of(qualified: &str) -> Option<&'static Resource> {
    kinds().find(|resource| resource.qualified() == qualified)
}

/// The object itself, and those that are tied to it when it goes.
fn concerned(change: &Change, listers: &Listers) -> Vec<Key> {
    let object = change.object();
    let Some(resource) = table::by_api_version(meta::api_version(object), meta::kind(object)) else {
        return Vec::new();
    };
    let mut keys = match change {
        Change::Deleted(_) => {
            dependents(listers, object).into_iter().map(|(kind, found)| Key::of(&kind, &found)).collect()
        }
        Change::Added(_) | Change::Updated { .. } => vec![Key::of(&resource.qualified(), object)],
    };
    // An owner that waits for its dependents looks again when one goes.
    if matches!(change, Change::Deleted(_)) {
        keys.extend(owners_that_wait(listers, object));
    }
    keys
}

fn owners_that_wait(listers: &Listers, object: &Value) -> Vec<Key> {
    let owners = meta::owner_references(object);
    let kinds = owners.iter().filter_map(|owner| {
        let kind = table::by_api_version(&owner.api_version, &owner.kind)?;
        Some(Key::new(
            &kind.qualified(),
            if kind.namespaced { meta::namespace(object) } else { "" },
            &owner.name,
        ))
    });
    kinds.filter(|key| listers.object(key).is_some_and(|owner| meta::is_being_deleted(&owner))).collect()
}

/// Everything that names `owner` among its owners, with its kind.
fn dependents(listers: &Listers, owner: &Value) -> Vec<(String, Arc<Value>)> {
    let uid = meta::uid(owner);
    let found = listers.all().flat_map(|(resource, lister)| {
        lister.by_index(OWNER_INDEX, uid).into_iter().map(|object| (resource.clone(), object))
    });
    found.collect()
}

/// An object whose owners are all gone goes; one of which some are left loses the names of the others.
fn dependent(listers: &Listers, resource: &'static Resource, object: &Arc<Value>) -> Plan {
    let owners = meta::owner_references(object);
    let gone = |uid: &str| !listers.all().any(|(_, lister)| !lister.by_index(UID_INDEX, uid).is_empty());
    let known = |owner: &meta::OwnerReference| {
        let kind = table::by_api_version(&owner.api_version, &owner.kind);
        kind.is_some_and(|kind| listers.get(&kind.qualified()).is_some())
    };
    if owners.is_empty() || !owners.iter().all(|owner| known(owner) && gone(&owner.uid)) {
        return Plan::nothing();
    }
    Plan::of(Action::Collect(resource, object.clone()))
}

/// Dependents go first; the owner when none that blocks it is left.
fn foreground(listers: &Listers, resource: &'static Resource, owner: &Arc<Value>) -> Plan {
    let mut actions = Vec::new();
    let mut blocked = false;
    for (kind, found) in dependents(listers, owner) {
        let Some(kind) = resource_of(&kind) else { continue };
        let references = meta::owner_references(&found);
        let blocks = references
            .iter()
            .any(|reference| reference.uid == meta::uid(owner) && reference.block_owner_deletion);
        blocked |= blocks;
        if !meta::is_being_deleted(&found) {
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

/// Dependents forget the owner, then it goes.
fn orphan(listers: &Listers, resource: &'static Resource, owner: &Arc<Value>) -> Plan {
    let mut actions = Vec::new();
    for (kind, found) in dependents(listers, owner) {
        let Some(kind) = resource_of(&kind) else { continue };
        let references = found["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
        let kept: Vec<Value> =
            references.into_iter().filter(|reference| reference["uid"] != owner["metadata"]["uid"]).collect();
        let metadata = json!({ "uid": meta::uid(&found), "ownerReferences": kept });
        actions.push(Action::Patch(kind, found.clone(), Patch::Merge(json!({ "metadata": metadata }))));
    }
    actions.push(without_finalizer(resource, owner, ORPHAN));
    Plan { actions, recheck_after: None }
}

fn without_finalizer(resource: &'static Resource, object: &Arc<Value>, finalizer: &str) -> Action {
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
