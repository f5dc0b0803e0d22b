use api_types::schema::{self, Shape};
use api_types::table;
use std::collections::HashSet;

#[test]
fn every_stored_kind_starts_with_its_metadata() {
    for resource in table::resources().iter().filter(|r| r.is_stored()) {
        let metadata = resource.built_in_message().field("metadata").expect(&resource.kind);
        assert_eq!(metadata.number, 1, "{}", resource.kind);
        assert!(resource.built_in_message().typed, "{}", resource.kind);
        let (group, version) = (resource.group.as_str(), resource.version.as_str());
        assert_eq!(schema::lookup(group, version, &resource.kind), resource.message);
        assert!(
            schema::lookup(group, version, &format!("{}List", resource.kind)).is_some(),
            "{}",
            resource.kind
        );
        let stored = schema::lookup(&resource.storage_group, &resource.storage_version, &resource.kind);
        assert!(stored.is_some(), "{} is stored as {}", resource.kind, resource.storage_version);
    }
}

#[test]
fn resources_are_found_by_name_and_kind() {
    let mut seen = HashSet::new();
    for resource in table::resources() {
        assert!(seen.insert((&resource.group, &resource.version, &resource.resource)));
        let found = table::find(&resource.group, &resource.version, &resource.resource).unwrap();
        assert!(std::ptr::eq(found, resource));
        assert_eq!(
            table::by_api_version(&resource.api_version(), &resource.kind).unwrap().resource,
            resource.resource
        );
    }
    assert!(table::find("", "v1", "deployments").is_none());
}

#[test]
fn groups_are_in_upstreams_order() {
    let names: Vec<&str> = table::groups().iter().map(|g| g.name).collect();
    assert_eq!(&names[..4], ["", "apiregistration.k8s.io", "apps", "events.k8s.io"]);
    for resource in table::resources() {
        let group = table::groups().iter().find(|g| g.name == resource.group).unwrap();
        assert!(group.versions.iter().any(|v| v.version == resource.version), "{}", resource.resource);
    }
    let autoscaling = table::groups().iter().find(|g| g.name == "autoscaling").unwrap();
    assert_eq!(autoscaling.preferred_version, "v2");
    assert_eq!(autoscaling.versions.iter().map(|v| v.version).collect::<Vec<_>>(), ["v2", "v1"]);
}

#[test]
fn messages_are_sorted_and_hold_together() {
    assert!(schema::messages().is_sorted_by(|a, b| a.name < b.name));
    for message in schema::messages() {
        assert_eq!(schema::by_name(message.name), Some(*message));
        let mut names = HashSet::new();
        for field in message.json_fields() {
            assert!(names.insert(field.name), "{}.{}", message.name, field.name);
            assert!(field.shape != Shape::Map || !field.pointer);
            for key in field.list_map_keys {
                assert!(
                    field.message().unwrap().field(key).is_some(),
                    "{}.{} key {key}",
                    message.name,
                    field.name
                );
            }
            if !field.patch_merge_key.is_empty() {
                assert!(field.message().unwrap().field(field.patch_merge_key).is_some());
            }
            if !field.default.is_empty() {
                serde_json::from_str::<serde_json::Value>(field.default).unwrap();
            }
        }
    }
}
