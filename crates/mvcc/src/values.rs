//! Versions by their place: from the cache, or from the engine. A version never changes, so that nothing in the cache is
//! ever wrong.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::engine::{Engine, EngineError, Table};
use crate::record::{self, Version};
use crate::tree::{Entry, Place};
use crate::types::{MvccError, Revision};

/// Bytes that a cached version takes beside its own.
const OVERHEAD: usize = 160;
/// What a version is taken to have when the cache is laid out, in bytes.
const TYPICAL: u64 = 512;
/// Reads of more versions than this do not drive others out of the cache, unless they are all that was asked for and small.
const LONG_READ: usize = 256;
/// Small is what takes no more than this part of the cache.
const SMALL_PART: u64 = 4;

#[derive(Clone)]
struct Size;

impl Weighter<Place, Bytes> for Size {
    fn weight(&self, _: &Place, record: &Bytes) -> u64 {
        (record.len() + OVERHEAD) as u64
    }
}

/// Where versions are read from.
pub(crate) struct Values {
    engine: Arc<dyn Engine>,
    cache: Cache<Place, Bytes, Size>,
    /// The newest compaction, which may be newer than a view's.
    compacted: AtomicI64,
}

impl Values {
    pub fn new(engine: Arc<dyn Engine>, cache_bytes: u64, compacted: Revision) -> Self {
        let items = usize::try_from(cache_bytes / TYPICAL).unwrap_or(usize::MAX).clamp(64, 1 << 20);
        let cache = Cache::with_weighter(items, cache_bytes, Size);
        Self { engine, cache, compacted: AtomicI64::new(compacted) }
    }

    pub fn engine(&self) -> &dyn Engine {
        &*self.engine
    }

    /// Keeps a version for those who will want it.
    pub fn remember(&self, place: Place, record: Bytes) {
        self.cache.insert(place, record);
    }

    /// Keeps a version no longer: it was replaced. Who wants it still reads it from the engine.
    pub fn forget(&self, place: Place) {
        self.cache.remove(&place);
    }

    /// `None` when it was compacted, and deleted.
    pub fn record(&self, place: Place) -> Result<Option<Bytes>, EngineError> {
        if let Some(record) = self.cache.get(&place) {
            return Ok(Some(record));
        }
        let found = self.engine.get(Table::Revisions, &record::place_key(place))?;
        if let Some(record) = &found {
            self.cache.insert(place, record.clone());
        }
        Ok(found)
    }

    /// Calls `visit` for each place with its number and its version, in any order; `None` for one that is deleted.
    pub fn read(&self, places: &[Place], of: Extent, visit: VisitRead<'_>) -> Result<(), MvccError> {
        let mut missing: Vec<(Place, usize)> = Vec::new();
        for (number, place) in places.iter().enumerate() {
            match self.cache.get(place) {
                Some(record) => visit(number, Some(Read::Shared(&record)))?,
                None => missing.push((*place, number)),
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        missing.sort_unstable();
        let keep = missing.len() <= LONG_READ
            || self.cache.weight() < self.cache.capacity() / 10 * 9
            || matches!(of, Extent::Whole { bytes } if bytes <= self.cache.capacity() / SMALL_PART);
        let keys: Vec<record::PlaceKey> =
            missing.iter().map(|(place, _)| record::place_key(*place)).collect();
        let keys: Vec<&[u8]> = keys.iter().map(<[u8; 12]>::as_slice).collect();
        let mut failed = Ok(());
        self.engine.get_sorted(Table::Revisions, &keys, &mut |found, record| {
            let (place, number) = missing[found];
            let visited = match record {
                Some(record) if keep => {
                    let record = Bytes::copy_from_slice(record);
                    self.cache.insert(place, record.clone());
                    visit(number, Some(Read::Shared(&record)))
                }
                record => visit(number, record.map(Read::Borrowed)),
            };
            match visited {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failed = Err(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        failed
    }

    /// Versions from `from` on, in order.
    pub fn versions(
        &self,
        from: Place,
        visit: &mut dyn FnMut(Place, Version) -> ControlFlow<()>,
    ) -> Result<(), EngineError> {
        versions(&*self.engine, from, visit)
    }

    /// The newest compaction, which may be newer than a view's: it is noted before anything is deleted by it.
    pub fn compact_revision(&self) -> Revision {
        self.compacted.load(Ordering::Acquire)
    }

    pub fn note_compaction(&self, revision: Revision) {
        self.compacted.store(revision, Ordering::Release);
    }

    /// Why a version that the index knows is not there: it was compacted after the view was taken, or the engine is
    /// damaged.
    pub fn gone(&self, place: Place) -> MvccError {
        match self.compact_revision() {
            compact_revision if compact_revision > place.main => MvccError::Compacted { compact_revision },
            _ => MvccError::from(EngineError(format!("revision {}.{} is missing", place.main, place.sub))),
        }
    }
}

/// What versions that are read together are of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Extent {
    /// Something of which the rest is not read, or is asked for some other time.
    Piece,
    /// Or a page of it: all of what was asked for, so many bytes.
    Whole { bytes: u64 },
}

/// Sees the number of a place and the version there; none if it is deleted.
type VisitRead<'a> = &'a mut dyn FnMut(usize, Option<Read<'_>>) -> Result<(), MvccError>;

/// A version that was read.
#[derive(Clone, Copy)]
pub(crate) enum Read<'a> {
    Shared(&'a Bytes),
    Borrowed(&'a [u8]),
}

impl Read<'_> {
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Shared(bytes) => bytes,
            Self::Borrowed(bytes) => bytes,
        }
    }

    pub fn to_bytes(self) -> Bytes {
        match self {
            Self::Shared(bytes) => bytes.clone(),
            Self::Borrowed(bytes) => Bytes::copy_from_slice(bytes),
        }
    }
}

/// Versions of an engine from `from` on, in order.
pub(crate) fn versions<E: Engine + ?Sized>(
    engine: &E,
    from: Place,
    visit: &mut dyn FnMut(Place, Version) -> ControlFlow<()>,
) -> Result<(), EngineError> {
    let mut damage = Ok(());
    engine.scan(Table::Revisions, &record::place_key(from), None, &mut |key, value| {
        let found = record::parse_place(key)
            .and_then(|place| record::decode_version(place, &value).map(|version| (place, version)));
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

/// Versions that a batch made, which are not in the engine yet, in order.
#[derive(Debug, Default)]
pub(crate) struct Fresh(Vec<(Place, Bytes)>);

impl Fresh {
    pub fn push(&mut self, place: Place, record: Bytes) {
        debug_assert!(self.0.last().is_none_or(|(last, _)| *last < place));
        self.0.push((place, record));
    }

    pub fn reserve(&mut self, versions: usize) {
        self.0.reserve(versions);
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    fn get(&self, place: Place) -> Option<&Bytes> {
        let found = self.0.binary_search_by(|(other, _)| other.cmp(&place)).ok()?;
        Some(&self.0[found].1)
    }

    fn holds(&self, place: Place) -> bool {
        self.0.first().is_some_and(|(first, _)| *first <= place)
    }
}

/// All versions that can be read: those of an unwritten batch, and what the engine has.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    pub fresh: Option<&'a Fresh>,
    pub values: &'a Values,
}

impl Source<'_> {
    pub fn record(&self, place: Place) -> Result<Bytes, MvccError> {
        if let Some(record) = self.fresh.and_then(|fresh| fresh.get(place)) {
            return Ok(record.clone());
        }
        self.values.record(place)?.ok_or_else(|| self.values.gone(place))
    }

    pub fn version(&self, place: Place) -> Result<Version, MvccError> {
        Ok(record::decode_version(place, &self.record(place)?)?)
    }

    /// See [`Values::read`]; one that is deleted is an error.
    pub fn read(
        &self,
        places: &[Place],
        of: Extent,
        visit: &mut dyn FnMut(usize, Read<'_>) -> Result<(), MvccError>,
    ) -> Result<(), MvccError> {
        let is_fresh = |place: &Place| self.fresh.is_some_and(|fresh| fresh.holds(*place));
        if places.iter().any(is_fresh) {
            let mut each = places.iter().enumerate();
            return each.try_for_each(|(number, place)| visit(number, Read::Shared(&self.record(*place)?)));
        }
        self.values.read(places, of, &mut |number, read| match read {
            Some(read) => visit(number, read),
            None => Err(self.values.gone(places[number])),
        })
    }

    /// A key as it was at `revision`, which must not be compacted; `entry` is its last version.
    pub fn at(&self, entry: &Entry, revision: Revision) -> Result<Option<Entry>, MvccError> {
        let mut entry = *entry;
        while entry.main > revision {
            if entry.is_first() && entry.create > revision {
                return Ok(None);
            }
            let Some(before) = self.version(entry.place())?.before else { return Ok(None) };
            if before.tombstone && before.place.main <= revision {
                return Ok(None);
            }
            entry = self.version(before.place)?.entry(before.place.sub);
        }
        Ok(entry.is_live().then_some(entry))
    }

    /// Whether a key that changed since was there at `revision`.
    pub fn was_there(&self, entry: &Entry, revision: Revision) -> Result<bool, MvccError> {
        if entry.create <= revision || entry.is_first() {
            return Ok(entry.create <= revision);
        }
        Ok(self.at(entry, revision)?.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Batch, MemoryEngine};

    const VERSIONS: i64 = 400;
    const LEN: usize = 256;

    fn places() -> Vec<Place> {
        (1..=VERSIONS).map(|main| Place { main, sub: 0 }).collect()
    }

    /// How many versions are in a cache that was full before they were read a few times.
    fn kept(of: Extent) -> usize {
        let (engine, record) = (MemoryEngine::default(), Bytes::from(vec![b'x'; LEN]));
        let change = |value: Option<&Bytes>| {
            let mut batch = Batch::default();
            for place in places() {
                let key = Bytes::copy_from_slice(&record::place_key(place));
                match value {
                    Some(value) => batch.put(Table::Revisions, key, value.clone()),
                    None => batch.delete(Table::Revisions, key),
                }
            }
            engine.write(batch).expect("written");
        };
        change(Some(&record));
        let values = Values::new(Arc::new(engine.clone()), 1 << 20, 0);
        (0..10_000).for_each(|n| values.remember(Place { main: 1_000_000 + n, sub: 0 }, record.clone()));
        for _ in 0..3 {
            values.read(&places(), of, &mut |_, _| Ok(())).expect("read");
        }
        // What is found now was kept.
        change(None);
        places().into_iter().filter(|place| values.record(*place).expect("read").is_some()).count()
    }

    #[test]
    fn a_whole_range_that_is_read_again_comes_from_a_cache_that_was_full() {
        let bytes = VERSIONS.cast_unsigned() * LEN as u64;
        assert_eq!(kept(Extent::Whole { bytes }), places().len());
    }

    #[test]
    fn what_is_forgotten_comes_from_the_engine() {
        let (engine, place) = (MemoryEngine::default(), Place { main: 7, sub: 1 });
        let values = Values::new(Arc::new(engine.clone()), 1 << 20, 0);
        values.remember(place, Bytes::from_static(b"cached"));
        assert_eq!(values.record(place).expect("read"), Some(Bytes::from_static(b"cached")));
        values.forget(place);
        assert_eq!(values.record(place).expect("read"), None);
        let mut batch = Batch::default();
        let key = Bytes::copy_from_slice(&record::place_key(place));
        batch.put(Table::Revisions, key, Bytes::from_static(b"stored"));
        engine.write(batch).expect("written");
        assert_eq!(values.record(place).expect("read"), Some(Bytes::from_static(b"stored")));
    }

    #[test]
    fn what_is_too_much_for_the_cache_drives_nothing_out() {
        assert_eq!(kept(Extent::Whole { bytes: 1 << 20 }), 0);
        assert_eq!(kept(Extent::Piece), 0);
    }
}
