//! A hash of the keys as they are at a revision, for members to compare (etcd's HashKV).
//!
//! It says nothing of versions that are no longer current at that revision, so a compaction up to it changes nothing,
//! however far a member has swept what was compacted. The value is not etcd's own, which covers etcd's file format.

use bytes::{Bytes, BytesMut};

use crate::range;
use crate::record;
use crate::types::{KeyRange, KeyValue, MvccError, Revision};
use crate::view::{View, check_revision};

/// Keys that are read at a time.
const PAGE_KEYS: usize = 1_000;

/// What [`View::hash_kv`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateHash {
    /// CRC-32C.
    pub hash: u32,
    /// The revision at which the keys were read.
    pub revision: Revision,
    /// The last compaction.
    pub compact_revision: Revision,
}

impl View {
    /// The hash of all keys at `revision`, or now if that is 0.
    ///
    /// # Errors
    /// `Compacted`, `FutureRevision`; `Engine` when a past value cannot be read.
    pub fn hash_kv(&self, revision: Revision) -> Result<StateHash, MvccError> {
        check_revision(&self.state, revision)?;
        let revision = if revision > 0 { revision } else { self.revision() };
        let mut hash = crc32c::crc32c(&revision.to_be_bytes());
        let mut range = KeyRange::From(Bytes::new());
        loop {
            let page = range::page(&self.state, self.source(), &range, revision, PAGE_KEYS)?;
            hash = page.iter().fold(hash, add);
            match page.last() {
                Some(last) if page.len() == PAGE_KEYS => range = range.behind(&last.key),
                _ => break,
            }
        }
        Ok(StateHash { hash, revision, compact_revision: self.compact_revision() })
    }
}

fn add(hash: u32, kv: &KeyValue) -> u32 {
    let mut message = BytesMut::new();
    record::put_message(&mut message, kv);
    crc32c::crc32c_append(hash, &message)
}
