//! Claims outlive the pods that use them, and volumes the claims that they are bound to (upstream's
//! `persistentvolumeclaim-protection` and `persistentvolume-protection` controllers): the API server puts a finalizer
//! on each, and it is taken off here.

use std::sync::Arc;

use api_types::codec::peek::Peek;
use api_types::meta;
use client::{Change, Patch};
use serde_json::{Value, json};

use crate::controller::{CLAIM_INDEX, Controller, Key, Listers, Now, Watch, kind, own_key};
use crate::plan::{Action, Plan};
use crate::template::{has_ended, is_over};

const CLAIMS: &str = "persistentvolumeclaims";
const VOLUMES: &str = "persistentvolumes";
const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";

/// See the module.
pub struct StorageProtection;

impl Controller for StorageProtection {
    fn name(&self) -> &'static str {
        "storage-protection-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch { resource: kind("", "v1", CLAIMS), keys: |change, _| own_key(CLAIMS, change) },
            Watch { resource: kind("", "v1", VOLUMES), keys: |change, _| own_key(VOLUMES, change) },
            Watch { resource: kind("", "v1", "pods"), keys: pod_changed },
        ]
    }

    fn reconcile(&self, listers: &Listers, key: &Key, _now: Now) -> Plan {
        let Some(object) = listers.object(key).filter(|object| meta::is_being_deleted(object)) else {
            return Plan::nothing();
        };
        let (resource, finalizer, used) = match key.resource.as_str() {
            CLAIMS => (kind("", "v1", CLAIMS), CLAIM_FINALIZER, is_claimed(listers, key)),
            _ => (kind("", "v1", VOLUMES), VOLUME_FINALIZER, object["status"]["phase"] == "Bound"),
        };
        if used || !meta::has_finalizer(&object, finalizer) {
            return Plan::nothing();
        }
        Plan::of(without(resource, &object, finalizer))
    }
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
    fn a_volume_goes_when_it_is_not_bound() {
        assert!(plan(VOLUMES, vec![protected("PersistentVolume", "Bound", true)]).actions.is_empty());
        let done = plan(VOLUMES, vec![protected("PersistentVolume", "Released", true)]);
        assert_eq!(show(&done), ["patch persistentvolumes x"]);
    }
}
