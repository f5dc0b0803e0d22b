//! Admission webhooks, over real HTTPS.

use std::sync::atomic::Ordering;

use base64::Engine as _;
use serde_json::{Value, json};

use crate::agents;
use crate::cluster::{Answer, CONFIG_MAPS, Cluster, Keyed, Running, ask, config_map, eventually};
use crate::hook_server::{HookServer, LARGE};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";

async fn configure(cluster: &Running, kind: &str, name: &str, hooks: &[Value]) {
    let path = format!("{GROUP}/{kind}webhookconfigurations");
    cluster.create(&path, &json!({"metadata": {"name": name}, "webhooks": hooks})).await;
}

async fn post(cluster: &Running, name: &str) -> Answer {
    cluster.root(ask("POST", CONFIG_MAPS).json(&config_map(name))).await
}

fn message(answer: &Answer) -> String {
    answer.json()["message"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn mutations_come_in_order_and_again() {
    let cluster = Cluster::start().await;
    let server = HookServer::start(&cluster).await;
    let mut first = server.hook(&cluster, "first", "/label/first");
    first["reinvocationPolicy"] = json!("IfNeeded");
    configure(&cluster, "mutating", "a", &[first]).await;
    configure(&cluster, "mutating", "b", &[server.hook(&cluster, "second", "/label/second")]).await;
    let answer = post(&cluster, "x").await;
    let object = answer.expect(201);
    assert_eq!(object["metadata"]["labels"], json!({"first": "CREATE", "second": "CREATE"}));
    assert!(object.get("nonsense").is_none());
    assert_eq!(server.asked(), ["/label/first", "/label/second", "/label/first"]);
    let warnings: Vec<&str> =
        answer.headers.get_all("warning").iter().filter_map(|text| text.to_str().ok()).collect();
    assert_eq!(warnings, ["299 - \"first was here\"", "299 - \"second was here\""]);
    // Connections are kept.
    assert_eq!(server.connections.load(Ordering::SeqCst), 2);
    let (_, request) = server.calls.lock()[0].clone();
    assert_eq!(request["kind"], json!({"group": "", "version": "v1", "kind": "ConfigMap"}));
    assert_eq!((&request["name"], &request["namespace"]), (&json!("x"), &json!("default")));
    assert_eq!((&request["operation"], &request["dryRun"]), (&json!("CREATE"), &json!(false)));
    assert_eq!(request["userInfo"]["username"], "kubernetes-admin");
    assert_eq!(request["options"]["kind"], "CreateOptions");
}

#[tokio::test]
async fn a_webhook_sees_who_owns_which_field() {
    let cluster = Cluster::start().await;
    post(&cluster, "x").await.expect(201);
    let server = HookServer::start(&cluster).await;
    configure(&cluster, "mutating", "a", &[server.hook(&cluster, "label", "/label/seen")]).await;
    configure(&cluster, "validating", "b", &[server.hook(&cluster, "look", "/allow")]).await;
    let patch = ask("PATCH", &format!("{CONFIG_MAPS}/x"))
        .body("application/merge-patch+json", r#"{"data":{"k":"w"}}"#);
    let made = cluster.root(patch).await.expect(200);
    let is_owned = |object: &Value| {
        let entries = object["metadata"]["managedFields"].as_array().expect("who owns what");
        assert!(entries.iter().all(|entry| entry["fieldsV1"].is_object()), "{entries:?}");
        entries.iter().any(|entry| entry["fieldsV1"]["f:data"]["f:k"].is_object())
    };
    assert!(is_owned(&made));
    assert_eq!(server.asked(), ["/label/seen", "/allow"]);
    for (path, request) in server.calls.lock().iter() {
        assert!(is_owned(&request["object"]) && is_owned(&request["oldObject"]), "{path}");
    }
}

#[tokio::test]
async fn a_webhook_refuses_every_operation() {
    let cluster = Cluster::start().await;
    post(&cluster, "x").await.expect(201);
    let server = HookServer::start(&cluster).await;
    configure(&cluster, "validating", "a", &[server.hook(&cluster, "no", "/deny")]).await;
    let refused = post(&cluster, "y").await;
    refused.expect(418);
    assert_eq!(message(&refused), "admission webhook \"no.hooks.test\" denied the request: not today");
    let path = format!("{CONFIG_MAPS}/x");
    let patch = ask("PATCH", &path).body("application/merge-patch+json", r#"{"data":{"k":"w"}}"#);
    cluster.root(patch).await.expect(418);
    cluster.root(ask("DELETE", &path)).await.expect(418);
    cluster.root(ask("DELETE", CONFIG_MAPS)).await.expect(418);
    let dry = ask("POST", &format!("{CONFIG_MAPS}?dryRun=All")).json(&config_map("z"));
    cluster.root(dry).await.expect(418);
    let seen: Vec<(String, bool, bool)> = server
        .calls
        .lock()
        .iter()
        .map(|(_, request)| {
            let operation = request["operation"].as_str().unwrap_or_default().to_owned();
            (operation, request["object"].is_object(), request["oldObject"].is_object())
        })
        .collect();
    let of = |operation: &str, object, old| (operation.to_owned(), object, old);
    assert_eq!(
        seen,
        [
            of("CREATE", true, false),
            of("UPDATE", true, true),
            of("DELETE", false, true),
            of("DELETE", false, true),
            of("CREATE", true, false)
        ]
    );
    assert_eq!(server.calls.lock()[4].1["dryRun"], true);
    assert_eq!(cluster.root(ask("GET", &path)).await.expect(200)["data"]["k"], "v");
}

#[tokio::test]
async fn failures_count_as_the_webhook_says() {
    let cluster = Cluster::start().await;
    let server = HookServer::start(&cluster).await;
    let cases = [
        ("/garbage", "json parse error"),
        ("/large", "larger than"),
        ("/stranger", "received invalid webhook response: expected response.uid=\""),
        ("/broken", "an error on the server"),
        // It is not followed (CVE-2020-8561).
        ("/moved", "the server responded with the status code 307"),
        ("/slow", "context deadline exceeded"),
    ];
    for (path, text) in cases {
        let mut hook = server.hook(&cluster, "bad", path);
        hook["timeoutSeconds"] = json!(if path == "/slow" { 1 } else { 20 });
        configure(&cluster, "validating", "bad", &[hook.clone()]).await;
        let answer = post(&cluster, "x").await;
        answer.expect(500);
        let found = message(&answer);
        assert!(
            found.starts_with("Internal error occurred: failed calling webhook \"bad.hooks.test\": "),
            "{found}"
        );
        assert!(found.contains(text), "{path}: {found}");
        // What is too large is not read to its end.
        assert!(server.taken.load(Ordering::SeqCst) < LARGE / 2, "{path}");
        cluster
            .root(ask("DELETE", &format!("{GROUP}/validatingwebhookconfigurations/bad")))
            .await
            .expect(200);
        hook["failurePolicy"] = json!("Ignore");
        configure(&cluster, "validating", "bad", &[hook]).await;
        let dry = ask("POST", &format!("{CONFIG_MAPS}?dryRun=All")).json(&config_map("x"));
        cluster.root(dry).await.expect(201);
        cluster
            .root(ask("DELETE", &format!("{GROUP}/validatingwebhookconfigurations/bad")))
            .await
            .expect(200);
    }
    let mut gone = server.hook(&cluster, "gone", "/allow");
    gone["clientConfig"]["url"] = json!(format!("https://{}/", env::ports::free_address()));
    configure(&cluster, "validating", "gone", &[gone]).await;
    let found = message(&post(&cluster, "x").await);
    assert!(
        found.contains("failed to call webhook: Post \"https://127.0.0.1:")
            && found.contains("connection refused"),
        "{found}"
    );
}

#[tokio::test]
async fn a_certificate_must_be_of_the_bundle() {
    let cluster = Cluster::start().await;
    let key = rcgen::KeyPair::generate().expect("key");
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.subject_alt_names = vec![rcgen::SanType::IpAddress(std::net::Ipv4Addr::LOCALHOST.into())];
    let own =
        Keyed { certificate: params.self_signed(&key).expect("certificate").pem(), key: key.serialize_pem() };
    let server = HookServer::start_with(&cluster, &own, "127.0.0.1:0").await;
    configure(&cluster, "validating", "other", &[server.hook(&cluster, "other", "/allow")]).await;
    let found = message(&post(&cluster, "x").await);
    assert!(found.contains("x509: "), "{found}");
    cluster.root(ask("DELETE", &format!("{GROUP}/validatingwebhookconfigurations/other"))).await.expect(200);
    // One that is its own authority, as `openssl req -x509` makes it.
    let mut hook = server.hook(&cluster, "own", "/allow");
    let bundle = base64::engine::general_purpose::STANDARD.encode(&own.certificate);
    hook["clientConfig"]["caBundle"] = json!(bundle);
    configure(&cluster, "validating", "own", &[hook]).await;
    post(&cluster, "x").await.expect(201);
    assert_eq!(server.asked(), ["/allow"]);
}

#[tokio::test]
async fn a_service_is_reached_at_its_endpoints() {
    let cluster = Cluster::start().await;
    let keyed = cluster.authority.issue_for("hook.default.svc");
    let server = HookServer::start_with(&cluster, &keyed, "0.0.0.0:0").await;
    let service = json!({"metadata": {"name": "hook"}, "spec": {"ports": [{"name": "https", "port": 443}]}});
    cluster.create("/api/v1/namespaces/default/services", &service).await;
    let mut hook = server.hook(&cluster, "svc", "/allow");
    let bundle = hook["clientConfig"]["caBundle"].clone();
    hook["clientConfig"] =
        json!({"service": {"namespace": "default", "name": "hook", "path": "/allow"}, "caBundle": bundle});
    configure(&cluster, "validating", "svc", &[hook]).await;
    let found = message(&post(&cluster, "x").await);
    assert!(found.contains("Post \"https://hook.default.svc:443/allow?timeout=10s\": no endpoints available for service \"hook\""), "{found}");
    // The machine's own address: endpoints may not be loopback ones.
    let probe = std::net::UdpSocket::bind("0.0.0.0:0").expect("socket");
    let own = probe.connect("203.0.113.1:9").and_then(|()| probe.local_addr()).map(|address| address.ip());
    let Some(own) = own.ok().filter(|ip| !ip.is_loopback()) else { return };
    let slice = json!({"metadata": {"name": "hook-1", "labels": {"kubernetes.io/service-name": "hook"}},
        "addressType": "IPv4", "ports": [{"name": "https", "port": server.address.port()}],
        "endpoints": [{"addresses": [own.to_string()], "conditions": {"ready": true}}]});
    cluster.create("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", &slice).await;
    post(&cluster, "x").await.expect(201);
    assert_eq!(server.asked(), ["/allow"]);
}

#[tokio::test]
async fn pods_behind_a_service_are_reached_through_their_nodes() {
    let cluster = Cluster::start().await;
    let keyed = cluster.authority.issue_for("hook.default.svc");
    let server = HookServer::start_with(&cluster, &keyed, "127.0.0.1:0").await;
    agents::with_service_of_pod(&cluster, "hook", 443, server.address.port()).await;
    let hook = |path: &str| {
        let mut hook = server.hook(&cluster, "svc", "/allow");
        let bundle = hook["clientConfig"]["caBundle"].clone();
        hook["clientConfig"] =
            json!({"service": {"namespace": "default", "name": "hook", "path": path}, "caBundle": bundle});
        hook["timeoutSeconds"] = json!(1);
        hook
    };
    configure(&cluster, "validating", "svc", &[hook("/allow")]).await;
    post(&cluster, "x").await.expect(201);
    assert_eq!(server.asked(), ["/allow"]);
    // An endpoint that says it is a pod, but has not its address, does not lead there.
    let pod = json!({"kind": "Pod", "namespace": "default", "name": "hook"});
    let endpoints = json!({"endpoints": [{"addresses": ["192.0.2.2"], "targetRef": pod}]}).to_string();
    let patch = ask("PATCH", &format!("{}/hook", agents::SLICES));
    cluster.root(patch.body("application/merge-patch+json", endpoints)).await.expect(200);
    configure(&cluster, "validating", "other", &[hook("/other")]).await;
    let refused = post(&cluster, "y").await;
    refused.expect(500);
    assert!(message(&refused).contains("hook.default.svc:443/other"), "{}", message(&refused));
    assert!(!server.asked().contains(&"/other".to_owned()), "{:?}", server.asked());
}

#[tokio::test]
async fn conditions_and_selectors_decide_who_is_asked() {
    let cluster = Cluster::start().await;
    let server = HookServer::start(&cluster).await;
    let mut hook = server.hook(&cluster, "some", "/deny");
    hook["matchConditions"] = json!([
        {"name": "named", "expression": "object.metadata.name.startsWith('bad') && request.operation == 'CREATE'"},
        {"name": "not-robots", "expression": "!request.userInfo.username.startsWith('robot')"},
    ]);
    hook["objectSelector"] = json!({"matchLabels": {"hook": "yes"}});
    hook["namespaceSelector"] = json!({"matchLabels": {"kubernetes.io/metadata.name": "default"}});
    configure(&cluster, "validating", "some", &[hook.clone()]).await;
    let labelled = |name: &str| {
        let mut object = config_map(name);
        object["metadata"]["labels"] = json!({"hook": "yes"});
        ask("POST", CONFIG_MAPS).json(&object)
    };
    cluster.root(labelled("bad")).await.expect(418);
    cluster.root(labelled("good")).await.expect(201);
    post(&cluster, "bad2").await.expect(201);
    let mut elsewhere = config_map("bad");
    elsewhere["metadata"]["labels"] = json!({"hook": "yes"});
    cluster.create("/api/v1/namespaces/kube-public/configmaps", &elsewhere).await;
    // One that fails counts as the webhook's failure policy says, and one that is none is refused.
    hook["matchConditions"] = json!([{"name": "fails", "expression": "object.data.missing == 'x'"}]);
    configure(&cluster, "validating", "fails", &[hook.clone()]).await;
    let answer = cluster.root(labelled("c")).await;
    answer.expect(403);
    assert!(message(&answer).contains("resulted in error: no such key: missing"), "{}", message(&answer));
    hook["matchConditions"] = json!([{"name": "none", "expression": "object.("}]);
    let path = format!("{GROUP}/validatingwebhookconfigurations");
    let answer = cluster
        .root(ask("POST", &path).json(&json!({"metadata": {"name": "none"}, "webhooks": [hook]})))
        .await;
    answer.expect(422);
    assert!(
        message(&answer).contains(
            "webhooks[0].matchConditions[0].expression: Invalid value: \"object.(\": compilation failed: "
        ),
        "{}",
        message(&answer)
    );
}

#[tokio::test]
async fn nobody_is_locked_out() {
    let cluster = Cluster::start().await;
    let server = HookServer::start(&cluster).await;
    let mut hook = server.hook(&cluster, "all", "/deny");
    hook["rules"] =
        json!([{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"]}]);
    configure(&cluster, "validating", "all", &[hook]).await;
    post(&cluster, "x").await.expect(418);
    let token =
        ask("POST", "/api/v1/namespaces/default/serviceaccounts/default/token").json(&json!({"spec": {}}));
    cluster.root(token).await.expect(418);
    cluster.root(ask("DELETE", &format!("{GROUP}/validatingwebhookconfigurations/all"))).await.expect(200);
    post(&cluster, "x").await.expect(201);
}

#[tokio::test]
async fn a_scale_is_seen_as_a_scale() {
    let cluster = Cluster::start().await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    cluster.create(deployments, &deployment).await;
    let server = HookServer::start(&cluster).await;
    let mut hook = server.hook(&cluster, "scale", "/deny");
    hook["rules"] = json!([{"operations": ["UPDATE"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments/scale"]}]);
    configure(&cluster, "validating", "scale", &[hook]).await;
    let patch = ask("PATCH", &format!("{deployments}/d/scale"))
        .body("application/merge-patch+json", r#"{"spec":{"replicas":3}}"#);
    cluster.root(patch).await.expect(418);
    let (_, request) = server.calls.lock()[0].clone();
    assert_eq!(request["kind"], json!({"group": "autoscaling", "version": "v1", "kind": "Scale"}));
    assert_eq!(
        (&request["subResource"], &request["object"]["spec"]["replicas"]),
        (&json!("scale"), &json!(3))
    );
    assert_eq!(request["oldObject"]["spec"]["replicas"], 1);
}

#[tokio::test]
async fn a_change_is_made_to_what_stands_there_and_admitted_each_time() {
    let cluster = Cluster::start().await;
    post(&cluster, "x").await.expect(201);
    let server = HookServer::start(&cluster).await;
    let mut hook = server.hook(&cluster, "gate", "/gate");
    hook["matchConditions"] =
        json!([{"name": "others", "expression": "request.userInfo.username == 'jane'"}]);
    hook["timeoutSeconds"] = json!(20);
    configure(&cluster, "validating", "gate", &[hook]).await;
    let jane = cluster.authority.issue("jane", Some("system:masters"));
    let path = format!("{CONFIG_MAPS}/x");
    let touch = |value: usize| {
        let patch = json!({"data": {"other": value.to_string()}}).to_string();
        cluster.root(ask("PATCH", &path).body("application/merge-patch+json", patch))
    };
    let asked = |count: usize| {
        let calls = server.calls.clone();
        eventually("a call of the webhook", move || {
            let calls = calls.clone();
            async move { (calls.lock().len() == count).then_some(()) }
        })
    };
    let patch = ask("PATCH", &path).body("application/merge-patch+json", r#"{"data":{"k":"w"}}"#);
    let changes = async {
        for round in 1..=3 {
            asked(round).await;
            if round < 3 {
                touch(round).await.expect(200);
            }
            server.gate.add_permits(1);
        }
    };
    let (answer, ()) = tokio::join!(cluster.send_as(patch, &jane), changes);
    let object = answer.expect("answer").expect(200);
    assert_eq!(object["data"], json!({"k": "w", "other": "2"}));
    assert_eq!(server.calls.lock().len(), 3);
    // One that names a revision is told at once.
    let stale = json!({"metadata": {"name": "x", "resourceVersion": object["metadata"]["resourceVersion"]}, "data": {}});
    let put = ask("PUT", &path).json(&stale);
    let changes = async {
        asked(4).await;
        touch(3).await.expect(200);
        server.gate.add_permits(1);
    };
    let (answer, ()) = tokio::join!(cluster.send_as(put, &jane), changes);
    let conflict = answer.expect("answer").expect(409);
    assert_eq!(conflict["reason"], "Conflict");
    // And nobody waits for longer than the client does.
    let patch = ask("PATCH", &format!("{path}?timeout=1s"))
        .body("application/merge-patch+json", r#"{"data":{"k":"z"}}"#);
    let late = cluster.send_as(patch, &jane).await.expect("answer").expect(504);
    assert_eq!(late["message"], "Timeout: request did not complete within the allotted timeout");
    assert_eq!(cluster.root(ask("GET", &path)).await.expect(200)["data"], json!({"k": "w", "other": "3"}));
}
