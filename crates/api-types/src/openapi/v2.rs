//! OpenAPI v2 out of the same paths and schemas as v3: parameters and bodies by their old names, references to
//! `#/definitions/`, no defaults, no alternatives.

use crate::schema::by_name;
use crate::table::Resource;
use serde_json::{Map, Value, json};

use super::definitions::closure;
use super::{CustomSchema, paths};

/// Parameters that stand in each operation; all others stand in `parameters` once (older kubectls look for these two).
const IN_PLACE: [&str; 2] = ["dryRun", "fieldValidation"];
const METHODS: [&str; 7] = ["get", "put", "post", "delete", "options", "head", "patch"];

/// Paths and definitions of some resources, in the form of v2.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Part {
    pub paths: Map<String, Value>,
    pub definitions: Map<String, Value>,
    /// Parameters that `paths` refers to, by their names in the document.
    pub parameters: Map<String, Value>,
}

/// Everything that a document holds besides parts.
pub fn head() -> Map<String, Value> {
    let head = json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": super::RELEASE},
        "security": [{"BearerToken": []}],
        "securityDefinitions": {"BearerToken": {
            "type": "apiKey", "name": "authorization", "in": "header", "description": "Bearer Token authentication"
        }},
    });
    head.as_object().cloned().unwrap_or_default()
}

/// Adds to schemas, while they have the form of v3.
pub type Describe<'a> = &'a dyn Fn(&mut Map<String, Value>);

/// The part of built-in resources of a group and version.
pub fn built_in(group: &str, version: &str, resources: &[&Resource], describe: Describe<'_>) -> Part {
    let mut v3 = Map::new();
    v3.insert(format!("/{}/", super::path_of(group, version)), paths::discovery(group, version));
    for resource in resources {
        paths::add(resource, &mut v3);
    }
    of_paths(v3, describe)
}

/// The part of paths that are v3's ([`super::other_paths`]).
pub fn of_paths(v3: Map<String, Value>, describe: Describe<'_>) -> Part {
    let v3 = Value::Object(v3);
    let mut schemas = closure(&v3, &Map::new());
    describe(&mut schemas);
    part(&v3, schemas, &|_| true)
}

/// The part of a definition's version; `known` are the parameters that the document has anyway: others stand in place.
pub fn custom(kind: &CustomSchema<'_>, known: &Map<String, Value>) -> Part {
    let mut v3 = Map::new();
    paths::add(kind.resource, &mut v3);
    let mut schemas = kind.published(true);
    schemas.retain(|name, _| by_name(name).is_none());
    part(&Value::Object(v3), schemas, &|name| known.contains_key(name))
}

/// Whether the document has, or may have, a parameter of this name.
type MayShare<'a> = &'a dyn Fn(&str) -> bool;

fn part(v3: &Value, schemas: Map<String, Value>, may_share: MayShare<'_>) -> Part {
    let mut part = Part { definitions: schemas, ..Part::default() };
    part.definitions.values_mut().for_each(downgrade);
    for (path, item) in v3.as_object().into_iter().flatten() {
        let mut converted = Map::new();
        for (key, value) in item.as_object().into_iter().flatten() {
            let value = match key.as_str() {
                "parameters" => parameters(value, &mut part.parameters, may_share).into(),
                method if METHODS.contains(&method) => operation(value, &mut part.parameters, may_share),
                _ => value.clone(),
            };
            converted.insert(key.clone(), value);
        }
        part.paths.insert(path.clone(), converted.into());
    }
    part
}

fn operation(v3: &Value, shared: &mut Map<String, Value>, may_share: MayShare<'_>) -> Value {
    let Some(mut operation) = v3.as_object().cloned() else { return Value::Null };
    let mut all = parameters(&v3["parameters"], shared, may_share);
    let body = operation.remove("requestBody");
    let (consumed, sent) = body.as_ref().map_or_else(Default::default, |body| media(&body["content"]));
    if let (Some(body), Some(sent)) = (&body, sent) {
        let mut parameter = json!({"name": "body", "in": "body", "schema": sent});
        if body["required"] == true {
            parameter["required"] = true.into();
        }
        all.insert(0, parameter);
    }
    if all.is_empty() {
        operation.remove("parameters");
    } else {
        operation.insert("parameters".into(), all.into());
    }
    let mut produced = Vec::new();
    if let Some(Value::Object(answers)) = operation.get_mut("responses") {
        for answer in answers.values_mut() {
            let (types, schema) = media(&answer["content"]);
            let mut converted = json!({"description": answer["description"]});
            if let Some(schema) = schema {
                converted["schema"] = schema;
                produced = types;
            }
            *answer = converted;
        }
    }
    let consumed = if consumed.is_empty() { vec!["*/*".to_owned()] } else { consumed };
    operation.insert("consumes".into(), json!(consumed));
    operation.insert("produces".into(), json!(produced));
    operation.insert("schemes".into(), json!(["https"]));
    operation.into()
}

/// The media types of a content, and the schema, which is the same for all.
fn media(content: &Value) -> (Vec<String>, Option<Value>) {
    let Some(content) = content.as_object() else { return (Vec::new(), None) };
    let schema = content.values().next().map(|media| {
        let mut found = media["schema"].clone();
        downgrade(&mut found);
        found
    });
    (content.keys().cloned().collect(), schema)
}

fn parameters(v3: &Value, shared: &mut Map<String, Value>, may_share: MayShare<'_>) -> Vec<Value> {
    let convert = |parameter: &Value| {
        let parameter = parameter_of(parameter);
        let name = parameter["name"].as_str().unwrap_or_default();
        let own = IN_PLACE.contains(&name) || (parameter["in"] == "path" && name != "namespace");
        let key = format!("{name}-{}", mark(&parameter));
        if own || !may_share(&key) {
            return parameter;
        }
        let reference = json!({"$ref": format!("#/parameters/{key}")});
        shared.insert(key, parameter);
        reference
    };
    v3.as_array().into_iter().flatten().map(convert).collect()
}

/// A parameter of a path or query: its type stands beside its name.
fn parameter_of(v3: &Value) -> Value {
    let Some(mut parameter) = v3.as_object().cloned() else { return Value::Null };
    if let Some(Value::Object(schema)) = parameter.remove("schema") {
        parameter.extend(schema);
    }
    parameter.into()
}

/// Tells parameters of one name apart: a hash (FNV-1a) of what they say.
fn mark(parameter: &Value) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in parameter.to_string().bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("{:08x}", hash >> 32)
}

/// Brings a schema of v3 into v2's form.
fn downgrade(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else { return };
    // v3 wraps a reference that has neighbours.
    if let Some(reference) = object.get("allOf").and_then(|all| all[0].get("$ref")).cloned() {
        object.remove("allOf");
        object.insert("$ref".into(), reference);
    }
    if let Some(Value::String(reference)) = object.get_mut("$ref") {
        *reference = reference.replace("#/components/schemas/", "#/definitions/");
    }
    object.remove("default");
    if object.remove("oneOf").is_some() && !object.contains_key("type") {
        object.insert("type".into(), "string".into());
    }
    for field in ["items", "additionalProperties"] {
        object.get_mut(field).into_iter().for_each(downgrade);
    }
    let properties = object.get_mut("properties").and_then(Value::as_object_mut);
    properties.into_iter().flat_map(Map::values_mut).for_each(downgrade);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::resources;

    fn apps() -> Part {
        let resources: Vec<&Resource> =
            resources().iter().filter(|r| r.group == "apps" && r.version == "v1").collect();
        built_in("apps", "v1", &resources, &|_| {})
    }

    #[test]
    fn schemas_take_their_old_form() {
        let part = apps();
        let spec = &part.definitions["io.k8s.api.apps.v1.DeploymentSpec"]["properties"];
        assert_eq!(spec["strategy"]["$ref"], "#/definitions/io.k8s.api.apps.v1.DeploymentStrategy");
        assert_eq!(spec["strategy"]["x-kubernetes-patch-strategy"], "retainKeys");
        assert_eq!(
            part.definitions["io.k8s.apimachinery.pkg.util.intstr.IntOrString"]["format"],
            "int-or-string"
        );
        let text = json!(part.definitions).to_string();
        assert!(!text.contains("#/components/") && !text.contains("allOf") && !text.contains("\"oneOf\":[{"));
    }

    #[test]
    fn operations_take_their_old_form() {
        let part = apps();
        assert!(part.paths["/apis/apps/v1/"]["get"].is_object());
        let item = &part.paths["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"];
        let patch = &item["patch"];
        assert_eq!(patch["consumes"][0], "application/apply-patch+yaml");
        assert_eq!(patch["produces"][0], "application/json");
        assert_eq!(patch["schemes"], json!(["https"]));
        let body = &patch["parameters"][0];
        assert_eq!((&body["in"], &body["required"]), (&json!("body"), &json!(true)));
        let validation =
            patch["parameters"].as_array().unwrap().iter().find(|p| p["name"] == "fieldValidation");
        assert_eq!(validation.unwrap()["type"], "string");
        assert_eq!(
            patch["responses"]["200"]["schema"]["$ref"],
            "#/definitions/io.k8s.api.apps.v1.Deployment"
        );
        assert_eq!(patch["responses"]["401"], json!({"description": "Unauthorized"}));
        assert_eq!(item["parameters"][0]["type"], "string");
        let shared = item["parameters"][1]["$ref"].as_str().unwrap().strip_prefix("#/parameters/").unwrap();
        assert_eq!(part.parameters[shared]["name"], "namespace");
        assert!(!json!(part.paths).to_string().contains("#/components/"));
    }
}
