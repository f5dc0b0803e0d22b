//! The state's engine, written behind the answers: what is written is seen at once and goes to the engine a moment later,
//! on a thread of its own, many batches as one. Nothing is lost by it that was not lost before: the engine has no log of
//! its own, and what a crash takes from it is applied again from raft's.
//!
//! Invariants: batches go to the engine in order, each whole; a reader sees every batch that was written before it asked;
//! what is not in the engine yet is bounded, and who writes more waits.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::{Bound, ControlFlow};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use env::Clock;
use mvcc::{Batch, Engine, EngineError, Table, VisitValue, WriteIndex};
use parking_lot::{Condvar, Mutex};

use crate::storage::StateEngine;

/// How long the thread waits for more batches to join the first.
const LINGER: Duration = Duration::from_millis(5);
/// Changes that wait at most; who writes more waits for the engine.
const MAX_WAITING: usize = 32 << 10;
/// So many are written without waiting for more.
const ENOUGH: usize = 2 << 10;
/// What a byte of a change counts as part of a change.
const CHANGE_BYTES: usize = 1 << 10;
/// Changes that are written as one batch, about.
const MAX_WRITE: usize = 4 << 10;

type Key = (Table, Bytes);

/// A batch on its way.
struct Parcel {
    batch: Batch,
    weight: usize,
    /// By key, for those who read what is on its way; most is in mvcc's cache of values.
    sorted: OnceLock<BTreeMap<Key, Option<Bytes>>>,
}

impl Parcel {
    fn new(batch: Batch) -> Self {
        let bytes = |(_, key, value): &(Table, Bytes, Option<Bytes>)| {
            key.len() + value.as_ref().map_or(0, Bytes::len)
        };
        let bytes: usize = batch.changes().iter().map(bytes).sum();
        let weight = 1 + batch.changes().len() + bytes / CHANGE_BYTES;
        Self { batch, weight, sorted: OnceLock::new() }
    }

    fn sorted(&self) -> &BTreeMap<Key, Option<Bytes>> {
        // Of two changes of a key the later one stays.
        let changes = || self.batch.changes().iter();
        self.sorted.get_or_init(|| {
            changes().map(|(table, key, value)| ((*table, key.clone()), value.clone())).collect()
        })
    }
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Arc<Parcel>>,
    weight: usize,
    /// How many parcels came, and how many the engine has.
    came: u64,
    written: u64,
    /// How many somebody waits for.
    wanted: u64,
    failed: Option<EngineError>,
    closed: bool,
}

impl Queue {
    fn is_urgent(&self) -> bool {
        self.closed || self.weight >= ENOUGH || self.wanted > self.written
    }
}

#[derive(Default)]
struct Desk {
    queue: Mutex<Queue>,
    /// Parcels that wait, for those who only want to know whether there are any.
    waiting: AtomicUsize,
    writing: AtomicBool,
    /// Told to the thread.
    work: Condvar,
    /// Told to those who wait for the thread.
    done: Condvar,
}

/// An engine that is written behind. The engine has everything once this is dropped.
pub(crate) struct Behind {
    engine: Arc<dyn StateEngine>,
    desk: Arc<Desk>,
    thread: Option<JoinHandle<()>>,
}

impl Behind {
    /// Begins to write behind; `took` is told how long the engine took for each write.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn over(
        engine: Arc<dyn StateEngine>,
        clock: Clock,
        took: metrics::Histogram,
    ) -> io::Result<Arc<Self>> {
        let desk = Arc::new(Desk::default());
        let (engine_of_thread, desk_of_thread) = (engine.clone(), desk.clone());
        let write = move |batch: Batch| {
            let start = clock.monotonic();
            let done = engine_of_thread.write(batch);
            took.record(clock.monotonic() - start);
            done
        };
        let thread = std::thread::Builder::new()
            .name("state-writer".into())
            .spawn(move || while desk_of_thread.write_some(&write) {})?;
        Ok(Arc::new(Self { engine, desk, thread: Some(thread) }))
    }

    /// Whether the engine is being written to. It takes less than a moment, unless the disk hangs.
    pub fn is_writing(&self) -> bool {
        self.desk.writing.load(Ordering::Relaxed)
    }

    /// Returns once the engine has everything that was written before.
    ///
    /// # Errors
    /// When the engine could not write.
    pub fn drain(&self) -> Result<(), EngineError> {
        let mut queue = self.desk.queue.lock();
        let target = queue.came;
        queue.wanted = queue.wanted.max(target);
        self.desk.work.notify_one();
        while queue.written < target && queue.failed.is_none() {
            self.desk.done.wait(&mut queue);
        }
        queue.failed.clone().map_or(Ok(()), Err)
    }

    /// What is on its way, the oldest first.
    fn on_its_way(&self) -> Vec<Arc<Parcel>> {
        if self.desk.waiting.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        self.desk.queue.lock().waiting.iter().cloned().collect()
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        self.desk.queue.lock().closed = true;
        self.desk.work.notify_one();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that writes the state panicked; the log will be played again");
        }
    }
}

impl Desk {
    /// Writes what waits, when it is time. Whether there may be more.
    fn write_some(&self, write: &impl Fn(Batch) -> Result<(), EngineError>) -> bool {
        let Some(parcels) = self.take() else { return false };
        self.writing.store(true, Ordering::Relaxed);
        let done = write(join(&parcels));
        self.writing.store(false, Ordering::Relaxed);
        let mut queue = self.queue.lock();
        let failed = done.is_err();
        match done {
            Ok(()) => {
                queue.written += parcels.len() as u64;
                queue.weight -= parcels.iter().map(|parcel| parcel.weight).sum::<usize>();
                queue.waiting.drain(..parcels.len());
                self.waiting.store(queue.waiting.len(), Ordering::Release);
            }
            // What is on its way stays: it is what the readers were shown.
            Err(error) => queue.failed = Some(error),
        }
        self.done.notify_all();
        !failed
    }

    /// The parcels to write next, which stay in the queue until they are written; none when it is over.
    fn take(&self) -> Option<Vec<Arc<Parcel>>> {
        let mut queue = self.queue.lock();
        while queue.waiting.is_empty() {
            if queue.closed {
                return None;
            }
            self.work.wait(&mut queue);
        }
        if !queue.is_urgent() {
            // One wait: who wants it sooner says so.
            self.work.wait_for(&mut queue, LINGER);
        }
        let mut weight = 0;
        let more = |parcel: &&Arc<Parcel>| {
            let fits = weight < MAX_WRITE;
            weight += parcel.weight;
            fits
        };
        Some(queue.waiting.iter().take_while(more).cloned().collect())
    }
}

/// All batches as one. Of single values, which every batch writes, only the last is kept.
fn join(parcels: &[Arc<Parcel>]) -> Batch {
    if let [parcel] = parcels {
        return parcel.batch.clone();
    }
    let mut whole = Batch::default();
    let mut single: BTreeMap<&Bytes, &Option<Bytes>> = BTreeMap::new();
    for (table, key, value) in parcels.iter().flat_map(|parcel| parcel.batch.changes()) {
        match value {
            _ if *table == Table::Meta => drop(single.insert(key, value)),
            Some(value) => whole.put(*table, key.clone(), value.clone()),
            None => whole.delete(*table, key.clone()),
        }
    }
    for (key, value) in single {
        match value {
            Some(value) => whole.put(Table::Meta, key.clone(), value.clone()),
            None => whole.delete(Table::Meta, key.clone()),
        }
    }
    whole
}

/// What the parcels say of a key: nothing, that it is gone, or its value.
fn find(parcels: &[Arc<Parcel>], table: Table, key: &[u8]) -> Option<Option<Bytes>> {
    let key = (table, Bytes::copy_from_slice(key));
    parcels.iter().rev().find_map(|parcel| parcel.sorted().get(&key).cloned())
}

/// What the parcels say of the keys of a table from `from` on; a key that is gone has no value.
fn newer(
    parcels: &[Arc<Parcel>],
    table: Table,
    from: &[u8],
    to: Bound<&[u8]>,
) -> BTreeMap<Bytes, Option<Bytes>> {
    let mut newer = BTreeMap::new();
    let start = Bound::Included((table, Bytes::copy_from_slice(from)));
    let ends = |key: &[u8]| match to {
        Bound::Unbounded => false,
        Bound::Included(to) => key > to,
        Bound::Excluded(to) => key >= to,
    };
    for parcel in parcels {
        let here = parcel.sorted().range((start.clone(), Bound::Unbounded));
        let here = here.take_while(|((found, key), _)| *found == table && !ends(key));
        newer.extend(here.map(|((_, key), value)| (key.clone(), value.clone())));
    }
    newer
}

impl Engine for Behind {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        match find(&self.on_its_way(), table, key) {
            Some(found) => Ok(found),
            None => self.engine.get(table, key),
        }
    }

    /// It may see a part of what is written meanwhile.
    fn scan(
        &self,
        table: Table,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>,
    ) -> Result<(), EngineError> {
        let newer = newer(&self.on_its_way(), table, from, to.map_or(Bound::Unbounded, Bound::Excluded));
        let mut newer = newer.into_iter().peekable();
        let mut flow = ControlFlow::Continue(());
        self.engine.scan(table, from, to, &mut |key, value| {
            while let Some((key, value)) = newer.next_if(|(newer, _)| newer.as_ref() < key) {
                flow = value.map_or(ControlFlow::Continue(()), |value| visit(&key, value));
                if flow.is_break() {
                    return flow;
                }
            }
            flow = match newer.next_if(|(newer, _)| newer.as_ref() == key) {
                Some((_, None)) => ControlFlow::Continue(()),
                Some((_, Some(value))) => visit(key, value),
                None => visit(key, value),
            };
            flow
        })?;
        for (key, value) in newer {
            if flow.is_break() {
                break;
            }
            flow = value.map_or(ControlFlow::Continue(()), |value| visit(&key, value));
        }
        Ok(())
    }

    fn get_sorted(&self, table: Table, keys: &[&[u8]], visit: VisitValue<'_>) -> Result<(), EngineError> {
        let (Some(first), Some(last)) = (keys.first(), keys.last()) else { return Ok(()) };
        let newer = newer(&self.on_its_way(), table, first, Bound::Included(last));
        if newer.is_empty() {
            return self.engine.get_sorted(table, keys, visit);
        }
        let found: Vec<Option<&Option<Bytes>>> = keys.iter().map(|key| newer.get(*key)).collect();
        let old: Vec<usize> = (0..keys.len()).filter(|&number| found[number].is_none()).collect();
        let old_keys: Vec<&[u8]> = old.iter().map(|&number| keys[number]).collect();
        let (mut next, mut flow) = (0, ControlFlow::Continue(()));
        let visit_newer = |next: &mut usize, end: usize, visit: VisitValue<'_>| {
            let mut flow = ControlFlow::Continue(());
            while *next < end && flow.is_continue() {
                if let Some(value) = found[*next] {
                    flow = visit(*next, value.as_deref());
                }
                *next += 1;
            }
            flow
        };
        self.engine.get_sorted(table, &old_keys, &mut |at, value| {
            flow = visit_newer(&mut next, old[at], visit);
            if flow.is_continue() {
                flow = visit(old[at], value);
            }
            next = old[at] + 1;
            flow
        })?;
        if flow.is_continue() {
            let _: ControlFlow<()> = visit_newer(&mut next, keys.len(), visit);
        }
        Ok(())
    }

    /// # Errors
    /// When an earlier batch could not be written.
    fn write(&self, batch: Batch) -> Result<(), EngineError> {
        let parcel = Arc::new(Parcel::new(batch));
        let mut queue = self.desk.queue.lock();
        while queue.weight > MAX_WAITING && queue.failed.is_none() {
            self.desk.done.wait(&mut queue);
        }
        if let Some(error) = &queue.failed {
            return Err(error.clone());
        }
        let (was_empty, was_urgent) = (queue.waiting.is_empty(), queue.is_urgent());
        queue.weight += parcel.weight;
        queue.came += 1;
        queue.waiting.push_back(parcel);
        self.desk.waiting.store(queue.waiting.len(), Ordering::Release);
        let wakes = was_empty || (!was_urgent && queue.is_urgent());
        drop(queue);
        if wakes {
            self.desk.work.notify_one();
        }
        Ok(())
    }

    fn save_index(&self, write: WriteIndex<'_>) -> Result<(), EngineError> {
        self.drain()?;
        self.engine.save_index(write)
    }

    fn load_index(&self) -> Result<Option<Box<dyn io::Read + '_>>, EngineError> {
        self.engine.load_index()
    }
}

impl StateEngine for Behind {
    fn checkpoint(&self, into: &Path) -> io::Result<()> {
        self.drain().map_err(io::Error::other)?;
        self.engine.checkpoint(into)
    }
}

#[cfg(test)]
mod tests {
    use mvcc::MemoryEngine;
    use proptest::prelude::*;

    use super::*;

    /// An engine that can be held up, and refuses to write when it is told to.
    #[derive(Clone, Default)]
    struct Slow {
        inner: MemoryEngine,
        gate: Arc<Mutex<()>>,
        refuses: Arc<AtomicBool>,
        writes: Arc<AtomicUsize>,
    }

    impl Engine for Slow {
        fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
            self.inner.get(table, key)
        }

        fn scan(
            &self,
            table: Table,
            from: &[u8],
            to: Option<&[u8]>,
            visit: &mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>,
        ) -> Result<(), EngineError> {
            self.inner.scan(table, from, to, visit)
        }

        fn get_sorted(&self, table: Table, keys: &[&[u8]], visit: VisitValue<'_>) -> Result<(), EngineError> {
            self.inner.get_sorted(table, keys, visit)
        }

        fn write(&self, batch: Batch) -> Result<(), EngineError> {
            let _open = self.gate.lock();
            if self.refuses.load(Ordering::Relaxed) {
                return Err(EngineError("no room".to_owned()));
            }
            self.writes.fetch_add(1, Ordering::Relaxed);
            self.inner.write(batch)
        }

        fn save_index(&self, write: WriteIndex<'_>) -> Result<(), EngineError> {
            self.inner.save_index(write)
        }

        fn load_index(&self) -> Result<Option<Box<dyn io::Read + '_>>, EngineError> {
            self.inner.load_index()
        }
    }

    impl StateEngine for Slow {
        fn checkpoint(&self, _: &Path) -> io::Result<()> {
            Ok(())
        }
    }

    fn behind(engine: &Slow) -> Arc<Behind> {
        Behind::over(Arc::new(engine.clone()), Clock::default(), metrics::Histogram::noop())
            .expect("a thread")
    }

    fn batch(changes: &[(u8, Option<u8>)]) -> Batch {
        let mut batch = Batch::default();
        for (key, value) in changes {
            match value {
                Some(value) => batch.put(Table::Revisions, vec![*key], vec![*value]),
                None => batch.delete(Table::Revisions, vec![*key]),
            }
        }
        batch.put(Table::Meta, "applied", vec![changes.len() as u8]);
        batch
    }

    fn scanned(engine: &dyn Engine, from: u8, to: Option<u8>, at_most: usize) -> Vec<(u8, u8)> {
        let mut seen = Vec::new();
        let scanned = engine.scan(
            Table::Revisions,
            &[from],
            to.as_ref().map(std::slice::from_ref),
            &mut |key, value| {
                seen.push((key[0], value[0]));
                if seen.len() >= at_most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            },
        );
        scanned.expect("scan");
        seen
    }

    fn sorted(engine: &dyn Engine, keys: &[u8], at_most: usize) -> Vec<(usize, Option<u8>)> {
        let mut seen = Vec::new();
        let keys: Vec<&[u8]> = keys.iter().map(std::slice::from_ref).collect();
        let read = engine.get_sorted(Table::Revisions, &keys, &mut |number, value| {
            seen.push((number, value.map(|value| value[0])));
            if seen.len() >= at_most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        read.expect("read");
        seen
    }

    fn changes() -> impl Strategy<Value = Vec<(u8, Option<u8>)>> {
        proptest::collection::vec((0..24_u8, proptest::option::of(any::<u8>())), 1..12)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn what_is_on_its_way_is_read_as_if_it_were_there(
            there in proptest::collection::vec(changes(), 0..4),
            on_its_way in proptest::collection::vec(changes(), 0..4),
            (from, to) in (0..24_u8, proptest::option::of(0..26_u8)),
            keys in proptest::collection::btree_set(0..26_u8, 0..20),
            at_most in 1..30_usize,
        ) {
            let (slow, plain) = (Slow::default(), MemoryEngine::default());
            let engine = behind(&slow);
            for changes in &there {
                engine.write(batch(changes)).expect("write");
                plain.write(batch(changes)).expect("write");
            }
            engine.drain().expect("drain");
            let held_up = slow.gate.lock();
            for changes in &on_its_way {
                engine.write(batch(changes)).expect("write");
                plain.write(batch(changes)).expect("write");
            }
            let keys: Vec<u8> = keys.into_iter().collect();
            let check = || {
                for key in 0..26 {
                    let seen = engine.get(Table::Revisions, &[key]).expect("get");
                    prop_assert_eq!(seen, plain.get(Table::Revisions, &[key]).expect("get"));
                }
                prop_assert_eq!(scanned(&*engine, from, to, at_most), scanned(&plain, from, to, at_most));
                prop_assert_eq!(sorted(&*engine, &keys, at_most), sorted(&plain, &keys, at_most));
                Ok(())
            };
            check()?;
            drop(held_up);
            engine.drain().expect("drain");
            check()?;
            drop(engine);
            prop_assert_eq!(scanned(&slow, 0, None, 99), scanned(&plain, 0, None, 99));
            let applied = |engine: &dyn Engine| engine.get(Table::Meta, b"applied").expect("get");
            prop_assert_eq!(applied(&slow), applied(&plain));
        }
    }

    #[test]
    fn many_batches_become_one() {
        let slow = Slow::default();
        let engine = behind(&slow);
        let held_up = slow.gate.lock();
        for key in 0..100 {
            engine.write(batch(&[(key, Some(key))])).expect("write");
        }
        drop(held_up);
        engine.drain().expect("drain");
        assert!(slow.writes.load(Ordering::Relaxed) <= 2, "the first, and all that came meanwhile");
        assert_eq!(scanned(&slow, 0, None, 1000).len(), 100);
    }

    #[test]
    fn who_writes_too_much_waits_and_a_failure_is_told_to_everyone() {
        let slow = Slow::default();
        let engine = behind(&slow);
        let held_up = slow.gate.lock();
        let large = || {
            let mut batch = Batch::default();
            batch.put(Table::Revisions, "key", vec![0; CHANGE_BYTES * MAX_WAITING]);
            batch
        };
        engine.write(large()).expect("write");
        let writer = std::thread::spawn({
            let engine = engine.clone();
            move || engine.write(batch(&[(1, Some(1))]))
        });
        assert_eq!(engine.desk.queue.lock().came, 1);
        slow.refuses.store(true, Ordering::Relaxed);
        drop(held_up);
        let refused = Err(EngineError("no room".to_owned()));
        assert_eq!(writer.join().expect("ended"), refused);
        assert_eq!(engine.drain(), refused);
        assert_eq!(engine.write(Batch::default()), refused);
        // What readers were shown stays.
        assert!(engine.get(Table::Revisions, b"key").expect("get").is_some());
        assert_eq!(engine.get(Table::Revisions, &[1]).expect("get"), None);
    }
}
