//! Environment variables and where their values come from.

use super::containers::Around;
use crate::errors::{At, Errors};
use crate::format;
use crate::look::{Look, quantity};
use serde_json::Value;

const FIELD_PATHS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// Field paths that are known but not for every use.
const OTHER_PATHS: &[&str] =
    &["metadata.annotations", "metadata.labels", "spec.restartPolicy", "spec.schedulerName", "status.phase"];
const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const SOURCES: &[&str] = &["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];
const BYTE_DIVISORS: &[&str] =
    &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

/// `env` and `envFrom` of a container.
pub(super) fn validate(container: &Value, around: &Around<'_>, at: At<'_>, errors: &mut Errors) {
    let list = at.at("env");
    for (i, variable) in container.items("env").iter().enumerate() {
        let at = list.index(i);
        let name = variable.text("name");
        if name.is_empty() {
            errors.required(at.at("name"), "");
        } else {
            errors.format(at.at("name"), name, format::env_var_name(name));
        }
        if variable.has("valueFrom") {
            value_from(variable, around, at.at("valueFrom"), errors);
        }
    }
    let list = at.at("envFrom");
    for (i, source) in container.items("envFrom").iter().enumerate() {
        from(source, list.index(i), errors);
    }
}

fn value_from(variable: &Value, around: &Around<'_>, at: At<'_>, errors: &mut Errors) {
    let source = variable.at("valueFrom");
    let set = SOURCES.iter().filter(|s| source.has(s)).count();
    if source.has("fieldRef") {
        field_ref(source.at("fieldRef"), FIELD_PATHS, at.at("fieldRef"), errors);
    }
    if source.has("resourceFieldRef") {
        resource_ref(source.at("resourceFieldRef"), false, at.at("resourceFieldRef"), errors);
    }
    for kind in ["configMapKeyRef", "secretKeyRef"] {
        if source.has(kind) {
            key_ref(source.at(kind), at.at(kind), errors);
        }
    }
    if source.has("fileKeyRef") {
        file_key(source.at("fileKeyRef"), around, at.at("fileKeyRef"), errors);
    }
    if set == 0 {
        let text = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
        errors.invalid(at, "", text);
    } else if !variable.text("value").is_empty() {
        errors.invalid(at, "", "may not be specified when `value` is not empty");
    } else if set > 1 {
        errors.invalid(at, "", "may not have more than one field specified at a time");
    }
}

/// A downward API field; `allowed` are the paths without subscript.
pub(super) fn field_ref(field: &Value, allowed: &[&str], at: At<'_>, errors: &mut Errors) {
    let path = field.text("fieldPath");
    let path_at = at.at("fieldPath");
    if field.text("apiVersion").is_empty() {
        errors.required(at.at("apiVersion"), "");
        return;
    }
    if path.is_empty() {
        errors.required(path_at, "");
        return;
    }
    if let Some((base, key)) = subscript(path) {
        match base {
            "metadata.annotations" => {
                errors.format(path_at, path, format::qualified_name(&key.to_lowercase()))
            }
            "metadata.labels" => errors.format(path_at, path, format::qualified_name(key)),
            _ => {
                let text =
                    format!("error converting fieldPath: field label does not support subscript: {path}");
                errors.invalid(path_at, path, text);
            }
        }
    } else if path != "spec.host" && !FIELD_PATHS.contains(&path) && !OTHER_PATHS.contains(&path) {
        let text = format!("error converting fieldPath: field label not supported: {path}");
        errors.invalid(path_at, path, text);
    } else if !allowed.contains(&if path == "spec.host" { "spec.nodeName" } else { path }) {
        errors.not_supported(path_at, path, allowed);
    }
}

/// `base['key']` in its two parts.
fn subscript(path: &str) -> Option<(&str, &str)> {
    path.strip_suffix("']")?.split_once("['")
}

/// A resource of a container; `in_volume` when the container must be named.
pub(super) fn resource_ref(reference: &Value, in_volume: bool, at: At<'_>, errors: &mut Errors) {
    let resource = reference.text("resource");
    if in_volume && reference.text("containerName").is_empty() {
        errors.required(at.at("containerName"), "");
    } else if resource.is_empty() {
        errors.required(at.at("resource"), "");
    } else if !RESOURCES.contains(&resource) && !is_huge_pages(resource) {
        errors.not_supported(at.at("resource"), resource, RESOURCES);
    }
    divisor(resource, reference.at("divisor"), at, errors);
}

fn is_huge_pages(resource: &str) -> bool {
    resource.starts_with("requests.hugepages-") || resource.starts_with("limits.hugepages-")
}

fn divisor(resource: &str, divisor: &Value, at: At<'_>, errors: &mut Errors) {
    let Some(amount) = quantity(divisor).filter(|q| !q.is_zero()) else { return };
    let text = amount.to_string();
    let (allowed, name): (&[&str], &str) = match resource.split_once('.').map_or("", |(_, name)| name) {
        "cpu" => (&["1m", "1"], "cpu"),
        "memory" => (BYTE_DIVISORS, "memory"),
        "ephemeral-storage" => (BYTE_DIVISORS, "local ephemeral storage"),
        other if other.starts_with("hugepages-") => (BYTE_DIVISORS, "hugepages"),
        _ => return,
    };
    if !allowed.contains(&text.as_str()) {
        let values = if name == "cpu" { "1m and 1".to_owned() } else { BYTE_DIVISORS.join(", ") };
        let detail = format!("only divisor's values {values} are supported with the {name} resource");
        errors.invalid(at.at("divisor"), divisor.clone(), detail);
    }
}

fn key_ref(reference: &Value, at: At<'_>, errors: &mut Errors) {
    let (name, key) = (reference.text("name"), reference.text("key"));
    if !name.is_empty() {
        errors.format(at.at("name"), name, format::dns1123_subdomain(name));
    }
    if key.is_empty() {
        errors.required(at.at("key"), "");
    } else {
        errors.format(at.at("key"), key, format::config_map_key(key));
    }
}

fn file_key(reference: &Value, around: &Around<'_>, at: At<'_>, errors: &mut Errors) {
    let (volume, key) = (reference.text("volumeName"), reference.text("key"));
    if key.is_empty() {
        errors.required(at.at("key"), "");
    } else {
        errors.format(at.at("key"), key, format::env_var_name(key));
    }
    if volume.is_empty() {
        errors.required(at.at("volumeName"), "");
    } else if !around.volumes.has(volume) {
        errors.not_found(at.at("volumeName"), volume);
    } else if !around.volumes.is(volume, "emptyDir") {
        errors.invalid(at.at("volumeName"), volume, "referenced volume must be of type emptyDir");
    }
    if reference.text("path").is_empty() {
        errors.required(at.at("path"), "");
    } else {
        super::volumes::not_reserved(reference.text("path"), at.at("path"), errors);
    }
}

fn from(source: &Value, at: At<'_>, errors: &mut Errors) {
    let prefix = source.text("prefix");
    if !prefix.is_empty() {
        errors.format(at.at("prefix"), prefix, format::env_var_name(prefix));
    }
    let mut set = 0;
    for kind in ["configMapRef", "secretRef"] {
        if !source.has(kind) {
            continue;
        }
        set += 1;
        let name = source.at(kind).text("name");
        let at = at.at(kind);
        super::super::shared::required_subdomain(name, at.at("name"), errors);
    }
    match set {
        0 => errors.invalid(at, "", "must specify one of: `configMapRef` or `secretRef`"),
        1 => {}
        _ => errors.invalid(at, "", "may not have more than one field specified at a time"),
    }
}
