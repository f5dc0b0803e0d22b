//! Custom resources under their structural schema (`openAPIV3Schema`): pruning, defaults, validation with CEL rules
//! (upstream: `apiextensions-apiserver/pkg/apiserver/schema` and `kube-openapi/pkg/validation`; KEP-2876).
//!
//! Build a [`CustomSchema`] once per version of a definition and share it.

mod check;
pub(crate) mod costs;
mod declared;
mod embedded;
mod estimate;
mod formats;
mod json_path;
mod kind;
pub(crate) mod pattern;
mod rule_names;
mod rules;
pub(crate) mod schemas;

pub(crate) use formats::is_known as is_known_format;
pub use json_path::JsonPath;
pub use kind::{CREATION_TIMESTAMP, CustomRules, ScalePaths};
pub(crate) use rule_names::RESERVED;

use crate::errors::{At, Errors};
use crate::look::Look;
use api_types::MessageId;
use api_types::field::{ErrorType, FieldError};
use api_types::schema as tables;
use regex::Regex;
use rules::Rules;
use serde_json::{Map, Value};
use std::collections::HashMap;

/// Fields that every object has whatever its schema says.
const META: &[&str] = &["apiVersion", "kind", "metadata"];

/// Most bytes a compiled pattern may take.
const MAX_PATTERN_BYTES: usize = 1024 * 1024;

/// A schema with its patterns and CEL rules compiled.
#[derive(Debug)]
pub struct CustomSchema {
    /// Without what only people read.
    schema: Value,
    rules: Option<Rules>,
    patterns: Patterns,
}

type Patterns = HashMap<String, Regex>;

impl CustomSchema {
    /// Compiles an `openAPIV3Schema`. Patterns that are no regular expression are not checked, as upstream.
    pub fn new(mut schema: Value) -> CustomSchema {
        strip(&mut schema);
        let mut patterns = Patterns::new();
        collect_patterns(&schema, &mut patterns);
        CustomSchema { rules: Rules::new(&schema), patterns, schema }
    }

    /// The schema it was made of, without what only people read.
    pub fn schema(&self) -> &Value {
        &self.schema
    }

    /// [`prune`] with this schema.
    pub fn prune(&self, object: &mut Value) -> Vec<String> {
        prune(&self.schema, object)
    }

    /// [`default`] with this schema.
    pub fn default(&self, object: &mut Value) {
        default(&self.schema, object);
    }

    /// Errors of an object, and of the change from `old` where rules speak of it. CEL rules do not run on what has another
    /// shape than the schema says. What `old` had already is not held against the new object (KEP-4008).
    pub fn validate(&self, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let mut errors = Errors::new();
        check(&self.schema, object, At::root(""), &self.patterns, &mut errors);
        let mut errors = errors.done();
        let is_new = |error: &FieldError| {
            old.is_none_or(|old| !is_unchanged(&self.schema, object, old, blamed(error)))
        };
        errors.retain(is_new);
        let Some(rules) = &self.rules else { return errors };
        if errors.iter().any(blocks_rules) {
            let mut unchecked = Errors::new();
            unchecked.invalid(At::root(""), Value::Null, UNCHECKED);
            errors.append(&mut unchecked.done());
        } else {
            errors.extend(rules.validate(&self.schema, object, old).into_iter().filter(is_new));
        }
        errors
    }

    fn faults_of_default(&self, value: &Value) -> Vec<FieldError> {
        let mut errors = Errors::new();
        check(&self.schema, value, At::root(""), &self.patterns, &mut errors);
        let found = errors.done();
        let Some(rules) = self.rules.as_ref().filter(|_| found.is_empty()) else { return found };
        let found = rules.validate(&self.schema, value, Some(value));
        if found.is_empty() { rules.validate(&self.schema, value, None) } else { found }
    }
}

/// What is said when rules did not run.
const UNCHECKED: &str = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";

/// Whether rules could not count on the schema.
fn blocks_rules(error: &FieldError) -> bool {
    matches!(
        error.ty,
        ErrorType::NotSupported
            | ErrorType::Required
            | ErrorType::TooLong
            | ErrorType::TooMany
            | ErrorType::TypeInvalid
    )
}

/// Errors of a value that a schema gives where there is none: under the schema and its rules, once as a value that
/// stays, once as a new one. Unknown fields are errors if it has to be `pruned`.
pub(crate) fn check_default(schema: &Value, value: &Value, pruned: bool, at: At<'_>, errors: &mut Errors) {
    let unknown = || {
        let mut gone = Vec::new();
        let is_embedded = schema.flag("x-kubernetes-embedded-resource");
        prune_at(schema, &mut value.clone(), is_embedded, "", &mut gone);
        !gone.is_empty()
    };
    if pruned && unknown() {
        errors.invalid(at, value.clone(), "must not have unknown fields");
    }
    let mut found = Errors::new();
    embedded::check(schema, value, At::root(""), &mut found);
    if found.is_empty() {
        found.extend(CustomSchema::new(schema.clone()).faults_of_default(value));
    }
    errors.extend_below(at, found.done());
}

/// Errors of an object that stands for all that have a default in what names them: `apiVersion`, `kind`, `metadata`.
pub(crate) fn check_surrounding(object: &Map<String, Value>) -> Vec<FieldError> {
    let mut found = Errors::new();
    embedded::object(object, At::root(""), &mut found);
    found.done()
}

/// Drops what only people read: of a large definition it is most of the memory.
fn strip(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    for text in ["description", "title", "example", "externalDocs"] {
        map.remove(text);
    }
    for (key, part) in map {
        match (key.as_str(), part) {
            ("properties", Value::Object(properties)) => properties.values_mut().for_each(strip),
            ("allOf" | "anyOf" | "oneOf", Value::Array(parts)) => parts.iter_mut().for_each(strip),
            ("items" | "additionalProperties" | "not", part) => strip(part),
            _ => {}
        }
    }
}

fn collect_patterns(schema: &Value, patterns: &mut Patterns) {
    match schema {
        Value::Object(map) => {
            if let Some(Value::String(text)) = map.get("pattern")
                && !patterns.contains_key(text)
                && let Ok(regex) = regex::RegexBuilder::new(text).size_limit(MAX_PATTERN_BYTES).build()
            {
                patterns.insert(text.clone(), regex);
            }
            map.values().for_each(|child| collect_patterns(child, patterns));
        }
        Value::Array(items) => items.iter().for_each(|child| collect_patterns(child, patterns)),
        _ => {}
    }
}

/// The path of the value that an error is about: what lacks a field, or the value itself.
fn blamed(error: &FieldError) -> &str {
    match error.ty {
        ErrorType::Required => error.field.rfind(['.', '[']).map_or("", |at| &error.field[..at]),
        _ => &error.field,
    }
}

/// Whether the value at a path, or one that it is part of, is what it was. Elements of lists are told apart by their
/// keys; those of other lists cannot be.
fn is_unchanged(schema: &Value, new: &Value, old: &Value, path: &str) -> bool {
    let (mut schema, mut new, mut old) = (schema, new, old);
    for step in path.split(['.', '[']).filter(|s| !s.is_empty() && *s != "<nil>") {
        if new == old {
            return true;
        }
        let step = step.trim_end_matches(']');
        match (new, old) {
            (Value::Array(items), Value::Array(before)) => {
                let Some(item) = step.parse().ok().and_then(|i: usize| items.get(i)) else { return false };
                let keys = schema.items("x-kubernetes-list-map-keys");
                let same = |other: &&Value| {
                    keys.iter().filter_map(Value::as_str).all(|key| other.get(key) == item.get(key))
                };
                let Some(found) = before.iter().find(same).filter(|_| !keys.is_empty()) else { return false };
                (schema, new, old) = (schema.at("items"), item, found);
            }
            _ => {
                let name = step.trim_matches(['"', '\'']);
                let property = schema.at("properties").get(name);
                schema = property.unwrap_or_else(|| schema.at("additionalProperties"));
                let (Some(a), Some(b)) = (new.get(name), old.get(name)) else { return false };
                (new, old) = (a, b);
            }
        }
    }
    new == old
}

/// Removes what the schema does not name, and gives the paths of it (for strict and warning field validation).
pub fn prune(schema: &Value, object: &mut Value) -> Vec<String> {
    let mut gone = Vec::new();
    prune_at(schema, object, true, "", &mut gone);
    gone
}

fn keeps_unknown(schema: &Value) -> bool {
    schema.flag("x-kubernetes-preserve-unknown-fields")
}

fn prune_at(schema: &Value, value: &mut Value, embedded: bool, path: &str, gone: &mut Vec<String>) {
    match value {
        Value::Object(map) => prune_map(schema, map, embedded, path, gone),
        Value::Array(items) => {
            let inner = schema.at("items");
            for (i, item) in items.iter_mut().enumerate() {
                let embedded = inner.flag("x-kubernetes-embedded-resource");
                prune_at(inner, item, embedded, &format!("{path}[{i}]"), gone);
            }
        }
        _ => {}
    }
}

fn prune_map(
    schema: &Value,
    map: &mut Map<String, Value>,
    embedded: bool,
    path: &str,
    gone: &mut Vec<String>,
) {
    let (properties, more) = (schema.at("properties"), schema.at("additionalProperties"));
    let join = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    map.retain(|key, child| {
        let inner = properties.get(key).or(more.is_object().then_some(more));
        if embedded && META.contains(&key.as_str()) {
            if key == "metadata" {
                prune_metadata(child, &join(key), gone);
            }
            return true;
        }
        match inner {
            Some(inner) => {
                prune_at(inner, child, inner.flag("x-kubernetes-embedded-resource"), &join(key), gone);
                true
            }
            None if keeps_unknown(schema) || more == &Value::Bool(true) => true,
            None => {
                gone.push(join(key));
                false
            }
        }
    });
}

fn object_meta() -> Option<MessageId> {
    tables::by_name("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta")
}

/// Metadata has a shape of its own, whatever the schema says of it.
fn prune_metadata(metadata: &mut Value, path: &str, gone: &mut Vec<String>) {
    let Some(message) = object_meta() else { return };
    let unknown = tables::check(message, metadata).unknown_fields;
    if !unknown.is_empty() {
        gone.extend(unknown.iter().map(|field| format!("{path}.{field}")));
        tables::prune_unknown(message, metadata);
    }
}

/// Fills defaults; a null that may not be null is dropped, and defaulted where there is a default.
pub fn default(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, inner) in schema.entries("properties") {
                if map.get(key).is_some_and(Value::is_null) && !inner.flag("nullable") {
                    map.remove(key);
                }
                if let Some(wanted) = inner.get("default").filter(|_| !map.contains_key(key)) {
                    map.insert(key.to_owned(), wanted.clone());
                }
            }
            let (properties, more) = (schema.at("properties"), schema.at("additionalProperties"));
            for (key, child) in map.iter_mut() {
                if let Some(inner) = properties.get(key).or(more.is_object().then_some(more)) {
                    default(inner, child);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| default(schema.at("items"), item)),
        _ => {}
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn is_of(wanted: &str, value: &Value) -> bool {
    match wanted {
        "" => true,
        "number" => value.is_number(),
        "integer" => value.as_i64().is_some() || value.as_f64().is_some_and(|f| f.fract() == 0.0),
        other => type_name(value) == other,
    }
}

fn check(schema: &Value, value: &Value, at: At<'_>, patterns: &Patterns, errors: &mut Errors) {
    if value.is_null() && schema.flag("nullable") {
        return;
    }
    if schema.flag("x-kubernetes-int-or-string") {
        if !value.is_string() && value.as_i64().is_none() {
            wrong_type("integer,string", value, at, errors);
        }
    } else if !is_of(schema.text("type"), value) {
        wrong_type(schema.text("type"), value, at, errors);
        return;
    }
    let allowed = schema.items("enum");
    if !allowed.is_empty() && !allowed.contains(value) {
        let names: Vec<String> =
            allowed.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        errors.not_supported(at, value.clone(), &names);
    }
    match value {
        Value::Object(map) => object_checks(schema, map, at, patterns, errors),
        Value::Array(items) => list_checks(schema, items, at, patterns, errors),
        Value::String(text) => text_checks(schema, text, at, patterns, errors),
        Value::Number(_) => number_checks(schema, value, at, errors),
        _ => {}
    }
    combined(schema, value, at, patterns, errors);
}

fn wrong_type(wanted: &str, value: &Value, at: At<'_>, errors: &mut Errors) {
    let found = type_name(value);
    let text = format!("{at} in body must be of type {wanted}: {found:?}");
    errors.type_invalid(at, found, text);
}

fn object_checks(
    schema: &Value,
    map: &Map<String, Value>,
    at: At<'_>,
    patterns: &Patterns,
    errors: &mut Errors,
) {
    for name in schema.texts("required") {
        if !map.contains_key(name) {
            errors.required(at.at(name), "");
        }
    }
    if schema.flag("x-kubernetes-embedded-resource") {
        embedded::object(map, at, errors);
    }
    let count = map.len();
    if let Some(least) = schema.int_opt("minProperties").filter(|n| (count as i64) < *n) {
        errors.invalid(
            at,
            Value::Object(map.clone()),
            format!("{at} in body should have at least {least} properties"),
        );
    }
    if let Some(most) = schema.int_opt("maxProperties").filter(|n| (count as i64) > *n) {
        errors.too_many(at, count, usize::try_from(most).unwrap_or(0));
    }
    let (properties, more) = (schema.at("properties"), schema.at("additionalProperties"));
    for (key, child) in map {
        if let Some(inner) = properties.get(key) {
            check(inner, child, at.at(key), patterns, errors);
        } else if more.is_object() {
            check(more, child, at.at(key), patterns, errors);
        }
    }
}

fn list_checks(schema: &Value, items: &[Value], at: At<'_>, patterns: &Patterns, errors: &mut Errors) {
    if let Some(least) = schema.int_opt("minItems").filter(|n| (items.len() as i64) < *n) {
        errors.invalid(
            at,
            Value::Array(items.to_vec()),
            format!("{at} in body should have at least {least} items"),
        );
    }
    if let Some(most) = schema.int_opt("maxItems").filter(|n| (items.len() as i64) > *n) {
        errors.too_many(at, items.len(), usize::try_from(most).unwrap_or(0));
    }
    let inner = schema.at("items");
    for (i, item) in items.iter().enumerate() {
        check(inner, item, at.index(i), patterns, errors);
    }
    unique(schema, items, at, errors);
}

/// Elements of sets, and keys of maps, are there once.
fn unique(schema: &Value, items: &[Value], at: At<'_>, errors: &mut Errors) {
    let keys: Vec<&str> = schema.texts("x-kubernetes-list-map-keys").collect();
    let same = |a: &Value, b: &Value| match schema.text("x-kubernetes-list-type") {
        "set" => a == b,
        "map" => keys.iter().all(|key| a.get(*key) == b.get(*key)),
        _ => false,
    };
    for (i, item) in items.iter().enumerate() {
        if items[..i].iter().any(|other| same(other, item)) {
            let shown: Value = if keys.is_empty() {
                item.clone()
            } else {
                Value::Object(keys.iter().map(|k| ((*k).to_owned(), item.key(k).clone())).collect())
            };
            errors.duplicate(at.index(i), shown);
        }
    }
}

fn text_checks(schema: &Value, text: &str, at: At<'_>, patterns: &Patterns, errors: &mut Errors) {
    let count = text.chars().count();
    if let Some(least) = schema.int_opt("minLength").filter(|n| (count as i64) < *n) {
        errors.invalid(at, text, format!("{at} in body should be at least {least} chars long"));
    }
    if let Some(most) = schema.int_opt("maxLength").filter(|n| (count as i64) > *n) {
        errors.too_long(at, usize::try_from(most).unwrap_or(0));
    }
    let pattern = schema.text("pattern");
    if patterns.get(pattern).is_some_and(|regex| !regex.is_match(text)) {
        errors.invalid(at, text, format!("{at} in body should match '{pattern}'"));
    }
    let form = schema.text("format");
    if !formats::has(form, text) {
        errors.invalid(at, text, format!("{at} in body must be of type {form}: {text:?}"));
    }
}

fn number_checks(schema: &Value, value: &Value, at: At<'_>, errors: &mut Errors) {
    let number = value.as_f64().unwrap_or(0.0);
    let bound = |name: &str| schema.at(name).as_f64();
    if let Some(least) = bound("minimum") {
        let open = schema.flag("exclusiveMinimum");
        if number < least || (open && number <= least) {
            let word = if open { "greater than" } else { "greater than or equal to" };
            errors.invalid(at, value.clone(), format!("{at} in body should be {word} {least}"));
        }
    }
    if let Some(most) = bound("maximum") {
        let open = schema.flag("exclusiveMaximum");
        if number > most || (open && number >= most) {
            let word = if open { "less than" } else { "less than or equal to" };
            errors.invalid(at, value.clone(), format!("{at} in body should be {word} {most}"));
        }
    }
    if let Some(step) = bound("multipleOf").filter(|step| *step > 0.0)
        && (number / step).fract() != 0.0
    {
        errors.invalid(at, value.clone(), format!("{at} in body should be a multiple of {step}"));
    }
}

fn combined(schema: &Value, value: &Value, at: At<'_>, patterns: &Patterns, errors: &mut Errors) {
    let good = |part: &Value| {
        let mut found = Errors::new();
        check(part, value, at, patterns, &mut found);
        found.is_empty()
    };
    for part in schema.items("allOf") {
        check(part, value, at, patterns, errors);
    }
    let any = schema.items("anyOf");
    if !any.is_empty() && !any.iter().any(good) {
        errors.invalid(at, value.clone(), format!("{at} in body must validate at least one schema (anyOf)"));
    }
    let one = schema.items("oneOf");
    if !one.is_empty() {
        let matching = one.iter().filter(|part| good(part)).count();
        if matching != 1 {
            let why = if matching == 0 {
                "Found none valid".to_owned()
            } else {
                format!("Found {matching} valid alternatives")
            };
            let text = format!("{at} in body must validate one and only one schema (oneOf). {why}");
            errors.invalid(at, value.clone(), text);
        }
    }
    if schema.at("not").is_object() && good(schema.at("not")) {
        errors.invalid(at, value.clone(), format!("{at} in body must not validate the schema (not)"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema(spec: Value) -> Value {
        json!({"type": "object", "properties": {"spec": {"type": "object", "properties": spec, "required": ["size"]}}})
    }

    fn faults(properties: Value, spec: Value) -> Vec<String> {
        CustomSchema::new(schema(properties))
            .validate(&json!({"spec": spec}), None)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn pruning_keeps_what_is_named() {
        let schema = json!({"type": "object", "properties": {
            "spec": {"type": "object", "properties": {"a": {"type": "string"}}},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"x": {"type": "string"}}}},
            "pod": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"spec": {"type": "object"}}}}});
        let mut object = json!({"apiVersion": "x/v1", "kind": "K", "metadata": {"name": "n"}, "spec": {"a": "1", "b": 2},
            "free": {"q": 1}, "map": {"k": {"x": "1", "y": 2}}, "pod": {"kind": "Pod", "spec": {}, "odd": 1}, "nope": 1});
        let mut gone = prune(&schema, &mut object);
        gone.sort();
        assert_eq!(gone, ["map.k.y", "nope", "pod.odd", "spec.b"]);
        assert_eq!(object["free"], json!({"q": 1}));
        assert_eq!(object["metadata"], json!({"name": "n"}));
        assert_eq!(object["pod"], json!({"kind": "Pod", "spec": {}}));
    }

    #[test]
    fn defaults_go_where_nothing_stands() {
        let schema = schema(
            json!({"size": {"type": "integer", "default": 3}, "deep": {"type": "object", "default": {},
            "properties": {"x": {"type": "string", "default": "y"}}}}),
        );
        let mut object = json!({"spec": {"size": null}});
        default(&schema, &mut object);
        assert_eq!(object, json!({"spec": {"size": 3, "deep": {"x": "y"}}}));
        default(&schema, &mut object);
        assert_eq!(object["spec"]["size"], 3);
    }

    #[test]
    fn faults_read_as_upstream() {
        let size = json!({"size": {"type": "integer", "minimum": 1}, "color": {"type": "string", "enum": ["red", "blue"], "maxLength": 4},
            "name": {"type": "string", "pattern": "^[a-z]+$"}});
        assert!(faults(size.clone(), json!({"size": 4, "color": "red", "name": "abc"})).is_empty());
        assert_eq!(faults(size.clone(), json!({})), ["spec.size: Required value"]);
        assert_eq!(
            faults(size.clone(), json!({"size": "x"})),
            ["spec.size: Invalid value: \"string\": spec.size in body must be of type integer: \"string\""]
        );
        assert_eq!(
            faults(size.clone(), json!({"size": 0})),
            ["spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1"]
        );
        assert_eq!(
            faults(size.clone(), json!({"size": 1, "color": "pink"})),
            ["spec.color: Unsupported value: \"pink\": supported values: \"red\", \"blue\""]
        );
        assert_eq!(
            faults(size, json!({"size": 1, "name": "A"})),
            ["spec.name: Invalid value: \"A\": spec.name in body should match '^[a-z]+$'"]
        );
    }

    #[test]
    fn what_was_wrong_before_may_stay() {
        let schema = CustomSchema::new(schema(
            json!({"size": {"type": "integer", "minimum": 1}, "other": {"type": "string"},
            "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "properties": {"name": {"type": "string"}, "n": {"type": "integer", "maximum": 3}}}}}),
        ));
        let of = |size: i64, n: i64| json!({"spec": {"size": size, "list": [{"name": "b", "n": 1}, {"name": "a", "n": n}]}});
        let moved = json!({"spec": {"size": 0, "other": "x", "list": [{"name": "a", "n": 9}]}});
        assert!(schema.validate(&moved, Some(&of(0, 9))).is_empty());
        assert_eq!(schema.validate(&moved, Some(&of(1, 9))).len(), 1);
        assert_eq!(schema.validate(&moved, Some(&of(0, 8))).len(), 1);
        assert_eq!(schema.validate(&moved, None).len(), 2);
    }

    #[test]
    fn embedded_objects_have_metadata_of_a_known_shape() {
        let schema = json!({"type": "object", "properties": {"pod": {"type": "object", "x-kubernetes-embedded-resource": true}}});
        let mut object =
            json!({"metadata": {"name": "a", "x": 1}, "pod": {"metadata": {"labels": {"a": "b"}, "y": 2}}});
        let mut gone = prune(&schema, &mut object);
        gone.sort();
        assert_eq!(gone, ["metadata.x", "pod.metadata.y"]);
        let found = CustomSchema::new(schema).validate(&object, None);
        assert_eq!(found[0].to_string(), "pod.apiVersion: Required value");
    }

    #[test]
    fn rules_in_cel() {
        let schema = CustomSchema::new(json!({"type": "object", "properties": {"spec": {"type": "object",
            "x-kubernetes-validations": [{"rule": "self.min <= self.max", "message": "min must not be above max"},
                {"rule": "self.max >= oldSelf.max", "message": "max may not fall", "reason": "FieldValueForbidden"}],
            "properties": {"min": {"type": "integer"}, "max": {"type": "integer"}}}}}));
        let of = |min: i64, max: i64| json!({"spec": {"min": min, "max": max}});
        assert!(schema.validate(&of(1, 2), None).is_empty());
        let found = schema.validate(&of(3, 2), None);
        assert_eq!(found[0].to_string(), "spec: Invalid value: min must not be above max");
        let found = schema.validate(&of(1, 2), Some(&of(1, 5)));
        assert_eq!(found[0].to_string(), "spec: Forbidden: max may not fall");
    }

    #[test]
    fn rules_run_beside_errors_that_leave_the_shape() {
        let schema = CustomSchema::new(json!({"type": "object",
            "x-kubernetes-validations": [{"rule": "self.min <= self.max", "message": "turned round"}],
            "properties": {"min": {"type": "integer", "minimum": 2}, "max": {"type": "integer"}}, "required": ["max"]}));
        let of = |object: Value| {
            let found = schema.validate(&object, None);
            found.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            of(json!({"min": 1, "max": 0})),
            [
                "min: Invalid value: 1: min in body should be greater than or equal to 2",
                "<nil>: Invalid value: turned round"
            ]
        );
        assert_eq!(
            of(json!({"min": 3})),
            ["max: Required value".to_owned(), format!("<nil>: Invalid value: null: {UNCHECKED}")]
        );
    }

    #[test]
    fn lists_and_combinations() {
        let list = json!({"size": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
            "items": {"type": "object", "properties": {"name": {"type": "string"}}}}});
        assert_eq!(
            faults(list, json!({"size": [{"name": "a"}, {"name": "a"}]})),
            ["spec.size[1]: Duplicate value: {\"name\":\"a\"}"]
        );
        let one = json!({"size": {"oneOf": [{"type": "string"}, {"type": "integer"}]}});
        assert!(faults(one.clone(), json!({"size": "x"})).is_empty());
        assert_eq!(faults(one, json!({"size": true})).len(), 1);
        let either = json!({"size": {"x-kubernetes-int-or-string": true}});
        assert!(faults(either.clone(), json!({"size": "50%"})).is_empty());
        assert_eq!(faults(either, json!({"size": true})).len(), 1);
    }
}
