use super::*;

const NOW: i64 = 1_767_225_600_000; // 2026-01-01T00:00:00Z

fn row(object: &Value) -> Vec<String> {
    let group = crate::strategy::group_of(object);
    let columns = columns(group, object.text("kind"));
    cells(columns, object, NOW)
        .iter()
        .map(|c| c.as_str().map_or_else(|| c.to_string(), str::to_owned))
        .collect()
}

fn titles(group: &str, kind: &str) -> String {
    columns(group, kind).iter().map(|c| c.name).collect::<Vec<_>>().join(" ")
}

#[test]
fn titles_of_the_common_kinds() {
    for (group, kind, want) in [
        ("", "Pod", "Name Ready Status Restarts Age IP Node Nominated Node Readiness Gates"),
        ("apps", "Deployment", "Name Ready Up-to-date Available Age Containers Images Selector"),
        ("apps", "ReplicaSet", "Name Desired Current Ready Age Containers Images Selector"),
        ("", "Service", "Name Type Cluster-IP External-IP Port(s) Age Selector"),
        (
            "",
            "Node",
            "Name Status Roles Age Version Internal-IP External-IP OS-Image Kernel-Version Container-Runtime",
        ),
        ("", "ConfigMap", "Name Data Age"),
        ("", "Event", "Last Seen Type Reason Object Subobject Source Message First Seen Count Name"),
        ("x.io", "Unknown", "Name Created At"),
    ] {
        assert_eq!(titles(group, kind), want, "{kind}");
    }
}

fn pod(status: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "creationTimestamp": "2025-12-31T23:55:00Z"},
        "spec": {"nodeName": "n", "containers": [{"name": "c"}, {"name": "d"}]}, "status": status})
}

#[test]
fn pods() {
    let running = json!({"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}], "containerStatuses": [
        {"name": "c", "ready": true, "restartCount": 2, "state": {"running": {}}, "lastState": {"terminated": {"finishedAt": "2025-12-31T23:59:00Z"}}},
        {"name": "d", "ready": false, "restartCount": 0, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]});
    assert_eq!(row(&pod(running))[..6], ["p", "1/2", "CrashLoopBackOff", "2 (60s ago)", "5m", "10.0.0.1"]);
    assert_eq!(row(&pod(json!({"phase": "Pending"})))[1..4], ["0/2", "Pending", "0"]);
    let mut gone = pod(json!({"phase": "Running"}));
    gone["metadata"]["deletionTimestamp"] = json!("2025-12-31T23:59:59Z");
    assert_eq!(row(&gone)[2], "Terminating");
    let ended = pod(
        json!({"phase": "Failed", "containerStatuses": [{"name": "c", "state": {"terminated": {"exitCode": 3}}}]}),
    );
    assert_eq!(row(&ended)[2], "ExitCode:3");
    assert_eq!(row_conditions(&ended)[0]["reason"], json!("Failed"));
}

#[test]
fn init_containers_show_how_far_they_are() {
    let mut pod = pod(json!({"phase": "Pending", "initContainerStatuses": [
        {"name": "a", "state": {"terminated": {"exitCode": 0}}}, {"name": "b", "state": {"waiting": {"reason": "PodInitializing"}}}]}));
    pod["spec"]["initContainers"] = json!([{"name": "a"}, {"name": "b"}]);
    assert_eq!(row(&pod)[2], "Init:1/2");
}

#[test]
fn workloads_and_services() {
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "creationTimestamp": "2025-12-30T00:00:00Z"},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"a": "b"}}, "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}},
        "status": {"readyReplicas": 1, "updatedReplicas": 2, "availableReplicas": 1}});
    assert_eq!(row(&deployment), ["d", "1/3", "2", "1", "2d", "c", "i", "a=b"]);
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
        "spec": {"type": "NodePort", "clusterIPs": ["10.0.0.1"], "ports": [{"port": 80, "nodePort": 30000, "protocol": "TCP"}]}});
    assert_eq!(row(&service), ["s", "NodePort", "10.0.0.1", "<none>", "80:30000/TCP", "<unknown>", "<none>"]);
}

#[test]
fn nodes() {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "labels": {"node-role.kubernetes.io/control-plane": ""}},
        "spec": {"unschedulable": true}, "status": {"conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {"kubeletVersion": "v1.37.0"},
        "addresses": [{"type": "InternalIP", "address": "10.1.1.1"}]}});
    assert_eq!(
        row(&node)[..7],
        ["n", "Ready,SchedulingDisabled", "control-plane", "<unknown>", "v1.37.0", "10.1.1.1", "<none>"]
    );
}

#[test]
fn autoscalers_of_version_1_show_their_metric() {
    let of = |status: Value| {
        row(&json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"},
            "spec": {"targetCPUUtilizationPercentage": 70}, "status": status}))[2]
            .clone()
    };
    assert_eq!(of(json!({})), "cpu: <unknown>/70%");
    assert_eq!(of(json!({"currentCPUUtilizationPercentage": 40})), "cpu: 40%/70%");
}
