//! Webhook configurations and admission policies.

use super::{Kind, client_config, selector};
use crate::cel::{Expression, Kind as Gives, Scope};
use crate::errors::{At, Errors};
use crate::format;
use crate::look::Look;
use serde_json::Value;

const GROUP: &str = "admissionregistration.k8s.io";
const SPEC: At<'static> = At::root("spec");
const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const REVIEW_VERSIONS: &[&str] = &["v1", "v1beta1"];
const MAX_CONDITIONS: usize = 64;
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
    resources(rule, at.at("resources"), errors);
    errors.optional_of(at.at("scope"), rule.text("scope"), &["*", "Cluster", "Namespaced"]);
}

fn resources(rule: &Value, list: At<'_>, errors: &mut Errors) {
    let all: Vec<&str> = rule.texts("resources").collect();
    if all.is_empty() {
        errors.required(list, "");
    }
    let shown = || rule.at("resources").clone();
    for (i, resource) in all.iter().enumerate() {
        if resource.is_empty() {
            errors.required(list.index(i), "");
        }
        let Some((name, sub)) = resource.split_once('/') else { continue };
        if sub != "*" && all.contains(&format!("{name}/*").as_str()) {
            let text = format!("if '{name}/*' is present, must not specify {resource}");
            errors.invalid(list.index(i), *resource, text);
        }
        if name != "*" && all.contains(&format!("*/{sub}").as_str()) {
            let text = format!("if '*/{sub}' is present, must not specify {resource}");
            errors.invalid(list.index(i), *resource, text);
        }
    }
    if all.contains(&"*/*") && all.len() > 1 {
        errors.invalid(list, shown(), "if '*/*' is present, must not specify other resources");
    }
    let without_sub = all.iter().filter(|r| !r.contains('/')).count();
    if all.contains(&"*") && without_sub > 1 {
        let text = "if '*' is present, must not specify other resources without subresources";
        errors.invalid(list, shown(), text);
    }
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
        let at = SPEC.at("paramKind");
        for field in ["apiVersion", "kind"] {
            if spec.at("paramKind").text(field).is_empty() {
                errors.required(at.at(field), "");
            }
        }
    }
    let at = SPEC.at("matchConstraints");
    if !spec.has("matchConstraints") {
        errors.required(at, "");
    } else if spec.items("matchConstraints.resourceRules").is_empty() {
        errors.required(at.at("resourceRules"), "");
    }
    match_resources(spec.at("matchConstraints"), at, errors);
    let mut scope = Scope { params: spec.has("paramKind"), authorizer: true, patches, ..Scope::default() };
    conditions(spec.items("matchConditions"), SPEC.at("matchConditions"), &scope, errors);
    let list = SPEC.at("variables");
    for (i, variable) in spec.items("variables").iter().enumerate() {
        let at = list.index(i);
        let name = variable.text("name");
        if name.is_empty() {
            errors.required(at.at("name"), "name is not specified");
        } else if !is_identifier(name) {
            errors.invalid(at.at("name"), name, "name is not a valid CEL identifier");
        } else if scope.variables.iter().any(|(own, _)| own == name) {
            errors.duplicate(at.at("name"), name);
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
}

fn match_resources(value: &Value, at: At<'_>, errors: &mut Errors) {
    for field in ["resourceRules", "excludeResourceRules"] {
        let rules = at.at(field);
        for (i, one) in value.items(field).iter().enumerate() {
            rule(one, rules.index(i), errors);
        }
    }
    for field in ["namespaceSelector", "objectSelector"] {
        selector::validate(value.at(field), at.at(field), errors);
    }
    errors.optional_of(at.at("matchPolicy"), value.text("matchPolicy"), &["Equivalent", "Exact"]);
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
    for (i, validation) in spec.items("validations").iter().enumerate() {
        let at = list.index(i);
        let (expression, message) = (validation.text("expression").trim(), validation.text("message"));
        if expression.is_empty() {
            errors.required(at.at("expression"), "expression is not specified");
        } else {
            compiles(validation, "expression", at, &scope, &[Gives::Bool], errors);
        }
        if message.trim().contains('\n') {
            errors.invalid(at.at("message"), message, "must not contain line breaks");
        } else if expression.contains('\n') && message.is_empty() {
            errors.required(at.at("message"), "message must be specified if expression contains line breaks");
        }
        if !validation.text("messageExpression").trim().is_empty() {
            let scope = Scope { authorizer: false, ..scope.clone() };
            compiles(validation, "messageExpression", at, &scope, &[Gives::String], errors);
        }
        let reasons = ["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"];
        errors.optional_of(at.at("reason"), validation.text("reason"), &reasons);
    }
    let list = SPEC.at("auditAnnotations");
    for (i, annotation) in spec.items("auditAnnotations").iter().enumerate() {
        let at = list.index(i);
        let key = annotation.text("key");
        if key.is_empty() {
            errors.required(at.at("key"), "");
        } else {
            let whole = format!("{}/{key}", object.text("metadata.name"));
            errors.format(at.at("key"), key, format::qualified_name(&whole));
        }
        if annotation.text("valueExpression").trim().is_empty() {
            errors.required(at.at("valueExpression"), "valueExpression is not specified");
        } else {
            let wanted = [Gives::String, Gives::Null, Gives::Dyn];
            compiles(annotation, "valueExpression", at, &scope, &wanted, errors);
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
        let (field, wanted) = match mutation.text("patchType") {
            "ApplyConfiguration" => ("applyConfiguration", Gives::object()),
            "JSONPatch" => ("jsonPatch", Gives::patches()),
            "" => {
                errors.required(at.at("patchType"), "");
                continue;
            }
            other => {
                errors.not_supported(at.at("patchType"), other, &["ApplyConfiguration", "JSONPatch"]);
                continue;
            }
        };
        let own = mutation.at(field);
        let inner = at.at(field);
        if own.text("expression").trim().is_empty() {
            errors.required(inner.at("expression"), "expression is not specified");
        } else {
            compiles(own, "expression", inner, &scope, &[wanted], errors);
        }
    }
    let again = spec.text("reinvocationPolicy");
    errors.one_of(SPEC.at("reinvocationPolicy"), again, &["IfNeeded", "Never"]);
}

fn mutating_binding(object: &Value, errors: &mut Errors) {
    bound(object, errors);
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
        match (!spec.text("paramRef.name").is_empty(), spec.has("paramRef.selector")) {
            (true, true) => {
                errors.forbidden(at.at("name"), "name and selector are mutually exclusive");
                errors.forbidden(at.at("selector"), "name and selector are mutually exclusive");
            }
            (false, false) => errors.required(at, "one of name or selector must be specified"),
            _ => {}
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
        errors.required(list, "at least one validation action is required");
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
            ["spec.validationActions: Required value: at least one validation action is required"]
        );
    }
}
