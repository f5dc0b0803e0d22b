//! A segment: changes of keys, in order, as a file: the format's name, the compressed records, and a SHA-256 of both.

use std::io::{Read as _, Write as _};

use bytes::Bytes;
use etcd_files::{Lease, Version, VersionKey};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use prost::Message as _;
use protos::etcd::mvccpb;
use sha2::{Digest as _, Sha256};

use crate::error::BackupError;

pub const NAME: &[u8] = b"trierarch segment 1\n";
const SUM: usize = 32;
/// Bytes that the records of a segment may have when they are read: more were never written.
const MAX_BYTES: u64 = 4 << 30;

/// All changes of one revision.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Record {
    /// The revision.
    #[prost(int64, tag = "1")]
    pub revision: i64,
    /// When it was seen, in milliseconds since 1970.
    #[prost(int64, tag = "2")]
    pub time: i64,
    /// The changes, in order.
    #[prost(message, repeated, tag = "3")]
    pub events: Vec<mvccpb::Event>,
    /// Leases that keys were attached to and that were not known before.
    #[prost(message, repeated, tag = "4")]
    pub leases: Vec<Lease>,
}

impl Record {
    /// The changes as versions of keys.
    pub fn versions(&self) -> impl Iterator<Item = Version> + '_ {
        self.events.iter().enumerate().map(|(sub, event)| {
            let kv = event.kv.clone().unwrap_or_default();
            let tombstone = event.r#type() == mvccpb::event::EventType::Delete;
            let at = VersionKey { main: self.revision, sub: sub as i64, tombstone };
            let kv = match tombstone {
                true => mvccpb::KeyValue { key: kv.key, ..Default::default() },
                false => kv,
            };
            Version { at, kv }
        })
    }
}

/// A segment that is being filled.
pub struct Builder {
    packed: GzEncoder<Vec<u8>>,
    /// Bytes of records so far.
    pub bytes: usize,
    /// Records so far.
    pub records: u64,
    pub last_time: i64,
    pub first_time: i64,
    pub last: i64,
}

impl Builder {
    pub fn new() -> Self {
        let packed = GzEncoder::new(NAME.to_vec(), Compression::fast());
        Self { packed, bytes: 0, records: 0, last_time: 0, first_time: 0, last: 0 }
    }

    pub fn push(&mut self, record: &Record) -> Result<(), BackupError> {
        let bytes = record.encode_length_delimited_to_vec();
        self.packed.write_all(&bytes).map_err(BackupError::file("segment"))?;
        if self.records == 0 {
            self.first_time = record.time;
        }
        (self.last_time, self.last) = (record.time, record.revision);
        self.bytes += bytes.len();
        self.records += 1;
        Ok(())
    }

    /// The file, and the checksum of all of it.
    pub fn finish(self) -> Result<(Bytes, String), BackupError> {
        let mut file = self.packed.finish().map_err(BackupError::file("segment"))?;
        let sum = Sha256::digest(&file);
        file.extend_from_slice(&sum);
        let whole = hex(&Sha256::digest(&file));
        Ok((file.into(), whole))
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The records of a segment.
pub fn read(object: &str, file: &Bytes) -> Result<Vec<Record>, BackupError> {
    let damaged = |what: &str| BackupError::damaged(object, what);
    let body = file.len().checked_sub(SUM).ok_or_else(|| damaged("it is too short"))?;
    if Sha256::digest(&file[..body])[..] != file[body..] {
        return Err(damaged("its checksum is another"));
    }
    let packed = file[..body].strip_prefix(NAME).ok_or_else(|| damaged("it is no segment"))?;
    let mut bytes = Vec::new();
    let unpacked = GzDecoder::new(packed).take(MAX_BYTES).read_to_end(&mut bytes);
    unpacked.map_err(|error| BackupError::damaged(object, error))?;
    let (mut rest, mut records) = (Bytes::from(bytes), Vec::new());
    while !rest.is_empty() {
        let record = Record::decode_length_delimited(&mut rest);
        records.push(record.map_err(|error| BackupError::damaged(object, error))?);
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_comes_back_and_damage_is_told() {
        let mut builder = Builder::new();
        let kv =
            mvccpb::KeyValue { key: "k".into(), value: "v".into(), mod_revision: 7, ..Default::default() };
        let event = mvccpb::Event { kv: Some(kv), ..Default::default() };
        let record = Record { revision: 7, time: 1, events: vec![event], leases: Vec::new() };
        builder.push(&record).expect("push");
        let (file, _) = builder.finish().expect("finish");
        assert_eq!(read("s", &file).expect("read"), [record]);
        for at in [0, NAME.len() + 3, file.len() - 1] {
            let mut changed = file.to_vec();
            changed[at] ^= 1;
            assert!(matches!(read("s", &changed.into()), Err(BackupError::Damaged { .. })));
        }
        assert!(read("s", &file.slice(..20)).is_err());
    }
}
