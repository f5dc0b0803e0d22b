//! What a claim asks for: requests, constraints between the devices, configurations.

use super::{MAX_CONFIGS, configuration, names, selectors, taint};
use crate::errors::{At, Errors};
use crate::format;
use crate::kinds::declared;
use crate::look::{Look, items_mut, remove};
use serde_json::Value;

/// Requests of a claim, and names of them in one place.
const MAX_REQUESTS: usize = 32;
/// Alternatives of a request.
const MAX_ALTERNATIVES: usize = 8;
const MAX_CONSTRAINTS: usize = 32;
const MODES: &[&str] = &["All", "ExactCount"];

/// The spec of a claim, also in templates.
pub(super) fn spec(spec: &Value, at: At<'_>, errors: &mut Errors) {
    let devices = spec.at("devices");
    let (all, at) = (devices.items("requests"), at.at("devices"));
    let list = at.at("requests");
    if declared::at_most_items(all, MAX_REQUESTS, list, errors) {
        declared::unique(all, &["name"], list, errors);
        for (i, one) in all.iter().enumerate() {
            request(one, list.index(i), errors);
        }
    }
    let (constraints, list) = (devices.items("constraints"), at.at("constraints"));
    if declared::at_most_items(constraints, MAX_CONSTRAINTS, list, errors) {
        for (i, one) in constraints.iter().enumerate() {
            constraint(one, all, list.index(i), errors);
        }
    }
    let (configs, list) = (devices.items("config"), at.at("config"));
    if declared::at_most_items(configs, MAX_CONFIGS, list, errors) {
        for (i, config) in configs.iter().enumerate() {
            let at = list.index(i);
            references(config.items("requests"), all, at.at("requests"), errors);
            configuration(config, false, at, errors);
        }
    }
}

fn request(request: &Value, at: At<'_>, errors: &mut Errors) {
    let name = request.text("name");
    errors.format(at.at("name"), name, format::dns1123_label(name));
    let alternatives = request.items("firstAvailable");
    let text = "exactly one of `exactly` or `firstAvailable` is required";
    match (request.has("exactly"), !alternatives.is_empty()) {
        (false, false) => errors.required(at, text),
        (true, true) => errors.invalid(at, Value::Null, format!("{text}, but multiple fields are set")),
        (true, false) => exactly(request.at("exactly"), at.at("exactly"), errors),
        (false, true) => first_available(alternatives, at.at("firstAvailable"), errors),
    }
}

fn first_available(list: &[Value], at: At<'_>, errors: &mut Errors) {
    if !declared::at_most_items(list, MAX_ALTERNATIVES, at, errors) {
        return;
    }
    declared::unique(list, &["name"], at, errors);
    for (i, one) in list.iter().enumerate() {
        let at = at.index(i);
        let name = one.text("name");
        errors.format(at.at("name"), name, format::dns1123_label(name));
        let class = one.at("deviceClassName");
        declared::required_format(class, format::long_name, at.at("deviceClassName"), errors);
        wanted(one, at, errors);
    }
}

fn exactly(exactly: &Value, at: At<'_>, errors: &mut Errors) {
    crate::kinds::shared::required_subdomain(
        exactly.text("deviceClassName"),
        at.at("deviceClassName"),
        errors,
    );
    wanted(exactly, at, errors);
}

/// Which devices of the class, how many, and despite which taints.
fn wanted(request: &Value, at: At<'_>, errors: &mut Errors) {
    selectors(request.items("selectors"), false, at.at("selectors"), errors);
    let (mode, count) = (request.text("allocationMode"), request.int("count"));
    match mode {
        "All" if count != 0 => {
            let text = "must not be specified when allocationMode is 'All'";
            errors.invalid(at.at("count"), count, text);
        }
        "ExactCount" if count <= 0 => errors.invalid(at.at("count"), count, "must be greater than zero"),
        mode => declared::one_of(mode, MODES, at.at("allocationMode"), errors),
    }
    let list = at.at("tolerations");
    for (i, toleration) in request.items("tolerations").iter().enumerate() {
        taint::toleration(toleration, list.index(i), errors);
    }
}

fn constraint(constraint: &Value, requests: &[Value], at: At<'_>, errors: &mut Errors) {
    references(constraint.items("requests"), requests, at.at("requests"), errors);
    let fields = ["matchAttribute", "distinctAttribute"];
    for field in fields {
        if let Some(name) = constraint.at(field).as_str() {
            names::fully_qualified(name, at.at(field), errors);
        }
    }
    if !fields.iter().any(|field| constraint.has(field)) {
        let text = "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set";
        errors.required(at, text);
    }
}

/// Names of requests, each once.
pub(super) fn references(list: &[Value], requests: &[Value], at: At<'_>, errors: &mut Errors) {
    if !declared::at_most_items(list, MAX_REQUESTS, at, errors) {
        return;
    }
    declared::unique(list, &[], at, errors);
    for (i, name) in list.iter().enumerate() {
        reference(name.as_str().unwrap_or(""), requests, at.index(i), errors);
    }
}

/// The name of a request, or of one of its alternatives behind a slash.
pub(super) fn reference(name: &str, requests: &[Value], at: At<'_>, errors: &mut Errors) {
    let parts: Vec<&str> = name.split('/').collect();
    if parts.len() <= 2 {
        for part in &parts {
            errors.format(at, part, format::dns1123_label(part));
        }
    }
    let named = |list: &[Value], name: &str| list.iter().any(|one| one.text("name") == name);
    let found = match parts[..] {
        [request] => named(requests, request),
        [request, alternative] => requests
            .iter()
            .any(|one| one.text("name") == request && named(one.items("firstAvailable"), alternative)),
        _ => false,
    };
    if !found {
        let text = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
        errors.invalid(at, name, text);
    }
}

/// Drops what an alpha gate keeps: attributes that are derived.
pub(super) fn drop_disabled(object: &mut Value, old: Option<&Value>, spec: &str) {
    const FIELD: &str = "derivedAttributes";
    let path = format!("{spec}.devices.requests");
    let uses = |part: &Value| !part.items(FIELD).is_empty();
    let in_use =
        |request: &Value| uses(request.at("exactly")) || request.items("firstAvailable").iter().any(uses);
    if old.is_some_and(|old| old.items(&path).iter().any(in_use)) {
        return;
    }
    for request in items_mut(object, &path).into_iter().flatten() {
        remove(request, &format!("exactly.{FIELD}"));
        for alternative in items_mut(request, "firstAvailable").into_iter().flatten() {
            remove(alternative, FIELD);
        }
    }
}

/// The path of the first request of a claim or template for access that only namespaces of administrators have.
pub fn admin_access(object: &Value) -> Option<String> {
    let spec = if object.has("spec.spec") { object.at("spec.spec") } else { object.at("spec") };
    let i = spec.items("devices.requests").iter().position(|one| one.flag("exactly.adminAccess"))?;
    // Upstream's path, also in templates.
    Some(format!("spec.devices.requests[{i}].adminAccess"))
}

/// The same of what a new status grants; nothing when the old one did.
pub fn admin_access_granted(new: &Value, old: &Value) -> Option<String> {
    let first = |claim: &Value| {
        let results = claim.items("status.allocation.devices.results");
        results.iter().position(|result| result.flag("adminAccess"))
    };
    let i = if first(old).is_some() { None } else { first(new) }?;
    Some(format!("status.allocation.devices.results[{i}].adminAccess"))
}
