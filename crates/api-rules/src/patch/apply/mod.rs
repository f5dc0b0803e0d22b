//! Server-side apply and field ownership (KEP-555, KEP-2155): who set which field, kept in `metadata.managedFields`.
//!
//! * [`apply`]: lays an applied configuration over the live object; fields that the same manager applied before and
//!   leaves out now go, fields that another manager owns and that would change are conflicts unless forced.
//! * [`update`]: keeps ownership right through every other write; call it on the defaulted new object, before
//!   `prepare_*`.
//!
//! * [`keep_times`]: a write that changes nothing does not even change the times of ownership.
//!
//! Reading order: `set` (paths), `types` (what is owned as a whole), `typed` (compare, merge, remove), here.

mod set;
mod typed;
mod types;

pub use types::Type;

use super::{Conflict, PatchError};
use crate::look::{Look, remove, set};
use api_types::field::quote;
use serde_json::{Map, Value, json};
use set::{Set, Step};
use std::sync::LazyLock;

/// Name for what an object held before the first apply, when nobody tracked it.
const BEFORE: &str = "before-first-apply";
/// Update entries beyond this many are folded into one, the oldest first.
const MAX_UPDATE_MANAGERS: usize = 10;
/// Name of the entry that old updates are folded into.
const ANCIENT: &str = "ancient-changes";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Fields that nobody owns: the server sets them, or they name the object.
const UNOWNED: &[&[&str]] = &[
    &["apiVersion"],
    &["kind"],
    &["metadata"],
    &["metadata", "name"],
    &["metadata", "namespace"],
    &["metadata", "creationTimestamp"],
    &["metadata", "selfLink"],
    &["metadata", "uid"],
    &["metadata", "clusterName"],
    &["metadata", "generation"],
    &["metadata", "managedFields"],
    &["metadata", "resourceVersion"],
];

/// Who writes, and how.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    /// The `fieldManager` parameter, or the first word of the user agent.
    pub manager: &'a str,
    /// Version of the object in the request.
    pub api_version: &'a str,
    /// Empty for the main resource.
    pub subresource: &'a str,
    /// RFC 3339, seconds.
    pub now: &'a str,
    /// Dotted paths that this endpoint resets, whoever sends them ([`crate::strategy::Strategy::reset_fields`]).
    pub reset: &'a [&'static str],
}

/// One entry of `managedFields`.
#[derive(Debug, Clone, PartialEq)]
struct Entry {
    manager: String,
    applied: bool,
    api_version: String,
    subresource: String,
    time: String,
    fields: Set,
    /// What it was read from, as long as it says the same.
    kept: Option<Value>,
}

impl Entry {
    fn new(writer: &Writer<'_>, applied: bool) -> Entry {
        Entry {
            manager: if writer.manager.is_empty() { "unknown".into() } else { writer.manager.into() },
            applied,
            api_version: writer.api_version.to_owned(),
            subresource: writer.subresource.to_owned(),
            time: writer.now.to_owned(),
            fields: Set::default(),
            kept: None,
        }
    }

    /// Whether both are the same manager: appliers may change the version they apply.
    fn is(&self, other: &Entry) -> bool {
        self.manager == other.manager
            && self.applied == other.applied
            && self.subresource == other.subresource
            && (self.applied || self.api_version == other.api_version)
    }

    fn read(json: &Value) -> Entry {
        Entry {
            manager: json.text("manager").to_owned(),
            applied: json.text("operation") == "Apply",
            api_version: json.text("apiVersion").to_owned(),
            subresource: json.text("subresource").to_owned(),
            time: json.text("time").to_owned(),
            fields: Set::from_json(json.at("fieldsV1")),
            kept: None,
        }
    }

    /// An entry that was written here, and is written as it was read unless it changes.
    fn read_own(json: &Value) -> Entry {
        Entry { kept: Some(json.clone()), ..Entry::read(json) }
    }

    fn change_fields(&mut self, change: impl FnOnce(Set) -> Set) {
        self.fields = change(std::mem::take(&mut self.fields));
        self.kept = None;
    }

    fn write(self) -> Value {
        if let Some(kept) = self.kept {
            return kept;
        }
        let mut out = json!({
            "manager": self.manager,
            "operation": if self.applied { "Apply" } else { "Update" },
            "apiVersion": self.api_version,
            "fieldsType": "FieldsV1",
            "fieldsV1": self.fields.into_json(),
        });
        for (field, text) in [("time", &self.time), ("subresource", &self.subresource)] {
            if !text.is_empty() {
                set(&mut out, field, Value::from(text.as_str()));
            }
        }
        out
    }

    /// As conflicts name it.
    fn shown(&self) -> String {
        let mut text = quote(&self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {}", quote(&self.subresource)));
        }
        if !self.applied {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }
}

fn read_all(object: &Value) -> Vec<Entry> {
    object.items("metadata.managedFields").iter().map(Entry::read_own).collect()
}

fn write_all(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|e| !e.fields.is_empty());
    entries.sort_by(|a, b| {
        fn key(e: &Entry) -> (bool, [&str; 4]) {
            (!e.applied, [&e.time, &e.manager, &e.api_version, &e.subresource])
        }
        key(a).cmp(&key(b))
    });
    let list: Vec<Value> = entries.into_iter().map(Entry::write).collect();
    if list.is_empty() {
        remove(object, "metadata.managedFields");
    } else {
        set(object, "metadata.managedFields", Value::Array(list));
    }
}

/// A copy of an object that does not say who owns its fields.
pub fn without_managed(object: &Value) -> Value {
    let copy = |from: &Map<String, Value>, field: &mut dyn FnMut(&str, &Value) -> Option<Value>| {
        let fields = from.iter().filter_map(|(key, value)| Some((key.clone(), field(key, value)?)));
        Value::Object(fields.collect())
    };
    let bare = |metadata: &Map<String, Value>| {
        copy(metadata, &mut |key, value| (key != "managedFields").then(|| value.clone()))
    };
    match object {
        Value::Object(object) => copy(object, &mut |key, value| match value {
            Value::Object(metadata) if key == "metadata" => Some(bare(metadata)),
            other => Some(other.clone()),
        }),
        other => other.clone(),
    }
}

fn is_same_without_managed(one: &Value, other: &Value) -> bool {
    let same = |one: &Value, other: &Value, apart: &str| match (one.as_object(), other.as_object()) {
        (Some(one), Some(other)) => {
            let rest = |map| Map::iter(map).filter(|(key, _)| *key != apart);
            rest(one).eq(rest(other))
        }
        _ => one == other,
    };
    same(one, other, "metadata") && same(&one["metadata"], &other["metadata"], "managedFields")
}

fn unowned() -> &'static Set {
    static SET: LazyLock<Set> =
        LazyLock::new(|| Set::of_fields(UNOWNED.iter().map(|path| path.iter().copied())));
    &SET
}

/// The paths that an endpoint resets, as a set.
fn reset_set(writer: &Writer<'_>) -> Set {
    Set::of_fields(writer.reset.iter().map(|path| path.split('.')))
}

/// Takes from every other entry what changed; `None` for conflicts when they are not forced.
fn settle(
    entries: &mut Vec<Entry>,
    own: &Entry,
    change: &typed::Comparison,
    force: bool,
) -> Result<(), PatchError> {
    if entries.iter().all(|e| e.is(own)) {
        return Ok(());
    }
    let changed = change.modified.clone().union(change.added.clone());
    let mut conflicts = Vec::new();
    for entry in entries.iter().filter(|e| !force && !e.is(own)) {
        let fields = entry.fields.intersection(&changed).paths();
        conflicts.extend(fields.into_iter().map(|field| Conflict { manager: entry.shown(), field }));
    }
    if !conflicts.is_empty() {
        return Err(PatchError::Conflicts(conflicts));
    }
    let touched = changed.union(change.removed.clone());
    for entry in entries.iter_mut().filter(|e| !e.is(own) && e.fields.overlaps(&touched)) {
        entry.change_fields(|fields| fields.difference(&touched));
    }
    entries.retain(|e| !e.fields.is_empty() || e.is(own));
    Ok(())
}

/// Applies a configuration to the live object (an empty object when it does not exist) and gives the result with its
/// `managedFields`; equal to the live object when nothing changed.
///
/// # Errors
/// [`PatchError::Conflicts`], [`PatchError::BadRequest`] for managed fields in the configuration,
/// [`PatchError::Internal`] for what does not fit the schema (upstream's answer).
pub fn apply(
    ty: Type<'_>,
    live: &Value,
    applied: &Value,
    writer: &Writer<'_>,
    force: bool,
) -> Result<Value, PatchError> {
    if !applied.items("metadata.managedFields").is_empty() {
        return Err(PatchError::BadRequest("metadata.managedFields must be nil".into()));
    }
    fits(ty, applied)?;
    let mut entries = read_all(live);
    let live_bare = without_managed(live);
    if entries.is_empty() && live.has("metadata.uid") {
        entries.push(before_first(ty, &live_bare, writer));
    }
    let mut own = Entry::new(writer, true);
    own.fields =
        typed::fields(ty, &without_managed(applied)).difference(unowned()).without(&reset_set(writer));
    let last = entries.iter().position(|e| e.is(&own)).map(|i| entries.remove(i));
    let merged = typed::merge(ty, &live_bare, &without_managed(applied));
    entries.push(own.clone());
    let mut result = prune(ty, merged, &entries, last.as_ref());
    let change = typed::compare(ty, &live_bare, &result);
    settle(&mut entries, &own, &change, force)?;
    if let Some(last) = &last
        && change.is_same()
        && last.fields == own.fields
        && last.api_version == own.api_version
        && let Some(entry) = entries.iter_mut().find(|e| e.is(&own))
    {
        entry.time.clone_from(&last.time);
        entry.kept = None;
    }
    follow_last_applied(&mut result, applied, writer);
    write_all(&mut result, entries);
    Ok(result)
}

/// Lays an object over a live one, and nobody comes to own what it says: what an admission policy's apply configuration
/// does. The error is upstream's text.
pub fn overlay(ty: Type<'_>, live: &Value, patch: &Value) -> Result<Value, String> {
    let faults = typed::faults(ty, patch);
    if !faults.is_empty() {
        return Err(format!("failed to convert patch object to typed object: {}", faults.join(", ")));
    }
    let mut found = Vec::new();
    atomics(ty, patch, "", &mut found);
    match found.is_empty() {
        true => Ok(typed::merge(ty, live, patch)),
        false => Err(format!(
            "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {}",
            found.join(", ")
        )),
    }
}

/// Lists, maps and structs that would be replaced as a whole.
fn atomics(ty: Type<'_>, value: &Value, path: &str, out: &mut Vec<String>) {
    match (ty.form(value), value) {
        (types::Form::Leaf, Value::Array(_) | Value::Object(_)) => out.push(path.to_owned()),
        (_, Value::Object(map)) => {
            for (key, child) in map {
                let inner = ty.child(key).map_or(Type::Deduced, |(inner, _)| inner);
                atomics(inner, child, &format!("{path}.{key}"), out);
            }
        }
        (_, Value::Array(items)) => {
            for (at, item) in items.iter().enumerate() {
                atomics(ty.item(), item, &format!("{path}[{at}]"), out);
            }
        }
        _ => {}
    }
}

fn fits(ty: Type<'_>, applied: &Value) -> Result<(), PatchError> {
    let faults = typed::faults(ty, applied);
    let text = match faults.as_slice() {
        [] => return Ok(()),
        [one] => one.clone(),
        many => format!("errors:\n  {}", many.join("\n  ")),
    };
    let (version, kind) = (applied.text("apiVersion"), applied.text("kind"));
    let version = if version.contains('/') { version.to_owned() } else { format!("/{version}") };
    let (namespace, name) = (applied.text("metadata.namespace"), applied.text("metadata.name"));
    Err(PatchError::Internal(format!(
        "failed to create typed patch object ({namespace}/{name}; {version}, Kind={kind}): {text}"
    )))
}

/// Everything that an untracked object holds belongs to nobody in particular.
fn before_first(ty: Type<'_>, live: &Value, writer: &Writer<'_>) -> Entry {
    let mut entry = Entry::new(&Writer { manager: BEFORE, subresource: "", ..*writer }, false);
    entry.fields = typed::compare(ty, &Value::Object(Map::new()), live).added.difference(unowned());
    entry
}

/// Removes what the manager applied last time and does not apply now, unless somebody else owns it.
fn prune(ty: Type<'_>, merged: Value, entries: &[Entry], last: Option<&Entry>) -> Value {
    let Some(last) = last.filter(|l| !l.fields.is_empty()) else { return merged };
    let named = |set: &Set| set.with_named(ty, &|ty: Type<'_>, step: &Step| ty.follow(step));
    let owned = entries.iter().fold(Set::default(), |all, e| all.union(e.fields.clone()));
    let before = named(&last.fields);
    let all = named(&typed::fields(ty, &merged));
    let pruned = typed::remove(ty, &merged, &before);
    let kept = named(&typed::fields(ty, &pruned)).union(named(&owned));
    let pruned = typed::remove(ty, &merged, &all.clone().difference(&kept));
    let gone = all.difference(&named(&typed::fields(ty, &pruned)));
    typed::remove(ty, &merged, &gone.intersection(&before))
}

/// kubectl's client-side annotation stays true while kubectl applies on the server.
fn follow_last_applied(result: &mut Value, applied: &Value, writer: &Writer<'_>) {
    let annotated = result.at("metadata.annotations").key(LAST_APPLIED).is_string();
    if writer.manager != "kubectl" || !annotated {
        return;
    }
    let mut config = applied.clone();
    if let Some(annotations) =
        crate::look::at_mut(&mut config, "metadata.annotations").and_then(Value::as_object_mut)
    {
        annotations.remove(LAST_APPLIED);
    }
    let annotations = crate::look::object_mut(result, "metadata.annotations");
    annotations.insert(LAST_APPLIED.to_owned(), Value::from(format!("{config}\n")));
}

/// Brings `managedFields` of `new` up to date with a write that is no apply. `live` is `None` for a create.
///
/// A client that sends an empty list resets ownership, as upstream lets it. Objects that were never tracked stay so.
pub fn update(ty: Type<'_>, live: Option<&Value>, new: &mut Value, writer: &Writer<'_>) {
    let sent = remove(new, "metadata.managedFields");
    let mut entries = match (sent.as_ref().and_then(Value::as_array), live) {
        (Some(list), _) if list.is_empty() || list == &[json!({})] => return,
        (Some(list), Some(live)) if list == live.items("metadata.managedFields") => read_all(live),
        (Some(list), _) => list.iter().map(Entry::read).collect(),
        (None, Some(live)) => read_all(live),
        (None, None) => Vec::new(),
    };
    if live.is_some() && entries.is_empty() {
        return;
    }
    // The record of the live object seems to be removed, but nobody owns it.
    let empty = Value::Object(Map::new());
    let change = typed::compare(ty, live.unwrap_or(&empty), new);
    let own = Entry::new(writer, false);
    // Forced: an update owns what it changes.
    let settled = settle(&mut entries, &own, &change, true);
    debug_assert!(settled.is_ok(), "a forced change has no conflicts");
    let typed::Comparison { added, modified, removed } = change;
    let taken = modified.union(added).difference(unowned()).without(&reset_set(writer));
    match entries.iter_mut().find(|e| e.is(&own)) {
        Some(entry) => {
            if !taken.is_empty() {
                entry.time = own.time;
            }
            if entry.fields.overlaps(&removed) || !taken.is_empty() {
                entry.change_fields(|fields| fields.difference(&removed).union(taken));
            }
        }
        None => entries.push(Entry { fields: taken, ..own }),
    }
    cap(&mut entries);
    write_all(new, entries);
}

/// Puts the old times back when nothing but them differs, so that a write that changes nothing stays one. Call it on
/// the object as it would be stored, after `prepare_*`.
pub fn keep_times(new: &mut Value, old: &Value) {
    let bare = |object: &Value| -> Vec<Entry> {
        let entries = object.items("metadata.managedFields").iter().map(Entry::read);
        entries.map(|entry| Entry { time: String::new(), ..entry }).collect()
    };
    if new.at("metadata.managedFields") != old.at("metadata.managedFields")
        && is_same_without_managed(new, old)
        && bare(new) == bare(old)
    {
        set(new, "metadata.managedFields", old.at("metadata.managedFields").clone());
    }
}

/// Folds the oldest update entries into one when there are too many.
fn cap(entries: &mut Vec<Entry>) {
    let updates = |entries: &[Entry]| entries.iter().filter(|e| !e.applied && !e.fields.is_empty()).count();
    while updates(entries) > MAX_UPDATE_MANAGERS {
        let oldest = |skip: Option<usize>, entries: &[Entry]| {
            let candidates = entries.iter().enumerate().filter(|(i, e)| !e.applied && Some(*i) != skip);
            candidates.min_by(|a, b| a.1.time.cmp(&b.1.time)).map(|(i, _)| i)
        };
        let Some(first) = oldest(None, entries) else { return };
        let Some(second) = oldest(Some(first), entries) else { return };
        let folded = std::mem::take(&mut entries[first].fields);
        let target = &mut entries[second];
        target.change_fields(|fields| fields.union(folded));
        target.manager = ANCIENT.to_owned();
        target.subresource = String::new();
        entries.remove(first);
    }
}

#[cfg(test)]
mod tests;
