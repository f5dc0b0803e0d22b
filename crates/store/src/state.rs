//! openraft's state machine over `mvcc`: applies entries in batches, writes each batch to the engine once, publishes
//! the view, then hands events to watchers and answers to those who wait, in this order.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use env::Env;
use futures::{Stream, StreamExt as _};
use mvcc::{Applied, Command, Mvcc, Response, View};
use openraft::entry::EntryPayload;
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::consensus::{self, Beside, LogId, StoredMembership, TypeConfig};
use crate::counters::Counters;
use crate::failpoints::hit;
use crate::leases::LeaseClock;
use crate::sessions::{Origin, Outstanding};
use crate::snapshot::{Builder, Folder, Meta, Shelf, Snap};
use crate::storage::{StateEngine, Storage};
use crate::watch::Hub;

/// Entries that are written to the engine together, at most.
const MAX_BATCH: usize = 1024;

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
    /// Whether a batch is on its way to the engine and not shown yet.
    pub writing: AtomicBool,
    /// What the state machine writes to; another one after a snapshot was received.
    pub engine: Mutex<Arc<dyn StateEngine>>,
}

/// The single writer.
pub(crate) struct StateMachine {
    mvcc: Mvcc<Arc<dyn StateEngine>>,
    engine: Arc<dyn StateEngine>,
    beside: Beside,
    beside_changed: bool,
    /// Whether a compaction waits to be written.
    compacts: bool,
    pace: Pace,
    storage: Arc<dyn Storage>,
    shelf: Shelf,
    shared: Arc<Shared>,
}

/// How fast the state machine goes about what nobody waits for, and when it is slow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Past versions deleted at a time.
    batch: usize,
    pause: Duration,
    swept: Instant,
    warn_apply: Duration,
}

impl Pace {
    pub fn new((batch, pause): (usize, Duration), warn_apply: Duration, now: Instant) -> Self {
        // 0 asks for the default, as in etcd.
        let batch = if batch == 0 { 1000 } else { batch };
        let swept = now.checked_sub(pause).unwrap_or(now);
        Self { batch, pause, swept, warn_apply }
    }

    /// Whether it is time to delete again, which is then noted.
    fn is_due(&mut self, now: Instant) -> bool {
        let due = now.saturating_duration_since(self.swept) >= self.pause;
        if due {
            self.swept = now;
        }
        due
    }
}

/// What waits for the batch to be written.
#[derive(Default)]
struct Pending {
    responders: Vec<ApplyResponder<TypeConfig>>,
    answers: Vec<(Origin, Applied)>,
    events: Vec<mvcc::Event>,
    entries: usize,
}

impl StateMachine {
    /// Opens the state that the storage holds.
    pub fn open(
        storage: Arc<dyn Storage>,
        env: Env,
        outstanding: Outstanding,
        pace: Pace,
    ) -> io::Result<Self> {
        let shelf = Shelf::open(storage.clone(), env.clock.clone())?;
        let engine = storage.open_state()?;
        let mvcc = Mvcc::open(engine.clone()).map_err(io::Error::other)?;
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
            counters: Counters::new(),
            writing: AtomicBool::new(false),
            engine: Mutex::new(engine.clone()),
        };
        let shared = Arc::new(shared);
        Ok(Self {
            mvcc,
            engine,
            beside,
            beside_changed: false,
            compacts: false,
            pace,
            storage,
            shelf,
            shared,
        })
    }

    pub fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    fn apply_entry(&mut self, entry: consensus::Entry, pending: &mut Pending) {
        let id = entry.log_id;
        let (index, term) = (id.index, consensus::term_of(&id));
        match entry.payload {
            EntryPayload::Blank => self.mvcc.skip(index, term),
            EntryPayload::Membership(membership) => {
                hit("beforeApplyOneConfChange");
                self.mvcc.skip(index, term);
                self.beside.membership = StoredMembership::new(Some(id), membership);
                self.beside_changed = true;
            }
            EntryPayload::Normal(proposal) if self.beside.sessions.admit(&proposal.origin) => {
                hit("beforeApplyOneEntryNormal");
                self.beside_changed = true;
                let mut applied = self.apply_command(index, term, proposal.command);
                // The events go to the watchers; whoever proposed needs the answer only.
                pending.events.append(&mut applied.events);
                pending.answers.push((proposal.origin, applied));
            }
            // A copy of a proposal that was applied before.
            EntryPayload::Normal(_) => self.mvcc.skip(index, term),
        }
    }

    fn apply_command(&mut self, index: u64, term: u64, bytes: Bytes) -> Applied {
        let command = match Command::decode(bytes) {
            Ok(command) => command,
            // Every replica meets the same bytes and refuses them alike.
            Err(error) => {
                self.mvcc.skip(index, term);
                let response = Err(mvcc::MvccError::Engine(error.to_string()));
                return Applied { revision: self.mvcc.view().revision(), response, events: Vec::new() };
            }
        };
        let clock = &self.shared.env.clock;
        let start = clock.monotonic();
        let applied = self.mvcc.apply(index, term, &command);
        let took = clock.monotonic() - start;
        self.shared.counters.note(&command, &applied, took);
        if took > self.pace.warn_apply {
            self.shared.counters.tell_slow(&command, took, self.pace.warn_apply);
        }
        self.note_lease(command.plain(), &applied);
        self.compacts |= matches!(command.plain(), Command::Compact { .. });
        applied
    }

    fn note_lease(&self, command: &Command, applied: &Applied) {
        let now = self.shared.env.clock.monotonic();
        match (command, &applied.response) {
            (_, Ok(Response::LeaseGranted { id, ttl })) => self.shared.leases.lock().granted(*id, *ttl, now),
            (Command::LeaseRevoke { id }, Ok(_)) => self.shared.leases.lock().revoked(*id),
            _ => {}
        }
    }

    /// Writes what was applied, shows it, and answers.
    fn publish(&mut self, pending: Pending) -> io::Result<()> {
        self.shared.writing.store(true, Ordering::Relaxed);
        hit("afterStartDBTxn");
        hit("commitBeforePreCommitHook");
        let beside = std::mem::take(&mut self.beside_changed).then(|| consensus::encode_beside(&self.beside));
        hit("commitAfterPreCommitHook");
        self.commit(beside)?;
        hit("beforeWritebackBuf");
        if self.shared.membership.load().log_id() != self.beside.membership.log_id() {
            self.shared.membership.store(Arc::new(self.beside.membership.clone()));
        }
        let view = self.mvcc.view();
        let (revision, (index, _)) = (view.revision(), view.applied());
        self.shared.view.store(Arc::new(view));
        self.shared.writing.store(false, Ordering::Relaxed);
        self.shared.hub.publish(pending.events, revision);
        self.shared.applied.send_replace(index);
        hit("afterWritebackBuf");
        hit("storeBeforeAnswer");
        self.shared.outstanding.complete(pending.answers);
        pending.responders.into_iter().for_each(|responder| responder.send(()));
        hit("storeAfterAnswer");
        Ok(())
    }

    /// Writes what was applied to the engine, in one batch, with the steps of a compaction that tests may strike at.
    fn commit(&mut self, beside: Option<Bytes>) -> io::Result<()> {
        let compacts = std::mem::take(&mut self.compacts);
        let now = self.shared.env.clock.monotonic();
        let collects = self.mvcc.has_garbage() && self.pace.is_due(now);
        self.mvcc.limit_sweep(if collects { self.pace.batch } else { 0 });
        compacts.then(|| hit("compactBeforeCommitScheduledCompact"));
        collects.then(|| hit("compactBeforeCommitBatch"));
        hit("beforeCommit");
        let clock = &self.shared.env.clock;
        let start = clock.monotonic();
        self.mvcc.commit(beside).map_err(io::Error::other)?;
        self.shared.counters.commit.record(clock.monotonic() - start);
        hit("afterCommit");
        collects.then(|| hit("compactAfterCommitBatch"));
        compacts.then(|| hit("compactAfterCommitScheduledCompact"));
        if collects && !self.mvcc.has_garbage() {
            hit("compactBeforeSetFinishedCompact");
            let revision = self.mvcc.view().compact_revision();
            tracing::info!("compact-revision" = revision, "finished scheduled compaction");
            hit("compactAfterSetFinishedCompact");
        }
        Ok(())
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
        let (index, term) = self.mvcc.applied();
        let last = (term > 0 || index > 0).then(|| consensus::log_id(term, index));
        Ok((last, self.beside.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + Send,
    {
        hit("beforeStartDBTxn");
        let mut pending = Pending::default();
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            self.apply_entry(entry, &mut pending);
            pending.responders.extend(responder);
            pending.entries += 1;
            if pending.entries >= MAX_BATCH {
                self.publish(std::mem::take(&mut pending))?;
            }
        }
        if pending.entries > 0 {
            self.publish(pending)?;
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
        hit("applyBeforeOpenSnapshot");
        let engine = self.storage.replace_state(snapshot.path())?;
        hit("applyAfterOpenSnapshot");
        self.mvcc = Mvcc::open(engine.clone()).map_err(io::Error::other)?;
        // The log is purged up to here next: whoever is to be caught up then needs this snapshot.
        hit("raftBeforeSaveSnap");
        self.shelf.build(&*engine)?;
        hit("raftAfterSaveSnap");
        *self.shared.engine.lock() = engine.clone();
        self.engine = engine;
        self.beside = consensus::decode_beside(self.mvcc.caller_meta())?;
        let view = self.mvcc.view();
        tracing::info!(
            index = meta.last_log_id.map(|id| id.index),
            revision = view.revision(),
            "installed a snapshot"
        );
        self.shared.leases.lock().reset(&view, self.shared.env.clock.monotonic());
        self.shared.membership.store(Arc::new(self.beside.membership.clone()));
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
