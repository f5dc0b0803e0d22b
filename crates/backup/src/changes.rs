//! The changes of a running store, whole revisions in order, as a watch of all keys tells them.

use std::collections::HashSet;

use etcd_files::Lease;
use protos::etcd::etcdserverpb as pb;
use protos::etcd::mvccpb;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::connection::Connection;
use crate::error::BackupError;
use crate::segment::Record;

/// Leases that are remembered as known; beyond, they are asked for again.
const MAX_LEASES: usize = 1 << 20;

/// A watch of all keys.
pub(crate) struct Changes {
    stream: Streaming<pb::WatchResponse>,
    /// The watch ends with it.
    _open: mpsc::Sender<pb::WatchRequest>,
}

/// What a watch tells.
pub(crate) enum Change {
    /// What happened, in order; the events of a revision come together.
    Events(Vec<mvccpb::Event>),
    /// What was asked for is compacted up to this revision.
    Compacted(i64),
}

impl Changes {
    /// Watches from a revision on.
    pub async fn open(connection: &Connection, from: i64) -> Result<Self, BackupError> {
        let create = pb::WatchCreateRequest {
            key: vec![0].into(),
            range_end: vec![0].into(),
            start_revision: from,
            ..Default::default()
        };
        let request_union = Some(pb::watch_request::RequestUnion::CreateRequest(create));
        let (open, said) = mpsc::channel(1);
        // The queue has room for it.
        drop(open.try_send(pb::WatchRequest { request_union }));
        let stream = connection.watch().watch(ReceiverStream::new(said)).await?.into_inner();
        Ok(Self { stream, _open: open })
    }

    /// Waits for what comes next; may be dropped while it waits.
    pub async fn next(&mut self) -> Result<Change, BackupError> {
        let Some(response) = self.stream.message().await? else {
            return Err(tonic::Status::unavailable("the watch ended").into());
        };
        if response.canceled && response.compact_revision > 0 {
            return Ok(Change::Compacted(response.compact_revision));
        }
        if response.canceled {
            return Err(tonic::Status::failed_precondition(response.cancel_reason).into());
        }
        Ok(Change::Events(response.events))
    }
}

/// Makes records of events.
#[derive(Default)]
pub(crate) struct Progress {
    /// The last revision of which there is a record.
    pub covered: i64,
    known: HashSet<i64>,
}

impl Progress {
    /// Behind a revision that there is already.
    pub fn behind(covered: i64) -> Self {
        Self { covered, known: HashSet::new() }
    }

    /// Leases have to be told anew.
    pub fn forget_leases(&mut self) {
        self.known.clear();
    }

    /// The events of each revision that is not covered, with the leases that were not known.
    pub async fn records(
        &mut self,
        connection: &Connection,
        events: Vec<mvccpb::Event>,
        time: i64,
    ) -> Result<Vec<Record>, BackupError> {
        let revision_of = |event: &mvccpb::Event| event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
        let (mut rest, mut records) = (events.into_iter().peekable(), Vec::new());
        let mut covered = self.covered;
        while let Some(event) = rest.next() {
            let revision = revision_of(&event);
            let mut events = vec![event];
            while let Some(more) = rest.next_if(|event| revision_of(event) == revision) {
                events.push(more);
            }
            if revision <= covered {
                continue;
            }
            let leases = self.new_leases(connection, &events).await?;
            records.push(Record { revision, time, events, leases });
            covered = revision;
        }
        self.covered = covered;
        Ok(records)
    }

    /// Leases that are not known yet, with what they were granted for.
    async fn new_leases(
        &mut self,
        connection: &Connection,
        events: &[mvccpb::Event],
    ) -> Result<Vec<Lease>, BackupError> {
        let mut leases = Vec::new();
        for id in events.iter().filter_map(|event| event.kv.as_ref()).map(|kv| kv.lease) {
            if id == 0 || self.known.contains(&id) {
                continue;
            }
            // One that is gone by now took its keys with it.
            leases.extend(granted(connection, id).await?);
            if self.known.len() >= MAX_LEASES {
                self.known.clear();
            }
            self.known.insert(id);
        }
        Ok(leases)
    }
}

/// A lease with what it was granted for; `None` when it is gone.
pub(crate) async fn granted(connection: &Connection, id: i64) -> Result<Option<Lease>, BackupError> {
    let request = pb::LeaseTimeToLiveRequest { id, keys: false };
    let lease = connection.lease().lease_time_to_live(request).await?.into_inner();
    Ok((lease.ttl > 0).then_some(Lease { id, ttl: lease.granted_ttl, remaining_ttl: 0 }))
}

/// The cluster's id, and the revision that it has reached.
pub(crate) async fn status(connection: &Connection) -> Result<(String, i64), BackupError> {
    let request = pb::RangeRequest { key: vec![0].into(), count_only: true, ..Default::default() };
    let header = connection.kv().range(request).await?.into_inner().header.unwrap_or_default();
    Ok((format!("{:x}", header.cluster_id), header.revision))
}
