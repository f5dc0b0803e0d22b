//! etcd's comparisons of members, for those who ask for them: what is stored is read, not only what was applied.

use std::ops::ControlFlow;

use super::*;

const OFTEN: Option<Duration> = Some(Duration::from_millis(100));

/// Changes a value where a member that does not run has stored it, as a disk would that forgets.
fn damage(storage: &dyn Storage) {
    let engine = storage.open_state().expect("state");
    let (mut batch, (right, wrong)) = (Batch::default(), (b"right", b"wrong"));
    let mut visit = |key: &[u8], record: Bytes| {
        if let Some(at) = record.windows(right.len()).position(|part| part == right) {
            let mut record = record.to_vec();
            record[at..at + wrong.len()].copy_from_slice(wrong);
            batch.put(Table::Revisions, key.to_vec(), record);
        }
        ControlFlow::Continue(())
    };
    engine.scan(Table::Revisions, b"", None, &mut visit).expect("scan");
    engine.write(batch).expect("write");
}

impl Cluster {
    /// Members that hold the same, with these checks from now on; one that does not lead does not run.
    async fn checked(size: usize, checks: Checks) -> (Self, usize) {
        let mut cluster = Self::start(size).await;
        let leader = cluster.leader().await;
        cluster.store(leader).propose(put("stored", "right")).await.expect("propose");
        cluster.agree().await;
        cluster.checks = checks;
        let stopped = (leader + 1) % size;
        for index in (0..size).filter(|&index| index != stopped && size > 2) {
            cluster.stop_member(index).await;
            cluster.start_member(index).await;
        }
        cluster.stop_member(stopped).await;
        (cluster, stopped)
    }

    async fn is_healed(&mut self, odd: usize) {
        let ended = self.ended(odd).await;
        assert!(matches!(&ended, RunError::Repair(why) if why.contains("keys differ")), "{ended}");
        self.start_member(odd).await;
        self.agree().await;
        assert_eq!(value(self.store(odd), "stored"), Some("right".into()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_is_stored_otherwise_is_found_from_time_to_time() {
    let (mut cluster, odd) = Cluster::checked(3, Checks { periodic: OFTEN, ..Checks::default() }).await;
    damage(&*cluster.storages[odd]);
    cluster.start_member(odd).await;
    cluster.is_healed(odd).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_is_stored_otherwise_is_found_after_a_compaction() {
    let (mut cluster, odd) = Cluster::checked(3, Checks { compactions: OFTEN, ..Checks::default() }).await;
    damage(&*cluster.storages[odd]);
    cluster.start_member(odd).await;
    let leader = cluster.leader().await;
    let revision = cluster.store(leader).view().revision();
    cluster.store(leader).propose(Command::Compact { revision }).await.expect("compacted");
    cluster.is_healed(odd).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_is_stored_otherwise_is_found_before_anything_is_served() {
    let (mut cluster, odd) = Cluster::checked(3, Checks { initial: true, ..Checks::default() }).await;
    damage(&*cluster.storages[odd]);
    cluster.start_member(odd).await;
    assert_eq!(value(cluster.store(odd), "stored"), Some("right".into()));
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_differs_from_the_only_other_does_not_start() {
    let (cluster, odd) = Cluster::checked(2, Checks { initial: true, ..Checks::default() }).await;
    damage(&*cluster.storages[odd]);
    let built = cluster.config(odd).build(Env::real(), cluster.storages[odd].clone()).await;
    let error = built.err().expect("refused").to_string();
    assert!(error.ends_with(" found data inconsistency with peers"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_hold_the_same_are_left_alone() {
    let checks = Checks { initial: true, periodic: OFTEN, compactions: OFTEN };
    let (mut cluster, stopped) = Cluster::checked(3, checks).await;
    cluster.start_member(stopped).await;
    for round in 1..=5 {
        cluster.write(stopped, 10).await;
        let revision = cluster.store(stopped).view().revision();
        let hash = cluster.store(stopped).hash_kv(revision).await.expect("a hash").hash;
        cluster.store(stopped).propose(Command::Compact { revision }).await.expect("compacted");
        cluster.agree().await;
        for store in cluster.running() {
            assert_eq!(store.hash_kv(revision).await.expect("a hash").hash, hash, "round {round}");
        }
    }
}
