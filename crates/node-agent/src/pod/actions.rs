//! Carries out what the plan says, one action at a time. Driver.

use std::time::Duration;

use client::EventType;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Secret};
use protos::cri;
use serde_json::Value;

use super::config::{self, ContainerInput};
use super::env_vars::{self, Sources};
use super::hooks::{self, POST_START_LIMIT, Whose};
use super::image::{self, ImageDecision};
use super::lifecycle::{self, Kind};
use super::observed::{Observed, Waiting};
use super::paths::PodPaths;
use super::plan::{DEFAULT_GRACE_SECONDS, PodAction};
use super::resources;
use super::rotation;
use super::stop::Stop;
use super::worker::{Target, Worker};
use crate::cgroups;
use crate::context::kind;
use crate::volumes::mounter;
use crate::volumes::plan as volume_plan;

/// First and longest delay between tries of an image, a configuration or a sandbox.
const DELAY_INITIAL: Duration = Duration::from_secs(10);
const DELAY_MAX: Duration = Duration::from_secs(300);
/// Missing objects usually come soon.
const CONFIG_DELAY_INITIAL: Duration = Duration::from_secs(2);
/// Volumes are retried this fast at first (upstream: 500 ms).
const PREPARE_DELAY_INITIAL: Duration = Duration::from_millis(500);
const PREPARE_DELAY_MAX: Duration = Duration::from_secs(60);
/// ConfigMaps, Secrets and tokens of a running pod are read again this often (upstream's sync period).
const REFRESH: Duration = Duration::from_secs(60);

/// The reason of a container whose `postStart` hook failed.
const POST_START_FAILED: &str = "PostStartHookError";

/// Why a container did not start: the reason of its waiting state, and the text.
struct Failure {
    reason: &'static str,
    text: String,
}

fn failure(reason: &'static str, text: impl ToString) -> Failure {
    Failure { reason, text: text.to_string() }
}

impl Worker {
    /// Whether the action was carried out.
    pub(super) async fn carry_out(
        &mut self,
        target: Option<&Target>,
        observed: &Observed,
        action: PodAction,
    ) -> bool {
        let runtime = self.context.runtime.clone();
        let result = match (action, target) {
            (PodAction::StopContainers { groups, grace, reason }, _) => {
                self.tell_stop(target, observed, &groups, &reason);
                self.stop_containers(&Stop { target, observed, groups, grace }).await;
                return true;
            }
            (PodAction::StopSandbox { id }, _) => runtime.stop_sandbox(id).await,
            (PodAction::RemoveSandbox { id }, _) => runtime.remove_sandbox(id).await,
            (PodAction::RemoveContainer { id }, _) => {
                let removed = runtime.remove_container(id.clone()).await;
                let view = observed.containers.iter().find(|view| view.id == id && removed.is_ok());
                if let Some(view) = view {
                    rotation::remove(&self.paths.log(&view.name, view.attempt));
                }
                removed
            }
            (PodAction::CleanUp, _) => return self.clean_up(),
            (PodAction::RemoveFiles, _) => return self.remove_files(),
            (PodAction::Prepare, Some(target)) => return self.prepare(target).await,
            (PodAction::RunSandbox { attempt }, Some(target)) => {
                self.make_cgroup(&target.pod, observed);
                return self.run_sandbox(target, attempt).await;
            }
            (PodAction::StartContainer { name, kind, attempt }, Some(target)) => {
                self.make_cgroup(&target.pod, observed);
                return self.start(target, observed, &name, kind, attempt).await;
            }
            (_, None) | (PodAction::DeleteObject, _) => Ok(()),
        };
        if let Err(error) = &result {
            tracing::warn!(uid = %self.uid, %error, "the runtime refused");
        }
        result.is_ok()
    }

    fn tell_stop(&self, target: Option<&Target>, observed: &Observed, groups: &[Vec<String>], reason: &str) {
        let Some(target) = target else { return };
        for id in groups.iter().flatten() {
            let Some(view) = observed.containers.iter().find(|view| view.id == *id) else { continue };
            let text = match reason {
                "Stopping container" => format!("{reason} {}", view.name),
                other => other.to_owned(),
            };
            self.context.tell(&target.value, &view.name, EventType::Normal, "Killing", text);
        }
    }

    fn clean_up(&mut self) -> bool {
        self.memory.cleaned = self.take_down(mounter::remove_volumes);
        self.memory.cleaned
    }

    fn remove_files(&mut self) -> bool {
        let _ = std::fs::remove_dir_all(&self.paths.logs);
        self.memory.removed = self.take_down(mounter::remove_all);
        self.memory.removed
    }

    fn take_down(&self, remove: impl FnOnce(&PodPaths) -> std::io::Result<()>) -> bool {
        if self.context.runtime.is_simulated() {
            return true;
        }
        cgroups::remove(&self.context.cgroup_root, &self.uid);
        let removed = remove(&self.paths);
        if let Err(error) = &removed {
            tracing::warn!(uid = %self.uid, %error, "the pod's files were not removed");
        }
        removed.is_ok()
    }

    async fn prepare(&mut self, target: &Target) -> bool {
        if self.context.runtime.is_simulated() {
            self.memory.prepared = true;
            return true;
        }
        match self.mount(target, Vec::new()).await {
            Ok(()) => {
                self.memory.prepared = true;
                self.memory.cleaned = false;
                self.memory.prepare_retry = None;
                true
            }
            Err(text) => {
                self.context.warn(&target.value, "FailedMount", text);
                self.delay_preparation();
                false
            }
        }
    }

    fn delay_preparation(&mut self) {
        let delay = self
            .memory
            .prepare_retry
            .map_or(PREPARE_DELAY_INITIAL, |(_, delay)| (delay * 2).min(PREPARE_DELAY_MAX));
        self.memory.prepare_retry = Some((self.context.env.clock.now() + delay, delay));
    }

    async fn mount(&mut self, target: &Target, pod_ips: Vec<String>) -> Result<(), String> {
        let pod = &*target.pod;
        for dir in [&self.paths.dir, &self.paths.logs] {
            std::fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        }
        let wants = volume_plan::wants(pod);
        let sources = super::sources::fetch(&self.context, pod, &wants, pod_ips)
            .await
            .map_err(|error| error.to_string())?;
        let stamp = format!("{}_{}", self.context.env.clock.now().millis(), self.context.env.rng.suffix(4));
        self.mounted = mounter::mount_all(pod, &self.paths, &sources, &stamp)?;
        self.mounted_at = self.context.env.clock.now();
        Ok(())
    }

    /// Brings the files of a running pod's volumes up to date now and then.
    pub(super) async fn refresh_volumes(&mut self, target: Option<&Target>, observed: &Observed) {
        let Some(target) = target.filter(|_| self.memory.prepared && !self.memory.cleaned) else { return };
        let due = self.context.env.clock.now().since(self.mounted_at) >= REFRESH;
        let deleted = target.pod.metadata.deletion_timestamp.is_some();
        if !due || deleted || self.context.runtime.is_simulated() || observed.live().next().is_none() {
            return;
        }
        let ips = observed.ready_sandbox().map(|sandbox| sandbox.ips.clone()).unwrap_or_default();
        if let Err(text) = self.mount(target, ips).await {
            self.context.warn(&target.value, "FailedMount", text);
            self.mounted_at = self.context.env.clock.now();
        }
    }

    /// Makes the pod's control group, or gives it new limits: only while nothing runs in it, for containers keep the
    /// resources that they were started with.
    fn make_cgroup(&self, pod: &Pod, observed: &Observed) {
        if !self.context.runtime.is_simulated() && observed.live().next().is_none() {
            cgroups::make(&resources::pod_cgroup(&self.context.cgroup_root, pod));
        }
    }

    fn sandbox_config(&self, pod: &Pod, attempt: u32) -> cri::PodSandboxConfig {
        let group = resources::pod_cgroup(&self.context.cgroup_root, pod);
        config::sandbox_config(pod, &self.paths, &group.path, &self.context.dns, attempt)
    }

    async fn run_sandbox(&mut self, target: &Target, attempt: u32) -> bool {
        let config = self.sandbox_config(&target.pod, attempt);
        metrics::counter!("kubelet_started_pods_total").increment(1);
        let ran = match self.runtime_handler(target).await {
            Ok(handler) => {
                let id = self.context.runtime.run_sandbox(config, handler).await;
                id.map(drop).map_err(|error| error.to_string())
            }
            Err(error) => Err(error),
        };
        match ran {
            Ok(()) => {
                self.memory.prepare_retry = None;
                true
            }
            Err(error) => {
                metrics::counter!("kubelet_started_pods_errors_total").increment(1);
                let text = format!("Failed to create pod sandbox: {error}");
                self.context.warn(&target.value, "FailedCreatePodSandBox", text);
                self.delay_preparation();
                false
            }
        }
    }

    /// The runtime's handler that the pod's RuntimeClass names (KEP-585); empty for none.
    async fn runtime_handler(&self, target: &Target) -> Result<String, String> {
        let class = target.pod.spec.as_ref().and_then(|spec| spec.runtime_class_name.as_deref());
        let Some(class) = class.filter(|name| !name.is_empty()) else { return Ok(String::new()) };
        let classes = self.context.client.all(kind("node.k8s.io", "v1", "runtimeclasses"));
        match classes.get(class).await {
            Ok(class) => Ok(class["handler"].as_str().unwrap_or_default().to_owned()),
            Err(error) if error.is_not_found() => {
                Err(format!("runtimeclass.node.k8s.io \"{class}\" not found"))
            }
            Err(error) => Err(format!("failed to lookup RuntimeClass {class}: {error}")),
        }
    }

    async fn start(
        &mut self,
        target: &Target,
        observed: &Observed,
        name: &str,
        kind: Kind,
        attempt: u32,
    ) -> bool {
        let Some(spec) = target.pod.spec.as_ref() else { return true };
        let found = match kind {
            Kind::Ephemeral => lifecycle::ephemeral(spec).into_iter().find(|one| one.name == name),
            _ => lifecycle::find(spec, name).map(|(_, container)| container.clone()),
        };
        let Some(container) = found else { return true };
        let Some(sandbox) = observed.ready_sandbox() else { return false };
        let (container, target_process) = (&container, lifecycle::target_process(spec, observed, name));
        let start =
            Start { target, container, attempt, sandbox: &sandbox.id, ips: &sandbox.ips, target_process };
        // The kubelet's words for the parts; it counts sidecars as init containers.
        let part = match kind {
            Kind::Main => "container",
            Kind::Init | Kind::Sidecar => "init_container",
            Kind::Ephemeral => "ephemeral_container",
        };
        let part = ("container_type", part);
        metrics::counter!("kubelet_started_containers_total", &[part]).increment(1);
        let started = self.try_start(&start).await;
        let ran = started.as_ref().map_or_else(|failure| failure.reason == POST_START_FAILED, |()| true);
        if let Some(before) = observed.latest(name).filter(|_| ran && (kind != Kind::Init || attempt > 0)) {
            lifecycle::note_restart(&mut self.memory, before, self.context.env.clock.now());
        }
        match started {
            Ok(()) => {
                self.memory.waiting.remove(name);
                true
            }
            Err(failure) => {
                let labels = [part, ("code", failure.reason)];
                metrics::counter!("kubelet_started_containers_errors_total", &labels).increment(1);
                self.note_failure(&target.value, name, failure);
                false
            }
        }
    }

    fn note_failure(&mut self, pod: &Value, name: &str, failure: Failure) {
        let now = self.context.env.clock.now();
        let note = |retry_at, delay| Waiting {
            reason: failure.reason.to_owned(),
            message: failure.text.clone(),
            retry_at,
            delay,
        };
        if failure.reason == POST_START_FAILED {
            // It ran and was stopped: only the back-off of restarts holds it up.
            self.memory.waiting.insert(name.to_owned(), note(now, Duration::ZERO));
            return;
        }
        let initial =
            if failure.reason == "CreateContainerConfigError" { CONFIG_DELAY_INITIAL } else { DELAY_INITIAL };
        let before = self.memory.waiting.get(name);
        let delay = before.map_or(initial, |waiting| (waiting.delay * 2).min(DELAY_MAX));
        let text = format!("Error: {}", failure.text);
        self.context.tell(pod, name, EventType::Warning, "Failed", text);
        self.memory.waiting.insert(name.to_owned(), note(now + delay, delay));
    }

    async fn try_start(&mut self, start: &Start<'_>) -> Result<(), Failure> {
        let Start { target, container, .. } = start;
        let (pod, value) = (&*target.pod, &*target.value);
        let config_error = |text: String| failure("CreateContainerConfigError", text);
        let spec = pod.spec.as_ref().ok_or_else(|| config_error("the pod has no spec".to_owned()))?;
        if let Some(text) = config::unsupported(spec) {
            return Err(config_error(text));
        }
        let target_process = start.target_process.clone().map_err(config_error)?;
        let sources = self.container_sources(start).await?;
        let image = self.image(start, &sources).await?;
        let environment = env_vars::environment(pod, container, &sources)
            .map_err(|error| config_error(error.to_string()))?;
        if let Some(text) = image::violates_non_root(container, spec.security_context.as_ref(), Some(&image))
        {
            return Err(config_error(text));
        }
        let mut config = self.container_config(start, spec, &environment, image).map_err(config_error)?;
        if let Some(id) = target_process {
            config::share_processes(&mut config, id);
        }
        let sandbox = self.sandbox_config(pod, 0);
        let runtime = &self.context.runtime;
        let id = runtime
            .create_container(start.sandbox.to_owned(), config, sandbox)
            .await
            .map_err(|error| failure("CreateContainerError", error))?;
        let tell = |reason, text| self.context.tell(value, &container.name, EventType::Normal, reason, text);
        tell("Created", "Container created");
        runtime.start_container(id.clone()).await.map_err(|error| failure("RunContainerError", error))?;
        tell("Started", "Container started");
        self.post_start(start, spec, &id).await
    }

    /// Runs the `postStart` hook; a container whose hook fails is stopped.
    ///
    /// Until then the pod's status is not written, so the container counts as neither started nor ready.
    async fn post_start(&self, start: &Start<'_>, spec: &PodSpec, id: &str) -> Result<(), Failure> {
        let Start { target, container, .. } = start;
        let hook = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref());
        let Some(hook) = hook else { return Ok(()) };
        let pod = self.described(Some(target));
        let ip = self.own_ips(start).into_iter().next().unwrap_or_default();
        let whose = Whose { pod: &pod, ip: &ip, container, id };
        let Err(text) = hooks::run(&self.context, &whose, hook, POST_START_LIMIT).await else {
            return Ok(());
        };
        let tell = |kind, reason, text| self.context.tell(&target.value, &container.name, kind, reason, text);
        // The text may hold secrets (upstream leaves it out as well).
        tell(EventType::Warning, "FailedPostStartHook", "PostStartHook failed");
        tell(EventType::Normal, "Killing", "FailedPostStartHook");
        if let Ok(observed) = self.observe().await {
            let grace = spec.termination_grace_period_seconds.unwrap_or(DEFAULT_GRACE_SECONDS);
            let groups = vec![vec![id.to_owned()]];
            self.stop_containers(&Stop { target: Some(target), observed: &observed, groups, grace }).await;
        }
        Err(failure(POST_START_FAILED, text))
    }

    async fn container_sources(&self, start: &Start<'_>) -> Result<Sources, Failure> {
        if self.context.runtime.is_simulated() {
            return Ok(simulated_sources(start));
        }
        let (config_maps, secrets) = env_vars::references(start.container);
        let pull_secrets =
            start.target.pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
        let secrets = secrets.into_iter().chain(pull_secrets.map(|secret| secret.name.clone())).collect();
        let wants = volume_plan::Wants {
            config_maps: config_maps.into_iter().collect(),
            secrets,
            ..Default::default()
        };
        let ips = self.own_ips(start);
        let fetched = super::sources::fetch(&self.context, &start.target.pod, &wants, ips).await;
        Ok(fetched.map_err(|error| failure("CreateContainerConfigError", error))?.env)
    }

    /// The pod's addresses; the node's on the host's network.
    fn own_ips(&self, start: &Start<'_>) -> Vec<String> {
        match start.ips {
            [] => self.context.host_ips.iter().map(ToString::to_string).collect(),
            ips => ips.to_vec(),
        }
    }

    /// The image, fetched if the policy says so.
    async fn image(&self, start: &Start<'_>, sources: &Sources) -> Result<cri::Image, Failure> {
        let runtime = &self.context.runtime;
        let named = start.container.image.clone().unwrap_or_default();
        let reference = image::normalize(&named);
        let present = runtime
            .image_status(reference.clone())
            .await
            .map_err(|error| failure("ImageInspectError", error))?;
        let tell = |kind, reason, text: String| {
            self.context.tell(&start.target.value, &start.container.name, kind, reason, text);
        };
        match (image::decide(image::pull_policy(start.container), present.is_some()), present) {
            (ImageDecision::Use, Some(image)) => {
                let text = format!(
                    "Container image \"{named}\" already present on machine and can be accessed by the pod"
                );
                tell(EventType::Normal, "Pulled", text);
                return Ok(image);
            }
            (ImageDecision::NeverPull, _) => {
                let text = format!("Container image \"{named}\" is not present with pull policy of Never");
                tell(EventType::Warning, "ErrImageNeverPull", text.clone());
                return Err(failure("ErrImageNeverPull", text));
            }
            _ => {}
        }
        tell(EventType::Normal, "Pulling", format!("Pulling image \"{named}\""));
        let secrets: Vec<&Secret> = sources.secrets.values().collect();
        let auth = image::credentials(&reference, &secrets);
        let sandbox = self.sandbox_config(&start.target.pod, 0);
        if let Err(error) = runtime.pull_image(reference.clone(), auth, sandbox).await {
            let text = format!("Failed to pull image \"{named}\": {error}");
            tell(EventType::Warning, "Failed", text);
            return Err(failure("ErrImagePull", error));
        }
        tell(EventType::Normal, "Pulled", format!("Successfully pulled image \"{named}\""));
        let found =
            runtime.image_status(reference).await.map_err(|error| failure("ImageInspectError", error))?;
        found.ok_or_else(|| {
            failure("ImageInspectError", format!("image {named} vanished after it was pulled"))
        })
    }

    fn container_config(
        &self,
        start: &Start<'_>,
        spec: &PodSpec,
        environment: &[(String, String)],
        image: cri::Image,
    ) -> Result<cri::ContainerConfig, String> {
        let Start { target, container, attempt, .. } = start;
        let simulated = self.context.runtime.is_simulated();
        let mut mounts = Vec::new();
        let mut message_file = None;
        if !simulated {
            mounts = mounter::container_mounts(container, &self.paths, &self.mounted, environment)?;
            message_file = Some(self.managed_files(start, spec, &mut mounts)?);
        }
        let id = image.id;
        let resources = resources::container_resources(spec, container, self.context.capacity.memory_bytes);
        Ok(config::container_config(ContainerInput {
            pod: &target.pod,
            container,
            attempt: *attempt,
            environment,
            paths: &self.paths,
            mounts,
            image: id,
            resources,
            message_file,
        }))
    }

    /// The hosts file and the file of the termination message, made and mounted.
    fn managed_files(
        &self,
        start: &Start<'_>,
        spec: &PodSpec,
        mounts: &mut Vec<cri::Mount>,
    ) -> Result<std::path::PathBuf, String> {
        let failed = |error: std::io::Error| error.to_string();
        let file = self.paths.message(&start.container.name, start.attempt);
        let logs = self.paths.logs.join(&start.container.name);
        for dir in [file.parent(), Some(logs.as_path())].into_iter().flatten() {
            std::fs::create_dir_all(dir).map_err(failed)?;
        }
        std::fs::write(&file, b"").map_err(failed)?;
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o666))
            .map_err(failed)?;
        let path = start.container.termination_message_path.as_deref().unwrap_or("/dev/termination-log");
        mounts.push(config::mount(path, &file, false));
        let taken = mounts.iter().any(|mount| mount.container_path == "/etc/hosts");
        if !taken && !lifecycle::is_host_network(spec) {
            let hosts = self.paths.hosts();
            std::fs::write(&hosts, config::hosts_file(&start.target.pod, start.ips)).map_err(failed)?;
            mounts.push(config::mount("/etc/hosts", hosts, false));
        }
        Ok(file)
    }
}

/// One container about to start.
struct Start<'a> {
    target: &'a Target,
    container: &'a Container,
    attempt: u32,
    sandbox: &'a str,
    ips: &'a [String],
    /// The container whose processes this one sees, or why it cannot.
    target_process: Result<Option<String>, String>,
}

/// Nothing real reads a simulated container's environment: whatever it refers to exists and is empty.
fn simulated_sources(start: &Start<'_>) -> Sources {
    let (config_maps, secrets) = env_vars::references(start.container);
    let container = start.container;
    let keys = || container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref());
    let mut sources = Sources { pod_ips: start.ips.to_vec(), ..Sources::default() };
    for name in config_maps {
        let wanted =
            keys().filter_map(|source| source.config_map_key_ref.as_ref()).filter(|key| key.name == name);
        let data = wanted.map(|key| (key.key.clone(), String::new())).collect();
        let map = k8s_openapi::api::core::v1::ConfigMap { data: Some(data), ..Default::default() };
        sources.config_maps.insert(name, map);
    }
    for name in secrets {
        let wanted =
            keys().filter_map(|source| source.secret_key_ref.as_ref()).filter(|key| key.name == name);
        let data = wanted.map(|key| (key.key.clone(), k8s_openapi::ByteString(Vec::new()))).collect();
        sources.secrets.insert(name, Secret { data: Some(data), ..Default::default() });
    }
    sources
}
