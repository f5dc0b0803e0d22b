//! Reading and writing the metadata of an object. Missing parts read as empty.
//!
//! ```
//! use api_types::meta;
//! let mut pod = serde_json::json!({"metadata": {"name": "a"}});
//! meta::set_label(&mut pod, "app", "web");
//! assert_eq!(meta::label(&pod, "app"), Some("web"));
//! assert_eq!(meta::namespace(&pod), "");
//! ```

use serde_json::{Map, Value};

/// One owner of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerReference {
    pub api_version: String,
    pub kind: String,
    pub name: String,
    pub uid: String,
    /// Absent reads as false.
    pub controller: bool,
    /// Absent reads as false.
    pub block_owner_deletion: bool,
}

impl OwnerReference {
    /// A reference that makes `owner` the managing controller.
    pub fn controller_of(owner: &Value) -> Self {
        Self {
            api_version: api_version(owner).into(),
            kind: kind(owner).into(),
            name: name(owner).into(),
            uid: uid(owner).into(),
            controller: true,
            block_owner_deletion: true,
        }
    }

    pub fn to_value(&self) -> Value {
        let mut object = Map::new();
        object.insert("apiVersion".into(), self.api_version.as_str().into());
        object.insert("kind".into(), self.kind.as_str().into());
        object.insert("name".into(), self.name.as_str().into());
        object.insert("uid".into(), self.uid.as_str().into());
        if self.controller {
            object.insert("controller".into(), true.into());
        }
        if self.block_owner_deletion {
            object.insert("blockOwnerDeletion".into(), true.into());
        }
        Value::Object(object)
    }

    fn from_value(value: &Value) -> Self {
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        Self {
            api_version: text("apiVersion"),
            kind: text("kind"),
            name: text("name"),
            uid: text("uid"),
            controller: value["controller"] == true,
            block_owner_deletion: value["blockOwnerDeletion"] == true,
        }
    }
}

fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object["metadata"][key].as_str().unwrap_or_default()
}

pub fn api_version(object: &Value) -> &str {
    object["apiVersion"].as_str().unwrap_or_default()
}

pub fn kind(object: &Value) -> &str {
    object["kind"].as_str().unwrap_or_default()
}

/// (group, version) of `apiVersion`.
pub fn group_version(object: &Value) -> (&str, &str) {
    let text = api_version(object);
    text.split_once('/').unwrap_or(("", text))
}

pub fn name(object: &Value) -> &str {
    text(object, "name")
}

pub fn generate_name(object: &Value) -> &str {
    text(object, "generateName")
}

pub fn namespace(object: &Value) -> &str {
    text(object, "namespace")
}

/// `namespace/name`, or `name` for cluster-scoped objects: the key of queues and listers.
pub fn key(object: &Value) -> String {
    match namespace(object) {
        "" => name(object).to_owned(),
        namespace => format!("{namespace}/{}", name(object)),
    }
}

pub fn uid(object: &Value) -> &str {
    text(object, "uid")
}

pub fn resource_version(object: &Value) -> &str {
    text(object, "resourceVersion")
}

pub fn creation_timestamp(object: &Value) -> &str {
    text(object, "creationTimestamp")
}

/// Empty when the object is not being deleted.
pub fn deletion_timestamp(object: &Value) -> &str {
    text(object, "deletionTimestamp")
}

pub fn is_being_deleted(object: &Value) -> bool {
    !deletion_timestamp(object).is_empty()
}

pub fn deletion_grace_period_seconds(object: &Value) -> Option<i64> {
    object["metadata"]["deletionGracePeriodSeconds"].as_i64()
}

pub fn generation(object: &Value) -> i64 {
    object["metadata"]["generation"].as_i64().unwrap_or_default()
}

/// Whether a DNS name is a domain or below it.
pub fn is_within(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// The labels as they stand; none when there are none.
pub fn labels(object: &Value) -> Option<&Map<String, Value>> {
    object["metadata"]["labels"].as_object()
}

pub fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    labels(object)?.get(key)?.as_str()
}

pub fn annotations(object: &Value) -> Option<&Map<String, Value>> {
    object["metadata"]["annotations"].as_object()
}

pub fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    annotations(object)?.get(key)?.as_str()
}

pub fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    object["metadata"]["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str)
}

pub fn has_finalizer(object: &Value, finalizer: &str) -> bool {
    finalizers(object).any(|f| f == finalizer)
}

pub fn owner_references(object: &Value) -> Vec<OwnerReference> {
    let list = object["metadata"]["ownerReferences"].as_array();
    list.map(|l| l.iter().map(OwnerReference::from_value).collect()).unwrap_or_default()
}

/// The owner that manages the object.
pub fn controller(object: &Value) -> Option<OwnerReference> {
    owner_references(object).into_iter().find(|o| o.controller)
}

/// Whether `owner` is the managing controller, by uid.
pub fn is_controlled_by(object: &Value, owner: &Value) -> bool {
    controller(object).is_some_and(|c| c.uid == uid(owner))
}

/// The object as a map; anything else is replaced by an empty one.
fn object_of(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("made an object above")
}

/// The metadata, made when missing.
pub fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    object_of(object_of(object).entry("metadata").or_insert(Value::Null))
}

/// The sub-object at `path`, made when missing: `child_mut(&mut pod, &["spec", "securityContext"])`.
pub fn child_mut<'a>(object: &'a mut Value, path: &[&str]) -> &'a mut Map<String, Value> {
    let mut at = object_of(object);
    for name in path {
        at = object_of(at.entry(*name).or_insert(Value::Null));
    }
    at
}

fn set(object: &mut Value, key: &str, text: &str) {
    if text.is_empty() {
        metadata_mut(object).remove(key);
    } else {
        metadata_mut(object).insert(key.into(), text.into());
    }
}

pub fn set_kind(object: &mut Value, api_version: &str, kind: &str) {
    let map = object_of(object);
    map.insert("apiVersion".into(), api_version.into());
    map.insert("kind".into(), kind.into());
}

pub fn set_name(object: &mut Value, name: &str) {
    set(object, "name", name);
}

pub fn set_namespace(object: &mut Value, namespace: &str) {
    set(object, "namespace", namespace);
}

pub fn set_uid(object: &mut Value, uid: &str) {
    set(object, "uid", uid);
}

/// Empty removes it.
pub fn set_resource_version(object: &mut Value, version: &str) {
    set(object, "resourceVersion", version);
}

pub fn set_creation_timestamp(object: &mut Value, time: &str) {
    set(object, "creationTimestamp", time);
}

pub fn set_deletion_timestamp(object: &mut Value, time: &str) {
    set(object, "deletionTimestamp", time);
}

pub fn set_deletion_grace_period_seconds(object: &mut Value, seconds: Option<i64>) {
    match seconds {
        Some(seconds) => metadata_mut(object).insert("deletionGracePeriodSeconds".into(), seconds.into()),
        None => metadata_mut(object).remove("deletionGracePeriodSeconds"),
    };
}

pub fn set_generation(object: &mut Value, generation: i64) {
    metadata_mut(object).insert("generation".into(), generation.into());
}

pub fn set_label(object: &mut Value, key: &str, value: &str) {
    child_mut(object, &["metadata", "labels"]).insert(key.into(), value.into());
}

pub fn set_annotation(object: &mut Value, key: &str, value: &str) {
    child_mut(object, &["metadata", "annotations"]).insert(key.into(), value.into());
}

/// An empty list removes the field.
pub fn set_finalizers(object: &mut Value, finalizers: Vec<String>) {
    set_list(object, "finalizers", finalizers.into_iter().map(Value::from).collect());
}

/// An empty list removes the field.
pub fn set_owner_references(object: &mut Value, owners: &[OwnerReference]) {
    set_list(object, "ownerReferences", owners.iter().map(OwnerReference::to_value).collect());
}

fn set_list(object: &mut Value, key: &str, list: Vec<Value>) {
    if list.is_empty() {
        metadata_mut(object).remove(key);
    } else {
        metadata_mut(object).insert(key.into(), Value::Array(list));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn missing_parts_read_as_empty() {
        let object = json!({});
        assert_eq!((name(&object), uid(&object), generation(&object)), ("", "", 0));
        assert!(finalizers(&object).next().is_none());
        assert!(controller(&object).is_none());
    }

    #[test]
    fn the_controller_is_found_by_uid() {
        let owner =
            json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "r", "uid": "u"}});
        let mut pod = json!({"metadata": null});
        set_owner_references(&mut pod, &[OwnerReference::controller_of(&owner)]);
        assert!(is_controlled_by(&pod, &owner));
        set_owner_references(&mut pod, &[]);
        assert!(!is_controlled_by(&pod, &owner));
        assert!(pod["metadata"].as_object().unwrap().is_empty());
    }
}
