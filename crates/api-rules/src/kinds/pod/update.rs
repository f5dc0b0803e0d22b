//! What may change in a pod that exists: by update, status update, binding, resize, ephemeral containers.

use super::{MIRROR, whole};
use crate::errors::{At, Errors};
use crate::format;
use crate::look::{Look, is_zero, remove, same, set};
use crate::qos;
use api_types::field::FieldError;
use serde_json::{Value, json};

/// The field list of the message ends with the difference.
const ALLOWED: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
const AFFINITY: &str =
    "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";

const SPEC: At<'static> = At::root("spec");

pub(super) fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    whole(new, errors);
    mirror(new, old, errors);
    for list in ["containers", "initContainers"] {
        let (now, before) = (new.at("spec").items(list).len(), old.at("spec").items(list).len());
        if now != before {
            errors.forbidden(SPEC.at(list), "pod updates may not add or remove containers");
            return;
        }
    }
    deadline(new, old, errors);
    tolerations(new, old, errors);
    gates(new, old, errors);
    rest(new, old, errors);
}

fn mirror(new: &Value, old: &Value, errors: &mut Errors) {
    let (now, before) =
        (new.at("metadata.annotations").key(MIRROR), old.at("metadata.annotations").key(MIRROR));
    let at = At::root("metadata.annotations");
    match (before.is_null(), now.is_null()) {
        (true, false) => errors.forbidden(at.key(MIRROR), "may not add mirror pod annotation"),
        (false, _) if now != before => {
            errors.forbidden(at.key(MIRROR), "may not remove or update mirror pod annotation");
        }
        _ => {}
    }
}

fn deadline(new: &Value, old: &Value, errors: &mut Errors) {
    let at = SPEC.at("activeDeadlineSeconds");
    match (new.int_opt("spec.activeDeadlineSeconds"), old.int_opt("spec.activeDeadlineSeconds")) {
        (Some(now), Some(before)) if now > before => {
            errors.invalid(at, now, "must be less than or equal to previous value");
        }
        (None, Some(_)) => {
            errors.invalid(at, Value::Null, "must not update from a positive integer to nil value")
        }
        _ => {}
    }
}

/// Tolerations may only be added; the seconds of existing ones may change.
fn tolerations(new: &Value, old: &Value, errors: &mut Errors) {
    let without_seconds = |t: &Value| {
        let mut t = t.clone();
        remove(&mut t, "tolerationSeconds");
        t
    };
    let now: Vec<Value> = new.items("spec.tolerations").iter().map(without_seconds).collect();
    let kept =
        old.items("spec.tolerations").iter().map(without_seconds).all(|t| now.iter().any(|n| same(n, &t)));
    if !kept {
        errors.forbidden(
            SPEC.at("tolerations"),
            "existing toleration can not be modified except its tolerationSeconds",
        );
    }
}

fn gates(new: &Value, old: &Value, errors: &mut Errors) {
    let list = SPEC.at("schedulingGates");
    let known = old.items("spec.schedulingGates");
    for (i, gate) in new.items("spec.schedulingGates").iter().enumerate() {
        let name = gate.text("name");
        if !known.iter().any(|g| g.text("name") == name) {
            let text = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            errors.forbidden(list.index(i).at("name"), text);
        }
    }
}

/// With what may change put back, the specs must be the same.
fn rest(new: &Value, old: &Value, errors: &mut Errors) {
    let mut munged = new.at("spec").clone();
    let before = old.at("spec");
    for list in ["containers", "initContainers"] {
        for (i, container) in before.items(list).iter().enumerate() {
            if let Some(now) = crate::look::items_mut(&mut munged, list).and_then(|l| l.get_mut(i)) {
                set(now, "image", container.at("image").clone());
            }
        }
    }
    for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        set(&mut munged, field, before.at(field).clone());
    }
    if before.int("terminationGracePeriodSeconds") < 0 && munged.int("terminationGracePeriodSeconds") == 1 {
        set(&mut munged, "terminationGracePeriodSeconds", before.at("terminationGracePeriodSeconds").clone());
    }
    if !before.items("schedulingGates").is_empty() {
        narrowed(&mut munged, before, errors);
    }
    if !same(&munged, before) {
        let diff = super::super::shared::difference(before, &munged);
        errors.forbidden(SPEC, format!("{ALLOWED}\n{diff}"));
    }
}

/// While a pod is gated, its node selector and required node affinity may be narrowed (KEP-3838).
fn narrowed(munged: &mut Value, before: &Value, errors: &mut Errors) {
    let (now, was) = (munged.at("nodeSelector").clone(), before.at("nodeSelector").clone());
    if !same(&now, &was) {
        let kept = was.entries("").all(|(key, value)| now.key(key) == value);
        if !kept {
            let text = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
            errors.invalid(SPEC.at("nodeSelector"), now, text);
        }
        set(munged, "nodeSelector", was);
    }
    let (now, was) = (munged.items(AFFINITY).to_vec(), before.items(AFFINITY).to_vec());
    if now == was {
        return;
    }
    let at = SPEC.at(AFFINITY);
    if !was.is_empty() && now.len() != was.len() {
        let text = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        errors.invalid(at, Value::Array(now), text);
    } else {
        for (i, (term, old_term)) in now.iter().zip(&was).enumerate() {
            let kept = ["matchExpressions", "matchFields"].iter().all(|list| {
                let (now, was) = (term.items(list), old_term.items(list));
                now.len() >= was.len() && now[..was.len()] == *was
            });
            if !kept {
                let text = "only additions are allowed (no mutations or deletions)";
                errors.invalid(at.index(i), term.clone(), text);
            }
        }
    }
    set(munged, "affinity", before.at("affinity").clone());
}

pub(super) fn validate_status(new: &Value, old: &Value, errors: &mut Errors) {
    if new.text("spec.nodeName") != old.text("spec.nodeName") {
        errors.forbidden(At::root("status.nodeName"), "may not be changed directly");
    }
    let status = At::root("status");
    let nominated = new.text("status.nominatedNodeName");
    if !nominated.is_empty() {
        errors.format(status.at("nominatedNodeName"), nominated, format::dns1123_subdomain(nominated));
    }
    let policy = old.text("spec.restartPolicy");
    transitions(new, old, "containerStatuses", policy, errors);
    transitions(new, old, "initContainerStatuses", policy, errors);
    transitions(new, old, "ephemeralContainerStatuses", "Never", errors);
    if !old.text("status.qosClass").is_empty() {
        errors.immutable(status.at("qosClass"), new.at("status.qosClass"), old.at("status.qosClass"));
    }
    ips(new, "podIP", "podIPs", errors);
    ips(new, "hostIP", "hostIPs", errors);
}

/// A container that ended for good may not run again.
fn transitions(new: &Value, old: &Value, list: &'static str, policy: &str, errors: &mut Errors) {
    if policy == "Always" {
        return;
    }
    let at = At::root("status");
    let at = at.at(list);
    for before in old.at("status").items(list) {
        let ended = before.at("state.terminated");
        let failed = ended.int("exitCode") != 0;
        if !ended.is_object() || (failed && policy == "OnFailure") || restarts(old, before.text("name")) {
            continue;
        }
        let now = new.at("status").items(list);
        let found = now.iter().position(|s| s.text("name") == before.text("name"));
        if let Some(i) = found.filter(|i| !now[*i].at("state.terminated").is_object()) {
            errors.forbidden(at.index(i).at("state"), "may not be transitioned to non-terminated state");
        }
    }
}

/// Whether the container has a restart policy of its own: sidecars and KEP-5307.
fn restarts(pod: &Value, name: &str) -> bool {
    ["spec.initContainers", "spec.containers"]
        .iter()
        .flat_map(|list| pod.items(list))
        .any(|c| c.text("name") == name && !matches!(c.text("restartPolicy"), "" | "Never"))
}

/// The first of the addresses is the single one; at most one per family.
fn ips(pod: &Value, one: &'static str, many: &'static str, errors: &mut Errors) {
    let status = At::root("status");
    let list = status.at(many);
    let all: Vec<&str> = pod.at("status").items(many).iter().map(|ip| ip.text("ip")).collect();
    for (i, ip) in all.iter().enumerate() {
        errors.format(list.index(i).at("ip"), ip, format::ip(ip));
    }
    let families = |v6: bool| all.iter().filter(|ip| ip.contains(':') == v6).count();
    if families(true) > 1 || families(false) > 1 {
        let shown = pod.at("status").at(many).clone();
        errors.invalid(list, shown, "may specify no more than one IP for each IP family");
    }
    let single = pod.at("status").text(one);
    if let Some(first) = all.first().filter(|first| !single.is_empty() && **first != single) {
        errors.invalid(list.index(0).at("ip"), *first, format!("must be equal to `{one}`"));
    }
}

/// The body of the `binding` subresource.
pub fn validate_binding(binding: &Value) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let target = At::root("target");
    let kind = binding.text("target.kind");
    if !kind.is_empty() && kind != "Node" {
        errors.not_supported(target.at("kind"), kind, &["Node", "<empty>"]);
    }
    if binding.text("target.name").is_empty() {
        errors.required(target.at("name"), "");
    }
    errors.done()
}

/// An update through `ephemeralcontainers`: only additions, and they must be good.
pub fn validate_ephemeral_containers_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::new();
    whole(new, &mut errors);
    if old.at("metadata.annotations").key(MIRROR).is_string() {
        errors.forbidden(At::root(""), "static pods do not support ephemeral containers");
    }
    let at = SPEC.at("ephemeralContainers");
    for before in old.items("spec.ephemeralContainers") {
        let name = before.text("name");
        let quoted = api_types::field::quote(name);
        match new.items("spec.ephemeralContainers").iter().find(|c| c.text("name") == name) {
            None => {
                errors.forbidden(at, format!("existing ephemeral containers {quoted} may not be removed\n"));
            }
            Some(now) if !same(now, before) => {
                let diff = super::super::shared::difference(before, now);
                let text = format!("existing ephemeral containers {quoted} may not be changed\n{diff}");
                errors.forbidden(at, text);
            }
            Some(_) => {}
        }
    }
    errors.done()
}

/// An update through `resize`: cpu and memory only, and the QoS class stays (KEP-1287).
pub fn validate_resize(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::new();
    whole(new, &mut errors);
    if old.at("metadata.annotations").key(MIRROR).is_string() {
        errors.forbidden(At::root(""), "static pods cannot be resized");
    }
    if old.text("spec.os.name") == "windows" {
        errors.forbidden(At::root(""), "windows pods cannot be resized");
    }
    if qos::class(new) != qos::class(old) {
        errors.invalid(SPEC, qos::class(new), "Pod QOS Class may not change as a result of resizing");
    }
    let mut munged = new.at("spec").clone();
    for list in ["containers", "initContainers"] {
        let (now, before) = (new.at("spec").items(list), old.at("spec").items(list));
        if now.len() != before.len() {
            let text = format!("{list} may not be added or removed on resize");
            errors.forbidden(SPEC.at(list), text);
            return errors.done();
        }
        for (i, container) in before.iter().enumerate() {
            put_back(&mut munged, list, i, container);
        }
    }
    if !same(&munged, old.at("spec")) {
        errors.forbidden(SPEC, "only cpu and memory resources are mutable");
    }
    errors.done()
}

fn put_back(munged: &mut Value, list: &str, index: usize, before: &Value) {
    let Some(now) = crate::look::items_mut(munged, list).and_then(|l| l.get_mut(index)) else { return };
    for field in ["resources.requests", "resources.limits"] {
        for resource in ["cpu", "memory"] {
            let path = format!("{field}.{resource}");
            let old = before.at(&path).clone();
            if old.is_null() && !now.has(&path) {
                continue;
            }
            set(now, &path, old);
        }
        if is_zero(now.at(field)) {
            remove(now, field);
        }
    }
    if is_zero(now.at("resources")) && before.at("resources").is_object() {
        set(now, "resources", json!({}));
    }
    set(now, "resizePolicy", before.at("resizePolicy").clone());
}
