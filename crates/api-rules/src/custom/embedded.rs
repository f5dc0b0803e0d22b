//! Objects in objects: what names their kind, and their metadata (upstream: `apiextensions-apiserver`'s
//! `schema/objectmeta`).

use api_types::schema as tables;
use serde_json::{Map, Value, json};

use super::object_meta;
use crate::errors::{At, Errors};
use crate::format;
use crate::look::{Look, set};
use crate::meta::{self, NameFormat};

/// A name for objects that have none, so that the rest of their metadata can be judged.
const STAND_IN: &str = "fakename";

/// Errors of all objects that are embedded in a value.
pub(super) fn check(schema: &Value, value: &Value, at: At<'_>, errors: &mut Errors) {
    match value {
        Value::Object(map) => {
            if schema.flag("x-kubernetes-embedded-resource") {
                object(map, at, errors);
            }
            let (properties, more) = (schema.at("properties"), schema.at("additionalProperties"));
            for (name, child) in map {
                match properties.get(name) {
                    Some(property) => check(property, child, at.at(name), errors),
                    None => check(more, child, at.key(name), errors),
                }
            }
        }
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                check(schema.at("items"), item, at.index(i), errors);
            }
        }
        _ => {}
    }
}

/// Errors of one such object.
pub(super) fn object(object: &Map<String, Value>, at: At<'_>, errors: &mut Errors) {
    for name in ["apiVersion", "kind"] {
        let at = at.at(name);
        match object.get(name) {
            None => errors.required(at, ""),
            Some(Value::String(text)) if text.is_empty() => errors.invalid(at, "", "must not be empty"),
            Some(Value::String(text)) if name == "kind" => kind(text, at, errors),
            Some(Value::String(text)) => {
                if text.matches('/').count() > 1 {
                    errors.invalid(at, text.as_str(), format!("unexpected GroupVersion string: {text}"));
                }
            }
            Some(other) => errors.invalid(at, other.clone(), "must be a string"),
        }
    }
    if let Some(own) = object.get("metadata") {
        metadata(own, at, errors);
    }
}

fn kind(kind: &str, at: At<'_>, errors: &mut Errors) {
    let problems = format::dns1035_label(&kind.to_lowercase());
    if !problems.is_empty() {
        let text = format!("may have mixed case, but should otherwise match: {}", problems.join(","));
        errors.invalid(at, kind, text);
    }
}

fn metadata(own: &Value, at: At<'_>, errors: &mut Errors) {
    let wrong = object_meta().and_then(|message| tables::check(message, own).type_errors.into_iter().next());
    if let Some(wrong) = wrong {
        return errors.invalid(at.at("metadata"), own.clone(), wrong);
    }
    let mut object = json!({"metadata": own});
    if own.text("name").is_empty() {
        set(&mut object, "metadata.name", STAND_IN.into());
    }
    let mut found = Errors::new();
    let namespaced = !own.text("namespace").is_empty();
    meta::validate(&object, namespaced, NameFormat::PathSegment, &mut found);
    errors.extend_below(at, found.done());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(object: Value) -> Vec<String> {
        let schema = json!({"properties": {"o": {"x-kubernetes-embedded-resource": true}}});
        let mut errors = Errors::new();
        check(&schema, &json!({"o": object}), At::root(""), &mut errors);
        errors.done().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn embedded_objects_say_what_they_are() {
        let good = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"labels": {"a": "b"}}});
        assert_eq!(faults(good), Vec::<String>::new());
        assert_eq!(faults(json!({})), ["o.apiVersion: Required value", "o.kind: Required value"]);
        assert_eq!(
            faults(json!({"apiVersion": "", "kind": 1})),
            [
                "o.apiVersion: Invalid value: \"\": must not be empty",
                "o.kind: Invalid value: 1: must be a string"
            ]
        );
        let odd = faults(json!({"apiVersion": "a/b/c", "kind": "_"}));
        assert_eq!(odd[0], "o.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c");
        assert!(odd[1].starts_with("o.kind: Invalid value: \"_\": may have mixed case"), "{odd:?}");
    }

    #[test]
    fn embedded_objects_have_sound_metadata() {
        let of = |metadata: Value| faults(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata}));
        let found = of(json!({"labels": {"a b": "c"}}));
        assert!(found[0].starts_with("o.metadata.labels: Invalid value: \"a b\""), "{found:?}");
        assert_eq!(
            of(json!({"labels": {"a": 1}})),
            [
                "o.metadata: Invalid value: {\"labels\":{\"a\":1}}: json: cannot unmarshal number into Go struct field ObjectMeta.labels of type string"
            ]
        );
    }
}
