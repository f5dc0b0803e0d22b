//! Watches over TLS.

use api_types::codec::{self, Head, STORED_MEDIA_TYPE, What};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use mvcc::Command;
use serde_json::{Value, json};

use crate::cluster::{CONFIG_MAPS, Cluster, DEADLINE, Running, ask, config_map};
use crate::logs::heard;

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

#[tokio::test]
async fn watchers_who_begin_together_are_told_what_each_is_to_know() {
    const OBJECTS: usize = 150;
    let cluster = Cluster::start().await;
    for number in 0..OBJECTS {
        let mut object = config_map(&format!("w{number:03}"));
        object["metadata"]["labels"] = json!({"a": if number.is_multiple_of(2) { "yes" } else { "no" }});
        object["data"] = json!({"large": "x".repeat(2048)});
        cluster.create(CONFIG_MAPS, &object).await;
    }
    let even = "labelSelector=a%3Dyes&resourceVersion=0";
    let mut before = [
        Watch::open(&cluster, "resourceVersion=0").await,
        Watch::open(&cluster, "resourceVersion=0").await,
        Watch::open(&cluster, even).await,
    ];
    label(&cluster, "w001", json!("yes")).await;
    let mut after = [Watch::open(&cluster, "resourceVersion=0").await, Watch::open(&cluster, even).await];
    let is_even = |number: &usize| number.is_multiple_of(2);
    for number in (0..OBJECTS).filter(|number| is_even(number) || *number == 1) {
        assert_eq!(after[1].brief().await, format!("ADDED w{number:03}"));
    }
    for number in 0..OBJECTS {
        let wanted = format!("ADDED w{number:03}");
        assert_eq!([before[0].brief().await, before[1].brief().await], [wanted.as_str(); 2]);
        let event = after[0].next().await.expect("an event");
        assert_eq!(event["object"]["metadata"]["name"], format!("w{number:03}"));
        let label = if is_even(&number) || number == 1 { "yes" } else { "no" };
        assert_eq!(event["object"]["metadata"]["labels"]["a"], label, "as it was when the watch began");
        if is_even(&number) {
            assert_eq!(before[2].brief().await, wanted);
        }
    }
    assert_eq!([before[0].brief().await, before[1].brief().await], ["MODIFIED w001"; 2]);
    assert_eq!(before[2].brief().await, "ADDED w001");
}

/// The next piece of an answer.
async fn piece(body: &mut apiserver::Body) -> Bytes {
    let frame = tokio::time::timeout(DEADLINE, body.frame()).await.expect("a piece in time");
    frame.expect("a piece").expect("whole").into_data().expect("data")
}

async fn head(body: &mut apiserver::Body) -> Head {
    Head::from_bytes(piece(body).await.first_chunk().expect("a head")).expect("a head")
}

#[tokio::test]
async fn callers_in_this_process_are_given_what_is_stored_itself() {
    let cluster = Cluster::start().await;
    cluster.create(CONFIG_MAPS, &config_map("w")).await;
    let stored =
        || cluster.store.view().get(b"/registry/configmaps/default/w").expect("read").expect("there");
    let both = format!("{STORED_MEDIA_TYPE},application/vnd.kubernetes.protobuf");
    let of = |query: &str| {
        let path = format!("{CONFIG_MAPS}?fieldSelector=metadata.name%3Dw&{query}");
        ask("GET", &path).header("accept", &both)
    };
    let answer = cluster.begin(of("")).await;
    assert_eq!(answer.headers()["content-type"], STORED_MEDIA_TYPE);
    let mut list = answer.into_body();
    assert_eq!(head(&mut list).await.what, What::List);
    let metadata: Value = serde_json::from_slice(&piece(&mut list).await).expect("metadata");
    let version = metadata["resourceVersion"].as_str().expect("a version").to_owned();
    let (first, own) = (head(&mut list).await, stored());
    assert_eq!((first.what, first.revision), (What::Added, own.mod_revision));
    assert_eq!(piece(&mut list).await.as_ptr(), own.value.as_ptr(), "the same memory");
    assert!(list.frame().await.is_none());

    let mut watch = cluster.begin(of(&format!("watch=1&resourceVersion={version}"))).await.into_body();
    label(&cluster, "w", json!("b")).await;
    let (changed, own) = (head(&mut watch).await, stored());
    assert_eq!((changed.what, changed.revision), (What::Modified, own.mod_revision));
    assert_eq!(piece(&mut watch).await.as_ptr(), own.value.as_ptr(), "the same memory");
    cluster.root(ask("DELETE", &format!("{CONFIG_MAPS}/w"))).await.expect(200);
    let gone = head(&mut watch).await;
    assert!(gone.what == What::Deleted && gone.revision > own.mod_revision, "{gone:?}");
    assert_eq!(codec::from_stored(&piece(&mut watch).await, 0).expect("an object")["data"]["k"], "v");

    let outside = cluster.send_as(of(""), &cluster.admin).await.expect("an answer");
    assert_eq!(outside.headers["content-type"], "application/vnd.kubernetes.protobuf");
}

/// Events go with their lease, as if somebody had deleted them.
#[tokio::test]
async fn events_live_for_an_hour() {
    let cluster = Cluster::start().await;
    let events = "/api/v1/namespaces/default/events";
    let object = json!({"kind": "Pod", "name": "p", "namespace": "default"});
    let event = |name: &str| json!({"metadata": {"name": name}, "involvedObject": object, "reason": "R", "message": "m"});
    let asked = ask("GET", &format!("{events}?watch=1&resourceVersion=0"));
    let response = cluster.open(asked, Some(&cluster.admin)).await.expect("watch");
    let mut watch = Watch { body: response.into_body(), bytes: Vec::new() };
    for name in ["a", "b"] {
        cluster.create(events, &event(name)).await;
    }
    let view = cluster.store.view();
    let lease = |name: &str| {
        let stored = view.get(format!("/registry/events/default/{name}").as_bytes());
        stored.expect("readable").expect("stored").lease
    };
    assert!(lease("a") != 0 && lease("a") == lease("b"), "they share one");
    let ttl = view.lease(lease("a")).expect("a lease").ttl;
    assert!((3600..=3660).contains(&ttl), "{ttl} s");
    assert_eq!([watch.brief().await, watch.brief().await], ["ADDED a", "ADDED b"]);
    cluster.store.propose(Command::LeaseRevoke { id: lease("a") }).await.expect("revoked");
    let mut gone = [watch.brief().await, watch.brief().await];
    gone.sort();
    assert_eq!(gone, ["DELETED a", "DELETED b"]);
    cluster.root(ask("GET", &format!("{events}/a"))).await.expect(404);
}

/// What a message of a server is, and what follows it.
fn message(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&kind, rest) = bytes.split_first()?;
    let (&length, rest) = rest.split_first()?;
    let (length, rest) = match length {
        126 => (usize::from(u16::from_be_bytes(rest[..2].try_into().expect("two bytes"))), &rest[2..]),
        _ => (usize::from(length), rest),
    };
    Some((kind, &rest[..length], &rest[length..]))
}

/// Clients in Java watch so.
#[tokio::test]
async fn a_websocket_gets_each_event_in_a_message() {
    let cluster = Cluster::start().await;
    for name in ["a", "b"] {
        cluster.create(CONFIG_MAPS, &config_map(name)).await;
    }
    let path = format!("{CONFIG_MAPS}?watch=1&timeoutSeconds=1");
    for (protocols, code) in [("", 101), ("one", 101), ("one, two", 400)] {
        assert_eq!(heard(&cluster, ask("GET", &path), protocols).await.0, code, "{protocols}");
    }
    let (code, protocol, bytes) = heard(&cluster, ask("GET", &path), "one").await;
    assert_eq!((code, protocol.as_str()), (101, "one"));
    let (mut rest, mut names) = (&bytes[..], Vec::new());
    while let Some((0x81, text, more)) = message(rest) {
        let event: Value = serde_json::from_slice(text).expect("an event");
        assert_eq!(event["type"], "ADDED");
        names.push(event["object"]["metadata"]["name"].as_str().expect("a name").to_owned());
        rest = more;
    }
    assert_eq!(names, ["a", "b"]);
    assert_eq!(message(rest), Some((0x88, &[3, 0xe8][..], &[][..])), "the watch ends after its time");

    let asked = ask("GET", &path).header("accept", "application/vnd.kubernetes.protobuf;stream=watch");
    let (_, _, bytes) = heard(&cluster, asked, "").await;
    let (kind, event, rest) = message(&bytes).expect("a message");
    assert!(kind == 0x82 && event.starts_with(b"\x0a\x05ADDED"), "{event:?}");
    assert_eq!(message(rest).expect("another").0, 0x82);
    let refused = ask("GET", &format!("{CONFIG_MAPS}?watch=1&resourceVersion=x"));
    assert_eq!(heard(&cluster, refused, "").await.0, 500, "a fault is answered without a WebSocket");
}
