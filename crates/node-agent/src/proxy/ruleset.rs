//! What the proxy's table must hold, and the commands from one state to the next. Pure.
//!
//! Four kinds of elements: `vips` and `ports` send a service port's connections to the chain of its endpoint count;
//! that chain picks a slot at random, or by the client's address where the service wants that, and looks the endpoint up
//! in `eps` (or `port_eps`); `empty` and `empty_ports` refuse service ports without endpoints, `cluster_ips` what is no service port; `hairpin` holds endpoint addresses, so that a pod that reaches itself
//! through its service is masqueraded. The table's name is ours alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde_json::Value;

/// The proxy's own table.
pub const TABLE: &str = "trierarch";
/// Endpoints of one service port that are used at most: the size of the slot in the maps' keys.
pub const MAX_ENDPOINTS: usize = 1024;
/// Chains for so many endpoints are made with the table.
const USUAL_ENDPOINTS: usize = 64;
/// Of the hash of clients' addresses.
const SEED: &str = "0x7472";
/// Mark of connections that must come back through this node.
const MASQUERADE: &str = "0x4000";

/// A protocol that nftables can match here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    fn parse(text: Option<&str>) -> Option<Self> {
        match text.unwrap_or("TCP") {
            "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// An address and port of a service, or a port of every node address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Front {
    /// Cluster, external or load balancer address.
    Address(Ipv4Addr, Protocol, u16),
    /// NodePort.
    Port(Protocol, u16),
}

/// An endpoint.
pub type Endpoint = (Ipv4Addr, u16);

/// What a front leads to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backends {
    /// Sorted, so that all nodes have them in the same slots; none: refused.
    pub endpoints: Vec<Endpoint>,
    /// A client gets the same endpoint as long as these are the same (`sessionAffinity: ClientIP`).
    pub is_sticky: bool,
}

/// Everything that the table holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Where each front leads.
    pub fronts: BTreeMap<Front, Backends>,
    /// Cluster addresses: on a port that no service has there, connections are refused.
    pub cluster_ips: BTreeSet<Ipv4Addr>,
    /// Pod networks of all nodes: what leaves them for elsewhere is masqueraded.
    pub pod_networks: BTreeSet<Ipv4Net>,
}

/// The table's content for these objects. IPv4; sources outside the pod networks are masqueraded on NodePorts.
pub fn ruleset(services: &[&Value], slices: &[&Value], pod_networks: BTreeSet<Ipv4Net>) -> Ruleset {
    let (mut fronts, mut cluster_ips) = (BTreeMap::new(), BTreeSet::new());
    for service in services {
        let spec = &service["spec"];
        if spec["type"] == "ExternalName" {
            continue;
        }
        let own = spec["clusterIPs"].as_array().into_iter().flatten().filter_map(Value::as_str);
        cluster_ips.extend(own.filter_map(|text| text.parse::<Ipv4Addr>().ok()));
        let addresses = addresses(service);
        let is_sticky = spec["sessionAffinity"] == "ClientIP";
        for port in spec["ports"].as_array().into_iter().flatten() {
            let Some(protocol) = Protocol::parse(port["protocol"].as_str()) else { continue };
            let backends = Backends { endpoints: endpoints(service, port, slices), is_sticky };
            let number = |value: &Value| {
                value.as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0)
            };
            if let Some(number) = number(&port["port"]) {
                for address in &addresses {
                    fronts.insert(Front::Address(*address, protocol, number), backends.clone());
                }
            }
            if let Some(number) = number(&port["nodePort"]) {
                fronts.insert(Front::Port(protocol, number), backends);
            }
        }
    }
    Ruleset { fronts, cluster_ips, pod_networks }
}

fn addresses(service: &Value) -> BTreeSet<Ipv4Addr> {
    let spec = &service["spec"];
    let list = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let ingress = service["status"]["loadBalancer"]["ingress"].as_array().into_iter().flatten();
    let mut texts = list(&spec["clusterIPs"]);
    texts.extend(spec["clusterIP"].as_str().map(str::to_owned));
    texts.extend(list(&spec["externalIPs"]));
    texts.extend(ingress.filter_map(|entry| entry["ip"].as_str()).map(str::to_owned));
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

/// Ready endpoints of a service port; where there is none, those that still serve while they end (KEP-1669).
fn endpoints(service: &Value, port: &Value, slices: &[&Value]) -> Vec<Endpoint> {
    let meta =
        |object: &Value, field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    let (namespace, name) = (meta(service, "namespace"), meta(service, "name"));
    let own = slices.iter().filter(|slice| {
        meta(slice, "namespace") == namespace
            && slice["metadata"]["labels"]["kubernetes.io/service-name"] == name.as_str()
            && slice["addressType"] == "IPv4"
    });
    let wanted = port["name"].as_str().unwrap_or_default();
    let protocol = Protocol::parse(port["protocol"].as_str());
    let (mut ready, mut serving) = (BTreeSet::new(), BTreeSet::new());
    for slice in own {
        let mut ports = slice["ports"].as_array().into_iter().flatten();
        let matching = ports.find(|candidate| {
            candidate["name"].as_str().unwrap_or_default() == wanted
                && Protocol::parse(candidate["protocol"].as_str()) == protocol
        });
        let Some(number) = matching.and_then(|port| u16::try_from(port["port"].as_u64()?).ok()) else {
            continue;
        };
        for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
            let address = endpoint["addresses"][0].as_str().and_then(|text| text.parse().ok());
            let Some(address) = address else { continue };
            let conditions = &endpoint["conditions"];
            if conditions["ready"].as_bool().unwrap_or(true) {
                ready.insert((address, number));
            } else if conditions["serving"].as_bool().unwrap_or(false) {
                serving.insert((address, number));
            }
        }
    }
    let chosen = if ready.is_empty() { serving } else { ready };
    chosen.into_iter().take(MAX_ENDPOINTS).collect()
}

/// The empty table: chains and maps. TCP is refused by a reset: the kernel loses an ICMP answer to a socket of its own
/// that is just connecting, which then waits a second.
///
/// Replaces whatever table of this name there was.
fn skeleton() -> String {
    format!(
        "table ip {TABLE}\ndelete table ip {TABLE}\ntable ip {TABLE} {{
\tmap vips {{
\t\ttype ipv4_addr . inet_proto . inet_service : verdict
\t}}
\tmap ports {{
\t\ttype inet_proto . inet_service : verdict
\t}}
\tmap eps {{
\t\ttypeof ip daddr . meta l4proto . th dport . numgen random mod {MAX_ENDPOINTS} : ip daddr . th dport
\t}}
\tmap port_eps {{
\t\ttypeof meta l4proto . th dport . numgen random mod {MAX_ENDPOINTS} : ip daddr . th dport
\t}}
\tset empty {{
\t\ttype ipv4_addr . inet_proto . inet_service
\t}}
\tset empty_ports {{
\t\ttype inet_proto . inet_service
\t}}
\tset cluster_ips {{
\t\ttype ipv4_addr
\t}}
\tset hairpin {{
\t\ttype ipv4_addr . ipv4_addr
\t}}
\tset pod_networks {{
\t\ttype ipv4_addr
\t\tflags interval
\t}}
\tchain services {{
\t\tip daddr . meta l4proto . th dport vmap @vips
\t\tfib daddr type local meta l4proto . th dport vmap @ports
\t}}
\tchain prerouting {{
\t\ttype nat hook prerouting priority dstnat; policy accept;
\t\tjump services
\t}}
\tchain output {{
\t\ttype nat hook output priority -100; policy accept;
\t\tjump services
\t}}
\tchain postrouting {{
\t\ttype nat hook postrouting priority srcnat; policy accept;
\t\tct status dnat ip saddr . ip daddr @hairpin masquerade
\t\tct status dnat meta mark and {MASQUERADE} == {MASQUERADE} masquerade
\t\tip saddr @pod_networks ip daddr != @pod_networks masquerade
\t}}
\tchain refuse {{
\t\tmeta l4proto tcp ip daddr . meta l4proto . th dport @empty reject with tcp reset
\t\tip daddr . meta l4proto . th dport @empty reject
\t\tmeta l4proto tcp ip daddr @cluster_ips reject with tcp reset
\t\tip daddr @cluster_ips reject
\t\tmeta l4proto tcp fib daddr type local meta l4proto . th dport @empty_ports reject with tcp reset
\t\tfib daddr type local meta l4proto . th dport @empty_ports reject
\t}}
\tchain filter_input {{
\t\ttype filter hook input priority filter; policy accept;
\t\tct state new jump refuse
\t}}
\tchain filter_forward {{
\t\ttype filter hook forward priority filter; policy accept;
\t\tct state new jump refuse
\t}}
\tchain filter_output {{
\t\ttype filter hook output priority filter; policy accept;
\t\tct state new jump refuse
\t}}
}}
"
    )
}

/// An element of a set, or of a map with its value.
type Element = (&'static str, String, Option<String>);

fn elements(rules: &Ruleset) -> BTreeMap<(&'static str, String), Option<String>> {
    let mut found: Vec<Element> = Vec::new();
    for (front, backends) in &rules.fronts {
        let count = backends.endpoints.len();
        let (key, maps) = match front {
            Front::Address(ip, protocol, port) => {
                (format!("{ip} . {} . {port}", protocol.name()), ("vips", "eps", "empty"))
            }
            Front::Port(protocol, port) => {
                (format!("{} . {port}", protocol.name()), ("ports", "port_eps", "empty_ports"))
            }
        };
        if count == 0 {
            found.push((maps.2, key, None));
            continue;
        }
        for (slot, (ip, port)) in backends.endpoints.iter().enumerate() {
            found.push((maps.1, format!("{key} . {slot}"), Some(format!("{ip} . {port}"))));
            found.push(("hairpin", format!("{ip} . {ip}"), None));
        }
        found.push((maps.0, key, Some(format!("goto {}{count}", letter(front, backends)))));
    }
    found.extend(rules.cluster_ips.iter().map(|ip| ("cluster_ips", ip.to_string(), None)));
    found.extend(rules.pod_networks.iter().map(|network| ("pod_networks", network.to_string(), None)));
    found.into_iter().map(|(set, key, value)| ((set, key), value)).collect()
}

/// The letter of a chain: of fronts with an address or of node ports, at random or by the client's address.
fn letter(front: &Front, backends: &Backends) -> &'static str {
    match (front, backends.is_sticky) {
        (Front::Address(..), false) => "n",
        (Front::Address(..), true) => "h",
        (Front::Port(..), false) => "p",
        (Front::Port(..), true) => "q",
    }
}

/// Chains by letter and endpoint count: the usual ones always, so that a change rarely needs a new one.
fn chains(rules: &Ruleset) -> BTreeSet<(&'static str, usize)> {
    let usual = (1..=USUAL_ENDPOINTS).flat_map(|count| ["n", "h", "p", "q"].map(|letter| (letter, count)));
    let needed = rules.fronts.iter().filter(|(_, backends)| !backends.endpoints.is_empty());
    let needed = needed.map(|(front, backends)| (letter(front, backends), backends.endpoints.len()));
    usual.chain(needed).collect()
}

fn add_chain(script: &mut String, letter: &str, count: usize) {
    let (key, map) = match letter {
        "n" | "h" => ("ip daddr . meta l4proto . th dport", "eps"),
        _ => ("meta l4proto . th dport", "port_eps"),
    };
    let slot = match letter {
        "n" | "p" => format!("numgen random mod {count}"),
        // The same seed on every node.
        _ => format!("jhash ip saddr mod {count} seed {SEED}"),
    };
    let _ = writeln!(script, "add chain ip {TABLE} {letter}{count}");
    if map == "port_eps" {
        // The answer has to come back through this node, whichever node the endpoint is on.
        let _ =
            writeln!(script, "add rule ip {TABLE} {letter}{count} meta mark set meta mark or {MASQUERADE}");
    }
    let _ = writeln!(
        script,
        "add rule ip {TABLE} {letter}{count} meta l4proto {{ tcp, udp }} dnat ip to {key} . {slot} map @{map}"
    );
}

/// The commands that turn `old` (none: no table) into `new`, one atomic batch; empty if nothing changes.
///
/// A changed value is a deletion and an addition. A chain that is missing means writing the whole table: nft 1.0.6
/// cannot add a rule that looks into a `typeof` map which it has to read back from the kernel.
pub fn script(old: Option<&Ruleset>, new: &Ruleset) -> String {
    match old {
        Some(old) if chains(new).is_subset(&chains(old)) => changes(old, new),
        _ => {
            let mut script = skeleton();
            for (letter, count) in chains(new) {
                add_chain(&mut script, letter, count);
            }
            script + &changes(&Ruleset::default(), new)
        }
    }
}

fn changes(old: &Ruleset, new: &Ruleset) -> String {
    let mut script = String::new();
    let (before, after) = (elements(old), elements(new));
    for ((set, key), value) in before.iter().filter(|(key, value)| after.get(*key) != Some(*value)) {
        let value = value.as_ref().map(|value| format!(" : {value}")).unwrap_or_default();
        let _ = writeln!(script, "delete element ip {TABLE} {set} {{ {key}{value} }}");
    }
    for ((set, key), value) in after.iter().filter(|(key, value)| before.get(*key) != Some(*value)) {
        let value = value.as_ref().map(|value| format!(" : {value}")).unwrap_or_default();
        let _ = writeln!(script, "add element ip {TABLE} {set} {{ {key}{value} }}");
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service(cluster_ip: &str) -> Value {
        json!({"metadata": {"namespace": "n", "name": "s"}, "spec": {"clusterIP": cluster_ip,
            "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}]}})
    }

    fn slice(ready: &[(&str, bool)]) -> Value {
        let endpoints: Vec<Value> = ready
            .iter()
            .map(|(ip, ready)| json!({"addresses": [ip], "conditions": {"ready": ready, "serving": true}}))
            .collect();
        json!({"metadata": {"namespace": "n", "labels": {"kubernetes.io/service-name": "s"}},
            "addressType": "IPv4", "ports": [{"port": 8080, "protocol": "TCP"}], "endpoints": endpoints})
    }

    fn rules(ready: &[(&str, bool)]) -> Ruleset {
        let networks = BTreeSet::from(["10.1.0.0/24".parse().expect("a network")]);
        ruleset(&[&service("10.96.0.5")], &[&slice(ready)], networks)
    }

    #[test]
    fn only_ready_endpoints_are_used_unless_there_is_none() {
        let both = rules(&[("10.1.0.2", true), ("10.1.0.3", false)]);
        let front = Front::Address(Ipv4Addr::new(10, 96, 0, 5), Protocol::Tcp, 80);
        assert_eq!(both.fronts[&front].endpoints, [(Ipv4Addr::new(10, 1, 0, 2), 8080)]);
        let serving = rules(&[("10.1.0.3", false)]);
        assert_eq!(serving.fronts[&front].endpoints, [(Ipv4Addr::new(10, 1, 0, 3), 8080)]);
        assert!(rules(&[]).fronts[&front].endpoints.is_empty());
        assert_eq!(both.fronts.len(), 2, "and the node port");
    }

    #[test]
    fn headless_services_have_no_front() {
        let mut headless = service("None");
        headless["spec"]["ports"][0]["nodePort"] = Value::Null;
        assert!(ruleset(&[&headless], &[], BTreeSet::new()).fronts.is_empty());
    }

    #[test]
    fn cluster_addresses_have_no_other_ports() {
        let mut service = service("10.96.0.5");
        service["spec"]["clusterIPs"] = json!(["10.96.0.5", "fd00::5"]);
        service["spec"]["externalIPs"] = json!(["192.0.2.1"]);
        let rules = ruleset(&[&service], &[], BTreeSet::new());
        assert_eq!(rules.cluster_ips, BTreeSet::from([Ipv4Addr::new(10, 96, 0, 5)]));
        assert!(script(None, &rules).contains("add element ip trierarch cluster_ips { 10.96.0.5 }"));
        service["spec"]["clusterIPs"] = json!(["None"]);
        assert!(ruleset(&[&service], &[], BTreeSet::new()).cluster_ips.is_empty());
    }

    #[test]
    fn clients_are_told_apart_where_the_service_wants_it() {
        let mut sticky = service("10.96.0.5");
        sticky["spec"]["sessionAffinity"] = json!("ClientIP");
        let slice = slice(&[("10.1.0.2", true), ("10.1.0.3", true)]);
        let sticky = ruleset(&[&sticky], &[&slice], BTreeSet::new());
        let plain = ruleset(&[&service("10.96.0.5")], &[&slice], BTreeSet::new());
        assert!(script(None, &sticky).contains("{ 10.96.0.5 . tcp . 80 : goto h2 }"));
        let change = script(Some(&plain), &sticky);
        let expected = [
            "delete element ip trierarch ports { tcp . 30080 : goto p2 }",
            "delete element ip trierarch vips { 10.96.0.5 . tcp . 80 : goto n2 }",
            "add element ip trierarch ports { tcp . 30080 : goto q2 }",
            "add element ip trierarch vips { 10.96.0.5 . tcp . 80 : goto h2 }",
        ];
        assert_eq!(change.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_change_touches_only_what_changed() {
        let (one, two) = (rules(&[("10.1.0.2", true)]), rules(&[("10.1.0.2", true), ("10.1.0.3", true)]));
        assert_eq!(script(Some(&one), &one), "");
        let script = script(Some(&one), &two);
        assert!(
            script.contains("add element ip trierarch eps { 10.96.0.5 . tcp . 80 . 1 : 10.1.0.3 . 8080 }")
        );
        assert!(script.contains("delete element ip trierarch vips { 10.96.0.5 . tcp . 80 : goto n1 }"));
        assert!(!script.contains("80 . 0 :"), "the first slot stays: {script}");
    }
}
