//! Watches over TLS.

use http_body_util::BodyExt;
use hyper::body::Incoming;
use mvcc::Command;
use serde_json::{Value, json};

use crate::cluster::{CONFIG_MAPS, Cluster, DEADLINE, Running, ask, config_map};

struct Watch {
    body: Incoming,
    bytes: Vec<u8>,
}

impl Watch {
    async fn open(cluster: &Running, query: &str) -> Self {
        let ask = ask("GET", &format!("{CONFIG_MAPS}?watch=1&{query}"));
        let response = cluster.open(ask, Some(&cluster.admin)).await.expect("watch");
        assert_eq!(response.status(), 200);
        Self { body: response.into_body(), bytes: Vec::new() }
    }

    /// The next event; none at the end.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.bytes.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("an event"));
            }
            let frame = tokio::time::timeout(DEADLINE, self.body.frame()).await.expect("an event in time");
            self.bytes.extend_from_slice(&frame?.expect("data").into_data().expect("data"));
        }
    }

    async fn brief(&mut self) -> String {
        let event = self.next().await.expect("an event");
        format!(
            "{} {}",
            event["type"].as_str().unwrap_or_default(),
            event["object"]["metadata"]["name"].as_str().unwrap_or_default()
        )
    }
}

async fn label(cluster: &Running, name: &str, value: Value) {
    let text = json!({"metadata": {"labels": {"a": value}}}).to_string();
    let patch = ask("PATCH", &format!("{CONFIG_MAPS}/{name}")).body("application/merge-patch+json", text);
    cluster.root(patch).await.expect(200);
}

#[tokio::test]
async fn changes_come_in_order() {
    let cluster = Cluster::start().await;
    let revision = cluster.store.view().revision();
    let mut watch = Watch::open(&cluster, &format!("resourceVersion={revision}")).await;
    cluster.create(CONFIG_MAPS, &config_map("w")).await;
    label(&cluster, "w", json!("b")).await;
    cluster.root(ask("DELETE", &format!("{CONFIG_MAPS}/w"))).await.expect(200);
    let mut last = 0;
    for kind in ["ADDED", "MODIFIED", "DELETED"] {
        let event = watch.next().await.expect("an event");
        assert_eq!(event["type"], kind);
        let version = event["object"]["metadata"]["resourceVersion"].as_str().expect("version");
        let version: i64 = version.parse().expect("a number");
        assert!(version > last);
        last = version;
    }
}

#[tokio::test]
async fn what_leaves_the_selection_is_deleted() {
    let cluster = Cluster::start().await;
    cluster.create(CONFIG_MAPS, &config_map("w")).await;
    let mut watch = Watch::open(&cluster, "labelSelector=a%3Dyes&resourceVersion=0").await;
    label(&cluster, "w", json!("yes")).await;
    assert_eq!(watch.brief().await, "ADDED w");
    label(&cluster, "w", json!("no")).await;
    assert_eq!(watch.brief().await, "DELETED w");
}

#[tokio::test]
async fn watchers_of_one_change_may_see_it_differently() {
    let cluster = Cluster::start().await;
    cluster.create(CONFIG_MAPS, &config_map("w")).await;
    let revision = cluster.store.view().revision();
    let from = format!("resourceVersion={revision}");
    let mut all = [Watch::open(&cluster, &from).await, Watch::open(&cluster, &from).await];
    let mut selected = Watch::open(&cluster, &format!("labelSelector=a%3Dyes&{from}")).await;
    label(&cluster, "w", json!("yes")).await;
    label(&cluster, "w", json!("no")).await;
    let mut seen = Vec::new();
    for watch in &mut all {
        seen.push([watch.next().await.expect("an event"), watch.next().await.expect("an event")]);
    }
    assert_eq!(seen[0], seen[1]);
    let [yes, no] = &seen[0];
    assert_eq!((&yes["type"], &no["type"]), (&json!("MODIFIED"), &json!("MODIFIED")));
    let (enters, leaves) =
        (selected.next().await.expect("an event"), selected.next().await.expect("an event"));
    assert_eq!((&enters["type"], &leaves["type"]), (&json!("ADDED"), &json!("DELETED")));
    assert_eq!(enters["object"], yes["object"]);
    let version = |event: &Value| event["object"]["metadata"]["resourceVersion"].clone();
    assert_eq!(
        (version(&leaves), &leaves["object"]["metadata"]["labels"]["a"]),
        (version(no), &json!("yes"))
    );
}

#[tokio::test]
async fn initial_events_end_with_a_bookmark() {
    let cluster = Cluster::start().await;
    cluster.create(CONFIG_MAPS, &config_map("w")).await;
    let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&fieldSelector=metadata.name%3Dw&timeoutSeconds=1";
    let mut watch = Watch::open(&cluster, query).await;
    assert_eq!(watch.brief().await, "ADDED w");
    let bookmark = watch.next().await.expect("a bookmark");
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["kind"], "ConfigMap");
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(watch.next().await, None, "it ends with its time");
}

#[tokio::test]
async fn what_is_there_comes_in_pages_as_it_was_when_the_watch_began() {
    const OBJECTS: usize = 301;
    let cluster = Cluster::start().await;
    let numbered = |number: usize| {
        let mut object = config_map(&format!("w{number:03}"));
        object["metadata"]["labels"] = json!({"a": if number.is_multiple_of(2) { "yes" } else { "no" }});
        object["data"] = json!({"large": "x".repeat(4096)});
        object
    };
    for number in 0..OBJECTS {
        cluster.create(CONFIG_MAPS, &numbered(number)).await;
    }
    for selector in ["", "labelSelector=a%3Dyes&"] {
        let query = format!(
            "{selector}sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
        );
        let mut watch = Watch::open(&cluster, &query).await;
        // Not before it is read, and yet behind what is read.
        cluster.root(ask("DELETE", &format!("{CONFIG_MAPS}/w300"))).await.expect(200);
        let wanted = (0..OBJECTS).filter(|number| selector.is_empty() || number.is_multiple_of(2));
        for number in wanted {
            assert_eq!(watch.brief().await, format!("ADDED w{number:03}"));
        }
        assert_eq!(watch.next().await.expect("a bookmark")["type"], "BOOKMARK");
        assert_eq!(watch.brief().await, "DELETED w300");
        cluster.create(CONFIG_MAPS, &numbered(300)).await;
        assert_eq!(watch.brief().await, "ADDED w300");
    }
}

#[tokio::test]
async fn a_compacted_revision_is_gone() {
    let cluster = Cluster::start().await;
    let old = cluster.store.view().revision();
    for index in 0..3 {
        cluster.create(CONFIG_MAPS, &config_map(&format!("w{index}"))).await;
    }
    let revision = cluster.store.view().revision();
    // Push what happened out of the memory of recent events: only history could answer, and that is compacted.
    for _ in 0..24 {
        let puts = (0..100).map(|index| {
            let put = mvcc::PutRequest {
                key: format!("/x/{index}").into(),
                value: vec![0; 1 << 13].into(),
                ..Default::default()
            };
            mvcc::Op::Put(put)
        });
        let txn = mvcc::Txn { success: puts.collect(), ..mvcc::Txn::default() };
        cluster.store.propose(Command::Txn(txn)).await.expect("written");
    }
    cluster.store.propose(Command::Compact { revision }).await.expect("compacted");
    let mut watch = Watch::open(&cluster, &format!("resourceVersion={old}")).await;
    let event = watch.next().await.expect("an event");
    assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert_eq!(watch.next().await, None);
}

#[tokio::test]
async fn protobuf_frames_hold_whole_objects() {
    let cluster = Cluster::start().await;
    cluster.create(CONFIG_MAPS, &config_map("w")).await;
    let ask = ask("GET", &format!("{CONFIG_MAPS}?watch=1&fieldSelector=metadata.name%3Dw&timeoutSeconds=1"))
        .header("accept", "application/vnd.kubernetes.protobuf;stream=watch");
    let answer = cluster.send_as(ask, &cluster.admin).await.expect("answer");
    assert_eq!(answer.headers["content-type"], "application/vnd.kubernetes.protobuf;stream=watch");
    let length = u32::from_be_bytes(answer.bytes[..4].try_into().expect("length")) as usize;
    let (kind, object) =
        api_types::codec::watch_event_from_proto(&answer.bytes[4..4 + length]).expect("an event");
    assert_eq!(kind, "ADDED");
    let object = api_types::codec::from_envelope(object).expect("an object");
    assert_eq!((&object["kind"], &object["data"]["k"]), (&json!("ConfigMap"), &json!("v")));
}
