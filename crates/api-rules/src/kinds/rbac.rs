//! Roles and bindings.

use super::Kind;
use super::selector;
use super::shared::unchanged;
use crate::errors::{At, Errors};
use crate::format;
use crate::look::Look;
use crate::meta::NameFormat;
use serde_json::Value;

const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) static KINDS: &[Kind] = &[
    Kind::new(GROUP, "Role").names(NameFormat::PathSegment).create(role).update(|new, _, e| role(new, e)),
    Kind::new(GROUP, "ClusterRole")
        .names(NameFormat::PathSegment)
        .create(cluster_role)
        .update(|new, _, errors| cluster_role(new, errors)),
    Kind::new(GROUP, "RoleBinding")
        .names(NameFormat::PathSegment)
        .create(role_binding)
        .update(binding_update),
    Kind::new(GROUP, "ClusterRoleBinding")
        .names(NameFormat::PathSegment)
        .create(cluster_role_binding)
        .update(binding_update),
];

fn role(object: &Value, errors: &mut Errors) {
    rules(object, true, errors);
}

fn cluster_role(object: &Value, errors: &mut Errors) {
    rules(object, false, errors);
    let aggregation = object.at("aggregationRule");
    if !aggregation.is_object() {
        return;
    }
    let at = At::root("aggregationRule");
    let list = at.at("clusterRoleSelectors");
    let selectors = aggregation.items("clusterRoleSelectors");
    if selectors.is_empty() {
        errors.required(list, "at least one clusterRoleSelector required if aggregationRule is non-nil");
    }
    for (i, one) in selectors.iter().enumerate() {
        selector::validate(one, list.index(i), errors);
    }
}

fn rules(object: &Value, namespaced: bool, errors: &mut Errors) {
    let list = At::root("rules");
    for (i, rule) in object.items("rules").iter().enumerate() {
        let at = list.index(i);
        let empty = |field: &str| rule.items(field).is_empty();
        if empty("verbs") {
            errors.required(at.at("verbs"), "verbs must contain at least one value");
        }
        if !empty("nonResourceURLs") {
            let shown = rule.at("nonResourceURLs").clone();
            if namespaced {
                let text = "namespaced rules cannot apply to non-resource URLs";
                errors.invalid(at.at("nonResourceURLs"), shown, text);
            }
            if !empty("apiGroups") || !empty("resources") || !empty("resourceNames") {
                let text = "rules cannot apply to both regular resources and non-resource URLs";
                errors.invalid(at.at("nonResourceURLs"), rule.at("nonResourceURLs").clone(), text);
            }
            continue;
        }
        if empty("apiGroups") {
            errors.required(at.at("apiGroups"), "resource rules must supply at least one api group");
        }
        if empty("resources") {
            errors.required(at.at("resources"), "resource rules must supply at least one resource");
        }
    }
}

fn role_binding(object: &Value, errors: &mut Errors) {
    binding(object, &["ClusterRole", "Role"], errors);
}

fn cluster_role_binding(object: &Value, errors: &mut Errors) {
    binding(object, &["ClusterRole"], errors);
}

fn binding(object: &Value, kinds: &[&str], errors: &mut Errors) {
    let at = At::root("roleRef");
    let group = object.text("roleRef.apiGroup");
    if group != GROUP {
        errors.not_supported(at.at("apiGroup"), group, &[GROUP]);
    }
    let kind = object.text("roleRef.kind");
    if !kinds.contains(&kind) {
        errors.not_supported(at.at("kind"), kind, kinds);
    }
    let name = object.text("roleRef.name");
    if name.is_empty() {
        errors.required(at.at("name"), "");
    } else {
        errors.format(at.at("name"), name, format::path_segment(name));
    }
    let list = At::root("subjects");
    for (i, one) in object.items("subjects").iter().enumerate() {
        subject(one, list.index(i), errors);
    }
}

fn subject(subject: &Value, at: At<'_>, errors: &mut Errors) {
    let (name, group) = (subject.text("name"), subject.text("apiGroup"));
    if name.is_empty() {
        errors.required(at.at("name"), "");
    }
    match subject.text("kind") {
        "ServiceAccount" => {
            if !name.is_empty() {
                errors.format(at.at("name"), name, format::dns1123_subdomain(name));
            }
            if !group.is_empty() {
                errors.not_supported(at.at("apiGroup"), group, &[""]);
            }
            if subject.text("namespace").is_empty() {
                errors.required(at.at("namespace"), "");
            }
        }
        "User" | "Group" if group == GROUP => {}
        "User" | "Group" => errors.not_supported(at.at("apiGroup"), group, &[GROUP]),
        other => errors.not_supported(at.at("kind"), other, &["Group", "ServiceAccount", "User"]),
    }
}

fn binding_update(new: &Value, old: &Value, errors: &mut Errors) {
    if new.text("kind") == "RoleBinding" {
        role_binding(new, errors);
    } else {
        cluster_role_binding(new, errors);
    }
    unchanged(new, old, &["roleRef"], At::root(""), errors);
}

#[cfg(test)]
mod tests {
    use crate::rules_of;
    use serde_json::{Value, json};

    fn check(object: &Value) -> Vec<String> {
        let rules = rules_of("rbac.authorization.k8s.io", "v1", object["kind"].as_str().unwrap()).unwrap();
        (rules.validate)(object).iter().map(ToString::to_string).collect()
    }

    fn object(kind: &str, rest: Value) -> Value {
        let mut object = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": "a:b", "namespace": "n"}});
        if kind.starts_with("Cluster") {
            object["metadata"].as_object_mut().unwrap().remove("namespace");
        }
        object.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        object
    }

    #[test]
    fn rules_of_roles() {
        assert!(
            check(&object(
                "Role",
                json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]})
            ))
            .is_empty()
        );
        assert_eq!(
            check(&object("Role", json!({"rules": [{"nonResourceURLs": ["/x"]}, {"verbs": ["get"]}]}))),
            [
                "rules[0].verbs: Required value: verbs must contain at least one value",
                "rules[0].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource URLs",
                "rules[1].apiGroups: Required value: resource rules must supply at least one api group",
                "rules[1].resources: Required value: resource rules must supply at least one resource",
            ]
        );
        assert_eq!(
            check(&object("ClusterRole", json!({"aggregationRule": {}}))),
            [
                "aggregationRule.clusterRoleSelectors: Required value: at least one clusterRoleSelector required if aggregationRule is non-nil"
            ]
        );
    }

    #[test]
    fn bindings() {
        let bad = object(
            "ClusterRoleBinding",
            json!({
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
                "subjects": [{"kind": "ServiceAccount", "name": "s"}, {"kind": "Robot", "name": "x"}],
            }),
        );
        assert_eq!(
            check(&bad),
            [
                "roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\"",
                "subjects[0].namespace: Required value",
                "subjects[1].kind: Unsupported value: \"Robot\": supported values: \"Group\", \"ServiceAccount\", \"User\"",
            ]
        );
        let good = object(
            "RoleBinding",
            json!({"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"}}),
        );
        let mut other = good.clone();
        other["roleRef"]["name"] = json!("q");
        let rules = rules_of("rbac.authorization.k8s.io", "v1", "RoleBinding").unwrap();
        let found = (rules.validate_update)(&other, &good);
        assert_eq!((found[0].field.as_str(), found[0].detail.as_str()), ("roleRef", "field is immutable"));
    }
}
