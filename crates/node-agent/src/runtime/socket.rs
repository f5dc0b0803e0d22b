//! The CRI driver: gRPC over a unix socket.

use std::collections::HashMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::FutureExt;
use hyper_util::rt::TokioIo;
use protos::cri::{
    self, image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient,
};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status};

use super::{Call, LABEL_POD_UID, Runtime, RuntimeError};

/// Lists of a full node are larger than gRPC's default of 4 MiB.
const MESSAGE_LIMIT_BYTES: usize = 16 << 20;
/// Calls that only read.
const QUICK: Duration = Duration::from_secs(15);
/// Calls that start or remove something (upstream's runtimeRequestTimeout is 2 minutes).
const SLOW: Duration = Duration::from_secs(120);
/// A pull that makes no end.
const PULL: Duration = Duration::from_secs(600);
/// On top of a container's grace: a deadline within the grace would send the signal but never kill.
const STOP_MARGIN: Duration = Duration::from_secs(10);
/// On top of a command's timeout: a background child that holds the output makes the call hang past it.
const EXEC_MARGIN: Duration = Duration::from_secs(3);

/// A CRI runtime behind a unix socket. The connection is made on first use and again after it broke.
#[derive(Clone)]
pub struct CriRuntime {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

impl CriRuntime {
    /// A driver for the socket at `path` (`unix://` may stand before it).
    pub fn new(path: &str) -> Self {
        let path = PathBuf::from(path.strip_prefix("unix://").unwrap_or(path));
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { connect(&path).await }
        });
        let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector);
        Self {
            runtime: RuntimeServiceClient::new(channel.clone())
                .max_decoding_message_size(MESSAGE_LIMIT_BYTES)
                .max_encoding_message_size(MESSAGE_LIMIT_BYTES),
            images: ImageServiceClient::new(channel)
                .max_decoding_message_size(MESSAGE_LIMIT_BYTES)
                .max_encoding_message_size(MESSAGE_LIMIT_BYTES),
        }
    }
}

async fn connect(path: &Path) -> std::io::Result<TokioIo<tokio::net::UnixStream>> {
    tokio::net::UnixStream::connect(path).await.map(TokioIo::new)
}

fn failure(call: &str, status: Status) -> RuntimeError {
    let text = status.message().to_owned();
    match status.code() {
        Code::NotFound => RuntimeError::NotFound(text),
        Code::Unimplemented => RuntimeError::Unimplemented(call.to_owned()),
        Code::Unavailable => RuntimeError::Unreachable(text),
        Code::DeadlineExceeded | Code::Cancelled => RuntimeError::Deadline(call.to_owned()),
        _ => RuntimeError::Failed(text),
    }
}

/// Runs a call under a deadline that both sides know.
async fn within<Q, A, F>(
    name: &'static str,
    deadline: Duration,
    message: Q,
    call: impl FnOnce(Request<Q>) -> F + Send,
) -> Result<A, RuntimeError>
where
    F: Future<Output = Result<tonic::Response<A>, Status>> + Send,
{
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    let start = tokio::time::Instant::now();
    let result = match tokio::time::timeout(deadline + EXEC_MARGIN, call(request)).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(failure(name, status)),
        Err(_) => Err(RuntimeError::Deadline(name.to_owned())),
    };
    // The kubelet's names: `run_podsandbox`, `create_container`.
    let operation = name.replace("pod_sandbox", "podsandbox");
    let label = ("operation_type", operation);
    if result.is_err() {
        metrics::counter!("kubelet_runtime_operations_errors_total", std::slice::from_ref(&label))
            .increment(1);
    }
    metrics::counter!("kubelet_runtime_operations_total", std::slice::from_ref(&label)).increment(1);
    metrics::histogram!("kubelet_runtime_operations_duration_seconds", &[label]).record(start.elapsed());
    result
}

/// One CRI call on a fresh clone of a client: `call!(self.runtime, stop_pod_sandbox, SLOW, request)`.
macro_rules! call {
    ($client:expr, $method:ident, $deadline:expr, $message:expr) => {{
        let mut client = $client.clone();
        within(stringify!($method), $deadline, $message, move |request| async move {
            client.$method(request).await
        })
    }};
}

fn of_pod(pod_uid: Option<String>) -> HashMap<String, String> {
    pod_uid.map(|uid| (LABEL_POD_UID.to_owned(), uid)).into_iter().collect()
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

fn image(name: String) -> Option<cri::ImageSpec> {
    Some(cri::ImageSpec { user_specified_image: name.clone(), image: name, ..Default::default() })
}

fn missing(what: &str) -> RuntimeError {
    RuntimeError::Failed(format!("the container runtime's answer has no {what}"))
}

impl Runtime for CriRuntime {
    fn is_simulated(&self) -> bool {
        false
    }

    fn version(&self) -> Call<'_, cri::VersionResponse> {
        call!(self.runtime, version, QUICK, cri::VersionRequest { version: "v1".to_owned() }).boxed()
    }

    fn status(&self) -> Call<'_, Vec<cri::RuntimeCondition>> {
        let answer = call!(self.runtime, status, QUICK, cri::StatusRequest { verbose: false });
        async move { Ok(answer.await?.status.unwrap_or_default().conditions) }.boxed()
    }

    fn list_sandboxes(&self, pod_uid: Option<String>) -> Call<'_, Vec<cri::PodSandbox>> {
        let filter = cri::PodSandboxFilter { label_selector: of_pod(pod_uid), ..Default::default() };
        let message = cri::ListPodSandboxRequest { filter: Some(filter) };
        let answer = call!(self.runtime, list_pod_sandbox, QUICK, message);
        async move { Ok(answer.await?.items) }.boxed()
    }

    fn sandbox_status(&self, id: String) -> Call<'_, cri::PodSandboxStatus> {
        let message = cri::PodSandboxStatusRequest { pod_sandbox_id: id, verbose: false };
        let answer = call!(self.runtime, pod_sandbox_status, QUICK, message);
        async move { answer.await?.status.ok_or_else(|| missing("sandbox status")) }.boxed()
    }

    fn run_sandbox(&self, config: cri::PodSandboxConfig, handler: String) -> Call<'_, String> {
        let message = cri::RunPodSandboxRequest { config: Some(config), runtime_handler: handler };
        let answer = call!(self.runtime, run_pod_sandbox, SLOW, message);
        async move { Ok(answer.await?.pod_sandbox_id) }.boxed()
    }

    fn stop_sandbox(&self, id: String) -> Call<'_, ()> {
        let answer =
            call!(self.runtime, stop_pod_sandbox, SLOW, cri::StopPodSandboxRequest { pod_sandbox_id: id });
        async move { answer.await.map(drop) }.boxed()
    }

    fn remove_sandbox(&self, id: String) -> Call<'_, ()> {
        let answer = call!(
            self.runtime,
            remove_pod_sandbox,
            SLOW,
            cri::RemovePodSandboxRequest { pod_sandbox_id: id }
        );
        async move { answer.await.map(drop) }.boxed()
    }

    fn list_containers(&self, pod_uid: Option<String>) -> Call<'_, Vec<cri::Container>> {
        let filter = cri::ContainerFilter { label_selector: of_pod(pod_uid), ..Default::default() };
        let answer =
            call!(self.runtime, list_containers, QUICK, cri::ListContainersRequest { filter: Some(filter) });
        async move { Ok(answer.await?.containers) }.boxed()
    }

    fn container_status(&self, id: String) -> Call<'_, cri::ContainerStatus> {
        let message = cri::ContainerStatusRequest { container_id: id, verbose: false };
        let answer = call!(self.runtime, container_status, QUICK, message);
        async move { answer.await?.status.ok_or_else(|| missing("container status")) }.boxed()
    }

    fn create_container(
        &self,
        sandbox: String,
        config: cri::ContainerConfig,
        sandbox_config: cri::PodSandboxConfig,
    ) -> Call<'_, String> {
        let message = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox,
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        let answer = call!(self.runtime, create_container, SLOW, message);
        async move { Ok(answer.await?.container_id) }.boxed()
    }

    fn start_container(&self, id: String) -> Call<'_, ()> {
        let answer =
            call!(self.runtime, start_container, SLOW, cri::StartContainerRequest { container_id: id });
        async move { answer.await.map(drop) }.boxed()
    }

    fn stop_container(&self, id: String, grace: Duration) -> Call<'_, ()> {
        let message = cri::StopContainerRequest { container_id: id, timeout: seconds(grace) };
        let answer = call!(self.runtime, stop_container, grace + STOP_MARGIN, message);
        async move { answer.await.map(drop) }.boxed()
    }

    fn remove_container(&self, id: String) -> Call<'_, ()> {
        let answer =
            call!(self.runtime, remove_container, SLOW, cri::RemoveContainerRequest { container_id: id });
        async move { answer.await.map(drop) }.boxed()
    }

    fn exec_sync(
        &self,
        id: String,
        command: Vec<String>,
        timeout: Duration,
    ) -> Call<'_, cri::ExecSyncResponse> {
        let message =
            cri::ExecSyncRequest { container_id: id, cmd: command, timeout: seconds(timeout).max(1) };
        call!(self.runtime, exec_sync, timeout + EXEC_MARGIN, message).boxed()
    }

    fn exec(&self, request: cri::ExecRequest) -> Call<'_, String> {
        let answer = call!(self.runtime, exec, QUICK, request);
        async move { Ok(answer.await?.url) }.boxed()
    }

    fn attach(&self, request: cri::AttachRequest) -> Call<'_, String> {
        let answer = call!(self.runtime, attach, QUICK, request);
        async move { Ok(answer.await?.url) }.boxed()
    }

    fn port_forward(&self, request: cri::PortForwardRequest) -> Call<'_, String> {
        let answer = call!(self.runtime, port_forward, QUICK, request);
        async move { Ok(answer.await?.url) }.boxed()
    }

    fn reopen_log(&self, id: String) -> Call<'_, ()> {
        let message = cri::ReopenContainerLogRequest { container_id: id };
        let answer = call!(self.runtime, reopen_container_log, QUICK, message);
        async move { answer.await.map(drop) }.boxed()
    }

    fn image_status(&self, name: String) -> Call<'_, Option<cri::Image>> {
        let message = cri::ImageStatusRequest { image: image(name), verbose: false };
        let answer = call!(self.images, image_status, QUICK, message);
        async move { Ok(answer.await?.image) }.boxed()
    }

    fn pull_image(
        &self,
        name: String,
        auth: Option<cri::AuthConfig>,
        sandbox_config: cri::PodSandboxConfig,
    ) -> Call<'_, String> {
        let message =
            cri::PullImageRequest { image: image(name), auth, sandbox_config: Some(sandbox_config) };
        let answer = call!(self.images, pull_image, PULL, message);
        async move { Ok(answer.await?.image_ref) }.boxed()
    }

    fn list_images(&self) -> Call<'_, Vec<cri::Image>> {
        let answer = call!(self.images, list_images, QUICK, cri::ListImagesRequest { filter: None });
        async move { Ok(answer.await?.images) }.boxed()
    }
}
