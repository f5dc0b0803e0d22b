//! The schema of a version: what upstream's own kind of JSON schema allows (upstream:
//! `apiextensions-apiserver/pkg/apis/apiextensions/validation`).

use super::{defaults, field_path, structural};
use crate::custom::{costs, schemas};
use crate::errors::{At, Errors};
use crate::look::{Look, is_zero};
use serde_json::Value;

const TYPES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];
/// Parts of JSON schema that there are not.
const UNSUPPORTED: &[&str] =
    &["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"];
/// Fields of the root when the status is a subresource, by upstream's names for them.
const AT_ROOT: [(&str, &str); 22] = [
    ("Description", "description"),
    ("Type", "type"),
    ("Format", "format"),
    ("Title", "title"),
    ("Maximum", "maximum"),
    ("ExclusiveMaximum", "exclusiveMaximum"),
    ("Minimum", "minimum"),
    ("ExclusiveMinimum", "exclusiveMinimum"),
    ("MaxLength", "maxLength"),
    ("MinLength", "minLength"),
    ("Pattern", "pattern"),
    ("MaxItems", "maxItems"),
    ("MinItems", "minItems"),
    ("UniqueItems", "uniqueItems"),
    ("MultipleOf", "multipleOf"),
    ("Required", "required"),
    ("Items", "items"),
    ("Properties", "properties"),
    ("ExternalDocs", "externalDocs"),
    ("Example", "example"),
    ("XPreserveUnknownFields", "x-kubernetes-preserve-unknown-fields"),
    ("XValidations", "x-kubernetes-validations"),
];
const REASONS: &[&str] =
    &["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];

/// What is asked of the schemas of a definition; an update need not mend what was wrong before.
#[derive(Clone, Copy)]
pub(super) struct Demands {
    pub known_types: bool,
    pub pruned_defaults: bool,
    pub atomic_sets: bool,
    pub sound_keys: bool,
}

impl Demands {
    pub const ALL: Self =
        Self { known_types: true, pruned_defaults: true, atomic_sets: true, sound_keys: true };

    /// What is asked of the successor of a definition.
    pub fn after(old: &Value) -> Self {
        let unpruned = |version: &Value| {
            let schema = version.at("schema.openAPIV3Schema");
            let has_default = |part: &Value| part.has("default");
            schema.is_object()
                && schemas::has(schema, &mut { has_default })
                && schemas::unconvertible(schema).is_none()
                && structural::check(schema, At::root("x")).is_empty()
                && defaults::are_unpruned(schema)
        };
        Self {
            known_types: !schemas::of_definition(old, |part| {
                let kind = part.text("type");
                !kind.is_empty() && !TYPES.contains(&kind)
            }),
            pruned_defaults: !old.items("spec.versions").iter().any(unpruned),
            atomic_sets: !schemas::of_definition(old, |part| loose_item(part).is_some()),
            sound_keys: !schemas::of_definition(old, |part| {
                let mut errors = Errors::new();
                keys_are_there(part, At::root("x"), &mut errors);
                !errors.is_empty()
            }),
        }
    }
}

/// A text that may be unset.
fn marker<'a>(schema: &'a Value, name: &str) -> Option<&'a str> {
    schema.at(name).as_str()
}

/// The schema of a version. `has_status`: the status is a subresource. `unchanged`: it is what it was.
pub(super) fn check(
    schema: &Value,
    has_status: bool,
    demands: Demands,
    unchanged: bool,
    at: At<'_>,
    errors: &mut Errors,
) {
    let mut found = Errors::new();
    if has_status {
        root_beside_status(schema, at, &mut found);
    }
    if schema.flag("nullable") {
        found.forbidden(at.at("nullable"), "nullable cannot be true at the root");
    }
    let unconvertible = schemas::unconvertible(schema);
    let mut sound = unconvertible.is_none();
    if sound {
        let mut faults = Errors::new();
        faults.extend(structural::check(schema, at));
        if faults.is_empty() {
            defaults::check(schema, demands.pruned_defaults, at, &mut faults);
        }
        sound = faults.is_empty();
        found.extend(faults.done());
    }
    let mut own = Errors::new();
    let walk = Walk { demands, forbidden_default: None, in_metadata: false };
    walk.schema(schema, at, true, &mut own);
    let own = own.done();
    let mut rules = Errors::new();
    if sound {
        costs::check(schema, at, unchanged, &own, &mut rules);
    }
    found.extend(own);
    found.extend(rules.done());
    if let Some(text) = unconvertible.filter(|_| found.is_empty()) {
        found.invalid(at, "", text);
    }
    errors.extend(found.done());
}

/// The schema of the status is cut out of the root's properties, and must mean there what it meant.
fn root_beside_status(schema: &Value, at: At<'_>, errors: &mut Errors) {
    let is_set = |name: &str| match schema.at(name) {
        Value::Null => false,
        _ if name == "default" => true,
        Value::Bool(flag) => *flag || name == "additionalProperties",
        Value::String(text) => !text.is_empty() || name.ends_with("-type"),
        Value::Array(list) => !list.is_empty(),
        _ => true,
    };
    let is_odd = |name: &str| is_set(name) && !AT_ROOT.iter().any(|(_, own)| *own == name);
    let kind = schema.text("type");
    // Upstream looks at the type before it looks at most other fields, and stops at the first fault.
    let is_first = ["id", "$schema", "$ref"].into_iter().any(is_odd);
    if !is_first && !kind.is_empty() && kind != "object" {
        let text = "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        errors.invalid(at.at("type"), kind, text);
    } else if schema.entries("").any(|(name, _)| is_odd(name)) {
        let names: Vec<&str> = AT_ROOT.iter().map(|(name, _)| *name).collect();
        let text = format!(
            "only [{}] fields are allowed at the root of the schema if the status subresource is enabled",
            names.join(" ")
        );
        errors.invalid(at, schema.clone(), text);
    }
}

/// What is known of the place of a schema.
#[derive(Clone)]
struct Walk {
    demands: Demands,
    /// Why there may be no default.
    forbidden_default: Option<String>,
    /// Whether it is of what names an object.
    in_metadata: bool,
}

impl Walk {
    fn schema(&self, schema: &Value, at: At<'_>, is_root: bool, errors: &mut Errors) {
        self.fields(schema, at, errors);
        if schema.flag("uniqueItems") {
            let text = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
            errors.forbidden(at.at("uniqueItems"), text);
        }
        self.parts(schema, at, is_root, errors);
        if schema.at("x-kubernetes-preserve-unknown-fields") == &Value::Bool(false) {
            let text = "must be true or undefined";
            errors.invalid(at.at("x-kubernetes-preserve-unknown-fields"), false, text);
        }
        map_type(schema, at, errors);
        list_type(schema, self.demands.atomic_sets, at, errors);
        if marker(schema, "x-kubernetes-list-type") == Some("map") {
            keyed(schema, at, errors);
        }
        if self.demands.sound_keys {
            keys_are_there(schema, at, errors);
        }
        rules(schema, at, errors);
    }

    /// Fields that there may not be.
    fn fields(&self, schema: &Value, at: At<'_>, errors: &mut Errors) {
        let kind = schema.text("type");
        if self.demands.known_types && !kind.is_empty() && !TYPES.contains(&kind) {
            errors.not_supported(at.at("type"), kind, TYPES);
        }
        if let Some(why) = self.forbidden_default.as_ref().filter(|_| schema.has("default")) {
            errors.forbidden(at.at("default"), format!("must not be set {why}"));
        }
        for field in UNSUPPORTED.iter().filter(|field| schema.get(**field).is_some_and(|v| !is_zero(v))) {
            errors.forbidden(at.at(field), format!("{field} is not supported"));
        }
        if kind == "null" {
            let text = "type cannot be set to null, use nullable as an alternative";
            errors.forbidden(at.at("type"), text);
        }
        if schema.at("items").is_array() {
            errors.forbidden(at.at("items"), "items must be a schema object and not an array");
        }
        if self.in_metadata && schema.flag("x-kubernetes-embedded-resource") {
            let text = "must not be used inside of resource meta";
            errors.forbidden(at.at("x-kubernetes-embedded-resource"), text);
        }
    }

    fn parts(&self, schema: &Value, at: At<'_>, is_root: bool, errors: &mut Errors) {
        let more = schema.at("additionalProperties");
        let has_properties = schema.entries("properties").next().is_some();
        if has_properties && !matches!(more, Value::Null | Value::Bool(true)) {
            let text = "additionalProperties and properties are mutual exclusive";
            errors.forbidden(at.at("additionalProperties"), text);
        }
        if more.is_object() {
            let mut inner = self.clone();
            if self.in_metadata {
                inner.forbidden_default =
                    Some("inside additionalProperties applying to object metadata".to_owned());
            }
            inner.schema(more, at.at("additionalProperties"), false, errors);
        }
        let is_object = is_root || schema.flag("x-kubernetes-embedded-resource");
        let properties = at.at("properties");
        for (name, property) in schema.entries("properties") {
            let mut inner = self.clone();
            if is_object && ["metadata", "kind", "apiVersion"].contains(&name) {
                inner.in_metadata = true;
                if is_root {
                    inner.forbidden_default = Some(format!("in top-level {name}"));
                }
            }
            inner.schema(property, properties.key(name), false, errors);
        }
        if schema.at("not").is_object() {
            self.schema(schema.at("not"), at.at("not"), false, errors);
        }
        for name in ["allOf", "oneOf", "anyOf"] {
            let list = at.at(name);
            for (i, part) in schema.items(name).iter().enumerate() {
                self.schema(part, list.index(i), false, errors);
            }
        }
        if schema.at("items").is_object() {
            self.schema(schema.at("items"), at.at("items"), false, errors);
        }
    }
}

fn needs_type(schema: &Value, wanted: &str, name: &str, at: At<'_>, errors: &mut Errors) {
    let text = format!("must be {wanted} if {name} is specified");
    match schema.text("type") {
        "" => errors.required(at.at("type"), text),
        other if other != wanted => errors.invalid(at.at("type"), other, text),
        _ => {}
    }
}

fn map_type(schema: &Value, at: At<'_>, errors: &mut Errors) {
    const NAME: &str = "x-kubernetes-map-type";
    let Some(kind) = marker(schema, NAME) else { return };
    needs_type(schema, "object", NAME, at, errors);
    if !["atomic", "granular"].contains(&kind) {
        errors.not_supported(at.at(NAME), kind, &["atomic", "granular"]);
    }
}

/// The field of the elements of a set that says that they may be merged, and what it says.
fn loose_item(schema: &Value) -> Option<(&'static str, Value)> {
    let items = schema.at("items");
    let list = marker(items, "x-kubernetes-list-type");
    match items.text("type") {
        _ if marker(schema, "x-kubernetes-list-type") != Some("set") => None,
        "array" if list.is_some_and(|kind| kind != "atomic") => Some(("x-kubernetes-list-type", list.into())),
        // As upstream, which shows the type of a list here too.
        "object" if marker(items, "x-kubernetes-map-type") != Some("atomic") => {
            Some(("x-kubernetes-map-type", list.into()))
        }
        _ => None,
    }
}

fn list_type(schema: &Value, atomic_sets: bool, at: At<'_>, errors: &mut Errors) {
    const NAME: &str = "x-kubernetes-list-type";
    let kind = marker(schema, NAME);
    if kind.is_some() && schema.text("type") != "array" {
        needs_type(schema, "array", NAME, at, errors);
    } else if let Some((field, value)) = loose_item(schema).filter(|_| atomic_sets) {
        let text = "must be atomic as item of a list with x-kubernetes-list-type=set";
        errors.invalid(at.at("items").at(field), value, text);
    }
    if let Some(kind) = kind.filter(|kind| !["atomic", "set", "map"].contains(kind)) {
        errors.not_supported(at.at(NAME), kind, &["atomic", "set", "map"]);
    }
    if !schema.items("x-kubernetes-list-map-keys").is_empty() {
        let text = "must be map if x-kubernetes-list-map-keys is non-empty";
        match kind {
            None => errors.required(at.at(NAME), text),
            Some("map") => {}
            Some(other) => errors.invalid(at.at(NAME), other, text),
        }
    }
}

/// A list whose elements are told apart by keys.
fn keyed(schema: &Value, at: At<'_>, errors: &mut Errors) {
    let (all, keys_at) = (schema.at("x-kubernetes-list-map-keys"), at.at("x-kubernetes-list-map-keys"));
    let keys: Vec<&str> = schema.texts("x-kubernetes-list-map-keys").collect();
    if keys.is_empty() {
        errors.required(keys_at, "must not be empty if x-kubernetes-list-type is map");
    }
    let (items, items_at) = (schema.at("items"), at.at("items"));
    match items {
        Value::Object(_) => {}
        Value::Array(_) => {
            let text = "must only have a single schema if x-kubernetes-list-type is map";
            return errors.invalid(items_at, items.clone(), text);
        }
        _ => return errors.required(items_at, "must have a schema if x-kubernetes-list-type is map"),
    }
    let kind = items.text("type");
    if kind != "object" {
        let text = "must be object if parent array's x-kubernetes-list-type is map";
        return errors.invalid(items_at.at("type"), kind, text);
    }
    let properties = items_at.at("properties");
    for (i, key) in keys.iter().enumerate() {
        match items.at("properties").get(*key).map(|property| property.text("type")) {
            Some("array" | "object") => {
                let text = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                errors.invalid(properties.key(key).at("type"), kind, text);
            }
            Some(_) => {}
            None => errors.invalid(keys_at, all.clone(), "entries must all be names of item properties"),
        }
        if keys[..i].contains(key) {
            errors.invalid(keys_at, all.clone(), "must not contain duplicate entries");
        }
    }
}

/// Elements of sets and maps are there, and so are the keys of maps.
fn keys_are_there(schema: &Value, at: At<'_>, errors: &mut Errors) {
    let items = schema.at("items");
    let Some(kind @ ("set" | "map")) = marker(schema, "x-kubernetes-list-type") else { return };
    if !items.is_object() {
        return;
    }
    let at = at.at("items");
    if items.flag("nullable") {
        let text = format!("cannot be nullable when x-kubernetes-list-type is {kind}");
        errors.forbidden(at.at("nullable"), text);
    }
    let properties = at.at("properties");
    for key in schema.texts("x-kubernetes-list-map-keys").filter(|_| kind == "map") {
        let Some(property) = items.at("properties").get(key) else { continue };
        let at = properties.key(key);
        if !items.texts("required").any(|name| name == key) && !property.has("default") {
            let text = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            errors.required(at.at("default"), text);
        }
        if property.flag("nullable") {
            let text = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.forbidden(at.at("nullable"), text);
        }
    }
}

fn has_line_breaks(text: &str) -> bool {
    text.contains(['\n', '\r'])
}

/// The fields of rules, without what the rules say.
fn rules(schema: &Value, at: At<'_>, errors: &mut Errors) {
    let list = at.at("x-kubernetes-validations");
    let all = schema.items("x-kubernetes-validations");
    let is_convertible = !all.is_empty() && schemas::unconvertible(schema).is_none();
    for (i, rule) in all.iter().enumerate() {
        let at = list.index(i);
        let (text, message) = (rule.text("rule").trim(), rule.text("message"));
        if text.is_empty() {
            errors.required(at.at("rule"), "rule is not specified");
        } else if !message.is_empty() && message.trim().is_empty() {
            errors.invalid(at.at("message"), message, "must be non-empty if specified");
        } else if has_line_breaks(message.trim()) {
            errors.invalid(at.at("message"), message, "must not contain line breaks");
        } else if has_line_breaks(text) && message.is_empty() {
            errors.required(at.at("message"), "message must be specified if rule contains line breaks");
        }
        let expression = rule.text("messageExpression");
        if !expression.is_empty() && expression.trim().is_empty() {
            let text = "messageExpression must be non-empty if specified";
            errors.required(at.at("messageExpression"), text);
        }
        if let Some(reason) = marker(rule, "reason").filter(|reason| !REASONS.contains(reason)) {
            errors.not_supported(at.at("reason"), reason, REASONS);
        }
        let path = rule.text("fieldPath");
        if path.is_empty() {
            continue;
        }
        if path.trim().is_empty() {
            errors.invalid(at.at("fieldPath"), path, "must be non-empty if specified");
        }
        if has_line_breaks(path) {
            errors.invalid(at.at("fieldPath"), path, "must not contain line breaks");
        }
        if is_convertible && field_path::follow(path, schema, true).is_err() {
            errors.invalid(at.at("fieldPath"), path, "must be a valid path");
        }
    }
}
