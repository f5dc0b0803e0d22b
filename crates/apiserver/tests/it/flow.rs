//! Priority and fairness, seen from outside.

use serde_json::{Value, json};

use crate::cluster::{Answer, CONFIG_MAPS, Cluster, Running, ask, eventually};

const SCHEMAS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas";
const LEVELS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations";

async fn uid(cluster: &Running, path: &str) -> String {
    let text = |value: &Value| value["metadata"]["uid"].as_str().map(str::to_owned);
    eventually(path, || async { text(&cluster.root(ask("GET", path)).await.json()) }).await
}

fn told(answer: &Answer) -> [&str; 2] {
    ["x-kubernetes-pf-flowschema-uid", "x-kubernetes-pf-prioritylevel-uid"]
        .map(|name| answer.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default())
}

async fn list_as(cluster: &Running, user: &str) -> Answer {
    cluster.root(ask("GET", CONFIG_MAPS).header("impersonate-user", user)).await
}

#[tokio::test]
async fn answers_say_what_a_request_belongs_to() {
    let cluster = Cluster::start().await;
    let [schema, level] =
        [uid(&cluster, &format!("{SCHEMAS}/exempt")).await, uid(&cluster, &format!("{LEVELS}/exempt")).await];
    let answer = cluster.root(ask("GET", CONFIG_MAPS)).await;
    assert_eq!(told(&answer), [schema.as_str(), level.as_str()]);
    let [schema, level] = [
        uid(&cluster, &format!("{SCHEMAS}/global-default")).await,
        uid(&cluster, &format!("{LEVELS}/global-default")).await,
    ];
    let answer = list_as(&cluster, "jane").await;
    answer.expect(403);
    assert_eq!(told(&answer), [schema.as_str(), level.as_str()], "refusals too");
}

/// A level with as good as no seats and no queues, and a schema that sends a user to it.
async fn narrow(cluster: &Running, user: &str) -> [String; 2] {
    let limited = json!({"nominalConcurrencyShares": 0, "lendablePercent": 0, "borrowingLimitPercent": 0,
        "limitResponse": {"type": "Reject"}});
    let spec = json!({"type": "Limited", "limited": limited});
    let level = cluster.create(LEVELS, &json!({"metadata": {"name": "narrow"}, "spec": spec})).await;
    let rule = json!({
        "subjects": [{"kind": "User", "user": {"name": user}}],
        "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}],
    });
    let spec = json!({"priorityLevelConfiguration": {"name": "narrow"}, "matchingPrecedence": 1000, "rules": [rule]});
    let schema = cluster.create(SCHEMAS, &json!({"metadata": {"name": "narrow"}, "spec": spec})).await;
    [&schema, &level].map(|object| object["metadata"]["uid"].as_str().expect("uid").to_owned())
}

#[tokio::test]
async fn a_schema_counts_at_once_and_says_that_its_level_exists() {
    let cluster = Cluster::start().await;
    let [schema, level] = narrow(&cluster, "jane").await;
    let answer = list_as(&cluster, "jane").await;
    assert_eq!(told(&answer), [schema.as_str(), level.as_str()]);
    let condition = eventually("a condition", || async {
        let object = cluster.root(ask("GET", &format!("{SCHEMAS}/narrow"))).await.expect(200);
        Some(object["status"]["conditions"][0].clone()).filter(Value::is_object)
    })
    .await;
    assert_eq!((&condition["type"], &condition["status"]), (&json!("Dangling"), &json!("False")));
    cluster.root(ask("DELETE", &format!("{LEVELS}/narrow"))).await.expect(200);
    eventually("a schema without a level", || async {
        let object = cluster.root(ask("GET", &format!("{SCHEMAS}/narrow"))).await.expect(200);
        (object["status"]["conditions"][0]["reason"] == "NotFound").then_some(())
    })
    .await;
    assert_ne!(told(&list_as(&cluster, "jane").await)[0], schema);
}

#[tokio::test]
async fn who_is_too_many_is_told_to_come_again() {
    let cluster = Cluster::start().await;
    narrow(&cluster, "jane").await;
    let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    let binding = json!({"metadata": {"name": "b"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "jane"}]});
    cluster.create(bindings, &binding).await;
    // A write waits for the store, so that the others come while it runs.
    let write = |name: String| {
        let ask = ask("POST", CONFIG_MAPS).json(&crate::cluster::config_map(&name));
        cluster.root(ask.header("impersonate-user", "jane"))
    };
    let answers = futures::future::join_all((0..10).map(|index| write(format!("c{index}")))).await;
    let refused: Vec<&Answer> = answers.iter().filter(|answer| answer.code == 429).collect();
    assert!(!refused.is_empty() && refused.len() < answers.len());
    for answer in refused {
        assert_eq!(answer.headers["retry-after"], "1");
        assert_eq!(answer.json()["message"], "Too many requests, please try again later.");
    }
    write("last".to_owned()).await.expect(201);
}

#[tokio::test]
async fn what_must_be_is_brought_back() {
    let cluster = Cluster::start().await;
    let (path, suggested) = (format!("{LEVELS}/catch-all"), format!("{LEVELS}/workload-low"));
    uid(&cluster, &path).await;
    uid(&cluster, &suggested).await;
    let change = |path: &str| {
        let text = json!({"spec": {"limited": {"nominalConcurrencyShares": 50}}}).to_string();
        ask("PATCH", path).body("application/merge-patch+json", text)
    };
    let refused = cluster.root(change(&path)).await.expect(422);
    let text = "spec of 'catch-all' must equal the fixed value";
    assert!(refused["message"].as_str().is_some_and(|message| message.ends_with(text)), "{refused}");
    cluster.root(change(&suggested)).await.expect(200);
    eventually("a hundred shares", || async {
        let level = cluster.root(ask("GET", &suggested)).await.expect(200);
        (level["spec"]["limited"]["nominalConcurrencyShares"] == 100).then_some(())
    })
    .await;
    cluster.root(ask("DELETE", &path)).await.expect(200);
    uid(&cluster, &path).await;
    // And then all is quiet: what was made is what is wanted.
    let version = |value: Value| value["metadata"]["resourceVersion"].clone();
    let before = version(cluster.root(ask("GET", &path)).await.expect(200));
    cluster.create(CONFIG_MAPS, &crate::cluster::config_map("a")).await;
    assert_eq!(version(cluster.root(ask("GET", &path)).await.expect(200)), before);
}
