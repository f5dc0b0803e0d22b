//! Events: what a component did, for people. Those that repeat are counted, not written again (client-go's
//! correlator); they never hold up what they tell about.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use api_types::{meta, table, time};
use env::Env;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::api::Patch;
use crate::client::Client;
use crate::error::ClientError;

/// Events that wait to be written; more are dropped, and counted.
const QUEUE: usize = 1000;
/// Events that are remembered, so that a repetition only counts.
const REMEMBERED: usize = 4096;
/// An event that repeats after longer than this is a new one.
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// Whether an event is good news.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    /// Nothing to worry about.
    Normal,
    /// Something for a person to look at.
    Warning,
}

impl EventType {
    fn name(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

struct Message {
    component: Arc<str>,
    regarding: Value,
    kind: EventType,
    reason: String,
    text: String,
    at_millis: i64,
}

/// Records events of one component. Cheap to clone.
#[derive(Clone)]
pub struct EventRecorder {
    queue: mpsc::Sender<Message>,
    env: Env,
    component: Arc<str>,
}

type Key = (String, EventType, String, String);

struct Known {
    name: String,
    count: i64,
    last_millis: i64,
}

/// Writes what was recorded.
struct Writer {
    client: Client,
    host: String,
    known: HashMap<Key, Known>,
    order: VecDeque<Key>,
    named: u64,
}

impl EventRecorder {
    /// A recorder, and the task that writes what it records.
    pub fn new(
        env: Env,
        client: Client,
        component: &str,
        host: &str,
    ) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let (queue, messages) = mpsc::channel(QUEUE);
        let writer = Writer {
            client,
            host: host.to_owned(),
            known: HashMap::new(),
            order: VecDeque::new(),
            // Replicas and restarts do not begin alike.
            named: env.rng.u64() % 1_000_000,
        };
        (Self { queue, env, component: component.into() }, writer.run(messages))
    }

    /// The same for another component.
    #[must_use]
    pub fn named(&self, component: &str) -> Self {
        Self { component: component.into(), ..self.clone() }
    }

    /// Records that something happened to `object`. Never waits.
    pub fn record(&self, object: &Value, kind: EventType, reason: &str, text: impl Into<String>) {
        self.send(reference(object), kind, reason, text.into());
    }

    /// Records that something happened to a part of `object`, such as `spec.containers{app}`. Never waits.
    pub fn record_part(
        &self,
        object: &Value,
        field_path: &str,
        kind: EventType,
        reason: &str,
        text: impl Into<String>,
    ) {
        let mut regarding = reference(object);
        regarding["fieldPath"] = field_path.into();
        self.send(regarding, kind, reason, text.into());
    }

    fn send(&self, regarding: Value, kind: EventType, reason: &str, text: String) {
        let message = Message {
            component: self.component.clone(),
            regarding,
            kind,
            reason: reason.to_owned(),
            text,
            at_millis: self.env.clock.now().millis(),
        };
        if self.queue.try_send(message).is_err() {
            metrics::counter!("trierarch_events_dropped_total").increment(1);
        }
    }
}

fn reference(object: &Value) -> Value {
    json!({
        "apiVersion": meta::api_version(object),
        "kind": meta::kind(object),
        "namespace": meta::namespace(object),
        "name": meta::name(object),
        "uid": meta::uid(object),
        "resourceVersion": meta::resource_version(object),
    })
}

impl Writer {
    async fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        while let Some(message) = messages.recv().await {
            if let Err(error) = self.write(&message).await {
                tracing::debug!(%error, reason = message.reason, "an event could not be written");
            }
        }
    }

    async fn write(&mut self, message: &Message) -> Result<(), ClientError> {
        let events = table::find("", "v1", "events").expect("invariant: events are in the table");
        let namespace = match meta_namespace(&message.regarding) {
            "" => "default",
            namespace => namespace,
        };
        let api = self.client.namespaced(events, namespace);
        let key = key(message);
        if let Some(known) = self.known.get_mut(&key)
            && message.at_millis - known.last_millis
                < i64::try_from(FORGET_AFTER.as_millis()).unwrap_or(i64::MAX)
        {
            known.count += 1;
            known.last_millis = message.at_millis;
            let again =
                json!({ "count": known.count, "lastTimestamp": time::from_millis(message.at_millis) });
            match api.patch(&known.name, "", &Patch::Merge(again)).await {
                Err(error) if error.is_not_found() => {}
                other => return other.map(drop),
            }
        }
        let name = self.event_name(message);
        api.create(&self.event(message, &name, namespace)).await?;
        self.remember(key, Known { name, count: 1, last_millis: message.at_millis });
        Ok(())
    }

    /// Names of an object's events are in the order of time (upstream: nanoseconds), and no two are alike.
    fn event_name(&mut self, message: &Message) -> String {
        self.named += 1;
        let nanos = u64::try_from(message.at_millis).unwrap_or(0) * 1_000_000 + self.named % 1_000_000;
        format!("{}.{nanos:x}", regarding_name(message))
    }

    fn event(&self, message: &Message, name: &str, namespace: &str) -> Value {
        let now = time::from_millis(message.at_millis);
        json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": { "name": name, "namespace": namespace },
            "involvedObject": message.regarding,
            "type": message.kind.name(),
            "reason": message.reason,
            "message": message.text,
            "source": { "component": &*message.component, "host": self.host },
            "reportingComponent": &*message.component,
            "reportingInstance": self.host,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        })
    }

    fn remember(&mut self, key: Key, known: Known) {
        if self.known.insert(key.clone(), known).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > REMEMBERED {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
    }
}

fn meta_namespace(reference: &Value) -> &str {
    reference["namespace"].as_str().unwrap_or_default()
}

fn regarding_name(message: &Message) -> &str {
    message.regarding["name"].as_str().unwrap_or_default()
}

fn key(message: &Message) -> Key {
    let regarding = &message.regarding;
    let part = &regarding["fieldPath"];
    let whose = format!("{}/{}/{}/{part}", regarding["kind"], regarding["uid"], regarding["name"]);
    (format!("{whose} {}", message.component), message.kind, message.reason.clone(), message.text.clone())
}
