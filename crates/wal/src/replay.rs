//! From files to what the log holds.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use bytes::Bytes;
use store::storage::LogMeta;

use crate::record::{self, Read, Record};
use crate::segment::{self, Segment};

/// What disks write as a whole, in bytes.
const SECTOR: usize = 512;

/// Where an entry's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub segment: u64,
    pub offset: usize,
    pub length: usize,
}

/// What the log holds, but for the entries' bytes. Pure.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// The index of the first entry.
    first: u64,
    entries: VecDeque<Place>,
    meta: BTreeMap<LogMeta, Bytes>,
}

impl Index {
    pub fn meta(&self) -> &BTreeMap<LogMeta, Bytes> {
        &self.meta
    }

    pub fn set(&mut self, key: LogMeta, bytes: Bytes) {
        self.meta.insert(key, bytes);
    }

    /// The indexes of all entries.
    pub fn range(&self) -> Range<u64> {
        self.first..self.first + self.entries.len() as u64
    }

    pub fn place(&self, index: u64) -> Option<Place> {
        let skip = usize::try_from(index.checked_sub(self.first)?).ok()?;
        self.entries.get(skip).copied()
    }

    /// Adds the entry behind the last.
    pub fn push(&mut self, index: u64, place: Place) -> io::Result<()> {
        if self.entries.is_empty() {
            self.first = index;
        }
        if index != self.range().end {
            return Err(damaged(format!("entry {index} follows entry {}", self.range().end.wrapping_sub(1))));
        }
        self.entries.push_back(place);
        Ok(())
    }

    /// Removes entries at one of the ends.
    pub fn remove(&mut self, range: &Range<u64>) {
        let all = self.range();
        if range.start <= all.start {
            let gone = range.end.clamp(all.start, all.end) - all.start;
            self.entries.drain(..usize::try_from(gone).unwrap_or(usize::MAX).min(self.entries.len()));
            self.first = all.start + gone;
        } else if range.end >= all.end {
            let kept = range.start.min(all.end) - all.start;
            self.entries.truncate(usize::try_from(kept).unwrap_or(usize::MAX));
        }
    }

    /// The oldest segment with an entry.
    pub fn oldest_segment(&self) -> Option<u64> {
        self.entries.front().map(|place| place.segment)
    }
}

/// A log that was read.
#[derive(Debug, Default)]
pub(crate) struct Replayed {
    pub index: Index,
    /// The sequence number of the last record.
    pub sequence: u64,
    /// Segments that hold something, in order.
    pub segments: Vec<Segment>,
}

pub(crate) fn damaged(what: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the log is damaged: {what}"))
}

/// Reads all segments, which were made with `capacity` bytes or more. The newest is cut off behind its last record and
/// closed: whatever comes goes into a new one.
pub(crate) fn replay(mut segments: Vec<Segment>, capacity: usize) -> io::Result<Replayed> {
    let mut replayed = Replayed::default();
    let unwritten = Unwritten::take(&mut segments)?;
    let last = segments.len().saturating_sub(1);
    for (position, segment) in segments.into_iter().enumerate() {
        let bytes = Bytes::from(fs::read(&segment.path)?);
        if let Some(before) = replayed.segments.last()
            && before.number + 1 != segment.number
        {
            return Err(damaged(format!("segment {:x} is missing", before.number + 1)));
        }
        if bytes.get(..segment::HEADER) != Some(&segment::header(segment.number)[..]) {
            let path = segment.path.display();
            return Err(damaged(match segment::is_of_another_version(&bytes) {
                true => format!("{path} was written by another version of the program"),
                false => format!("{path} has not a segment's head"),
            }));
        }
        let newest = (position == last).then_some((&unwritten, capacity));
        replay_segment(&mut replayed, segment, &bytes, newest)?;
    }
    if replayed.segments.is_empty() {
        unwritten.check(0)?;
    }
    unwritten.remove()?;
    Ok(replayed)
}

/// Segments at the end that were made, and not begun: the process ended, or the disk was full, before the first sync that
/// would have. The one before them need not be whole then, since it is synced before the next is begun.
#[derive(Default)]
struct Unwritten {
    segments: Vec<Segment>,
    /// The newest record that had been durable, by what stands in them for all that.
    promised: u64,
}

impl Unwritten {
    fn take(segments: &mut Vec<Segment>) -> io::Result<Self> {
        let mut unwritten = Self::default();
        while let Some(segment) = segments.pop() {
            let bytes = Bytes::from(fs::read(&segment.path)?);
            if bytes.iter().take(segment::HEADER).any(|byte| *byte != 0) {
                segments.push(segment);
                break;
            }
            let records =
                record::places(0, bytes.len()).filter_map(|at| record::take(&bytes, at, segment.number));
            let promised = records.map(|read| read.durable).max().unwrap_or(0);
            unwritten.promised = unwritten.promised.max(promised);
            unwritten.segments.push(segment);
        }
        Ok(unwritten)
    }

    /// Whether a log that ends with record `sequence` has all that was promised.
    fn check(&self, sequence: u64) -> io::Result<()> {
        match self.segments.last() {
            Some(first) if self.promised > sequence => {
                Err(damaged(format!("{} has not a segment's head", first.path.display())))
            }
            _ => Ok(()),
        }
    }

    fn remove(self) -> io::Result<()> {
        self.segments.iter().try_for_each(|segment| fs::remove_file(&segment.path))
    }
}

fn replay_segment(
    replayed: &mut Replayed,
    mut segment: Segment,
    bytes: &Bytes,
    newest: Option<(&Unwritten, usize)>,
) -> io::Result<()> {
    let mut at = segment::HEADER;
    let expected = |replayed: &Replayed| replayed.sequence + 1;
    // The first segment of a log that was purged begins anywhere.
    let mut any = replayed.segments.is_empty();
    let ended = loop {
        let found =
            record::take(bytes, at, segment.number).filter(|read| any || read.sequence == expected(replayed));
        let Some(read) = found else { break false };
        any = false;
        replayed.sequence = read.sequence;
        let place = at;
        at += read.size;
        if read.record == Record::End {
            break true;
        }
        keep(&mut replayed.index, read.record, segment.number, place)?;
    };
    if let Some((unwritten, _)) = newest {
        unwritten.check(replayed.sequence)?;
    }
    if !ended {
        close(replayed, &mut segment, bytes, at, newest.map(|(_, capacity)| capacity))?;
    } else if newest.is_some() {
        // What was read may be in memory only.
        segment.file.sync_data()?;
    }
    replayed.segments.push(segment);
    Ok(())
}

fn keep(index: &mut Index, record: Record, segment: u64, at: usize) -> io::Result<()> {
    match record {
        Record::Entry { index: number, bytes } => {
            let place = Place { segment, offset: at + record::ENTRY_BODY, length: bytes.len() };
            index.push(number, place)?;
        }
        Record::Meta { key, bytes } => index.set(key, bytes),
        Record::Remove { from, to } => index.remove(&(from..to)),
        Record::End => {}
    }
    Ok(())
}

/// A segment without an end: that is the newest's right, unless what is missing had been durable.
fn close(
    replayed: &mut Replayed,
    segment: &mut Segment,
    bytes: &Bytes,
    at: usize,
    capacity: Option<usize>,
) -> io::Result<()> {
    let path = segment.path.display();
    let Some(capacity) = capacity else {
        return Err(damaged(format!("{path} cannot be read from byte {at} on")));
    };
    // Crashes leave a segment as long as it was made: somebody has cut it, and nobody knows what was there.
    if bytes.len() < capacity {
        let size = bytes.len();
        return Err(damaged(format!("{path} was cut short: it has {size} bytes of {capacity}")));
    }
    if let Some(later) = behind(bytes, at, segment.number, replayed.sequence + 1) {
        return Err(damaged(format!(
            "{path} cannot be read at byte {at}, and record {} says that it had been written",
            later.sequence
        )));
    }
    if bytes[at..].iter().any(|byte| *byte != 0) {
        if !unfinished(bytes, at) {
            return Err(damaged(format!("{path} has a record at byte {at} that is not what was written")));
        }
        tracing::warn!(segment = %path, at, "the log ends with a write that was not finished");
    }
    replayed.sequence += 1;
    let mut end = Vec::new();
    record::put(&mut end, segment.number, replayed.sequence, 0, &Record::End);
    segment.capacity = at + end.len();
    // What is shorter than it was made has an end, whenever this is interrupted.
    segment.file.write_all_at(&end, at as u64)?;
    segment.file.sync_data()?;
    segment.file.set_len(segment.capacity as u64)?;
    segment.file.sync_all()
}

/// Whether a sector that the record at `at` should fill was never written.
fn unfinished(bytes: &Bytes, at: usize) -> bool {
    let length =
        bytes.get(at..at + 4).and_then(|length| length.try_into().ok()).map_or(0, u32::from_le_bytes);
    let end = at.saturating_add(length as usize);
    if length == 0 || end > bytes.len() {
        return length == 0;
    }
    let first = at - at % SECTOR;
    (first..end)
        .step_by(SECTOR)
        .any(|sector| bytes[sector.max(at)..(sector + SECTOR).min(end)].iter().all(|byte| *byte == 0))
}

/// A record behind `at` that says that record `sequence` had been durable.
fn behind(bytes: &Bytes, at: usize, segment: u64, sequence: u64) -> Option<Read> {
    record::places(at, bytes.len())
        .filter_map(|at| record::take(bytes, at, segment))
        .find(|read| read.durable >= sequence)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(offset: usize) -> Place {
        Place { segment: 1, offset, length: 1 }
    }

    #[test]
    fn entries_are_removed_at_either_end() {
        let mut index = Index::default();
        (5..10).for_each(|number| index.push(number, place(number as usize)).expect("in order"));
        assert!(index.push(11, place(0)).is_err(), "a gap");
        index.remove(&(8..u64::MAX));
        assert_eq!(index.range(), 5..8);
        index.remove(&(0..6));
        assert_eq!((index.range(), index.place(6)), (6..8, Some(place(6))));
        assert_eq!((index.place(5), index.place(8)), (None, None));
        index.remove(&(0..20));
        assert!(index.range().is_empty());
        index.push(21, place(1)).expect("behind a snapshot");
        assert_eq!(index.range(), 21..22);
    }
}
