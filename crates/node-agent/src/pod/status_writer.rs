//! The one writer of pod statuses: the newest status of each pod, one request at a time per pod. Driver.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use client::{Client, ClientError, DeleteParams, Patch};
use env::{Env, Shutdown};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::sync::Notify;

use crate::context::core;

/// Requests under way at once.
const PARALLEL: usize = 16;
/// Before a failed write is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What to write of one pod.
#[derive(Clone)]
pub(crate) struct Job {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// The status that the API had when `status` was made: fields that it had and `status` has not are removed.
    pub old: Value,
    pub status: Value,
    /// Afterwards delete the object: nothing of the pod runs any more.
    pub delete: bool,
}

#[derive(Default)]
struct Queue {
    jobs: HashMap<String, Job>,
    busy: HashSet<String>,
}

/// Takes statuses to write; never waits. At most one job a pod is kept.
#[derive(Clone, Default)]
pub(crate) struct StatusWriter {
    queue: Arc<Mutex<Queue>>,
    wake: Arc<Notify>,
}

impl StatusWriter {
    /// Writes `job` unless a newer one of the same pod comes first. A wish to delete is never forgotten.
    pub fn submit(&self, mut job: Job) {
        let mut queue = self.queue.lock();
        job.delete |= queue.jobs.get(&job.uid).is_some_and(|waiting| waiting.delete);
        queue.jobs.insert(job.uid.clone(), job);
        drop(queue);
        self.wake.notify_one();
    }

    fn next(&self) -> Option<Job> {
        let mut queue = self.queue.lock();
        let uid = queue.jobs.keys().find(|uid| !queue.busy.contains(*uid)).cloned()?;
        queue.busy.insert(uid.clone());
        queue.jobs.remove(&uid)
    }

    fn done(&self, uid: &str) {
        self.queue.lock().busy.remove(uid);
    }

    /// Puts a failed job back unless a newer one is there.
    fn put_back(&self, job: Job) {
        let mut queue = self.queue.lock();
        match queue.jobs.get_mut(&job.uid) {
            Some(newer) => newer.delete |= job.delete,
            None => {
                queue.jobs.insert(job.uid.clone(), job);
            }
        }
    }

    /// Writes until shutdown.
    pub async fn run(self, env: Env, client: Client, shutdown: Shutdown) {
        let mut under_way = FuturesUnordered::new();
        loop {
            while under_way.len() < PARALLEL
                && let Some(job) = self.next()
            {
                under_way.push(self.attempt(&env, &client, job));
            }
            tokio::select! {
                Some(()) = under_way.next() => {}
                () = self.wake.notified() => {}
                () = shutdown.wait() => return,
            }
        }
    }

    async fn attempt(&self, env: &Env, client: &Client, job: Job) {
        if let Err(error) = write(client, &job).await {
            let gone = error.is_not_found() || (job.delete && error.is_conflict());
            if !gone {
                tracing::debug!(pod = %job.name, namespace = %job.namespace, %error, "a pod status was not written");
                self.put_back(job.clone());
                env.clock.sleep(RETRY).await;
            }
        }
        self.done(&job.uid);
    }
}

async fn write(client: &Client, job: &Job) -> Result<(), ClientError> {
    let api = client.namespaced(core("pods"), &job.namespace);
    if let Some(patch) = patch(job) {
        api.patch(&job.name, "status", &Patch::Strategic(patch)).await?;
    }
    if job.delete {
        let params = DeleteParams { grace_seconds: Some(0), ..DeleteParams::only(&job.uid) };
        api.delete(&job.name, &params).await?;
    }
    Ok(())
}

/// What changes the old status into the new one; the uid keeps a namesake from being written to.
fn patch(job: &Job) -> Option<Value> {
    let empty = Map::new();
    let old = job.old.as_object().unwrap_or(&empty);
    let new = job.status.as_object()?;
    let mut changes = Map::new();
    for (field, value) in new {
        if old.get(field) == Some(value) {
            continue;
        }
        changes.insert(field.clone(), with_directive(field, value, old.get(field)));
    }
    for field in old.keys().filter(|field| !new.contains_key(*field) && OURS.contains(&field.as_str())) {
        changes.insert(field.clone(), Value::Null);
    }
    (!changes.is_empty()).then(|| json!({"metadata": {"uid": job.uid}, "status": changes}))
}

/// Fields that only the node writes.
const OURS: [&str; 7] = [
    "message",
    "reason",
    "podIP",
    "podIPs",
    "containerStatuses",
    "initContainerStatuses",
    "ephemeralContainerStatuses",
];

/// Addresses would be merged by their value: a new sandbox's stands alone. Conditions are merged by type: one that is
/// no longer said has to be taken out.
fn with_directive(field: &str, value: &Value, old: Option<&Value>) -> Value {
    match (field, value) {
        ("conditions", Value::Array(items)) => {
            let before = old.and_then(Value::as_array).into_iter().flatten();
            let gone = before.filter(|was| !items.iter().any(|item| item["type"] == was["type"]));
            let gone = gone.map(|was| json!({"$patch": "delete", "type": was["type"]}));
            Value::Array(items.iter().cloned().chain(gone).collect())
        }
        ("podIPs", Value::Array(items)) => {
            let directive = std::iter::once(json!({"$patch": "replace"}));
            Value::Array(items.iter().cloned().chain(directive).collect())
        }
        _ => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(old: Value, status: Value) -> Job {
        Job { namespace: "n".into(), name: "p".into(), uid: "u".into(), old, status, delete: false }
    }

    #[test]
    fn only_what_changed_is_written() {
        let same = json!({"phase": "Running", "message": "m"});
        assert_eq!(patch(&job(same.clone(), same)), None);
        let changed = patch(&job(
            json!({"phase": "Pending", "message": "m", "nominatedNodeName": "x"}),
            json!({"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}]}),
        ));
        let expected = json!({"metadata": {"uid": "u"}, "status": {
            "phase": "Running", "message": null, "podIPs": [{"ip": "10.0.0.1"}, {"$patch": "replace"}],
        }});
        assert_eq!(changed, Some(expected));
        let conditions = |types: &[&str]| json!({"conditions": types.iter().map(|name| json!({"type": name})).collect::<Vec<_>>()});
        let gone =
            patch(&job(conditions(&["Ready", "PodResizePending"]), conditions(&["Ready"]))).expect("a patch");
        let expected = json!([{"type": "Ready"}, {"$patch": "delete", "type": "PodResizePending"}]);
        assert_eq!(gone["status"]["conditions"], expected);
    }

    #[test]
    fn a_newer_status_replaces_a_waiting_one_and_keeps_its_deletion() {
        let writer = StatusWriter::default();
        writer.submit(Job { delete: true, ..job(json!({}), json!({"phase": "Running"})) });
        writer.submit(job(json!({}), json!({"phase": "Failed"})));
        let taken = writer.next().expect("a job");
        assert_eq!((taken.status["phase"].as_str(), taken.delete), (Some("Failed"), true));
        writer.submit(job(json!({}), json!({"phase": "Failed"})));
        assert!(writer.next().is_none(), "one request at a time per pod");
        writer.done("u");
        assert!(writer.next().is_some());
    }
}
