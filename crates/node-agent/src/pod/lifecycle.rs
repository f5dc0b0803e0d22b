//! Questions about a pod's life that planning and status share.

use std::time::Duration;

use env::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use super::observed::{ContainerView, Memory, Observed, RestartDelay, State};

/// First restart delay (upstream: CrashLoopBackOff starts at 10 s).
pub const RESTART_DELAY_INITIAL: Duration = Duration::from_secs(10);
/// Longest restart delay (upstream: 5 minutes).
pub const RESTART_DELAY_MAX: Duration = Duration::from_secs(300);

/// A container's part in its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Runs to its end before the next one starts.
    Init,
    /// An init container with `restartPolicy: Always`: starts in order, then stays.
    Sidecar,
    /// A main container.
    Main,
    /// Added to a running pod for a look inside (KEP-277): starts at once, never again, and the pod's state is not its.
    Ephemeral,
}

/// Init containers and sidecars in order, then main containers.
pub fn containers(spec: &PodSpec) -> impl Iterator<Item = (Kind, &Container)> {
    let init = spec.init_containers.iter().flatten().map(|container| (init_kind(container), container));
    init.chain(spec.containers.iter().map(|container| (Kind::Main, container)))
}

/// Ephemeral containers, with their spec in the form of any other's: they have the same fields.
pub fn ephemeral(spec: &PodSpec) -> Vec<Container> {
    let listed = spec.ephemeral_containers.iter().flatten();
    let same = |container| serde_json::to_value(container).and_then(serde_json::from_value);
    listed.filter_map(|container| same(container).ok()).collect()
}

/// Sidecar or plain init container.
pub fn init_kind(container: &Container) -> Kind {
    if container.restart_policy.as_deref() == Some("Always") { Kind::Sidecar } else { Kind::Init }
}

/// A container of the spec by name.
pub fn find<'a>(spec: &'a PodSpec, name: &str) -> Option<(Kind, &'a Container)> {
    containers(spec).find(|(_, container)| container.name == name)
}

/// The pod runs in the node's own network namespace.
pub fn is_host_network(spec: &PodSpec) -> bool {
    spec.host_network == Some(true)
}

/// The phase is Succeeded or Failed, which never changes again.
pub fn has_terminal_phase(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// When the pod's time on the node is over, if it is limited (`activeDeadlineSeconds`).
pub fn deadline(pod: &Pod) -> Option<Timestamp> {
    let seconds = pod.spec.as_ref()?.active_deadline_seconds?;
    let started = pod.status.as_ref()?.start_time.as_ref()?.0.as_millisecond();
    Some(Timestamp::from_millis(started.saturating_add(seconds.saturating_mul(1000))))
}

/// Whether a container that ended with `exit_code` starts again.
///
/// The pod's restart policy, the container's own, or the first of its rules whose exit codes match (KEP-5307).
pub fn should_restart(spec: &PodSpec, kind: Kind, container: &Container, exit_code: i32) -> bool {
    match kind {
        Kind::Sidecar => return true,
        Kind::Ephemeral => return false,
        Kind::Init | Kind::Main => {}
    }
    let mut rules = container.restart_policy_rules.iter().flatten();
    let matches = |rule: &&k8s_openapi::api::core::v1::ContainerRestartRule| {
        rule.exit_codes.as_ref().is_some_and(|codes| {
            let listed = codes.values.iter().flatten().any(|code| *code == exit_code);
            (codes.operator == "In") == listed
        })
    };
    if let Some(rule) = rules.find(matches) {
        return rule.action == "Restart";
    }
    let pod_policy = spec.restart_policy.as_deref().unwrap_or("Always");
    let policy = container.restart_policy.as_deref().unwrap_or(pod_policy);
    match policy {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        // A plain init container that succeeded is done, whatever the pod's policy.
        _ => !(kind == Kind::Init && exit_code == 0),
    }
}

/// The container ended for good.
pub fn is_done(spec: &PodSpec, kind: Kind, container: &Container, view: Option<&ContainerView>) -> bool {
    view.is_some_and(|view| {
        matches!(view.state, State::Exited | State::Unknown)
            && !should_restart(spec, kind, container, view.exit_code)
    })
}

/// An init container failed and may not be tried again: the pod fails.
pub fn init_failed(spec: &PodSpec, observed: &Observed) -> bool {
    let mut init = spec.init_containers.iter().flatten();
    init.any(|container| {
        let view = observed.latest(&container.name);
        is_done(spec, init_kind(container), container, view) && view.is_some_and(|view| view.exit_code != 0)
    })
}

/// Nothing of the pod will run again.
pub fn is_finished(spec: &PodSpec, observed: &Observed) -> bool {
    let all_done = spec
        .containers
        .iter()
        .all(|container| is_done(spec, Kind::Main, container, observed.latest(&container.name)));
    (all_done && !spec.containers.is_empty()) || init_failed(spec, observed)
}

/// Whether all init containers have done their part, so that main containers may start.
///
/// A main container that exists already proves it, even where the init containers were removed since.
pub fn is_initialized(spec: &PodSpec, observed: &Observed, memory: &Memory) -> bool {
    let Some(sandbox) = observed.sandbox() else { return spec.init_containers.iter().flatten().count() == 0 };
    let has_main = spec
        .containers
        .iter()
        .any(|container| observed.latest(&container.name).is_some_and(|view| view.sandbox == sandbox.id));
    if has_main {
        return true;
    }
    spec.init_containers.iter().flatten().all(|container| {
        let view = observed.latest(&container.name).filter(|view| view.sandbox == sandbox.id);
        match init_kind(container) {
            Kind::Sidecar => view.is_some_and(|view| view.is_live() && has_started(container, view, memory)),
            _ => view.is_some_and(|view| view.state == State::Exited && view.exit_code == 0),
        }
    })
}

/// The startup probe succeeded, or there is none.
pub fn has_started(container: &Container, view: &ContainerView, memory: &Memory) -> bool {
    container.startup_probe.is_none()
        || memory.probes.get(&view.id).and_then(|results| results.started) == Some(true)
}

/// Running, started, and its readiness probe (if any) says yes.
pub fn is_ready(container: &Container, view: &ContainerView, memory: &Memory) -> bool {
    let ready = || memory.probes.get(&view.id).and_then(|results| results.ready) == Some(true);
    view.is_live() && has_started(container, view, memory) && (container.readiness_probe.is_none() || ready())
}

/// When a container that ended may start again; `None` means at once.
///
/// The first restart is immediate and sets the delay; each later one waits the delay, counted from the end of the
/// last run, and doubles it. A container that ran twice the longest delay starts afresh.
pub fn restart_not_before(memory: &Memory, view: &ContainerView) -> Option<Timestamp> {
    let finished = millis(view.finished_at);
    let entry = memory.restarts.get(&view.name)?;
    if finished.since(entry.updated_at) > RESTART_DELAY_MAX * 2 {
        return None;
    }
    Some(finished + entry.delay)
}

/// Notes that `view` is being followed by a new attempt.
pub fn note_restart(memory: &mut Memory, view: &ContainerView, now: Timestamp) {
    let finished = millis(view.finished_at);
    let fresh = RestartDelay { delay: RESTART_DELAY_INITIAL, updated_at: now };
    let entry = memory.restarts.entry(view.name.clone());
    entry
        .and_modify(|entry| {
            let expired = finished.since(entry.updated_at) > RESTART_DELAY_MAX * 2;
            let next = if expired { RESTART_DELAY_INITIAL } else { (entry.delay * 2).min(RESTART_DELAY_MAX) };
            *entry = RestartDelay { delay: next, updated_at: now };
        })
        .or_insert(fresh);
}

/// The running container that an ephemeral one named `name` wants to see the processes of.
///
/// # Errors
/// It does not run.
pub fn target_process(spec: &PodSpec, observed: &Observed, name: &str) -> Result<Option<String>, String> {
    let mut listed = spec.ephemeral_containers.iter().flatten();
    let wanted = listed.find(|one| one.name == name).and_then(|one| one.target_container_name.as_deref());
    let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) else { return Ok(None) };
    let view = observed.latest(wanted).filter(|view| view.is_live());
    let missing = || format!("unable to find target container \"{wanted}\"");
    view.map(|view| Some(view.id.clone())).ok_or_else(missing)
}

/// Nanoseconds, as CRI has them, as a time stamp.
pub fn millis(nanos: i64) -> Timestamp {
    Timestamp::from_millis(nanos / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_running_container_is_a_target() {
        let spec = serde_json::json!({"containers": [], "ephemeralContainers": [
            {"name": "a", "targetContainerName": "c"}, {"name": "b"},
        ]});
        let spec: PodSpec = serde_json::from_value(spec).expect("a spec");
        let metadata = protos::cri::ContainerMetadata { name: "c".into(), attempt: 0 };
        let status =
            protos::cri::ContainerStatus { id: "c0".into(), metadata: Some(metadata), ..Default::default() };
        let mut view = ContainerView::from_cri("s", status);
        let mut target = |state, name| {
            view.state = state;
            target_process(&spec, &Observed::new(Vec::new(), vec![view.clone()]), name)
        };
        assert_eq!(target(State::Running, "a"), Ok(Some("c0".to_owned())));
        assert_eq!(target(State::Running, "b"), Ok(None));
        let missing = "unable to find target container \"c\"".to_owned();
        assert_eq!(target(State::Exited, "a"), Err(missing));
    }
}
