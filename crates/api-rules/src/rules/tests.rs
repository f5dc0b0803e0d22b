use super::*;
use serde_json::json;

#[test]
fn every_resource_has_rules() {
    for resource in table::resources() {
        let rules = rules(resource);
        assert!(!rules.columns.is_empty(), "{}", resource.kind);
        assert!(rules.supported_field_labels.contains(&"metadata.name"), "{}", resource.kind);
    }
}

/// No rule may panic or loop on trees that have nothing of what they expect, or things of other types.
#[test]
fn rules_survive_any_tree() {
    for resource in table::resources() {
        let rules = rules(resource);
        for body in [
            json!({}),
            json!({"spec": 5, "status": "x", "metadata": []}),
            json!({"spec": {"template": []}, "data": 3}),
        ] {
            let mut object = body.clone();
            object["apiVersion"] = json!(resource.api_version());
            object["kind"] = json!(resource.kind);
            let old = object.clone();
            (rules.default)(&mut object);
            (rules.prepare_update)(&mut object, &old);
            (rules.prepare_status_update)(&mut object, &old);
            (rules.prepare_create)(&mut object);
            (rules.validate)(&object);
            (rules.validate_update)(&object, &old);
            (rules.validate_status_update)(&object, &old);
            (rules.warnings)(&object, None);
            assert_eq!((rules.cells)(&object, 0).len(), rules.columns.len(), "{}", resource.kind);
        }
    }
}

#[test]
fn defaulting_twice_is_defaulting_once() {
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i",
        "resources": {"limits": {"cpu": "100u"}}, "livenessProbe": {"httpGet": {"port": 80}}}], "volumes": [{"name": "v"}]}});
    for resource in table::resources() {
        let rules = rules(resource);
        let mut once = json!({"apiVersion": resource.api_version(), "kind": resource.kind, "metadata": {"name": "a"},
            "spec": {"template": template, "containers": template["spec"]["containers"], "ports": [{"port": 1}]}});
        (rules.default)(&mut once);
        let mut twice = once.clone();
        (rules.default)(&mut twice);
        assert_eq!(once, twice, "{}", resource.kind);
    }
}

#[test]
fn custom_resources_are_checked_by_their_metadata() {
    let object = json!({"apiVersion": "x.io/v1", "kind": "Widget", "metadata": {"name": "a"}});
    assert!((custom_rules(false).validate)(&object).is_empty());
    assert_eq!((custom_rules(true).validate)(&object)[0].to_string(), "metadata.namespace: Required value");
}

#[test]
fn finalizers_of_built_in_kinds_have_a_domain() {
    let of = |api_version: &str, kind: &str| {
        json!({"apiVersion": api_version, "kind": kind,
        "metadata": {"name": "a", "namespace": "n", "finalizers": ["x", "foregroundDeletion", "a.b/c"]}})
    };
    let found = (rules_of("", "v1", "ConfigMap").unwrap().validate)(&of("v1", "ConfigMap"));
    assert_eq!(
        found.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "metadata.finalizers[0]: Invalid value: \"x\": name is neither a standard finalizer name nor is it fully qualified"
        ]
    );
    assert!((custom_rules(true).validate)(&of("x.io/v1", "Widget")).is_empty());
}

#[test]
fn flags_of_kinds() {
    let of = |group: &str, kind: &str| rules_of(group, "v1", kind).unwrap();
    assert!(of("", "Pod").graceful_delete.is_some() && of("", "Service").graceful_delete.is_none());
    assert!(of("coordination.k8s.io", "Lease").allow_create_on_update);
    assert!(!of("coordination.k8s.io", "Lease").allow_unconditional_update);
    assert_eq!(of("batch", "Job").default_deletion, DefaultDeletion::Orphan);
    assert_eq!(of("apps", "Deployment").default_deletion, DefaultDeletion::Background);
}
