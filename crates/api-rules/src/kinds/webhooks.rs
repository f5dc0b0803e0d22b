//! Webhook configurations and admission policies.

use super::{Kind, client_config, selector};
use crate::cel::{Expression, Kind as Gives, Scope};
use crate::custom::RESERVED;
use crate::errors::{At, Errors};
use crate::format;
use crate::look::Look;
use serde_json::Value;

const GROUP: &str = "admissionregistration.k8s.io";
const SPEC: At<'static> = At::root("spec");
const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const REVIEW_VERSIONS: &[&str] = &["v1", "v1beta1"];
const MAX_CONDITIONS: usize = 64;
const MAX_ANNOTATIONS: usize = 20;
/// Bytes of the expression of an annotation.
const MAX_ANNOTATION_EXPRESSION: usize = 5 * 1024;
/// Longest a webhook may take, in seconds.
const MAX_TIMEOUT: i64 = 30;

pub(super) static KINDS: &[Kind] = &[
    Kind::new(GROUP, "ValidatingWebhookConfiguration")
        .create(configuration)
        .update(|n, _, e| configuration(n, e)),
    Kind::new(GROUP, "MutatingWebhookConfiguration")
        .create(configuration)
        .update(|n, _, e| configuration(n, e)),
    Kind::new(GROUP, "ValidatingAdmissionPolicy").create(policy).update(|n, _, e| policy(n, e)),
    Kind::new(GROUP, "ValidatingAdmissionPolicyBinding").create(binding).update(|n, _, e| binding(n, e)),
    Kind::new(GROUP, "MutatingAdmissionPolicy")
        .create(mutating_policy)
        .update(|n, _, e| mutating_policy(n, e)),
    Kind::new(GROUP, "MutatingAdmissionPolicyBinding")
        .create(mutating_binding)
        .update(|n, _, e| mutating_binding(n, e)),
];

fn configuration(object: &Value, errors: &mut Errors) {
    let list = At::root("webhooks");
    let hooks = object.items("webhooks");
    for (i, hook) in hooks.iter().enumerate() {
        let at = list.index(i);
        webhook(hook, at, errors);
        let name = hook.text("name");
        if !name.is_empty() && hooks[..i].iter().any(|h| h.text("name") == name) {
            errors.duplicate(at.at("name"), name);
        }
    }
}

fn webhook(hook: &Value, at: At<'_>, errors: &mut Errors) {
    let name = hook.text("name");
    qualified(name, at.at("name"), errors);
    let rules = at.at("rules");
    for (i, one) in hook.items("rules").iter().enumerate() {
        rule(one, rules.index(i), errors);
    }
    errors.optional_of(at.at("failurePolicy"), hook.text("failurePolicy"), &["Fail", "Ignore"]);
    errors.optional_of(at.at("matchPolicy"), hook.text("matchPolicy"), &["Equivalent", "Exact"]);
    let effects = hook.text("sideEffects");
    if effects.is_empty() {
        errors.required(at.at("sideEffects"), "must specify one of None, NoneOnDryRun");
    }
    errors.optional_of(at.at("sideEffects"), effects, &["None", "NoneOnDryRun"]);
    if let Some(seconds) = hook.int_opt("timeoutSeconds").filter(|s| !(1..=MAX_TIMEOUT).contains(s)) {
        errors.invalid(
            at.at("timeoutSeconds"),
            seconds,
            "the timeout value must be between 1 and 30 seconds",
        );
    }
    for field in ["namespaceSelector", "objectSelector"] {
        selector::validate(hook.at(field), at.at(field), errors);
    }
    errors.optional_of(at.at("reinvocationPolicy"), hook.text("reinvocationPolicy"), &["IfNeeded", "Never"]);
    client_config::validate(hook.at("clientConfig"), at.at("clientConfig"), errors);
    let scope = Scope { authorizer: true, ..Scope::default() };
    conditions(hook.items("matchConditions"), at.at("matchConditions"), &scope, errors);
    review_versions(hook, at, errors);
}

/// A domain name of at least three parts.
fn qualified(name: &str, at: At<'_>, errors: &mut Errors) {
    if name.is_empty() {
        errors.required(at, "");
        return;
    }
    let problems = format::dns1123_subdomain(name);
    if !problems.is_empty() {
        errors.format(at, name, problems);
    } else if name.split('.').count() < 3 {
        errors.invalid(at, name, "should be a domain with at least three segments separated by dots");
    }
}

fn review_versions(hook: &Value, at: At<'_>, errors: &mut Errors) {
    let list = at.at("admissionReviewVersions");
    let versions = hook.items("admissionReviewVersions");
    let known = REVIEW_VERSIONS.join(", ");
    if versions.is_empty() {
        errors.required(list, format!("must specify one of {known}"));
        return;
    }
    for (i, version) in versions.iter().enumerate() {
        let name = version.as_str().unwrap_or("");
        if versions[..i].contains(version) {
            errors.invalid(list.index(i), name, "duplicate version");
            continue;
        }
        let problems = format::dns1035_label(name);
        errors.format(list.index(i), name, problems);
    }
    if !versions.iter().any(|v| v.as_str().is_some_and(|s| REVIEW_VERSIONS.contains(&s))) {
        errors.invalid(
            list,
            Value::Array(versions.to_vec()),
            format!("must include at least one of {known}"),
        );
    }
}

fn rule(rule: &Value, at: At<'_>, errors: &mut Errors) {
    let list = at.at("operations");
    let operations = rule.items("operations");
    if operations.is_empty() {
        errors.required(list, "");
    }
    if operations.len() > 1 && operations.iter().any(|o| o == "*") {
        let text = "if '*' is present, must not specify other operations";
        errors.invalid(list, Value::Array(operations.to_vec()), text);
    }
    for (i, operation) in operations.iter().enumerate() {
        let operation = operation.as_str().unwrap_or("");
        if !OPERATIONS.contains(&operation) {
            errors.not_supported(list.index(i), operation, OPERATIONS);
        }
    }
    for (field, word) in [("apiGroups", "API groups"), ("apiVersions", "API versions")] {
        let all = rule.items(field);
        if all.is_empty() {
            errors.required(at.at(field), "");
        }
        if all.len() > 1 && all.iter().any(|v| v == "*") {
            let text = format!("if '*' is present, must not specify other {word}");
            errors.invalid(at.at(field), Value::Array(all.to_vec()), text);
        }
    }
    let versions = at.at("apiVersions");
    for (i, _) in rule.items("apiVersions").iter().enumerate().filter(|(_, version)| *version == "") {
        errors.required(versions.index(i), "");
    }
    resources(rule, at.at("resources"), errors);
    errors.optional_of(at.at("scope"), rule.text("scope"), &["*", "Cluster", "Namespaced"]);
}

fn resources(rule: &Value, list: At<'_>, errors: &mut Errors) {
    let all: Vec<&str> = rule.texts("resources").collect();
    if all.is_empty() {
        errors.required(list, "");
    }
    let shown = || rule.at("resources").clone();
    // Only what stands behind a wildcard is held against it, and of what has no subresource the last counts.
    for (i, resource) in all.iter().enumerate() {
        if resource.is_empty() {
            errors.required(list.index(i), "");
            continue;
        }
        let Some((name, sub)) = resource.split_once('/') else { continue };
        for wildcard in [format!("{name}/*"), format!("*/{sub}")] {
            if all[..i].contains(&wildcard.as_str()) {
                let text = format!("if '{wildcard}' is present, must not specify {resource}");
                errors.invalid(list.index(i), *resource, text);
            }
        }
    }
    if all.contains(&"*/*") && all.len() > 1 {
        errors.invalid(list, shown(), "if '*/*' is present, must not specify other resources");
    }
    let last = all.iter().rfind(|resource| !resource.is_empty() && !resource.contains('/'));
    if all.contains(&"*") && last.is_some_and(|last| *last != "*") {
        let text = "if '*' is present, must not specify other resources without subresources";
        errors.invalid(list, shown(), text);
    }
}

/// A rule that may name objects.
fn named_rule(own: &Value, at: At<'_>, errors: &mut Errors) {
    let list = at.at("resourceNames");
    let names: Vec<&str> = own.texts("resourceNames").collect();
    for (i, name) in names.iter().enumerate() {
        errors.format(list.index(i), name, format::path_segment(name));
        if names[..i].contains(name) {
            errors.duplicate(list.index(i), *name);
        }
    }
    rule(own, at, errors);
}

fn conditions(all: &[Value], list: At<'_>, scope: &Scope, errors: &mut Errors) {
    if all.len() > MAX_CONDITIONS {
        errors.too_many(list, all.len(), MAX_CONDITIONS);
    }
    for (i, condition) in all.iter().enumerate() {
        let at = list.index(i);
        let name = condition.text("name");
        if condition.text("expression").trim().is_empty() {
            errors.required(at.at("expression"), "");
        } else {
            compiles(condition, "expression", at, scope, &[Gives::Bool], errors);
        }
        if name.is_empty() {
            errors.required(at.at("name"), "");
        } else {
            errors.format(at.at("name"), name, format::qualified_name(name));
            if all[..i].iter().any(|c| c.text("name") == name) {
                errors.duplicate(at.at("name"), name);
            }
        }
    }
}

/// An expression that cannot be compiled, or gives something else, is refused.
fn compiles(
    owner: &Value,
    field: &str,
    at: At<'_>,
    scope: &Scope,
    wanted: &[Gives],
    errors: &mut Errors,
) -> Option<Gives> {
    let source = owner.text(field);
    let compiled = match wanted {
        [] => Expression::compile(source, scope),
        wanted => Expression::compile_as(source, scope, wanted),
    };
    match compiled {
        Ok(expression) => Some(expression.kind().clone()),
        Err(error) => {
            errors.invalid(at.at(field), source, error);
            None
        }
    }
}

/// What validating and mutating policies have alike; gives what their expressions may speak of.
fn common(object: &Value, patches: bool, errors: &mut Errors) -> Scope {
    let spec = object.at("spec");
    errors.one_of(SPEC.at("failurePolicy"), spec.text("failurePolicy"), &["Fail", "Ignore"]);
    if spec.has("paramKind") {
        param_kind(spec.at("paramKind"), SPEC.at("paramKind"), errors);
    }
    let at = SPEC.at("matchConstraints");
    if spec.has("matchConstraints") {
        match_resources(spec.at("matchConstraints"), at, errors);
        if spec.items("matchConstraints.resourceRules").is_empty() {
            errors.required(at.at("resourceRules"), "");
        }
        if patches {
            mutating_operations(spec.at("matchConstraints"), at, errors);
        }
    } else {
        errors.required(at, "");
    }
    let mut scope = Scope { params: spec.has("paramKind"), authorizer: true, patches, ..Scope::default() };
    conditions(spec.items("matchConditions"), SPEC.at("matchConditions"), &scope, errors);
    scope.composed = patches || !spec.items("variables").is_empty();
    let list = SPEC.at("variables");
    for (i, variable) in spec.items("variables").iter().enumerate() {
        let at = list.index(i);
        let name = variable.text("name");
        if name.trim().is_empty() {
            errors.required(at.at("name"), "name is not specified");
        } else if !is_identifier(name) {
            errors.invalid(at.at("name"), name, "must be a valid CEL identifier");
        }
        let kind = if variable.text("expression").trim().is_empty() {
            errors.required(at.at("expression"), "expression is not specified");
            None
        } else {
            compiles(variable, "expression", at, &scope, &[], errors)
        };
        scope.variables.push((name.to_owned(), kind.unwrap_or(Gives::Unknown)));
    }
    scope
}

fn is_identifier(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && !RESERVED.contains(&name)
}

fn param_kind(own: &Value, at: At<'_>, errors: &mut Errors) {
    let (version_at, version) = (at.at("apiVersion"), own.text("apiVersion"));
    let parts: Vec<&str> = if version == "/" { Vec::new() } else { version.split('/').collect() };
    let joined = |value: &str, problems: format::Problems, errors: &mut Errors| {
        if !problems.is_empty() {
            errors.invalid(version_at, value, problems.join(","));
        }
    };
    if version.is_empty() {
        errors.required(version_at, "");
    } else if parts.len() > 2 {
        errors.invalid(version_at, version, format!("unexpected GroupVersion string: {version}"));
    } else {
        if let [group, _] = parts.as_slice()
            && !group.is_empty()
        {
            joined(group, format::dns1123_subdomain(group), errors);
        }
        match parts.last().copied().unwrap_or_default() {
            "" => errors.invalid(version_at, version, "version must be specified"),
            last => joined(last, format::dns1035_label(last), errors),
        }
    }
    let (kind_at, kind) = (at.at("kind"), own.text("kind"));
    let problems = format::dns1035_label(&kind.to_lowercase());
    if kind.is_empty() {
        errors.required(kind_at, "");
    } else if !problems.is_empty() {
        let text = format!("may have mixed case, but should otherwise match: {}", problems.join(","));
        errors.invalid(kind_at, kind, text);
    }
}

/// What is deleted cannot be changed.
fn mutating_operations(matched: &Value, at: At<'_>, errors: &mut Errors) {
    const KNOWN: &[&str] = &["*", "CONNECT", "CREATE", "UPDATE"];
    let at = at.at("resourceRules.operations");
    let rules = matched.items("resourceRules").iter();
    for operation in rules.flat_map(|rule| rule.texts("operations")).filter(|own| !KNOWN.contains(own)) {
        errors.not_supported(at, operation, KNOWN);
    }
}

fn match_resources(value: &Value, at: At<'_>, errors: &mut Errors) {
    errors.optional_of(at.at("matchPolicy"), value.text("matchPolicy"), &["Equivalent", "Exact"]);
    for field in ["namespaceSelector", "objectSelector"] {
        selector::validate(value.at(field), at.at(field), errors);
    }
    for field in ["resourceRules", "excludeResourceRules"] {
        let rules = at.at(field);
        for (i, one) in value.items(field).iter().enumerate() {
            named_rule(one, rules.index(i), errors);
        }
    }
}

fn policy(object: &Value, errors: &mut Errors) {
    let spec = object.at("spec");
    let scope = common(object, false, errors);
    if spec.items("validations").is_empty() && spec.items("auditAnnotations").is_empty() {
        for field in ["validations", "auditAnnotations"] {
            errors.required(SPEC.at(field), "validations or auditAnnotations must contain at least one item");
        }
    }
    let list = SPEC.at("validations");
    for (i, own) in spec.items("validations").iter().enumerate() {
        validation(own, &scope, list.index(i), errors);
    }
    audit_annotations(object, &scope, errors);
}

fn validation(own: &Value, scope: &Scope, at: At<'_>, errors: &mut Errors) {
    if own.text("expression").trim().is_empty() {
        errors.required(at.at("expression"), "expression is not specified");
    } else {
        compiles(own, "expression", at, scope, &[Gives::Bool], errors);
    }
    let expression = own.text("messageExpression");
    if !expression.is_empty() && expression.trim().is_empty() {
        errors.invalid(at.at("messageExpression"), expression, "must be non-empty if specified");
    } else if !expression.is_empty() {
        let scope = Scope { authorizer: false, ..scope.clone() };
        compiles(own, "messageExpression", at, &scope, &[Gives::String], errors);
    }
    let message = own.text("message");
    if !message.is_empty() && message.trim().is_empty() {
        errors.invalid(at.at("message"), message, "must be non-empty if specified");
    } else if message.trim().contains(['\n', '\r']) {
        errors.invalid(at.at("message"), message, "must not contain line breaks");
    }
    let reasons = ["Forbidden", "Invalid", "RequestEntityTooLarge"];
    errors.optional_of(at.at("reason"), own.text("reason"), &reasons);
}

fn audit_annotations(object: &Value, scope: &Scope, errors: &mut Errors) {
    let (list, all) = (SPEC.at("auditAnnotations"), object.items("spec.auditAnnotations"));
    if all.len() > MAX_ANNOTATIONS {
        let text = format!("must not have more than {MAX_ANNOTATIONS} auditAnnotations");
        errors.invalid(list, Value::Array(all.to_vec()), text);
    }
    for (i, annotation) in all.iter().enumerate() {
        let at = list.index(i);
        let (name, key) = (object.text("metadata.name"), annotation.text("key"));
        if name.is_empty() {
            errors.invalid(at.at("key"), key, "requires metadata.name be non-empty");
        } else {
            let whole = format!("{name}/{key}");
            errors.format(at.at("key"), &whole, format::qualified_name(&whole));
        }
        let expression = annotation.text("valueExpression").trim();
        if expression.is_empty() {
            errors.required(at.at("valueExpression"), "valueExpression is not specified");
        } else if expression.len() > MAX_ANNOTATION_EXPRESSION {
            let text = format!("must not exceed {MAX_ANNOTATION_EXPRESSION} bytes in length");
            errors.required(at.at("valueExpression"), text);
        } else {
            compiles(annotation, "valueExpression", at, scope, &[Gives::String, Gives::Null], errors);
        }
        if all[..i].iter().any(|other| other.text("key") == key) {
            errors.duplicate(at.at("key"), key);
        }
    }
}

fn mutating_policy(object: &Value, errors: &mut Errors) {
    let spec = object.at("spec");
    let scope = common(object, true, errors);
    let list = SPEC.at("mutations");
    if spec.items("mutations").is_empty() {
        errors.required(list, "mutations must contain at least one item");
    }
    for (i, mutation) in spec.items("mutations").iter().enumerate() {
        let at = list.index(i);
        let patch = mutation.text("patchType");
        let (field, other, wanted) = match patch {
            "ApplyConfiguration" => ("applyConfiguration", "jsonPatch", Gives::object()),
            "JSONPatch" => ("jsonPatch", "applyConfiguration", Gives::patches()),
            "" => {
                errors.required(at.at("patchType"), "");
                continue;
            }
            odd => {
                errors.not_supported(at.at("patchType"), odd, &["ApplyConfiguration", "JSONPatch"]);
                continue;
            }
        };
        let (own, inner) = (mutation.at(field), at.at(field));
        if !own.is_object() {
            errors.required(inner, format!("must be specified when patchType is {patch}"));
        } else if own.text("expression").trim().is_empty() {
            errors.required(inner.at("expression"), "");
        } else {
            compiles(own, "expression", inner, &scope, &[wanted], errors);
        }
        if mutation.at(other).is_object() {
            let text = format!("must not be specified when patchType is {patch}");
            errors.invalid(at.at(other), format!("{{{other}}}"), text);
        }
    }
    let again = spec.text("reinvocationPolicy");
    errors.one_of(SPEC.at("reinvocationPolicy"), again, &["IfNeeded", "Never"]);
}

fn mutating_binding(object: &Value, errors: &mut Errors) {
    bound(object, errors);
    mutating_operations(object.at("spec.matchResources"), SPEC.at("matchResources"), errors);
}

/// What bindings of both kinds have.
fn bound(object: &Value, errors: &mut Errors) {
    let spec = object.at("spec");
    let name = spec.text("policyName");
    if name.is_empty() {
        errors.required(SPEC.at("policyName"), "");
    } else {
        errors.format(SPEC.at("policyName"), name, format::dns1123_subdomain(name));
    }
    if spec.has("paramRef") {
        let at = SPEC.at("paramRef");
        let (name, selector) = (spec.text("paramRef.name"), spec.at("paramRef.selector"));
        let both = !name.is_empty() && selector.is_object();
        if !name.is_empty() {
            errors.format(at.at("name"), name, format::path_segment(name));
        }
        if both {
            errors.forbidden(at.at("name"), "name and selector are mutually exclusive");
        }
        selector::validate(selector, at.at("selector"), errors);
        if both {
            errors.forbidden(at.at("selector"), "name and selector are mutually exclusive");
        }
        if name.is_empty() && !selector.is_object() {
            errors.required(at, "one of name or selector must be specified");
        }
        let action = spec.text("paramRef.parameterNotFoundAction");
        errors.one_of(at.at("parameterNotFoundAction"), action, &["Deny", "Allow"]);
    }
    match_resources(spec.at("matchResources"), SPEC.at("matchResources"), errors);
}

fn binding(object: &Value, errors: &mut Errors) {
    bound(object, errors);
    let spec = object.at("spec");
    let list = SPEC.at("validationActions");
    let actions = spec.items("validationActions");
    if actions.is_empty() {
        errors.required(list, "");
    }
    for (i, action) in actions.iter().enumerate() {
        let name = action.as_str().unwrap_or("");
        if !matches!(name, "Audit" | "Deny" | "Warn") {
            errors.not_supported(list.index(i), name, &["Audit", "Deny", "Warn"]);
        }
        if actions[..i].contains(action) {
            errors.duplicate(list.index(i), name);
        }
    }
    if actions.iter().any(|a| a == "Deny") && actions.iter().any(|a| a == "Warn") {
        let text = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        errors.invalid(list, Value::Array(actions.to_vec()), text);
    }
}

#[cfg(test)]
mod tests {
    use crate::rules_of;
    use serde_json::{Value, json};

    fn check(kind: &str, rest: Value) -> Vec<String> {
        let rules = rules_of("admissionregistration.k8s.io", "v1", kind).unwrap();
        let mut object =
            json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": "a"}});
        object.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        (rules.default)(&mut object);
        (rules.validate)(&object).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn webhooks() {
        let hook = json!({"name": "a.b.c", "clientConfig": {"url": "https://x"}, "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]});
        assert!(check("ValidatingWebhookConfiguration", json!({"webhooks": [hook]})).is_empty());
        let mut bad = hook.clone();
        bad["timeoutSeconds"] = json!(31);
        bad["clientConfig"] = json!({});
        assert_eq!(
            check("MutatingWebhookConfiguration", json!({"webhooks": [bad]})),
            [
                "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
                "webhooks[0].clientConfig: Required value: exactly one of url or service is required",
            ]
        );
    }

    fn rule_of(more: Value) -> Value {
        let mut rule = json!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]});
        rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        rule
    }

    #[test]
    fn resources_of_rules() {
        let of = |resources: Value| {
            let hook = json!({"name": "a.b.c", "clientConfig": {"url": "https://x"}, "sideEffects": "None",
                "admissionReviewVersions": ["v1"], "rules": [rule_of(json!({"resources": resources}))]});
            let errors = check("ValidatingWebhookConfiguration", json!({"webhooks": [hook]}));
            errors.iter().map(|error| error.replace("webhooks[0].rules[0].resources", "")).collect::<Vec<_>>()
        };
        for good in [json!(["pods", "pods/log"]), json!(["a/b", "a/*"]), json!(["pods", "*"]), json!(["*/*"])]
        {
            assert_eq!(of(good), Vec::<String>::new());
        }
        assert_eq!(
            of(json!(["a/*", "a/b", "*/c", "d/c"])),
            [
                "[1]: Invalid value: \"a/b\": if 'a/*' is present, must not specify a/b",
                "[3]: Invalid value: \"d/c\": if '*/c' is present, must not specify d/c",
            ]
        );
        let text = "if '*' is present, must not specify other resources without subresources";
        assert_eq!(of(json!(["*", "pods"])), [format!(": Invalid value: [\"*\",\"pods\"]: {text}")]);
        assert_eq!(of(json!(["", "a"])), ["[0]: Required value"]);
    }

    /// Errors of a policy with a change to its specification.
    fn policy_with(kind: &str, change: Value) -> Vec<String> {
        let mut spec =
            json!({"failurePolicy": "Fail", "matchConstraints": {"resourceRules": [rule_of(json!({}))]}});
        let own = match kind {
            "ValidatingAdmissionPolicy" => json!({"validations": [{"expression": "true"}]}),
            _ => json!({"reinvocationPolicy": "Never",
                "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "Object{}"}}]}),
        };
        for part in [own, change] {
            spec.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
        }
        check(kind, json!({"spec": spec})).iter().map(|error| error.replacen("spec.", "", 1)).collect()
    }

    #[test]
    fn parts_of_policies() {
        for (change, errors) in [
            (json!({}), vec![]),
            (
                json!({"paramKind": {"apiVersion": "a/b/c", "kind": ""}}),
                vec![
                    "paramKind.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c",
                    "paramKind.kind: Required value",
                ],
            ),
            (json!({"paramKind": {"apiVersion": "a.b/v1", "kind": "Rule"}}), vec![]),
            (
                json!({"variables": [{"name": "for", "expression": "1"}, {"name": "y", "expression": "variables.z"}, {"name": "y", "expression": "1"}]}),
                vec![
                    "variables[0].name: Invalid value: \"for\": must be a valid CEL identifier",
                    "variables[1].expression: Invalid value: \"variables.z\": compilation failed: ERROR: <input>:1:10: undefined field 'z'\n | variables.z\n | .........^",
                ],
            ),
            (
                json!({"matchConditions": [{"name": "a", "expression": "variables.x"}]}),
                vec![
                    "matchConditions[0].expression: Invalid value: \"variables.x\": compilation failed: ERROR: <input>:1:1: undeclared reference to 'variables' (in container '')\n | variables.x\n | ^",
                ],
            ),
            (
                json!({"matchConstraints": {"resourceRules": [rule_of(json!({"resourceNames": ["a", "a", "b/c"]}))]}}),
                vec![
                    "matchConstraints.resourceRules[0].resourceNames[1]: Duplicate value: \"a\"",
                    "matchConstraints.resourceRules[0].resourceNames[2]: Invalid value: \"b/c\": may not contain '/'",
                ],
            ),
        ] {
            for kind in ["ValidatingAdmissionPolicy", "MutatingAdmissionPolicy"] {
                assert_eq!(policy_with(kind, change.clone()), errors, "{kind} {change}");
            }
        }
    }

    #[test]
    fn validations_of_policies() {
        let of = |change: Value| {
            let mut own = json!({"expression": "true"});
            own.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            let errors = policy_with("ValidatingAdmissionPolicy", json!({"validations": [own]}));
            errors.iter().map(|error| error.replace("validations[0].", "")).collect::<Vec<_>>()
        };
        for (change, errors) in [
            (json!({"message": "a", "messageExpression": "'b'", "reason": "Forbidden"}), vec![]),
            (json!({"expression": "true\n&& true"}), vec![]),
            (json!({"expression": "namespaceObject.metadata.name == 'x'"}), vec![]),
            (
                json!({"expression": "object.x"}),
                vec!["expression: Invalid value: \"object.x\": must evaluate to bool but got dyn"],
            ),
            (
                json!({"messageExpression": "1"}),
                vec!["messageExpression: Invalid value: \"1\": must evaluate to string but got int"],
            ),
            (
                json!({"messageExpression": " "}),
                vec!["messageExpression: Invalid value: \" \": must be non-empty if specified"],
            ),
            (json!({"message": " "}), vec!["message: Invalid value: \" \": must be non-empty if specified"]),
            (
                json!({"message": "a\nb"}),
                vec!["message: Invalid value: \"a\\nb\": must not contain line breaks"],
            ),
            (
                json!({"reason": "Unauthorized"}),
                vec![
                    "reason: Unsupported value: \"Unauthorized\": supported values: \"Forbidden\", \"Invalid\", \"RequestEntityTooLarge\"",
                ],
            ),
            (
                json!({"expression": "namespaceObject.spec.x == 1"}),
                vec![
                    "expression: Invalid value: \"namespaceObject.spec.x == 1\": compilation failed: ERROR: <input>:1:21: undefined field 'x'\n | namespaceObject.spec.x == 1\n | ....................^",
                ],
            ),
        ] {
            assert_eq!(of(change.clone()), errors, "{change}");
        }
    }

    #[test]
    fn annotations_of_policies() {
        let of = |all: Value| {
            let errors = policy_with("ValidatingAdmissionPolicy", json!({"auditAnnotations": all}));
            errors.iter().map(|error| error.replace("auditAnnotations", "")).collect::<Vec<_>>()
        };
        let one = |key: &str, expression: &str| json!({"key": key, "valueExpression": expression});
        assert!(of(json!([one("a", "'x'"), one("b", "null")])).is_empty());
        assert_eq!(of(json!([one("a", "'x'"), one("a", "'x'")])), ["[1].key: Duplicate value: \"a\""]);
        assert!(
            of(json!([one("a b", "'x'")]))[0]
                .starts_with("[0].key: Invalid value: \"a/a b\": name part must")
        );
        assert_eq!(
            of(json!([one("a", "1")])),
            [
                "[0].valueExpression: Invalid value: \"1\": must evaluate to one of [string null_type] but got int"
            ]
        );
        let long = format!("'{}'", "x".repeat(5 * 1024));
        assert_eq!(
            of(json!([one("a", &long)])),
            ["[0].valueExpression: Required value: must not exceed 5120 bytes in length"]
        );
        let many: Vec<Value> = (0..21).map(|n| one(&format!("k{n}"), "'x'")).collect();
        assert!(of(json!(many[..20])).is_empty());
        assert!(of(json!(many))[0].ends_with("must not have more than 20 "));
    }

    #[test]
    fn mutations_of_policies() {
        let of = |mutation: Value| {
            let errors = policy_with("MutatingAdmissionPolicy", json!({"mutations": [mutation]}));
            errors.iter().map(|error| error.replace("mutations[0].", "")).collect::<Vec<_>>()
        };
        for (mutation, errors) in [
            (
                json!({"patchType": "JSONPatch", "jsonPatch": {"expression": "[JSONPatch{op: 'add', path: '/a', value: 1}]"}}),
                vec![],
            ),
            (json!({"patchType": ""}), vec!["patchType: Required value"]),
            (
                json!({"patchType": "ApplyConfiguration"}),
                vec![
                    "applyConfiguration: Required value: must be specified when patchType is ApplyConfiguration",
                ],
            ),
            (
                json!({"patchType": "JSONPatch", "jsonPatch": {"expression": " "}, "applyConfiguration": {"expression": "Object{}"}}),
                vec![
                    "jsonPatch.expression: Required value",
                    "applyConfiguration: Invalid value: \"{applyConfiguration}\": must not be specified when patchType is JSONPatch",
                ],
            ),
            (
                json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "1"}}),
                vec![
                    "applyConfiguration.expression: Invalid value: \"1\": must evaluate to Object but got int",
                ],
            ),
        ] {
            assert_eq!(of(mutation.clone()), errors, "{mutation}");
        }
        let deleted = json!({"resourceRules": [rule_of(json!({"operations": ["DELETE"]}))]});
        assert_eq!(
            policy_with("MutatingAdmissionPolicy", json!({"matchConstraints": deleted})),
            [
                "matchConstraints.resourceRules.operations: Unsupported value: \"DELETE\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"UPDATE\""
            ]
        );
        assert!(policy_with("ValidatingAdmissionPolicy", json!({"matchConstraints": deleted})).is_empty());
    }

    #[test]
    fn parameters_of_bindings() {
        let of = |reference: Value| {
            let spec = json!({"policyName": "p", "paramRef": reference});
            let errors = check("MutatingAdmissionPolicyBinding", json!({"spec": spec}));
            errors.iter().map(|error| error.replace("spec.paramRef", "")).collect::<Vec<_>>()
        };
        let action = "Deny";
        assert!(of(json!({"name": "a", "parameterNotFoundAction": action})).is_empty());
        assert_eq!(
            of(
                json!({"name": "a/b", "selector": {"matchExpressions": [{"key": "a", "operator": "Odd"}]}, "parameterNotFoundAction": action})
            ),
            [
                ".name: Invalid value: \"a/b\": may not contain '/'",
                ".name: Forbidden: name and selector are mutually exclusive",
                ".selector.matchExpressions[0].operator: Invalid value: \"Odd\": not a valid selector operator",
                ".selector: Forbidden: name and selector are mutually exclusive",
            ]
        );
        assert_eq!(
            of(json!({"parameterNotFoundAction": action})),
            [": Required value: one of name or selector must be specified"]
        );
    }

    #[test]
    fn policies() {
        assert_eq!(
            check("ValidatingAdmissionPolicy", json!({"spec": {}})),
            [
                "spec.matchConstraints: Required value",
                "spec.validations: Required value: validations or auditAnnotations must contain at least one item",
                "spec.auditAnnotations: Required value: validations or auditAnnotations must contain at least one item",
            ]
        );
        assert_eq!(
            check("ValidatingAdmissionPolicyBinding", json!({"spec": {"policyName": "p"}})),
            ["spec.validationActions: Required value"]
        );
    }
}
