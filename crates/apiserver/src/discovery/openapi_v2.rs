//! OpenAPI v2: all schemas in one document, as JSON and as the protobuf that kubectl asks for
//! (`openapi.v2.Document` of google/gnostic). The paths are in v3 only.

use api_types::{Value, openapi};
use serde_json::{Map, json};

use super::{custom, is_served};
use crate::catalog::Definitions;
use crate::encode::put_field;

/// What kubectl asks for: no media type by the rules, for its `@`.
pub(super) const ASKED: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
/// What it is answered with.
pub(super) const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// The document of these groups and versions.
pub(super) fn document(custom: &Definitions, all: &[(String, String)]) -> Value {
    let mut definitions = Map::new();
    for (group, version) in all {
        let document = openapi::document(group, version, &is_served).unwrap_or_default();
        if let Some(Value::Object(schemas)) = document["components"].get("schemas").cloned() {
            definitions.extend(schemas);
        }
        definitions.extend(custom::schemas(custom, group, version, true));
    }
    definitions.values_mut().for_each(plain);
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": openapi::RELEASE},
        "paths": {},
        "definitions": definitions,
    })
}

/// Brings a schema of v3 into v2's form: references by their old place, a reference's siblings and defaults gone,
/// alternatives as what they were before v3.
fn plain(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else { return };
    if let Some(reference) = wrapped_reference(object) {
        *object = Map::from_iter([("$ref".to_owned(), reference)]);
    }
    if let Some(Value::String(reference)) = object.get_mut("$ref") {
        *reference = reference.replace("#/components/schemas/", "#/definitions/");
    }
    object.remove("default");
    if object.remove("oneOf").is_some() && !object.contains_key("type") {
        object.insert("type".into(), "string".into());
    }
    for field in ["items", "additionalProperties"] {
        object.get_mut(field).into_iter().for_each(plain);
    }
    let properties = object.get_mut("properties").and_then(Value::as_object_mut);
    properties.into_iter().flat_map(Map::values_mut).for_each(plain);
}

/// The reference of a schema that v3 wraps in `allOf` to give it siblings.
fn wrapped_reference(object: &Map<String, Value>) -> Option<Value> {
    object.get("allOf")?.as_array()?.first()?.get("$ref").cloned()
}

/// The document as protobuf.
pub(super) fn protobuf(document: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    text(1, &document["swagger"], &mut out);
    let mut info = Vec::new();
    text(1, &document["info"]["title"], &mut info);
    text(2, &document["info"]["version"], &mut info);
    put_field(2, &info, &mut out);
    put_field(8, &[], &mut out);
    message(9, &named(document["definitions"].as_object()), &mut out);
    out
}

fn text(number: u8, value: &Value, out: &mut Vec<u8>) {
    if let Some(text) = value.as_str() {
        put_field(number, text.as_bytes(), out);
    }
}

/// Fields above 15 need two bytes of tag.
fn message(number: u8, bytes: &[u8], out: &mut Vec<u8>) {
    match number {
        0..=15 => put_field(number, bytes, out),
        _ => {
            let tag = u16::from(number) << 3 | 2;
            out.push((tag & 0x7f) as u8 | 0x80);
            let mut field = Vec::with_capacity(bytes.len() + 8);
            put_field(0, bytes, &mut field);
            out.push((tag >> 7) as u8);
            out.extend_from_slice(&field[1..]);
        }
    }
}

/// `NamedSchema`s of a map.
fn named(map: Option<&Map<String, Value>>) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in map.into_iter().flatten() {
        let mut entry = Vec::new();
        put_field(1, name.as_bytes(), &mut entry);
        put_field(2, &schema(value), &mut entry);
        put_field(1, &entry, &mut out);
    }
    out
}

fn schema(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    text(1, &value["$ref"], &mut out);
    text(2, &value["format"], &mut out);
    text(4, &value["description"], &mut out);
    for field in value["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        message(19, field.as_bytes(), &mut out);
    }
    if value["additionalProperties"].is_object() {
        let mut item = Vec::new();
        put_field(1, &schema(&value["additionalProperties"]), &mut item);
        message(21, &item, &mut out);
    }
    if let Some(kind) = value["type"].as_str() {
        let mut item = Vec::new();
        put_field(1, kind.as_bytes(), &mut item);
        message(22, &item, &mut out);
    }
    if value["items"].is_object() {
        let mut item = Vec::new();
        put_field(1, &schema(&value["items"]), &mut item);
        message(23, &item, &mut out);
    }
    if let Some(properties) = value["properties"].as_object() {
        message(25, &named(Some(properties)), &mut out);
    }
    for (name, extension) in
        value.as_object().into_iter().flatten().filter(|(name, _)| name.starts_with("x-"))
    {
        let mut any = Vec::new();
        put_field(2, api_types::codec::encode_yaml(extension).as_bytes(), &mut any);
        let mut entry = Vec::new();
        put_field(1, name.as_bytes(), &mut entry);
        put_field(2, &any, &mut entry);
        message(31, &entry, &mut out);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_take_their_old_form() {
        let document = document(&Definitions::default(), &[("apps".to_owned(), "v1".to_owned())]);
        let deployment = &document["definitions"]["io.k8s.api.apps.v1.Deployment"];
        assert_eq!(
            deployment["properties"]["spec"]["$ref"],
            "#/definitions/io.k8s.api.apps.v1.DeploymentSpec"
        );
        assert_eq!(deployment["x-kubernetes-group-version-kind"][0]["kind"], "Deployment");
        assert!(!document.to_string().contains("#/components/"));
    }

    #[test]
    fn tags_above_15_take_two_bytes() {
        let mut out = Vec::new();
        message(31, b"x", &mut out);
        assert_eq!(out, [0xfa, 0x01, 0x01, b'x']);
    }
}
