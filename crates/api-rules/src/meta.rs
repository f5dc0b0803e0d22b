//! What holds for the metadata of every object (upstream: `apimachinery/pkg/api/validation/objectmeta.go` and
//! `apiserver/pkg/registry/rest`).

use crate::errors::{At, Errors, IMMUTABLE, NON_NEGATIVE};
use crate::format;
use crate::look::{Look, object_mut, remove, set};
use serde_json::{Value, json};

const META: At<'static> = At::root("metadata");

/// Most bytes that all annotation keys and values of an object may have together.
const ANNOTATIONS_MAX_BYTES: usize = 256 * 1024;
/// Longest `fieldManager` in bytes.
const MANAGER_MAX_BYTES: usize = 128;
/// Longest `subresource` of a managed fields entry in bytes.
const SUBRESOURCE_MAX_BYTES: usize = 256;
/// Characters of a generated name that come from `generateName`; 5 more are random.
const GENERATED_BASE_MAX: usize = 58;

/// Which names a kind takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameFormat {
    /// RFC 1123 subdomain (most kinds).
    Subdomain,
    /// RFC 1123 label.
    Label,
    /// One URL path segment (RBAC kinds and custom formats checked by the kind).
    PathSegment,
    /// Checked by the kind's own rules only.
    Own,
}

impl NameFormat {
    fn check(self, name: &str) -> format::Problems {
        match self {
            NameFormat::Subdomain => format::dns1123_subdomain(name),
            NameFormat::Label => format::dns1123_label(name),
            NameFormat::PathSegment => format::path_segment(name),
            NameFormat::Own => format::Problems::new(),
        }
    }
}

/// The rules for metadata on every write.
pub fn validate(object: &Value, namespaced: bool, names: NameFormat, errors: &mut Errors) {
    let meta = object.at("metadata");
    validate_names(meta, names, errors);
    validate_namespace(meta.text("namespace"), namespaced, errors);
    if meta.int("generation") < 0 {
        errors.invalid(META.at("generation"), meta.int("generation"), NON_NEGATIVE);
    }
    validate_labels(meta.at("labels"), META.at("labels"), errors);
    validate_annotations(meta.at("annotations"), META.at("annotations"), errors);
    validate_owners(meta.items("ownerReferences"), errors);
    validate_finalizers(meta, errors);
    validate_managed_fields(meta.items("managedFields"), errors);
}

fn validate_names(meta: &Value, names: NameFormat, errors: &mut Errors) {
    let (name, base) = (meta.text("name"), meta.text("generateName"));
    if !base.is_empty() {
        errors.format(META.at("generateName"), base, names.check(&masked_prefix(base)));
    }
    if name.is_empty() {
        errors.required(META.at("name"), "name or generateName is required");
    } else {
        errors.format(META.at("name"), name, names.check(name));
    }
}

/// A prefix may end with a hyphen: the check sees letters in place of its end.
fn masked_prefix(base: &str) -> String {
    match base.strip_suffix('-') {
        Some(rest) if base.chars().count() > 1 => {
            let mut kept: String = rest.to_owned();
            kept.pop();
            kept + "a"
        }
        _ => base.to_owned(),
    }
}

fn validate_namespace(namespace: &str, namespaced: bool, errors: &mut Errors) {
    let at = META.at("namespace");
    match (namespaced, namespace.is_empty()) {
        (true, true) => errors.required(at, ""),
        (true, false) => errors.format(at, namespace, format::dns1123_label(namespace)),
        (false, false) => errors.forbidden(at, "not allowed on this type"),
        (false, true) => {}
    }
}

/// Keys and values of a label map.
pub fn validate_labels(labels: &Value, at: At<'_>, errors: &mut Errors) {
    for (key, value) in labels.entries("") {
        errors.format(at, key, format::qualified_name(key));
        let value = value.as_str().unwrap_or("");
        errors.format(at, value, format::label_value(value));
    }
}

/// Keys and total size of annotations.
pub fn validate_annotations(annotations: &Value, at: At<'_>, errors: &mut Errors) {
    let mut total = 0;
    for (key, value) in annotations.entries("") {
        errors.format(at, key, format::qualified_name(&key.to_lowercase()));
        total += key.len() + value.as_str().map_or(0, str::len);
    }
    if total > ANNOTATIONS_MAX_BYTES {
        errors.too_long(at, ANNOTATIONS_MAX_BYTES);
    }
}

fn validate_owners(owners: &[Value], errors: &mut Errors) {
    let list = META.at("ownerReferences");
    let mut controller: Option<&Value> = None;
    for (i, owner) in owners.iter().enumerate() {
        let at = list.index(i);
        validate_owner(owner, at, errors);
        if !owner.flag("controller") {
            continue;
        }
        match controller {
            None => controller = Some(owner),
            Some(first) => errors.invalid(
                list,
                Value::Array(owners.to_vec()),
                format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {} and {}",
                    owner_text(first),
                    owner_text(owner)
                ),
            ),
        }
    }
}

fn owner_text(owner: &Value) -> String {
    format!("{}/{}", owner.text("kind"), owner.text("name"))
}

fn validate_owner(owner: &Value, at: At<'_>, errors: &mut Errors) {
    let version = owner.text("apiVersion");
    let group_version = version.split('/').count() <= 2 && !version.ends_with('/');
    if !group_version {
        errors.invalid(at.at("apiVersion"), version, "must be <group>/<version> or <version>");
    }
    for field in ["apiVersion", "kind", "name", "uid"] {
        if owner.text(field).is_empty() {
            errors.required(at.at(field), "must not be empty");
        }
    }
    if version == "v1" && owner.text("kind") == "Event" {
        errors.invalid(at, owner.clone(), "/v1, Kind=Event is disallowed from being an owner");
    }
}

fn validate_finalizers(meta: &Value, errors: &mut Errors) {
    let at = META.at("finalizers");
    let all: Vec<&str> = meta.texts("finalizers").collect();
    for name in &all {
        errors.format(at, name, format::qualified_name(name));
    }
    if all.contains(&"orphan") && all.contains(&"foregroundDeletion") {
        errors.invalid(at, json!(all), "finalizer orphan and foregroundDeletion cannot be both set");
    }
}

/// Group and version of the object.
pub fn group_version(object: &Value) -> (&str, &str) {
    let both = object.text("apiVersion");
    both.split_once('/').unwrap_or(("", both))
}

/// Finalizers of built-in kinds have a domain, unless they are Kubernetes' own.
pub fn validate_qualified_finalizers(object: &Value, errors: &mut Errors) {
    let list = META.at("finalizers");
    for (i, name) in object.items("metadata.finalizers").iter().enumerate() {
        let name = name.as_str().unwrap_or("");
        if !name.contains('/') && !matches!(name, "kubernetes" | "orphan" | "foregroundDeletion") {
            let text = "name is neither a standard finalizer name nor is it fully qualified";
            errors.invalid(list.index(i), name, text);
        }
    }
}

fn validate_managed_fields(entries: &[Value], errors: &mut Errors) {
    let list = META.at("managedFields");
    for (i, entry) in entries.iter().enumerate() {
        let at = list.index(i);
        let operation = entry.text("operation");
        if !matches!(operation, "Apply" | "Update") {
            errors.invalid(at.at("operation"), operation, "must be `Apply` or `Update`");
        }
        let fields_type = entry.text("fieldsType");
        if !matches!(fields_type, "" | "FieldsV1") {
            errors.invalid(at.at("fieldsType"), fields_type, "must be `FieldsV1`");
        }
        validate_manager(entry.text("manager"), at.at("manager"), errors);
        if entry.text("subresource").len() > SUBRESOURCE_MAX_BYTES {
            errors.too_long(at.at("subresource"), SUBRESOURCE_MAX_BYTES);
        }
    }
}

/// A field manager's name: at most 128 printable bytes.
pub fn validate_manager(manager: &str, at: At<'_>, errors: &mut Errors) {
    if manager.len() > MANAGER_MAX_BYTES {
        errors.too_long(at, MANAGER_MAX_BYTES);
    }
    let is_unprintable = |c: char| c.is_control() || c.is_whitespace() && c != ' ';
    for (index, c) in manager.char_indices().filter(|(_, c)| is_unprintable(*c)) {
        let why = format!("invalid character U+{:04X} (at position {index})", u32::from(c));
        errors.invalid(at, manager, why);
    }
}

/// Checks a `fieldManager` query parameter.
pub fn check_field_manager(manager: &str) -> Vec<api_types::field::FieldError> {
    let mut errors = Errors::new();
    validate_manager(manager, At::root("fieldManager"), &mut errors);
    errors.done()
}

/// What an update may not do to metadata. `unconditional`: whether the kind takes updates without a version.
pub fn validate_update(new: &Value, old: &Value, unconditional: bool, errors: &mut Errors) {
    let (new, old) = (new.at("metadata"), old.at("metadata"));
    new_finalizers_while_deleted(new, old, errors);
    if !unconditional && new.text("resourceVersion").is_empty() {
        errors.invalid(
            META.at("resourceVersion"),
            new.text("resourceVersion"),
            "must be specified for an update",
        );
    }
    if new.int("generation") < old.int("generation") {
        errors.invalid(META.at("generation"), new.int("generation"), "must not be decremented");
    }
    for field in
        ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"]
    {
        if new.at(field) != old.at(field) {
            errors.invalid(META.at(field), new.at(field).clone(), IMMUTABLE);
        }
    }
}

fn new_finalizers_while_deleted(new: &Value, old: &Value, errors: &mut Errors) {
    if !old.has("deletionTimestamp") {
        return;
    }
    let known = old.items("finalizers");
    let added: Vec<String> =
        new.items("finalizers").iter().filter(|f| !known.contains(f)).map(ToString::to_string).collect();
    if !added.is_empty() {
        errors.forbidden(
            META.at("finalizers"),
            format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                added.join(", ")
            ),
        );
    }
}

/// Clears what a client may not set on a new object; uid and creation time are [`fill_system_fields`]'s.
pub fn prepare_create(object: &mut Value) {
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"] {
        remove(object, &format!("metadata.{field}"));
    }
    object_mut(object, "metadata");
}

/// Fills the identity of a new object. The name, when only a prefix is given, is completed by the caller's random
/// `suffix` (5 characters of the alphabet that avoids words).
pub fn fill_system_fields(object: &mut Value, now: &str, uid: &str, suffix: &str) {
    if object.text("metadata.name").is_empty() && !object.text("metadata.generateName").is_empty() {
        let name = generated_name(object.text("metadata.generateName"), suffix);
        set(object, "metadata.name", Value::from(name));
    }
    set(object, "metadata.creationTimestamp", Value::from(now));
    set(object, "metadata.uid", Value::from(uid));
}

/// `base` cut to 58 characters and the suffix.
pub fn generated_name(base: &str, suffix: &str) -> String {
    let end = base.char_indices().nth(GENERATED_BASE_MAX).map_or(base.len(), |(i, _)| i);
    format!("{}{suffix}", &base[..end])
}

/// Takes over from the stored object what an update cannot change or left out.
pub fn prepare_update(new: &mut Value, old: &Value) {
    let old = old.at("metadata");
    remove(new, "metadata.selfLink");
    for field in ["uid", "creationTimestamp"] {
        if new.at("metadata").text(field).is_empty() {
            set(new, &format!("metadata.{field}"), old.at(field).clone());
        }
    }
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds"] {
        if old.has(field) || !new.at("metadata").has(field) {
            set(new, &format!("metadata.{field}"), old.at(field).clone());
        }
    }
    set(new, "metadata.generation", old.at("generation").clone());
    if !new.at("metadata").has("managedFields") && old.has("managedFields") {
        set(new, "metadata.managedFields", old.at("managedFields").clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(object: &Value) -> Vec<String> {
        let mut errors = Errors::new();
        validate(object, true, NameFormat::Subdomain, &mut errors);
        errors.done().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn names_and_namespaces() {
        assert!(problems(&json!({"metadata": {"name": "a", "namespace": "b"}})).is_empty());
        assert_eq!(
            problems(&json!({"metadata": {}})),
            [
                "metadata.name: Required value: name or generateName is required",
                "metadata.namespace: Required value"
            ]
        );
        let bad = problems(&json!({"metadata": {"name": "A_b", "namespace": "b"}}));
        assert!(
            bad[0].starts_with("metadata.name: Invalid value: \"A_b\": a lowercase RFC 1123 subdomain"),
            "{bad:?}"
        );
        assert!(
            problems(&json!({"metadata": {"name": "x", "generateName": "x-", "namespace": "b"}})).is_empty()
        );
    }

    #[test]
    fn two_controllers_and_bad_owner() {
        let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true});
        let found = problems(
            &json!({"metadata": {"name": "a", "namespace": "b", "ownerReferences": [owner, owner]}}),
        );
        assert!(found[0].contains("Found \"true\" in references for Pod/p and Pod/p"), "{found:?}");
    }

    #[test]
    fn updates_keep_identity() {
        let old = json!({"metadata": {"name": "a", "uid": "1", "creationTimestamp": "t", "generation": 3, "resourceVersion": "5",
            "deletionTimestamp": "d", "finalizers": ["a/b"]}});
        let mut new = json!({"metadata": {"name": "a", "generation": 9, "resourceVersion": "5", "finalizers": ["a/b", "c/d"]}});
        prepare_update(&mut new, &old);
        assert_eq!(new.at("metadata.generation"), 3);
        assert_eq!(new.text("metadata.deletionTimestamp"), "d");
        let mut errors = Errors::new();
        validate_update(&new, &old, false, &mut errors);
        let found: Vec<String> = errors.done().iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"c/d\"}"
            ]
        );
    }

    #[test]
    fn generated_names_are_cut() {
        assert_eq!(generated_name("web-", "bcdfg"), "web-bcdfg");
        assert_eq!(generated_name(&"x".repeat(80), "bcdfg").len(), 63);
    }
}
