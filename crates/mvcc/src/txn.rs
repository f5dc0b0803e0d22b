//! Writing: transactions, and the single changes that they and the end of a lease are made of.

use std::sync::Arc;

use bytes::Bytes;

use crate::engine::{Batch, Table};
use crate::record::{self, Before, Encoded, PlaceKeys};
use crate::tree::{Entry, Place};
use crate::types::{
    Compare, CompareResult, CompareTarget, DeleteRequest, Event, EventKind, KeyRange, KeyValue, MvccError,
    Op, OpResponse, PutRequest, RangeRequest, RangeResponse, Txn, TxnResponse,
};
use crate::values::{Fresh, Source, Values};
use crate::view::{self, State, View};

/// Changes of a batch that are no versions, at most.
const SINGLE: usize = 8;

/// The changes of one command, while they are made. They become the state's revision only by [`Writer::finish`].
pub(crate) struct Writer<'a> {
    pub state: &'a mut State,
    pub batch: &'a mut Batch,
    /// Versions of this batch, which are not in the engine yet.
    pub fresh: &'a mut Fresh,
    pub place_keys: &'a mut PlaceKeys,
    pub values: &'a Values,
    pub sub: u32,
    pub events: Vec<Event>,
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
        let path = decide(self.state, self.source(), txn)?;
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
        if (put.ignore_value || put.ignore_lease) && self.state.current(&put.key).is_none() {
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
                Op::Put(put) => OpResponse::Put { prev: self.put(put)? },
                Op::Delete(request) => self.delete_range(request)?,
                Op::Txn(txn) => {
                    let path = inner.next().expect("invariant: one path for each inner txn");
                    OpResponse::Txn(self.steps(txn, path)?)
                }
            });
        }
        Ok(TxnResponse { succeeded: path.succeeded, responses })
    }

    fn source(&self) -> Source<'_> {
        Source { fresh: Some(self.fresh), values: self.values }
    }

    fn range(&self, request: &RangeRequest) -> Result<RangeResponse, MvccError> {
        // Every member must answer alike: whether it may be answered at all was asked before it was replicated.
        let mut answer = crate::range::range(self.state, self.source(), request, &mut |_| true)?;
        answer.revision += i64::from(!self.events.is_empty());
        Ok(answer)
    }

    fn put(&mut self, put: &PutRequest) -> Result<Option<KeyValue>, MvccError> {
        let prev = self.prev(put)?;
        let (place, compacted) = (self.place(), self.state.compact_revision);
        let (mut before, mut made) = (None, None);
        self.state.index.update(&put.key, &mut |there| {
            // One that is deleted too, as long as it can be read.
            before = there.filter(|entry| entry.is_live() || entry.main >= compacted).copied();
            made = Some(next(before, place, put));
            made
        });
        let entry = made.expect("invariant: the tree asks for an entry");
        let value = match &prev {
            Some(prev) if put.ignore_value => prev.value.clone(),
            _ => put.value.clone(),
        };
        let kv = KeyValue {
            key: put.key.clone(),
            value,
            create_revision: entry.create,
            mod_revision: place.main,
            version: entry.version(),
            lease: entry.lease,
        };
        let kv = self.record(place, &kv, false, before);
        let current = before.filter(Entry::is_live);
        self.move_lease(&kv.key, current.map_or(0, |current| current.lease), kv.lease);
        self.state.live_bytes += size(&kv.key, entry.value_len);
        self.supersede(&kv.key, current);
        self.tell(EventKind::Put, kv, current);
        Ok(prev.filter(|_| put.prev_kv))
    }

    /// The key as it is, if that is asked for, or a part of it is to stay.
    fn prev(&self, put: &PutRequest) -> Result<Option<KeyValue>, MvccError> {
        if !put.prev_kv && !put.ignore_value {
            return Ok(None);
        }
        let current = self.state.current(&put.key);
        current.map(|current| Ok(self.source().version(current.place())?.kv)).transpose()
    }

    fn delete_range(&mut self, request: &DeleteRequest) -> Result<OpResponse, MvccError> {
        let index = &self.state.index;
        let keys: Vec<(Bytes, Entry)> = match &request.range {
            KeyRange::Key(key) => index.get(key).map(|entry| (key.clone(), *entry)).into_iter().collect(),
            range => index.range(range).map(|(key, entry)| (Bytes::copy_from_slice(key), *entry)).collect(),
        };
        let (mut prev_kvs, mut deleted) = (Vec::new(), 0);
        for (key, entry) in keys.into_iter().filter(|(_, entry)| entry.is_live()) {
            if request.prev_kv {
                prev_kvs.push(self.source().version(entry.place())?.kv);
            }
            self.delete(&key);
            deleted += 1;
        }
        Ok(OpResponse::Delete { deleted, prev_kvs })
    }

    /// Makes room for so many more changes.
    pub fn expect(&mut self, changes: usize) {
        self.events.reserve(changes);
        self.fresh.reserve(changes);
        self.batch.reserve(changes + SINGLE);
    }

    /// Deletes a key, if it is there.
    pub fn delete(&mut self, key: &Bytes) {
        let place = self.place();
        let current = self.state.index.update(key, &mut |there| {
            let current = there.filter(|entry| entry.is_live())?;
            Some(Entry::new(place, current.create, 0, 0, 0).tombstone().first(current.is_first()))
        });
        let Some(current) = current else { return };
        let kv = KeyValue { key: key.clone(), mod_revision: place.main, ..KeyValue::default() };
        let kv = self.record(place, &kv, true, Some(current));
        self.move_lease(&kv.key, current.lease, 0);
        self.supersede(&kv.key, Some(current));
        self.state.past_bytes += size(&kv.key, 0);
        self.tell(EventKind::Delete, kv, Some(current));
    }

    /// Where the next version will be.
    fn place(&self) -> Place {
        Place { main: self.state.revision + 1, sub: self.sub }
    }

    /// Adds a version to the batch. Key and value of the answer are in memory of their own, which they share with
    /// everybody who reads this version, and not with the request.
    fn record(&mut self, place: Place, kv: &KeyValue, tombstone: bool, before: Option<Entry>) -> KeyValue {
        let encoded = Encoded::new(kv, tombstone, before.as_ref().map(Before::of));
        self.state.hash = add_to_hash(self.state.hash, place, tombstone, encoded.message());
        self.sub += 1;
        let Encoded { bytes, kv, .. } = encoded;
        self.fresh.push(place, bytes.clone());
        if !tombstone {
            // What nobody will ask for would drive others out.
            self.values.remember(place, bytes.clone());
        }
        self.batch.put(Table::Revisions, self.place_keys.make(place), bytes);
        kv
    }

    fn supersede(&mut self, key: &[u8], current: Option<Entry>) {
        let Some(current) = current else { return };
        let bytes = size(key, current.value_len);
        self.state.live_bytes -= bytes;
        self.state.past_bytes += bytes;
    }

    /// Adds an event. Who wants the value before reads it.
    fn tell(&mut self, kind: EventKind, kv: KeyValue, before: Option<Entry>) {
        let prev_at = before.map(|before| (before.main, before.sub));
        self.events.push(Event { kind, kv, prev: None, prev_at });
    }

    fn move_lease(&mut self, key: &Bytes, from: i64, to: i64) {
        if from == to {
            return;
        }
        if let Some(lease) = self.state.leases.get_mut(&from) {
            Arc::make_mut(lease).keys.remove(key);
        }
        if let Some(lease) = self.state.leases.get_mut(&to) {
            // A copy: the key shares its memory with the value.
            Arc::make_mut(lease).keys.insert(Bytes::copy_from_slice(key));
        }
    }
}

impl View {
    /// Answers a transaction that only reads; `admit` is asked for each of its ranges, as by [`View::range_within`].
    ///
    /// # Errors
    /// Those of [`View::range_within`].
    ///
    /// # Panics
    /// When it would write: ask [`Txn::is_read_only`] first.
    pub fn txn(&self, txn: &Txn, admit: &mut dyn FnMut(u64) -> bool) -> Result<TxnResponse, MvccError> {
        let succeeded = all_hold(&self.state, self.source(), txn)?;
        let taken = if succeeded { &txn.success } else { &txn.failure };
        let responses = taken.iter().map(|op| match op {
            Op::Range(request) => self.range_within(request, admit).map(OpResponse::Range),
            Op::Txn(txn) => self.txn(txn, admit).map(OpResponse::Txn),
            Op::Put(_) | Op::Delete(_) => panic!("invariant: a transaction on a view only reads"),
        });
        Ok(TxnResponse { succeeded, responses: responses.collect::<Result<_, _>>()? })
    }

    /// About how many bytes of keys and values the ranges of a transaction's answer would hold, and the previous values
    /// of the ranges that it deletes: those of its longer branch. Single keys are not looked at.
    pub fn answer_bytes(&self, txn: &Txn) -> u64 {
        let branch = |ops: &[Op]| ops.iter().map(|op| self.op_bytes(op)).sum::<u64>();
        branch(&txn.success).max(branch(&txn.failure))
    }

    fn op_bytes(&self, op: &Op) -> u64 {
        match op {
            Op::Range(request) if !request.count_only && !matches!(request.range, KeyRange::Key(_)) => {
                crate::range::bytes(&self.state, &request.range, request.limit, !request.keys_only)
            }
            Op::Delete(request) if request.prev_kv && !matches!(request.range, KeyRange::Key(_)) => {
                crate::range::bytes(&self.state, &request.range, 0, true)
            }
            Op::Txn(txn) => self.answer_bytes(txn),
            Op::Range(_) | Op::Delete(_) | Op::Put(_) => 0,
        }
    }
}

/// The entry of a key that is put, whose version before is `before`.
fn next(before: Option<Entry>, place: Place, put: &PutRequest) -> Entry {
    let current = before.filter(Entry::is_live);
    let first = before.is_none_or(|before| before.is_live() && before.is_first());
    let (create, version) =
        current.map_or((place.main, 1), |current| (current.create, current.version() + 1));
    let kept = |wanted: bool| current.filter(|_| wanted);
    let lease = kept(put.ignore_lease).map_or(put.lease, |current| current.lease);
    let value_len = kept(put.ignore_value).map_or(put.value.len(), |current| current.value_len as usize);
    Entry::new(place, create, version, lease, value_len).first(first)
}

/// Bytes of a key and its value.
pub(crate) fn size(key: &[u8], value_len: u32) -> u64 {
    key.len() as u64 + u64::from(value_len)
}

/// The hash of all changes goes on with one: what it was, and not where the one before it lies.
pub(crate) fn add_to_hash(hash: u32, place: Place, tombstone: bool, message: &[u8]) -> u32 {
    let hash = crc32c::crc32c_append(hash, &record::place_key(place));
    crc32c::crc32c_append(crc32c::crc32c_append(hash, &[u8::from(tombstone)]), message)
}

fn branch<'a>(txn: &'a Txn, path: &Path) -> &'a [Op] {
    if path.succeeded { &txn.success } else { &txn.failure }
}

fn decide(state: &State, source: Source<'_>, txn: &Txn) -> Result<Path, MvccError> {
    let succeeded = all_hold(state, source, txn)?;
    let taken = if succeeded { &txn.success } else { &txn.failure };
    let inner = taken.iter().filter_map(|op| match op {
        Op::Txn(txn) => Some(decide(state, source, txn)),
        _ => None,
    });
    Ok(Path { succeeded, inner: inner.collect::<Result<_, _>>()? })
}

fn all_hold(state: &State, source: Source<'_>, txn: &Txn) -> Result<bool, MvccError> {
    for compare in &txn.compare {
        if !holds(state, source, compare)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn holds(state: &State, source: Source<'_>, compare: &Compare) -> Result<bool, MvccError> {
    let mut any = false;
    if let KeyRange::Key(key) = &compare.range {
        if let Some(entry) = state.current(key) {
            return holds_for(compare, entry, source);
        }
    } else {
        for (_, entry) in state.index.range(&compare.range).filter(|(_, entry)| entry.is_live()) {
            any = true;
            if !holds_for(compare, entry, source)? {
                return Ok(false);
            }
        }
    }
    Ok(any || holds_for_none(compare))
}

/// A key that is not there counts as all zeros, and has no value.
fn holds_for_none(compare: &Compare) -> bool {
    match compare.target {
        CompareTarget::Value(_) => false,
        CompareTarget::Version(number)
        | CompareTarget::Create(number)
        | CompareTarget::Mod(number)
        | CompareTarget::Lease(number) => is(compare.result, 0.cmp(&number)),
    }
}

fn holds_for(compare: &Compare, entry: &Entry, source: Source<'_>) -> Result<bool, MvccError> {
    let ordering = match &compare.target {
        CompareTarget::Version(version) => entry.version().cmp(version),
        CompareTarget::Create(revision) => entry.create.cmp(revision),
        CompareTarget::Mod(revision) => entry.main.cmp(revision),
        CompareTarget::Lease(lease) => entry.lease.cmp(lease),
        CompareTarget::Value(value) => source.version(entry.place())?.kv.value.cmp(value),
    };
    Ok(is(compare.result, ordering))
}

fn is(result: CompareResult, ordering: std::cmp::Ordering) -> bool {
    match result {
        CompareResult::Equal => ordering.is_eq(),
        CompareResult::Greater => ordering.is_gt(),
        CompareResult::Less => ordering.is_lt(),
        CompareResult::NotEqual => ordering.is_ne(),
    }
}
