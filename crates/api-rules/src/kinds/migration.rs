//! StorageVersionMigration: objects of a resource that are to be stored anew (upstream:
//! `pkg/apis/storagemigration/validation`).

use super::Kind;
use super::shared::conditions;
use crate::errors::{At, Errors, IMMUTABLE};
use crate::format;
use crate::look::{Look, same};
use serde_json::{Value, json};

pub(super) static KINDS: &[Kind] = &[Kind::new("storagemigration.k8s.io", "StorageVersionMigration")
    .create(migration)
    .update(migration_update)
    .status(migration_status)];

fn migration(object: &Value, errors: &mut Errors) {
    let (group, resource) = (object.text("spec.resource.group"), object.text("spec.resource.resource"));
    let at = At::root("spec.resource");
    if resource.is_empty() {
        errors.required(at.at("resource"), "resource is required to be set");
    } else {
        joined(resource, format::dns1035_label(resource), at.at("resource"), errors);
    }
    if !group.is_empty() {
        joined(group, format::dns1123_subdomain(group), at.at("group"), errors);
    }
}

/// All problems as one error.
fn joined(value: &str, problems: format::Problems, at: At<'_>, errors: &mut Errors) {
    if !problems.is_empty() {
        errors.invalid(at, value, problems.join(","));
    }
}

fn migration_update(new: &Value, old: &Value, errors: &mut Errors) {
    migration(new, errors);
    if !same(new.at("spec"), old.at("spec")) {
        let of = |field: &str| new.at("spec.resource").text(field).to_owned();
        let shown = json!({"Resource": {"group": of("group"), "resource": of("resource")}});
        errors.invalid(At::root("spec"), shown, IMMUTABLE);
    }
}

fn migration_status(new: &Value, old: &Value, errors: &mut Errors) {
    let (version, before) = (new.text("status.resourceVersion"), old.text("status.resourceVersion"));
    let version_at = At::root("status.resourceVersion");
    if !version.is_empty() && !is_version(version) {
        errors.invalid(version_at, version, format!("resource version is not well formed: {version}"));
    }
    let at = At::root("status.conditions");
    let all = new.items("status.conditions");
    conditions(all, at, errors);
    if !before.is_empty() && version != before {
        errors.invalid(version_at, version, IMMUTABLE);
    }
    let mut wrong = |text: &str| errors.invalid(at, Value::from(all), text);
    if is_true(new, "Succeeded") && is_true(new, "Failed") {
        wrong("Both success and failed conditions cannot be true at the same time");
    }
    if is_true(old, "Succeeded") && !is_true(new, "Succeeded") {
        wrong("Success condition cannot be set to false once it is true");
    }
    if is_true(old, "Failed") && !is_true(new, "Failed") {
        wrong("Failed condition cannot be set to false once it is true");
    }
}

fn is_version(text: &str) -> bool {
    !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit())
}

fn is_true(object: &Value, kind: &str) -> bool {
    let condition = object.items("status.conditions").iter().find(|condition| condition.text("type") == kind);
    condition.is_some_and(|condition| condition.text("status") == "True")
}

#[cfg(test)]
mod tests {
    use super::super::bench::{check_created, check_status, check_updated, defaulted, status_updated, with};
    use serde_json::{Value, json};

    const LABEL: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
    const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

    fn migration() -> Value {
        defaulted(json!({"apiVersion": "storagemigration.k8s.io/v1", "kind": "StorageVersionMigration",
            "metadata": {"name": "a"}, "spec": {"resource": {"group": "apps", "resource": "deployments"}}}))
    }

    #[test]
    fn what_is_migrated() {
        let long = "a".repeat(64);
        let bad_resource =
            format!("spec.resource.resource: Invalid value: \"{long}\": must be no more than 63 characters");
        let bad_both = format!(
            "spec.resource.resource: Invalid value: \"1{long}\": must be no more than 63 characters,{LABEL}"
        );
        let bad_group = format!("spec.resource.group: Invalid value: \"A\": {SUBDOMAIN}");
        check_created(
            &migration(),
            &[
                (
                    "/spec/resource/resource",
                    Value::Null,
                    &["spec.resource.resource: Required value: resource is required to be set"],
                ),
                ("/spec/resource/resource", json!(long), &[&bad_resource]),
                ("/spec/resource/resource", json!(format!("1{long}")), &[&bad_both]),
                ("/spec/resource/group", Value::Null, &[]),
                ("/spec/resource/group", json!("A"), &[&bad_group]),
            ],
        );
        let changed = "spec: Invalid value: {\"Resource\":{\"group\":\"apps\",\"resource\":\"daemonsets\"}}: field is immutable";
        check_updated(&migration(), &[("/spec/resource/resource", json!("daemonsets"), &[changed])]);
    }

    fn condition(kind: &str, status: &str) -> Value {
        json!({"type": kind, "status": status, "reason": "R", "lastTransitionTime": "2026-01-01T00:00:00Z"})
    }

    #[test]
    fn statuses() {
        let good = with(&migration(), "/status", json!({}));
        let long = "x".repeat(1025);
        check_status(
            &good,
            &[
                ("/status/resourceVersion", json!("10"), &[]),
                (
                    "/status/resourceVersion",
                    json!("01"),
                    &[
                        "status.resourceVersion: Invalid value: \"01\": resource version is not well formed: 01",
                    ],
                ),
                ("/status/conditions", json!([condition("Running", "True")]), &[]),
                (
                    "/status/conditions",
                    json!([condition("A", "True"), condition("A", "True")]),
                    &["status.conditions[1]: Duplicate value: \"A\""],
                ),
                (
                    "/status/conditions",
                    json!([{"observedGeneration": -1}]),
                    &[
                        "status.conditions[0].type: Required value: is required",
                        "status.conditions[0].status: Required value",
                        "status.conditions[0].observedGeneration: Invalid value: -1: must be greater than or equal to zero",
                        "status.conditions[0].lastTransitionTime: Required value",
                        "status.conditions[0].reason: Required value",
                    ],
                ),
                (
                    "/status/conditions",
                    json!([with(
                        &with(&condition("A", "Maybe"), "/reason", json!(long)),
                        "/message",
                        json!("x".repeat(32 * 1024 + 1))
                    )]),
                    &[
                        "status.conditions[0].status: Unsupported value: \"Maybe\": supported values: \"False\", \"True\", \"Unknown\"",
                        "status.conditions[0].reason: Too long: may not be more than 1024 bytes",
                        "status.conditions[0].message: Too long: may not be more than 32768 bytes",
                    ],
                ),
                (
                    "/status/conditions",
                    json!([with(&condition("A", "True"), "/reason", json!("a b"))]),
                    &[
                        "status.conditions[0].reason: Invalid value: \"a b\": a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')",
                    ],
                ),
            ],
        );
        let versioned = with(&good, "/status/resourceVersion", json!("10"));
        let changed = &["status.resourceVersion: Invalid value: \"11\": field is immutable"];
        check_status(&versioned, &[("/status/resourceVersion", json!("11"), changed)]);
    }

    #[test]
    fn an_end_stays() {
        let of = |list: Value| with(&migration(), "/status", json!({"conditions": list}));
        let both = of(json!([condition("Succeeded", "True"), condition("Failed", "True")]));
        let found = status_updated(&both, &of(json!([])));
        assert!(
            found[0].ends_with(": Both success and failed conditions cannot be true at the same time"),
            "{found:?}"
        );
        for (kind, text) in [("Succeeded", "Success"), ("Failed", "Failed")] {
            let (old, new) = (of(json!([condition(kind, "True")])), of(json!([])));
            assert_eq!(
                status_updated(&new, &old),
                [format!(
                    "status.conditions: Invalid value: []: {text} condition cannot be set to false once it is true"
                )]
            );
        }
    }
}
