//! Bugs of etcd's past that whole members can have: each test says in its comment which it keeps away. Those of the state
//! machine alone are in `crates/mvcc/tests/historic.rs`; `docs/etcd.md` has all of them in one table.

use super::*;

/// A new member without a vote, added and started.
async fn with_a_learner() -> (Cluster, u64) {
    let mut cluster = Cluster::start(1).await;
    cluster.leader().await;
    cluster.write(0, 1).await;
    cluster.grow();
    let url = format!("http://{}", cluster.addresses[1]);
    cluster.store(0).member_add(vec![url], true, 77).await.expect("add");
    cluster.start_as(1, cluster.joining(1)).await;
    eventually("the learner has everything", || value(cluster.store(1), "k")).await;
    (cluster, 77)
}

fn is_learner(store: &Store, id: u64) -> Option<bool> {
    store.members().iter().find(|member| member.id == id).map(|member| member.is_learner)
}

/// #19557: a promoted learner was a learner again after a restart. #20967, #13196, #13724 (members that were removed and came
/// back) had the same cause: membership was kept in two places. And an update of a learner's URLs gave it a vote (3.6.12).
#[tokio::test(flavor = "multi_thread")]
async fn a_learner_votes_when_it_was_promoted_and_not_before_and_for_ever() {
    let (mut cluster, id) = with_a_learner().await;
    let url = format!("http://{}", cluster.addresses[1]);
    cluster.store(0).member_update(id, vec![url, "http://127.0.0.1:1".to_owned()]).await.expect("update");
    assert_eq!(is_learner(cluster.store(0), id), Some(true), "an update is no promotion");
    // Not before the leader knows that it is level.
    let promoted = async {
        while cluster.store(0).member_promote(id).await.is_err() {
            Env::real().clock.sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(DEADLINE, promoted).await.expect("promoted in time");
    eventually("it votes", || (is_learner(cluster.store(1), id) == Some(false)).then_some(())).await;
    cluster.stop_member(1).await;
    cluster.start_as(1, cluster.joining(1)).await;
    cluster.store(1).read_barrier().await.expect("barrier");
    for store in cluster.running() {
        assert_eq!(is_learner(store, id), Some(false));
    }
}

/// #15247: a leader that had been replaced, or was cut off, went on to renew leases and to end them.
#[tokio::test(flavor = "multi_thread")]
async fn who_hears_no_quorum_neither_renews_a_lease_nor_ends_one() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let grant = Command::LeaseGrant { id: 5, ttl: 2 };
    cluster.store(leader).propose(grant).await.expect("grant").response.expect("granted");
    let put = put_leased("leased", "v", 5);
    cluster.store(leader).propose(put).await.expect("put").response.expect("put");
    for index in (0..3).filter(|&index| index != leader) {
        cluster.stop_member(index).await;
    }
    let store = cluster.store(leader).clone();
    let renewed = tokio::time::timeout(DEADLINE, store.lease_keep_alive(5)).await.expect("an answer");
    assert!(renewed.is_err(), "{renewed:?}");
    assert!(value(&store, "leased").is_some(), "nobody agreed to its end");
    let first = (leader + 1) % 3;
    cluster.start_member(first).await;
    eventually("its end, once a quorum agrees", || {
        value(cluster.store(first), "leased").is_none().then_some(())
    })
    .await;
}

/// #17529: a watcher that did not keep up lost events.
#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_sleeps_through_more_than_is_kept_in_memory_misses_nothing() {
    const TXNS: usize = 100;
    const PUTS: usize = 100;
    let cluster = Cluster::start(1).await;
    let mut watcher =
        cluster.store(0).watch(WatchRequest { range: KeyRange::prefix("w"), start_revision: 0 });
    for number in 0..TXNS {
        let puts = (0..PUTS).map(|key| {
            let (key, value) = (format!("w{key}").into(), number.to_string().into());
            Op::Put(PutRequest { key, value, ..PutRequest::default() })
        });
        let txn = Txn { success: puts.collect(), ..Txn::default() };
        cluster.store(0).propose(Command::Txn(txn)).await.expect("propose");
    }
    let (mut seen, mut last) = (0, 0);
    while seen < TXNS * PUTS {
        let batch = tokio::time::timeout(DEADLINE, watcher.next()).await.expect("in time").expect("watch");
        for event in batch.events {
            assert!(event.kv.mod_revision == last || event.kv.mod_revision == last + 1 || last == 0);
            last = event.kv.mod_revision;
            seen += 1;
        }
        assert!(batch.revision >= last);
    }
    assert_eq!(watcher.poll().expect("nothing more").events.len(), 0);
}

/// #20221: a watch from a revision of the future was told of events before it, and of progress that was none. #15220: progress
/// was told before the events it stands for.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_of_the_future_begins_there_and_progress_is_never_ahead() {
    let cluster = Cluster::start(1).await;
    cluster.write(0, 1).await;
    let from = cluster.store(0).view().revision() + 3;
    let mut watcher = cluster.store(0).watch(WatchRequest { range: KeyRange::all(), start_revision: from });
    assert!(watcher.progress() < from);
    for _ in 0..2 {
        cluster.write(0, 1).await;
        assert_eq!(watcher.poll().expect("nothing yet").events.len(), 0);
        assert!(watcher.progress() < from);
    }
    cluster.write(0, 2).await;
    let batch = tokio::time::timeout(DEADLINE, watcher.next()).await.expect("in time").expect("watch");
    let revisions: Vec<_> = batch.events.iter().map(|event| event.kv.mod_revision).collect();
    assert_eq!(revisions, [from, from + 1]);
    assert_eq!((batch.revision, watcher.progress()), (from + 1, from + 1));
}

/// #18055: a member that received two snapshots one soon after the other ended.
#[tokio::test(flavor = "multi_thread")]
async fn snapshots_one_after_the_other_are_all_taken() {
    let mut cluster = Cluster::with_snapshots(3, 20).await;
    let leader = cluster.leader().await;
    let behind = (leader + 1) % 3;
    for _ in 0..3 {
        cluster.stop_member(behind).await;
        cluster.write(leader, 100).await;
        cluster.start_member(behind).await;
        // The next one is due while this one is on its way.
        cluster.write(leader, 100).await;
    }
    cluster.agree().await;
}
