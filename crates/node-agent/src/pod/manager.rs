//! Which pods have a worker: those bound here, and those that only the runtime still knows. Driver.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use api_types::meta;
use env::Shutdown;
use parking_lot::Mutex;
use protos::cri;
use serde_json::Value;
use tokio::sync::{Notify, watch};

use super::paths::PodPaths;
use super::worker::Worker;
use crate::context::Context;
use crate::runtime::{LABEL_POD_NAME, LABEL_POD_NAMESPACE, LABEL_POD_UID, RuntimeError};

/// The runtime's lists are compared this often (containerd 1.x has no event stream).
const RELIST: Duration = Duration::from_secs(1);

struct Entry {
    desired: watch::Sender<Option<Arc<Value>>>,
    wake: Arc<Notify>,
}

type Entries = Arc<Mutex<HashMap<String, Entry>>>;

/// Starts workers and tells them what changed.
pub(crate) struct Manager {
    context: Arc<Context>,
    entries: Entries,
}

impl Manager {
    pub fn new(context: Arc<Context>) -> Self {
        Self { context, entries: Entries::default() }
    }

    /// Follows the informer's pods and the runtime until shutdown.
    pub async fn run(self, changed: Arc<Notify>, shutdown: Shutdown) {
        if !self.context.pods.synced().await {
            return;
        }
        let mut seen: HashMap<String, u64> = HashMap::new();
        let mut next_relist = self.context.env.clock.monotonic();
        while !shutdown.is_triggered() {
            self.follow_pods(&shutdown);
            if self.context.env.clock.monotonic() >= next_relist {
                self.relist(&mut seen, &shutdown).await;
                next_relist = self.context.env.clock.monotonic() + RELIST;
            }
            tokio::select! {
                () = changed.notified() => {}
                () = self.context.env.clock.sleep_until(next_relist) => {}
                () = shutdown.wait() => {}
            }
        }
    }

    /// Level: every pod of the lister has a worker with its newest object, every other worker has none.
    fn follow_pods(&self, shutdown: &Shutdown) {
        let pods: HashMap<String, Arc<Value>> =
            self.context.pods.all().into_iter().map(|pod| (meta::uid(&pod).to_owned(), pod)).collect();
        for (uid, pod) in &pods {
            let told = self.tell(uid, Some(pod));
            if !told {
                let paths = PodPaths::of(&self.context.root, meta::namespace(pod), meta::name(pod), uid);
                self.start(uid, paths, Some(pod.clone()), shutdown);
            }
        }
        let entries = self.entries.lock();
        for (_, entry) in entries.iter().filter(|(uid, _)| !pods.contains_key(*uid)) {
            entry.desired.send_if_modified(|object| object.take().is_some());
        }
    }

    fn tell(&self, uid: &str, pod: Option<&Arc<Value>>) -> bool {
        let entries = self.entries.lock();
        let Some(entry) = entries.get(uid) else { return false };
        entry.desired.send_if_modified(|object| {
            let same = match (object.as_ref(), pod) {
                (Some(old), Some(new)) => Arc::ptr_eq(old, new),
                (old, new) => old.is_none() && new.is_none(),
            };
            if !same {
                *object = pod.cloned();
            }
            !same
        });
        true
    }

    fn start(&self, uid: &str, paths: PodPaths, pod: Option<Arc<Value>>, shutdown: &Shutdown) {
        let (desired, receiver) = watch::channel(pod);
        let wake = Arc::new(Notify::new());
        let worker = Worker::new(self.context.clone(), uid.to_owned(), paths, receiver, wake.clone());
        self.entries.lock().insert(uid.to_owned(), Entry { desired, wake });
        let (entries, uid, shutdown) = (self.entries.clone(), uid.to_owned(), shutdown.clone());
        self.context.tasks.spawn_detached(format!("pod-{uid}"), async move {
            worker.run(shutdown).await;
            entries.lock().remove(&uid);
        });
    }

    async fn relist(&self, seen: &mut HashMap<String, u64>, shutdown: &Shutdown) {
        let start = self.context.env.clock.monotonic();
        let now = match self.fingerprints().await {
            Ok(now) => now,
            Err(error) => {
                tracing::debug!(%error, "the runtime's pods are not known");
                return;
            }
        };
        metrics::histogram!("kubelet_pleg_relist_duration_seconds").record(start.elapsed());
        for (uid, (print, namespace, name)) in &now {
            if seen.get(uid) != Some(print)
                && let Some(entry) = self.entries.lock().get(uid)
            {
                entry.wake.notify_one();
            }
            let known = self.entries.lock().contains_key(uid);
            if !known && !uid.is_empty() {
                let paths = PodPaths::of(&self.context.root, namespace, name, uid);
                self.start(uid, paths, None, shutdown);
            }
        }
        let gone: Vec<String> = seen.keys().filter(|uid| !now.contains_key(*uid)).cloned().collect();
        for uid in gone {
            if let Some(entry) = self.entries.lock().get(&uid) {
                entry.wake.notify_one();
            }
        }
        *seen = now.into_iter().map(|(uid, (print, ..))| (uid, print)).collect();
    }

    /// Per pod uid: a hash of its sandboxes, containers and their states, and the pod's names.
    async fn fingerprints(&self) -> Result<HashMap<String, (u64, String, String)>, RuntimeError> {
        let runtime = &self.context.runtime;
        let sandboxes = runtime.list_sandboxes(None).await?;
        let containers = runtime.list_containers(None).await?;
        count(&sandboxes, &containers);
        let rows = sandboxes.into_iter().map(|sandbox| (sandbox.labels, sandbox.id, sandbox.state));
        let rows = rows.chain(containers.into_iter().map(|one| (one.labels, one.id, one.state)));
        let mut found: HashMap<String, (u64, String, String)> = HashMap::new();
        for (labels, id, state) in rows {
            let label = |key: &str| labels.get(key).cloned().unwrap_or_default();
            let mut hasher = DefaultHasher::new();
            (id, state).hash(&mut hasher);
            let entry = found
                .entry(label(LABEL_POD_UID))
                .or_insert_with(|| (0, label(LABEL_POD_NAMESPACE), label(LABEL_POD_NAME)));
            entry.0 ^= hasher.finish();
        }
        Ok(found)
    }
}

/// What the runtime has now: pods by their sandboxes, containers by their state (the kubelet's names).
fn count(sandboxes: &[cri::PodSandbox], containers: &[cri::Container]) {
    let ready = |sandbox: &&cri::PodSandbox| sandbox.state == cri::PodSandboxState::SandboxReady as i32;
    metrics::gauge!("kubelet_running_pods").set(sandboxes.iter().filter(ready).count() as f64);
    for (name, state) in [
        ("created", cri::ContainerState::ContainerCreated),
        ("running", cri::ContainerState::ContainerRunning),
        ("exited", cri::ContainerState::ContainerExited),
        ("unknown", cri::ContainerState::ContainerUnknown),
    ] {
        let number = containers.iter().filter(|container| container.state == state as i32).count();
        metrics::gauge!("kubelet_running_containers", "container_state" => name).set(number as f64);
    }
}
