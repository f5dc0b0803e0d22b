//! Watchers in both modes, stores, watches that end and go on.

use std::pin::pin;

use futures::{Stream, StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::watcher::{Config, Event, InitialListStrategy};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, ResourceExt as _};
use serde_json::json;

use super::{beside, config_map, eventually, namespace};

const NAMESPACE: &str = "rs-watching";

pub async fn play(one: Client, two: Client) {
    namespace(&one, NAMESPACE).await;
    let writes = Api::namespaced(one.clone(), NAMESPACE);
    let reads = Api::namespaced(two.clone(), NAMESPACE);
    let modes = [InitialListStrategy::ListWatch, InitialListStrategy::StreamingList];
    for (label, mode) in ["list", "stream"].into_iter().zip(modes) {
        let config = Config { initial_list_strategy: mode, page_size: None, ..Config::default() };
        let config = config.labels(&format!("l={label}"));
        follows(&writes, &reads, label, &config).await;
        stores(&writes, &reads, label, &config).await;
        metadata(&Api::namespaced(two.clone(), NAMESPACE), label, &config).await;
    }
    a_watch_that_ends_goes_on(&writes, &reads).await;
}

async fn make(api: &Api<ConfigMap>, name: &str, label: &str) {
    api.create(&PostParams::default(), &config_map(name, label, "1")).await.expect("a config map");
}

async fn patch(api: &Api<ConfigMap>, name: &str, patch: serde_json::Value) {
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.expect("patched");
}

/// An event as it is judged.
fn brief<K: kube::Resource>(event: Event<K>) -> String {
    match event {
        Event::Init => "init".into(),
        Event::InitApply(object) => format!("first {}", object.name_any()),
        Event::InitDone => "done".into(),
        Event::Apply(object) => format!("apply {}", object.name_any()),
        Event::Delete(object) => format!("delete {}", object.name_any()),
    }
}

async fn expect<K: kube::Resource>(
    events: &mut (impl Stream<Item = watcher::Result<Event<K>>> + Unpin),
    wanted: &[String],
) {
    let mut found = Vec::new();
    while found.len() < wanted.len() {
        let event = events.next().await.expect("it goes on").expect("an event");
        found.push(brief(event));
    }
    assert_eq!(found, wanted);
}

fn names(label: &str, events: &[&str]) -> Vec<String> {
    events.iter().map(|event| event.replace('@', &format!("{label}-"))).collect()
}

async fn follows(writes: &Api<ConfigMap>, reads: &Api<ConfigMap>, label: &str, config: &Config) {
    let name = |number: usize| format!("{label}-{number}");
    for number in 0..5 {
        make(writes, &name(number), label).await;
    }
    // A stream begins at whatever its master has at hand, which is all of this once the master has been asked for it.
    assert_eq!(
        reads.list(&ListParams::default().labels(&format!("l={label}"))).await.expect("a list").items.len(),
        5
    );
    let paged = Config { page_size: Some(2), ..config.clone() };
    let config = if config.initial_list_strategy == InitialListStrategy::ListWatch { &paged } else { config };
    let mut events = pin!(watcher(reads.clone(), config.clone()));
    let initial = ["init", "first @0", "first @1", "first @2", "first @3", "first @4", "done"];
    expect(&mut events, &names(label, &initial)).await;
    patch(writes, &name(1), json!({"data": {"k": "2"}})).await;
    writes.delete(&name(2), &DeleteParams::default()).await.expect("deleted");
    // Out of the selection, and into it again.
    patch(writes, &name(3), json!({"metadata": {"labels": {"l": "other"}}})).await;
    patch(writes, &name(3), json!({"data": {"k": "unseen"}})).await;
    patch(writes, &name(3), json!({"metadata": {"labels": {"l": label}}})).await;
    make(writes, &name(5), label).await;
    let later = ["apply @1", "delete @2", "delete @3", "apply @3", "apply @5"];
    expect(&mut events, &names(label, &later)).await;
}

async fn stores(writes: &Api<ConfigMap>, reads: &Api<ConfigMap>, label: &str, config: &Config) {
    let (store, writer) = reflector::store::<ConfigMap>();
    let stream = watcher(reads.clone(), config.clone()).default_backoff().reflect(writer).touched_objects();
    let driver = stream.for_each(|object| async { drop(object.expect("an object")) });
    let reference = |name: String| ObjectRef::new(&name).within(NAMESPACE);
    let work = async {
        store.wait_until_ready().await.expect("a store");
        assert_eq!(store.len(), 5);
        let get = |name: &str| store.get(&reference(format!("{label}-{name}")));
        make(writes, &format!("{label}-in"), label).await;
        eventually(|| async { get("in") }).await;
        patch(writes, &format!("{label}-in"), json!({"data": {"k": "9"}})).await;
        let nine = |map: &ConfigMap| map.data.as_ref().is_some_and(|data| data["k"] == "9");
        eventually(|| async { get("in").filter(|map| nine(map)) }).await;
        writes.delete(&format!("{label}-in"), &DeleteParams::default()).await.expect("deleted");
        eventually(|| async { get("in").is_none().then_some(()) }).await;
        assert_eq!(store.state().len(), 5);
    };
    beside(driver, work).await;
}

/// A watcher that is sent metadata alone.
async fn metadata(api: &Api<PartialObjectMeta<ConfigMap>>, label: &str, config: &Config) {
    let mut events = pin!(watcher(api.clone(), config.clone()));
    let initial = ["init", "first @0", "first @1", "first @3", "first @4", "first @5", "done"];
    expect(&mut events, &names(label, &initial)).await;
    let labelled = Patch::Merge(json!({"metadata": {"annotations": {"seen": "yes"}}}));
    api.patch_metadata(&format!("{label}-4"), &PatchParams::default(), &labelled).await.expect("patched");
    let event = events.next().await.expect("it goes on").expect("an event");
    let Event::Apply(meta) = event else { panic!("{event:?}") };
    assert_eq!(meta.annotations().get("seen").map(String::as_str), Some("yes"));
}

/// A watch that the server ends, because the client asked for it, goes on where it was.
async fn a_watch_that_ends_goes_on(writes: &Api<ConfigMap>, reads: &Api<ConfigMap>) {
    let params = WatchParams::default().labels("l=short").timeout(1);
    make(writes, "short-0", "short").await;
    let start = reads.list_metadata(&Default::default()).await.expect("a list").metadata.resource_version;
    make(writes, "short-1", "short").await;
    let mut seen = Vec::new();
    let mut version = start.expect("a version");
    for number in 2..4 {
        let events = reads.watch(&params, &version).await.expect("a watch");
        // To its end: the server's timeout.
        let events: Vec<WatchEvent<ConfigMap>> = events.try_collect().await.expect("it ends well");
        for event in events {
            match event {
                WatchEvent::Added(map) => {
                    version = map.resource_version().expect("a version");
                    seen.push(map.name_any());
                }
                WatchEvent::Bookmark(mark) => version = mark.metadata.resource_version,
                other => panic!("{other:?}"),
            }
        }
        make(writes, &format!("short-{number}"), "short").await;
    }
    assert_eq!(seen, ["short-1", "short-2"]);
}
