use std::collections::BTreeMap;
use std::error::Error;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tracing::{debug, error};

use crate::Shutdown;

type BoxError = Box<dyn Error + Send + Sync>;

/// Why a [`TaskGroup`] did not end cleanly.
#[derive(Debug, thiserror::Error)]
pub enum TaskFailure {
    /// A task returned an error or panicked; the first one that did is named.
    #[error("task {task} failed: {cause}")]
    Failed {
        /// `group/task`.
        task: String,
        /// The error, or the panic's text.
        cause: String,
    },
    /// Tasks were still running at the deadline and were aborted.
    #[error("these tasks of {group} did not stop in time: {}", tasks.join(", "))]
    Deadline {
        /// The group's name.
        group: String,
        /// The tasks that were aborted.
        tasks: Vec<String>,
    },
}

/// Named tasks that are owned and awaited together.
///
/// The first task that fails triggers the group's [`Shutdown`], so that the process ends with an error instead of
/// living on with a part missing. Clones are handles to the same group; its owner calls [`TaskGroup::join`].
#[derive(Clone, Debug)]
pub struct TaskGroup {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    shutdown: Shutdown,
    tasks: Mutex<JoinSet<()>>,
    failure: Mutex<Option<TaskFailure>>,
    /// Names of the tasks that run, under the order of their start.
    running: Mutex<BTreeMap<u64, String>>,
}

impl TaskGroup {
    /// An empty group whose tasks are asked to stop by `shutdown`.
    pub fn new(name: impl Into<String>, shutdown: Shutdown) -> Self {
        let inner = Inner {
            name: name.into(),
            shutdown,
            tasks: Mutex::new(JoinSet::new()),
            failure: Mutex::new(None),
            running: Mutex::new(BTreeMap::new()),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The signal that stops this group.
    pub fn shutdown(&self) -> &Shutdown {
        &self.inner.shutdown
    }

    /// Runs a task that must live until shutdown. An error, a panic or an early end stops the whole group.
    pub fn spawn<F, E>(&self, name: impl Into<String>, task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        let name = format!("{}/{}", self.inner.name, name.into());
        let inner = self.inner.clone();
        self.adopt(name.clone(), async move {
            match task.await {
                Ok(()) if inner.shutdown.is_triggered() => debug!(task = name, "stopped"),
                Ok(()) => inner.fail(name, "ended before it was asked to".to_owned()),
                Err(cause) => inner.fail(name, cause.into().to_string()),
            }
        });
    }

    /// Runs a task that may end by itself (a connection, one request). A panic still stops the group.
    pub fn spawn_detached<F>(&self, name: impl Into<String>, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.adopt(format!("{}/{}", self.inner.name, name.into()), task);
    }

    fn adopt(&self, name: String, task: impl Future<Output = ()> + Send + 'static) {
        let number = {
            let mut running = self.inner.running.lock();
            let number = running.last_key_value().map_or(0, |(last, _)| last + 1);
            running.insert(number, name);
            number
        };
        let guard = Guard { number, inner: self.inner.clone() };
        let mut tasks = self.inner.tasks.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            let _guard = guard;
            task.await;
        });
    }

    /// Waits until every task has ended. Past `deadline`, counted from the shutdown signal, the rest is aborted.
    ///
    /// Returns the first failure, if any.
    pub async fn join(self, deadline: Duration) -> Result<(), TaskFailure> {
        let mut tasks = std::mem::take(&mut *self.inner.tasks.lock());
        let drained = async { while tasks.join_next().await.is_some() {} };
        let expired = async {
            self.inner.shutdown.wait().await;
            tokio::time::sleep_until(tokio::time::Instant::now() + deadline).await;
        };
        let in_time = tokio::select! {
            () = drained => true,
            () = expired => false,
        };
        if let Some(failure) = self.inner.failure.lock().take() {
            return Err(failure);
        }
        if in_time {
            return Ok(());
        }
        let late = self.inner.running.lock().values().cloned().collect();
        tasks.shutdown().await;
        Err(TaskFailure::Deadline { group: self.inner.name.clone(), tasks: late })
    }
}

impl Inner {
    fn fail(&self, task: String, cause: String) {
        error!(task, cause, "task failed");
        self.failure.lock().get_or_insert(TaskFailure::Failed { task, cause });
        self.shutdown.trigger();
    }
}

/// Ends with its task: takes the name off the list, and reports a task that unwinds.
struct Guard {
    number: u64,
    inner: Arc<Inner>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let name = self.inner.running.lock().remove(&self.number);
        if std::thread::panicking() {
            self.inner.fail(name.unwrap_or_default(), "panicked".to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn a_clean_group_joins_after_shutdown() {
        let group = TaskGroup::new("g", Shutdown::new());
        let stop = group.shutdown().clone();
        let seen = stop.clone();
        group.spawn("waits", async move {
            seen.wait().await;
            Ok::<(), BoxError>(())
        });
        group.spawn_detached("short", async {});
        stop.trigger();
        group.join(SOON).await.expect("clean");
    }

    #[tokio::test]
    async fn a_failing_task_stops_the_others_and_is_named() {
        let group = TaskGroup::new("g", Shutdown::new());
        let seen = group.shutdown().clone();
        group.spawn("waits", async move {
            seen.wait().await;
            Ok::<(), BoxError>(())
        });
        group.spawn("breaks", async { Err::<(), BoxError>("disk gone".into()) });
        let failure = group.join(SOON).await.expect_err("failed");
        assert_eq!(failure.to_string(), "task g/breaks failed: disk gone");
    }

    #[tokio::test]
    async fn a_panic_and_an_early_end_are_failures() {
        let group = TaskGroup::new("g", Shutdown::new());
        group.spawn_detached("panics", async { panic!("boom") });
        assert_eq!(group.join(SOON).await.expect_err("failed").to_string(), "task g/panics failed: panicked");
        let group = TaskGroup::new("g", Shutdown::new());
        group.spawn("leaves", async { Ok::<(), BoxError>(()) });
        let failure = group.join(SOON).await.expect_err("failed");
        assert_eq!(failure.to_string(), "task g/leaves failed: ended before it was asked to");
    }

    #[tokio::test]
    async fn a_task_that_does_not_stop_is_aborted_at_the_deadline() {
        let group = TaskGroup::new("g", Shutdown::new());
        group.spawn_detached("deaf", std::future::pending());
        group.shutdown().trigger();
        let failure = group.join(Duration::from_millis(20)).await.expect_err("late");
        assert_eq!(failure.to_string(), "these tasks of g did not stop in time: g/deaf");
    }
}
