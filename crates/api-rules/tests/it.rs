//! Objects as real clusters have them go through the rules and through the store's encoding and back.

mod full;
#[path = "../../../fuzz/src/kubernetes/mod.rs"]
mod targets;

use std::io::Write as _;

use api_rules::patch::apply::{self, Type, Writer};
use api_rules::{Rules, meta, rules};
use api_types::{Resource, codec, table};
use serde_json::{Value, json};

const NOW: &str = "2026-01-01T00:00:00Z";

fn resource_of(object: &Value) -> &'static Resource {
    table::by_api_version(object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap()).unwrap()
}

/// What an API server does to a new object before it stores it.
fn create(sent: &Value) -> (&'static Rules, Value) {
    let resource = resource_of(sent);
    let rules = rules(resource);
    let mut object = codec::normalize(resource.built_in_message(), sent).unwrap();
    (rules.default)(&mut object);
    meta::fill_system_fields(&mut object, NOW, "0a1b2c3d-0000-4000-8000-000000000000", "abcde");
    let writer = Writer {
        manager: "test",
        api_version: sent["apiVersion"].as_str().unwrap(),
        subresource: "",
        now: NOW,
        reset: &["status"],
    };
    apply::update(Type::Message(resource.built_in_message()), None, &mut object, &writer);
    (rules.prepare_create)(&mut object);
    (rules, object)
}

/// Writes to the store's form and reads back.
fn stored(object: &Value) -> Value {
    let resource = resource_of(object);
    let version = object["apiVersion"].as_str().unwrap();
    let bytes = codec::to_stored(resource.built_in_message(), version, &resource.kind, object).unwrap();
    let mut json = Vec::new();
    codec::stored_to_json(&bytes, &mut json, 7).unwrap();
    serde_json::from_slice(&json).unwrap()
}

fn texts(errors: Vec<api_types::field::FieldError>) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

/// Creates, stores, reads, and sends what was first sent once more, as `kubectl apply` and `replace` do: nothing may be
/// wrong, nothing may change.
fn round(sent: &Value) -> Value {
    let name = format!("{} {}", sent["kind"], sent["metadata"]["name"]);
    let (rules, object) = create(sent);
    assert_eq!(texts((rules.validate)(&object)), Vec::<String>::new(), "{name}: create");
    let mut old = stored(&object);
    let before = old.clone();
    (rules.default)(&mut old);
    assert_eq!(old, before, "{name}: defaults are stable through the store");
    let mut new = codec::normalize(resource_of(sent).built_in_message(), sent).unwrap();
    (rules.default)(&mut new);
    new["metadata"]["resourceVersion"] = json!("7");
    (rules.prepare_update)(&mut new, &old);
    assert_eq!(texts((rules.validate_update)(&new, &old)), Vec::<String>::new(), "{name}: update");
    assert_eq!(new["metadata"].get("generation"), old["metadata"].get("generation"), "{name}: generation");
    let mut status = old.clone();
    (rules.prepare_status_update)(&mut status, &old);
    assert_eq!(texts((rules.validate_status_update)(&status, &old)), Vec::<String>::new(), "{name}: status");
    assert_eq!((rules.cells)(&old, 0).len(), rules.columns.len());
    old
}

fn pod_spec() -> Value {
    json!({
        "serviceAccountName": "default",
        "containers": [{
            "name": "c", "image": "busybox", "command": ["/bin/sh", "-c", "exit 0"],
            "env": [{"name": "A", "value": "lit"}, {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "c1", "key": "k"}}},
                    {"name": "C", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "ports": [{"containerPort": 8080}, {"containerPort": 53, "name": "dns", "protocol": "UDP"}],
            "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": 0.5, "memory": "64Mi"}},
            "livenessProbe": {"httpGet": {"path": "/health", "port": 8080, "scheme": "HTTP"}, "initialDelaySeconds": 60},
            "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"add": ["NET_BIND_SERVICE"], "drop": ["ALL"]}},
            "volumeMounts": [{"name": "config", "mountPath": "/etc/c", "readOnly": true},
                             {"name": "kube-api-access", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true}]
        }],
        "volumes": [
            {"name": "config", "configMap": {"name": "c1", "items": [{"key": "k", "path": "k"}]}},
            {"name": "kube-api-access", "projected": {"sources": [
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}}]}}
        ],
        "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}],
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": {
            "labelSelector": {"matchExpressions": [{"key": "k8s-app", "operator": "In", "values": ["kube-dns"]}]}, "topologyKey": "kubernetes.io/hostname"}}]}}
    })
}

fn template() -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": pod_spec()})
}

fn object(api_version: &str, kind: &str, rest: Value) -> Value {
    let mut object =
        json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "a", "namespace": "n"}});
    if !resource_of(&object).namespaced {
        object["metadata"].as_object_mut().unwrap().remove("namespace");
    }
    for (key, value) in rest.as_object().unwrap() {
        object[key] = value.clone();
    }
    object
}

#[test]
fn pods() {
    let pod = round(&object("v1", "Pod", json!({"spec": pod_spec()})));
    assert_eq!(pod["status"]["qosClass"], "Burstable");
    assert_eq!(pod["spec"]["containers"][0]["resources"]["limits"]["cpu"], "500m");
}

#[test]
fn workloads() {
    let selector = json!({"matchLabels": {"app": "web"}});
    for kind in ["Deployment", "ReplicaSet", "DaemonSet"] {
        round(&object("apps/v1", kind, json!({"spec": {"selector": selector, "template": template()}})));
    }
    let claim = json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    round(&object(
        "apps/v1",
        "StatefulSet",
        json!({"spec": {"serviceName": "s", "selector": selector, "template": template(), "volumeClaimTemplates": [claim]}}),
    ));
    round(&object(
        "v1",
        "ReplicationController",
        json!({"spec": {"replicas": 2, "selector": {"app": "web"}, "template": template()}}),
    ));
    let mut once = template();
    once["spec"]["restartPolicy"] = json!("Never");
    round(&object(
        "batch/v1",
        "CronJob",
        json!({"spec": {"schedule": "*/5 * * * *", "jobTemplate": {"spec": {"template": once}}}}),
    ));
    let (rules, job) = create(&object("batch/v1", "Job", json!({"spec": {"template": once}})));
    assert_eq!(texts((rules.validate)(&job)), Vec::<String>::new());
    assert_eq!(
        job["spec"]["selector"]["matchLabels"]["batch.kubernetes.io/controller-uid"],
        job["metadata"]["uid"]
    );
}

#[test]
fn configuration_and_networking() {
    round(&object("v1", "ConfigMap", json!({"data": {"color": "blue"}})));
    round(&object("v1", "Secret", json!({"stringData": {"password": "hunter2"}})));
    round(&object("v1", "ServiceAccount", json!({})));
    round(&object(
        "v1",
        "Service",
        json!({"spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}],
        "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"}}),
    ));
    round(&object(
        "discovery.k8s.io/v1",
        "EndpointSlice",
        json!({"addressType": "IPv4", "ports": [{"port": 80}],
        "endpoints": [{"addresses": ["10.1.0.4"], "conditions": {"ready": true}, "nodeName": "n1"}]}),
    ));
    round(&object(
        "v1",
        "Endpoints",
        json!({"subsets": [{"addresses": [{"ip": "10.1.0.4"}], "ports": [{"port": 80}]}]}),
    ));
    round(&object(
        "networking.k8s.io/v1",
        "Ingress",
        json!({"spec": {"rules": [{"host": "a.b", "http": {"paths": [
        {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "s", "port": {"number": 80}}}}]}}]}}),
    ));
    round(&object(
        "networking.k8s.io/v1",
        "NetworkPolicy",
        json!({"spec": {"podSelector": {}, "ingress": [{}]}}),
    ));
}

#[test]
fn cluster() {
    round(&object("v1", "Namespace", json!({})));
    round(&object(
        "v1",
        "Node",
        json!({"spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24"], "taints": [
        {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]}, "status": {"capacity": {"cpu": "4", "memory": "8Gi",
        "pods": "110", "ephemeral-storage": "100Gi", "hugepages-2Mi": "0"}, "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}}),
    ));
    round(&object(
        "coordination.k8s.io/v1",
        "Lease",
        json!({"spec": {"holderIdentity": "x", "leaseDurationSeconds": 15,
        "acquireTime": "2026-01-01T00:00:00.000000Z", "renewTime": "2026-01-01T00:00:00.000000Z", "leaseTransitions": 0}}),
    ));
    round(&object(
        "v1",
        "Event",
        json!({"involvedObject": {"kind": "Pod", "namespace": "n", "name": "p"}, "reason": "Started",
        "message": "Started container c", "source": {"component": "kubelet"}, "firstTimestamp": NOW, "lastTimestamp": NOW, "count": 1, "type": "Normal"}),
    ));
    round(&object(
        "rbac.authorization.k8s.io/v1",
        "ClusterRole",
        json!({"rules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}, {"verbs": ["get"], "nonResourceURLs": ["/healthz"]}]}),
    ));
    round(&object(
        "rbac.authorization.k8s.io/v1",
        "RoleBinding",
        json!({"roleRef": {"kind": "Role", "name": "r", "apiGroup": "rbac.authorization.k8s.io"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "n"}, {"kind": "User", "name": "u"}]}),
    ));
    round(&object(
        "scheduling.k8s.io/v1",
        "PriorityClass",
        json!({"metadata": {"name": "system-node-critical"}, "value": 2_000_001_000}),
    ));
    round(&object("storage.k8s.io/v1", "StorageClass", json!({"provisioner": "p.io/x"})));
    round(&object(
        "v1",
        "PersistentVolume",
        json!({"spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/d"}}}),
    ));
    round(&object(
        "v1",
        "PersistentVolumeClaim",
        json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}),
    ));
    round(&object(
        "policy/v1",
        "PodDisruptionBudget",
        json!({"spec": {"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}}}),
    ));
    round(&object(
        "autoscaling/v2",
        "HorizontalPodAutoscaler",
        json!({"spec": {"maxReplicas": 3, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}}),
    ));
}

/// `kubectl apply --server-side` of what is there already is no change, and ownership survives the store.
#[test]
fn applying_twice_through_the_store() {
    let sent = object(
        "apps/v1",
        "Deployment",
        json!({"spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template()}}),
    );
    let message = resource_of(&sent).built_in_message();
    let writer =
        Writer { manager: "one", api_version: "apps/v1", subresource: "", now: NOW, reset: &["status"] };
    let mut live = apply::apply(Type::Message(message), &json!({}), &sent, &writer, false).unwrap();
    let rules = rules(resource_of(&sent));
    live = codec::normalize(message, &live).unwrap();
    (rules.default)(&mut live);
    meta::fill_system_fields(&mut live, NOW, "u", "abcde");
    let live = stored(&live);
    let later = Writer { now: "2027-01-01T00:00:00Z", ..writer };
    let again = apply::apply(Type::Message(message), &live, &sent, &later, false).unwrap();
    let mut again = codec::normalize(message, &again).unwrap();
    (rules.default)(&mut again);
    apply::keep_times(&mut again, &live);
    assert_eq!(again, live);
}

/// What is in the corpora goes through the fuzz targets, whole and cut off anywhere.
#[test]
fn the_fuzz_corpora_are_decoded() {
    type Target = fn(&[u8]);
    let targets: [(&str, Target); 6] = [
        ("round_trip", targets::round_trip),
        ("text", targets::text),
        ("rules", targets::rules),
        ("patch", targets::patch),
        ("custom", targets::custom),
        ("expression", targets::expression),
    ];
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    for (name, target) in targets {
        let mut inputs = 0;
        for file in std::fs::read_dir(corpus.join(name)).unwrap() {
            let data = std::fs::read(file.unwrap().path()).unwrap();
            (0..=data.len()).for_each(|end| target(&data[..end]));
            inputs += 1 + data.len();
        }
        writeln!(std::io::stderr(), "fuzz corpus {name}: {inputs} inputs").unwrap();
    }
}
