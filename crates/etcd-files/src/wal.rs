//! Reads etcd's write-ahead log (`server/storage/wal`).
//!
//! A file is frames: 8 bytes of length with the padding in the top byte, and a `walpb.Record`. A CRC-32C runs over the
//! data of all records and on from file to file. What was not written whole at the end of the last file is left out, as
//! etcd leaves it out.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use prost::Message as _;

/// Bytes that a record may have.
const MAX_RECORD: u64 = 1 << 30;
/// Bytes of entries that are kept at most: etcd writes its database every 10,000 requests at the latest.
const MAX_KEPT: usize = 4 << 30;

const METADATA: i64 = 1;
const ENTRY: i64 = 2;
const STATE: i64 = 3;
const CRC: i64 = 4;
const SNAPSHOT: i64 = 5;

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// The operating system refuses it.
    #[error("cannot read the write-ahead log {path}: {cause}")]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// It was changed or is cut off before its end.
    #[error("the write-ahead log {path} is damaged at byte {at}: {what}")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Where.
        at: u64,
        /// What is wrong.
        what: String,
    },
    /// There is none, or it lacks its beginning.
    #[error("the write-ahead log {path} {what}")]
    Incomplete {
        /// Which folder.
        path: PathBuf,
        /// What is missing.
        what: String,
    },
}

#[derive(Clone, PartialEq, prost::Message)]
struct Record {
    #[prost(int64, optional, tag = "1")]
    kind: Option<i64>,
    #[prost(uint32, optional, tag = "2")]
    crc: Option<u32>,
    #[prost(bytes = "vec", optional, tag = "3")]
    data: Option<Vec<u8>>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Metadata {
    #[prost(uint64, optional, tag = "1")]
    node: Option<u64>,
    #[prost(uint64, optional, tag = "2")]
    cluster: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Place {
    #[prost(uint64, optional, tag = "1")]
    index: Option<u64>,
    #[prost(uint64, optional, tag = "2")]
    term: Option<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Entry {
    #[prost(int32, optional, tag = "1")]
    kind: Option<i32>,
    #[prost(uint64, optional, tag = "2")]
    term: Option<u64>,
    #[prost(uint64, optional, tag = "3")]
    index: Option<u64>,
    #[prost(bytes = "vec", optional, tag = "4")]
    data: Option<Vec<u8>>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct State {
    #[prost(uint64, optional, tag = "1")]
    term: Option<u64>,
    #[prost(uint64, optional, tag = "2")]
    vote: Option<u64>,
    #[prost(uint64, optional, tag = "3")]
    commit: Option<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireConfChange {
    #[prost(int32, optional, tag = "2")]
    kind: Option<i32>,
    #[prost(uint64, optional, tag = "3")]
    node: Option<u64>,
    #[prost(bytes = "vec", optional, tag = "4")]
    context: Option<Vec<u8>>,
}

/// What etcd's raft last promised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The term.
    pub term: u64,
    /// Whom the member voted for in it; 0 for nobody.
    pub vote: u64,
    /// The last entry that the member knew to be committed.
    pub commit: u64,
}

/// Which change of members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfChangeKind {
    /// A voter, which may have been a learner.
    AddVoter,
    /// A member goes.
    Remove,
    /// A member has other addresses.
    Update,
    /// A learner.
    AddLearner,
}

/// A change of members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfChange {
    /// Which.
    pub kind: ConfChangeKind,
    /// Whose.
    pub member: u64,
    /// The member as JSON, with `isPromote` where it is a learner that gets its vote.
    pub context: Vec<u8>,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A request, or nothing.
    Normal(Vec<u8>),
    /// A change of members.
    ConfChange(ConfChange),
}

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Its index.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// What it is.
    pub kind: EntryKind,
}

/// What a log says.
#[derive(Clone, Debug, Default)]
pub struct WalContents {
    /// Whose it is.
    pub member: u64,
    /// Which cluster's.
    pub cluster: u64,
    /// What was last promised.
    pub state: HardState,
    /// Entries behind those that were not asked for, in order and without a gap.
    pub entries: Vec<LogEntry>,
    /// The term of the last entry that was not asked for, where the log says it.
    pub term_before: Option<u64>,
}

/// Reads the log in `folder`, and of its entries those behind `applied`.
///
/// # Errors
/// When it is damaged, does not reach back to `applied`, or cannot be read.
pub fn read_wal(folder: &Path, applied: u64) -> Result<WalContents, WalError> {
    let files = files(folder)?;
    let mut reader = Reader { applied, ..Reader::default() };
    let last = files.len().saturating_sub(1);
    for (number, path) in files.iter().enumerate() {
        reader.file(path, number == last)?;
    }
    reader.finish(folder)
}

/// The log's files in their order; their names begin with their numbers.
fn files(folder: &Path) -> Result<Vec<PathBuf>, WalError> {
    let failed = |cause| WalError::Io { path: folder.to_owned(), cause };
    let mut files = Vec::new();
    for file in fs::read_dir(folder).map_err(failed)? {
        let path = file.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "wal") {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(WalError::Incomplete { path: folder.to_owned(), what: "has no files".into() });
    }
    Ok(files)
}

#[derive(Default)]
struct Reader {
    applied: u64,
    crc: u32,
    owner: Option<Metadata>,
    state: HardState,
    entries: Vec<LogEntry>,
    kept: usize,
    term_before: Option<u64>,
    /// The last entry or snapshot that the log speaks of.
    seen: u64,
}

impl Reader {
    fn file(&mut self, path: &Path, last: bool) -> Result<(), WalError> {
        let io = |cause| WalError::Io { path: path.to_owned(), cause };
        let file = File::open(path).map_err(io)?;
        let size = file.metadata().map_err(io)?.len();
        let (mut source, mut at) = (BufReader::with_capacity(1 << 20, file), 0);
        loop {
            let damaged = |what: String| WalError::Damaged { path: path.to_owned(), at, what };
            match frame(&mut source, size - at) {
                Ok(Some((record, bytes))) => {
                    match self.record(record) {
                        Ok(()) => {}
                        // The write that the crash cut off.
                        Err(Fault::Sum) if last && torn(path, at + bytes, size) => return Ok(()),
                        Err(fault) => return Err(damaged(fault.to_string())),
                    }
                    at += bytes;
                }
                Ok(None) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && last => return Ok(()),
                Err(error) => return Err(damaged(error.to_string())),
            }
        }
    }

    fn record(&mut self, record: Record) -> Result<(), Fault> {
        let data = record.data.unwrap_or_default();
        let expected = record.crc.unwrap_or_default();
        if record.kind == Some(CRC) {
            // Each file begins with the sum so far; the first one of a log may not be the first that was written.
            if self.crc != 0 && self.crc != expected {
                return Err(Fault::Sum);
            }
            self.crc = expected;
            return Ok(());
        }
        let crc = crc32c::crc32c_append(self.crc, &data);
        if crc != expected {
            return Err(Fault::Sum);
        }
        self.crc = crc;
        match record.kind.unwrap_or_default() {
            METADATA => self.metadata(&data),
            ENTRY => self.entry(&data),
            STATE => {
                let State { term, vote, commit } = State::decode(&*data)?;
                let [term, vote, commit] = [term, vote, commit].map(Option::unwrap_or_default);
                self.state = HardState { term, vote, commit };
                Ok(())
            }
            SNAPSHOT => {
                let Place { index, term } = Place::decode(&*data)?;
                self.note_place(index.unwrap_or_default(), term.unwrap_or_default());
                Ok(())
            }
            other => Err(Fault::Other(format!("a record of unknown kind {other}"))),
        }
    }

    fn metadata(&mut self, data: &[u8]) -> Result<(), Fault> {
        let found = Metadata::decode(data)?;
        if self.owner.is_some_and(|known| known != found) {
            return Err(Fault::Other("it belongs to another member".into()));
        }
        self.owner = Some(found);
        Ok(())
    }

    fn note_place(&mut self, index: u64, term: u64) {
        self.seen = self.seen.max(index);
        if index == self.applied {
            self.term_before = Some(term);
        }
    }

    fn entry(&mut self, data: &[u8]) -> Result<(), Fault> {
        let Entry { kind, term, index, data } = Entry::decode(data)?;
        let (index, term, data) =
            (index.unwrap_or_default(), term.unwrap_or_default(), data.unwrap_or_default());
        self.note_place(index, term);
        if index <= self.applied {
            // What lay behind it was overwritten by another leader.
            self.entries.clear();
            return Ok(());
        }
        while self.entries.last().is_some_and(|last| last.index >= index) {
            self.entries.pop();
        }
        let expected = self.entries.last().map_or(self.applied, |last| last.index) + 1;
        if index != expected {
            return Err(Fault::Other(format!("entry {index} where {expected} belongs")));
        }
        self.kept += data.len();
        if self.kept > MAX_KEPT {
            return Err(Fault::Other("more entries than can be kept are not in the database".into()));
        }
        let kind = match kind.unwrap_or_default() {
            0 => EntryKind::Normal(data),
            1 => EntryKind::ConfChange(conf_change(&data)?),
            other => return Err(Fault::Other(format!("an entry of kind {other}"))),
        };
        self.entries.push(LogEntry { index, term, kind });
        Ok(())
    }

    fn finish(self, folder: &Path) -> Result<WalContents, WalError> {
        let incomplete = |what: String| WalError::Incomplete { path: folder.to_owned(), what };
        let owner = self.owner.ok_or_else(|| incomplete("does not say whose it is".into()))?;
        let last = self.entries.last().map_or(self.applied, |entry| entry.index);
        if self.state.commit > last {
            let what = format!("ends at entry {last}, and {} was committed", self.state.commit);
            return Err(incomplete(what));
        }
        Ok(WalContents {
            member: owner.node.unwrap_or_default(),
            cluster: owner.cluster.unwrap_or_default(),
            state: self.state,
            entries: self.entries,
            term_before: self.term_before,
        })
    }
}

fn conf_change(data: &[u8]) -> Result<ConfChange, Fault> {
    let WireConfChange { kind, node, context } = WireConfChange::decode(data)?;
    let kind = match kind.unwrap_or_default() {
        0 => ConfChangeKind::AddVoter,
        1 => ConfChangeKind::Remove,
        2 => ConfChangeKind::Update,
        3 => ConfChangeKind::AddLearner,
        other => return Err(Fault::Other(format!("a change of members of kind {other}"))),
    };
    Ok(ConfChange { kind, member: node.unwrap_or_default(), context: context.unwrap_or_default() })
}

#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("the checksum is another")]
    Sum,
    #[error("{0}")]
    Decode(#[from] prost::DecodeError),
    #[error("{0}")]
    Other(String),
}

/// The next record and its bytes in the file; `None` at the end of what was written.
fn frame(source: &mut impl Read, left: u64) -> io::Result<Option<(Record, u64)>> {
    if left < 8 {
        return Ok(None);
    }
    let mut head = [0; 8];
    source.read_exact(&mut head)?;
    let head = u64::from_le_bytes(head);
    if head == 0 {
        return Ok(None);
    }
    let size = head & ((1 << 56) - 1);
    let padding = if head >> 63 == 1 { head >> 56 & 7 } else { 0 };
    if size > MAX_RECORD || size + padding > left - 8 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut bytes = vec![0; (size + padding) as usize];
    source.read_exact(&mut bytes)?;
    bytes.truncate(size as usize);
    let record = Record::decode(&*bytes).map_err(io::Error::other)?;
    Ok(Some((record, 8 + size + padding)))
}

/// Whether nothing stands in a file from `at` on.
fn torn(path: &Path, at: u64, size: u64) -> bool {
    use std::os::unix::fs::FileExt as _;
    let Ok(file) = File::open(path) else { return false };
    let (mut at, mut buffer) = (at, [0; 1 << 16]);
    while at < size {
        let part = buffer.len().min((size - at) as usize);
        if file.read_exact_at(&mut buffer[..part], at).is_err()
            || buffer[..part].iter().any(|byte| *byte != 0)
        {
            return false;
        }
        at += part as u64;
    }
    true
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    struct Writer(File, u32);

    impl Writer {
        fn new(path: &Path, crc: u32) -> Self {
            let mut writer = Self(File::create(path).expect("file"), crc);
            let record = Record { kind: Some(CRC), crc: Some(crc), data: None };
            writer.frame(&record);
            writer.record(METADATA, &Metadata { node: Some(7), cluster: Some(9) });
            writer
        }

        fn frame(&mut self, record: &Record) {
            let record = record.encode_to_vec();
            let padding = (8 - record.len() % 8) % 8;
            let top = if padding > 0 { 0x80 | padding as u64 } else { 0 };
            let head = (record.len() as u64 | top << 56).to_le_bytes();
            self.0.write_all(&[&head[..], &record, &[0; 8][..padding]].concat()).expect("write");
        }

        fn record(&mut self, kind: i64, message: &impl prost::Message) {
            let data = message.encode_to_vec();
            self.1 = crc32c::crc32c_append(self.1, &data);
            self.frame(&Record { kind: Some(kind), crc: Some(self.1), data: Some(data) });
        }

        fn entry(&mut self, index: u64, term: u64) {
            let data = Some(format!("{index}/{term}").into_bytes());
            self.record(ENTRY, &Entry { kind: None, term: Some(term), index: Some(index), data });
        }
    }

    fn written(folder: &Path) {
        let mut first = Writer::new(&folder.join("0000000000000000-0000000000000000.wal"), 0);
        (1..=5).for_each(|index| first.entry(index, 1));
        // Another leader overwrites the last two.
        first.entry(4, 2);
        let mut second = Writer::new(&folder.join("0000000000000001-0000000000000005.wal"), first.1);
        second.entry(5, 2);
        second.entry(6, 2);
        second.record(STATE, &State { term: Some(2), vote: Some(7), commit: Some(5) });
        // Preallocated.
        second.0.write_all(&[0; 4096]).expect("write");
    }

    #[test]
    fn entries_are_read_behind_what_was_applied() {
        let folder = tempfile::tempdir().expect("folder");
        written(folder.path());
        for applied in 0..=6 {
            let read = read_wal(folder.path(), applied).expect("read");
            assert_eq!((read.member, read.cluster), (7, 9));
            assert_eq!(read.state, HardState { term: 2, vote: 7, commit: 5 });
            let found: Vec<_> = read.entries.iter().map(|entry| (entry.index, entry.term)).collect();
            let all = [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 2)];
            assert_eq!(found, all[applied as usize..]);
            assert_eq!(read.term_before, (applied > 0).then(|| all[applied as usize - 1].1));
        }
    }

    #[test]
    fn a_torn_end_is_left_out_and_other_damage_is_refused() {
        let folder = tempfile::tempdir().expect("folder");
        written(folder.path());
        let last = folder.path().join("0000000000000001-0000000000000005.wal");
        let whole = fs::read(&last).expect("read");
        let used = whole.len() - 4096;
        fs::write(&last, &whole[..used - 3]).expect("write");
        let read = read_wal(folder.path(), 0).expect("the last frame is torn");
        assert_eq!((read.state, read.entries.len()), (HardState::default(), 6));
        let mut changed = whole.clone();
        let data = changed.windows(3).position(|bytes| bytes == b"5/2").expect("an entry");
        changed[data] ^= 1;
        fs::write(&last, &changed).expect("write");
        assert!(matches!(read_wal(folder.path(), 0), Err(WalError::Damaged { .. })));
        fs::write(&last, &whole).expect("write");
        fs::remove_file(folder.path().join("0000000000000000-0000000000000000.wal")).expect("remove");
        let error = read_wal(folder.path(), 2).expect_err("entries are missing");
        assert!(error.to_string().contains("entry 5 where 3 belongs"), "{error}");
    }
}
