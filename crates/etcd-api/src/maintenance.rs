//! What operators ask of a member.

use futures::stream::BoxStream;
use mvcc::{Alarm, AlarmAction, AlarmKind, Caller, Command, Response as Answer};
use protos::etcd::etcdserverpb as pb;
use protos::etcd::etcdserverpb::maintenance_server::Maintenance;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::ETCD_VERSION;
use crate::context::Context;
use crate::convert;
use crate::error::status;
use crate::files;
use crate::version;

pub(crate) struct MaintenanceService(pub Context);

fn kind_of(alarm: pb::AlarmType) -> Option<AlarmKind> {
    match alarm {
        pb::AlarmType::None => None,
        pb::AlarmType::Nospace => Some(AlarmKind::NoSpace),
        pb::AlarmType::Corrupt => Some(AlarmKind::Corrupt),
    }
}

/// Bytes that are stored of what a member tells of itself.
fn attributes_size(member: &mvcc::MemberAttributes) -> u64 {
    let urls: usize = member.client_urls.iter().map(String::len).sum();
    (size_of::<u64>() + member.name.len() + urls) as u64
}

/// Bytes that are stored, and those of keys as they are now; with what is stored beside the keys, so never nothing.
pub(crate) fn sizes(view: &mvcc::View) -> (u64, u64) {
    let attributes: u64 = view.members().map(|member| attributes_size(member)).sum();
    (view.total_bytes() + attributes, view.live_bytes() + attributes)
}

impl MaintenanceService {
    fn raised(&self, member: u64, kind: Option<AlarmKind>) -> Vec<Alarm> {
        let view = self.0.store.view();
        let wanted = |alarm: &Alarm| {
            (member == 0 || alarm.member == member) && kind.is_none_or(|kind| alarm.kind == kind)
        };
        view.alarms().filter(wanted).collect()
    }

    async fn change(
        &self,
        caller: &Caller,
        action: AlarmAction,
        alarms: Vec<Alarm>,
    ) -> Result<Vec<Alarm>, Status> {
        let mut changed = Vec::new();
        for alarm in alarms {
            if let (_, Answer::Alarms(alarms)) =
                self.0.propose(caller.clone(), Command::Alarm { action, alarm }).await?
            {
                changed.extend(alarms);
            }
        }
        Ok(changed)
    }
}

#[tonic::async_trait]
impl Maintenance for MaintenanceService {
    type SnapshotStream = BoxStream<'static, Result<pb::SnapshotResponse, Status>>;

    async fn alarm(&self, request: Request<pb::AlarmRequest>) -> Result<Response<pb::AlarmResponse>, Status> {
        use pb::alarm_request::AlarmAction as Wire;
        let caller = match request.get_ref().action() {
            Wire::Get => self.0.check_known(&request).await?,
            _ => self.0.check_admin(&request).await?,
        };
        let request = request.into_inner();
        let kind = kind_of(request.alarm());
        let alarms = match request.action() {
            Wire::Get => self.raised(request.member_id, kind),
            Wire::Activate => {
                let alarm = kind.map(|kind| Alarm { member: request.member_id, kind });
                self.change(&caller, AlarmAction::Activate, alarm.into_iter().collect()).await?
            }
            Wire::Deactivate => {
                let alarms = self.raised(request.member_id, kind);
                self.change(&caller, AlarmAction::Deactivate, alarms).await?
            }
        };
        let alarms = alarms.into_iter().map(convert::alarm).collect();
        Ok(Response::new(pb::AlarmResponse { header: self.0.header_now(), alarms }))
    }

    async fn status(
        &self,
        request: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusResponse>, Status> {
        self.0.check_known(&request).await?;
        let (view, status) = (self.0.store.view(), self.0.store.status());
        let (total, in_use) = sizes(&view);
        let mut errors = Vec::new();
        if status.leader == 0 {
            errors.push("etcdserver: no leader".to_owned());
        }
        errors.extend(view.alarms().map(|alarm| {
            let alarm = convert::alarm(alarm);
            format!("memberID:{} alarm:{}", alarm.member_id, alarm.alarm().as_str_name())
        }));
        Ok(Response::new(pb::StatusResponse {
            header: self.0.header(view.revision()),
            version: ETCD_VERSION.to_owned(),
            db_size: total.cast_signed(),
            leader: status.leader,
            raft_index: status.committed_index,
            raft_term: status.term,
            raft_applied_index: status.applied_index,
            errors,
            db_size_in_use: in_use.cast_signed(),
            is_learner: status.is_learner,
            storage_version: self.0.storage_version().unwrap_or_default(),
            db_size_quota: self
                .0
                .limits
                .quota_bytes
                .map_or(0, |quota| i64::try_from(quota).unwrap_or(i64::MAX)),
            downgrade_info: Some(pb::DowngradeInfo {
                enabled: view.downgrade_target().is_some(),
                target_version: view.downgrade_target().unwrap_or_default().to_owned(),
            }),
        }))
    }

    /// There is nothing to defragment: the answer comes at once, without a header as etcd's.
    async fn defragment(
        &self,
        request: Request<pb::DefragmentRequest>,
    ) -> Result<Response<pb::DefragmentResponse>, Status> {
        self.0.check_admin(&request).await?;
        self.0.counters.defragment.record(0.0);
        // There is nothing to do; tests may have it fail or end all the same.
        for point in ["defragBeforeCopy", "defragOpenFileError", "defragdbFail", "defragBeforeRename"] {
            if let Some(why) = env::failpoints::hit(point) {
                return Err(Status::unknown(why));
            }
        }
        Ok(Response::new(pb::DefragmentResponse::default()))
    }

    async fn hash(&self, request: Request<pb::HashRequest>) -> Result<Response<pb::HashResponse>, Status> {
        self.0.check_admin(&request).await?;
        let start = self.0.env.clock.monotonic();
        let hashed = self.0.store.hash_kv(0).await.map_err(status)?;
        self.0.counters.hash.record(self.0.env.clock.monotonic() - start);
        Ok(Response::new(pb::HashResponse { header: self.0.header(hashed.revision), hash: hashed.hash }))
    }

    async fn hash_kv(
        &self,
        request: Request<pb::HashKvRequest>,
    ) -> Result<Response<pb::HashKvResponse>, Status> {
        self.0.check_admin(&request).await?;
        let start = self.0.env.clock.monotonic();
        let hashed = self.0.store.hash_kv(request.into_inner().revision).await.map_err(status)?;
        self.0.counters.hash_at.record(self.0.env.clock.monotonic() - start);
        Ok(Response::new(pb::HashKvResponse {
            header: self.0.header_now(),
            hash: hashed.hash,
            // As etcd says it of a store that was never compacted.
            compact_revision: if hashed.compact_revision == 0 { -1 } else { hashed.compact_revision },
            hash_revision: hashed.revision,
        }))
    }

    async fn snapshot(
        &self,
        request: Request<pb::SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        self.0.check_admin(&request).await?;
        // Each has a thread and a file of the size of the state until its client has read it.
        let place = self.0.snapshots.clone().try_acquire_owned().map_err(|_| {
            Status::resource_exhausted("etcdserver: too many requests: other snapshots are being sent")
        })?;
        let (out, responses) = mpsc::channel(files::QUEUE);
        let (store, scratch) = (self.0.store.clone(), self.0.scratch.clone());
        let making = tokio::task::spawn_blocking(move || match store.copy_state() {
            Ok(copy) => files::send(&copy, &store.members(), &scratch, &out),
            Err(error) => {
                drop(out.blocking_send(Err(Status::internal(format!("cannot copy the state: {error}")))));
            }
        });
        let (clock, took) = (self.0.env.clock.clone(), self.0.counters.snapshot.clone());
        let start = clock.monotonic();
        self.0.tasks.spawn_detached("snapshot", async move {
            drop(making.await);
            drop(place);
            took.record(clock.monotonic() - start);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(responses))))
    }

    async fn move_leader(
        &self,
        request: Request<pb::MoveLeaderRequest>,
    ) -> Result<Response<pb::MoveLeaderResponse>, Status> {
        self.0.check_admin(&request).await?;
        self.0.store.transfer_leadership(request.into_inner().target_id).await.map_err(status)?;
        Ok(Response::new(pb::MoveLeaderResponse::default()))
    }

    async fn downgrade(
        &self,
        request: Request<pb::DowngradeRequest>,
    ) -> Result<Response<pb::DowngradeResponse>, Status> {
        self.0.check_admin(&request).await?;
        let version = version::downgrade(&self.0, request.into_inner()).await?;
        Ok(Response::new(pb::DowngradeResponse { header: self.0.header_now(), version }))
    }
}
