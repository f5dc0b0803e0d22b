//! What makes a schema structural: every value has one type that is told outside of `allOf`, `anyOf`, `oneOf` and `not`,
//! which only narrow it (upstream: `apiextensions-apiserver/pkg/apiserver/schema`; KEP-1693).

use std::sync::LazyLock;

use crate::custom::pattern;
use crate::errors::{At, Errors};
use crate::look::Look;
use api_types::field::FieldError;
use serde_json::{Value, json};

const EMBEDDED: &str = "x-kubernetes-embedded-resource";
const INT_OR_STRING: &str = "x-kubernetes-int-or-string";
const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";

/// What may say beside `x-kubernetes-int-or-string` which types there are.
static EITHER: LazyLock<Value> = LazyLock::new(|| json!([{"type": "integer"}, {"type": "string"}]));

/// Where a schema stands.
#[derive(Clone, Copy, PartialEq)]
enum Level {
    Root,
    Item,
    Field,
}

/// Errors of a whole schema, ordered by their texts.
pub(super) fn check(schema: &Value, at: At<'_>) -> Vec<FieldError> {
    let mut errors = Errors::new();
    invariants(schema, Level::Root, at, &mut errors);
    narrowed(schema, schema, at, at, &mut errors);
    let mut errors = errors.done();
    errors.sort_by_cached_key(ToString::to_string);
    errors
}

fn invariants(schema: &Value, level: Level, at: At<'_>, errors: &mut Errors) {
    let items = schema.at("items");
    if schema.text("type") == "array" && !items.is_object() {
        errors.required(at.at("items"), "must be specified");
    }
    if items.is_object() {
        invariants(items, Level::Item, at.at("items"), errors);
    }
    let properties = at.at("properties");
    for (name, property) in schema.entries("properties") {
        invariants(property, Level::Field, properties.key(name), errors);
    }
    let more = schema.at("additionalProperties");
    if !more.is_null() && level == Level::Root {
        errors.forbidden(at.at("additionalProperties"), "must not be used at the root");
    }
    if more.is_object() {
        invariants(more, Level::Field, at.at("additionalProperties"), errors);
    }
    if schema.flag(INT_OR_STRING) {
        for other in [PRESERVE, EMBEDDED].into_iter().filter(|other| schema.flag(other)) {
            errors.invalid(at.at(other), true, "must be false if x-kubernetes-int-or-string is true");
        }
    }
    let any_of = schema.at("anyOf") == &*EITHER;
    let all_of = schema.items("allOf").first().is_some_and(|first| first.at("anyOf") == &*EITHER);
    validations(schema, any_of, all_of, at, errors);
    types(schema, level, at, errors);
    embedded(schema, level, at, errors);
}

fn types(schema: &Value, level: Level, at: At<'_>, errors: &mut Errors) {
    let (kind, at) = (schema.text("type"), at.at("type"));
    match kind {
        "object" => return,
        "" if schema.flag(EMBEDDED) => {
            errors.required(at, "must be object if x-kubernetes-embedded-resource is true");
        }
        other if schema.flag(EMBEDDED) => {
            errors.invalid(at, other, "must be object if x-kubernetes-embedded-resource is true");
        }
        "" if !schema.flag(INT_OR_STRING) && !schema.flag(PRESERVE) => {
            let text = match level {
                Level::Root => "must not be empty at the root",
                Level::Item => "must not be empty for specified array items",
                Level::Field => "must not be empty for specified object fields",
            };
            errors.required(at, text);
        }
        _ => {}
    }
    if level == Level::Root && !kind.is_empty() {
        errors.invalid(at, kind, "must be object at the root");
    }
}

/// What holds of whole objects: those at the root, and embedded ones.
fn embedded(schema: &Value, level: Level, at: At<'_>, errors: &mut Errors) {
    let is_embedded = schema.flag(EMBEDDED);
    if is_embedded && schema.has("additionalProperties") {
        let text = "must not be used if x-kubernetes-embedded-resource is set";
        errors.forbidden(at.at("additionalProperties"), text);
    }
    let (own, list) = (schema.at("properties"), at.at("properties"));
    let is_whole = level == Level::Root || is_embedded;
    for name in ["kind", "apiVersion"] {
        if let Some(field) = own.get(name).filter(|field| is_whole && field.text("type") != "string") {
            errors.invalid(list.key(name).at("type"), field.text("type"), "must be string");
        }
    }
    if let Some(metadata) = own.get("metadata") {
        let at = list.key("metadata");
        if is_whole && metadata.text("type") != "object" {
            errors.invalid(at.at("type"), metadata.text("type"), "must be object");
        }
        if level == Level::Root && !only_names(metadata) {
            let text = "must not specify anything other than name and generateName, but metadata is implicitly specified";
            errors.forbidden(at, text);
        }
    }
    if is_embedded && !schema.flag(PRESERVE) && schema.entries("properties").next().is_none() {
        let text = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        errors.required(list, text);
    }
}

/// Whether a schema of metadata says nothing but what names may be.
fn only_names(metadata: &Value) -> bool {
    let names = |value: &Value| value.entries("").all(|(name, _)| matches!(name, "name" | "generateName"));
    let is_unset = |value: &Value| match value {
        Value::Bool(flag) => !flag,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    };
    metadata.entries("").all(|(field, value)| match field {
        "type" | "default" => true,
        "properties" => names(value),
        "additionalProperties" => false,
        _ => is_unset(value),
    })
}

/// What narrows the values of a schema. `any_of`, `all_of`: whether `anyOf`, or that of the first of `allOf`, tells the
/// types of [`EITHER`].
fn validations(schema: &Value, any_of: bool, all_of: bool, at: At<'_>, errors: &mut Errors) {
    for (name, skipped) in [("anyOf", any_of), ("allOf", false), ("oneOf", false)] {
        let list = at.at(name);
        for (i, part) in schema.items(name).iter().enumerate().filter(|_| !skipped) {
            nested(part, name == "allOf" && all_of && i == 0, list.index(i), errors);
        }
    }
    if schema.at("not").is_object() {
        nested(schema.at("not"), false, at.at("not"), errors);
    }
    let text = schema.text("pattern");
    if let Some(why) = pattern::problem(text) {
        let why = format!("must be a valid regular expression, but isn't: {why}");
        errors.invalid(at.at("pattern"), text, why);
    }
}

/// What only narrows may not say what there is.
fn nested(schema: &Value, any_of: bool, at: At<'_>, errors: &mut Errors) {
    const FORBIDDEN: [(&str, &str); 11] = [
        ("type", "must be empty to be structural"),
        ("default", "must be undefined to be structural"),
        ("title", "must be empty to be structural"),
        ("description", "must be empty to be structural"),
        ("nullable", "must be false to be structural"),
        (PRESERVE, "must be false to be structural"),
        (EMBEDDED, "must be false to be structural"),
        (INT_OR_STRING, "must be false to be structural"),
        ("x-kubernetes-list-map-keys", "must be empty to be structural"),
        ("x-kubernetes-list-type", "must be undefined to be structural"),
        ("x-kubernetes-map-type", "must be undefined to be structural"),
    ];
    validations(schema, any_of, false, at, errors);
    if schema.at("items").is_object() {
        nested(schema.at("items"), false, at.at("items"), errors);
    }
    let properties = at.at("properties");
    for (name, property) in schema.entries("properties") {
        nested(property, false, properties.key(name), errors);
    }
    for (name, text) in FORBIDDEN {
        let is_set = match schema.at(name) {
            Value::Null => false,
            _ if name == "default" => true,
            Value::Bool(flag) => *flag,
            Value::String(text) => !text.is_empty() || name.ends_with("-type"),
            Value::Array(list) => !list.is_empty(),
            _ => true,
        };
        if is_set {
            errors.forbidden(at.at(name), text);
        }
    }
    if !matches!(schema.at("additionalProperties"), Value::Null | Value::Bool(false)) {
        errors.forbidden(at.at("additionalProperties"), "must be undefined to be structural");
    }
    if !schema.items("x-kubernetes-validations").is_empty() {
        errors.forbidden(at.at("x-kubernetes-validations"), "must be empty to be structural");
    }
    if schema.at("properties").get("metadata").is_some() {
        errors.forbidden(properties.key("metadata"), "must not be specified in a nested context");
    }
}

/// What narrows at the root speaks of what is there outside of it. `own`: the schema at `at`.
fn narrowed(schema: &Value, own: &Value, at: At<'_>, from: At<'_>, errors: &mut Errors) {
    if schema.at("not").is_object() {
        counterpart(schema.at("not"), Some(own), at, from.at("not"), errors);
    }
    for name in ["allOf", "anyOf", "oneOf"] {
        let list = from.at(name);
        for (i, part) in schema.items(name).iter().enumerate() {
            counterpart(part, Some(own), at, list.index(i), errors);
        }
    }
}

fn counterpart(schema: &Value, own: Option<&Value>, at: At<'_>, from: At<'_>, errors: &mut Errors) {
    let Some(own) = own else {
        return errors.required(at, format!("because it is defined in {from}"));
    };
    narrowed(schema, own, at, from, errors);
    if schema.at("items").is_object() {
        let items = own.get("items").filter(|items| items.is_object());
        counterpart(schema.at("items"), items, at.at("items"), from.at("items"), errors);
    }
    let (to, from) = (at.at("properties"), from.at("properties"));
    for (name, property) in schema.entries("properties") {
        let own = own.at("properties").get(name);
        counterpart(property, own, to.key(name), from.key(name), errors);
    }
}
