//! Members.

use protos::etcd::etcdserverpb as pb;
use protos::etcd::etcdserverpb::cluster_server::Cluster;
use tonic::{Request, Response, Status};

use crate::context::Context;
use crate::error::status;

pub(crate) struct ClusterService(pub Context);

pub(crate) fn member(member: store::Member) -> pb::Member {
    pb::Member {
        id: member.id,
        name: member.name,
        peer_ur_ls: member.peer_urls,
        client_ur_ls: member.client_urls,
        is_learner: member.is_learner,
    }
}

impl ClusterService {
    fn members(&self) -> Vec<pb::Member> {
        self.0.store.members().into_iter().map(member).collect()
    }

    /// Answers about members carry no revision.
    fn header(&self) -> Option<pb::ResponseHeader> {
        self.0.header(0)
    }

    fn check_urls(&self, urls: &[String], but: u64) -> Result<(), Status> {
        let valid = |url: &String| {
            let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
            rest.is_some_and(|rest| {
                rest.trim_end_matches('/')
                    .rsplit_once(':')
                    .is_some_and(|(_, port)| port.parse::<u16>().is_ok())
            })
        };
        if urls.is_empty() || !urls.iter().all(valid) {
            return Err(Status::invalid_argument("etcdserver: given member URLs are invalid"));
        }
        let taken = self.0.store.members().into_iter().filter(|member| member.id != but);
        if taken.flat_map(|member| member.peer_urls).any(|url| urls.contains(&url)) {
            return Err(Status::failed_precondition("etcdserver: Peer URLs already exists"));
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn member_add(
        &self,
        request: Request<pb::MemberAddRequest>,
    ) -> Result<Response<pb::MemberAddResponse>, Status> {
        self.0.check_admin(&request).await?;
        let request = request.into_inner();
        self.check_urls(&request.peer_ur_ls, 0)?;
        let learners = self.0.store.members().iter().filter(|member| member.is_learner).count();
        if request.is_learner && learners >= self.0.limits.max_learners {
            return Err(Status::failed_precondition("etcdserver: too many learner members in cluster"));
        }
        let seconds = self.0.env.clock.now().millis() / 1000;
        // The token only has to tell ids apart, which the time does.
        let id = store::member_id(&request.peer_ur_ls, &self.0.store.cluster_id().to_string(), Some(seconds));
        let store = &self.0.store;
        store.member_add(request.peer_ur_ls, request.is_learner, id).await.map_err(status)?;
        let members = self.members();
        let added = members.iter().find(|member| member.id == id).cloned();
        Ok(Response::new(pb::MemberAddResponse { header: self.header(), member: added, members }))
    }

    async fn member_remove(
        &self,
        request: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        self.0.check_admin(&request).await?;
        self.0.store.member_remove(request.into_inner().id).await.map_err(status)?;
        Ok(Response::new(pb::MemberRemoveResponse { header: self.header(), members: self.members() }))
    }

    async fn member_update(
        &self,
        request: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        self.0.check_admin(&request).await?;
        let request = request.into_inner();
        self.check_urls(&request.peer_ur_ls, request.id)?;
        self.0.store.member_update(request.id, request.peer_ur_ls).await.map_err(status)?;
        Ok(Response::new(pb::MemberUpdateResponse { header: self.header(), members: self.members() }))
    }

    async fn member_list(
        &self,
        request: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        self.0.check_known(&request).await?;
        self.0.barrier(!request.into_inner().linearizable).await?;
        Ok(Response::new(pb::MemberListResponse { header: self.header(), members: self.members() }))
    }

    async fn member_promote(
        &self,
        request: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        self.0.check_admin(&request).await?;
        self.0.store.member_promote(request.into_inner().id).await.map_err(status)?;
        Ok(Response::new(pb::MemberPromoteResponse { header: self.header(), members: self.members() }))
    }
}
