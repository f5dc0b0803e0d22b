//! Where a pod may run: node selectors, affinity, tolerations, spreading, gates.

use super::super::selector;
use crate::errors::{At, Errors};
use crate::format;
use crate::look::Look;
use crate::meta;
use api_types::field::FieldError;
use serde_json::Value;
use std::collections::HashSet;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// All scheduling fields of a pod spec.
pub(super) fn validate(spec: &Value, at: At<'_>, errors: &mut Errors) {
    meta::validate_labels(spec.at("nodeSelector"), at.at("nodeSelector"), errors);
    affinity(spec.at("affinity"), at.at("affinity"), errors);
    tolerations(spec.items("tolerations"), at.at("tolerations"), errors);
    spread(spec.items("topologySpreadConstraints"), at.at("topologySpreadConstraints"), errors);
    gates(spec.items("schedulingGates"), at.at("schedulingGates"), errors);
}

fn affinity(affinity: &Value, at: At<'_>, errors: &mut Errors) {
    let node = affinity.at("nodeAffinity");
    let node_at = at.at("nodeAffinity");
    if node.has(REQUIRED) {
        node_selector(node.at(REQUIRED), node_at.at(REQUIRED), errors);
    }
    let list = node_at.at(PREFERRED);
    for (i, preferred) in node.items(PREFERRED).iter().enumerate() {
        let at = list.index(i);
        weight(preferred, at, errors);
        term(preferred.at("preference"), at.at("preference"), errors);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let pods = affinity.at(kind);
        let at = at.at(kind);
        let list = at.at(REQUIRED);
        for (i, term) in pods.items(REQUIRED).iter().enumerate() {
            pod_term(term, list.index(i), errors);
        }
        let list = at.at(PREFERRED);
        for (i, preferred) in pods.items(PREFERRED).iter().enumerate() {
            let at = list.index(i);
            weight(preferred, at, errors);
            pod_term(preferred.at("podAffinityTerm"), at.at("podAffinityTerm"), errors);
        }
    }
}

fn weight(preferred: &Value, at: At<'_>, errors: &mut Errors) {
    let weight = preferred.int("weight");
    if !(1..=100).contains(&weight) {
        errors.invalid(at.at("weight"), weight, "must be in the range 1-100");
    }
}

/// A node selector: at least one term.
pub(in crate::kinds) fn node_selector(selector: &Value, at: At<'_>, errors: &mut Errors) {
    let list = at.at("nodeSelectorTerms");
    let terms = selector.items("nodeSelectorTerms");
    if terms.is_empty() {
        errors.required(list, "must have at least one node selector term");
    }
    for (i, one) in terms.iter().enumerate() {
        term(one, list.index(i), errors);
    }
}

fn term(term: &Value, at: At<'_>, errors: &mut Errors) {
    let list = at.at("matchExpressions");
    for (i, requirement) in term.items("matchExpressions").iter().enumerate() {
        expression(requirement, list.index(i), errors);
    }
    let list = at.at("matchFields");
    for (i, requirement) in term.items("matchFields").iter().enumerate() {
        field(requirement, list.index(i), errors);
    }
}

fn expression(requirement: &Value, at: At<'_>, errors: &mut Errors) {
    let values = requirement.items("values");
    let values_at = at.at("values");
    match requirement.text("operator") {
        "In" | "NotIn" if values.is_empty() => {
            errors.required(values_at, "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            errors.forbidden(values_at, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
        }
        "Gt" | "Lt" if values.len() != 1 => {
            errors.required(values_at, "must be specified single value when `operator` is 'Lt' or 'Gt'");
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => errors.invalid(at.at("operator"), other, "not a valid selector operator"),
    }
    let key = requirement.text("key");
    errors.format(at.at("key"), key, format::qualified_name(key));
    for (i, value) in values.iter().enumerate() {
        let value = value.as_str().unwrap_or("");
        errors.format(values_at.index(i), value, format::label_value(value));
    }
}

fn field(requirement: &Value, at: At<'_>, errors: &mut Errors) {
    let values = requirement.items("values");
    let values_at = at.at("values");
    match requirement.text("operator") {
        "In" | "NotIn" if values.len() != 1 => errors.required(
            values_at,
            "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
        ),
        "In" | "NotIn" => {}
        other => errors.invalid(at.at("operator"), other, "not a valid selector operator"),
    }
    let key = requirement.text("key");
    if key != "metadata.name" {
        errors.invalid(at.at("key"), key, "not a valid field selector key");
        return;
    }
    for (i, value) in values.iter().enumerate() {
        let value = value.as_str().unwrap_or("");
        errors.format(values_at.index(i), value, format::dns1123_subdomain(value));
    }
}

fn pod_term(term: &Value, at: At<'_>, errors: &mut Errors) {
    for field in ["labelSelector", "namespaceSelector"] {
        selector::validate(term.at(field), at.at(field), errors);
    }
    for name in term.items("namespaces") {
        let name = name.as_str().unwrap_or("");
        errors.format(at.at("namespace"), name, format::dns1123_label(name));
    }
    label_keys(term, at, errors);
    topology_key(term, at, errors);
}

fn topology_key(holder: &Value, at: At<'_>, errors: &mut Errors) {
    let key = holder.text("topologyKey");
    if key.is_empty() {
        errors.required(at.at("topologyKey"), "can not be empty");
    } else {
        errors.format(at.at("topologyKey"), key, format::qualified_name(key));
    }
}

/// `matchLabelKeys` and `mismatchLabelKeys` (KEP-3633). Keys that the selector holds because the server put them
/// there are fine, so overlap with the selector is checked where a pod is created from a client's words only.
fn label_keys(term: &Value, at: At<'_>, errors: &mut Errors) {
    let selected = term.at("labelSelector").is_object();
    for field in ["matchLabelKeys", "mismatchLabelKeys"] {
        let keys = term.items(field);
        if !keys.is_empty() && !selected {
            errors.forbidden(at.at(field), "must not be specified when labelSelector is not set");
        }
        let list = at.at(field);
        for (i, key) in keys.iter().enumerate() {
            let key = key.as_str().unwrap_or("");
            errors.format(list.index(i), key, format::qualified_name(key));
        }
    }
    let list = at.at("matchLabelKeys");
    let mismatched = term.items("mismatchLabelKeys");
    for (i, key) in term.items("matchLabelKeys").iter().enumerate() {
        if mismatched.contains(key) {
            errors.invalid(list.index(i), key.clone(), "exists in both matchLabelKeys and mismatchLabelKeys");
        }
    }
}

/// Tolerations that stand in no pod, but at `path` of a document.
pub fn validate_tolerations(all: &[Value], path: &'static str) -> Vec<FieldError> {
    let mut errors = Errors::new();
    tolerations(all, At::root(path), &mut errors);
    errors.done()
}

fn tolerations(all: &[Value], list: At<'_>, errors: &mut Errors) {
    for (i, toleration) in all.iter().enumerate() {
        let at = list.index(i);
        let (key, operator, value) =
            (toleration.text("key"), toleration.text("operator"), toleration.text("value"));
        let operator_at = at.at("operator");
        if !key.is_empty() {
            errors.format(at.at("key"), key, format::qualified_name(key));
        } else if operator != "Exists" {
            let text =
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.invalid(operator_at, operator, text);
        }
        let effect = toleration.text("effect");
        if toleration.has("tolerationSeconds") && effect != "NoExecute" {
            errors.invalid(
                at.at("effect"),
                effect,
                "effect must be 'NoExecute' when `tolerationSeconds` is set",
            );
        }
        match operator {
            "Equal" | "" => {
                let problems = format::label_value(value);
                if !problems.is_empty() {
                    errors.invalid(operator_at, value, problems.join(";"));
                }
            }
            "Exists" if !value.is_empty() => {
                errors.invalid(
                    operator_at,
                    toleration.clone(),
                    "value must be empty when `operator` is 'Exists'",
                );
            }
            "Exists" => {}
            other => errors.not_supported(operator_at, other, &["Equal", "Exists"]),
        }
        errors.optional_of(at.at("effect"), effect, EFFECTS);
    }
}

/// Taints of a node: key, effect, and no pair of them twice.
pub(in crate::kinds) fn taints(all: &[Value], list: At<'_>, errors: &mut Errors) {
    let mut seen: HashSet<(&str, &str)> = HashSet::new();
    for (i, taint) in all.iter().enumerate() {
        let at = list.index(i);
        let (key, value, effect) = (taint.text("key"), taint.text("value"), taint.text("effect"));
        errors.format(at.at("key"), key, format::qualified_name(key));
        let problems = format::label_value(value);
        if !problems.is_empty() {
            errors.invalid(at.at("value"), value, problems.join(";"));
        }
        errors.one_of(at.at("effect"), effect, EFFECTS);
        if !seen.insert((effect, key)) {
            errors.duplicate(at, taint.clone());
        }
    }
}

fn spread(all: &[Value], list: At<'_>, errors: &mut Errors) {
    for (i, constraint) in all.iter().enumerate() {
        let at = list.index(i);
        let skew = constraint.int("maxSkew");
        if skew <= 0 {
            errors.invalid(at.at("maxSkew"), skew, "must be greater than zero");
        }
        topology_key(constraint, at, errors);
        let action = constraint.text("whenUnsatisfiable");
        if !matches!(action, "DoNotSchedule" | "ScheduleAnyway") {
            errors.not_supported(at.at("whenUnsatisfiable"), action, &["DoNotSchedule", "ScheduleAnyway"]);
        }
        let same = |other: &Value| {
            other.text("topologyKey") == constraint.text("topologyKey")
                && other.text("whenUnsatisfiable") == action
        };
        if all[i + 1..].iter().any(same) {
            let pair = format!("{{{}, {action}}}", constraint.text("topologyKey"));
            errors.duplicate(at.at("{topologyKey, whenUnsatisfiable}"), pair);
        }
        spread_details(constraint, action, at, errors);
    }
}

fn spread_details(constraint: &Value, action: &str, at: At<'_>, errors: &mut Errors) {
    if let Some(domains) = constraint.int_opt("minDomains") {
        if domains <= 0 {
            errors.invalid(at.at("minDomains"), domains, "must be greater than zero");
        }
        if action != "DoNotSchedule" {
            let text = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
            errors.invalid(at.at("minDomains"), domains, text);
        }
    }
    for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
        if let Some(policy) = constraint.at(field).as_str().filter(|p| !matches!(*p, "Honor" | "Ignore")) {
            errors.not_supported(at.at(field), policy, &["Honor", "Ignore"]);
        }
    }
    selector::validate(constraint.at("labelSelector"), at.at("labelSelector"), errors);
    let keys = constraint.items("matchLabelKeys");
    let keys_at = at.at("matchLabelKeys");
    if !keys.is_empty() && !constraint.at("labelSelector").is_object() {
        errors.forbidden(keys_at, "must not be specified when labelSelector is not set");
    }
    for (i, key) in keys.iter().enumerate() {
        let key = key.as_str().unwrap_or("");
        errors.format(keys_at.index(i), key, format::qualified_name(key));
    }
}

fn gates(all: &[Value], list: At<'_>, errors: &mut Errors) {
    for (i, gate) in all.iter().enumerate() {
        let name = gate.text("name");
        errors.format(list.index(i), name, format::qualified_name(name));
        if all[..i].iter().any(|g| g.text("name") == name) {
            errors.duplicate(list.index(i), name);
        }
    }
}
