//! The index: every key with its current value and where its past ones lie. Persistent, so that a copy costs nothing.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use imbl::{OrdMap, Vector};

use crate::types::{KeyRange, KeyValue, Revision};

/// Where one version of a key is kept: the revision that made it, and which change of that revision it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    pub main: Revision,
    pub sub: u32,
}

/// A version that is no longer current.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Past {
    pub place: Place,
    /// The key was deleted by it.
    pub tombstone: bool,
}

/// What the index knows of a key. `past` is oldest first and ends with a tombstone exactly when there is no `current`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    pub current: Option<(KeyValue, u32)>,
    pub past: Vector<Past>,
}

/// A key as it was at some revision.
pub(crate) enum AtRevision<'a> {
    Absent,
    Current(&'a KeyValue),
    Past(Place),
}

impl Record {
    /// The key at `revision`, which must not be compacted.
    pub fn at(&self, revision: Revision) -> AtRevision<'_> {
        if let Some((kv, _)) = &self.current
            && kv.mod_revision <= revision
        {
            return AtRevision::Current(kv);
        }
        match self.last_before(Place { main: revision + 1, sub: 0 }) {
            Some(past) if !past.tombstone => AtRevision::Past(past.place),
            _ => AtRevision::Absent,
        }
    }

    /// The version that was replaced by the one at `place`.
    pub fn before(&self, place: Place) -> Option<Place> {
        self.last_before(place).filter(|past| !past.tombstone).map(|past| past.place)
    }

    fn last_before(&self, place: Place) -> Option<Past> {
        let older = match self.past.binary_search_by(|past| past.place.cmp(&place)) {
            Ok(found) | Err(found) => found,
        };
        older.checked_sub(1).and_then(|last| self.past.get(last)).copied()
    }
}

/// All keys.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index {
    records: OrdMap<Bytes, Arc<Record>>,
}

impl Index {
    pub fn record(&self, key: &[u8]) -> Option<&Record> {
        self.records.get(key).map(Arc::as_ref)
    }

    pub fn current(&self, key: &[u8]) -> Option<&KeyValue> {
        self.record(key)?.current.as_ref().map(|(kv, _)| kv)
    }

    /// Records of a range in key order; some may have no current value.
    pub fn records(&self, range: &KeyRange) -> impl Iterator<Item = (&Bytes, &Record)> {
        let bounds = (!range.is_empty()).then(|| bounds(range));
        let found = bounds.into_iter().flat_map(|bounds| self.records.range::<_, [u8]>(bounds));
        found.map(|(key, record)| (key, &**record))
    }

    /// Current values of a range in key order.
    pub fn live(&self, range: &KeyRange) -> impl Iterator<Item = &KeyValue> {
        self.records(range).filter_map(|(_, record)| record.current.as_ref().map(|(kv, _)| kv))
    }

    /// Makes `kv` the current value. Returns the place of the one it replaces.
    pub fn put(&mut self, kv: KeyValue, sub: u32) -> Option<Place> {
        let record = self.edit(&kv.key);
        let replaced = supersede(record);
        record.current = Some((kv, sub));
        replaced
    }

    /// Deletes a key that is there. Returns the place of its last value.
    pub fn delete(&mut self, key: &Bytes, at: Place) -> Option<Place> {
        let record = self.edit(key);
        let replaced = supersede(record);
        record.past.push_back(Past { place: at, tombstone: true });
        replaced
    }

    /// Forgets a past version, and the key when nothing else is left of it.
    pub fn forget(&mut self, key: &Bytes, place: Place) {
        let Some(record) = self.records.get_mut(key) else { return };
        let record = Arc::make_mut(record);
        if let Ok(found) = record.past.binary_search_by(|past| past.place.cmp(&place)) {
            record.past.remove(found);
        }
        if record.current.is_none() && record.past.is_empty() {
            self.records.remove(key);
        }
    }

    fn edit(&mut self, key: &Bytes) -> &mut Record {
        Arc::make_mut(self.records.entry(key.clone()).or_default())
    }
}

fn supersede(record: &mut Record) -> Option<Place> {
    let (kv, sub) = record.current.take()?;
    let place = Place { main: kv.mod_revision, sub };
    record.past.push_back(Past { place, tombstone: false });
    Some(place)
}

fn bounds(range: &KeyRange) -> (Bound<&[u8]>, Bound<&[u8]>) {
    match range {
        KeyRange::Key(key) => (Bound::Included(key), Bound::Included(key)),
        KeyRange::Interval { start, end } => (Bound::Included(start), Bound::Excluded(end)),
        KeyRange::From(start) => (Bound::Included(start), Bound::Unbounded),
    }
}
