use crate::look::{Look, set};
use crate::rules_of;
use serde_json::{Value, json};

fn rules() -> &'static crate::Rules {
    rules_of("", "v1", "Service").unwrap()
}

fn service(changes: Value) -> Value {
    let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "namespace": "b"},
        "spec": {"ports": [{"port": 80}], "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"}});
    for (path, value) in changes.as_object().unwrap() {
        set(&mut service, path, value.clone());
    }
    (rules().default)(&mut service);
    service
}

fn check(changes: Value) -> Vec<String> {
    (rules().validate)(&service(changes)).iter().map(ToString::to_string).collect()
}

#[test]
fn good_services() {
    for changes in [
        json!({}),
        json!({"spec.type": "NodePort", "spec.ports": [{"port": 80, "nodePort": 30000}]}),
        json!({"spec.type": "LoadBalancer"}),
        json!({"spec.clusterIP": "None", "spec.clusterIPs": ["None"], "spec.ports": null}),
        json!({"spec": {"type": "ExternalName", "externalName": "a.b."}}),
        json!({"spec.sessionAffinity": "ClientIP"}),
        json!({"spec.ports": [{"port": 80, "name": "a", "targetPort": "http"}, {"port": 80, "name": "b", "protocol": "UDP"}]}),
    ] {
        assert!(check(changes.clone()).is_empty(), "{changes}: {:?}", check(changes.clone()));
    }
}

#[test]
fn faults() {
    for (changes, want) in [
        (json!({"spec.ports": []}), "spec.ports: Required value"),
        (
            json!({"spec.ports": [{"port": 0, "targetPort": 1}]}),
            "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
        ),
        (
            json!({"spec.ports": [{"port": 1, "name": "a"}, {"port": 2}]}),
            "spec.ports[1].name: Required value",
        ),
        (
            json!({"spec.ports": [{"port": 1, "nodePort": 30000}]}),
            "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
        ),
        (
            json!({"spec.type": "Odd"}),
            "spec.type: Unsupported value: \"Odd\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
        ),
        (
            json!({"spec.clusterIP": "10.0.0.2"}),
            "spec.clusterIPs: Invalid value: [\"10.0.0.1\"]: first value must match `clusterIP`",
        ),
        (
            json!({"spec.clusterIP": "x", "spec.clusterIPs": ["x"]}),
            "spec.clusterIPs[0]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ),
        (
            json!({"spec.externalTrafficPolicy": "Local"}),
            "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services",
        ),
        (
            json!({"spec.loadBalancerClass": "a.b/c"}),
            "spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'",
        ),
        (
            json!({"spec.externalIPs": ["127.0.0.1"], "spec.externalTrafficPolicy": "Cluster"}),
            "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
        ),
        (
            json!({"spec.type": "NodePort", "spec.clusterIP": "None", "spec.clusterIPs": ["None"]}),
            "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services",
        ),
    ] {
        assert_eq!(check(changes.clone()), [want], "{changes}");
    }
}

#[test]
fn updates_keep_what_was_allocated() {
    let old = service(json!({"spec.type": "NodePort", "spec.ports": [{"port": 80, "nodePort": 30001}]}));
    let mut new = service(json!({"spec": {"type": "NodePort", "ports": [{"port": 80}]}}));
    (rules().prepare_update)(&mut new, &old);
    assert_eq!(new.text("spec.clusterIP"), "10.0.0.1");
    assert_eq!(new.at("spec.clusterIPs"), &json!(["10.0.0.1"]));
    assert_eq!(new["spec"]["ports"][0]["nodePort"], json!(30001));
}

#[test]
fn a_new_type_drops_what_belonged_to_the_old() {
    let old = service(json!({"spec.type": "LoadBalancer", "spec.ports": [{"port": 80, "nodePort": 30001}]}));
    let mut new = old.clone();
    set(&mut new, "spec.type", json!("ClusterIP"));
    (rules().prepare_update)(&mut new, &old);
    assert_eq!(new["spec"]["ports"][0].get("nodePort"), None);
    assert!(!new.has("spec.allocateLoadBalancerNodePorts") && !new.has("spec.externalTrafficPolicy"));
    let found = (rules().validate_update)(&new, &old);
    assert!(found.is_empty(), "{found:?}");
    set(&mut new, "spec.type", json!("ExternalName"));
    set(&mut new, "spec.externalName", json!("a.b"));
    (rules().prepare_update)(&mut new, &old);
    assert!(!new.has("spec.clusterIP") && !new.has("spec.ipFamilies"));
}

#[test]
fn the_cluster_ip_stays() {
    let old = service(json!({}));
    let mut new = service(json!({"spec.clusterIP": "10.0.0.9", "spec.clusterIPs": ["10.0.0.9"]}));
    (rules().prepare_update)(&mut new, &old);
    let found: Vec<String> = (rules().validate_update)(&new, &old).iter().map(ToString::to_string).collect();
    assert_eq!(found, ["spec.clusterIPs[0]: Invalid value: [\"10.0.0.9\"]: may not change once set"]);
}
