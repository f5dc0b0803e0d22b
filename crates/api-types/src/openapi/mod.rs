//! OpenAPI documents, made from the same tables as everything else.
//!
//! ```
//! let document = api_types::openapi::document("apps", "v1", &|r| r.served_by_default).unwrap();
//! let schemas = &document["components"]["schemas"];
//! assert_eq!(schemas["io.k8s.api.apps.v1.DeploymentSpec"]["properties"]["replicas"]["format"], "int32");
//! assert!(document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"].is_object());
//! ```
//!
//! `/openapi/v3/<path>` serves [`document`]; [`path_of`] gives the key in the index. [`v2`] makes the parts of the one
//! document of OpenAPI v2 out of the same, [`merge`] joins it with those of other servers, [`proto`] is the protobuf of both. [`CustomSchema`] is what a definition adds.
//!
//! Reading order: `definitions.rs`, `paths.rs`, `custom.rs`, `v2.rs`, `proto.rs`.

mod custom;
mod definitions;
pub mod merge;
mod paths;
pub mod proto;
pub mod v2;

pub use custom::CustomSchema;
pub use definitions::{closure, definition};

use crate::table::{Resource, resources};
use serde_json::{Map, Value, json};

/// Release whose API this is.
pub const RELEASE: &str = crate::RELEASE;

/// Names what documents are made of, in this build.
pub const SOURCE: &str = env!("OPENAPI_SOURCE");

/// `api/v1` or `apis/apps/v1`: the path of a group and version, and its key in the index of `/openapi/v3`.
pub fn path_of(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// The document of one group and version with the resources that `served` lets through; none when there are none.
pub fn document(group: &str, version: &str, served: &dyn Fn(&Resource) -> bool) -> Option<Value> {
    let of_group = |r: &&Resource| r.group == group && r.version == version && served(r);
    let resources: Vec<&Resource> = resources().iter().filter(of_group).collect();
    if resources.is_empty() {
        return None;
    }
    Some(document_of(group, version, &resources, &Map::new()))
}

/// The name of a kind's schema: that of its message or, for a custom kind, upstream's (`com.example.v1.Widget`).
pub fn schema_name(resource: &Resource) -> String {
    if let Some(message) = resource.message {
        return message.name.to_owned();
    }
    let reversed: Vec<&str> = resource.group.split('.').rev().collect();
    format!("{}.{}.{}", reversed.join("."), resource.version, resource.kind)
}

/// The name of the schema of a kind's list.
pub fn list_schema_name(resource: &Resource) -> String {
    let name = schema_name(resource);
    match name.strip_suffix(resource.kind.as_str()) {
        Some(package) if resource.message.is_none() && !resource.list_kind.is_empty() => {
            format!("{package}{}", resource.list_kind)
        }
        _ => format!("{name}List"),
    }
}

/// The document of these resources. `custom`: schemas of those that have no message, by name, lists too.
pub fn document_of(
    group: &str,
    version: &str,
    resources: &[&Resource],
    custom: &Map<String, Value>,
) -> Value {
    let mut paths = Map::new();
    paths.insert(format!("/{}/", path_of(group, version)), paths::discovery(group, version));
    for resource in resources {
        paths::add(resource, &mut paths);
    }
    document_with(paths, custom)
}

/// The key in the index and the path of what is served besides resources: the server's own, and those of groups.
pub fn other_paths<'a>(groups: impl Iterator<Item = &'a str>) -> Vec<(String, Map<String, Value>)> {
    let own = paths::of_server().into_iter().map(|(key, path)| (key.to_owned(), path));
    let named = groups.filter(|group| !group.is_empty());
    let groups = named.map(|group| (format!("apis/{group}"), paths::of_group(group)));
    own.chain(groups)
        .map(|(key, path)| {
            let paths = Map::from_iter([(format!("/{key}/"), path)]);
            (key, paths)
        })
        .collect()
}

/// The document of these paths.
pub fn document_with(paths: Map<String, Value>, custom: &Map<String, Value>) -> Value {
    let schemas = closure(&Value::Object(paths.clone()), custom);
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": RELEASE},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"BearerToken": {
                "type": "apiKey", "name": "authorization", "in": "header", "description": "Bearer Token authentication"
            }},
        },
    })
}
