//! What clients of the Kubernetes API do while things go wrong: for each master one that makes numbered ConfigMaps, and
//! one that watches them.

use std::time::Duration;

use anyhow::Result;
use api_types::meta;
use client::{Api, Client, ClientError, ListParams, WatchEvent};
use env::{Env, Shutdown};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::access::{WRITE_TIMEOUT, kind};
use crate::load::{RETRY, Record};

/// The namespace of everything that the runner makes.
pub const NAMESPACE: &str = "chaos";
/// What tells the runner's ConfigMaps from others.
const LABEL: &str = "chaos=load";
/// How long a watch lasts before the server ends it; longer than any run.
const WATCH_SECONDS: u64 = 3600;

/// One ConfigMap that was to be made.
#[derive(Clone, Debug)]
pub struct Create {
    /// Unique.
    pub name: String,
    pub begun: Instant,
    pub answer: Answer,
}

/// What a writer was told.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// It is made, at this version; when that was told.
    Acknowledged(Instant, i64),
    /// Nobody knows.
    Unknown,
    /// That it cannot be made, which is not true.
    Refused(String),
}

impl Create {
    /// When it was acknowledged, and at which version.
    pub fn acknowledged(&self) -> Option<(Instant, i64)> {
        match self.answer {
            Answer::Acknowledged(at, version) => Some((at, version)),
            Answer::Unknown | Answer::Refused(_) => None,
        }
    }
}

/// What a watcher was told.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    pub version: i64,
    pub what: What,
    pub at: Instant,
}

/// See [`Told`].
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// This ConfigMap is new.
    Added(String),
    /// Everything up to the version was told.
    Bookmark,
    /// Something that nobody did, or that the watch cannot go on.
    Wrong(String),
}

/// A ConfigMap in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub name: String,
    pub version: i64,
}

/// The ConfigMaps, through a client.
pub fn configmaps(client: &Client) -> Api {
    client.namespaced(kind("", "configmaps"), NAMESPACE)
}

/// The runner's ConfigMaps.
pub fn selected() -> ListParams {
    ListParams { label_selector: LABEL.to_owned(), ..ListParams::default() }
}

/// All ConfigMaps of the runner in the order of their versions, and the version of the list.
///
/// # Errors
/// The master does not answer.
pub async fn list(client: &Client) -> Result<(Vec<Listed>, String)> {
    let list = configmaps(client).list_all(&selected()).await?;
    let listed = |item: &Value| Listed { name: meta::name(item).to_owned(), version: version(item) };
    let mut found: Vec<Listed> = list.items.iter().map(listed).collect();
    found.sort_by_key(|item| item.version);
    Ok((found, list.resource_version))
}

/// Makes ConfigMaps through its own master first, through the next one when that gives no answer.
pub async fn create(
    env: Env,
    number: usize,
    clients: Vec<Client>,
    interval: Duration,
    record: Record<Create>,
    stop: Shutdown,
) {
    let (mut at, mut count) = (number, 0_u64);
    while !stop.is_triggered() {
        count += 1;
        let (name, begun) = (format!("{number}-{count}"), env.clock.monotonic());
        let api = configmaps(&clients[at % clients.len()]);
        let answer = create_one(&env, &api, &name).await;
        if answer == Answer::Unknown {
            at += 1;
            env.clock.sleep(RETRY).await;
        }
        record.lock().push(Create { name, begun, answer });
        env.clock.sleep(interval).await;
    }
}

async fn create_one(env: &Env, api: &Api, name: &str) -> Answer {
    let object = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": name, "labels": { "chaos": "load" } },
        "data": { "number": name },
    });
    match tokio::time::timeout(WRITE_TIMEOUT, api.create(&object)).await {
        Ok(Ok(made)) => Answer::Acknowledged(env.clock.monotonic(), version(&made)),
        Ok(Err(ClientError::Api(status))) if (400..500).contains(&status.code) && status.code != 429 => {
            Answer::Refused(status.message.clone())
        }
        Ok(Err(_)) | Err(_) => Answer::Unknown,
    }
}

/// Watches through one master from a version on, and goes on where it was when the watch breaks.
pub async fn watch(env: Env, client: Client, from: String, record: Record<Told>, stop: Shutdown) {
    let mut version = from;
    while !stop.is_triggered() {
        let wrong = tokio::select! {
            wrong = follow(&env, &client, &record, &mut version) => wrong,
            () = stop.wait() => return,
        };
        if let Some(wrong) = wrong {
            record.lock().push(Told { version: 0, what: What::Wrong(wrong), at: env.clock.monotonic() });
            return;
        }
        env.clock.sleep(RETRY).await;
    }
}

/// One watch until it ends; why it cannot go on, if so.
async fn follow(env: &Env, client: &Client, record: &Record<Told>, from: &mut String) -> Option<String> {
    let mut stream = match configmaps(client).watch(&selected(), from, WATCH_SECONDS).await {
        Ok(stream) => stream,
        Err(error) => return fatal(&error),
    };
    loop {
        let event = match stream.next().await {
            Ok(Some(event)) => event,
            Ok(None) => return None,
            Err(error) => return fatal(&error),
        };
        let told = told(env, event);
        *from = told.version.to_string();
        record.lock().push(told);
    }
}

fn told(env: &Env, event: WatchEvent) -> Told {
    let at = env.clock.monotonic();
    let wrong = |what: &str, object: &Value| {
        let what = What::Wrong(format!("{} was {what}", meta::name(object)));
        Told { version: version(object), what, at }
    };
    match event {
        WatchEvent::Added(object) => {
            Told { version: version(&object), what: What::Added(meta::name(&object).to_owned()), at }
        }
        WatchEvent::Modified(object) => wrong("modified", &object),
        WatchEvent::Deleted(object) => wrong("deleted", &object),
        WatchEvent::Bookmark { resource_version, .. } => {
            Told { version: resource_version.parse().unwrap_or(0), what: What::Bookmark, at }
        }
    }
}

/// An error after which a watcher would have to begin anew, and could have missed something.
fn fatal(error: &ClientError) -> Option<String> {
    let passing = error.code().is_none_or(|code| code >= 500 || code == 429);
    (!passing).then(|| format!("a watch cannot go on: {error}"))
}

fn version(object: &Value) -> i64 {
    meta::resource_version(object).parse().unwrap_or(0)
}
