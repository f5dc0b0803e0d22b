//! Locks (etcd's `v3lock`).

use bytes::Bytes;
use mvcc::{Command, DeleteRequest, KeyRange, Op, Txn};
use protos::etcd::v3lockpb as pb;
use protos::etcd::v3lockpb::lock_server::Lock;
use tonic::{Request, Response, Status};

use crate::context::Context;
use crate::error::mvcc_status;
use crate::queue::{self, Queue};

pub(crate) struct LockService(pub Context);

#[tonic::async_trait]
impl Lock for LockService {
    async fn lock(&self, request: Request<pb::LockRequest>) -> Result<Response<pb::LockResponse>, Status> {
        queue::told(async {
            let caller = self.0.caller(&request).await?;
            let request = request.into_inner();
            let lease = queue::session(&self.0, &caller, request.lease).await?;
            let made = (request.lease == 0).then_some(lease);
            let waiting = Queue::new(&self.0, &caller, &request.name);
            let place = queue::alive(&self.0, made, async {
                let (place, _) = waiting.enter(lease, Bytes::new()).await?;
                waiting.wait(&place).await?;
                Ok(place)
            });
            let place = place.await?;
            let view = self.0.store.view();
            // The lease may have ended while its holder waited.
            let held = view.get(&place.key).map_err(|error| mvcc_status(&error))?;
            if held.is_none_or(|kv| kv.create_revision != place.created) {
                return Err(Status::unknown("mutex: session is expired"));
            }
            Ok(Response::new(pb::LockResponse { header: self.0.header(view.revision()), key: place.key }))
        })
        .await
    }

    async fn unlock(
        &self,
        request: Request<pb::UnlockRequest>,
    ) -> Result<Response<pb::UnlockResponse>, Status> {
        queue::told(async {
            let caller = self.0.caller(&request).await?;
            let range = KeyRange::Key(queue::key(request.into_inner().key)?);
            let delete = Op::Delete(DeleteRequest { range, prev_kv: false });
            let (revision, _) = self.0.propose(caller, Command::Txn(Txn::of(delete))).await?;
            Ok(Response::new(pb::UnlockResponse { header: self.0.header(revision) }))
        })
        .await
    }
}
