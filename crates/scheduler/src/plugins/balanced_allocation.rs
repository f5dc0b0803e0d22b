use super::{Candidate, MAX_SCORE, Plugin};
use crate::snapshot::NodeInfo;

/// Prefers nodes on which the used parts of processor and memory stay close to each other.
pub struct BalancedAllocation;

impl Plugin for BalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    /// 100 × (1 − standard deviation of the used fractions); with two of them that is half their distance.
    fn score(&self, candidate: &Candidate<'_>, node: &NodeInfo) -> i64 {
        let (asked, used, have) = (&candidate.cost.requests, &node.requested, &node.allocatable);
        if have.milli_cpu <= 0 || have.memory <= 0 {
            return MAX_SCORE;
        }
        let per_mille = |used: i64, have: i64| (used.saturating_mul(1000) / have).min(1000);
        let cpu = per_mille(used.milli_cpu + asked.milli_cpu, have.milli_cpu);
        let memory = per_mille(used.memory + asked.memory, have.memory);
        MAX_SCORE - (cpu - memory).abs() / 2 * MAX_SCORE / 1000
    }

    fn weight(&self) -> i64 {
        1
    }
}
