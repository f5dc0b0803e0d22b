//! Schemas of custom kinds as OpenAPI publishes them (upstream: `apiextensions-apiserver/pkg/controller/openapi`).

use api_types::{Value, openapi};
use serde_json::{Map, json};

use crate::catalog::{CustomKind, Definitions};

const OBJECT_META: &str = "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const LIST_META: &str = "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const KIND: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const METADATA: &str = "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";
const LIST_METADATA: &str = "Standard list metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";

/// The schemas of the custom kinds of a group and version and of their lists, by name. `v2`: as far as OpenAPI v2 can
/// say it, and kubectl reads it.
pub(super) fn schemas(definitions: &Definitions, group: &str, version: &str, v2: bool) -> Map<String, Value> {
    let mut all = Map::new();
    for kind in definitions.kinds(group, version) {
        let name = openapi::schema_name(&kind.resource);
        all.insert(format!("{name}List"), list(kind, &name));
        all.insert(name, object(kind, v2));
    }
    all
}

fn group_version_kind(kind: &CustomKind, name: &str) -> Value {
    json!([{"group": kind.resource.group, "version": kind.resource.version, "kind": name}])
}

fn text(description: &str) -> Value {
    json!({"type": "string", "description": description})
}

fn reference(to: &str, description: &str) -> Value {
    json!({"description": description, "allOf": [{"$ref": to}]})
}

fn object(kind: &CustomKind, v2: bool) -> Value {
    let mut schema = kind.schema.clone();
    if v2 && schema["x-kubernetes-preserve-unknown-fields"] == true {
        // kubectl would complain of every field that is not named here.
        schema = json!({"type": "object"});
    } else {
        if v2 {
            simplify(&mut schema);
        }
        embed(&mut schema);
        whole_object(&mut schema);
    }
    schema["x-kubernetes-group-version-kind"] = group_version_kind(kind, &kind.resource.kind);
    schema
}

fn list(kind: &CustomKind, name: &str) -> Value {
    json!({
        "type": "object",
        "description": format!("{} is a list of {}", kind.resource.list_kind, kind.resource.kind),
        "required": ["items"],
        "properties": {
            "apiVersion": text(API_VERSION),
            "kind": text(KIND),
            "metadata": reference(LIST_META, LIST_METADATA),
            "items": {
                "type": "array",
                "description": format!(
                    "List of {}. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md",
                    kind.resource.resource
                ),
                "items": {"$ref": format!("#/components/schemas/{name}")},
            },
        },
        "x-kubernetes-group-version-kind": group_version_kind(kind, &kind.resource.list_kind),
    })
}

/// Says what an object's age is: the one description of metadata that there is so far.
pub(super) fn describe_metadata(schemas: &mut Value) {
    let metadata = schemas.get_mut("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
    let age = metadata.and_then(|metadata| metadata.pointer_mut("/properties/creationTimestamp"));
    if let Some(age) = age.and_then(Value::as_object_mut) {
        if let Some(reference) = age.remove("$ref") {
            age.insert("allOf".into(), json!([{"$ref": reference}]));
        }
        age.insert("description".into(), api_rules::CREATION_TIMESTAMP.into());
    }
}

/// Gives a schema the fields that every object has.
fn whole_object(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    let properties = map.entry("properties").or_insert_with(|| json!({}));
    properties["apiVersion"] = text(API_VERSION);
    properties["kind"] = text(KIND);
    properties["metadata"] = reference(OBJECT_META, METADATA);
}

/// The same for objects within objects.
fn embed(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    for field in ["items", "additionalProperties"] {
        map.get_mut(field).into_iter().for_each(embed);
    }
    let properties = map.get_mut("properties").and_then(Value::as_object_mut);
    properties.into_iter().flat_map(Map::values_mut).for_each(embed);
    if schema["x-kubernetes-embedded-resource"] == true {
        whole_object(schema);
    }
}

/// Leaves out what v2 has no words for, or kubectl would misread.
fn simplify(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    for field in ["allOf", "anyOf", "oneOf", "not"] {
        map.remove(field);
    }
    let is = |map: &Map<String, Value>, name: &str| map.get(name) == Some(&Value::Bool(true));
    if is(map, "nullable") {
        for field in ["nullable", "type", "items", "properties", "additionalProperties"] {
            map.remove(field);
        }
    }
    if is(map, "x-kubernetes-int-or-string") {
        map.remove("type");
    }
    if is(map, "x-kubernetes-preserve-unknown-fields") {
        for field in ["items", "properties"] {
            map.remove(field);
        }
    }
    for field in ["items", "additionalProperties"] {
        map.get_mut(field).into_iter().for_each(simplify);
    }
    let properties = map.get_mut("properties").and_then(Value::as_object_mut);
    properties.into_iter().flat_map(Map::values_mut).for_each(simplify);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v2_gets_what_kubectl_can_read() {
        let mut schema = json!({"type": "object", "properties": {
            "port": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}]},
            "maybe": {"type": "object", "nullable": true, "properties": {"a": {"type": "string"}}},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"a": {"type": "string"}}}}});
        simplify(&mut schema);
        assert_eq!(
            schema["properties"],
            json!({"port": {"x-kubernetes-int-or-string": true}, "maybe": {},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}})
        );
        whole_object(&mut schema);
        assert_eq!(schema["properties"]["metadata"]["allOf"][0]["$ref"], OBJECT_META);
    }
}
