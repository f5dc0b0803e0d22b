//! Endpoints and EndpointSlice: where a Service's pods are.

use super::Kind;
use super::shared::unchanged;
use crate::errors::{At, Errors};
use crate::format;
use crate::look::Look;
use serde_json::Value;
use std::collections::HashSet;

const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20_000;
const MAX_TOPOLOGY: usize = 16;
const MAX_HINTS: usize = 8;
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const ADDRESS_TYPES: &[&str] = &["FQDN", "IPv4", "IPv6"];

pub(super) static KINDS: &[Kind] = &[
    Kind::new("", "Endpoints").create(endpoints).update(|new, _, errors| endpoints(new, errors)),
    Kind::new("discovery.k8s.io", "EndpointSlice").create(slice).update(slice_update),
];

fn endpoints(object: &Value, errors: &mut Errors) {
    let list = At::root("subsets");
    for (i, subset) in object.items("subsets").iter().enumerate() {
        let at = list.index(i);
        if subset.items("addresses").is_empty() && subset.items("notReadyAddresses").is_empty() {
            errors.required(at, "must specify `addresses` or `notReadyAddresses`");
        }
        for field in ["addresses", "notReadyAddresses"] {
            let list = at.at(field);
            for (j, address) in subset.items(field).iter().enumerate() {
                endpoint_address(address, list.index(j), errors);
            }
        }
        let ports_at = at.at("ports");
        let ports = subset.items("ports");
        for (j, port) in ports.iter().enumerate() {
            endpoint_port(port, ports.len() > 1, ports_at.index(j), errors);
        }
    }
}

fn endpoint_address(address: &Value, at: At<'_>, errors: &mut Errors) {
    let ip = address.text("ip");
    errors.format(at.at("ip"), ip, format::non_special_ip(ip));
    let host = address.text("hostname");
    if !host.is_empty() {
        errors.format(at.at("hostname"), host, format::dns1123_label(host));
    }
    if let Some(node) = address.at("nodeName").as_str() {
        errors.format(at.at("nodeName"), node, format::dns1123_subdomain(node));
    }
}

fn endpoint_port(port: &Value, named: bool, at: At<'_>, errors: &mut Errors) {
    let name = port.text("name");
    if named && name.is_empty() {
        errors.required(at.at("name"), "");
    } else if !name.is_empty() {
        errors.format(at.at("name"), name, format::dns1123_label(name));
    }
    for problem in format::port_number(port.int("port")) {
        errors.invalid(at.at("port"), port.int("port"), problem);
    }
    errors.one_of(at.at("protocol"), port.text("protocol"), PROTOCOLS);
    app_protocol(port, at, errors);
}

fn app_protocol(port: &Value, at: At<'_>, errors: &mut Errors) {
    if let Some(protocol) = port.at("appProtocol").as_str() {
        errors.format(at.at("appProtocol"), protocol, format::qualified_name(protocol));
    }
}

fn slice(object: &Value, errors: &mut Errors) {
    let kind = object.text("addressType");
    errors.one_of(At::root("addressType"), kind, ADDRESS_TYPES);
    let list = At::root("endpoints");
    let all = object.items("endpoints");
    if all.len() > MAX_ENDPOINTS {
        errors.too_many(list, all.len(), MAX_ENDPOINTS);
        return;
    }
    for (i, endpoint) in all.iter().enumerate() {
        slice_endpoint(endpoint, kind, list.index(i), errors);
    }
    slice_ports(object.items("ports"), errors);
}

fn slice_endpoint(endpoint: &Value, kind: &str, at: At<'_>, errors: &mut Errors) {
    let list = at.at("addresses");
    let addresses = endpoint.items("addresses");
    if addresses.is_empty() {
        errors.required(list, "must contain at least 1 address");
    } else if addresses.len() > MAX_ADDRESSES {
        errors.too_many(list, addresses.len(), MAX_ADDRESSES);
    }
    for (i, address) in addresses.iter().enumerate() {
        let address = address.as_str().unwrap_or("");
        let at = list.index(i);
        match kind {
            "IPv4" | "IPv6" => family_address(address, kind, at, errors),
            "FQDN" => errors.format(at, address, format::dns1123_subdomain(address)),
            _ => {}
        }
    }
    if let Some(node) = endpoint.at("nodeName").as_str() {
        errors.format(at.at("nodeName"), node, format::dns1123_subdomain(node));
    }
    let topology = endpoint.entries("deprecatedTopology").count();
    if topology > MAX_TOPOLOGY {
        errors.too_many(at.at("deprecatedTopology"), topology, MAX_TOPOLOGY);
    }
    if let Some(host) = endpoint.at("hostname").as_str() {
        errors.format(at.at("hostname"), host, format::dns1123_label(host));
    }
    hints(endpoint, at, errors);
}

fn family_address(address: &str, kind: &str, at: At<'_>, errors: &mut Errors) {
    match address.parse::<std::net::IpAddr>() {
        Ok(ip) if ip.is_ipv4() == (kind == "IPv4") => {
            errors.format(at, address, format::non_special_ip(address))
        }
        _ => errors.invalid(at, address, format!("must be a valid {kind} address")),
    }
}

fn hints(endpoint: &Value, at: At<'_>, errors: &mut Errors) {
    for (field, shown) in [("hints.forZones", "hints.forZones"), ("hints.forNodes", "hints.forNodes")] {
        let list = at.at(shown);
        let all = endpoint.items(field);
        if all.len() > MAX_HINTS {
            errors.too_many(list, all.len(), MAX_HINTS);
            continue;
        }
        for (i, hint) in all.iter().enumerate() {
            let name = hint.text("name");
            if all[..i].iter().any(|h| h.text("name") == name) {
                errors.duplicate(list.index(i).at("name"), name);
            }
        }
    }
}

fn slice_ports(ports: &[Value], errors: &mut Errors) {
    let list = At::root("ports");
    if ports.len() > MAX_PORTS {
        errors.too_many(list, ports.len(), MAX_PORTS);
        return;
    }
    let mut names: HashSet<&str> = HashSet::new();
    for (i, port) in ports.iter().enumerate() {
        let at = list.index(i);
        let name = port.text("name");
        if !name.is_empty() {
            errors.format(at.at("name"), name, format::dns1123_label(name));
        }
        if !names.insert(name) {
            errors.duplicate(at.at("name"), name);
        }
        errors.one_of(at.at("protocol"), port.text("protocol"), PROTOCOLS);
        app_protocol(port, at, errors);
    }
}

fn slice_update(new: &Value, old: &Value, errors: &mut Errors) {
    slice(new, errors);
    unchanged(new, old, &["addressType"], At::root(""), errors);
}
