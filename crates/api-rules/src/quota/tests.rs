use serde_json::json;

use super::*;

fn quota(spec: Value, used: Value) -> Value {
    let hard = spec["hard"].clone();
    json!({"metadata": {"name": "q"}, "spec": spec, "status": {"hard": hard, "used": used}})
}

fn create<'a>(resource: &'a str, new: &'a Value) -> Charge<'a> {
    Charge { resource, subresource: "", old: None, new, now: 0 }
}

fn pod(resources: Value) -> Value {
    json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "resources": resources}]}})
}

fn charged(quota: &Value, ask: &Charge<'_>) -> Result<Value, String> {
    let changed = charge(std::slice::from_ref(quota), ask)?;
    Ok(changed.first().map_or(Value::Null, |(_, used)| to_value(used)))
}

#[test]
fn the_last_pod_fits_and_no_other() {
    let pod = pod(json!({}));
    let room = quota(json!({"hard": {"pods": "2"}}), json!({"pods": "1"}));
    assert_eq!(charged(&room, &create("pods", &pod)), Ok(json!({"pods": "2"})));
    let full =
        quota(json!({"hard": {"pods": "2", "count/pods": "9"}}), json!({"pods": "2", "count/pods": "2"}));
    assert_eq!(
        charged(&full, &create("pods", &pod)),
        Err("exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2".into())
    );
}

#[test]
fn what_is_not_counted_yet_is_refused() {
    let pod = pod(json!({}));
    let fresh = quota(json!({"hard": {"pods": "2", "count/pods": "2", "services": "1"}}), json!({}));
    assert_eq!(
        charged(&fresh, &create("pods", &pod)),
        Err("status unknown for quota: q, resources: count/pods,pods".into())
    );
    let mut unseen = fresh.clone();
    unseen["status"] = json!({});
    assert_eq!(charged(&unseen, &create("pods", &pod)), Ok(Value::Null), "no status, no limit, as upstream");
}

#[test]
fn containers_name_what_is_limited() {
    let limited =
        quota(json!({"hard": {"limits.cpu": "2", "cpu": "1"}}), json!({"limits.cpu": "0", "cpu": "0"}));
    assert_eq!(
        charged(&limited, &create("pods", &pod(json!({"requests": {"memory": "1Mi"}})))),
        Err("failed quota: q: must specify cpu for: c; limits.cpu for: c".into())
    );
    let full = pod(json!({"requests": {"cpu": "500m"}, "limits": {"cpu": "1"}}));
    assert_eq!(charged(&limited, &create("pods", &full)), Ok(json!({"cpu": "500m", "limits.cpu": "1"})));
}

#[test]
fn extended_resources_are_counted_by_their_requests() {
    let quota =
        quota(json!({"hard": {"requests.example.com/gpu": "3"}}), json!({"requests.example.com/gpu": "2"}));
    let pod = pod(json!({"requests": {"example.com/gpu": "2"}, "limits": {"example.com/gpu": "2"}}));
    assert_eq!(
        charged(&quota, &create("pods", &pod)),
        Err("exceeded quota: q, requested: requests.example.com/gpu=2, used: requests.example.com/gpu=2, limited: requests.example.com/gpu=3".into())
    );
}

#[test]
fn init_containers_count_at_their_peak() {
    let with = |cpu: &str| json!({"name": cpu, "resources": {"requests": {"cpu": cpu}}});
    let mut sidecar = with("1");
    sidecar["restartPolicy"] = "Always".into();
    let pod = json!({"spec": {
        "initContainers": [sidecar, with("3")], "containers": [with("500m"), with("700m")],
        "overhead": {"cpu": "10m"},
    }});
    let usage = usage("pods", &pod, 0);
    assert_eq!(usage["requests.cpu"].to_string(), "4010m");
    assert!(!usage.contains_key("limits.cpu"));
}

#[test]
fn ended_pods_count_as_objects_only() {
    let mut pod = pod(json!({"requests": {"cpu": "1"}}));
    pod["status"] = json!({"phase": "Succeeded"});
    assert_eq!(to_value(&usage("pods", &pod, 0)), json!({"count/pods": "1"}));
    pod["status"] = json!({"phase": "Running"});
    pod["metadata"]["deletionTimestamp"] = json!("1970-01-01T00:01:00Z");
    pod["metadata"]["deletionGracePeriodSeconds"] = json!(30);
    assert!(usage("pods", &pod, 90_000).contains_key("pods"));
    assert!(!usage("pods", &pod, 90_001).contains_key("pods"));
}

#[test]
fn scopes_select() {
    let plain = pod(json!({}));
    let mut due = pod(json!({"requests": {"cpu": "1"}}));
    due["spec"]["activeDeadlineSeconds"] = json!(5);
    due["spec"]["priorityClassName"] = json!("high");
    let with = |spec: Value| [&plain, &due].map(|pod| selects("pods", &json!({"spec": spec}), pod));
    assert_eq!(with(json!({"scopes": ["Terminating"]})), [false, true]);
    assert_eq!(with(json!({"scopes": ["NotTerminating", "BestEffort"]})), [true, false]);
    let class = |operator: &str, values: Value| {
        let term = json!({"scopeName": "PriorityClass", "operator": operator, "values": values});
        with(json!({"scopeSelector": {"matchExpressions": [term]}}))
    };
    assert_eq!(class("In", json!(["high"])), [false, true]);
    assert_eq!(class("NotIn", json!(["high"])), [true, false]);
    assert_eq!(class("Exists", json!([])), [false, true]);
    assert_eq!(class("DoesNotExist", json!([])), [true, false]);
    assert!(!selects("services", &json!({"spec": {"scopes": ["Terminating"]}}), &json!({})));
}

#[test]
fn services_count_ports_and_balancers() {
    let service = |spec: Value| usage("services", &json!({"spec": spec}), 0);
    let ports = json!([{"port": 1}, {"port": 2, "nodePort": 30000}]);
    let shown = |spec: Value| {
        let usage = service(spec);
        [usage["services.nodeports"].value(), usage["services.loadbalancers"].value()]
    };
    assert_eq!(shown(json!({"type": "NodePort", "ports": ports})), [2, 0]);
    assert_eq!(shown(json!({"type": "LoadBalancer", "ports": ports})), [2, 1]);
    let without = json!({"type": "LoadBalancer", "ports": ports, "allocateLoadBalancerNodePorts": false});
    assert_eq!(shown(without), [1, 1]);
    assert_eq!(shown(json!({"type": "ClusterIP", "ports": ports})), [0, 0]);
}

#[test]
fn an_update_is_charged_for_what_it_adds() {
    let quota = quota(json!({"hard": {"services.nodeports": "2"}}), json!({"services.nodeports": "1"}));
    let service = |kind: &str| json!({"spec": {"type": kind, "ports": [{"port": 80}]}});
    let (old, new) = (service("ClusterIP"), service("NodePort"));
    let ask = Charge { resource: "services", subresource: "", old: Some(&old), new: &new, now: 0 };
    assert!(counts("services", "", true));
    assert_eq!(charged(&quota, &ask), Ok(json!({"services.nodeports": "2"})));
    let back = Charge { old: Some(&new), new: &old, ..ask };
    assert_eq!(charged(&quota, &back), Ok(Value::Null), "the controller gives back");
    assert!(!counts("deployments.apps", "", true));
    assert!(counts("deployments.apps", "", false) && !counts("events", "", false));
}

#[test]
fn claims_count_by_class() {
    let claim = json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "1Gi"}}}});
    let usage = usage("persistentvolumeclaims", &claim, 0);
    assert_eq!(usage["gold.storageclass.storage.k8s.io/requests.storage"].to_string(), "1Gi");
    assert_eq!(usage["gold.storageclass.storage.k8s.io/persistentvolumeclaims"].to_string(), "1");
    assert!(tracks("persistentvolumeclaims", "gold.storageclass.storage.k8s.io/requests.storage"));
    assert!(!tracks("persistentvolumeclaims", "requests.cpu"));
}

#[test]
fn everything_is_counted_anew() {
    let quota = json!({"spec": {"hard": {
        "pods": "5", "requests.cpu": "2", "count/deployments.apps": "3", "configmaps": "9", "unknown": "1",
    }}});
    let kinds = ["pods", "configmaps", "deployments.apps", "services"].map(str::to_owned);
    let used = used(&quota, &kinds, 0, |kind| match kind {
        "pods" => vec![pod(json!({"requests": {"cpu": "250m"}})), pod(json!({"requests": {"cpu": "250m"}}))],
        "deployments.apps" => vec![json!({})],
        "services" => panic!("not limited"),
        _ => Vec::new(),
    });
    assert_eq!(
        to_value(&used),
        json!({"pods": "2", "requests.cpu": "500m", "count/deployments.apps": "1", "configmaps": "0"})
    );
}
