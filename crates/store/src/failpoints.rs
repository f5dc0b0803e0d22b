//! The steps at which a test may have a member end or wait, in the order in which a write passes them.
//!
//! Where etcd has a step of the same meaning the point has etcd's name, so that its own tools find it.

pub(crate) use env::failpoints::hit;

/// All points of this crate; see `env::failpoints`.
pub const FAILPOINTS: &[&str] = &[
    // A proposal, on the member that was asked and on the leader.
    "storeBeforePropose",
    "leaderBeforeWrite",
    // The log.
    "raftBeforeSave",
    "logAfterWrite",
    "logBeforeSync",
    "logDuringSync",
    "raftAfterSave",
    "raftBeforeLeaderSend",
    "raftBeforeFollowerSend",
    "voteBeforeSave",
    "voteAfterSave",
    "logBeforeTruncate",
    "logAfterTruncate",
    // Applying a batch of entries.
    "beforeStartDBTxn",
    "beforeApplyOneEntryNormal",
    "beforeApplyOneConfChange",
    "applyLosesOneEntry",
    "afterStartDBTxn",
    "commitBeforePreCommitHook",
    "commitAfterPreCommitHook",
    "beforeCommit",
    "afterCommit",
    "beforeWritebackBuf",
    "afterWritebackBuf",
    "storeBeforeAnswer",
    "storeAfterAnswer",
    "storeBeforeReply",
    // A compaction: when it is applied, with every commit that deletes some of what is behind it, and when all is gone.
    "compactBeforeCommitScheduledCompact",
    "compactAfterCommitScheduledCompact",
    "compactBeforeCommitBatch",
    "compactAfterAcquiredBatchTxLock",
    "compactAfterCommitBatch",
    "compactBeforeSetFinishedCompact",
    "compactAfterSetFinishedCompact",
    // A snapshot that is made.
    "snapshotBeforeCheckpoint",
    "snapshotAfterCheckpoint",
    "snapshotAfterRename",
    "logBeforePurge",
    "logAfterPurge",
    // A snapshot that is received.
    "raftBeforeApplySnap",
    "applyBeforeOpenSnapshot",
    "applyAfterOpenSnapshot",
    "raftBeforeSaveSnap",
    "raftAfterSaveSnap",
    "raftAfterApplySnap",
    "raftAfterWALRelease",
    // Leases.
    "leaseBeforeRevoke",
    "beforeCheckpointInLeaseRenew",
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    #[test]
    fn every_point_is_listed_and_passed_once() {
        let mut passed = Vec::new();
        for file in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).expect("src") {
            let text = std::fs::read_to_string(file.expect("a file").path()).unwrap_or_default();
            passed.extend(
                text.split("hit(\"").skip(1).filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())),
            );
        }
        passed.retain(|name| name != ").skip(1).filter_map(|rest| Some(rest.split_once('");
        passed.sort();
        let listed: BTreeSet<&str> = super::FAILPOINTS.iter().copied().collect();
        assert_eq!(listed.into_iter().collect::<Vec<_>>(), passed);
    }
}
