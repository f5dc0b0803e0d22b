//! Writes that need more than to be good: rights of their writer, a label of the namespace, the right time.

use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};

use crate::cluster::{Answer, Ask, Cluster, Running, ask};

const CLAIMS: &str = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims";
const RULES: &str = "/apis/resource.k8s.io/v1/devicetaintrules";
const REQUESTS: &str = "/apis/certificates.k8s.io/v1/namespaces/default/podcertificaterequests";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

/// Lets Ann do this everywhere.
async fn allow(cluster: &Running, name: &str, rule: Value) {
    let role = json!({"metadata": {"name": name}, "rules": [rule]});
    cluster.create(&format!("{RBAC}/clusterroles"), &role).await;
    let group = "rbac.authorization.k8s.io";
    let binding = json!({"metadata": {"name": name}, "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": name},
        "subjects": [{"apiGroup": group, "kind": "User", "name": "ann"}]});
    cluster.create(&format!("{RBAC}/clusterrolebindings"), &binding).await;
}

async fn as_ann(cluster: &Running, request: Ask) -> Answer {
    cluster.root(request.header("impersonate-user", "ann")).await
}

fn message(answer: &Answer) -> String {
    answer.expect(422)["message"].as_str().unwrap_or_default().to_owned()
}

fn claim(name: &str, admin: bool) -> Value {
    let mut exactly = json!({"deviceClassName": "c"});
    if admin {
        exactly["adminAccess"] = true.into();
    }
    json!({"metadata": {"name": name}, "spec": {"devices": {"requests": [{"name": "one", "exactly": exactly}]}}})
}

#[tokio::test]
async fn access_of_administrators_is_for_their_namespaces() {
    let cluster = Cluster::start().await;
    let answer = cluster.root(ask("POST", CLAIMS).json(&claim("a", true))).await;
    assert_eq!(
        message(&answer),
        "ResourceClaim.resource.k8s.io \"a\" is invalid: spec.devices.requests[0].adminAccess: Forbidden: admin access to devices requires the `resource.kubernetes.io/admin-access: true` label on the containing namespace"
    );
    let label = json!({"metadata": {"labels": {"resource.kubernetes.io/admin-access": "true"}}}).to_string();
    let patch = ask("PATCH", "/api/v1/namespaces/default").body("application/merge-patch+json", label);
    cluster.root(patch).await.expect(200);
    cluster.create(CLAIMS, &claim("a", true)).await;
}

#[tokio::test]
async fn claims_are_bound_and_told_of_by_those_who_may() {
    let cluster = Cluster::start().await;
    let group = "resource.k8s.io";
    let status = json!({"apiGroups": [group], "resources": ["resourceclaims", "resourceclaims/status"], "verbs": ["get", "update"]});
    allow(&cluster, "status", status).await;
    let made = cluster.create(CLAIMS, &claim("a", false)).await;
    let path = format!("{CLAIMS}/a/status");
    let result = json!({"request": "one", "driver": "d", "pool": "p", "device": "x"});
    let mut bound = made.clone();
    bound["status"] = json!({"allocation": {"devices": {"results": [result]}}});
    let refused = as_ann(&cluster, ask("PUT", &path).json(&bound)).await;
    assert_eq!(
        message(&refused),
        "ResourceClaim.resource.k8s.io \"a\" is invalid: status.allocation: Forbidden: changing status.allocation or status.reservedFor requires resource=\"resourceclaims/binding\", verb=\"update\" permission: resourceclaims.resource.k8s.io is forbidden: User \"ann\" cannot update resource \"resourceclaims/binding\" in API group \"resource.k8s.io\" at the cluster scope"
    );
    let binding = json!({"apiGroups": [group], "resources": ["resourceclaims/binding"], "verbs": ["update"]});
    allow(&cluster, "binding", binding).await;
    let bound = as_ann(&cluster, ask("PUT", &path).json(&bound)).await.expect(200);
    let mut told = bound.clone();
    told["status"]["devices"] = json!([{"driver": "d", "pool": "p", "device": "x", "data": {"a": 1}}]);
    let refused = as_ann(&cluster, ask("PUT", &path).json(&told)).await;
    assert_eq!(
        message(&refused),
        "ResourceClaim.resource.k8s.io \"a\" is invalid: status.devices: Forbidden: changing status.devices requires resource=\"resourceclaims/driver\", verb=\"[arbitrary-node:update]\" permission: resourceclaims.resource.k8s.io \"d\" is forbidden: User \"ann\" cannot arbitrary-node:update resource \"resourceclaims/driver\" in API group \"resource.k8s.io\" in the namespace \"default\""
    );
    let driver = json!({"apiGroups": [group], "resources": ["resourceclaims/driver"], "resourceNames": ["d"],
        "verbs": ["arbitrary-node:update"]});
    allow(&cluster, "driver", driver).await;
    let told = as_ann(&cluster, ask("PUT", &path).json(&told)).await.expect(200);
    // What was told of a device goes with the device.
    let mut freed = told.clone();
    freed["status"]["allocation"] = Value::Null;
    let freed = as_ann(&cluster, ask("PUT", &path).json(&freed)).await.expect(200);
    assert!(freed["status"]["devices"].is_null(), "{freed}");
}

#[tokio::test]
async fn taints_say_since_when_and_rules_are_changed_as_they_were_read() {
    let cluster = Cluster::start().await;
    let rule = json!({"metadata": {"name": "r"}, "spec": {"deviceSelector": {"driver": "d"}, "taint": {"key": "k", "effect": "None"}}});
    let made = cluster.create(RULES, &rule).await;
    assert!(made["spec"]["taint"]["timeAdded"].is_string(), "{made}");
    let path = format!("{RULES}/r");
    let answer = cluster.root(ask("PUT", &path).json(&rule)).await;
    let text = message(&answer);
    assert!(
        text.contains("metadata.resourceVersion") && text.ends_with("must be specified for an update"),
        "{text}"
    );
    let mut changed = made.clone();
    changed["spec"]["taint"]["effect"] = json!("NoSchedule");
    let changed = cluster.root(ask("PUT", &path).json(&changed)).await.expect(200);
    assert_eq!(changed["metadata"]["generation"], 2);
}

fn condition(kind: &str) -> Value {
    json!({"type": kind, "status": "True", "reason": "R", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"})
}

/// A certificate that begins then (seconds since the epoch) and lives a day, with the status that says so.
fn issued(key: &KeyPair, begin: i64) -> Value {
    let end = begin + 24 * 60 * 60;
    let text = |seconds: i64| api_types::time::from_seconds(seconds);
    let moment = |seconds: i64| UNIX_EPOCH + Duration::from_secs(seconds.unsigned_abs());
    let mut params = CertificateParams::default();
    (params.not_before, params.not_after) = (moment(begin).into(), moment(end).into());
    let chain = params.self_signed(key).expect("a certificate").pem();
    json!({"conditions": [condition("Issued")], "certificateChain": chain, "notBefore": text(begin),
        "notAfter": text(end), "beginRefreshAt": text(end - 60 * 60)})
}

#[tokio::test]
async fn certificates_of_pods_are_issued_by_signers() {
    let cluster = Cluster::start().await;
    let key = KeyPair::generate().expect("a key");
    let stub = CertificateParams::default().serialize_request(&key).expect("a request");
    let request = json!({"metadata": {"name": "a"}, "spec": {"signerName": "example.com/s", "podName": "p", "podUID": "u",
        "serviceAccountName": "s", "serviceAccountUID": "u", "nodeName": "n", "nodeUID": "u",
        "stubPKCS10Request": STANDARD.encode(stub.der())}});
    let made = cluster.create(REQUESTS, &request).await;
    let created = made["metadata"]["creationTimestamp"].as_str().expect("a time");
    let now = api_types::time::to_millis(created).expect("a time") / 1000;
    let status = json!({"apiGroups": ["certificates.k8s.io"], "resources": ["podcertificaterequests/status"], "verbs": ["update"]});
    allow(&cluster, "status", status).await;
    let path = format!("{REQUESTS}/a/status");
    let of = |status: Value| {
        let mut changed = made.clone();
        changed["status"] = status;
        ask("PUT", &path).json(&changed)
    };
    let what = "PodCertificateRequest.certificates.k8s.io \"a\" is invalid: ";
    let refused = as_ann(&cluster, of(issued(&key, now))).await;
    assert_eq!(
        message(&refused),
        format!(
            "{what}spec.signerName: Forbidden: User \"ann\" is not permitted to \"sign\" for signer \"example.com/s\""
        )
    );
    let sign = json!({"apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "resourceNames": ["example.com/*"], "verbs": ["sign"]});
    allow(&cluster, "sign", sign).await;
    let late = as_ann(&cluster, of(issued(&key, now - 60 * 60))).await;
    let text = message(&late);
    assert!(text.starts_with(&format!("{what}status.notBefore: Invalid value: ")), "{text}");
    assert!(text.ends_with(": must be set to within 5 minutes of kube-apiserver's current time"), "{text}");
    as_ann(&cluster, of(issued(&key, now))).await.expect(200);
}
