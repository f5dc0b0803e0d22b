//! Claims outlive the pods that use them, volumes the claims that they are bound to, and classes of attributes the claims
//! and volumes that have them (upstream's `persistentvolumeclaim-protection`, `persistentvolume-protection` and
//! `volumeattributesclass-protection` controllers): the API server puts a finalizer on each, and it is taken off here.

use std::sync::Arc;

use api_types::codec::peek::Peek;
use api_types::meta;
use client::{Change, Lister, Patch};
use serde_json::{Value, json};

use crate::controller::{CLAIM_INDEX, Controller, Key, Listers, Now, Watch, kind, own_key};
use crate::plan::{Action, Plan};
use crate::template::{has_ended, is_over};

const CLAIMS: &str = "persistentvolumeclaims";
const VOLUMES: &str = "persistentvolumes";
const CLASSES: &str = "volumeattributesclasses.storage.k8s.io";
const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";
const CLASS_FINALIZER: &str = "kubernetes.io/vac-protection";
/// Where claims and volumes say which classes they have, had or are to have.
const CLASS_PATHS: [&[&str]; 3] = [
    &["spec", "volumeAttributesClassName"],
    &["status", "currentVolumeAttributesClassName"],
    &["status", "modifyVolumeStatus", "targetVolumeAttributesClassName"],
];

/// See the module.
pub struct StorageProtection;

impl Controller for StorageProtection {
    fn name(&self) -> &'static str {
        "storage-protection-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch { resource: kind("", "v1", CLAIMS), keys: |change, _| with_classes(CLAIMS, change) },
            Watch { resource: kind("", "v1", VOLUMES), keys: |change, _| with_classes(VOLUMES, change) },
            Watch { resource: class_kind(), keys: |change, _| own_key(CLASSES, change) },
            Watch { resource: kind("", "v1", "pods"), keys: pod_changed },
        ]
    }

    fn reconcile(&self, listers: &Listers, key: &Key, _now: Now) -> Plan {
        let Some(object) = listers.object(key).filter(|object| meta::is_being_deleted(object)) else {
            return Plan::nothing();
        };
        let (resource, finalizer, used) = match key.resource.as_str() {
            CLAIMS => (kind("", "v1", CLAIMS), CLAIM_FINALIZER, is_claimed(listers, key)),
            CLASSES => (class_kind(), CLASS_FINALIZER, has_class(listers, &key.name)),
            _ => (kind("", "v1", VOLUMES), VOLUME_FINALIZER, object["status"]["phase"] == "Bound"),
        };
        if used || !meta::has_finalizer(&object, finalizer) {
            return Plan::nothing();
        }
        Plan::of(without(resource, &object, finalizer))
    }
}

fn class_kind() -> &'static api_types::Resource {
    kind("storage.k8s.io", "v1", "volumeattributesclasses")
}

/// The claim or volume that changed, and the classes that it has or had.
fn with_classes(resource: &str, change: &Change) -> Vec<Key> {
    let objects = [Some(change.object()), change.before()].into_iter().flatten();
    let classes = objects.flat_map(|object| classes(&object.peek()));
    let classes = classes.map(|class| Key::new(CLASSES, "", &class));
    own_key(resource, change).into_iter().chain(classes).collect()
}

fn classes(object: &Peek<'_>) -> Vec<String> {
    CLASS_PATHS.iter().filter_map(|path| object.scalar(path).map(Into::into)).collect()
}

/// Whether a claim or a volume has a class. Nobody asks but for one that is to go.
fn has_class(listers: &Listers, class: &str) -> bool {
    let objects =
        [CLAIMS, VOLUMES].into_iter().filter_map(|resource| listers.get(resource)).flat_map(Lister::all);
    let at = |object: &Value, path: &[&str]| path.iter().fold(object, |at, name| &at[*name]) == class;
    objects.into_iter().any(|object| CLASS_PATHS.iter().any(|path| at(&object, path)))
}

/// The claims of a pod that has ended or is gone.
fn pod_changed(change: &Change, _: &Listers) -> Vec<Key> {
    let pod = change.object().peek();
    if !matches!(change, Change::Deleted(_)) && !has_ended(&pod) {
        return Vec::new();
    }
    claims(&pod).iter().map(|name| Key::new(CLAIMS, &pod.namespace(), name)).collect()
}

/// The claims that a pod names; an ephemeral volume's claim is called after the pod and the volume.
pub(crate) fn claims(pod: &Peek<'_>) -> Vec<String> {
    let volumes = pod.part(&["spec", "volumes"]);
    let claim = |volume: &Value| {
        if volume["ephemeral"].is_object() {
            return Some(format!("{}-{}", pod.name(), volume["name"].as_str()?));
        }
        volume["persistentVolumeClaim"]["claimName"].as_str().map(str::to_owned)
    };
    volumes.as_array().into_iter().flatten().filter_map(claim).collect()
}

fn is_claimed(listers: &Listers, key: &Key) -> bool {
    let claim = format!("{}/{}", key.namespace, key.name);
    let pods = listers.get("pods").map(|lister| lister.by_index(CLAIM_INDEX, &claim)).unwrap_or_default();
    pods.iter().any(|pod| !is_over(pod))
}

fn without(resource: &'static api_types::Resource, object: &Arc<Value>, finalizer: &str) -> Action {
    let left: Vec<&str> = meta::finalizers(object).filter(|other| *other != finalizer).collect();
    let patch = json!({
        "metadata": { "resourceVersion": meta::resource_version(object), "finalizers": left },
    });
    Action::Patch(resource.into(), object.clone(), Patch::Merge(patch))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{listers, show};

    fn protected(kind: &str, phase: &str, deleted: bool) -> Value {
        let finalizer = if kind == "PersistentVolume" { VOLUME_FINALIZER } else { CLAIM_FINALIZER };
        let mut object = json!({
            "apiVersion": "v1", "kind": kind,
            "metadata": { "name": "x", "finalizers": [finalizer, "mine"] }, "status": { "phase": phase },
        });
        if kind != "PersistentVolume" {
            object["metadata"]["namespace"] = json!("ns");
        }
        if deleted {
            object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        object
    }

    fn pod(phase: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p", "namespace": "ns" },
            "spec": { "volumes": [{ "persistentVolumeClaim": { "claimName": "x" } }] },
            "status": { "phase": phase },
        })
    }

    fn plan(resource: &str, objects: Vec<Value>) -> Plan {
        let namespace = if resource == CLAIMS { "ns" } else { "" };
        StorageProtection.reconcile(&listers(objects), &Key::new(resource, namespace, "x"), Now::at(0))
    }

    #[test]
    fn a_claim_goes_when_no_pod_uses_it() {
        let claim = |deleted| protected("PersistentVolumeClaim", "Bound", deleted);
        assert!(plan(CLAIMS, vec![claim(false)]).actions.is_empty());
        assert!(plan(CLAIMS, vec![claim(true), pod("Running")]).actions.is_empty());
        let done = plan(CLAIMS, vec![claim(true), pod("Succeeded")]);
        assert_eq!(show(&done), ["patch persistentvolumeclaims ns/x"]);
        let Action::Patch(_, _, Patch::Merge(patch)) = &done.actions[0] else { panic!("{done:?}") };
        assert_eq!(patch["metadata"]["finalizers"], json!(["mine"]));
    }

    #[test]
    fn a_class_goes_when_no_claim_and_no_volume_has_it() {
        let class = json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttributesClass", "driverName": "d",
            "metadata": { "name": "x", "finalizers": [CLASS_FINALIZER], "deletionTimestamp": "2026-01-01T00:00:00Z" },
        });
        let claim = |spec: Value, status: Value| {
            let metadata = json!({ "name": "c", "namespace": "ns" });
            json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec, "status": status })
        };
        let (named, none) = (json!({ "volumeAttributesClassName": "x" }), json!({}));
        let volume = json!({ "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": "v" }, "spec": named });
        let target = json!({ "modifyVolumeStatus": { "targetVolumeAttributesClassName": "x" } });
        let current = json!({ "currentVolumeAttributesClassName": "x" });
        for user in [
            claim(named.clone(), none.clone()),
            claim(none.clone(), current),
            claim(none.clone(), target),
            volume,
        ] {
            assert!(plan(CLASSES, vec![class.clone(), user.clone()]).actions.is_empty(), "{user}");
        }
        let other = claim(json!({ "volumeAttributesClassName": "y" }), none);
        assert_eq!(
            show(&plan(CLASSES, vec![class, other])),
            ["patch volumeattributesclasses.storage.k8s.io x"]
        );
    }

    #[test]
    fn a_volume_goes_when_it_is_not_bound() {
        assert!(plan(VOLUMES, vec![protected("PersistentVolume", "Bound", true)]).actions.is_empty());
        let done = plan(VOLUMES, vec![protected("PersistentVolume", "Released", true)]);
        assert_eq!(show(&done), ["patch persistentvolumes x"]);
    }
}
