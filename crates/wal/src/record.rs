//! Records as bytes. Pure.
//!
//! A record is its length, a checksum, its sequence number, the sequence number up to which the log was durable, a kind
//! and a body; zeros up to a multiple of eight bytes follow. All numbers are little-endian.

use bytes::Bytes;
use store::storage::LogMeta;

/// Bytes before the kind.
const HEADER: usize = 24;
/// Records begin at multiples of so many bytes.
const ALIGN: usize = 8;

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// An entry of the log. The body is the entry's own bytes.
    Entry { index: u64, bytes: Bytes },
    /// A single value.
    Meta { key: LogMeta, bytes: Bytes },
    /// Entries `from..to` are removed.
    Remove { from: u64, to: u64 },
    /// The segment ends here.
    End,
}

/// A record and what stands around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Read {
    pub record: Record,
    pub sequence: u64,
    /// Every record up to this one was durable when this one was written.
    pub durable: u64,
    /// Bytes that the record takes in the file.
    pub size: usize,
}

const KEYS: [(LogMeta, u8); 7] = [
    (LogMeta::Vote, 1),
    (LogMeta::Committed, 2),
    (LogMeta::Purged, 3),
    (LogMeta::Identity, 4),
    (LogMeta::Boot, 5),
    (LogMeta::Removed, 6),
    (LogMeta::Repair, 7),
];

fn key_number(key: LogMeta) -> u8 {
    KEYS.iter().find(|(known, _)| *known == key).map_or(0, |(_, number)| *number)
}

fn key_of(number: u8) -> Option<LogMeta> {
    KEYS.iter().find(|(_, known)| *known == number).map(|(key, _)| *key)
}

/// One of the keys.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn any_key(number: u8) -> LogMeta {
    KEYS[usize::from(number) % KEYS.len()].0
}

/// Covers the segment's number and all of the record but the checksum itself.
fn checksum(segment: u64, record: &[u8]) -> u32 {
    let sum = crc32c::crc32c_append(crc32c::crc32c(&segment.to_le_bytes()), &record[..4]);
    crc32c::crc32c_append(sum, &record[8..])
}

/// Bytes that an entry's record takes.
pub(crate) fn entry_size(bytes: usize) -> usize {
    (ENTRY_BODY + bytes).next_multiple_of(ALIGN)
}

/// Where an entry's own bytes begin within its record.
pub(crate) const ENTRY_BODY: usize = HEADER + 9;

/// Appends a record.
pub(crate) fn put(out: &mut Vec<u8>, segment: u64, sequence: u64, durable: u64, record: &Record) {
    let start = out.len();
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&sequence.to_le_bytes());
    out.extend_from_slice(&durable.to_le_bytes());
    match record {
        Record::Entry { index, bytes } => {
            out.push(1);
            out.extend_from_slice(&index.to_le_bytes());
            out.extend_from_slice(bytes);
        }
        Record::Meta { key, bytes } => {
            out.extend_from_slice(&[2, key_number(*key)]);
            out.extend_from_slice(bytes);
        }
        Record::Remove { from, to } => {
            out.push(3);
            out.extend_from_slice(&from.to_le_bytes());
            out.extend_from_slice(&to.to_le_bytes());
        }
        Record::End => out.push(4),
    }
    let length = u32::try_from(out.len() - start).expect("invariant: a record has less than 4 GiB");
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    let sum = checksum(segment, &out[start..]);
    out[start + 4..start + 8].copy_from_slice(&sum.to_le_bytes());
    out.resize(start + (out.len() - start).next_multiple_of(ALIGN), 0);
}

/// The record that begins at the first of `bytes`; none if there is none.
pub(crate) fn take(bytes: &Bytes, at: usize, segment: u64) -> Option<Read> {
    let rest = bytes.get(at..)?;
    let number = |range: std::ops::Range<usize>| -> Option<u64> {
        Some(u64::from_le_bytes(rest.get(range)?.try_into().ok()?))
    };
    let length = u32::from_le_bytes(rest.get(..4)?.try_into().ok()?) as usize;
    let sum = u32::from_le_bytes(rest.get(4..8)?.try_into().ok()?);
    if length <= HEADER || length > rest.len() {
        return None;
    }
    let whole = &rest[..length];
    if checksum(segment, whole) != sum {
        return None;
    }
    let body = |from: usize| bytes.slice(at + from..at + length);
    let record = match whole[HEADER] {
        1 => Record::Entry { index: number(25..33)?, bytes: body(33) },
        2 => Record::Meta { key: key_of(*whole.get(25)?)?, bytes: body(26) },
        3 => Record::Remove { from: number(25..33)?, to: number(33..41)? },
        4 => Record::End,
        _ => return None,
    };
    let size = length.next_multiple_of(ALIGN);
    Some(Read { record, sequence: number(8..16)?, durable: number(16..24)?, size })
}

/// Where records may begin behind `at`.
pub(crate) fn places(at: usize, end: usize) -> impl Iterator<Item = usize> {
    (at.next_multiple_of(ALIGN)..end).step_by(ALIGN)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record() -> impl Strategy<Value = Record> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from);
        prop_oneof![
            (any::<u64>(), bytes()).prop_map(|(index, bytes)| Record::Entry { index, bytes }),
            (0..KEYS.len(), bytes()).prop_map(|(key, bytes)| Record::Meta { key: KEYS[key].0, bytes }),
            (any::<u64>(), any::<u64>()).prop_map(|(from, to)| Record::Remove { from, to }),
            Just(Record::End),
        ]
    }

    proptest! {
        #[test]
        fn a_record_comes_back_and_no_flipped_bit_goes_unseen(
            record in record(), segment: u64, sequence: u64, durable: u64, flip: proptest::sample::Index,
        ) {
            let mut out = Vec::new();
            put(&mut out, segment, sequence, durable, &record);
            let size = out.len();
            let bytes = Bytes::from(out.clone());
            prop_assert_eq!(
                take(&bytes, 0, segment),
                Some(Read { record: record.clone(), sequence, durable, size })
            );
            prop_assert_eq!(take(&bytes, 0, segment.wrapping_add(1)), None, "of another segment");
            let bit = flip.index(size * 8);
            out[bit / 8] ^= 1 << (bit % 8);
            // What fills up to the next multiple carries nothing.
            let flipped = take(&Bytes::from(out), 0, segment);
            prop_assert!(flipped.is_none_or(|read| read.record == record));
        }
    }

    #[test]
    fn nothing_is_no_record() {
        assert_eq!(take(&Bytes::new(), 0, 1), None);
        assert_eq!(take(&Bytes::from(vec![0; 4096]), 0, 1), None);
        assert_eq!(take(&Bytes::from(vec![0xff; 4096]), 8, 1), None);
    }
}
