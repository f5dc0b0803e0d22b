//! The single writer: commands in, changes and answers out, the engine kept level.

use std::ops::ControlFlow;
use std::sync::{Arc, Weak};

use bytes::Bytes;

use crate::auth::{Auth, AuthError, Caller};
use crate::engine::{Batch, Engine, EngineError, Table};
use crate::lease::{Lease, MAX_LEASE_TTL};
use crate::record::{self, PlaceKeys, meta};
use crate::replay;
use crate::sweep::{Progress, SweepStep, Swept};
use crate::txn::Writer;
use crate::types::{
    Alarm, AlarmAction, AlarmKind, Applied, Command, Event, KeyRange, MvccError, Op, Response, Revision, Txn,
};
use crate::values::{Fresh, Values};
use crate::view::{State, View};

/// Bytes of values that are kept in memory where nothing else is said.
pub const DEFAULT_CACHE_BYTES: u64 = 64 << 20;

/// The state machine's writer. There is one; readers take [`View`]s.
pub struct Mvcc<E> {
    engine: Arc<E>,
    values: Arc<Values>,
    state: State,
    batch: Batch,
    fresh: Fresh,
    place_keys: PlaceKeys,
    swept: Progress,
    /// Held by the views since the last compaction.
    epoch: Arc<()>,
    /// Held by the views before.
    older: Vec<Weak<()>>,
    caller_meta: Option<Bytes>,
    /// The revision of the index that was saved last.
    saved: Revision,
    /// Versions that were made since.
    unsaved: u64,
}

/// Versions that are read at the start rather than saved; about that many are read in 20 ms.
const FEW_VERSIONS: u64 = 20_000;

/// An index that is to be saved.
pub struct Saving {
    view: View,
    unsaved: u64,
}

/// An index that was saved.
#[derive(Debug)]
pub struct SavedIndex {
    revision: Revision,
    unsaved: u64,
}

impl Saving {
    /// Writes it. Blocks.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(self) -> Result<SavedIndex, EngineError> {
        self.view.save_index()?;
        Ok(SavedIndex { revision: self.view.revision(), unsaved: self.unsaved })
    }
}

impl<E: Engine> Mvcc<E> {
    /// Reads what the engine holds: an empty one is a new store at revision 1.
    ///
    /// # Errors
    /// When the engine cannot be read or holds something else.
    pub fn open(engine: E) -> Result<Self, EngineError> {
        Self::open_with(engine, DEFAULT_CACHE_BYTES)
    }

    /// As [`Self::open`], with room for so many bytes of values in memory.
    ///
    /// # Errors
    /// See [`Self::open`].
    pub fn open_with(engine: E, cache_bytes: u64) -> Result<Self, EngineError> {
        let engine = Arc::new(engine);
        let swept = Progress::read(&*engine)?;
        let mut state = read_meta(&*engine)?;
        read_leases(&*engine, &mut state)?;
        let replayed = replay::fill(&*engine, &mut state, swept)?;
        attach_leases(&mut state);
        Ok(Self {
            caller_meta: engine.get(Table::Meta, meta::CALLER)?,
            values: Arc::new(Values::new(engine.clone(), cache_bytes, state.compact_revision)),
            state,
            engine,
            batch: Batch::default(),
            fresh: Fresh::default(),
            place_keys: PlaceKeys::default(),
            swept,
            epoch: Arc::new(()),
            older: Vec::new(),
            saved: replayed.saved,
            unsaved: replayed.versions,
        })
    }

    /// Applies one entry of the raft log. What it changes is seen by views only after [`Self::commit`].
    ///
    /// # Errors
    /// When the engine cannot be read. What the command did is then unknown, and the state must not be used any more.
    pub fn apply(&mut self, index: u64, term: u64, command: &Command) -> Result<Applied, EngineError> {
        (self.state.applied_index, self.state.applied_term) = (index, term);
        let mut events = Vec::new();
        let refused = match command {
            Command::By { caller, command } => self.forbidden(caller, command),
            _ => None,
        };
        let command = command.plain();
        let response = match refused.or_else(|| self.refused(command)) {
            Some(error) => Err(error),
            None => self.run(command, &mut events),
        };
        match response {
            // Other members could read it, and have another answer.
            Err(MvccError::Engine(text)) => Err(EngineError(text)),
            response => Ok(Applied { revision: self.state.revision, response, events }),
        }
    }

    /// Writes everything applied since the last commit into the engine, as one batch, together with the applied
    /// index; `caller_meta` is kept beside it for the caller.
    ///
    /// # Errors
    /// When the engine cannot write. The state is then ahead of the engine and must not be used any more.
    pub fn commit(&mut self, caller_meta: Option<Bytes>) -> Result<(), EngineError> {
        if let Some(bytes) = caller_meta {
            self.batch.put(Table::Meta, meta::CALLER, bytes.clone());
            self.caller_meta = Some(bytes);
        }
        let numbers = |numbers: [i64; 2]| record::encode_i64s(numbers);
        let applied = [self.state.applied_index.cast_signed(), self.state.applied_term.cast_signed()];
        self.batch.put(Table::Meta, meta::APPLIED, numbers(applied));
        self.batch.put(Table::Meta, meta::REVISION, record::encode_i64s([self.state.revision]));
        self.batch.put(Table::Meta, meta::STATE_HASH, record::encode_i64s([self.state.hash.into()]));
        let sizes = [self.state.live_bytes.cast_signed(), self.state.past_bytes.cast_signed()];
        self.batch.put(Table::Meta, meta::SIZES, numbers(sizes));
        self.engine.write(std::mem::take(&mut self.batch))?;
        self.fresh.clear();
        Ok(())
    }

    /// Notes that an entry of the log was applied that is not a command of the state machine.
    pub fn skip(&mut self, index: u64, term: u64) {
        (self.state.applied_index, self.state.applied_term) = (index, term);
    }

    /// Index and term of the last entry applied; zeros when there was none.
    pub fn applied(&self) -> (u64, u64) {
        (self.state.applied_index, self.state.applied_term)
    }

    /// Lets the rolling hash begin anew: what is applied from now on is in it, and nothing before. A state that was loaded
    /// has only the changes in it that were applied since.
    pub fn begin_hash(&mut self) {
        self.state.hash = 0;
    }

    /// The rolling hash of all changes so far: equal on replicas that applied the same.
    pub fn state_hash(&self) -> u32 {
        self.state.hash
    }

    /// What the caller last handed to [`Self::commit`].
    pub fn caller_meta(&self) -> Option<Bytes> {
        self.caller_meta.clone()
    }

    /// The state as it is now. To be published only after [`Self::commit`].
    pub fn view(&self) -> View {
        View { state: self.state.clone(), values: self.values.clone(), _epoch: self.epoch.clone() }
    }

    /// The engine.
    pub fn engine(&self) -> &Arc<E> {
        &self.engine
    }

    /// Whether compacted versions are still to be deleted: [`Self::sweep`] deletes some.
    pub fn has_garbage(&self) -> bool {
        !self.swept.is_done(self.state.compact_revision)
    }

    /// Whether somebody still reads a view from before the last compaction. What such a view shows may be deleted by
    /// [`Self::sweep`], and is then answered as compacted.
    pub fn is_read_before_compaction(&mut self) -> bool {
        self.older.retain(|epoch| epoch.strong_count() > 0);
        !self.older.is_empty()
    }

    /// The next step of deleting what was compacted: it is walked while others go on, then given to [`Self::absorb`]
    /// before the next one is taken.
    pub fn sweep(&self) -> Option<SweepStep> {
        let engine: Arc<dyn Engine> = self.engine.clone();
        self.has_garbage().then(|| SweepStep::new(engine, self.swept, self.state.compact_revision))
    }

    /// Deletes what a step of [`Self::sweep`] found, with the next [`Self::commit`].
    pub fn absorb(&mut self, swept: Swept) {
        self.swept = swept.absorb(&mut self.state, &mut self.batch);
    }

    /// Whether so much was written since the index was saved that it should be saved again: reading the rest at the
    /// start is to take a fraction of reading the index itself.
    pub fn is_index_due(&self) -> bool {
        self.unsaved > (self.state.index.live() / 4).max(FEW_VERSIONS)
    }

    /// Whether reading what was written since takes a while.
    pub fn is_index_outdated(&self) -> bool {
        self.unsaved > FEW_VERSIONS / 4 && self.state.index.live() > FEW_VERSIONS
    }

    /// Whether the next [`Self::sweep`] makes a saved index useless that is worth its while.
    pub fn is_index_overtaken(&self) -> bool {
        self.saved < self.state.compact_revision && self.state.index.live() > FEW_VERSIONS
    }

    /// What [`Self::is_index_due`] asks for; afterwards [`Self::end_saving`].
    pub fn begin_saving(&self) -> Saving {
        Saving { view: self.view(), unsaved: self.unsaved }
    }

    /// Notes that an index was saved.
    pub fn end_saving(&mut self, saved: SavedIndex) {
        self.saved = self.saved.max(saved.revision);
        self.unsaved = self.unsaved.saturating_sub(saved.unsaved);
    }

    fn forbidden(&self, caller: &Caller, command: &Command) -> Option<MvccError> {
        self.state.auth.check(caller, command, &self.state.leases).err().map(MvccError::from)
    }

    fn refused(&self, command: &Command) -> Option<MvccError> {
        let raised = |kind| self.state.alarms.iter().any(|alarm| alarm.kind == kind);
        let client = matches!(
            command,
            Command::Txn(_)
                | Command::Compact { .. }
                | Command::LeaseGrant { .. }
                | Command::LeaseRevoke { .. }
                | Command::LeaseExpire { .. }
        );
        // A member that is known to be wrong fences itself; without a majority nobody knows which one is.
        let nobody_knows = Alarm { member: 0, kind: AlarmKind::Corrupt };
        if client && self.state.alarms.contains(&nobody_knows) {
            return Some(MvccError::Corrupt);
        }
        let grows = match command {
            Command::Txn(txn) => puts(txn),
            Command::LeaseGrant { .. } => true,
            _ => false,
        };
        (grows && raised(AlarmKind::NoSpace)).then_some(MvccError::NoSpace)
    }

    fn run(&mut self, command: &Command, events: &mut Vec<Event>) -> Result<Response, MvccError> {
        match command {
            Command::Noop => Ok(Response::None),
            Command::Txn(txn) => self.write(events, |writer| writer.txn(txn)).map(Response::Txn),
            Command::Compact { revision } => self.compact(*revision),
            Command::LeaseGrant { id, ttl } => self.lease_grant(*id, *ttl),
            Command::LeaseRevoke { id } => self.lease_revoke(*id, events),
            Command::LeaseExpire { id, term } if *term == self.state.applied_term => {
                self.lease_revoke(*id, events)
            }
            Command::LeaseCheckpoint { term, remaining } if *term == self.state.applied_term => {
                remaining.iter().for_each(|&(id, seconds)| self.lease_checkpoint(id, seconds));
                Ok(Response::None)
            }
            Command::LeaseExpire { .. } | Command::LeaseCheckpoint { .. } => Ok(Response::None),
            Command::Alarm { action, alarm } => Ok(self.alarm(*action, *alarm)),
            Command::MemberAttributes(member) => {
                self.state.members.insert(member.id, Arc::new(member.clone()));
                Ok(self.write_members())
            }
            Command::MemberForget { id } => {
                self.state.members.remove(id);
                self.state.member_versions.remove(id);
                self.write_versions();
                Ok(self.write_members())
            }
            Command::ClusterVersion { version } => {
                self.state.cluster_version = Some(version.as_str().into());
                self.batch.put(Table::Meta, meta::CLUSTER_VERSION, version.clone().into_bytes());
                Ok(Response::None)
            }
            Command::MemberVersion { id, version } => {
                self.state.member_versions.insert(*id, version.as_str().into());
                self.write_versions();
                Ok(Response::None)
            }
            Command::Downgrade { target } => {
                self.state.downgrade = target.as_deref().map(Into::into);
                self.batch.put(Table::Meta, meta::DOWNGRADE, target.clone().unwrap_or_default().into_bytes());
                Ok(Response::None)
            }
            Command::Auth(command) => {
                let auth = Arc::make_mut(&mut self.state.auth);
                Ok(auth.apply(self.state.applied_index, command, &mut self.batch)?)
            }
            // Nobody can make one: a caller's command has no further caller.
            Command::By { .. } => Err(AuthError::Denied.into()),
        }
    }

    fn write<T>(
        &mut self,
        events: &mut Vec<Event>,
        change: impl FnOnce(&mut Writer<'_>) -> Result<T, MvccError>,
    ) -> Result<T, MvccError> {
        let mut writer = Writer {
            state: &mut self.state,
            batch: &mut self.batch,
            fresh: &mut self.fresh,
            place_keys: &mut self.place_keys,
            values: &self.values,
            sub: 0,
            events: Vec::new(),
        };
        let answer = change(&mut writer)?;
        self.unsaved += u64::from(writer.sub);
        *events = writer.finish();
        Ok(answer)
    }

    fn compact(&mut self, revision: Revision) -> Result<Response, MvccError> {
        if revision <= self.state.compact_revision {
            return Err(MvccError::Compacted { compact_revision: self.state.compact_revision });
        }
        if revision > self.state.revision {
            return Err(MvccError::FutureRevision);
        }
        self.state.compact_revision = revision;
        self.values.note_compaction(revision);
        self.older.push(Arc::downgrade(&std::mem::take(&mut self.epoch)));
        self.batch.put(Table::Meta, meta::COMPACTED, record::encode_i64s([revision]));
        Ok(Response::None)
    }

    fn lease_grant(&mut self, id: i64, ttl: i64) -> Result<Response, MvccError> {
        if ttl > MAX_LEASE_TTL {
            return Err(MvccError::LeaseTtlTooLarge);
        }
        if self.state.leases.contains_key(&id) {
            return Err(MvccError::LeaseExists);
        }
        self.set_lease(Lease::new(id, ttl, 0));
        Ok(Response::LeaseGranted { id, ttl })
    }

    fn lease_revoke(&mut self, id: i64, events: &mut Vec<Event>) -> Result<Response, MvccError> {
        // It goes first, so that its keys are not taken off it one by one.
        let lease = self.state.leases.remove(&id).ok_or(MvccError::LeaseNotFound)?;
        self.write(events, |writer| {
            writer.expect(lease.keys.len());
            lease.keys().for_each(|key| writer.delete(key));
            Ok(())
        })?;
        self.batch.delete(Table::Leases, record::lease_key(id));
        Ok(Response::None)
    }

    fn lease_checkpoint(&mut self, id: i64, remaining: i64) {
        if let Some(lease) = self.state.leases.get(&id) {
            self.set_lease(Lease { remaining, ..(**lease).clone() });
        }
    }

    fn set_lease(&mut self, lease: Lease) {
        let value = record::encode_i64s([lease.ttl, lease.remaining]);
        self.batch.put(Table::Leases, record::lease_key(lease.id), value);
        self.state.leases.insert(lease.id, Arc::new(lease));
    }

    fn alarm(&mut self, action: AlarmAction, alarm: Alarm) -> Response {
        let alarms = &mut self.state.alarms;
        let changed = match action {
            AlarmAction::Activate => alarms.insert(alarm).is_none(),
            AlarmAction::Deactivate => alarms.remove(&alarm).is_some(),
        };
        self.batch.put(Table::Meta, meta::ALARMS, record::encode_alarms(self.state.alarms.iter().copied()));
        Response::Alarms(if changed || action == AlarmAction::Activate { vec![alarm] } else { Vec::new() })
    }

    fn write_members(&mut self) -> Response {
        let members = record::encode_members(self.state.members.values().map(|member| &**member));
        self.batch.put(Table::Meta, meta::MEMBERS, members);
        Response::None
    }

    fn write_versions(&mut self) {
        let mut out = bytes::BytesMut::new();
        for (id, version) in &self.state.member_versions {
            crate::codec::put_version(&mut out, *id, version);
        }
        self.batch.put(Table::Meta, meta::MEMBER_VERSIONS, out.freeze());
    }
}

fn read_leases<E: Engine>(engine: &E, state: &mut State) -> Result<(), EngineError> {
    let mut found: Vec<(i64, Bytes)> = Vec::new();
    let mut damage = Ok(());
    engine.scan(Table::Leases, &[], None, &mut |key, value| match <[u8; 8]>::try_from(key) {
        Ok(id) => {
            found.push((i64::from_be_bytes(id), value));
            ControlFlow::Continue(())
        }
        Err(_) => {
            damage = Err(EngineError("a lease's key is damaged".into()));
            ControlFlow::Break(())
        }
    })?;
    damage?;
    for (id, value) in found {
        let [ttl, remaining] = record::decode_i64s("a lease", &value)?;
        state.leases.insert(id, Arc::new(Lease::new(id, ttl, remaining)));
    }
    Ok(())
}

/// Hangs the keys on their leases.
fn attach_leases(state: &mut State) {
    if state.leases.is_empty() {
        return;
    }
    let leased = state.index.range(&KeyRange::all()).filter(|(_, entry)| entry.is_live() && entry.lease != 0);
    for (key, entry) in leased {
        if let Some(lease) = state.leases.get_mut(&entry.lease) {
            Arc::make_mut(lease).keys.insert(Bytes::copy_from_slice(key));
        }
    }
}

/// What an engine says of the last commit in it, without opening it: index and term of the last entry, and what the
/// caller kept beside them.
///
/// # Errors
/// When the engine cannot be read.
pub fn peek<E: Engine + ?Sized>(engine: &E) -> Result<(u64, u64, Option<Bytes>), EngineError> {
    let caller = engine.get(Table::Meta, meta::CALLER)?;
    let Some(bytes) = engine.get(Table::Meta, meta::APPLIED)? else { return Ok((0, 0, caller)) };
    let [index, term] = record::decode_i64s("the applied index", &bytes)?;
    Ok((index.cast_unsigned(), term.cast_unsigned(), caller))
}

pub(crate) fn read_meta<E: Engine + ?Sized>(engine: &E) -> Result<State, EngineError> {
    let numbers = |key: &[u8], what| -> Result<Option<i64>, EngineError> {
        let Some(bytes) = engine.get(Table::Meta, key)? else { return Ok(None) };
        let [number] = record::decode_i64s(what, &bytes)?;
        Ok(Some(number))
    };
    let mut state = State {
        revision: numbers(meta::REVISION, "the revision")?.unwrap_or(1),
        compact_revision: numbers(meta::COMPACTED, "the compaction")?.unwrap_or(0),
        hash: numbers(meta::STATE_HASH, "the state's hash")?.unwrap_or(0) as u32,
        ..State::default()
    };
    (state.applied_index, state.applied_term, _) = peek(engine)?;
    if let Some(bytes) = engine.get(Table::Meta, meta::SIZES)? {
        let [live, past] = record::decode_i64s("the sizes", &bytes)?;
        (state.live_bytes, state.past_bytes) = (live.cast_unsigned(), past.cast_unsigned());
    }
    if let Some(bytes) = engine.get(Table::Meta, meta::ALARMS)? {
        state.alarms = record::decode_alarms(&bytes).into_iter().collect();
    }
    if let Some(bytes) = engine.get(Table::Meta, meta::MEMBERS)? {
        let members = record::decode_members(bytes)?;
        state.members = members.into_iter().map(|member| (member.id, Arc::new(member))).collect();
    }
    if let Some(bytes) = engine.get(Table::Meta, meta::CLUSTER_VERSION)? {
        state.cluster_version = Some(String::from_utf8_lossy(&bytes).as_ref().into());
    }
    if let Some(bytes) = engine.get(Table::Meta, meta::MEMBER_VERSIONS)? {
        let versions = crate::codec::take_versions(bytes)
            .map_err(|error| EngineError(format!("the members' versions: {error}")))?;
        state.member_versions =
            versions.into_iter().map(|(id, version)| (id, Arc::<str>::from(version))).collect();
    }
    if let Some(bytes) = engine.get(Table::Meta, meta::DOWNGRADE)?
        && !bytes.is_empty()
    {
        state.downgrade = Some(String::from_utf8_lossy(&bytes).as_ref().into());
    }
    state.auth = Arc::new(Auth::open(engine)?);
    Ok(state)
}

fn puts(txn: &Txn) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match op {
        Op::Put(_) => true,
        Op::Txn(txn) => puts(txn),
        Op::Range(_) | Op::Delete(_) => false,
    })
}
