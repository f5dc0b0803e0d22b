//! OpenAPI v2: everything in one document. What is built in is written once a process and kept packed; what
//! definitions add is written behind it.

use std::collections::HashSet;
use std::sync::OnceLock;

use api_types::openapi::merge::merge;
use api_types::openapi::{proto, v2};
use api_types::{Resource, Value};
use serde_json::Map;

use super::descriptions::Descriptions;
use super::documents::{self, Packed};
use crate::catalog::Definitions;

/// The built-in half: entries of `paths` and `definitions`, in both forms.
struct BuiltIn {
    parameters: Map<String, Value>,
    paths: Packed,
    definitions: Packed,
    proto_paths: Packed,
    proto_definitions: Packed,
}

fn built_in() -> &'static BuiltIn {
    static BUILT_IN: OnceLock<BuiltIn> = OnceLock::new();
    BUILT_IN.get_or_init(BuiltIn::new)
}

impl BuiltIn {
    fn new() -> Self {
        let descriptions = Descriptions::load();
        let describe = |schemas: &mut Map<String, Value>| descriptions.describe(schemas);
        let others = documents::other_paths().values().flat_map(Clone::clone).collect();
        let mut parts = vec![v2::of_paths(others, &describe)];
        for (group, version) in documents::all(&Definitions::default()) {
            let resources: Vec<&Resource> =
                super::resources(&group, &version).map(|r| -> &Resource { r }).collect();
            parts.push(v2::built_in(&group, &version, &resources, &describe));
        }
        let mut seen = HashSet::new();
        let mut parameters = Map::new();
        let (mut paths, mut definitions) = (Vec::new(), Vec::new());
        let (mut proto_paths, mut proto_definitions) = (Vec::new(), Vec::new());
        for mut part in parts {
            part.definitions.retain(|name, _| seen.insert(name.clone()));
            entries(&part.paths, &mut paths);
            entries(&part.definitions, &mut definitions);
            proto_paths.extend(proto::v2_paths(&part.paths));
            proto_definitions.extend(proto::v2_definitions(&part.definitions));
            parameters.extend(part.parameters);
        }
        Self {
            parameters,
            paths: Packed::new(&paths),
            definitions: Packed::new(&definitions),
            proto_paths: Packed::new(&proto_paths),
            proto_definitions: Packed::new(&proto_definitions),
        }
    }
}

/// Appends the entries of a JSON object.
fn entries(map: &Map<String, Value>, out: &mut Vec<u8>) {
    for (name, value) in map {
        if !out.is_empty() {
            out.push(b',');
        }
        out.extend_from_slice(format!("{}:{value}", Value::from(name.as_str())).as_bytes());
    }
}

/// What definitions add.
fn custom<'a>(
    definitions: &'a Definitions,
    parameters: &'a Map<String, Value>,
) -> impl Iterator<Item = v2::Part> + 'a {
    let kinds = definitions.list.iter().flat_map(|definition| &definition.kinds);
    kinds.map(|kind| kind.publish(|schema| v2::custom(schema, parameters)))
}

/// Everything but paths and definitions.
fn head(parameters: &Map<String, Value>) -> Map<String, Value> {
    let mut head = v2::head();
    head.insert("parameters".into(), parameters.clone().into());
    head
}

/// The document as JSON.
pub(super) fn json(definitions: &Definitions) -> Vec<u8> {
    let own = built_in();
    let (mut paths, mut schemas) = (own.paths.unpack(), own.definitions.unpack());
    for part in custom(definitions, &own.parameters) {
        entries(&part.paths, &mut paths);
        entries(&part.definitions, &mut schemas);
    }
    let mut out = Value::Object(head(&own.parameters)).to_string().into_bytes();
    out.pop();
    for (name, entries) in [("paths", paths), ("definitions", schemas)] {
        out.extend_from_slice(format!(",\"{name}\":{{").as_bytes());
        out.extend_from_slice(&entries);
        out.push(b'}');
    }
    out.push(b'}');
    out
}

/// The document with what other servers add.
pub(super) fn merged(definitions: &Definitions, others: &[Packed]) -> Value {
    let own = serde_json::from_slice(&json(definitions));
    let mut all: Value = own.expect("invariant: what is written here is JSON");
    for other in others {
        let other = serde_json::from_slice(&other.unpack());
        merge(&mut all, other.expect("invariant: what was packed is JSON"));
    }
    all
}

/// The document as protobuf (`openapi.v2.Document` of google/gnostic).
pub(super) fn protobuf(definitions: &Definitions) -> Vec<u8> {
    let own = built_in();
    let (mut paths, mut schemas) = (own.proto_paths.unpack(), own.proto_definitions.unpack());
    for part in custom(definitions, &own.parameters) {
        paths.extend(proto::v2_paths(&part.paths));
        schemas.extend(proto::v2_definitions(&part.definitions));
    }
    proto::v2_joined(&head(&own.parameters).into(), &paths, &schemas)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_holds_together() {
        let document: Value = serde_json::from_slice(&json(&Definitions::default())).unwrap();
        let names =
            |field: &str| document[field].as_object().unwrap().keys().cloned().collect::<HashSet<_>>();
        let (definitions, parameters) = (names("definitions"), names("parameters"));
        let mut references = Vec::new();
        collect(&document, &mut references);
        assert!(references.len() > 1000 && !parameters.is_empty());
        for reference in references {
            let definition = reference.strip_prefix("#/definitions/").map(|name| definitions.contains(name));
            let parameter = reference.strip_prefix("#/parameters/").map(|name| parameters.contains(name));
            assert_eq!(definition.or(parameter), Some(true), "{reference}");
        }
        assert!(document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["get"].is_object());
        assert!(document["paths"]["/apis/apps/"].is_object());
        assert_eq!(document["swagger"], "2.0");
    }

    fn collect(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
                map.values().for_each(|value| collect(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| collect(value, found)),
            _ => {}
        }
    }
}
