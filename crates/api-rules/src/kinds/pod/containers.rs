//! Containers of the three lists: names, images, ports, mounts, policies (upstream: `validateContainers`,
//! `validateInitContainers`, `validateEphemeralContainers`).

use super::volumes::Volumes;
use super::{Place, env, probes, resources, security};
use crate::errors::{At, Errors};
use crate::format;
use crate::look::Look;
use serde_json::Value;
use std::collections::HashSet;

const PULL: &[&str] = &["Always", "IfNotPresent", "Never"];
const TERMINATION: &[&str] = &["FallbackToLogsOnError", "File"];
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const MAX_RESTART_RULES: usize = 20;
const MAX_EXIT_CODES: usize = 255;
/// Fields an ephemeral container may not have.
const NOT_EPHEMERAL: &[&str] =
    &["lifecycle", "livenessProbe", "ports", "readinessProbe", "resizePolicy", "resources", "startupProbe"];

/// Which list a container stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum List {
    Main,
    Init,
    Ephemeral,
}

/// What the checks of a container need to know of its surroundings.
pub(super) struct Around<'a> {
    pub spec: &'a Value,
    pub place: Place,
    pub volumes: &'a Volumes<'a>,
    pub list: List,
}

/// All containers of a pod spec.
pub(super) fn validate(spec: &Value, place: Place, volumes: &Volumes<'_>, at: At<'_>, errors: &mut Errors) {
    let around = |list| Around { spec, place, volumes, list };
    let mut names: HashSet<&str> = HashSet::new();
    let mut host_ports: HashSet<(String, String, i64)> = HashSet::new();
    let main_at = at.at("containers");
    let main = spec.items("containers");
    if main.is_empty() {
        errors.required(main_at, "");
    }
    for (i, container) in main.iter().enumerate() {
        let at = main_at.index(i);
        common(container, &around(List::Main), at, errors);
        unique_name(container, &mut names, at, errors);
        unique_host_ports(container, &mut host_ports, at, errors);
        probes::main_container(container, spec, at, errors);
        restart(container, at, errors);
    }
    let init_at = at.at("initContainers");
    for (i, container) in spec.items("initContainers").iter().enumerate() {
        let at = init_at.index(i);
        common(container, &around(List::Init), at, errors);
        unique_name(container, &mut names, at, errors);
        init_container(container, spec, at, errors);
        unique_host_ports(container, &mut HashSet::new(), at, errors);
    }
    let ephemeral_at = at.at("ephemeralContainers");
    for (i, container) in spec.items("ephemeralContainers").iter().enumerate() {
        let at = ephemeral_at.index(i);
        common(container, &around(List::Ephemeral), at, errors);
        unique_name(container, &mut names, at, errors);
        ephemeral_container(container, spec, at, errors);
    }
}

fn unique_name<'a>(container: &'a Value, names: &mut HashSet<&'a str>, at: At<'_>, errors: &mut Errors) {
    let name = container.text("name");
    if !names.insert(name) && !name.is_empty() {
        errors.duplicate(at.at("name"), name);
    }
}

fn common(container: &Value, around: &Around<'_>, at: At<'_>, errors: &mut Errors) {
    let name = container.text("name");
    if name.is_empty() {
        errors.required(at.at("name"), "");
    } else {
        errors.format(at.at("name"), name, format::dns1123_label(name));
    }
    let image = container.text("image");
    if image.is_empty() {
        errors.required(at.at("image"), "");
    } else if around.place == Place::Pod && image.trim() != image {
        errors.invalid(at.at("image"), image, "must not have leading or trailing whitespace");
    }
    errors.one_of(at.at("terminationMessagePolicy"), container.text("terminationMessagePolicy"), TERMINATION);
    ports(container, around, at, errors);
    env::validate(container, around, at, errors);
    mounts(container, around, at, errors);
    devices(container, around.volumes, at, errors);
    errors.one_of(at.at("imagePullPolicy"), container.text("imagePullPolicy"), PULL);
    resources::container(container, around.spec, at, errors);
    resize_policy(container, around.spec, at, errors);
    security::container(container, around.spec, at, errors);
}

fn ports(container: &Value, around: &Around<'_>, at: At<'_>, errors: &mut Errors) {
    let list = at.at("ports");
    let mut names: HashSet<&str> = HashSet::new();
    for (i, port) in container.items("ports").iter().enumerate() {
        let at = list.index(i);
        let name = port.text("name");
        if !name.is_empty() {
            let problems = format::port_name(name);
            if !problems.is_empty() {
                errors.format(at.at("name"), name, problems);
            } else if !names.insert(name) {
                errors.duplicate(at.at("name"), name);
            }
        }
        numbers(port, around, at, errors);
        errors.one_of(at.at("protocol"), port.text("protocol"), PROTOCOLS);
        if !port.text("hostIP").is_empty() {
            errors.format(at.at("hostIP"), port.text("hostIP"), format::ip(port.text("hostIP")));
        }
    }
}

fn numbers(port: &Value, around: &Around<'_>, at: At<'_>, errors: &mut Errors) {
    let (inner, outer) = (port.int("containerPort"), port.int("hostPort"));
    if inner == 0 {
        errors.required(at.at("containerPort"), "");
    }
    for (field, number) in [("containerPort", inner), ("hostPort", outer)] {
        for problem in if number == 0 { Vec::new() } else { format::port_number(number) } {
            errors.invalid(at.at(field), number, problem);
        }
    }
    // In a template the host port may be left out: the pod gets it.
    let settled = around.place == Place::Pod || outer != 0;
    if around.list == List::Main && around.spec.flag("hostNetwork") && settled && outer != inner {
        let text = "must match `containerPort` when `hostNetwork` is true";
        errors.invalid(at.at("hostPort"), outer, text);
    }
}

fn unique_host_ports(
    container: &Value,
    seen: &mut HashSet<(String, String, i64)>,
    at: At<'_>,
    errors: &mut Errors,
) {
    let list = at.at("ports");
    for (i, port) in container.items("ports").iter().enumerate() {
        let number = port.int("hostPort");
        let key = (port.text("protocol").to_owned(), port.text("hostIP").to_owned(), number);
        if number != 0 && !seen.insert(key) {
            let text = format!("{}/{}/{number}", port.text("protocol"), port.text("hostIP"));
            errors.duplicate(list.index(i).at("hostPort"), text);
        }
    }
}

fn mounts(container: &Value, around: &Around<'_>, at: At<'_>, errors: &mut Errors) {
    let list = at.at("volumeMounts");
    let devices = container.items("volumeDevices");
    let mut paths: HashSet<&str> = HashSet::new();
    for (i, mount) in container.items("volumeMounts").iter().enumerate() {
        let at = list.index(i);
        let (name, path) = (mount.text("name"), mount.text("mountPath"));
        if name.is_empty() {
            errors.required(at.at("name"), "");
        } else if !around.volumes.has(name) {
            errors.not_found(at.at("name"), name);
        }
        if path.is_empty() {
            errors.required(at.at("mountPath"), "");
        }
        if !paths.insert(path) {
            errors.invalid(at.at("mountPath"), path, "must be unique");
        }
        if devices.iter().any(|d| d.text("name") == name) {
            errors.invalid(at.at("name"), name, "must not already exist in volumeDevices");
        }
        if devices.iter().any(|d| d.text("devicePath") == path) {
            errors.invalid(at.at("mountPath"), path, "must not already exist as a path in volumeDevices");
        }
        sub_paths(mount, around.list, at, errors);
        propagation(mount, container, at, errors);
    }
}

fn sub_paths(mount: &Value, list: List, at: At<'_>, errors: &mut Errors) {
    let (plain, expanded) = (mount.text("subPath"), mount.text("subPathExpr"));
    for (field, path) in [("subPath", plain), ("subPathExpr", expanded)] {
        if !path.is_empty() {
            super::volumes::descending(path, at.at(field), errors);
        }
    }
    if !plain.is_empty() && !expanded.is_empty() {
        errors.invalid(at.at("subPathExpr"), expanded, "subPathExpr and subPath are mutually exclusive");
    }
    for field in ["subPath", "subPathExpr"] {
        if list == List::Ephemeral && !mount.text(field).is_empty() {
            errors.forbidden(at.at(field), "cannot be set for an Ephemeral Container");
        }
    }
}

fn propagation(mount: &Value, container: &Value, at: At<'_>, errors: &mut Errors) {
    let wanted = mount.text("mountPropagation");
    let path = at.at("mountPropagation");
    errors.optional_of(path, wanted, &["Bidirectional", "HostToContainer", "None"]);
    if wanted == "Bidirectional" && !container.flag("securityContext.privileged") {
        errors.forbidden(path, "Bidirectional mount propagation is available only to privileged containers");
    }
    let read_only = mount.text("recursiveReadOnly");
    let path = at.at("recursiveReadOnly");
    if read_only.is_empty() || read_only == "Disabled" {
        return;
    }
    if !matches!(read_only, "Enabled" | "IfPossible") {
        errors.not_supported(path, read_only, &["Disabled", "Enabled", "IfPossible"]);
        return;
    }
    if !mount.flag("readOnly") {
        errors.forbidden(path, "may only be specified when readOnly is true");
    }
    if !matches!(wanted, "" | "None") {
        errors.forbidden(path, "may only be specified when mountPropagation is None or not specified");
    }
}

fn devices(container: &Value, volumes: &Volumes<'_>, at: At<'_>, errors: &mut Errors) {
    let list = at.at("volumeDevices");
    let mounts = container.items("volumeMounts");
    let all = container.items("volumeDevices");
    for (i, device) in all.iter().enumerate() {
        let at = list.index(i);
        let (name, path) = (device.text("name"), device.text("devicePath"));
        let (name_at, path_at) = (at.at("name"), at.at("devicePath"));
        if name.is_empty() {
            errors.required(name_at, "");
        } else if !volumes.has(name) {
            errors.not_found(name_at, name);
        } else if !volumes.is_block(name) {
            let text = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
            errors.invalid(name_at, name, text);
        }
        if all[..i].iter().any(|d| d.text("name") == name) {
            errors.invalid(name_at, name, "must be unique");
        }
        if path.is_empty() {
            errors.required(path_at, "");
        } else if all[..i].iter().any(|d| d.text("devicePath") == path) {
            errors.invalid(path_at, path, "must be unique");
        } else if path.contains("..") {
            errors.invalid(path_at, path, "can not contain backsteps ('..')");
        }
        if mounts.iter().any(|m| m.text("name") == name) {
            errors.invalid(name_at, name, "must not already exist in volumeMounts");
        }
        if mounts.iter().any(|m| m.text("mountPath") == path) {
            errors.invalid(path_at, path, "must not already exist as a path in volumeMounts");
        }
    }
}

fn resize_policy(container: &Value, spec: &Value, at: At<'_>, errors: &mut Errors) {
    let list = at.at("resizePolicy");
    let all = container.items("resizePolicy");
    for (i, policy) in all.iter().enumerate() {
        let at = list.index(i);
        let name = policy.text("resourceName");
        if all[..i].iter().any(|p| p.text("resourceName") == name) {
            errors.duplicate(at, name);
        }
        errors.one_of(at, name, &["cpu", "memory"]);
        let restart = policy.text("restartPolicy");
        errors.one_of(at, restart, &["NotRequired", "RestartContainer"]);
        if spec.text("restartPolicy") == "Never" && restart == "RestartContainer" {
            errors.invalid(at, restart, "must be 'NotRequired' when pod `restartPolicy` is 'Never'");
        }
    }
}

/// Restart policy and rules of one container (KEP-5307).
fn restart(container: &Value, at: At<'_>, errors: &mut Errors) {
    let policy = container.at("restartPolicy").as_str();
    let rules = container.items("restartPolicyRules");
    let policy_at = at.at("restartPolicy");
    match policy {
        None if !rules.is_empty() => {
            errors.required(policy_at, "must specify restartPolicy when restart rules are used");
        }
        Some(p) if !matches!(p, "Always" | "Never" | "OnFailure") => {
            errors.not_supported(policy_at, p, &["Always", "Never", "OnFailure"]);
        }
        _ => {}
    }
    restart_rules(rules, at.at("restartPolicyRules"), errors);
}

fn restart_rules(rules: &[Value], list: At<'_>, errors: &mut Errors) {
    if rules.len() > MAX_RESTART_RULES {
        errors.too_many(list, rules.len(), MAX_RESTART_RULES);
    }
    for (i, rule) in rules.iter().enumerate() {
        let at = list.index(i);
        let action = rule.text("action");
        if !matches!(action, "Restart" | "RestartAllContainers") {
            errors.not_supported(at.at("action"), action, &["Restart", "RestartAllContainers"]);
        }
        let codes_at = at.at("exitCodes");
        if !rule.at("exitCodes").is_object() {
            errors.required(codes_at, "must be specified");
            continue;
        }
        let operator = rule.text("exitCodes.operator");
        if !matches!(operator, "In" | "NotIn") {
            errors.not_supported(codes_at.at("operator"), operator, &["In", "NotIn"]);
        }
        let values = rule.items("exitCodes.values").len();
        if values > MAX_EXIT_CODES {
            errors.too_many(codes_at.at("values"), values, MAX_EXIT_CODES);
        }
    }
}

fn init_container(container: &Value, spec: &Value, at: At<'_>, errors: &mut Errors) {
    let sidecar = container.text("restartPolicy") == "Always";
    if sidecar {
        probes::main_container(container, spec, at, errors);
        if !container.items("restartPolicyRules").is_empty() {
            let text = "restartPolicyRules are not allowed for init containers with restart policy Always";
            errors.forbidden(at.at("restartPolicyRules"), text);
        }
    } else {
        for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
            if container.has(field) {
                errors.forbidden(
                    at.at(field),
                    "may not be set for init containers without restartPolicy=Always",
                );
            }
        }
        if !container.items("resizePolicy").is_empty() {
            let shown = container.at("resizePolicy").clone();
            errors.invalid(at.at("resizePolicy"), shown, "must not be set for init containers");
        }
    }
    restart(container, at, errors);
}

fn ephemeral_container(container: &Value, spec: &Value, at: At<'_>, errors: &mut Errors) {
    let target = container.text("targetContainerName");
    let known = |list: &str| spec.items(list).iter().any(|c| c.text("name") == target);
    if !target.is_empty() && !known("containers") && !known("initContainers") {
        errors.not_found(at.at("targetContainerName"), target);
    }
    for field in NOT_EPHEMERAL.iter().chain(&["restartPolicy"]) {
        if !crate::look::is_zero(container.at(field)) {
            errors.forbidden(at.at(field), "cannot be set for an Ephemeral Container");
        }
    }
}
