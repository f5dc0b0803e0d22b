//! Strategic merge patch (upstream: `apimachinery/pkg/util/strategicpatch`; the directives are described in the
//! API conventions): lists with a merge key are merged by it, `$patch`, `$retainKeys`, `$setElementOrder/<list>` and
//! `$deleteFromPrimitiveList/<list>` steer.

use super::PatchError;
use super::schema::{Field, Strategy, field};
use api_types::MessageId;
use serde_json::{Map, Value};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ORDER: &str = "$setElementOrder/";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";

/// Merges `patch` into `doc`, an object of the given type.
pub fn strategic_merge(message: MessageId, doc: Value, patch: &Value) -> Result<Value, PatchError> {
    let (Value::Object(original), Some(changes)) = (doc, patch.as_object()) else {
        return Err(PatchError::BadRequest("invalid JSON document".into()));
    };
    merge_map(original, changes.clone(), Some(message)).map(Value::Object)
}

type Object = Map<String, Value>;

fn merge_map(
    mut original: Object,
    mut patch: Object,
    message: Option<MessageId>,
) -> Result<Object, PatchError> {
    match patch.remove(DIRECTIVE) {
        None => {}
        Some(Value::String(s)) if s == "replace" => return Ok(patch),
        Some(Value::String(s)) if s == "delete" => return Ok(Object::new()),
        Some(other) => {
            patch.insert(DIRECTIVE.to_owned(), other);
            return Err(unknown_directive(patch));
        }
    }
    retain_keys(&mut original, &mut patch)?;
    ordered_lists(&mut original, &mut patch, message)?;
    for (key, change) in patch {
        merge_field(&mut original, key, change, message)?;
    }
    Ok(original)
}

fn merge_field(
    original: &mut Object,
    key: String,
    change: Value,
    message: Option<MessageId>,
) -> Result<(), PatchError> {
    if let Some(name) = key.strip_prefix(DELETE_FROM) {
        return delete_from(original, name, &change);
    }
    if change.is_null() {
        original.remove(&key);
        return Ok(());
    }
    let merged = match (original.remove(&key), change) {
        (Some(Value::Object(old)), Value::Object(new)) => {
            let known = field(message, &key);
            if known.strategy == Strategy::Replace {
                Value::Object(without_directives(new))
            } else {
                Value::Object(merge_map(old, new, known.message)?)
            }
        }
        (Some(Value::Array(old)), Value::Array(new)) => {
            Value::Array(merge_list(old, new, &field(message, &key))?)
        }
        (_, new) => added(new),
    };
    original.insert(key, merged);
    Ok(())
}

/// What a patch brings into a place where nothing (or another type) stood: directives and nulls say nothing there.
fn added(value: Value) -> Value {
    match value {
        Value::Object(object) => Value::Object(without_directives(object)),
        Value::Array(list) => {
            Value::Array(list.into_iter().filter(|item| item.get(DIRECTIVE).is_none()).map(added).collect())
        }
        other => other,
    }
}

fn without_directives(object: Object) -> Object {
    let directive = |key: &str| {
        key == DIRECTIVE || key == RETAIN_KEYS || key.starts_with(SET_ORDER) || key.starts_with(DELETE_FROM)
    };
    object
        .into_iter()
        .filter(|(key, value)| !value.is_null() && !directive(key))
        .map(|(k, v)| (k, added(v)))
        .collect()
}

/// `$retainKeys` drops every field of the original that it does not list.
fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<(), PatchError> {
    let Some(listed) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let bad = || PatchError::BadRequest("invalid patch format of retainKeys".into());
    let keys: Vec<&str> = listed.as_array().ok_or_else(bad)?.iter().filter_map(Value::as_str).collect();
    let named = |key: &str| {
        key.strip_prefix(SET_ORDER).or_else(|| key.strip_prefix(DELETE_FROM)).unwrap_or(key).to_owned()
    };
    if patch.iter().any(|(key, value)| !value.is_null() && !keys.contains(&named(key).as_str())) {
        return Err(bad());
    }
    original.retain(|key, _| keys.contains(&key.as_str()));
    Ok(())
}

fn delete_from(original: &mut Object, name: &str, removed: &Value) -> Result<(), PatchError> {
    let Some(removed) = removed.as_array() else {
        return Err(PatchError::BadRequest("invalid patch format of primitive list".into()));
    };
    if let Some(Value::Array(list)) = original.get_mut(name) {
        list.retain(|item| !removed.contains(item));
    }
    Ok(())
}

/// Fields with `$setElementOrder`: merged here and put into the order that the directive gives.
fn ordered_lists(
    original: &mut Object,
    patch: &mut Object,
    message: Option<MessageId>,
) -> Result<(), PatchError> {
    let directives: Vec<String> = patch.keys().filter(|k| k.starts_with(SET_ORDER)).cloned().collect();
    for directive in directives {
        let bad = || PatchError::BadRequest("invalid patch format of setElementOrder list".into());
        let Some(Value::Array(order)) = patch.remove(&directive) else { return Err(bad()) };
        let name = &directive[SET_ORDER.len()..];
        let known = field(message, name);
        if let Some(removed) = patch.remove(&format!("{DELETE_FROM}{name}")) {
            delete_from(original, name, &removed)?;
        }
        let before: Option<Vec<Value>> = original.get(name).and_then(Value::as_array).cloned();
        let merged = match (before.clone(), patch.remove(name)) {
            (Some(old), Some(Value::Array(new))) => {
                in_order(&new, &order, &known)?;
                merge_list(old, new, &known)?
            }
            (Some(old), None) => old,
            (None, Some(new @ Value::Array(_))) => match added(new) {
                Value::Array(list) => list,
                _ => return Err(bad()),
            },
            (None, None) => continue,
            (_, Some(_)) => return Err(bad()),
        };
        let sorted = sort_merged(merged, &order, &before.unwrap_or_default(), known.merge_key);
        original.insert(name.to_owned(), Value::Array(sorted));
    }
    Ok(())
}

/// The patch may only hold elements that the order names, in that order (deletions aside).
fn in_order(patch: &[Value], order: &[Value], known: &Field) -> Result<(), PatchError> {
    let mut last = 0;
    for item in patch.iter().filter(|item| item.get(DIRECTIVE).is_none()) {
        match order.iter().skip(last).position(|o| same_element(item, o, known.merge_key)) {
            Some(found) => last += found,
            None => {
                return Err(PatchError::Internal(format!(
                    "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
                    go_text(&Value::Array(patch.to_vec())),
                    go_text(&Value::Array(order.to_vec()))
                )));
            }
        }
    }
    Ok(())
}

fn merge_list(old: Vec<Value>, new: Vec<Value>, known: &Field) -> Result<Vec<Value>, PatchError> {
    if known.strategy != Strategy::Merge {
        return Ok(match added(Value::Array(new)) {
            Value::Array(list) => list,
            _ => Vec::new(),
        });
    }
    if old.is_empty() && new.is_empty() {
        return Ok(old);
    }
    let maps = new.first().or(old.first()).is_some_and(Value::is_object);
    if !maps {
        return Ok(merge_scalars(old, new));
    }
    let Some(key) = known.merge_key else {
        return Err(PatchError::Internal("cannot merge lists without merge key".into()));
    };
    merge_elements(old, new, key, known.message)
}

fn merge_scalars(old: Vec<Value>, new: Vec<Value>) -> Vec<Value> {
    let mut merged: Vec<Value> = Vec::new();
    for item in old.iter().chain(&new) {
        if !merged.contains(item) {
            merged.push(item.clone());
        }
    }
    sort_merged(merged, &new, &old, None)
}

fn merge_elements(
    old: Vec<Value>,
    new: Vec<Value>,
    key: &str,
    message: Option<MessageId>,
) -> Result<Vec<Value>, PatchError> {
    let mut merged = old.clone();
    let mut changes: Vec<Object> = Vec::new();
    let mut replaced = false;
    for item in new {
        let Value::Object(mut item) = item else {
            return Err(PatchError::Internal("list element types are not identical".into()));
        };
        match item.remove(DIRECTIVE) {
            None => changes.push(item),
            Some(Value::String(s)) if s == "replace" => replaced = true,
            Some(Value::String(s)) if s == "delete" => {
                let wanted = item.get(key).ok_or_else(|| no_merge_key(&item, key))?;
                merged.retain(|element| element.get(key) != Some(wanted));
            }
            Some(Value::String(s)) if s == "merge" => {
                return Err(PatchError::Internal(
                    "merging lists cannot yet be specified in the patch".into(),
                ));
            }
            Some(other) => {
                item.insert(DIRECTIVE.to_owned(), other);
                return Err(unknown_directive(item));
            }
        }
    }
    if replaced {
        return Ok(changes.into_iter().map(|c| Value::Object(without_directives(c))).collect());
    }
    let order: Vec<Value> = changes.iter().cloned().map(Value::Object).collect();
    for change in changes {
        let wanted = change.get(key).cloned().ok_or_else(|| no_merge_key(&change, key))?;
        match merged.iter_mut().find(|element| element.get(key) == Some(&wanted)) {
            Some(element) => {
                let before = element.as_object().cloned().unwrap_or_default();
                *element = Value::Object(merge_map(before, change, message)?);
            }
            None => merged.push(Value::Object(without_directives(change))),
        }
    }
    Ok(sort_merged(merged, &order, &old, Some(key)))
}

fn no_merge_key(element: &Object, key: &str) -> PatchError {
    let element = go_text(&Value::Object(element.clone()));
    PatchError::Internal(format!("map: {element} does not contain declared merge key: {key}"))
}

fn unknown_directive(patch: Object) -> PatchError {
    let directive = patch.get(DIRECTIVE).map(go_text).unwrap_or_default();
    PatchError::Internal(format!(
        "unknown patch type: {directive} in map: {}",
        go_text(&Value::Object(patch))
    ))
}

/// A value as Go prints it: `map[a:b c:[d e]]`.
pub fn go_text(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(list) => format!("[{}]", list.iter().map(go_text).collect::<Vec<_>>().join(" ")),
        Value::Object(object) => {
            let mut fields: Vec<(&String, &Value)> = object.iter().collect();
            fields.sort_unstable_by_key(|(key, _)| *key);
            let fields = fields.into_iter().map(|(key, value)| format!("{key}:{}", go_text(value)));
            format!("map[{}]", fields.collect::<Vec<_>>().join(" "))
        }
        plain => plain.to_string(),
    }
}

fn same_element(a: &Value, b: &Value, key: Option<&str>) -> bool {
    match key {
        Some(key) if a.is_object() && b.is_object() => a.get(key).is_some() && a.get(key) == b.get(key),
        _ => a == b,
    }
}

/// Elements that the patch names come in its order, the others keep theirs; where both orders know two elements,
/// the order on the server decides which goes first.
fn sort_merged(
    merged: Vec<Value>,
    patch_order: &[Value],
    server_order: &[Value],
    key: Option<&str>,
) -> Vec<Value> {
    let rank = |item: &Value, order: &[Value]| order.iter().position(|o| same_element(item, o, key));
    let (mut named, mut others): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|item| rank(item, patch_order).is_some());
    named.sort_by_key(|item| rank(item, patch_order));
    others.sort_by_key(|item| rank(item, server_order));
    let mut out = Vec::with_capacity(named.len() + others.len());
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    while let (Some(other), Some(name)) = (others.peek(), named.peek()) {
        let first =
            matches!((rank(other, server_order), rank(name, server_order)), (Some(o), Some(n)) if o < n);
        out.extend(if first { others.next() } else { named.next() });
    }
    out.extend(others);
    out.extend(named);
    out
}

#[cfg(test)]
mod tests;
