//! Custom resources in several versions that a webhook converts, over real HTTPS.

use base64::Engine as _;
use serde_json::{Value, json};

use crate::cluster::{Cluster, Running, ask};
use crate::custom::establish;
use crate::hook_server::HookServer;

const V1: &str = "/apis/example.com/v1/namespaces/default/routes";
const V2: &str = "/apis/example.com/v2/namespaces/default/routes";

/// `v1` has `hostPort`, `v2` has `host` and `port`; `v1` is stored.
fn definition(cluster: &Running, server: &HookServer, path: &str) -> Value {
    let version = |name: &str, fields: Value| {
        json!({"name": name, "served": true, "storage": name == "v1", "subresources": {"status": {}},
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "spec": {"type": "object", "properties": fields}, "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}})
    };
    let text = json!({"type": "string"});
    let bundle = base64::engine::general_purpose::STANDARD.encode(&cluster.authority.certificate);
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "routes.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "routes", "singular": "route", "kind": "Route", "listKind": "RouteList"},
            "versions": [version("v1", json!({"hostPort": text})), version("v2", json!({"host": text, "port": text}))],
            "conversion": {"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"],
                "clientConfig": {"url": format!("https://{}{path}", server.address), "caBundle": bundle}}},
        },
    })
}

fn route(version: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": format!("example.com/{version}"), "kind": "Route", "metadata": {"name": name}, "spec": spec})
}

async fn start(path: &str) -> (Running, HookServer) {
    let cluster = Cluster::start().await;
    let server = HookServer::start(&cluster).await;
    establish(&cluster, &definition(&cluster, &server, path)).await;
    (cluster, server)
}

#[tokio::test]
async fn objects_are_read_and_written_in_every_version() {
    let (cluster, server) = start("/convert").await;
    cluster.create(V1, &route("v1", "a", json!({"hostPort": "h:1"}))).await;
    assert!(server.asked().is_empty(), "the stored version needs no webhook");
    let made = cluster.create(V2, &route("v2", "b", json!({"host": "k", "port": "2"}))).await;
    assert_eq!(made["spec"], json!({"host": "k", "port": "2"}));
    assert_eq!(made["apiVersion"], "example.com/v2");
    let get = |path: String| ask("GET", &path);
    let read = cluster.root(get(format!("{V2}/a"))).await.expect(200);
    assert_eq!(read["spec"], json!({"host": "h", "port": "1"}));
    let read = cluster.root(get(format!("{V1}/b"))).await.expect(200);
    assert_eq!(read["spec"], json!({"hostPort": "k:2"}));
    let list = cluster.root(get(V2.to_owned())).await.expect(200);
    let hosts: Vec<&Value> =
        list["items"].as_array().unwrap().iter().map(|item| &item["spec"]["host"]).collect();
    assert_eq!(hosts, [&json!("h"), &json!("k")]);
    let patch =
        ask("PATCH", &format!("{V2}/a")).body("application/merge-patch+json", r#"{"spec":{"port":"9"}}"#);
    assert_eq!(cluster.root(patch).await.expect(200)["spec"], json!({"host": "h", "port": "9"}));
    assert_eq!(cluster.root(get(format!("{V1}/a"))).await.expect(200)["spec"]["hostPort"], "h:9");
    let watch = format!("{V2}?watch=true&resourceVersion=0&timeoutSeconds=1");
    let events = cluster.root(get(watch)).await.text();
    assert_eq!(events.lines().count(), 2, "{events}");
    assert!(events.contains(r#""host":"h","port":"9""#), "{events}");
    let gone = cluster.root(ask("DELETE", &format!("{V2}/a"))).await;
    gone.expect(200);
    assert_eq!(cluster.root(get(format!("{V1}/a"))).await.code, 404);
}

#[tokio::test]
async fn fields_are_selected_in_the_version_that_is_asked_for() {
    let cluster = Cluster::start().await;
    let server = HookServer::start(&cluster).await;
    let mut definition = definition(&cluster, &server, "/convert");
    let fields = |paths: &[&str]| paths.iter().map(|path| json!({"jsonPath": path})).collect::<Value>();
    definition["spec"]["versions"][0]["selectableFields"] = fields(&[".spec.hostPort"]);
    definition["spec"]["versions"][1]["selectableFields"] = fields(&[".spec.host", ".spec.port"]);
    establish(&cluster, &definition).await;
    cluster.create(V1, &route("v1", "a", json!({"hostPort": "h:1"}))).await;
    let b = cluster.create(V2, &route("v2", "b", json!({"host": "h", "port": "2"}))).await;
    cluster.create(V2, &route("v2", "c", json!({"host": "k", "port": "1"}))).await;
    let names = async |path: String| {
        let list = cluster.root(ask("GET", &path)).await.expect(200);
        let items = list["items"].as_array().expect("items").clone();
        items
            .iter()
            .map(|item| item["metadata"]["name"].as_str().expect("name").to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(format!("{V2}?fieldSelector=spec.host=h")).await, ["a", "b"]);
    assert_eq!(names(format!("{V2}?fieldSelector=spec.host=h,spec.port!=2")).await, ["a"]);
    assert_eq!(names(format!("{V2}?fieldSelector=spec.host=h,metadata.name=c")).await, [""; 0]);
    assert_eq!(names(format!("{V1}?fieldSelector=spec.hostPort=h:2")).await, ["b"]);
    let events = async |query: &str| {
        let path = format!("{V2}?watch=true&timeoutSeconds=1&fieldSelector=spec.host=h&{query}");
        let text = cluster.root(ask("GET", &path)).await.text();
        let event = |line: &str| {
            let event: Value = serde_json::from_str(line).expect("JSON");
            let of = |value: &Value| value.as_str().expect("text").to_owned();
            (of(&event["type"]), of(&event["object"]["metadata"]["name"]))
        };
        text.lines().map(event).collect::<Vec<_>>()
    };
    let told = |all: &[(&str, &str)]| -> Vec<(String, String)> {
        all.iter().map(|&(kind, name)| (kind.to_owned(), name.to_owned())).collect()
    };
    assert_eq!(events("resourceVersion=0").await, told(&[("ADDED", "a"), ("ADDED", "b")]));
    // What leaves the selection is gone for who watches it, and what enters it is new.
    for (name, host) in [("a", "k"), ("c", "h"), ("b", "h")] {
        let patch = json!({"spec": {"host": host}, "metadata": {"labels": {"changed": "yes"}}}).to_string();
        let patch = ask("PATCH", &format!("{V2}/{name}")).body("application/merge-patch+json", patch);
        cluster.root(patch).await.expect(200);
    }
    let since = b["metadata"]["resourceVersion"].as_str().expect("a revision");
    let expected = told(&[("DELETED", "a"), ("ADDED", "c"), ("MODIFIED", "b")]);
    assert_eq!(events(&format!("resourceVersion={since}")).await, expected);
    let all = ask("DELETE", &format!("{V2}?fieldSelector=spec.host=h,spec.port=1"));
    cluster.root(all).await.expect(200);
    assert_eq!(names(V2.to_owned()).await, ["a", "b"]);
}

#[tokio::test]
async fn a_webhook_that_fails_is_told_of() {
    for (path, text) in [
        ("/garbage", "conversion webhook for example.com/v1, Kind=Route failed: "),
        ("/unconverted", "returned 0 objects, expected 1"),
        ("/renamed", "returned invalid converted object at index 0: must have the same name: a != other"),
    ] {
        let (cluster, _server) = start(path).await;
        cluster.create(V1, &route("v1", "a", json!({"hostPort": "h:1"}))).await;
        let answer = cluster.root(ask("GET", &format!("{V2}/a"))).await;
        answer.expect(500);
        assert!(answer.text().contains(text), "{path}: {}", answer.text());
        cluster.root(ask("GET", &format!("{V1}/a"))).await.expect(200);
    }
}

/// Webhooks and policies that name one version are asked about requests in every other one, in the version they named.
#[tokio::test]
async fn admission_may_name_another_version() {
    let (cluster, server) = start("/convert").await;
    let rules = |operations: Value| json!([{"operations": operations, "apiGroups": ["example.com"], "apiVersions": ["v1"], "resources": ["routes"]}]);
    let writes = rules(json!(["CREATE", "UPDATE"]));
    let hook = |name: &str, path: &str| {
        let mut hook = server.hook(&cluster, name, path);
        hook["rules"] = if path == "/allow" { rules(json!(["*"])) } else { writes.clone() };
        hook["matchConditions"] = json!([{"name": "old", "expression": "(object != null ? object : oldObject).spec.hostPort.startsWith('h:')"}]);
        hook
    };
    let configurations = "/apis/admissionregistration.k8s.io/v1";
    for (kind, path) in [("mutating", "/label/seen"), ("validating", "/allow")] {
        let body = json!({"metadata": {"name": "routes"}, "webhooks": [hook(kind, path)]});
        cluster.create(&format!("{configurations}/{kind}webhookconfigurations"), &body).await;
    }
    let policy = json!({"metadata": {"name": "routes"}, "spec": {"matchConstraints": {"resourceRules": writes},
        "validations": [{"expression": "object.spec.hostPort != 'h:7'", "message": "seven is taken"}]}});
    cluster.create(&format!("{configurations}/validatingadmissionpolicies"), &policy).await;
    let binding = json!({"metadata": {"name": "routes"}, "spec": {"policyName": "routes", "validationActions": ["Deny"]}});
    cluster.create(&format!("{configurations}/validatingadmissionpolicybindings"), &binding).await;
    let mutation = json!({"patchType": "JSONPatch", "jsonPatch":
        {"expression": "[JSONPatch{op: 'replace', path: '/spec/hostPort', value: object.spec.hostPort == 'h:2' ? 'h:3' : object.spec.hostPort}]"}});
    let policy = json!({"metadata": {"name": "routes"}, "spec": {"matchConstraints": {"resourceRules": writes},
        "reinvocationPolicy": "Never", "mutations": [mutation]}});
    cluster.create(&format!("{configurations}/mutatingadmissionpolicies"), &policy).await;
    let binding = json!({"metadata": {"name": "routes"}, "spec": {"policyName": "routes"}});
    cluster.create(&format!("{configurations}/mutatingadmissionpolicybindings"), &binding).await;

    let made = cluster.create(V2, &route("v2", "a", json!({"host": "h", "port": "2"}))).await;
    assert_eq!(made["apiVersion"], "example.com/v2");
    assert_eq!(made["spec"], json!({"host": "h", "port": "3"}));
    assert_eq!(made["metadata"]["labels"], json!({"seen": "CREATE"}));
    let refused = ask("POST", V2).json(&route("v2", "b", json!({"host": "h", "port": "7"})));
    let refused = cluster.root(refused).await;
    assert!(refused.text().contains("seven is taken"), "{}", refused.text());
    let patch =
        ask("PATCH", &format!("{V2}/a")).body("application/merge-patch+json", r#"{"spec":{"port":"9"}}"#);
    assert_eq!(cluster.root(patch).await.expect(200)["spec"], json!({"host": "h", "port": "9"}));
    let asked: Vec<(String, Value)> =
        server.calls.lock().iter().filter(|(path, _)| path != "/convert").cloned().collect();
    for (_, request) in &asked {
        assert_eq!(request["kind"], json!({"group": "example.com", "version": "v1", "kind": "Route"}));
        assert_eq!(request["requestKind"]["version"], "v2");
    }
    let (_, update) = asked.last().expect("it was asked");
    assert_eq!(
        (&update["object"]["spec"], &update["oldObject"]["spec"]),
        (&json!({"hostPort": "h:9"}), &json!({"hostPort": "h:3"}))
    );
    let elsewhere = asked.len();
    cluster.create(V2, &route("v2", "c", json!({"host": "k", "port": "1"}))).await;
    cluster.root(ask("DELETE", &format!("{V2}/c"))).await.expect(200);
    let later = server.calls.lock().iter().filter(|(path, _)| path != "/convert").count();
    assert_eq!(later, elsewhere, "the conditions are about the version that was named");
    cluster.root(ask("DELETE", &format!("{V2}/a"))).await.expect(200);
    let asked = server.calls.lock().iter().rfind(|(path, _)| path != "/convert").cloned();
    let (path, request) = asked.expect("it was asked");
    assert_eq!((path.as_str(), &request["oldObject"]["spec"]["hostPort"]), ("/allow", &json!("h:9")));
}
