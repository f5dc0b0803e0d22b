//! CSIDriver, CSINode, CSIStorageCapacity, VolumeAttachment: what storage drivers, and those who drive them, tell each
//! other (upstream: `pkg/apis/storage/validation`).

use super::shared::{repeated, unchanged};
use super::{Kind, declared, pod, selector, storage};
use crate::errors::{At, Errors};
use crate::format;
use crate::look::{Look, is_zero, quantity, remove};
use serde_json::Value;
use std::collections::HashMap;

const GROUP: &str = "storage.k8s.io";
const SPEC: At<'static> = At::root("spec");
/// Bytes of a node's ID with a driver.
const MAX_NODE_ID: usize = 256;
/// Bytes of what a driver said when it attached a volume.
const MAX_ATTACHMENT: usize = 256 * 1024;
/// Bytes of the text of an error.
const MAX_MESSAGE: usize = 1024;
/// Shortest and longest life of a token in seconds.
const TOKEN_SECONDS: [i64; 2] = [600, 1 << 32];
/// Shortest time between two updates of what a node can take, in seconds.
const MIN_UPDATE_SECONDS: i64 = 10;

pub(super) static KINDS: &[Kind] = &[
    Kind::new(GROUP, "CSIDriver").create(driver).update(driver_update),
    Kind {
        // The health of drivers is kept behind the alpha gate CSIVolumeHealth.
        prepare_status_update: |new, old| {
            if is_zero(old.at("status.storageHealth")) {
                remove(new, "status.storageHealth");
            }
        },
        ..Kind::new(GROUP, "CSINode").create(node).update(node_update)
    },
    Kind::new(GROUP, "CSIStorageCapacity").create(capacity).update(capacity_update),
    Kind::new(GROUP, "VolumeAttachment")
        .create(attachment)
        .update(attachment_update)
        .status(attachment_update),
];

fn driver(object: &Value, errors: &mut Errors) {
    let spec = object.at("spec");
    for (field, shown) in [
        ("attachRequired", "attachedRequired"),
        ("podInfoOnMount", "podInfoOnMount"),
        ("storageCapacity", "storageCapacity"),
    ] {
        required_flag(spec, field, shown, errors);
    }
    if let Some(policy) = spec.at("fsGroupPolicy").as_str() {
        let known = ["File", "None", "ReadWriteOnceWithFSType"];
        if !known.contains(&policy) {
            errors.not_supported(SPEC.at("fsGroupPolicy"), policy, &known);
        }
    }
    token_requests(spec.items("tokenRequests"), errors);
    for mode in spec.items("volumeLifecycleModes") {
        if mode != "Persistent" && mode != "Ephemeral" {
            let at = SPEC.at("volumeLifecycleModes");
            errors.not_supported(at, mode.clone(), &["Persistent", "Ephemeral"]);
        }
    }
    required_flag(spec, "seLinuxMount", "seLinuxMount", errors);
    let period = spec.int_opt("nodeAllocatableUpdatePeriodSeconds");
    if let Some(seconds) = period.filter(|seconds| *seconds < MIN_UPDATE_SECONDS) {
        let at = SPEC.at("nodeAllocatableUpdatePeriodSeconds");
        errors.invalid(at, seconds, "must be greater than or equal to 10 seconds");
    }
    let in_secrets = spec.at("serviceAccountTokenInSecrets");
    if !in_secrets.is_null() && spec.items("tokenRequests").is_empty() {
        let text = "serviceAccountTokenInSecrets is set but no tokenRequests are specified";
        errors.invalid(SPEC.at("serviceAccountTokenInSecrets"), in_secrets.clone(), text);
    }
    let field = "preventPodSchedulingIfMissing";
    required_flag(spec, field, field, errors);
}

fn required_flag(spec: &Value, field: &str, shown: &str, errors: &mut Errors) {
    if !spec.has(field) {
        errors.required(SPEC.at(shown), "");
    }
}

fn token_requests(requests: &[Value], errors: &mut Errors) {
    let list = SPEC.at("tokenRequests");
    let again = repeated(requests.iter().map(|request| request.text("audience")));
    for (i, request) in requests.iter().enumerate() {
        let at = list.index(i);
        if again[i] {
            errors.duplicate(at.at("audience"), request.text("audience"));
            continue;
        }
        let Some(seconds) = request.int_opt("expirationSeconds") else { continue };
        let at = at.at("expirationSeconds");
        if seconds < TOKEN_SECONDS[0] {
            errors.invalid(at, seconds, "may not specify a duration less than 10 minutes");
        }
        if seconds > TOKEN_SECONDS[1] {
            errors.invalid(at, seconds, "may not specify a duration larger than 2^32 seconds");
        }
    }
}

fn driver_update(new: &Value, old: &Value, errors: &mut Errors) {
    driver(new, errors);
    let (new, old) = (new.at("spec"), old.at("spec"));
    errors.immutable(SPEC.at("attachedRequired"), new.at("attachRequired"), old.at("attachRequired"));
    unchanged(new, old, &["volumeLifecycleModes"], SPEC, errors);
}

fn node(object: &Value, errors: &mut Errors) {
    let list = SPEC.at("drivers");
    let drivers = object.items("spec.drivers");
    let again = repeated(drivers.iter().map(|driver| driver.text("name")));
    for (i, one) in drivers.iter().enumerate() {
        let at = list.index(i);
        let name = one.text("name");
        pod::driver_name(name, at.at("name"), errors);
        let id = one.text("nodeID");
        if id.is_empty() {
            errors.required(at.at("nodeID"), "");
        }
        if id.len() > MAX_NODE_ID {
            errors.invalid(at.at("nodeID"), id, format!("must be {MAX_NODE_ID} characters or less"));
        }
        errors.non_negative(at.at("allocatable.count"), one.int("allocatable.count"));
        if again[i] {
            errors.duplicate(at.at("name"), name);
        }
        topology_keys(one.items("topologyKeys"), at, errors);
    }
}

fn topology_keys(keys: &[Value], at: At<'_>, errors: &mut Errors) {
    let texts = || keys.iter().map(|key| key.as_str().unwrap_or(""));
    for (text, again) in texts().zip(repeated(texts())) {
        if text.is_empty() {
            errors.required(at, "");
        }
        if again {
            errors.duplicate(at, text);
        }
        errors.format(at, text, format::qualified_name(text));
    }
}

/// What a driver said of the node stays, but for how much it can take.
fn node_update(new: &Value, old: &Value, errors: &mut Errors) {
    node(new, errors);
    let fixed = |driver: &Value| {
        let mut driver = driver.clone();
        remove(&mut driver, "allocatable");
        driver
    };
    let by_name: HashMap<&str, &Value> =
        new.items("spec.drivers").iter().map(|driver| (driver.text("name"), driver)).collect();
    for before in old.items("spec.drivers") {
        if let Some(now) = by_name.get(before.text("name")) {
            errors.immutable(SPEC.at("drivers"), &fixed(now), &fixed(before));
        }
    }
}

fn capacity(object: &Value, errors: &mut Errors) {
    selector::validate(object.at("nodeTopology"), At::root("nodeTopology"), errors);
    let class = object.text("storageClassName");
    errors.format(At::root("storageClassName"), class, format::dns1123_subdomain(class));
    if let Some(amount) = quantity(object.at("capacity")).filter(|amount| amount.is_negative()) {
        errors.invalid(At::root("capacity"), amount.to_string(), crate::errors::NON_NEGATIVE);
    }
}

fn capacity_update(new: &Value, old: &Value, errors: &mut Errors) {
    capacity(new, errors);
    unchanged(new, old, &["nodeTopology", "storageClassName"], At::root(""), errors);
}

fn attachment(object: &Value, errors: &mut Errors) {
    declared::driver_name(object.at("spec.attacher"), SPEC.at("attacher"), errors);
    attached(object, errors);
}

/// What is to be attached stays.
fn attachment_update(new: &Value, old: &Value, errors: &mut Errors) {
    pod::driver_name(new.text("spec.attacher"), SPEC.at("attacher"), errors);
    attached(new, errors);
    declared::immutable(new.at("spec"), old.at("spec"), SPEC, errors);
}

fn attached(object: &Value, errors: &mut Errors) {
    let source = object.at("spec.source");
    source_of(source, SPEC.at("source"), errors);
    let node = object.text("spec.nodeName");
    errors.format(SPEC.at("nodeName"), node, format::dns1123_subdomain(node));
    attachment_status(object.at("status"), errors);
    if let Some(name) = source.at("persistentVolumeName").as_str() {
        let at = SPEC.at("source.persistentVolumeName");
        errors.format(at, name, format::dns1123_subdomain(name));
    }
}

fn source_of(source: &Value, at: At<'_>, errors: &mut Errors) {
    let text = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    let (inline, name) = (source.at("inlineVolumeSpec"), source.at("persistentVolumeName"));
    match (inline.is_null(), name.as_str()) {
        (true, None) => errors.required(at, text),
        (false, Some(_)) => errors.forbidden(at, text),
        (true, Some("")) => {
            errors.required(at.at("persistentVolumeName"), "must specify non empty persistentVolumeName");
        }
        (true, Some(_)) => {}
        (false, None) => storage::inline_volume(inline, at.at("inlineVolumeSpec"), errors),
    }
}

fn attachment_status(status: &Value, errors: &mut Errors) {
    let at = At::root("status");
    let entries = status.entries("attachmentMetadata");
    let size: usize = entries.map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum();
    if size > MAX_ATTACHMENT {
        errors.too_long(at.at("attachmentMetadata"), MAX_ATTACHMENT);
    }
    for field in ["attachError", "detachError"] {
        let (error, at) = (status.at(field), at.at(field));
        if error.text("message").len() > MAX_MESSAGE {
            errors.too_long(at.at("message"), MAX_MESSAGE);
        }
        if let Some(code) = error.int_opt("errorCode").filter(|code| *code < 0) {
            errors.invalid(at.at("errorCode"), code, "must be between 0 and 2147483647, inclusive");
        }
    }
}

#[cfg(test)]
mod tests;
