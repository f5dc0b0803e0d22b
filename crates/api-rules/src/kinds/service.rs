//! Service: ports, addresses, and what an update takes over from the stored one.
//!
//! Cluster IPs and node ports are allocated by the API server, between `prepare_*` and `validate`.

use super::Kind;
use super::pod::port_number_or_name;
use crate::errors::{At, Errors};
use crate::format;
use crate::look::{Look, items_mut, remove, same, set};
use crate::meta::{self, NameFormat};
use serde_json::{Value, json};
use std::collections::HashSet;

const SPEC: At<'static> = At::root("spec");
const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
/// Longest session affinity in seconds: a day.
const MAX_AFFINITY: i64 = 86_400;
const ONLY_BALANCER: &str = "may only be used when `type` is 'LoadBalancer'";
const NOT_EXTERNAL: &str = "may not be set for ExternalName services";
const FIXED: &str = "may not change once set";

pub(super) static KINDS: &[Kind] = &[Kind {
    prepare_create: cluster_ips,
    prepare_update,
    ..Kind::new("", "Service")
        .names(NameFormat::Label)
        .create(service)
        .update(service_update)
        .status(service_status)
}];

fn kind(service: &Value) -> &str {
    service.text("spec.type")
}

fn has_cluster_ip(service: &Value) -> bool {
    matches!(kind(service), "ClusterIP" | "NodePort" | "LoadBalancer")
}

fn has_node_ports(service: &Value) -> bool {
    match kind(service) {
        "NodePort" => true,
        "LoadBalancer" => service.at("spec.allocateLoadBalancerNodePorts").as_bool().unwrap_or(true),
        _ => false,
    }
}

fn has_health_check(service: &Value) -> bool {
    kind(service) == "LoadBalancer" && service.text("spec.externalTrafficPolicy") == "Local"
}

fn is_external(service: &Value) -> bool {
    matches!(kind(service), "NodePort" | "LoadBalancer")
        || (kind(service) == "ClusterIP" && !service.items("spec.externalIPs").is_empty())
}

/// `clusterIP` is `clusterIPs[0]` for clients that know only one of them.
fn cluster_ips(service: &mut Value) {
    let ip = service.text("spec.clusterIP").to_owned();
    if !ip.is_empty() && service.items("spec.clusterIPs").is_empty() {
        set(service, "spec.clusterIPs", json!([ip]));
    }
}

fn prepare_update(new: &mut Value, old: &Value) {
    follow_cluster_ip(new, old);
    take_over(new, old);
    drop_for_type(new, old);
}

/// A client that knows only `clusterIP` changed or cleared it: `clusterIPs` follows.
fn follow_cluster_ip(new: &mut Value, old: &Value) {
    let (now, before) = (new.text("spec.clusterIP").to_owned(), old.text("spec.clusterIP"));
    let list_kept = same(new.at("spec.clusterIPs"), old.at("spec.clusterIPs"));
    if !list_kept || now == before {
        return cluster_ips(new);
    }
    if now.is_empty() {
        remove(new, "spec.clusterIPs");
    } else if before.is_empty() {
        cluster_ips(new);
    } else {
        let mut list = new.items("spec.clusterIPs").to_vec();
        if let Some(first) = list.first_mut() {
            *first = json!(now);
            set(new, "spec.clusterIPs", Value::Array(list));
        }
    }
}

/// What was allocated and is not named again stays (upstream: `patchAllocatedValues`).
fn take_over(new: &mut Value, old: &Value) {
    if has_cluster_ip(new) && has_cluster_ip(old) {
        if new.text("spec.clusterIP").is_empty() {
            set(new, "spec.clusterIP", old.at("spec.clusterIP").clone());
        }
        let unset = new.items("spec.clusterIPs").is_empty();
        if unset && new.text("spec.clusterIP") == old.text("spec.clusterIP") {
            set(new, "spec.clusterIPs", old.at("spec.clusterIPs").clone());
        }
    }
    if has_node_ports(new) && has_node_ports(old) {
        let known = old.items("spec.ports");
        for port in items_mut(new, "spec.ports").into_iter().flatten() {
            if port.int("nodePort") != 0 {
                continue;
            }
            let twin =
                |o: &&Value| o.text("protocol") == port.text("protocol") && o.int("port") == port.int("port");
            if let Some(number) = known.iter().find(twin).map(|o| o.at("nodePort").clone()) {
                set(port, "nodePort", number);
            }
        }
    }
    if has_health_check(new) && has_health_check(old) && new.int("spec.healthCheckNodePort") == 0 {
        set(new, "spec.healthCheckNodePort", old.at("spec.healthCheckNodePort").clone());
    }
}

/// Fields that belonged to the old type go with it when the update left them as they were
/// (upstream: `dropTypeDependentFields`).
fn drop_for_type(new: &mut Value, old: &Value) {
    let (now, before) = (kind(new).to_owned(), kind(old));
    let left_cluster =
        has_cluster_ip(old) && !matches!(now.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer");
    if left_cluster {
        drop_same(new, old, &["spec.clusterIP", "spec.clusterIPs"]);
        drop_same(new, old, &["spec.ipFamilies"]);
        drop_same(new, old, &["spec.ipFamilyPolicy"]);
    }
    if before == "LoadBalancer" && now != "LoadBalancer" {
        drop_same(new, old, &["spec.allocateLoadBalancerNodePorts"]);
        drop_same(new, old, &["spec.loadBalancerClass"]);
    }
    if has_health_check(old) && !has_health_check(new) {
        drop_same(new, old, &["spec.healthCheckNodePort"]);
    }
    if is_external(old) && !is_external(new) {
        drop_same(new, old, &["spec.externalTrafficPolicy"]);
    }
    if has_node_ports(old) && !has_node_ports(new) && same_node_ports(new, old) {
        for port in items_mut(new, "spec.ports").into_iter().flatten() {
            remove(port, "nodePort");
        }
    }
}

fn drop_same(new: &mut Value, old: &Value, paths: &[&str]) {
    if paths.iter().all(|p| same(new.at(p), old.at(p))) {
        for path in paths {
            remove(new, path);
        }
    }
}

fn same_node_ports(new: &Value, old: &Value) -> bool {
    let of = |service: &Value| -> HashSet<i64> {
        service.items("spec.ports").iter().map(|p| p.int("nodePort")).filter(|n| *n != 0).collect()
    };
    of(new) == of(old)
}

fn service(object: &Value, errors: &mut Errors) {
    let spec = object.at("spec");
    let headless = spec.text("clusterIP") == "None";
    if spec.items("ports").is_empty() && !headless && kind(object) != "ExternalName" {
        errors.required(SPEC.at("ports"), "");
    }
    by_type(object, errors);
    let ports_at = SPEC.at("ports");
    let ports = spec.items("ports");
    let mut names = HashSet::new();
    for (i, port) in ports.iter().enumerate() {
        service_port(port, ports.len() > 1, headless, &mut names, ports_at.index(i), errors);
    }
    meta::validate_labels(spec.at("selector"), SPEC.at("selector"), errors);
    affinity(spec, errors);
    errors.one_of(SPEC.at("type"), kind(object), TYPES);
    if kind(object) != "ExternalName" {
        related_ips(spec, errors);
    }
    external_ips(spec, errors);
    unique_ports(object, errors);
    balancer(object, errors);
    traffic(object, errors);
}

fn by_type(object: &Value, errors: &mut Errors) {
    let spec = object.at("spec");
    let first = SPEC.at("clusterIPs");
    match kind(object) {
        which @ ("LoadBalancer" | "NodePort") if spec.text("clusterIP") == "None" => {
            errors.invalid(first.index(0), "None", format!("may not be set to 'None' for {which} services"));
        }
        "ExternalName" => {
            for field in ["clusterIPs", "ipFamilies"] {
                if !spec.items(field).is_empty() {
                    errors.forbidden(SPEC.at(field), NOT_EXTERNAL);
                }
            }
            if spec.has("ipFamilyPolicy") {
                errors.forbidden(SPEC.at("ipFamilyPolicy"), NOT_EXTERNAL);
            }
            let name = spec.text("externalName");
            if name.is_empty() {
                errors.required(SPEC.at("externalName"), "");
            } else {
                let plain = name.strip_suffix('.').unwrap_or(name);
                errors.format(SPEC.at("externalName"), name, format::dns1123_subdomain(plain));
            }
        }
        _ => {}
    }
}

fn service_port<'a>(
    port: &'a Value,
    named: bool,
    headless: bool,
    names: &mut HashSet<&'a str>,
    at: At<'_>,
    errors: &mut Errors,
) {
    let name = port.text("name");
    if name.is_empty() && named {
        errors.required(at.at("name"), "");
    } else if !name.is_empty() {
        errors.format(at.at("name"), name, format::dns1123_label(name));
        if !names.insert(name) {
            errors.duplicate(at.at("name"), name);
        }
    }
    for problem in format::port_number(port.int("port")) {
        errors.invalid(at.at("port"), port.int("port"), problem);
    }
    errors.one_of(at.at("protocol"), port.text("protocol"), PROTOCOLS);
    let absent = port.at("targetPort").is_null() && headless;
    if !absent {
        port_number_or_name(port.at("targetPort"), at.at("targetPort"), errors);
    }
    if let Some(protocol) = port.at("appProtocol").as_str() {
        errors.format(at.at("appProtocol"), protocol, format::qualified_name(protocol));
    }
}

fn affinity(spec: &Value, errors: &mut Errors) {
    let wanted = spec.text("sessionAffinity");
    errors.one_of(SPEC.at("sessionAffinity"), wanted, &["ClientIP", "None"]);
    let at = SPEC.at("sessionAffinityConfig");
    let config = spec.at("sessionAffinityConfig");
    if wanted == "None" && config.is_object() {
        errors.forbidden(at, "must not be set when session affinity is None");
    }
    if wanted != "ClientIP" {
        return;
    }
    const WHEN: &str = "when session affinity type is ClientIP";
    let client = at.at("clientIP");
    match (config.is_object(), config.at("clientIP").is_object(), config.int_opt("clientIP.timeoutSeconds")) {
        (false, ..) => errors.required(at, WHEN),
        (_, false, _) => errors.required(client, WHEN),
        (.., None) => errors.required(client.at("timeoutSeconds"), WHEN),
        (.., Some(n)) if n <= 0 || n > MAX_AFFINITY => {
            let text = format!("must be greater than 0 and less than {MAX_AFFINITY}");
            errors.invalid(client.at("timeoutSeconds"), n, text);
        }
        _ => {}
    }
}

fn family(ip: &str) -> &'static str {
    if ip.contains(':') { "IPv6" } else { "IPv4" }
}

/// `clusterIP`, `clusterIPs`, `ipFamilies` and `ipFamilyPolicy` must agree.
fn related_ips(spec: &Value, errors: &mut Errors) {
    let at = SPEC.at("clusterIPs");
    let ips: Vec<&str> = spec.texts("clusterIPs").collect();
    let one = spec.text("clusterIP");
    let all = || spec.at("clusterIPs").clone();
    match (one.is_empty(), ips.first()) {
        (false, None) => errors.required(at, ""),
        (true, Some(_)) => errors.invalid(at, all(), "must be empty when `clusterIP` is not specified"),
        (false, Some(first)) if *first != one => {
            errors.invalid(at, all(), "first value must match `clusterIP`")
        }
        _ => {}
    }
    let families: Vec<&str> = spec.texts("ipFamilies").collect();
    let list = SPEC.at("ipFamilies");
    for (i, name) in families.iter().enumerate() {
        if !matches!(*name, "IPv4" | "IPv6") {
            errors.not_supported(list.index(i), *name, &["IPv4", "IPv6"]);
        }
        if families[..i].contains(name) {
            errors.duplicate(list.index(i), *name);
        }
    }
    let policy = spec.text("ipFamilyPolicy");
    errors.optional_of(
        SPEC.at("ipFamilyPolicy"),
        policy,
        &["PreferDualStack", "RequireDualStack", "SingleStack"],
    );
    each_ip(&ips, &families, at, errors);
}

fn each_ip(ips: &[&str], families: &[&str], at: At<'_>, errors: &mut Errors) {
    let all = || json!(ips);
    for (i, ip) in ips.iter().enumerate() {
        if i > 0 && *ip == "None" {
            errors.invalid(at, all(), "'None' must be the first and only value");
        }
        if *ip != "None" {
            errors.format(at.index(i), ip, format::ip(ip));
        }
    }
    if ips.len() > 2 {
        errors.invalid(at, all(), "may only hold up to 2 values");
        return;
    }
    if let [a, b] = ips
        && !ips.contains(&"None")
        && family(a) == family(b)
    {
        errors.invalid(at, all(), "may specify no more than one IP for each IP family");
    }
    for (i, (ip, wanted)) in ips.iter().zip(families).enumerate() {
        if *ip != "None" && family(ip) != *wanted && matches!(*wanted, "IPv4" | "IPv6") {
            errors.invalid(
                at.index(i),
                *ip,
                format!("expected an {wanted} value as indicated by `ipFamilies[{i}]`"),
            );
        }
    }
}

fn external_ips(spec: &Value, errors: &mut Errors) {
    let list = SPEC.at("externalIPs");
    for (i, ip) in spec.items("externalIPs").iter().enumerate() {
        let ip = ip.as_str().unwrap_or("");
        errors.format(list.index(i), ip, format::non_special_ip(ip));
    }
}

fn unique_ports(object: &Value, errors: &mut Errors) {
    let list = SPEC.at("ports");
    let (mut node_ports, mut ports) = (HashSet::new(), HashSet::new());
    for (i, port) in object.items("spec.ports").iter().enumerate() {
        let at = list.index(i);
        let (protocol, node_port) = (port.text("protocol"), port.int("nodePort"));
        if node_port != 0 && kind(object) == "ClusterIP" {
            errors.forbidden(at.at("nodePort"), "may not be used when `type` is 'ClusterIP'");
        }
        if node_port != 0 && !node_ports.insert((protocol, node_port)) {
            errors.duplicate(at.at("nodePort"), node_port);
        }
        if !ports.insert((protocol, port.int("port"))) {
            errors.duplicate(at, json!({"protocol": protocol, "port": port.int("port")}));
        }
    }
}

fn balancer(object: &Value, errors: &mut Errors) {
    let spec = object.at("spec");
    let is = kind(object) == "LoadBalancer";
    let ranges = spec.items("loadBalancerSourceRanges");
    let list = SPEC.at("LoadBalancerSourceRanges");
    if !is && !ranges.is_empty() {
        errors.forbidden(list, ONLY_BALANCER);
    } else {
        for (i, range) in ranges.iter().enumerate() {
            let range = range.as_str().unwrap_or("");
            errors.format(list.index(i), range, format::cidr(range.trim()));
        }
    }
    if !is && spec.has("allocateLoadBalancerNodePorts") {
        errors.forbidden(SPEC.at("allocateLoadBalancerNodePorts"), ONLY_BALANCER);
    }
    if let Some(class) = spec.at("loadBalancerClass").as_str() {
        if is {
            errors.format(SPEC.at("loadBalancerClass"), class, format::qualified_name(class));
        } else {
            errors.forbidden(SPEC.at("loadBalancerClass"), ONLY_BALANCER);
        }
    }
}

fn traffic(object: &Value, errors: &mut Errors) {
    let spec = object.at("spec");
    let (policy, at) = (spec.text("externalTrafficPolicy"), SPEC.at("externalTrafficPolicy"));
    if !is_external(object) {
        if !policy.is_empty() {
            errors.invalid(at, policy, "may only be set for externally-accessible services");
        }
    } else {
        errors.one_of(at, policy, &["Cluster", "Local"]);
    }
    let (port, at) = (spec.int("healthCheckNodePort"), SPEC.at("healthCheckNodePort"));
    if !has_health_check(object) {
        if port != 0 {
            let text = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            errors.invalid(at, port, text);
        }
    } else if port != 0 {
        for problem in format::port_number(port) {
            errors.invalid(at, port, problem);
        }
    }
    let internal = spec.text("internalTrafficPolicy");
    let at = SPEC.at("internalTrafficPolicy");
    if internal.is_empty() && has_cluster_ip(object) {
        errors.required(at, "");
    }
    errors.optional_of(at, internal, &["Cluster", "Local"]);
    if let Some(wanted) = spec.at("trafficDistribution").as_str() {
        let known = ["PreferClose", "PreferSameNode", "PreferSameZone"];
        errors.optional_of(SPEC.at("trafficDistribution"), wanted, &known);
    }
}

fn service_update(new: &Value, old: &Value, errors: &mut Errors) {
    if kind(new) != "ExternalName" && kind(old) != "ExternalName" {
        kept_ips(new, old, errors);
        kept_families(new, old, errors);
    }
    if has_health_check(new) && has_health_check(old) {
        let (now, before) = (new.int("spec.healthCheckNodePort"), old.int("spec.healthCheckNodePort"));
        if now != before {
            errors.forbidden(SPEC.at("healthCheckNodePort"), "field is immutable");
        }
    }
    let (now, before) = (new.at("spec.loadBalancerClass"), old.at("spec.loadBalancerClass"));
    if kind(new) == "LoadBalancer" && kind(old) == "LoadBalancer" && !same(now, before) {
        errors.invalid(SPEC.at("loadBalancerClass"), now.clone(), FIXED);
    }
    service(new, errors);
}

/// The addresses may gain or lose the second one, no more.
fn kept_ips(new: &Value, old: &Value, errors: &mut Errors) {
    let at = SPEC.at("clusterIPs");
    let (now, before) = (new.items("spec.clusterIPs"), old.items("spec.clusterIPs"));
    match (now, before) {
        (_, []) => {}
        ([], _) => {
            errors.invalid(at.index(0), Value::Array(Vec::new()), "primary clusterIP can not be unset")
        }
        ([a, ..], [b, ..]) if a != b => errors.invalid(at.index(0), Value::Array(now.to_vec()), FIXED),
        ([_, a], [_, b]) if a != b => errors.invalid(at.index(1), Value::Array(now.to_vec()), FIXED),
        ([_], [_, _]) if new.text("spec.ipFamilyPolicy") != "SingleStack" => {
            let text = "must be set to 'SingleStack' when releasing the secondary clusterIP";
            errors.invalid(SPEC.at("ipFamilyPolicy"), new.at("spec.ipFamilyPolicy").clone(), text);
        }
        _ => {}
    }
}

fn kept_families(new: &Value, old: &Value, errors: &mut Errors) {
    let at = SPEC.at("ipFamilies");
    let (now, before) = (new.items("spec.ipFamilies"), old.items("spec.ipFamilies"));
    match (now, before) {
        (_, []) => {}
        ([], _) => errors.invalid(at.index(0), Value::Array(Vec::new()), "primary ipFamily can not be unset"),
        ([a, ..], [b, ..]) if a != b => errors.invalid(at.index(0), Value::Array(now.to_vec()), FIXED),
        ([_, a], [_, b]) if a != b => errors.invalid(at.index(1), Value::Array(now.to_vec()), FIXED),
        ([_], [_, _]) if new.text("spec.ipFamilyPolicy") != "SingleStack" => {
            let text = "must be set to 'SingleStack' when releasing the secondary ipFamily";
            errors.invalid(SPEC.at("ipFamilyPolicy"), new.at("spec.ipFamilyPolicy").clone(), text);
        }
        _ => {}
    }
}

fn service_status(new: &Value, _: &Value, errors: &mut Errors) {
    let at = At::root("status.loadBalancer.ingress");
    balancer_status(new.items("status.loadBalancer.ingress"), kind(new) == "LoadBalancer", at, errors);
}

/// Addresses that a load balancer reports.
fn balancer_status(ingress: &[Value], allowed: bool, list: At<'_>, errors: &mut Errors) {
    if !allowed && !ingress.is_empty() {
        errors.forbidden(list, "may only be used when `spec.type` is 'LoadBalancer'");
        return;
    }
    for (i, one) in ingress.iter().enumerate() {
        let at = list.index(i);
        let (ip, host, mode) = (one.text("ip"), one.text("hostname"), one.at("ipMode").as_str());
        if !ip.is_empty() {
            errors.format(at.at("ip"), ip, format::ip(ip));
        }
        match mode {
            None if !ip.is_empty() => errors.required(at.at("ipMode"), "must be specified when `ip` is set"),
            Some(_) if ip.is_empty() => {
                errors.forbidden(at.at("ipMode"), "may not be specified when `ip` is not set")
            }
            Some(mode) => errors.optional_of(at.at("ipMode"), mode, &["Proxy", "VIP"]),
            None => {}
        }
        if !host.is_empty() {
            errors.format(at.at("hostname"), host, format::dns1123_subdomain(host));
            if format::parse_ip(host).is_some() {
                errors.invalid(at.at("hostname"), host, "must be a DNS name, not an IP address");
            }
        }
    }
}

#[cfg(test)]
mod tests;
