//! Requests and answers as etcd's gRPC services carry them.

use std::time::Duration;

use bytes::Bytes;
use protos::etcd::etcdserverpb as pb;
use protos::etcd::etcdserverpb::kv_client::KvClient;
use protos::etcd::etcdserverpb::lease_client::LeaseClient;
use protos::etcd::mvccpb;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request as Call, Status};

use crate::history::{Change, Compare, Keys, Kv, Outcome, Refusal, Request, Response, Step};

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// Seconds that a lease lives: longer than any run.
const LEASE_TTL: i64 = 3600;

/// Who asks: nobody in particular, or the user whose token it is.
#[derive(Clone, Debug, Default)]
pub struct Token(Option<MetadataValue<Ascii>>);

impl Token {
    /// As a member gave it.
    pub fn new(text: &str) -> Self {
        Self(text.parse().ok())
    }
}

impl Interceptor for Token {
    fn call(&mut self, mut call: Call<()>) -> Result<Call<()>, Status> {
        if let Some(token) = &self.0 {
            call.metadata_mut().insert("authorization", token.clone());
        }
        Ok(call)
    }
}

/// A connection on which one user asks.
pub type Connection = InterceptedService<Channel, Token>;

/// A connection to a member, if it can be had now.
pub async fn connect(endpoint: &str, token: &Token) -> Option<Connection> {
    let endpoint = Endpoint::from_shared(endpoint.to_owned()).ok()?;
    let channel = endpoint.connect_timeout(CONNECT_TIMEOUT).connect().await.ok()?;
    Some(InterceptedService::new(channel, token.clone()))
}

/// Sends a request.
///
/// # Errors
/// What is no answer of the store: the request may have been done or not.
pub async fn send(channel: &Connection, request: &Request) -> Result<Response, Status> {
    match answer(channel, request).await {
        Err(status) => refusal(&status).map(Response::Refused).ok_or(status),
        answered => answered,
    }
}

/// Whether the store itself says that it did not do it.
pub fn is_refusal(status: &Status) -> bool {
    let texts = ["permission denied", "is not granted to the", "invalid auth token", "session is expired"];
    refusal(status).is_some() || texts.iter().any(|text| status.message().contains(text))
}

fn refusal(status: &Status) -> Option<Refusal> {
    let refusals = [
        ("required revision has been compacted", Refusal::Compacted),
        ("required revision is a future revision", Refusal::FutureRevision),
        ("requested lease not found", Refusal::NoLease),
        ("lease already exists", Refusal::LeaseExists),
    ];
    refusals.into_iter().find(|(text, _)| status.message().contains(text)).map(|(_, refusal)| refusal)
}

async fn answer(channel: &Connection, request: &Request) -> Result<Response, Status> {
    let (mut kv, mut leases) = (KvClient::new(channel.clone()), LeaseClient::new(channel.clone()));
    match request {
        Request::Range { keys, revision, serializable } => {
            let request =
                pb::RangeRequest { revision: *revision, serializable: *serializable, ..range(keys) };
            let answer = kv.range(request).await?.into_inner();
            Ok(Response::Range { revision: header(answer.header.as_ref())?, kvs: kvs(answer.kvs) })
        }
        Request::Txn { compares, then, otherwise } => txn(&mut kv, compares, then, otherwise).await,
        Request::Grant { lease } => {
            leases.lease_grant(pb::LeaseGrantRequest { ttl: LEASE_TTL, id: *lease }).await?;
            Ok(Response::Done)
        }
        Request::Revoke { lease } => {
            leases.lease_revoke(pb::LeaseRevokeRequest { id: *lease }).await?;
            Ok(Response::Done)
        }
        Request::Compact { revision } => {
            kv.compact(pb::CompactionRequest { revision: *revision, physical: false }).await?;
            Ok(Response::Done)
        }
        Request::Others { .. } => Err(Status::unimplemented("no client asks for that")),
    }
}

/// A put or a delete alone goes the way of its own that clients use.
async fn txn(
    kv: &mut KvClient<Connection>,
    compares: &[Compare],
    then: &[Step],
    otherwise: &[Step],
) -> Result<Response, Status> {
    let done = |revision, outcome| Response::Txn { revision, succeeded: true, outcomes: vec![outcome] };
    match (compares, then) {
        ([], [Step::Put { key, value, lease }]) => {
            let answer = kv.put(put(key, value, *lease)).await?.into_inner();
            Ok(done(header(answer.header.as_ref())?, Outcome::Put(answer.prev_kv.map(one))))
        }
        ([], [Step::Delete(keys)]) => {
            let answer = kv.delete_range(delete(keys)).await?.into_inner();
            Ok(done(header(answer.header.as_ref())?, Outcome::Deleted(kvs(answer.prev_kvs))))
        }
        _ => {
            let request = pb::TxnRequest {
                compare: compares.iter().map(compare).collect(),
                success: then.iter().map(operation).collect(),
                failure: otherwise.iter().map(operation).collect(),
            };
            let answer = kv.txn(request).await?.into_inner();
            let outcomes: Option<Vec<Outcome>> = answer.responses.into_iter().map(outcome).collect();
            let outcomes = outcomes.ok_or_else(|| Status::internal("an answer without its steps"))?;
            let revision = header(answer.header.as_ref())?;
            Ok(Response::Txn { revision, succeeded: answer.succeeded, outcomes })
        }
    }
}

fn header(header: Option<&pb::ResponseHeader>) -> Result<i64, Status> {
    header.map(|header| header.revision).ok_or_else(|| Status::internal("an answer without a header"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn one(kv: mvccpb::KeyValue) -> Kv {
    Kv {
        key: text(&kv.key),
        value: text(&kv.value),
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        lease: kv.lease,
    }
}

fn kvs(kvs: Vec<mvccpb::KeyValue>) -> Vec<Kv> {
    kvs.into_iter().map(one).collect()
}

fn range(keys: &Keys) -> pb::RangeRequest {
    pb::RangeRequest { key: bytes(&keys.from), range_end: bytes(&keys.end), ..Default::default() }
}

fn put(key: &str, value: &str, lease: i64) -> pb::PutRequest {
    pb::PutRequest { key: bytes(key), value: bytes(value), lease, prev_kv: true, ..Default::default() }
}

fn delete(keys: &Keys) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest { key: bytes(&keys.from), range_end: bytes(&keys.end), prev_kv: true }
}

fn compare(compare: &Compare) -> pb::Compare {
    pb::Compare {
        result: pb::compare::CompareResult::Equal.into(),
        target: pb::compare::CompareTarget::Mod.into(),
        key: bytes(&compare.key),
        range_end: Bytes::new(),
        target_union: Some(pb::compare::TargetUnion::ModRevision(compare.mod_revision)),
    }
}

fn operation(step: &Step) -> pb::RequestOp {
    use pb::request_op::Request;
    let request = match step {
        Step::Put { key, value, lease } => Request::RequestPut(put(key, value, *lease)),
        Step::Delete(keys) => Request::RequestDeleteRange(delete(keys)),
        Step::Get(keys) => Request::RequestRange(range(keys)),
    };
    pb::RequestOp { request: Some(request) }
}

fn outcome(operation: pb::ResponseOp) -> Option<Outcome> {
    use pb::response_op::Response;
    match operation.response? {
        Response::ResponsePut(answer) => Some(Outcome::Put(answer.prev_kv.map(one))),
        Response::ResponseDeleteRange(answer) => Some(Outcome::Deleted(kvs(answer.prev_kvs))),
        Response::ResponseRange(answer) => Some(Outcome::Got(kvs(answer.kvs))),
        Response::ResponseTxn(_) => None,
    }
}

/// A watch from a revision on, with bookmarks.
pub fn watch(keys: &Keys, from: i64, previous: bool) -> pb::WatchRequest {
    let create = pb::WatchCreateRequest {
        key: bytes(&keys.from),
        range_end: bytes(&keys.end),
        start_revision: from,
        progress_notify: true,
        prev_kv: previous,
        ..Default::default()
    };
    pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) }
}

/// Asks for a bookmark.
pub fn progress() -> pb::WatchRequest {
    let request = pb::watch_request::RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
    pb::WatchRequest { request_union: Some(request) }
}

/// An event as a change.
pub fn change(event: mvccpb::Event) -> Change {
    let kv = event.kv.map(one);
    let (revision, key) = kv.as_ref().map_or((0, String::new()), |kv| (kv.mod_revision, kv.key.clone()));
    let put = event.r#type == i32::from(mvccpb::event::EventType::Put);
    Change { revision, key, now: kv.filter(|_| put), before: event.prev_kv.map(one) }
}
