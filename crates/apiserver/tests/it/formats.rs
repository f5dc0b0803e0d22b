//! Forms of bodies and answers, discovery, and what is refused.

use api_types::codec;
use serde_json::{Value, json};

use crate::cluster::{CONFIG_MAPS, Cluster, ask, config_map};

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

#[tokio::test]
async fn protobuf_goes_both_ways() {
    let cluster = Cluster::start().await;
    let mut object = config_map("p");
    object["apiVersion"] = "v1".into();
    let message = api_types::schema::lookup("", "v1", "ConfigMap").expect("message");
    let bytes = codec::to_envelope(message, "v1", "ConfigMap", &object).expect("encoded");
    let made = ask("POST", CONFIG_MAPS).body(PROTOBUF, bytes).header("accept", PROTOBUF);
    let answer = cluster.root(made).await;
    assert_eq!((answer.code, answer.headers["content-type"].to_str().expect("text")), (201, PROTOBUF));
    let made = codec::from_envelope(&answer.bytes).expect("decoded");
    assert_eq!(made["data"]["k"], "v");
    let list = cluster.root(ask("GET", CONFIG_MAPS).header("accept", PROTOBUF)).await;
    let list = codec::from_envelope(&list.bytes).expect("decoded");
    assert_eq!(list["kind"], "ConfigMapList");
    let missing = cluster.root(ask("GET", &format!("{CONFIG_MAPS}/x")).header("accept", PROTOBUF)).await;
    assert_eq!(codec::from_envelope(&missing.bytes).expect("decoded")["reason"], "NotFound");
}

#[tokio::test]
async fn tables_and_bare_metadata() {
    let cluster = Cluster::start().await;
    cluster.create(CONFIG_MAPS, &config_map("a")).await;
    let get = |accept: &'static str| cluster.root(ask("GET", CONFIG_MAPS).header("accept", accept));
    let table = get("application/json;as=Table;v=v1;g=meta.k8s.io,application/json").await.expect(200);
    let columns: Vec<&Value> =
        table["columnDefinitions"].as_array().expect("columns").iter().map(|c| &c["name"]).collect();
    assert_eq!(columns, ["Name", "Data", "Age"]);
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let partial = get("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io").await.expect(200);
    assert_eq!(partial["kind"], "PartialObjectMetadataList");
    assert!(partial["items"][0].get("data").is_none());
    let yaml = get("application/yaml").await;
    assert!(yaml.text().contains("kind: ConfigMapList"), "{}", yaml.text());
    get("text/csv").await.expect(406);
}

#[tokio::test]
async fn bad_bodies_are_answered() {
    let cluster = Cluster::start().await;
    let post = |media: &'static str, text: String| cluster.root(ask("POST", CONFIG_MAPS).body(media, text));
    for text in ["", "{", "[]", "{\"apiVersion\":\"v1\",", "{\"data\":3}", "{\"data\":{\"k\":1}}"] {
        post("application/json", text.to_owned()).await.expect(400);
    }
    post(PROTOBUF, "k8s\0\u{ff}nonsense".to_owned()).await.expect(400);
    post("application/yaml", "a: b: c".to_owned()).await.expect(400);
    post("text/plain", "{}".to_owned()).await.expect(415);
    let large = post("application/json", " ".repeat(3 * 1024 * 1024 + 1)).await.expect(413);
    assert_eq!(large["message"], "Request entity too large: limit is 3145728");
    let deep = format!("{{\"data\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    post("application/json", deep).await.expect(400);
    let made =
        post("application/yaml", "metadata: {name: yaml}\ndata: {a: b}\nunknown: 1\n".to_owned()).await;
    made.expect(201);
    assert_eq!(made.headers["warning"], "299 - \"unknown field \\\"unknown\\\"\"");
    let strict = ask("POST", &format!("{CONFIG_MAPS}?fieldValidation=Strict"))
        .json(&json!({"metadata": {"name": "z"}, "unknown": 1}));
    let refused = cluster.root(strict).await.expect(400);
    assert_eq!(
        refused["message"],
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"unknown\""
    );
}

#[tokio::test]
async fn paths_that_are_none() {
    let cluster = Cluster::start().await;
    for (method, path, code) in [
        ("GET", "/api/v1/frobnicators", 404),
        ("GET", "/apis/frob/v1/x", 404),
        ("GET", "/nothing", 404),
        ("POST", "/api/v1/configmaps", 405),
        ("DELETE", "/api/v1/namespaces", 405),
        ("PUT", CONFIG_MAPS, 405),
        ("GET", "/api/v1/namespaces/default/pods/p/frob", 404),
    ] {
        assert_eq!(cluster.root(ask(method, path)).await.code, code, "{method} {path}");
    }
}

#[tokio::test]
async fn discovery_in_both_forms() {
    let cluster = Cluster::start().await;
    let groups = cluster.root(ask("GET", "/apis")).await.expect(200);
    assert_eq!(groups["kind"], "APIGroupList");
    let resources = cluster.root(ask("GET", "/apis/apps/v1")).await.expect(200);
    let names: Vec<&Value> =
        resources["resources"].as_array().expect("list").iter().map(|r| &r["name"]).collect();
    assert!(names.contains(&&json!("deployments")) && names.contains(&&json!("deployments/scale")));
    let media = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let answer = cluster.root(ask("GET", "/apis").header("accept", media)).await;
    let etag = answer.headers["etag"].to_str().expect("text").to_owned();
    assert_eq!(answer.expect(200)["kind"], "APIGroupDiscoveryList");
    let protobuf = media.replace("application/json", "application/vnd.kubernetes.protobuf");
    let answer = cluster.root(ask("GET", "/apis").header("accept", &protobuf)).await;
    assert_eq!(
        (answer.code, answer.headers["content-type"].to_str().expect("text")),
        (200, protobuf.as_str())
    );
    assert!(answer.bytes.starts_with(b"k8s\0"));
    let list = api_types::codec::from_stored(&answer.bytes, 0).expect("a message");
    assert!(
        list["items"].as_array().is_some_and(|groups| groups.iter().any(|g| g["metadata"]["name"] == "apps"))
    );
    let same = ask("GET", "/apis").header("accept", media).header("if-none-match", &etag);
    assert_eq!(cluster.root(same).await.code, 304);
    let index = cluster.root(ask("GET", "/openapi/v3")).await.expect(200);
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().expect("url").to_owned();
    let document = cluster.root(ask("GET", &url)).await.expect(200);
    assert!(document["components"]["schemas"]["io.k8s.api.apps.v1.Deployment"].is_object());
}

#[tokio::test]
async fn openapi_in_all_forms() {
    let cluster = Cluster::start().await;
    let names = [("v2", "v2"), ("v3/apis/apps/v1", "v3")];
    for (path, version) in names {
        let path = format!("/openapi/{path}");
        for separator in [".", "@"] {
            let asked = format!(
                "application/com.github.proto-openapi.spec.{version}{separator}v1.0+protobuf,application/json;q=0.5"
            );
            let answer = cluster.root(ask("GET", &path).header("accept", &asked)).await;
            assert_eq!(
                (answer.code, answer.headers["content-type"].to_str().expect("text")),
                (200, format!("application/com.github.proto-openapi.spec.{version}.v1.0+protobuf").as_str()),
                "{path}"
            );
            let text = String::from_utf8_lossy(&answer.bytes).into_owned();
            assert!(text.contains("x-kubernetes-group-version-kind") && text.contains("DeploymentSpec"));
        }
        let plain = cluster.root(ask("GET", &path)).await;
        let packed = cluster.root(ask("GET", &path).header("accept-encoding", "gzip")).await;
        assert_eq!(packed.headers["content-encoding"], "gzip");
        assert_eq!(packed.headers["vary"], "Accept, Accept-Encoding");
        assert!(packed.bytes.len() < plain.bytes.len() / 4, "{path}");
        assert_eq!(packed.headers["etag"], plain.headers["etag"]);
        assert_eq!(plain.json()["info"]["title"], "Kubernetes");
        assert_eq!(cluster.root(ask("GET", &path).header("accept", "text/csv")).await.code, 406);
    }
}

#[tokio::test]
async fn an_event_has_two_faces() {
    let cluster = Cluster::start().await;
    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
        "reason": "R", "message": "m", "type": "Normal"});
    cluster.create("/api/v1/namespaces/default/events", &event).await;
    let new =
        cluster.root(ask("GET", "/apis/events.k8s.io/v1/namespaces/default/events/e")).await.expect(200);
    assert_eq!((&new["apiVersion"], &new["note"]), (&json!("events.k8s.io/v1"), &json!("m")));
    let selected = "/api/v1/events?fieldSelector=involvedObject.name%3Dp,reason%3DR";
    let list = cluster.root(ask("GET", selected)).await.expect(200);
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1));
}
