//! The answering end of the wire between members.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::stream::{BoxStream, StreamExt as _};
use openraft::async_runtime::WatchReceiver as _;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderRequest, VoteRequest,
};
use openraft::storage::{Snapshot, SnapshotMeta};
use parking_lot::Mutex;
use protos::peer::{self, peer_server::Peer};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::confirm;
use crate::consensus::{self, TypeConfig};
use crate::counters::{Traffic, Transfer};
use crate::error::{REMOVED, StoreError};
use crate::failpoints::hit;
use crate::inner::Inner;
use crate::integrity::{Wrong, checks, keys};
use crate::members::hex;
use crate::peers::{self, CLUSTER_HEADER, TO_HEADER};
use crate::witness::Witness;
use crate::{proposals, renewals, snapshot};

/// Failed proposals that wait to be told to another member.
const ANSWERS: usize = 256;

/// How often a caller of `Alive` hears that this process lives, beside the connection itself.
pub(crate) const ALIVE_INTERVAL: std::time::Duration = std::time::Duration::from_secs(1);

pub(crate) struct PeerService {
    pub inner: Arc<Inner>,
}

type Answer<T> = Result<Response<T>, Status>;

fn invalid(error: io::Error) -> Status {
    Status::invalid_argument(error.to_string())
}

fn stopped(error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("etcdserver: server stopped: {error}"))
}

/// Refuses calls that are meant for another cluster or another member: an address may have changed hands.
pub(crate) fn check_identity(cluster: u64, me: u64, request: Request<()>) -> Result<Request<()>, Status> {
    let header =
        |name: &str| request.metadata().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    if header(CLUSTER_HEADER).as_deref() != Some(&format!("{cluster:x}")) {
        return Err(Status::failed_precondition("etcdserver: cluster ID mismatch"));
    }
    if header(TO_HEADER).as_deref() != Some(&hex(me)) {
        return Err(Status::failed_precondition("etcdserver: member ID mismatch"));
    }
    Ok(request)
}

/// [`check_identity`] for every call; one from another cluster is told in the log, once for all that follow of the same.
pub(crate) fn guard(cluster: u64, me: u64) -> impl Fn(Request<()>) -> Result<Request<()>, Status> + Clone {
    let told = Arc::new(Mutex::new(String::new()));
    move |request| {
        let theirs = request.metadata().get(CLUSTER_HEADER).and_then(|theirs| theirs.to_str().ok());
        let theirs = theirs.unwrap_or_default().to_owned();
        let ours = format!("{cluster:x}");
        if theirs != ours && *told.lock() != theirs {
            tracing::warn!(
                "local-member-id" = format!("{me:x}"),
                "local-member-cluster-id" = ours,
                "remote-peer-cluster-id" = theirs,
                "request cluster ID mismatch"
            );
            *told.lock() = theirs;
        }
        check_identity(cluster, me, request)
    }
}

/// A store's error for another member, which reads it back with [`error_from_status`].
pub(crate) fn status_from_error(error: &StoreError) -> Status {
    let text = error.to_string();
    match error {
        StoreError::NotLeader | StoreError::NoLeader => Status::failed_precondition(text),
        StoreError::TooManyRequests => Status::resource_exhausted(text),
        StoreError::TooLarge => Status::out_of_range(text),
        StoreError::MemberNotFound => Status::not_found(text),
        StoreError::Membership(_) | StoreError::BadTransferee | StoreError::Mvcc(_) => {
            Status::invalid_argument(text)
        }
        StoreError::Timeout | StoreError::LeaderLost => Status::deadline_exceeded(text),
        StoreError::Stopped | StoreError::Corrupt => Status::unavailable(text),
        StoreError::NotEnoughStarted => Status::data_loss(text),
        StoreError::Unhealthy => Status::aborted(text),
    }
}

pub(crate) fn error_from_status(status: &Status) -> StoreError {
    match status.code() {
        tonic::Code::FailedPrecondition => StoreError::NotLeader,
        tonic::Code::ResourceExhausted => StoreError::TooManyRequests,
        tonic::Code::OutOfRange => StoreError::TooLarge,
        tonic::Code::NotFound => StoreError::MemberNotFound,
        tonic::Code::DataLoss => StoreError::NotEnoughStarted,
        tonic::Code::Aborted => StoreError::Unhealthy,
        tonic::Code::InvalidArgument => StoreError::Membership(status.message().to_owned()),
        _ if crate::peers::was_not_sent(status) => StoreError::NoLeader,
        tonic::Code::DeadlineExceeded => StoreError::Timeout,
        _ => StoreError::LeaderLost,
    }
}

impl PeerService {
    /// Tells a candidate that was removed, and does not know it yet. One that is not in the present membership was
    /// removed if the membership is younger than the candidate's log: a member campaigns only after its log has said
    /// that it is one.
    fn refuse_removed(&self, request: &VoteRequest<TypeConfig>) -> Result<(), Status> {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = &metrics.membership_config;
        let candidate = request.vote.leader_id.voted_for;
        let known = membership.membership().get_node(&candidate).is_some();
        let decided = membership.log_id().as_ref().map(|id| id.index);
        if known || decided <= request.last_log_id.as_ref().map(|id| id.index) {
            return Ok(());
        }
        Err(Status::failed_precondition(REMOVED))
    }
}

#[tonic::async_trait]
impl Peer for PeerService {
    type AppendStream = BoxStream<'static, Result<peer::AppendResponse, Status>>;
    type ProposeStream = ReceiverStream<Result<peer::ProposeResponse, Status>>;
    type FetchStateStream = BoxStream<'static, Result<peer::SnapshotChunk, Status>>;
    type WitnessStream = BoxStream<'static, Result<peer::Witness, Status>>;
    type AliveStream = BoxStream<'static, Result<peer::AliveResponse, Status>>;

    async fn append(&self, request: Request<Streaming<peer::AppendRequest>>) -> Answer<Self::AppendStream> {
        let mut traffic = None;
        let requests = request.into_inner().map(move |request| {
            let request = request?;
            count_received(&mut traffic, &request);
            Ok::<_, Status>(append_request_from_wire(request))
        });
        // A broken stream simply ends: the leader opens another.
        let requests = requests.take_while(|request| std::future::ready(matches!(request, Ok(Ok(_)))));
        let requests = requests.filter_map(|request| std::future::ready(request.ok().and_then(Result::ok)));
        let inner = self.inner.clone();
        let requests = requests.inspect(move |request| hear(&inner, request));
        // An idle leader keeps the stream open: a member that stops must not wait for it.
        let shutdown = self.inner.shutdown.clone();
        let stopping = async move { shutdown.wait().await };
        let requests = requests.take_until(Box::pin(stopping));
        let answers = self.inner.raft.stream_append(requests);
        Ok(Response::new(Box::pin(answers.map(|answer| {
            hit("raftBeforeFollowerSend");
            answer.map(append_answer_to_wire).map_err(stopped)
        }))))
    }

    async fn append_one(&self, request: Request<peer::AppendRequest>) -> Answer<peer::AppendResponse> {
        let request = append_request_from_wire(request.into_inner()).map_err(invalid)?;
        hear(&self.inner, &request);
        let answers = self.inner.raft.stream_append(futures::stream::iter([request]));
        let mut answers = Box::pin(answers);
        match answers.next().await {
            Some(answer) => Ok(Response::new(append_answer_to_wire(answer.map_err(stopped)?))),
            None => Err(stopped("no answer")),
        }
    }

    async fn vote(&self, request: Request<peer::VoteRequest>) -> Answer<peer::VoteResponse> {
        let request = vote_request_from_wire(request.into_inner()).map_err(invalid)?;
        self.refuse_removed(&request)?;
        let answer = self.inner.raft.vote(request).await.map_err(stopped)?;
        Ok(Response::new(vote_answer_to_wire(&answer)))
    }

    async fn pre_vote(&self, request: Request<peer::VoteRequest>) -> Answer<peer::VoteResponse> {
        let request = vote_request_from_wire(request.into_inner()).map_err(invalid)?;
        self.refuse_removed(&request)?;
        let answer = self.inner.raft.pre_vote(request).await.map_err(stopped)?;
        Ok(Response::new(vote_answer_to_wire(&answer)))
    }

    async fn transfer_leader(
        &self,
        request: Request<peer::TransferLeaderRequest>,
    ) -> Answer<peer::TransferLeaderResponse> {
        let request = request.into_inner();
        let from = consensus::required_vote(request.from).map_err(invalid)?;
        let last = request.last.map(consensus::log_id_from_wire);
        let request = TransferLeaderRequest::new(from, request.to, last);
        let answer = self.inner.raft.handle_transfer_leader(request).await.map_err(stopped)?;
        let refused = answer.err().map(|error| error.to_string()).unwrap_or_default();
        Ok(Response::new(peer::TransferLeaderResponse { refused }))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<peer::SnapshotChunk>>,
    ) -> Answer<peer::SnapshotResponse> {
        let mut chunks = request.into_inner();
        let head = snapshot::head_of(&mut chunks).await?;
        let vote = consensus::required_vote(head.vote).map_err(invalid)?;
        let from = head.vote.as_ref().map_or(0, |vote| vote.node);
        let (transfer, start) = (Transfer::from(from), self.inner.env.clock.monotonic());
        let fsync = self.inner.shared.counters.snapshot_fsync.clone();
        let synced = |took| fsync.record(took);
        let clock = &self.inner.env.clock;
        let (folder, head) = snapshot::receive(&*self.inner.storage, head, chunks, (clock, &synced)).await?;
        let took = self.inner.env.clock.monotonic() - start;
        self.inner.shared.counters.snapshot_saved.record(took);
        transfer.done(took);
        let membership = head.membership.unwrap_or_default();
        let meta = SnapshotMeta {
            last_log_id: head.last.map(consensus::log_id_from_wire),
            last_membership: consensus::stored_membership_from_wire(membership).map_err(invalid)?,
        };
        let snapshot = Snapshot { meta, snapshot: folder };
        let answer = self.inner.raft.install_full_snapshot(vote, snapshot).await.map_err(stopped)?;
        Ok(Response::new(peer::SnapshotResponse { vote: Some(consensus::vote_to_wire(&answer.vote)) }))
    }

    async fn propose(
        &self,
        request: Request<Streaming<peer::ProposeRequest>>,
    ) -> Answer<Self::ProposeStream> {
        let (out, answers) = mpsc::channel(ANSWERS);
        let take = proposals::take(self.inner.clone(), request.into_inner(), out);
        self.inner.tasks.spawn_detached("proposals-of-another", take);
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn read_index(&self, request: Request<peer::ReadIndexRequest>) -> Answer<peer::ReadIndexResponse> {
        let witness = Witness::from_wire(request.into_inner().witness);
        let index = confirm::read_index(&self.inner, witness).await;
        let index = index.map_err(|error| status_from_error(&error))?;
        Ok(Response::new(peer::ReadIndexResponse { index }))
    }

    async fn witness(
        &self,
        request: Request<Streaming<peer::WitnessRequest>>,
    ) -> Answer<Self::WitnessStream> {
        let (inner, shutdown) = (self.inner.clone(), self.inner.shutdown.clone());
        let questions = request.into_inner().take_until(Box::pin(async move { shutdown.wait().await }));
        let answers = questions.then(move |question| {
            let inner = inner.clone();
            async move {
                question?;
                let witness = Witness::here(&inner).await.map_err(stopped)?;
                Ok(witness.to_wire())
            }
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn lease_keep_alive(
        &self,
        request: Request<peer::LeaseKeepAliveRequest>,
    ) -> Answer<peer::LeaseKeepAliveResponse> {
        let peer::LeaseKeepAliveRequest { ids, witness } = request.into_inner();
        let ttls = renewals::here(&self.inner, &ids, Witness::from_wire(witness)).await;
        let ttls = ttls.map_err(|error| status_from_error(&error))?;
        Ok(Response::new(peer::LeaseKeepAliveResponse { ttls }))
    }

    async fn lease_time_to_live(&self, request: Request<peer::LeaseRequest>) -> Answer<peer::LeaseResponse> {
        let time = self.inner.lease_time_here(request.into_inner().id);
        let time = time.map_err(|error| status_from_error(&error))?;
        Ok(Response::new(match time {
            Some(time) => peer::LeaseResponse { found: true, granted_ttl: time.granted_ttl, ttl: time.ttl },
            None => peer::LeaseResponse::default(),
        }))
    }

    async fn change_members(
        &self,
        request: Request<peer::ChangeMembersRequest>,
    ) -> Answer<peer::ChangeMembersResponse> {
        let index = self.inner.change_members_here(request.into_inner()).await;
        let index = index.map_err(|error| status_from_error(&error))?;
        Ok(Response::new(peer::ChangeMembersResponse { index }))
    }

    async fn state_hashes(
        &self,
        request: Request<peer::StateHashesRequest>,
    ) -> Answer<peer::StateHashesResponse> {
        let marks = self.inner.shared.marks.lock().after(request.into_inner().after);
        let hashes = marks.into_iter().map(|mark| peer::StateHash { index: mark.index, hash: mark.hash });
        Ok(Response::new(peer::StateHashesResponse { hashes: hashes.collect() }))
    }

    async fn diverged(&self, request: Request<peer::StateHash>) -> Answer<peer::DivergedResponse> {
        let peer::StateHash { index, hash } = request.into_inner();
        let noted = self.inner.shared.marks.lock().at(index);
        if noted.is_some_and(|noted| noted != hash) {
            self.inner.shared.fence.raise(Wrong::Diverged { index });
        }
        Ok(Response::new(peer::DivergedResponse {}))
    }

    async fn keys_hash(&self, request: Request<peer::KeysHashRequest>) -> Answer<peer::KeysHashResponse> {
        self.inner.check_sound().map_err(|error| status_from_error(&error))?;
        let answer = keys::answer(&self.inner.shared, request.into_inner().revision).await;
        Ok(Response::new(answer.map_err(|error| status_from_error(&error))?))
    }

    async fn keys_differ(&self, request: Request<peer::KeysDifferRequest>) -> Answer<peer::DivergedResponse> {
        checks::heed(&self.inner.shared, request.into_inner()).await;
        Ok(Response::new(peer::DivergedResponse {}))
    }

    async fn fetch_state(&self, request: Request<peer::FetchStateRequest>) -> Answer<Self::FetchStateStream> {
        let peer::FetchStateRequest { any, .. } = request.into_inner();
        let inner = &self.inner;
        if inner.shared.fence.wrong().is_some() || !(any || inner.leads()) {
            return Err(status_from_error(&StoreError::NotLeader));
        }
        let (storage, shared) = (inner.storage.clone(), inner.shared.clone());
        let copied = tokio::task::spawn_blocking(move || snapshot::copy(&*storage, &shared)).await;
        let copied = copied.map_err(io::Error::other).and_then(|copied| copied);
        let failed = |error: io::Error| Status::internal(format!("cannot copy the state: {error}"));
        let copied = copied.map_err(failed)?;
        let head = peers::snapshot_head(consensus::Vote::new(0, inner.me), &copied).await.map_err(failed)?;
        Ok(Response::new(Box::pin(peers::snapshot_chunks(head, copied.snapshot).map(Ok))))
    }

    async fn alive(&self, _: Request<peer::AliveRequest>) -> Answer<Self::AliveStream> {
        let inner = self.inner.clone();
        let beats = futures::stream::unfold(inner, |inner| async move {
            tokio::select! {
                () = inner.env.clock.sleep(ALIVE_INTERVAL) => Some((Ok(peer::AliveResponse {}), inner)),
                () = inner.shutdown.wait() => None,
            }
        });
        Ok(Response::new(Box::pin(beats)))
    }
}

/// Counts what a leader sent; one stream is always of the same leader.
fn count_received(traffic: &mut Option<Traffic>, request: &peer::AppendRequest) {
    use prost::Message as _;
    let from = request.vote.as_ref().map_or(0, |vote| vote.node);
    traffic.get_or_insert_with(|| Traffic::with(from)).received.increment(request.encoded_len() as u64);
}

/// Notes what was committed when a leader is first heard of.
fn hear(inner: &Inner, request: &AppendEntriesRequest<TypeConfig>) {
    if inner.heard.load(Ordering::Relaxed) == 0
        && let Some(commit) = &request.leader_commit
    {
        inner.heard.store(commit.index, Ordering::Relaxed);
    }
}

fn append_request_from_wire(request: peer::AppendRequest) -> io::Result<AppendEntriesRequest<TypeConfig>> {
    Ok(AppendEntriesRequest {
        vote: consensus::required_vote(request.vote)?,
        prev_log_id: request.prev.map(consensus::log_id_from_wire),
        entries: request.entries.into_iter().map(consensus::entry_from_wire).collect::<io::Result<_>>()?,
        leader_commit: request.commit.map(consensus::log_id_from_wire),
    })
}

fn append_answer_to_wire(answer: StreamAppendResult<TypeConfig>) -> peer::AppendResponse {
    use peer::append_response::Result as Wire;
    let result = match answer {
        Ok(id) => Wire::Matched(peer::Matched { id: id.as_ref().map(consensus::log_id_to_wire) }),
        Err(StreamAppendError::Conflict(id)) => Wire::Conflict(consensus::log_id_to_wire(&id)),
        Err(StreamAppendError::HigherVote(vote)) => Wire::HigherVote(consensus::vote_to_wire(&vote)),
    };
    peer::AppendResponse { result: Some(result) }
}

fn vote_request_from_wire(request: peer::VoteRequest) -> io::Result<VoteRequest<TypeConfig>> {
    Ok(VoteRequest {
        vote: consensus::required_vote(request.vote)?,
        last_log_id: request.last.map(consensus::log_id_from_wire),
        leadership_transfer: request.leadership_transfer,
    })
}

fn vote_answer_to_wire(answer: &openraft::raft::VoteResponse<TypeConfig>) -> peer::VoteResponse {
    peer::VoteResponse {
        vote: Some(consensus::vote_to_wire(&answer.vote)),
        granted: answer.vote_granted,
        last: answer.last_log_id.as_ref().map(consensus::log_id_to_wire),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_for_another_cluster_or_member_are_refused() {
        let check = |cluster: Option<&'static str>, to: Option<&'static str>| {
            let mut request = Request::new(());
            let headers = [(CLUSTER_HEADER, cluster), (TO_HEADER, to)];
            for (name, value) in headers.into_iter().filter_map(|(name, value)| Some((name, value?))) {
                request.metadata_mut().insert(name, value.parse().expect("a header"));
            }
            check_identity(0xab, 0xcd, request).map(drop).map_err(|status| status.message().to_owned())
        };
        assert_eq!(check(Some("ab"), Some("cd")), Ok(()));
        let (cluster, member) = ("etcdserver: cluster ID mismatch", "etcdserver: member ID mismatch");
        assert_eq!(check(Some("cd"), Some("cd")), Err(cluster.to_owned()));
        assert_eq!(check(None, Some("cd")), Err(cluster.to_owned()));
        assert_eq!(check(Some("ab"), Some("ab")), Err(member.to_owned()));
        assert_eq!(check(Some("ab"), None), Err(member.to_owned()));
    }
}
