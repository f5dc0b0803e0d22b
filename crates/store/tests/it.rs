//! Whole members over real sockets.

#[path = "it/checks.rs"]
mod checks;
#[path = "it/historic.rs"]
mod historic;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use env::{Env, Shutdown, TaskGroup};
use mvcc::{Batch, Command, Engine as _, KeyRange, Op, PutRequest, Response, Table, Txn};
use store::storage::Storage;
use store::{
    BuildError, Checks, MemoryStorage, RunError, Store, StoreConfig, StoreError, Timing, WatchRequest,
    WatchSet,
};
use tempfile::TempDir;
use tokio::sync::oneshot;

const DEADLINE: Duration = Duration::from_secs(20);

struct Member {
    store: Store,
    shutdown: Shutdown,
    ended: oneshot::Receiver<Result<(), RunError>>,
}

struct Cluster {
    addresses: Vec<SocketAddr>,
    storages: Vec<Arc<dyn Storage>>,
    members: Vec<Option<Member>>,
    snapshot_count: u64,
    checks: Checks,
    tasks: TaskGroup,
    folder: TempDir,
}

impl Cluster {
    async fn start(size: usize) -> Self {
        Self::with_snapshots(size, 10_000).await
    }

    async fn with_snapshots(size: usize, snapshot_count: u64) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let storage = |index: usize| -> Arc<dyn Storage> {
            Arc::new(MemoryStorage::new(folder.path().join(index.to_string())))
        };
        let mut cluster = Self {
            addresses: (0..size).map(|_| env::ports::free_address()).collect(),
            storages: (0..size).map(storage).collect(),
            members: Vec::new(),
            snapshot_count,
            checks: Checks::default(),
            tasks: TaskGroup::new("test", Shutdown::new()),
            folder,
        };
        cluster.members.resize_with(size, || None);
        for index in 0..size {
            cluster.start_member(index).await;
        }
        cluster
    }

    fn config(&self, index: usize) -> StoreConfig {
        let names = self.addresses.iter().enumerate();
        StoreConfig {
            initial_cluster: names
                .map(|(index, address)| (format!("m{index}"), format!("http://{address}")))
                .collect(),
            // Members that have only just met do not count as healthy.
            strict_reconfig_check: false,
            snapshot_count: self.snapshot_count,
            snapshot_catchup_entries: self.snapshot_count / 2,
            checks: self.checks,
            advertise_client_urls: vec![format!("http://client-{index}")],
            ..StoreConfig::new(format!("m{index}"), self.addresses[index])
        }
    }

    /// Room for one more member, which is not started.
    fn grow(&mut self) {
        let folder = self.folder.path().join(self.storages.len().to_string());
        self.addresses.push(env::ports::free_address());
        self.storages.push(Arc::new(MemoryStorage::new(folder)));
        self.members.push(None);
    }

    fn joining(&self, index: usize) -> StoreConfig {
        StoreConfig { join: true, ..self.config(index) }
    }

    async fn start_member(&mut self, index: usize) {
        self.start_as(index, self.config(index)).await;
    }

    async fn start_as(&mut self, index: usize, config: StoreConfig) {
        let storage = self.storages[index].clone();
        let (store, server) = config.build(Env::real(), storage).await.expect("build");
        let shutdown = Shutdown::new();
        let (tell, ended) = oneshot::channel();
        let run = server.run(shutdown.clone());
        self.tasks.spawn_detached(format!("m{index}"), async move { drop(tell.send(run.await)) });
        self.members[index] = Some(Member { store, shutdown, ended });
    }

    async fn stop_member(&mut self, index: usize) {
        let member = self.members[index].take().expect("running");
        member.shutdown.trigger();
        member.ended.await.expect("a result").expect("a clean stop");
    }

    fn store(&self, index: usize) -> &Store {
        &self.members[index].as_ref().expect("running").store
    }

    fn running(&self) -> impl Iterator<Item = &Store> {
        self.members.iter().flatten().map(|member| &member.store)
    }

    /// Whether a member knows all members, and each has said who it is.
    fn is_named_on(&self, index: usize) -> bool {
        let members = self.store(index).members();
        members.len() == self.members.len() && members.iter().all(|member| !member.name.is_empty())
    }

    async fn leader(&self) -> usize {
        eventually("a leader", || {
            (0..self.members.len()).find(|&index| {
                self.members[index]
                    .as_ref()
                    .is_some_and(|member| member.store.leadership().borrow().is_leader)
            })
        })
        .await
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.members.iter().flatten().for_each(|member| member.shutdown.trigger());
    }
}

async fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let clock = Env::real().clock;
    let poll = async {
        loop {
            if let Some(found) = check() {
                return found;
            }
            clock.sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, poll).await.unwrap_or_else(|_| panic!("{what} did not happen in time"))
}

fn put(key: &str, value: &str) -> Command {
    put_leased(key, value, 0)
}

fn put_leased(key: &str, value: &str, lease: i64) -> Command {
    let (key, value) = (key.to_owned().into(), value.to_owned().into());
    Command::Txn(Txn::of(Op::Put(PutRequest { key, value, lease, ..PutRequest::default() })))
}

fn value(store: &Store, key: &str) -> Option<Bytes> {
    store.view().get(key.as_bytes()).expect("read").map(|kv| kv.value)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_anywhere_is_seen_everywhere_behind_the_barrier() {
    let cluster = Cluster::start(3).await;
    for writer in 0..3 {
        let text = format!("by {writer}");
        let applied = cluster.store(writer).propose(put("k", &text)).await.expect("propose");
        assert!(matches!(applied.response, Ok(Response::Txn(_))));
        assert_eq!(
            value(cluster.store(writer), "k").as_deref(),
            Some(text.as_bytes()),
            "applied where it was asked"
        );
        for reader in 0..3 {
            cluster.store(reader).read_barrier().await.expect("barrier");
            assert_eq!(value(cluster.store(reader), "k").as_deref(), Some(text.as_bytes()));
        }
    }
    let hashes: Vec<u32> = cluster.running().map(|store| store.view().state_hash()).collect();
    assert!(hashes.windows(2).all(|pair| pair[0] == pair[1]), "{hashes:?}");
    let members = cluster.store(1).members();
    let started = eventually("all names", || {
        let members = cluster.store(1).members();
        members.iter().all(|member| !member.name.is_empty()).then_some(members)
    });
    assert_eq!((members.len(), started.await.len()), (3, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writes_through_a_follower_are_all_taken() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.store(0).leadership().borrow().leader;
    let follower = cluster.running().find(|store| Some(store.member_id()) != leader).expect("a follower");
    let writers = (0..100).map(|writer| async move {
        for number in 0..30 {
            let applied = follower.propose(put(&format!("{writer}/{number}"), "v")).await;
            applied.unwrap_or_else(|error| panic!("{writer}/{number}: {error}"));
        }
    });
    futures::future::join_all(writers).await;
    assert_eq!(follower.view().count(&KeyRange::all()), 3000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_forwarded_as_it_is() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    for index in [leader, (leader + 1) % 3] {
        let applied = cluster.store(index).propose(put_leased("k", "v", 77)).await.expect("propose");
        assert_eq!(applied.response, Err(mvcc::MvccError::LeaseNotFound));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_on_every_member_see_every_revision_once_and_in_order() {
    let cluster = Cluster::start(3).await;
    let request = || WatchRequest { range: KeyRange::prefix("k"), start_revision: 2 };
    let mut watchers: Vec<_> = cluster.running().map(|store| store.watch(request())).collect();
    for index in 0..60 {
        cluster
            .store(index % 3)
            .propose(put(&format!("k{}", index % 7), &index.to_string()))
            .await
            .expect("propose");
    }
    for watcher in &mut watchers {
        let mut seen = Vec::new();
        while seen.len() < 60 {
            let batch =
                tokio::time::timeout(DEADLINE, watcher.next()).await.expect("in time").expect("watch");
            seen.extend(
                batch.events.iter().map(|event| String::from_utf8_lossy(&event.kv.value).into_owned()),
            );
        }
        assert_eq!(seen, (0..60).map(|index| index.to_string()).collect::<Vec<_>>());
    }
}

/// What a watch of a set was told: revisions and keys.
type Seen = Vec<(i64, Bytes)>;

/// Takes what there is for a set.
fn take(set: &mut WatchSet, seen: &mut HashMap<i64, Seen>) {
    loop {
        let more = set.poll(|delivery| {
            for member in delivery.members {
                for event in member.wanted(delivery.events) {
                    let place = seen.get_mut(&member.id).expect("a watch that was removed is told nothing");
                    place.push((event.kv.mod_revision, event.kv.key.clone()));
                }
            }
        });
        if !more.expect("no watch ends") {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_watch_of_a_set_is_told_exactly_its_own_whenever_it_comes_and_however_slow_the_set_is() {
    let cluster = Cluster::start(1).await;
    let (store, rng) = (cluster.store(0), Env::seeded(5).rng);
    let key = |number: u64| Bytes::from(format!("k{:02}", number % 40));
    let mut set = store.watches();
    let (mut ranges, mut seen) = (HashMap::new(), HashMap::new());
    let mut all: Seen = Vec::new();
    for round in 0..120 {
        let id = i64::try_from(rng.below(12)).expect("small");
        let range = match rng.below(3) {
            0 => KeyRange::Key(key(rng.u64())),
            1 => KeyRange::Interval { start: key(rng.u64()), end: key(rng.u64()) },
            _ => KeyRange::From(key(rng.u64())),
        };
        let head = store.view().revision();
        let start_revision = match rng.below(3) {
            0 => 0,
            1 => i64::try_from(rng.below(head.cast_unsigned())).expect("small") + 1,
            _ => head + i64::try_from(rng.below(5)).expect("small"),
        };
        let start = set.add(id, WatchRequest { range: range.clone(), start_revision });
        ranges.insert(id, (range, start));
        seen.insert(id, Vec::new());
        if rng.below(4) == 0 {
            let id = i64::try_from(rng.below(12)).expect("small");
            assert_eq!(set.remove(id), ranges.remove(&id).is_some());
            seen.remove(&id);
        }
        // Now and then more than the ring holds.
        let writes = if round % 40 == 39 { 400 } else { rng.below(4) };
        for _ in 0..writes {
            let mut keys: Vec<Bytes> = (0..40).map(key).filter(|_| rng.below(3) > 0).collect();
            keys.truncate(if writes > 10 { 40 } else { 2 });
            let ops =
                keys.iter().map(|key| Op::Put(PutRequest { key: key.clone(), ..PutRequest::default() }));
            let txn = Txn { success: ops.collect(), ..Txn::default() };
            let revision = store.propose(Command::Txn(txn)).await.expect("propose").revision;
            all.extend(keys.into_iter().map(|key| (revision, key)));
        }
        if rng.below(3) > 0 {
            take(&mut set, &mut seen);
        }
    }
    let head = store.view().revision();
    eventually("everything is told", || {
        take(&mut set, &mut seen);
        (set.progress() >= head).then_some(())
    })
    .await;
    assert!(!ranges.is_empty());
    for (id, (range, start)) in ranges {
        let wanted = all.iter().filter(|(revision, key)| *revision >= start && range.contains(key));
        assert_eq!(seen[&id], wanted.cloned().collect::<Seen>(), "watch {id} of {range:?} from {start}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_watches_is_woken_by_what_concerns_him_only() {
    let cluster = Cluster::start(1).await;
    let store = cluster.store(0);
    let mut set = store.watches();
    set.add(7, WatchRequest { range: KeyRange::Key("mine".into()), start_revision: 0 });
    for index in 0..50 {
        store.propose(put("other", &index.to_string())).await.expect("propose");
    }
    let head = store.view().revision();
    eventually("progress without a call", || (set.progress() >= head).then_some(())).await;
    let woken = tokio::time::timeout(Duration::from_millis(20), set.changed()).await;
    assert!(woken.is_err(), "woken for nothing");
    store.propose(put("mine", "1")).await.expect("propose");
    tokio::time::timeout(DEADLINE, set.changed()).await.expect("woken").expect("runs");
    let mut seen = HashMap::from([(7, Vec::new())]);
    take(&mut set, &mut seen);
    assert_eq!(seen[&7], [(head + 1, Bytes::from("mine"))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_begins_before_the_compaction_is_refused_even_if_the_events_are_still_at_hand() {
    let cluster = Cluster::start(1).await;
    for index in 0..5 {
        cluster.store(0).propose(put("k", &index.to_string())).await.expect("propose");
    }
    let revision = cluster.store(0).view().revision();
    cluster
        .store(0)
        .propose(Command::Compact { revision })
        .await
        .expect("propose")
        .response
        .expect("compact");
    let watch =
        |start_revision| cluster.store(0).watch(WatchRequest { range: KeyRange::all(), start_revision });
    let refused = tokio::time::timeout(DEADLINE, watch(2).next()).await.expect("in time");
    assert_eq!(refused.expect_err("compacted"), store::WatchError::Compacted { compact_revision: revision });
    assert_eq!(watch(revision).poll().expect("the compacted revision itself").events.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_has_just_been_started_can_be_made_the_leader() {
    let mut cluster = Cluster::start(3).await;
    for _ in 0..3 {
        let leader = cluster.leader().await;
        cluster.write(leader, 1).await;
        let next = (leader + 1) % 3;
        cluster.stop_member(next).await;
        cluster.start_member(next).await;
        let id = cluster.store(next).member_id();
        cluster.store(leader).transfer_leadership(id).await.expect("handed over");
        assert_eq!(cluster.leader().await, next);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stops_hands_over_and_comes_back_with_everything() {
    let mut cluster = Cluster::start(3).await;
    let first = cluster.leader().await;
    cluster.store(first).propose(put("before", "1")).await.expect("propose");
    cluster.stop_member(first).await;
    let second = cluster.leader().await;
    assert_ne!(first, second);
    cluster.store(second).propose(put("between", "2")).await.expect("propose");
    cluster.start_member(first).await;
    cluster.store(first).read_barrier().await.expect("barrier");
    assert_eq!(value(cluster.store(first), "before"), Some("1".into()));
    assert_eq!(value(cluster.store(first), "between"), Some("2".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stops_hands_over_to_one_that_is_left() {
    for greater_id_is_left in [false, true] {
        let mut cluster = Cluster::start(3).await;
        let leader = cluster.leader().await;
        let (one, other) = ((leader + 1) % 3, (leader + 2) % 3);
        let is_greater = cluster.store(one).member_id() > cluster.store(other).member_id();
        let (left, gone) = if is_greater == greater_id_is_left { (one, other) } else { (other, one) };
        cluster.write(leader, 1).await;
        cluster.agree().await;
        cluster.stop_member(gone).await;
        let term = cluster.store(left).status().term;
        cluster.stop_member(leader).await;
        // Its predecessor's own vote made it the leader: alone it could not be elected.
        eventually("the next term", || {
            let status = cluster.store(left).status();
            (status.term > term && status.leader == cluster.store(left).member_id()).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_nothing_is_acknowledged_and_nobody_leads() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let others: Vec<usize> = (0..3).filter(|&index| index != leader).collect();
    for &index in &others {
        cluster.stop_member(index).await;
    }
    eventually("stepping down", || {
        let leads = cluster.store(leader).leadership().borrow().is_leader;
        (!leads).then_some(())
    })
    .await;
    let written = tokio::time::timeout(DEADLINE, cluster.store(leader).propose(put("k", "lost")))
        .await
        .expect("in time");
    assert!(
        matches!(written, Err(StoreError::NoLeader | StoreError::NotLeader | StoreError::Timeout)),
        "{written:?}"
    );
    cluster.start_member(others[0]).await;
    cluster.leader().await;
    cluster.store(leader).propose(put("k", "kept")).await.expect("propose");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_fell_behind_receives_a_snapshot_and_its_watchers_miss_nothing() {
    let mut cluster = Cluster::with_snapshots(3, 50).await;
    let leader = cluster.leader().await;
    let behind = (leader + 1) % 3;
    cluster.store(leader).propose(put("k", "first")).await.expect("propose");
    cluster.stop_member(behind).await;
    for index in 0..400 {
        cluster.store(leader).propose(put("k", &index.to_string())).await.expect("propose");
    }
    // As if its disk had been lost entirely, but for its identity.
    cluster.storages[behind] = Arc::new(MemoryStorage::new(cluster.folder.path().join("new")));
    cluster.start_member(behind).await;
    let store = cluster.store(behind).clone();
    let mut watcher = store.watch(WatchRequest { range: KeyRange::all(), start_revision: 2 });
    store.read_barrier().await.expect("barrier");
    assert_eq!(value(&store, "k"), Some("399".into()));
    let mut seen = 0;
    while seen < 401 {
        let batch = tokio::time::timeout(DEADLINE, watcher.next()).await.expect("in time").expect("watch");
        for event in batch.events {
            assert!(event.kv.mod_revision > 1);
            seen += 1;
        }
    }
    assert_eq!(store.view().state_hash(), cluster.store(leader).view().state_hash());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_received_a_snapshot_starts_again_and_can_catch_others_up() {
    let mut cluster = Cluster::with_snapshots(3, 50).await;
    let leader = cluster.leader().await;
    let (behind, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let write = async |store: &Store, count: u32| {
        for index in 0..count {
            store.propose(put("k", &index.to_string())).await.expect("propose");
        }
    };
    // It has a snapshot of its own, which is older than the one that it receives.
    write(cluster.store(leader), 100).await;
    cluster.stop_member(behind).await;
    write(cluster.store(leader), 200).await;
    cluster.start_member(behind).await;
    cluster.store(behind).read_barrier().await.expect("barrier");
    cluster.stop_member(behind).await;
    cluster.start_member(behind).await;
    cluster.store(behind).read_barrier().await.expect("it starts again");
    // It leads, and another one needs what its log does not hold any more.
    cluster.stop_member(other).await;
    cluster.storages[other] = Arc::new(MemoryStorage::new(cluster.folder.path().join("new")));
    let to = cluster.store(behind).member_id();
    cluster.store(leader).transfer_leadership(to).await.expect("transfer");
    cluster.start_member(other).await;
    let store = cluster.store(other).clone();
    tokio::time::timeout(DEADLINE, store.read_barrier()).await.expect("in time").expect("barrier");
    assert_eq!(value(&store, "k"), Some("199".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_ends_with_its_keys_unless_it_is_renewed() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let follower = cluster.store((leader + 1) % 3);
    for id in [1, 2] {
        follower.propose(Command::LeaseGrant { id, ttl: 1 }).await.expect("grant").response.expect("granted");
        follower
            .propose(put_leased(&format!("lease {id}"), "", id))
            .await
            .expect("put")
            .response
            .expect("put");
    }
    eventually("the end of lease 1", || value(follower, "lease 1").is_none().then_some(())).await;
    assert_eq!(follower.lease_keep_alive(1).await, Ok(None));
    assert_eq!(follower.lease_time_to_live(1).await, Ok(None));
    follower
        .propose(Command::LeaseGrant { id: 3, ttl: 100 })
        .await
        .expect("grant")
        .response
        .expect("granted");
    assert_eq!(follower.lease_keep_alive(3).await, Ok(Some(100)));
    let time = follower.lease_time_to_live(3).await.expect("time").expect("known");
    assert!(time.granted_ttl == 100 && (98..=100).contains(&time.ttl), "{time:?}");
}

/// Half of its time is over when the leadership moves; after it was renewed it has all of it, whoever leads.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_takes_over_gives_leases_the_time_that_they_had() {
    let cluster = Cluster::start(3).await;
    let hand_over = async || {
        let leader = cluster.leader().await;
        let next = cluster.store((leader + 1) % 3);
        cluster.store(leader).transfer_leadership(next.member_id()).await.expect("transfer");
        assert_eq!(cluster.leader().await, (leader + 1) % 3);
        next
    };
    let leader = cluster.store(cluster.leader().await);
    leader.propose(Command::LeaseGrant { id: 1, ttl: 6 }).await.expect("grant").response.expect("granted");
    let remembered = || leader.view().lease(1).map(|lease| lease.remaining).filter(|left| *left > 0);
    assert_eq!(eventually("a checkpoint", remembered).await, 3);
    let next = hand_over().await;
    let time = next.lease_time_to_live(1).await.expect("time").expect("known");
    assert!(time.granted_ttl == 6 && time.ttl <= 3, "{time:?}");
    let renewed = Env::real().clock.monotonic();
    assert_eq!(next.lease_keep_alive(1).await, Ok(Some(6)));
    let next = hand_over().await;
    let time = next.lease_time_to_live(1).await.expect("time").expect("known");
    // What may be gone since is told to the second.
    let gone = i64::try_from(renewed.elapsed().as_secs() + 1).expect("seconds");
    assert!((6 - gone..=6).contains(&time.ttl), "{time:?} after {gone} s");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learner_reads_and_watches_like_any_member() {
    let mut cluster = Cluster::start(1).await;
    cluster.leader().await;
    cluster.grow();
    let url = format!("http://{}", cluster.addresses[1]);
    cluster.store(0).member_add(vec![url], true, 77).await.expect("add");
    cluster.start_as(1, cluster.joining(1)).await;
    let learner = cluster.store(1).clone();
    let mut watcher = learner.watch(WatchRequest { range: KeyRange::all(), start_revision: 2 });
    for number in 0..5 {
        let text = number.to_string();
        cluster.store(0).propose(put("k", &text)).await.expect("put");
        learner.read_barrier().await.expect("barrier");
        assert_eq!(value(&learner, "k"), Some(text.into()), "what was acknowledged elsewhere");
    }
    // The learner may apply what it is acknowledged by before its leader does.
    for number in 0..200 {
        let text = number.to_string();
        learner.propose(put("through", &text)).await.expect("put");
        cluster.store(0).read_barrier().await.expect("barrier");
        assert_eq!(value(cluster.store(0), "through"), Some(text.into()));
    }
    assert!(learner.status().is_learner);
    let batch = tokio::time::timeout(DEADLINE, watcher.next()).await.expect("in time").expect("events");
    assert!(!batch.events.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn members_can_be_led_by_whom_the_operator_likes() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let other = cluster.store((leader + 1) % 3);
    assert_eq!(other.transfer_leadership(other.member_id()).await, Err(StoreError::NotLeader));
    cluster.store(leader).transfer_leadership(other.member_id()).await.expect("transfer");
    assert_eq!(cluster.leader().await, (leader + 1) % 3);
    assert_eq!(other.transfer_leadership(12345).await, Err(StoreError::BadTransferee));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_member_needs_nobody() {
    let mut cluster = Cluster::start(1).await;
    cluster.store(0).propose(put("k", "v")).await.expect("propose");
    cluster.stop_member(0).await;
    cluster.start_member(0).await;
    cluster.store(0).read_barrier().await.expect("barrier");
    assert_eq!(value(cluster.store(0), "k"), Some("v".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learner_that_never_came_gets_no_vote() {
    let cluster = Cluster::start(1).await;
    cluster.leader().await;
    let store = cluster.store(0);
    store.member_add(vec!["http://127.0.0.1:1".into()], true, 7).await.expect("add");
    let error = store.member_promote(7).await.expect_err("it would stop the cluster");
    assert_eq!(error.to_string(), "can only promote a learner member which is in sync with leader");
    store.propose(put("k", "v")).await.expect("the cluster goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_joins_a_cluster_that_exists_and_votes_when_it_has_caught_up() {
    let mut cluster = Cluster::start(1).await;
    cluster.leader().await;
    for number in 0..50 {
        cluster.store(0).propose(put(&format!("k{number}"), "v")).await.expect("put");
    }
    cluster.grow();
    let url = format!("http://{}", cluster.addresses[1]);
    let refused = cluster.joining(1).build(Env::real(), cluster.storages[1].clone()).await;
    let Err(BuildError::Join(text)) = refused else { panic!("a stranger joined") };
    assert!(text.contains("member count is unequal"), "{text}");
    cluster.store(0).member_add(vec![url], false, 77).await.expect("add");
    // It does not count yet: the one member goes on alone.
    cluster.store(0).propose(put("alone", "v")).await.expect("put");
    assert!(cluster.store(0).members().iter().all(|member| !member.is_learner));
    cluster.start_as(1, cluster.joining(1)).await;
    assert_eq!(cluster.store(1).member_id(), 77);
    eventually("the new member has everything", || value(cluster.store(1), "alone")).await;
    let votes = || cluster.running().all(|store| !store.status().is_learner).then_some(());
    eventually("it votes", votes).await;
    cluster.store(1).propose(put("through", "it")).await.expect("put");
    cluster.stop_member(1).await;
    cluster.start_as(1, cluster.joining(1)).await;
    assert_eq!(cluster.store(1).member_id(), 77, "its folder knows");
    eventually("it is back", || value(cluster.store(1), "through")).await;
}

/// Under load the metrics of the consensus come later than the answer to whoever asked for a change.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_was_just_added_is_known_to_whoever_asks_next() {
    let cluster = Cluster::start(1).await;
    cluster.leader().await;
    let store = cluster.store(0);
    let busy = TaskGroup::new("load", Shutdown::new());
    for writer in 0..16 {
        let (store, stop) = (store.clone(), busy.shutdown().clone());
        busy.spawn_detached(format!("writer-{writer}"), async move {
            while !stop.is_triggered() {
                drop(store.propose(put("k", "v")).await);
            }
        });
    }
    let url = || vec!["http://127.0.0.1:1".to_owned()];
    for id in 100..300 {
        store.member_add(url(), true, id).await.expect("added");
        let again = store.member_add(url(), true, id).await;
        assert!(matches!(again, Err(StoreError::Membership(_))), "{again:?}");
        store.member_remove(id).await.expect("it is known");
        assert_eq!(store.member_remove(id).await, Err(StoreError::MemberNotFound));
    }
    busy.shutdown().trigger();
    busy.join(DEADLINE).await.expect("they end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_removed_hands_over_first() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let id = cluster.store(leader).member_id();
    let other = (leader + 1) % 3;
    cluster.store(other).member_remove(id).await.expect("remove");
    let member = cluster.members[leader].take().expect("running");
    let ended = tokio::time::timeout(DEADLINE, member.ended).await.expect("in time").expect("a result");
    assert!(matches!(ended, Err(RunError::Removed)), "{ended:?}");
    cluster.store(other).propose(put("k", "v")).await.expect("the others go on");
    assert_eq!(cluster.store(other).members().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_have_only_just_met_are_not_changed() {
    let mut cluster = Cluster::start(3).await;
    cluster.leader().await;
    for index in 0..3 {
        cluster.stop_member(index).await;
    }
    for index in 0..3 {
        let health_interval = Duration::from_secs(3600);
        let config = StoreConfig { strict_reconfig_check: true, health_interval, ..cluster.config(index) };
        cluster.start_as(index, config).await;
    }
    let leader = cluster.leader().await;
    eventually("all have said who they are", || cluster.is_named_on(leader).then_some(())).await;
    // Any of them may have to decide, should another one lead by then.
    let met = || cluster.running().all(|store| store.reached_members().len() == 2).then_some(());
    eventually("all have met", met).await;
    let id = cluster.store(1).member_id();
    assert_eq!(cluster.store(0).member_remove(id).await, Err(StoreError::Unhealthy));
    let url = "http://127.0.0.1:1".to_owned();
    assert_eq!(cluster.store(2).member_add(vec![url], true, 77).await, Err(StoreError::Unhealthy));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_member_is_told_and_never_comes_back() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let removed = (leader + 1) % 3;
    let id = cluster.store(removed).member_id();
    cluster.store(leader).member_remove(id).await.expect("remove");
    let member = cluster.members[removed].take().expect("running");
    let ended = tokio::time::timeout(DEADLINE, member.ended).await.expect("in time").expect("a result");
    assert!(matches!(ended, Err(RunError::Removed)), "{ended:?}");
    let built = cluster.config(removed).build(Env::real(), cluster.storages[removed].clone()).await;
    assert!(matches!(built, Err(BuildError::Removed)), "its folder is of no use any more");
    cluster.store(leader).propose(put("k", "v")).await.expect("the others go on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_not_given_to_another_member_or_cluster() {
    let mut cluster = Cluster::start(1).await;
    cluster.leader().await;
    cluster.stop_member(0).await;
    let mut config = cluster.config(0);
    config.cluster_token = "another".to_owned();
    let built = config.build(Env::real(), cluster.storages[0].clone()).await;
    assert!(matches!(built, Err(BuildError::Identity { .. })), "another cluster");
    let config = StoreConfig { name: "nobody".to_owned(), ..cluster.config(0) };
    let Err(error) = config.build(Env::real(), cluster.storages[0].clone()).await else { panic!("built") };
    assert_eq!(error.to_string(), "couldn't find local name \"nobody\" in the initial cluster configuration");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_folder_says_itself_whose_it_is() {
    let mut cluster = Cluster::start(1).await;
    cluster.leader().await;
    cluster.store(0).propose(put("k", "v")).await.expect("propose");
    cluster.stop_member(0).await;
    let other = vec![("m0".to_owned(), "http://elsewhere:1".to_owned())];
    let config = StoreConfig { trust_folder: true, initial_cluster: other, ..cluster.config(0) };
    cluster.start_as(0, config).await;
    cluster.leader().await;
    assert_eq!(value(cluster.store(0), "k").as_deref(), Some(&b"v"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_has_served_may_not_begin_anew() {
    let mut cluster = Cluster::start(3).await;
    cluster.leader().await;
    eventually("all names", || (0..3).all(|index| cluster.is_named_on(index)).then_some(())).await;
    cluster.stop_member(2).await;
    let empty = Arc::new(MemoryStorage::new(cluster.folder.path().join("empty")));
    let config = StoreConfig { trust_folder: true, bootstrap_timeout: DEADLINE, ..cluster.config(2) };
    let Err(error) = config.build(Env::real(), empty).await else { panic!("it votes again") };
    assert!(error.to_string().ends_with("has already been bootstrapped"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_forced_goes_on_alone_with_its_data() {
    let mut cluster = Cluster::start(3).await;
    cluster.leader().await;
    cluster.store(0).propose(put("k", "v")).await.expect("propose");
    for index in 0..3 {
        cluster.stop_member(index).await;
    }
    for force_new_cluster in [true, false, true] {
        cluster.start_as(0, StoreConfig { force_new_cluster, ..cluster.config(0) }).await;
        cluster.leader().await;
        let store = cluster.store(0).clone();
        assert_eq!(store.members().len(), 1);
        assert_eq!(value(&store, "k").as_deref(), Some(&b"v"[..]));
        store.propose(put("more", "x")).await.expect("it is a quorum");
        cluster.stop_member(0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named() {
    let cluster = Cluster::start(1).await;
    let storage = Arc::new(MemoryStorage::new(cluster.folder.path().join("other")));
    let Err(error) = cluster.config(0).build(Env::real(), storage).await else { panic!("built") };
    let expected = format!("cannot listen for peers on {}: ", cluster.addresses[0]);
    assert!(error.to_string().starts_with(&expected), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_bounded_on_both_sides() {
    let cluster = Cluster::start(1).await;
    let of = |bytes| put("k", &"x".repeat(bytes));
    cluster.store(0).propose(of(3 << 19)).await.expect("as large as it may be");
    assert_eq!(cluster.store(0).propose(of(2 << 20)).await, Err(StoreError::TooLarge));
}

#[test]
fn timing_is_that_of_etcd_for_requests() {
    let timing = Timing { election_max: Duration::from_secs(1), ..Timing::default() };
    assert_eq!(timing.request_timeout(), Duration::from_secs(7));
}

/// Makes the state of a member that does not run differ from the others'.
fn diverge(storage: &dyn Storage) {
    let engine = storage.open_state().expect("state");
    let (mut batch, key) = (Batch::default(), b"state-hash");
    let mut hash = engine.get(Table::Meta, key).expect("read").expect("a hash").to_vec();
    hash[7] ^= 1;
    batch.put(Table::Meta, key.as_slice(), hash);
    engine.write(batch).expect("write");
}

impl Cluster {
    async fn ended(&mut self, index: usize) -> RunError {
        let member = self.members[index].take().expect("running");
        let ended = tokio::time::timeout(DEADLINE, member.ended).await.expect("in time");
        assert!(member.store.check_sound().is_err(), "it answers nobody");
        assert_eq!(member.store.propose(put("k", "lost")).await, Err(StoreError::Corrupt));
        assert_eq!(member.store.read_barrier().await, Err(StoreError::Corrupt));
        ended.expect("a result").expect_err("it does not go on")
    }

    async fn write(&self, at: usize, count: usize) {
        for number in 0..count {
            self.store(at).propose(put("k", &number.to_string())).await.expect("propose");
        }
    }

    async fn agree(&self) {
        eventually("all hold the same, and no alarm", || {
            let views: Vec<_> = self.running().map(Store::view).collect();
            let same = |view: &Arc<mvcc::View>| {
                view.state_hash() == views[0].state_hash() && view.revision() == views[0].revision()
            };
            (views.iter().all(same) && views.iter().all(|view| view.alarms().next().is_none())).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_state_differs_is_found_out_and_takes_another_ones() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    cluster.write(leader, 20).await;
    let odd = (leader + 1) % 3;
    cluster.stop_member(odd).await;
    diverge(&*cluster.storages[odd]);
    cluster.start_member(odd).await;
    cluster.write(leader, 40).await;
    let ended = cluster.ended(odd).await;
    assert!(matches!(&ended, RunError::Repair(why) if why.contains("majority")), "{ended}");
    let alarms: Vec<_> = cluster.store(leader).view().alarms().collect();
    assert_eq!(alarms.len(), 1, "{alarms:?}");
    cluster.write(leader, 1).await;
    cluster.start_member(odd).await;
    cluster.agree().await;
    cluster.write(odd, 40).await;
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_state_differs_from_the_others_is_the_one_that_is_wrong() {
    let mut cluster = Cluster::start(3).await;
    let first = cluster.leader().await;
    cluster.write(first, 20).await;
    let odd = (first + 1) % 3;
    cluster.stop_member(odd).await;
    diverge(&*cluster.storages[odd]);
    cluster.start_member(odd).await;
    let id = cluster.store(odd).member_id();
    cluster.store(odd).read_barrier().await.expect("level");
    cluster.store(first).transfer_leadership(id).await.expect("handed over");
    cluster.write(first, 40).await;
    let ended = cluster.ended(odd).await;
    assert!(matches!(ended, RunError::Repair(_)), "{ended}");
    cluster.write(first, 1).await;
    cluster.start_member(odd).await;
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_members_that_differ_nobody_knows_which_is_wrong() {
    let mut cluster = Cluster::start(2).await;
    let leader = cluster.leader().await;
    cluster.write(leader, 20).await;
    let other = 1 - leader;
    cluster.stop_member(other).await;
    diverge(&*cluster.storages[other]);
    cluster.start_member(other).await;
    cluster.write(other, 40).await;
    let store = cluster.store(other).clone();
    let alarm = eventually("an alarm", || store.view().alarms().next()).await;
    assert_eq!(alarm, mvcc::Alarm { member: 0, kind: mvcc::AlarmKind::Corrupt });
    let refused = store.propose(put("k", "v")).await.expect("an answer");
    assert_eq!(refused.response, Err(mvcc::MvccError::Corrupt));
}
