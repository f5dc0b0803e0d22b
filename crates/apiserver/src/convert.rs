//! Between the stored form of an object and the version that a client asked for.
//!
//! A kind is stored in one version. Versions that differ in nothing but their name are renamed; Events and
//! HorizontalPodAutoscalers, which are served in two shapes, are translated.

use api_types::schema::{self, MessageId};
use api_types::status::Status;
use api_types::{Resource, Value, codec, meta, table};
use mvcc::KeyValue;
use serde_json::{Map, json};

/// An object as a tree in the resource's version, `resourceVersion` filled in.
pub(crate) fn decode(resource: &Resource, kv: &KeyValue) -> Result<Value, Status> {
    let value = codec::from_stored(&kv.value, kv.mod_revision).map_err(unreadable)?;
    Ok(to_version(value, &resource.group, &resource.version))
}

/// [`decode`] for who changes the object; see [`codec::from_stored_for_update`].
pub(crate) fn decode_for_update(resource: &Resource, kv: &KeyValue) -> Result<Value, Status> {
    let value = codec::from_stored_for_update(&kv.value, kv.mod_revision).map_err(unreadable)?;
    Ok(to_version(value, &resource.group, &resource.version))
}

/// The stored object, if it is in the resource's own version, so that it can be written without a tree.
pub(crate) fn native<'a>(resource: &Resource, stored: &'a [u8]) -> Option<codec::Unknown<'a>> {
    let unknown = codec::unwrap_unknown(stored).ok()?;
    let own = match unknown.api_version.split_once('/') {
        Some((group, version)) => group == resource.group && version == resource.version,
        None => resource.group.is_empty() && unknown.api_version == resource.version,
    };
    own.then_some(unknown)
}

/// The stored form of an object.
pub(crate) fn encode(resource: &Resource, value: &Value) -> Result<Vec<u8>, Status> {
    let (group, version, message) = storage(resource);
    let api_version = table::api_version(group, version);
    let stored = if resource.group == group && resource.version == version {
        codec::to_stored(message, &api_version, &resource.kind, value)
    } else {
        let converted = to_version(value.clone(), group, version);
        codec::to_stored(message, &api_version, &resource.kind, &converted)
    };
    stored.map_err(|error| Status::bad_request(error.to_string()))
}

/// The version that objects are stored in. CustomResourceDefinitions have two shapes that are not translated: they
/// are stored as they are served.
fn storage(resource: &Resource) -> (&str, &str, MessageId) {
    let own = (resource.group.as_str(), resource.version.as_str(), resource.built_in_message());
    if resource.is_storage_version() || resource.group == "apiextensions.k8s.io" {
        return own;
    }
    let (group, version) = (resource.storage_group.as_str(), resource.storage_version.as_str());
    match schema::lookup(group, version, &resource.kind) {
        Some(message) => (group, version, message),
        None => own,
    }
}

/// The same object in another version of its kind.
pub(crate) fn to_version(mut value: Value, group: &str, version: &str) -> Value {
    let wanted = table::api_version(group, version);
    let found = meta::api_version(&value).to_owned();
    if found == wanted {
        return value;
    }
    match (found.as_str(), wanted.as_str(), meta::kind(&value)) {
        ("v1", "events.k8s.io/v1", "Event") => rename(&mut value, EVENT_FIELDS, true),
        ("events.k8s.io/v1", "v1", "Event") => rename(&mut value, EVENT_FIELDS, false),
        ("autoscaling/v2", "autoscaling/v1", "HorizontalPodAutoscaler") => autoscaler_to_v1(&mut value),
        ("autoscaling/v1", "autoscaling/v2", "HorizontalPodAutoscaler") => autoscaler_to_v2(&mut value),
        _ => {}
    }
    if let Some(object) = value.as_object_mut() {
        object.insert("apiVersion".into(), wanted.into());
    }
    value
}

/// Names of an Event's fields in core/v1 and in events.k8s.io/v1.
const EVENT_FIELDS: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

fn rename(value: &mut Value, names: &[(&str, &str)], forward: bool) {
    let Some(object) = value.as_object_mut() else { return };
    for (a, b) in names {
        let (from, to) = if forward { (a, b) } else { (b, a) };
        if let Some(field) = object.remove(*from) {
            object.insert((*to).to_owned(), field);
        }
    }
}

fn autoscaler_to_v1(value: &mut Value) {
    let utilization = |list: &Value, of: &str, field: &str| -> Option<Value> {
        let cpu = list.as_array()?.iter().find(|metric| metric["resource"]["name"] == "cpu")?;
        cpu["resource"][of].get(field).cloned()
    };
    let target = utilization(&value["spec"]["metrics"], "target", "averageUtilization");
    let current = utilization(&value["status"]["currentMetrics"], "current", "averageUtilization");
    let spec = meta::child_mut(value, &["spec"]);
    for field in ["metrics", "behavior"] {
        spec.remove(field);
    }
    if let Some(target) = target {
        spec.insert("targetCPUUtilizationPercentage".into(), target);
    }
    let status = meta::child_mut(value, &["status"]);
    for field in ["currentMetrics", "conditions"] {
        status.remove(field);
    }
    if let Some(current) = current {
        status.insert("currentCPUUtilizationPercentage".into(), current);
    }
}

fn autoscaler_to_v2(value: &mut Value) {
    let spec = meta::child_mut(value, &["spec"]);
    if let Some(target) = spec.remove("targetCPUUtilizationPercentage") {
        let target = json!({"type": "Utilization", "averageUtilization": target});
        spec.insert(
            "metrics".into(),
            json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]),
        );
    }
    let status = meta::child_mut(value, &["status"]);
    if let Some(current) = status.remove("currentCPUUtilizationPercentage") {
        let current = json!({"averageUtilization": current, "averageValue": "0"});
        status.insert(
            "currentMetrics".into(),
            json!([{"type": "Resource", "resource": {"name": "cpu", "current": current}}]),
        );
    }
}

/// An object's identity and metadata only, as `meta.k8s.io/v1 PartialObjectMetadata`.
pub(crate) fn partial(value: &mut Value) -> Value {
    let metadata = match value.as_object_mut() {
        Some(object) => object.remove("metadata").unwrap_or_default(),
        None => Value::Object(Map::new()),
    };
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
}

/// A stored object that cannot be read.
pub(crate) fn unreadable(error: codec::CodecError) -> Status {
    Status::internal(format_args!("a stored object cannot be decoded: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_object_in_two_shapes() {
        let core = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e", "namespace": "n"},
            "involvedObject": {"kind": "Pod", "name": "p"}, "message": "m", "count": 2});
        let resource = table::find("events.k8s.io", "v1", "events").unwrap();
        let new = to_version(core.clone(), "events.k8s.io", "v1");
        assert_eq!((&new["note"], &new["regarding"]["name"]), (&json!("m"), &json!("p")));
        let stored = encode(resource, &new).unwrap();
        let kv = KeyValue { value: stored.into(), mod_revision: 3, ..KeyValue::default() };
        assert!(native(table::find("", "v1", "events").unwrap(), &kv.value).is_some());
        assert_eq!(decode(resource, &kv).unwrap()["note"], "m");
        assert_eq!(to_version(new, "", "v1")["message"], "m");
    }

    #[test]
    fn autoscalers_keep_their_cpu_target() {
        let old = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"},
            "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 70}});
        let new = to_version(old, "autoscaling", "v2");
        assert_eq!(new["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 70);
        let back = to_version(new, "autoscaling", "v1");
        assert_eq!(back["spec"]["targetCPUUtilizationPercentage"], 70);
    }
}
