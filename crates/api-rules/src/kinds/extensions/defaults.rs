//! Defaults of a structural schema: each has to be what its own schema allows (upstream:
//! `apiextensions-apiserver/pkg/apiserver/schema/defaulting`).

use crate::custom::{check_default, check_surrounding};
use crate::errors::{At, Errors};
use crate::look::Look;
use api_types::field::FieldError;
use serde_json::{Map, Value, json};

/// How a default becomes a part of the object that it stands in.
enum Step<'a> {
    Field(&'a str),
    Item,
}

struct Walk<'a, 'e> {
    /// Whether defaults may have no unknown fields.
    pruned: bool,
    errors: &'e mut Errors,
    /// From the nearest object to where the walk is.
    steps: Vec<Step<'a>>,
}

/// Errors of the defaults of a whole schema.
pub(super) fn check(schema: &Value, pruned: bool, at: At<'_>, errors: &mut Errors) {
    Walk { pruned, errors, steps: Vec::new() }.walk(schema, true, false, at);
}

/// Whether any default of a schema has unknown fields.
pub(super) fn are_unpruned(schema: &Value) -> bool {
    let mut errors = Errors::new();
    check(schema, true, At::root("x"), &mut errors);
    errors.done().iter().any(|error| error.detail == "must not have unknown fields")
}

impl<'a> Walk<'a, '_> {
    /// `is_root`: whether the schema is that of a whole object. `names`: whether it is of what names an object.
    fn walk(&mut self, schema: &'a Value, is_root: bool, names: bool, at: At<'_>) {
        let is_object = is_root || schema.flag("x-kubernetes-embedded-resource");
        let outer = is_object.then(|| std::mem::take(&mut self.steps));
        let names = names && !is_object;
        if let Some(value) = schema.get("default").filter(|value| !value.is_null()) {
            self.default(schema, value, names, at.at("default"));
        }
        if schema.at("items").is_object() {
            self.steps.push(Step::Item);
            self.walk(schema.at("items"), false, names, at.at("items"));
            self.steps.pop();
        }
        let properties = at.at("properties");
        for (name, property) in schema.entries("properties") {
            let names = names || is_object && ["metadata", "apiVersion", "kind"].contains(&name);
            self.steps.push(Step::Field(name));
            self.walk(property, false, names, properties.key(name));
            self.steps.pop();
        }
        if let Some(outer) = outer {
            self.steps = outer;
        }
    }

    fn default(&mut self, schema: &Value, value: &Value, names: bool, at: At<'_>) {
        let found = if names { check_surrounding(&self.surround(value)) } else { Vec::new() };
        if found.is_empty() {
            check_default(schema, value, self.pruned && !names, at, self.errors);
        } else {
            self.errors.invalid(
                at,
                value.clone(),
                format!("must result in valid metadata: {}", joined(&found)),
            );
        }
    }

    /// The object that a default makes where it stands.
    fn surround(&self, value: &Value) -> Map<String, Value> {
        let inside = self.steps.iter().rev().fold(value.clone(), |inner, step| match step {
            Step::Field(name) => json!({*name: inner}),
            Step::Item => json!([inner]),
        });
        let mut object = match inside {
            Value::Object(object) => object,
            _ => Map::new(),
        };
        object.entry("apiVersion").or_insert_with(|| json!("validation/v1"));
        object.entry("kind").or_insert_with(|| json!("Validation"));
        object
    }
}

/// Several errors as one, each text once.
fn joined(errors: &[FieldError]) -> String {
    let mut texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    texts.dedup();
    match texts.as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}
