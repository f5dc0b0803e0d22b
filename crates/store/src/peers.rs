//! The calling end of the wire between members: openraft's network, and what a follower asks of the leader.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use env::{Clock, Shutdown};
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, Stream, StreamExt as _};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{
    Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption,
    RaftNetworkFactory,
};
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendError, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use parking_lot::Mutex;
use prost::Message as _;
use protos::peer::{self, peer_client::PeerClient};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};
use transport::Dialer;

use crate::consensus::{self, Node, TypeConfig, Vote};
use crate::counters::{Traffic, Transfer};
use crate::error::REMOVED;
use crate::failpoints::hit;
use crate::members::hex;
use crate::snapshot::{Folder, Snap};

/// Metadata that names the cluster.
pub(crate) const CLUSTER_HEADER: &str = "trierarch-cluster";
/// Metadata that names the member that is meant.
pub(crate) const TO_HEADER: &str = "trierarch-to";
/// Bytes of one message between members, at most.
pub(crate) const MAX_MESSAGE: usize = 64 << 20;
/// Bytes of a snapshot sent at a time.
const CHUNK: usize = 256 << 10;
/// Pause before a member that did not answer is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// Connections to one member are kept apart by purpose, so that none waits behind another's bulk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    /// The stream of log entries.
    Log,
    /// Heartbeats, votes: small and urgent.
    Control,
    /// Snapshots.
    Bulk,
    /// Requests of this member's clients.
    Forward,
}

pub(crate) type Client = PeerClient<InterceptedService<Channel, Stamp>>;

/// Writes into every request for whom it is.
#[derive(Clone)]
pub(crate) struct Stamp {
    cluster: MetadataValue<Ascii>,
    to: MetadataValue<Ascii>,
}

impl tonic::service::Interceptor for Stamp {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert(CLUSTER_HEADER, self.cluster.clone());
        request.metadata_mut().insert(TO_HEADER, self.to.clone());
        Ok(request)
    }
}

type Channels = HashMap<(u64, Lane), (Vec<String>, Channel)>;

/// Connections to the other members, made when first needed and again when lost.
#[derive(Clone)]
pub(crate) struct Peers {
    cluster: u64,
    dialer: Dialer,
    channels: Arc<Mutex<Channels>>,
    removed: Shutdown,
    clock: Clock,
}

impl Peers {
    pub fn new(cluster: u64, dialer: Dialer, clock: Clock) -> Self {
        Self { cluster, dialer, channels: Arc::default(), removed: Shutdown::new(), clock }
    }

    /// Triggered once another member says that this one was removed.
    pub fn removed(&self) -> &Shutdown {
        &self.removed
    }

    pub fn client(&self, id: u64, node: &Node, lane: Lane) -> io::Result<Client> {
        let channel = self.channel(id, &node.peer_urls, lane)?;
        let header =
            |id: u64| MetadataValue::try_from(hex(id)).expect("invariant: hexadecimal digits are ASCII");
        let stamp = Stamp { cluster: header(self.cluster), to: header(id) };
        let client = PeerClient::with_interceptor(channel, stamp);
        Ok(client.max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE))
    }

    /// A connection to a member of which only the URL is known.
    pub fn stranger(&self, url: &str) -> io::Result<Channel> {
        self.connect(&[url.to_owned()])
    }

    fn connection(&self, target: u64, node: &Node, lane: Lane) -> Connection {
        let traffic = Traffic::with(target);
        Connection { peers: self.clone(), target, node: node.clone(), lane, traffic }
    }

    fn channel(&self, id: u64, urls: &[String], lane: Lane) -> io::Result<Channel> {
        let mut channels = self.channels.lock();
        if let Some((known, channel)) = channels.get(&(id, lane))
            && known == urls
        {
            return Ok(channel.clone());
        }
        let channel = self.connect(urls)?;
        channels.insert((id, lane), (urls.to_owned(), channel.clone()));
        Ok(channel)
    }

    fn connect(&self, urls: &[String]) -> io::Result<Channel> {
        self.dialer.lazy(urls, |endpoint| endpoint.connect_timeout(2 * self.dialer.timeout))
    }
}

/// Whether the request surely never left: then it can be sent again.
pub(crate) fn was_not_sent(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

impl RaftNetworkFactory<TypeConfig> for Peers {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, node: &Node) -> Connection {
        self.connection(target, node, Lane::Log)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Node) -> Connection {
        self.connection(target, node, Lane::Control)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &Node) -> Connection {
        self.connection(target, node, Lane::Bulk)
    }
}

/// openraft's way to one member.
pub(crate) struct Connection {
    peers: Peers,
    target: u64,
    node: Node,
    lane: Lane,
    traffic: Traffic,
}

type RpcResult<T> = Result<T, RPCError<TypeConfig>>;

fn unreachable(error: &(impl std::error::Error + 'static)) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::new(error))
}

fn broken(error: &io::Error) -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::new(error))
}

async fn in_time<T>(
    option: &RPCOption,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> RpcResult<T> {
    match tokio::time::timeout(option.hard_ttl(), call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(unreachable(&status)),
        Err(elapsed) => Err(unreachable(&elapsed)),
    }
}

impl Connection {
    fn client(&self, lane: Lane) -> RpcResult<Client> {
        self.peers.client(self.target, &self.node, lane).map_err(|error| unreachable(&error))
    }
}

impl Connection {
    /// Passes an answer on; one that says that this member was removed is also told to the store.
    fn heed<T>(&self, answer: RpcResult<T>) -> RpcResult<T> {
        if let Err(error) = &answer
            && error.to_string().contains(REMOVED)
        {
            self.peers.removed.trigger();
        }
        answer
    }
}

impl NetBackoff<TypeConfig> for Connection {
    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(RETRY)))
    }
}

impl NetVote<TypeConfig> for Connection {
    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<VoteResponse<TypeConfig>> {
        let mut client = self.client(Lane::Control)?;
        let answer = self.heed(in_time(&option, client.vote(vote_request_to_wire(&rpc))).await)?;
        vote_response_from_wire(answer).map_err(|error| broken(&error))
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<VoteResponse<TypeConfig>> {
        let mut client = self.client(Lane::Control)?;
        let answer = self.heed(in_time(&option, client.pre_vote(vote_request_to_wire(&rpc))).await)?;
        vote_response_from_wire(answer).map_err(|error| broken(&error))
    }
}

impl NetTransferLeader<TypeConfig> for Connection {
    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<TransferLeaderResponse<TypeConfig>> {
        let wire = peer::TransferLeaderRequest {
            from: Some(consensus::vote_to_wire(request.from_leader())),
            to: *request.to_node_id(),
            last: request.last_log_id().map(consensus::log_id_to_wire),
        };
        let mut client = self.client(Lane::Control)?;
        let answer = in_time(&option, client.transfer_leader(wire)).await?;
        if answer.refused.is_empty() {
            return Ok(Ok(()));
        }
        Err(broken(&io::Error::other(answer.refused)))
    }
}

type AppendAnswers<'s> = BoxStream<'s, RpcResult<StreamAppendResult<TypeConfig>>>;

impl NetStreamAppend<TypeConfig> for Connection {
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, RpcResult<AppendAnswers<'s>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        Box::pin(async move {
            match self.lane {
                Lane::Control => self.append_one(input, option).await,
                _ => self.append_all(input, option).await,
            }
        })
    }
}

/// What every turn of a leader's consensus passes before it sends something to the others.
pub(crate) fn before_leader_send() {
    hit("raftBeforeLeaderSend");
}

impl Connection {
    /// The first request is awaited before the member is called, since the requests are where openraft pauses after a
    /// failure: a member that refuses connections would be called without end.
    async fn append_all<'s, S>(&'s mut self, mut input: S, option: RPCOption) -> RpcResult<AppendAnswers<'s>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        let Some(first) = input.next().await else { return Ok(Box::pin(stream::empty())) };
        let input = stream::iter([first]).chain(input);
        let mut client = self.client(self.lane)?;
        let sent = self.traffic.sent.clone();
        let requests = input.map(move |request| {
            before_leader_send();
            let request = append_request_to_wire(&request);
            sent.increment(request.encoded_len() as u64);
            request
        });
        let answers = in_time(&option, client.append(requests)).await;
        let answers = answers.inspect_err(|_| self.traffic.failed.increment(1))?;
        let traffic = self.traffic.clone();
        let answers = answers.map(move |answer| {
            let answer = answer.map_err(|status| unreachable(&status));
            let answer = answer.inspect_err(|_| traffic.failed.increment(1))?;
            traffic.received.increment(answer.encoded_len() as u64);
            append_answer_from_wire(answer).map_err(|error| broken(&error))
        });
        Ok(Box::pin(answers))
    }

    async fn append_one<'s, S>(&'s mut self, mut input: S, option: RPCOption) -> RpcResult<AppendAnswers<'s>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        let Some(request) = input.next().await else { return Ok(Box::pin(stream::empty())) };
        let mut client = self.client(Lane::Control)?;
        let request = append_request_to_wire(&request);
        self.traffic.sent.increment(request.encoded_len() as u64);
        let answer = in_time(&option, client.append_one(request)).await;
        let answer = answer.inspect_err(|_| self.traffic.failed.increment(1))?;
        self.traffic.received.increment(answer.encoded_len() as u64);
        let answer = append_answer_from_wire(answer).map_err(|error| broken(&error));
        Ok(Box::pin(stream::iter([answer])))
    }
}

impl NetSnapshot<TypeConfig> for Connection {
    type SnapshotData = Folder;

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snap,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let (transfer, start) = (Transfer::to(self.target), self.peers.clock.monotonic());
        let mut client = self.client(Lane::Bulk)?;
        let network = |error: io::Error| StreamingError::Network(NetworkError::new(&error));
        let head = snapshot_head(vote, &snapshot).await.map_err(network)?;
        let chunks = snapshot_chunks(head, snapshot.snapshot);
        let answer = tokio::select! {
            answer = client.install_snapshot(chunks) => answer.map_err(|status| unreachable(&status))?,
            closed = cancel => return Err(StreamingError::Closed(closed)),
        };
        let vote = consensus::required_vote(answer.into_inner().vote).map_err(network)?;
        transfer.done(self.peers.clock.monotonic() - start);
        Ok(SnapshotResponse::new(vote))
    }
}

pub(crate) async fn snapshot_head(vote: Vote, snapshot: &Snap) -> io::Result<peer::SnapshotHead> {
    let folder = snapshot.snapshot.clone();
    let files = tokio::task::spawn_blocking(move || -> io::Result<Vec<peer::SnapshotFile>> {
        let sums = folder.files()?.into_iter().map(|(name, size)| {
            let crc32c = checksum(&folder.path().join(&name))?;
            Ok(peer::SnapshotFile { name, size, crc32c })
        });
        sums.collect()
    });
    Ok(peer::SnapshotHead {
        vote: Some(consensus::vote_to_wire(&vote)),
        last: snapshot.meta.last_log_id.as_ref().map(consensus::log_id_to_wire),
        membership: Some(consensus::stored_membership_to_wire(&snapshot.meta.last_membership)),
        files: files.await.map_err(io::Error::other)??,
    })
}

fn checksum(path: &std::path::Path) -> io::Result<u32> {
    use io::Read as _;
    let mut file = std::fs::File::open(path)?;
    let mut buffer = vec![0; CHUNK];
    let mut sum = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(sum),
            read => sum = crc32c::crc32c_append(sum, &buffer[..read]),
        }
    }
}

/// The head, then the files' bytes one after the other. A file that cannot be read ends the stream early, which the
/// receiver notices by the sizes.
pub(crate) fn snapshot_chunks(
    head: peer::SnapshotHead,
    folder: Folder,
) -> impl Stream<Item = peer::SnapshotChunk> + Send {
    use tokio::io::AsyncReadExt as _;
    let names: Vec<String> = head.files.iter().map(|file| file.name.clone()).collect();
    let first = peer::SnapshotChunk { part: Some(peer::snapshot_chunk::Part::Head(head)) };
    let data = stream::unfold(
        (names.into_iter(), None::<tokio::fs::File>, folder),
        |(mut names, mut file, folder)| async {
            loop {
                if file.is_none() {
                    file = Some(tokio::fs::File::open(folder.path().join(names.next()?)).await.ok()?);
                }
                let mut buffer = Vec::with_capacity(CHUNK);
                let open = file.as_mut().expect("invariant: just opened");
                match open.take(CHUNK as u64).read_to_end(&mut buffer).await.ok()? {
                    0 => file = None,
                    _ => {
                        let part = Some(peer::snapshot_chunk::Part::Data(buffer.into()));
                        return Some((peer::SnapshotChunk { part }, (names, file, folder)));
                    }
                }
            }
        },
    );
    stream::once(async { first }).chain(data)
}

fn vote_request_to_wire(request: &VoteRequest<TypeConfig>) -> peer::VoteRequest {
    peer::VoteRequest {
        vote: Some(consensus::vote_to_wire(&request.vote)),
        last: request.last_log_id.as_ref().map(consensus::log_id_to_wire),
        leadership_transfer: request.leadership_transfer,
    }
}

fn vote_response_from_wire(answer: peer::VoteResponse) -> io::Result<VoteResponse<TypeConfig>> {
    let vote = consensus::required_vote(answer.vote)?;
    Ok(VoteResponse::new(vote, answer.last.map(consensus::log_id_from_wire), answer.granted))
}

fn append_request_to_wire(request: &AppendEntriesRequest<TypeConfig>) -> peer::AppendRequest {
    peer::AppendRequest {
        vote: Some(consensus::vote_to_wire(&request.vote)),
        prev: request.prev_log_id.as_ref().map(consensus::log_id_to_wire),
        entries: request.entries.iter().map(consensus::entry_to_wire).collect(),
        commit: request.leader_commit.as_ref().map(consensus::log_id_to_wire),
    }
}

fn append_answer_from_wire(answer: peer::AppendResponse) -> io::Result<StreamAppendResult<TypeConfig>> {
    use peer::append_response::Result as Wire;
    Ok(match answer.result {
        Some(Wire::Matched(matched)) => Ok(matched.id.map(consensus::log_id_from_wire)),
        Some(Wire::Conflict(id)) => Err(StreamAppendError::Conflict(consensus::log_id_from_wire(id))),
        Some(Wire::HigherVote(vote)) => Err(StreamAppendError::HigherVote(consensus::vote_from_wire(vote))),
        None => return Err(consensus::damaged("an answer", "it says nothing")),
    })
}

#[cfg(test)]
mod tests {
    use env::Env;

    use super::*;

    fn request() -> AppendEntriesRequest<TypeConfig> {
        let vote = consensus::vote_from_wire(peer::BallotVote { term: 1, node: 1, committed: true });
        AppendEntriesRequest { vote, prev_log_id: None, entries: Vec::new(), leader_commit: None }
    }

    #[tokio::test]
    async fn who_refuses_connections_is_called_when_there_is_a_request_and_not_before() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
        let node = Node { peer_urls: vec![format!("http://{port}")], ..Node::default() };
        let dialer = Dialer::new(None, None, Duration::from_secs(1));
        let mut log = Peers::new(0, dialer, Env::real().clock).connection(2, &node, Lane::Log);
        let option = || RPCOption::new(Duration::from_secs(1));
        let nothing = log.stream_append(stream::empty(), option()).await.expect("nobody was called");
        assert_eq!(nothing.count().await, 0);
        let refused = log.stream_append(stream::iter([request()]), option()).await;
        assert!(matches!(refused.map(drop), Err(RPCError::Unreachable(_))));
    }
}
