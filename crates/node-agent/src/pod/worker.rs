//! One task a pod: looks, plans, acts, reports; wakes when the object, the runtime or a probe changes. Driver.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use client::EventType;
use env::{Shutdown, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::admission;
use super::lifecycle;
use super::message;
use super::observed::{ContainerView, Memory, Observed, SandboxView};
use super::paths::PodPaths;
use super::plan::{Plan, PodAction, plan};
use super::prober::Prober;
use super::status::{self, StatusInput};
use super::status_writer::Job;
use crate::context::Context;
use crate::runtime::RuntimeError;
use crate::volumes::mounter::Mounted;

/// Looked at again after this even when nothing happened.
const IDLE: Duration = Duration::from_secs(60);
/// After a failure of the runtime.
const RETRY: Duration = Duration::from_secs(1);
/// The reason of a pod whose time was over.
const DEADLINE_EXCEEDED: &str = "DeadlineExceeded";
/// How long `ErrImagePull` shows before it becomes `ImagePullBackOff`.
const PULL_ERROR_SHOWS: Duration = Duration::from_secs(2);

/// The pod's object as the informer last showed it.
pub(crate) type Desired = watch::Receiver<Option<Arc<Value>>>;

/// Everything that one pod's worker holds.
pub(crate) struct Worker {
    pub(super) context: Arc<Context>,
    pub(super) uid: String,
    pub(super) desired: Desired,
    pub(super) wake: Arc<Notify>,
    pub(super) memory: Memory,
    pub(super) paths: PodPaths,
    pub(super) mounted: Mounted,
    pub(super) mounted_at: Timestamp,
    pub(super) back_off_told: BTreeMap<String, u32>,
    /// Ids of containers whose `preStop` hook ran to its end.
    pub(super) pre_stopped: Mutex<BTreeSet<String>>,
    prober: Prober,
    admitted: bool,
    /// When the pod was first seen, until it runs; none for a pod that an earlier agent started.
    seen_at: Option<Instant>,
}

/// A pod's object in both of its forms.
#[derive(Clone)]
pub(super) struct Target {
    pub value: Arc<Value>,
    pub pod: Arc<Pod>,
}

/// How a round ended.
enum Round {
    /// Look again at once.
    Again,
    /// Look again after this long at the latest.
    Wait(Duration),
    /// Nothing of the pod is left.
    Finished,
}

impl Worker {
    pub fn new(
        context: Arc<Context>,
        uid: String,
        paths: PodPaths,
        desired: Desired,
        wake: Arc<Notify>,
    ) -> Self {
        let prober = Prober::new(context.clone(), wake.clone());
        let mounted_at = Timestamp::from_millis(0);
        Self {
            context,
            uid,
            desired,
            wake,
            memory: Memory::default(),
            paths,
            mounted: Mounted::new(),
            mounted_at,
            back_off_told: BTreeMap::new(),
            pre_stopped: Mutex::default(),
            prober,
            admitted: false,
            seen_at: None,
        }
    }

    /// Works until nothing of the pod is left, or shutdown. Containers outlive the agent.
    pub async fn run(mut self, shutdown: Shutdown) {
        while !shutdown.is_triggered() {
            let round = tokio::select! {
                round = self.round() => round,
                () = shutdown.wait() => break,
            };
            let wait = match round {
                Round::Again => continue,
                Round::Wait(wait) => wait,
                Round::Finished => break,
            };
            tokio::select! {
                () = self.wake.notified() => {}
                changed = self.desired.changed() => if changed.is_err() { break },
                () = self.context.env.clock.sleep(wait) => {}
                () = shutdown.wait() => break,
            }
        }
        self.prober.stop();
        self.context.admitted.lock().remove(&self.uid);
    }

    fn target(&mut self) -> Option<Target> {
        let value = self.desired.borrow_and_update().clone()?;
        match serde_json::from_value::<Pod>((*value).clone()) {
            Ok(pod) => Some(Target { value, pod: Arc::new(pod) }),
            Err(error) => {
                tracing::error!(uid = %self.uid, %error, "a pod cannot be read");
                None
            }
        }
    }

    async fn round(&mut self) -> Round {
        let target = self.target();
        let observed = match self.observe().await {
            Ok(observed) => observed,
            Err(error) => {
                tracing::debug!(uid = %self.uid, %error, "the runtime did not tell");
                return Round::Wait(RETRY);
            }
        };
        if let Some(target) = &target {
            self.admit(target, &observed);
            self.end_in_time(target, &observed);
            self.prober.follow(target, &observed);
        }
        self.memory.probes = self.prober.results();
        self.age_pull_errors();
        let now = self.context.env.clock.now();
        let pod = target.as_ref().map(|target| &*target.pod);
        let plan = plan(pod, &observed, &self.memory, now);
        let deletes = plan.actions.contains(&PodAction::DeleteObject);
        if let Some(target) = &target {
            self.publish(target, &observed, deletes);
            self.tell_back_off(target, &observed);
        }
        self.act(target, observed, plan).await
    }

    async fn act(&mut self, target: Option<Target>, observed: Observed, plan: Plan) -> Round {
        if plan.finished {
            return Round::Finished;
        }
        let mut acted = false;
        for action in plan.actions {
            if action == PodAction::DeleteObject {
                return Round::Wait(RETRY * 5);
            }
            let mut watched = self.desired.clone();
            let seen = target.as_ref().and_then(|target| target.pod.metadata.deletion_grace_period_seconds);
            let had = target.is_some();
            let done = tokio::select! {
                done = self.carry_out(target.as_ref(), &observed, action) => done,
                () = more_urgent(&mut watched, had, seen) => return Round::Again,
            };
            acted = true;
            if !done {
                let wait = if self.has_delay() { Duration::ZERO } else { RETRY };
                return if wait.is_zero() { Round::Again } else { Round::Wait(wait) };
            }
        }
        if acted {
            return Round::Again;
        }
        self.refresh_volumes(target.as_ref(), &observed).await;
        Round::Wait(plan.recheck_after.unwrap_or(IDLE).min(self.next_look()))
    }

    /// Whether a failure left a time before which it is not tried again.
    fn has_delay(&self) -> bool {
        let now = self.context.env.clock.now();
        self.memory.waiting.values().any(|waiting| waiting.retry_at > now)
            || self.memory.prepare_retry.is_some_and(|(at, _)| at > now)
    }

    fn next_look(&self) -> Duration {
        let fresh = self.memory.waiting.values().any(|waiting| waiting.reason == "ErrImagePull");
        if fresh { PULL_ERROR_SHOWS } else { IDLE }
    }

    fn age_pull_errors(&mut self) {
        let now = self.context.env.clock.now();
        for waiting in self.memory.waiting.values_mut().filter(|waiting| waiting.reason == "ErrImagePull") {
            let left = waiting.retry_at.since(now);
            if left + PULL_ERROR_SHOWS <= waiting.delay {
                waiting.reason = "ImagePullBackOff".to_owned();
                waiting.message = format!("Back-off pulling image: ErrImagePull: {}", waiting.message);
            }
        }
    }

    /// What the runtime has of this pod.
    pub(super) async fn observe(&self) -> Result<Observed, RuntimeError> {
        let runtime = &self.context.runtime;
        let mut sandboxes = Vec::new();
        for sandbox in runtime.list_sandboxes(Some(self.uid.clone())).await? {
            match runtime.sandbox_status(sandbox.id).await {
                Ok(status) => sandboxes.push(SandboxView::from_cri(status)),
                Err(RuntimeError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let mut containers = Vec::new();
        for container in runtime.list_containers(Some(self.uid.clone())).await? {
            match runtime.container_status(container.id).await {
                Ok(status) => {
                    let mut view = ContainerView::from_cri(&container.pod_sandbox_id, status);
                    let log = self.paths.log(&view.name, view.attempt);
                    message::add(&mut view, &log);
                    containers.push(view);
                }
                Err(RuntimeError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Observed::new(sandboxes, containers))
    }

    /// Lets a new pod in, or refuses it; what runs already is in.
    fn admit(&mut self, target: &Target, observed: &Observed) {
        if self.admitted || lifecycle::has_terminal_phase(&target.pod) {
            return;
        }
        self.admitted = true;
        let mut admitted = self.context.admitted.lock();
        if observed.sandboxes.is_empty() && target.pod.metadata.deletion_timestamp.is_none() {
            self.seen_at = Some(self.context.env.clock.monotonic());
            let others: Vec<&Pod> = admitted.values().map(AsRef::as_ref).collect();
            if let Err(refusal) = admission::admit(&target.pod, &others, &self.context.typed_node()) {
                self.context.warn(&target.value, &refusal.reason, refusal.message.clone());
                self.memory.failed = Some((refusal.reason, refusal.message));
                return;
            }
        }
        admitted.insert(self.uid.clone(), target.pod.clone());
    }

    /// Fails a pod whose time is over; one that ended by itself did so in time.
    fn end_in_time(&mut self, target: &Target, observed: &Observed) {
        let pod = &target.pod;
        let finished = pod.spec.as_ref().is_some_and(|spec| lifecycle::is_finished(spec, observed));
        let now = self.context.env.clock.now();
        let is_over = lifecycle::deadline(pod).is_some_and(|deadline| now >= deadline);
        if !is_over || finished || self.memory.failed.is_some() || lifecycle::has_terminal_phase(pod) {
            return;
        }
        // Upstream's words.
        let text = "Pod was active on the node longer than the specified deadline";
        self.context.recorder.record(&target.value, EventType::Normal, DEADLINE_EXCEEDED, text);
        self.memory.failed = Some((DEADLINE_EXCEEDED.to_owned(), text.to_owned()));
    }

    /// Hands the status to the writer if the API shows another.
    fn publish(&mut self, target: &Target, observed: &Observed, delete: bool) {
        let input = StatusInput {
            pod: &target.pod,
            observed,
            memory: &self.memory,
            host: &self.context.facts(),
            now: self.context.env.clock.now(),
        };
        let status = match serde_json::to_value(status::pod_status(&input)) {
            Ok(status) => status,
            Err(error) => {
                tracing::error!(uid = %self.uid, %error, "a status cannot be written as JSON");
                return;
            }
        };
        let old = target.value.get("status").cloned().unwrap_or_default();
        if old == status && !delete {
            return;
        }
        let phase = status["phase"].as_str().unwrap_or_default();
        if let Some(seen_at) = self.seen_at.take_if(|_| phase == "Running") {
            metrics::histogram!("kubelet_pod_start_duration_seconds").record(seen_at.elapsed());
        }
        if matches!(phase, "Succeeded" | "Failed") {
            self.context.admitted.lock().remove(&self.uid);
        }
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        self.context.statuses.submit(Job {
            namespace: text(&target.pod.metadata.namespace),
            name: text(&target.pod.metadata.name),
            uid: self.uid.clone(),
            old,
            status,
            delete,
        });
    }

    /// One BackOff event for every attempt that has to wait.
    fn tell_back_off(&mut self, target: &Target, observed: &Observed) {
        let now = self.context.env.clock.now();
        let Some(spec) = target.pod.spec.as_ref() else { return };
        for (kind, container) in lifecycle::containers(spec) {
            let Some(view) = observed.latest(&container.name).filter(|view| !view.is_live()) else {
                continue;
            };
            let waits = lifecycle::should_restart(spec, kind, container, view.exit_code)
                && target.pod.metadata.deletion_timestamp.is_none()
                && lifecycle::restart_not_before(&self.memory, view).is_some_and(|at| now < at);
            if waits && self.back_off_told.insert(view.name.clone(), view.attempt) != Some(view.attempt) {
                let text = format!(
                    "Back-off restarting failed container {} in pod {}_{}({})",
                    view.name,
                    target.pod.metadata.name.as_deref().unwrap_or_default(),
                    target.pod.metadata.namespace.as_deref().unwrap_or_default(),
                    self.uid,
                );
                self.context.tell(&target.value, &view.name, EventType::Warning, "BackOff", text);
            }
        }
    }
}

/// Ends when the pod must be looked at before the current action is through: its deletion came or became shorter.
async fn more_urgent(desired: &mut Desired, had: bool, seen: Option<i64>) {
    let changed = desired.wait_for(|object| match object {
        Some(object) => object["metadata"]["deletionGracePeriodSeconds"].as_i64() != seen,
        None => had,
    });
    if changed.await.is_err() {
        std::future::pending::<()>().await;
    }
}
