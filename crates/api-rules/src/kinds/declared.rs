//! Rules as upstream declares them at the fields of its types (`+k8s:` markers, `apimachinery/pkg/api/validate`), with
//! the texts of those. What they find is told behind what hand-written rules find ([`Errors::declared`]).

use super::shared::repeated;
use crate::errors::{At, Errors, IMMUTABLE};
use crate::format::Problems;
use crate::look::{Look, is_zero, same};
use serde_json::Value;

/// Whether something is set: text and lists that are empty are not.
fn is_set(value: &Value) -> bool {
    !(value.is_null()
        || value.as_str().is_some_and(str::is_empty)
        || value.as_array().is_some_and(Vec::is_empty))
}

/// `+k8s:required`; whether it is there.
pub(super) fn required(value: &Value, at: At<'_>, errors: &mut Errors) -> bool {
    if !is_set(value) {
        errors.declared(|errors| errors.required(at, ""));
    }
    is_set(value)
}

/// `+k8s:forbidden`, of a field that is an object.
pub(super) fn forbidden(value: &Value, at: At<'_>, errors: &mut Errors) {
    if !value.is_null() {
        errors.declared(|errors| errors.forbidden(at, ""));
    }
}

/// `+k8s:immutable`; the text shows no value.
pub(super) fn immutable(new: &Value, old: &Value, at: At<'_>, errors: &mut Errors) {
    if !same(new, old) {
        errors.declared(|errors| errors.invalid(at, Value::Null, IMMUTABLE));
    }
}

/// [`immutable`] for several fields, in their order.
pub(super) fn unchanged(new: &Value, old: &Value, fields: &[&str], at: At<'_>, errors: &mut Errors) {
    for field in fields {
        immutable(new.at(field), old.at(field), at.at(field), errors);
    }
}

/// `+k8s:update=NoModify`: may be set and cleared, not changed.
pub(super) fn not_modified(new: &Value, old: &Value, at: At<'_>, errors: &mut Errors) {
    if !is_zero(new) && !is_zero(old) && !same(new, old) {
        errors.declared(|errors| errors.invalid(at, Value::Null, "field cannot be modified once set"));
    }
}

/// `+k8s:format`.
pub(super) fn format(text: &str, problems: Problems, at: At<'_>, errors: &mut Errors) {
    errors.declared(|errors| errors.format(at, text, problems));
}

/// `+k8s:required`, `+k8s:format`.
pub(super) fn required_format(value: &Value, check: fn(&str) -> Problems, at: At<'_>, errors: &mut Errors) {
    if required(value, at, errors) {
        let text = value.as_str().unwrap_or("");
        format(text, check(text), at, errors);
    }
}

/// `+k8s:enum`; the known values in alphabetical order.
pub(super) fn one_of(text: &str, known: &[&str], at: At<'_>, errors: &mut Errors) {
    if !known.contains(&text) {
        errors.declared(|errors| errors.not_supported(at, text, known));
    }
}

/// `+k8s:maxLength`, in characters.
pub(super) fn at_most_characters(text: &str, max: usize, at: At<'_>, errors: &mut Errors) {
    if text.chars().count() > max {
        errors.declared(|errors| errors.too_many_characters(at, max));
    }
}

/// `+k8s:maxBytes`.
pub(super) fn at_most_bytes(text: &str, max: usize, at: At<'_>, errors: &mut Errors) {
    if text.len() > max {
        errors.declared(|errors| errors.too_long(at, max));
    }
}

/// `+k8s:maxItems`: whether the list is short enough to be looked at.
pub(super) fn at_most_items(list: &[Value], max: usize, at: At<'_>, errors: &mut Errors) -> bool {
    if list.len() > max {
        errors.declared(|errors| errors.too_many(at, list.len(), max));
    }
    list.len() <= max
}

/// `+k8s:unique`: elements that were there before, by the texts in them that tell them apart (none: texts themselves).
pub(super) fn unique(list: &[Value], keys: &[&str], at: At<'_>, errors: &mut Errors) {
    let key = |item: &'_ Value| -> Vec<String> {
        match keys {
            [] => vec![item.as_str().unwrap_or("").to_owned()],
            keys => keys.iter().map(|key| item.text(key).to_owned()).collect(),
        }
    };
    let again = repeated(list.iter().map(key));
    for (i, item) in list.iter().enumerate().filter(|(i, _)| again[*i]) {
        errors.declared(|errors| errors.duplicate(at.index(i), item.clone()));
    }
}

/// Name of a driver (`+k8s:required`, `+k8s:format=k8s-long-name-caseless`, `+k8s:maxLength=63`).
pub(super) fn driver_name(value: &Value, at: At<'_>, errors: &mut Errors) {
    required_format(value, crate::format::subdomain_of_any_case, at, errors);
    at_most_characters(value.as_str().unwrap_or(""), MAX_DRIVER_NAME, at, errors);
}

/// Characters of a driver's name.
const MAX_DRIVER_NAME: usize = 63;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_declared_is_told_last() {
        let mut errors = Errors::new();
        let list = json!(["a", "b", "a"]);
        let at = At::root("x");
        assert!(!required(&json!(""), at.at("r"), &mut errors));
        unique(list.as_array().unwrap(), &[], at.at("u"), &mut errors);
        assert!(!at_most_items(list.as_array().unwrap(), 2, at.at("m"), &mut errors));
        immutable(&json!(1), &json!(2), at.at("i"), &mut errors);
        not_modified(&json!({"a": 1}), &json!({"a": 2}), at.at("n"), &mut errors);
        not_modified(&json!(null), &json!({"a": 2}), at.at("n"), &mut errors);
        errors.required(at.at("w"), "");
        let found: Vec<String> = errors.done().iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "x.w: Required value",
                "x.r: Required value",
                "x.u[2]: Duplicate value: \"a\"",
                "x.m: Too many: 3: must have at most 2 items",
                "x.i: Invalid value: null: field is immutable",
                "x.n: Invalid value: null: field cannot be modified once set",
            ]
        );
    }
}
