//! Addresses and node ports of Services. Each is taken in the transaction that writes the Service, so that two
//! Services never share one: an address by its IPAddress object (as upstream), a port by a key of its own.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use api_types::field::{FieldError, Path};
use api_types::status::Status;
use api_types::{Value, meta, table};
use env::Rng;
use ipnet::IpNet;
use mvcc::Compare;
use serde_json::json;

use crate::api::Api;
use crate::convert;
use crate::registry::Extra;
use crate::storage::{self, View};

const HEADLESS: &str = "None";
/// Free addresses are looked for from a random one on, so many at most.
const MAX_PROBES: u128 = 1 << 16;

/// Gives out addresses and ports.
pub(crate) struct Allocator {
    cidr: IpNet,
    ports: RangeInclusive<u16>,
}

fn address_key(address: &str) -> String {
    format!("/registry/ipaddresses/{address}")
}

fn port_key(port: i64) -> String {
    format!("/trierarch/nodeports/{port}")
}

fn text<'a>(service: &'a Value, field: &str) -> &'a str {
    service["spec"][field].as_str().unwrap_or_default()
}

fn has_address(service: &Value) -> bool {
    text(service, "type") != "ExternalName"
}

fn has_node_ports(service: &Value) -> bool {
    match text(service, "type") {
        "NodePort" => true,
        "LoadBalancer" => service["spec"]["allocateLoadBalancerNodePorts"] != false,
        _ => false,
    }
}

fn ports(service: &Value) -> &[Value] {
    service["spec"]["ports"].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn node_ports(service: &Value) -> Vec<i64> {
    let mut list: Vec<i64> = ports(service).iter().filter_map(|port| port["nodePort"].as_i64()).collect();
    let health = service["spec"]["healthCheckNodePort"].as_i64();
    list.extend(health);
    list.retain(|&port| port > 0);
    list.sort_unstable();
    list.dedup();
    list
}

/// The addresses a Service holds.
fn addresses(service: &Value) -> Vec<String> {
    let list = service["spec"]["clusterIPs"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut list: Vec<String> = list.chain([text(service, "clusterIP")]).map(str::to_owned).collect();
    list.retain(|address| !address.is_empty() && address != HEADLESS);
    list.sort();
    list.dedup();
    list
}

/// An update that leaves out what was allocated keeps it.
pub(crate) fn keep(new: &mut Value, old: &Value) {
    if has_address(new) && has_address(old) && text(new, "clusterIP").is_empty() {
        for field in ["clusterIP", "clusterIPs"] {
            let value = old["spec"][field].clone();
            if !value.is_null() {
                meta::child_mut(new, &["spec"]).insert(field.to_owned(), value);
            }
        }
    }
    for field in ["ipFamilies", "ipFamilyPolicy"] {
        if has_address(new) && new["spec"][field].is_null() && !old["spec"][field].is_null() {
            meta::child_mut(new, &["spec"]).insert(field.to_owned(), old["spec"][field].clone());
        }
    }
    if !has_node_ports(new) || !has_node_ports(old) {
        return;
    }
    let Some(list) = new["spec"].get_mut("ports").and_then(Value::as_array_mut) else { return };
    for port in list {
        let same = |other: &&Value| other["port"] == port["port"] && other["protocol"] == port["protocol"];
        let Some(before) = ports(old).iter().find(same) else { continue };
        if let (true, Some(object)) = (port["nodePort"].as_i64().unwrap_or(0) == 0, port.as_object_mut())
            && !before["nodePort"].is_null()
        {
            object.insert("nodePort".into(), before["nodePort"].clone());
        }
    }
}

impl Allocator {
    pub fn new(cidr: IpNet, ports: RangeInclusive<u16>) -> Self {
        Self { cidr, ports }
    }

    /// The address of Service `kubernetes`.
    pub fn first_address(&self) -> IpAddr {
        nth(&self.cidr, 1)
    }

    pub fn cidr(&self) -> IpNet {
        self.cidr
    }

    fn family(&self) -> &'static str {
        crate::families::family(self.cidr.addr())
    }

    /// Gives a Service that is about to be written what it lacks, and takes back what it no longer holds.
    pub fn allocate(
        &self,
        api: &Api,
        view: &View,
        old: Option<&Value>,
        new: &mut Value,
    ) -> Result<Extra, Status> {
        let mut extra = Extra::new();
        let held = old.map(addresses).unwrap_or_default();
        let held_ports = old.map(node_ports).unwrap_or_default();
        if has_address(new) {
            crate::families::settle(self.family(), old, new)
                .map_err(|errors| Status::invalid("", "Service", meta::name(new), &errors))?;
            self.settle_address(api, view, new, &held, &mut extra)?;
        }
        if has_node_ports(new) {
            self.settle_ports(&api.storage.env.rng, view, new, &held_ports, &mut extra)?;
        }
        let kept = if has_address(new) { addresses(new) } else { Vec::new() };
        let released = held.iter().filter(|address| !kept.contains(address));
        extra.extend(released.map(|address| (None, Some(storage::delete(address_key(address))))));
        let kept = node_ports(new);
        let released = held_ports.iter().filter(|port| !kept.contains(port));
        extra.extend(released.map(|port| (None, Some(storage::delete(port_key(*port))))));
        Ok(extra)
    }

    /// Takes back everything a Service holds.
    pub fn release(&self, service: &Value) -> Extra {
        let addresses = addresses(service).into_iter().map(|address| address_key(&address));
        let ports = node_ports(service).into_iter().map(port_key);
        addresses.chain(ports).map(|key| (None, Some(storage::delete(key)))).collect()
    }

    fn settle_address(
        &self,
        api: &Api,
        view: &View,
        new: &mut Value,
        held: &[String],
        extra: &mut Extra,
    ) -> Result<(), Status> {
        let wanted = text(new, "clusterIP").to_owned();
        let address = match wanted.as_str() {
            HEADLESS => HEADLESS.to_owned(),
            "" => self.free_address(&api.storage.env.rng, view)?.to_string(),
            given if held.iter().any(|address| address == given) => wanted,
            given => {
                self.check_address(view, new, given)?;
                wanted
            }
        };
        let spec = meta::child_mut(new, &["spec"]);
        spec.insert("clusterIP".into(), address.as_str().into());
        spec.insert("clusterIPs".into(), json!([address]));
        if address != HEADLESS && !held.contains(&address) {
            let key = address_key(&address);
            let value = ip_address(api, new, &address)?;
            extra.push((Some(Compare::mod_revision(key.clone(), 0)), Some(storage::put(key, value))));
        }
        Ok(())
    }

    fn check_address(&self, view: &View, service: &Value, given: &str) -> Result<(), Status> {
        let why = match given.parse::<IpAddr>() {
            Ok(address) if !self.cidr.contains(&address) => {
                format!(
                    "the provided IP ({given}) is not in the valid range. The range of valid IPs is {}",
                    self.cidr
                )
            }
            Ok(_) if !view.contains(address_key(given).as_bytes()) => return Ok(()),
            Ok(_) => "provided IP is already allocated".to_owned(),
            Err(_) => return Ok(()),
        };
        let detail = format!("failed to allocate IP {given}: {why}");
        let error = FieldError::invalid(&Path::new("spec").child("clusterIPs"), json!([given]), detail);
        Err(Status::invalid("", "Service", meta::name(service), &[error]))
    }

    /// A free address, not from the lower part of the range: that is for Services that name theirs.
    fn free_address(&self, rng: &Rng, view: &View) -> Result<IpAddr, Status> {
        let size = 1_u128 << (self.cidr.max_prefix_len() - self.cidr.prefix_len()).min(64);
        let usable = size.saturating_sub(2).max(1);
        let reserved = (usable / 16).clamp(16, 256).min(usable / 2);
        let upper = usable - reserved;
        let start = u128::from(rng.below(u64::try_from(upper).unwrap_or(u64::MAX)));
        let in_upper = (0..upper.min(MAX_PROBES)).map(|step| reserved + (start + step) % upper);
        // The first address is Service kubernetes'.
        let in_lower = 1..reserved;
        in_upper
            .chain(in_lower)
            .map(|offset| nth(&self.cidr, offset + 1))
            .find(|address| !view.contains(address_key(&address.to_string()).as_bytes()))
            .ok_or_else(|| Status::internal("failed to allocate a serviceIP: range is full"))
    }

    fn settle_ports(
        &self,
        rng: &Rng,
        view: &View,
        new: &mut Value,
        held: &[i64],
        extra: &mut Extra,
    ) -> Result<(), Status> {
        let name = meta::name(new).to_owned();
        let owner = meta::key(new);
        let mut taken = node_ports(new);
        let Some(list) = new["spec"].get_mut("ports").and_then(Value::as_array_mut) else { return Ok(()) };
        for (index, port) in list.iter_mut().enumerate() {
            let given = port["nodePort"].as_i64().unwrap_or(0);
            if given > 0 && held.contains(&given) {
                continue;
            }
            let chosen = match given {
                0 => self.free_port(rng, view, &taken)?,
                given => {
                    self.check_port(view, &name, index, given)?;
                    given
                }
            };
            taken.push(chosen);
            if let Some(object) = port.as_object_mut() {
                object.insert("nodePort".into(), chosen.into());
            }
            let key = port_key(chosen);
            extra.push((Some(Compare::mod_revision(key.clone(), 0)), Some(storage::put(key, owner.clone()))));
        }
        Ok(())
    }

    fn check_port(&self, view: &View, name: &str, index: usize, given: i64) -> Result<(), Status> {
        let in_range = u16::try_from(given).is_ok_and(|port| self.ports.contains(&port));
        let detail = match in_range {
            false => format!(
                "provided port is not in the valid range. The range of valid ports is {}-{}",
                self.ports.start(),
                self.ports.end()
            ),
            true if !view.contains(port_key(given).as_bytes()) => return Ok(()),
            true => "provided port is already allocated".to_owned(),
        };
        let path = Path::new("spec").child("ports").index(index).child("nodePort");
        Err(Status::invalid("", "Service", name, &[FieldError::invalid(&path, given, detail)]))
    }

    fn free_port(&self, rng: &Rng, view: &View, taken: &[i64]) -> Result<i64, Status> {
        let (first, size) = (i64::from(*self.ports.start()), self.ports.len() as u64);
        let start = rng.below(size);
        (0..size)
            .map(|step| first + ((start + step) % size) as i64)
            .find(|port| !taken.contains(port) && !view.contains(port_key(*port).as_bytes()))
            .ok_or_else(|| Status::internal("failed to allocate a nodePort: range is full"))
    }
}

/// The stored IPAddress object of a Service's address.
fn ip_address(api: &Api, service: &Value, address: &str) -> Result<Vec<u8>, Status> {
    let resource = table::find("networking.k8s.io", "v1", "ipaddresses")
        .expect("invariant: the table of kinds holds IPAddress");
    let family = address.parse().map_or("IPv4", crate::families::family);
    let object = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IPAddress",
        "metadata": {
            "name": address,
            "uid": api.new_uid(),
            "creationTimestamp": api.now_text(),
            "labels": {
                "ipaddress.kubernetes.io/ip-family": family,
                "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
            },
        },
        "spec": {"parentRef": {
            "group": "",
            "resource": "services",
            "namespace": meta::namespace(service),
            "name": meta::name(service),
        }},
    });
    convert::encode(resource, &object)
}

/// The address at an offset from the network's.
fn nth(cidr: &IpNet, offset: u128) -> IpAddr {
    match cidr.network() {
        IpAddr::V4(network) => IpAddr::from((u32::from(network).wrapping_add(offset as u32)).to_be_bytes()),
        IpAddr::V6(network) => IpAddr::from((u128::from(network).wrapping_add(offset)).to_be_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_count_from_the_network() {
        let cidr: IpNet = "10.96.0.0/12".parse().unwrap();
        assert_eq!(nth(&cidr, 1).to_string(), "10.96.0.1");
        assert_eq!(nth(&cidr, 257).to_string(), "10.96.1.1");
        assert_eq!(nth(&"fd00::/108".parse().unwrap(), 1).to_string(), "fd00::1");
    }

    #[test]
    fn an_update_keeps_what_was_allocated() {
        let old = json!({"spec": {"type": "NodePort", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"],
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30001}]}});
        let mut new = json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}, {"port": 81, "protocol": "TCP"}]}});
        keep(&mut new, &old);
        assert_eq!(new["spec"]["clusterIP"], "10.96.0.9");
        assert_eq!(new["spec"]["ports"][0]["nodePort"], 30001);
        assert!(new["spec"]["ports"][1].get("nodePort").is_none());
    }
}
