//! The parts of a JSON schema, and what is asked of all of them.

use crate::look::Look;
use serde_json::Value;

/// The schemas that stand in a schema.
fn parts(schema: &Value) -> impl Iterator<Item = &Value> {
    let list = |name: &str| schema.items(name).iter();
    let map = |name: &str| schema.entries(name).map(|(_, part)| part);
    let one = |name: &str| schema.get(name).into_iter();
    one("items")
        .chain(list("items"))
        .chain(list("allOf"))
        .chain(list("anyOf"))
        .chain(list("oneOf"))
        .chain(one("not"))
        .chain(map("properties"))
        .chain(one("additionalProperties"))
        .chain(map("patternProperties"))
        .chain(one("additionalItems"))
        .chain(map("definitions"))
        .chain(map("dependencies"))
        .filter(|part| part.is_object())
}

/// Visits a schema and all schemas in it, the outer ones first.
pub fn visit<'a>(schema: &'a Value, see: &mut impl FnMut(&'a Value)) {
    see(schema);
    parts(schema).for_each(|part| visit(part, see));
}

/// Whether a schema, or one in it, is so.
pub fn has(schema: &Value, is: &mut impl FnMut(&Value) -> bool) -> bool {
    is(schema) || parts(schema).any(|part| has(part, is))
}

/// Whether the schema of a version of a definition, or one in it, is so.
pub fn of_definition(definition: &Value, mut is: impl FnMut(&Value) -> bool) -> bool {
    let versions = definition.items("spec.versions").iter();
    let mut schemas = versions.map(|version| version.at("schema.openAPIV3Schema"));
    schemas.any(|schema| schema.is_object() && has(schema, &mut is))
}

/// Why a schema cannot be made a structural one, in upstream's words; what stands in it counts too.
pub fn unconvertible(schema: &Value) -> Option<&'static str> {
    const UNSUPPORTED: [(&str, &str); 7] = [
        ("id", "OpenAPIV3Schema 'id' is not supported"),
        ("$schema", "OpenAPIV3Schema 'schema' is not supported"),
        ("$ref", "OpenAPIV3Schema '$ref' is not supported"),
        ("patternProperties", "OpenAPIV3Schema 'patternProperties' is not supported"),
        ("dependencies", "OpenAPIV3Schema 'dependencies' is not supported"),
        ("additionalItems", "OpenAPIV3Schema 'additionalItems' is not supported"),
        ("definitions", "OpenAPIV3Schema 'definitions' is not supported"),
    ];
    let mut found = None;
    has(schema, &mut |part| {
        let is_set = |name: &str| part.get(name).is_some_and(|value| !crate::look::is_zero(value));
        found = UNSUPPORTED.iter().find(|(name, _)| is_set(name)).map(|(_, text)| *text);
        if part.at("items").is_array() {
            found = found.or(Some("OpenAPIV3Schema 'items' must be a schema, but is an array"));
        }
        if part.at("x-kubernetes-preserve-unknown-fields") == &Value::Bool(false) {
            let text = "internal error: 'x-kubernetes-preserve-unknown-fields' must be true or undefined";
            found = found.or(Some(text));
        }
        found.is_some()
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn all_parts_are_seen() {
        let schema = json!({"format": "a", "items": {"format": "b"}, "allOf": [{"format": "c"}],
            "not": {"properties": {"x": {"format": "d"}}}, "additionalProperties": {"format": "e"}});
        let mut seen = Vec::new();
        visit(&schema, &mut |part| seen.push(part.text("format")));
        assert_eq!(seen, ["a", "b", "c", "", "d", "e"]);
        assert!(has(&schema, &mut |part| part.text("format") == "d"));
        assert!(!has(&schema, &mut |part| part.text("format") == "f"));
    }

    #[test]
    fn some_schemas_have_no_structure() {
        assert_eq!(unconvertible(&json!({"properties": {"a": {"type": "string"}}})), None);
        let deep = json!({"allOf": [{"properties": {"a": {"$schema": "x"}}}]});
        assert_eq!(unconvertible(&deep), Some("OpenAPIV3Schema 'schema' is not supported"));
    }
}
