//! The status of a pod, from what is observed: phase, conditions, container statuses, addresses. Pure.

use std::net::IpAddr;

use env::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodSpec, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::config;
use super::lifecycle::{self, Kind};
use super::observed::{ContainerView, Memory, Observed, State};
use super::resources::qos_class;

/// What the status says of the node.
#[derive(Clone, Debug, Default)]
pub struct HostFacts {
    /// InternalIPs of the node, primary first.
    pub ips: Vec<IpAddr>,
    /// How the runtime's ids are prefixed in statuses: `containerd` in `containerd://<id>`.
    pub runtime: String,
}

/// A point in time as the API has it (whole seconds).
pub fn api_time(at: Timestamp) -> Time {
    Time(jiff::Timestamp::from_second(at.millis().div_euclid(1000)).unwrap_or(jiff::Timestamp::UNIX_EPOCH))
}

/// Everything that a status is made from.
pub struct StatusInput<'a> {
    /// The pod, with the status that the API has.
    pub pod: &'a Pod,
    /// What the runtime has of it.
    pub observed: &'a Observed,
    /// What the agent remembers.
    pub memory: &'a Memory,
    /// The node.
    pub host: &'a HostFacts,
    /// Now.
    pub now: Timestamp,
}

/// The status that the API should show.
pub fn pod_status(input: &StatusInput<'_>) -> PodStatus {
    let Some(spec) = input.pod.spec.as_ref() else { return PodStatus::default() };
    let old = input.pod.status.clone().unwrap_or_default();
    if let Some((reason, message)) = &input.memory.failed
        && input.observed.containers.is_empty()
        && old.container_statuses.is_none()
    {
        return refused(input, spec, old, reason, message);
    }
    let main =
        statuses(input, spec, spec.containers.iter().map(|c| (Kind::Main, c)), &old.container_statuses);
    let init_spec = spec.init_containers.iter().flatten().map(|c| (lifecycle::init_kind(c), c));
    let init = statuses(input, spec, init_spec, &old.init_container_statuses);
    let ephemeral = ephemeral_statuses(input, spec, &old);
    let phase = phase(input, spec, &old, &init, &main);
    let conditions = conditions(input, spec, &old, &phase, &init, &main);
    let pod_ips = pod_ips(input, spec, &old);
    let failed = input.memory.failed.clone();
    PodStatus {
        conditions: Some(conditions),
        container_statuses: Some(main),
        ephemeral_container_statuses: (!ephemeral.is_empty()).then_some(ephemeral),
        host_ip: input.host.ips.first().map(ToString::to_string),
        host_ips: host_ips(input.host),
        init_container_statuses: (!init.is_empty()).then_some(init),
        message: failed.as_ref().map(|(_, message)| message.clone()).or_else(|| old.message.clone()),
        observed_generation: input.pod.metadata.generation,
        phase: Some(phase),
        pod_ip: pod_ips.first().cloned(),
        pod_ips: (!pod_ips.is_empty()).then(|| pod_ips.into_iter().map(|ip| PodIP { ip }).collect()),
        qos_class: Some(old.qos_class.clone().unwrap_or_else(|| qos_class(spec).to_string())),
        reason: failed.map(|(reason, _)| reason).or_else(|| old.reason.clone()),
        start_time: Some(old.start_time.clone().unwrap_or_else(|| api_time(input.now))),
        ..old
    }
}

/// A pod that this node did not take: Failed, with nothing about containers.
fn refused(
    input: &StatusInput<'_>,
    spec: &PodSpec,
    old: PodStatus,
    reason: &str,
    message: &str,
) -> PodStatus {
    PodStatus {
        phase: Some("Failed".to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        start_time: Some(old.start_time.clone().unwrap_or_else(|| api_time(input.now))),
        qos_class: Some(old.qos_class.clone().unwrap_or_else(|| qos_class(spec).to_string())),
        observed_generation: input.pod.metadata.generation,
        ..old
    }
}

fn host_ips(host: &HostFacts) -> Option<Vec<HostIP>> {
    let ips: Vec<HostIP> = host.ips.iter().map(|ip| HostIP { ip: ip.to_string() }).collect();
    (!ips.is_empty()).then_some(ips)
}

/// Addresses of the newest sandbox; once it is gone, those that the API knows.
fn pod_ips(input: &StatusInput<'_>, spec: &PodSpec, old: &PodStatus) -> Vec<String> {
    if lifecycle::is_host_network(spec) {
        return input.host.ips.iter().map(ToString::to_string).collect();
    }
    let seen = input.observed.ready_sandbox().map(|sandbox| sandbox.ips.clone()).unwrap_or_default();
    if !seen.is_empty() {
        return seen;
    }
    let listed: Vec<String> = old.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect();
    if listed.is_empty() { old.pod_ip.iter().cloned().collect() } else { listed }
}

fn statuses<'a>(
    input: &StatusInput<'_>,
    spec: &PodSpec,
    containers: impl Iterator<Item = (Kind, &'a Container)>,
    old: &Option<Vec<ContainerStatus>>,
) -> Vec<ContainerStatus> {
    containers
        .map(|(kind, container)| {
            let before = old.iter().flatten().find(|status| status.name == container.name);
            container_status(input, spec, kind, container, before)
        })
        .collect()
}

/// Nobody asks whether an ephemeral container is ready or has started.
fn ephemeral_statuses(input: &StatusInput<'_>, spec: &PodSpec, old: &PodStatus) -> Vec<ContainerStatus> {
    let containers = lifecycle::ephemeral(spec);
    let all = containers.iter().map(|container| (Kind::Ephemeral, container));
    let mut made = statuses(input, spec, all, &old.ephemeral_container_statuses);
    for status in &mut made {
        status.ready = false;
        status.started = None;
    }
    made
}

fn container_status(
    input: &StatusInput<'_>,
    spec: &PodSpec,
    kind: Kind,
    container: &Container,
    old: Option<&ContainerStatus>,
) -> ContainerStatus {
    let mut views = input.observed.of(&container.name);
    let Some(view) = views.next() else { return never_seen(input, spec, container, old) };
    let terminated = |view: &ContainerView| ContainerState {
        terminated: Some(terminated_state(view, &input.host.runtime)),
        ..Default::default()
    };
    let previous = views.next().map(terminated);
    let known = old.and_then(|old| old.last_state.clone());
    let (state, last_state) = match view.state {
        State::Running => {
            let running =
                ContainerStateRunning { started_at: Some(api_time(lifecycle::millis(view.started_at))) };
            (ContainerState { running: Some(running), ..Default::default() }, previous.or(known))
        }
        State::Created => (waiting("ContainerCreating", None), previous.or(known)),
        State::Exited | State::Unknown => match why_waiting(input, spec, kind, container, view) {
            Some((reason, message)) => (waiting(&reason, message), Some(terminated(view))),
            None => (terminated(view), previous.or(known)),
        },
    };
    let live = view.is_live();
    ContainerStatus {
        container_id: Some(format!("{}://{}", input.host.runtime, view.id)),
        image: if view.image.is_empty() {
            container.image.clone().unwrap_or_default()
        } else {
            view.image.clone()
        },
        image_id: view.image_id.clone(),
        last_state: Some(last_state.unwrap_or_default()),
        name: container.name.clone(),
        ready: is_ready(input, kind, container, view),
        resources: view.started_with.as_ref().and_then(|started| started.container.clone()),
        restart_count: i32::try_from(view.attempt).unwrap_or(i32::MAX),
        started: Some(live && lifecycle::has_started(container, view, input.memory)),
        state: Some(state),
        ..Default::default()
    }
}

fn is_ready(input: &StatusInput<'_>, kind: Kind, container: &Container, view: &ContainerView) -> bool {
    match kind {
        Kind::Init => view.state == State::Exited && view.exit_code == 0,
        _ => lifecycle::is_ready(container, view, input.memory),
    }
}

/// The runtime has no container of this name: not yet, or no longer.
fn never_seen(
    input: &StatusInput<'_>,
    spec: &PodSpec,
    container: &Container,
    old: Option<&ContainerStatus>,
) -> ContainerStatus {
    let ended = |status: &&ContainerStatus| {
        status.state.as_ref().is_some_and(|state| state.terminated.is_some())
            || status.state.as_ref().is_some_and(|state| state.running.is_some())
    };
    if let Some(old) = old.filter(ended) {
        let mut kept = old.clone();
        kept.ready = kept.ready && kept.state.as_ref().is_some_and(|state| state.terminated.is_some());
        kept.started = Some(false);
        if let Some(running) = kept.state.as_ref().and_then(|state| state.running.clone()) {
            kept.state = Some(lost(running, kept.container_id.clone()));
        }
        return kept;
    }
    let default = if spec.init_containers.iter().flatten().count() > 0 {
        "PodInitializing"
    } else {
        "ContainerCreating"
    };
    let (reason, message) = match input.memory.waiting.get(&container.name) {
        Some(waiting) => (waiting.reason.as_str(), Some(waiting.message.clone())),
        None => (default, None),
    };
    ContainerStatus {
        image: container.image.clone().unwrap_or_default(),
        last_state: Some(ContainerState::default()),
        name: container.name.clone(),
        started: Some(false),
        state: Some(waiting(reason, message)),
        ..Default::default()
    }
}

/// It ran when last heard of and the runtime has no trace of it (upstream: ContainerStatusUnknown, 137).
fn lost(running: ContainerStateRunning, container_id: Option<String>) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: 137,
            reason: Some("ContainerStatusUnknown".to_owned()),
            message: Some("The container could not be located when the pod was terminated".to_owned()),
            started_at: running.started_at,
            container_id,
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Reason and message while an ended container waits for its next attempt; `None` if it stays ended or starts now.
fn why_waiting(
    input: &StatusInput<'_>,
    spec: &PodSpec,
    kind: Kind,
    container: &Container,
    view: &ContainerView,
) -> Option<(String, Option<String>)> {
    let over = input.pod.metadata.deletion_timestamp.is_some() || input.memory.failed.is_some();
    if over || !lifecycle::should_restart(spec, kind, container, view.exit_code) {
        return None;
    }
    let held = lifecycle::restart_not_before(input.memory, view).is_some_and(|at| input.now < at);
    let delay = input.memory.restarts.get(&container.name).map(|restart| restart.delay);
    if let Some(delay) = delay.filter(|_| held) {
        let text = back_off_message(input.pod, &container.name, delay);
        return Some(("CrashLoopBackOff".to_owned(), Some(text)));
    }
    let waiting = input.memory.waiting.get(&container.name)?;
    Some((waiting.reason.clone(), Some(waiting.message.clone())))
}

/// `back-off 10s restarting failed container=c pod=p_ns(uid)`.
pub fn back_off_message(pod: &Pod, container: &str, delay: std::time::Duration) -> String {
    let seconds = delay.as_secs();
    let text =
        if seconds < 60 { format!("{seconds}s") } else { format!("{}m{}s", seconds / 60, seconds % 60) };
    format!(
        "back-off {text} restarting failed container={container} pod={}_{}({})",
        pod.metadata.name.as_deref().unwrap_or_default(),
        pod.metadata.namespace.as_deref().unwrap_or_default(),
        pod.metadata.uid.as_deref().unwrap_or_default(),
    )
}

fn waiting(reason: &str, message: Option<String>) -> ContainerState {
    let waiting = ContainerStateWaiting { reason: Some(reason.to_owned()), message };
    ContainerState { waiting: Some(waiting), ..Default::default() }
}

fn terminated_state(view: &ContainerView, runtime: &str) -> ContainerStateTerminated {
    let started = if view.started_at == 0 { view.created_at } else { view.started_at };
    let reason = match view.reason.as_str() {
        "" if view.exit_code == 0 => "Completed",
        "" => "Error",
        reason => reason,
    };
    ContainerStateTerminated {
        container_id: Some(format!("{runtime}://{}", view.id)),
        exit_code: view.exit_code,
        finished_at: Some(api_time(lifecycle::millis(view.finished_at))),
        message: (!view.message.is_empty()).then(|| view.message.clone()),
        reason: Some(reason.to_owned()),
        signal: None,
        started_at: Some(api_time(lifecycle::millis(started))),
    }
}

/// How many containers wait for their first run, run, and have ended (well or badly).
#[derive(Default)]
struct Tally {
    waiting: usize,
    running: usize,
    stopped: usize,
    succeeded: usize,
}

fn tally(statuses: &[ContainerStatus]) -> Tally {
    let mut tally = Tally::default();
    for status in statuses {
        let state = status.state.clone().unwrap_or_default();
        let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
        match (state.running, state.terminated, last) {
            (Some(_), _, _) => tally.running += 1,
            (None, Some(ended), _) => {
                tally.stopped += 1;
                tally.succeeded += usize::from(ended.exit_code == 0);
            }
            (None, None, Some(_)) => tally.stopped += 1,
            (None, None, None) => tally.waiting += 1,
        }
    }
    tally
}

fn phase(
    input: &StatusInput<'_>,
    spec: &PodSpec,
    old: &PodStatus,
    init: &[ContainerStatus],
    main: &[ContainerStatus],
) -> String {
    if let Some(phase @ ("Succeeded" | "Failed")) = old.phase.as_deref() {
        return phase.to_owned();
    }
    if input.memory.failed.is_some() {
        let stopping = input.observed.live().next().is_some();
        return if stopping { old.phase.clone().unwrap_or_default() } else { "Failed".to_owned() };
    }
    let tally = tally(main);
    let ending = input.pod.metadata.deletion_timestamp.is_some();
    if ending && input.observed.live().next().is_none() {
        let all_well = tally.stopped == main.len() && tally.succeeded == main.len();
        let never_ran = tally.stopped == 0 && init.iter().all(|status| status.container_id.is_none());
        return match (never_ran, all_well) {
            (true, _) => "Pending",
            (_, true) => "Succeeded",
            _ => "Failed",
        }
        .to_owned();
    }
    if lifecycle::init_failed(spec, input.observed) {
        return "Failed".to_owned();
    }
    let initialized = lifecycle::is_initialized(spec, input.observed, input.memory);
    let policy = spec.restart_policy.as_deref().unwrap_or("Always");
    let finished = lifecycle::is_finished(spec, input.observed);
    match () {
        () if !initialized && !finished => "Pending",
        () if tally.waiting > 0 => "Pending",
        () if tally.running > 0 => "Running",
        () if finished && tally.stopped == tally.succeeded => "Succeeded",
        () if finished && policy != "Always" => "Failed",
        () if tally.stopped > 0 => "Running",
        () => "Pending",
    }
    .to_owned()
}

fn names(statuses: &[ContainerStatus], bad: impl Fn(&ContainerStatus) -> bool) -> String {
    let names: Vec<&str> = statuses.iter().filter(|s| bad(s)).map(|s| s.name.as_str()).collect();
    names.join(" ")
}

fn conditions(
    input: &StatusInput<'_>,
    spec: &PodSpec,
    old: &PodStatus,
    phase: &str,
    init: &[ContainerStatus],
    main: &[ContainerStatus],
) -> Vec<PodCondition> {
    let host_network = lifecycle::is_host_network(spec);
    let sandbox = input.observed.ready_sandbox().is_some_and(|s| host_network || !s.ips.is_empty());
    let initialized = initialized_condition(input, spec, phase, init);
    let containers = ready_condition(spec, phase, main, init);
    let ready = match unready_gates(spec, old) {
        gates if containers.0 && !gates.is_empty() => {
            (false, Some(("ReadinessGatesNotReady".to_owned(), gates.join(", "))))
        }
        _ => containers.clone(),
    };
    let all = [
        ("PodReadyToStartContainers", (sandbox, None)),
        ("Initialized", initialized),
        ("Ready", ready),
        ("ContainersReady", containers),
        ("PodScheduled", (true, None)),
    ];
    let mut merged: Vec<PodCondition> =
        all.into_iter().map(|(name, verdict)| condition(input, old, name, verdict)).collect();
    if let Some(text) = resize_pending(input, spec) {
        let verdict = (true, Some(("Infeasible".to_owned(), text)));
        merged.push(condition(input, old, RESIZE_PENDING, verdict));
    }
    let foreign = old.conditions.iter().flatten().filter(|c| c.type_ != RESIZE_PENDING);
    let foreign: Vec<PodCondition> =
        foreign.filter(|c| !merged.iter().any(|own| own.type_ == c.type_)).cloned().collect();
    merged.extend(foreign);
    merged
}

/// Somebody wants a running container to have other resources (KEP-1287).
const RESIZE_PENDING: &str = "PodResizePending";

/// What to say of a running container whose resources are no longer those of its spec.
fn resize_pending(input: &StatusInput<'_>, spec: &PodSpec) -> Option<String> {
    let of_pod = config::pod_resources(input.pod);
    let mut differ = lifecycle::containers(spec).filter(|(_, container)| {
        let view = input.observed.latest(&container.name).filter(|view| view.is_live());
        let started = view.and_then(|view| view.started_with.as_ref());
        started.is_some_and(|started| started.container != container.resources || started.pod != of_pod)
    });
    let (_, container) = differ.next()?;
    Some(format!(
        "In-place resize is not implemented by this node: container {} has the resources that it was started with until it starts again",
        container.name
    ))
}

type Verdict = (bool, Option<(String, String)>);

fn initialized_condition(
    input: &StatusInput<'_>,
    spec: &PodSpec,
    phase: &str,
    init: &[ContainerStatus],
) -> Verdict {
    if phase == "Succeeded" {
        return (true, Some(("PodCompleted".to_owned(), String::new())));
    }
    if lifecycle::is_initialized(spec, input.observed, input.memory) {
        return (true, None);
    }
    let message = format!("containers with incomplete status: [{}]", names(init, |status| !status.ready));
    (false, Some(("ContainersNotInitialized".to_owned(), message)))
}

/// Sidecars count as main containers do (KEP-753).
fn ready_condition(
    spec: &PodSpec,
    phase: &str,
    main: &[ContainerStatus],
    init: &[ContainerStatus],
) -> Verdict {
    match phase {
        "Succeeded" => return (false, Some(("PodCompleted".to_owned(), String::new()))),
        "Failed" => return (false, Some(("PodFailed".to_owned(), String::new()))),
        _ => {}
    }
    let is_sidecar = |status: &&ContainerStatus| {
        lifecycle::find(spec, &status.name).is_some_and(|(kind, _)| kind == Kind::Sidecar)
    };
    let counted: Vec<ContainerStatus> = init.iter().filter(is_sidecar).chain(main).cloned().collect();
    let unready = names(&counted, |status| !status.ready);
    if unready.is_empty() {
        return (true, None);
    }
    (false, Some(("ContainersNotReady".to_owned(), format!("containers with unready status: [{unready}]"))))
}

/// Readiness gates (KEP-580) whose condition is not True.
fn unready_gates(spec: &PodSpec, old: &PodStatus) -> Vec<String> {
    let status_of = |name: &str| {
        let mut conditions = old.conditions.iter().flatten();
        conditions.find(|c| c.type_ == name).map(|c| c.status.as_str())
    };
    let gates = spec.readiness_gates.iter().flatten().map(|gate| &gate.condition_type);
    gates
        .filter_map(|gate| match status_of(gate) {
            Some("True") => None,
            Some(status) => {
                Some(format!("the status of pod readiness gate \"{gate}\" is not \"True\", but {status}"))
            }
            None => Some(format!("corresponding condition of pod readiness gate \"{gate}\" does not exist.")),
        })
        .collect()
}

fn condition(input: &StatusInput<'_>, old: &PodStatus, name: &str, verdict: Verdict) -> PodCondition {
    let status = if verdict.0 { "True" } else { "False" };
    let before = old.conditions.iter().flatten().find(|c| c.type_ == name);
    let since = before.filter(|c| c.status == status).and_then(|c| c.last_transition_time.clone());
    let (reason, message) = verdict.1.unzip();
    PodCondition {
        last_probe_time: None,
        last_transition_time: Some(since.unwrap_or_else(|| api_time(input.now))),
        message: message.filter(|text| !text.is_empty()),
        observed_generation: input.pod.metadata.generation,
        reason,
        status: status.to_owned(),
        type_: name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::pod::observed::{RestartDelay, Waiting};

    const END: Timestamp = Timestamp::from_millis(1_000_000);

    /// Reason of the waiting state, so many seconds after a run whose hook failed.
    fn reason(seconds: u64, delay: Option<u64>) -> Option<String> {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        let status = protos::cri::ContainerStatus {
            metadata: Some(protos::cri::ContainerMetadata { name: "c".into(), attempt: 1 }),
            exit_code: 137,
            finished_at: END.millis() * 1_000_000,
            ..Default::default()
        };
        let view = ContainerView { state: State::Exited, ..ContainerView::from_cri("s", status) };
        let failed = Waiting {
            reason: "PostStartHookError".into(),
            message: "m".into(),
            retry_at: END,
            delay: Duration::ZERO,
        };
        let mut memory = Memory::default();
        memory.waiting.insert("c".into(), failed);
        let restart = |delay| RestartDelay { delay: Duration::from_secs(delay), updated_at: END };
        memory.restarts.extend(delay.map(|delay| ("c".to_owned(), restart(delay))));
        let observed = Observed::new(Vec::new(), vec![view]);
        let input = StatusInput {
            pod: &pod,
            observed: &observed,
            memory: &memory,
            host: &HostFacts::default(),
            now: END + Duration::from_secs(seconds),
        };
        let status = pod_status(&input).container_statuses.expect("statuses").remove(0);
        status.state?.waiting?.reason
    }

    #[test]
    fn a_sidecar_that_is_not_ready_keeps_the_pod_from_being_ready() {
        let status = |name: &str, ready| ContainerStatus { name: name.into(), ready, ..Default::default() };
        let spec = json!({"initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}], "containers": [{"name": "c"}]});
        let spec: PodSpec = serde_json::from_value(spec).expect("a spec");
        let verdict = |sidecar| {
            let init = [status("i", false), status("s", sidecar)];
            ready_condition(&spec, "Running", &[status("c", true)], &init)
        };
        let text = "containers with unready status: [s]".to_owned();
        assert_eq!(verdict(false), (false, Some(("ContainersNotReady".to_owned(), text))));
        assert_eq!(verdict(true), (true, None));
    }

    #[test]
    fn readiness_gates_say_what_they_miss() {
        let gates = json!({"containers": [], "readinessGates": [{"conditionType": "a"}, {"conditionType": "b"}, {"conditionType": "c"}]});
        let old = json!({"conditions": [{"type": "a", "status": "True"}, {"type": "b", "status": "False"}]});
        let spec = serde_json::from_value(gates).expect("a spec");
        let missing = unready_gates(&spec, &serde_json::from_value(old).expect("a status"));
        let expected = [
            "the status of pod readiness gate \"b\" is not \"True\", but False",
            "corresponding condition of pod readiness gate \"c\" does not exist.",
        ];
        assert_eq!(missing, expected);
    }

    #[test]
    fn a_back_off_shows_before_what_led_to_it() {
        assert_eq!(reason(0, None).as_deref(), Some("PostStartHookError"));
        assert_eq!(reason(9, Some(10)).as_deref(), Some("CrashLoopBackOff"));
        assert_eq!(reason(10, Some(10)).as_deref(), Some("PostStartHookError"));
    }
}
