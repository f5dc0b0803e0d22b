//! Reading: the state at one revision, for as long as the reader likes.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use imbl::{OrdMap, OrdSet};

use crate::auth::Auth;
use crate::engine::EngineError;
use crate::lease::Lease;
use crate::range::{self, Pages};
use crate::record::{self, Version};
use crate::saved;
use crate::tree::{Entry, Place, Tree};
use crate::types::{
    Alarm, Event, EventKind, KeyRange, KeyValue, LeaseId, MemberAttributes, MemberId, MvccError,
    RangeRequest, RangeResponse, Revision,
};
use crate::values::{Source, Values};

/// Everything that is replicated, but for values. A clone costs nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub index: Tree,
    pub leases: OrdMap<LeaseId, Arc<Lease>>,
    pub alarms: OrdSet<Alarm>,
    pub members: OrdMap<MemberId, Arc<MemberAttributes>>,
    pub cluster_version: Option<Arc<str>>,
    pub member_versions: OrdMap<MemberId, Arc<str>>,
    /// The version that the cluster is being brought back to.
    pub downgrade: Option<Arc<str>>,
    pub auth: Arc<Auth>,
    pub revision: Revision,
    pub compact_revision: Revision,
    pub applied_index: u64,
    pub applied_term: u64,
    /// Bytes of keys and values that are current.
    pub live_bytes: u64,
    /// Bytes of keys and values of past versions that are not swept yet.
    pub past_bytes: u64,
    pub hash: u32,
}

impl State {
    pub fn current(&self, key: &[u8]) -> Option<&Entry> {
        self.index.get(key).filter(|entry| entry.is_live())
    }
}

/// A batch of history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryBatch {
    /// The changes, by revision; those of one revision are never split. Without the values before.
    pub events: Vec<Event>,
    /// Where to go on; one more than the view's revision when there is no more.
    pub next_revision: Revision,
}

/// The state at one revision. It never changes; a clone costs nothing. Values are read from the engine where they are not
/// at hand: a view that is kept for long after a compaction answers `Compacted` for what was replaced since and deleted.
#[derive(Clone)]
pub struct View {
    pub(crate) state: State,
    pub(crate) values: Arc<Values>,
    /// Held by all views of the time between two compactions.
    pub(crate) _epoch: Arc<()>,
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").field("revision", &self.state.revision).finish_non_exhaustive()
    }
}

impl View {
    /// The last entry of the log that the view shows.
    pub fn applied_index(&self) -> u64 {
        self.state.applied_index
    }

    /// The view's revision; 1 when nothing was ever written.
    pub fn revision(&self) -> Revision {
        self.state.revision
    }

    /// Revisions before this one have no history any more; 0 before the first compaction.
    pub fn compact_revision(&self) -> Revision {
        self.state.compact_revision
    }

    /// Index and term of the last raft log entry in it.
    pub fn applied(&self) -> (u64, u64) {
        (self.state.applied_index, self.state.applied_term)
    }

    /// Bytes of keys and values that are current.
    pub fn live_bytes(&self) -> u64 {
        self.state.live_bytes
    }

    /// Bytes of all keys and values that are kept, past ones included.
    pub fn total_bytes(&self) -> u64 {
        self.state.live_bytes + self.state.past_bytes
    }

    /// How many keys there are.
    pub fn live_keys(&self) -> u64 {
        self.state.index.live()
    }

    /// A checksum over every change since the beginning: equal on all replicas at the same revision.
    pub fn state_hash(&self) -> u32 {
        self.state.hash
    }

    /// A key's current value.
    ///
    /// # Errors
    /// `Engine` when it cannot be read; `Compacted` when the view is too old.
    pub fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, MvccError> {
        let Some(entry) = self.state.current(key) else { return Ok(None) };
        Ok(Some(self.source().version(entry.place())?.kv))
    }

    /// Whether a key is there.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.state.current(key).is_some()
    }

    /// The revision of a key's last change; no value is read.
    pub fn mod_revision(&self, key: &[u8]) -> Option<Revision> {
        self.state.current(key).map(|entry| entry.main)
    }

    /// Current values of a range in key order, lazily. It ends behind the first error.
    pub fn iter(&self, range: &KeyRange) -> impl Iterator<Item = Result<KeyValue, MvccError>> {
        Pages::new(self, range.clone())
    }

    /// Current keys of a range in order, lazily.
    pub fn keys(&self, range: &KeyRange) -> impl Iterator<Item = &[u8]> {
        self.state.index.range(range).filter(|(_, entry)| entry.is_live()).map(|(key, _)| key)
    }

    /// Current keys of a range in order, each with the revision of its last change, lazily; no value is read.
    pub fn revisions(&self, range: &KeyRange) -> impl Iterator<Item = (&[u8], Revision)> {
        let live = self.state.index.range(range).filter(|(_, entry)| entry.is_live());
        live.map(|(key, entry)| (key, entry.main))
    }

    /// Bytes of the current values of a range in key order, lazily; no value is read.
    pub fn sizes(&self, range: &KeyRange) -> impl Iterator<Item = usize> {
        let live = self.state.index.range(range).filter(|(_, entry)| entry.is_live());
        live.map(|(_, entry)| entry.value_len as usize)
    }

    /// How many keys are in a range. Takes logarithmic time.
    pub fn count(&self, range: &KeyRange) -> i64 {
        i64::try_from(self.state.index.count(range)).unwrap_or(i64::MAX)
    }

    /// A lease.
    pub fn lease(&self, id: LeaseId) -> Option<&Arc<Lease>> {
        self.state.leases.get(&id)
    }

    /// How many leases there are.
    pub fn lease_count(&self) -> usize {
        self.state.leases.len()
    }

    /// All leases by id.
    pub fn leases(&self) -> impl Iterator<Item = &Arc<Lease>> {
        self.state.leases.values()
    }

    /// Alarms that are raised.
    pub fn alarms(&self) -> impl Iterator<Item = Alarm> {
        self.state.alarms.iter().copied()
    }

    /// What the members said of themselves.
    pub fn members(&self) -> impl Iterator<Item = &Arc<MemberAttributes>> {
        self.state.members.values()
    }

    /// The version that all members understand, once it is decided.
    pub fn cluster_version(&self) -> Option<&str> {
        self.state.cluster_version.as_deref()
    }

    /// The version that a member runs, as far as it has told.
    pub fn member_version(&self, id: MemberId) -> Option<&str> {
        self.state.member_versions.get(&id).map(|version| &**version)
    }

    /// The version that the cluster is being brought back to.
    pub fn downgrade_target(&self) -> Option<&str> {
        self.state.downgrade.as_deref()
    }

    /// Answers a range request.
    ///
    /// # Errors
    /// `Compacted`, `FutureRevision`; `Engine` when a value cannot be read.
    pub fn range(&self, request: &RangeRequest) -> Result<RangeResponse, MvccError> {
        self.range_within(request, &mut |_| true)
    }

    /// As [`Self::range`]; before values are read `admit` is asked with the bytes of keys and values that they are.
    ///
    /// # Errors
    /// Those of [`Self::range`]; `TooMuch` when it says no.
    pub fn range_within(
        &self,
        request: &RangeRequest,
        admit: &mut dyn FnMut(u64) -> bool,
    ) -> Result<RangeResponse, MvccError> {
        check_revision(&self.state, request.revision)?;
        range::range(&self.state, self.source(), request, admit)
    }

    /// The changes in a range from `from` on, until about `max_bytes` are gathered. [`Self::fill_prev`] gives each the
    /// value before.
    ///
    /// # Errors
    /// `Compacted` when `from` lies before the compaction; `Engine` when it cannot be read.
    pub fn events(
        &self,
        range: &KeyRange,
        from: Revision,
        max_bytes: usize,
    ) -> Result<HistoryBatch, MvccError> {
        if from < self.state.compact_revision {
            return Err(MvccError::Compacted { compact_revision: self.state.compact_revision });
        }
        let mut events: Vec<Event> = Vec::new();
        let mut next_revision = self.state.revision + 1;
        let mut bytes = 0;
        self.values.versions(Place { main: from, sub: 0 }, &mut |place, version| {
            let begins = events.last().is_none_or(|last| last.kv.mod_revision < place.main);
            if place.main > self.state.revision || (begins && bytes >= max_bytes) {
                next_revision = place.main.min(next_revision);
                return ControlFlow::Break(());
            }
            if range.contains(&version.kv.key) {
                bytes += version.kv.key.len() + version.kv.value.len();
                events.push(event(version));
            }
            ControlFlow::Continue(())
        })?;
        // A compaction may have swept what was being read: it is noted before anything goes.
        let compact_revision = self.values.compact_revision();
        if from < compact_revision {
            return Err(MvccError::Compacted { compact_revision });
        }
        Ok(HistoryBatch { events, next_revision })
    }

    /// Reads the value before a change, where it is not at hand.
    ///
    /// # Errors
    /// `Compacted` when it is gone: at the compacted revision and before; `Engine` when it cannot be read.
    pub fn fill_prev(&self, event: &mut Event) -> Result<(), MvccError> {
        if event.prev.is_some() || event.prev_at.is_none() {
            return Ok(());
        }
        let compact_revision = self.values.compact_revision().max(self.state.compact_revision);
        if event.kv.mod_revision <= compact_revision {
            return Err(MvccError::Compacted { compact_revision });
        }
        self.fill_prev_of_new(event)
    }

    /// As [`Self::fill_prev`], for a change that was made just now: nothing is deleted by a compaction that may have been
    /// made since.
    ///
    /// # Errors
    /// `Engine` when it cannot be read.
    pub fn fill_prev_of_new(&self, event: &mut Event) -> Result<(), MvccError> {
        if let Some((main, sub)) = event.prev_at {
            event.prev = Some(Box::new(self.source().version(Place { main, sub })?.kv));
        }
        Ok(())
    }

    /// Values before these changes need not be kept in memory any more: whoever wants one reads it from the engine.
    pub fn let_go<'a>(&self, changes: impl Iterator<Item = &'a Event>) {
        let replaced = changes.filter_map(|event| event.prev_at);
        replaced.for_each(|(main, sub)| self.values.forget(Place { main, sub }));
    }

    /// Writes the index beside the state in the engine, so that opening the state needs to read only what is newer.
    ///
    /// # Errors
    /// When it cannot be written; the state can be opened without.
    pub fn save_index(&self) -> Result<(), EngineError> {
        self.values.engine().save_index(&mut |out| saved::write(&self.state, out))
    }

    pub(crate) fn source(&self) -> Source<'_> {
        Source { fresh: None, values: &self.values }
    }
}

fn event(version: Version) -> Event {
    let Version { kv, tombstone, before } = version;
    let kind = if tombstone { EventKind::Delete } else { EventKind::Put };
    let before = before.filter(|before| !before.tombstone);
    Event { kind, kv, prev: None, prev_at: before.map(|before| (before.place.main, before.place.sub)) }
}

impl From<EngineError> for MvccError {
    fn from(error: EngineError) -> Self {
        Self::Engine(error.to_string())
    }
}

/// Whether a read at `revision` can be answered.
pub(crate) fn check_revision(state: &State, revision: Revision) -> Result<(), MvccError> {
    if revision > state.revision {
        return Err(MvccError::FutureRevision);
    }
    if revision > 0 && revision < state.compact_revision {
        return Err(MvccError::Compacted { compact_revision: state.compact_revision });
    }
    Ok(())
}

/// The value that an index entry stands for.
pub(crate) fn decode(place: Place, record: &Bytes) -> Result<KeyValue, MvccError> {
    Ok(record::decode_version(place, record)?.kv)
}
