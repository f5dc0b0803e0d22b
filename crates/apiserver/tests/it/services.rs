//! Addresses and ports of Services.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::cluster::{Cluster, ask};

const SERVICES: &str = "/api/v1/namespaces/default/services";

fn service(name: &str, kind: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"type": kind, "selector": {"a": "b"}, "ports": [{"port": 80}]}})
}

#[tokio::test]
async fn addresses_are_given_once() {
    let cluster = Cluster::start().await;
    let wishes: Vec<Value> = (0..20).map(|index| service(&format!("s{index}"), "NodePort")).collect();
    let made = futures::future::join_all(wishes.iter().map(|wish| cluster.create(SERVICES, wish))).await;
    let text = |value: &Value| value.to_string();
    let addresses: HashSet<String> = made.iter().map(|service| text(&service["spec"]["clusterIP"])).collect();
    let ports: HashSet<String> =
        made.iter().map(|service| text(&service["spec"]["ports"][0]["nodePort"])).collect();
    assert_eq!((addresses.len(), ports.len()), (20, 20));
    let address = made[0]["spec"]["clusterIP"].as_str().expect("address");
    let mut wish = service("wants", "ClusterIP");
    wish["spec"]["clusterIP"] = address.into();
    let refused = cluster.root(ask("POST", SERVICES).json(&wish)).await.expect(422);
    assert!(
        refused["message"].as_str().is_some_and(|text| text.contains("provided IP is already allocated"))
    );
    cluster.root(ask("DELETE", &format!("{SERVICES}/s0"))).await.expect(200);
    let made = cluster.create(SERVICES, &wish).await;
    assert_eq!(made["spec"]["clusterIP"], address);
}

#[tokio::test]
async fn headless_services_have_none() {
    let cluster = Cluster::start().await;
    let mut wish = service("headless", "ClusterIP");
    wish["spec"]["clusterIP"] = "None".into();
    let made = cluster.create(SERVICES, &wish).await;
    assert_eq!(made["spec"]["clusterIPs"], json!(["None"]));
    let kubernetes = cluster.root(ask("GET", &format!("{SERVICES}/kubernetes"))).await.expect(200);
    assert_eq!(kubernetes["spec"]["clusterIP"], "10.96.0.1");
}

#[tokio::test]
async fn an_update_keeps_the_address() {
    let cluster = Cluster::start().await;
    let made = cluster.create(SERVICES, &service("s", "ClusterIP")).await;
    let mut wish = service("s", "ClusterIP");
    wish["metadata"]["resourceVersion"] = made["metadata"]["resourceVersion"].clone();
    wish["spec"]["ports"][0]["port"] = 81.into();
    let updated = cluster.root(ask("PUT", &format!("{SERVICES}/s")).json(&wish)).await.expect(200);
    assert_eq!(updated["spec"]["clusterIP"], made["spec"]["clusterIP"]);
}

#[tokio::test]
async fn families_that_the_cluster_does_not_have_are_refused() {
    let cluster = Cluster::start().await;
    let refused = async |field: &str, value: Value| {
        let mut wish = service("s", "ClusterIP");
        wish["spec"][field] = value;
        let answer = cluster.root(ask("POST", SERVICES).json(&wish)).await.expect(422);
        let cause = &answer["details"]["causes"][0];
        [&cause["field"], &cause["message"]].map(|text| text.as_str().expect("text").to_owned())
    };
    let [field, message] = refused("ipFamilyPolicy", "RequireDualStack".into()).await;
    assert_eq!(field, "spec.ipFamilyPolicy");
    assert!(message.ends_with("this cluster is not configured for dual-stack services"), "{message}");
    let [field, message] = refused("ipFamilies", json!(["IPv6"])).await;
    assert_eq!(field, "spec.ipFamilies[0]");
    assert!(message.ends_with("not configured on this cluster"), "{message}");
    // Preferring two is content with one, and without a selector the endpoints may be of both.
    let mut wish = service("prefers", "ClusterIP");
    wish["spec"]["ipFamilyPolicy"] = "PreferDualStack".into();
    let made = cluster.create(SERVICES, &wish).await;
    assert_eq!(made["spec"]["ipFamilies"], json!(["IPv4"]));
    let wish = json!({"metadata": {"name": "free"}, "spec": {"clusterIP": "None", "ports": [{"port": 80}]}});
    let made = cluster.create(SERVICES, &wish).await;
    assert_eq!(
        (&made["spec"]["ipFamilies"], &made["spec"]["ipFamilyPolicy"]),
        (&json!(["IPv4", "IPv6"]), &json!("RequireDualStack"))
    );
}
