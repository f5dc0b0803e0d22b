//! What the runtime is asked for: the CRI configuration of a pod's sandbox and of each container. Pure.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{
    AppArmorProfile, Capabilities, Container, Pod, PodSecurityContext, PodSpec, ResourceRequirements,
    SELinuxOptions, SeccompProfile, SecurityContext,
};
use protos::cri;

use super::lifecycle;
use super::observed::Started;
use super::paths::PodPaths;
use super::plan::grace_of;
use super::spec_hash;
use crate::runtime::{
    ANNOTATION_GRACE, ANNOTATION_HASH, ANNOTATION_MESSAGE_FILE, ANNOTATION_MESSAGE_POLICY, ANNOTATION_PORTS,
    ANNOTATION_PRE_STOP, ANNOTATION_RESOURCES, LABEL_CONTAINER_NAME, LABEL_POD_NAME, LABEL_POD_NAMESPACE,
    LABEL_POD_UID,
};

/// Longest host name of Linux.
const HOSTNAME_MAX_BYTES: usize = 63;
/// Paths that an unprivileged container must not see (the runtime-spec's usual set).
const MASKED_PATHS: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
/// Paths that an unprivileged container must not write.
const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Name resolution of the node and the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsSettings {
    /// Cluster DNS servers; empty if the cluster has none.
    pub cluster_servers: Vec<String>,
    /// Usually `cluster.local`.
    pub cluster_domain: String,
    /// The node's own servers.
    pub node_servers: Vec<String>,
    /// The node's own search list.
    pub node_searches: Vec<String>,
    /// The node's own options.
    pub node_options: Vec<String>,
}

impl DnsSettings {
    /// With the servers, searches and options of a `resolv.conf`.
    pub fn with_resolv_conf(mut self, text: &str) -> Self {
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => self.node_servers.extend(words.next().map(str::to_owned)),
                Some("search" | "domain") => self.node_searches = words.map(str::to_owned).collect(),
                Some("options") => self.node_options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        self
    }
}

/// Labels that make sandboxes and containers recognizable after a restart of the agent.
fn labels(pod: &Pod) -> HashMap<String, String> {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    HashMap::from([
        (LABEL_POD_NAME.to_owned(), text(&pod.metadata.name)),
        (LABEL_POD_NAMESPACE.to_owned(), text(&pod.metadata.namespace)),
        (LABEL_POD_UID.to_owned(), text(&pod.metadata.uid)),
    ])
}

/// The host name that a pod's containers see.
pub fn hostname(pod: &Pod) -> String {
    let spec_name = pod.spec.as_ref().and_then(|spec| spec.hostname.clone()).filter(|name| !name.is_empty());
    let mut name = spec_name.or_else(|| pod.metadata.name.clone()).unwrap_or_default();
    name.truncate(HOSTNAME_MAX_BYTES);
    name.trim_end_matches(['-', '.']).to_owned()
}

/// The configuration of a sandbox.
pub fn sandbox_config(
    pod: &Pod,
    paths: &PodPaths,
    cgroup_parent: &str,
    dns: &DnsSettings,
    attempt: u32,
) -> cri::PodSandboxConfig {
    let spec = pod.spec.clone().unwrap_or_default();
    let host_network = lifecycle::is_host_network(&spec);
    let mut annotations: HashMap<String, String> =
        pod.metadata.annotations.clone().unwrap_or_default().into_iter().collect();
    annotations.insert(ANNOTATION_GRACE.to_owned(), grace_of(pod).to_string());
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: pod.metadata.name.clone().unwrap_or_default(),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            attempt,
        }),
        // A sandbox on the host's network shares its UTS namespace and must not name it.
        hostname: if host_network { String::new() } else { hostname(pod) },
        log_directory: paths.logs.to_string_lossy().into_owned(),
        dns_config: Some(dns_config(pod, &spec, dns)),
        port_mappings: if host_network { Vec::new() } else { port_mappings(&spec) },
        labels: labels(pod),
        annotations,
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: cgroup_parent.to_owned(),
            security_context: Some(sandbox_security(&spec)),
            sysctls: sysctls(&spec),
            ..Default::default()
        }),
        windows: None,
    }
}

fn sysctls(spec: &PodSpec) -> HashMap<String, String> {
    let context = spec.security_context.as_ref();
    let listed = context.and_then(|context| context.sysctls.as_ref());
    listed.into_iter().flatten().map(|sysctl| (sysctl.name.clone(), sysctl.value.clone())).collect()
}

fn dns_config(pod: &Pod, spec: &PodSpec, dns: &DnsSettings) -> cri::DnsConfig {
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let in_cluster = match policy {
        "ClusterFirst" => !lifecycle::is_host_network(spec),
        "ClusterFirstWithHostNet" => true,
        _ => false,
    };
    let mut config = match policy {
        "None" => cri::DnsConfig::default(),
        _ if in_cluster && !dns.cluster_servers.is_empty() => {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let domain = &dns.cluster_domain;
            let own = [format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
            cri::DnsConfig {
                servers: dns.cluster_servers.clone(),
                searches: own.into_iter().chain(dns.node_searches.iter().cloned()).collect(),
                options: vec!["ndots:5".to_owned()],
            }
        }
        _ => cri::DnsConfig {
            servers: dns.node_servers.clone(),
            searches: dns.node_searches.clone(),
            options: dns.node_options.clone(),
        },
    };
    if let Some(own) = &spec.dns_config {
        config.servers.extend(own.nameservers.iter().flatten().cloned());
        config.searches.extend(own.searches.iter().flatten().cloned());
        config.options.extend(own.options.iter().flatten().map(|option| {
            let name = option.name.clone().unwrap_or_default();
            option.value.as_ref().map_or(name.clone(), |value| format!("{name}:{value}"))
        }));
    }
    config
}

fn port_mappings(spec: &PodSpec) -> Vec<cri::PortMapping> {
    let ports = lifecycle::containers(spec).flat_map(|(_, container)| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let protocol = match port.protocol.as_deref() {
                Some("UDP") => cri::Protocol::Udp,
                Some("SCTP") => cri::Protocol::Sctp,
                _ => cri::Protocol::Tcp,
            };
            Some(cri::PortMapping {
                protocol: protocol as i32,
                container_port: port.container_port,
                host_port: port.host_port.filter(|port| *port > 0)?,
                host_ip: port.host_ip.clone().unwrap_or_default(),
            })
        })
        .collect()
}

fn namespace_options(spec: &PodSpec) -> cri::NamespaceOption {
    use cri::NamespaceMode::{Container, Node, Pod};
    let pid = match (spec.host_pid == Some(true), spec.share_process_namespace == Some(true)) {
        (true, _) => Node,
        (false, true) => Pod,
        (false, false) => Container,
    };
    let of_pod = |host: bool| if host { Node as i32 } else { Pod as i32 };
    cri::NamespaceOption {
        network: of_pod(lifecycle::is_host_network(spec)),
        pid: pid as i32,
        ipc: of_pod(spec.host_ipc == Some(true)),
        ..Default::default()
    }
}

fn sandbox_security(spec: &PodSpec) -> cri::LinuxSandboxSecurityContext {
    let context = spec.security_context.clone().unwrap_or_default();
    let privileged = lifecycle::containers(spec).any(|(_, container)| is_privileged(container));
    cri::LinuxSandboxSecurityContext {
        namespace_options: Some(namespace_options(spec)),
        run_as_user: context.run_as_user.map(|value| cri::Int64Value { value }),
        run_as_group: context.run_as_group.filter(|_| context.run_as_user.is_some()).map(wrap),
        supplemental_groups: groups(&context),
        privileged,
        seccomp: Some(cri::SecurityProfile::default()),
        ..Default::default()
    }
}

fn wrap(value: i64) -> cri::Int64Value {
    cri::Int64Value { value }
}

fn groups(context: &PodSecurityContext) -> Vec<i64> {
    context.supplemental_groups.iter().flatten().copied().chain(context.fs_group).collect()
}

fn is_privileged(container: &Container) -> bool {
    container.security_context.as_ref().and_then(|context| context.privileged) == Some(true)
}

/// One container, ready to be created, apart from what needs the disk.
pub struct ContainerInput<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container.
    pub container: &'a Container,
    /// How many came before it.
    pub attempt: u32,
    /// Its environment, references resolved.
    pub environment: &'a [(String, String)],
    /// Where the pod's files are.
    pub paths: &'a PodPaths,
    /// Bind mounts of volumes and of files that the agent manages.
    pub mounts: Vec<cri::Mount>,
    /// The image as the runtime knows it.
    pub image: String,
    /// Limits.
    pub resources: cri::LinuxContainerResources,
    /// Where its termination message goes.
    pub message_file: Option<PathBuf>,
}

/// The configuration of a container.
pub fn container_config(input: ContainerInput<'_>) -> cri::ContainerConfig {
    let ContainerInput { pod, container, attempt, environment, image, .. } = &input;
    let values = environment.iter().cloned().collect();
    let expanded = |words: &Option<Vec<String>>| -> Vec<String> {
        words.iter().flatten().map(|word| super::env_vars::expand(word, &values)).collect()
    };
    let mut labels = labels(pod);
    labels.insert(LABEL_CONTAINER_NAME.to_owned(), container.name.clone());
    let policy = container.termination_message_policy.clone().unwrap_or_else(|| "File".to_owned());
    let mut annotations = HashMap::from([
        (ANNOTATION_HASH.to_owned(), spec_hash(container)),
        (ANNOTATION_GRACE.to_owned(), grace_of(pod).to_string()),
        (ANNOTATION_MESSAGE_POLICY.to_owned(), policy),
    ]);
    if let Some(file) = &input.message_file {
        annotations.insert(ANNOTATION_MESSAGE_FILE.to_owned(), file.to_string_lossy().into_owned());
    }
    let resources = Started { container: container.resources.clone(), pod: pod_resources(pod) };
    let resources = serde_json::to_string(&resources);
    annotations.extend(resources.ok().map(|text| (ANNOTATION_RESOURCES.to_owned(), text)));
    let pre_stop = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
    if let Some(text) = pre_stop.and_then(|handler| serde_json::to_string(handler).ok()) {
        annotations.insert(ANNOTATION_PRE_STOP.to_owned(), text);
        let ports = serde_json::to_string(&container.ports.clone().unwrap_or_default());
        annotations.extend(ports.ok().map(|text| (ANNOTATION_PORTS.to_owned(), text)));
    }
    let spec = pod.spec.clone().unwrap_or_default();
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: container.name.clone(), attempt: *attempt }),
        image: Some(cri::ImageSpec {
            image: image.clone(),
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..Default::default()
        }),
        command: expanded(&container.command),
        args: expanded(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: environment
            .iter()
            .map(|(key, value)| cri::KeyValue { key: key.clone(), value: value.clone().into_bytes() })
            .collect(),
        labels,
        annotations,
        log_path: log_path(&container.name, *attempt),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(input.resources.clone()),
            security_context: Some(container_security(&spec, container)),
        }),
        mounts: input.mounts,
        ..Default::default()
    }
}

/// The resources of a pod as a whole.
pub fn pod_resources(pod: &Pod) -> Option<ResourceRequirements> {
    pod.spec.as_ref().and_then(|spec| spec.resources.clone())
}

/// Lets a container see the processes of another one.
pub fn share_processes(config: &mut cri::ContainerConfig, id: String) {
    let security = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut());
    if let Some(options) = security.and_then(|security| security.namespace_options.as_mut()) {
        options.pid = cri::NamespaceMode::Target as i32;
        options.target_id = id;
    }
}

/// A container's log below the pod's log directory.
pub fn log_path(container: &str, attempt: u32) -> String {
    format!("{container}/{attempt}.log")
}

fn container_security(spec: &PodSpec, container: &Container) -> cri::LinuxContainerSecurityContext {
    let of_pod = spec.security_context.clone().unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let user = own.run_as_user.or(of_pod.run_as_user);
    let group = own.run_as_group.or(of_pod.run_as_group);
    let privileged = own.privileged == Some(true);
    let seccomp = own.seccomp_profile.as_ref().or(of_pod.seccomp_profile.as_ref());
    let apparmor = own.app_armor_profile.as_ref().or(of_pod.app_armor_profile.as_ref());
    let hidden = !privileged && own.proc_mount.as_deref() != Some("Unmasked");
    let list = |paths: &[&str]| -> Vec<String> {
        paths.iter().filter(|_| hidden).map(|path| (*path).to_owned()).collect()
    };
    cri::LinuxContainerSecurityContext {
        capabilities: Some(capabilities(own.capabilities.as_ref())),
        privileged,
        namespace_options: Some(namespace_options(spec)),
        run_as_user: user.map(wrap),
        // A group without a user is refused by runtimes; the image's user is then user 0.
        run_as_group: group.filter(|_| user.is_some()).map(wrap),
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        supplemental_groups: groups(&of_pod),
        no_new_privs: forbids_new_privileges(&own),
        masked_paths: list(&MASKED_PATHS),
        readonly_paths: list(&READONLY_PATHS),
        seccomp: Some(seccomp_profile(seccomp)),
        apparmor: apparmor.map(apparmor_profile),
        selinux_options: own.se_linux_options.as_ref().or(of_pod.se_linux_options.as_ref()).map(selinux),
        ..Default::default()
    }
}

/// Unset leaves the choice to the runtime, as upstream; a runtime without AppArmor refuses a profile of its own.
fn apparmor_profile(profile: &AppArmorProfile) -> cri::SecurityProfile {
    use cri::security_profile::ProfileType;
    let kind = match profile.type_.as_str() {
        "Unconfined" => ProfileType::Unconfined,
        "Localhost" => ProfileType::Localhost,
        _ => ProfileType::RuntimeDefault,
    };
    let localhost_ref = profile.localhost_profile.clone().unwrap_or_default();
    cri::SecurityProfile { profile_type: kind as i32, localhost_ref }
}

fn selinux(options: &SELinuxOptions) -> cri::SeLinuxOption {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    cri::SeLinuxOption {
        user: text(&options.user),
        role: text(&options.role),
        r#type: text(&options.type_),
        level: text(&options.level),
    }
}

fn forbids_new_privileges(context: &SecurityContext) -> bool {
    context.allow_privilege_escalation == Some(false)
}

fn capabilities(asked: Option<&Capabilities>) -> cri::Capability {
    let list = |names: Option<&Vec<String>>| names.cloned().unwrap_or_default();
    cri::Capability {
        add_capabilities: list(asked.and_then(|asked| asked.add.as_ref())),
        drop_capabilities: list(asked.and_then(|asked| asked.drop.as_ref())),
        ..Default::default()
    }
}

/// Unset means unconfined, as upstream without its SeccompDefault setting.
fn seccomp_profile(profile: Option<&SeccompProfile>) -> cri::SecurityProfile {
    use cri::security_profile::ProfileType;
    let Some(profile) = profile else {
        return cri::SecurityProfile { profile_type: ProfileType::Unconfined as i32, ..Default::default() };
    };
    let kind = match profile.type_.as_str() {
        "RuntimeDefault" => ProfileType::RuntimeDefault,
        "Localhost" => ProfileType::Localhost,
        _ => ProfileType::Unconfined,
    };
    let file = profile.localhost_profile.as_deref().unwrap_or_default();
    let localhost_ref =
        if file.is_empty() { String::new() } else { format!("/var/lib/kubelet/seccomp/{file}") };
    cri::SecurityProfile { profile_type: kind as i32, localhost_ref }
}

/// What a pod asks for that this agent or its runtimes cannot give; the container then fails with this text.
///
/// Runtimes ignore newer request fields without an error, so the agent has to refuse by itself.
pub fn unsupported(spec: &PodSpec) -> Option<String> {
    if spec.host_users == Some(false) {
        return Some("user namespaces (hostUsers: false) are not supported by this node".to_owned());
    }
    if spec.set_hostname_as_fqdn == Some(true) {
        return Some("setHostnameAsFQDN is not supported by this node".to_owned());
    }
    let context = spec.security_context.as_ref();
    if context.and_then(|context| context.supplemental_groups_policy.as_deref()) == Some("Strict") {
        return Some("supplementalGroupsPolicy: Strict is not supported by this node".to_owned());
    }
    if spec.resource_claims.as_ref().is_some_and(|claims| !claims.is_empty()) {
        return Some("resourceClaims are not supported by this node".to_owned());
    }
    lifecycle::containers(spec).find_map(|(_, container)| unsupported_container(container))
}

fn unsupported_container(container: &Container) -> Option<String> {
    let mounts = container.volume_mounts.iter().flatten();
    let strict = mounts.filter_map(|mount| mount.recursive_read_only.as_deref()).any(|m| m == "Enabled");
    let blocks = container.volume_devices.as_ref().is_some_and(|devices| !devices.is_empty());
    let signal = container.lifecycle.as_ref().is_some_and(|lifecycle| lifecycle.stop_signal.is_some());
    let asked = [(strict, "recursiveReadOnly"), (blocks, "volumeDevices"), (signal, "lifecycle.stopSignal")];
    let (_, what) = asked.into_iter().find(|(asked, _)| *asked)?;
    Some(format!("container {}: {what} is not supported by this node", container.name))
}

/// The bind mount of `host` at `container`.
pub fn mount(container: impl AsRef<Path>, host: impl AsRef<Path>, readonly: bool) -> cri::Mount {
    cri::Mount {
        container_path: container.as_ref().to_string_lossy().into_owned(),
        host_path: host.as_ref().to_string_lossy().into_owned(),
        readonly,
        ..Default::default()
    }
}

/// The hosts file of a pod on its own network.
pub fn hosts_file(pod: &Pod, ips: &[String]) -> String {
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n",
    );
    let name = hostname(pod);
    for ip in ips {
        text.push_str(&format!("{ip}\t{name}\n"));
    }
    let aliases = pod.spec.iter().flat_map(|spec| spec.host_aliases.iter().flatten());
    for alias in aliases {
        let names: Vec<&str> = alias.hostnames.iter().flatten().map(String::as_str).collect();
        text.push_str(&format!("{}\t{}\n", alias.ip, names.join("\t")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(value: Value) -> PodSpec {
        serde_json::from_value(value).expect("a spec")
    }

    #[test]
    fn what_would_be_ignored_is_refused() {
        let of_pod = |field: &str, value: Value| unsupported(&spec(json!({"containers": [], field: value})));
        let of_container = |field: &str, value: Value| {
            unsupported(&spec(json!({"containers": [{"name": "c", field: value}]})))
        };
        for (text, name) in [
            (of_pod("hostUsers", json!(false)), "hostUsers"),
            (of_pod("setHostnameAsFQDN", json!(true)), "setHostnameAsFQDN"),
            (
                of_pod("securityContext", json!({"supplementalGroupsPolicy": "Strict"})),
                "supplementalGroupsPolicy",
            ),
            (of_pod("resourceClaims", json!([{"name": "r"}])), "resourceClaims"),
            (of_container("lifecycle", json!({"stopSignal": "SIGUSR1"})), "stopSignal"),
            (of_container("volumeDevices", json!([{"name": "v", "devicePath": "/d"}])), "volumeDevices"),
            (
                of_container(
                    "volumeMounts",
                    json!([{"name": "v", "mountPath": "/v", "recursiveReadOnly": "Enabled"}]),
                ),
                "recursiveReadOnly",
            ),
        ] {
            assert!(text.as_ref().is_some_and(|text| text.contains(name)), "{name}: {text:?}");
        }
        assert_eq!(of_pod("hostUsers", json!(true)), None);
        assert_eq!(of_container("lifecycle", json!({"preStop": {"sleep": {"seconds": 1}}})), None);
    }

    #[test]
    fn profiles_of_the_container_stand_before_those_of_the_pod() {
        let context =
            json!({"seLinuxOptions": {"level": "s0:c1"}, "appArmorProfile": {"type": "RuntimeDefault"}});
        let own = json!({"appArmorProfile": {"type": "Localhost", "localhostProfile": "p"}});
        let spec =
            spec(json!({"securityContext": context, "containers": [{"name": "c", "securityContext": own}]}));
        let made = container_security(&spec, &spec.containers[0]);
        assert_eq!(made.apparmor.map(|profile| profile.localhost_ref).as_deref(), Some("p"));
        assert_eq!(made.selinux_options.map(|options| options.level).as_deref(), Some("s0:c1"));
        let none = container_security(&PodSpec::default(), &Container::default());
        assert_eq!((none.apparmor, none.selinux_options), (None, None));
    }
}
