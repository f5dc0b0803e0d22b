//! The pod spec as a whole (upstream: `ValidatePodSpec`).

use super::{Place, containers, host_aliases, scheduling, security, template_metadata, volumes};
use crate::errors::{At, Errors};
use crate::format;
use crate::look::Look;
use serde_json::Value;

const RESTART: &[&str] = &["Always", "OnFailure", "Never"];
const DNS: &[&str] = &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
/// Longest `activeDeadlineSeconds` in seconds.
const MAX_DEADLINE: i64 = i32::MAX as i64;
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
/// Most characters of all search paths with the spaces between.
const MAX_SEARCH_CHARACTERS: usize = 2048;
/// Longest host name in bytes.
const MAX_HOST_NAME: usize = 64;

/// A pod template: metadata and spec.
pub(in crate::kinds) fn template(template: &Value, at: At<'_>, errors: &mut Errors) {
    template_metadata(template, at, errors);
    let spec_at = at.at("spec");
    validate_spec(template.at("spec"), Place::Template, spec_at, errors);
    if !template.items("spec.ephemeralContainers").is_empty() {
        errors
            .forbidden(spec_at.at("ephemeralContainers"), "ephemeral containers not allowed in pod template");
    }
}

/// A pod spec at `at`.
pub(in crate::kinds) fn validate_spec(spec: &Value, place: Place, at: At<'_>, errors: &mut Errors) {
    let volumes = volumes::validate(spec, at.at("volumes"), errors);
    containers::validate(spec, place, &volumes, at, errors);
    policies(spec, at, errors);
    dns_config(spec, at, errors);
    security::pod(spec, at, errors);
    names(spec, at, errors);
    pull_secrets(spec, at, errors);
    scheduling::validate(spec, at, errors);
    host_aliases(spec, at, errors);
    overhead(spec, at, errors);
    resource_claims(spec, at, errors);
}

fn policies(spec: &Value, at: At<'_>, errors: &mut Errors) {
    errors.one_of(at.at("restartPolicy"), spec.text("restartPolicy"), RESTART);
    errors.one_of(at.at("dnsPolicy"), spec.text("dnsPolicy"), DNS);
    if !spec.has("terminationGracePeriodSeconds") {
        errors.required(at.at("terminationGracePeriodSeconds"), "");
    }
    if let Some(deadline) = spec.int_opt("activeDeadlineSeconds")
        && !(1..=MAX_DEADLINE).contains(&deadline)
    {
        let text = format!("must be between 1 and {MAX_DEADLINE}, inclusive");
        errors.invalid(at.at("activeDeadlineSeconds"), deadline, text);
    }
    errors.optional_of(
        at.at("preemptionPolicy"),
        spec.text("preemptionPolicy"),
        &["PreemptLowerPriority", "Never"],
    );
    if spec.has("os") {
        errors.one_of(at.at("os.name"), spec.text("os.name"), &["linux", "windows"]);
    }
}

fn names(spec: &Value, at: At<'_>, errors: &mut Errors) {
    for field in ["serviceAccountName", "nodeName", "priorityClassName", "runtimeClassName"] {
        let name = spec.text(field);
        if !name.is_empty() {
            errors.format(at.at(field), name, format::dns1123_subdomain(name));
        }
    }
    let (account, old) = (spec.text("serviceAccountName"), spec.text("serviceAccount"));
    if !old.is_empty() && old != account {
        let text = format!("must be the same as serviceAccountName: {}", api_types::field::quote(account));
        errors.invalid(at.at("deprecatedServiceAccount"), old, text);
    }
    for field in ["hostname", "subdomain"] {
        let name = spec.text(field);
        if !name.is_empty() {
            errors.format(at.at(field), name, format::dns1123_label(name));
        }
    }
    host_name_override(spec, at, errors);
}

fn host_name_override(spec: &Value, at: At<'_>, errors: &mut Errors) {
    let Some(name) = spec.at("hostnameOverride").as_str() else { return };
    let at = at.at("hostnameOverride");
    if spec.flag("setHostnameAsFQDN") {
        errors.forbidden(at, "may not be specified when setHostnameAsFQDN is true");
    }
    if spec.flag("hostNetwork") {
        errors.forbidden(at, "may not be specified when hostNetwork is true");
    }
    if name.len() > MAX_HOST_NAME {
        errors.too_long(at, MAX_HOST_NAME);
    }
    errors.format(at, name, format::dns1123_subdomain(name));
}

fn pull_secrets(spec: &Value, at: At<'_>, errors: &mut Errors) {
    let list = at.at("imagePullSecrets");
    for (i, secret) in spec.items("imagePullSecrets").iter().enumerate() {
        if secret.entries("").any(|(key, value)| key != "name" && !crate::look::is_zero(value)) {
            errors.invalid(list.index(i), secret.clone(), "only name may be set");
        }
    }
}

fn dns_config(spec: &Value, at: At<'_>, errors: &mut Errors) {
    let at = at.at("dnsConfig");
    let config = spec.at("dnsConfig");
    let none = spec.text("dnsPolicy") == "None";
    let servers = config.items("nameservers");
    let servers_at = at.at("nameservers");
    if none && !config.is_object() {
        errors.required(at, "must provide `dnsConfig` when `dnsPolicy` is None");
        return;
    }
    if none && servers.is_empty() {
        errors.required(servers_at, "must provide at least one DNS nameserver when `dnsPolicy` is None");
    }
    if servers.len() > MAX_NAMESERVERS {
        let text = format!("must not have more than {MAX_NAMESERVERS} nameservers");
        errors.invalid(servers_at, Value::Array(servers.to_vec()), text);
    }
    for (i, server) in servers.iter().enumerate() {
        let server = server.as_str().unwrap_or("");
        errors.format(servers_at.index(i), server, format::ip(server));
    }
    dns_searches(config, at, errors);
    let options = at.at("options");
    for (i, option) in config.items("options").iter().enumerate() {
        if option.text("name").is_empty() {
            errors.required(options.index(i), "must not be empty");
        }
    }
}

fn dns_searches(config: &Value, at: At<'_>, errors: &mut Errors) {
    let at = at.at("searches");
    let searches = config.items("searches");
    let all = || Value::Array(searches.to_vec());
    if searches.len() > MAX_SEARCHES {
        errors.invalid(at, all(), format!("must not have more than {MAX_SEARCHES} search paths"));
    }
    let length: usize = searches.iter().filter_map(Value::as_str).map(|s| s.len() + 1).sum();
    if length > MAX_SEARCH_CHARACTERS + 1 {
        let text = format!(
            "must not have more than {MAX_SEARCH_CHARACTERS} characters (including spaces) in the search list"
        );
        errors.invalid(at, all(), text);
    }
    for (i, search) in searches.iter().enumerate() {
        let search = search.as_str().unwrap_or("");
        // The relaxed form (KEP-4427): a lone dot, underscores and a trailing dot are fine.
        let checked = search.strip_suffix('.').unwrap_or(search).replace('_', "a");
        if search != "." {
            errors.format(at.index(i), search, format::dns1123_subdomain(&checked));
        }
    }
}

fn overhead(spec: &Value, at: At<'_>, errors: &mut Errors) {
    let at = at.at("overhead");
    super::resources::list(spec.at("overhead"), at, errors);
}

fn resource_claims(spec: &Value, at: At<'_>, errors: &mut Errors) {
    let list = at.at("resourceClaims");
    let claims = spec.items("resourceClaims");
    for (i, claim) in claims.iter().enumerate() {
        let at = list.index(i);
        let name = claim.text("name");
        if name.is_empty() {
            errors.required(at.at("name"), "");
        } else if claims[..i].iter().any(|c| c.text("name") == name) {
            errors.duplicate(at.at("name"), name);
        } else {
            errors.format(at.at("name"), name, format::dns1123_label(name));
        }
        claim_source(claim, at, errors);
    }
}

fn claim_source(claim: &Value, at: At<'_>, errors: &mut Errors) {
    match (claim.has("resourceClaimName"), claim.has("resourceClaimTemplateName")) {
        (true, true) => errors.invalid(
            at,
            claim.clone(),
            "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
        ),
        (false, false) => {
            errors.invalid(
                at,
                claim.clone(),
                "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            );
        }
        _ => {}
    }
    for field in ["resourceClaimName", "resourceClaimTemplateName"] {
        if let Some(name) = claim.at(field).as_str() {
            errors.format(at.at(field), name, format::dns1123_subdomain(name));
        }
    }
}
