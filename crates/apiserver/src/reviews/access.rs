//! What access reviews may say (upstream: `pkg/apis/authorization/validation`), and their `fieldSelector` and
//! `labelSelector` (KEP-4601; `pkg/registry/authorization/util`). Requirements that nobody here knows are left out: all hold together, so without
//! them it is asked for more, never for less. Pure.

use api_rules::format;
use api_types::Value;
use api_types::field::{FieldError, Path};
use api_types::selector::{FieldRequirement, FieldSelector, LabelSelector};
use serde_json::json;

fn requirements(selector: &Value) -> &[Value] {
    selector["requirements"].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn raw(selector: &Value) -> &str {
    selector["rawSelector"].as_str().unwrap_or_default()
}

/// The words of an evaluation that went on without a part of a selector.
fn ignored(which: &str, partially: bool) -> Option<String> {
    let how = if partially { "partially ignored" } else { "ignored" };
    Some(format!("spec.resourceAttributes.{which} {how} due to parse error"))
}

/// A review's field selector, and what is said if not all of it could be read.
pub(super) fn fields(selector: &Value) -> (FieldSelector, Option<String>) {
    let listed = requirements(selector);
    if listed.is_empty() {
        return match FieldSelector::parse(raw(selector)) {
            Ok(parsed) => (parsed, None),
            Err(_) => (FieldSelector::default(), ignored("fieldSelector", false)),
        };
    }
    let one = |requirement: &Value| {
        let negated = match requirement["operator"].as_str()? {
            "In" => false,
            "NotIn" => true,
            _ => return None,
        };
        let [value] = requirement["values"].as_array()?.as_slice() else { return None };
        let field = requirement["key"].as_str().unwrap_or_default().to_owned();
        Some(FieldRequirement { field, negated, value: value.as_str()?.to_owned() })
    };
    let known: Vec<FieldRequirement> = listed.iter().filter_map(one).collect();
    let fault = (known.len() < listed.len()).then(|| ignored("fieldSelector", !known.is_empty())).flatten();
    (FieldSelector { requirements: known }, fault)
}

/// A review's label selector, and what is said if not all of it could be read.
pub(super) fn labels(selector: &Value) -> (LabelSelector, Option<String>) {
    let listed = requirements(selector);
    if listed.is_empty() {
        return match LabelSelector::parse(raw(selector)) {
            Ok(parsed) => (parsed, None),
            Err(_) => (LabelSelector::default(), ignored("labelSelector", false)),
        };
    }
    let reads =
        |requirement: &&Value| LabelSelector::from_value(&json!({"matchExpressions": [requirement]})).is_ok();
    let known: Vec<&Value> = listed.iter().filter(reads).collect();
    let fault = (known.len() < listed.len()).then(|| ignored("labelSelector", !known.is_empty())).flatten();
    (LabelSelector::from_value(&json!({"matchExpressions": known})).unwrap_or_default(), fault)
}

/// What is wrong with a review of a kind that is asked for in a namespace.
pub(super) fn check(kind: &str, namespace: &str, review: &Value) -> Vec<FieldError> {
    let (spec, at) = (&review["spec"], Path::new("spec"));
    let (attributes, other) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let mut errors = Vec::new();
    if attributes.is_null() == other.is_null() {
        let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        errors.push(FieldError::invalid(&at, other.clone(), why));
    }
    let nobody = spec["user"].as_str().unwrap_or_default().is_empty()
        && spec["groups"].as_array().is_none_or(Vec::is_empty);
    if kind != "SelfSubjectAccessReview" && nobody {
        errors.push(FieldError::invalid(
            &at.child("user"),
            "",
            "at least one of user or group must be specified",
        ));
    }
    for which in ["fieldSelector", "labelSelector"] {
        let (selector, of_labels) = (&attributes[which], which == "labelSelector");
        check_selector(selector, of_labels, &at.child("resourceAttributes").child(which), &mut errors);
    }
    let local = kind == "LocalSubjectAccessReview";
    if let Some(metadata) = review["metadata"].as_object() {
        let own = |field: &str| field == "managedFields" || local && field == "namespace";
        if metadata.iter().any(|(field, value)| !own(field) && !value.is_null() && value != "") {
            let why = if local { "must be empty except for namespace" } else { "must be empty" };
            errors.push(FieldError::invalid(&Path::new("metadata"), metadata.clone(), why));
        }
    }
    if local {
        let asked = attributes["namespace"].as_str().unwrap_or_default();
        if !attributes.is_null() && asked != namespace {
            let at = at.child("resourceAttributes").child("namespace");
            errors.push(FieldError::invalid(&at, asked, "must match metadata.namespace"));
        }
        if !other.is_null() {
            let why = "disallowed on this kind of request";
            errors.push(FieldError::invalid(&at.child("nonResourceAttributes"), other.clone(), why));
        }
    }
    errors
}

fn check_selector(selector: &Value, of_labels: bool, at: &Path, errors: &mut Vec<FieldError>) {
    if selector.is_null() {
        return;
    }
    let listed = requirements(selector);
    match (raw(selector), listed.is_empty()) {
        ("", true) => {
            let why = format!("when {at} is specified, requirements or rawSelector is required");
            errors.push(FieldError::required(&at.child("requirements"), why));
        }
        ("", false) | (_, true) => {}
        (raw, false) => {
            let why = "may not specified at the same time as requirements";
            errors.push(FieldError::invalid(&at.child("rawSelector"), raw, why));
        }
    }
    for (index, requirement) in listed.iter().enumerate() {
        check_requirement(requirement, of_labels, &at.child("requirements").index(index), errors);
    }
}

fn check_requirement(requirement: &Value, of_labels: bool, at: &Path, errors: &mut Vec<FieldError>) {
    let key = requirement["key"].as_str().unwrap_or_default();
    if !of_labels && key.is_empty() {
        errors.push(FieldError::required(&at.child("key"), "must be specified"));
    }
    let values = requirement["values"].as_array().map_or(0, Vec::len);
    match requirement["operator"].as_str().unwrap_or_default() {
        "In" | "NotIn" if values == 0 => {
            let why = "must be specified when `operator` is 'In' or 'NotIn'";
            errors.push(FieldError::required(&at.child("values"), why));
        }
        "Exists" | "DoesNotExist" if values > 0 => {
            let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(FieldError::forbidden(&at.child("values"), why));
        }
        // Clients may be newer.
        _ => {}
    }
    if of_labels {
        let problems = format::qualified_name(key).into_iter();
        errors.extend(problems.map(|why| FieldError::invalid(&at.child("key"), key, why)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_raw_or_listed() {
        let (found, fault) = fields(&json!({"rawSelector": "spec.nodeName=n1,a!=b"}));
        assert_eq!((found.to_string().as_str(), fault), ("spec.nodeName=n1,a!=b", None));
        let (found, fault) = fields(&json!({"requirements": [
            {"key": "spec.nodeName", "operator": "In", "values": ["n1"]}, {"key": "a", "operator": "NotIn", "values": ["b"]}]}));
        assert_eq!((found.to_string().as_str(), fault), ("spec.nodeName=n1,a!=b", None));
        let (found, fault) =
            labels(&json!({"requirements": [{"key": "a", "operator": "In", "values": ["b"]}]}));
        assert_eq!((found.requirements().len(), fault), (1, None));
        assert_eq!(labels(&Value::Null), (LabelSelector::default(), None));
    }

    #[test]
    fn what_cannot_be_read_is_left_out_and_told_of() {
        let told = |which: &str, how: &str| {
            Some(format!("spec.resourceAttributes.{which} {how} due to parse error"))
        };
        let (found, fault) = fields(&json!({"requirements": [
            {"key": "a", "operator": "In", "values": ["b"]}, {"key": "c", "operator": "Exists"}, {"key": "d", "operator": "In", "values": ["x", "y"]}]}));
        assert_eq!((found.to_string().as_str(), fault), ("a=b", told("fieldSelector", "partially ignored")));
        assert_eq!(fields(&json!({"rawSelector": "a"})).1, told("fieldSelector", "ignored"));
        let (found, fault) =
            labels(&json!({"requirements": [{"key": "a", "operator": "Near", "values": ["b"]}]}));
        assert_eq!((found.requirements().len(), fault), (0, told("labelSelector", "ignored")));
        assert_eq!(labels(&json!({"rawSelector": ",,"})).1, told("labelSelector", "ignored"));
    }

    #[test]
    fn reviews_must_say_one_thing() {
        let texts = |kind: &str, spec: Value| {
            let review = json!({"spec": spec});
            check(kind, "n", &review).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let of = |attributes: Value| {
            texts("SubjectAccessReview", json!({"user": "u", "resourceAttributes": attributes}))
        };
        assert!(of(json!({"verb": "get"})).is_empty());
        assert_eq!(
            of(json!({"fieldSelector": {}})),
            [
                "spec.resourceAttributes.fieldSelector.requirements: Required value: when spec.resourceAttributes.fieldSelector is specified, requirements or rawSelector is required"
            ]
        );
        let label = json!({"rawSelector": "a", "requirements": [{"key": "-", "operator": "In"}]});
        let found = of(json!({"labelSelector": label}));
        assert_eq!(
            found[..2],
            [
                "spec.resourceAttributes.labelSelector.rawSelector: Invalid value: \"a\": may not specified at the same time as requirements",
                "spec.resourceAttributes.labelSelector.requirements[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
            ]
        );
        assert!(found[2].starts_with(
            "spec.resourceAttributes.labelSelector.requirements[0].key: Invalid value: \"-\": "
        ));
        let one = "spec: Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified";
        assert_eq!(texts("SelfSubjectAccessReview", json!({})), [one]);
        let who = "spec.user: Invalid value: \"\": at least one of user or group must be specified";
        assert_eq!(texts("SubjectAccessReview", json!({"resourceAttributes": {}})), [who]);
        let local = texts(
            "LocalSubjectAccessReview",
            json!({"groups": ["g"], "resourceAttributes": {"namespace": "m"}}),
        );
        assert_eq!(
            local,
            ["spec.resourceAttributes.namespace: Invalid value: \"m\": must match metadata.namespace"]
        );
    }
}
