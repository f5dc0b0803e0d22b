//! openraft's state machine over `mvcc`: applies entries in batches, hands each batch to the engine once, publishes
//! the view, then hands events to watchers and answers to those who wait, in this order.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use env::Env;
use futures::{Stream, StreamExt as _};
use mvcc::{Applied, Command, Mvcc, MvccError, Response, SweepStep, Swept, View};
use openraft::entry::EntryPayload;
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::behind::Behind;
use crate::consensus::{self, Beside, Entry, LogId, StoredMembership, TypeConfig};
use crate::counters::Counters;
use crate::failpoints::hit;
use crate::integrity::{Fence, Guarded, KeyHashes, Mark, Marks};
use crate::leases::LeaseClock;
use crate::sessions::{Origin, Outstanding};
use crate::snapshot::{self, Builder, Folder, Meta, Shelf, Snap};
use crate::storage::Storage;
use crate::watch::Hub;

/// Entries that are written to the engine together, at most.
const MAX_BATCH: usize = 1024;

/// Bytes of entries after which a snapshot is made, however few entries they are: the log is on the disk and is read at
/// the start.
const MAX_LOG: u64 = 32 << 20;
/// Bytes of entries that are kept behind such a snapshot, about.
const KEPT_LOG: u64 = 16 << 20;
/// How exactly that is known.
const LOG_MARK: u64 = 1 << 20;

/// What the state machine shows to everyone else.
pub(crate) struct Shared {
    pub view: ArcSwap<View>,
    /// The last entry that is in the view.
    pub applied: watch::Sender<u64>,
    pub membership: ArcSwap<StoredMembership>,
    pub hub: Hub,
    pub leases: Mutex<LeaseClock>,
    pub outstanding: Outstanding,
    pub env: Env,
    pub counters: Counters,
    /// Whether a batch was applied and is not shown yet.
    pub publishing: AtomicBool,
    /// What the state machine writes to; another one after a snapshot was received.
    pub engine: Mutex<Arc<Behind>>,
    /// Told when there is something to do for [`crate::upkeep`].
    pub upkeep: Notify,
    /// What this member noted of its state, for the others to compare.
    pub marks: Mutex<Marks>,
    /// Hashes of the keys at compacted revisions, where they are compared.
    pub key_hashes: Mutex<KeyHashes>,
    /// The compaction up to which everything is deleted that it let go; 0 while that is not known yet.
    pub swept: watch::Sender<mvcc::Revision>,
    pub fence: Arc<Fence>,
}

/// The single writer, and what it needs for its work. Whoever holds it sees no half of a batch.
pub(crate) struct Core {
    mvcc: Mvcc<Arc<Behind>>,
    beside: Beside,
    beside_changed: bool,
    /// Whether a compaction waits to be written.
    compacts: bool,
    /// How often the whole state was replaced.
    replaced: u64,
    pace: Pace,
    cache_bytes: u64,
    log: LogSize,
    shared: Arc<Shared>,
}

/// How fast the state machine goes about what nobody waits for, and when it is slow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Versions that are walked over at a time for what was compacted.
    pub batch: usize,
    pub pause: Duration,
    warn_apply: Duration,
}

impl Pace {
    pub fn new((batch, pause): (usize, Duration), warn_apply: Duration) -> Self {
        // 0 asks for the default, as in etcd.
        let batch = if batch == 0 { 1000 } else { batch };
        Self { batch, pause, warn_apply }
    }
}

/// How large the log is behind the last snapshot, and where its newest part begins.
#[derive(Default)]
struct LogSize {
    /// Bytes of all entries that were applied.
    total: u64,
    /// What it was at the last snapshot.
    at_snapshot: u64,
    /// Entries with the total before each, [`LOG_MARK`] apart.
    marks: VecDeque<(u64, u64)>,
}

impl LogSize {
    fn add(&mut self, index: u64, bytes: usize) {
        if self.marks.back().is_none_or(|(_, before)| self.total - before >= LOG_MARK) {
            self.marks.push_back((index, self.total));
        }
        self.total += bytes as u64;
        while self.marks.len() > 1 && self.total - self.marks[1].1 > KEPT_LOG {
            self.marks.pop_front();
        }
    }

    fn is_large(&self) -> bool {
        self.total - self.at_snapshot > MAX_LOG
    }
}

/// What openraft drives.
pub(crate) struct StateMachine {
    core: Arc<Mutex<Core>>,
    engine: Arc<Behind>,
    storage: Arc<dyn Storage>,
    shelf: Shelf,
    shared: Arc<Shared>,
}

/// A step of deleting what was compacted, and of which state: how often it had been replaced.
pub(crate) struct Sweep {
    pub step: SweepStep,
    pub replaced: u64,
}

/// What waits for the batch to be written.
#[derive(Default)]
struct Pending {
    responders: Vec<ApplyResponder<TypeConfig>>,
    answers: Vec<(Origin, Applied)>,
    events: Vec<mvcc::Event>,
}

impl StateMachine {
    /// Opens the state that the storage holds, with room for so many bytes of values in memory.
    pub fn open(
        storage: Arc<dyn Storage>,
        env: Env,
        outstanding: Outstanding,
        (pace, cache_bytes): (Pace, u64),
    ) -> io::Result<Self> {
        snapshot::recover(&*storage)?;
        let shelf = Shelf::open(storage.clone(), env.clock.clone())?;
        let fence = Arc::new(Fence::default());
        let counters = Counters::new();
        let engine = Guarded::over(storage.open_state()?, fence.clone());
        let engine = Behind::over(engine, env.clock.clone(), counters.commit.clone())?;
        let mvcc = Mvcc::open_with(engine.clone(), cache_bytes).map_err(io::Error::other)?;
        let beside = consensus::decode_beside(mvcc.caller_meta())?;
        let view = mvcc.view();
        let mut leases = LeaseClock::default();
        leases.reset(&view, env.clock.monotonic());
        let shared = Shared {
            hub: Hub::new(view.revision()),
            applied: watch::Sender::new(view.applied().0),
            membership: ArcSwap::from_pointee(beside.membership.clone()),
            view: ArcSwap::from_pointee(view),
            leases: Mutex::new(leases),
            outstanding,
            env,
            counters,
            publishing: AtomicBool::new(false),
            engine: Mutex::new(engine.clone()),
            upkeep: Notify::new(),
            marks: Mutex::default(),
            key_hashes: Mutex::default(),
            swept: watch::Sender::new(0),
            fence,
        };
        let shared = Arc::new(shared);
        let core = Core {
            mvcc,
            beside,
            beside_changed: false,
            compacts: false,
            replaced: 0,
            pace,
            cache_bytes,
            log: LogSize::default(),
            shared: shared.clone(),
        };
        Ok(Self { core: Arc::new(Mutex::new(core)), engine, storage, shelf, shared })
    }

    pub fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    pub fn core(&self) -> Arc<Mutex<Core>> {
        self.core.clone()
    }
}

impl Core {
    /// The next step of deleting what was compacted.
    pub fn sweep(&self) -> Option<Sweep> {
        let step = self.mvcc.sweep()?;
        Some(Sweep { step, replaced: self.replaced })
    }

    /// Whether this is still the state that a step was taken from.
    pub fn is(&self, replaced: u64) -> bool {
        self.replaced == replaced
    }

    /// Deletes what a step found.
    pub fn absorb(&mut self, swept: Swept) -> io::Result<()> {
        self.mvcc.absorb(swept);
        self.mvcc.commit(None).map_err(io::Error::other)?;
        self.shared.view.store(Arc::new(self.mvcc.view()));
        Ok(())
    }

    /// Whether a snapshot is to be made, because the log has become long in bytes; then the first entry of it that is
    /// kept for others to catch up. It is asked for once.
    pub fn begin_snapshot(&mut self) -> Option<u64> {
        if !self.log.is_large() {
            return None;
        }
        self.log.at_snapshot = self.log.total;
        self.log.marks.front().map(|(index, _)| *index)
    }

    pub fn pace(&self) -> Pace {
        self.pace
    }

    pub fn mvcc(&mut self) -> &mut Mvcc<Arc<Behind>> {
        &mut self.mvcc
    }

    /// Applies a batch of entries.
    fn apply(&mut self, batch: Vec<EntryResponder<TypeConfig>>) -> io::Result<()> {
        let mut pending = Pending::default();
        for (entry, responder) in batch {
            self.apply_entry(entry, &mut pending)?;
            pending.responders.extend(responder);
        }
        self.publish(pending)
    }

    /// Whether nothing was ever applied.
    pub fn is_new(&self) -> bool {
        self.mvcc.applied() == (0, 0)
    }

    /// Applies entries of a log whose member does not run.
    pub fn replay(&mut self, entries: Vec<Entry>) -> io::Result<()> {
        for batch in entries.chunks(MAX_BATCH) {
            let mut pending = Pending::default();
            for entry in batch {
                self.apply_entry(entry.clone(), &mut pending)?;
            }
            self.publish(pending)?;
        }
        Ok(())
    }

    fn apply_entry(&mut self, entry: Entry, pending: &mut Pending) -> io::Result<()> {
        let id = entry.log_id;
        let (index, term) = (id.index, consensus::term_of(&id));
        self.log.add(index, consensus::entry_size(&entry));
        match entry.payload {
            EntryPayload::Blank => self.mvcc.skip(index, term),
            EntryPayload::Membership(membership) => {
                hit("beforeApplyOneConfChange");
                self.mvcc.skip(index, term);
                self.beside.membership = StoredMembership::new(Some(id), membership);
                self.beside_changed = true;
            }
            EntryPayload::Normal(proposal) if self.admit(&proposal.origin) => {
                hit("beforeApplyOneEntryNormal");
                self.beside_changed = true;
                let mut applied = self.apply_command(index, term, proposal.command)?;
                // The events go to the watchers; whoever proposed needs the answer only.
                pending.events.append(&mut applied.events);
                pending.answers.push((proposal.origin, applied));
            }
            // A copy of a proposal that was applied before.
            EntryPayload::Normal(_) => self.mvcc.skip(index, term),
        }
        if Marks::wants(index) && !self.beside.sessions.is_fresh() {
            self.shared.marks.lock().note(Mark { index, hash: self.mvcc.state_hash() });
        }
        Ok(())
    }

    /// Whether a proposal is to be applied. With the first one of all the rolling hash begins: members that began with a
    /// state from elsewhere loaded it as it was at different entries, and their hashes until then cannot be compared.
    fn admit(&mut self, origin: &Origin) -> bool {
        if origin.member != 0 && self.beside.sessions.is_fresh() {
            self.mvcc.begin_hash();
        }
        self.beside.sessions.admit(origin)
    }

    fn apply_command(&mut self, index: u64, term: u64, bytes: Bytes) -> io::Result<Applied> {
        let command = match Command::decode(bytes) {
            Ok(command) => command,
            // Every replica meets the same bytes and refuses them alike.
            Err(error) => {
                self.mvcc.skip(index, term);
                let response = Err(mvcc::MvccError::Engine(error.to_string()));
                let revision = self.mvcc.view().revision();
                return Ok(Applied { revision, response, events: Vec::new() });
            }
        };
        if hit("applyLosesOneEntry").is_some() {
            // As a bug would: a test shows that the member is found out.
            self.mvcc.skip(index, term);
            let revision = self.mvcc.view().revision();
            return Ok(Applied { revision, response: Ok(Response::None), events: Vec::new() });
        }
        let clock = &self.shared.env.clock;
        let start = clock.monotonic();
        let applied = self.mvcc.apply(index, term, &command).map_err(io::Error::other)?;
        let took = clock.monotonic() - start;
        self.shared.counters.note(&command, &applied, took);
        if took > self.pace.warn_apply {
            self.shared.counters.tell_slow(&command, took, self.pace.warn_apply);
        }
        self.note_lease(command.plain(), term, &applied);
        self.compacts |= matches!(command.plain(), Command::Compact { .. });
        Ok(applied)
    }

    fn note_lease(&self, command: &Command, in_term: u64, applied: &Applied) {
        let now = self.shared.env.clock.monotonic();
        match (command, &applied.response) {
            (_, Ok(Response::LeaseGranted { id, ttl })) => self.shared.leases.lock().granted(*id, *ttl, now),
            (Command::LeaseRevoke { id }, Ok(_)) => self.shared.leases.lock().revoked(*id),
            (Command::LeaseExpire { id, term }, Ok(_)) if *term == in_term => {
                self.shared.leases.lock().revoked(*id);
            }
            (Command::LeaseCheckpoint { term, remaining }, Ok(_)) if *term == in_term => {
                let mut leases = self.shared.leases.lock();
                remaining.iter().filter(|(_, left)| *left > 0).for_each(|(id, _)| leases.checkpointed(*id));
            }
            _ => {}
        }
    }

    /// Writes what was applied, shows it, and answers.
    fn publish(&mut self, mut pending: Pending) -> io::Result<()> {
        self.shared.publishing.store(true, Ordering::Relaxed);
        hit("afterStartDBTxn");
        hit("commitBeforePreCommitHook");
        let beside = std::mem::take(&mut self.beside_changed).then(|| consensus::encode_beside(&self.beside));
        hit("commitAfterPreCommitHook");
        self.commit(beside)?;
        if self.mvcc.view().revision() > self.shared.view.load().revision() {
            // As in etcd, where a batch without keys has nothing to write back.
            hit("beforeWritebackBuf");
        }
        if self.shared.membership.load().log_id() != self.beside.membership.log_id() {
            self.shared.membership.store(Arc::new(self.beside.membership.clone()));
        }
        let view = self.mvcc.view();
        let (revision, (index, _)) = (view.revision(), view.applied());
        if self.shared.hub.is_watched() {
            // What was there before may be deleted by the time that a slow watcher comes to it.
            let fill = |event| view.fill_prev_of_new(event).map_err(io::Error::other);
            pending.events.iter_mut().try_for_each(fill)?;
        }
        let view = Arc::new(view);
        self.shared.view.store(view.clone());
        self.shared.publishing.store(false, Ordering::Relaxed);
        let left = self.shared.hub.publish(pending.events, revision);
        // As long as the newest events are held, so are the values before them.
        view.let_go(left.events());
        self.shared.applied.send_replace(index);
        hit("afterWritebackBuf");
        hit("storeBeforeAnswer");
        self.shared.outstanding.complete(pending.answers);
        pending.responders.into_iter().for_each(|responder| responder.send(()));
        hit("storeAfterAnswer");
        if self.mvcc.has_garbage() || self.mvcc.is_index_due() || self.log.is_large() {
            self.shared.upkeep.notify_one();
        }
        Ok(())
    }

    /// Hands what was applied to the engine, in one batch.
    fn commit(&mut self, beside: Option<Bytes>) -> io::Result<()> {
        let compacts = std::mem::take(&mut self.compacts);
        compacts.then(|| hit("compactBeforeCommitScheduledCompact"));
        hit("beforeCommit");
        self.mvcc.commit(beside).map_err(io::Error::other)?;
        hit("afterCommit");
        compacts.then(|| hit("compactAfterCommitScheduledCompact"));
        Ok(())
    }

    /// Begins anew with a state that takes the place of this one.
    fn replace(&mut self, engine: Arc<Behind>) -> io::Result<View> {
        self.mvcc = Mvcc::open_with(engine, self.cache_bytes).map_err(io::Error::other)?;
        self.replaced += 1;
        self.beside = consensus::decode_beside(self.mvcc.caller_meta())?;
        Ok(self.mvcc.view())
    }
}

/// Reads the value before a change; none where it was compacted meanwhile.
pub(crate) fn fill_prev(view: &View, event: &mut mvcc::Event) -> io::Result<()> {
    match view.fill_prev(event) {
        Ok(()) | Err(MvccError::Compacted { .. }) => Ok(()),
        Err(error) => Err(io::Error::other(error)),
    }
}

/// Shows that a snapshot is being installed until it is dropped.
struct Installing(metrics::Gauge);

impl Installing {
    fn begin(gauge: &metrics::Gauge) -> Self {
        gauge.set(1.0);
        Self(gauge.clone())
    }
}

impl Drop for Installing {
    fn drop(&mut self) {
        self.0.set(0.0);
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = Folder;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let core = self.core.lock();
        let (index, term) = core.mvcc.applied();
        let last = (term > 0 || index > 0).then(|| consensus::log_id(term, index));
        Ok((last, core.beside.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + Send,
    {
        hit("beforeStartDBTxn");
        let mut batch = Vec::new();
        while let Some(next) = entries.next().await {
            batch.push(next?);
            if batch.len() >= MAX_BATCH {
                self.core.lock().apply(std::mem::take(&mut batch))?;
            }
        }
        if !batch.is_empty() {
            self.core.lock().apply(batch)?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { shelf: self.shelf.clone(), engine: self.engine.clone() }
    }

    async fn install_snapshot(&mut self, meta: &Meta, snapshot: Folder) -> io::Result<()> {
        hit("raftBeforeApplySnap");
        let _installing = Installing::begin(&self.shared.counters.installing);
        // What is behind the new state is of no use any more, and at a restart would not reach up to the log.
        self.shelf.clear();
        let snapshot = snapshot.seal(&*self.storage)?;
        hit("applyBeforeOpenSnapshot");
        self.shared.marks.lock().clear();
        self.shared.key_hashes.lock().clear();
        let engine = self.storage.replace_state(&snapshot)?;
        let engine = Guarded::over(engine, self.shared.fence.clone());
        let took = self.shared.counters.commit.clone();
        let engine = Behind::over(engine, self.shared.env.clock.clone(), took)?;
        tracing::info!("applySnapshot: opened snapshot backend");
        hit("applyAfterOpenSnapshot");
        let mut core = self.core.lock();
        let view = core.replace(engine.clone())?;
        // The log is purged up to here next: whoever is to be caught up then needs this snapshot.
        hit("raftBeforeSaveSnap");
        self.shelf.build(&*engine)?;
        hit("raftAfterSaveSnap");
        *self.shared.engine.lock() = engine.clone();
        self.engine = engine;
        tracing::info!(
            index = meta.last_log_id.map(|id| id.index),
            revision = view.revision(),
            "applied snapshot"
        );
        self.shared.leases.lock().reset(&view, self.shared.env.clock.monotonic());
        self.shared.membership.store(Arc::new(core.beside.membership.clone()));
        let (revision, (index, _)) = (view.revision(), view.applied());
        self.shared.view.store(Arc::new(view));
        self.shared.hub.restart(revision);
        self.shared.applied.send_replace(index);
        hit("raftAfterApplySnap");
        hit("raftAfterWALRelease");
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snap>> {
        Ok(self.shelf.current())
    }
}
