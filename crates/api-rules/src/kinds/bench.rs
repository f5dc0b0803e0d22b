//! For tests of rules: a good object, what is changed in it, and what is said of that.

use crate::Rules;
use serde_json::Value;

/// A change of an object, by JSON pointer (null removes), and the errors of it.
pub(super) type Case<'a> = (&'a str, Value, &'a [&'a str]);

fn rules(object: &Value) -> &'static Rules {
    let (group, version) = crate::meta::group_version(object);
    crate::rules_of(group, version, object["kind"].as_str().unwrap()).unwrap()
}

fn texts(found: Vec<api_types::field::FieldError>) -> Vec<String> {
    found.iter().map(ToString::to_string).collect()
}

/// The object with its defaults.
pub(super) fn defaulted(mut object: Value) -> Value {
    (rules(&object).default)(&mut object);
    object
}

/// What is said when it is made.
pub(super) fn created(object: &Value) -> Vec<String> {
    texts((rules(object).validate)(object))
}

/// What is said when the old object becomes the new one.
pub(super) fn updated(new: &Value, old: &Value) -> Vec<String> {
    texts((rules(new).validate_update)(new, old))
}

/// What is said when the old object becomes the new one through its status.
pub(super) fn status_updated(new: &Value, old: &Value) -> Vec<String> {
    texts((rules(new).validate_status_update)(new, old))
}

/// The object with one change.
pub(super) fn with(object: &Value, pointer: &str, value: Value) -> Value {
    let mut object = object.clone();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    match object.pointer_mut(parent).unwrap_or_else(|| panic!("nothing at {parent}")) {
        Value::Array(list) if key == "-" => list.push(value),
        Value::Array(list) => list[key.parse::<usize>().unwrap()] = value,
        Value::Object(map) if value.is_null() => drop(map.remove(key)),
        Value::Object(map) => drop(map.insert(key.replace("~1", "/"), value)),
        other => panic!("{other} at {parent}"),
    }
    object
}

/// The good object may be made, and each change of it is told exactly so.
pub(super) fn check_created(good: &Value, cases: &[Case<'_>]) {
    assert_eq!(created(good), [""; 0]);
    for (pointer, value, wanted) in cases {
        assert_eq!(created(&with(good, pointer, value.clone())), *wanted, "{pointer} {value}");
    }
}

/// The object may stay as it is, and each change of it is told exactly so.
pub(super) fn check_updated(good: &Value, cases: &[Case<'_>]) {
    assert_eq!(updated(good, good), [""; 0]);
    for (pointer, value, wanted) in cases {
        assert_eq!(updated(&with(good, pointer, value.clone()), good), *wanted, "{pointer} {value}");
    }
}

/// [`check_updated`] through the status.
pub(super) fn check_status(good: &Value, cases: &[Case<'_>]) {
    assert_eq!(status_updated(good, good), [""; 0]);
    for (pointer, value, wanted) in cases {
        assert_eq!(status_updated(&with(good, pointer, value.clone()), good), *wanted, "{pointer} {value}");
    }
}
