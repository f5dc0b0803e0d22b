//! A built-in type as a structural schema, as generators of definitions put it into theirs: out of the OpenAPI document
//! that the cluster serves, with every reference replaced by what it names.

use serde_json::{Map, Value, json};

/// Fields of OpenAPI that definitions do not have.
const DROPPED: [&str; 4] = [
    "x-kubernetes-patch-merge-key",
    "x-kubernetes-patch-strategy",
    "x-kubernetes-unions",
    "x-kubernetes-group-version-kind",
];

/// The schema of a type of a document, by its short name (`PodSpec`).
pub fn inline(document: &Value, short: &str) -> Value {
    let schemas = document["components"]["schemas"].as_object().expect("schemas");
    let suffix = format!(".{short}");
    let (name, _) = schemas.iter().find(|(name, _)| name.ends_with(&suffix)).expect(short);
    expand(schemas, &json!({"$ref": format!("#/components/schemas/{name}")}))
}

fn expand(schemas: &Map<String, Value>, schema: &Value) -> Value {
    let own = schema.as_object().expect("a schema");
    let reference = schema["$ref"].as_str().or_else(|| schema["allOf"][0]["$ref"].as_str());
    let mut whole = match reference {
        Some(path) => referenced(schemas, path.rsplit('/').next().expect("a name")),
        None => parts(schemas, own),
    };
    for field in ["default", "description"] {
        if let Some(value) = own.get(field) {
            whole.insert(field.into(), value.clone());
        }
    }
    // Zeros of Go's that the schema itself may forbid: generators of definitions leave them out.
    let is_empty =
        |default: &Value| *default == json!({}) || *default == json!("") && own.contains_key("enum");
    if own.get("default").is_some_and(is_empty) {
        whole.remove("default");
    }
    DROPPED.iter().for_each(|field| drop(whole.remove(*field)));
    whole.into()
}

fn referenced(schemas: &Map<String, Value>, name: &str) -> Map<String, Value> {
    let number = "^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$";
    let whole = match name.rsplit('.').next() {
        Some("IntOrString") => json!({"x-kubernetes-int-or-string": true}),
        Some("Quantity") => json!({"x-kubernetes-int-or-string": true, "pattern": number}),
        _ => expand(schemas, &schemas[name]),
    };
    whole.as_object().expect("a schema").clone()
}

/// The same with everything below it expanded.
fn parts(schemas: &Map<String, Value>, schema: &Map<String, Value>) -> Map<String, Value> {
    let mut whole = schema.clone();
    for part in ["items", "additionalProperties"] {
        if let Some(below) = schema.get(part).filter(|below| below.is_object()) {
            let mut below = expand(schemas, below);
            // An element that is not there has no default.
            below.as_object_mut().expect("a schema").remove("default");
            whole.insert(part.into(), below);
        }
    }
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        let expanded = properties.iter().map(|(name, part)| (name.clone(), expand(schemas, part)));
        whole.insert("properties".into(), expanded.collect::<Map<String, Value>>().into());
    }
    whole
}
