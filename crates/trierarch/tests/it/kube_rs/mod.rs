//! What users of kube-rs do: discovery, dynamic objects, watchers and stores, server-side apply, leader election, a
//! controller, and streams to containers.

mod applying;
mod asking;
mod controlling;
mod leading;
pub mod streaming;
mod watching;

use std::fmt::Debug;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::Status;
use kube::{Client, Config};
use serde_json::{Value, json};

use crate::cluster::Cluster;

/// How long anything may take that is waited for.
const DEADLINE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(50);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kube_rs_finds_what_it_expects() {
    let cluster = Cluster::up(&["--simulated"]);
    let (one, two) = (client(&cluster, "m1").await, client(&cluster, "m2").await);
    let faults = tokio::join!(
        part("asking", asking::play(one.clone())),
        part("applying", applying::play(two.clone())),
        part("watching", watching::play(one.clone(), two.clone())),
        part("leading", leading::play(one.clone(), two.clone())),
        part("controlling", controlling::play(two.clone())),
    );
    let faults = [faults.0, faults.1, faults.2, faults.3, faults.4];
    let faults: Vec<String> = faults.into_iter().flatten().collect();
    assert!(faults.is_empty(), "{faults:?}");
}

/// Plays a part to its end; what went wrong. One that panics leaves the others to theirs: one run tells everything.
async fn part(name: &str, play: impl Future<Output = ()>) -> Option<String> {
    match tokio::time::timeout(DEADLINE, AssertUnwindSafe(play).catch_unwind()).await {
        Ok(Ok(())) => None,
        Ok(Err(_)) => Some(format!("{name} failed")),
        Err(_) => Some(format!("{name} was not done in time")),
    }
}

/// A client of one master.
pub async fn client(cluster: &Cluster, master: &str) -> Client {
    let file = Kubeconfig::read_from(cluster.file("kubeconfig")).expect("a kubeconfig");
    let context = KubeConfigOptions { context: Some(format!("trierarch-{master}")), ..Default::default() };
    let config = Config::from_custom_kubeconfig(file, &context).await.expect("a configuration");
    Client::try_from(config).expect("a client")
}

/// Makes a namespace.
async fn namespace(client: &Client, name: &str) {
    let object = from(json!({"metadata": {"name": name}}));
    Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &object).await.expect("a namespace");
}

/// A typed object, out of what a manifest would say.
fn from<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).expect("an object of this kind")
}

/// A ConfigMap with one label and one value.
fn config_map(name: &str, label: &str, value: &str) -> ConfigMap {
    from(json!({"metadata": {"name": name, "labels": {"l": label}}, "data": {"k": value}}))
}

/// What the API refused, which it must.
fn refused<T: Debug>(result: kube::Result<T>) -> Status {
    match result {
        Err(kube::Error::Api(status)) => *status,
        other => panic!("was not refused by the API: {other:?}"),
    }
}

/// Applies in the name of a manager.
async fn apply(api: &Api<ConfigMap>, manager: &str, name: &str, data: Value) -> kube::Result<ConfigMap> {
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data});
    api.patch(name, &PatchParams::apply(manager), &Patch::Apply(body)).await
}

/// Polls until `check` has an answer; the test's deadline ends it.
async fn eventually<T, F: Future<Output = Option<T>>>(mut check: impl FnMut() -> F) -> T {
    let clock = env::Env::real().clock;
    loop {
        if let Some(found) = check().await {
            return found;
        }
        clock.sleep(POLL).await;
    }
}

/// Does something while `driver` goes on, which must not end before.
async fn beside<T>(driver: impl Future<Output = ()>, work: impl Future<Output = T>) -> T {
    tokio::select! {
        () = driver => panic!("what had to go on ended"),
        done = work => done,
    }
}
