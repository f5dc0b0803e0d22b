//! Discovery as it always was: one document for the groups, one for each version.

use api_types::status::Status;
use api_types::{Value, schema, table};
use http::Response;
use serde_json::{Map, json};

use super::{ServedGroup, ServedVersion};
use crate::body::Body;
use crate::call::Call;
use crate::catalog::Definitions;

fn answer(call: &Call, kind: &str, value: &Value) -> Result<Response<Body>, Status> {
    let message = schema::by_name(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}"))
        .ok_or_else(|| Status::internal(format_args!("no message {kind}")))?;
    call.value(200, message, value)
}

pub(super) fn versions(call: &Call) -> Result<Response<Body>, Status> {
    let value = json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": call.header(http::header::HOST)}],
    });
    answer(call, "APIVersions", &value)
}

fn group_value(group: &ServedGroup) -> Value {
    let name = &group.name;
    let version = |version: &ServedVersion| json!({"groupVersion": format!("{name}/{}", version.name), "version": version.name});
    json!({
        "name": name,
        "versions": group.versions.iter().map(version).collect::<Vec<_>>(),
        "preferredVersion": group.versions.first().map(version),
    })
}

pub(super) fn groups(call: &Call, all: &[ServedGroup]) -> Result<Response<Body>, Status> {
    let named = all.iter().filter(|group| !group.name.is_empty());
    let groups: Vec<Value> = named.map(group_value).collect();
    answer(call, "APIGroupList", &json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
}

/// One group; none when it is not served.
pub(super) fn group(call: &Call, all: &[ServedGroup], name: &str) -> Result<Option<Response<Body>>, Status> {
    let Some(group) = all.iter().find(|group| group.name == name && !name.is_empty()) else {
        return Ok(None);
    };
    let mut value = group_value(group);
    if let Some(object) = value.as_object_mut() {
        object.insert("kind".into(), "APIGroup".into());
        object.insert("apiVersion".into(), "v1".into());
    }
    answer(call, "APIGroup", &value).map(Some)
}

/// The resources of a version; none when it is not served.
pub(super) fn resources(
    call: &Call,
    definitions: &Definitions,
    group: &str,
    version: &str,
) -> Result<Option<Response<Body>>, Status> {
    let mut list = Vec::new();
    for resource in super::all_resources(definitions, group, version) {
        list.push(resource_value(resource));
        for sub in resource.subresources.iter().filter(|sub| sub.served_by_default) {
            let mut value = Map::new();
            value.insert("name".into(), format!("{}/{}", resource.resource, sub.name).into());
            value.insert("singularName".into(), "".into());
            value.insert("namespaced".into(), resource.namespaced.into());
            value.insert("kind".into(), Value::from(&sub.kind));
            value.insert("verbs".into(), json!(sub.verbs));
            if sub.group != group || sub.version != version {
                value.insert("group".into(), Value::from(&sub.group));
                value.insert("version".into(), Value::from(&sub.version));
            }
            list.push(Value::Object(value));
        }
    }
    if list.is_empty() {
        return Ok(None);
    }
    let value = json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": table::api_version(group, version),
        "resources": list,
    });
    answer(call, "APIResourceList", &value).map(Some)
}

fn resource_value(resource: &api_types::Resource) -> Value {
    let mut value = json!({
        "name": resource.resource,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": resource.verbs,
    });
    let optional = [
        ("shortNames", json!(resource.short_names), resource.short_names.is_empty()),
        ("categories", json!(resource.categories), resource.categories.is_empty()),
        (
            "storageVersionHash",
            json!(resource.storage_version_hash),
            resource.storage_version_hash.is_empty(),
        ),
    ];
    if let Some(object) = value.as_object_mut() {
        for (name, field, empty) in optional {
            if !empty {
                object.insert(name.into(), field);
            }
        }
    }
    value
}
