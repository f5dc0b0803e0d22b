//! openraft's log over a [`LogEngine`]: a tail in memory that replication and apply read from, and one thread that
//! makes appended entries durable, a group at a time. A single entry on a quick disk is made durable where it is appended,
//! unless there are other members to send it to meanwhile: two changes of threads take longer than its sync.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use env::Clock;
use metrics::{Counter, Gauge, Histogram};
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use parking_lot::RwLock;
use tokio::sync::{mpsc, oneshot};

use crate::consensus::{self, Entry, LogId, TypeConfig, Vote};
use crate::disk::Disk;
use crate::failpoints::hit;
use crate::state::Shared;
use crate::storage::{LogBatch, LogEngine, LogMeta};

/// Bytes of entries kept in memory behind the newest.
const TAIL_BYTES: usize = 2 << 20;
/// Bytes of entries handed to replication at a time.
const READ_BYTES: usize = 1 << 20;
/// Appends that wait to be made durable.
const FLUSH_QUEUE: usize = 4096;
/// A sync that takes less is not worth another thread.
const VERY_QUICK: Duration = Duration::from_micros(30);
/// A sync that takes less is not worth another thread when nothing could be done meanwhile.
const QUICK: Duration = Duration::from_millis(1);
/// So many entries came alone: more say that others are about to come.
const FEW_ENTRIES: usize = 1;

/// The newest entries, without a gap.
#[derive(Default)]
struct Tail {
    entries: VecDeque<Entry>,
    bytes: usize,
}

impl Tail {
    fn first(&self) -> Option<u64> {
        self.entries.front().map(|entry| entry.log_id.index)
    }

    fn push(&mut self, entry: Entry) {
        self.bytes += consensus::entry_size(&entry);
        self.entries.push_back(entry);
        while self.bytes > TAIL_BYTES && self.entries.len() > 1 {
            self.pop_front();
        }
    }

    fn pop_front(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.bytes -= consensus::entry_size(&entry);
        }
    }

    fn truncate_from(&mut self, index: u64) {
        while self.entries.back().is_some_and(|entry| entry.log_id.index >= index) {
            let entry = self.entries.pop_back().expect("invariant: just seen");
            self.bytes -= consensus::entry_size(&entry);
        }
    }

    fn purge_to(&mut self, index: u64) {
        while self.first().is_some_and(|first| first <= index) {
            self.pop_front();
        }
    }

    /// The entries of a range, when the tail reaches back far enough.
    fn read(&self, range: Range<u64>, max_bytes: usize) -> Option<Vec<Entry>> {
        let first = self.first()?;
        if range.start < first {
            return None;
        }
        let skip = usize::try_from(range.start - first).ok()?;
        let len = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let taken = self.entries.iter().skip(skip).take(len).take_while(|entry| {
            let fits = bytes < max_bytes;
            bytes += consensus::entry_size(entry);
            fits
        });
        Some(taken.cloned().collect())
    }
}

enum Flush {
    Appended(IOFlushed<TypeConfig>),
    Vote(oneshot::Sender<io::Result<()>>),
}

/// Whose log it is.
pub(crate) struct Owner {
    pub me: u64,
    pub shared: Arc<Shared>,
}

impl Owner {
    /// Whether entries are to be sent to others while they are synced, by the vote that is in force.
    fn replicates(&self, vote: Option<Vote>) -> bool {
        vote.is_none_or(|vote| vote.leader_id.voted_for == self.me)
            && !consensus::is_only_member(&self.shared.membership.load(), self.me)
    }
}

struct Inner {
    owner: Owner,
    syncer: Arc<Syncer>,
    clock: Clock,
    disk: Arc<Disk>,
    writes: Histogram,
    written: Gauge,
    engine: Arc<dyn LogEngine>,
    tail: RwLock<Tail>,
    vote: RwLock<Option<Vote>>,
}

/// The log, its reader too.
#[derive(Clone)]
pub(crate) struct Log {
    inner: Arc<Inner>,
    flushes: mpsc::Sender<Flush>,
}

impl Log {
    /// Takes the log up where it was left, and starts the thread that syncs it; the thread ends with the last clone.
    pub fn open(engine: Arc<dyn LogEngine>, clock: Clock, disk: Arc<Disk>, owner: Owner) -> io::Result<Self> {
        let vote = engine.meta(LogMeta::Vote)?.map(consensus::decode_vote).transpose()?;
        let syncer = Arc::new(Syncer::new(engine.clone(), disk.clone()));
        let inner = Inner {
            owner,
            syncer: syncer.clone(),
            clock,
            disk,
            writes: metrics::histogram!("etcd_disk_wal_write_duration_seconds"),
            written: metrics::gauge!("etcd_disk_wal_write_bytes_total"),
            engine,
            tail: RwLock::default(),
            vote: RwLock::new(vote),
        };
        let (flushes, requests) = mpsc::channel(FLUSH_QUEUE);
        std::thread::Builder::new().name("raft-log-sync".into()).spawn(move || syncer.run(requests))?;
        Ok(Self { inner: Arc::new(inner), flushes })
    }

    fn read(&self, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<Entry>> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        if let Some(entries) = self.inner.tail.read().read(range.clone(), max_bytes) {
            return Ok(entries);
        }
        let stored = self.inner.engine.read(range, max_bytes)?;
        stored.into_iter().map(|(_, bytes)| consensus::decode_entry(bytes)).collect()
    }

    fn last_log_id(&self, purged: Option<LogId>) -> io::Result<Option<LogId>> {
        match self.inner.engine.last()? {
            Some((_, bytes)) => Ok(Some(consensus::decode_entry(bytes)?.log_id)),
            None => Ok(purged),
        }
    }

    fn meta_log_id(&self, key: LogMeta) -> io::Result<Option<LogId>> {
        self.inner.engine.meta(key)?.map(consensus::decode_log_id).transpose()
    }

    async fn flush(&self, flush: Flush) -> io::Result<()> {
        self.inner.syncer.waiting.fetch_add(1, Ordering::Relaxed);
        self.flushes.send(flush).await.map_err(|_| io::Error::other("the log's sync thread has ended"))
    }
}

/// What every turn of the consensus passes before it writes to the log.
pub(crate) fn before_save() {
    hit("raftBeforeSave");
}

/// Makes durable what was appended.
struct Syncer {
    engine: Arc<dyn LogEngine>,
    disk: Arc<Disk>,
    syncs: Counter,
    appends: Counter,
    /// Flushes that the thread has not done yet.
    waiting: AtomicUsize,
}

impl Syncer {
    fn new(engine: Arc<dyn LogEngine>, disk: Arc<Disk>) -> Self {
        let syncs = metrics::counter!("trierarch_log_syncs_total");
        let appends = metrics::counter!("trierarch_log_synced_appends_total");
        Self { engine, disk, syncs, appends, waiting: AtomicUsize::new(0) }
    }

    /// Syncs once for all of `group`.
    fn sync(&self, group: impl ExactSizeIterator<Item = Flush>) {
        hit("logBeforeSync");
        let result = self.disk.time(|| match hit("logDuringSync") {
            // A disk that fails, in tests; or that is slow, when the point waits.
            Some(text) => Err(io::Error::other(text)),
            None => self.engine.sync(),
        });
        hit("raftAfterSave");
        self.syncs.increment(1);
        self.appends.increment(group.len() as u64);
        for flush in group {
            let result = result
                .as_ref()
                .map(|&()| ())
                .map_err(|error| io::Error::new(error.kind(), error.to_string()));
            match flush {
                Flush::Appended(callback) => callback.io_completed(result),
                Flush::Vote(done) => drop(done.send(result)),
            }
        }
    }

    /// Syncs on this thread whatever arrived during the sync before, until there is nobody left who could send.
    fn run(&self, mut requests: mpsc::Receiver<Flush>) {
        let mut group = Vec::new();
        while requests.blocking_recv_many(&mut group, FLUSH_QUEUE) > 0 {
            let count = group.len();
            self.sync(group.drain(..));
            self.waiting.fetch_sub(count, Ordering::Release);
        }
    }

    /// Whether a sync is better done where the entries were appended than by the thread: nothing is to be synced before
    /// it, and it is over before a thread could be woken twice, or there is nothing that could be done meanwhile.
    fn is_better_here(&self, is_only_work: bool) -> bool {
        let took = self.disk.most();
        self.waiting.load(Ordering::Acquire) == 0 && (took < VERY_QUICK || took < QUICK && is_only_work)
    }
}

/// Whether a vote says no more than that the one before was for the member that was elected. It need not be durable before
/// it counts: a member that forgets it still votes for nobody else in that term, and is told again by the leader. The sync
/// of the next entry or vote makes it so.
fn confirms(vote: &Vote, before: &Vote) -> bool {
    vote.committed && vote.leader_id == before.leader_id
}

fn to_range(range: impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(&start) => start,
        Bound::Excluded(&start) => start + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(&end) => end + 1,
        Bound::Excluded(&end) => end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

impl RaftLogReader<TypeConfig> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let mut range = to_range(range);
        let mut entries = Vec::new();
        // The engine answers in pages; the whole range is asked for.
        loop {
            let page = self.read(range.clone(), usize::MAX)?;
            let Some(last) = page.last() else { return Ok(entries) };
            range.start = last.log_id.index + 1;
            entries.extend(page);
        }
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(*self.inner.vote.read())
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start..end, READ_BYTES)
    }
}

impl RaftLogStorage<TypeConfig> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let last_purged_log_id = self.meta_log_id(LogMeta::Purged)?;
        let last_log_id = self.last_log_id(last_purged_log_id)?;
        Ok(LogState { last_purged_log_id, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        hit("voteBeforeSave");
        let meta = vec![(LogMeta::Vote, consensus::encode_vote(vote))];
        self.inner.engine.write(LogBatch { meta, ..LogBatch::default() })?;
        let before = self.inner.vote.write().replace(*vote);
        if before.is_some_and(|before| confirms(vote, &before)) {
            return Ok(());
        }
        let (done, synced) = oneshot::channel();
        self.flush(Flush::Vote(done)).await?;
        let synced = synced.await.map_err(|_| io::Error::other("the log's sync thread has ended"))?;
        hit("voteAfterSave");
        synced
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let Some(committed) = committed else { return Ok(()) };
        let meta = vec![(LogMeta::Committed, consensus::encode_log_id(&committed))];
        self.inner.engine.write(LogBatch { meta, ..LogBatch::default() })
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        self.meta_log_id(LogMeta::Committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let count = entries.len();
        let encoded: Vec<_> =
            entries.iter().map(|entry| (entry.log_id.index, consensus::encode_entry(entry))).collect();
        let bytes: usize = encoded.iter().map(|(_, entry)| entry.len()).sum();
        let start = self.inner.clock.monotonic();
        self.inner.disk.watch(|| {
            before_save();
            self.inner.engine.write(LogBatch { entries: encoded, ..LogBatch::default() })
        })?;
        self.inner.writes.record(self.inner.clock.monotonic() - start);
        self.inner.written.increment(bytes as f64);
        hit("logAfterWrite");
        {
            let mut tail = self.inner.tail.write();
            entries.into_iter().for_each(|entry| tail.push(entry));
        }
        let (syncer, flush) = (&self.inner.syncer, Flush::Appended(callback));
        let is_only_work = count <= FEW_ENTRIES && !self.inner.owner.replicates(*self.inner.vote.read());
        if syncer.is_better_here(is_only_work) {
            syncer.sync(std::iter::once(flush));
            return Ok(());
        }
        self.flush(flush).await
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        hit("logBeforeTruncate");
        let from = last_log_id.map_or(0, |last| last.index + 1);
        self.inner.tail.write().truncate_from(from);
        self.inner.engine.write(LogBatch { remove: Some(from..u64::MAX), ..LogBatch::default() })?;
        hit("logAfterTruncate");
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        hit("logBeforePurge");
        self.inner.tail.write().purge_to(log_id.index);
        let meta = vec![(LogMeta::Purged, consensus::encode_log_id(&log_id))];
        self.inner.engine.write(LogBatch { remove: Some(0..log_id.index + 1), meta, entries: Vec::new() })?;
        hit("logAfterPurge");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryStorage;
    use crate::sessions::Outstanding;
    use crate::state::{Pace, StateMachine};
    use crate::storage::Storage as _;

    fn syncer(took: Duration) -> Syncer {
        let folder = tempfile::tempdir().expect("folder");
        let engine = MemoryStorage::new(folder.path()).open_log().expect("a log");
        Syncer::new(engine, Arc::new(Disk::that_took(took)))
    }

    #[test]
    fn a_quick_sync_is_done_where_the_entries_are_appended() {
        let (very_quick, quick) = (syncer(Duration::from_micros(5)), syncer(Duration::from_micros(200)));
        assert!(very_quick.is_better_here(false) && very_quick.is_better_here(true));
        assert!(quick.is_better_here(true));
        assert!(!quick.is_better_here(false), "others can be sent the entries meanwhile");
        assert!(
            !syncer(Duration::from_millis(2)).is_better_here(true),
            "a slow disk must not hold up the consensus"
        );
    }

    #[tokio::test]
    async fn a_vote_is_durable_when_it_is_saved_unless_it_only_confirms_one() {
        let folder = tempfile::tempdir().expect("folder");
        let (storage, env) = (Arc::new(MemoryStorage::new(folder.path())), env::Env::real());
        let engine = storage.open_log().expect("a log");
        let cache = (Pace::new((0, Duration::ZERO), Duration::MAX), 1 << 20);
        let state = StateMachine::open(storage, env.clone(), Outstanding::new(1, 1), cache).expect("a state");
        let owner = Owner { me: 1, shared: state.shared() };
        let disk = Arc::new(Disk::new(env.clock.clone()));
        let mut log = Log::open(engine, env.clock, disk, owner).expect("a log");
        log.save_vote(&Vote::new(7, 2)).await.expect("saved");
        // Nobody syncs any more.
        log.flushes = mpsc::channel(1).0;
        log.save_vote(&Vote::new_committed(7, 2)).await.expect("nothing to wait for");
        assert_eq!(log.read_vote().await.expect("a vote"), Some(Vote::new_committed(7, 2)));
        log.save_vote(&Vote::new(8, 2)).await.expect_err("another term");
        log.save_vote(&Vote::new_committed(9, 3)).await.expect_err("another leader");
    }

    #[test]
    fn a_sync_does_not_overtake_one_that_waits() {
        let syncer = syncer(Duration::from_micros(5));
        let (ask, asked) = mpsc::channel(FLUSH_QUEUE);
        let (done, mut synced) = oneshot::channel();
        syncer.waiting.fetch_add(1, Ordering::Relaxed);
        ask.try_send(Flush::Vote(done)).expect("room");
        assert!(!syncer.is_better_here(true));
        drop(ask);
        syncer.run(asked);
        assert!(synced.try_recv().expect("an answer").is_ok());
        assert!(syncer.is_better_here(true));
    }
}
