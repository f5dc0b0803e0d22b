//! OpenAPI documents as protobuf: `Document` of google/gnostic's `openapi.v2` and `openapi.v3`.
//!
//! What a JSON field becomes stands in tables of messages ([`V2`], [`V3`]); one walk writes any of them. Values that may
//! be anything (`Any`), and everything that begins with `x-`, are written as YAML.

use crate::codec::encode_yaml;
use crate::codec::wire::{put_bytes, put_double, put_int};
use serde_json::{Map, Value};

/// The fields of a message, and the number of the list of its extensions (0: it has none).
struct Message {
    fields: &'static [(&'static str, u32, Form)],
    /// Names that are not in `fields`, in a message whose keys are free: an entry each.
    entries: Option<(u32, Choice)>,
    extensions: u32,
}

/// How a value is written.
#[derive(Clone, Copy)]
enum Form {
    Text,
    Flag,
    Integer,
    Number,
    Any,
    /// A list of texts, or one text, in a message of its own (field 1).
    Texts,
    /// A field for each element.
    Each(&'static Form),
    One(Choice),
    /// A boolean (field 2) or a message.
    OneOrFlag(Choice),
    /// A message whose field 1 is the message.
    Inside(Choice),
    /// v3's `DefaultType`: number, boolean or text.
    Default,
}

/// Which message a value is, and the numbers of the fields that lead to it.
type Choice = fn(&Value) -> (&'static [u32], &'static Message);

const NONE: &[(&str, u32, Form)] = &[];

const fn message(fields: &'static [(&'static str, u32, Form)], extensions: u32) -> Message {
    Message { fields, entries: None, extensions }
}

/// A message that maps free names.
const fn names(number: u32, choice: Choice, extensions: u32) -> Message {
    Message { fields: NONE, entries: Some((number, choice)), extensions }
}

/// A document of v2 (`{"swagger": "2.0", …}`).
pub fn v2(document: &Value) -> Vec<u8> {
    bytes(document, &V2)
}

/// A document of v3 (`{"openapi": "3.0.0", …}`).
pub fn v3(document: &Value) -> Vec<u8> {
    bytes(document, &V3)
}

/// What [`v2`] writes for these paths: the entries of `paths`.
pub fn v2_paths(paths: &Map<String, Value>) -> Vec<u8> {
    let mut out = Vec::new();
    write(paths, &V2_PATHS, &mut out);
    out
}

/// What [`v2`] writes for these definitions: the entries of `definitions`.
pub fn v2_definitions(definitions: &Map<String, Value>) -> Vec<u8> {
    let mut out = Vec::new();
    write(definitions, &V2_DEFINITIONS, &mut out);
    out
}

/// A document of v2 whose paths and definitions are written already; `head` holds all else.
pub fn v2_joined(head: &Value, paths: &[u8], definitions: &[u8]) -> Vec<u8> {
    let mut out = bytes(head, &V2);
    put_bytes(&mut out, 8, paths);
    put_bytes(&mut out, 9, definitions);
    out
}

fn bytes(value: &Value, message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some(map) = value.as_object() {
        write(map, message, &mut out);
    }
    out
}

fn write(map: &Map<String, Value>, message: &Message, out: &mut Vec<u8>) {
    for (name, value) in map {
        if let Some((_, number, form)) = message.fields.iter().find(|(known, ..)| known == name) {
            field(*number, *form, value, out);
        } else if name.starts_with("x-") && message.extensions != 0 {
            named(message.extensions, name, &any(value), out);
        } else if let Some((number, choice)) = message.entries {
            named(number, name, &chosen(choice, value), out);
        }
    }
}

fn field(number: u32, form: Form, value: &Value, out: &mut Vec<u8>) {
    match form {
        Form::Text => {
            if let Some(text) = value.as_str() {
                put_bytes(out, number, text.as_bytes());
            }
        }
        Form::Flag => {
            if value == true {
                put_int(out, number, 1);
            }
        }
        Form::Integer => {
            if let Some(value) = integer(value) {
                put_int(out, number, value);
            }
        }
        Form::Number => {
            if let Some(value) = value.as_f64() {
                put_double(out, number, value);
            }
        }
        Form::Any => put_bytes(out, number, &any(value)),
        Form::Each(form) => {
            value.as_array().into_iter().flatten().for_each(|value| field(number, *form, value, out));
        }
        Form::Texts => {
            let mut texts = Vec::new();
            match value {
                Value::Array(list) => list.iter().for_each(|text| field(1, Form::Text, text, &mut texts)),
                text => field(1, Form::Text, text, &mut texts),
            }
            put_bytes(out, number, &texts);
        }
        Form::OneOrFlag(_) if value.is_boolean() => {
            let mut flag = Vec::new();
            put_int(&mut flag, 2, i64::from(value == true));
            put_bytes(out, number, &flag);
        }
        Form::One(choice) => put_bytes(out, number, &chosen(choice, value)),
        Form::OneOrFlag(choice) | Form::Inside(choice) => {
            let mut inside = Vec::new();
            put_bytes(&mut inside, 1, &chosen(choice, value));
            put_bytes(out, number, &inside);
        }
        Form::Default => {
            let mut inside = Vec::new();
            match value {
                Value::Bool(flag) => put_int(&mut inside, 2, i64::from(*flag)),
                Value::String(text) => put_bytes(&mut inside, 3, text.as_bytes()),
                Value::Number(number) => {
                    if let Some(value) = number.as_f64() {
                        put_double(&mut inside, 1, value);
                    }
                }
                // It has no words for them; gnostic's own reader leaves the message empty too.
                Value::Object(_) | Value::Array(_) | Value::Null => {}
            }
            put_bytes(out, number, &inside);
        }
    }
}

/// Whole numbers may be written with a fraction of nothing.
fn integer(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_f64().map(|value| value as i64))
}

/// A value as its message, within the messages that lead to it.
fn chosen(choice: Choice, value: &Value) -> Vec<u8> {
    let (way, message) = choice(value);
    let mut inner = bytes(value, message);
    for number in way.iter().rev() {
        let mut outer = Vec::with_capacity(inner.len() + 8);
        put_bytes(&mut outer, *number, &inner);
        inner = outer;
    }
    inner
}

fn named(number: u32, name: &str, value: &[u8], out: &mut Vec<u8>) {
    let mut entry = Vec::with_capacity(name.len() + value.len() + 8);
    put_bytes(&mut entry, 1, name.as_bytes());
    put_bytes(&mut entry, 2, value);
    put_bytes(out, number, &entry);
}

/// `Any`, as YAML.
fn any(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(&mut out, 2, encode_yaml(value).as_bytes());
    out
}

use Form::{Any, Each, Flag, Inside, Integer, Number, One, OneOrFlag, Text, Texts};

static V2: Message = message(
    &[
        ("swagger", 1, Text),
        ("info", 2, One(|_| (&[], &V2_INFO))),
        ("host", 3, Text),
        ("basePath", 4, Text),
        ("schemes", 5, Each(&Text)),
        ("consumes", 6, Each(&Text)),
        ("produces", 7, Each(&Text)),
        ("paths", 8, One(|_| (&[], &V2_PATHS))),
        ("definitions", 9, One(|_| (&[], &V2_DEFINITIONS))),
        ("parameters", 10, One(|_| (&[], &V2_PARAMETERS))),
        ("security", 12, Each(&One(|_| (&[], &SECURITY)))),
        ("securityDefinitions", 13, One(|_| (&[], &V2_SECURITY_DEFINITIONS))),
    ],
    16,
);
static V2_INFO: Message = message(&[("title", 1, Text), ("version", 2, Text), ("description", 3, Text)], 7);
static V2_PATHS: Message = names(2, |_| (&[], &V2_PATH), 1);
static V2_DEFINITIONS: Message = names(1, |_| (&[], &V2_SCHEMA), 0);
static V2_PARAMETERS: Message = names(1, v2_parameter, 0);
static V2_SECURITY_DEFINITIONS: Message = names(1, |_| (&[2], &V2_API_KEY), 0);
static V2_API_KEY: Message =
    message(&[("type", 1, Text), ("name", 2, Text), ("in", 3, Text), ("description", 4, Text)], 5);
/// `SecurityRequirement`: the entries are lists of texts, which stay empty here.
static SECURITY: Message = names(1, |_| (&[], &EMPTY), 0);
static EMPTY: Message = message(NONE, 0);

static V2_PATH: Message = message(
    &[
        ("$ref", 1, Text),
        ("get", 2, V2_CALL),
        ("put", 3, V2_CALL),
        ("post", 4, V2_CALL),
        ("delete", 5, V2_CALL),
        ("options", 6, V2_CALL),
        ("head", 7, V2_CALL),
        ("patch", 8, V2_CALL),
        ("parameters", 9, Each(&One(v2_item))),
    ],
    10,
);
const V2_CALL: Form = One(|_| (&[], &V2_OPERATION));
static V2_OPERATION: Message = message(
    &[
        ("tags", 1, Each(&Text)),
        ("summary", 2, Text),
        ("description", 3, Text),
        ("operationId", 5, Text),
        ("produces", 6, Each(&Text)),
        ("consumes", 7, Each(&Text)),
        ("parameters", 8, Each(&One(v2_item))),
        ("responses", 9, One(|_| (&[], &V2_RESPONSES))),
        ("schemes", 10, Each(&Text)),
        ("deprecated", 11, Flag),
    ],
    13,
);
static V2_RESPONSES: Message = names(1, |_| (&[1], &V2_RESPONSE), 2);
static V2_RESPONSE: Message =
    message(&[("description", 1, Text), ("schema", 2, Inside(|_| (&[], &V2_SCHEMA)))], 5);

/// `ParametersItem`: a parameter, or a reference to one.
fn v2_item(value: &Value) -> (&'static [u32], &'static Message) {
    if value.get("$ref").is_some() {
        return (&[2], &V2_REFERENCE);
    }
    match v2_parameter(value) {
        ([1], message) => (&[1, 1], message),
        ([_, 4], message) => (&[1, 2, 4], message),
        (_, message) => (&[1, 2, 3], message),
    }
}

/// `Parameter`: of the body, or else of the path or the query.
fn v2_parameter(value: &Value) -> (&'static [u32], &'static Message) {
    match value["in"].as_str() {
        Some("body") => (&[1], &V2_BODY),
        Some("path") => (&[2, 4], &V2_PATH_PARAMETER),
        _ => (&[2, 3], &V2_QUERY),
    }
}

static V2_REFERENCE: Message = message(&[("$ref", 1, Text), ("description", 2, Text)], 0);
static V2_BODY: Message = message(
    &[
        ("description", 1, Text),
        ("name", 2, Text),
        ("in", 3, Text),
        ("required", 4, Flag),
        ("schema", 5, One(|_| (&[], &V2_SCHEMA))),
    ],
    6,
);
static V2_QUERY: Message = message(
    &[
        ("required", 1, Flag),
        ("in", 2, Text),
        ("description", 3, Text),
        ("name", 4, Text),
        ("type", 6, Text),
        ("format", 7, Text),
        ("uniqueItems", 20, Flag),
    ],
    23,
);
static V2_PATH_PARAMETER: Message = message(
    &[
        ("required", 1, Flag),
        ("in", 2, Text),
        ("description", 3, Text),
        ("name", 4, Text),
        ("type", 5, Text),
        ("format", 6, Text),
        ("uniqueItems", 19, Flag),
    ],
    22,
);
static V2_SCHEMA: Message = message(
    &[
        ("$ref", 1, Text),
        ("format", 2, Text),
        ("title", 3, Text),
        ("description", 4, Text),
        ("default", 5, Any),
        ("multipleOf", 6, Number),
        ("maximum", 7, Number),
        ("exclusiveMaximum", 8, Flag),
        ("minimum", 9, Number),
        ("exclusiveMinimum", 10, Flag),
        ("maxLength", 11, Integer),
        ("minLength", 12, Integer),
        ("pattern", 13, Text),
        ("maxItems", 14, Integer),
        ("minItems", 15, Integer),
        ("uniqueItems", 16, Flag),
        ("maxProperties", 17, Integer),
        ("minProperties", 18, Integer),
        ("required", 19, Each(&Text)),
        ("enum", 20, Each(&Any)),
        ("additionalProperties", 21, OneOrFlag(|_| (&[], &V2_SCHEMA))),
        ("type", 22, Texts),
        ("items", 23, Inside(|_| (&[], &V2_SCHEMA))),
        ("allOf", 24, Each(&One(|_| (&[], &V2_SCHEMA)))),
        ("properties", 25, One(|_| (&[], &V2_DEFINITIONS))),
        ("externalDocs", 29, One(|_| (&[], &DOCS))),
        ("example", 30, Any),
    ],
    31,
);
static DOCS: Message = message(&[("description", 1, Text), ("url", 2, Text)], 3);

static V3: Message = message(
    &[
        ("openapi", 1, Text),
        ("info", 2, One(|_| (&[], &V3_INFO))),
        ("paths", 4, One(|_| (&[], &V3_PATHS))),
        ("components", 5, One(|_| (&[], &V3_COMPONENTS))),
    ],
    9,
);
static V3_INFO: Message = message(&[("title", 1, Text), ("description", 2, Text), ("version", 6, Text)], 7);
static V3_PATHS: Message = names(1, |_| (&[], &V3_PATH), 2);
static V3_COMPONENTS: Message = message(
    &[
        ("schemas", 1, One(|_| (&[], &V3_SCHEMAS))),
        ("securitySchemes", 7, One(|_| (&[], &V3_SECURITY_SCHEMES))),
    ],
    10,
);
static V3_SCHEMAS: Message = names(1, v3_schema, 0);
static V3_SECURITY_SCHEMES: Message = names(1, |_| (&[1], &V3_SECURITY_SCHEME), 0);
static V3_SECURITY_SCHEME: Message =
    message(&[("type", 1, Text), ("description", 2, Text), ("name", 3, Text), ("in", 4, Text)], 9);
static V3_PATH: Message = message(
    &[
        ("summary", 2, Text),
        ("description", 3, Text),
        ("get", 4, V3_CALL),
        ("put", 5, V3_CALL),
        ("post", 6, V3_CALL),
        ("delete", 7, V3_CALL),
        ("options", 8, V3_CALL),
        ("head", 9, V3_CALL),
        ("patch", 10, V3_CALL),
        ("parameters", 13, Each(&One(|_| (&[1], &V3_PARAMETER)))),
    ],
    14,
);
const V3_CALL: Form = One(|_| (&[], &V3_OPERATION));
static V3_OPERATION: Message = message(
    &[
        ("tags", 1, Each(&Text)),
        ("summary", 2, Text),
        ("description", 3, Text),
        ("operationId", 5, Text),
        ("parameters", 6, Each(&One(|_| (&[1], &V3_PARAMETER)))),
        ("requestBody", 7, One(|_| (&[1], &V3_BODY))),
        ("responses", 8, One(|_| (&[], &V3_RESPONSES))),
        ("deprecated", 10, Flag),
    ],
    13,
);
static V3_PARAMETER: Message = message(
    &[
        ("name", 1, Text),
        ("in", 2, Text),
        ("description", 3, Text),
        ("required", 4, Flag),
        ("schema", 10, One(v3_schema)),
    ],
    14,
);
static V3_BODY: Message = message(
    &[("description", 1, Text), ("content", 2, One(|_| (&[], &V3_MEDIA_TYPES))), ("required", 3, Flag)],
    4,
);
static V3_MEDIA_TYPES: Message = names(1, |_| (&[], &V3_MEDIA_TYPE), 0);
static V3_MEDIA_TYPE: Message = message(&[("schema", 1, One(v3_schema))], 5);
static V3_RESPONSES: Message = names(2, |_| (&[1], &V3_RESPONSE), 3);
static V3_RESPONSE: Message =
    message(&[("description", 1, Text), ("content", 3, One(|_| (&[], &V3_MEDIA_TYPES)))], 5);

/// `SchemaOrReference`.
fn v3_schema(value: &Value) -> (&'static [u32], &'static Message) {
    match value.get("$ref") {
        Some(_) => (&[2], &V3_REFERENCE),
        None => (&[1], &V3_SCHEMA),
    }
}

static V3_REFERENCE: Message =
    message(&[("$ref", 1, Text), ("summary", 2, Text), ("description", 3, Text)], 0);
static V3_PROPERTIES: Message = names(1, v3_schema, 0);
static V3_SCHEMA: Message = message(
    &[
        ("nullable", 1, Flag),
        ("readOnly", 3, Flag),
        ("writeOnly", 4, Flag),
        ("externalDocs", 6, One(|_| (&[], &DOCS))),
        ("example", 7, Any),
        ("deprecated", 8, Flag),
        ("title", 9, Text),
        ("multipleOf", 10, Number),
        ("maximum", 11, Number),
        ("exclusiveMaximum", 12, Flag),
        ("minimum", 13, Number),
        ("exclusiveMinimum", 14, Flag),
        ("maxLength", 15, Integer),
        ("minLength", 16, Integer),
        ("pattern", 17, Text),
        ("maxItems", 18, Integer),
        ("minItems", 19, Integer),
        ("uniqueItems", 20, Flag),
        ("maxProperties", 21, Integer),
        ("minProperties", 22, Integer),
        ("required", 23, Each(&Text)),
        ("enum", 24, Each(&Any)),
        ("type", 25, Text),
        ("allOf", 26, Each(&One(v3_schema))),
        ("oneOf", 27, Each(&One(v3_schema))),
        ("anyOf", 28, Each(&One(v3_schema))),
        ("not", 29, One(|_| (&[], &V3_SCHEMA))),
        ("items", 30, Inside(v3_schema)),
        ("properties", 31, One(|_| (&[], &V3_PROPERTIES))),
        ("additionalProperties", 32, OneOrFlag(v3_schema)),
        ("default", 33, Form::Default),
        ("description", 34, Text),
        ("format", 35, Text),
    ],
    36,
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::wire::{Reader, first_bytes};
    use serde_json::json;

    /// The content of a way of fields.
    fn at<'a>(mut message: &'a [u8], way: &[u32]) -> &'a [u8] {
        for number in way {
            message = first_bytes(message, *number).unwrap().unwrap_or_default();
        }
        message
    }

    fn numbers(message: &[u8]) -> Vec<u32> {
        let mut reader = Reader::new(message);
        let mut found = Vec::new();
        while let Some((number, _)) = reader.field().unwrap() {
            found.push(number);
        }
        found
    }

    #[test]
    fn a_schema_loses_nothing() {
        let schema = json!({
            "type": "object", "description": "d", "required": ["a", "b"], "enum": ["x", 1], "pattern": "^a$",
            "minimum": 1.5, "maxLength": 300, "uniqueItems": true, "default": {"a": 1},
            "items": {"type": "string"}, "additionalProperties": true,
            "properties": {"x-a": {"type": "integer"}},
            "x-kubernetes-list-map-keys": ["name"],
        });
        let bytes = v2_definitions(&Map::from_iter([("com.example.v1.Foo".to_owned(), schema)]));
        assert_eq!(at(&bytes, &[1, 1]), b"com.example.v1.Foo");
        let schema = at(&bytes, &[1, 2]);
        let mut found = numbers(schema);
        found.sort_unstable();
        assert_eq!(found, [4, 5, 9, 11, 13, 16, 19, 19, 20, 20, 21, 22, 23, 25, 31]);
        assert_eq!(at(schema, &[22, 1]), b"object");
        assert_eq!(at(schema, &[20, 2]), b"x\n");
        assert_eq!(at(schema, &[21]), [2 << 3, 1], "a boolean");
        assert_eq!(at(schema, &[23, 1, 22, 1]), b"string");
        assert_eq!(at(schema, &[25, 1, 1]), b"x-a", "the name of a property is no extension");
        assert_eq!(at(schema, &[31, 1]), b"x-kubernetes-list-map-keys");
        assert_eq!(at(schema, &[31, 2, 2]), b"- name\n");
    }

    #[test]
    fn parameters_are_what_they_stand_in() {
        let path = json!({"/p": {"get": {
            "operationId": "get", "x-kubernetes-action": "get",
            "parameters": [{"$ref": "#/parameters/a-1"}, {"name": "q", "in": "query", "type": "string"},
                {"name": "p", "in": "path", "required": true, "type": "string"},
                {"name": "body", "in": "body", "schema": {"$ref": "#/definitions/a"}}],
            "responses": {"200": {"description": "OK", "schema": {"$ref": "#/definitions/a"}}}}}});
        let bytes = v2_paths(path.as_object().unwrap());
        assert_eq!(at(&bytes, &[2, 1]), b"/p");
        let get = at(&bytes, &[2, 2, 2]);
        assert_eq!(at(get, &[13, 2, 2]), b"get\n");
        let mut items = Vec::new();
        let mut reader = Reader::new(get);
        while let Some((number, wire)) = reader.field().unwrap() {
            if number == 8 {
                items.push(wire.bytes().unwrap());
            }
        }
        assert_eq!(at(items[0], &[2, 1]), b"#/parameters/a-1");
        assert_eq!(at(items[1], &[1, 2, 3, 4]), b"q");
        assert_eq!(at(items[2], &[1, 2, 4, 4]), b"p");
        assert_eq!(at(items[3], &[1, 1, 5, 1]), b"#/definitions/a");
        assert_eq!(at(get, &[9, 1, 1]), b"200");
        assert_eq!(at(get, &[9, 1, 2, 1, 2, 1, 1]), b"#/definitions/a");
    }

    #[test]
    fn a_joined_document_is_the_document() {
        let paths = json!({"/p": {"get": {"operationId": "get"}}});
        let definitions = json!({"a": {"type": "string"}, "b": {"type": "object"}});
        let head = json!({"swagger": "2.0", "info": {"title": "t", "version": "v"}});
        let joined = v2_joined(
            &head,
            &v2_paths(paths.as_object().unwrap()),
            &v2_definitions(definitions.as_object().unwrap()),
        );
        assert_eq!(at(&joined, &[8]), v2_paths(paths.as_object().unwrap()));
        assert_eq!(at(&joined, &[9, 1, 1]), b"a");
        assert_eq!(at(&joined, &[2, 2]), b"v");
        let whole = json!({"swagger": "2.0", "info": {"title": "t", "version": "v"}, "paths": paths, "definitions": definitions});
        assert_eq!(v2(&whole).len(), joined.len());
    }

    #[test]
    fn v3_keeps_references_apart() {
        let document = json!({"openapi": "3.0.0", "components": {"schemas": {"A": {
            "type": "object", "properties": {"b": {"$ref": "#/components/schemas/B"},
                "c": {"type": "string", "default": "x", "x-e": true}, "d": {"default": {}}}}}}});
        let bytes = v3(&document);
        let schema = at(&bytes, &[5, 1, 1, 2, 1]);
        assert_eq!(at(schema, &[31, 1, 2, 2, 1]), b"#/components/schemas/B");
        assert_eq!(at(schema, &[25]), b"object");
        let last = proto_properties(schema).pop().unwrap();
        assert_eq!(numbers(at(last, &[2, 1])), [33], "a default that is an object is there, and empty");
    }

    fn proto_properties(schema: &[u8]) -> Vec<&[u8]> {
        let mut reader = Reader::new(at(schema, &[31]));
        let mut found = Vec::new();
        while let Some((_, wire)) = reader.field().unwrap() {
            found.push(wire.bytes().unwrap());
        }
        found
    }
}
