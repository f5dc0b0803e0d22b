//! Admission plugins that upstream runs by default, as clients meet them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, DnType, KeyPair};
use serde_json::{Value, json};

use crate::cluster::{Answer, Cluster, Keyed, Running, ask};

const PODS: &str = "/api/v1/namespaces/default/pods";
const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";
const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

fn message(answer: &Answer) -> String {
    answer.json()["message"].as_str().unwrap_or_default().to_owned()
}

fn pod(name: &str, spec: Value) -> Value {
    let mut spec = spec;
    spec["containers"] = json!([{"name": "c", "image": "i"}]);
    json!({"metadata": {"name": name}, "spec": spec})
}

async fn with_account() -> Running {
    let cluster = Cluster::start().await;
    cluster
        .create("/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": "default"}}))
        .await;
    cluster
}

async fn as_user(cluster: &Running, request: crate::cluster::Ask, user: &Keyed) -> Answer {
    cluster.send_as(request, user).await.expect("an answer")
}

#[tokio::test]
async fn a_pod_takes_over_from_its_runtime_class() {
    let cluster = with_account().await;
    let answer = cluster.root(ask("POST", PODS).json(&pod("a", json!({"runtimeClassName": "fast"})))).await;
    answer.expect(403);
    assert_eq!(message(&answer), "pods \"a\" is forbidden: pod rejected: RuntimeClass \"fast\" not found");
    let class = json!({"metadata": {"name": "fast"}, "handler": "fast", "overhead": {"podFixed": {"cpu": "10m"}},
        "scheduling": {"nodeSelector": {"runtime": "fast"}}});
    cluster.create("/apis/node.k8s.io/v1/runtimeclasses", &class).await;
    let made = cluster.create(PODS, &pod("a", json!({"runtimeClassName": "fast"}))).await;
    assert_eq!(made["spec"]["overhead"], json!({"cpu": "10m"}));
    assert_eq!(made["spec"]["nodeSelector"], json!({"runtime": "fast"}));
    let answer = cluster.root(ask("POST", PODS).json(&pod("b", json!({"overhead": {"cpu": "1"}})))).await;
    answer.expect(403);
    assert!(
        message(&answer).ends_with("Pod Overhead set without corresponding RuntimeClass defined Overhead")
    );
}

#[tokio::test]
async fn claims_and_ingresses_get_the_default_class() {
    let cluster = Cluster::start().await;
    let claim = |name: &str| {
        json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}}})
    };
    let made = cluster.create(CLAIMS, &claim("before")).await;
    assert!(made["spec"]["storageClassName"].is_null());
    let class = json!({"metadata": {"name": "disk", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "example.com/disk"});
    cluster.create("/apis/storage.k8s.io/v1/storageclasses", &class).await;
    let made = cluster.create(CLAIMS, &claim("after")).await;
    assert_eq!(made["spec"]["storageClassName"], "disk");
    let grow = ask("PATCH", &format!("{CLAIMS}/after"))
        .body("application/merge-patch+json", r#"{"spec":{"resources":{"requests":{"storage":"2Gi"}}}}"#);
    let answer = cluster.root(grow).await;
    assert!(message(&answer).contains("can be expanded") || answer.code == 422, "{}", message(&answer));
    let class = json!({"metadata": {"name": "web", "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"}},
        "spec": {"controller": "example.com/web"}});
    cluster.create("/apis/networking.k8s.io/v1/ingressclasses", &class).await;
    let ingress = json!({"metadata": {"name": "i"}, "spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}});
    let made = cluster.create("/apis/networking.k8s.io/v1/namespaces/default/ingresses", &ingress).await;
    assert_eq!(made["spec"]["ingressClassName"], "web");
}

fn request(signer: &str, organization: &str) -> Value {
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.distinguished_name.push(DnType::OrganizationName, organization);
    params.distinguished_name.push(DnType::CommonName, "system:node:b");
    let key = KeyPair::generate().expect("a key");
    let pem = params.serialize_request(&key).expect("a request").pem().expect("PEM");
    json!({"metadata": {"generateName": "r-"}, "spec": {"signerName": signer, "usages": ["client auth"], "request": STANDARD.encode(pem)}})
}

#[tokio::test]
async fn nobody_asks_for_the_masters_group_or_approves_for_others_signers() {
    let cluster = Cluster::start().await;
    let client = "kubernetes.io/kube-apiserver-client";
    let answer = cluster.root(ask("POST", REQUESTS).json(&request(client, "system:masters"))).await;
    answer.expect(403);
    assert!(
        message(&answer)
            .ends_with(&format!("use of {client} signer with system:masters group is not allowed"))
    );
    let made = cluster.create(REQUESTS, &request("example.com/a", "team")).await;
    let name = made["metadata"]["name"].as_str().expect("a name");
    let role = json!({"metadata": {"name": "approver"}, "rules": [
        {"apiGroups": ["certificates.k8s.io"], "resources": ["certificatesigningrequests/approval", "certificatesigningrequests"], "verbs": ["get", "update"]}]});
    cluster.create("/apis/rbac.authorization.k8s.io/v1/clusterroles", &role).await;
    let binding = json!({"metadata": {"name": "approver"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "approver"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "ann"}]});
    cluster.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).await;
    let mut approved = made.clone();
    approved["status"]["conditions"] =
        json!([{"type": "Approved", "status": "True", "reason": "r", "message": "m"}]);
    let path = format!("{REQUESTS}/{name}/approval");
    let ann = cluster.authority.issue("ann", None);
    let answer = as_user(&cluster, ask("PUT", &path).json(&approved), &ann).await;
    answer.expect(403);
    assert!(
        message(&answer)
            .ends_with("user not permitted to approve requests with signerName \"example.com/a\"")
    );
    cluster.root(ask("PUT", &path).json(&approved)).await.expect(200);
}

#[tokio::test]
async fn an_agent_draws_nothing_to_its_node() {
    let cluster = with_account().await;
    let agent = cluster.authority.issue("system:node:a", Some("system:nodes"));
    let nodes = "/api/v1/nodes";
    let node = |labels: Value| json!({"metadata": {"name": "a", "labels": labels}});
    let wrong = node(json!({"node-restriction.kubernetes.io/secure": "yes", "kubernetes.io/role": "x"}));
    let answer = as_user(&cluster, ask("POST", nodes).json(&wrong), &agent).await;
    answer.expect(403);
    assert!(
        message(&answer).ends_with(
            "node \"a\" is not allowed to set the following labels: kubernetes.io/role, node-restriction.kubernetes.io/secure"
        ),
        "{}",
        message(&answer)
    );
    let right = node(json!({"kubernetes.io/hostname": "a"}));
    as_user(&cluster, ask("POST", nodes).json(&right), &agent).await.expect(201);
    let patch =
        |body: &'static str| ask("PATCH", "/api/v1/nodes/a").body("application/merge-patch+json", body);
    let answer = as_user(&cluster, patch(r#"{"spec":{"taints":[]}}"#), &agent).await;
    answer.expect(403);
    assert!(message(&answer).ends_with("node \"a\" is not allowed to modify taints"), "{}", message(&answer));
    as_user(&cluster, patch(r#"{"metadata":{"labels":{"team":"x"}}}"#), &agent).await.expect(200);
    let requests =
        ask("POST", REQUESTS).json(&request("kubernetes.io/kube-apiserver-client-kubelet", "system:nodes"));
    let answer = as_user(&cluster, requests, &agent).await;
    answer.expect(403);
    assert!(
        message(&answer).ends_with("can only create a node CSR with CN=system:node:a"),
        "{}",
        message(&answer)
    );
    cluster.create(PODS, &pod("p", json!({"nodeName": "b"}))).await;
    let tokens = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let unbound = json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "spec": {}});
    let answer = as_user(&cluster, ask("POST", tokens).json(&unbound), &agent).await;
    answer.expect(403);
}

#[tokio::test]
async fn a_pod_is_labelled_with_the_zone_of_its_node() {
    let cluster = with_account().await;
    let node =
        json!({"metadata": {"name": "n", "labels": {"topology.kubernetes.io/zone": "z", "other": "x"}}});
    cluster.create("/api/v1/nodes", &node).await;
    cluster.create(PODS, &pod("a", json!({}))).await;
    let binding = json!({"metadata": {"name": "a"}, "target": {"kind": "Node", "name": "n"}});
    cluster.create(&format!("{PODS}/a/binding"), &binding).await;
    let bound = cluster.root(ask("GET", &format!("{PODS}/a"))).await.expect(200);
    assert_eq!(bound["metadata"]["labels"], json!({"topology.kubernetes.io/zone": "z"}));
}
