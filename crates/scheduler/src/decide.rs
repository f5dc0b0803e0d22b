//! Chooses a node for one pod. Pure: the same snapshot, pod and offset give the same answer.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::plugins::{Candidate, MAX_SCORE, Normalize, Plugin, Verdict};
use crate::snapshot::{NodeInfo, Snapshot};

/// Below this many nodes all are looked at (upstream's `minFeasibleNodesToFind`).
const MIN_FEASIBLE: usize = 100;
/// The smallest part of the nodes that is looked at, per cent (upstream's `minFeasibleNodesPercentageToFind`).
const MIN_PERCENTAGE: usize = 5;

/// Where a pod goes, or why nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The node's name.
    Place(String),
    /// No node fits.
    Unschedulable(Failure),
}

/// Why no node fits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    /// How many nodes there are.
    pub nodes: usize,
    /// How many nodes gave each reason.
    pub reasons: BTreeMap<String, usize>,
    /// Indices of the plugins that refused, for waking the pod up.
    pub refused_by: Vec<usize>,
}

impl Failure {
    /// Upstream's text: `0/5 nodes are available: 2 Insufficient cpu, 3 node(s) were unschedulable.`
    pub fn message(&self) -> String {
        if self.nodes == 0 {
            return "no nodes available to schedule pods".to_owned();
        }
        let mut parts: Vec<_> =
            self.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        parts.sort();
        format!("0/{} nodes are available: {}.", self.nodes, parts.join(", "))
    }

    fn refuse(&mut self, plugin: usize, reasons: Vec<String>) {
        for reason in reasons {
            *self.reasons.entry(reason).or_default() += 1;
        }
        if !self.refused_by.contains(&plugin) {
            self.refused_by.push(plugin);
        }
    }
}

/// Filters, scores and chooses.
///
/// `offset` is the node at which looking starts, so that with many nodes each gets its turn; `tie` picks among equals.
pub fn decide(
    plugins: &[Box<dyn Plugin>],
    snapshot: &Snapshot,
    candidate: &Candidate<'_>,
    offset: usize,
    tie: u64,
) -> Decision {
    let mut failure = Failure { nodes: snapshot.nodes.len(), ..Failure::default() };
    let feasible = feasible(plugins, snapshot, candidate, offset, &mut failure);
    if feasible.is_empty() {
        return Decision::Unschedulable(failure);
    }
    Decision::Place(best(plugins, candidate, &feasible, tie).name.clone())
}

fn feasible<'a>(
    plugins: &[Box<dyn Plugin>],
    snapshot: &'a Snapshot,
    candidate: &Candidate<'_>,
    offset: usize,
    failure: &mut Failure,
) -> Vec<&'a Arc<NodeInfo>> {
    let count = snapshot.nodes.len();
    let enough = enough_nodes(count);
    let mut found = Vec::new();
    for step in 0..count {
        let node = &snapshot.nodes[(offset + step) % count];
        let refusal =
            plugins.iter().enumerate().find_map(|(index, plugin)| match plugin.filter(candidate, node) {
                Verdict::Fits => None,
                Verdict::Rejects(reasons) => Some((index, reasons)),
            });
        match refusal {
            Some((plugin, reasons)) => failure.refuse(plugin, reasons),
            None => found.push(node),
        }
        if found.len() >= enough {
            break;
        }
    }
    found
}

/// How many feasible nodes are enough: all of up to 100, then 50 % falling to 5 % as clusters grow
/// (`percentageOfNodesToScore: 0` of kube-scheduler's configuration).
pub fn enough_nodes(count: usize) -> usize {
    if count < MIN_FEASIBLE {
        return count;
    }
    let percentage = 50_usize.saturating_sub(count / 125).max(MIN_PERCENTAGE);
    (count * percentage / 100).max(MIN_FEASIBLE)
}

fn best<'a>(
    plugins: &[Box<dyn Plugin>],
    candidate: &Candidate<'_>,
    feasible: &[&'a Arc<NodeInfo>],
    tie: u64,
) -> &'a Arc<NodeInfo> {
    let mut totals = vec![0_i64; feasible.len()];
    if feasible.len() > 1 {
        for plugin in plugins.iter().filter(|plugin| plugin.weight() > 0) {
            let mut scores: Vec<i64> = feasible.iter().map(|node| plugin.score(candidate, node)).collect();
            normalize(plugin.normalize(), &mut scores);
            for (total, score) in totals.iter_mut().zip(scores) {
                *total += score * plugin.weight();
            }
        }
    }
    let highest = totals.iter().copied().max().unwrap_or_default();
    let winners: Vec<usize> = (0..totals.len()).filter(|&index| totals[index] == highest).collect();
    let pick = usize::try_from(tie % winners.len() as u64).unwrap_or_default();
    feasible[winners[pick]]
}

fn normalize(how: Normalize, scores: &mut [i64]) {
    let highest = scores.iter().copied().max().unwrap_or_default();
    for score in scores {
        *score = match how {
            Normalize::No => *score,
            Normalize::ToHighest if highest == 0 => 0,
            Normalize::ToHighest => *score * MAX_SCORE / highest,
            Normalize::Reversed if highest == 0 => MAX_SCORE,
            Normalize::Reversed => MAX_SCORE - *score * MAX_SCORE / highest,
        };
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::*;
    use crate::plugins::default_plugins;
    use crate::snapshot::PodCost;

    fn node(name: &str, spec: serde_json::Value, cpu: &str) -> Arc<NodeInfo> {
        let mut info = NodeInfo::empty(name);
        let object = json!({
            "metadata": {"name": name},
            "spec": spec,
            "status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "10"}},
        });
        info.set_node(Some(Arc::new(serde_json::from_value(object).expect("a node"))));
        Arc::new(info)
    }

    fn pod(cpu: &str) -> Pod {
        let container = json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": [container]}}))
            .expect("a pod")
    }

    fn place(nodes: Vec<Arc<NodeInfo>>, pod: &Pod, tie: u64) -> Decision {
        let cost = PodCost::of(pod);
        decide(&default_plugins(), &Snapshot { nodes }, &Candidate { pod, cost: &cost }, 0, tie)
    }

    #[test]
    fn says_why_per_reason_and_count() {
        let tainted = json!({"taints": [{"key": "k", "effect": "NoSchedule"}]});
        let nodes = vec![
            node("a", json!({}), "1"),
            node("b", json!({}), "2"),
            node("c", tainted, "64"),
            node("d", json!({"unschedulable": true}), "64"),
        ];
        let Decision::Unschedulable(failure) = place(nodes, &pod("4"), 0) else { panic!("placed") };
        assert_eq!(
            failure.message(),
            "0/4 nodes are available: 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable, \
             2 Insufficient cpu."
        );
    }

    #[test]
    fn no_nodes_at_all() {
        let Decision::Unschedulable(failure) = place(Vec::new(), &pod("1"), 0) else { panic!("placed") };
        assert_eq!(failure.message(), "no nodes available to schedule pods");
    }

    #[test]
    fn prefers_the_emptier_node_and_breaks_ties_by_the_given_number() {
        let mut busy = node("a", json!({}), "4").as_ref().clone();
        busy.add(&PodCost::of(&pod("2")));
        let free = node("b", json!({}), "4");
        assert_eq!(place(vec![Arc::new(busy), free], &pod("1"), 0), Decision::Place("b".to_owned()));
        let equal = || vec![node("a", json!({}), "4"), node("b", json!({}), "4")];
        assert_eq!(place(equal(), &pod("1"), 0), Decision::Place("a".to_owned()));
        assert_eq!(place(equal(), &pod("1"), 1), Decision::Place("b".to_owned()));
    }

    #[test]
    fn the_limit_of_pods_holds_from_both_sides() {
        let mut full = node("a", json!({}), "4").as_ref().clone();
        for _ in 0..9 {
            full.add(&PodCost::of(&pod("0")));
        }
        let tenth = full.clone();
        assert_eq!(place(vec![Arc::new(tenth)], &pod("0"), 0), Decision::Place("a".to_owned()));
        full.add(&PodCost::of(&pod("0")));
        let Decision::Unschedulable(failure) = place(vec![Arc::new(full)], &pod("0"), 0) else {
            panic!("placed")
        };
        assert_eq!(failure.message(), "0/1 nodes are available: 1 Too many pods.");
    }

    #[test]
    fn looks_at_fewer_nodes_as_clusters_grow() {
        assert_eq!([99, 100, 200, 1000, 5000, 6000].map(enough_nodes), [99, 100, 100, 420, 500, 300]);
    }
}
