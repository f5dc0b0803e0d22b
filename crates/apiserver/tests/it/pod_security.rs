//! Pod Security Standards by the labels of a namespace.

use serde_json::{Value, json};

use crate::cluster::{Cluster, Running, ask};

async fn namespace(cluster: &Running, labels: Value) -> String {
    let object = json!({"metadata": {"name": "strict", "labels": labels}});
    cluster.create("/api/v1/namespaces", &object).await;
    let accounts = "/api/v1/namespaces/strict/serviceaccounts";
    cluster.create(accounts, &json!({"metadata": {"name": "default"}})).await;
    "/api/v1/namespaces/strict/pods".to_owned()
}

fn pod(name: &str, context: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i", "securityContext": context}]}})
}

const PLAIN: &str = "allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")";

#[tokio::test]
async fn pods_keep_to_the_standard_of_their_namespace() {
    let cluster = Cluster::start().await;
    let pods = namespace(&cluster, json!({"pod-security.kubernetes.io/enforce": "restricted"})).await;
    let refused = cluster.root(ask("POST", &pods).json(&pod("a", json!({})))).await.expect(403);
    let why = format!("pods \"a\" is forbidden: violates PodSecurity \"restricted:latest\": {PLAIN}");
    assert_eq!(refused["message"], why);
    let hardened = json!({
        "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": true,
        "seccompProfile": {"type": "RuntimeDefault"},
    });
    cluster.create(&pods, &pod("a", hardened)).await;
    let deployments = "/apis/apps/v1/namespaces/strict/deployments";
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": pod("", json!({}))["spec"]});
    let spec = json!({"replicas": 0, "selector": {"matchLabels": {"a": "b"}}, "template": template});
    let answer =
        cluster.root(ask("POST", deployments).json(&json!({"metadata": {"name": "d"}, "spec": spec}))).await;
    answer.expect(201);
    let warning = answer.headers["warning"].to_str().expect("text").replace('\\', "");
    assert_eq!(warning, format!("299 - \"would violate PodSecurity \"restricted:latest\": {PLAIN}\""));
}

#[tokio::test]
async fn a_stricter_namespace_tells_of_its_pods() {
    let cluster = Cluster::start().await;
    let pods = namespace(&cluster, json!({})).await;
    cluster.create(&pods, &pod("a", json!({"privileged": true}))).await;
    let label = |value: &str| {
        let text = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": value}}}).to_string();
        ask("PATCH", "/api/v1/namespaces/strict").body("application/merge-patch+json", text)
    };
    let answer = cluster.root(label("baseline")).await;
    answer.expect(200);
    let warnings: Vec<&str> =
        answer.headers.get_all("warning").iter().map(|value| value.to_str().expect("text")).collect();
    assert_eq!(
        warnings,
        [
            "299 - \"existing pods in namespace \\\"strict\\\" violate the new PodSecurity enforce level \\\"baseline:latest\\\"\"",
            "299 - \"a: privileged\"",
        ]
    );
    let refused = cluster.root(label("strictest")).await.expect(422);
    assert_eq!(
        refused["message"],
        "Namespace \"strict\" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strictest\": must be one of privileged, baseline, restricted"
    );
}
