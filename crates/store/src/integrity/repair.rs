//! A state that is wrong is discarded, and another member's takes its place, before the member does anything else. Its log
//! and its vote stay: what it promised to others still holds, and entries behind the new state are applied from the log.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use env::Clock;
use openraft::entry::EntryPayload;
use prost::Message as _;
use protos::peer;

use crate::config::Identity;
use crate::consensus::{self, Node};
use crate::error::BuildError;
use crate::members::hex;
use crate::peers::{Lane, Peers};
use crate::snapshot::{self, Folder};
use crate::storage::{LogBatch, LogEngine, LogMeta, Storage};

/// How long a member may take to begin to answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(500);
/// How often only the leader is asked: it is right when a majority is. After that whoever answers, for there may be no
/// leader without this member.
const LEADER_ROUNDS: usize = 10;
/// How often the log says that it still waits, in rounds.
const SAY_EVERY: usize = 20;
/// Bytes of the log that are read at a time.
const READ_BYTES: usize = 1 << 20;

/// Notes durably that the state is not to be used, and who the others are.
pub(crate) fn note(engine: &dyn LogEngine, why: &str, nodes: &BTreeMap<u64, Node>) -> io::Result<()> {
    let nodes = nodes.iter().map(|(id, node)| consensus::node_to_wire(*id, node)).collect();
    set(engine, peer::Repair { why: why.to_owned(), nodes }.encode_to_vec().into())
}

/// The note, if there is one.
pub(crate) fn noted(engine: &dyn LogEngine) -> io::Result<Option<peer::Repair>> {
    match engine.meta(LogMeta::Repair)? {
        Some(bytes) if !bytes.is_empty() => {
            let repair = peer::Repair::decode(bytes);
            repair.map(Some).map_err(|error| consensus::damaged("the note of a repair", error))
        }
        _ => Ok(None),
    }
}

fn set(engine: &dyn LogEngine, bytes: Bytes) -> io::Result<()> {
    engine.write(LogBatch { meta: vec![(LogMeta::Repair, bytes)], ..LogBatch::default() })?;
    engine.sync()
}

/// The other members, as the note, the log and the first membership tell them, the newer over the older.
pub(crate) fn others(
    engine: &dyn LogEngine,
    noted: Option<&peer::Repair>,
    identity: &Identity,
) -> io::Result<BTreeMap<u64, Node>> {
    let first = identity.members.iter();
    let mut nodes: BTreeMap<u64, Node> =
        first.map(|(id, peer_urls)| (*id, Node { peer_urls: peer_urls.clone(), joining: false })).collect();
    if let Some(repair) = noted {
        nodes = repair.nodes.iter().map(|node| (node.id, consensus::node_from_wire(node.clone()))).collect();
    }
    if let Some(newest) = newest_members(engine)? {
        nodes = newest;
    }
    nodes.remove(&identity.me);
    Ok(nodes)
}

/// The members in the last entry of the log that says them.
fn newest_members(engine: &dyn LogEngine) -> io::Result<Option<BTreeMap<u64, Node>>> {
    let Some((last, _)) = engine.last()? else { return Ok(None) };
    let mut next = purged(engine)? + 1;
    let mut found = None;
    while next <= last {
        let entries = engine.read(next..last + 1, READ_BYTES)?;
        let Some((end, _)) = entries.last() else { break };
        next = end + 1;
        for (_, bytes) in entries {
            if let EntryPayload::Membership(membership) = consensus::decode_entry(bytes)?.payload {
                found = Some(membership.nodes().map(|(id, node)| (*id, node.clone())).collect());
            }
        }
    }
    Ok(found)
}

/// The last entry that the log does not hold any more.
fn purged(engine: &dyn LogEngine) -> io::Result<u64> {
    let purged = engine.meta(LogMeta::Purged)?.map(consensus::decode_log_id).transpose()?;
    Ok(purged.map_or(0, |id| id.index))
}

/// What a repair needs.
pub(crate) struct Repair<'a> {
    pub engine: &'a dyn LogEngine,
    pub storage: &'a Arc<dyn Storage>,
    pub peers: &'a Peers,
    pub clock: &'a Clock,
    pub others: BTreeMap<u64, Node>,
}

impl Repair<'_> {
    /// Puts another member's state in the place of this one's; waits until one gives it.
    pub async fn run(&self, why: &str) -> Result<(), BuildError> {
        tracing::error!(why, "the state is discarded and another member's is taken; log and vote stay");
        note(self.engine, why, &self.others).map_err(BuildError::Storage)?;
        let after = purged(self.engine).map_err(BuildError::Storage)?;
        let folder = self.fetch(after).await;
        self.install(folder).map_err(BuildError::Storage)
    }

    async fn fetch(&self, after: u64) -> Folder {
        let mut round = 0;
        loop {
            for (id, node) in &self.others {
                let any = round >= LEADER_ROUNDS;
                match self.fetch_from(*id, node, peer::FetchStateRequest { after, any }).await {
                    Ok(folder) => {
                        tracing::info!(from = hex(*id), "received another member's state");
                        return folder;
                    }
                    Err(error) => tracing::debug!(%error, from = hex(*id), "no state from there"),
                }
            }
            round += 1;
            if round % SAY_EVERY == 0 {
                tracing::warn!("no other member gives its state yet");
            }
            self.clock.sleep(PAUSE).await;
        }
    }

    async fn fetch_from(
        &self,
        id: u64,
        node: &Node,
        request: peer::FetchStateRequest,
    ) -> Result<Folder, tonic::Status> {
        let internal = |error: io::Error| tonic::Status::internal(error.to_string());
        let mut client = self.peers.client(id, node, Lane::Bulk).map_err(internal)?;
        let after = request.after;
        let asked = tokio::time::timeout(ASK_TIMEOUT, client.fetch_state(request)).await;
        let mut chunks =
            asked.map_err(|_| tonic::Status::deadline_exceeded("it does not answer"))??.into_inner();
        let head = snapshot::head_of(&mut chunks).await?;
        if head.last.as_ref().map_or(0, |last| last.index) < after {
            return Err(tonic::Status::out_of_range(
                "its state is older than this member's log reaches back",
            ));
        }
        Ok(snapshot::receive(&**self.storage, head, chunks, (self.clock, &|_| {})).await?.0)
    }

    /// What was received takes the place of the state; this member's own snapshots are of the same descent as what was
    /// discarded.
    fn install(&self, folder: Folder) -> io::Result<()> {
        snapshot::forget(&**self.storage)?;
        drop(self.storage.replace_state(folder.path())?);
        set(self.engine, Bytes::new())
    }
}
