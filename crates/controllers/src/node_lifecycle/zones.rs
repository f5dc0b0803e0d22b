//! How fast nodes may lose their pods, a zone at a time (upstream's zone states and eviction rates).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use api_types::meta;
use serde_json::Value;

use crate::template::is_ready;

/// Between two nodes of a zone (upstream's `--node-eviction-rate`, 0.1 a second).
const PAUSE_MILLIS: i64 = 10_000;
/// Between two nodes of a large zone that is mostly lost (`--secondary-node-eviction-rate`, 0.01 a second).
const SLOW_PAUSE_MILLIS: i64 = 100_000;
/// A zone up to this size that is mostly lost keeps its pods (`--large-cluster-size-threshold`).
const LARGE: usize = 50;
/// A zone is mostly lost from this share on, in percent (`--unhealthy-zone-threshold`) …
const LOST_PERCENT: usize = 55;
/// … and more than this many nodes.
const FEW: usize = 2;

/// When each zone last lost a node, and which nodes were allowed to go.
#[derive(Debug, Default)]
pub(super) struct Zones {
    last: HashMap<String, i64>,
    allowed: HashSet<String>,
}

impl Zones {
    /// Whether the pods of `node`, which is not ready, may be driven out now. An answer of yes holds until the node is
    /// seen ready, or every zone is lost; a node that is `evicted` already, by an earlier leader perhaps, stays so.
    pub fn may_evict(&mut self, nodes: &[Arc<Value>], node: &Value, evicted: bool, now: i64) -> bool {
        self.allowed.retain(|uid| nodes.iter().any(|node| meta::uid(node) == uid && !is_ready(node)));
        if !nodes.iter().any(|node| is_ready(node)) {
            return false;
        }
        if evicted || self.allowed.contains(meta::uid(node)) {
            return true;
        }
        let zone = zone(node);
        let Some(pause) = pause(nodes, &zone) else { return false };
        if self.last.get(&zone).is_some_and(|last| now - last < pause) {
            return false;
        }
        self.last.insert(zone, now);
        self.allowed.insert(meta::uid(node).to_owned());
        true
    }
}

fn zone(node: &Value) -> String {
    let label = |key| meta::label(node, key).unwrap_or_default();
    format!("{}:{}", label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone"))
}

/// The pause between two nodes of a zone; `None` while none may go. A zone that is wholly lost goes at the usual rate:
/// others are there to take its pods.
fn pause(nodes: &[Arc<Value>], name: &str) -> Option<i64> {
    let members: Vec<_> = nodes.iter().filter(|node| zone(node) == name).collect();
    let lost = members.iter().filter(|node| !is_ready(node)).count();
    let mostly = lost > FEW && lost * 100 >= members.len() * LOST_PERCENT;
    match mostly && lost < members.len() {
        true if members.len() > LARGE => Some(SLOW_PAUSE_MILLIS),
        true => None,
        false => Some(PAUSE_MILLIS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn nodes(ready: usize, lost: usize) -> Vec<Arc<Value>> {
        let node = |number: usize, ready: bool| {
            let status = if ready { "True" } else { "Unknown" };
            Arc::new(json!({
                "metadata": { "uid": number.to_string() },
                "status": { "conditions": [{ "type": "Ready", "status": status }] },
            }))
        };
        (0..lost)
            .map(|number| node(number, false))
            .chain((lost..lost + ready).map(|n| node(n, true)))
            .collect()
    }

    #[test]
    fn one_node_at_a_time_and_none_twice() {
        let (mut zones, nodes) = (Zones::default(), nodes(4, 2));
        assert!(zones.may_evict(&nodes, &nodes[0], false, 0));
        assert!(!zones.may_evict(&nodes, &nodes[1], false, 9_999));
        assert!(zones.may_evict(&nodes, &nodes[0], false, 9_999), "what was allowed stays so");
        assert!(zones.may_evict(&nodes, &nodes[1], true, 9_999), "an earlier leader allowed it");
        assert!(zones.may_evict(&nodes, &nodes[1], false, 10_000));
    }

    #[test]
    fn a_zone_that_is_mostly_lost_keeps_its_pods_or_loses_them_slowly() {
        assert_eq!(pause(&nodes(2, 3), ":"), None);
        assert_eq!(pause(&nodes(3, 3), ":"), Some(PAUSE_MILLIS), "half is not mostly");
        assert_eq!(pause(&nodes(1, 2), ":"), Some(PAUSE_MILLIS), "two are few");
        assert_eq!(pause(&nodes(20, 40), ":"), Some(SLOW_PAUSE_MILLIS));
    }

    #[test]
    fn nothing_moves_when_every_node_is_lost() {
        let (mut zones, lost) = (Zones::default(), nodes(0, 5));
        assert!(!zones.may_evict(&lost, &lost[0], true, 0));
    }
}
