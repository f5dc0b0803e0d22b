//! A queue of keys below a prefix, one a lease, in the order in which they were made: whoever's key is the oldest is
//! served. Locks and elections are made of it (etcd's `clientv3/concurrency`).

use std::time::Duration;

use bytes::Bytes;
use mvcc::{
    Caller, Command, Compare, CompareResult, CompareTarget, DeleteRequest, EventKind, KeyRange, KeyValue,
    LeaseId, MvccError, Op, OpResponse, PutRequest, RangeRequest, Response as Answer, Revision, SortOrder,
    SortTarget, Txn, TxnResponse,
};
use store::WatchRequest;
use tonic::Status;

use crate::context::Context;
use crate::error::{auth_status, mvcc_status, watch_status};

/// The lease of a caller that brings none, in seconds (etcd's `defaultSessionTTL`).
const SESSION_TTL: i64 = 60;
/// Such a lease is renewed this often while its caller waits.
const SESSION_RENEW: Duration = Duration::from_secs(20);

/// Does what a call asks. Whatever goes wrong is told without a code: in etcd these calls are made of others, whose
/// errors have lost theirs.
pub(crate) async fn told<T>(work: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    work.await.map_err(|status| Status::unknown(status.message()))
}

/// A key that a client names.
pub(crate) fn key(key: Bytes) -> Result<Bytes, Status> {
    if key.is_empty() { Err(mvcc_status(&MvccError::EmptyKey)) } else { Ok(key) }
}

/// A queue.
#[derive(Clone)]
pub(crate) struct Queue {
    context: Context,
    caller: Caller,
    /// The name and a slash.
    prefix: Bytes,
}

/// A place in a queue.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub key: Bytes,
    pub lease: LeaseId,
    /// The revision that made the key.
    pub created: Revision,
}

impl Queue {
    pub fn new(context: &Context, caller: &Caller, name: &[u8]) -> Self {
        Self { context: context.clone(), caller: caller.clone(), prefix: [name, b"/"].concat().into() }
    }

    /// Takes the place of a lease, or finds it taken already; then what stands there.
    pub async fn enter(&self, lease: LeaseId, value: Bytes) -> Result<(Place, Option<KeyValue>), Status> {
        let key: Bytes = [&self.prefix, format!("{lease:x}").as_bytes()].concat().into();
        let txn = Txn {
            compare: vec![created(&key, 0)],
            success: vec![Op::Put(PutRequest { key: key.clone(), value, lease, ..PutRequest::default() })],
            failure: vec![Op::Range(RangeRequest::key(key.clone()))],
        };
        let (revision, mut answer) = self.txn(txn).await?;
        let there = match answer.responses.pop() {
            Some(OpResponse::Range(mut found)) => found.kvs.pop(),
            _ => None,
        };
        let created = there.as_ref().map_or(revision, |kv| kv.create_revision);
        Ok((Place { key, lease, created }, there))
    }

    /// Waits until nobody is before a place. A caller that goes away meanwhile leaves the queue.
    pub async fn wait(&self, place: &Place) -> Result<(), Status> {
        let mut leaving = Leaving { queue: self, place: Some(place) };
        while let Some(before) = self.newest_before(place.created)? {
            self.deleted(&before).await?;
        }
        leaving.place = None;
        Ok(())
    }

    /// The last to come before a revision.
    fn newest_before(&self, revision: Revision) -> Result<Option<(Bytes, Revision)>, Status> {
        let view = self.context.store.view();
        let request = RangeRequest {
            max_create_revision: revision - 1,
            sort_target: SortTarget::Create,
            sort_order: SortOrder::Descend,
            limit: 1,
            keys_only: true,
            ..RangeRequest::prefix(self.prefix.clone())
        };
        view.auth().check_read(&self.caller, &request.range).map_err(auth_status)?;
        let mut found = view.range(&request).map_err(|error| mvcc_status(&error))?;
        Ok(found.kvs.pop().map(|kv| (kv.key, view.revision())))
    }

    /// Waits until a key that was there at a revision is deleted.
    async fn deleted(&self, (key, seen): &(Bytes, Revision)) -> Result<(), Status> {
        let range = KeyRange::Key(key.clone());
        let mut watcher = self.context.store.watch(WatchRequest { range, start_revision: seen + 1 });
        loop {
            let batch = watcher.next().await.map_err(|error| watch_status(&error))?;
            if batch.events.iter().any(|event| event.kind == EventKind::Delete) {
                return Ok(());
            }
        }
    }

    /// The key of whom the queue serves.
    pub fn first(&self) -> Result<(Option<KeyValue>, Revision), Status> {
        let view = self.context.store.view();
        let request = RangeRequest {
            sort_target: SortTarget::Create,
            sort_order: SortOrder::Ascend,
            limit: 1,
            ..RangeRequest::prefix(self.prefix.clone())
        };
        view.auth().check_read(&self.caller, &request.range).map_err(auth_status)?;
        let mut found = view.range(&request).map_err(|error| mvcc_status(&error))?;
        Ok((found.kvs.pop(), view.revision()))
    }

    pub fn range(&self) -> KeyRange {
        KeyRange::prefix(self.prefix.clone())
    }

    async fn txn(&self, txn: Txn) -> Result<(Revision, TxnResponse), Status> {
        transact(&self.context, self.caller.clone(), txn).await
    }
}

/// Takes its place out of the queue when it is dropped with one.
struct Leaving<'a> {
    queue: &'a Queue,
    place: Option<&'a Place>,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        let Some(place) = self.place.cloned() else { return };
        let context = self.queue.context.clone();
        self.queue.context.tasks.spawn_detached("leave-queue", async move {
            // If it fails the place ends with its lease. The caller may have lost the right to do it, and the queue must
            // go on.
            drop(context.propose_own(Command::Txn(deletion(&place))).await);
        });
    }
}

/// That a key was made at a revision; 0 is that there is none.
pub(crate) fn created(key: &Bytes, revision: Revision) -> Compare {
    Compare {
        range: KeyRange::Key(key.clone()),
        result: CompareResult::Equal,
        target: CompareTarget::Create(revision),
    }
}

/// Deletes a place's key, if it is still that place's.
pub(crate) async fn delete_if(context: &Context, caller: Caller, place: &Place) -> Result<Revision, Status> {
    Ok(transact(context, caller, deletion(place)).await?.0)
}

fn deletion(place: &Place) -> Txn {
    let delete = Op::Delete(DeleteRequest { range: KeyRange::Key(place.key.clone()), prev_kv: false });
    Txn { compare: vec![created(&place.key, place.created)], success: vec![delete], failure: Vec::new() }
}

pub(crate) async fn transact(
    context: &Context,
    caller: Caller,
    txn: Txn,
) -> Result<(Revision, TxnResponse), Status> {
    match context.propose(caller, Command::Txn(txn)).await? {
        (revision, Answer::Txn(answer)) => Ok((revision, answer)),
        (_, other) => Err(Status::internal(format!("a transaction was answered by {other:?}"))),
    }
}

/// The caller's lease, or a new one.
pub(crate) async fn session(context: &Context, caller: &Caller, lease: LeaseId) -> Result<LeaseId, Status> {
    if lease != 0 {
        return Ok(lease);
    }
    let id = context.free_lease();
    match context.propose(caller.clone(), Command::LeaseGrant { id, ttl: SESSION_TTL }).await? {
        (_, Answer::LeaseGranted { id, .. }) => Ok(id),
        (_, other) => Err(Status::internal(format!("a grant was answered by {other:?}"))),
    }
}

/// Runs `work` while a lease that was made for it is renewed.
pub(crate) async fn alive<T>(
    context: &Context,
    lease: Option<LeaseId>,
    work: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let Some(lease) = lease else { return work.await };
    let renew = async {
        loop {
            context.env.clock.sleep(SESSION_RENEW).await;
            // A renewal that fails is tried again in time: the lease lasts three of these pauses.
            drop(context.store.lease_keep_alive(lease).await);
        }
    };
    tokio::select! {
        done = work => done,
        never = renew => never,
    }
}
