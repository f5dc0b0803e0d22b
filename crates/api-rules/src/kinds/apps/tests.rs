use crate::look::{Look, set};
use crate::rules_of;
use serde_json::{Value, json};

fn object(kind: &str, changes: Value) -> Value {
    let mut object = json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "a", "namespace": "b"}, "spec": {
        "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    for (path, value) in changes.as_object().unwrap() {
        set(&mut object, path, value.clone());
    }
    (rules_of("apps", "v1", kind).unwrap().default)(&mut object);
    object
}

fn check(kind: &str, changes: Value) -> Vec<String> {
    let rules = rules_of("apps", "v1", kind).unwrap();
    (rules.validate)(&object(kind, changes)).iter().map(ToString::to_string).collect()
}

#[test]
fn good_workloads() {
    for kind in ["Deployment", "ReplicaSet", "DaemonSet", "StatefulSet"] {
        assert!(check(kind, json!({})).is_empty(), "{kind}: {:?}", check(kind, json!({})));
    }
}

#[test]
fn deployments() {
    for (changes, want) in [
        (
            json!({"spec.template.metadata.labels": {"a": "c"}}),
            "spec.template.metadata.labels: Invalid value: {\"a\":\"c\"}: `selector` does not match template `labels`",
        ),
        (
            json!({"spec.replicas": -1}),
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            json!({"spec.template.spec.restartPolicy": "Never"}),
            "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
        ),
        (
            json!({"spec.strategy": {"type": "Recreate", "rollingUpdate": {}}}),
            "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
        ),
        (
            json!({"spec.strategy": {"type": "Odd"}}),
            "spec.strategy.type: Unsupported value: \"Odd\": supported values: \"Recreate\", \"RollingUpdate\"",
        ),
        (
            json!({"spec.strategy.rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}),
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0",
        ),
        (
            json!({"spec.strategy.rollingUpdate": {"maxUnavailable": "120%"}}),
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"120%\": must not be greater than 100%",
        ),
        (
            json!({"spec.progressDeadlineSeconds": 5, "spec.minReadySeconds": 5}),
            "spec.progressDeadlineSeconds: Invalid value: 5: must be greater than minReadySeconds",
        ),
        (
            json!({"spec.template.spec.activeDeadlineSeconds": 5}),
            "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicaSet is not Supported",
        ),
    ] {
        assert_eq!(check("Deployment", changes), [want]);
    }
    assert_eq!(
        check(
            "Deployment",
            json!({"spec.selector": {"matchExpressions": [{"key": "a", "operator": "Odd"}]}})
        ),
        [
            "spec.selector.matchExpressions[0].operator: Invalid value: \"Odd\": not a valid selector operator",
            "spec.selector: Invalid value: {\"matchExpressions\":[{\"key\":\"a\",\"operator\":\"Odd\"}]}: invalid label selector",
        ]
    );
    assert_eq!(check("Deployment", json!({"spec.selector": null})), ["spec.selector: Required value"]);
}

#[test]
fn host_ports_of_templates_may_be_left_out() {
    let with = |port: Value| json!({"spec.template.spec.hostNetwork": true, "spec.template.spec.containers": [{"name": "c", "image": "i", "ports": [port]}]});
    assert!(check("DaemonSet", with(json!({"containerPort": 80}))).is_empty());
    assert_eq!(
        check("DaemonSet", with(json!({"containerPort": 80, "hostPort": 81}))),
        [
            "spec.template.spec.containers[0].ports[0].hostPort: Invalid value: 81: must match `containerPort` when `hostNetwork` is true"
        ]
    );
}

#[test]
fn selectors_do_not_change() {
    for kind in ["Deployment", "ReplicaSet", "DaemonSet", "StatefulSet"] {
        let old = object(kind, json!({}));
        let new = object(
            kind,
            json!({"spec.selector.matchLabels": {"x": "y"}, "spec.template.metadata.labels": {"x": "y"}}),
        );
        let found: Vec<String> = (rules_of("apps", "v1", kind).unwrap().validate_update)(&new, &old)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            found,
            ["spec.selector: Invalid value: {\"matchLabels\":{\"x\":\"y\"}}: field is immutable"],
            "{kind}"
        );
    }
}

#[test]
fn daemon_and_stateful_sets() {
    assert_eq!(
        check(
            "DaemonSet",
            json!({"spec.updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}}})
        ),
        [
            "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero"
        ]
    );
    assert_eq!(
        check("StatefulSet", json!({"spec.podManagementPolicy": "Odd"})),
        ["spec.podManagementPolicy: Invalid value: \"Odd\": must be 'OrderedReady' or 'Parallel'"]
    );
    assert!(check("StatefulSet", json!({"metadata.name": "a.b"}))[0].ends_with("must not contain dots"));
    let old = object("StatefulSet", json!({"spec.serviceName": "s"}));
    let new = object("StatefulSet", json!({"spec.serviceName": "t", "spec.replicas": 5}));
    let found = (rules_of("apps", "v1", "StatefulSet").unwrap().validate_update)(&new, &old);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].to_string(), "spec.serviceName: Invalid value: \"t\": field is immutable");
}

#[test]
fn templates_of_daemon_sets_are_counted() {
    let rules = rules_of("apps", "v1", "DaemonSet").unwrap();
    let count =
        |o: &Value| o.at("metadata.annotations").key("deprecated.daemonset.template.generation").clone();
    let mut old = object("DaemonSet", json!({}));
    (rules.prepare_create)(&mut old);
    assert_eq!(count(&old), "1");
    let mut new = object("DaemonSet", json!({"spec.minReadySeconds": 1}));
    (rules.prepare_update)(&mut new, &old);
    assert_eq!(count(&new), "1");
    let mut new = object("DaemonSet", json!({"spec.template.spec.hostPID": true}));
    (rules.prepare_update)(&mut new, &old);
    assert_eq!(count(&new), "2");
}

#[test]
fn statuses_fit_together() {
    let old = object("ReplicaSet", json!({}));
    let new = object("ReplicaSet", json!({"status": {"replicas": 1, "readyReplicas": 2}}));
    let found = (rules_of("apps", "v1", "ReplicaSet").unwrap().validate_status_update)(&new, &old);
    assert_eq!(
        found[0].to_string(),
        "status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas"
    );
    let old = object("Deployment", json!({"status.collisionCount": 2}));
    let new = object("Deployment", json!({"status.collisionCount": 1}));
    let found = (rules_of("apps", "v1", "Deployment").unwrap().validate_status_update)(&new, &old);
    assert_eq!(found[0].to_string(), "status.collisionCount: Invalid value: 1: cannot be decremented");
    assert_eq!(new.text("kind"), "Deployment");
}
