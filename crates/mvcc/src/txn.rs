//! Writing: transactions, and the single changes that they and the end of a lease are made of.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use crate::engine::{Batch, EngineError, Table};
use crate::index::Place;
use crate::record::{self, Version};
use crate::types::{
    Compare, CompareResult, CompareTarget, DeleteRequest, Event, EventKind, KeyRange, KeyValue, MvccError,
    Op, OpResponse, PutRequest, RangeRequest, Txn, TxnResponse,
};
use crate::view::{self, History, State, View};

/// A past version that goes when its successor's revision is compacted.
#[derive(Clone, Debug)]
pub(crate) struct Garbage {
    pub superseded: i64,
    pub key: Bytes,
    pub place: Place,
    pub bytes: u64,
}

impl Garbage {
    /// Whether a compaction lets it go. What was itself written by the compacted revision stays: a watcher may begin
    /// there, and must hear of a deletion as well.
    pub fn is_gone_at(&self, compact_revision: i64) -> bool {
        self.superseded.max(self.place.main + 1) <= compact_revision
    }
}

/// The changes of one command, while they are made. They become the state's revision only by [`Writer::finish`].
pub(crate) struct Writer<'a> {
    pub state: &'a mut State,
    pub batch: &'a mut Batch,
    /// Versions of this batch that are not in the engine yet.
    pub fresh: &'a mut BTreeMap<Place, Bytes>,
    pub garbage: &'a mut dyn FnMut(Garbage),
    pub history: &'a dyn History,
    pub sub: u32,
    pub events: Vec<Event>,
}

/// Past versions, those of the batch that is not written yet included.
struct WithFresh<'a> {
    fresh: &'a BTreeMap<Place, Bytes>,
    history: &'a dyn History,
}

impl History for WithFresh<'_> {
    fn version(&self, place: Place) -> Result<Option<Version>, EngineError> {
        match self.fresh.get(&place) {
            Some(bytes) => record::decode_version(place, bytes.clone()).map(Some),
            None => self.history.version(place),
        }
    }

    fn versions(
        &self,
        from: Place,
        visit: &mut dyn FnMut(Place, Version) -> ControlFlow<()>,
    ) -> Result<(), EngineError> {
        self.history.versions(from, visit)
    }

    fn compact_revision(&self) -> Result<i64, EngineError> {
        self.history.compact_revision()
    }
}

/// Which way the compares of a transaction decided, and those of the transactions within the branch taken, in order.
struct Path {
    succeeded: bool,
    inner: Vec<Path>,
}

impl Writer<'_> {
    /// Does a transaction: all compares first, against the state before it; then every check that could fail; then
    /// the steps. So it does all or nothing.
    pub fn txn(&mut self, txn: &Txn) -> Result<TxnResponse, MvccError> {
        let path = decide(self.state, txn);
        self.check(txn, &path)?;
        self.steps(txn, &path)
    }

    /// The new revision, if anything changed.
    pub fn finish(self) -> Vec<Event> {
        if !self.events.is_empty() {
            self.state.revision += 1;
        }
        self.events
    }

    fn check(&self, txn: &Txn, path: &Path) -> Result<(), MvccError> {
        let mut inner = path.inner.iter();
        for op in branch(txn, path) {
            match op {
                Op::Range(request) => view::check_revision(self.state, request.revision)?,
                Op::Put(put) => self.check_put(put)?,
                Op::Delete(_) => {}
                Op::Txn(txn) => {
                    self.check(txn, inner.next().expect("invariant: one path for each inner txn"))?
                }
            }
        }
        Ok(())
    }

    fn check_put(&self, put: &PutRequest) -> Result<(), MvccError> {
        if (put.ignore_value || put.ignore_lease) && self.state.index.current(&put.key).is_none() {
            return Err(MvccError::KeyNotFound);
        }
        if put.lease != 0 && !self.state.leases.contains_key(&put.lease) {
            return Err(MvccError::LeaseNotFound);
        }
        Ok(())
    }

    fn steps(&mut self, txn: &Txn, path: &Path) -> Result<TxnResponse, MvccError> {
        let mut inner = path.inner.iter();
        let mut responses = Vec::with_capacity(branch(txn, path).len());
        for op in branch(txn, path) {
            responses.push(match op {
                Op::Range(request) => OpResponse::Range(self.range(request)?),
                Op::Put(put) => OpResponse::Put { prev: self.put(put) },
                Op::Delete(request) => self.delete_range(request),
                Op::Txn(txn) => {
                    let path = inner.next().expect("invariant: one path for each inner txn");
                    OpResponse::Txn(self.steps(txn, path)?)
                }
            });
        }
        Ok(TxnResponse { succeeded: path.succeeded, responses })
    }

    fn range(&self, request: &RangeRequest) -> Result<crate::types::RangeResponse, MvccError> {
        let history = WithFresh { fresh: self.fresh, history: self.history };
        let mut answer = view::range(self.state, &history, request)?;
        answer.revision += i64::from(!self.events.is_empty());
        Ok(answer)
    }

    fn put(&mut self, put: &PutRequest) -> Option<KeyValue> {
        let prev = self.state.index.current(&put.key).cloned();
        let place = self.next_place();
        let mut kv = KeyValue {
            key: put.key.clone(),
            value: put.value.clone(),
            create_revision: place.main,
            mod_revision: place.main,
            version: 1,
            lease: put.lease,
        };
        if let Some(prev) = &prev {
            (kv.create_revision, kv.version) = (prev.create_revision, prev.version + 1);
            if put.ignore_value {
                kv.value = prev.value.clone();
            }
            if put.ignore_lease {
                kv.lease = prev.lease;
            }
        }
        self.record(place, &kv, false);
        self.move_lease(&kv.key, prev.as_ref().map_or(0, |prev| prev.lease), kv.lease);
        self.state.live_bytes += size(&kv);
        let replaced = self.state.index.put(kv.clone(), place.sub);
        self.account(&kv.key, prev.as_ref(), replaced, place.main);
        self.state.live_keys += u64::from(prev.is_none());
        let answer = if put.prev_kv { prev.clone() } else { None };
        self.events.push(Event { kind: EventKind::Put, kv, prev });
        answer
    }

    fn delete_range(&mut self, request: &DeleteRequest) -> OpResponse {
        let keys: Vec<Bytes> = match &request.range {
            KeyRange::Key(key) => {
                self.state.index.current(key).map(|kv| kv.key.clone()).into_iter().collect()
            }
            range => self.state.index.live(range).map(|kv| kv.key.clone()).collect(),
        };
        let mut prev_kvs = Vec::new();
        let deleted = keys.len() as i64;
        for key in keys {
            let prev = self.delete(key);
            prev_kvs.extend(prev.filter(|_| request.prev_kv));
        }
        OpResponse::Delete { deleted, prev_kvs }
    }

    /// Deletes a key, if it is there.
    pub fn delete(&mut self, key: Bytes) -> Option<KeyValue> {
        let prev = self.state.index.current(&key).cloned()?;
        let place = self.next_place();
        let kv = KeyValue { key: key.clone(), mod_revision: place.main, ..KeyValue::default() };
        self.record(place, &kv, true);
        self.move_lease(&key, prev.lease, 0);
        let replaced = self.state.index.delete(&key, place);
        self.account(&key, Some(&prev), replaced, place.main);
        self.state.live_keys -= 1;
        self.state.past_bytes += key.len() as u64;
        (self.garbage)(Garbage { superseded: place.main, bytes: key.len() as u64, key, place });
        self.events.push(Event { kind: EventKind::Delete, kv, prev: Some(prev.clone()) });
        Some(prev)
    }

    fn next_place(&mut self) -> Place {
        let place = Place { main: self.state.revision + 1, sub: self.sub };
        self.sub += 1;
        place
    }

    fn record(&mut self, place: Place, kv: &KeyValue, tombstone: bool) {
        let (key, value) = (record::place_key(place), record::encode_version(kv, tombstone));
        self.state.hash = crc32c::crc32c_append(self.state.hash, &key);
        self.state.hash = crc32c::crc32c_append(self.state.hash, &value);
        self.fresh.insert(place, value.clone());
        self.batch.put(Table::Revisions, key, value);
    }

    fn account(&mut self, key: &Bytes, prev: Option<&KeyValue>, replaced: Option<Place>, superseded: i64) {
        let (Some(prev), Some(place)) = (prev, replaced) else { return };
        let bytes = size(prev);
        self.state.live_bytes -= bytes;
        self.state.past_bytes += bytes;
        (self.garbage)(Garbage { superseded, key: key.clone(), place, bytes });
    }

    fn move_lease(&mut self, key: &Bytes, from: i64, to: i64) {
        if from == to {
            return;
        }
        if let Some(lease) = self.state.leases.get_mut(&from) {
            Arc::make_mut(lease).keys.remove(key);
        }
        if let Some(lease) = self.state.leases.get_mut(&to) {
            Arc::make_mut(lease).keys.insert(key.clone());
        }
    }
}

impl View {
    /// Answers a transaction that only reads.
    ///
    /// # Errors
    /// Those of [`View::range`].
    ///
    /// # Panics
    /// When it would write: ask [`Txn::is_read_only`] first.
    pub fn txn(&self, txn: &Txn) -> Result<TxnResponse, MvccError> {
        let succeeded = txn.compare.iter().all(|compare| holds(&self.state, compare));
        let taken = if succeeded { &txn.success } else { &txn.failure };
        let responses = taken.iter().map(|op| match op {
            Op::Range(request) => self.range(request).map(OpResponse::Range),
            Op::Txn(txn) => self.txn(txn).map(OpResponse::Txn),
            Op::Put(_) | Op::Delete(_) => panic!("invariant: a transaction on a view only reads"),
        });
        Ok(TxnResponse { succeeded, responses: responses.collect::<Result<_, _>>()? })
    }
}

pub(crate) fn size(kv: &KeyValue) -> u64 {
    (kv.key.len() + kv.value.len()) as u64
}

fn branch<'a>(txn: &'a Txn, path: &Path) -> &'a [Op] {
    if path.succeeded { &txn.success } else { &txn.failure }
}

fn decide(state: &State, txn: &Txn) -> Path {
    let succeeded = txn.compare.iter().all(|compare| holds(state, compare));
    let taken = if succeeded { &txn.success } else { &txn.failure };
    let inner = taken.iter().filter_map(|op| match op {
        Op::Txn(txn) => Some(decide(state, txn)),
        _ => None,
    });
    Path { succeeded, inner: inner.collect() }
}

fn holds(state: &State, compare: &Compare) -> bool {
    if let KeyRange::Key(key) = &compare.range {
        return match state.index.current(key) {
            Some(kv) => holds_for(compare, kv),
            None => holds_for_none(compare),
        };
    }
    let mut any = false;
    let all = state.index.live(&compare.range).all(|kv| {
        any = true;
        holds_for(compare, kv)
    });
    if any { all } else { holds_for_none(compare) }
}

fn holds_for_none(compare: &Compare) -> bool {
    !matches!(compare.target, CompareTarget::Value(_)) && holds_for(compare, &KeyValue::default())
}

fn holds_for(compare: &Compare, kv: &KeyValue) -> bool {
    let ordering = match &compare.target {
        CompareTarget::Version(version) => kv.version.cmp(version),
        CompareTarget::Create(revision) => kv.create_revision.cmp(revision),
        CompareTarget::Mod(revision) => kv.mod_revision.cmp(revision),
        CompareTarget::Value(value) => kv.value.cmp(value),
        CompareTarget::Lease(lease) => kv.lease.cmp(lease),
    };
    match compare.result {
        CompareResult::Equal => ordering.is_eq(),
        CompareResult::Greater => ordering.is_gt(),
        CompareResult::Less => ordering.is_lt(),
        CompareResult::NotEqual => ordering.is_ne(),
    }
}
