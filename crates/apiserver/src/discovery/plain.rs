//! Discovery as it always was: one document for the groups, one for each version.

use api_types::status::Status;
use api_types::{Value, schema, table};
use http::Response;
use serde_json::{Map, json};

use crate::body::Body;
use crate::call::Call;

fn answer(call: &Call, kind: &str, value: &Value) -> Result<Response<Body>, Status> {
    let message = schema::by_name(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}"))
        .ok_or_else(|| Status::internal(format_args!("no message {kind}")))?;
    call.value(200, message, value)
}

pub(super) fn versions(call: &Call) -> Result<Response<Body>, Status> {
    let value = json!({
        "kind": "APIVersions",
        "apiVersion": "v1",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": call.header(http::header::HOST)}],
    });
    answer(call, "APIVersions", &value)
}

fn group_value(group: &table::Group) -> Value {
    let version =
        |version: &str| json!({"groupVersion": format!("{}/{version}", group.name), "version": version});
    let mut list: Vec<&str> = super::versions(group).collect();
    if let Some(at) = list.iter().position(|version| *version == group.preferred_version) {
        let preferred = list.remove(at);
        list.insert(0, preferred);
    }
    json!({
        "name": group.name,
        "versions": list.iter().map(|text| version(text)).collect::<Vec<_>>(),
        "preferredVersion": version(list.first().copied().unwrap_or(group.preferred_version)),
    })
}

pub(super) fn groups(call: &Call) -> Result<Response<Body>, Status> {
    let groups: Vec<Value> =
        super::groups().filter(|group| !group.name.is_empty()).map(group_value).collect();
    answer(call, "APIGroupList", &json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
}

pub(super) fn group(call: &Call, name: &str) -> Option<Result<Response<Body>, Status>> {
    let group = super::groups().find(|group| group.name == name && !name.is_empty())?;
    let mut value = group_value(group);
    if let Some(object) = value.as_object_mut() {
        object.insert("kind".into(), "APIGroup".into());
        object.insert("apiVersion".into(), "v1".into());
    }
    Some(answer(call, "APIGroup", &value))
}

pub(super) fn resources(call: &Call, group: &str, version: &str) -> Option<Result<Response<Body>, Status>> {
    let mut list = Vec::new();
    for resource in super::resources(group, version) {
        list.push(resource_value(resource));
        for sub in resource.subresources.iter().filter(|sub| sub.served_by_default) {
            let mut value = Map::new();
            value.insert("name".into(), format!("{}/{}", resource.resource, sub.name).into());
            value.insert("singularName".into(), "".into());
            value.insert("namespaced".into(), resource.namespaced.into());
            value.insert("kind".into(), sub.kind.into());
            value.insert("verbs".into(), json!(sub.verbs));
            if (sub.group, sub.version) != (group, version) {
                value.insert("group".into(), sub.group.into());
                value.insert("version".into(), sub.version.into());
            }
            list.push(Value::Object(value));
        }
    }
    if list.is_empty() {
        return None;
    }
    let value = json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": table::api_version(group, version),
        "resources": list,
    });
    Some(answer(call, "APIResourceList", &value))
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
