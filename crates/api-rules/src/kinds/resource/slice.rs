//! ResourceSlice: devices that a driver offers, as a part of a pool.

use super::{binding_conditions, capacity, chosen, names, taint};
use crate::errors::{At, Errors};
use crate::format;
use crate::kinds::{declared, pod};
use crate::look::{Look, items_mut, object_mut, remove, same};
use serde_json::Value;

const SPEC: At<'static> = At::root("spec");
/// Devices of a slice; fewer where they are tainted, or parts of each other, or have lists.
const MAX_DEVICES: usize = 128;
const MAX_INVOLVED_DEVICES: usize = 64;
const MAX_COUNTER_SETS: usize = 8;
/// Counters of a set, and counters that a device consumes of one.
const MAX_COUNTERS: usize = 32;
/// Sets of counters that a device consumes of.
const MAX_CONSUMED: usize = 2;
const MAX_TAINTS: usize = 16;
/// Attributes and capacities of a device.
const MAX_ATTRIBUTES: usize = 32;
/// Values of all attributes of a device.
const MAX_VALUES: usize = 48;
/// Bytes of a value of an attribute.
const MAX_VALUE: usize = 64;
/// Bytes of an attribute's name that an error shows.
const MAX_KEY: usize = 96;
/// Fields of an attribute, one of which is set; the second half is lists.
const VALUES: [&str; 8] = ["int", "bool", "string", "version", "ints", "bools", "strings", "versions"];
const LISTS: &[&str] = &["ints", "bools", "strings", "versions"];

pub(super) fn slice(object: &Value, old: Option<&Value>, errors: &mut Errors) {
    let spec = object.at("spec");
    pod::driver_name(spec.text("driver"), SPEC.at("driver"), errors);
    pool(spec.at("pool"), SPEC.at("pool"), errors);
    if let Some(old) = old {
        for field in ["pool.name", "driver", "nodeName"] {
            errors.immutable(SPEC.at(field), spec.at(field), old.at("spec").at(field));
        }
    }
    nodes(spec, errors);
    if spec.has("sharedCounters") && spec.has("devices") {
        errors.invalid(SPEC, "", "only one of `sharedCounters` or `devices` is allowed");
    }
    devices(spec, old.map(|old| old.at("spec")), errors);
    let (sets, list) = (spec.items("sharedCounters"), SPEC.at("sharedCounters"));
    if declared::at_most_items(sets, MAX_COUNTER_SETS, list, errors) {
        declared::unique(sets, &["name"], list, errors);
        for (i, set) in sets.iter().enumerate() {
            counters(set, "name", list.index(i), errors);
        }
    }
}

fn pool(pool: &Value, at: At<'_>, errors: &mut Errors) {
    names::pool(pool.text("name"), at.at("name"), errors);
    let (count, generation) = (pool.int("resourceSliceCount"), pool.int("generation"));
    if count <= 0 {
        errors.invalid(at.at("resourceSliceCount"), count, "must be greater than zero");
    }
    if generation < 0 {
        errors.invalid(at.at("generation"), generation, "must be greater than or equal to zero");
    }
}

/// The nodes that have the devices, said in one way.
fn nodes(spec: &Value, errors: &mut Errors) {
    let mut set = Vec::new();
    if let Some(name) = spec.at("nodeName").as_str() {
        let at = SPEC.at("nodeName");
        if name.is_empty() {
            errors.invalid(at, "", "must be either unset or set to a non-empty string");
        } else {
            set.push("nodeName");
            errors.format(at, name, format::dns1123_subdomain(name));
        }
    }
    let selector = spec.at("nodeSelector");
    if !selector.is_null() {
        set.push("nodeSelector");
        let at = SPEC.at("nodeSelector");
        pod::node_selector(selector, at, errors);
        let terms = selector.items("nodeSelectorTerms");
        if terms.len() != 1 {
            let text = "must have exactly one node selector term";
            errors.invalid(at.at("nodeSelectorTerms"), Value::from(terms), text);
        }
    }
    for field in ["allNodes", "perDeviceNodeSelection"] {
        only_true(spec, field, SPEC, &mut set, errors);
    }
    let text = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    match set.len() {
        0 => errors.required(SPEC, text),
        1 => {}
        _ => errors.invalid(SPEC, chosen(&set), format!("{text}, but multiple fields are set")),
    }
}

fn only_true<'a>(object: &Value, field: &'a str, at: At<'_>, set: &mut Vec<&'a str>, errors: &mut Errors) {
    match object.at(field).as_bool() {
        Some(true) => set.push(field),
        Some(false) => errors.invalid(at.at(field), false, "must be either unset or set to true"),
        None => {}
    }
}

fn devices(spec: &Value, old: Option<&Value>, errors: &mut Errors) {
    let (all, list) = (spec.items("devices"), SPEC.at("devices"));
    let is_involved = |device: &Value| {
        !device.items("taints").is_empty()
            || !device.items("consumesCounters").is_empty()
            || has_lists(device)
    };
    let max = if all.iter().any(is_involved) { MAX_INVOLVED_DEVICES } else { MAX_DEVICES };
    if all.len() > max {
        return errors.too_many(list, all.len(), max);
    }
    for (i, one) in all.iter().enumerate() {
        let name = one.text("name");
        let before = old.and_then(|old| old.items("devices").iter().find(|old| old.text("name") == name));
        device(one, before, spec.flag("perDeviceNodeSelection"), list.index(i), errors);
    }
    for (i, one) in all.iter().enumerate() {
        let name = one.text("name");
        if all[..i].iter().any(|other| other.text("name") == name) {
            errors.duplicate(list.index(i), name);
        }
    }
}

fn device(device: &Value, old: Option<&Value>, places: bool, at: At<'_>, errors: &mut Errors) {
    let name = device.text("name");
    errors.format(at.at("name"), name, format::dns1123_label(name));
    attributes(device, at, errors);
    let kept = |field: &str| old.is_some_and(|old| same(device.at(field), old.at(field)));
    if !kept("capacity") {
        let list = at.at("capacity");
        for (key, value) in device.entries("capacity") {
            names::qualified(key, list, errors);
            let shared = device.flag("allowMultipleAllocations");
            capacity::capacity(value, shared, list.key(&shortened(key)), errors);
        }
    }
    if !kept("taints") {
        let (taints, list) = (device.items("taints"), at.at("taints"));
        if taints.len() > MAX_TAINTS {
            errors.too_many(list, taints.len(), MAX_TAINTS);
        } else {
            for (i, one) in taints.iter().enumerate() {
                taint::taint(one, None, list.index(i), errors);
            }
        }
    }
    let (consumed, list) = (device.items("consumesCounters"), at.at("consumesCounters"));
    if declared::at_most_items(consumed, MAX_CONSUMED, list, errors) {
        declared::unique(consumed, &["counterSet"], list, errors);
        for (i, one) in consumed.iter().enumerate() {
            counters(one, "counterSet", list.index(i), errors);
        }
    }
    place(device, places, at, errors);
    binding_conditions(device, at, errors);
}

/// Counters by name, in a set or of one.
fn counters(object: &Value, name: &str, at: At<'_>, errors: &mut Errors) {
    declared::required_format(object.at(name), format::short_name, at.at(name), errors);
    let at = at.at("counters");
    let count = object.entries("counters").count();
    if count == 0 {
        declared::required(&Value::Null, at, errors);
    } else if count > MAX_COUNTERS {
        errors.too_many(at, count, MAX_COUNTERS);
    }
    for (key, _) in object.entries("counters") {
        declared::format(key, format::short_name(key), at, errors);
    }
}

/// The nodes that have this device, where devices of a slice are on different ones.
fn place(device: &Value, places: bool, at: At<'_>, errors: &mut Errors) {
    if !places {
        if ["nodeName", "nodeSelector", "allNodes"].iter().any(|field| device.has(field)) {
            let text = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
            errors.invalid(at, Value::Null, text);
        }
        return;
    }
    let mut set = Vec::new();
    match device.at("nodeName").as_str() {
        None => {}
        Some("") => errors.invalid(at.at("nodeName"), "", "must not be empty"),
        Some(name) => {
            set.push("nodeName");
            errors.format(at.at("nodeName"), name, format::dns1123_subdomain(name));
        }
    }
    if device.has("nodeSelector") {
        set.push("nodeSelector");
        pod::node_selector(device.at("nodeSelector"), at.at("nodeSelector"), errors);
    }
    only_true(device, "allNodes", at, &mut set, errors);
    let text = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    match set.len() {
        0 => errors.required(at, text),
        1 => {}
        _ => errors.invalid(at, chosen(&set), text),
    }
}

fn has_lists(device: &Value) -> bool {
    device.entries("attributes").any(|(_, attribute)| LISTS.iter().any(|list| attribute.has(list)))
}

fn attributes(device: &Value, at: At<'_>, errors: &mut Errors) {
    let count = device.entries("attributes").count() + device.entries("capacity").count();
    if count > MAX_ATTRIBUTES {
        let text = format!("the total number of attributes and capacities must not exceed {MAX_ATTRIBUTES}");
        errors.invalid(at, count, text);
    }
    let values =
        |attribute: &Value| LISTS.iter().map(|list| attribute.items(list).len()).sum::<usize>().max(1);
    let count: usize = device.entries("attributes").map(|(_, attribute)| values(attribute)).sum();
    if count > MAX_VALUES {
        let text = format!("the total number of attribute values must not exceed {MAX_VALUES}");
        errors.invalid(at, count, text);
    }
    let list = at.at("attributes");
    for (key, value) in device.entries("attributes") {
        names::qualified(key, list, errors);
        attribute(value, list.key(&shortened(key)), errors);
    }
}

fn attribute(attribute: &Value, at: At<'_>, errors: &mut Errors) {
    if let Some(text) = attribute.at("string").as_str()
        && text.len() > MAX_VALUE
    {
        errors.too_long(at.at("string"), MAX_VALUE);
    }
    if let Some(text) = attribute.at("version").as_str() {
        if !is_version(text) {
            let said = "must be a string compatible with semver.org spec 2.0.0";
            errors.invalid(at.at("version"), text, said);
        }
        if text.len() > MAX_VALUE {
            errors.too_long(at.at("version"), MAX_VALUE);
        }
    }
    let set: Vec<&str> = VALUES.into_iter().filter(|field| attribute.has(field)).collect();
    let all = VALUES.map(|field| format!("`{field}`")).join(", ");
    errors.declared(|errors| match set.len() {
        0 => errors.invalid(at, "", format!("must specify one of: {all}")),
        1 => {}
        _ => {
            let shown = format!("{{{}}}", set.join(", "));
            errors.invalid(at, shown, format!("must specify exactly one of: {all}"));
        }
    });
}

/// A version by semver.org 2.0.0.
fn is_version(text: &str) -> bool {
    let number = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_digit())
            && (part == "0" || !part.starts_with('0'))
    };
    let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let is_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    let (rest, build) = text.split_once('+').map_or((text, None), |(rest, build)| (rest, Some(build)));
    let (core, pre) = rest.split_once('-').map_or((rest, None), |(core, pre)| (core, Some(pre)));
    let core: Vec<&str> = core.split('.').collect();
    core.len() == 3
        && core.into_iter().all(number)
        && pre.is_none_or(|pre| pre.split('.').all(|part| word(part) && (number(part) || !is_digits(part))))
        && build.is_none_or(|build| build.split('.').all(word))
}

/// A key as the path of an error shows it: cut in its middle when it is too long.
fn shortened(key: &str) -> String {
    if key.len() <= MAX_KEY {
        return key.to_owned();
    }
    let rest = MAX_KEY - 3;
    let (head, tail) =
        (key.floor_char_boundary(rest.div_ceil(2)), key.ceil_char_boundary(key.len() - rest / 2));
    format!("{}...{}", &key[..head], &key[tail..])
}

/// Drops what alpha gates keep, where the stored slice had none of it.
pub(super) fn drop_disabled(new: &mut Value, old: Option<&Value>) {
    let had =
        |used: &dyn Fn(&Value) -> bool| old.is_some_and(|old| old.items("spec.devices").iter().any(used));
    let grouped = |device: &Value| {
        device.items("consumesCounters").iter().any(|one| !one.items("compatibilityGroups").is_empty())
    };
    let (lists, groups) = (had(&has_lists), had(&grouped));
    let resources = had(&|device| device.entries("nodeAllocatableResources").next().is_some());
    for field in ["partitionTypeAttribute", "skipNodeOperations"] {
        let path = format!("spec.{field}");
        if old.is_none_or(|old| !old.has(&path)) {
            remove(new, &path);
        }
    }
    for device in items_mut(new, "spec.devices").into_iter().flatten() {
        if !resources {
            remove(device, "nodeAllocatableResources");
        }
        if !groups {
            for consumed in items_mut(device, "consumesCounters").into_iter().flatten() {
                remove(consumed, "compatibilityGroups");
            }
        }
        if !lists && device.has("attributes") {
            for attribute in object_mut(device, "attributes").values_mut() {
                LISTS.iter().for_each(|list| drop(remove(attribute, list)));
            }
        }
    }
}
