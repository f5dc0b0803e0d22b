//! Leases.

use std::sync::Arc;

use futures::stream::{BoxStream, StreamExt as _};
use mvcc::{Caller, Command, LeaseId, Response as Answer, View};
use protos::etcd::etcdserverpb as pb;
use protos::etcd::etcdserverpb::lease_server::Lease;
use store::StoreError;
use tonic::{Request, Response, Status, Streaming};

use crate::auth::Credentials;
use crate::context::Context;
use crate::error::{auth_status, status, unreadable};

/// About how many bytes a lease takes (etcd's `leaseOverhead`).
const LEASE_BYTES: usize = 64;
/// Renewals of one stream that are on their way together.
const PIPELINE: usize = 64;

type KeepAlives = BoxStream<'static, Result<pb::LeaseKeepAliveResponse, Status>>;

pub(crate) struct LeaseService(pub Context);

impl LeaseService {
    /// The shortest time to live, in seconds: one and a half election timeouts, rounded up.
    fn min_ttl(&self) -> i64 {
        let millis = self.0.store.timing().election_max.as_millis() * 3 / 2;
        i64::try_from(millis.div_ceil(1000)).unwrap_or(i64::MAX).max(1)
    }
}

#[tonic::async_trait]
impl Lease for LeaseService {
    type LeaseKeepAliveStream = KeepAlives;

    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        let caller = self.0.check_known(&request).await?;
        let request = request.into_inner();
        let id = if request.id == 0 { self.0.free_lease() } else { request.id };
        let ttl = request.ttl.max(self.min_ttl());
        if self.0.store.view().lease_count() >= self.0.limits.max_leases {
            return Err(Status::resource_exhausted("etcdserver: too many leases"));
        }
        self.0.check_space(LEASE_BYTES).await?;
        let (revision, answer) = self.0.propose(caller, Command::LeaseGrant { id, ttl }).await?;
        let Answer::LeaseGranted { id, ttl } = answer else {
            return Err(Status::internal("a grant was answered otherwise"));
        };
        Ok(Response::new(pb::LeaseGrantResponse {
            header: self.0.header(revision),
            id,
            ttl,
            error: String::new(),
        }))
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        let caller = self.0.check_known(&request).await?;
        let command = Command::LeaseRevoke { id: request.into_inner().id };
        let (revision, _) = self.0.propose(caller, command).await?;
        Ok(Response::new(pb::LeaseRevokeResponse { header: self.0.header(revision) }))
    }

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let credentials = Credentials::of(&self.0, &request);
        Ok(Response::new(keep_alive(self.0.clone(), credentials, request.into_inner())))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        let caller = self.0.check_known(&request).await?;
        let request = request.into_inner();
        if request.keys {
            check_read(&self.0.store.view(), &caller, request.id)?;
        }
        let time = self.0.store.lease_time_to_live(request.id).await.map_err(status)?;
        let mut answer =
            pb::LeaseTimeToLiveResponse { header: self.0.header_now(), id: request.id, ..Default::default() };
        match time {
            Some(time) => (answer.ttl, answer.granted_ttl) = (time.ttl, time.granted_ttl),
            None => answer.ttl = -1,
        }
        if request.keys && time.is_some() {
            let view = self.0.store.view();
            check_read(&view, &caller, request.id)?;
            answer.keys =
                view.lease(request.id).map(|lease| lease.keys().cloned().collect()).unwrap_or_default();
        }
        Ok(Response::new(answer))
    }

    async fn lease_leases(
        &self,
        request: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        let caller = self.0.check_known(&request).await?;
        // Without a leader what there is, as in etcd: clients would ask again for ever.
        match self.0.store.read_barrier().await {
            Ok(()) | Err(StoreError::NoLeader | StoreError::Timeout) => {}
            Err(error) => return Err(status(error)),
        }
        let view = self.0.store.view();
        view.leases().try_for_each(|lease| check_read(&view, &caller, lease.id))?;
        let leases = view.leases().map(|lease| pb::LeaseStatus { id: lease.id }).collect();
        Ok(Response::new(pb::LeaseLeasesResponse { header: self.0.header(view.revision()), leases }))
    }
}

/// Refuses who may not see which keys hang on a lease.
fn check_read(view: &View, caller: &Caller, id: LeaseId) -> Result<(), Status> {
    view.lease(id).map_or(Ok(()), |lease| view.auth().check_lease_read(caller, lease)).map_err(auth_status)
}

/// Refuses who may not write the keys that hang on a lease.
async fn check_renewal(context: &Context, credentials: &Credentials, id: LeaseId) -> Result<(), Status> {
    let caller = context.identify(credentials).await.map_err(auth_status)?;
    let view = context.store.view();
    let auth = view.auth();
    let checked = match view.lease(id) {
        Some(lease) => auth.check_lease_write(&caller, lease),
        None => auth.check_known(&caller),
    };
    checked.map_err(auth_status)
}

async fn renew(context: &Context, credentials: &Credentials, id: LeaseId) -> Result<i64, Status> {
    check_renewal(context, credentials, id).await?;
    Ok(context.store.lease_keep_alive(id).await.map_err(status)?.unwrap_or(0))
}

/// The answers of a stream of keep-alives, in the order of its requests, of which some are on their way together. They end
/// behind the first that fails.
fn keep_alive(
    context: Context,
    credentials: Credentials,
    requests: Streaming<pb::LeaseKeepAliveRequest>,
) -> KeepAlives {
    let shutdown = context.shutdown.clone();
    let shared = Arc::new((context, credentials));
    requests
        .map(move |request| {
            let shared = shared.clone();
            async move {
                let request = request.map_err(|status| unreadable(status, true))?;
                let (context, credentials) = &*shared;
                // Taken before the renewal, so that a lease that ends meanwhile never looks younger than its end.
                let header = context.header_now();
                let ttl = renew(context, credentials, request.id).await?;
                Ok(pb::LeaseKeepAliveResponse { header, id: request.id, ttl })
            }
        })
        .buffered(PIPELINE)
        .scan(false, |failed, answer: Result<_, Status>| {
            let before = std::mem::replace(failed, answer.is_err());
            std::future::ready((!before).then_some(answer))
        })
        .take_until(async move { shutdown.wait().await })
        .boxed()
}
