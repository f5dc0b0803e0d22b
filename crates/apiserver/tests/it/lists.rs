//! Lists: pages, selectors, revisions.

use std::io::Read as _;
use std::time::Duration;

use mvcc::Command;
use serde_json::Value;

use crate::cluster::{CONFIG_MAPS, Cluster, Running, ask, config_map, eventually};

async fn five() -> Running {
    let cluster = Cluster::start().await;
    for index in 0..5 {
        let mut object = config_map(&format!("m{index}"));
        object["metadata"]["labels"] = serde_json::json!({"odd": (index % 2 == 1).to_string()});
        cluster.create(CONFIG_MAPS, &object).await;
    }
    cluster
}

async fn list(cluster: &Running, query: &str) -> Value {
    cluster.root(ask("GET", &format!("{CONFIG_MAPS}?{query}"))).await.expect(200)
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().expect("items");
    items.iter().map(|item| item["metadata"]["name"].as_str().expect("name")).collect()
}

#[tokio::test]
async fn pages_show_one_revision() {
    let cluster = five().await;
    let first = list(&cluster, "limit=2").await;
    assert_eq!(names(&first), ["m0", "m1"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    cluster.root(ask("DELETE", &format!("{CONFIG_MAPS}/m3"))).await.expect(200);
    let token = first["metadata"]["continue"].as_str().expect("token");
    let second = list(&cluster, &format!("limit=2&continue={token}")).await;
    assert_eq!(names(&second), ["m2", "m3"], "as it was when the list began");
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let token = second["metadata"]["continue"].as_str().expect("token");
    let last = list(&cluster, &format!("limit=2&continue={token}")).await;
    assert_eq!(names(&last), ["m4"]);
    assert!(last["metadata"].get("continue").is_none());
}

#[tokio::test]
async fn an_expired_page_says_how_to_go_on() {
    let cluster = five().await;
    let first = list(&cluster, "limit=2").await;
    cluster.root(ask("DELETE", &format!("{CONFIG_MAPS}/m3"))).await.expect(200);
    let revision = cluster.store.view().revision();
    cluster.store.propose(Command::Compact { revision }).await.expect("compacted");
    let token = first["metadata"]["continue"].as_str().expect("token");
    let expired =
        cluster.root(ask("GET", &format!("{CONFIG_MAPS}?limit=2&continue={token}"))).await.expect(410);
    assert_eq!(expired["reason"], "Expired");
    let token = expired["metadata"]["continue"].as_str().expect("token");
    assert_eq!(names(&list(&cluster, &format!("continue={token}")).await), ["m2", "m4"]);
    let old = format!("{CONFIG_MAPS}?resourceVersion=2&resourceVersionMatch=Exact");
    let expired = cluster.root(ask("GET", &old)).await.expect(410);
    assert_eq!(expired["message"], "The resourceVersion for the provided list is too old.");
}

#[tokio::test]
async fn selectors_choose() {
    let cluster = five().await;
    assert_eq!(names(&list(&cluster, "labelSelector=odd%3Dtrue").await), ["m1", "m3"]);
    assert_eq!(names(&list(&cluster, "labelSelector=odd+notin+(true)&limit=2").await), ["m0", "m2"]);
    assert_eq!(names(&list(&cluster, "fieldSelector=metadata.name%3Dm4").await), ["m4"]);
    let bad = cluster.root(ask("GET", &format!("{CONFIG_MAPS}?labelSelector=a+b"))).await.expect(400);
    assert!(
        bad["message"]
            .as_str()
            .is_some_and(|text| text.starts_with("unable to parse requirement: found 'b', ")),
        "{bad}"
    );
    let bad = cluster.root(ask("GET", &format!("{CONFIG_MAPS}?fieldSelector=data.k%3Dv"))).await.expect(400);
    assert_eq!(
        bad["message"],
        "\"data.k\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
    );
}

#[tokio::test]
async fn revisions_are_honoured() {
    let cluster = five().await;
    let now = list(&cluster, "").await;
    let revision = now["metadata"]["resourceVersion"].as_str().expect("revision").to_owned();
    cluster.create(CONFIG_MAPS, &config_map("later")).await;
    let exact = list(&cluster, &format!("resourceVersion={revision}&resourceVersionMatch=Exact")).await;
    assert_eq!(names(&exact).len(), names(&now).len());
    let future =
        cluster.root(ask("GET", &format!("{CONFIG_MAPS}?resourceVersion=99999999"))).await.expect(504);
    assert_eq!(future["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    cluster.root(ask("GET", &format!("{CONFIG_MAPS}?resourceVersionMatch=Exact"))).await.expect(422);
    cluster.root(ask("GET", &format!("{CONFIG_MAPS}?continue=nonsense"))).await.expect(400);
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let cluster = five().await;
    let path = format!("{CONFIG_MAPS}?labelSelector=odd%3Dtrue");
    let deleted = cluster.root(ask("DELETE", &path)).await.expect(200);
    assert_eq!(names(&deleted), ["m1", "m3"]);
    assert_eq!(names(&list(&cluster, "labelSelector=odd").await), ["m0", "m2", "m4"]);
}

#[tokio::test]
async fn history_is_forgotten_after_a_while() {
    let cluster = Cluster::start_with(|config| config.compaction_interval = Duration::from_millis(50)).await;
    cluster.create(CONFIG_MAPS, &config_map("a")).await;
    let written = cluster.store.view().revision();
    eventually("a compaction", || async {
        (cluster.store.view().compact_revision() >= written).then_some(())
    })
    .await;
    cluster.root(ask("GET", &format!("{CONFIG_MAPS}/a"))).await.expect(200);
}

#[tokio::test]
async fn large_lists_are_compressed_while_they_are_sent() {
    let cluster = Cluster::start().await;
    for index in 0..15 {
        let mut object = config_map(&format!("m{index:02}"));
        object["data"]["k"] = "v".repeat(100 << 10).into();
        cluster.create(CONFIG_MAPS, &object).await;
    }
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let object = format!("{CONFIG_MAPS}?includeObject=Object");
    for (path, accept) in [
        (CONFIG_MAPS, "application/json"),
        (CONFIG_MAPS, "application/vnd.kubernetes.protobuf"),
        (&object, table),
    ] {
        let get = || ask("GET", path).header("accept", accept);
        let plain = cluster.root(get()).await;
        assert!(plain.bytes.len() > 1 << 20 && !plain.headers.contains_key("content-encoding"));
        let get = get().header("accept-encoding", "gzip");
        let packed = cluster.send_as(get, &cluster.admin).await.expect("an answer");
        assert_eq!(
            (&packed.headers["content-encoding"], packed.code),
            (&"gzip".parse().expect("a value"), 200)
        );
        let mut text = Vec::new();
        flate2::read::GzDecoder::new(&*packed.bytes).read_to_end(&mut text).expect("gzip");
        assert!(packed.bytes.len() < text.len() / 10 && text == plain.bytes, "{accept}");
    }
    let watch =
        ask("GET", &format!("{CONFIG_MAPS}?watch=1&timeoutSeconds=1")).header("accept-encoding", "gzip");
    let watch = cluster.send_as(watch, &cluster.admin).await.expect("an answer");
    assert!(!watch.headers.contains_key("content-encoding") && watch.bytes.len() > 1 << 20);
}
