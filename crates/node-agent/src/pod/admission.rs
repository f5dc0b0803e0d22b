//! Whether this node takes a pod that was bound to it. Pure.

use k8s_openapi::api::core::v1::{Node, Pod, PodSpec};

use super::lifecycle;
use super::quantity;
use super::resources::pod_request;

/// Why a pod was refused: reason and message of its Failed status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// `OutOfcpu`, `NodePorts`, ...
    pub reason: String,
    /// The text.
    pub message: String,
}

/// Refuses a pod whose requests or host ports do not fit beside those that this node has taken.
pub fn admit(pod: &Pod, others: &[&Pod], node: &Node) -> Result<(), Refusal> {
    let Some(spec) = pod.spec.as_ref() else { return Ok(()) };
    let others: Vec<&PodSpec> = others
        .iter()
        .filter(|other| !lifecycle::has_terminal_phase(other))
        .filter_map(|other| other.spec.as_ref())
        .collect();
    ports(spec, &others)?;
    pod_count(others.len(), node)?;
    for name in ["cpu", "memory"] {
        resource(spec, &others, node, name)?;
    }
    Ok(())
}

fn allocatable(node: &Node, name: &str) -> Option<i64> {
    let list = node.status.as_ref()?.allocatable.as_ref()?;
    let text = &list.get(name)?.0;
    if name == "cpu" { quantity::milli(text) } else { quantity::value(text) }
}

fn resource(spec: &PodSpec, others: &[&PodSpec], node: &Node, name: &str) -> Result<(), Refusal> {
    let Some(capacity) = allocatable(node, name) else { return Ok(()) };
    let requested = pod_request(spec, name);
    let used: i64 = others.iter().map(|other| pod_request(other, name)).sum();
    if requested == 0 || requested + used <= capacity {
        return Ok(());
    }
    Err(Refusal {
        reason: format!("OutOf{name}"),
        message: format!(
            "Pod was rejected: Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}"
        ),
    })
}

fn pod_count(others: usize, node: &Node) -> Result<(), Refusal> {
    let Some(capacity) = allocatable(node, "pods") else { return Ok(()) };
    let used = i64::try_from(others).unwrap_or(i64::MAX);
    if used < capacity {
        return Ok(());
    }
    Err(Refusal {
        reason: "OutOfpods".to_owned(),
        message: format!(
            "Pod was rejected: Node didn't have enough resource: pods, requested: 1, used: {used}, capacity: {capacity}"
        ),
    })
}

/// Host ports of a pod: protocol, address ("" for all), port.
fn host_ports(spec: &PodSpec) -> Vec<(String, String, i32)> {
    let ports = lifecycle::containers(spec).flat_map(|(_, container)| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let number = port.host_port.filter(|port| *port > 0)?;
            let address = port.host_ip.clone().filter(|ip| ip != "0.0.0.0" && ip != "::").unwrap_or_default();
            Some((port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()), address, number))
        })
        .collect()
}

fn ports(spec: &PodSpec, others: &[&PodSpec]) -> Result<(), Refusal> {
    let wanted = host_ports(spec);
    let clash = |(protocol, address, port): &(String, String, i32)| {
        others.iter().flat_map(|other| host_ports(other)).any(
            |(other_protocol, other_address, other_port)| {
                let overlap = address.is_empty() || other_address.is_empty() || *address == other_address;
                *protocol == other_protocol && *port == other_port && overlap
            },
        )
    };
    if !wanted.iter().any(clash) {
        return Ok(());
    }
    Err(Refusal {
        reason: "NodePorts".to_owned(),
        message: "Pod was rejected: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports".to_owned(),
    })
}
