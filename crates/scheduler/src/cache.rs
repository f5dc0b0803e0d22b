//! The nodes and what is on them, kept up to date from watch events and from the scheduler's own assumptions.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};

use crate::queue::Key;
use crate::snapshot::{NodeInfo, PodCost, Snapshot};

/// A pod that counts on a node.
#[derive(Debug)]
struct Placed {
    node: String,
    cost: PodCost,
    /// The API has not confirmed the binding yet.
    assumed: bool,
}

/// Nodes by name, pods by key. A snapshot shares unchanged nodes with the one before.
#[derive(Debug, Default)]
pub struct Cache {
    nodes: BTreeMap<String, Arc<NodeInfo>>,
    pods: HashMap<Key, Placed>,
    snapshot: Option<Arc<Snapshot>>,
}

impl Cache {
    /// A node appeared or changed.
    pub fn set_node(&mut self, node: Arc<Node>) {
        let name = node.metadata.name.clone().unwrap_or_default();
        self.change(&name, |info| info.set_node(Some(node)));
    }

    /// A node is gone; pods that are still bound to it keep counting until they go too.
    pub fn remove_node(&mut self, name: &str) {
        self.change(name, |info| info.set_node(None));
        self.forget_empty(name);
    }

    /// The API shows a pod on a node. Replaces what was assumed.
    pub fn confirm(&mut self, key: &str, pod: &Pod, node: &str) {
        self.place(key, node, PodCost::of(pod), false);
    }

    /// The scheduler has chosen a node; it counts at once, before the API confirms.
    pub fn assume(&mut self, key: &str, node: &str, cost: PodCost) {
        self.place(key, node, cost, true);
    }

    /// The binding failed. A binding that the API has confirmed in the meantime stays.
    pub fn take_back(&mut self, key: &str) {
        if self.pods.get(key).is_some_and(|placed| placed.assumed) {
            self.remove_pod(key);
        }
    }

    /// The pod is gone or has ended. Says whether it counted.
    pub fn remove_pod(&mut self, key: &str) -> bool {
        let Some(placed) = self.pods.remove(key) else { return false };
        self.change(&placed.node, |info| info.remove(&placed.cost));
        self.forget_empty(&placed.node);
        true
    }

    /// All existing nodes as they are now.
    pub fn snapshot(&mut self) -> Arc<Snapshot> {
        let nodes = &self.nodes;
        let build = || {
            let existing = nodes.values().filter(|info| info.node.is_some());
            Arc::new(Snapshot { nodes: existing.cloned().collect() })
        };
        self.snapshot.get_or_insert_with(build).clone()
    }

    fn place(&mut self, key: &str, node: &str, cost: PodCost, assumed: bool) {
        self.remove_pod(key);
        self.change(node, |info| info.add(&cost));
        self.pods.insert(key.to_owned(), Placed { node: node.to_owned(), cost, assumed });
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&mut NodeInfo)) {
        self.snapshot = None;
        let info = self.nodes.entry(name.to_owned()).or_insert_with(|| Arc::new(NodeInfo::empty(name)));
        change(Arc::make_mut(info));
    }

    fn forget_empty(&mut self, name: &str) {
        if self.nodes.get(name).is_some_and(|info| info.node.is_none() && info.requested.pods == 0) {
            self.nodes.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str) -> Arc<Node> {
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name}})).expect("a node"))
    }

    fn pod(cpu: &str) -> Pod {
        let container = json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
        serde_json::from_value(json!({"spec": {"containers": [container]}})).expect("a pod")
    }

    fn used(cache: &mut Cache, name: &str) -> Option<i64> {
        let snapshot = cache.snapshot();
        snapshot.nodes.iter().find(|info| info.name == name).map(|info| info.requested.milli_cpu)
    }

    #[test]
    fn an_assumption_counts_until_taken_back_or_confirmed_once() {
        let mut cache = Cache::default();
        cache.set_node(node("a"));
        cache.assume("p", "a", PodCost::of(&pod("1")));
        assert_eq!(used(&mut cache, "a"), Some(1000));
        cache.take_back("p");
        assert_eq!(used(&mut cache, "a"), Some(0));
        cache.assume("p", "a", PodCost::of(&pod("1")));
        cache.confirm("p", &pod("1"), "a");
        cache.take_back("p");
        assert_eq!(used(&mut cache, "a"), Some(1000));
        assert!(cache.remove_pod("p") && !cache.remove_pod("p"));
        assert_eq!(used(&mut cache, "a"), Some(0));
    }

    #[test]
    fn pods_of_a_node_that_comes_back_still_count() {
        let mut cache = Cache::default();
        cache.confirm("p", &pod("1"), "a");
        assert_eq!(used(&mut cache, "a"), None);
        cache.set_node(node("a"));
        assert_eq!(used(&mut cache, "a"), Some(1000));
        cache.remove_node("a");
        assert_eq!(used(&mut cache, "a"), None);
        cache.set_node(node("a"));
        assert_eq!(used(&mut cache, "a"), Some(1000));
    }

    #[test]
    fn an_older_snapshot_does_not_change() {
        let mut cache = Cache::default();
        cache.set_node(node("a"));
        let before = cache.snapshot();
        cache.assume("p", "a", PodCost::of(&pod("1")));
        assert_eq!(before.nodes[0].requested.milli_cpu, 0);
    }
}
