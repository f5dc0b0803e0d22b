//! Quotas: nothing is written that they have no room for, whichever master is asked. Where no controller runs, what is
//! used is counted by the test.

use serde_json::{Value, json};

use crate::cluster::{CONFIG_MAPS, Cluster, Running, ask, config_map, eventually};

const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";

/// A quota whose use was counted.
async fn counted(cluster: &Running, hard: &Value, used: &Value) {
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": hard}});
    let mut made = cluster.create(QUOTAS, &quota).await;
    made["status"] = json!({"hard": hard, "used": used});
    cluster.root(ask("PUT", &format!("{QUOTAS}/q/status")).json(&made)).await.expect(200);
}

async fn used(cluster: &Running) -> Value {
    cluster.root(ask("GET", &format!("{QUOTAS}/q"))).await.expect(200)["status"]["used"].clone()
}

#[tokio::test]
async fn what_exceeds_a_quota_is_refused_in_upstreams_words() {
    let cluster = Cluster::start().await;
    counted(&cluster, &json!({"configmaps": "1"}), &json!({"configmaps": "0"})).await;
    let dry = format!("{CONFIG_MAPS}?dryRun=All");
    cluster.create(&dry, &config_map("a")).await;
    assert_eq!(used(&cluster).await, json!({"configmaps": "0"}), "a dry run uses nothing");
    cluster.create(CONFIG_MAPS, &config_map("a")).await;
    assert_eq!(used(&cluster).await, json!({"configmaps": "1"}));
    cluster.root(ask("POST", CONFIG_MAPS).json(&config_map("a"))).await.expect(403);
    for path in [CONFIG_MAPS, dry.as_str()] {
        let refused = cluster.root(ask("POST", path).json(&config_map("b"))).await.expect(403);
        assert_eq!(
            refused["message"],
            "configmaps \"b\" is forbidden: exceeded quota: q, requested: configmaps=1, used: configmaps=1, limited: configmaps=1"
        );
    }
}

#[tokio::test]
async fn a_quota_that_was_not_counted_yet_lets_nothing_in() {
    let cluster = Cluster::start().await;
    counted(&cluster, &json!({"count/configmaps": "1"}), &json!({})).await;
    let refused = cluster.root(ask("POST", CONFIG_MAPS).json(&config_map("b"))).await.expect(403);
    assert_eq!(
        refused["message"],
        "configmaps \"b\" is forbidden: status unknown for quota: q, resources: count/configmaps"
    );
}

#[tokio::test]
async fn a_create_that_fails_uses_nothing() {
    let cluster = Cluster::start().await;
    cluster.create(CONFIG_MAPS, &config_map("a")).await;
    counted(&cluster, &json!({"configmaps": "5"}), &json!({"configmaps": "1"})).await;
    cluster.root(ask("POST", CONFIG_MAPS).json(&config_map("a"))).await.expect(409);
    assert_eq!(used(&cluster).await, json!({"configmaps": "1"}));
}

const SECRETS: &str = "/api/v1/namespaces/default/secrets";

/// Controllers look at all Secrets, not only at those with tokens.
#[tokio::test]
async fn a_secret_that_goes_is_given_back_and_goes_with_its_owner() {
    let cluster = Cluster::start().await;
    cluster.control();
    let hard = json!({"secrets": "2"});
    cluster.create(QUOTAS, &json!({"metadata": {"name": "q"}, "spec": {"hard": hard}})).await;
    let comes_to = |wanted: Value| {
        let cluster = &cluster;
        async move {
            let look = || async { (used(cluster).await == wanted).then_some(()) };
            eventually(&wanted.to_string(), look).await;
        }
    };
    comes_to(json!({"secrets": "0"})).await;
    let secret = json!({"metadata": {"name": "s"}, "type": "Opaque", "data": {"a": "Yg=="}});
    cluster.create(SECRETS, &secret).await;
    assert_eq!(used(&cluster).await, json!({"secrets": "1"}), "charged as it is written");
    cluster.root(ask("DELETE", &format!("{SECRETS}/s"))).await.expect(200);
    comes_to(json!({"secrets": "0"})).await;

    let owner = cluster.create(CONFIG_MAPS, &config_map("owner")).await;
    let reference =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]});
    let mut owned = secret.clone();
    owned["metadata"]["ownerReferences"] = json!([reference]);
    cluster.create(SECRETS, &owned).await;
    let stored = cluster.root(ask("GET", &format!("{SECRETS}/s"))).await.expect(200);
    assert_eq!(stored["data"], secret["data"]);
    cluster.root(ask("DELETE", &format!("{CONFIG_MAPS}/owner"))).await.expect(200);
    eventually("the secret's end", || async {
        (cluster.root(ask("GET", &format!("{SECRETS}/s"))).await.code == 404).then_some(())
    })
    .await;
    comes_to(json!({"secrets": "0"})).await;
}

#[tokio::test]
async fn masters_together_give_out_no_more_than_there_is() {
    let masters = Cluster::start_many(3).await;
    counted(&masters[0], &json!({"configmaps": "7"}), &json!({"configmaps": "0"})).await;
    let asks = (0..30).map(|index| {
        let master = &masters[index % 3];
        async move {
            let answer = master.root(ask("POST", CONFIG_MAPS).json(&config_map(&format!("c{index}")))).await;
            answer.code
        }
    });
    let codes = futures::future::join_all(asks).await;
    let many = |code: u16| codes.iter().filter(|found| **found == code).count();
    assert_eq!((many(201), many(403)), (7, 23), "{codes:?}");
    assert_eq!(used(&masters[1]).await, json!({"configmaps": "7"}));
}

#[tokio::test]
async fn a_service_that_takes_ports_of_nodes_is_charged_for_them() {
    let cluster = Cluster::start().await;
    let services = "/api/v1/namespaces/default/services";
    let hard = json!({"services.nodeports": "1"});
    counted(&cluster, &hard, &json!({"services.nodeports": "0"})).await;
    let service = |name: &str| json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}});
    for name in ["a", "b"] {
        cluster.create(services, &service(name)).await;
    }
    let change = |name: &str| {
        let text = json!({"spec": {"type": "NodePort"}}).to_string();
        ask("PATCH", &format!("{services}/{name}")).body("application/merge-patch+json", text)
    };
    cluster.root(change("a")).await.expect(200);
    assert_eq!(used(&cluster).await, hard);
    let refused = cluster.root(change("b")).await.expect(403);
    assert_eq!(
        refused["message"],
        "services \"b\" is forbidden: exceeded quota: q, requested: services.nodeports=1, used: services.nodeports=1, limited: services.nodeports=1"
    );
}
