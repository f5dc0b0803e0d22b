//! Discovery in one document (`apidiscovery.k8s.io/v2`).

use api_types::{Resource, Subresource, Value};
use serde_json::{Map, json};

pub(super) const MEDIA: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// The document of `/api` (the core) or of `/apis` (all other groups).
pub(super) fn document(core: bool) -> Value {
    let groups = super::groups().filter(|group| group.name.is_empty() == core);
    let items: Vec<Value> = groups
        .map(|group| {
            let versions: Vec<Value> = super::versions(group)
                .map(|version| {
                    let resources: Vec<Value> = super::resources(group.name, version).map(resource).collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            let metadata = match core {
                true => json!({"creationTimestamp": null}),
                false => json!({"name": group.name, "creationTimestamp": null}),
            };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items,
    })
}

fn kind(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

fn resource(resource: &'static Resource) -> Value {
    let mut value = Map::new();
    value.insert("resource".into(), resource.resource.into());
    value.insert("responseKind".into(), kind(resource.group, resource.version, resource.kind));
    value.insert("scope".into(), if resource.namespaced { "Namespaced" } else { "Cluster" }.into());
    value.insert("singularResource".into(), resource.singular.into());
    value.insert("verbs".into(), json!(resource.verbs));
    for (name, list) in [("shortNames", resource.short_names), ("categories", resource.categories)] {
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

fn subresource(sub: &'static Subresource) -> Value {
    json!({"subresource": sub.name, "responseKind": kind(sub.group, sub.version, sub.kind), "verbs": sub.verbs})
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
        assert_eq!(count(&document(true)) + count(&document(false)), served);
    }
}
