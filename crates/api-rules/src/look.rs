//! Reading and writing JSON trees by dotted path without ever failing: a field that is missing, null or of
//! another type reads as the zero value, as in the decoded Go struct.

use api_types::quantity::Quantity;
use serde_json::{Map, Value};

static NULL: Value = Value::Null;

/// Read access by dotted path (`spec.template.spec`). Keys that contain dots are read with [`Look::key`].
pub trait Look {
    /// The value at the path, `Value::Null` when any step is missing.
    fn at(&self, path: &str) -> &Value;
    /// The value under one literal key.
    fn key(&self, key: &str) -> &Value;
    /// The string at the path, empty when missing.
    fn text(&self, path: &str) -> &str;
    /// The integer at the path, `None` when missing.
    fn int_opt(&self, path: &str) -> Option<i64>;
    /// The integer at the path, 0 when missing.
    fn int(&self, path: &str) -> i64 {
        self.int_opt(path).unwrap_or(0)
    }
    /// The boolean at the path, false when missing.
    fn flag(&self, path: &str) -> bool;
    /// The elements of the list at the path.
    fn items(&self, path: &str) -> &[Value];
    /// The strings of the list at the path.
    fn texts(&self, path: &str) -> impl Iterator<Item = &str> {
        self.items(path).iter().filter_map(Value::as_str)
    }
    /// The entries of the object at the path.
    fn entries(&self, path: &str) -> Entries<'_>;
    /// Whether something other than null stands at the path.
    fn has(&self, path: &str) -> bool {
        !self.at(path).is_null()
    }
}

/// Iterator over the entries of an object, in key order, nulls left out.
pub struct Entries<'a>(Option<serde_json::map::Iter<'a>>);

impl<'a> Iterator for Entries<'a> {
    type Item = (&'a str, &'a Value);
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (key, value) = self.0.as_mut()?.next()?;
            if !value.is_null() {
                return Some((key, value));
            }
        }
    }
}

impl Look for Value {
    fn at(&self, path: &str) -> &Value {
        if path.is_empty() {
            return self;
        }
        let mut here = self;
        for step in path.split('.') {
            match here.get(step) {
                Some(next) => here = next,
                None => return &NULL,
            }
        }
        here
    }

    fn key(&self, key: &str) -> &Value {
        self.get(key).unwrap_or(&NULL)
    }

    fn text(&self, path: &str) -> &str {
        self.at(path).as_str().unwrap_or("")
    }

    fn int_opt(&self, path: &str) -> Option<i64> {
        let value = self.at(path);
        value.as_i64().or_else(|| value.as_f64().map(|f| f as i64))
    }

    fn flag(&self, path: &str) -> bool {
        self.at(path).as_bool().unwrap_or(false)
    }

    fn items(&self, path: &str) -> &[Value] {
        self.at(path).as_array().map_or(&[], Vec::as_slice)
    }

    fn entries(&self, path: &str) -> Entries<'_> {
        Entries(self.at(path).as_object().map(Map::iter))
    }
}

/// The object at the dotted path, made (replacing null or a value of another type) when it is missing.
pub fn object_mut<'a>(value: &'a mut Value, path: &str) -> &'a mut Map<String, Value> {
    let mut here = as_object_mut(value);
    if !path.is_empty() {
        for step in path.split('.') {
            here = as_object_mut(here.entry(step).or_insert(Value::Null));
        }
    }
    here
}

fn as_object_mut(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("invariant: made an object just above")
}

/// The value at the path for change, `None` when any step is missing or null.
pub fn at_mut<'a>(value: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    let mut here = value;
    if !path.is_empty() {
        for step in path.split('.') {
            here = here.get_mut(step)?;
        }
    }
    (!here.is_null()).then_some(here)
}

/// The list at the path for change, `None` when it is missing or no list.
pub fn items_mut<'a>(value: &'a mut Value, path: &str) -> Option<&'a mut Vec<Value>> {
    at_mut(value, path)?.as_array_mut()
}

/// Sets the value at a dotted path and makes the parents; null removes the field.
pub fn set(value: &mut Value, path: &str, new: Value) {
    let (parent, field) = path.rsplit_once('.').unwrap_or(("", path));
    if new.is_null() {
        remove(value, path);
    } else {
        object_mut(value, parent).insert(field.to_owned(), new);
    }
}

/// Removes the field at a dotted path and returns what stood there.
pub fn remove(value: &mut Value, path: &str) -> Option<Value> {
    let (parent, field) = path.rsplit_once('.').unwrap_or(("", path));
    at_mut(value, parent)?.as_object_mut()?.remove(field)
}

/// The quantity that a string or number stands for.
pub fn quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => Quantity::parse(text).ok(),
        Value::Number(number) => Quantity::parse(&number.to_string()).ok(),
        _ => None,
    }
}

/// Whether two trees mean the same to a decoded object: null, missing, and empty lists and strings are alike (what
/// Go's semantic comparison sees once both are decoded). An empty object is something: a selector that selects
/// everything is not a missing one. Empty maps do not occur, the codec leaves them out.
pub fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            x.iter().all(|(k, v)| same(v, y.get(k).unwrap_or(&NULL)))
                && y.iter().all(|(k, v)| x.contains_key(k) || same(&NULL, v))
        }
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(v, w)| same(v, w)),
        (Value::Object(_), _) | (_, Value::Object(_)) => false,
        _ => a == b || (is_zero(a) && is_zero(b)),
    }
}

/// Null, an empty string, an empty list or an object with nothing but such fields.
pub fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.values().all(is_zero),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn missing_fields_read_as_zero_values() {
        let v = json!({"spec": {"replicas": 3, "paused": null}});
        assert_eq!(v.int("spec.replicas"), 3);
        assert!(!v.flag("spec.paused") && !v.has("spec.paused"));
        assert_eq!(v.text("spec.a.b.c"), "");
        assert!(v.items("spec.replicas").is_empty());
        assert_eq!(v.texts("spec.replicas").count(), 0);
    }

    #[test]
    fn set_makes_parents_and_null_removes() {
        let mut v = json!({"spec": null});
        set(&mut v, "spec.a.b", json!(1));
        assert_eq!(v, json!({"spec": {"a": {"b": 1}}}));
        set(&mut v, "spec.a.b", Value::Null);
        assert_eq!(v, json!({"spec": {"a": {}}}));
    }

    #[test]
    fn same_ignores_absent_and_empty() {
        assert!(same(&json!({"a": null, "b": [], "c": 1}), &json!({"c": 1})));
        assert!(!same(&json!({"a": 0}), &json!({})));
        assert!(!same(&json!({"a": {}}), &json!({})), "an empty selector is not a missing one");
        assert!(!same(&json!({"a": [1]}), &json!({"a": [1, 2]})));
    }
}
