//! Documents of OpenAPI v2 that other servers made, and one document out of several (upstream:
//! `kube-openapi/pkg/aggregator`).

use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};

const GVKS: &str = "x-kubernetes-group-version-kind";
const DEFINITIONS: &str = "#/definitions/";
const PARAMETERS: &str = "#/parameters/";

/// Leaves the paths that `keeps` lets through, and the definitions that no other path needs.
pub fn filter(document: &mut Value, keeps: impl Fn(&str) -> bool) {
    let before = used(document);
    if let Some(paths) = document.get_mut("paths").and_then(Value::as_object_mut) {
        paths.retain(|path, _| keeps(path));
    }
    let after = used(document);
    if let Some(definitions) = document.get_mut("definitions").and_then(Value::as_object_mut) {
        definitions.retain(|name, _| after.contains(name) || !before.contains(name));
    }
}

/// Adds what a document holds to another. Paths that are there already stay as they are; definitions and parameters that
/// are there and differ get another name: `…_v2`.
pub fn merge(into: &mut Value, mut from: Value) {
    let has = |path: &str| into["paths"].get(path).is_some();
    let paths = || from["paths"].as_object().into_iter().flatten();
    if paths().all(|(path, _)| has(path)) {
        return;
    }
    if paths().any(|(path, _)| has(path)) {
        filter(&mut from, |path| !has(path));
    }
    rename(into, &mut from, "definitions", DEFINITIONS, same_but_kinds);
    rename(into, &mut from, "parameters", PARAMETERS, |a, b| a == b);
    for field in ["paths", "definitions", "parameters"] {
        let Value::Object(added) = from[field].take() else { continue };
        if !into[field].is_object() {
            into[field] = Map::new().into();
        }
        let Some(known) = into[field].as_object_mut() else { continue };
        for (name, value) in added {
            match known.get_mut(&name) {
                None => drop(known.insert(name, value)),
                Some(known) if field == "definitions" => add_kinds(known, &value),
                Some(_) => {}
            }
        }
    }
}

/// Definitions that paths need, and those that these need.
fn used(document: &Value) -> HashSet<String> {
    let mut found = HashSet::new();
    let mut open = vec![&document["paths"], &document["parameters"], &document["responses"]];
    while let Some(value) = open.pop() {
        match value {
            Value::Object(map) => {
                let name =
                    map.get("$ref").and_then(Value::as_str).and_then(|text| text.strip_prefix(DEFINITIONS));
                if let Some(name) = name
                    && found.insert(name.to_owned())
                {
                    open.extend(document["definitions"].get(name));
                }
                open.extend(map.values());
            }
            Value::Array(list) => open.extend(list),
            _ => {}
        }
    }
    found
}

/// Gives other names to what `from` defines differently.
fn rename(into: &Value, from: &mut Value, field: &str, prefix: &str, is_same: fn(&Value, &Value) -> bool) {
    let Some(own) = from[field].as_object() else { return };
    let mut renames: HashMap<String, String> = HashMap::new();
    let mut taken: HashSet<String> = HashSet::new();
    for (name, value) in own {
        let known = |name: &str| into[field].get(name);
        if known(name).is_none_or(|known| is_same(known, value)) {
            continue;
        }
        let others = (2..).map(|number| format!("{name}_v{number}"));
        let fits = |other: &String| match known(other) {
            Some(known) => is_same(known, value),
            None => !own.contains_key(other) && !taken.contains(other),
        };
        let Some(other) = others.into_iter().find(fits) else { continue };
        taken.insert(other.clone());
        renames.insert(name.clone(), other);
    }
    if renames.is_empty() {
        return;
    }
    if let Some(own) = from[field].as_object_mut() {
        let all = std::mem::take(own);
        own.extend(all.into_iter().map(|(name, value)| (renames.get(&name).cloned().unwrap_or(name), value)));
    }
    redirect(from, prefix, &renames);
}

/// References to what has another name now.
fn redirect(value: &mut Value, prefix: &str, renames: &HashMap<String, String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let name =
                    value.as_str().filter(|_| key == "$ref").and_then(|text| text.strip_prefix(prefix));
                match name.and_then(|name| renames.get(name)) {
                    Some(other) => *value = format!("{prefix}{other}").into(),
                    None => redirect(value, prefix, renames),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|value| redirect(value, prefix, renames)),
        _ => {}
    }
}

/// Whether definitions are the same, whatever kinds they say they are of.
fn same_but_kinds(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else { return a == b };
    let count = |map: &Map<String, Value>| map.keys().filter(|key| *key != GVKS).count();
    count(a) == count(b) && a.iter().all(|(key, value)| key == GVKS || b.get(key) == Some(value))
}

/// Both definitions' kinds, in order.
fn add_kinds(known: &mut Value, other: &Value) {
    let Some(others) = other[GVKS].as_array() else { return };
    let mut all = known[GVKS].as_array().cloned().unwrap_or_default();
    let missing: Vec<Value> = others.iter().filter(|kind| !all.contains(kind)).cloned().collect();
    if missing.is_empty() {
        return;
    }
    all.extend(missing);
    let text = |kind: &Value, field: &str| kind[field].as_str().unwrap_or_default().to_owned();
    all.sort_by_cached_key(|kind| {
        format!("{}/{}.{}", text(kind, "group"), text(kind, "version"), text(kind, "kind"))
    });
    known[GVKS] = all.into();
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn reference(name: &str) -> Value {
        json!({"$ref": format!("#/definitions/{name}")})
    }

    fn remote() -> Value {
        json!({
            "paths": {
                "/apis/a.b/v1/things": {"get": {"schema": reference("Thing"), "parameters": [{"$ref": "#/parameters/limit"}]}},
                "/apis/a.b/v2/things": {"get": {"schema": reference("Other")}},
            },
            "definitions": {
                "Thing": {"properties": {"meta": reference("Meta")}},
                "Meta": {"type": "object", "description": "theirs"},
                "Other": {"properties": {"deep": reference("Deep")}},
                "Deep": {"type": "string"},
                "Unused": {"type": "string"},
            },
            "parameters": {"limit": {"name": "limit", "type": "string"}},
        })
    }

    #[test]
    fn only_the_paths_of_a_version_are_taken() {
        let mut document = remote();
        filter(&mut document, |path| path.starts_with("/apis/a.b/v1/"));
        let names: Vec<&String> = document["definitions"].as_object().unwrap().keys().collect();
        assert_eq!(names, ["Meta", "Thing", "Unused"]);
        assert_eq!(document["paths"].as_object().unwrap().len(), 1);
    }

    #[test]
    fn what_differs_gets_another_name() {
        let mut own = json!({
            "paths": {"/apis/a.b/v2/things": {"get": {"own": true}}},
            "definitions": {"Meta": {"type": "object", "description": "ours"}, "Unused": {"type": "string"}},
            "parameters": {"limit": {"name": "limit", "type": "integer"}},
        });
        merge(&mut own, remote());
        assert_eq!(own["paths"]["/apis/a.b/v2/things"], json!({"get": {"own": true}}));
        assert_eq!(own["definitions"]["Thing"]["properties"]["meta"], reference("Meta_v2"));
        assert_eq!(own["definitions"]["Meta"]["description"], "ours");
        assert_eq!(own["definitions"]["Meta_v2"]["description"], "theirs");
        assert!(own["definitions"].get("Other").is_none());
        assert_eq!(own["parameters"]["limit_v2"]["type"], "string");
        let path = &own["paths"]["/apis/a.b/v1/things"]["get"];
        assert_eq!(path["parameters"][0]["$ref"], "#/parameters/limit_v2");
        // The same again adds nothing.
        let before = own.clone();
        merge(&mut own, remote());
        assert_eq!(own, before);
    }

    #[test]
    fn a_definition_is_of_the_kinds_of_both() {
        let kind = |version: &str| json!({"group": "a.b", "version": version, "kind": "Options"});
        let of = |path: &str, version: &str| json!({"paths": {path: {"$ref": "#/definitions/O"}}, "definitions": {"O": {"type": "object", GVKS: [kind(version)]}}});
        let mut own = of("/x", "v2");
        merge(&mut own, of("/y", "v1"));
        assert_eq!(own["definitions"]["O"][GVKS], json!([kind("v1"), kind("v2")]));
    }

    #[test]
    fn garbage_adds_nothing() {
        let mut own = json!({"paths": {"/x": {}}, "definitions": {}});
        let before = own.clone();
        for garbage in [json!(null), json!([]), json!({"paths": 5, "definitions": []}), json!({"paths": {}})]
        {
            merge(&mut own, garbage);
        }
        assert_eq!(own, before);
    }
}
