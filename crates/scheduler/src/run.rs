//! The only part that knows the API: informers in, decisions, bindings out.

use std::borrow::Cow;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use api_types::codec::peek::Peek;
use api_types::{meta, table, time};
use client::{Change, Client, EventRecorder, EventType, Fence, Informer, Lister, Object, Patch};
use env::{Env, Shutdown, TaskGroup};
use k8s_openapi::api::core::v1::{Node, Pod};
use parking_lot::{Mutex, MutexGuard};
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

use crate::cache::Cache;
use crate::counters::Counts;
use crate::decide::{Decision, Failure, decide};
use crate::plugins::{Candidate, ClusterEvent, Plugin, default_plugins};
use crate::queue::{Key, Queue, Waiting};
use crate::snapshot::PodCost;

/// Bindings that are being written at a time.
const MAX_BINDINGS: usize = 64;
/// How long the scheduler sleeps at most when nothing happens.
const IDLE: Duration = Duration::from_secs(30);
const STOP_DEADLINE: Duration = Duration::from_secs(5);
/// The name that pods ask for, and by default do.
const DEFAULT_NAME: &str = "default-scheduler";

/// A scheduler to be.
#[derive(Clone, Debug)]
pub struct Config {
    /// This replica's name, in events.
    pub replica: String,
}

struct State {
    cache: Cache,
    queue: Queue,
}

/// What informers, the cycle and the bindings share.
struct Shared {
    state: Mutex<State>,
    plugins: Vec<Box<dyn Plugin>>,
    changed: Notify,
    env: Env,
    counts: Counts,
}

/// The scheduler, not yet running. It decides once it follows pods and nodes.
pub struct Scheduler {
    env: Env,
    client: Client,
    config: Config,
    listers: Vec<Lister>,
    shared: Arc<Shared>,
}

impl Config {
    /// A scheduler over `client`, which is who it is to the API.
    pub fn build(self, env: Env, client: Client) -> Scheduler {
        let state = State { cache: Cache::default(), queue: Queue::default() };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            plugins: default_plugins(),
            changed: Notify::new(),
            env: env.clone(),
            counts: Counts::new(),
        });
        Scheduler { env, client, config: self, listers: Vec::new(), shared }
    }
}

fn is_over(pod: &Peek<'_>) -> bool {
    matches!(pod.scalar(&["status", "phase"]).as_deref(), Some("Succeeded" | "Failed"))
}

fn node_of<'a>(pod: &Peek<'a>) -> Option<Cow<'a, str>> {
    pod.scalar(&["spec", "nodeName"]).filter(|node| !node.is_empty())
}

fn is_ours(pod: &Peek<'_>) -> bool {
    pod.scalar(&["spec", "schedulerName"]).is_none_or(|name| name == DEFAULT_NAME)
}

/// The state while nobody else has it. How many pods wait is shown when it is given back.
struct Locked<'a> {
    state: MutexGuard<'a, State>,
    counts: &'a Counts,
}

impl Deref for Locked<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.counts.pending(self.state.queue.depth());
    }
}

impl Shared {
    fn state(&self) -> Locked<'_> {
        Locked { state: self.state.lock(), counts: &self.counts }
    }

    fn pod_changed(&self, change: &Change) {
        let now = self.env.clock.monotonic();
        let pod = change.object().peek();
        let key = pod.key();
        let gone = matches!(change, Change::Deleted(_));
        let mut state = self.state();
        if gone || is_over(&pod) {
            state.queue.remove(&key);
            if state.cache.remove_pod(&key) {
                state.queue.wake(ClusterEvent::PodRemoved, &self.plugins, now);
            }
        } else if let Some(node) = node_of(&pod) {
            if let Change::Updated { old, new } = change
                && counts_the_same(old, new)
            {
                return;
            }
            state.queue.remove(&key);
            if let Some(pod) = parse::<Pod>(change.object()) {
                state.cache.confirm(&key, &pod, &node);
            }
        } else if is_ours(&pod) && !pod.is_being_deleted() {
            if let Some(pod) = parse::<Pod>(change.object()) {
                state.queue.upsert(key, Arc::new(pod), may_help(change), now);
            }
        } else {
            state.queue.remove(&key);
        }
        drop(state);
        self.changed.notify_one();
    }

    fn node_changed(&self, change: &Change) {
        let now = self.env.clock.monotonic();
        let mut state = self.state();
        let event = match change {
            Change::Deleted(node) => {
                state.cache.remove_node(meta::name(node));
                return;
            }
            Change::Added(_) => Some(ClusterEvent::NodeAdded),
            Change::Updated { old, new } => node_matters(old, new).then_some(ClusterEvent::NodeChanged),
        };
        if let Some(node) = parse::<Node>(change.object()) {
            state.cache.set_node(Arc::new(node));
        }
        if let Some(event) = event {
            state.queue.wake(event, &self.plugins, now);
        }
        drop(state);
        self.changed.notify_one();
    }
}

/// Whether a pod that is on a node takes the same of it as before.
fn counts_the_same(old: &Object, new: &Object) -> bool {
    let before = old.peek();
    node_of(&before).is_some() && !is_over(&before) && old.is_same_in(new, "spec")
}

/// Whether a change of a waiting pod may help it: its status alone does not.
fn may_help(change: &Change) -> bool {
    match change {
        Change::Updated { old, new } => {
            !old.is_same_in(new, "spec") || old.peek().labels() != new.peek().labels()
        }
        Change::Added(_) | Change::Deleted(_) => true,
    }
}

fn node_matters(old: &Value, new: &Value) -> bool {
    old["spec"] != new["spec"]
        || meta::labels(old) != meta::labels(new)
        || old["status"]["allocatable"] != new["status"]["allocatable"]
}

fn parse<T: serde::de::DeserializeOwned>(object: &Value) -> Option<T> {
    match serde_json::from_value(object.clone()) {
        Ok(parsed) => Some(parsed),
        Err(error) => {
            tracing::warn!(name = meta::key(object), %error, "an object is not what its kind says");
            None
        }
    }
}

impl Scheduler {
    /// Learns of pods from an informer of all of them, which somebody else runs.
    pub fn follow_pods(&mut self, pods: &mut Informer) {
        let shared = self.shared.clone();
        pods.on_change(move |change| shared.pod_changed(change));
        self.listers.push(pods.lister());
    }

    /// Learns of nodes, in the same way.
    pub fn follow_nodes(&mut self, nodes: &mut Informer) {
        let shared = self.shared.clone();
        nodes.on_change(move |change| shared.node_changed(change));
        self.listers.push(nodes.lister());
    }

    /// Runs until shutdown; places pods only while `leading` holds a fence.
    ///
    /// # Errors
    /// When a task fails.
    pub async fn run(
        self,
        shutdown: Shutdown,
        leading: watch::Receiver<Option<Fence>>,
    ) -> Result<(), env::TaskFailure> {
        let tasks = TaskGroup::new("scheduler", shutdown.clone());
        let (recorder, writer) =
            EventRecorder::new(self.env.clone(), self.client.clone(), DEFAULT_NAME, &self.config.replica);
        tasks.spawn_detached("events", writer);
        let listers = self.listers;
        let cycle = Arc::new(Cycle {
            client: self.client,
            recorder,
            shared: self.shared,
            env: self.env,
            tasks: tasks.clone(),
            bindings: Arc::new(Semaphore::new(MAX_BINDINGS)),
        });
        let stop = shutdown.clone();
        tasks.spawn_detached("cycle", async move {
            for lister in &listers {
                tokio::select! {
                    synced = lister.synced() => if !synced { return },
                    () = stop.wait() => return,
                }
            }
            cycle.run(stop, leading).await;
        });
        tasks.join(STOP_DEADLINE).await
    }
}

struct Cycle {
    client: Client,
    recorder: EventRecorder,
    shared: Arc<Shared>,
    env: Env,
    tasks: TaskGroup,
    bindings: Arc<Semaphore>,
}

impl Cycle {
    async fn run(self: Arc<Self>, shutdown: Shutdown, mut leading: watch::Receiver<Option<Fence>>) {
        let mut turn = 0;
        loop {
            let fence = tokio::select! {
                led = leading.wait_for(Option::is_some) => match led {
                    Ok(fence) => fence.clone(),
                    Err(_) => return,
                },
                () = shutdown.wait() => return,
            };
            let Some(fence) = fence else { continue };
            let Ok(room) = self.bindings.clone().acquire_owned().await else { return };
            let client = self.client.with_fence(&fence);
            if let Some(placed) = self.place_one(turn, &client).await {
                let cycle = self.clone();
                self.tasks.spawn_detached("binding", async move {
                    cycle.bind(placed, &client).await;
                    drop(room);
                });
                turn += 1;
                continue;
            }
            drop(room);
            tokio::select! {
                () = self.wait() => {}
                _ = leading.wait_for(Option::is_none) => {}
                () = shutdown.wait() => return,
            }
        }
    }

    /// Waits until a pod may be worth trying.
    async fn wait(&self) {
        let next = self.shared.state().queue.next_wake();
        let idle = self.env.clock.monotonic() + IDLE;
        tokio::select! {
            () = self.shared.changed.notified() => {}
            () = self.env.clock.sleep_until(next.map_or(idle, |next| next.min(idle))) => {}
        }
    }

    /// Takes pods from the queue until one finds a node.
    async fn place_one(&self, turn: usize, client: &Client) -> Option<Placed> {
        loop {
            let (decided, key, waiting, began) = self.decide_next(turn)?;
            match decided {
                Decision::Place(node) => return Some(Placed { key, waiting, node, began }),
                Decision::Unschedulable(failure) => {
                    self.tell_failure(&key, &waiting.pod, &failure, client).await;
                    let now = self.env.clock.monotonic();
                    self.shared.counts.unschedulable(now - began);
                    let mut state = self.shared.state();
                    state.queue.fail(&key, failure.refused_by, &self.shared.plugins, now);
                }
            }
        }
    }

    /// What was decided of the next pod, and when that began.
    fn decide_next(&self, turn: usize) -> Option<(Decision, Key, Waiting, Instant)> {
        let now = self.env.clock.monotonic();
        let mut state = self.shared.state();
        let (key, waiting) = state.queue.pop(now)?;
        let cost = PodCost::of(&waiting.pod);
        let snapshot = state.cache.snapshot();
        let candidate = Candidate { pod: &waiting.pod, cost: &cost };
        let decided = decide(&self.shared.plugins, &snapshot, &candidate, turn, self.env.rng.u64());
        if let Decision::Place(node) = &decided {
            state.cache.assume(&key, node, cost);
        }
        self.shared.counts.decided(self.env.clock.monotonic() - now);
        Some((decided, key, waiting, now))
    }

    async fn bind(&self, placed: Placed, client: &Client) {
        let Placed { key, waiting, node, began } = placed;
        let Waiting { pod, attempts, since } = waiting;
        let (namespace, name) = key.split_once('/').unwrap_or(("", &key));
        let binding = json!({
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": { "name": name, "namespace": namespace, "uid": pod.metadata.uid },
            "target": { "apiVersion": "v1", "kind": "Node", "name": node },
        });
        let pods = client.namespaced(pods_kind(), namespace);
        let object = reference(&pod);
        match pods.post(name, "binding", &binding).await {
            Ok(_) => {
                let now = self.env.clock.monotonic();
                self.shared.counts.scheduled(now - began, now - since, attempts + 1);
                self.shared.state().queue.remove(&key);
                let text = format!("Successfully assigned {key} to {node}");
                self.recorder.record(&object, EventType::Normal, "Scheduled", text);
            }
            Err(error) => {
                tracing::debug!(pod = key, node, %error, "a binding was refused");
                let now = self.env.clock.monotonic();
                self.shared.counts.failed(now - began);
                let mut state = self.shared.state();
                state.cache.take_back(&key);
                if error.is_not_found() { state.queue.remove(&key) } else { state.queue.retry(&key, now) }
            }
        }
        self.shared.changed.notify_one();
    }

    /// The event and the condition that say why a pod waits; the condition is written only when it changes.
    async fn tell_failure(&self, key: &Key, pod: &Pod, failure: &Failure, client: &Client) {
        let text = failure.message();
        self.recorder.record(&reference(pod), EventType::Warning, "FailedScheduling", text.clone());
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        let told = conditions.into_iter().flatten().any(|condition| {
            condition.type_ == "PodScheduled" && condition.message.as_deref() == Some(text.as_str())
        });
        if told {
            return;
        }
        let (namespace, name) = key.split_once('/').unwrap_or(("", key));
        let condition = json!({
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": text,
            "lastTransitionTime": time::from_millis(self.env.clock.now().millis()),
        });
        let patch = Patch::Strategic(json!({ "status": { "conditions": [condition] } }));
        if let Err(error) = client.namespaced(pods_kind(), namespace).patch(name, "status", &patch).await {
            tracing::debug!(pod = key, %error, "a condition could not be written");
        }
    }
}

struct Placed {
    key: Key,
    waiting: Waiting,
    node: String,
    began: Instant,
}

fn pods_kind() -> &'static api_types::Resource {
    table::find("", "v1", "pods").expect("invariant: pods are in the table")
}

/// A pod as far as events name it.
fn reference(pod: &Pod) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod.metadata.name,
            "namespace": pod.metadata.namespace,
            "uid": pod.metadata.uid,
            "resourceVersion": pod.metadata.resource_version,
        },
    })
}
