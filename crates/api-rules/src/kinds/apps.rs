//! Workloads that keep pods running: ReplicationController, ReplicaSet, Deployment, DaemonSet, StatefulSet,
//! ControllerRevision.

use super::pod::template;
use super::shared::{at_most_all, int_or_percent, int_or_percent_value, is_percent, non_negative, unchanged};
use super::{Kind, selector, storage};
use crate::errors::{At, Errors};
use crate::look::{Look, object_mut, same};
use crate::meta::NameFormat;
use api_types::selector::LabelSelector;
use serde_json::Value;

const APPS: &str = "apps";
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";
const SPEC: At<'static> = At::root("spec");
const STATUS: At<'static> = At::root("status");
const COUNTS: &[&str] = &[
    "replicas",
    "fullyLabeledReplicas",
    "readyReplicas",
    "availableReplicas",
    "observedGeneration",
    "terminatingReplicas",
];

pub(super) static KINDS: &[Kind] = &[
    Kind::new("", "ReplicationController")
        .create(replication_controller)
        .update(|new, _, errors| replication_controller(new, errors))
        .status(replica_status),
    Kind::new(APPS, "ReplicaSet").create(replica_set).update(replica_set_update).status(replica_status),
    Kind::new(APPS, "Deployment").create(deployment).update(deployment_update).status(deployment_status),
    Kind {
        prepare_create: |set| template_generation(set, 1),
        prepare_update: daemon_set_changed,
        ..Kind::new(APPS, "DaemonSet").create(daemon_set).update(daemon_set_update).status(daemon_set_status)
    },
    Kind::new(APPS, "StatefulSet")
        .names(NameFormat::Label)
        .create(stateful_set)
        .update(stateful_set_update)
        .status(stateful_set_status),
    Kind::new(APPS, "ControllerRevision").create(revision).update(revision_update),
];

/// The template of a workload that keeps pods running: it always restarts and never times out.
fn lasting_template(spec: &Value, kind: &str, selector: &Value, errors: &mut Errors) {
    let at = SPEC.at("template");
    let pod = spec.at("template");
    if LabelSelector::from_value(selector).is_err() {
        errors.invalid(SPEC.at("selector"), selector.clone(), "invalid label selector");
        return;
    }
    if !selector.is_null() {
        selector::matches_template(selector, pod, at, errors);
    }
    template(pod, at, errors);
    let spec_at = at.at("spec");
    let policy = pod.text("spec.restartPolicy");
    if !matches!(policy, "Always" | "") {
        errors.not_supported(spec_at.at("restartPolicy"), policy, &["Always"]);
    }
    if pod.has("spec.activeDeadlineSeconds") {
        errors.forbidden(
            spec_at.at("activeDeadlineSeconds"),
            format!("activeDeadlineSeconds in {kind} is not Supported"),
        );
    }
}

fn replication_controller(object: &Value, errors: &mut Errors) {
    let spec = object.at("spec");
    non_negative(spec, &["minReadySeconds", "replicas"], SPEC, errors);
    let labels = spec.at("selector");
    if labels.entries("").next().is_none() {
        errors.required(SPEC.at("selector"), "");
    }
    if !spec.at("template").is_object() {
        errors.required(SPEC.at("template"), "");
        return;
    }
    let selector = serde_json::json!({ "matchLabels": labels });
    lasting_template(spec, "ReplicationController", &selector, errors);
}

fn replica_set(object: &Value, errors: &mut Errors) {
    let spec = object.at("spec");
    non_negative(spec, &["replicas", "minReadySeconds"], SPEC, errors);
    // The text names a Deployment: upstream shares the check.
    selector::required(spec.at("selector"), "deployment", SPEC.at("selector"), errors);
    lasting_template(spec, "ReplicaSet", spec.at("selector"), errors);
}

fn replica_set_update(new: &Value, old: &Value, errors: &mut Errors) {
    replica_set(new, errors);
    unchanged(new.at("spec"), old.at("spec"), &["selector"], SPEC, errors);
}

/// Counts are not negative and fit together.
fn replica_status(new: &Value, _: &Value, errors: &mut Errors) {
    let status = new.at("status");
    non_negative(status, COUNTS, STATUS, errors);
    let replicas = status.int("replicas");
    for field in ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"] {
        if status.int(field) > replicas {
            errors.invalid(STATUS.at(field), status.int(field), "cannot be greater than status.replicas");
        }
    }
    let available = status.int("availableReplicas");
    if available > status.int("readyReplicas") {
        errors.invalid(STATUS.at("availableReplicas"), available, "cannot be greater than readyReplicas");
    }
}

fn deployment(object: &Value, errors: &mut Errors) {
    let spec = object.at("spec");
    non_negative(spec, &["replicas"], SPEC, errors);
    selector::required(spec.at("selector"), "deployment", SPEC.at("selector"), errors);
    lasting_template(spec, "ReplicaSet", spec.at("selector"), errors);
    deployment_strategy(spec, errors);
    non_negative(spec, &["minReadySeconds", "revisionHistoryLimit"], SPEC, errors);
    if let Some(deadline) = spec.int_opt("progressDeadlineSeconds") {
        errors.non_negative(SPEC.at("progressDeadlineSeconds"), deadline);
        if deadline <= spec.int("minReadySeconds") {
            errors.invalid(
                SPEC.at("progressDeadlineSeconds"),
                deadline,
                "must be greater than minReadySeconds",
            );
        }
    }
}

fn deployment_strategy(spec: &Value, errors: &mut Errors) {
    let at = SPEC.at("strategy");
    let strategy = spec.at("strategy");
    let rolling = strategy.at("rollingUpdate");
    let rolling_at = at.at("rollingUpdate");
    match strategy.text("type") {
        "Recreate" if rolling.is_object() => {
            errors.forbidden(rolling_at, "may not be specified when strategy `type` is 'Recreate'");
        }
        "Recreate" => {}
        "RollingUpdate" if !rolling.is_object() => {
            errors.required(rolling_at, "this should be defaulted and never be nil");
        }
        "RollingUpdate" => deployment_rolling(rolling, rolling_at, errors),
        other => errors.not_supported(at.at("type"), other, &["Recreate", "RollingUpdate"]),
    }
}

fn deployment_rolling(rolling: &Value, at: At<'_>, errors: &mut Errors) {
    let (unavailable, surge) = (rolling.at("maxUnavailable"), rolling.at("maxSurge"));
    int_or_percent(unavailable, at.at("maxUnavailable"), errors);
    int_or_percent(surge, at.at("maxSurge"), errors);
    if int_or_percent_value(unavailable) == 0 && int_or_percent_value(surge) == 0 {
        errors.invalid(at.at("maxUnavailable"), unavailable.clone(), "may not be 0 when `maxSurge` is 0");
    }
    at_most_all(unavailable, at.at("maxUnavailable"), errors);
}

fn deployment_update(new: &Value, old: &Value, errors: &mut Errors) {
    deployment(new, errors);
    unchanged(new.at("spec"), old.at("spec"), &["selector"], SPEC, errors);
}

fn deployment_status(new: &Value, old: &Value, errors: &mut Errors) {
    let status = new.at("status");
    let fields = [
        "observedGeneration",
        "replicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
        "terminatingReplicas",
    ];
    non_negative(status, &fields, STATUS, errors);
    non_negative(status, &["collisionCount"], STATUS, errors);
    let replicas = status.int("replicas");
    for field in ["updatedReplicas", "readyReplicas", "availableReplicas"] {
        if status.int(field) > replicas {
            errors.invalid(STATUS.at(field), status.int(field), "cannot be greater than status.replicas");
        }
    }
    let available = status.int("availableReplicas");
    if available > status.int("readyReplicas") {
        errors.invalid(STATUS.at("availableReplicas"), available, "cannot be greater than readyReplicas");
    }
    collisions(new, old, errors);
}

/// The count of hash collisions only grows.
fn collisions(new: &Value, old: &Value, errors: &mut Errors) {
    let (now, before) = (new.int_opt("status.collisionCount"), old.int_opt("status.collisionCount"));
    if before.is_some_and(|b| now.is_none_or(|n| n < b)) {
        errors.invalid(
            STATUS.at("collisionCount"),
            new.at("status.collisionCount").clone(),
            "cannot be decremented",
        );
    }
}

/// How often the template changed, as the first API versions of the kind counted it; kept as an annotation.
fn template_generation(set: &mut Value, generation: i64) {
    let annotations = object_mut(set, "metadata.annotations");
    annotations.insert(TEMPLATE_GENERATION.to_owned(), Value::from(generation.to_string()));
}

fn daemon_set_changed(new: &mut Value, old: &Value) {
    let text = old.at("metadata.annotations").key(TEMPLATE_GENERATION).as_str();
    let Some(count) = text.and_then(|t| t.parse::<i64>().ok()) else { return };
    let changed = !same(new.at("spec.template"), old.at("spec.template"));
    template_generation(new, count + i64::from(changed));
}

fn daemon_set(object: &Value, errors: &mut Errors) {
    let spec = object.at("spec");
    let selector = spec.at("selector");
    selector::validate(selector, SPEC.at("selector"), errors);
    let nothing =
        selector.items("matchExpressions").is_empty() && selector.entries("matchLabels").next().is_none();
    if selector.is_object() && nothing {
        errors.invalid(SPEC.at("selector"), selector.clone(), "empty selector is invalid for daemonset");
    }
    let labels_at = SPEC.at("template");
    if !selector.is_object() {
        let shown = spec.at("template.metadata.labels").clone();
        let metadata = labels_at.at("metadata");
        errors.invalid(metadata.at("labels"), shown, "`selector` does not match template `labels`");
    }
    lasting_template(spec, "DaemonSet", selector, errors);
    non_negative(spec, &["minReadySeconds"], SPEC, errors);
    daemon_strategy(spec, errors);
    non_negative(spec, &["revisionHistoryLimit"], SPEC, errors);
}

fn daemon_strategy(spec: &Value, errors: &mut Errors) {
    let at = SPEC.at("updateStrategy");
    let rolling = spec.at("updateStrategy.rollingUpdate");
    match spec.text("updateStrategy.type") {
        "OnDelete" => {}
        "RollingUpdate" if !rolling.is_object() => errors.required(at.at("rollingUpdate"), ""),
        "RollingUpdate" => daemon_rolling(rolling, at.at("rollingUpdate"), errors),
        other => errors.not_supported(at.at("type"), other, &["RollingUpdate", "OnDelete"]),
    }
}

fn daemon_rolling(rolling: &Value, at: At<'_>, errors: &mut Errors) {
    let (unavailable, surge) = (rolling.at("maxUnavailable"), rolling.at("maxSurge"));
    for (field, value) in [("maxUnavailable", unavailable), ("maxSurge", surge)] {
        int_or_percent(value, at.at(field), errors);
        at_most_all(value, at.at(field), errors);
    }
    let (no_loss, no_surge) = (int_or_percent_value(unavailable) == 0, int_or_percent_value(surge) == 0);
    if !no_surge && !no_loss {
        errors.invalid(at.at("maxSurge"), surge.clone(), "may not be set when maxUnavailable is non-zero");
    }
    if no_surge && no_loss {
        errors.invalid(at.at("maxUnavailable"), unavailable.clone(), "cannot be 0 when maxSurge is 0");
    }
}

fn daemon_set_update(new: &Value, old: &Value, errors: &mut Errors) {
    daemon_set(new, errors);
    unchanged(new.at("spec"), old.at("spec"), &["selector"], SPEC, errors);
}

fn daemon_set_status(new: &Value, old: &Value, errors: &mut Errors) {
    let fields = [
        "currentNumberScheduled",
        "numberMisscheduled",
        "desiredNumberScheduled",
        "numberReady",
        "observedGeneration",
        "updatedNumberScheduled",
        "numberAvailable",
        "numberUnavailable",
        "collisionCount",
    ];
    non_negative(new.at("status"), &fields, STATUS, errors);
    collisions(new, old, errors);
}

fn stateful_set(object: &Value, errors: &mut Errors) {
    let spec = object.at("spec");
    let policy = spec.text("podManagementPolicy");
    match policy {
        "" => errors.required(SPEC.at("podManagementPolicy"), ""),
        "OrderedReady" | "Parallel" => {}
        other => {
            let text = "must be 'OrderedReady' or 'Parallel'";
            errors.invalid(SPEC.at("podManagementPolicy"), other, text);
        }
    }
    stateful_strategy(spec, errors);
    let retention = SPEC.at("persistentVolumeClaimRetentionPolicy");
    for field in ["whenDeleted", "whenScaled"] {
        let value = spec.at("persistentVolumeClaimRetentionPolicy").text(field);
        if spec.has("persistentVolumeClaimRetentionPolicy") && !matches!(value, "Retain" | "Delete") {
            errors.not_supported(retention.at(field), value, &["Retain", "Delete"]);
        }
    }
    non_negative(spec, &["replicas", "minReadySeconds"], SPEC, errors);
    if let Some(start) = spec.int_opt("ordinals.start") {
        errors.non_negative(SPEC.at("ordinals.start"), start);
    }
    non_negative(spec, &["revisionHistoryLimit"], SPEC, errors);
    selector::required(spec.at("selector"), "statefulset", SPEC.at("selector"), errors);
    let claims = SPEC.at("volumeClaimTemplates");
    for (i, claim) in spec.items("volumeClaimTemplates").iter().enumerate() {
        let at = claims.index(i);
        storage::claim_spec(claim.at("spec"), at.at("spec"), errors);
    }
    lasting_template(spec, "StatefulSet", spec.at("selector"), errors);
}

fn stateful_strategy(spec: &Value, errors: &mut Errors) {
    let at = SPEC.at("updateStrategy");
    let rolling = spec.at("updateStrategy.rollingUpdate");
    match spec.text("updateStrategy.type") {
        "" => errors.required(at, ""),
        "OnDelete" if rolling.is_object() => {
            let text = "only allowed for updateStrategy 'RollingUpdate'";
            errors.invalid(at.at("rollingUpdate"), rolling.clone(), text);
        }
        "OnDelete" => {}
        "RollingUpdate" => {
            let at = at.at("rollingUpdate");
            non_negative(rolling, &["partition"], at, errors);
            let unavailable = rolling.at("maxUnavailable");
            int_or_percent(unavailable, at.at("maxUnavailable"), errors);
            let zero = !unavailable.is_null() && int_or_percent_value(unavailable) == 0;
            if zero && (unavailable.is_i64() || is_percent(unavailable)) {
                errors.invalid(at.at("maxUnavailable"), unavailable.clone(), "cannot be 0");
            }
            at_most_all(unavailable, at.at("maxUnavailable"), errors);
        }
        _ => {
            let text = "must be 'RollingUpdate' or 'OnDelete'";
            errors.invalid(at, spec.at("updateStrategy").clone(), text);
        }
    }
}

fn stateful_set_update(new: &Value, old: &Value, errors: &mut Errors) {
    stateful_set(new, errors);
    let fixed = ["selector", "volumeClaimTemplates", "serviceName", "podManagementPolicy"];
    unchanged(new.at("spec"), old.at("spec"), &fixed, SPEC, errors);
}

fn stateful_set_status(new: &Value, old: &Value, errors: &mut Errors) {
    let status = new.at("status");
    let fields = [
        "replicas",
        "readyReplicas",
        "currentReplicas",
        "updatedReplicas",
        "availableReplicas",
        "observedGeneration",
        "collisionCount",
    ];
    non_negative(status, &fields, STATUS, errors);
    let replicas = status.int("replicas");
    for field in ["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"] {
        if status.int(field) > replicas {
            errors.invalid(STATUS.at(field), status.int(field), "cannot be greater than status.replicas");
        }
    }
    if status.int("availableReplicas") > status.int("readyReplicas") {
        let value = status.int("availableReplicas");
        errors.invalid(STATUS.at("availableReplicas"), value, "cannot be greater than status.readyReplicas");
    }
    collisions(new, old, errors);
}

fn revision(object: &Value, errors: &mut Errors) {
    if !object.has("data") {
        errors.required(At::root("data"), "data is mandatory");
    }
    errors.non_negative(At::root("revision"), object.int("revision"));
}

fn revision_update(new: &Value, old: &Value, errors: &mut Errors) {
    revision(new, errors);
    errors.immutable(At::root("data"), new.at("data"), old.at("data"));
}

#[cfg(test)]
mod tests;
