use super::{Candidate, ClusterEvent, MAX_SCORE, Plugin, Verdict};
use crate::resources::Resources;
use crate::snapshot::NodeInfo;

/// Keeps a pod from nodes that lack what it asks for; prefers those with most left (`LeastAllocated`).
pub struct NodeResourcesFit;

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn filter(&self, candidate: &Candidate<'_>, node: &NodeInfo) -> Verdict {
        match insufficient(&candidate.cost.requests, node) {
            reasons if reasons.is_empty() => Verdict::Fits,
            reasons => Verdict::Rejects(reasons),
        }
    }

    fn score(&self, candidate: &Candidate<'_>, node: &NodeInfo) -> i64 {
        let (asked, used, have) = (&candidate.cost.scored, &node.scored, &node.allocatable);
        let parts =
            [(have.milli_cpu, used.milli_cpu + asked.milli_cpu), (have.memory, used.memory + asked.memory)];
        let scores: Vec<i64> = parts.into_iter().filter(|(have, _)| *have > 0).map(least_used).collect();
        if scores.is_empty() {
            0
        } else {
            scores.iter().sum::<i64>() / i64::try_from(scores.len()).unwrap_or(1)
        }
    }

    fn weight(&self) -> i64 {
        1
    }

    fn wakes_on(&self) -> &'static [ClusterEvent] {
        &[
            ClusterEvent::NodeAdded,
            ClusterEvent::NodeChanged,
            ClusterEvent::PodRemoved,
            ClusterEvent::PodChanged,
        ]
    }
}

fn least_used((have, used): (i64, i64)) -> i64 {
    if used > have { 0 } else { (have - used).saturating_mul(MAX_SCORE) / have }
}

/// Upstream's reasons, in its order: pods, cpu, memory, ephemeral-storage, then the rest by name.
fn insufficient(asked: &Resources, node: &NodeInfo) -> Vec<String> {
    let (used, have) = (&node.requested, &node.allocatable);
    let mut reasons = Vec::new();
    if used.pods + 1 > have.pods {
        reasons.push("Too many pods".to_owned());
    }
    let named = [
        ("cpu", asked.milli_cpu, used.milli_cpu, have.milli_cpu),
        ("memory", asked.memory, used.memory, have.memory),
        ("ephemeral-storage", asked.ephemeral_storage, used.ephemeral_storage, have.ephemeral_storage),
    ];
    let amount = |amounts: &Resources, name: &str| amounts.other.get(name).copied().unwrap_or_default();
    let other = asked
        .other
        .iter()
        .map(|(name, &asked)| (name.as_str(), asked, amount(used, name), amount(have, name)));
    for (name, asked, used, have) in named.into_iter().chain(other) {
        if asked > 0 && asked > have - used {
            reasons.push(format!("Insufficient {name}"));
        }
    }
    reasons
}
