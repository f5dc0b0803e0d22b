//! Every node has a range of pod addresses of its own (upstream's `RangeAllocator`).

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use client::{Change, Patch};
use serde_json::json;

use crate::controller::{Controller, Key, Listers, Now, Watch, kind};
use crate::plan::{Action, Plan};

/// Bits of a node's range (upstream's `--node-cidr-mask-size`).
const NODE_BITS: u8 = 24;

/// See the module.
pub struct NodeIpam {
    /// The range that all nodes share.
    pub cluster: Ipv4Range,
}

/// A range of IPv4 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Range {
    first: u32,
    bits: u8,
}

impl Ipv4Range {
    /// Reads `a.b.c.d/bits`, with room for one node at least.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no IPv4 range such as 10.244.0.0/16");
        let (address, bits) = text.split_once('/').ok_or_else(wrong)?;
        let (address, bits): (Ipv4Addr, u8) =
            (address.parse().map_err(|_| wrong())?, bits.parse().map_err(|_| wrong())?);
        if bits > NODE_BITS {
            return Err(format!("{text} has no room for a node's /{NODE_BITS}"));
        }
        let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
        Ok(Self { first: u32::from(address) & mask, bits })
    }

    fn node_ranges(self) -> impl Iterator<Item = String> {
        let count = 1u32 << (NODE_BITS - self.bits);
        (0..count).map(move |number| {
            let first = self.first + (number << (32 - u32::from(NODE_BITS)));
            format!("{}/{NODE_BITS}", Ipv4Addr::from(first))
        })
    }
}

impl Controller for NodeIpam {
    fn name(&self) -> &'static str {
        "node-ipam-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![Watch { resource: kind("", "v1", "nodes"), keys: all_nodes }]
    }

    fn reconcile(&self, listers: &Listers, _key: &Key, _now: Now) -> Plan {
        let Some(nodes) = listers.get("nodes").map(client::Lister::all) else { return Plan::nothing() };
        let taken: BTreeSet<&str> =
            nodes.iter().filter_map(|node| node["spec"]["podCIDR"].as_str()).collect();
        let waiting = nodes.iter().filter(|node| node["spec"]["podCIDR"].as_str().is_none());
        let mut free = self.cluster.node_ranges().filter(|range| !taken.contains(range.as_str()));
        let given = waiting.filter_map(|node| {
            let range = free.next()?;
            let patch = Patch::Strategic(json!({ "spec": { "podCIDR": range, "podCIDRs": [range] } }));
            Some(Action::Patch(kind("", "v1", "nodes").into(), node.clone(), patch))
        });
        Plan { actions: given.collect(), recheck_after: None }
    }
}

/// There is one key for all nodes: what was given to one is seen before another gets any. With a key each, a view that
/// does not show the last gift yet would give the same range again. A node that has its range, and keeps it, changes nothing.
fn all_nodes(change: &Change, _: &Listers) -> Vec<Key> {
    let has_range = change.object()["spec"]["podCIDR"].is_string();
    let concerns = !has_range || matches!(change, Change::Deleted(_));
    concerns.then(|| Key::new("nodes", "", "")).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::listers;

    fn given(nodes: Vec<serde_json::Value>) -> Vec<String> {
        let ipam = NodeIpam { cluster: Ipv4Range::parse("10.244.0.0/16").expect("a range") };
        let plan = ipam.reconcile(&listers(nodes), &Key::new("nodes", "", "any"), Now::at(0));
        let ranges = plan.actions.iter().map(|action| match action {
            Action::Patch(_, node, Patch::Strategic(patch)) => {
                format!(
                    "{} {}",
                    api_types::meta::name(node),
                    patch["spec"]["podCIDR"].as_str().unwrap_or_default()
                )
            }
            other => panic!("{other:?}"),
        });
        ranges.collect()
    }

    fn node(name: &str, range: Option<&str>) -> serde_json::Value {
        json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name }, "spec": { "podCIDR": range } })
    }

    #[test]
    fn each_node_gets_the_first_range_that_is_free() {
        let nodes = vec![node("a", None), node("b", Some("10.244.0.0/24")), node("c", None)];
        assert_eq!(given(nodes), ["a 10.244.1.0/24", "c 10.244.2.0/24"]);
        assert!(given(vec![node("a", Some("10.244.7.0/24"))]).is_empty());
    }

    #[test]
    fn no_two_nodes_are_decided_on_at_once() {
        let ipam = NodeIpam { cluster: Ipv4Range::parse("10.244.0.0/16").expect("a range") };
        let added = |name: &str| Change::Added(std::sync::Arc::new(node(name, None).into()));
        let watch = ipam.watches().remove(0);
        let keys = |name: &str| (watch.keys)(&added(name), &listers(Vec::new()));
        assert_eq!(keys("a"), keys("b"));
    }

    #[test]
    fn ranges_are_read_and_refused() {
        assert_eq!(Ipv4Range::parse("10.0.0.0/24").expect("one node").node_ranges().count(), 1);
        assert_eq!(
            Ipv4Range::parse("10.1.2.3/16").expect("masked").node_ranges().next().as_deref(),
            Some("10.1.0.0/24")
        );
        for wrong in ["10.0.0.0", "10.0.0.0/25", "10.0.0/16", "x/16", "::/16"] {
            assert!(Ipv4Range::parse(wrong).is_err(), "{wrong}");
        }
    }
}
