//! Label selectors and what they must match.

use crate::errors::{At, Errors};
use crate::format;
use crate::look::Look;
use crate::meta;
use api_types::selector::LabelSelector;
use serde_json::Value;

/// Checks a `LabelSelector` object (upstream: `ValidateLabelSelector`).
pub(super) fn validate(selector: &Value, at: At<'_>, errors: &mut Errors) {
    meta::validate_labels(selector.at("matchLabels"), at.at("matchLabels"), errors);
    let list = at.at("matchExpressions");
    for (i, expression) in selector.items("matchExpressions").iter().enumerate() {
        requirement(expression, list.index(i), errors);
    }
}

fn requirement(expression: &Value, at: At<'_>, errors: &mut Errors) {
    let values = expression.items("values");
    match expression.text("operator") {
        "In" | "NotIn" if values.is_empty() => {
            errors.required(at.at("values"), "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => errors
            .forbidden(at.at("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"),
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => errors.invalid(at.at("operator"), other, "not a valid selector operator"),
    }
    let key = expression.text("key");
    errors.format(at.at("key"), key, format::qualified_name(key));
    let list = at.at("values");
    for (i, value) in values.iter().enumerate() {
        let value = value.as_str().unwrap_or("");
        errors.format(list.index(i), value, format::label_value(value));
    }
}

/// A selector that is there and selects something; `kind` in lower case for the message.
pub(super) fn required(selector: &Value, kind: &str, at: At<'_>, errors: &mut Errors) {
    if !selector.is_object() {
        errors.required(at, "");
        return;
    }
    validate(selector, at, errors);
    if selector.items("matchExpressions").is_empty() && selector.entries("matchLabels").next().is_none() {
        errors.invalid(at, selector.clone(), format!("empty selector is invalid for {kind}"));
    }
}

/// The labels of a template must be selected by the selector of its owner.
pub(super) fn matches_template(selector: &Value, template: &Value, at: At<'_>, errors: &mut Errors) {
    let labels = template.at("metadata.labels");
    let Ok(parsed) = LabelSelector::from_value(selector) else { return };
    if !parsed.matches_everything() && !parsed.matches_labels(labels.as_object()) {
        let shown = if labels.is_null() { Value::Object(serde_json::Map::new()) } else { labels.clone() };
        let metadata = at.at("metadata");
        errors.invalid(metadata.at("labels"), shown, "`selector` does not match template `labels`");
    }
}
