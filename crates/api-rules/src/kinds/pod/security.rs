//! Security contexts and the use of the host's namespaces.

use crate::errors::{At, Errors};
use crate::look::Look;
use serde_json::Value;
use std::collections::HashSet;

/// Largest user and group id.
const MAX_ID: i64 = i32::MAX as i64;
/// Longest name of a sysctl in bytes.
const MAX_SYSCTL: usize = 253;
const SYSCTL_FORM: &str = "([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?";
const PROFILES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];

fn id(value: &Value, at: At<'_>, errors: &mut Errors) {
    if let Some(id) = value.as_i64().filter(|id| !(0..=MAX_ID).contains(id)) {
        errors.invalid(at, id, format!("must be between 0 and {MAX_ID}, inclusive"));
    }
}

/// `securityContext` and host namespaces of a pod spec.
pub(super) fn pod(spec: &Value, at: At<'_>, errors: &mut Errors) {
    super::resources::pod(spec, at, errors);
    host_users(spec, at, errors);
    if spec.flag("shareProcessNamespace") && spec.flag("hostPID") {
        errors.invalid(
            at.at("shareProcessNamespace"),
            true,
            "ShareProcessNamespace and HostPID cannot both be enabled",
        );
    }
    let context = spec.at("securityContext");
    let at = at.at("securityContext");
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(context.at(field), at.at(field), errors);
    }
    let groups = at.at("supplementalGroups");
    for (i, group) in context.items("supplementalGroups").iter().enumerate() {
        id(group, groups.index(i), errors);
    }
    sysctls(spec, at.at("sysctls"), errors);
    errors.optional_of(
        at.at("fsGroupChangePolicy"),
        context.text("fsGroupChangePolicy"),
        &["Always", "OnRootMismatch"],
    );
    errors.optional_of(
        at.at("supplementalGroupsPolicy"),
        context.text("supplementalGroupsPolicy"),
        &["Merge", "Strict"],
    );
    errors.optional_of(
        at.at("seLinuxChangePolicy"),
        context.text("seLinuxChangePolicy"),
        &["MountOption", "Recursive"],
    );
    profiles(context, at, errors);
    operating_system(spec, context, at, errors);
}

fn operating_system(spec: &Value, context: &Value, at: At<'_>, errors: &mut Errors) {
    if spec.text("os.name") == "linux" && context.has("windowsOptions") {
        errors.forbidden(at.at("windowsOptions"), "windows options cannot be set for a linux pod");
    }
    if spec.text("os.name") != "windows" {
        return;
    }
    let spec_at = At::root("spec");
    for field in ["hostPID", "hostIPC", "hostUsers", "shareProcessNamespace"] {
        if spec.has(field) && spec.at(field) != &Value::Bool(false) {
            errors.forbidden(spec_at.at(field), "cannot be set for a windows pod");
        }
    }
    for field in [
        "appArmorProfile",
        "seLinuxOptions",
        "seccompProfile",
        "fsGroup",
        "fsGroupChangePolicy",
        "sysctls",
        "runAsUser",
        "runAsGroup",
        "supplementalGroups",
        "supplementalGroupsPolicy",
    ] {
        if !crate::look::is_zero(context.at(field)) {
            errors.forbidden(at.at(field), "cannot be set for a windows pod");
        }
    }
}

fn host_users(spec: &Value, at: At<'_>, errors: &mut Errors) {
    if spec.at("hostUsers") != &Value::Bool(false) {
        return;
    }
    for (field, shown) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if spec.flag(field) {
            errors.forbidden(at.at(shown), "when `hostUsers` is false");
        }
    }
}

fn sysctls(spec: &Value, list: At<'_>, errors: &mut Errors) {
    let mut seen: HashSet<&str> = HashSet::new();
    for (i, sysctl) in spec.items("securityContext.sysctls").iter().enumerate() {
        let name = sysctl.text("name");
        let at = list.index(i);
        if name.is_empty() {
            errors.required(at.at("name"), "");
        } else if !is_sysctl(name) {
            let text = format!("must have at most {MAX_SYSCTL} characters and match regex ^{SYSCTL_FORM}$");
            errors.invalid(at.at("name"), name, text);
        } else if !seen.insert(name) {
            errors.duplicate(at.at("name"), name);
        }
        let dotted = name.replace('/', ".");
        if spec.flag("hostNetwork") && dotted.starts_with("net.") {
            errors.invalid(at.at("name"), name, "may not be specified when 'hostNetwork' is true");
        }
        let of_ipc = dotted.starts_with("kernel.shm")
            || dotted.starts_with("kernel.msg")
            || dotted == "kernel.sem"
            || dotted.starts_with("fs.mqueue.");
        if spec.flag("hostIPC") && of_ipc {
            errors.invalid(at.at("name"), name, "may not be specified when 'hostIPC' is true");
        }
    }
}

fn is_sysctl(name: &str) -> bool {
    let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let segment = |s: &str| {
        let b = s.as_bytes();
        !b.is_empty()
            && edge(b[0])
            && edge(b[b.len() - 1])
            && b.iter().all(|c| edge(*c) || matches!(c, b'-' | b'_'))
    };
    name.len() <= MAX_SYSCTL && name.split(['.', '/']).all(segment)
}

/// Seccomp and AppArmor profiles of a pod or container.
fn profiles(context: &Value, at: At<'_>, errors: &mut Errors) {
    for (field, name) in [("seccompProfile", "seccomp"), ("appArmorProfile", "AppArmor")] {
        let profile = context.at(field);
        if !profile.is_object() {
            continue;
        }
        let at = at.at(field);
        let (kind, local) = (profile.text("type"), profile.at("localhostProfile"));
        let local_at = at.at("localhostProfile");
        if kind.is_empty() {
            errors.required(at.at("type"), format!("type is required when {field} is set"));
        } else if !PROFILES.contains(&kind) {
            errors.not_supported(at.at("type"), kind, PROFILES);
        }
        match (kind, local.as_str()) {
            ("Localhost", None | Some("")) => {
                errors.required(local_at, format!("must be set when {name} type is Localhost"));
            }
            ("Localhost", Some(path)) if field == "seccompProfile" => {
                super::volumes::descending(path, local_at, errors);
            }
            ("Localhost", Some(path)) if path.trim() != path => {
                errors.invalid(local_at, path, "must not be padded with whitespace");
            }
            ("Localhost", _) | (_, None) => {}
            (_, Some(path)) => {
                errors.invalid(local_at, path, format!("can only be set when {name} type is Localhost"));
            }
        }
    }
}

/// `securityContext` of a container.
pub(super) fn container(container: &Value, spec: &Value, at: At<'_>, errors: &mut Errors) {
    let context = container.at("securityContext");
    if !context.is_object() {
        return;
    }
    let at = at.at("securityContext");
    for field in ["runAsUser", "runAsGroup"] {
        id(context.at(field), at.at(field), errors);
    }
    let mount = context.text("procMount");
    errors.optional_of(at.at("procMount"), mount, &["Default", "Unmasked"]);
    if mount == "Unmasked" && spec.at("hostUsers") != &Value::Bool(false) {
        errors.invalid(at.at("procMount"), mount, "`hostUsers` must be false to use `Unmasked`");
    }
    profiles(context, at, errors);
    if context.at("allowPrivilegeEscalation") != &Value::Bool(false) {
        return;
    }
    if context.flag("privileged") {
        let text = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
        errors.invalid(at, context.clone(), text);
    }
    if context.items("capabilities.add").iter().any(|c| c == "CAP_SYS_ADMIN") {
        let text = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
        errors.invalid(at, context.clone(), text);
    }
}
