//! Requests and limits (upstream: `ValidateContainerResourceRequirements`).

use crate::errors::{At, Errors, NON_NEGATIVE};
use crate::format;
use crate::look::{Look, quantity};
use api_types::quantity::Quantity;
use serde_json::Value;

/// Names without a domain that the API knows.
const STANDARD: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "storage",
    "pods",
    "services",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
];
const INTEGERS: &[&str] = &[
    "pods",
    "services",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];
/// `requests.` is put before the name of an extended resource in a quota: together they must be a good name.
const QUOTA_PREFIX: &str = "requests.";

/// Whether the resource is of Kubernetes' own domain.
fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

fn is_huge_pages(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// Whether the resource is of another domain, and has a good name (upstream: `helper.IsExtendedResourceName`).
pub fn is_extended_resource(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with(QUOTA_PREFIX)
        && format::qualified_name(&format!("{QUOTA_PREFIX}{name}")).is_empty()
}

/// More may be promised than there is: true of all native resources but huge pages.
fn overcommits(name: &str) -> bool {
    is_native(name) && !is_huge_pages(name)
}

fn resource_name(name: &str, at: At<'_>, errors: &mut Errors) {
    errors.format(at, name, format::qualified_name(name));
    if !name.contains('/') && !STANDARD.contains(&name) && !is_huge_pages(name) {
        errors.invalid(at, name, "must be a standard resource type or fully qualified");
    }
}

fn container_resource_name(name: &str, at: At<'_>, errors: &mut Errors) {
    resource_name(name, at, errors);
    if !name.contains('/') {
        if !matches!(name, "cpu" | "memory" | "ephemeral-storage") && !is_huge_pages(name) {
            errors.invalid(at, name, "must be a standard resource for containers");
        }
    } else if !is_native(name) && !is_extended_resource(name) {
        errors.invalid(at, name, "doesn't follow extended resource name standard");
    }
}

fn value(name: &str, amount: &Value, at: At<'_>, errors: &mut Errors) {
    let Some(parsed) = quantity(amount) else { return };
    if parsed.is_negative() {
        errors.invalid(at, parsed.to_string(), NON_NEGATIVE);
    }
    let whole = INTEGERS.contains(&name) || is_extended_resource(name);
    if whole && parsed.milli_value() % 1000 != 0 {
        errors.invalid(at, parsed.to_string(), "must be an integer");
    }
}

/// A list of resources on its own (overhead, capacity).
pub(in crate::kinds) fn list(resources: &Value, at: At<'_>, errors: &mut Errors) {
    for (name, amount) in resources.entries("") {
        let at = at.key(name);
        resource_name(name, at, errors);
        value(name, amount, at, errors);
    }
}

/// `resources` of a container.
pub(super) fn container(container: &Value, spec: &Value, at: At<'_>, errors: &mut Errors) {
    let resources = container.at("resources");
    let at = at.at("resources");
    requirements(resources, at, errors);
    let claims_at = at.at("claims");
    let claims = resources.items("claims");
    for (i, claim) in claims.iter().enumerate() {
        let name = claim.text("name");
        let known = spec.items("resourceClaims").iter().any(|c| c.text("name") == name);
        let same =
            |other: &Value| other.text("name") == name && other.text("request") == claim.text("request");
        if name.is_empty() {
            errors.required(claims_at.index(i), "");
        } else if claims[..i].iter().any(same) {
            errors.duplicate(claims_at.index(i), name);
        } else if !known {
            errors.not_found(claims_at.index(i), name);
        }
    }
}

/// Limits and requests together.
pub(in crate::kinds) fn requirements(resources: &Value, at: At<'_>, errors: &mut Errors) {
    let (limits_at, requests_at) = (at.at("limits"), at.at("requests"));
    for (name, amount) in resources.entries("limits") {
        let at = limits_at.key(name);
        container_resource_name(name, at, errors);
        value(name, amount, at, errors);
    }
    for (name, amount) in resources.entries("requests") {
        let at = requests_at.key(name);
        container_resource_name(name, at, errors);
        value(name, amount, at, errors);
        against_limit(name, amount, resources.at("limits").key(name), at, limits_at, errors);
    }
    let names = || resources.entries("limits").chain(resources.entries("requests")).map(|(name, _)| name);
    if names().any(is_huge_pages) && !names().any(|n| matches!(n, "cpu" | "memory")) {
        errors.forbidden(at, "HugePages require cpu or memory");
    }
}

fn against_limit(
    name: &str,
    request: &Value,
    limit: &Value,
    at: At<'_>,
    limits: At<'_>,
    errors: &mut Errors,
) {
    let Some(request) = quantity(request) else { return };
    match quantity(limit) {
        Some(limit) if !overcommits(name) && request != limit => {
            errors.invalid(at, request.to_string(), format!("must be equal to {name} limit of {limit}"));
        }
        Some(limit) if request > limit => {
            errors.invalid(
                at,
                request.to_string(),
                format!("must be less than or equal to {name} limit of {limit}"),
            );
        }
        None if !overcommits(name) => {
            errors.required(limits, "Limit must be set for non overcommitable resources");
        }
        _ => {}
    }
}

/// Sum of one resource over the main containers, `None` when none asks for it.
fn sum(spec: &Value, field: &str, name: &str) -> Option<Quantity> {
    let containers = spec.items("containers").iter();
    containers.filter_map(|c| quantity(c.at("resources").at(field).key(name))).reduce(|a: Quantity, b| a + b)
}

/// `resources` of the whole pod (KEP-2837).
pub(super) fn pod(spec: &Value, at: At<'_>, errors: &mut Errors) {
    let resources = spec.at("resources");
    if !resources.is_object() {
        return;
    }
    let at = at.at("resources");
    if !resources.items("claims").is_empty() {
        errors.forbidden(at.at("claims"), "claims may not be set for Resources at pod-level");
    }
    requirements(resources, at, errors);
    let requests = at.at("requests");
    for (name, amount) in resources.entries("requests") {
        let (Some(own), Some(all)) = (quantity(amount), sum(spec, "requests", name)) else { continue };
        if own < all {
            let text = format!("must be greater than or equal to aggregate container requests of {all}");
            errors.invalid(requests.key(name), own.to_string(), text);
        }
    }
    let list = At::root("spec.containers");
    for (i, container) in spec.items("containers").iter().enumerate() {
        let at = list.index(i);
        let limits = at.at("resources.limits");
        for (name, amount) in container.entries("resources.limits") {
            let (Some(one), Some(whole)) = (quantity(amount), quantity(resources.at("limits").key(name)))
            else {
                continue;
            };
            if one > whole {
                let text = format!("must be less than or equal to pod limits of {whole}");
                errors.invalid(limits.key(name), one.to_string(), text);
            }
        }
    }
}
