//! Settings for emergencies: one member that goes on without the others, and a log that is not made durable.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use openraft::EntryPayload;

use crate::consensus::{self, Entry, Membership, Node, Vote};
use crate::members::hex;
use crate::storage::{LogBatch, LogEngine, LogMeta};

/// Makes this member the only one (etcd's `--force-new-cluster`): its log goes on with a membership of itself alone,
/// in a term of its own. Everything in its log stays, also what the others had not agreed to yet. The others must
/// never run again: both sides would call themselves the cluster.
pub(crate) fn alone(engine: &dyn LogEngine, me: u64, peer_urls: Vec<String>) -> io::Result<()> {
    let purged = engine.meta(LogMeta::Purged)?.map(consensus::decode_log_id).transpose()?;
    let last = match engine.last()? {
        Some((_, bytes)) => Some(consensus::decode_entry(bytes)?.log_id),
        None => purged,
    };
    // A member without a log has nothing to go on with: it begins as any first member does.
    let Some(last) = last else { return Ok(()) };
    let voted = engine.meta(LogMeta::Vote)?.map(consensus::decode_vote).transpose()?;
    let voted = voted.map_or(0, |vote| consensus::vote_to_wire(&vote).term);
    let term = voted.max(consensus::term_of(&last)) + 1;
    let nodes = BTreeMap::from([(me, Node { peer_urls, joining: false })]);
    let membership = Membership::new(vec![BTreeSet::from([me])], nodes).map_err(io::Error::other)?;
    let index = last.index + 1;
    let entry =
        Entry { log_id: consensus::log_id(term, index), payload: EntryPayload::Membership(membership) };
    tracing::warn!(member = hex(me), term, index, "forcing a new cluster of this member alone");
    engine.write(LogBatch {
        entries: vec![(index, consensus::encode_entry(&entry))],
        meta: vec![(LogMeta::Vote, consensus::encode_vote(&Vote::new(term, me)))],
        ..LogBatch::default()
    })?;
    engine.sync()
}

/// A log that is written and never synced (etcd's `--unsafe-no-fsync`).
pub(crate) struct Unsynced(pub Arc<dyn LogEngine>);

impl LogEngine for Unsynced {
    fn meta(&self, key: LogMeta) -> io::Result<Option<Bytes>> {
        self.0.meta(key)
    }

    fn last(&self) -> io::Result<Option<(u64, Bytes)>> {
        self.0.last()
    }

    fn read(&self, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<(u64, Bytes)>> {
        self.0.read(range, max_bytes)
    }

    fn write(&self, batch: LogBatch) -> io::Result<()> {
        self.0.write(batch)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
