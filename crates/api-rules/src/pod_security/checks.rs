//! The single checks, in the order in which their violations are told.

use std::collections::BTreeSet;

use api_types::field::quote;
use api_types::meta;
use serde_json::Value;

use super::Violation;
use crate::look::Look;

type Run = fn(&Value) -> Option<Violation>;

/// A check as of a minor version of Kubernetes.
pub(super) struct Version {
    since: u32,
    pub run: Run,
    /// The baseline check that a restricted one stands for too.
    pub replaces: &'static str,
}

pub(super) struct Check {
    pub id: &'static str,
    versions: &'static [Version],
}

impl Check {
    pub fn at(&self, minor: u32) -> Option<&'static Version> {
        self.versions.iter().rev().find(|version| version.since <= minor)
    }
}

const fn since(since: u32, run: Run) -> Version {
    Version { since, run, replaces: "" }
}

const fn instead(since: u32, run: Run, replaces: &'static str) -> Version {
    Version { since, run, replaces }
}

pub(super) const BASELINE: &[Check] = &[
    Check { id: "appArmorProfile", versions: &[since(0, app_armor)] },
    Check { id: "capabilities_baseline", versions: &[since(0, default_capabilities)] },
    Check { id: "hostNamespaces", versions: &[since(0, host_namespaces)] },
    Check { id: "hostPathVolumes", versions: &[since(0, host_paths)] },
    Check { id: "hostPorts", versions: &[since(0, host_ports)] },
    Check { id: "hostProbesAndHostLifecycle", versions: &[since(34, hosts_of_probes)] },
    Check { id: "privileged", versions: &[since(0, privileged)] },
    Check { id: "procMount", versions: &[since(0, proc_mount), since(35, proc_mount_of_host_users)] },
    Check { id: "seLinuxOptions", versions: &[since(0, se_linux_0), since(31, se_linux_31)] },
    Check { id: "seccompProfile_baseline", versions: &[since(0, seccomp_annotations), since(19, seccomp)] },
    Check {
        id: "sysctls",
        versions: &[
            since(0, |pod| sysctls(pod, 5)),
            since(27, |pod| sysctls(pod, 6)),
            since(29, |pod| sysctls(pod, 10)),
            since(32, |pod| sysctls(pod, 12)),
            since(37, |pod| sysctls(pod, 14)),
        ],
    },
    Check { id: "windowsHostProcess", versions: &[since(0, host_process)] },
];

pub(super) const RESTRICTED: &[Check] = &[
    Check {
        id: "allowPrivilegeEscalation",
        versions: &[since(8, escalation), since(25, |pod| unless_windows(pod, escalation))],
    },
    Check {
        id: "capabilities_restricted",
        versions: &[
            instead(22, dropped_capabilities, "capabilities_baseline"),
            instead(25, |pod| unless_windows(pod, dropped_capabilities), "capabilities_baseline"),
        ],
    },
    Check { id: "procMount_restricted", versions: &[instead(35, proc_mount, "procMount")] },
    Check { id: "restrictedVolumes", versions: &[instead(0, volumes, "hostPathVolumes")] },
    Check {
        id: "runAsNonRoot",
        versions: &[since(0, non_root), since(35, |pod| unless_own_users(pod, non_root))],
    },
    Check {
        id: "runAsUser",
        versions: &[since(23, user_zero), since(35, |pod| unless_own_users(pod, user_zero))],
    },
    Check {
        id: "seccompProfile_restricted",
        versions: &[
            instead(19, seccomp_required, "seccompProfile_baseline"),
            instead(25, |pod| unless_windows(pod, seccomp_required), "seccompProfile_baseline"),
        ],
    },
];

/// Windows has nothing of the kind, and validation refuses the fields.
fn unless_windows(pod: &Value, check: Run) -> Option<Violation> {
    if pod.text("spec.os.name") == "windows" { None } else { check(pod) }
}

/// Root in a user namespace of its own is nobody outside (KEP-127).
fn unless_own_users(pod: &Value, check: Run) -> Option<Violation> {
    if pod.at("spec.hostUsers") == &Value::Bool(false) { None } else { check(pod) }
}

fn violation(reason: &str, detail: String) -> Option<Violation> {
    Some(Violation { reason: reason.to_owned(), detail })
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    let lists = ["spec.initContainers", "spec.containers", "spec.ephemeralContainers"];
    lists.into_iter().flat_map(|list| pod.items(list))
}

fn name(container: &Value) -> &str {
    container.text("name")
}

fn plural<'a>(one: &'a str, many: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { many }
}

/// `"a", "b"`: upstream does not escape.
fn quoted<'a>(items: impl IntoIterator<Item = &'a str>) -> String {
    items.into_iter().map(|item| format!("\"{item}\"")).collect::<Vec<_>>().join(", ")
}

/// `container "a"` or `containers "a", "b"`.
fn named(list: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", list.len()), quoted(list.iter().copied()))
}

/// `pod and containers "a", "b"`, of those that set something bad; empty when nobody does.
fn setters(pod: bool, list: &[&str]) -> String {
    let pod = pod.then(|| "pod".to_owned());
    let list = (!list.is_empty()).then(|| named(list));
    pod.into_iter().chain(list).collect::<Vec<_>>().join(" and ")
}

/// Names of the containers that are bad.
fn bad<'a>(pod: &'a Value, mut is_bad: impl FnMut(&'a Value) -> bool) -> Vec<&'a str> {
    containers(pod).filter(|container| is_bad(container)).map(name).collect()
}

fn app_armor(pod: &Value) -> Option<Violation> {
    let mut values = BTreeSet::new();
    let mut sets_bad = |context: &'_ Value| {
        let profile = context.at("appArmorProfile");
        let kind = profile.text("type");
        let bad = profile.is_object() && !matches!(kind, "RuntimeDefault" | "Localhost");
        if bad {
            values.insert(kind.to_owned());
        }
        bad
    };
    let whole = sets_bad(pod.at("spec.securityContext"));
    let list = bad(pod, |container| sets_bad(container.at("securityContext")));
    let mut annotations: Vec<String> = Vec::new();
    for (key, value) in meta::annotations(pod).into_iter().flatten() {
        let value = value.as_str().unwrap_or_default();
        let allowed = value.is_empty() || value == "runtime/default" || value.starts_with("localhost/");
        if key.starts_with("container.apparmor.security.beta.kubernetes.io/") && !allowed {
            annotations.push(format!("{key}={}", quote(value)));
        }
    }
    annotations.sort();
    let mut who: Vec<String> =
        Some(setters(whole, &list)).filter(|who| !who.is_empty()).into_iter().collect();
    if !annotations.is_empty() {
        who.push(plural("annotation", "annotations", annotations.len()).to_owned());
    }
    if who.is_empty() {
        return None;
    }
    let all: Vec<&str> = values.iter().chain(&annotations).map(String::as_str).collect();
    let reason = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", all.len());
    violation(reason, format!("{} must not set AppArmor profile type to {}", who.join(" and "), quoted(all)))
}

const DEFAULT_CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Containers that add capabilities outside of `allowed`, and those.
fn added<'a>(pod: &'a Value, allowed: &[&str]) -> (Vec<&'a str>, BTreeSet<&'a str>) {
    let mut others = BTreeSet::new();
    let list = bad(pod, |container| {
        let added = container.texts("securityContext.capabilities.add");
        let before: Vec<&str> = added.filter(|capability| !allowed.contains(capability)).collect();
        others.extend(before.iter().copied());
        !before.is_empty()
    });
    (list, others)
}

fn must_not_add(list: &[&str], capabilities: BTreeSet<&str>) -> String {
    format!("{} must not include {} in securityContext.capabilities.add", named(list), quoted(capabilities))
}

fn default_capabilities(pod: &Value) -> Option<Violation> {
    match added(pod, &DEFAULT_CAPABILITIES) {
        (list, _) if list.is_empty() => None,
        (list, others) => violation("non-default capabilities", must_not_add(&list, others)),
    }
}

fn dropped_capabilities(pod: &Value) -> Option<Violation> {
    let keeps = bad(pod, |container| {
        !container.items("securityContext.capabilities.drop").iter().any(|capability| capability == "ALL")
    });
    let mut details = Vec::new();
    if !keeps.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", named(&keeps)));
    }
    let (list, others) = added(pod, &["NET_BIND_SERVICE"]);
    if !list.is_empty() {
        details.push(must_not_add(&list, others));
    }
    if details.is_empty() { None } else { violation("unrestricted capabilities", details.join("; ")) }
}

fn host_namespaces(pod: &Value) -> Option<Violation> {
    let fields = ["hostNetwork", "hostPID", "hostIPC"].into_iter();
    let shared: Vec<String> =
        fields.filter(|field| pod.at("spec").flag(field)).map(|field| format!("{field}=true")).collect();
    if shared.is_empty() { None } else { violation("host namespaces", shared.join(", ")) }
}

fn named_volumes(list: &[&str]) -> String {
    format!("{} {}", plural("volume", "volumes", list.len()), quoted(list.iter().copied()))
}

fn host_paths(pod: &Value) -> Option<Violation> {
    let volumes = pod.items("spec.volumes").iter().filter(|volume| volume.has("hostPath"));
    let list: Vec<&str> = volumes.map(name).collect();
    if list.is_empty() { None } else { violation("hostPath volumes", named_volumes(&list)) }
}

fn host_ports(pod: &Value) -> Option<Violation> {
    let mut ports = BTreeSet::new();
    let list = bad(pod, |container| {
        let own = container.items("ports").iter().map(|port| port.int("hostPort"));
        let own: Vec<String> = own.filter(|port| *port != 0).map(|port| port.to_string()).collect();
        let any = !own.is_empty();
        ports.extend(own);
        any
    });
    if list.is_empty() {
        return None;
    }
    let (uses, word) = (plural("uses", "use", list.len()), plural("hostPort", "hostPorts", ports.len()));
    let ports: Vec<String> = ports.into_iter().collect();
    violation("hostPort", format!("{} {uses} {word} {}", named(&list), ports.join(", ")))
}

fn hosts_of_probes(pod: &Value) -> Option<Violation> {
    let handlers =
        ["livenessProbe", "readinessProbe", "startupProbe", "lifecycle.postStart", "lifecycle.preStop"];
    let mut hosts = BTreeSet::new();
    let list = bad(pod, |container| {
        let places = handlers.iter().flat_map(|path| {
            let handler = container.at(path);
            [handler.text("httpGet.host"), handler.text("tcpSocket.host")]
        });
        let own: Vec<&str> = places.filter(|host| !host.is_empty()).collect();
        hosts.extend(own.iter().copied());
        !own.is_empty()
    });
    if list.is_empty() {
        return None;
    }
    let list: Vec<&str> = list.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
    let (uses, word) = (
        plural("uses", "use", list.len()),
        plural("probe or lifecycle host", "probe or lifecycle hosts", hosts.len()),
    );
    violation("probe or lifecycle host", format!("{} {uses} {word} {}", named(&list), quoted(hosts)))
}

fn privileged(pod: &Value) -> Option<Violation> {
    let list = bad(pod, |container| container.flag("securityContext.privileged"));
    let detail = || format!("{} must not set securityContext.privileged=true", named(&list));
    if list.is_empty() { None } else { violation("privileged", detail()) }
}

fn proc_mount(pod: &Value) -> Option<Violation> {
    let mut kinds = BTreeSet::new();
    let list = bad(pod, |container| {
        let kind = container.at("securityContext.procMount").as_str().filter(|kind| *kind != "Default");
        kinds.extend(kind);
        kind.is_some()
    });
    let detail =
        |kinds| format!("{} must not set securityContext.procMount to {}", named(&list), quoted(kinds));
    if list.is_empty() { None } else { violation("procMount", detail(kinds)) }
}

fn proc_mount_of_host_users(pod: &Value) -> Option<Violation> {
    unless_own_users(pod, proc_mount)
}

fn se_linux_0(pod: &Value) -> Option<Violation> {
    se_linux(pod, &["", "container_t", "container_init_t", "container_kvm_t"])
}

fn se_linux_31(pod: &Value) -> Option<Violation> {
    se_linux(pod, &["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"])
}

fn se_linux(pod: &Value, allowed: &[&str]) -> Option<Violation> {
    let (mut types, mut user, mut role) = (BTreeSet::new(), false, false);
    let mut sets_bad = |context: &'_ Value| {
        let options = context.at("seLinuxOptions");
        let kind = options.text("type");
        let bad_kind = !allowed.contains(&kind);
        if bad_kind {
            types.insert(kind.to_owned());
        }
        let (sets_user, sets_role) = (!options.text("user").is_empty(), !options.text("role").is_empty());
        (user, role) = (user | sets_user, role | sets_role);
        bad_kind || sets_user || sets_role
    };
    let whole = sets_bad(pod.at("spec.securityContext"));
    let list = bad(pod, |container| sets_bad(container.at("securityContext")));
    let who = setters(whole, &list);
    if who.is_empty() {
        return None;
    }
    let mut what = Vec::new();
    if !types.is_empty() {
        let list = quoted(types.iter().map(String::as_str));
        what.push(format!("{} {list}", plural("type", "types", types.len())));
    }
    what.extend(user.then(|| "user may not be set".to_owned()));
    what.extend(role.then(|| "role may not be set".to_owned()));
    let detail = format!("{who} set forbidden securityContext.seLinuxOptions: {}", what.join("; "));
    violation("seLinuxOptions", detail)
}

const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";

fn seccomp_annotations(pod: &Value) -> Option<Violation> {
    let keys = containers(pod).map(|container| format!("{SECCOMP_CONTAINER}{}", name(container)));
    let bad: BTreeSet<String> = std::iter::once(SECCOMP_POD.to_owned())
        .chain(keys)
        .filter_map(|key| {
            let value = meta::annotation(pod, &key)?;
            let allowed =
                matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/");
            (!allowed).then(|| format!("{key}={}", quote(value)))
        })
        .collect();
    if bad.is_empty() {
        return None;
    }
    let word = plural("annotation", "annotations", bad.len());
    let list: Vec<String> = bad.into_iter().collect();
    violation("seccompProfile", format!("forbidden {word} {}", list.join(", ")))
}

/// Whether a security context sets a profile, and whether that is a good one.
fn profile(context: &Value) -> Option<(bool, &str)> {
    let profile = context.at("seccompProfile");
    let kind = profile.text("type");
    profile.is_object().then_some((matches!(kind, "RuntimeDefault" | "Localhost"), kind))
}

fn seccomp(pod: &Value) -> Option<Violation> {
    let mut kinds = BTreeSet::new();
    let mut sets_bad = |context: &'_ Value| {
        let bad = profile(context).filter(|(good, _)| !good);
        kinds.extend(bad.map(|(_, kind)| kind.to_owned()));
        bad.is_some()
    };
    let whole = sets_bad(pod.at("spec.securityContext"));
    let list = bad(pod, |container| sets_bad(container.at("securityContext")));
    let who = setters(whole, &list);
    if who.is_empty() {
        return None;
    }
    let kinds = quoted(kinds.iter().map(String::as_str));
    violation("seccompProfile", format!("{who} must not set securityContext.seccompProfile.type to {kinds}"))
}

fn seccomp_required(pod: &Value) -> Option<Violation> {
    if let Some(violation) = seccomp(pod) {
        return Some(violation);
    }
    let whole = profile(pod.at("spec.securityContext")).is_some();
    let list = bad(pod, |container| !whole && profile(container.at("securityContext")).is_none());
    if list.is_empty() {
        return None;
    }
    let text = "must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"";
    violation("seccompProfile", format!("pod or {} {text}", named(&list)))
}

/// In the order in which later versions added to them.
const SYSCTLS: [&str; 14] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.ipv4.tcp_slow_start_after_idle",
    "net.ipv4.tcp_notsent_lowat",
];

fn sysctls(pod: &Value, allowed: usize) -> Option<Violation> {
    let set = pod.items("spec.securityContext.sysctls").iter().map(name);
    let others: Vec<&str> = set.filter(|name| !SYSCTLS[..allowed].contains(name)).collect();
    if others.is_empty() { None } else { violation("forbidden sysctls", others.join(", ")) }
}

fn host_process(pod: &Value) -> Option<Violation> {
    let sets = |context: &Value| context.flag("windowsOptions.hostProcess");
    let list = bad(pod, |container| sets(container.at("securityContext")));
    let who = setters(sets(pod.at("spec.securityContext")), &list);
    let detail = format!("{who} must not set securityContext.windowsOptions.hostProcess=true");
    if who.is_empty() { None } else { violation("hostProcess", detail) }
}

fn escalation(pod: &Value) -> Option<Violation> {
    let list =
        bad(pod, |container| container.at("securityContext.allowPrivilegeEscalation") != &Value::Bool(false));
    let detail = || format!("{} must set securityContext.allowPrivilegeEscalation=false", named(&list));
    if list.is_empty() { None } else { violation("allowPrivilegeEscalation != false", detail()) }
}

const VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];
const OTHER_VOLUMES: [&str; 21] = [
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "gitRepo",
    "nfs",
    "iscsi",
    "glusterfs",
    "rbd",
    "flexVolume",
    "cinder",
    "cephfs",
    "flocker",
    "fc",
    "azureFile",
    "vsphereVolume",
    "quobyte",
    "azureDisk",
    "photonPersistentDisk",
    "portworxVolume",
    "scaleIO",
    "storageos",
];

fn volumes(pod: &Value) -> Option<Violation> {
    let all = pod.items("spec.volumes").iter();
    let others: Vec<&Value> = all.filter(|volume| !VOLUMES.iter().any(|kind| volume.has(kind))).collect();
    if others.is_empty() {
        return None;
    }
    let kind = |volume: &&Value| OTHER_VOLUMES.into_iter().find(|kind| volume.has(kind)).unwrap_or("unknown");
    let kinds: BTreeSet<&str> = others.iter().map(kind).collect();
    let list: Vec<&str> = others.iter().map(|volume| name(volume)).collect();
    let (uses, word) = (
        plural("uses", "use", list.len()),
        plural("restricted volume type", "restricted volume types", kinds.len()),
    );
    let detail = format!("{} {uses} {word} {}", named_volumes(&list), quoted(kinds));
    violation("restricted volume types", detail)
}

fn non_root(pod: &Value) -> Option<Violation> {
    let said = |context: &Value| context.at("runAsNonRoot").as_bool();
    let whole = said(pod.at("spec.securityContext"));
    let of = |container: &Value| said(container.at("securityContext"));
    let who = setters(whole == Some(false), &bad(pod, |container| of(container) == Some(false)));
    if !who.is_empty() {
        let detail = format!("{who} must not set securityContext.runAsNonRoot=false");
        return violation("runAsNonRoot != true", detail);
    }
    let list = bad(pod, |container| of(container).is_none() && whole != Some(true));
    let detail = || format!("pod or {} must set securityContext.runAsNonRoot=true", named(&list));
    if list.is_empty() { None } else { violation("runAsNonRoot != true", detail()) }
}

fn user_zero(pod: &Value) -> Option<Violation> {
    let is_zero = |context: &Value| context.int_opt("runAsUser") == Some(0);
    let list = bad(pod, |container| is_zero(container.at("securityContext")));
    let who = setters(is_zero(pod.at("spec.securityContext")), &list);
    if who.is_empty() { None } else { violation("runAsUser=0", format!("{who} must not set runAsUser=0")) }
}
