//! Services: how many, how many ports of nodes, how many load balancers.

use api_types::quantity::{Format, Quantity};
use serde_json::Value;

use super::{Amounts, one};
use crate::look::Look;

/// What Services are counted under.
pub(super) const NAMES: [&str; 3] = ["services", "services.nodeports", "services.loadbalancers"];

pub(super) fn usage(service: &Value, usage: &mut Amounts) {
    let ports = service.items("spec.ports");
    // The ports are not allocated yet; what counts is the intent.
    let (node_ports, balancers) = match service.text("spec.type") {
        "NodePort" => (ports.len(), 0),
        "LoadBalancer" if service.at("spec.allocateLoadBalancerNodePorts") == &Value::Bool(false) => {
            (ports.iter().filter(|port| port.int("nodePort") != 0).count(), 1)
        }
        "LoadBalancer" => (ports.len(), 1),
        _ => (0, 0),
    };
    let number =
        |count: usize| Quantity::from_units(i64::try_from(count).unwrap_or(i64::MAX), Format::DecimalSi);
    usage.insert("services".into(), one());
    usage.insert("services.nodeports".into(), number(node_ports));
    usage.insert("services.loadbalancers".into(), number(balancers));
}
