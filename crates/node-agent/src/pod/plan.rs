//! What to do next for one pod: desired and observed in, actions out. No clock, no socket, no disk.
//!
//! The plan is level-triggered: it looks at what is, never at what happened, and it is made anew after every action
//! that changed something. The actions of one plan are carried out in order, up to the first that fails.

use std::time::Duration;

use env::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodSpec};

use super::lifecycle::{self, Kind};
use super::observed::{ContainerView, Memory, Observed, State};
use super::spec_hash;

/// Grace when nobody says (the API's default).
pub const DEFAULT_GRACE_SECONDS: i64 = 30;
/// Ended containers of one name that are kept, so that the last run's log can be read.
const KEPT_PER_NAME: usize = 2;

/// One thing to do for a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum PodAction {
    /// Make directories, control groups and volumes.
    Prepare,
    /// Start a sandbox.
    RunSandbox {
        /// How many came before it.
        attempt: u32,
    },
    /// Get the image, create and start a container.
    StartContainer {
        /// Its name in the spec.
        name: String,
        /// Its part in the pod.
        kind: Kind,
        /// How many came before it.
        attempt: u32,
    },
    /// Stop containers: groups one after the other, all of a group at once, within one grace period.
    StopContainers {
        /// Container ids in the order of stopping.
        groups: Vec<Vec<String>>,
        /// Seconds for all of it.
        grace: i64,
        /// Why, as the Killing event says it.
        reason: String,
    },
    /// Stop a sandbox and take its network down.
    StopSandbox {
        /// The runtime's id.
        id: String,
    },
    /// Remove a sandbox with its containers.
    RemoveSandbox {
        /// The runtime's id.
        id: String,
    },
    /// Remove one container.
    RemoveContainer {
        /// The runtime's id.
        id: String,
    },
    /// Take volumes and control groups down; what containers left is kept for who asks.
    CleanUp,
    /// The pod is gone: remove all its files, logs too.
    RemoveFiles,
    /// Nothing runs any more: write the final status and delete the object with grace 0.
    DeleteObject,
}

/// What to do, and when to look again if nothing else wakes the pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// In order.
    pub actions: Vec<PodAction>,
    /// Look again after this long at the latest.
    pub recheck_after: Option<Duration>,
    /// Nothing of the pod is left here: the worker may end.
    pub finished: bool,
}

impl Plan {
    fn of(actions: Vec<PodAction>) -> Self {
        Self { actions, ..Self::default() }
    }

    fn recheck_at(&mut self, at: Timestamp, now: Timestamp) {
        let wait = at.since(now).max(Duration::from_millis(1));
        self.recheck_after = Some(self.recheck_after.map_or(wait, |other| other.min(wait)));
    }
}

/// What to do next for a pod. `pod` is `None` once its object is gone.
pub fn plan(pod: Option<&Pod>, observed: &Observed, memory: &Memory, now: Timestamp) -> Plan {
    let Some(pod) = pod else { return plan_gone(observed, memory) };
    let Some(spec) = pod.spec.as_ref() else { return Plan::default() };
    if pod.metadata.deletion_timestamp.is_some() {
        return plan_deletion(pod, spec, observed, memory);
    }
    let over = memory.failed.is_some()
        || lifecycle::has_terminal_phase(pod)
        || lifecycle::is_finished(spec, observed);
    if over {
        return wind_down(spec, observed, memory, grace_of(pod), "Stopping container");
    }
    plan_running(pod, spec, observed, memory, now)
}

/// The grace period that a pod's stopping has, in seconds.
pub fn grace_of(pod: &Pod) -> i64 {
    let spec = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    pod.metadata.deletion_grace_period_seconds.or(spec).unwrap_or(DEFAULT_GRACE_SECONDS)
}

fn plan_gone(observed: &Observed, memory: &Memory) -> Plan {
    let live: Vec<String> = observed.live().map(|container| container.id.clone()).collect();
    if !live.is_empty() {
        let noted = observed.containers.iter().find_map(|container| container.grace);
        let grace = memory.grace.or(noted).unwrap_or(DEFAULT_GRACE_SECONDS);
        return Plan::of(vec![stop(vec![live], grace, "Stopping container")]);
    }
    let mut actions: Vec<PodAction> = Vec::new();
    for sandbox in &observed.sandboxes {
        if sandbox.ready {
            actions.push(PodAction::StopSandbox { id: sandbox.id.clone() });
        }
        actions.push(PodAction::RemoveSandbox { id: sandbox.id.clone() });
    }
    let orphans = observed
        .containers
        .iter()
        .filter(|container| !observed.sandboxes.iter().any(|sandbox| sandbox.id == container.sandbox));
    actions.extend(orphans.map(|container| PodAction::RemoveContainer { id: container.id.clone() }));
    if !memory.removed {
        actions.push(PodAction::RemoveFiles);
    }
    Plan { finished: actions.is_empty(), actions, recheck_after: None }
}

fn plan_deletion(pod: &Pod, spec: &PodSpec, observed: &Observed, memory: &Memory) -> Plan {
    let mut plan = wind_down(spec, observed, memory, grace_of(pod), "Stopping container");
    if plan.actions.is_empty() {
        plan.actions.push(PodAction::DeleteObject);
    }
    plan
}

/// Stops what lives, then the sandbox, then takes the rest down; containers stay for their logs.
fn wind_down(spec: &PodSpec, observed: &Observed, memory: &Memory, grace: i64, reason: &str) -> Plan {
    let groups = stop_order(spec, observed.live());
    if !groups.is_empty() {
        return Plan::of(vec![stop(groups, grace, reason)]);
    }
    let ready = observed.sandboxes.iter().filter(|sandbox| sandbox.ready);
    let mut actions: Vec<PodAction> =
        ready.map(|sandbox| PodAction::StopSandbox { id: sandbox.id.clone() }).collect();
    if !memory.cleaned {
        actions.push(PodAction::CleanUp);
    }
    Plan::of(actions)
}

/// Main and init containers together, then sidecars one by one, last started first (KEP-753).
fn stop_order<'a>(spec: &PodSpec, live: impl Iterator<Item = &'a ContainerView>) -> Vec<Vec<String>> {
    let mut first = Vec::new();
    let mut sidecars = Vec::new();
    for view in live {
        let mut init = spec.init_containers.iter().flatten();
        let place = init.position(|c| c.name == view.name && lifecycle::init_kind(c) == Kind::Sidecar);
        match place {
            Some(place) => sidecars.push((place, view.id.clone())),
            None => first.push(view.id.clone()),
        }
    }
    sidecars.sort_by_key(|(place, _)| std::cmp::Reverse(*place));
    let groups = std::iter::once(first).chain(sidecars.into_iter().map(|(_, id)| vec![id]));
    groups.filter(|group| !group.is_empty()).collect()
}

fn stop(groups: Vec<Vec<String>>, grace: i64, reason: &str) -> PodAction {
    PodAction::StopContainers { groups, grace, reason: reason.to_owned() }
}

fn plan_running(pod: &Pod, spec: &PodSpec, observed: &Observed, memory: &Memory, now: Timestamp) -> Plan {
    if let Some((retry_at, _)) = memory.prepare_retry
        && now < retry_at
    {
        let mut plan = Plan::default();
        plan.recheck_at(retry_at, now);
        return plan;
    }
    let mut plan = Plan::default();
    if let Some(deadline) = lifecycle::deadline(pod) {
        plan.recheck_at(deadline, now);
    }
    if !memory.prepared {
        plan.actions.push(PodAction::Prepare);
    }
    let Some(sandbox) = observed.ready_sandbox() else {
        plan_sandbox(spec, observed, &mut plan);
        return plan;
    };
    collect_garbage(spec, observed, &mut plan);
    stop_unfit(spec, observed, memory, &mut plan);
    let next = Next { spec, observed, memory, now, sandbox: &sandbox.id };
    let statuses = pod.status.as_ref().and_then(|status| status.ephemeral_container_statuses.as_ref());
    for container in lifecycle::ephemeral(spec) {
        let mut known = statuses.into_iter().flatten().filter(|status| status.name == container.name);
        // One that ran in an earlier life of the node does not run again.
        if !known.any(|status| status.container_id.is_some()) {
            next.container(Kind::Ephemeral, &container, &mut plan);
        }
    }
    if lifecycle::is_initialized(spec, observed, memory) {
        // Sidecars are restarted for as long as the pod runs.
        for container in spec.init_containers.iter().flatten() {
            if lifecycle::init_kind(container) == Kind::Sidecar {
                next.container(Kind::Sidecar, container, &mut plan);
            }
        }
        for container in &spec.containers {
            next.container(Kind::Main, container, &mut plan);
        }
    } else {
        next.init(&mut plan);
    }
    plan
}

/// A new sandbox, after everything that still lives in the old one has stopped.
fn plan_sandbox(spec: &PodSpec, observed: &Observed, plan: &mut Plan) {
    let groups = stop_order(spec, observed.live());
    if !groups.is_empty() {
        let grace = spec.termination_grace_period_seconds.unwrap_or(DEFAULT_GRACE_SECONDS);
        plan.actions.push(stop(groups, grace, "Pod sandbox changed, it will be killed and re-created."));
        return;
    }
    let attempt = observed.sandbox().map_or(0, |sandbox| sandbox.attempt + 1);
    if let Some(old) = observed.sandbox() {
        plan.actions.push(PodAction::StopSandbox { id: old.id.clone() });
    }
    plan.actions.push(PodAction::RunSandbox { attempt });
}

/// Keeps the newest containers of each name and the newest sandbox.
fn collect_garbage(spec: &PodSpec, observed: &Observed, plan: &mut Plan) {
    for (_, container) in lifecycle::containers(spec) {
        let old = observed.of(&container.name).skip(KEPT_PER_NAME).filter(|view| !view.is_live());
        plan.actions.extend(old.map(|view| PodAction::RemoveContainer { id: view.id.clone() }));
    }
    for sandbox in observed.sandboxes.iter().skip(1) {
        let in_use = observed.containers.iter().any(|container| container.sandbox == sandbox.id);
        if !in_use {
            plan.actions.push(PodAction::RemoveSandbox { id: sandbox.id.clone() });
        }
    }
}

/// Running containers whose liveness failed or whose spec changed.
fn stop_unfit(spec: &PodSpec, observed: &Observed, memory: &Memory, plan: &mut Plan) {
    let grace = spec.termination_grace_period_seconds.unwrap_or(DEFAULT_GRACE_SECONDS);
    for view in observed.live() {
        let Some((_, container)) = lifecycle::find(spec, &view.name) else { continue };
        let failed = memory.probes.get(&view.id).and_then(|results| results.failed.clone());
        let changed = (!view.hash.is_empty() && view.hash != spec_hash(container))
            .then(|| format!("Container {} definition changed, will be restarted", view.name));
        let probe = match lifecycle::has_started(container, view, memory) {
            true => &container.liveness_probe,
            false => &container.startup_probe,
        };
        let own = probe.as_ref().filter(|_| failed.is_some());
        let grace = own.and_then(|probe| probe.termination_grace_period_seconds).unwrap_or(grace);
        if let Some(reason) = failed.or(changed) {
            plan.actions.push(stop(vec![vec![view.id.clone()]], grace, &reason));
        }
    }
}

/// Everything that the decision about one container needs.
struct Next<'a> {
    spec: &'a PodSpec,
    observed: &'a Observed,
    memory: &'a Memory,
    now: Timestamp,
    sandbox: &'a str,
}

impl Next<'_> {
    /// Walks the init containers up to the first that is not through.
    fn init(&self, plan: &mut Plan) {
        for container in self.spec.init_containers.iter().flatten() {
            let kind = lifecycle::init_kind(container);
            let view = self.observed.latest(&container.name).filter(|view| view.sandbox == self.sandbox);
            let through = view.is_some_and(|view| match kind {
                Kind::Sidecar => view.is_live() && lifecycle::has_started(container, view, self.memory),
                _ => view.state == State::Exited && view.exit_code == 0,
            });
            if !through {
                self.container(kind, container, plan);
                return;
            }
        }
    }

    /// Starts a container that should run and does not, unless a delay stands against it.
    fn container(&self, kind: Kind, container: &k8s_openapi::api::core::v1::Container, plan: &mut Plan) {
        if let Some(waiting) = self.memory.waiting.get(&container.name)
            && self.now < waiting.retry_at
        {
            plan.recheck_at(waiting.retry_at, self.now);
            return;
        }
        let view = self.observed.latest(&container.name);
        let attempt = view.map_or(0, |view| view.attempt + 1);
        let start = || PodAction::StartContainer { name: container.name.clone(), kind, attempt };
        let Some(view) = view else {
            plan.actions.push(start());
            return;
        };
        if view.is_live() {
            return;
        }
        let here = view.sandbox == self.sandbox;
        let again = lifecycle::should_restart(self.spec, kind, container, view.exit_code)
            || view.state == State::Created
            || (kind == Kind::Init && !here);
        if !again {
            return;
        }
        let not_before = if here && view.state != State::Created {
            lifecycle::restart_not_before(self.memory, view)
        } else {
            None
        };
        match not_before {
            Some(at) if self.now < at => plan.recheck_at(at, self.now),
            _ => plan.actions.push(start()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::observed::SandboxView;
    use super::*;
    use serde_json::{Value, json};

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn pod(metadata: Value) -> Pod {
        let spec = json!({"containers": [{"name": "c", "image": "i"}], "terminationGracePeriodSeconds": 7});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).expect("a pod")
    }

    fn sandbox() -> SandboxView {
        SandboxView { id: "s".into(), attempt: 0, ready: true, created_at: 0, ips: vec!["10.0.0.1".into()] }
    }

    fn container(state: State, exit_code: i32) -> ContainerView {
        let status = protos::cri::ContainerStatus {
            id: "c0".into(),
            metadata: Some(protos::cri::ContainerMetadata { name: "c".into(), attempt: 0 }),
            exit_code,
            finished_at: NOW.millis() * 1_000_000,
            ..Default::default()
        };
        ContainerView { state, ..ContainerView::from_cri("s", status) }
    }

    fn ready() -> Memory {
        Memory { prepared: true, ..Memory::default() }
    }

    #[test]
    fn a_new_pod_gets_directories_and_sandbox_and_then_its_container() {
        let first = plan(Some(&pod(json!({}))), &Observed::default(), &Memory::default(), NOW);
        assert_eq!(first.actions, [PodAction::Prepare, PodAction::RunSandbox { attempt: 0 }]);
        let second = plan(Some(&pod(json!({}))), &Observed::new(vec![sandbox()], vec![]), &ready(), NOW);
        let start = PodAction::StartContainer { name: "c".into(), kind: Kind::Main, attempt: 0 };
        assert_eq!(second.actions, [start]);
    }

    #[test]
    fn an_ephemeral_container_starts_once() {
        let mut seen = Observed::new(vec![sandbox()], vec![container(State::Running, 0)]);
        let mut with = pod(json!({}));
        let debug = json!([{"name": "d", "image": "i", "targetContainerName": "c"}]);
        let spec = with.spec.as_mut().expect("a spec");
        spec.ephemeral_containers = serde_json::from_value(debug).expect("containers");
        let start = PodAction::StartContainer { name: "d".into(), kind: Kind::Ephemeral, attempt: 0 };
        assert_eq!(plan(Some(&with), &seen, &ready(), NOW).actions, [start]);
        let ended = ContainerView { name: "d".into(), id: "d0".into(), ..container(State::Exited, 1) };
        seen.containers.push(ended);
        assert_eq!(plan(Some(&with), &seen, &ready(), NOW).actions, []);
        seen.containers.pop();
        let status = json!({"ephemeralContainerStatuses": [{"name": "d", "containerID": "x://d0", "image": "i", "imageID": "", "ready": false, "restartCount": 0}]});
        with.status = serde_json::from_value(status).expect("a status");
        assert_eq!(
            plan(Some(&with), &seen, &ready(), NOW).actions,
            [],
            "it ran before the runtime forgot it"
        );
    }

    #[test]
    fn a_running_pod_is_left_alone_also_by_a_new_agent() {
        let seen = Observed::new(vec![sandbox()], vec![container(State::Running, 0)]);
        assert_eq!(plan(Some(&pod(json!({}))), &seen, &ready(), NOW).actions, []);
        assert_eq!(plan(Some(&pod(json!({}))), &seen, &Memory::default(), NOW).actions, [PodAction::Prepare]);
    }

    #[test]
    fn the_second_restart_waits() {
        let seen = Observed::new(vec![sandbox()], vec![container(State::Exited, 1)]);
        let mut memory = ready();
        assert_eq!(plan(Some(&pod(json!({}))), &seen, &memory, NOW).actions.len(), 1, "the first is at once");
        lifecycle::note_restart(&mut memory, &seen.containers[0], NOW);
        let waits = plan(Some(&pod(json!({}))), &seen, &memory, NOW);
        assert_eq!((waits.actions.len(), waits.recheck_after), (0, Some(lifecycle::RESTART_DELAY_INITIAL)));
    }

    #[test]
    fn a_deleted_pod_stops_then_is_taken_down_then_its_object_goes() {
        let deleted =
            pod(json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 3}));
        let running = Observed::new(vec![sandbox()], vec![container(State::Running, 0)]);
        let stops = plan(Some(&deleted), &running, &ready(), NOW).actions;
        assert!(matches!(&stops[..], [PodAction::StopContainers { grace: 3, .. }]), "{stops:?}");
        let stopped = Observed::new(vec![sandbox()], vec![container(State::Exited, 0)]);
        let down = plan(Some(&deleted), &stopped, &ready(), NOW).actions;
        assert_eq!(down, [PodAction::StopSandbox { id: "s".into() }, PodAction::CleanUp]);
        let over = Observed::new(vec![SandboxView { ready: false, ..sandbox() }], vec![]);
        let cleaned = Memory { cleaned: true, ..ready() };
        assert_eq!(plan(Some(&deleted), &over, &cleaned, NOW).actions, [PodAction::DeleteObject]);
        let gone = plan(None, &over, &cleaned, NOW).actions;
        assert_eq!(gone, [PodAction::RemoveSandbox { id: "s".into() }, PodAction::RemoveFiles]);
        let removed = Memory { removed: true, ..cleaned };
        assert!(plan(None, &Observed::default(), &removed, NOW).finished);
    }

    #[test]
    fn a_running_pod_is_looked_at_when_its_time_is_over() {
        let mut limited = pod(json!({}));
        let status = json!({"startTime": jiff::Timestamp::UNIX_EPOCH.to_string()});
        limited.status = Some(serde_json::from_value(status).expect("a status"));
        if let Some(spec) = limited.spec.as_mut() {
            spec.active_deadline_seconds = Some(NOW.millis() / 1000 + 7);
        }
        let seen = Observed::new(vec![sandbox()], vec![container(State::Running, 0)]);
        let plan = plan(Some(&limited), &seen, &ready(), NOW);
        assert_eq!((plan.actions, plan.recheck_after), (vec![], Some(Duration::from_secs(7))));
    }
}
