//! Table columns and cells of every kind, as `kubectl get` prints them (upstream:
//! `pkg/printers/internalversion/printers.go`).
//!
//! All columns are always sent; the priority is for the client. Most cells are data (`Cell`); the rest are
//! functions in the files of this folder.

mod admin;
mod cluster;
pub mod duration;
mod lifecycle;
mod pod;
mod workloads;

use crate::index::Index;
use crate::look::Look;
use api_types::selector::LabelSelector;
use serde_json::{Value, json};
use std::sync::LazyLock;

/// One column of a kind's table (`metav1.TableColumnDefinition`).
#[derive(Debug)]
pub struct Column {
    /// Title as kubectl prints it (in capitals).
    pub name: &'static str,
    /// OpenAPI type of the cells.
    pub type_: &'static str,
    /// OpenAPI format; `name` marks the primary column.
    pub format: &'static str,
    /// 0 is always shown, others only in the wide view.
    pub priority: i32,
    /// What the column shows.
    pub description: &'static str,
    pub(crate) cell: Cell,
}

/// How a cell is computed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cell {
    Name,
    Age,
    Created,
    /// Text (or number as text) at a path, the fallback when missing or empty.
    Text(&'static str, &'static str),
    Int(&'static str),
    Bool(&'static str, bool),
    /// Number of elements or entries.
    Count(&'static str),
    /// Strings of a list, with separator and fallback.
    Join(&'static str, &'static str, &'static str),
    /// A map as sorted `k=v`, `<none>` when empty.
    Labels(&'static str),
    /// A label selector object; the fallback when empty.
    Selector(&'static str, &'static str),
    /// One field of each object in a list, joined with commas.
    Each(&'static str, &'static str),
    /// Human age of a time at the path, with a fallback.
    Since(&'static str, &'static str),
    Of(fn(&Value, i64) -> Value),
}

const fn text(name: &'static str, cell: Cell) -> Column {
    Column { name, type_: "string", format: "", priority: 0, description: "", cell }
}

const fn wide(name: &'static str, cell: Cell) -> Column {
    Column { name, type_: "string", format: "", priority: 1, description: "", cell }
}

const fn number(name: &'static str, path: &'static str) -> Column {
    Column { name, type_: "integer", format: "", priority: 0, description: "", cell: Cell::Int(path) }
}

const NAME: Column = Column {
    name: "Name",
    type_: "string",
    format: "name",
    priority: 0,
    description: "Name must be unique within a namespace.",
    cell: Cell::Name,
};
const AGE: Column = Column {
    name: "Age",
    type_: "string",
    format: "",
    priority: 0,
    description: "Time since the object was created.",
    cell: Cell::Age,
};
const CREATED_AT: Column = Column {
    name: "Created At",
    type_: "date",
    format: "",
    priority: 0,
    description: "When the object was created, in UTC.",
    cell: Cell::Created,
};

/// Columns of a kind without a printer of its own.
pub static FALLBACK: &[Column] = &[NAME, CREATED_AT];

type KindColumns = (&'static str, &'static str, &'static [Column]);

static KINDS: LazyLock<Index<2, &'static [Column]>> = LazyLock::new(|| {
    [workloads::KINDS, cluster::KINDS, admin::KINDS, lifecycle::KINDS]
        .into_iter()
        .flatten()
        .map(|(group, kind, columns)| ([*group, *kind], *columns))
        .collect()
});

/// The columns of a kind; every version of a group prints alike.
pub fn columns(group: &str, kind: &str) -> &'static [Column] {
    KINDS.get([group, kind]).copied().unwrap_or(FALLBACK)
}

/// The cells of one object under `columns`; `now` in milliseconds since the epoch.
pub fn cells(columns: &[Column], object: &Value, now: i64) -> Vec<Value> {
    columns.iter().map(|column| cell(column.cell, object, now)).collect()
}

/// Conditions of a table row: a finished pod's row carries one, so that clients can grey it out.
pub fn row_conditions(object: &Value) -> Vec<Value> {
    if object.text("kind") != "Pod" {
        return Vec::new();
    }
    let (reason, message) = match object.text("status.phase") {
        "Succeeded" => ("Succeeded", "The pod has completed successfully."),
        "Failed" => ("Failed", "The pod failed."),
        _ => return Vec::new(),
    };
    vec![json!({"type": "Completed", "status": "True", "reason": reason, "message": message})]
}

fn cell(cell: Cell, object: &Value, now: i64) -> Value {
    let shown: String = match cell {
        Cell::Name => object.text("metadata.name").to_owned(),
        Cell::Age => duration::since(object.text("metadata.creationTimestamp"), now, "<unknown>"),
        Cell::Created => object.text("metadata.creationTimestamp").to_owned(),
        Cell::Text(path, none) => plain(object.at(path), none),
        Cell::Int(path) => return Value::from(object.int(path)),
        Cell::Bool(path, none) => return Value::from(object.at(path).as_bool().unwrap_or(none)),
        Cell::Count(path) => return Value::from(count(object.at(path))),
        Cell::Join(path, separator, none) => or(joined(object.items(path), separator), none),
        Cell::Labels(path) => or(labels(object.at(path)), "<none>"),
        Cell::Selector(path, none) => or(selector_text(object.at(path)), none),
        Cell::Each(path, field) => each(object.items(path), field),
        Cell::Since(path, none) => duration::since(object.text(path), now, none),
        Cell::Of(f) => return f(object, now),
    };
    Value::String(shown)
}

/// A label selector object as kubectl's `-l` takes it; empty when it selects everything or nothing.
fn selector_text(selector: &Value) -> String {
    LabelSelector::from_value(selector).map_or_else(|_| "<error>".to_owned(), |s| s.to_string())
}

fn count(value: &Value) -> usize {
    value.as_array().map_or_else(|| value.as_object().map_or(0, |o| o.len()), Vec::len)
}

fn or(text: String, none: &str) -> String {
    if text.is_empty() { none.to_owned() } else { text }
}

/// A scalar as text.
fn plain(value: &Value, none: &str) -> String {
    match value {
        Value::Null => none.to_owned(),
        Value::String(s) if s.is_empty() => none.to_owned(),
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}

fn joined(items: &[Value], separator: &str) -> String {
    items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(separator)
}

fn each(items: &[Value], field: &str) -> String {
    items.iter().map(|item| item.text(field)).collect::<Vec<_>>().join(",")
}

fn labels(map: &Value) -> String {
    let mut pairs: Vec<String> =
        map.entries("").map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or(""))).collect();
    pairs.sort_unstable();
    pairs.join(",")
}

/// The first condition of that type.
fn condition<'a>(object: &'a Value, path: &str, type_: &str) -> Option<&'a Value> {
    object.items(path).iter().find(|c| c.text("type") == type_)
}

fn is_true(object: &Value, type_: &str) -> bool {
    condition(object, "status.conditions", type_).is_some_and(|c| c.text("status") == "True")
}

/// The first `shown` of a list joined with commas, and how many more there are.
fn first_few(all: &[String], shown: usize, separator: &str) -> String {
    let mut out = all[..all.len().min(shown)].join(separator);
    if all.len() > shown {
        out.push_str(&format!(" + {} more...", all.len() - shown));
    }
    out
}

#[cfg(test)]
mod tests;
