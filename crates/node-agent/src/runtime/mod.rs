//! The container runtime as the agent sees it: one trait, two drivers.
//!
//! The vocabulary is CRI v1's own messages (`protos::cri`): they are plain data, every runtime speaks them, and a
//! second vocabulary would only be copied back and forth. [`CriRuntime`] talks to a socket; [`SimulatedRuntime`]
//! keeps everything in memory and starts nothing.

mod simulated;
mod socket;

use std::time::Duration;

use futures::future::BoxFuture;
use protos::cri;

pub use simulated::SimulatedRuntime;
pub use socket::CriRuntime;

/// Label of every sandbox and container: the pod's uid.
pub const LABEL_POD_UID: &str = "io.kubernetes.pod.uid";
/// Label of every sandbox and container: the pod's name.
pub const LABEL_POD_NAME: &str = "io.kubernetes.pod.name";
/// Label of every sandbox and container: the pod's namespace.
pub const LABEL_POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Label of every container: its name in the pod spec.
pub const LABEL_CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// Annotation of a container: hash of the parts of its spec that need a restart when they change.
pub const ANNOTATION_HASH: &str = "io.kubernetes.container.hash";
/// Annotation of a container and a sandbox: the pod's grace period in seconds, for pods whose object is gone.
pub const ANNOTATION_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
/// Annotation of a container: where on this node its termination message is.
pub const ANNOTATION_MESSAGE_FILE: &str = "trierarch.dev/termination-message-file";
/// Annotation of a container: `File` or `FallbackToLogsOnError`.
pub const ANNOTATION_MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";

/// Annotation of a container: its `preStop` handler as JSON, for pods whose object is gone.
pub const ANNOTATION_PRE_STOP: &str = "io.kubernetes.container.preStopHandler";
/// Annotation of a container: its ports as JSON, which a `preStop` handler may name.
pub const ANNOTATION_PORTS: &str = "io.kubernetes.container.ports";

/// Annotation of a container: the resources that it was started with, its own and the pod's, as JSON.
pub const ANNOTATION_RESOURCES: &str = "trierarch.dev/resources";

/// Why a call to the runtime failed.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum RuntimeError {
    /// No such sandbox, container or image.
    #[error("{0}")]
    NotFound(String),
    /// The runtime does not have this call.
    #[error("the container runtime does not implement {0}")]
    Unimplemented(String),
    /// The runtime cannot be reached.
    #[error("the container runtime is unreachable: {0}")]
    Unreachable(String),
    /// The call took longer than it may.
    #[error("{0} exceeded its deadline")]
    Deadline(String),
    /// The runtime refused; most of its errors carry only a text.
    #[error("{0}")]
    Failed(String),
}

/// What a runtime call returns.
pub type Call<'a, T> = BoxFuture<'a, Result<T, RuntimeError>>;

/// A container runtime. Every call has its own deadline; none blocks for ever.
pub trait Runtime: Send + Sync + 'static {
    /// Whether nothing real runs behind this runtime, so that no volumes, probes or control groups are needed.
    fn is_simulated(&self) -> bool;
    /// Name and version of the runtime.
    fn version(&self) -> Call<'_, cri::VersionResponse>;
    /// Conditions of the runtime (`RuntimeReady`, `NetworkReady`).
    fn status(&self) -> Call<'_, Vec<cri::RuntimeCondition>>;
    /// Sandboxes, all or those of one pod.
    fn list_sandboxes(&self, pod_uid: Option<String>) -> Call<'_, Vec<cri::PodSandbox>>;
    /// One sandbox with its addresses.
    fn sandbox_status(&self, id: String) -> Call<'_, cri::PodSandboxStatus>;
    /// Creates and starts a sandbox under a handler of the runtime's configuration (empty: its default); returns its id.
    fn run_sandbox(&self, config: cri::PodSandboxConfig, handler: String) -> Call<'_, String>;
    /// Stops a sandbox and takes its network down. Repeating it is no error.
    fn stop_sandbox(&self, id: String) -> Call<'_, ()>;
    /// Removes a stopped sandbox and its containers. Repeating it is no error.
    fn remove_sandbox(&self, id: String) -> Call<'_, ()>;
    /// Containers, all or those of one pod.
    fn list_containers(&self, pod_uid: Option<String>) -> Call<'_, Vec<cri::Container>>;
    /// One container with times and exit code.
    fn container_status(&self, id: String) -> Call<'_, cri::ContainerStatus>;
    /// Creates a container in a sandbox; returns its id.
    fn create_container(
        &self,
        sandbox: String,
        config: cri::ContainerConfig,
        sandbox_config: cri::PodSandboxConfig,
    ) -> Call<'_, String>;
    /// Starts a created container.
    fn start_container(&self, id: String) -> Call<'_, ()>;
    /// Asks a container to stop and kills it after `grace`.
    fn stop_container(&self, id: String, grace: Duration) -> Call<'_, ()>;
    /// Removes a container. Repeating it is no error.
    fn remove_container(&self, id: String) -> Call<'_, ()>;
    /// Runs a command in a container to its end.
    fn exec_sync(
        &self,
        id: String,
        command: Vec<String>,
        timeout: Duration,
    ) -> Call<'_, cri::ExecSyncResponse>;
    /// Address of a streaming session for a command.
    fn exec(&self, request: cri::ExecRequest) -> Call<'_, String>;
    /// Address of a streaming session with a container's first process.
    fn attach(&self, request: cri::AttachRequest) -> Call<'_, String>;
    /// Address of a streaming session with ports of a sandbox.
    fn port_forward(&self, request: cri::PortForwardRequest) -> Call<'_, String>;
    /// Tells the runtime that a log file was renamed.
    fn reopen_log(&self, id: String) -> Call<'_, ()>;
    /// The image, if the runtime has it.
    fn image_status(&self, image: String) -> Call<'_, Option<cri::Image>>;
    /// Fetches an image from its registry; returns its reference.
    fn pull_image(
        &self,
        image: String,
        auth: Option<cri::AuthConfig>,
        sandbox_config: cri::PodSandboxConfig,
    ) -> Call<'_, String>;
    /// All images.
    fn list_images(&self) -> Call<'_, Vec<cri::Image>>;
}
