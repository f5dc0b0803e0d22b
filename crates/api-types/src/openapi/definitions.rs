//! Schemas of messages, in the form of OpenAPI v3 that upstream publishes.

use super::paths::VERSION;
use crate::schema::{FieldInfo, ListType, MapType, MessageId, Shape, Special, Type, by_name};
use serde_json::{Map, Value, json};

/// Where schemas are referred to.
const REFERENCE: &str = "#/components/schemas/";
/// The body of a patch: any object.
pub(super) const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";

pub(super) fn reference(name: &str) -> Value {
    json!({"$ref": format!("{REFERENCE}{name}")})
}

/// All schemas that `document` refers to, and those that they refer to, by name; `custom` are those of no message.
pub fn closure(document: &Value, custom: &Map<String, Value>) -> Map<String, Value> {
    let mut schemas = Map::new();
    let mut waiting = Vec::new();
    references(document, &mut waiting);
    while let Some(name) = waiting.pop() {
        if schemas.contains_key(&name) {
            continue;
        }
        let schema = match (by_name(&name), custom.get(&name)) {
            (Some(message), _) => definition(message),
            (None, Some(schema)) => schema.clone(),
            (None, None) if name == VERSION => version(),
            (None, None) => json!({"type": "object"}),
        };
        references(&schema, &mut waiting);
        schemas.insert(name, schema);
    }
    schemas
}

fn version() -> Value {
    let required = [
        "major",
        "minor",
        "gitVersion",
        "gitCommit",
        "gitTreeState",
        "buildDate",
        "goVersion",
        "compiler",
        "platform",
    ];
    let optional = ["emulationMajor", "emulationMinor", "minCompatibilityMajor", "minCompatibilityMinor"];
    let text = |name: &&str| ((*name).to_owned(), json!({"type": "string"}));
    let properties: Map<String, Value> = required.iter().chain(&optional).map(text).collect();
    json!({"type": "object", "required": required, "properties": properties})
}

fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if let Some(name) =
                map.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix(REFERENCE))
            {
                found.push(name.to_owned());
            }
            map.values().for_each(|v| references(v, found));
        }
        Value::Array(items) => items.iter().for_each(|v| references(v, found)),
        _ => {}
    }
}

/// The schema of one message.
pub fn definition(message: MessageId) -> Value {
    if let Some(special) = message.special {
        return special_definition(message, special);
    }
    let mut schema = Map::new();
    schema.insert("type".into(), "object".into());
    let mut properties = Map::new();
    if message.typed {
        properties.insert("apiVersion".into(), json!({"type": "string"}));
        properties.insert("kind".into(), json!({"type": "string"}));
    }
    let fields = message.json_fields();
    properties.extend(fields.iter().map(|f| (f.name.to_owned(), property(f))));
    if !properties.is_empty() {
        schema.insert("properties".into(), Value::Object(properties));
    }
    let required: Vec<&str> = fields.iter().filter(|f| f.required).map(|f| f.name).collect();
    if !required.is_empty() {
        schema.insert("required".into(), json!(required));
    }
    if !message.kinds.is_empty() {
        let kinds = message.kinds.iter().map(|(g, v, k)| json!({"group": g, "version": v, "kind": k}));
        schema.insert("x-kubernetes-group-version-kind".into(), kinds.collect());
    }
    map_type(message.map_type, &mut schema);
    Value::Object(schema)
}

fn special_definition(message: MessageId, special: Special) -> Value {
    match special {
        Special::Quantity => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        Special::IntOrString => {
            json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
        }
        Special::Time | Special::MicroTime => json!({"type": "string", "format": "date-time"}),
        Special::Duration => json!({"type": "string"}),
        Special::Raw if message.go_name() != "JSON" => json!({"type": "object"}),
        Special::Strings => json!({"type": "array", "items": {"type": "string", "default": ""}}),
        Special::Raw | Special::PropsOrArray | Special::PropsOrBool | Special::PropsOrStrings => json!({}),
    }
}

fn property(field: &FieldInfo) -> Value {
    let mut schema = match field.shape {
        Shape::Single => of_type(field),
        Shape::List => {
            json!({"type": "array", "items": with_default(of_type(field), element_default(field))})
        }
        Shape::Map => {
            json!({"type": "object", "additionalProperties": with_default(of_type(field), element_default(field))})
        }
    };
    if field.shape == Shape::Single {
        schema = with_default(schema, single_default(field));
    }
    if let Some(map) = schema.as_object_mut() {
        extensions(field, map);
        if map.len() > 1
            && let Some(reference) = map.remove("$ref")
        {
            map.insert("allOf".into(), json!([{"$ref": reference}]));
        }
    }
    schema
}

fn extensions(field: &FieldInfo, schema: &mut Map<String, Value>) {
    let list_type = match field.list_type {
        ListType::None => None,
        ListType::Atomic => Some("atomic"),
        ListType::Set => Some("set"),
        ListType::Map => Some("map"),
    };
    if let Some(list_type) = list_type {
        schema.insert("x-kubernetes-list-type".into(), list_type.into());
    }
    if !field.list_map_keys.is_empty() {
        schema.insert("x-kubernetes-list-map-keys".into(), json!(field.list_map_keys));
    }
    map_type(field.map_type, schema);
    if !field.patch_strategy.is_empty() {
        schema.insert("x-kubernetes-patch-strategy".into(), field.patch_strategy.into());
    }
    if !field.patch_merge_key.is_empty() {
        schema.insert("x-kubernetes-patch-merge-key".into(), field.patch_merge_key.into());
    }
}

fn map_type(map_type: MapType, schema: &mut Map<String, Value>) {
    let text = match map_type {
        MapType::None => return,
        MapType::Atomic => "atomic",
        MapType::Granular => "granular",
    };
    schema.insert("x-kubernetes-map-type".into(), text.into());
}

/// A reference cannot have neighbours in OpenAPI 3.0, so one with a default goes into `allOf`.
fn with_default(schema: Value, default: Option<Value>) -> Value {
    let Some(default) = default else { return schema };
    if schema.get("$ref").is_some() {
        return json!({"allOf": [schema], "default": default});
    }
    let mut schema = schema;
    if let Some(map) = schema.as_object_mut() {
        map.insert("default".into(), default);
    }
    schema
}

fn of_type(field: &FieldInfo) -> Value {
    let mut schema = match field.ty {
        Type::Bool => json!({"type": "boolean"}),
        Type::Int32 => json!({"type": "integer", "format": "int32"}),
        Type::Int64 => json!({"type": "integer", "format": "int64"}),
        Type::Double => json!({"type": "number", "format": "double"}),
        Type::String => json!({"type": "string"}),
        Type::Bytes => json!({"type": "string", "format": "byte"}),
        Type::Message(message) => match message.special {
            Some(special @ (Special::Duration | Special::Strings)) => special_definition(message, special),
            _ => reference(message.name),
        },
    };
    if let (false, Some(map)) = (field.values.is_empty(), schema.as_object_mut()) {
        map.insert("enum".into(), json!(field.values));
    }
    schema
}

/// Struct elements default to `{}`, scalars that are not pointers to their zero value.
fn element_default(field: &FieldInfo) -> Option<Value> {
    match field.ty {
        Type::Message(message) => match message.special {
            None => Some(json!({})),
            Some(_) => None,
        },
        Type::Bytes => None,
        ty => Some(zero(ty)),
    }
}

fn single_default(field: &FieldInfo) -> Option<Value> {
    if !field.default.is_empty() {
        return serde_json::from_str(field.default).ok();
    }
    match field.ty {
        _ if field.pointer => None,
        Type::Message(message) => (message.special.is_none()).then(|| json!({})),
        Type::Bytes => None,
        ty => (!field.omit_empty).then(|| zero(ty)),
    }
}

fn zero(ty: Type) -> Value {
    match ty {
        Type::Bool => false.into(),
        Type::Int32 | Type::Int64 | Type::Double => 0.into(),
        _ => "".into(),
    }
}
