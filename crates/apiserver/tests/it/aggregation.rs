//! Aggregated API servers, over real TLS.

use std::time::Duration;

use apiserver::{AggregationConfig, ProxyClient};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::agents;
use crate::cluster::{Answer, Authority, Cluster, Keyed, Running, ask, eventually};
use crate::other_server::{API_SERVICES, BASE, GROUP, Mode, OtherServer};
use crate::streams::talk;

const THINGS: &str = "/apis/things.test/v1/namespaces/default/things";
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// A cluster that speaks to aggregated servers with a certificate of these authority's, and asks them often.
async fn cluster(proxies: &Authority) -> Running {
    let folder = tempfile::tempdir().expect("folder");
    let files = write(folder.path(), &proxies.issue("front-proxy-client", None));
    cluster_with(files).await
}

/// Files with a certificate.
fn write(folder: &std::path::Path, keyed: &Keyed) -> ProxyClient {
    let files = ProxyClient { certificate: folder.join("proxy.crt"), key: folder.join("proxy.key") };
    std::fs::write(&files.certificate, &keyed.certificate).expect("written");
    std::fs::write(&files.key, &keyed.key).expect("written");
    files
}

async fn cluster_with(files: ProxyClient) -> Running {
    Cluster::start_with(|config| {
        config.proxy_client = Some(files);
        config.aggregation =
            AggregationConfig { refresh: Duration::from_millis(100), retry: Duration::from_millis(10) };
    })
    .await
}

async fn condition(cluster: &Running, name: &str) -> Value {
    let found = cluster.root(ask("GET", &format!("{API_SERVICES}/{name}"))).await.expect(200);
    found["status"]["conditions"][0].clone()
}

/// Waits until an APIService says this of itself.
async fn until(cluster: &Running, name: &str, reason: &str) -> Value {
    eventually(reason, || async {
        Some(condition(cluster, name).await).filter(|condition| condition["reason"] == reason)
    })
    .await
}

/// Says in the status that the server is available, or is not.
async fn set_available(cluster: &Running, word: &str) {
    let condition =
        json!({"type": "Available", "status": word, "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let patch = json!({"status": {"conditions": [condition]}}).to_string();
    let path = format!("{API_SERVICES}/v1.things.test/status");
    cluster.root(ask("PATCH", &path).body("application/merge-patch+json", patch)).await.expect(200);
}

/// A server that is there and available.
async fn started() -> (Running, OtherServer) {
    let proxies = Authority::new();
    let cluster = cluster(&proxies).await;
    let server = OtherServer::start(&cluster, &proxies).await;
    server.register(&cluster, |_| ()).await;
    set_available(&cluster, "True").await;
    (cluster, server)
}

/// A user who may do everything with things.
async fn user(cluster: &Running, name: &str) -> Keyed {
    let roles = "/apis/rbac.authorization.k8s.io/v1";
    let rule = json!({"apiGroups": [GROUP], "resources": ["*"], "verbs": ["*"]});
    cluster
        .create(&format!("{roles}/clusterroles"), &json!({"metadata": {"name": name}, "rules": [rule]}))
        .await;
    let binding = json!({"metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}]});
    cluster.create(&format!("{roles}/clusterrolebindings"), &binding).await;
    cluster.authority.issue(name, Some("devs"))
}

#[tokio::test]
async fn requests_are_passed_on_in_the_name_of_their_user() {
    let (cluster, server) = started().await;
    let jane = user(&cluster, "jane").await;
    let request = ask("GET", &format!("{THINGS}?labelSelector=a%3Db"))
        .header("x-remote-user", "root")
        .header("x-remote-group", "system:masters")
        .header("x-remote-uid", "0")
        .header("x-remote-extra-scopes", "all")
        .header("connection", "x-remote-user")
        .header("authorization", "Bearer secret")
        .header("x-own", "1");
    let answer = cluster.send_as(request, &jane).await.expect("answer");
    assert_eq!(answer.expect(200)["kind"], "ThingList");
    let heard = server.heard(THINGS).pop().expect("asked");
    assert_eq!(heard.uri, format!("{THINGS}?labelSelector=a%3Db"));
    assert!(heard.is_proxy);
    let all = |name: &str| -> Vec<String> {
        let values = heard.headers.get_all(name).iter();
        values.map(|value| value.to_str().expect("text").to_owned()).collect()
    };
    assert_eq!(all("x-remote-user"), ["jane"]);
    assert_eq!(all("x-remote-group"), ["devs", "system:authenticated"]);
    assert!(all("x-remote-uid").is_empty() && all("x-remote-extra-scopes").is_empty());
    assert!(all("authorization").is_empty());
    assert_eq!((all("x-own"), all("x-forwarded-for")), (vec!["1".to_owned()], vec!["127.0.0.1".to_owned()]));
    assert_eq!(all("audit-id"), [answer.headers["audit-id"].to_str().expect("text")]);
    // What is written, and what the server says of it.
    let thing = json!({"kind": "Thing", "metadata": {"name": "t"}});
    let made = cluster.send_as(ask("POST", THINGS).json(&thing), &jane).await.expect("answer");
    assert_eq!(made.expect(201), thing);
    let heard = server.heard(THINGS).pop().expect("asked");
    assert_eq!((heard.method.as_str(), heard.body), ("POST", thing.to_string()));
    let missing = cluster.send_as(ask("GET", &format!("{BASE}/others")), &jane).await.expect("answer");
    assert_eq!(missing.expect(404)["message"], "theirs");
    // Impersonation is this server's.
    let request = ask("GET", THINGS).header("impersonate-user", "joe").header("impersonate-group", "devs");
    cluster.root(request.header("impersonate-extra-a", "b")).await.expect(403);
    let bound = json!({"metadata": {"name": "devs"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "jane"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "devs"}]});
    cluster.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &bound).await;
    let request = ask("GET", THINGS).header("impersonate-user", "joe").header("impersonate-group", "devs");
    cluster.root(request.header("impersonate-extra-a", "b")).await.expect(200);
    let heard = server.heard(THINGS).pop().expect("asked");
    assert_eq!(heard.headers["x-remote-user"], "joe");
    assert_eq!(heard.headers["x-remote-extra-a"], "b");
    assert!(!heard.headers.contains_key("impersonate-user"));
}

#[tokio::test]
async fn who_may_not_ask_is_refused_here() {
    let (cluster, server) = started().await;
    let joe = cluster.authority.issue("joe", None);
    let refused = cluster.send_as(ask("GET", THINGS), &joe).await.expect("answer");
    let why = refused.expect(403)["message"].as_str().unwrap_or_default().to_owned();
    assert!(why.starts_with("things.things.test is forbidden: User \"joe\" cannot list"), "{why}");
    assert_eq!(cluster.send(ask("GET", THINGS)).await.expect("answer").code, 403);
    assert!(server.heard(THINGS).is_empty());
}

#[tokio::test]
async fn a_watch_streams() {
    let (cluster, server) = started().await;
    let watch = ask("GET", &format!("{THINGS}?watch=1"));
    let response = cluster.open(watch, Some(&cluster.admin)).await.expect("answer");
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    for number in 0..3 {
        let event = json!({"type": "ADDED", "object": {"number": number}});
        eventually("a watch", || async { server.is_watched().then_some(()) }).await;
        server.tell(&event).await;
        let frame = body.frame().await.expect("a frame").expect("data").into_data().expect("data");
        assert_eq!(serde_json::from_slice::<Value>(&frame).expect("JSON"), event);
    }
    drop(body);
    eventually("the end of the watch", || async { (!server.is_watched()).then_some(()) }).await;
}

#[tokio::test]
async fn a_watch_ends_with_this_server() {
    let (cluster, server) = started().await;
    let watch = ask("GET", &format!("{THINGS}?watch=1"));
    let response = cluster.open(watch, Some(&cluster.admin)).await.expect("answer");
    eventually("a watch", || async { server.is_watched().then_some(()) }).await;
    cluster.stop();
    let end = tokio::time::timeout(crate::cluster::DEADLINE, response.into_body().collect()).await;
    assert!(end.is_ok(), "it ends");
}

#[tokio::test]
async fn connections_are_given_away() {
    let (cluster, server) = started().await;
    let request = ask("GET", &format!("{THINGS}/t/stream"))
        .header("connection", "Upgrade")
        .header("upgrade", "echo")
        .header("x-remote-user", "root");
    let (headers, heard) = talk(&cluster, request, &cluster.admin, "hello").await;
    assert_eq!((headers["upgrade"].to_str().expect("text"), heard.as_str()), ("echo", "hello"));
    let heard = server.heard(THINGS).pop().expect("asked");
    assert_eq!(heard.headers["x-remote-user"], "kubernetes-admin");
}

#[tokio::test]
async fn answers_pass_through_whatever_their_size() {
    let (cluster, _server) = started().await;
    let request = ask("GET", &format!("{THINGS}/large")).header("accept-encoding", "gzip");
    let mut body = cluster.open(request, Some(&cluster.admin)).await.expect("answer").into_body();
    let mut size = 0;
    while let Some(frame) = body.frame().await {
        size += frame.expect("data").data_ref().map_or(0, bytes::Bytes::len);
    }
    assert_eq!(size, 1600 * (64 << 10));
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let (cluster, _server) = started().await;
    let answer = cluster.root(ask("GET", &format!("{THINGS}/away"))).await;
    assert_eq!(answer.code, 502);
    assert_eq!(answer.text(), "the backend attempted to redirect this request, which is not permitted");
    assert!(!answer.headers.contains_key("location"));
}

async fn failed(cluster: &Running, path: &str) -> String {
    let answer: Answer = cluster.root(ask("GET", path)).await;
    assert_eq!(answer.code, 503, "{}", answer.text());
    assert_eq!(answer.headers["content-type"], "text/plain; charset=utf-8");
    answer.text()
}

#[tokio::test]
async fn what_cannot_be_reached_is_503_in_upstreams_words() {
    let (cluster, server) = started().await;
    set_available(&cluster, "False").await;
    assert_eq!(failed(&cluster, THINGS).await, "service unavailable\n");
    set_available(&cluster, "True").await;
    server.behave(Mode::Hangs);
    let why = failed(&cluster, BASE).await;
    assert_eq!(why, "error trying to reach service: context deadline exceeded\n");
    server.go().await;
    let why = failed(&cluster, THINGS).await;
    assert!(why.starts_with("error trying to reach service: dial tcp "), "{why}");
    assert!(why.ends_with(": connect: connection refused\n"), "{why}");
    cluster.root(ask("DELETE", "/api/v1/namespaces/default/services/things")).await.expect(200);
    assert_eq!(failed(&cluster, THINGS).await, "service unavailable\n");
    // Without the APIService nobody knows the group.
    cluster.root(ask("DELETE", &format!("{API_SERVICES}/v1.things.test"))).await.expect(200);
    assert_eq!(cluster.root(ask("GET", THINGS)).await.text(), "404 page not found\n");
}

#[tokio::test]
async fn a_server_must_show_who_it_is() {
    let proxies = Authority::new();
    let cluster = cluster(&proxies).await;
    let server = OtherServer::start_with(&cluster.authority.issue_for("other.default.svc"), &proxies).await;
    server.register(&cluster, |_| ()).await;
    set_available(&cluster, "True").await;
    let why = failed(&cluster, THINGS).await;
    assert!(why.contains("tls: failed to verify certificate: x509: "), "{why}");
    assert!(server.heard(THINGS).is_empty());
    let patch = r#"{"spec":{"caBundle":null,"insecureSkipTLSVerify":true}}"#;
    let path = format!("{API_SERVICES}/v1.things.test");
    cluster.root(ask("PATCH", &path).body("application/merge-patch+json", patch)).await.expect(200);
    cluster.root(ask("GET", THINGS)).await.expect(200);
    assert!(server.heard(THINGS)[0].is_proxy, "it still sees who asks");
}

#[tokio::test]
async fn the_proxys_certificate_is_read_again() {
    let (old, new) = (Authority::new(), Authority::new());
    let folder = tempfile::tempdir().expect("folder");
    let cluster = cluster_with(write(folder.path(), &old.issue("front-proxy-client", None))).await;
    let server = OtherServer::start(&cluster, &new).await;
    server.register(&cluster, |_| ()).await;
    set_available(&cluster, "True").await;
    let why = failed(&cluster, THINGS).await;
    assert!(why.starts_with("error trying to reach service: "), "{why}");
    write(folder.path(), &new.issue("front-proxy-client", None));
    eventually("the new certificate", || async {
        (cluster.root(ask("GET", THINGS)).await.code == 200).then_some(())
    })
    .await;
    assert!(server.heard(THINGS)[0].is_proxy);
    let fault = Cluster::fault(|config| {
        let key = folder.path().join("none.key");
        config.proxy_client = Some(ProxyClient { certificate: folder.path().join("proxy.crt"), key });
    })
    .await;
    assert!(fault.starts_with("cannot use the certificate for aggregated API servers: open "), "{fault}");
}

#[tokio::test]
async fn every_replica_passes_on_at_once() {
    let replicas = Cluster::start_many(3).await;
    let proxies = Authority::new();
    let server = OtherServer::start(&replicas[0], &proxies).await;
    server.register(&replicas[0], |_| ()).await;
    set_available(&replicas[0], "True").await;
    for replica in &replicas {
        replica.root(ask("GET", THINGS)).await.expect(200);
    }
}

#[tokio::test]
async fn pods_that_serve_are_reached_through_their_nodes() {
    let proxies = Authority::new();
    let cluster = cluster(&proxies).await;
    let server = OtherServer::start(&cluster, &proxies).await;
    let port = server.address.port();
    agents::with_service_of_pod(&cluster, "things", port, port).await;
    cluster.create(API_SERVICES, &server.api_service(&cluster, |_| ())).await;
    set_available(&cluster, "True").await;
    cluster.root(ask("GET", THINGS)).await.expect(200);
    let heard = server.heard(THINGS);
    assert_eq!(heard[0].headers["host"], format!("{}:8443", agents::NOWHERE));
}

#[tokio::test]
async fn the_status_says_whether_the_server_is_available() {
    let proxies = Authority::new();
    let cluster = cluster(&proxies).await;
    cluster.control();
    let server = OtherServer::start(&cluster, &proxies).await;
    cluster.create(API_SERVICES, &server.api_service(&cluster, |_| ())).await;
    let condition = until(&cluster, "v1.things.test", "ServiceNotFound").await;
    assert_eq!(condition["message"], "service/things in \"default\" is not present");
    let service = json!({"metadata": {"name": "things"}, "spec": {"type": "ExternalName", "externalName": "localhost"}});
    cluster.create("/api/v1/namespaces/default/services", &service).await;
    let condition = until(&cluster, "v1.things.test", "Passed").await;
    assert_eq!((&condition["status"], &condition["message"]), (&json!("True"), &json!("all checks passed")));
    cluster.root(ask("GET", THINGS)).await.expect(200);
    let heard = server.heard(BASE).into_iter().find(|heard| heard.uri == BASE).expect("asked");
    assert_eq!(heard.headers["x-remote-user"], "system:kube-aggregator");
    assert_eq!(heard.headers["x-remote-group"], "system:masters");
    // It fails, goes, and comes back.
    server.behave(Mode::Fails);
    let condition = until(&cluster, "v1.things.test", "FailedDiscoveryCheck").await;
    let url = format!("https://localhost:{}{BASE}", server.address.port());
    let why = format!("failing or missing response from {url}: bad status from {url}: 503");
    assert_eq!((&condition["status"], &condition["message"]), (&json!("False"), &json!(why)));
    assert_eq!(failed(&cluster, THINGS).await, "service unavailable\n");
    server.behave(Mode::Serves);
    until(&cluster, "v1.things.test", "Passed").await;
    server.go().await;
    until(&cluster, "v1.things.test", "FailedDiscoveryCheck").await;
    let refused = format!("failing or missing response from {url}: Get \"{url}\": dial tcp");
    // What is said first may be of a connection that was open at the end.
    eventually("a connection that is refused", || async {
        let now = self::condition(&cluster, "v1.things.test").await;
        now["message"].as_str().is_some_and(|why| why.starts_with(&refused)).then_some(())
    })
    .await;
    server.come().await;
    until(&cluster, "v1.things.test", "Passed").await;
    cluster.root(ask("GET", THINGS)).await.expect(200);
    // With an address of its own the service must have endpoints.
    let path = "/api/v1/namespaces/default/services/things";
    cluster.root(ask("DELETE", path)).await.expect(200);
    until(&cluster, "v1.things.test", "ServiceNotFound").await;
    let port = server.address.port();
    let service = json!({"metadata": {"name": "things"}, "spec": {"ports": [{"port": port}]}});
    cluster.create("/api/v1/namespaces/default/services", &service).await;
    let condition = until(&cluster, "v1.things.test", "EndpointsNotFound").await;
    assert_eq!(condition["message"], "cannot find endpointslices for service/things in \"default\"");
}

#[tokio::test]
async fn what_is_served_here_is_registered() {
    let cluster = Cluster::start().await;
    cluster.control();
    for name in ["v1.", "v1.apps", "v2.autoscaling"] {
        let condition = until(&cluster, name, "Local").await;
        assert_eq!(condition["message"], "Local APIServices are always available");
    }
    let apps = cluster.root(ask("GET", &format!("{API_SERVICES}/v1.apps"))).await.expect(200);
    assert_eq!(apps["metadata"]["labels"], json!({"kube-aggregator.kubernetes.io/automanaged": "onstart"}));
    assert_eq!(
        (&apps["spec"]["groupPriorityMinimum"], &apps["spec"]["versionPriority"]),
        (&json!(17800), &json!(15))
    );
    let schema = json!({"openAPIV3Schema": {"type": "object"}});
    let definition = json!({"metadata": {"name": "widgets.example.com"}, "spec": {"group": "example.com", "scope": "Cluster",
        "names": {"plural": "widgets", "kind": "Widget"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}]}});
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    cluster.create(definitions, &definition).await;
    let path = format!("{API_SERVICES}/v1.example.com");
    let made = eventually("an APIService", || async {
        Some(cluster.root(ask("GET", &path)).await).filter(|answer| answer.code == 200)
    })
    .await
    .expect(200);
    assert_eq!(made["metadata"]["labels"], json!({"kube-aggregator.kubernetes.io/automanaged": "true"}));
    assert_eq!(
        made["spec"],
        json!({"group": "example.com", "version": "v1", "groupPriorityMinimum": 1000, "versionPriority": 100})
    );
    until(&cluster, "v1.example.com", "Local").await;
    cluster.root(ask("DELETE", &format!("{definitions}/widgets.example.com"))).await.expect(200);
    eventually("no APIService", || async {
        Some(cluster.root(ask("GET", &path)).await).filter(|answer| answer.code == 404)
    })
    .await;
}

/// What aggregated discovery says of the group's version.
async fn listed(cluster: &Running) -> Value {
    let document = cluster.root(ask("GET", "/apis").header("accept", AGGREGATED)).await.expect(200);
    let groups = document["items"].as_array().cloned().unwrap_or_default();
    let group = groups.into_iter().find(|group| group["metadata"]["name"] == GROUP);
    group.map(|group| group["versions"][0].clone()).unwrap_or_default()
}

async fn until_freshness(cluster: &Running, freshness: &str) -> Value {
    eventually(freshness, || async {
        Some(listed(cluster).await).filter(|one| one["freshness"] == freshness)
    })
    .await
}

#[tokio::test]
async fn discovery_lists_what_other_servers_serve() {
    let (cluster, server) = started().await;
    let version = until_freshness(&cluster, "Current").await;
    assert_eq!(version["resources"][0]["resource"], "things");
    let document = cluster.root(ask("GET", "/apis").header("accept", AGGREGATED)).await.expect(200);
    let names: Vec<&str> = document["items"]
        .as_array()
        .expect("items")
        .iter()
        .filter_map(|group| group["metadata"]["name"].as_str())
        .collect();
    assert_eq!(names.last(), Some(&GROUP), "by its priority");
    let protobuf = AGGREGATED.replace("json", "vnd.kubernetes.protobuf");
    let bytes = cluster.root(ask("GET", "/apis").header("accept", &protobuf)).await;
    assert!(bytes.code == 200 && String::from_utf8_lossy(&bytes.bytes).contains("things"));
    let plain = cluster.root(ask("GET", "/apis")).await.expect(200);
    let last = plain["groups"].as_array().and_then(|groups| groups.last()).cloned().unwrap_or_default();
    let version = json!({"groupVersion": "things.test/v1", "version": "v1"});
    assert_eq!(last, json!({"name": GROUP, "versions": [version], "preferredVersion": version}));
    let group = cluster.root(ask("GET", "/apis/things.test")).await.expect(200);
    assert_eq!((&group["kind"], &group["versions"]), (&json!("APIGroup"), &json!([version])));
    let resources = cluster.root(ask("GET", BASE)).await.expect(200);
    assert_eq!(resources["resources"][0]["name"], "things");
    let heard = server.heard("/apis").into_iter().find(|heard| heard.uri == "/apis").expect("asked");
    assert_eq!(heard.headers["x-remote-user"], "system:kube-aggregator");
    // It lies, is silent, goes; others are listed all the while.
    for mode in [Mode::Garbage, Mode::Large, Mode::Fails] {
        server.behave(mode);
        let version = until_freshness(&cluster, "Stale").await;
        assert_eq!(version, json!({"version": "v1", "freshness": "Stale"}), "{mode:?}");
        server.behave(Mode::Serves);
        until_freshness(&cluster, "Current").await;
    }
    server.go().await;
    until_freshness(&cluster, "Stale").await;
    cluster.root(ask("GET", "/apis/apps/v1")).await.expect(200);
    server.come().await;
    until_freshness(&cluster, "Current").await;
    cluster.root(ask("DELETE", &format!("{API_SERVICES}/v1.things.test"))).await.expect(200);
    assert_eq!(listed(&cluster).await, Value::Null);
}

#[tokio::test]
async fn servers_of_before_are_listed_too() {
    let (cluster, server) = started().await;
    server.behave(Mode::Old);
    let patch = r#"{"spec":{"versionPriority":11}}"#;
    let path = format!("{API_SERVICES}/v1.things.test");
    cluster.root(ask("PATCH", &path).body("application/merge-patch+json", patch)).await.expect(200);
    eventually("the older question", || async {
        server.heard(BASE).into_iter().find(|heard| heard.uri == BASE)
    })
    .await;
    let version = until_freshness(&cluster, "Current").await;
    let kind = json!({"group": GROUP, "version": "v1", "kind": "Thing"});
    assert_eq!(
        (&version["resources"][0]["resource"], &version["resources"][0]["responseKind"]),
        (&json!("things"), &kind)
    );
}

#[tokio::test]
async fn a_server_that_hangs_keeps_nobody_waiting() {
    let (cluster, server) = started().await;
    until_freshness(&cluster, "Current").await;
    server.behave(Mode::Hangs);
    until_freshness(&cluster, "Stale").await;
    cluster.root(ask("GET", "/apis")).await.expect(200);
    cluster.root(ask("GET", "/openapi/v3")).await.expect(200);
}

#[tokio::test]
async fn open_api_is_joined() {
    let (cluster, server) = started().await;
    let index = eventually("the index", || async {
        let index = cluster.root(ask("GET", "/openapi/v3")).await.expect(200);
        index["paths"]["apis/things.test/v1"].is_object().then_some(index)
    })
    .await;
    let url = &index["paths"]["apis/things.test/v1"]["serverRelativeURL"];
    assert_eq!(url, "/openapi/v3/apis/things.test/v1?hash=AB");
    let core = index["paths"]["api/v1"]["serverRelativeURL"].as_str().unwrap_or_default();
    assert!(!core.ends_with("?hash=AB"), "it speaks for its own only: {core}");
    let document = cluster.root(ask("GET", "/openapi/v3/apis/things.test/v1?hash=AB")).await.expect(200);
    assert_eq!(document["info"]["title"], "hash=AB", "the server itself answers");
    let path = "/apis/things.test/v1/namespaces/{namespace}/things";
    let all = eventually("the document", || async {
        let document = cluster.root(ask("GET", "/openapi/v2")).await.expect(200);
        document["paths"][path].is_object().then_some(document)
    })
    .await;
    let meta = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
    assert_eq!(
        all["definitions"]["test.things.v1.Thing"]["properties"]["metadata"]["$ref"],
        format!("#/definitions/{meta}_v2")
    );
    assert_eq!(all["definitions"][format!("{meta}_v2")]["description"], "another one");
    assert_ne!(all["paths"]["/api/v1/pods"]["get"]["description"], "not theirs");
    assert!(all["definitions"]["io.k8s.api.core.v1.Pod"].is_object() && all["info"]["title"] == "Kubernetes");
    let protobuf = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
    let bytes = cluster.root(ask("GET", "/openapi/v2").header("accept", protobuf)).await;
    assert!(bytes.code == 200 && String::from_utf8_lossy(&bytes.bytes).contains("test.things.v1.Thing"));
    // What it said last stays while it cannot be asked, and goes with the APIService.
    server.go().await;
    let index = cluster.root(ask("GET", "/openapi/v3")).await.expect(200);
    assert!(index["paths"]["apis/things.test/v1"].is_object());
    cluster.root(ask("DELETE", &format!("{API_SERVICES}/v1.things.test"))).await.expect(200);
    let index = cluster.root(ask("GET", "/openapi/v3")).await.expect(200);
    assert!(index["paths"].get("apis/things.test/v1").is_none());
    let document = cluster.root(ask("GET", "/openapi/v2")).await.expect(200);
    assert!(document["paths"].get(path).is_none());
}
