//! A runtime that starts nothing: pods become Running at once, in memory. For ordinary users and scale tests.
//!
//! What a container does is told by annotations of its pod: [`ANNOTATION_RUN_SECONDS`] ends it after that many
//! seconds, with [`ANNOTATION_EXIT_CODE`] (default 0). Every image exists; logs are empty; no process, no network.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use env::Clock;
use futures::FutureExt;
use parking_lot::Mutex;
use protos::cri;

use super::{Call, LABEL_POD_UID, Runtime, RuntimeError};

/// Pod annotation: a simulated container of this pod exits after so many seconds.
pub const ANNOTATION_RUN_SECONDS: &str = "trierarch.dev/simulated-run-seconds";
/// Pod annotation: and with this exit code.
pub const ANNOTATION_EXIT_CODE: &str = "trierarch.dev/simulated-exit-code";
/// The addresses that simulated pods get, from the start of the node's pod network.
const FIRST_ADDRESS_OFFSET: u32 = 2;

/// In-memory runtime.
pub struct SimulatedRuntime {
    clock: Clock,
    network: Mutex<Ipv4Addr>,
    state: Mutex<State>,
    images: Vec<String>,
}

#[derive(Default)]
struct State {
    sandboxes: BTreeMap<String, cri::PodSandboxStatus>,
    containers: BTreeMap<String, (String, cri::ContainerStatus, Option<Life>)>,
    serial: u32,
}

/// When a simulated container ends, and how.
#[derive(Clone, Copy)]
struct Life {
    ends_at_nanos: i64,
    exit_code: i32,
}

impl SimulatedRuntime {
    /// A runtime that reports `images` as present.
    pub fn new(clock: Clock, images: Vec<String>) -> Self {
        let network = Mutex::new(Ipv4Addr::new(10, 244, 0, 0));
        Self { clock, network, state: Mutex::default(), images }
    }

    /// The pod network from which addresses are given.
    pub fn set_network(&self, network: Ipv4Addr) {
        *self.network.lock() = network;
    }

    fn nanos(&self) -> i64 {
        self.clock.now().millis().saturating_mul(1_000_000)
    }

    fn image(&self, name: &str) -> cri::Image {
        cri::Image {
            id: format!("simulated:{name}"),
            repo_tags: vec![name.to_owned()],
            size: 1 << 20,
            ..Default::default()
        }
    }
}

impl State {
    fn next_id(&mut self, kind: &str) -> String {
        self.serial += 1;
        format!("{kind}{:012x}", self.serial)
    }

    /// Ends the containers whose time has come.
    fn settle(&mut self, now: i64) {
        for (_, status, life) in self.containers.values_mut() {
            let Some(due) = *life else { continue };
            if status.state == cri::ContainerState::ContainerRunning as i32 && due.ends_at_nanos <= now {
                exit(status, due.ends_at_nanos, due.exit_code);
            }
        }
    }
}

fn exit(status: &mut cri::ContainerStatus, at: i64, code: i32) {
    status.state = cri::ContainerState::ContainerExited as i32;
    status.finished_at = at;
    status.exit_code = code;
    status.reason = if code == 0 { "Completed" } else { "Error" }.to_owned();
}

fn life(annotations: &HashMap<String, String>, started: i64) -> Option<Life> {
    let seconds: i64 = annotations.get(ANNOTATION_RUN_SECONDS)?.parse().ok()?;
    let exit_code = annotations.get(ANNOTATION_EXIT_CODE).and_then(|code| code.parse().ok()).unwrap_or(0);
    Some(Life { ends_at_nanos: started.saturating_add(seconds.saturating_mul(1_000_000_000)), exit_code })
}

fn done<T: Send + 'static>(result: Result<T, RuntimeError>) -> Call<'static, T> {
    std::future::ready(result).boxed()
}

fn absent(id: &str) -> RuntimeError {
    RuntimeError::NotFound(format!("{id} is not found"))
}

fn is_of(labels: &HashMap<String, String>, uid: Option<&String>) -> bool {
    uid.is_none_or(|uid| labels.get(LABEL_POD_UID) == Some(uid))
}

fn listed(id: &str, sandbox: &str, status: &cri::ContainerStatus) -> cri::Container {
    cri::Container {
        id: id.to_owned(),
        pod_sandbox_id: sandbox.to_owned(),
        metadata: status.metadata.clone(),
        image: status.image.clone(),
        image_ref: status.image_ref.clone(),
        state: status.state,
        created_at: status.created_at,
        labels: status.labels.clone(),
        annotations: status.annotations.clone(),
        image_id: status.image_id.clone(),
    }
}

impl Runtime for SimulatedRuntime {
    fn is_simulated(&self) -> bool {
        true
    }

    fn version(&self) -> Call<'_, cri::VersionResponse> {
        done(Ok(cri::VersionResponse {
            version: "0.1.0".to_owned(),
            runtime_name: "simulated".to_owned(),
            runtime_version: "0.1.0".to_owned(),
            runtime_api_version: "v1".to_owned(),
        }))
    }

    fn status(&self) -> Call<'_, Vec<cri::RuntimeCondition>> {
        let condition = |name: &str| cri::RuntimeCondition {
            r#type: name.to_owned(),
            status: true,
            ..Default::default()
        };
        done(Ok(vec![condition("RuntimeReady"), condition("NetworkReady")]))
    }

    fn list_sandboxes(&self, pod_uid: Option<String>) -> Call<'_, Vec<cri::PodSandbox>> {
        let state = self.state.lock();
        let mine = state.sandboxes.values().filter(|status| is_of(&status.labels, pod_uid.as_ref()));
        done(Ok(mine
            .map(|status| cri::PodSandbox {
                id: status.id.clone(),
                metadata: status.metadata.clone(),
                state: status.state,
                created_at: status.created_at,
                labels: status.labels.clone(),
                annotations: status.annotations.clone(),
                runtime_handler: String::new(),
            })
            .collect()))
    }

    fn sandbox_status(&self, id: String) -> Call<'_, cri::PodSandboxStatus> {
        done(self.state.lock().sandboxes.get(&id).cloned().ok_or_else(|| absent(&id)))
    }

    fn run_sandbox(&self, config: cri::PodSandboxConfig, _: String) -> Call<'_, String> {
        let network = u32::from(*self.network.lock());
        let now = self.nanos();
        let mut state = self.state.lock();
        let id = state.next_id("sandbox");
        let address = Ipv4Addr::from(network.wrapping_add(FIRST_ADDRESS_OFFSET).wrapping_add(state.serial));
        let status = cri::PodSandboxStatus {
            id: id.clone(),
            metadata: config.metadata,
            created_at: now,
            network: Some(cri::PodSandboxNetworkStatus {
                ip: IpAddr::from(address).to_string(),
                additional_ips: Vec::new(),
            }),
            labels: config.labels,
            annotations: config.annotations,
            ..Default::default()
        };
        state.sandboxes.insert(id.clone(), status);
        done(Ok(id))
    }

    fn stop_sandbox(&self, id: String) -> Call<'_, ()> {
        let now = self.nanos();
        let mut state = self.state.lock();
        for (sandbox, status, _) in state.containers.values_mut() {
            if *sandbox == id && status.state == cri::ContainerState::ContainerRunning as i32 {
                exit(status, now, 137);
            }
        }
        if let Some(status) = state.sandboxes.get_mut(&id) {
            status.state = cri::PodSandboxState::SandboxNotready as i32;
        }
        done(Ok(()))
    }

    fn remove_sandbox(&self, id: String) -> Call<'_, ()> {
        let mut state = self.state.lock();
        state.sandboxes.remove(&id);
        state.containers.retain(|_, (sandbox, _, _)| *sandbox != id);
        done(Ok(()))
    }

    fn list_containers(&self, pod_uid: Option<String>) -> Call<'_, Vec<cri::Container>> {
        let now = self.nanos();
        let mut state = self.state.lock();
        state.settle(now);
        let mine =
            state.containers.iter().filter(|(_, (_, status, _))| is_of(&status.labels, pod_uid.as_ref()));
        done(Ok(mine.map(|(id, (sandbox, status, _))| listed(id, sandbox, status)).collect()))
    }

    fn container_status(&self, id: String) -> Call<'_, cri::ContainerStatus> {
        let now = self.nanos();
        let mut state = self.state.lock();
        state.settle(now);
        done(state.containers.get(&id).map(|(_, status, _)| status.clone()).ok_or_else(|| absent(&id)))
    }

    fn create_container(
        &self,
        sandbox: String,
        config: cri::ContainerConfig,
        sandbox_config: cri::PodSandboxConfig,
    ) -> Call<'_, String> {
        let now = self.nanos();
        let mut state = self.state.lock();
        if !state.sandboxes.contains_key(&sandbox) {
            return done(Err(absent(&sandbox)));
        }
        let id = state.next_id("container");
        let name = config.image.as_ref().map(|image| image.image.clone()).unwrap_or_default();
        let status = cri::ContainerStatus {
            id: id.clone(),
            metadata: config.metadata,
            created_at: now,
            image: config.image,
            image_ref: format!("simulated:{name}"),
            image_id: format!("simulated:{name}"),
            labels: config.labels,
            annotations: config.annotations,
            ..Default::default()
        };
        let life = life(&sandbox_config.annotations, now);
        state.containers.insert(id.clone(), (sandbox, status, life));
        done(Ok(id))
    }

    fn start_container(&self, id: String) -> Call<'_, ()> {
        let now = self.nanos();
        let mut state = self.state.lock();
        let Some((_, status, _)) = state.containers.get_mut(&id) else { return done(Err(absent(&id))) };
        status.state = cri::ContainerState::ContainerRunning as i32;
        status.started_at = now;
        done(Ok(()))
    }

    fn stop_container(&self, id: String, _grace: Duration) -> Call<'_, ()> {
        let now = self.nanos();
        let mut state = self.state.lock();
        let Some((_, status, _)) = state.containers.get_mut(&id) else { return done(Err(absent(&id))) };
        if status.state == cri::ContainerState::ContainerRunning as i32 {
            exit(status, now, 143);
        }
        done(Ok(()))
    }

    fn remove_container(&self, id: String) -> Call<'_, ()> {
        self.state.lock().containers.remove(&id);
        done(Ok(()))
    }

    fn exec_sync(&self, _: String, _: Vec<String>, _: Duration) -> Call<'_, cri::ExecSyncResponse> {
        done(Ok(cri::ExecSyncResponse::default()))
    }

    fn exec(&self, _: cri::ExecRequest) -> Call<'_, String> {
        done(Err(RuntimeError::Unimplemented("exec".to_owned())))
    }

    fn attach(&self, _: cri::AttachRequest) -> Call<'_, String> {
        done(Err(RuntimeError::Unimplemented("attach".to_owned())))
    }

    fn port_forward(&self, _: cri::PortForwardRequest) -> Call<'_, String> {
        done(Err(RuntimeError::Unimplemented("port-forward".to_owned())))
    }

    fn reopen_log(&self, _: String) -> Call<'_, ()> {
        done(Ok(()))
    }

    fn image_status(&self, image: String) -> Call<'_, Option<cri::Image>> {
        done(Ok(Some(self.image(&image))))
    }

    fn pull_image(
        &self,
        image: String,
        _: Option<cri::AuthConfig>,
        _: cri::PodSandboxConfig,
    ) -> Call<'_, String> {
        done(Ok(self.image(&image).id))
    }

    fn list_images(&self) -> Call<'_, Vec<cri::Image>> {
        done(Ok(self.images.iter().map(|name| self.image(name)).collect()))
    }
}
