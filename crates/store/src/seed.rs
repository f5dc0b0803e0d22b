//! Data folders that begin with a state from elsewhere (a snapshot, a backup, another store's folder), and folders that
//! nobody runs on.
//!
//! A seeded folder looks as if its member had applied a log, made a snapshot and purged the log behind it: so a member
//! that joins later is sent the snapshot, and never an empty beginning.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use env::Env;
use mvcc::{Command, Contents, Loader, Mvcc};
use openraft::entry::EntryPayload;
use openraft::impls::leader_id_std::LeaderId;

use crate::consensus::{self, Beside, Entry, Membership, Node, Proposal, StoredMembership, Vote};
use crate::join;
use crate::members::{ClusterId, Member};
use crate::sessions::{Origin, Outstanding, Sessions};
use crate::snapshot::Shelf;
use crate::state::{Pace, StateMachine};
use crate::storage::{LogBatch, LogEngine, LogMeta, StateEngine, Storage};

/// Entries that are written to the engine together.
const BATCH: usize = 1024;
/// Bytes of entries that are read from a log at a time.
const READ_BYTES: usize = 4 << 20;

/// An entry of another store's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeedEntry {
    /// Its index.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// What it says; `None` for nothing that concerns the state.
    pub command: Option<Command>,
}

/// What a data folder begins with, beside the state.
#[derive(Clone, Debug)]
pub struct Seed {
    /// Whose folder it is.
    pub member: u64,
    /// Which cluster's.
    pub cluster: ClusterId,
    /// All members, this one too; their names and client URLs are taken from the state's contents.
    pub members: Vec<Member>,
    /// Index and term of the last entry that is in the state.
    pub applied: (u64, u64),
    /// Entries behind it that are committed, and are applied now.
    pub committed: Vec<SeedEntry>,
    /// Entries behind those, which the cluster may yet keep or drop.
    pub tail: Vec<SeedEntry>,
    /// The last term that the member knew, and whom it voted for in it (0 for nobody).
    pub vote: (u64, u64),
}

/// Where a state is loaded into.
pub type StateLoader<'a> = Loader<'a, dyn StateEngine>;

impl Seed {
    /// The folder of a first member of a new cluster: as if its log had begun with all members.
    pub fn first(member: u64, cluster: ClusterId, members: Vec<Member>) -> Self {
        let applied = (members.len() as u64, 1);
        let vote = (1, member);
        Self { member, cluster, members, applied, committed: Vec::new(), tail: Vec::new(), vote }
    }

    /// Writes a data folder, which must be empty; `fill` loads the state and says what there is beside keys. When it
    /// returns everything is on disk.
    ///
    /// # Errors
    /// When the folder cannot be written or `fill` fails; the folder is then of no use.
    pub fn write(
        &self,
        storage: &Arc<dyn Storage>,
        fill: impl FnOnce(&mut StateLoader<'_>) -> io::Result<Contents>,
    ) -> io::Result<()> {
        let engine = storage.open_state()?;
        let mut loader = Loader::new(&*engine);
        let mut contents = fill(&mut loader)?;
        (contents.applied_index, contents.applied_term) = self.applied;
        let beside = Beside { membership: self.membership()?, sessions: Sessions::default() };
        loader.finish(&contents, consensus::encode_beside(&beside)).map_err(io::Error::other)?;
        self.apply(engine.clone())?;
        // Flushes the state, too.
        Shelf::open(storage.clone(), env::Clock::default())?.build(&*engine)?;
        drop(engine);
        self.write_log(&*storage.open_log()?)
    }

    /// Index and term of the last entry that is in the state in the end.
    fn last_applied(&self) -> (u64, u64) {
        self.committed.last().map_or(self.applied, |entry| (entry.index, entry.term))
    }

    fn membership(&self) -> io::Result<StoredMembership> {
        let voters = self.members.iter().filter(|member| !member.is_learner);
        let voters: BTreeSet<u64> = voters.map(|member| member.id).collect();
        if !self.members.iter().any(|member| member.id == self.member) || voters.is_empty() {
            return Err(io::Error::other("the member is not one of the cluster's"));
        }
        let node = |member: &Member| Node { peer_urls: member.peer_urls.clone(), joining: false };
        let nodes: BTreeMap<u64, Node> =
            self.members.iter().map(|member| (member.id, node(member))).collect();
        let membership =
            Membership::new(vec![voters], nodes).map_err(|error| io::Error::other(error.to_string()))?;
        let (index, term) = self.last_applied();
        Ok(StoredMembership::new(Some(consensus::log_id(term, index)), membership))
    }

    fn apply(&self, engine: Arc<dyn StateEngine>) -> io::Result<()> {
        if self.committed.is_empty() {
            return Ok(());
        }
        let mut mvcc = Mvcc::open(engine).map_err(io::Error::other)?;
        for batch in self.committed.chunks(BATCH) {
            for entry in batch {
                match &entry.command {
                    Some(command) => {
                        mvcc.apply(entry.index, entry.term, command).map_err(io::Error::other)?;
                    }
                    None => mvcc.skip(entry.index, entry.term),
                }
            }
            mvcc.commit(None).map_err(io::Error::other)?;
        }
        Ok(())
    }

    fn write_log(&self, engine: &dyn LogEngine) -> io::Result<()> {
        let (index, term) = self.last_applied();
        let applied = consensus::encode_log_id(&consensus::log_id(term, index));
        let last_term = self.tail.last().map_or(term, |entry| entry.term);
        let (vote_term, voted_for) = self.vote;
        let vote = match vote_term >= last_term && voted_for != 0 {
            true => (vote_term, voted_for),
            false => (vote_term.max(last_term), self.member),
        };
        let leader_id = LeaderId { term: vote.0, voted_for: vote.1 };
        let vote = consensus::encode_vote(&Vote { leader_id, committed: false });
        let meta = vec![
            (LogMeta::Identity, Bytes::from(join::spell_seeded(self.member, self.cluster))),
            (LogMeta::Boot, Bytes::from_static(&[0; 8])),
            (LogMeta::Vote, vote),
            (LogMeta::Committed, applied.clone()),
            (LogMeta::Purged, applied),
        ];
        let entries =
            self.tail.iter().map(|entry| (entry.index, consensus::encode_entry(&tail_entry(entry))));
        engine.write(LogBatch { remove: None, entries: entries.collect(), meta })?;
        engine.sync()
    }
}

/// No member is 0: what it proposed is nobody's who waits.
fn tail_entry(entry: &SeedEntry) -> Entry {
    let payload = match &entry.command {
        None => EntryPayload::Blank,
        Some(command) => {
            let origin = Origin { member: 0, boot: 1, number: entry.index, settled: entry.index };
            EntryPayload::Normal(Proposal { origin, command: command.encode() })
        }
    };
    Entry { log_id: consensus::log_id(entry.term, entry.index), payload }
}

/// A data folder that nobody runs on.
pub struct Stopped {
    /// The state, with all that is known to be committed.
    pub engine: Arc<dyn StateEngine>,
    /// All members.
    pub members: Vec<Member>,
}

impl Stopped {
    /// Opens a folder, and applies what is committed and not yet in the state.
    ///
    /// # Errors
    /// When it holds nothing or cannot be read.
    pub fn open(storage: &Arc<dyn Storage>, env: Env) -> io::Result<Self> {
        let log = storage.open_log()?;
        if log.meta(LogMeta::Boot)?.is_none() {
            return Err(io::Error::other("no member has run on this data folder"));
        }
        let pace = Pace::new((0, Duration::ZERO), Duration::MAX);
        let cache = (pace, mvcc::DEFAULT_CACHE_BYTES);
        let state = StateMachine::open(storage.clone(), env, Outstanding::new(0, 0), cache)?;
        let (shared, core) = (state.shared(), state.core());
        let mut core = core.lock();
        let alone = |membership: &StoredMembership| membership.membership().voter_ids().count() <= 1;
        let committed = log.meta(LogMeta::Committed)?.map(consensus::decode_log_id).transpose()?;
        let committed = committed.map_or(0, |id| id.index);
        // A member alone has committed what it wrote.
        let end = if alone(&shared.membership.load()) { u64::MAX } else { committed + 1 };
        let mut from = match *shared.applied.borrow() {
            0 if core.is_new() => 0,
            applied => applied + 1,
        };
        while from < end {
            let page = log.read(from..end, READ_BYTES)?;
            let Some((last, _)) = page.last() else { break };
            from = last + 1;
            let entries = page.into_iter().map(|(_, bytes)| consensus::decode_entry(bytes));
            core.replay(entries.collect::<io::Result<_>>()?)?;
        }
        let members = crate::members::list(&shared.membership.load(), &shared.view.load());
        let engine = shared.engine.lock().clone();
        Ok(Self { engine, members })
    }
}
