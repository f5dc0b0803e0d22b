use super::*;
use serde_json::json;

fn defaulted(object: Value) -> Value {
    let mut object = object;
    apply(&mut object);
    object
}

#[test]
fn a_pod_gets_what_upstream_gives() {
    let pod = defaulted(json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [
        {"name": "c", "image": "i", "ports": [{"containerPort": 80}], "resources": {"limits": {"cpu": "1"}},
         "readinessProbe": {"httpGet": {"port": 80}}},
        {"name": "d", "image": "r:5000/i:1.2"}]}}));
    assert_eq!(
        pod["spec"],
        json!({
            "containers": [
                {"name": "c", "image": "i", "ports": [{"containerPort": 80, "protocol": "TCP"}],
                 "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}},
                 "readinessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1,
                    "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
                 "imagePullPolicy": "Always", "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"},
                {"name": "d", "image": "r:5000/i:1.2", "imagePullPolicy": "IfNotPresent",
                 "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}
            ],
            "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "securityContext": {}, "terminationGracePeriodSeconds": 30,
            "schedulerName": "default-scheduler", "enableServiceLinks": true
        })
    );
}

#[test]
fn a_deployment_gets_its_strategy() {
    let deployment = defaulted(
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"template": {"spec": {"containers": []}}}}),
    );
    let spec = &deployment["spec"];
    assert_eq!(spec["replicas"], 1);
    assert_eq!(
        spec["strategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
    );
    assert_eq!((&spec["revisionHistoryLimit"], &spec["progressDeadlineSeconds"]), (&json!(10), &json!(600)));
}

#[test]
fn services_by_type() {
    let service =
        defaulted(json!({"apiVersion": "v1", "kind": "Service", "spec": {"ports": [{"port": 80}]}}));
    assert_eq!(
        service["spec"],
        json!({"type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
            "ports": [{"port": 80, "targetPort": 80, "protocol": "TCP"}]})
    );
    let balancer =
        defaulted(json!({"apiVersion": "v1", "kind": "Service", "spec": {"type": "LoadBalancer"}}));
    assert_eq!(balancer["spec"]["allocateLoadBalancerNodePorts"], true);
    assert_eq!(balancer["spec"]["externalTrafficPolicy"], "Cluster");
}

#[test]
fn jobs_and_claims() {
    let job = defaulted(
        json!({"apiVersion": "batch/v1", "kind": "Job", "spec": {"template": {"metadata": {"labels": {"a": "b"}}, "spec": {}}}}),
    );
    assert_eq!(
        (&job["spec"]["completions"], &job["spec"]["parallelism"], &job["spec"]["backoffLimit"]),
        (&json!(1), &json!(1), &json!(6))
    );
    assert_eq!(job["metadata"]["labels"], json!({"a": "b"}));
    let set = defaulted(
        json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "spec": {"volumeClaimTemplates": [{"spec": {}}]}}),
    );
    assert_eq!(
        set["spec"]["volumeClaimTemplates"][0],
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "spec": {"volumeMode": "Filesystem"}, "status": {"phase": "Pending"}})
    );
    assert_eq!(set["spec"]["podManagementPolicy"], "OrderedReady");
}

#[test]
fn quantities_finer_than_a_thousandth_are_rounded_up() {
    let pod = defaulted(
        json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "100u", "memory": "1Gi"}}}]}}),
    );
    assert_eq!(pod["spec"]["containers"][0]["resources"]["requests"], json!({"cpu": "1m", "memory": "1Gi"}));
}

#[test]
fn a_nodes_ranges_agree() {
    let of =
        |spec: Value| defaulted(json!({"apiVersion": "v1", "kind": "Node", "spec": spec}))["spec"].clone();
    let both = json!({"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24"]});
    assert_eq!(of(json!({"podCIDR": "10.1.0.0/24"})), both);
    assert_eq!(of(json!({"podCIDRs": ["10.1.0.0/24"]})), both);
    assert_eq!(of(json!({"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.2.0.0/24", "fd00::/64"]})), both);
    let two = json!({"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "fd00::/64"]});
    assert_eq!(of(two.clone()), two);
    assert_eq!(of(json!({})), json!({}));
}
