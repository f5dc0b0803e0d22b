//! What is seen of one pod on this node: sandboxes and containers, and what the agent itself remembers.

use std::collections::BTreeMap;
use std::time::Duration;

use env::Timestamp;
use k8s_openapi::api::core::v1::{ContainerPort, LifecycleHandler, ResourceRequirements};
use protos::cri;
use serde::{Deserialize, Serialize};

use crate::runtime::{
    ANNOTATION_GRACE, ANNOTATION_HASH, ANNOTATION_MESSAGE_FILE, ANNOTATION_MESSAGE_POLICY, ANNOTATION_PORTS,
    ANNOTATION_PRE_STOP, ANNOTATION_RESOURCES, LABEL_CONTAINER_NAME,
};

/// What the runtime says of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Created, not started (or the agent died between the two).
    Created,
    /// Its process runs.
    Running,
    /// It ended.
    Exited,
    /// The runtime does not know; treated as ended.
    Unknown,
}

/// One container of the pod, of any attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerView {
    /// The runtime's id.
    pub id: String,
    /// Its name in the spec.
    pub name: String,
    /// How many came before it.
    pub attempt: u32,
    /// The sandbox it lives in.
    pub sandbox: String,
    /// Created, running, exited.
    pub state: State,
    /// Nanoseconds since the Unix epoch.
    pub created_at: i64,
    /// Nanoseconds since the Unix epoch, 0 if never.
    pub started_at: i64,
    /// Nanoseconds since the Unix epoch, 0 if not yet.
    pub finished_at: i64,
    /// Only meaningful once exited.
    pub exit_code: i32,
    /// The runtime's reason: `Completed`, `Error`, `OOMKilled`, `StartError`.
    pub reason: String,
    /// The runtime's or the container's own termination message.
    pub message: String,
    /// The image's name as asked for.
    pub image: String,
    /// The image's id.
    pub image_id: String,
    /// Hash of the spec that it was made from.
    pub hash: String,
    /// Grace period in seconds, for a pod whose object is gone.
    pub grace: Option<i64>,
    /// File with the termination message, if the container has one.
    pub message_file: Option<String>,
    /// Whether the message may come from the log.
    pub message_from_logs: bool,
    /// What runs before it is stopped, for a pod whose object is gone.
    pub pre_stop: Option<LifecycleHandler>,
    /// Its ports, which `pre_stop` may name.
    pub ports: Vec<ContainerPort>,
    /// The resources that it was started with; absent if an older agent started it.
    pub started_with: Option<Started>,
}

/// The resources that a container was started with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Started {
    /// Its own.
    pub container: Option<ResourceRequirements>,
    /// Those of the pod as a whole.
    pub pod: Option<ResourceRequirements>,
}

impl ContainerView {
    /// From the runtime's status of the container in `sandbox`.
    pub fn from_cri(sandbox: &str, status: cri::ContainerStatus) -> Self {
        let state = match cri::ContainerState::try_from(status.state) {
            Ok(cri::ContainerState::ContainerCreated) => State::Created,
            Ok(cri::ContainerState::ContainerRunning) => State::Running,
            Ok(cri::ContainerState::ContainerExited) => State::Exited,
            _ => State::Unknown,
        };
        let metadata = status.metadata.unwrap_or_default();
        let annotation = |key: &str| status.annotations.get(key).cloned();
        Self {
            id: status.id,
            name: status.labels.get(LABEL_CONTAINER_NAME).cloned().unwrap_or(metadata.name),
            attempt: metadata.attempt,
            sandbox: sandbox.to_owned(),
            state,
            created_at: status.created_at,
            started_at: status.started_at,
            finished_at: status.finished_at,
            exit_code: status.exit_code,
            reason: status.reason,
            message: status.message,
            image: status.image.map(|image| image.image).unwrap_or_default(),
            image_id: if status.image_id.is_empty() { status.image_ref } else { status.image_id },
            hash: annotation(ANNOTATION_HASH).unwrap_or_default(),
            grace: annotation(ANNOTATION_GRACE).and_then(|grace| grace.parse().ok()),
            message_file: annotation(ANNOTATION_MESSAGE_FILE),
            message_from_logs: annotation(ANNOTATION_MESSAGE_POLICY).as_deref()
                == Some("FallbackToLogsOnError"),
            started_with: annotation(ANNOTATION_RESOURCES).and_then(|text| serde_json::from_str(&text).ok()),
            pre_stop: annotation(ANNOTATION_PRE_STOP).and_then(|text| serde_json::from_str(&text).ok()),
            ports: annotation(ANNOTATION_PORTS)
                .and_then(|text| serde_json::from_str(&text).ok())
                .unwrap_or_default(),
        }
    }

    /// Whether its process may still run.
    pub fn is_live(&self) -> bool {
        self.state == State::Running
    }
}

/// One sandbox of the pod, of any attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct SandboxView {
    /// The runtime's id.
    pub id: String,
    /// How many came before it.
    pub attempt: u32,
    /// Its network is up and its pause process runs.
    pub ready: bool,
    /// Nanoseconds since the Unix epoch.
    pub created_at: i64,
    /// Pod addresses; empty on the host's network.
    pub ips: Vec<String>,
}

impl SandboxView {
    /// From the runtime's status.
    pub fn from_cri(status: cri::PodSandboxStatus) -> Self {
        let network = status.network.unwrap_or_default();
        let more = network.additional_ips.into_iter().map(|ip| ip.ip);
        Self {
            id: status.id,
            attempt: status.metadata.unwrap_or_default().attempt,
            ready: status.state == cri::PodSandboxState::SandboxReady as i32,
            created_at: status.created_at,
            ips: std::iter::once(network.ip).chain(more).filter(|ip| !ip.is_empty()).collect(),
        }
    }
}

/// Everything the runtime has of one pod, newest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Newest first.
    pub sandboxes: Vec<SandboxView>,
    /// Newest first.
    pub containers: Vec<ContainerView>,
}

impl Observed {
    /// Sorts newest first, which every question below relies on.
    pub fn new(mut sandboxes: Vec<SandboxView>, mut containers: Vec<ContainerView>) -> Self {
        sandboxes.sort_by_key(|sandbox| std::cmp::Reverse((sandbox.attempt, sandbox.created_at)));
        containers.sort_by_key(|container| std::cmp::Reverse((container.attempt, container.created_at)));
        Self { sandboxes, containers }
    }

    /// The newest sandbox.
    pub fn sandbox(&self) -> Option<&SandboxView> {
        self.sandboxes.first()
    }

    /// The newest sandbox if it is ready.
    pub fn ready_sandbox(&self) -> Option<&SandboxView> {
        self.sandbox().filter(|sandbox| sandbox.ready)
    }

    /// The containers of this name, newest first.
    pub fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a ContainerView> {
        self.containers.iter().filter(move |container| container.name == name)
    }

    /// The newest container of this name.
    pub fn latest(&self, name: &str) -> Option<&ContainerView> {
        self.containers.iter().find(|container| container.name == name)
    }

    /// Containers whose process may still run.
    pub fn live(&self) -> impl Iterator<Item = &ContainerView> {
        self.containers.iter().filter(|container| container.is_live())
    }
}

/// Why a container does not start, as its status says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// `ErrImagePull`, `CreateContainerConfigError`, ...
    pub reason: String,
    /// The error.
    pub message: String,
    /// No new try before.
    pub retry_at: Timestamp,
    /// The delay that led to `retry_at`; the next is twice as long.
    pub delay: Duration,
}

/// Restart back-off of one container: 10 s, doubling to 300 s, forgotten after 10 quiet minutes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartDelay {
    /// How long after the last end the container may start again.
    pub delay: Duration,
    /// When the delay was last lengthened.
    pub updated_at: Timestamp,
}

/// What the probes of one container found; absent means that there was no result yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbeResults {
    /// The startup probe succeeded.
    pub started: Option<bool>,
    /// The readiness probe's last verdict.
    pub ready: Option<bool>,
    /// The liveness (or startup) probe failed: the container has to go, for this reason.
    pub failed: Option<String>,
}

/// What only the agent knows; it starts empty after a restart of the agent.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// By container name.
    pub restarts: BTreeMap<String, RestartDelay>,
    /// By container name.
    pub waiting: BTreeMap<String, Waiting>,
    /// By container id.
    pub probes: BTreeMap<String, ProbeResults>,
    /// The pod was refused or evicted: reason and message of the Failed phase.
    pub failed: Option<(String, String)>,
    /// Directories, control groups and volumes are there.
    pub prepared: bool,
    /// No new try of preparing, or of the sandbox, before.
    pub prepare_retry: Option<(Timestamp, Duration)>,
    /// Volumes and control groups are gone again.
    pub cleaned: bool,
    /// So are all files of a pod that is gone.
    pub removed: bool,
    /// The shortest grace period that was asked for.
    pub grace: Option<i64>,
}
