//! Defaults that depend on other fields: the rules that `data/defaults.txt` names with `call`.

use crate::look::{Look, items_mut, object_mut, remove, set};
use api_types::quantity::Quantity;
use serde_json::{Value, json};

/// The rule of that name.
pub(super) fn find(name: &str) -> Option<fn(&mut Value)> {
    Some(match name {
        "image_pull_policy" => image_pull_policy,
        "volume_source" => volume_source,
        "volume_image_pull_policy" => volume_image_pull_policy,
        "service_account" => service_account,
        "pod" => pod,
        "pod_ips" => pod_ips,
        "labels_from_template" => labels_from_template,
        "selector_from_template" => selector_from_template,
        "deployment_strategy" => deployment_strategy,
        "daemonset_strategy" => daemonset_strategy,
        "statefulset_strategy" => statefulset_strategy,
        "job" => job,
        "service" => service,
        "namespace_label" => namespace_label,
        "node_ranges" => node_ranges,
        "node_allocatable" => node_allocatable,
        "limit_range_item" => limit_range_item,
        "network_policy_types" => network_policy_types,
        "subject_api_group" => subject_api_group,
        "crd_names" => crd_names,
        "exact_count" => exact_count,
        "flat_device_request" => flat_device_request,
        _ => return None,
    })
}

fn default_text(value: &mut Value, path: &str, text: &str) {
    if value.text(path).is_empty() {
        set(value, path, Value::from(text));
    }
}

fn default_value(value: &mut Value, path: &str, new: Value) {
    if !value.has(path) {
        set(value, path, new);
    }
}

/// Quantities finer than a thousandth are rounded up to one.
pub(super) fn round_to_milli(map: &mut Value) {
    for amount in map.as_object_mut().into_iter().flat_map(|m| m.values_mut()) {
        let Some(quantity) = crate::look::quantity(amount) else { continue };
        let rounded = Quantity::from_millis(quantity.milli_value());
        if rounded > quantity && quantity.milli_value() < i64::MAX {
            *amount = Value::String(rounded.to_string());
        }
    }
}

/// `Always` for the tag `latest` (no tag and no digest counts as it), else `IfNotPresent`.
fn policy_for(image: &str) -> &'static str {
    if image.contains('@') {
        return "IfNotPresent";
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    match last.split_once(':') {
        None | Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
    }
}

fn image_pull_policy(container: &mut Value) {
    let policy = policy_for(container.text("image"));
    default_text(container, "imagePullPolicy", policy);
}

fn volume_image_pull_policy(image: &mut Value) {
    let policy = policy_for(image.text("reference"));
    default_text(image, "pullPolicy", policy);
}

fn volume_source(volume: &mut Value) {
    if !volume.entries("").any(|(field, _)| field != "name") {
        set(volume, "emptyDir", json!({}));
    }
}

/// `serviceAccountName` and its deprecated alias follow each other; the new name wins.
fn service_account(spec: &mut Value) {
    let new = spec.text("serviceAccountName").to_owned();
    let old = spec.text("serviceAccount").to_owned();
    if new.is_empty() && !old.is_empty() {
        set(spec, "serviceAccountName", Value::from(old));
    } else if new != old {
        set(spec, "serviceAccount", Value::from(new));
    }
}

/// Requests follow limits; host network publishes every container port; a negative grace period is one second.
fn pod(pod: &mut Value) {
    let host_network = pod.flag("spec.hostNetwork");
    for list in ["spec.containers", "spec.initContainers"] {
        for container in items_mut(pod, list).into_iter().flatten() {
            requests_from_limits(container);
            if host_network {
                host_ports(container);
            }
        }
    }
    if pod.int("spec.terminationGracePeriodSeconds") < 0 {
        set(pod, "spec.terminationGracePeriodSeconds", json!(1));
    }
}

fn requests_from_limits(container: &mut Value) {
    let Some(limits) = container.at("resources.limits").as_object().cloned() else { return };
    if limits.is_empty() {
        return;
    }
    let requests = object_mut(container, "resources.requests");
    for (resource, amount) in limits {
        requests.entry(resource).or_insert(amount);
    }
}

fn host_ports(container: &mut Value) {
    for port in items_mut(container, "ports").into_iter().flatten() {
        if port.int("hostPort") == 0 && port.has("containerPort") {
            let number = port.at("containerPort").clone();
            set(port, "hostPort", number);
        }
    }
}

fn pod_ips(status: &mut Value) {
    let first = status.items("podIPs").first().map(|ip| ip.text("ip").to_owned());
    let ip = status.text("podIP").to_owned();
    match first {
        Some(first) if ip.is_empty() && !first.is_empty() => set(status, "podIP", Value::from(first)),
        first if !ip.is_empty() && first.as_deref() != Some(ip.as_str()) => {
            set(status, "podIPs", json!([{ "ip": ip }]));
        }
        _ => {}
    }
}

fn template_labels(object: &Value) -> Option<Value> {
    let labels = object.at("spec.template.metadata.labels");
    labels.as_object().filter(|l| !l.is_empty()).map(|_| labels.clone())
}

fn labels_from_template(object: &mut Value) {
    if super::is_empty(object.at("metadata.labels"))
        && let Some(labels) = template_labels(object)
    {
        set(object, "metadata.labels", labels);
    }
}

fn selector_from_template(object: &mut Value) {
    if super::is_empty(object.at("spec.selector"))
        && let Some(labels) = template_labels(object)
    {
        set(object, "spec.selector", labels);
    }
}

fn deployment_strategy(object: &mut Value) {
    if object.text("spec.strategy.type") == "RollingUpdate" {
        default_value(object, "spec.strategy.rollingUpdate.maxUnavailable", json!("25%"));
        default_value(object, "spec.strategy.rollingUpdate.maxSurge", json!("25%"));
    }
}

fn daemonset_strategy(object: &mut Value) {
    if object.text("spec.updateStrategy.type") == "RollingUpdate" {
        default_value(object, "spec.updateStrategy.rollingUpdate.maxUnavailable", json!(1));
        default_value(object, "spec.updateStrategy.rollingUpdate.maxSurge", json!(0));
    }
}

fn statefulset_strategy(object: &mut Value) {
    if object.text("spec.updateStrategy.type").is_empty() {
        set(object, "spec.updateStrategy.type", json!("RollingUpdate"));
        default_value(object, "spec.updateStrategy.rollingUpdate", json!({}));
    }
    if object.text("spec.updateStrategy.type") == "RollingUpdate"
        && object.has("spec.updateStrategy.rollingUpdate")
    {
        default_value(object, "spec.updateStrategy.rollingUpdate.partition", json!(0));
        default_value(object, "spec.updateStrategy.rollingUpdate.maxUnavailable", json!(1));
    }
}

fn job(job: &mut Value) {
    if !job.has("spec.completions") && !job.has("spec.parallelism") {
        set(job, "spec.completions", json!(1));
    }
    default_value(job, "spec.parallelism", json!(1));
    let retries = if job.has("spec.backoffLimitPerIndex") { i64::from(i32::MAX) } else { 6 };
    default_value(job, "spec.backoffLimit", json!(retries));
    let replacement = if job.has("spec.podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    default_value(job, "spec.podReplacementPolicy", json!(replacement));
}

fn service(service: &mut Value) {
    match service.text("spec.sessionAffinity") {
        "None" => drop(remove(service, "spec.sessionAffinityConfig")),
        "ClientIP" => {
            default_value(service, "spec.sessionAffinityConfig.clientIP.timeoutSeconds", json!(10_800))
        }
        _ => {}
    }
    for port in items_mut(service, "spec.ports").into_iter().flatten() {
        let target = port.at("targetPort");
        if (target.is_null() || target == &json!(0) || target == &json!("")) && port.has("port") {
            let number = port.at("port").clone();
            set(port, "targetPort", number);
        }
    }
    let kind = service.text("spec.type").to_owned();
    let external = matches!(kind.as_str(), "NodePort" | "LoadBalancer")
        || (kind == "ClusterIP" && !service.items("spec.externalIPs").is_empty());
    if external {
        default_text(service, "spec.externalTrafficPolicy", "Cluster");
    }
    if matches!(kind.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
        default_value(service, "spec.internalTrafficPolicy", json!("Cluster"));
    }
    if kind == "LoadBalancer" {
        default_value(service, "spec.allocateLoadBalancerNodePorts", json!(true));
        for ingress in items_mut(service, "status.loadBalancer.ingress").into_iter().flatten() {
            if !ingress.text("ip").is_empty() {
                default_value(ingress, "ipMode", json!("VIP"));
            }
        }
    }
}

fn namespace_label(namespace: &mut Value) {
    let name = namespace.text("metadata.name").to_owned();
    if !name.is_empty() {
        object_mut(namespace, "metadata.labels")
            .insert("kubernetes.io/metadata.name".into(), Value::from(name));
    }
}

/// The older field counts, where both are set (upstream: `Convert_v1_NodeSpec_To_core_NodeSpec`).
fn node_ranges(spec: &mut Value) {
    let range = spec.text("podCIDR").to_owned();
    let first = spec.items("podCIDRs").first().and_then(Value::as_str).unwrap_or_default().to_owned();
    if !range.is_empty() && range != first {
        set(spec, "podCIDRs", json!([range]));
    } else if range.is_empty() && !first.is_empty() {
        set(spec, "podCIDR", first.into());
    }
}

fn node_allocatable(status: &mut Value) {
    if !status.has("allocatable") && status.has("capacity") {
        let capacity = status.at("capacity").clone();
        set(status, "allocatable", capacity);
    }
}

fn limit_range_item(item: &mut Value) {
    if item.text("type") != "Container" {
        return;
    }
    for (target, source) in [("default", "max"), ("defaultRequest", "default"), ("defaultRequest", "min")] {
        let from = item.at(source).as_object().cloned().unwrap_or_default();
        if from.is_empty() {
            continue;
        }
        let into = object_mut(item, target);
        for (resource, amount) in from {
            into.entry(resource).or_insert(amount);
        }
    }
}

fn network_policy_types(policy: &mut Value) {
    if policy.has("spec") && policy.items("spec.policyTypes").is_empty() {
        let types = if policy.items("spec.egress").is_empty() {
            json!(["Ingress"])
        } else {
            json!(["Ingress", "Egress"])
        };
        set(policy, "spec.policyTypes", types);
    }
}

fn subject_api_group(subject: &mut Value) {
    if matches!(subject.text("kind"), "User" | "Group") {
        default_text(subject, "apiGroup", "rbac.authorization.k8s.io");
    }
}

fn crd_names(crd: &mut Value) {
    let kind = crd.text("spec.names.kind").to_owned();
    if !kind.is_empty() {
        default_text(crd, "spec.names.singular", &kind.to_lowercase());
        default_text(crd, "spec.names.listKind", &format!("{kind}List"));
    }
    if crd.items("status.storedVersions").is_empty() {
        let stored: Vec<Value> = crd
            .items("spec.versions")
            .iter()
            .filter(|v| v.flag("storage"))
            .map(|v| v.at("name").clone())
            .collect();
        if !stored.is_empty() {
            set(crd, "status.storedVersions", Value::Array(stored));
        }
    }
}

fn exact_count(request: &mut Value) {
    if request.text("allocationMode") == "ExactCount" && request.int("count") == 0 {
        set(request, "count", json!(1));
    }
}

fn flat_device_request(request: &mut Value) {
    if !request.text("deviceClassName").is_empty() {
        default_text(request, "allocationMode", "ExactCount");
        exact_count(request);
    }
}
