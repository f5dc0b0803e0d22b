use crate::look::{Look, set};
use crate::rules_of;
use serde_json::{Value, json};

fn check(group: &str, kind: &str, object: Value) -> Vec<String> {
    let version = if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") };
    let mut object = object;
    set(&mut object, "apiVersion", json!(version));
    set(&mut object, "kind", json!(kind));
    let rules = rules_of(group, "v1", kind).unwrap();
    (rules.default)(&mut object);
    (rules.validate)(&object).iter().map(ToString::to_string).collect()
}

#[test]
fn namespaces() {
    let rules = rules_of("", "v1", "Namespace").unwrap();
    let mut namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}});
    (rules.default)(&mut namespace);
    (rules.prepare_create)(&mut namespace);
    assert_eq!(namespace["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(namespace["status"]["phase"], json!("Active"));
    assert_eq!(namespace.at("metadata.labels").key("kubernetes.io/metadata.name"), "a");
    assert!((rules.validate)(&namespace).is_empty());
    assert!(
        check("", "Namespace", json!({"metadata": {"name": "a.b"}}))[0].ends_with("must not contain dots")
    );
    let mut ended = namespace.clone();
    set(&mut ended, "status.phase", json!("Terminating"));
    let found = (rules.validate_status_update)(&ended, &namespace);
    assert_eq!(
        found[0].to_string(),
        "status.Phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is empty"
    );
}

#[test]
fn an_update_keeps_the_finalizers_of_a_namespace() {
    let rules = rules_of("", "v1", "Namespace").unwrap();
    let old = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}, "spec": {"finalizers": ["kubernetes"]}});
    let mut new = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}});
    (rules.prepare_update)(&mut new, &old);
    assert_eq!(new["spec"], old["spec"]);
}

#[test]
fn nodes() {
    let taint = json!({"key": "a", "effect": "NoSchedule"});
    assert!(check("", "Node", json!({"metadata": {"name": "n"}, "spec": {"taints": [taint]}})).is_empty());
    assert_eq!(
        check("", "Node", json!({"metadata": {"name": "n"}, "spec": {"taints": [taint, taint]}})),
        ["spec.taints[1]: Duplicate value: {\"effect\":\"NoSchedule\",\"key\":\"a\"}"]
    );
    let rules = rules_of("", "v1", "Node").unwrap();
    let of =
        |spec: Value| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "spec": spec});
    let old = of(json!({"podCIDRs": ["10.0.0.0/24"], "providerID": "x"}));
    let new = of(json!({"podCIDRs": ["10.0.1.0/24"], "providerID": "y"}));
    let found: Vec<String> = (rules.validate_update)(&new, &old).iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid",
            "spec.providerID: Invalid value: \"y\": field cannot be modified once set",
        ]
    );
}

#[test]
fn leases_and_classes() {
    let lease = |spec: Value| {
        check(
            "coordination.k8s.io",
            "Lease",
            json!({"metadata": {"name": "a", "namespace": "b"}, "spec": spec}),
        )
    };
    assert!(lease(json!({"holderIdentity": "x", "leaseDurationSeconds": 15})).is_empty());
    assert_eq!(
        lease(json!({"leaseDurationSeconds": 0, "leaseTransitions": -1})),
        [
            "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
            "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0",
        ]
    );
    let class = |name: &str, value: i64| {
        check("scheduling.k8s.io", "PriorityClass", json!({"metadata": {"name": name}, "value": value}))
    };
    assert!(class("system-node-critical", 2_000_001_000).is_empty());
    assert_eq!(
        class("high", 1_000_000_001),
        ["value: Forbidden: maximum allowed value of a user defined priority is 1000000000"]
    );
}

#[test]
fn limits_and_quotas() {
    let limit = |item: Value| {
        check(
            "",
            "LimitRange",
            json!({"metadata": {"name": "a", "namespace": "b"}, "spec": {"limits": [item]}}),
        )
    };
    assert!(limit(json!({"type": "Container", "max": {"cpu": "2"}, "min": {"cpu": "1"}})).is_empty());
    assert_eq!(
        limit(json!({"type": "Pod", "max": {"cpu": "1"}, "min": {"cpu": "2"}})),
        ["spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1"]
    );
    let quota = |spec: Value| {
        check("", "ResourceQuota", json!({"metadata": {"name": "a", "namespace": "b"}, "spec": spec}))
    };
    assert!(quota(json!({"hard": {"pods": "5", "requests.cpu": "500m"}})).is_empty());
    assert_eq!(
        quota(json!({"hard": {"pods": "500m"}})),
        ["spec.hard[pods]: Invalid value: \"500m\": must be an integer"]
    );
    assert_eq!(
        quota(json!({"scopes": ["BestEffort", "NotBestEffort"]})),
        ["spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: conflicting scopes"]
    );
}
