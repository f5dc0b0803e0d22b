//! Namespace, Node, ResourceQuota, LimitRange, Lease, PriorityClass, RuntimeClass.

use super::Kind;
use super::pod;
use super::shared::{non_negative, unchanged};
use crate::errors::{At, Errors};
use crate::format;
use crate::look::{Look, items_mut, quantity, same, set};
use crate::meta::NameFormat;
use serde_json::{Value, json};

const SPEC: At<'static> = At::root("spec");
const STATUS: At<'static> = At::root("status");
/// Highest priority that a user may give.
const MAX_PRIORITY: i64 = 1_000_000_000;
const SYSTEM_CLASSES: &[(&str, i64)] =
    &[("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

pub(super) static KINDS: &[Kind] = &[
    Kind {
        prepare_create: namespace_create,
        prepare_update: |new, old| set(new, "spec.finalizers", old.at("spec.finalizers").clone()),
        ..Kind::new("", "Namespace")
            .names(NameFormat::Label)
            .create(namespace)
            .update(|new, _, errors| namespace(new, errors))
            .status(namespace_status)
    },
    Kind::new("", "Node").create(node).update(node_update).status(node_update),
    Kind::new("", "ResourceQuota").create(quota).update(quota_update),
    Kind::new("", "LimitRange").create(limit_range).update(|new, _, errors| limit_range(new, errors)),
    Kind::new("coordination.k8s.io", "Lease").create(lease).update(|new, _, errors| lease(new, errors)),
    Kind::new("scheduling.k8s.io", "PriorityClass").create(priority_class).update(priority_class_update),
    Kind::new("node.k8s.io", "RuntimeClass").create(runtime_class).update(runtime_class_update),
];

/// A new namespace is Active and is held by the finalizer `kubernetes` until its content is gone.
fn namespace_create(namespace: &mut Value) {
    set(namespace, "status", json!({"phase": "Active"}));
    let held = namespace.items("spec.finalizers").iter().any(|f| f == "kubernetes");
    if !held {
        match items_mut(namespace, "spec.finalizers") {
            Some(list) => list.push(json!("kubernetes")),
            None => set(namespace, "spec.finalizers", json!(["kubernetes"])),
        }
    }
}

fn namespace(object: &Value, errors: &mut Errors) {
    let list = SPEC.at("finalizers");
    for finalizer in object.items("spec.finalizers") {
        let name = finalizer.as_str().unwrap_or("");
        errors.format(list, name, format::qualified_name(name));
        let standard = matches!(name, "kubernetes" | "orphan" | "foregroundDeletion");
        if !name.contains('/') && !standard {
            errors.invalid(list, name, "name is neither a standard finalizer name nor is it fully qualified");
        }
    }
}

fn namespace_status(new: &Value, _: &Value, errors: &mut Errors) {
    let at = STATUS.at("Phase");
    let phase = new.text("status.phase");
    let deleted = new.has("metadata.deletionTimestamp");
    if !deleted && phase != "Active" {
        errors.invalid(at, phase, "may only be 'Active' if `deletionTimestamp` is empty");
    } else if deleted && phase != "Terminating" {
        errors.invalid(at, phase, "may only be 'Terminating' if `deletionTimestamp` is not empty");
    }
}

fn node(object: &Value, errors: &mut Errors) {
    pod::taints(object.items("spec.taints"), SPEC.at("taints"), errors);
    let list = SPEC.at("podCIDRs");
    let ranges = object.items("spec.podCIDRs");
    for (i, range) in ranges.iter().enumerate() {
        let range = range.as_str().unwrap_or("");
        errors.format(list.index(i), range, format::cidr(range));
    }
    let six = ranges.iter().filter(|r| r.as_str().is_some_and(|s| s.contains(':'))).count();
    if six > 1 || ranges.len() - six > 1 {
        let shown = Value::Array(ranges.to_vec());
        errors.invalid(list, shown, "may specify no more than one CIDR for each IP family");
    }
    let capacity = STATUS.at("capacity");
    pod::resource_list(object.at("status.capacity"), capacity, errors);
    let allocatable = STATUS.at("allocatable");
    pod::resource_list(object.at("status.allocatable"), allocatable, errors);
}

fn node_update(new: &Value, old: &Value, errors: &mut Errors) {
    node(new, errors);
    let addresses = STATUS.at("addresses");
    let all = new.items("status.addresses");
    for (i, address) in all.iter().enumerate() {
        if all[..i].contains(address) {
            errors.duplicate(addresses.index(i), address.clone());
        }
    }
    if !old.items("spec.podCIDRs").is_empty() && !same(new.at("spec.podCIDRs"), old.at("spec.podCIDRs")) {
        errors
            .forbidden(SPEC.at("podCIDRs"), "node updates may not change podCIDR except from \"\" to valid");
    }
    let (now, before) = (new.text("spec.providerID"), old.text("spec.providerID"));
    if !before.is_empty() && now.is_empty() {
        errors.invalid(SPEC.at("providerID"), now, "field cannot be cleared once set");
    } else if !before.is_empty() && now != before {
        errors.invalid(SPEC.at("providerID"), now, "field cannot be modified once set");
    }
    if new.text("spec.externalID") != old.text("spec.externalID") && !old.text("spec.externalID").is_empty() {
        errors.forbidden(SPEC.at("externalID"), "may not be updated");
    }
}

const SCOPES: &[&str] = &[
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
];

fn quota(object: &Value, errors: &mut Errors) {
    let hard = SPEC.at("hard");
    for (name, amount) in object.entries("spec.hard") {
        let at = hard.key(name);
        errors.format(at, name, format::qualified_name(name));
        let Some(amount) = quantity(amount) else { continue };
        if amount.is_negative() {
            errors.invalid(at, amount.to_string(), crate::errors::NON_NEGATIVE);
        }
        let counted =
            name.starts_with("count/") || !name.contains(['/', '.']) && !matches!(name, "cpu" | "memory");
        let storage = name.ends_with("storage") || name.starts_with("hugepages-");
        if counted && !storage && amount.milli_value() % 1000 != 0 {
            errors.invalid(at, amount.to_string(), "must be an integer");
        }
    }
    let at = SPEC.at("scopes");
    let scopes: Vec<&str> = object.texts("spec.scopes").collect();
    let all = || json!(scopes);
    if scopes.iter().any(|s| !SCOPES.contains(s)) {
        errors.invalid(at, all(), "unsupported scope");
    }
    for (one, other) in [("Terminating", "NotTerminating"), ("BestEffort", "NotBestEffort")] {
        if scopes.contains(&one) && scopes.contains(&other) {
            errors.invalid(at, all(), "conflicting scopes");
        }
    }
}

fn quota_update(new: &Value, old: &Value, errors: &mut Errors) {
    quota(new, errors);
    unchanged(new.at("spec"), old.at("spec"), &["scopes", "scopeSelector"], SPEC, errors);
}

fn limit_range(object: &Value, errors: &mut Errors) {
    let list = SPEC.at("limits");
    let limits = object.items("spec.limits");
    for (i, limit) in limits.iter().enumerate() {
        let at = list.index(i);
        let kind = limit.text("type");
        if limits[..i].iter().any(|l| l.text("type") == kind) {
            errors.duplicate(at.at("type"), kind);
        }
        if kind == "Pod" {
            for field in ["default", "defaultRequest"] {
                if limit.entries(field).next().is_some() {
                    errors.forbidden(at.at(field), "may not be specified when `type` is 'Pod'");
                }
            }
        }
        if kind == "PersistentVolumeClaim" && !limit.has("min.storage") && !limit.has("max.storage") {
            let text = "either minimum or maximum storage value is required, but neither was provided";
            errors.required(at.at("limits"), text);
        }
        limit_item(limit, at, errors);
    }
}

fn limit_item(limit: &Value, at: At<'_>, errors: &mut Errors) {
    let mut names: Vec<&str> = ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"]
        .iter()
        .flat_map(|f| limit.entries(f))
        .map(|(name, _)| name)
        .collect();
    names.sort_unstable();
    names.dedup();
    let words =
        [("min", "min"), ("defaultRequest", "default request"), ("default", "default"), ("max", "max")];
    let pairs = [
        (0, 3, "min"),
        (0, 1, "defaultRequest"),
        (1, 3, "defaultRequest"),
        (1, 2, "defaultRequest"),
        (0, 2, "default"),
        (2, 3, "default"),
    ];
    for name in names {
        let of = |field: &str| quantity(limit.at(field).key(name));
        for (low, high, field) in pairs {
            let (Some(a), Some(b)) = (of(words[low].0), of(words[high].0)) else { continue };
            if a > b {
                let high_word = if (low, high) == (1, 2) { "default limit" } else { words[high].1 };
                let text = format!("{} value {a} is greater than {high_word} value {b}", words[low].1);
                let shown = if field == "default" { &b } else { &a };
                let value = if field == "min" { of("min") } else { Some(*shown) };
                let at = at.at(field);
                errors.invalid(at.key(name), value.map(|v| v.to_string()).unwrap_or_default(), text);
            }
        }
        if let Some(ratio) = of("maxLimitRequestRatio").filter(|r| r.milli_value() < 1000) {
            let at = at.at("maxLimitRequestRatio");
            errors.invalid(at.key(name), ratio.to_string(), format!("ratio {ratio} is less than 1"));
        }
    }
}

fn lease(object: &Value, errors: &mut Errors) {
    if let Some(seconds) = object.int_opt("spec.leaseDurationSeconds").filter(|s| *s <= 0) {
        errors.invalid(SPEC.at("leaseDurationSeconds"), seconds, "must be greater than 0");
    }
    non_negative(object.at("spec"), &["leaseTransitions"], SPEC, errors);
    if object.has("spec.preferredHolder") && object.text("spec.strategy").is_empty() {
        errors.forbidden(SPEC.at("preferredHolder"), "may only be specified if `strategy` is defined");
    }
}

fn priority_class(object: &Value, errors: &mut Errors) {
    let name = object.text("metadata.name");
    let value = object.int("value");
    if let Some((_, wanted)) = SYSTEM_CLASSES.iter().find(|(n, _)| *n == name) {
        if value != *wanted {
            let text = format!(
                "priority class names with 'system-' prefix are reserved for system use only. error: value of {name} PriorityClass must be {wanted}"
            );
            errors.forbidden(At::root("metadata.name"), text);
        }
    } else if name.starts_with("system-") {
        let text = format!(
            "priority class names with 'system-' prefix are reserved for system use only. error: {name} is not a known system priority class"
        );
        errors.forbidden(At::root("metadata.name"), text);
    } else if value > MAX_PRIORITY {
        let text = format!("maximum allowed value of a user defined priority is {MAX_PRIORITY}");
        errors.forbidden(At::root("value"), text);
    }
    let policy = object.text("preemptionPolicy");
    errors.optional_of(At::root("preemptionPolicy"), policy, &["PreemptLowerPriority", "Never"]);
}

fn priority_class_update(new: &Value, old: &Value, errors: &mut Errors) {
    if new.int("value") != old.int("value") {
        errors.forbidden(At::root("value"), "may not be changed in an update.");
    }
    unchanged(new, old, &["preemptionPolicy"], At::root(""), errors);
}

fn runtime_class(object: &Value, errors: &mut Errors) {
    let handler = object.text("handler");
    if handler.is_empty() {
        errors.required(At::root("handler"), "");
    } else {
        errors.format(At::root("handler"), handler, format::dns1123_label(handler));
    }
}

fn runtime_class_update(new: &Value, old: &Value, errors: &mut Errors) {
    runtime_class(new, errors);
    unchanged(new, old, &["handler"], At::root(""), errors);
}

#[cfg(test)]
mod tests;
