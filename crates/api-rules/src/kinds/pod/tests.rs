use super::*;
use crate::rules_of;

fn rules() -> &'static crate::Rules {
    rules_of("", "v1", "Pod").unwrap()
}

/// A good pod with the given paths set, defaulted.
fn pod(changes: Value) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "b"},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    for (path, value) in changes.as_object().unwrap() {
        set(&mut pod, path, value.clone());
    }
    (rules().default)(&mut pod);
    pod
}

fn check(changes: Value) -> Vec<String> {
    (rules().validate)(&pod(changes)).iter().map(ToString::to_string).collect()
}

/// Faults of a container that has these fields besides name and image.
fn container(fields: Value) -> Vec<String> {
    let mut container = json!({"name": "c", "image": "i"});
    container.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    check(json!({"spec.containers": [container], "spec.volumes": [{"name": "v", "emptyDir": {}}]}))
}

fn change(old: &Value, new: &Value) -> Vec<String> {
    (rules().validate_update)(new, old).iter().map(ToString::to_string).collect()
}

#[test]
fn a_full_pod_is_good() {
    let found = check(json!({
        "spec": {
            "containers": [{
                "name": "c", "image": "r.io/i:1", "command": ["sh"],
                "ports": [{"name": "http", "containerPort": 80}],
                "env": [{"name": "A", "value": "x"}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a']"}}},
                        {"name": "C", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}},
                        {"name": "D", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}}],
                "envFrom": [{"secretRef": {"name": "s"}, "prefix": "P_"}],
                "resources": {"requests": {"cpu": "100m", "memory": "1Gi", "a.b/c": "2"}, "limits": {"cpu": 1, "a.b/c": 2}},
                "volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": "x"}],
                "livenessProbe": {"httpGet": {"path": "/", "port": "http"}},
                "readinessProbe": {"exec": {"command": ["true"]}},
                "lifecycle": {"preStop": {"sleep": {"seconds": 3}}},
                "securityContext": {"runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
            }],
            "initContainers": [{"name": "i", "image": "i", "restartPolicy": "Always", "startupProbe": {"tcpSocket": {"port": 1}}}],
            "volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "projected": {"sources": [
                {"serviceAccountToken": {"path": "token"}}, {"configMap": {"name": "m", "items": [{"key": "k", "path": "p"}]}}]}}],
            "serviceAccountName": "default",
            "tolerations": [{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}, {"operator": "Exists"}],
            "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}}],
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}]}}}
        }
    }));
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn containers() {
    for (fields, want) in [
        (json!({"name": ""}), "spec.containers[0].name: Required value"),
        (json!({"image": ""}), "spec.containers[0].image: Required value"),
        (
            json!({"image": " i"}),
            "spec.containers[0].image: Invalid value: \" i\": must not have leading or trailing whitespace",
        ),
        (
            json!({"imagePullPolicy": "Often"}),
            "spec.containers[0].imagePullPolicy: Unsupported value: \"Often\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
        ),
        (
            json!({"ports": [{"containerPort": 70000}]}),
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (json!({"ports": [{}]}), "spec.containers[0].ports[0].containerPort: Required value"),
        (
            json!({"ports": [{"containerPort": 1, "name": "a"}, {"containerPort": 2, "name": "a"}]}),
            "spec.containers[0].ports[1].name: Duplicate value: \"a\"",
        ),
        (
            json!({"ports": [{"containerPort": 1, "hostPort": 9}, {"containerPort": 2, "hostPort": 9}]}),
            "spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//9\"",
        ),
        (
            json!({"volumeMounts": [{"name": "x", "mountPath": "/v"}]}),
            "spec.containers[0].volumeMounts[0].name: Not found: \"x\"",
        ),
        (
            json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}, {"name": "v", "mountPath": "/v"}]}),
            "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/v\": must be unique",
        ),
        (
            json!({"volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": "a/../b"}]}),
            "spec.containers[0].volumeMounts[0].subPath: Invalid value: \"a/../b\": must not contain '..'",
        ),
        (
            json!({"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}),
            "spec.containers[0].resources.requests[cpu]: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        ),
        (
            json!({"resources": {"requests": {"memory": "-1"}}}),
            "spec.containers[0].resources.requests[memory]: Invalid value: \"-1\": must be greater than or equal to 0",
        ),
        (
            json!({"resources": {"requests": {"a.b/c": "1"}}}),
            "spec.containers[0].resources.limits: Required value: Limit must be set for non overcommitable resources",
        ),
        (
            json!({"resources": {"limits": {"hugepages-2Mi": "2Mi"}}}),
            "spec.containers[0].resources: Forbidden: HugePages require cpu or memory",
        ),
        (
            json!({"securityContext": {"allowPrivilegeEscalation": false, "privileged": true}}),
            "spec.containers[0].securityContext: Invalid value: {\"allowPrivilegeEscalation\":false,\"privileged\":true}: cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
        ),
    ] {
        assert_eq!(container(fields.clone()), [want], "{fields}");
    }
}

#[test]
fn environment() {
    for (variable, want) in [
        (json!({"name": ""}), "spec.containers[0].env[0].name: Required value"),
        (
            json!({"name": "a=b"}),
            "spec.containers[0].env[0].name: Invalid value: \"a=b\": a valid environment variable name must consist only of printable ASCII characters other than '='",
        ),
        (
            json!({"name": "a", "valueFrom": {}}),
            "spec.containers[0].env[0].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        ),
        (
            json!({"name": "a", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}),
            "spec.containers[0].env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
        ),
        (
            json!({"name": "a", "valueFrom": {"fieldRef": {"fieldPath": "spec.odd"}}}),
            "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.odd\": error converting fieldPath: field label not supported: spec.odd",
        ),
        (
            json!({"name": "a", "valueFrom": {"secretKeyRef": {"name": "s", "key": ""}}}),
            "spec.containers[0].env[0].valueFrom.secretKeyRef.key: Required value",
        ),
    ] {
        assert_eq!(container(json!({"env": [variable]})), [want]);
    }
}

#[test]
fn probes_and_lifecycle() {
    for (fields, want) in [
        (
            json!({"livenessProbe": {}}),
            "spec.containers[0].livenessProbe: Required value: must specify a handler type",
        ),
        (
            json!({"livenessProbe": {"exec": {"command": ["x"]}, "tcpSocket": {"port": 1}}}),
            "spec.containers[0].livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
        ),
        (
            json!({"livenessProbe": {"exec": {"command": ["x"]}, "successThreshold": 2}}),
            "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
        ),
        (
            json!({"readinessProbe": {"tcpSocket": {"port": 0}}}),
            "spec.containers[0].readinessProbe.tcpSocket.port: Invalid value: 0: must be between 1 and 65535, inclusive",
        ),
        (
            json!({"readinessProbe": {"tcpSocket": {"port": 1}, "terminationGracePeriodSeconds": 3}}),
            "spec.containers[0].readinessProbe.terminationGracePeriodSeconds: Invalid value: 3: must not be set for readinessProbes",
        ),
        (
            json!({"startupProbe": {"tcpSocket": {"port": 1}, "timeoutSeconds": -1}}),
            "spec.containers[0].startupProbe.timeoutSeconds: Invalid value: -1: must be greater than or equal to 0",
        ),
    ] {
        assert_eq!(container(fields), [want]);
    }
}

#[test]
fn other_lists() {
    let init = |fields: Value| check(json!({"spec.initContainers": [fields]}));
    assert_eq!(
        init(json!({"name": "c", "image": "i"})),
        ["spec.initContainers[0].name: Duplicate value: \"c\""]
    );
    assert_eq!(
        init(json!({"name": "d", "image": "i", "livenessProbe": {"exec": {"command": ["x"]}}})),
        [
            "spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always"
        ]
    );
    assert_eq!(check(json!({"spec.containers": []})), ["spec.containers: Required value"]);
    assert_eq!(
        check(json!({"spec.ephemeralContainers": [{"name": "e", "image": "i"}]})),
        ["spec.ephemeralContainers: Forbidden: cannot be set on create"]
    );
}

#[test]
fn volumes() {
    for (volume, want) in [
        (
            json!({"name": "v", "hostPath": {"path": "/a/../b"}}),
            "spec.volumes[0].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
        ),
        (json!({"name": "", "emptyDir": {}}), "spec.volumes[0].name: Required value"),
        (
            json!({"name": "v", "emptyDir": {}, "secret": {"secretName": "s"}}),
            "spec.volumes[0].secret: Forbidden: may not specify more than 1 volume type",
        ),
        (json!({"name": "v", "configMap": {}}), "spec.volumes[0].configMap.name: Required value"),
        (
            json!({"name": "v", "secret": {"secretName": "s", "defaultMode": 512}}),
            "spec.volumes[0].secret.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive",
        ),
        (
            json!({"name": "v", "configMap": {"name": "m", "items": [{"key": "k", "path": "/x"}]}}),
            "spec.volumes[0].configMap.items[0].path: Invalid value: \"/x\": must be a relative path",
        ),
        (
            json!({"name": "v", "persistentVolumeClaim": {}}),
            "spec.volumes[0].persistentVolumeClaim.claimName: Required value",
        ),
        (
            json!({"name": "v", "nfs": {"server": "s", "path": "x"}}),
            "spec.volumes[0].nfs.path: Invalid value: \"x\": must be an absolute path",
        ),
    ] {
        assert_eq!(check(json!({"spec.volumes": [volume]})), [want]);
    }
    assert_eq!(
        check(json!({"spec.volumes": [{"name": "v", "emptyDir": {}}, {"name": "v", "emptyDir": {}}]})),
        ["spec.volumes[1].name: Duplicate value: \"v\""]
    );
}

#[test]
fn scheduling() {
    for (path, value, want) in [
        (
            "spec.tolerations",
            json!([{"key": "", "operator": "Equal"}]),
            "spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
        ),
        (
            "spec.tolerations",
            json!([{"key": "a", "effect": "Odd"}]),
            "spec.tolerations[0].effect: Unsupported value: \"Odd\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
        ),
        (
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms",
            json!([]),
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required value: must have at least one node selector term",
        ),
        (
            "spec.topologySpreadConstraints",
            json!([{"maxSkew": 0, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule"}]),
            "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
        ),
        (
            "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution",
            json!([{"labelSelector": {}}]),
            "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Required value: can not be empty",
        ),
        (
            "spec.activeDeadlineSeconds",
            json!(0),
            "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
        ),
        (
            "spec.restartPolicy",
            json!("Odd"),
            "spec.restartPolicy: Unsupported value: \"Odd\": supported values: \"Always\", \"OnFailure\", \"Never\"",
        ),
        (
            "spec.dnsPolicy",
            json!("None"),
            "spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None",
        ),
    ] {
        let mut change = serde_json::Map::new();
        change.insert(path.to_owned(), value);
        assert_eq!(check(Value::Object(change)), [want]);
    }
}

#[test]
fn a_new_pod_is_pending() {
    let mut pod = pod(json!({"status": {"phase": "Running"}, "spec.schedulingGates": [{"name": "a/b"}]}));
    (rules().prepare_create)(&mut pod);
    assert_eq!(pod.text("status.phase"), "Pending");
    assert_eq!(pod.text("status.qosClass"), "BestEffort");
    assert_eq!(pod.items("status.conditions")[0].text("reason"), "SchedulingGated");
    assert_eq!(pod.int("metadata.generation"), 1);
}

#[test]
fn updates_allow_little() {
    let old = pod(
        json!({"spec.tolerations": [{"key": "a", "operator": "Exists"}], "spec.activeDeadlineSeconds": 9}),
    );
    let mut new = old.clone();
    set(&mut new, "metadata.labels", json!({"x": "y"}));
    new["spec"]["containers"][0]["image"] = json!("j");
    new["spec"]["tolerations"].as_array_mut().unwrap().push(json!({"key": "b", "operator": "Exists"}));
    set(&mut new, "spec.activeDeadlineSeconds", json!(5));
    assert!(change(&old, &new).is_empty(), "{:?}", change(&old, &new));

    let mut new = old.clone();
    set(&mut new, "spec.nodeName", json!("n"));
    assert_eq!(
        change(&old, &new),
        [
            "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n+ nodeName: \"n\""
        ]
    );
    let mut new = old.clone();
    set(&mut new, "spec.tolerations", json!([]));
    set(&mut new, "spec.activeDeadlineSeconds", json!(10));
    assert_eq!(
        change(&old, &new),
        [
            "spec.activeDeadlineSeconds: Invalid value: 10: must be less than or equal to previous value",
            "spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds",
        ]
    );
    let mut new = old.clone();
    new["spec"]["containers"].as_array_mut().unwrap().push(
        json!({"name": "z", "image": "z", "imagePullPolicy": "Always", "terminationMessagePolicy": "File"}),
    );
    assert_eq!(
        change(&old, &new),
        ["spec.containers: Forbidden: pod updates may not add or remove containers"]
    );
}

#[test]
fn status_updates() {
    let mut old =
        pod(json!({"spec.nodeName": "n", "spec.restartPolicy": "Never", "status.qosClass": "BestEffort"}));
    set(
        &mut old,
        "status.containerStatuses",
        json!([{"name": "c", "state": {"terminated": {"exitCode": 0}}}]),
    );
    let mut new = old.clone();
    set(&mut new, "status.containerStatuses", json!([{"name": "c", "state": {"running": {}}}]));
    set(&mut new, "status.qosClass", json!("Burstable"));
    let found: Vec<String> =
        (rules().validate_status_update)(&new, &old).iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state",
            "status.qosClass: Invalid value: \"Burstable\": field is immutable",
        ]
    );
}

#[test]
fn grace_periods() {
    let running = pod(
        json!({"spec.nodeName": "n", "spec.terminationGracePeriodSeconds": 7, "status.phase": "Running"}),
    );
    assert_eq!(
        (grace_period(&running, None), grace_period(&running, Some(2)), grace_period(&running, Some(0))),
        (7, 2, 0)
    );
    assert_eq!(grace_period(&pod(json!({})), None), 0, "never scheduled");
    let ended = pod(json!({"spec.nodeName": "n", "status.phase": "Failed"}));
    assert_eq!(grace_period(&ended, None), 0);
}

#[test]
fn resizes_and_ephemeral_containers() {
    let old = pod(
        json!({"spec.containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "1"}}}]}),
    );
    let mut new = old.clone();
    set(&mut new, "metadata.labels", json!({}));
    new["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("2");
    assert!(validate_resize(&new, &old).is_empty(), "{:?}", validate_resize(&new, &old));
    new["spec"]["containers"][0]["image"] = json!("j");
    assert_eq!(validate_resize(&new, &old)[0].detail, "only cpu and memory resources are mutable");

    let with = |name: &str| pod(json!({"spec.ephemeralContainers": [{"name": name, "image": "i"}]}));
    assert!(validate_ephemeral_containers_update(&with("e"), &old).is_empty());
    let found = validate_ephemeral_containers_update(&with("f"), &with("e"));
    assert_eq!(found[0].detail, "existing ephemeral containers \"e\" may not be removed\n");
}

#[test]
fn bindings_name_a_node() {
    let found = validate_binding(&json!({"target": {"kind": "Pod"}}));
    assert_eq!(
        found[0].to_string(),
        "target.kind: Unsupported value: \"Pod\": supported values: \"Node\", \"<empty>\""
    );
    assert_eq!(found[1].to_string(), "target.name: Required value");
}
