//! Elections (etcd's `v3election`).

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use mvcc::{Caller, EventKind, KeyRange, KeyValue, Op, PutRequest, Revision, Txn};
use protos::etcd::v3electionpb as pb;
use protos::etcd::v3electionpb::election_server::Election;
use store::{WatchRequest, Watcher};
use tonic::{Request, Response, Status};

use crate::context::Context;
use crate::convert;
use crate::error::watch_status;
use crate::queue::{self, Place, Queue, created};

pub(crate) struct ElectionService(pub Context);

fn not_leader() -> Status {
    Status::unknown("election: not leader")
}

fn place_of(leader: Option<pb::LeaderKey>) -> Result<Place, Status> {
    let leader = leader.ok_or_else(|| Status::unknown("\"leader\" field must be provided"))?;
    Ok(Place { key: queue::key(leader.key)?, lease: leader.lease, created: leader.rev })
}

impl ElectionService {
    /// Changes the value of a place that is still its holder's.
    async fn proclaim_at(&self, caller: &Caller, place: &Place, value: Bytes) -> Result<Revision, Status> {
        let key = place.key.clone();
        let put = Op::Put(PutRequest { key, value, lease: place.lease, ..PutRequest::default() });
        let txn = Txn {
            compare: vec![created(&place.key, place.created)],
            success: vec![put],
            failure: Vec::new(),
        };
        match queue::transact(&self.0, caller.clone(), txn).await? {
            (revision, answer) if answer.succeeded => Ok(revision),
            _ => Err(not_leader()),
        }
    }

    fn answer(&self, kv: KeyValue, revision: Revision) -> pb::LeaderResponse {
        pb::LeaderResponse { header: self.0.header(revision), kv: Some(convert::kv(kv)) }
    }
}

#[tonic::async_trait]
impl Election for ElectionService {
    type ObserveStream = BoxStream<'static, Result<pb::LeaderResponse, Status>>;

    async fn campaign(
        &self,
        request: Request<pb::CampaignRequest>,
    ) -> Result<Response<pb::CampaignResponse>, Status> {
        queue::told(async {
            let caller = self.0.caller(&request).await?;
            let request = request.into_inner();
            let lease = queue::session(&self.0, &caller, request.lease).await?;
            let made = (request.lease == 0).then_some(lease);
            let candidates = Queue::new(&self.0, &caller, &request.name);
            let place = queue::alive(&self.0, made, async {
                let (place, there) = candidates.enter(lease, request.value.clone()).await?;
                if there.is_some_and(|kv| kv.value != request.value) {
                    self.proclaim_at(&caller, &place, request.value.clone()).await?;
                }
                candidates.wait(&place).await?;
                Ok(place)
            });
            let place = place.await?;
            let leader = pb::LeaderKey { name: request.name, key: place.key, rev: place.created, lease };
            Ok(Response::new(pb::CampaignResponse { header: self.0.header_now(), leader: Some(leader) }))
        })
        .await
    }

    async fn proclaim(
        &self,
        request: Request<pb::ProclaimRequest>,
    ) -> Result<Response<pb::ProclaimResponse>, Status> {
        queue::told(async {
            let caller = self.0.caller(&request).await?;
            let request = request.into_inner();
            let place = place_of(request.leader)?;
            let revision = self.proclaim_at(&caller, &place, request.value).await?;
            Ok(Response::new(pb::ProclaimResponse { header: self.0.header(revision) }))
        })
        .await
    }

    async fn leader(
        &self,
        request: Request<pb::LeaderRequest>,
    ) -> Result<Response<pb::LeaderResponse>, Status> {
        queue::told(async {
            self.0.barrier(false).await?;
            let caller = self.0.caller(&request).await?;
            match Queue::new(&self.0, &caller, &request.into_inner().name).first()? {
                (Some(kv), revision) => Ok(Response::new(self.answer(kv, revision))),
                (None, _) => Err(Status::unknown("election: no leader")),
            }
        })
        .await
    }

    async fn observe(
        &self,
        request: Request<pb::LeaderRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        queue::told(async {
            self.0.barrier(false).await?;
            let caller = self.0.caller(&request).await?;
            let queue = Queue::new(&self.0, &caller, &request.into_inner().name);
            let observer = Observer { context: self.0.clone(), queue, following: None };
            let leaders = futures::stream::unfold(Some(observer), |observer| async {
                let mut observer = observer?;
                let next = queue::told(observer.next()).await;
                let again = next.is_ok();
                Some((next, again.then_some(observer)))
            });
            Ok(Response::new(leaders.boxed()))
        })
        .await
    }

    async fn resign(
        &self,
        request: Request<pb::ResignRequest>,
    ) -> Result<Response<pb::ResignResponse>, Status> {
        queue::told(async {
            let caller = self.0.caller(&request).await?;
            let place = place_of(request.into_inner().leader)?;
            let revision = queue::delete_if(&self.0, caller, &place).await?;
            Ok(Response::new(pb::ResignResponse { header: self.0.header(revision) }))
        })
        .await
    }
}

/// Follows who leads.
struct Observer {
    context: Context,
    queue: Queue,
    /// Watches the leader's key, once there is a leader.
    following: Option<Watcher>,
}

impl Observer {
    /// The next leader, or the next thing that the leader says.
    async fn next(&mut self) -> Result<pb::LeaderResponse, Status> {
        loop {
            let Some(watcher) = &mut self.following else {
                let kv = self.leader().await?;
                let range = KeyRange::Key(kv.key.clone());
                let start_revision = kv.mod_revision + 1;
                self.following = Some(self.context.store.watch(WatchRequest { range, start_revision }));
                return Ok(self.answer(kv));
            };
            let batch = watcher.next().await.map_err(|error| watch_status(&error))?;
            // Of several changes the last counts: a leader that was deleted is none any more.
            match batch.events.last() {
                Some(event) if event.kind == EventKind::Put => return Ok(self.answer(event.kv.clone())),
                Some(_) => self.following = None,
                None => {}
            }
        }
    }

    /// Who leads; waits until somebody does.
    async fn leader(&self) -> Result<KeyValue, Status> {
        loop {
            let (first, revision) = self.queue.first()?;
            if let Some(kv) = first {
                return Ok(kv);
            }
            let request = WatchRequest { range: self.queue.range(), start_revision: revision + 1 };
            self.context.store.watch(request).next().await.map_err(|error| watch_status(&error))?;
        }
    }

    fn answer(&self, kv: KeyValue) -> pb::LeaderResponse {
        pb::LeaderResponse { header: self.context.header(kv.mod_revision), kv: Some(convert::kv(kv)) }
    }
}
