//! The log: appended to in memory, written and made durable by `sync`.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io;
use std::mem;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use bytes::Bytes;
use parking_lot::Mutex;
use store::storage::{LogBatch, LogEngine, LogMeta};

use crate::record::{self, Record};
use crate::replay::{Index, Place, damaged, replay};
use crate::segment::{self, Folder, Segment};

/// Bytes of a segment.
const SEGMENT: usize = 16 << 20;
/// Bytes kept free in a segment for the record that ends it.
const END: usize = 64;
/// What the page cache holds at a time.
const PAGE: usize = 4096;
/// Bytes of memory that are kept for appends between two syncs.
const KEPT_BUFFER: usize = 1 << 20;

/// The raft log in a folder.
pub struct Wal {
    folder: Arc<Folder>,
    state: Mutex<State>,
    /// Held while files are written. Taken before `state`, never the other way round.
    writing: Mutex<Writing>,
    preparer: Preparer,
}

struct State {
    index: Index,
    segments: BTreeMap<u64, Segment>,
    current: Segment,
    /// Bytes of the current segment that are taken.
    end: usize,
    /// The last record's.
    sequence: u64,
    /// Records up to this one are durable.
    durable: u64,
    /// What is to be written, in order.
    chunks: Vec<Chunk>,
    /// The oldest segment that is needed once the record with a sequence number is durable.
    purges: VecDeque<(u64, u64)>,
    failed: bool,
}

/// Bytes that stand behind each other in one segment.
struct Chunk {
    file: Arc<File>,
    at: usize,
    bytes: Vec<u8>,
    /// Bytes that the segment can hold.
    capacity: usize,
}

/// Zeros to the end of the page, which are there already: the rest of a page that is not in the cache would be read from
/// the disk before the page could be written. Where nothing is to be written, nothing is.
fn fill_page(bytes: &mut Vec<u8>, at: usize, capacity: usize) {
    if bytes.is_empty() {
        return;
    }
    let end = (at + bytes.len()).next_multiple_of(PAGE).min(capacity);
    bytes.resize(end.saturating_sub(at).max(bytes.len()), 0);
}

#[derive(Default)]
struct Writing {
    /// The file that was written last and is not durable.
    dirty: Option<Arc<File>>,
    /// A buffer to be used again.
    buffer: Vec<u8>,
}

impl Wal {
    /// Takes up the log in a folder, or begins one.
    ///
    /// # Errors
    /// A folder that cannot be used; a log that is damaged other than by a write that was not finished.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::open_with(path, SEGMENT)
    }

    /// As [`Self::open`], with segments of so many bytes, and never of more than before: what is shorter was cut.
    ///
    /// # Errors
    /// See [`Self::open`].
    pub fn open_with(path: &Path, segment: usize) -> io::Result<Self> {
        let folder = Arc::new(Folder::open(path, segment)?);
        let replayed = replay(folder.segments()?, segment)?;
        folder.prepare()?;
        let number = replayed.segments.last().map_or(1, |last| last.number + 1);
        let current = folder.make(number, segment)?;
        let mut state = State {
            index: replayed.index,
            segments: replayed.segments.into_iter().map(|segment| (segment.number, segment)).collect(),
            current: current.clone(),
            end: 0,
            sequence: replayed.sequence,
            durable: replayed.sequence,
            chunks: Vec::new(),
            purges: VecDeque::new(),
            failed: false,
        };
        state.begin(current);
        let preparer = Preparer::start(folder.clone())?;
        let wal = Self { folder, state: Mutex::new(state), writing: Mutex::default(), preparer };
        wal.sync()?;
        wal.preparer.ask();
        Ok(wal)
    }

    fn state(&self) -> io::Result<parking_lot::MutexGuard<'_, State>> {
        let state = self.state.lock();
        if state.failed {
            return Err(io::Error::other("the log has failed before"));
        }
        Ok(state)
    }

    /// Writes what is to be written; afterwards it can be read, and is durable up to the last file.
    fn flush(&self, writing: &mut Writing) -> io::Result<()> {
        let chunks = mem::take(&mut self.state()?.chunks);
        for chunk in chunks {
            if let Some(before) = writing.dirty.take_if(|before| !Arc::ptr_eq(before, &chunk.file)) {
                // A segment is whole on the disk before the next one is begun.
                before.sync_data()?;
            }
            if chunk.at == 0 {
                // The segment's name.
                self.folder.sync()?;
            }
            let Chunk { file, at, mut bytes, capacity } = chunk;
            fill_page(&mut bytes, at, capacity);
            file.write_all_at(&bytes, at as u64)?;
            writing.dirty = Some(file);
            if bytes.capacity() <= KEPT_BUFFER {
                writing.buffer = bytes;
            }
        }
        Ok(())
    }

    fn sync_files(&self, writing: &mut Writing) -> io::Result<()> {
        let sequence = self.state()?.sequence;
        self.flush(writing)?;
        if let Some(file) = writing.dirty.take() {
            file.sync_data()?;
        }
        let mut state = self.state.lock();
        state.durable = state.durable.max(sequence);
        let unused = state.unused();
        if state.chunks.is_empty() {
            let mut buffer = mem::take(&mut writing.buffer);
            buffer.clear();
            state.begin_chunk(buffer);
        }
        drop(state);
        unused.iter().try_for_each(|segment| fs::remove_file(&segment.path))
    }

    /// Whatever fails leaves the disk in a state that nobody knows.
    fn fail<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if result.is_err() {
            self.state.lock().failed = true;
        }
        result
    }

    fn append(&self, state: &mut State, record: &Record, size: usize) -> io::Result<Place> {
        if state.end + size + END > state.current.capacity {
            self.rotate(state, size)?;
        }
        Ok(state.put(record))
    }

    /// Ends the current segment and begins the next, which has room for `size` bytes.
    fn rotate(&self, state: &mut State, size: usize) -> io::Result<()> {
        state.put(&Record::End);
        let metas: usize = state.index.meta().values().map(|bytes| record::entry_size(bytes.len())).sum();
        let capacity = segment::HEADER + metas + size + END;
        let next = self.folder.make(state.current.number + 1, capacity.max(self.folder.capacity()))?;
        state.begin(next);
        self.preparer.ask();
        Ok(())
    }

    fn make(&self, batch: &LogBatch) -> io::Result<()> {
        let mut state = self.state()?;
        if let Some(range) = &batch.remove {
            let record = Record::Remove { from: range.start, to: range.end };
            self.append(&mut state, &record, record::entry_size(16))?;
            state.index.remove(range);
            let oldest = state.index.oldest_segment().unwrap_or(state.current.number);
            let sequence = state.sequence;
            state.purges.push_back((sequence, oldest));
        }
        for (index, bytes) in &batch.entries {
            let record = Record::Entry { index: *index, bytes: bytes.clone() };
            let place = self.append(&mut state, &record, record::entry_size(bytes.len()))?;
            state.index.push(*index, place)?;
        }
        for (key, bytes) in &batch.meta {
            let record = Record::Meta { key: *key, bytes: bytes.clone() };
            self.append(&mut state, &record, record::entry_size(bytes.len()))?;
            state.index.set(*key, bytes.clone());
        }
        Ok(())
    }

    fn read_at(&self, places: &[(u64, Place)]) -> io::Result<Vec<(u64, Bytes)>> {
        let mut writing = self.writing.lock();
        let flushed = self.flush(&mut writing);
        self.fail(flushed)?;
        let read = |(index, place): &(u64, Place)| {
            let file = {
                let state = self.state()?;
                let segment = match state.segments.get(&place.segment) {
                    Some(segment) => segment,
                    None if state.current.number == place.segment => &state.current,
                    None => return Err(damaged(format!("segment {:x} has gone", place.segment))),
                };
                segment.file.clone()
            };
            let mut bytes = vec![0; place.length];
            file.read_exact_at(&mut bytes, place.offset as u64)?;
            Ok((*index, Bytes::from(bytes)))
        };
        places.iter().map(read).collect()
    }
}

impl State {
    /// Begins a segment: its head, and all single values.
    fn begin(&mut self, segment: Segment) {
        let before = mem::replace(&mut self.current, segment);
        if before.number != self.current.number {
            self.segments.insert(before.number, before);
        }
        self.end = 0;
        self.begin_chunk(segment::header(self.current.number).to_vec());
        self.end = segment::HEADER;
        let metas: Vec<_> = self.index.meta().clone().into_iter().collect();
        for (key, bytes) in metas {
            self.put(&Record::Meta { key, bytes });
        }
    }

    /// Begins a chunk of the current segment, where it ends.
    fn begin_chunk(&mut self, bytes: Vec<u8>) {
        let (file, capacity) = (self.current.file.clone(), self.current.capacity);
        self.chunks.push(Chunk { file, at: self.end, bytes, capacity });
    }

    /// Takes out the segments that nothing durable needs any more.
    fn unused(&mut self) -> Vec<Segment> {
        let mut oldest = 0;
        while let Some((_, needed)) = self.purges.pop_front_if(|(sequence, _)| *sequence <= self.durable) {
            oldest = needed;
        }
        let kept = self.segments.split_off(&oldest);
        mem::replace(&mut self.segments, kept).into_values().collect()
    }

    /// Appends a record to the current segment, which has room for it.
    fn put(&mut self, record: &Record) -> Place {
        self.sequence += 1;
        let chunk = match self.chunks.last_mut() {
            Some(chunk) if Arc::ptr_eq(&chunk.file, &self.current.file) => chunk,
            _ => {
                self.begin_chunk(Vec::new());
                self.chunks.last_mut().expect("invariant: just pushed")
            }
        };
        let start = chunk.bytes.len();
        record::put(&mut chunk.bytes, self.current.number, self.sequence, self.durable, record);
        let offset = self.end + record::ENTRY_BODY;
        self.end += chunk.bytes.len() - start;
        let length = match record {
            Record::Entry { bytes, .. } => bytes.len(),
            _ => 0,
        };
        Place { segment: self.current.number, offset, length }
    }
}

impl LogEngine for Wal {
    fn meta(&self, key: LogMeta) -> io::Result<Option<Bytes>> {
        Ok(self.state()?.index.meta().get(&key).cloned())
    }

    fn last(&self) -> io::Result<Option<(u64, Bytes)>> {
        let range = self.state()?.index.range();
        Ok(self.read(range.end.saturating_sub(1)..range.end, usize::MAX)?.pop())
    }

    fn read(&self, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<(u64, Bytes)>> {
        let mut places = Vec::new();
        let mut bytes = 0;
        {
            let state = self.state()?;
            let there = state.index.range();
            for index in range.start.max(there.start)..range.end.min(there.end) {
                let Some(place) = state.index.place(index) else { break };
                bytes += place.length;
                places.push((index, place));
                if bytes >= max_bytes {
                    break;
                }
            }
        }
        if places.is_empty() { Ok(Vec::new()) } else { self.read_at(&places) }
    }

    fn write(&self, batch: LogBatch) -> io::Result<()> {
        let made = self.make(&batch);
        self.fail(made)
    }

    fn sync(&self) -> io::Result<()> {
        let mut writing = self.writing.lock();
        let synced = self.sync_files(&mut writing);
        self.fail(synced)
    }
}

/// The thread that makes spare files. It has ended when this is dropped.
struct Preparer {
    ask: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Preparer {
    fn start(folder: Arc<Folder>) -> io::Result<Self> {
        let (ask, asked) = sync_channel(1);
        let thread = std::thread::Builder::new().name("raft-log-files".into()).spawn(move || {
            while asked.recv().is_ok() {
                // Without one a segment is made when it is needed, and its syncs are slower.
                if let Err(error) = folder.prepare() {
                    tracing::warn!(%error, "no file could be made ahead for the log");
                }
            }
        })?;
        Ok(Self { ask: Some(ask), thread: Some(thread) })
    }

    fn ask(&self) {
        if let Some(ask) = &self.ask {
            // If it is full the thread has been asked already.
            let _ = ask.try_send(());
        }
    }
}

impl Drop for Preparer {
    fn drop(&mut self) {
        self.ask = None;
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_ends_with_its_page_and_never_beyond_the_segment() {
        let filled = |at: usize, length: usize, capacity: usize| {
            let mut bytes = vec![7; length];
            fill_page(&mut bytes, at, capacity);
            assert!(
                bytes[..length].iter().all(|&byte| byte == 7)
                    && bytes[length..].iter().all(|&byte| byte == 0)
            );
            at + bytes.len()
        };
        assert_eq!(filled(0, 32, SEGMENT), PAGE);
        assert_eq!(filled(4000, 96, SEGMENT), PAGE, "it ends there already");
        assert_eq!(filled(4000, 97, SEGMENT), 2 * PAGE);
        assert_eq!(filled(8192, 0, SEGMENT), 2 * PAGE);
        assert_eq!(filled(9000, 0, SEGMENT), 9000, "nothing is to be written");
        assert_eq!(filled(9000, 500, 9600), 9600, "a segment for one large record");
        assert_eq!(filled(9000, 600, 9600), 9600);
    }
}
