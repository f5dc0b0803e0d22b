//! Priority and fairness, seen from outside.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};

use crate::cluster::{Answer, CONFIG_MAPS, Cluster, DEADLINE, Running, ask, config_map, eventually};

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
    level_of(cluster, user, "narrow", 0).await
}

/// A level without queues, with so many shares of the seats, and a schema that sends a user to it.
pub async fn level_of(cluster: &Running, user: &str, name: &str, shares: u32) -> [String; 2] {
    let limited = json!({"nominalConcurrencyShares": shares, "lendablePercent": 0, "borrowingLimitPercent": 0,
        "limitResponse": {"type": "Reject"}});
    let spec = json!({"type": "Limited", "limited": limited});
    let level = cluster.create(LEVELS, &json!({"metadata": {"name": name}, "spec": spec})).await;
    let rule = json!({
        "subjects": [{"kind": "User", "user": {"name": user}}],
        "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}],
    });
    let spec =
        json!({"priorityLevelConfiguration": {"name": name}, "matchingPrecedence": 1000, "rules": [rule]});
    let schema = cluster.create(SCHEMAS, &json!({"metadata": {"name": name}, "spec": spec})).await;
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

/// Streams of one connection that take as little of an answer as they can.
pub struct SlowReader(hyper::client::conn::http2::SendRequest<Full<Bytes>>);

impl SlowReader {
    pub async fn connect(cluster: &Running) -> Self {
        let stream = cluster.tls(Some(&cluster.admin), &["h2"]).await.expect("a connection");
        let hello = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(1 << 16)
            .initial_connection_window_size(1 << 28)
            .handshake(TokioIo::new(stream));
        let (sender, connection) = hello.await.expect("HTTP/2");
        cluster.tasks.spawn_detached("slow", async move { drop(connection.await) });
        Self(sender)
    }

    /// What is answered; its body comes as it is read.
    pub async fn begin(&self, user: &str, path: &str) -> Response<Incoming> {
        let request = Request::get(format!("https://localhost{path}")).header("impersonate-user", user);
        let sent = self.0.clone().send_request(request.body(Full::default()).expect("a request"));
        sent.await.expect("an answer")
    }
}

/// A user with a role.
pub async fn reader(cluster: &Running, user: &str, role: &str) {
    let binding = json!({"metadata": {"name": user},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user}]});
    cluster.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).await;
}

/// What is not a list is not over when the time of a request is, whatever it began with.
#[tokio::test]
async fn watches_outlive_the_time_of_a_request() {
    let cluster = Cluster::start_with(|config| config.request_timeout = Duration::from_millis(500)).await;
    let clock = env::Env::real().clock;
    cluster.create(CONFIG_MAPS, &config_map("first")).await;
    let begun = clock.monotonic();
    let mut watches = Vec::new();
    for query in ["watch=1", "watch=1&resourceVersion=0", "watch=1&fieldSelector=metadata.name=later"] {
        let asked = ask("GET", &format!("{CONFIG_MAPS}?{query}"));
        watches.push((query, cluster.open(asked, Some(&cluster.admin)).await.expect("watch").into_body()));
    }
    clock.sleep_until(begun + Duration::from_secs(1)).await;
    cluster.create(CONFIG_MAPS, &config_map("later")).await;
    for (query, mut watch) in watches {
        let mut seen = String::new();
        while !seen.contains("\"later\"") {
            let frame = tokio::time::timeout(DEADLINE, watch.frame()).await.expect(query).expect(query);
            seen.push_str(&String::from_utf8_lossy(&frame.expect(query).into_data().expect("data")));
        }
    }
}

#[tokio::test]
async fn slow_readers_of_large_lists_fill_no_more_memory_than_there_is_for_them() {
    const LIST: usize = 20 * (100 << 10);
    // Half of it is a flow's.
    let cluster = Cluster::start_with(|config| config.list_memory = 5 << 20).await;
    for name in 0..20 {
        let mut map = crate::cluster::config_map(&format!("c{name}"));
        map["data"]["k"] = "v".repeat(100 << 10).into();
        cluster.create(CONFIG_MAPS, &map).await;
    }
    reader(&cluster, "jane", "view").await;
    reader(&cluster, "bob", "view").await;
    let slow = SlowReader::connect(&cluster).await;
    let first = slow.begin("jane", CONFIG_MAPS).await;
    assert_eq!(first.status(), 200);
    let mut others = Vec::new();
    for _ in 0..10 {
        others.push(Box::pin(slow.begin("jane", CONFIG_MAPS)));
    }
    let mut others = futures::future::select_all(others);
    // They wait, while small requests of the same user and all those of others go on.
    for _ in 0..20 {
        assert!(futures::poll!(&mut others).is_pending());
        let small =
            slow.begin("jane", &format!("{CONFIG_MAPS}?limit=0&fieldSelector=metadata.name%3Dx")).await;
        assert_eq!(small.status(), 200);
        let ask = ask("GET", CONFIG_MAPS).header("impersonate-user", "bob");
        let whole = cluster.send_as(ask, &cluster.admin).await.expect("an answer");
        assert!(whole.code == 200 && whole.bytes.len() > LIST);
    }
    // Each that is read makes room for another.
    let whole = first.into_body().collect().await.expect("a body").to_bytes();
    assert!(whole.len() > LIST);
    let (mut next, _, mut rest) = others.await;
    for _ in 0..3 {
        assert_eq!(next.status(), 200);
        assert!(rest.iter_mut().all(|other| futures::FutureExt::now_or_never(other).is_none()));
        // Who goes away makes room too.
        drop(next);
        (next, _, rest) = futures::future::select_all(rest).await;
    }
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
