//! Structured merge over values with types: what fields a value sets, how two differ, merging, removing.

use super::set::{Set, Step};
use super::types::{Form, Type};
use serde_json::{Map, Value};

static NULL: Value = Value::Null;

/// How one value became another.
#[derive(Debug, Default)]
pub(super) struct Comparison<'v> {
    pub added: Set<'v>,
    pub modified: Set<'v>,
    pub removed: Set<'v>,
}

impl Comparison<'_> {
    pub(super) fn is_same(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }
}

/// Elements of a list with their steps; elements that cannot be named are left out.
fn elements<'v>(ty: Type<'_>, form: Form, value: &'v Value) -> Vec<(Step<'v>, &'v Value)> {
    let items = value.as_array().map_or(&[][..], Vec::as_slice);
    items.iter().filter_map(|item| Some((ty.step_of(form, item).ok()?, item))).collect()
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

/// The fields that a value sets.
pub(super) fn fields<'v>(ty: Type<'_>, value: &'v Value) -> Set<'v> {
    let mut set = Set::default();
    let form = ty.form(value);
    match form {
        Form::Leaf => {}
        Form::Map => {
            for (key, child) in value.as_object().into_iter().flatten() {
                let (inner, named) = ty.child(key).unwrap_or((Type::Deduced, false));
                let is_leaf = inner.form(child) == Form::Leaf;
                let empty = child.is_null() || child.as_object().is_some_and(Map::is_empty);
                set.put(Step::field(key), is_leaf || empty || !named, fields(inner, child));
            }
        }
        Form::Set | Form::Keyed => {
            for (step, child) in elements(ty, form, value) {
                // The first of those that are there twice.
                if !set.has(&step) {
                    set.put(step, true, fields(ty.item(), child));
                }
            }
        }
    }
    set
}

/// What differs from `old` to `new`.
pub(super) fn compare<'v>(ty: Type<'_>, old: &'v Value, new: &'v Value) -> Comparison<'v> {
    let mut out = Comparison::default();
    walk(ty, Some(old), Some(new), &mut out);
    out
}

fn present(value: Option<&Value>) -> Option<&Value> {
    value.filter(|v| !v.is_null())
}

/// What became of a value itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Own {
    Same,
    Added,
    Modified,
    Removed,
}

/// Finds what differs below a value, and says what became of the value itself.
fn walk<'v>(ty: Type<'_>, old: Option<&'v Value>, new: Option<&'v Value>, out: &mut Comparison<'v>) -> Own {
    let (old, new) = (present(old), present(new));
    // Most of an object stays as it is.
    if old == new {
        return Own::Same;
    }
    let form = ty.form(new.or(old).unwrap_or(&NULL));
    let both_empty = old.is_none_or(is_nothing) && new.is_none_or(is_nothing);
    let clash = match (old, new) {
        (Some(a), Some(b)) => ty.form(a) != ty.form(b),
        _ => false,
    };
    let goes_on = form != Form::Leaf && !both_empty && !clash;
    if goes_on {
        below(ty, form, old.unwrap_or(&NULL), new.unwrap_or(&NULL), out);
    }
    match (old, new) {
        (None, _) => Own::Added,
        (_, None) => Own::Removed,
        _ if goes_on => Own::Same,
        _ => Own::Modified,
    }
}

impl<'v> Comparison<'v> {
    /// Adds what was found at a step.
    fn put(&mut self, own: Own, below: Comparison<'v>, step: impl Fn() -> Step<'v>) {
        let Comparison { added, modified, removed } = below;
        for (set, kind, below) in [
            (&mut self.added, Own::Added, added),
            (&mut self.modified, Own::Modified, modified),
            (&mut self.removed, Own::Removed, removed),
        ] {
            if own == kind || !below.is_empty() {
                set.put(step(), own == kind, below);
            }
        }
    }
}

fn below<'v>(ty: Type<'_>, form: Form, old: &'v Value, new: &'v Value, out: &mut Comparison<'v>) {
    type Side<'v> = Option<&'v Value>;
    let mut child = |ty: Type<'_>, old: Side<'v>, new: Side<'v>, step: &dyn Fn() -> Step<'v>| {
        let mut inner = Comparison::default();
        let own = walk(ty, old, new, &mut inner);
        out.put(own, inner, step);
    };
    if form == Form::Map {
        let entries = |value: &'v Value| value.as_object().into_iter().flatten();
        let known = |key: &String| old.as_object().is_some_and(|old| old.contains_key(key));
        for (key, _) in entries(old).chain(entries(new).filter(|(key, _)| !known(key))) {
            let inner = ty.child(key).map_or(Type::Deduced, |(inner, _)| inner);
            child(inner, old.get(key), new.get(key), &|| Step::field(key));
        }
        return;
    }
    let (a, b) = (elements(ty, form, old), elements(ty, form, new));
    let find = |list: &[(Step<'_>, &Value)], step: &Step<'_>| list.iter().position(|(s, _)| s == step);
    // Of those that are there twice the first counts.
    for (at, (step, value)) in a.iter().enumerate() {
        if find(&a, step) == Some(at) {
            child(ty.item(), Some(value), find(&b, step).map(|i| b[i].1), &|| step.clone());
        }
    }
    for (at, (step, value)) in b.iter().enumerate() {
        if find(&a, step).is_none() && find(&b, step) == Some(at) {
            child(ty.item(), None, Some(value), &|| step.clone());
        }
    }
}

/// `applied` laid over `live`.
pub(super) fn merge(ty: Type<'_>, live: &Value, applied: &Value) -> Value {
    let form = ty.form(applied);
    if form == Form::Leaf || live.is_null() || applied.is_null() || ty.form(live) != form {
        return if applied.is_null() { live.clone() } else { applied.clone() };
    }
    match (form, live, applied) {
        (Form::Map, Value::Object(a), Value::Object(b)) => {
            let mut out = a.clone();
            for (key, value) in b {
                let inner = ty.child(key).map_or(Type::Deduced, |(inner, _)| inner);
                let merged = merge(inner, a.get(key).unwrap_or(&NULL), value);
                out.insert(key.clone(), merged);
            }
            Value::Object(out)
        }
        (_, Value::Array(_), Value::Array(_)) => Value::Array(merge_lists(ty, form, live, applied)),
        _ => applied.clone(),
    }
}

/// Applied elements keep their order; live ones that it does not name stay near their neighbours.
fn merge_lists(ty: Type<'_>, form: Form, live: &Value, applied: &Value) -> Vec<Value> {
    let (a, b) = (elements(ty, form, live), elements(ty, form, applied));
    let named = |list: &[(Step<'_>, &Value)], step: &Step<'_>| list.iter().any(|(s, _)| s == step);
    let shared: Vec<&Step<'_>> = b.iter().map(|(s, _)| s).filter(|s| named(&a, s)).collect();
    let mut out: Vec<Value> = Vec::with_capacity(a.len().max(b.len()));
    let mut merged = 0;
    let mut left = 0;
    for (step, value) in &b {
        while let Some((other, item)) = a.get(left) {
            let next = shared.get(merged).copied();
            if !named(&b, other) {
                out.push((*item).clone());
            } else if next == Some(other) {
                break;
            }
            left += 1;
        }
        let twin = a.iter().find(|(s, _)| s == step);
        merged += usize::from(twin.is_some());
        out.push(merge(ty.item(), twin.map_or(&NULL, |(_, v)| v), value));
        if a.get(left).is_some_and(|(other, _)| other == step) {
            left += 1;
        }
    }
    out.extend(a[left.min(a.len())..].iter().filter(|(s, _)| !named(&b, s)).map(|(_, v)| (*v).clone()));
    out
}

/// The value without the members of `set`; a part that ends up empty because of it goes too.
pub(super) fn remove(ty: Type<'_>, value: &Value, set: &Set<'_>) -> Value {
    match (ty.form(value), value) {
        (Form::Map, Value::Object(map)) => {
            let mut out = Map::new();
            for (key, child) in map {
                let step = Step::field(key);
                let inner = ty.child(key).map_or(Type::Deduced, |(inner, _)| inner);
                if let Some(kept) = remove_one(inner, child, &step, set) {
                    out.insert(key.clone(), kept);
                }
            }
            Value::Object(out)
        }
        (form @ (Form::Set | Form::Keyed), Value::Array(_)) => {
            let items = elements(ty, form, value);
            Value::Array(
                items.iter().filter_map(|(step, item)| remove_one(ty.item(), item, step, set)).collect(),
            )
        }
        _ => value.clone(),
    }
}

fn remove_one(ty: Type<'_>, value: &Value, step: &Step<'_>, set: &Set<'_>) -> Option<Value> {
    if set.has(step) {
        return None;
    }
    let Some(below) = set.below(step) else { return Some(value.clone()) };
    let left = remove(ty, value, below);
    (!is_nothing(&left)).then_some(left)
}

/// Faults of an applied object: fields that its type does not have, elements without keys or twice.
pub(super) fn faults(ty: Type<'_>, value: &Value) -> Vec<String> {
    let mut out = Vec::new();
    check(ty, value, "", &mut out);
    out
}

fn check(ty: Type<'_>, value: &Value, path: &str, out: &mut Vec<String>) {
    let form = ty.form(value);
    match (form, value) {
        (Form::Map, Value::Object(map)) => {
            for (key, child) in map {
                let path = format!("{path}.{key}");
                match ty.child(key) {
                    Some((inner, _)) => check(inner, child, &path, out),
                    None => out.push(format!("{path}: field not declared in schema")),
                }
            }
        }
        (Form::Map, other) if !other.is_null() => out.push(format!("{path}: expected map, got &{{{other}}}")),
        (Form::Set | Form::Keyed, Value::Array(items)) => {
            let mut seen: Vec<Step<'_>> = Vec::new();
            for (i, item) in items.iter().enumerate() {
                match ty.step_of(form, item) {
                    Err(text) => out.push(format!("{path}: element {i}: {text}")),
                    Ok(step) if seen.contains(&step) => {
                        out.push(format!("{path}: duplicate entries for key {}", step.shown()));
                    }
                    Ok(step) => {
                        check(ty.item(), item, &(path.to_owned() + &step.shown()), out);
                        seen.push(step);
                    }
                }
            }
        }
        (Form::Set | Form::Keyed, other) if !other.is_null() => {
            out.push(format!("{path}: expected list, got &{{{other}}}"));
        }
        _ => {}
    }
}
