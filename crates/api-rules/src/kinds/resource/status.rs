//! What was given to a claim, who uses it, and what drivers tell of the devices.

use super::{MAX_CONFIGS, binding_conditions, claim, configuration, names, raw, taint};
use crate::errors::{At, Errors};
use crate::format;
use crate::kinds::{declared, pod, shared};
use crate::look::{Look, items_mut, remove, same, set};
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap, HashSet};

const STATUS: At<'static> = At::root("status");
/// Users of a claim.
const MAX_USERS: usize = 256;
/// Devices of a claim.
const MAX_RESULTS: usize = 32;
/// Conditions that a driver tells of a device.
const MAX_CONDITIONS: usize = 8;
/// Bytes of the name and of the hardware address of an interface.
const MAX_INTERFACE: usize = 256;
const MAX_HARDWARE_ADDRESS: usize = 128;
const MAX_ADDRESSES: usize = 16;
/// What makes a device one of its kind.
const DEVICE: [&str; 4] = ["driver", "pool", "device", "shareID"];
const OPERATIONS: &str = "skipNodeOperations";
const RESULTS: &str = "status.allocation.devices.results";

/// The device that a result or a status is about.
fn identity(object: &Value) -> [&str; 4] {
    DEVICE.map(|field| object.text(field))
}

/// Drops what drivers told of devices that the claim no longer has, and what an alpha gate keeps.
pub(super) fn prepare(new: &mut Value, old: &Value) {
    let in_use = |result: &Value| !result.items(OPERATIONS).is_empty();
    if !old.items(RESULTS).iter().any(in_use) {
        for result in items_mut(new, RESULTS).into_iter().flatten() {
            remove(result, OPERATIONS);
        }
    }
    let Some(Value::Array(mut devices)) = remove(new, "status.devices") else { return };
    let mut gone: HashSet<[&str; 4]> = old.items(RESULTS).iter().map(identity).collect();
    for result in new.items(RESULTS) {
        gone.remove(&identity(result));
    }
    devices.retain(|device| !gone.contains(&identity(device)));
    if !devices.is_empty() {
        set(new, "status.devices", Value::Array(devices));
    }
}

pub(super) fn update(new: &Value, old: &Value, errors: &mut Errors) {
    let (status, before) = (new.at("status"), old.at("status"));
    // What is declared of the allocation comes before what is declared of the rest, and what is written after it.
    let mut allocation = Errors::new();
    given(new, old, &mut allocation);
    errors.take_declared(&mut allocation);
    let users = status.items("reservedFor");
    let at = STATUS.at("reservedFor");
    if declared::at_most_items(users, MAX_USERS, at, errors) {
        declared::unique(users, &["uid"], at, errors);
        for (i, user) in users.iter().enumerate() {
            for field in ["resource", "name", "uid"] {
                if user.text(field).is_empty() {
                    errors.required(at.index(i).at(field), "");
                }
            }
        }
    }
    let (devices, list) = (status.items("devices"), STATUS.at("devices"));
    declared::unique(devices, &DEVICE, list, errors);
    let given: HashSet<[&str; 4]> = new.items(RESULTS).iter().map(identity).collect();
    for (i, device) in devices.iter().enumerate() {
        device_status(device, given.contains(&identity(device)), list.index(i), errors);
    }
    let added = || users.iter().any(|user| !before.items("reservedFor").contains(user));
    if !users.is_empty() && !status.has("allocation") {
        errors.forbidden(at, "may not be specified when `allocated` is not set");
    } else if new.has("metadata.deletionTimestamp") && added() {
        let text =
            "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
        errors.forbidden(at, text);
    }
    errors.extend(allocation.done());
}

/// An allocation is made once, and taken away; it does not change.
fn given(new: &Value, old: &Value, errors: &mut Errors) {
    let (allocation, before) = (new.at("status.allocation"), old.at("status.allocation"));
    let at = STATUS.at("allocation");
    if allocation.is_null() {
        return;
    }
    if !before.is_null() {
        return declared::not_modified(allocation, before, at, errors);
    }
    let requests = new.items("spec.devices.requests");
    let results = allocation.items("devices.results");
    let list = at.at("devices.results");
    if declared::at_most_items(results, MAX_RESULTS, list, errors) {
        for (i, one) in results.iter().enumerate() {
            result(one, requests, list.index(i), errors);
        }
    }
    let configs = allocation.items("devices.config");
    let list = at.at("devices.config");
    if declared::at_most_items(configs, 2 * MAX_CONFIGS, list, errors) {
        for (i, config) in configs.iter().enumerate() {
            let at = list.index(i);
            if declared::required(config.at("source"), at.at("source"), errors) {
                let known = ["FromClaim", "FromClass"];
                declared::one_of(config.text("source"), &known, at.at("source"), errors);
            }
            claim::references(config.items("requests"), requests, at.at("requests"), errors);
            configuration(config, false, at, errors);
        }
    }
    if allocation.has("nodeSelector") {
        pod::node_selector(allocation.at("nodeSelector"), at.at("nodeSelector"), errors);
    }
}

fn result(result: &Value, requests: &[Value], at: At<'_>, errors: &mut Errors) {
    claim::reference(result.text("request"), requests, at.at("request"), errors);
    declared::driver_name(result.at("driver"), at.at("driver"), errors);
    names::declared_pool(result.text("pool"), at.at("pool"), errors);
    let device = result.text("device");
    errors.format(at.at("device"), device, format::dns1123_label(device));
    binding_conditions(result, at, errors);
    let list = at.at("tolerations");
    for (i, toleration) in result.items("tolerations").iter().enumerate() {
        taint::toleration(toleration, list.index(i), errors);
    }
    share(result, at, errors);
}

fn share(object: &Value, at: At<'_>, errors: &mut Errors) {
    if let Some(share) = object.at("shareID").as_str() {
        names::uuid(share, at.at("shareID"), errors);
    }
}

fn device_status(device: &Value, is_given: bool, at: At<'_>, errors: &mut Errors) {
    pod::driver_name(device.text("driver"), at.at("driver"), errors);
    names::pool(device.text("pool"), at.at("pool"), errors);
    let name = device.text("device");
    errors.format(at.at("device"), name, format::dns1123_label(name));
    share(device, at, errors);
    if !is_given {
        let shown = json!({"Driver": device.text("driver"), "Pool": device.text("pool"), "Device": name,
            "ShareID": device.text("shareID")});
        errors.invalid(at, shown, "must be an allocated device in the claim");
    }
    let conditions = device.items("conditions");
    if conditions.len() > MAX_CONDITIONS {
        errors.too_many(at.at("conditions"), conditions.len(), MAX_CONDITIONS);
    }
    shared::conditions(conditions, at.at("conditions"), errors);
    if device.has("data") {
        raw(device.at("data"), false, at.at("data"), errors);
    }
    network(device.at("networkData"), at.at("networkData"), errors);
}

fn network(data: &Value, at: At<'_>, errors: &mut Errors) {
    declared::at_most_bytes(data.text("interfaceName"), MAX_INTERFACE, at.at("interfaceName"), errors);
    let (addresses, list) = (data.items("ips"), at.at("ips"));
    if declared::at_most_items(addresses, MAX_ADDRESSES, list, errors) {
        declared::unique(addresses, &[], list, errors);
        for (i, address) in addresses.iter().enumerate() {
            let address = address.as_str().unwrap_or("");
            errors.format(list.index(i), address, format::interface_address(address));
        }
    }
    let hardware = data.text("hardwareAddress");
    declared::at_most_bytes(hardware, MAX_HARDWARE_ADDRESS, at.at("hardwareAddress"), errors);
}

/// Whether an update of the status binds or unbinds the claim (upstream: `AuthorizedForBinding`).
pub fn changes_binding(new: &Value, old: &Value) -> bool {
    ["status.allocation", "status.reservedFor"].iter().any(|field| !same(new.at(field), old.at(field)))
}

/// The drivers whose devices' status an update changes; none while nothing is allocated, as that is dropped (upstream:
/// `AuthorizedForDeviceStatus`).
pub fn changed_drivers(new: &Value, old: &Value) -> BTreeSet<String> {
    if !new.has("status.allocation") {
        return BTreeSet::new();
    }
    let (now, before) = (new.items("status.devices"), old.items("status.devices"));
    fn by_identity(list: &[Value]) -> HashMap<[&str; 4], &Value> {
        list.iter().map(|one| (identity(one), one)).collect()
    }
    let (known, kept) = (by_identity(before), by_identity(now));
    let changed = now.iter().filter(|one| known.get(&identity(one)).is_none_or(|old| !same(old, one)));
    let gone = before.iter().filter(|one| !kept.contains_key(&identity(one)));
    changed.chain(gone).map(|one| one.text("driver").to_owned()).collect()
}

/// The node that the claim's devices are on, if its node selector names one and nothing else.
pub fn node_of(claim: &Value) -> Option<&str> {
    let [term] = claim.items("status.allocation.nodeSelector.nodeSelectorTerms") else { return None };
    let [field] = term.items("matchFields") else { return None };
    let [name] = field.items("values") else { return None };
    let named = field.text("key") == "metadata.name" && field.text("operator") == "In";
    name.as_str().filter(|_| named && term.items("matchExpressions").is_empty())
}
