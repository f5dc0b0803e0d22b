//! Reading: the state at one revision, for as long as the reader likes.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use imbl::{OrdMap, OrdSet};

use crate::auth::Auth;
use crate::engine::{Engine, EngineError, Table};
use crate::index::{AtRevision, Index, Place};
use crate::lease::Lease;
use crate::record::{self, Version, meta};
use crate::types::{
    Alarm, Event, EventKind, KeyRange, KeyValue, LeaseId, MemberAttributes, MemberId, MvccError,
    RangeRequest, RangeResponse, Revision,
};

/// Everything that is replicated, but for past values. A clone costs nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub index: Index,
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
    pub live_keys: u64,
    pub hash: u32,
}

/// Where past versions are read from.
pub(crate) trait History: Send + Sync {
    /// `None` when it was compacted.
    fn version(&self, place: Place) -> Result<Option<Version>, EngineError>;
    /// Versions from `from` on, in order.
    fn versions(
        &self,
        from: Place,
        visit: &mut dyn FnMut(Place, Version) -> ControlFlow<()>,
    ) -> Result<(), EngineError>;
    /// The compaction that the engine knows of, which may be newer than the view's.
    fn compact_revision(&self) -> Result<Revision, EngineError>;
}

impl<E: Engine> History for E {
    fn version(&self, place: Place) -> Result<Option<Version>, EngineError> {
        let bytes = self.get(Table::Revisions, &record::place_key(place))?;
        bytes.map(|bytes| record::decode_version(place, bytes)).transpose()
    }

    fn versions(
        &self,
        from: Place,
        visit: &mut dyn FnMut(Place, Version) -> ControlFlow<()>,
    ) -> Result<(), EngineError> {
        let mut damage = Ok(());
        self.scan(Table::Revisions, &record::place_key(from), None, &mut |key, value| {
            let found = record::parse_place(key)
                .and_then(|place| record::decode_version(place, value).map(|version| (place, version)));
            match found {
                Ok((place, version)) => visit(place, version),
                Err(error) => {
                    damage = Err(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        damage
    }

    fn compact_revision(&self) -> Result<Revision, EngineError> {
        let Some(bytes) = self.get(Table::Meta, meta::COMPACTED)? else { return Ok(0) };
        let [revision] = record::decode_i64s("the compaction", &bytes)?;
        Ok(revision)
    }
}

/// A batch of history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryBatch {
    /// The changes, by revision; those of one revision are never split.
    pub events: Vec<Event>,
    /// Where to go on; one more than the view's revision when there is no more.
    pub next_revision: Revision,
}

/// The state at one revision. It never changes, however long it is kept; a clone costs nothing.
#[derive(Clone)]
pub struct View {
    pub(crate) state: State,
    pub(crate) history: Arc<dyn History>,
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
        self.state.live_keys
    }

    /// A checksum over every change since the beginning: equal on all replicas at the same revision.
    pub fn state_hash(&self) -> u32 {
        self.state.hash
    }

    /// A key's current value.
    pub fn get(&self, key: &[u8]) -> Option<&KeyValue> {
        self.state.index.current(key)
    }

    /// Current values of a range in key order, lazily.
    pub fn iter(&self, range: &KeyRange) -> impl Iterator<Item = &KeyValue> {
        self.state.index.live(range)
    }

    /// How many keys are in a range. Takes time in proportion to the answer.
    pub fn count(&self, range: &KeyRange) -> i64 {
        i64::try_from(self.state.index.live(range).count()).unwrap_or(i64::MAX)
    }

    /// A lease.
    pub fn lease(&self, id: LeaseId) -> Option<&Arc<Lease>> {
        self.state.leases.get(&id)
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
    /// `Compacted`, `FutureRevision`; `Engine` when a past value cannot be read.
    pub fn range(&self, request: &RangeRequest) -> Result<RangeResponse, MvccError> {
        check_revision(&self.state, request.revision)?;
        range(&self.state, &*self.history, request)
    }

    /// The changes in a range from `from` on, with the values before, until about `max_bytes` are gathered.
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
        let mut found = Vec::new();
        let mut next_revision = self.state.revision + 1;
        let mut bytes = 0;
        self.history.versions(Place { main: from, sub: 0 }, &mut |place, version| {
            let begins = found.last().is_none_or(|(last, _): &(Place, Version)| last.main < place.main);
            if place.main > self.state.revision || (begins && bytes >= max_bytes) {
                next_revision = place.main.min(next_revision);
                return ControlFlow::Break(());
            }
            if range.contains(&version.kv.key) {
                bytes += version.kv.key.len() + version.kv.value.len();
                found.push((place, version));
            }
            ControlFlow::Continue(())
        })?;
        let events =
            found.into_iter().map(|(place, version)| self.event(place, version)).collect::<Result<_, _>>()?;
        // A compaction may have swept what was being read: it is announced in the engine before anything goes.
        let compact_revision = self.history.compact_revision()?;
        if from < compact_revision {
            return Err(MvccError::Compacted { compact_revision });
        }
        Ok(HistoryBatch { events, next_revision })
    }

    fn event(&self, place: Place, version: Version) -> Result<Event, MvccError> {
        let before = self.state.index.record(&version.kv.key).and_then(|record| record.before(place));
        let prev = match before {
            Some(before) => self.history.version(before)?.map(|version| version.kv),
            None => None,
        };
        let kind = if version.tombstone { EventKind::Delete } else { EventKind::Put };
        Ok(Event { kind, kv: version.kv, prev })
    }
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

/// Answers a range request whose revision was checked.
pub(crate) fn range(
    state: &State,
    history: &dyn History,
    request: &RangeRequest,
) -> Result<RangeResponse, MvccError> {
    let past = request.revision > 0 && request.revision < state.revision;
    let whole = request.filters() || request.sorts();
    let limit = usize::try_from(request.limit).ok().filter(|&limit| limit > 0);
    let wanted = if request.count_only { Some(0) } else { limit.filter(|_| !whole) };
    let mut found =
        if past { read_past(state, history, request, wanted)? } else { read_now(state, request, wanted) };
    if request.filters() {
        found.kvs.retain(|kv| passes(request, kv));
    }
    if whole {
        request.sort(&mut found.kvs);
        if let Some(limit) = limit {
            found.more = found.kvs.len() > limit;
            found.kvs.truncate(limit);
        }
    }
    if request.count_only {
        found.more = false;
    }
    if request.keys_only {
        found.kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
    }
    Ok(RangeResponse { revision: state.revision, ..found })
}

fn read_now(state: &State, request: &RangeRequest, wanted: Option<usize>) -> RangeResponse {
    let mut answer = RangeResponse::default();
    let wanted = wanted.unwrap_or(usize::MAX);
    if let KeyRange::Key(key) = &request.range {
        answer.kvs.extend(state.index.current(key).cloned());
        answer.count = answer.kvs.len() as i64;
        answer.kvs.truncate(wanted);
        return answer;
    }
    for kv in state.index.live(&request.range) {
        answer.count += 1;
        if answer.kvs.len() < wanted {
            answer.kvs.push(kv.clone());
        } else {
            answer.more = true;
        }
    }
    answer
}

fn read_past(
    state: &State,
    history: &dyn History,
    request: &RangeRequest,
    wanted: Option<usize>,
) -> Result<RangeResponse, MvccError> {
    let mut answer = RangeResponse::default();
    let wanted = wanted.unwrap_or(usize::MAX);
    for (_, record) in state.index.records(&request.range) {
        let at = record.at(request.revision);
        if matches!(at, AtRevision::Absent) {
            continue;
        }
        answer.count += 1;
        if answer.kvs.len() >= wanted {
            answer.more = true;
            continue;
        }
        match at {
            AtRevision::Current(kv) => answer.kvs.push(kv.clone()),
            AtRevision::Past(place) => match history.version(place)? {
                Some(version) => answer.kvs.push(version.kv),
                None => return Err(MvccError::Compacted { compact_revision: history.compact_revision()? }),
            },
            AtRevision::Absent => {}
        }
    }
    Ok(answer)
}

fn passes(request: &RangeRequest, kv: &KeyValue) -> bool {
    let within = |value: Revision, min: Revision, max: Revision| {
        (min == 0 || value >= min) && (max == 0 || value <= max)
    };
    within(kv.mod_revision, request.min_mod_revision, request.max_mod_revision)
        && within(kv.create_revision, request.min_create_revision, request.max_create_revision)
}
