//! Generated OpenAPI against the facts of upstream's documents (`crates/xtask/data`).

use api_types::{openapi, schema, table};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

fn facts() -> Map<String, Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../xtask/data/openapi-facts.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Brings a generated schema into the form of the facts: bare reference names, no defaults of elements.
fn plain(mut schema: Value) -> Value {
    if let Some(map) = schema.as_object_mut() {
        if let Some(all) = map.remove("allOf") {
            map.insert("$ref".into(), all[0]["$ref"].clone());
        }
        if let Some(Value::String(name)) = map.get_mut("$ref") {
            *name = name.replace("#/components/schemas/", "");
        }
        for key in ["items", "additionalProperties"] {
            if let Some(element) = map.remove(key) {
                let mut element = plain(element);
                element.as_object_mut().unwrap().remove("default");
                map.insert(key.into(), element);
            }
        }
    }
    schema
}

#[test]
fn definitions_are_upstreams() {
    let mut differences = Vec::new();
    for (name, expected) in facts() {
        let Some(message) = schema::by_name(&name) else {
            assert!(["Patch", "Info"].iter().any(|n| name.ends_with(n)), "{name} is not generated");
            continue;
        };
        let found = openapi::definition(message);
        for key in ["type", "format", "oneOf", "x-kubernetes-map-type"] {
            if found.get(key) != expected.get(key) {
                differences.push(format!(
                    "{name} {key}: {:?}, expected {:?}",
                    found.get(key),
                    expected.get(key)
                ));
            }
        }
        let sorted = |v: &Value| {
            let mut names: Vec<String> =
                v.as_array().map(|a| a.iter().map(ToString::to_string).collect()).unwrap_or_default();
            names.sort();
            names
        };
        if sorted(&found["required"]) != sorted(&expected["required"]) {
            differences
                .push(format!("{name} required: {}, expected {}", found["required"], expected["required"]));
        }
        let empty = Map::new();
        let properties = |v: &Value| -> BTreeMap<String, Value> {
            let map = v["properties"].as_object().unwrap_or(&empty);
            map.iter().map(|(k, v)| (k.clone(), plain(v.clone()))).collect()
        };
        let (mut mine, theirs) = (properties(&found), properties(&expected));
        for (key, expected) in theirs {
            let found = mine.remove(&key).unwrap_or(Value::Null);
            if found != expected {
                differences.push(format!("{name}.{key}: {found}, expected {expected}"));
            }
        }
        differences.extend(mine.keys().map(|k| format!("{name}.{k}: not upstream's")));
    }
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
}

#[test]
fn documents_hold_together() {
    for group in table::groups() {
        for version in group.versions {
            let document = openapi::document(group.name, version.version, &|_| true).unwrap();
            let schemas = document["components"]["schemas"].as_object().unwrap();
            assert_eq!(openapi::closure(&document, &Map::new()).len(), schemas.len());
            let mut ids = std::collections::HashSet::new();
            for (path, operations) in document["paths"].as_object().unwrap() {
                assert!(path.starts_with(&format!("/{}", openapi::path_of(group.name, version.version))));
                for (method, operation) in
                    operations.as_object().unwrap().iter().filter(|(m, _)| *m != "parameters")
                {
                    assert!(ids.insert(operation["operationId"].to_string()), "{method} {path}");
                }
            }
        }
    }
    assert!(openapi::document("apps", "v9", &|_| true).is_none());
}

#[test]
fn flags_are_flags() {
    let document = openapi::document("", "v1", &|r| r.served_by_default).unwrap();
    let log = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}/log"]["get"];
    let parameters = log["parameters"].as_array().unwrap();
    let ty = |name: &str| parameters.iter().find(|p| p["name"] == name).unwrap()["schema"]["type"].clone();
    assert_eq!(
        (ty("follow"), ty("tailLines"), ty("container")),
        (json!("boolean"), json!("integer"), json!("string"))
    );
}

/// What kubectl looks for before it lets the server validate.
#[test]
fn patches_take_field_validation() {
    let document = openapi::document("", "v1", &|r| r.served_by_default).unwrap();
    let patch = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"];
    assert_eq!(patch["operationId"], "patchCoreV1NamespacedPod");
    assert_eq!(
        patch["x-kubernetes-group-version-kind"],
        json!({"group": "", "version": "v1", "kind": "Pod"})
    );
    assert!(patch["parameters"].as_array().unwrap().iter().any(|p| p["name"] == "fieldValidation"));
}
