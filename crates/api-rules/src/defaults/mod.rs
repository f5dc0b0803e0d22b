//! Version defaulting: one walker driven by `data/defaults.txt`, with the conditional rules hand-written in
//! `special`. Idempotent: a second pass changes nothing.
//!
//! Runs after decoding a request and again on objects read from the store, since defaults may have been added
//! since they were written.

mod special;

use crate::look::Look;
use foldhash::HashMap;
use serde_json::{Map, Value};
use std::sync::LazyLock;

/// One step of a path in the table.
#[derive(Debug, Clone, PartialEq)]
enum Step {
    /// A field; `make` when a missing parent is a struct that defaulting brings into being.
    Field { name: String, make: bool },
    /// Every element of the list.
    Each,
}

enum Operation {
    Unset(Value),
    Empty(Value),
    Zero(Value),
    Is(String),
    Milli,
    Call(fn(&mut Value)),
}

struct Rule {
    path: Vec<Step>,
    operation: Operation,
}

struct Tables {
    /// By `apiVersion`, then kind.
    kinds: HashMap<(String, String), Vec<Rule>>,
    types: HashMap<String, Vec<Rule>>,
}

static TABLES: LazyLock<Tables> = LazyLock::new(|| parse(include_str!("../../data/defaults.txt")));

/// Applies the version defaults of the object's kind; a kind without defaults is left as it is.
pub fn apply(object: &mut Value) {
    let key = (object.text("apiVersion").to_owned(), object.text("kind").to_owned());
    if let Some(rules) = TABLES.kinds.get(&key) {
        run(rules, object);
    }
}

/// Applies the defaults of a type that several kinds share (`PodSpec`, `Claim`, ...).
pub fn apply_type(name: &str, value: &mut Value) {
    if let Some(rules) = TABLES.types.get(name) {
        run(rules, value);
    }
}

fn run(rules: &[Rule], value: &mut Value) {
    for rule in rules {
        walk(&rule.path, &rule.operation, value);
    }
}

fn walk(path: &[Step], operation: &Operation, here: &mut Value) {
    match path {
        [] => on_value(operation, here),
        [Step::Each, rest @ ..] => {
            for item in here.as_array_mut().into_iter().flatten() {
                walk(rest, operation, item);
            }
        }
        [Step::Field { name, .. }] if operation.sets() => {
            if let Some(object) = here.as_object_mut() {
                on_field(operation, object, name);
            }
        }
        [Step::Field { name, make }, rest @ ..] => {
            let Some(object) = here.as_object_mut() else { return };
            if *make && object.get(name).is_none_or(Value::is_null) {
                let mut made = Value::Object(Map::new());
                walk(rest, operation, &mut made);
                if made.as_object().is_some_and(|o| !o.is_empty()) {
                    object.insert(name.clone(), made);
                }
            } else if let Some(next) = object.get_mut(name) {
                walk(rest, operation, next);
            }
        }
    }
}

impl Operation {
    fn sets(&self) -> bool {
        matches!(self, Operation::Unset(_) | Operation::Empty(_) | Operation::Zero(_))
    }
}

fn on_field(operation: &Operation, object: &mut Map<String, Value>, name: &str) {
    let present = object.get(name).unwrap_or(&Value::Null);
    let default = match operation {
        Operation::Unset(v) if present.is_null() => v,
        Operation::Empty(v) if is_empty(present) => v,
        Operation::Zero(v) if present.is_null() || present.as_f64() == Some(0.0) => v,
        _ => return,
    };
    object.insert(name.to_owned(), default.clone());
}

fn on_value(operation: &Operation, value: &mut Value) {
    if !value.is_object() {
        return;
    }
    match operation {
        Operation::Is(name) => apply_type(name, value),
        Operation::Milli => special::round_to_milli(value),
        Operation::Call(f) => f(value),
        _ => {}
    }
}

pub(crate) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
        _ => false,
    }
}

fn parse(text: &str) -> Tables {
    let mut tables = Tables { kinds: HashMap::default(), types: HashMap::default() };
    let mut heads: Vec<(Option<String>, String)> = Vec::new();
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        if let Some(head) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            heads = parse_head(head);
            continue;
        }
        for (version, name) in &heads {
            let rule = parse_rule(line);
            match version {
                Some(v) => tables.kinds.entry((v.clone(), name.clone())).or_default().push(rule),
                None => tables.types.entry(name.clone()).or_default().push(rule),
            }
        }
    }
    tables
}

fn parse_head(head: &str) -> Vec<(Option<String>, String)> {
    match head.split_once(' ') {
        None => vec![(None, head.to_owned())],
        Some((version, kinds)) => {
            kinds.split(',').map(|kind| (Some(version.to_owned()), kind.trim().to_owned())).collect()
        }
    }
}

fn parse_rule(line: &str) -> Rule {
    let mut words = line.splitn(3, ' ');
    let path = words.next().map(parse_path).unwrap_or_default();
    let operation = words.next().unwrap_or_default();
    let argument = words.next().unwrap_or_default();
    let value = || serde_json::from_str(argument).expect("invariant: the defaults table holds JSON values");
    let operation = match operation {
        "unset" => Operation::Unset(value()),
        "empty" => Operation::Empty(value()),
        "zero" => Operation::Zero(value()),
        "is" => Operation::Is(argument.to_owned()),
        "milli" => Operation::Milli,
        "call" => {
            Operation::Call(special::find(argument).expect("invariant: the defaults table names known rules"))
        }
        other => unreachable!("unknown operation {other} in the defaults table"),
    };
    Rule { path, operation }
}

fn parse_path(text: &str) -> Vec<Step> {
    let mut path = Vec::new();
    for step in text.split('.').filter(|s| !s.is_empty()) {
        let each = step.ends_with("[]");
        let name = step.trim_end_matches("[]");
        let make = name.ends_with('+');
        path.push(Step::Field { name: name.trim_end_matches('+').to_owned(), make });
        if each {
            path.push(Step::Each);
        }
    }
    path
}

#[cfg(test)]
mod tests;
