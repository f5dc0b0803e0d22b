//! A data folder of etcd's as the beginning of one of ours: its database, and the entries of its log that are not in it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use etcd_files::{
    ConfChange, ConfChangeKind, Database, EntryKind, InternalRequest, LogEntry, MemberRecord, SchemaError,
    WalContents, WalError, read_wal,
};
use mvcc::{Contents, MemberAttributes};
use serde::Deserialize;
use store::{ClusterId, Member, Seed, SeedEntry, StateLoader};

use super::load::{LoadError, Loaded};
use super::request::command;

/// Why a folder of etcd's cannot be taken over. Each is one line for the command line.
#[derive(Debug, thiserror::Error)]
pub enum TakeoverError {
    /// It cannot be read.
    #[error("cannot read etcd's database {path}: {cause}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// Its database is damaged.
    #[error("cannot read etcd's database {path}: {cause}")]
    Schema {
        /// Which file.
        path: PathBuf,
        /// Why.
        cause: SchemaError,
    },
    /// Its log is damaged.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// Its log says what cannot be done here.
    #[error(
        "entry {index} of etcd's log cannot be taken over: {what}; start etcd once more on the folder and stop it with SIGTERM"
    )]
    Entry {
        /// Which entry.
        index: u64,
        /// Why.
        what: String,
    },
    /// Its database and its log are not of one member.
    #[error("etcd's data folder is not whole: {0}")]
    NotWhole(String),
}

/// A folder of etcd's that was read.
pub struct Takeover {
    /// What the new folder begins with.
    pub seed: Seed,
    database: Database<File>,
    attributes: Vec<MemberAttributes>,
}

impl Takeover {
    /// Reads `member/snap/db` below a data folder, and the log in `wal`.
    ///
    /// # Errors
    /// See [`TakeoverError`].
    pub fn read(data_dir: &Path, wal: &Path) -> Result<Self, TakeoverError> {
        let path = data_dir.join("member/snap/db");
        let file = File::open(&path).map_err(|cause| TakeoverError::Io { path: path.clone(), cause })?;
        let schema = |cause| TakeoverError::Schema { path: path.clone(), cause };
        let database = Database::open(file).map_err(schema)?;
        let meta = database.meta().map_err(schema)?;
        let log = read_wal(wal, meta.consistent_index)?;
        let term = if meta.term > 0 { meta.term } else { log.term_before.unwrap_or_default() };
        if term == 0 && meta.consistent_index > 0 {
            let text = format!("nothing says in which term entry {} was written", meta.consistent_index);
            return Err(TakeoverError::NotWhole(text));
        }
        let mut members = Members::new(database.members().map_err(schema)?);
        let (committed, tail) = split(&log, &mut members)?;
        if !members.0.contains_key(&log.member) {
            let text = format!("member {:x}, whose log it has, is not in its database", log.member);
            return Err(TakeoverError::NotWhole(text));
        }
        let seed = Seed {
            member: log.member,
            cluster: ClusterId(log.cluster),
            members: members.list(),
            applied: (meta.consistent_index, term),
            committed,
            tail,
            vote: (log.state.term, log.state.vote),
        };
        Ok(Self { seed, attributes: members.attributes(), database })
    }

    /// Loads the state.
    ///
    /// # Errors
    /// When the database is damaged, or the new folder cannot be written.
    pub fn fill(&self, loader: &mut StateLoader<'_>) -> Result<Contents, LoadError> {
        let loaded = Loaded::versions(&self.database, loader)?;
        loaded.contents(&self.database, self.attributes.clone())
    }
}

/// What follows the database: what is committed, and what is not known to be.
fn split(
    log: &WalContents,
    members: &mut Members,
) -> Result<(Vec<SeedEntry>, Vec<SeedEntry>), TakeoverError> {
    let alone = members.voters() == 1;
    let (mut committed, mut tail) = (Vec::new(), Vec::new());
    for entry in &log.entries {
        let is_committed = alone || entry.index <= log.state.commit;
        if let EntryKind::ConfChange(change) = &entry.kind {
            // Alone it would be committed, but by it the member may be alone no more.
            if entry.index > log.state.commit {
                let what = "it changes the members, and may not be committed".to_owned();
                return Err(TakeoverError::Entry { index: entry.index, what });
            }
            members.change(entry.index, change)?;
        }
        let list = if is_committed { &mut committed } else { &mut tail };
        list.push(seed_entry(entry)?);
    }
    Ok((committed, tail))
}

fn seed_entry(entry: &LogEntry) -> Result<SeedEntry, TakeoverError> {
    let refused = |what: String| TakeoverError::Entry { index: entry.index, what };
    let command = match &entry.kind {
        EntryKind::Normal(data) if !data.is_empty() => {
            let request = InternalRequest::read(data).map_err(|error| refused(error.to_string()))?;
            command(request, entry.term).map_err(refused)?
        }
        _ => None,
    };
    Ok(SeedEntry { index: entry.index, term: entry.term, command })
}

/// The members, and what the log's entries make of them.
struct Members(BTreeMap<u64, MemberRecord>);

/// What a change of members says beside the member.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Promotion {
    #[serde(rename = "isPromote")]
    is_promote: bool,
}

impl Members {
    fn new(members: Vec<MemberRecord>) -> Self {
        Self(members.into_iter().map(|member| (member.id, member)).collect())
    }

    fn voters(&self) -> usize {
        self.0.values().filter(|member| !member.is_learner).count()
    }

    fn change(&mut self, index: u64, change: &ConfChange) -> Result<(), TakeoverError> {
        let refused =
            |error: serde_json::Error| TakeoverError::Entry { index, what: format!("its member: {error}") };
        if change.kind == ConfChangeKind::Remove {
            self.0.remove(&change.member);
            return Ok(());
        }
        let mut record: MemberRecord = match change.context.is_empty() {
            true => MemberRecord::default(),
            false => serde_json::from_slice(&change.context).map_err(refused)?,
        };
        record.id = change.member;
        record.is_learner = change.kind == ConfChangeKind::AddLearner;
        let promotion: Promotion = match change.context.is_empty() {
            true => Promotion::default(),
            false => serde_json::from_slice(&change.context).map_err(refused)?,
        };
        match self.0.get_mut(&change.member) {
            Some(known) if promotion.is_promote => known.is_learner = false,
            Some(known) if change.kind == ConfChangeKind::Update => known.peer_urls = record.peer_urls,
            // The first entries of a log name members that the database has.
            Some(_) => {}
            None => drop(self.0.insert(record.id, record)),
        }
        Ok(())
    }

    fn list(&self) -> Vec<Member> {
        let member = |member: &MemberRecord| Member {
            id: member.id,
            name: member.name.clone(),
            peer_urls: member.peer_urls.clone(),
            client_urls: member.client_urls.clone(),
            is_learner: member.is_learner,
        };
        self.0.values().map(member).collect()
    }

    fn attributes(&self) -> Vec<MemberAttributes> {
        let named = self.0.values().filter(|member| !member.name.is_empty());
        let attributes = |member: &MemberRecord| MemberAttributes {
            id: member.id,
            name: member.name.clone(),
            client_urls: member.client_urls.clone(),
        };
        named.map(attributes).collect()
    }
}
