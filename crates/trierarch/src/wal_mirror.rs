//! For tests only: a copy of the log in the format of etcd's write-ahead log, which etcd's robustness suite reads after a
//! run to learn which requests were persisted. Only in builds with failpoints, and only where [`VARIABLE`] is set.
//!
//! It stands between the store and its log. A frame is 8 bytes of length, with the padding in the top byte, and a
//! protobuf `Record{1 type, 2 crc, 3 data}`; the CRC-32C runs over the data of all records. Indices begin at 1.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use mvcc::{Command, CompareResult, CompareTarget, KeyRange, Op, Txn};
use prost::Message as _;
use protos::etcd::etcdserverpb as pb;
use protos::peer;
use store::storage::{LogBatch, LogEngine, LogMeta, StateEngine, Storage};

/// Set it to anything to have the copy written.
pub const VARIABLE: &str = "TRIERARCH_WAL_MIRROR";

/// Kinds of records.
const METADATA: u64 = 1;
const ENTRY: u64 = 2;
const CRC: u64 = 4;

#[derive(Clone, PartialEq, prost::Message)]
struct Record {
    #[prost(uint64, tag = "1")]
    kind: u64,
    #[prost(uint32, tag = "2")]
    crc: u32,
    #[prost(bytes = "vec", tag = "3")]
    data: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Entry {
    #[prost(uint64, optional, tag = "2")]
    term: Option<u64>,
    #[prost(uint64, optional, tag = "3")]
    index: Option<u64>,
    #[prost(bytes = "vec", optional, tag = "4")]
    data: Option<Vec<u8>>,
}

/// etcd's request as it is proposed; the fields that the suite knows.
#[derive(Clone, PartialEq, prost::Message)]
struct Request {
    #[prost(message, optional, tag = "4")]
    put: Option<pb::PutRequest>,
    #[prost(message, optional, tag = "5")]
    delete: Option<pb::DeleteRangeRequest>,
    #[prost(message, optional, tag = "6")]
    txn: Option<pb::TxnRequest>,
    #[prost(message, optional, tag = "7")]
    compaction: Option<pb::CompactionRequest>,
    #[prost(message, optional, tag = "8")]
    grant: Option<pb::LeaseGrantRequest>,
    #[prost(message, optional, tag = "9")]
    revoke: Option<pb::LeaseRevokeRequest>,
}

/// Who proposed what: a copy of a proposal is not applied again.
type Origin = (u64, u64, u64);

struct Mirror {
    file: File,
    crc: u32,
    /// Where each proposal stands first.
    seen: HashMap<Origin, u64>,
}

impl Mirror {
    /// A new file behind those of earlier starts.
    fn open(folder: &Path, engine: &dyn LogEngine) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let mut files: Vec<PathBuf> =
            fs::read_dir(folder)?.map(|file| file.map(|file| file.path())).collect::<Result<_, _>>()?;
        files.sort();
        let crc = files.last().map(|file| repair(file)).transpose()?.unwrap_or(0);
        let first = engine.last()?.map_or(1, |(index, _)| index + 2);
        let file = File::create(folder.join(format!("{:016x}-{first:016x}.wal", files.len())))?;
        let mut mirror = Self { file, crc, seen: HashMap::new() };
        mirror.write(CRC, Vec::new())?;
        mirror.write(METADATA, Vec::new())?;
        let mut from = 0;
        loop {
            let page = engine.read(from..u64::MAX, 1 << 20)?;
            let Some((last, _)) = page.last() else { return Ok(mirror) };
            from = last + 1;
            for (index, bytes) in page {
                mirror.convert(index, bytes)?;
            }
        }
    }

    fn write(&mut self, kind: u64, data: Vec<u8>) -> io::Result<()> {
        self.crc = crc32c::crc32c_append(self.crc, &data);
        let record = Record { kind, crc: self.crc, data }.encode_to_vec();
        let padding = (8 - record.len() % 8) % 8;
        let mut length = record.len() as u64;
        if padding > 0 {
            length |= (0x80 | padding as u64) << 56;
        }
        let frame = [&length.to_le_bytes()[..], &record, &[0; 8][..padding]].concat();
        self.file.write_all(&frame)
    }

    fn batch(&mut self, batch: &LogBatch) -> io::Result<()> {
        if let Some(removed) = batch.remove.as_ref().filter(|removed| removed.end == u64::MAX) {
            self.seen.retain(|_, index| *index < removed.start);
        }
        for (index, bytes) in &batch.entries {
            let entry = self.convert(*index, bytes.clone())?;
            self.write(ENTRY, entry.encode_to_vec())?;
        }
        Ok(())
    }

    fn convert(&mut self, index: u64, bytes: Bytes) -> io::Result<Entry> {
        let entry = peer::Entry::decode(bytes).map_err(io::Error::other)?;
        let term = entry.id.as_ref().map(|id| id.term);
        let mut data = None;
        if let Some(peer::entry::Payload::Proposal(proposal)) = entry.payload {
            let origin = proposal.origin.map(|origin| (origin.member, origin.boot, origin.number));
            let first = *self.seen.entry(origin.unwrap_or_default()).or_insert(index);
            if first == index {
                let command = Command::decode(proposal.command).map_err(io::Error::other)?;
                data = request(&command).map(|request| request.encode_to_vec());
            }
        }
        Ok(Entry { term, index: Some(index + 1), data })
    }
}

/// Cuts off what was not written whole; the checksum so far.
fn repair(file: &Path) -> io::Result<u32> {
    let bytes = fs::read(file)?;
    let (mut at, mut crc) = (0, 0);
    while let Some(head) = bytes.get(at..at + 8).and_then(|head| <[u8; 8]>::try_from(head).ok()) {
        let head = u64::from_le_bytes(head);
        let size = usize::try_from(head & ((1 << 56) - 1)).map_err(io::Error::other)?;
        let padding =
            if head >> 63 == 1 { usize::try_from(head >> 56 & 7).map_err(io::Error::other)? } else { 0 };
        let Some(record) = bytes.get(at + 8..at + 8 + size + padding) else { break };
        crc = Record::decode(&record[..size]).map_err(io::Error::other)?.crc;
        at += 8 + size + padding;
    }
    File::options().write(true).open(file)?.set_len(at as u64)?;
    Ok(crc)
}

/// A command as etcd would have proposed it; `None` for what the suite does not know.
fn request(command: &Command) -> Option<Request> {
    let none = Request::default();
    match command.plain() {
        Command::Txn(txn) => match (txn.compare.as_slice(), txn.success.as_slice()) {
            ([], [Op::Put(_)]) if txn.failure.is_empty() => match operation(&txn.success[0]).request? {
                pb::request_op::Request::RequestPut(put) => Some(Request { put: Some(put), ..none }),
                _ => None,
            },
            ([], [Op::Delete(_)]) if txn.failure.is_empty() => match operation(&txn.success[0]).request? {
                pb::request_op::Request::RequestDeleteRange(delete) => {
                    Some(Request { delete: Some(delete), ..none })
                }
                _ => None,
            },
            _ => Some(Request { txn: Some(transaction(txn)), ..none }),
        },
        Command::Compact { revision } => {
            let compaction = pb::CompactionRequest { revision: *revision, physical: false };
            Some(Request { compaction: Some(compaction), ..none })
        }
        Command::LeaseGrant { id, ttl } => {
            Some(Request { grant: Some(pb::LeaseGrantRequest { ttl: *ttl, id: *id }), ..none })
        }
        Command::LeaseRevoke { id } | Command::LeaseExpire { id, .. } => {
            Some(Request { revoke: Some(pb::LeaseRevokeRequest { id: *id }), ..none })
        }
        _ => None,
    }
}

fn transaction(txn: &Txn) -> pb::TxnRequest {
    pb::TxnRequest {
        compare: txn.compare.iter().map(compare).collect(),
        success: txn.success.iter().map(operation).collect(),
        failure: txn.failure.iter().map(operation).collect(),
    }
}

/// Key and end as etcd's requests say it.
fn ends(range: &KeyRange) -> (Bytes, Bytes) {
    match range {
        KeyRange::Key(key) => (key.clone(), Bytes::new()),
        KeyRange::Interval { start, end } => (start.clone(), end.clone()),
        KeyRange::From(start) => (start.clone(), Bytes::from_static(&[0])),
    }
}

fn compare(compare: &mvcc::Compare) -> pb::Compare {
    use pb::compare::{CompareResult as Wire, CompareTarget as Target, TargetUnion};
    let result = match compare.result {
        CompareResult::Equal => Wire::Equal,
        CompareResult::Greater => Wire::Greater,
        CompareResult::Less => Wire::Less,
        CompareResult::NotEqual => Wire::NotEqual,
    };
    let (target, union) = match &compare.target {
        CompareTarget::Version(version) => (Target::Version, TargetUnion::Version(*version)),
        CompareTarget::Create(revision) => (Target::Create, TargetUnion::CreateRevision(*revision)),
        CompareTarget::Mod(revision) => (Target::Mod, TargetUnion::ModRevision(*revision)),
        CompareTarget::Value(value) => (Target::Value, TargetUnion::Value(value.clone())),
        CompareTarget::Lease(lease) => (Target::Lease, TargetUnion::Lease(*lease)),
    };
    let (key, range_end) = ends(&compare.range);
    pb::Compare { result: result.into(), target: target.into(), key, range_end, target_union: Some(union) }
}

fn operation(op: &Op) -> pb::RequestOp {
    use pb::request_op::Request;
    let request = match op {
        Op::Range(range) => {
            let (key, range_end) = ends(&range.range);
            let (limit, revision) = (range.limit, range.revision);
            Request::RequestRange(pb::RangeRequest { key, range_end, limit, revision, ..Default::default() })
        }
        Op::Put(put) => Request::RequestPut(pb::PutRequest {
            key: put.key.clone(),
            value: put.value.clone(),
            lease: put.lease,
            prev_kv: put.prev_kv,
            ignore_value: put.ignore_value,
            ignore_lease: put.ignore_lease,
        }),
        Op::Delete(delete) => {
            let (key, range_end) = ends(&delete.range);
            Request::RequestDeleteRange(pb::DeleteRangeRequest { key, range_end, prev_kv: delete.prev_kv })
        }
        Op::Txn(txn) => Request::RequestTxn(transaction(txn)),
    };
    pb::RequestOp { request: Some(request) }
}

/// A storage whose log is copied.
pub struct Mirrored {
    inner: Arc<dyn Storage>,
    folder: PathBuf,
}

/// Where the member's own files are: beside the data folder where there is a copy of the log, since whoever reads the
/// copy copies the whole folder, while the member runs. A data folder that was emptied begins anew.
///
/// # Errors
/// When what belonged to the folder before cannot be removed.
pub fn home(data_dir: &Path) -> io::Result<PathBuf> {
    if std::env::var_os(VARIABLE).is_none() {
        return Ok(data_dir.to_owned());
    }
    home_beside(data_dir)
}

fn home_beside(data_dir: &Path) -> io::Result<PathBuf> {
    let mut name = data_dir.file_name().unwrap_or_default().to_owned();
    name.push(".own");
    let home = data_dir.with_file_name(name);
    if home.exists() && !data_dir.join("member").join("wal").exists() {
        fs::remove_dir_all(&home)?;
    }
    Ok(home)
}

impl Mirrored {
    /// The copy goes to etcd's place in the data folder, where [`VARIABLE`] is set.
    pub fn over(inner: Arc<dyn Storage>, data_dir: &Path) -> Arc<dyn Storage> {
        if std::env::var_os(VARIABLE).is_none() {
            return inner;
        }
        Arc::new(Self { inner, folder: data_dir.join("member").join("wal") })
    }
}

impl Storage for Mirrored {
    fn open_log(&self) -> io::Result<Arc<dyn LogEngine>> {
        let inner = self.inner.open_log()?;
        let mirror = Mutex::new(Mirror::open(&self.folder, &*inner)?);
        Ok(Arc::new(MirroredLog { inner, mirror }))
    }

    fn open_state(&self) -> io::Result<Arc<dyn StateEngine>> {
        self.inner.open_state()
    }

    fn open_checkpoint(&self, folder: &Path) -> io::Result<Arc<dyn StateEngine>> {
        self.inner.open_checkpoint(folder)
    }

    fn replace_state(&self, checkpoint: &Path) -> io::Result<Arc<dyn StateEngine>> {
        self.inner.replace_state(checkpoint)
    }

    fn snapshots(&self) -> PathBuf {
        self.inner.snapshots()
    }
}

struct MirroredLog {
    inner: Arc<dyn LogEngine>,
    mirror: Mutex<Mirror>,
}

impl LogEngine for MirroredLog {
    fn meta(&self, key: LogMeta) -> io::Result<Option<Bytes>> {
        self.inner.meta(key)
    }

    fn last(&self) -> io::Result<Option<(u64, Bytes)>> {
        self.inner.last()
    }

    fn read(&self, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<(u64, Bytes)>> {
        self.inner.read(range, max_bytes)
    }

    fn write(&self, batch: LogBatch) -> io::Result<()> {
        self.mirror.lock().unwrap_or_else(PoisonError::into_inner).batch(&batch)?;
        self.inner.write(batch)
    }

    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, number: u64, command: &Command) -> (u64, Bytes) {
        let origin = Some(peer::Origin { member: 1, boot: 1, number, settled: 0 });
        let proposal = peer::Proposal { origin, command: command.encode() };
        let id = Some(peer::LogId { term: 2, index });
        let payload = Some(peer::entry::Payload::Proposal(proposal));
        (index, peer::Entry { id, payload }.encode_to_vec().into())
    }

    #[test]
    fn entries_are_copied_once_and_the_checksum_goes_on_in_the_next_file() {
        let folder = tempfile::tempdir().expect("folder");
        let log = store::MemoryStorage::new(folder.path()).open_log().expect("log");
        let mut mirror = Mirror::open(folder.path(), &*log).expect("open");
        let compact = Command::Compact { revision: 3 };
        let copies = vec![entry(4, 9, &compact), entry(5, 9, &compact)];
        let first = mirror.convert(4, copies[0].1.clone()).expect("an entry");
        assert_eq!((first.index, first.term), (Some(5), Some(2)));
        // InternalRaftRequest{7: {1: 3}}
        assert_eq!(first.data.as_deref(), Some(&[0x3a, 2, 8, 3][..]));
        mirror.batch(&LogBatch { entries: copies, ..LogBatch::default() }).expect("write");
        assert_eq!(mirror.convert(5, entry(5, 9, &compact).1).expect("an entry").data, None, "a copy");
        let crc = mirror.crc;
        mirror.file.write_all(&[1, 2, 3]).expect("a torn frame");
        drop(mirror);
        let again = Mirror::open(folder.path(), &*log).expect("open again");
        assert_eq!(again.crc, crc);
        let mut names: Vec<_> = fs::read_dir(folder.path())
            .expect("folder")
            .map(|file| file.expect("file").file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["0000000000000000-0000000000000001.wal", "0000000000000001-0000000000000001.wal"]);
        let whole = fs::metadata(folder.path().join(&names[0])).expect("metadata").len();
        assert_eq!(whole % 8, 0, "cut to whole frames");
    }

    #[test]
    fn a_data_folder_that_was_emptied_begins_anew() {
        let folder = tempfile::tempdir().expect("folder");
        let data_dir = folder.path().join("data");
        let home = home_beside(&data_dir).expect("home");
        fs::create_dir_all(home.join("state")).expect("a member ran");
        fs::create_dir_all(data_dir.join("member/wal")).expect("its copy");
        assert!(home_beside(&data_dir).expect("home").join("state").exists());
        fs::remove_dir_all(&data_dir).expect("emptied");
        assert!(!home_beside(&data_dir).expect("home").exists());
    }
}
