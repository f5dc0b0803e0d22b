//! Strict decoding: unknown fields and values of the wrong type, in the words of Go's decoder.
//!
//! The struct in a type error is the innermost one, the path holds struct fields only (no indexes, no map keys):
//! `json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container`. Paths of
//! unknown fields do hold them: `spec.containers[0].imagee`. [`check`] finds faults in the order of the tree (keys
//! sorted), [`check_document`] in the order of the text.

use super::{FieldInfo, MessageId, Shape, Special, Type};
use crate::codec::{
    Decoded, Digest, MAX_STRICT_BYTES, canonical_quantity, decode_base64, json_type, paths_in_order,
};
use crate::time;
use serde_json::{Map, Value};

/// Upstream reports at most this many faults of one body.
const MAX_FAULTS: usize = 100;

/// What does not fit the schema.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SchemaReport {
    /// Paths of fields that the message does not have.
    pub unknown_fields: Vec<String>,
    /// Go's texts; the first is the one that upstream reports (with 400).
    pub type_errors: Vec<String>,
    /// Where each of `type_errors` stands.
    type_error_paths: Vec<String>,
    /// Bytes of all these paths.
    noted: usize,
}

/// What strict decoding of a document finds, in upstream's words and in the order of its text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DocumentReport {
    /// `unknown field "…"`, `duplicate field "…"`: the `Warning:` headers of `fieldValidation=Warn`; joined by `, `
    /// the message behind `strict decoding error: ` of `fieldValidation=Strict`.
    pub strict_errors: Vec<String>,
    /// Refused with 400 whatever the field validation; upstream reports the first.
    pub type_errors: Vec<String>,
}

impl SchemaReport {
    pub fn is_clean(&self) -> bool {
        self.unknown_fields.is_empty() && self.type_errors.is_empty()
    }
}

/// Compares a tree with a message.
pub fn check(message: MessageId, value: &Value) -> SchemaReport {
    let mut checker = Checker { report: SchemaReport::default(), path: String::new(), fields: Vec::new() };
    match value {
        Value::Object(map) => checker.object(message, map),
        other => {
            let text = format!(
                "json: cannot unmarshal {} into Go value of type {}",
                json_type(other),
                message.go_type()
            );
            checker.fault(text);
        }
    }
    checker.report
}

/// [`check`] for a decoded document: its duplicate fields are reported too, and the faults stand in the order of
/// `text` when that is JSON (otherwise sorted by path, as upstream's YAML reader sorts).
pub fn check_document(message: MessageId, document: &Decoded, text: &[u8]) -> DocumentReport {
    let report = check(message, &document.value);
    if report.is_clean() && document.duplicates.is_empty() {
        return DocumentReport::default();
    }
    let order = paths_in_order(text);
    let place = |path: &str, nth: usize| {
        let path = Digest::of(path);
        let places = || order.iter().enumerate().filter(|(_, own)| **own == path).map(|(i, _)| i);
        places().nth(nth).or_else(|| places().next_back()).unwrap_or(usize::MAX)
    };
    let unknown = report.unknown_fields.iter().map(|p| (place(p, 0), format!("unknown field {p:?}")));
    let known_twice = document.duplicates.iter().filter(|p| !report.unknown_fields.contains(p));
    let twice = known_twice.map(|p| (place(p, 1), format!("duplicate field {p:?}")));
    let typed = report.type_error_paths.iter().map(|p| place(p, 0)).zip(report.type_errors.iter().cloned());
    DocumentReport { strict_errors: in_order(unknown.chain(twice)), type_errors: in_order(typed) }
}

fn in_order(faults: impl Iterator<Item = (usize, String)>) -> Vec<String> {
    let mut faults: Vec<_> = faults.collect();
    faults.sort_by_key(|(place, _)| *place);
    faults.into_iter().map(|(_, text)| text).take(MAX_FAULTS).collect()
}

/// Removes the fields that the message does not have, at every depth.
pub fn prune_unknown(message: MessageId, value: &mut Value) {
    let Value::Object(map) = value else { return };
    if message.special.is_some() {
        return;
    }
    map.retain(|key, _| message.knows(key));
    for (key, value) in map {
        let Some((field, inner)) = message.field(key).and_then(|f| Some((f, f.message()?))) else { continue };
        match (field.shape, value) {
            (Shape::List, Value::Array(items)) => items.iter_mut().for_each(|i| prune_unknown(inner, i)),
            (Shape::Map, Value::Object(items)) => items.values_mut().for_each(|i| prune_unknown(inner, i)),
            (Shape::Single, value) => prune_unknown(inner, value),
            _ => {}
        }
    }
}

struct Checker {
    report: SchemaReport,
    /// Path with indexes and keys.
    path: String,
    /// Struct fields only.
    fields: Vec<&'static str>,
}

/// Where a value stands, for the error text.
#[derive(Clone, Copy)]
struct At {
    owner: MessageId,
    field: &'static FieldInfo,
}

impl Checker {
    fn fault(&mut self, text: String) {
        if self.report.type_errors.len() < MAX_FAULTS && self.report.noted < MAX_STRICT_BYTES {
            self.report.noted += self.path.len() + text.len();
            self.report.type_errors.push(text);
            self.report.type_error_paths.push(self.path.clone());
        }
    }

    /// `found` as Go names it: `string`, `number 1.5`, `object`.
    fn wrong(&mut self, at: At, found: &str, go_type: &str) {
        let (owner, path) = (at.owner.go_name(), self.fields.join("."));
        self.fault(format!(
            "json: cannot unmarshal {found} into Go struct field {owner}.{path} of type {go_type}"
        ));
    }

    fn below(&mut self, step: &str, check: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        if !self.path.is_empty() && !step.starts_with('[') {
            self.path.push('.');
        }
        self.path.push_str(step);
        check(self);
        self.path.truncate(length);
    }

    fn object(&mut self, message: MessageId, map: &Map<String, Value>) {
        for (key, value) in map {
            match message.field(key) {
                Some(field) => {
                    let depth = self.fields.len();
                    embedded_names(message, key, &mut self.fields);
                    self.fields.push(field.name);
                    self.below(key, |c| c.field(At { owner: message, field }, value));
                    self.fields.truncate(depth);
                }
                None if message.knows(key) => self.type_meta(message, key, value),
                None if self.report.unknown_fields.len() < MAX_FAULTS
                    && self.report.noted < MAX_STRICT_BYTES =>
                {
                    self.report.noted += self.path.len() + key.len();
                    let dot = if self.path.is_empty() { "" } else { "." };
                    self.report.unknown_fields.push(format!("{}{dot}{key}", self.path));
                }
                None => {}
            }
        }
    }

    fn type_meta(&mut self, message: MessageId, key: &str, value: &Value) {
        if !value.is_string() && !value.is_null() {
            let path = self.fields.iter().chain([&"TypeMeta", &key]).copied().collect::<Vec<_>>().join(".");
            let (found, owner) = (json_type(value), message.go_name());
            self.fault(format!(
                "json: cannot unmarshal {found} into Go struct field {owner}.{path} of type string"
            ));
        }
    }

    fn field(&mut self, at: At, value: &Value) {
        match (at.field.shape, value) {
            (_, Value::Null) => {}
            (Shape::Single, value) => self.value(at, value),
            (Shape::List, Value::Array(items)) => {
                for (index, item) in items.iter().enumerate() {
                    self.below(&format!("[{index}]"), |c| c.value(at, item));
                }
            }
            (Shape::Map, Value::Object(items)) => {
                for (key, item) in items {
                    self.below(key, |c| c.value(at, item));
                }
            }
            (_, other) => self.wrong(at, json_type(other), at.field.go_type),
        }
    }

    fn value(&mut self, at: At, value: &Value) {
        let go_type = || element_type(at.field);
        match (at.field.ty, value) {
            (_, Value::Null)
            | (Type::Bool, Value::Bool(_))
            | (Type::String, Value::String(_))
            | (Type::Double, Value::Number(_)) => {}
            (Type::Int32 | Type::Int64, Value::Number(number)) => {
                let fits = |n: i64| matches!(at.field.ty, Type::Int64) || i32::try_from(n).is_ok();
                if !number.as_i64().is_some_and(fits) {
                    self.wrong(at, &format!("number {number}"), go_type());
                }
            }
            (Type::Bytes, Value::String(text)) => {
                if let Err(fault) = decode_base64(text) {
                    self.fault(fault);
                }
            }
            (Type::Message(message), value) => match message.special {
                Some(special) => self.special(at, message, special, value),
                None => match value {
                    Value::Object(map) => self.object(message, map),
                    other => self.wrong(at, json_type(other), message.go_type()),
                },
            },
            (_, other) => self.wrong(at, json_type(other), go_type()),
        }
    }

    fn special(&mut self, at: At, message: MessageId, special: Special, value: &Value) {
        match (special, value) {
            (Special::Quantity, value) => {
                if let Err(fault) = canonical_quantity(value) {
                    self.fault(fault.to_string());
                }
            }
            (Special::Time, Value::String(text)) => {
                if let Err(fault) = time::parse(text) {
                    self.fault(fault.to_string());
                }
            }
            (Special::MicroTime, Value::String(text)) => {
                if let Err(fault) = time::parse_micro(text) {
                    self.fault(fault.to_string());
                }
            }
            (Special::Duration, Value::String(text)) => {
                if time::parse_duration(text).is_none() {
                    self.fault(format!("time: invalid duration {}", crate::field::quote(text)));
                }
            }
            (Special::Time | Special::MicroTime | Special::Duration, other) => {
                self.wrong(at, json_type(other), "string");
            }
            (Special::IntOrString, Value::String(_)) => {}
            (Special::IntOrString, Value::Number(number)) => {
                if number.as_i64().is_none_or(|n| i32::try_from(n).is_err()) {
                    self.wrong(at, &format!("number {number}"), "int32");
                }
            }
            (Special::IntOrString, other) => self.wrong(at, json_type(other), "int32"),
            (Special::Strings, Value::Array(items)) => {
                for item in items.iter().filter(|i| !i.is_string() && !i.is_null()) {
                    self.wrong(at, json_type(item), "string");
                }
            }
            (Special::Strings, other) => self.wrong(at, json_type(other), message.go_type()),
            (Special::PropsOrBool, Value::Bool(_) | Value::Object(_)) => {}
            (Special::PropsOrBool, _) => self.fault("boolean or JSON schema expected".into()),
            // Their own decoders do not look for unknown fields.
            (Special::Raw | Special::PropsOrArray | Special::PropsOrStrings, _) => {}
        }
    }
}

/// The embedded structs on the way to a field, outermost first: Go's decoder names them in the path.
fn embedded_names(message: MessageId, name: &str, names: &mut Vec<&'static str>) {
    if message.fields.iter().any(|f| f.name == name) {
        return;
    }
    if let Some(inner) = message.embedded().find(|m| m.field(name).is_some()) {
        names.push(inner.go_name());
        embedded_names(inner, name, names);
    }
}

/// The Go type of an element or value: `string` of `[]string` and of `map[string]string`.
fn element_type(field: &FieldInfo) -> &'static str {
    let element = match field.shape {
        Shape::Single => return field.go_type,
        Shape::List => field.go_type.strip_prefix("[]"),
        Shape::Map => field.go_type.split_once(']').map(|(_, value)| value),
    };
    // Named lists and maps (v1.ResourceList) do not say; their elements are messages or strings.
    element.unwrap_or("string")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::lookup;
    use serde_json::json;

    fn pod(value: Value) -> SchemaReport {
        check(lookup("", "v1", "Pod").unwrap(), &value)
    }

    #[test]
    fn unknown_fields_have_their_whole_path() {
        let report = pod(json!({
            "apiVersion": "v1", "kind": "Pod", "x": 1, "metadata": {"labels": {"any": "thing"}},
            "spec": {"containers": [{"name": "a", "imagee": "b"}], "volumes": [{"name": "v", "emptyDir": {}, "y": 1}]},
        }));
        assert_eq!(report.unknown_fields, ["spec.containers[0].imagee", "spec.volumes[0].y", "x"]);
        assert!(report.type_errors.is_empty());
    }

    #[test]
    fn type_errors_have_gos_words() {
        for (value, expected) in [
            (
                json!({"spec": {"containers": "x"}}),
                "json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container",
            ),
            (
                json!({"spec": {"containers": [{"name": 1}]}}),
                "json: cannot unmarshal number into Go struct field Container.spec.containers.name of type string",
            ),
            (
                json!({"spec": {"priority": 1.5}}),
                "json: cannot unmarshal number 1.5 into Go struct field PodSpec.spec.priority of type int32",
            ),
            (
                json!({"metadata": {"labels": {"a": true}}}),
                "json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.labels of type string",
            ),
            (
                json!({"metadata": {"labels": []}}),
                "json: cannot unmarshal array into Go struct field ObjectMeta.metadata.labels of type map[string]string",
            ),
            (
                json!({"spec": {"restartPolicy": {}}}),
                "json: cannot unmarshal object into Go struct field PodSpec.spec.restartPolicy of type v1.RestartPolicy",
            ),
            (
                json!({"spec": "x"}),
                "json: cannot unmarshal string into Go struct field Pod.spec of type v1.PodSpec",
            ),
            (json!([]), "json: cannot unmarshal array into Go value of type v1.Pod"),
            (
                json!({"spec": {"containers": [{"resources": {"limits": {"cpu": "lots"}}}]}}),
                "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
            ),
        ] {
            assert_eq!(pod(value.clone()).type_errors, [expected], "{value}");
        }
    }

    #[test]
    fn nulls_fit_everywhere() {
        assert!(pod(json!({"spec": {"containers": null, "nodeName": null}, "metadata": null})).is_clean());
    }

    #[test]
    fn pruning_keeps_what_is_known() {
        let mut value =
            json!({"kind": "Pod", "x": 1, "spec": {"y": 1, "containers": [{"name": "a", "z": 1}]}});
        prune_unknown(lookup("", "v1", "Pod").unwrap(), &mut value);
        assert_eq!(value, json!({"kind": "Pod", "spec": {"containers": [{"name": "a"}]}}));
    }
}
