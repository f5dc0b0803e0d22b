//! Checks that several kinds use.

use crate::errors::{At, Errors};
use crate::format;
use crate::look::Look;
use serde_json::Value;
use std::collections::HashSet;
use std::hash::Hash;

/// A percentage or a number that is not negative (upstream: `ValidatePositiveIntOrPercent`).
pub(super) fn int_or_percent(value: &Value, at: At<'_>, errors: &mut Errors) {
    match value {
        Value::String(text) if percent(text).is_none() => {
            errors.invalid(at, text.as_str(), "must be an integer or percentage (e.g '5%%')");
        }
        Value::String(_) | Value::Null => {}
        other => errors.non_negative(at, other.as_i64().unwrap_or(0)),
    }
}

/// No more than 100 % (upstream: `IsNotMoreThan100Percent`).
pub(super) fn at_most_all(value: &Value, at: At<'_>, errors: &mut Errors) {
    if value.as_str().and_then(percent).is_some_and(|p| p > 100) {
        errors.invalid(at, value.clone(), "must not be greater than 100%");
    }
}

/// The number before the `%`.
pub(super) fn percent(text: &str) -> Option<i64> {
    let digits = text.strip_suffix('%')?;
    let good = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if good { digits.parse().ok() } else { None }
}

/// The number, or the percentage's number (upstream: `getIntOrPercentValue`).
pub(super) fn int_or_percent_value(value: &Value) -> i64 {
    value.as_i64().or_else(|| value.as_str().and_then(percent)).unwrap_or(0)
}

/// Whether the value is text with a percentage.
pub(super) fn is_percent(value: &Value) -> bool {
    value.as_str().is_some_and(|s| percent(s).is_some())
}

/// Each of the fields, where set, may not be negative.
pub(super) fn non_negative(object: &Value, fields: &[&str], at: At<'_>, errors: &mut Errors) {
    for field in fields {
        if let Some(n) = object.int_opt(field) {
            errors.non_negative(at.at(field), n);
        }
    }
}

/// Each of the fields must be as it was.
pub(super) fn unchanged(new: &Value, old: &Value, fields: &[&str], at: At<'_>, errors: &mut Errors) {
    for field in fields {
        errors.immutable(at.at(field), new.at(field), old.at(field));
    }
}

/// Of each element, whether one before it had the same key. Lists of clients may be long: nothing here is compared with
/// everything before it.
pub(super) fn repeated<K: Hash + Eq>(keys: impl IntoIterator<Item = K>) -> Vec<bool> {
    let mut seen = HashSet::new();
    keys.into_iter().map(|key| !seen.insert(key)).collect()
}

/// Longest reason and message of a condition in bytes.
const MAX_REASON: usize = 1024;
const MAX_CONDITION_MESSAGE: usize = 32 * 1024;

/// `metav1.Condition`s, each type once (upstream: `ValidateConditions` of `apimachinery/pkg/apis/meta/v1/validation`).
pub(super) fn conditions(list: &[Value], at: At<'_>, errors: &mut Errors) {
    let again = repeated(list.iter().map(|condition| condition.text("type")));
    for (i, condition) in list.iter().enumerate() {
        if again[i] {
            errors.duplicate(at.index(i), condition.text("type"));
        }
        one_condition(condition, at.index(i), errors);
    }
}

fn one_condition(condition: &Value, at: At<'_>, errors: &mut Errors) {
    match condition.text("type") {
        "" => errors.required(at.at("type"), "is required"),
        kind => errors.format(at.at("type"), kind, format::qualified_name(kind)),
    }
    errors.one_of(at.at("status"), condition.text("status"), &["False", "True", "Unknown"]);
    let generation = condition.int("observedGeneration");
    if generation < 0 {
        let text = "must be greater than or equal to zero";
        errors.invalid(at.at("observedGeneration"), generation, text);
    }
    if !condition.has("lastTransitionTime") {
        errors.required(at.at("lastTransitionTime"), "");
    }
    match condition.text("reason") {
        "" => errors.required(at.at("reason"), ""),
        reason => {
            errors.format(at.at("reason"), reason, format::condition_reason(reason));
            if reason.len() > MAX_REASON {
                errors.too_long(at.at("reason"), MAX_REASON);
            }
        }
    }
    if condition.text("message").len() > MAX_CONDITION_MESSAGE {
        errors.too_long(at.at("message"), MAX_CONDITION_MESSAGE);
    }
}

/// A name that must be there and be a good subdomain.
pub(super) fn required_subdomain(name: &str, at: At<'_>, errors: &mut Errors) {
    if name.is_empty() {
        errors.required(at, "");
    } else {
        errors.format(at, name, format::dns1123_subdomain(name));
    }
}

/// Reports the first difference between two trees for upstream's `<text>\n<diff>` messages, one line a change.
pub(super) fn difference(old: &Value, new: &Value) -> String {
    let mut lines = Vec::new();
    compare(old, new, "", &mut lines);
    lines.join("\n")
}

fn compare(old: &Value, new: &Value, path: &str, lines: &mut Vec<String>) {
    match (old, new) {
        (Value::Object(a), Value::Object(b)) => {
            let mut keys: Vec<&String> = a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))).collect();
            keys.sort_unstable();
            for key in keys {
                compare(old.key(key), new.key(key), &format!("{path}.{key}"), lines);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, (x, y)) in a.iter().zip(b).enumerate() {
                compare(x, y, &format!("{path}[{i}]"), lines);
            }
        }
        _ if crate::look::same(old, new) => {}
        _ => {
            if !old.is_null() {
                lines.push(format!("- {}: {old}", path.trim_start_matches('.')));
            }
            if !new.is_null() {
                lines.push(format!("+ {}: {new}", path.trim_start_matches('.')));
            }
        }
    }
}
