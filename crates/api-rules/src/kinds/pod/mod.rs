//! The pod: what a new one starts with, its spec (also inside templates), and what may change later.
//!
//! Reading order: this file, `spec` (the whole), then `containers`, `probes`, `resources`, `volumes`, `scheduling`,
//! `security`, and `update`.

mod containers;
mod env;
mod probes;
mod resources;
mod scheduling;
mod security;
mod spec;
mod update;
mod volumes;

pub(super) use probes::port as port_number_or_name;
pub use resources::is_extended_resource;
pub(super) use resources::list as resource_list;
pub use scheduling::validate_tolerations;
pub(super) use scheduling::{node_selector, taints};
pub(super) use spec::template;
use spec::validate_spec;
pub use update::{validate_binding, validate_ephemeral_containers_update, validate_resize};
pub(super) use volumes::driver_name;

use super::Kind;
use crate::errors::{At, Errors};
use crate::look::{Look, set};
use crate::{format, meta, qos};
use serde_json::{Value, json};

/// Whether a pod spec stands in a pod or in a template: some checks are for pods only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Pod,
    Template,
}

/// Annotation of static pods that the node's agent mirrors into the API.
const MIRROR: &str = "kubernetes.io/config.mirror";

pub(super) static KINDS: &[Kind] = &[
    Kind {
        prepare_create,
        prepare_status_update,
        ..Kind::new("", "Pod")
            .create(validate)
            .update(update::validate_update)
            .status(update::validate_status)
    },
    Kind::new("", "PodTemplate").create(pod_template).update(|new, _, errors| pod_template(new, errors)),
    Kind::new("", "Binding").create(|o, errors| errors.extend(validate_binding(o))),
];

fn pod_template(object: &Value, errors: &mut Errors) {
    template(object.at("template"), At::root("template"), errors);
}

/// A new pod is Pending, of the QoS class of its requests, and not scheduled while it has gates.
fn prepare_create(pod: &mut Value) {
    let class = qos::class(pod);
    set(pod, "status", json!({"phase": "Pending", "qosClass": class}));
    if !pod.items("spec.schedulingGates").is_empty() {
        let gated = json!([{
            "type": "PodScheduled",
            "status": "False",
            "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
        }]);
        set(pod, "status.conditions", gated);
    }
    spread_keys(pod);
}

/// Adds the values of `matchLabelKeys` to the selectors of affinity terms (KEP-3633) and spread constraints (KEP-3243).
fn spread_keys(pod: &mut Value) {
    if !pod.has("spec.affinity") && !pod.has("spec.topologySpreadConstraints") {
        return;
    }
    let labels = pod.at("metadata.labels").clone();
    let add = |holder: &mut Value, field: &str, operator: &str| {
        let keys: Vec<Value> = holder.items(field).to_vec();
        if !holder.at("labelSelector").is_object() {
            return;
        }
        for key in keys.iter().filter_map(Value::as_str) {
            let Some(value) = labels.key(key).as_str() else { continue };
            let wanted = json!({"key": key, "operator": operator, "values": [value]});
            let mut all = holder.items("labelSelector.matchExpressions").to_vec();
            if !all.iter().any(|e| e.text("key") == key) {
                all.push(wanted);
                set(holder, "labelSelector.matchExpressions", Value::Array(all));
            }
        }
    };
    for kind in ["podAffinity", "podAntiAffinity"] {
        let required = format!("spec.affinity.{kind}.requiredDuringSchedulingIgnoredDuringExecution");
        for term in crate::look::items_mut(pod, &required).into_iter().flatten() {
            add(term, "matchLabelKeys", "In");
            add(term, "mismatchLabelKeys", "NotIn");
        }
        let preferred = format!("spec.affinity.{kind}.preferredDuringSchedulingIgnoredDuringExecution");
        for weighted in crate::look::items_mut(pod, &preferred).into_iter().flatten() {
            if let Some(term) = crate::look::at_mut(weighted, "podAffinityTerm") {
                add(term, "matchLabelKeys", "In");
                add(term, "mismatchLabelKeys", "NotIn");
            }
        }
    }
    for constraint in crate::look::items_mut(pod, "spec.topologySpreadConstraints").into_iter().flatten() {
        add(constraint, "matchLabelKeys", "In");
    }
}

/// The QoS class is the server's: a status that leaves it out keeps it.
fn prepare_status_update(new: &mut Value, old: &Value) {
    if new.text("status.qosClass").is_empty() {
        set(new, "status.qosClass", old.at("status.qosClass").clone());
    }
}

fn validate(pod: &Value, errors: &mut Errors) {
    whole(pod, errors);
    let spec = At::root("spec");
    if !pod.items("spec.ephemeralContainers").is_empty() {
        errors.forbidden(spec.at("ephemeralContainers"), "cannot be set on create");
    }
    if !pod.text("spec.nodeName").is_empty() && !pod.items("spec.schedulingGates").is_empty() {
        errors.forbidden(spec.at("nodeName"), "cannot be set until all schedulingGates have been cleared");
    }
}

/// What holds for a pod at create and at every update.
fn whole(pod: &Value, errors: &mut Errors) {
    let annotations = At::root("metadata.annotations");
    if pod.at("metadata.annotations").key(MIRROR).is_string() && pod.text("spec.nodeName").is_empty() {
        errors.invalid(
            annotations.key(MIRROR),
            pod.at("metadata.annotations").key(MIRROR).clone(),
            "must set spec.nodeName if mirror pod annotation is set",
        );
    }
    let at = At::root("spec");
    validate_spec(pod.at("spec"), Place::Pod, at, errors);
    errors
        .non_negative(at.at("terminationGracePeriodSeconds"), pod.int("spec.terminationGracePeriodSeconds"));
    service_account_of_tokens(pod, errors);
}

/// A projected token needs an account, except on static pods.
fn service_account_of_tokens(pod: &Value, errors: &mut Errors) {
    if !pod.text("spec.serviceAccountName").is_empty() {
        return;
    }
    let list = At::root("spec.volumes");
    for (i, volume) in pod.items("spec.volumes").iter().enumerate() {
        let volume_at = list.index(i);
        let sources_at = volume_at.at("projected.sources");
        for (j, source) in volume.items("projected.sources").iter().enumerate() {
            if source.has("serviceAccountToken") {
                let at = sources_at.index(j);
                errors.forbidden(
                    at.at("serviceAccountToken"),
                    "must not be specified when serviceAccountName is not set",
                );
            }
        }
    }
}

/// The seconds a pod gets to end: those asked for, else its own; none when it never ran or has ended; a pod that is
/// already being deleted only ever gets less.
pub(crate) fn grace_period(pod: &Value, asked: Option<i64>) -> i64 {
    let own = pod.int_opt("spec.terminationGracePeriodSeconds").unwrap_or(30);
    let period = match asked {
        _ if pod.text("spec.nodeName").is_empty() => 0,
        _ if matches!(pod.text("status.phase"), "Succeeded" | "Failed") => 0,
        Some(seconds) => seconds,
        None => own,
    };
    if period < 0 { 1 } else { period }
}

/// Host names as in `spec.hostAliases`.
fn host_aliases(spec: &Value, at: At<'_>, errors: &mut Errors) {
    let list = at.at("hostAliases");
    for (i, alias) in spec.items("hostAliases").iter().enumerate() {
        let at = list.index(i);
        errors.format(at.at("ip"), alias.text("ip"), format::ip(alias.text("ip")));
        let names = at.at("hostnames");
        for (j, name) in alias.items("hostnames").iter().enumerate() {
            let name = name.as_str().unwrap_or("");
            errors.format(names.index(j), name, format::dns1123_subdomain(name));
        }
    }
}

/// Labels and annotations of a template.
fn template_metadata(template: &Value, at: At<'_>, errors: &mut Errors) {
    let metadata = at.at("metadata");
    meta::validate_labels(template.at("metadata.labels"), metadata.at("labels"), errors);
    let at = metadata.at("annotations");
    meta::validate_annotations(template.at("metadata.annotations"), at, errors);
}

#[cfg(test)]
mod tests;
