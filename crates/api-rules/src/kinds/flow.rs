//! FlowSchema and PriorityLevelConfiguration: which requests wait for which (upstream: `pkg/apis/flowcontrol`).

use super::shared::repeated;
use super::{Kind, declared};
use crate::errors::{At, Errors};
use crate::format;
use crate::look::{Look, remove, same};
use serde_json::{Value, json};

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const SPEC: At<'static> = At::root("spec");
/// The name of the one level, and of the schema for it, that nothing is kept back in.
const EXEMPT: &str = "exempt";
const CATCH_ALL: &str = "catch-all";
const MAX_PRECEDENCE: i64 = 10_000;
/// Queues of a level.
const MAX_QUEUES: i64 = 10_000_000;
/// Bits of a hash that queues are dealt from.
const MAX_HASH_BITS: i64 = 60;
/// An annotation that only a removed version of the API may carry.
const KEEPS_ZERO: &str = "flowcontrol.k8s.io/v1beta3-preserve-zero-concurrency-shares";
const VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];
/// The kinds of subjects, and the fields that hold them.
const SUBJECTS: [(&str, &str); 3] =
    [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];

pub(super) static KINDS: &[Kind] = &[
    Kind::new(GROUP, "FlowSchema")
        .create(schema)
        .update(|new, _, errors| schema(new, errors))
        .status(|new, _, errors| conditions(new, errors)),
    Kind::new(GROUP, "PriorityLevelConfiguration")
        .create(level)
        .update(|new, _, errors| level(new, errors))
        .status(|new, _, errors| conditions(new, errors)),
];

/// The spec that a FlowSchema or PriorityLevelConfiguration of this name must have, if every cluster has it (upstream:
/// `apis/flowcontrol/bootstrap`, the mandatory objects).
pub fn mandatory_flow_spec(kind: &str, name: &str) -> Option<Value> {
    Some(match (kind, name) {
        ("FlowSchema", EXEMPT) => mandatory_schema(EXEMPT, 1, &["system:masters"]),
        ("FlowSchema", CATCH_ALL) => {
            let anyone = ["system:unauthenticated", "system:authenticated"];
            let mut spec = mandatory_schema(CATCH_ALL, MAX_PRECEDENCE, &anyone);
            spec["distinguisherMethod"] = json!({"type": "ByUser"});
            spec
        }
        ("PriorityLevelConfiguration", EXEMPT) => {
            json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}})
        }
        ("PriorityLevelConfiguration", CATCH_ALL) => json!({"type": "Limited", "limited": {
            "nominalConcurrencyShares": 5, "lendablePercent": 0, "limitResponse": {"type": "Reject"},
        }}),
        _ => return None,
    })
}

/// Everything that members of the groups ask for.
fn mandatory_schema(level: &str, precedence: i64, groups: &[&str]) -> Value {
    let subjects: Vec<Value> =
        groups.iter().map(|name| json!({"kind": "Group", "group": {"name": name}})).collect();
    let all = json!(["*"]);
    let resources =
        json!({"verbs": all, "apiGroups": all, "resources": all, "namespaces": all, "clusterScope": true});
    json!({
        "priorityLevelConfiguration": {"name": level},
        "matchingPrecedence": precedence,
        "rules": [{
            "subjects": subjects,
            "resourceRules": [resources],
            "nonResourceRules": [{"verbs": all, "nonResourceURLs": all}],
        }],
    })
}

fn schema(object: &Value, errors: &mut Errors) {
    let (name, spec) = (object.text("metadata.name"), object.at("spec"));
    precedence(name, spec.int("matchingPrecedence"), errors);
    let method = spec.at("distinguisherMethod");
    if method.is_object() && !["ByNamespace", "ByUser"].contains(&method.text("type")) {
        let shown = json!({"Type": method.text("type")});
        errors.not_supported(SPEC.at("distinguisherMethod.type"), shown, &["ByNamespace", "ByUser"]);
    }
    let at = SPEC.at("priorityLevelConfiguration.name");
    match spec.text("priorityLevelConfiguration.name") {
        "" => errors.required(at, "must reference a priority level"),
        level => errors.format(at, level, format::dns1123_subdomain(level)),
    }
    let list = SPEC.at("rules");
    for (i, one) in spec.items("rules").iter().enumerate() {
        rule(one, list.index(i), errors);
    }
    if mandatory_flow_spec("FlowSchema", name).is_some_and(|fixed| !same(spec, &fixed)) {
        errors.invalid(SPEC, spec.clone(), format!("spec of '{name}' must equal the fixed value"));
    }
    conditions(object, errors);
}

fn precedence(name: &str, value: i64, errors: &mut Errors) {
    let at = SPEC.at("matchingPrecedence");
    if value <= 0 {
        errors.invalid(at, value, "must be a positive value");
    }
    if value > MAX_PRECEDENCE {
        errors.invalid(at, value, format!("must not be greater than {MAX_PRECEDENCE}"));
    }
    if value == 1 && name != EXEMPT {
        errors.invalid(at, value, "only the schema named 'exempt' may have matchingPrecedence 1");
    }
}

fn rule(rule: &Value, at: At<'_>, errors: &mut Errors) {
    let list = at.at("subjects");
    let subjects = rule.items("subjects");
    if subjects.is_empty() {
        errors.required(list, "subjects must contain at least one value");
    }
    for (i, one) in subjects.iter().enumerate() {
        subject(one, list.index(i), errors);
    }
    let (resources, others) = (rule.items("resourceRules"), rule.items("nonResourceRules"));
    if resources.is_empty() && others.is_empty() {
        errors.required(at, "at least one of resourceRules and nonResourceRules has to be non-empty");
    }
    for (i, one) in resources.iter().enumerate() {
        resource_rule(one, at.at("resourceRules").index(i), errors);
    }
    for (i, one) in others.iter().enumerate() {
        path_rule(one, at.at("nonResourceRules").index(i), errors);
    }
}

fn subject(subject: &Value, at: At<'_>, errors: &mut Errors) {
    let kind = subject.text("kind");
    let Some((_, own)) = SUBJECTS.iter().find(|(known, _)| *known == kind) else {
        errors.not_supported(at.at("kind"), kind, &["Group", "ServiceAccount", "User"]);
        return;
    };
    match subject.at(own) {
        Value::Null => {
            errors.required(at.at(own), format!("{own} is required when subject kind is '{kind}'"));
        }
        named => subject_name(kind, named, at.at(own), errors),
    }
    for (other, field) in SUBJECTS.iter().filter(|(other, field)| *other != kind && subject.has(field)) {
        let text = format!("{field} is forbidden when subject kind is not '{other}'");
        errors.forbidden(at.at(field), text);
    }
}

fn subject_name(kind: &str, named: &Value, at: At<'_>, errors: &mut Errors) {
    let name = named.text("name");
    if name.is_empty() {
        errors.required(at.at("name"), "");
    }
    if kind != "ServiceAccount" {
        return;
    }
    if !name.is_empty() && name != "*" {
        errors.format(at.at("name"), name, format::dns1123_subdomain(name));
    }
    match named.text("namespace") {
        "" => errors.required(at.at("namespace"), "must specify namespace for service account"),
        namespace => errors.format(at.at("namespace"), namespace, format::dns1123_label(namespace)),
    }
}

fn has_wildcard(list: &[Value]) -> bool {
    list.iter().any(|item| item == "*")
}

/// A list that is not empty and in which `*` stands alone; whether there is more to be checked.
fn list_or_all(
    rule: &Value,
    field: &str,
    empty: &str,
    others: &str,
    at: At<'_>,
    errors: &mut Errors,
) -> bool {
    let list = rule.items(field);
    if list.is_empty() {
        errors.required(at.at(field), empty);
    } else if list.len() > 1 && has_wildcard(list) {
        let text = format!("if '*' is present, must not specify other {others}");
        errors.invalid(at.at(field), Value::from(list), text);
    }
    !list.is_empty() && !has_wildcard(list)
}

fn verbs(rule: &Value, at: At<'_>, errors: &mut Errors) {
    let empty = "verbs must contain at least one value";
    let known = |verb: &Value| verb.as_str().is_some_and(|verb| VERBS.contains(&verb));
    let list = rule.items("verbs");
    if list_or_all(rule, "verbs", empty, "verbs", at, errors) && !list.iter().all(known) {
        errors.not_supported(at.at("verbs"), Value::from(list), VERBS);
    }
}

fn path_rule(rule: &Value, at: At<'_>, errors: &mut Errors) {
    verbs(rule, at, errors);
    let field = "nonResourceURLs";
    let empty = "nonResourceURLs must contain at least one value";
    if !list_or_all(rule, field, empty, "non-resource URLs", at, errors) {
        return;
    }
    let list = at.at(field);
    for (i, path) in rule.items(field).iter().enumerate() {
        let path = path.as_str().unwrap_or("");
        if let Some(text) = path_problem(path) {
            errors.invalid(list.index(i), path, text);
        }
    }
}

fn path_problem(path: &str) -> Option<&'static str> {
    let stars = path.matches('*').count();
    Some(match path {
        "/" => return None,
        "" => "must not be empty",
        path if !path.starts_with('/') => "must start with slash",
        path if path.contains(' ') => "must not contain white-space",
        path if path.contains("//") => "must not contain double slash",
        path if stars > 1 || (stars == 1 && !path.ends_with("/*")) => "wildcard can only do suffix matching",
        _ => return None,
    })
}

fn resource_rule(rule: &Value, at: At<'_>, errors: &mut Errors) {
    verbs(rule, at, errors);
    let empty = "resource rules must supply at least one api group";
    list_or_all(rule, "apiGroups", empty, "api groups", at, errors);
    list_or_all(
        rule,
        "resources",
        "resource rules must supply at least one resource",
        "resources",
        at,
        errors,
    );
    if rule.items("namespaces").is_empty() && rule.flag("clusterScope") {
        return;
    }
    let empty = "resource rules that are not cluster scoped must supply at least one namespace";
    if !list_or_all(rule, "namespaces", empty, "namespaces", at, errors) {
        return;
    }
    let list = at.at("namespaces");
    for (i, namespace) in rule.items("namespaces").iter().enumerate() {
        let namespace = namespace.as_str().unwrap_or("");
        for problem in format::dns1123_label(namespace) {
            let text = format!("each member of this list must be '*' or a DNS-1123 label; {problem}");
            errors.invalid(list.index(i), namespace, text);
        }
    }
}

/// Conditions of the status: each type once.
fn conditions(object: &Value, errors: &mut Errors) {
    let list = At::root("status.conditions");
    let all = object.items("status.conditions");
    let again = repeated(all.iter().map(|condition| condition.text("type")));
    for (i, condition) in all.iter().enumerate() {
        let kind = condition.text("type");
        let at = list.index(i);
        if again[i] {
            errors.duplicate(at.at("type"), kind);
        }
        if kind.is_empty() {
            errors.required(at.at("type"), "");
        }
    }
}

fn level(object: &Value, errors: &mut Errors) {
    let (name, spec) = (object.text("metadata.name"), object.at("spec"));
    if object.at("metadata.annotations").key(KEEPS_ZERO).is_string() {
        let at = At::root("metadata.annotations");
        errors.forbidden(at, format!("annotation '{KEEPS_ZERO}' is forbidden"));
    }
    level_spec(name, spec, errors);
    fixed_level(name, spec, errors);
    conditions(object, errors);
}

fn level_spec(name: &str, spec: &Value, errors: &mut Errors) {
    let kind = spec.text("type");
    if (name == EXEMPT) != (kind == "Exempt") {
        errors.invalid(SPEC.at("type"), kind, "must be 'Exempt' if and only if `name` is 'exempt'");
    }
    if kind != "Exempt" {
        declared::forbidden(spec.at("exempt"), SPEC.at("exempt"), errors);
    }
    if kind == "Limited" {
        declared::required(spec.at("limited"), SPEC.at("limited"), errors);
    } else {
        declared::forbidden(spec.at("limited"), SPEC.at("limited"), errors);
    }
    declared::required(spec.at("type"), SPEC.at("type"), errors);
    match kind {
        "Exempt" => shares(spec.at("exempt"), SPEC.at("exempt"), errors),
        "Limited" => limited(spec.at("limited"), SPEC.at("limited"), errors),
        "" => {}
        other => errors.not_supported(SPEC.at("type"), other, &["Exempt", "Limited"]),
    }
    if spec.has("limited") {
        declared_response(spec.at("limited.limitResponse"), SPEC.at("limited.limitResponse"), errors);
    }
}

fn shares(level: &Value, at: At<'_>, errors: &mut Errors) {
    nominal_shares(level, at, errors);
    lendable(level, at, errors);
}

fn nominal_shares(level: &Value, at: At<'_>, errors: &mut Errors) {
    if let Some(n) = level.int_opt("nominalConcurrencyShares").filter(|n| *n < 0) {
        errors.invalid(at.at("nominalConcurrencyShares"), n, "must be a non-negative integer");
    }
}

fn lendable(level: &Value, at: At<'_>, errors: &mut Errors) {
    if let Some(n) = level.int_opt("lendablePercent").filter(|n| !(0..=100).contains(n)) {
        errors.invalid(at.at("lendablePercent"), n, "must be between 0 and 100, inclusive");
    }
}

fn limited(level: &Value, at: At<'_>, errors: &mut Errors) {
    if level.is_null() {
        return;
    }
    nominal_shares(level, at, errors);
    response(level.at("limitResponse"), at.at("limitResponse"), errors);
    lendable(level, at, errors);
    if let Some(n) = level.int_opt("borrowingLimitPercent").filter(|n| *n < 0) {
        let text = "if specified, must be a non-negative integer";
        errors.invalid(at.at("borrowingLimitPercent"), n, text);
    }
}

fn response(response: &Value, at: At<'_>, errors: &mut Errors) {
    match response.text("type") {
        "" | "Reject" => {}
        "Queue" => queuing(response.at("queuing"), at.at("queuing"), errors),
        other => errors.not_supported(at.at("type"), other, &["Queue", "Reject"]),
    }
}

fn declared_response(response: &Value, at: At<'_>, errors: &mut Errors) {
    if response.text("type") == "Queue" {
        declared::required(response.at("queuing"), at.at("queuing"), errors);
    } else {
        declared::forbidden(response.at("queuing"), at.at("queuing"), errors);
    }
    declared::required(response.at("type"), at.at("type"), errors);
}

fn queuing(queuing: &Value, at: At<'_>, errors: &mut Errors) {
    if queuing.is_null() {
        return;
    }
    let (queues, hand, limit) =
        (queuing.int("queues"), queuing.int("handSize"), queuing.int("queueLengthLimit"));
    if limit <= 0 {
        errors.invalid(at.at("queueLengthLimit"), limit, "must be positive");
    }
    if queues <= 0 {
        errors.invalid(at.at("queues"), queues, "must be positive");
    } else if queues > MAX_QUEUES {
        errors.invalid(at.at("queues"), queues, format!("must not be greater than {MAX_QUEUES}"));
    }
    let at = at.at("handSize");
    if hand <= 0 {
        errors.invalid(at, hand, "must be positive");
    } else if hand > queues {
        errors.invalid(at, hand, format!("should not be greater than queues ({queues})"));
    } else if entropy_bits(queues, hand) > MAX_HASH_BITS {
        let text = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {MAX_HASH_BITS}"
        );
        errors.invalid(at, hand, text);
    }
}

/// Bits that dealing so many of so many queues takes (upstream: `shufflesharding.RequiredEntropyBits`).
fn entropy_bits(queues: i64, hand: i64) -> i64 {
    ((queues as f64).log2() * hand as f64).ceil() as i64
}

/// What every cluster has stays as it is, but for what the exempt level lends.
fn fixed_level(name: &str, spec: &Value, errors: &mut Errors) {
    let Some(mut fixed) = mandatory_flow_spec("PriorityLevelConfiguration", name) else { return };
    let mut own = spec.clone();
    if name == EXEMPT {
        remove(&mut fixed, "exempt");
        remove(&mut own, "exempt");
    }
    if !same(&own, &fixed) {
        let but = if name == EXEMPT { " except the 'spec.exempt' field" } else { "" };
        errors.invalid(SPEC, spec.clone(), format!("spec of '{name}'{but} must equal the fixed value"));
    }
}

#[cfg(test)]
mod tests;
