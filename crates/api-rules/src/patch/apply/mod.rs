//! Server-side apply and field ownership (KEP-555, KEP-2155): who set which field, kept in `metadata.managedFields`.
//!
//! * [`apply`]: lays an applied configuration over the live object; fields that the same manager applied before and
//!   leaves out now go, fields that another manager owns and that would change are conflicts unless forced.
//! * [`update`]: keeps ownership right through every other write; call it on the defaulted new object, before
//!   `prepare_*`.
//!
//! Most writes change few fields, and most entries of the record stay as they are: an object of a built-in kind may have
//! `fieldsV1` as its text, which is read when somebody has to know what it says. The codec takes it for the object that
//! it stands for; [`show_fields`] and [`hide_fields`] bring an object from one form to the other.
//!
//! * [`keep_times`]: a write that changes nothing does not even change the times of ownership.
//!
//! Reading order: `set` (paths), `types` (what is owned as a whole), `typed` (compare, merge, remove), here.

mod set;
mod typed;
mod types;

pub use types::Type;

use super::{Conflict, PatchError};
use crate::look::{Look, items_mut, remove, set};
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
/// An object that does not exist.
static NOTHING: Value = Value::Null;
/// Where it is said who owns what.
const MANAGED: &str = "metadata.managedFields";
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

/// One entry of `managedFields`, borrowed from where it stands.
#[derive(Debug, Clone, PartialEq)]
struct Entry<'a> {
    manager: &'a str,
    applied: bool,
    api_version: &'a str,
    subresource: &'a str,
    time: &'a str,
    fields: Set<'a>,
    /// The fields, if nobody has looked at them.
    unread: Option<&'a str>,
    /// What it was read from, as long as it says the same.
    kept: Option<&'a Value>,
}

impl<'a> Entry<'a> {
    fn new(writer: &Writer<'a>, applied: bool) -> Self {
        Entry {
            manager: if writer.manager.is_empty() { "unknown" } else { writer.manager },
            applied,
            api_version: writer.api_version,
            subresource: writer.subresource,
            time: writer.now,
            fields: Set::default(),
            unread: None,
            kept: None,
        }
    }

    /// Whether both are the same manager: appliers may change the version they apply.
    fn is(&self, other: &Entry<'_>) -> bool {
        self.manager == other.manager
            && self.applied == other.applied
            && self.subresource == other.subresource
            && (self.applied || self.api_version == other.api_version)
    }

    fn read(json: &'a Value) -> Self {
        Entry {
            manager: json.text("manager"),
            applied: json.text("operation") == "Apply",
            api_version: json.text("apiVersion"),
            subresource: json.text("subresource"),
            time: json.text("time"),
            fields: Set::from_json(json.at("fieldsV1")),
            unread: None,
            kept: None,
        }
    }

    /// An entry that was written here, and is written as it was read unless it changes.
    fn read_own(json: &'a Value) -> Self {
        Entry { kept: Some(json), unread: json.at("fieldsV1").as_str(), ..Entry::read(json) }
    }

    /// Looks at the fields.
    fn look(&mut self) {
        if let Some(text) = self.unread.take() {
            self.fields = Set::from_text(text);
        }
    }

    fn is_empty(&self) -> bool {
        match self.unread {
            Some(text) => text == "{}",
            None => self.fields.is_empty(),
        }
    }

    /// Whether a path of the set is among its fields.
    fn owns_of(&mut self, set: &Set<'_>) -> bool {
        let may_have = |text: &str, step: &Step<'_>| match step.as_field() {
            Some(name) if name.bytes().all(|byte| byte.is_ascii_alphanumeric()) => text.contains(name),
            _ => true,
        };
        if self.unread.is_some_and(|text| !set.starts().any(|step| may_have(text, step))) {
            return false;
        }
        self.look();
        self.fields.overlaps(set)
    }

    fn change_fields(&mut self, change: impl FnOnce(Set<'a>) -> Set<'a>) {
        self.fields = change(std::mem::take(&mut self.fields));
        self.kept = None;
    }

    fn write(&self, form: Form) -> Value {
        if let Some(kept) = self.kept {
            return kept.clone();
        }
        let fields = match form {
            Form::Text => self.fields.to_text().into(),
            Form::Object => self.fields.to_json(),
        };
        let mut out = json!({
            "manager": self.manager,
            "operation": if self.applied { "Apply" } else { "Update" },
            "apiVersion": self.api_version,
            "fieldsType": "FieldsV1",
            "fieldsV1": fields,
        });
        for (field, text) in [("time", self.time), ("subresource", self.subresource)] {
            if !text.is_empty() {
                set(&mut out, field, Value::from(text));
            }
        }
        out
    }

    /// As conflicts name it.
    fn shown(&self) -> String {
        let mut text = quote(self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {}", quote(self.subresource)));
        }
        if !self.applied {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }
}

fn read_all(object: &Value) -> Vec<Entry<'_>> {
    object.items(MANAGED).iter().map(Entry::read_own).collect()
}

/// How `fieldsV1` is written.
#[derive(Clone, Copy)]
enum Form {
    Text,
    Object,
}

impl Form {
    fn of(ty: Type<'_>) -> Self {
        match ty {
            Type::Message(_) => Form::Text,
            _ => Form::Object,
        }
    }
}

/// Makes the text of `fieldsV1` in an object's record of owners the object that it stands for, for who reads it.
pub fn show_fields(object: &mut Value) {
    for entry in items_mut(object, MANAGED).into_iter().flatten() {
        let fields = entry.at("fieldsV1").as_str().and_then(|text| serde_json::from_str(text).ok());
        if let Some(fields) = fields {
            set(entry, "fieldsV1", fields);
        }
    }
}

/// Makes `fieldsV1` in the record of owners of an object of a built-in kind its text.
pub fn hide_fields(object: &mut Value) {
    for entry in items_mut(object, MANAGED).into_iter().flatten() {
        let text = entry.at("fieldsV1").as_object().map(|_| entry.at("fieldsV1").to_string());
        set(entry, "fieldsV1", text.map_or(Value::Null, Value::from));
    }
}

/// The list that says so; none of none.
fn write_all(mut entries: Vec<Entry<'_>>, form: Form) -> Value {
    entries.retain(|e| !e.is_empty());
    entries.sort_by_key(|e| (!e.applied, [e.time, e.manager, e.api_version, e.subresource]));
    match entries.is_empty() {
        true => Value::Null,
        false => Value::Array(entries.iter().map(|entry| entry.write(form)).collect()),
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

fn unowned() -> &'static Set<'static> {
    static SET: LazyLock<Set<'_>> =
        LazyLock::new(|| Set::of_fields(UNOWNED.iter().map(|path| path.iter().copied())));
    &SET
}

/// The paths that an endpoint resets, as a set.
fn reset_set(writer: &Writer<'_>) -> Set<'static> {
    Set::of_fields(writer.reset.iter().map(|path| path.split('.')))
}

/// Which fields of others a writer may change.
enum Leave<'a> {
    /// All.
    Forced,
    /// These.
    Of(Set<'a>),
}

/// Takes from every other entry what changed.
///
/// # Errors
/// Conflicts: what changed and may not.
fn settle(
    entries: &mut Vec<Entry<'_>>,
    own: &Entry<'_>,
    change: &typed::Comparison<'_>,
    leave: &Leave<'_>,
) -> Result<(), PatchError> {
    if entries.iter().all(|e| e.is(own)) {
        return Ok(());
    }
    let changed = change.modified.clone().union(change.added.clone());
    let mut conflicts = Vec::new();
    for entry in entries.iter_mut().filter(|e| !e.is(own)) {
        let Leave::Of(allowed) = leave else { break };
        entry.look();
        let fields = entry.fields.intersection(&changed).difference(allowed).paths();
        conflicts.extend(fields.into_iter().map(|field| Conflict { manager: entry.shown(), field }));
    }
    if !conflicts.is_empty() {
        return Err(PatchError::Conflicts(conflicts));
    }
    let touched = changed.union(change.removed.clone());
    for entry in entries.iter_mut().filter(|e| !e.is(own)) {
        if entry.owns_of(&touched) {
            entry.change_fields(|fields| fields.difference(&touched));
        }
    }
    entries.retain(|e| !e.is_empty() || e.is(own));
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
    if !applied.items(MANAGED).is_empty() {
        return Err(PatchError::BadRequest("metadata.managedFields must be nil".into()));
    }
    fits(ty, applied)?;
    let mut entries = read_all(live);
    entries.iter_mut().for_each(Entry::look);
    let live_bare = without_managed(live);
    if entries.is_empty() && live.has("metadata.uid") {
        entries.push(before_first(ty, &live_bare, writer));
    }
    let mut own = Entry::new(writer, true);
    let applied_bare = without_managed(applied);
    own.fields = typed::fields(ty, &applied_bare).difference(unowned()).without(&reset_set(writer));
    let last = entries.iter().position(|e| e.is(&own)).map(|i| entries.remove(i));
    let merged = typed::merge(ty, &live_bare, &applied_bare);
    entries.push(own.clone());
    let mut result = prune(ty, merged, &entries, last.as_ref());
    let change = typed::compare(ty, &live_bare, &result);
    let before = last_applied(live, writer);
    let leave = match force {
        true => Leave::Forced,
        false => {
            Leave::Of(before.as_ref().map(|before| unchanged(ty, before, &live_bare)).unwrap_or_default())
        }
    };
    settle(&mut entries, &own, &change, &leave)?;
    if let Some(last) = &last
        && change.is_same()
        && last.fields == own.fields
        && last.api_version == own.api_version
        && let Some(entry) = entries.iter_mut().find(|e| e.is(&own))
    {
        entry.time = last.time;
        entry.kept = None;
    }
    let managed = write_all(entries, Form::of(ty));
    follow_last_applied(&mut result, applied, writer);
    set(&mut result, MANAGED, managed);
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
fn before_first<'a>(ty: Type<'_>, live: &'a Value, writer: &Writer<'a>) -> Entry<'a> {
    let mut entry = Entry::new(&Writer { manager: BEFORE, subresource: "", ..*writer }, false);
    entry.fields = typed::compare(ty, &NOTHING, live).added.difference(unowned());
    entry
}

/// The set with the named fields on the way to what it has.
fn named<'a>(ty: Type<'_>, set: &Set<'a>) -> Set<'a> {
    set.with_named(ty, &|ty: Type<'_>, step: &Step<'_>| ty.follow(step))
}

/// Removes what the manager applied last time and does not apply now, unless somebody else owns it.
fn prune(ty: Type<'_>, merged: Value, entries: &[Entry<'_>], last: Option<&Entry<'_>>) -> Value {
    let Some(last) = last.filter(|l| !l.fields.is_empty()) else { return merged };
    let owned = entries.iter().fold(Set::default(), |all, e| all.union(e.fields.clone()));
    let before = named(ty, &last.fields);
    let all = named(ty, &typed::fields(ty, &merged));
    let pruned = typed::remove(ty, &merged, &before);
    let kept = named(ty, &typed::fields(ty, &pruned)).union(named(ty, &owned));
    let pruned = typed::remove(ty, &merged, &all.clone().difference(&kept));
    let gone = all.difference(&named(ty, &typed::fields(ty, &pruned)));
    typed::remove(ty, &merged, &gone.intersection(&before))
}

/// What kubectl applied itself before it lets the server apply: it is not in conflict with itself. As its annotation says
/// it, in the version of the object.
fn last_applied(live: &Value, writer: &Writer<'_>) -> Option<Value> {
    if writer.manager != "kubectl" {
        return None;
    }
    let text = live.at("metadata.annotations").key(LAST_APPLIED).as_str()?;
    let config: Value = serde_json::from_str(text).ok()?;
    (config.text("apiVersion") == writer.api_version).then_some(config)
}

/// Fields of a configuration that the live object has as they are there.
fn unchanged<'a>(ty: Type<'_>, config: &'a Value, live: &Value) -> Set<'a> {
    if !typed::faults(ty, config).is_empty() {
        return Set::default();
    }
    let change = typed::compare(ty, config, live);
    let changed = change.modified.union(change.added).union(change.removed);
    typed::fields(ty, config).difference(&changed)
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
    let sent = remove(new, MANAGED);
    let managed = updated(ty, live, new, sent.as_ref(), writer);
    set(new, MANAGED, managed);
}

/// The list behind an update, of which `sent` is what the client knew of it.
fn updated(
    ty: Type<'_>,
    live: Option<&Value>,
    new: &Value,
    sent: Option<&Value>,
    writer: &Writer<'_>,
) -> Value {
    let mut entries = match (sent.and_then(Value::as_array), live) {
        (Some(list), _) if list.is_empty() || list == &[json!({})] => return Value::Null,
        (Some(list), Some(live)) if is_record_of(list, live) => read_all(live),
        (Some(list), _) => list.iter().map(Entry::read).collect(),
        (None, Some(live)) => read_all(live),
        (None, None) => Vec::new(),
    };
    if live.is_some() && entries.is_empty() {
        return Value::Null;
    }
    // The record of the live object seems to be removed, but nobody owns it.
    let change = typed::compare(ty, live.unwrap_or(&NOTHING), new);
    let own = Entry::new(writer, false);
    // Forced: an update owns what it changes.
    let settled = settle(&mut entries, &own, &change, &Leave::Forced);
    debug_assert!(settled.is_ok(), "a forced change has no conflicts");
    let typed::Comparison { added, modified, removed } = change;
    let taken = modified.union(added).difference(unowned()).without(&reset_set(writer));
    match entries.iter_mut().find(|e| e.is(&own)) {
        Some(entry) => {
            if !taken.is_empty() {
                entry.time = own.time;
            }
            if !taken.is_empty() || entry.owns_of(&removed) {
                entry.look();
                entry.change_fields(|fields| fields.difference(&removed).union(taken));
            }
        }
        None => entries.push(Entry { fields: taken, ..own }),
    }
    cap(&mut entries);
    write_all(entries, Form::of(ty))
}

/// Whether the list is the object's record of owners, in either form.
fn is_record_of(list: &[Value], object: &Value) -> bool {
    let own = object.items(MANAGED);
    let is_same = |one: &Value, own: &Value| {
        let shown = |entry: &Value| {
            let fields = entry.at("fieldsV1");
            fields.as_str().map_or_else(|| fields.to_string(), str::to_owned)
        };
        let is_same_field = |(key, value): (&String, &Value)| key == "fieldsV1" || own.key(key) == value;
        let fields = (one.as_object(), own.as_object());
        fields.0.map(Map::len) == fields.1.map(Map::len)
            && fields.0.into_iter().flatten().all(is_same_field)
            && shown(one) == shown(own)
    };
    list.len() == own.len() && list.iter().zip(own).all(|(one, own)| is_same(one, own))
}

/// Puts the old times back when nothing but them differs, so that a write that changes nothing stays one. Call it on
/// the object as it would be stored, after `prepare_*`.
pub fn keep_times(new: &mut Value, old: &Value) {
    fn bare(object: &Value) -> Vec<Entry<'_>> {
        let mut entries = read_all(object);
        for entry in &mut entries {
            entry.look();
            (entry.time, entry.kept) = ("", None);
        }
        entries
    }
    if new.at(MANAGED) != old.at(MANAGED) && is_same_without_managed(new, old) && bare(new) == bare(old) {
        set(new, MANAGED, old.at(MANAGED).clone());
    }
}

/// Folds the oldest update entries into one when there are too many.
fn cap(entries: &mut Vec<Entry<'_>>) {
    let updates = |entries: &[Entry<'_>]| entries.iter().filter(|e| !e.applied && !e.is_empty()).count();
    while updates(entries) > MAX_UPDATE_MANAGERS {
        entries.iter_mut().for_each(Entry::look);
        let oldest = |skip: Option<usize>, entries: &[Entry<'_>]| {
            let candidates = entries.iter().enumerate().filter(|(i, e)| !e.applied && Some(*i) != skip);
            candidates.min_by_key(|(_, e)| e.time).map(|(i, _)| i)
        };
        let Some(first) = oldest(None, entries) else { return };
        let Some(second) = oldest(Some(first), entries) else { return };
        let folded = std::mem::take(&mut entries[first].fields);
        let target = &mut entries[second];
        target.change_fields(|fields| fields.union(folded));
        target.manager = ANCIENT;
        target.subresource = "";
        entries.remove(first);
    }
}

#[cfg(test)]
mod tests;
