//! Discovery in one document (`apidiscovery.k8s.io/v2`).

use api_types::status::Status;
use api_types::{Resource, Subresource, Value, codec, schema};
use serde_json::{Map, json};

use super::{ServedGroup, ServedVersion};
use crate::catalog::Definitions;
use crate::negotiate::Format;

const API_VERSION: &str = "apidiscovery.k8s.io/v2";
const KIND: &str = "APIGroupDiscoveryList";

pub(super) fn media_type(format: Format) -> String {
    format!("{};g=apidiscovery.k8s.io;v=v2;as={KIND}", format.media_type())
}

/// A document as protobuf.
pub(super) fn protobuf(json: &[u8]) -> Result<Vec<u8>, Status> {
    let value = serde_json::from_slice(json).map_err(Status::internal)?;
    let message = schema::lookup("apidiscovery.k8s.io", "v2", KIND)
        .ok_or_else(|| Status::internal(format_args!("no message {KIND}")))?;
    codec::to_envelope(message, API_VERSION, KIND, &value).map_err(Status::internal)
}

/// The document of `/api`.
pub(super) fn core() -> Value {
    let all = super::aggregated_groups(&Definitions::default(), Vec::new());
    document(all.iter().filter(|group| group.name.is_empty()), &Definitions::default())
}

/// The document of `/apis`.
pub(super) fn groups(all: &[ServedGroup], definitions: &Definitions) -> Value {
    document(all.iter().filter(|group| !group.name.is_empty()), definitions)
}

fn document<'a>(groups: impl Iterator<Item = &'a ServedGroup>, definitions: &Definitions) -> Value {
    let items: Vec<Value> = groups
        .map(|group| {
            let version = |version: &ServedVersion| match &version.remote {
                Some(remote) => remote.clone(),
                None => {
                    let all = super::all_resources(definitions, &group.name, &version.name);
                    let resources: Vec<Value> = all.map(resource).collect();
                    json!({"version": version.name, "resources": resources, "freshness": "Current"})
                }
            };
            let versions: Vec<Value> = group.versions.iter().map(version).collect();
            let metadata = match group.name.as_str() {
                "" => json!({"creationTimestamp": null}),
                name => json!({"name": name, "creationTimestamp": null}),
            };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({
        "kind": KIND,
        "apiVersion": API_VERSION,
        "metadata": {},
        "items": items,
    })
}

fn kind(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

fn resource(resource: &Resource) -> Value {
    let mut value = Map::new();
    value.insert("resource".into(), Value::from(&resource.resource));
    value.insert("responseKind".into(), kind(&resource.group, &resource.version, &resource.kind));
    value.insert("scope".into(), if resource.namespaced { "Namespaced" } else { "Cluster" }.into());
    value.insert("singularResource".into(), Value::from(&resource.singular));
    value.insert("verbs".into(), json!(resource.verbs));
    for (name, list) in [("shortNames", &resource.short_names), ("categories", &resource.categories)] {
        if !list.is_empty() {
            value.insert(name.into(), json!(list));
        }
    }
    let subresources: Vec<Value> =
        resource.subresources.iter().filter(|sub| sub.served_by_default).map(subresource).collect();
    if !subresources.is_empty() {
        value.insert("subresources".into(), subresources.into());
    }
    Value::Object(value)
}

fn subresource(sub: &Subresource) -> Value {
    json!({"subresource": sub.name, "responseKind": kind(&sub.group, &sub.version, &sub.kind), "verbs": sub.verbs})
}

#[cfg(test)]
mod tests {
    use super::*;
    use api_types::table;

    #[test]
    fn every_served_resource_is_listed_once() {
        let count = |document: &Value| -> usize {
            let versions = document["items"].as_array().unwrap().iter();
            let versions = versions.flat_map(|group| group["versions"].as_array().unwrap());
            versions.map(|version| version["resources"].as_array().unwrap().len()).sum()
        };
        let served = table::resources().iter().filter(|r| super::super::is_served(r)).count();
        let none = Definitions::default();
        let groups = groups(&super::super::aggregated_groups(&none, Vec::new()), &none);
        assert_eq!(count(&core()) + count(&groups), served);
    }
}
