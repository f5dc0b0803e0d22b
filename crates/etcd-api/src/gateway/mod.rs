//! The gRPC-JSON gateway: each call of the API as a POST of JSON, as grpc-gateway has it in etcd.
//!
//! One table of paths and one transcoder over the API's descriptors: a request becomes the gRPC call that a client would
//! have made and takes the same way through the services, so that what holds there holds here. What it takes is counted as
//! its client's, with the JSON on both sides. Read `headers.rs` for metadata, `socket.rs` for
//! calls in WebSockets.

mod headers;
mod socket;

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use bytes::{Buf as _, BytesMut};
use env::Clock;
use futures::{Stream, StreamExt as _};
use http_body_util::BodyExt as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor, SerializeOptions};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::ServiceExt as _;
use transport::Peer;

use self::socket::Sockets;
use crate::budget::{Budget, CALL, Permit, Share};
use crate::calls::Counted;
use crate::context::Context;
use crate::deadline::Deadline;
use crate::framing::{self, PREFIX};
use crate::lazy;

/// Bytes of JSON for a byte of protobuf, at most about: text is written in base64, with names around it.
const JSON_OVERHEAD: usize = 2;
/// Bytes that an answer takes for each of its own: as it came, as a message, and as JSON.
const ANSWER_OVERHEAD: u64 = 4;

/// A path below `/v3/`, the service behind it, and the service's methods by what follows the path.
type Group = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

/// As etcd has them (`rpc.proto`, `google.api.http`).
const PATHS: &[Group] = &[
    (
        "kv",
        "etcdserverpb.KV",
        &[
            ("range", "Range"),
            ("put", "Put"),
            ("deleterange", "DeleteRange"),
            ("txn", "Txn"),
            ("compaction", "Compact"),
        ],
    ),
    ("watch", "etcdserverpb.Watch", &[("", "Watch")]),
    (
        "kv/lease",
        "etcdserverpb.Lease",
        &[("revoke", "LeaseRevoke"), ("timetolive", "LeaseTimeToLive"), ("leases", "LeaseLeases")],
    ),
    (
        "lease",
        "etcdserverpb.Lease",
        &[
            ("grant", "LeaseGrant"),
            ("revoke", "LeaseRevoke"),
            ("keepalive", "LeaseKeepAlive"),
            ("timetolive", "LeaseTimeToLive"),
            ("leases", "LeaseLeases"),
        ],
    ),
    (
        "cluster/member",
        "etcdserverpb.Cluster",
        &[
            ("add", "MemberAdd"),
            ("remove", "MemberRemove"),
            ("update", "MemberUpdate"),
            ("list", "MemberList"),
            ("promote", "MemberPromote"),
        ],
    ),
    (
        "maintenance",
        "etcdserverpb.Maintenance",
        &[
            ("alarm", "Alarm"),
            ("status", "Status"),
            ("defragment", "Defragment"),
            ("hash", "Hash"),
            ("hashkv", "HashKV"),
            ("snapshot", "Snapshot"),
            ("transfer-leadership", "MoveLeader"),
            ("downgrade", "Downgrade"),
        ],
    ),
    (
        "auth",
        "etcdserverpb.Auth",
        &[
            ("enable", "AuthEnable"),
            ("disable", "AuthDisable"),
            ("status", "AuthStatus"),
            ("authenticate", "Authenticate"),
            ("user/add", "UserAdd"),
            ("user/get", "UserGet"),
            ("user/list", "UserList"),
            ("user/delete", "UserDelete"),
            ("user/changepw", "UserChangePassword"),
            ("user/grant", "UserGrantRole"),
            ("user/revoke", "UserRevokeRole"),
            ("role/add", "RoleAdd"),
            ("role/get", "RoleGet"),
            ("role/list", "RoleList"),
            ("role/delete", "RoleDelete"),
            ("role/grant", "RoleGrantPermission"),
            ("role/revoke", "RoleRevokePermission"),
        ],
    ),
    (
        "election",
        "v3electionpb.Election",
        &[
            ("campaign", "Campaign"),
            ("proclaim", "Proclaim"),
            ("leader", "Leader"),
            ("observe", "Observe"),
            ("resign", "Resign"),
        ],
    ),
    ("lock", "v3lockpb.Lock", &[("lock", "Lock"), ("unlock", "Unlock")]),
];

/// One call.
#[derive(Clone)]
struct Call {
    method: MethodDescriptor,
    /// The services, without a gateway.
    services: Counted<Routes>,
    max_bytes: usize,
    /// Calls that the gateway may have at a time: etcd's is one client, with one connection.
    streams: Arc<Semaphore>,
    budget: Budget,
    clock: Clock,
}

/// Who asks, and what it says of the call.
struct Caller {
    metadata: HeaderMap,
    deadline: Deadline,
    peer: Peer,
    share: Share,
}

/// The gateway in front of services; requests that are too large are refused, those above `streams` at a time wait. What
/// it knows of the messages takes a megabyte: it is there from the first request on.
pub(crate) fn router(services: &Counted<Routes>, streams: u32, context: &Context) -> Router {
    let (services, context) = (services.clone(), context.clone());
    lazy::router(&["/v3", "/v3/", "/v3/{*rest}"], move || routes(&services, streams, &context))
}

fn routes(services: &Counted<Routes>, streams: u32, context: &Context) -> Router {
    let max_bytes = context.limits.max_message() * JSON_OVERHEAD;
    let streams =
        Arc::new(Semaphore::new(usize::try_from(streams).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS)));
    let pool =
        DescriptorPool::decode(protos::ETCD_DESCRIPTORS).expect("invariant: made by the compiler of protos");
    let mut router = Router::new();
    for (group, service, methods) in PATHS {
        let service =
            pool.get_service_by_name(service).expect("invariant: the table names services of the API");
        for (path, name) in *methods {
            let mut found = service.methods().filter(|method| method.name() == *name);
            let method = found.next().expect("invariant: the table names methods of the service");
            let path = format!("/v3/{group}/{path}");
            let (services, streams) = (services.clone(), streams.clone());
            let (budget, clock) = (context.budget.clone(), context.env.clock.clone());
            let call = Call { method, services, max_bytes, streams, budget, clock };
            router = router.route(path.trim_end_matches('/'), any(answer).with_state(call));
        }
    }
    router
        .route("/v3", any(async |method: Method| crate::http::moved(&method, "/v3/")))
        .route("/v3/", any(unknown))
        .route("/v3/{*rest}", any(unknown))
        .layer(Extension(Sockets { tasks: context.tasks.clone(), shutdown: context.shutdown.clone() }))
}

async fn unknown(Extension(sockets): Extension<Sockets>, request: Request) -> Response {
    sockets.serve(request, false, |_| async { error(&Status::not_found("Not Found")) }).await
}

async fn answer(
    State(call): State<Call>,
    Extension(sockets): Extension<Sockets>,
    request: Request,
) -> Response {
    let takes_many = call.method.is_client_streaming();
    sockets.serve(request, takes_many, |request| called(call, request)).await
}

async fn called(call: Call, request: Request) -> Response {
    if request.method() != Method::POST {
        return error(&Status::unimplemented("Method Not Allowed"));
    }
    let answered = if call.method.is_client_streaming() || call.method.is_server_streaming() {
        call.stream(request).await
    } else {
        call.unary(request).await
    };
    answered.unwrap_or_else(|status| error(&status))
}

/// A message, and what it takes.
struct Counting<T>(T, Option<Permit>);

impl Counting<DynamicMessage> {
    /// As JSON, counted until it is sent.
    fn json(self, write: impl FnOnce(&str) -> String) -> Result<Bytes, Status> {
        let json = Bytes::from(write(&to_json(self.0)?));
        Ok(match self.1 {
            Some(permit) => permit.hold(json),
            None => json,
        })
    }
}

impl Caller {
    fn of(call: &Call, request: &Request) -> Result<Self, Status> {
        let peer = request.extensions().get::<Peer>();
        let share = Share::of_peer(&call.budget, peer);
        let metadata = headers::metadata(request.headers());
        let deadline = Deadline::of(request.headers(), &call.clock)?;
        let peer = peer.cloned().unwrap_or_default();
        let peer = Peer { address: peer.address, note: peer.note, ..Peer::default() };
        Ok(Self { metadata, deadline, peer, share })
    }
}

impl Call {
    async fn unary(&self, request: Request) -> Result<Response, Status> {
        let caller = Caller::of(self, &request)?;
        // Counted by the call as soon as it begins.
        let Counting(message, permit) = self.whole(request, &caller.share).await?;
        let body = Body::from(frame(&message));
        drop((message, permit));
        let frames = self.ask(caller, body).await?;
        let mut frames = std::pin::pin!(frames);
        let message = frames.next().await.ok_or_else(|| Status::internal("no answer"))??;
        // The status comes behind the message.
        if let Some(Err(status)) = frames.next().await {
            return Err(status);
        }
        Ok(json_response(StatusCode::OK, message.json(str::to_owned)?.into()))
    }

    async fn stream(&self, request: Request) -> Result<Response, Status> {
        let caller = Caller::of(self, &request)?;
        let body = if self.method.is_client_streaming() {
            let limits = (caller.share.clone(), self.max_bytes);
            Body::from_stream(messages(self.method.input(), request.into_body(), limits))
        } else {
            Body::from(frame(&self.whole(request, &caller.share).await?.0))
        };
        let mut frames = Box::pin(self.ask(caller, body).await?);
        let first = match frames.next().await {
            Some(Err(status)) => {
                return Ok(json_response(status_code(&status), line("error", &error_json(&status)).into()));
            }
            first => first,
        };
        let lines = futures::stream::iter(first).chain(frames).map(|message| {
            let json = message.and_then(|message| message.json(|json| line("result", json)));
            Ok::<_, Infallible>(json.unwrap_or_else(|status| line("error", &error_json(&status)).into()))
        });
        Ok(json_response(StatusCode::OK, Body::from_stream(lines)))
    }

    /// The request's only message. An empty body is an empty message.
    async fn whole(&self, request: Request, share: &Share) -> Result<Counting<DynamicMessage>, Status> {
        let (mut body, mut bytes, mut permit) =
            (request.into_body().into_data_stream(), BytesMut::new(), None);
        while let Some(data) = body.next().await {
            let data = data.map_err(|error| Status::invalid_argument(error.to_string()))?;
            bytes.extend_from_slice(&data);
            check_size(bytes.len(), self.max_bytes)?;
            count(&mut permit, bytes.len() as u64, share)?;
        }
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Counting(DynamicMessage::new(self.method.input()), permit));
        }
        let mut reader = serde_json::Deserializer::from_slice(&bytes);
        Ok(Counting(from_json(self.method.input(), &mut reader)?, permit))
    }

    /// Makes the call; its messages, and in the end an error if it is one.
    async fn ask(
        &self,
        caller: Caller,
        body: Body,
    ) -> Result<impl Stream<Item = Result<Counting<DynamicMessage>, Status>> + use<>, Status> {
        let path = format!("/{}/{}", self.method.parent_service().full_name(), self.method.name());
        let mut request = http::Request::post(path)
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            // A certificate of the connection is not the caller's word.
            .header("grpcgateway-accept", "*/*")
            .extension(caller.peer)
            .body(tonic::body::Body::new(body))
            .map_err(|error| Status::internal(error.to_string()))?;
        request.headers_mut().extend(caller.metadata);
        let deadline = caller.deadline;
        let stopped = |_| Status::unavailable("etcdserver: server stopped");
        let stream = deadline.bound(self.streams.clone().acquire_owned()).await?.map_err(stopped)?;
        let Ok(response) = deadline.bound(self.services.clone().oneshot(request)).await?;
        if let Some(status) =
            Status::from_header_map(response.headers()).filter(|status| status.code() != Code::Ok)
        {
            return Err(status);
        }
        let answers =
            Answers { body: response.into_body(), buffer: BytesMut::new(), output: self.method.output() };
        let state = (answers, (caller.share, deadline), false, stream);
        Ok(futures::stream::unfold(state, |(mut answers, (share, deadline), ended, stream)| async move {
            if ended {
                return None;
            }
            let next = deadline.bound(answers.next(&share)).await.unwrap_or_else(|late| Some(Err(late)))?;
            let ended = next.is_err();
            Some((next, (answers, (share, deadline), ended, stream)))
        }))
    }
}

/// Takes what so many bytes are beyond what is taken, if they are many.
fn count(permit: &mut Option<Permit>, bytes: u64, share: &Share) -> Result<(), Status> {
    let taken = permit.as_ref().map_or(CALL, |permit| CALL + permit.bytes());
    if bytes <= taken {
        return Ok(());
    }
    let more = share.try_take(bytes - taken)?;
    match permit {
        Some(permit) => permit.join(more),
        none => *none = Some(more),
    }
    Ok(())
}

fn check_size(bytes: usize, max: usize) -> Result<(), Status> {
    if bytes <= max {
        return Ok(());
    }
    Err(Status::invalid_argument(format!("the request has more than {max} bytes")))
}

/// What a call is answered.
struct Answers {
    body: tonic::body::Body,
    buffer: BytesMut,
    output: MessageDescriptor,
}

impl Answers {
    /// The next message of a gRPC body; nothing after its last, an error if the call failed. It is counted as soon as its
    /// length is known.
    async fn next(&mut self, share: &Share) -> Option<Result<Counting<DynamicMessage>, Status>> {
        let mut permit = None;
        loop {
            if let Some(length) = framing::length(&self.buffer) {
                if let Err(refused) = count(&mut permit, length as u64 * ANSWER_OVERHEAD, share) {
                    return Some(Err(refused));
                }
                let end = PREFIX + length;
                if self.buffer.len() >= end {
                    let message = self.buffer.split_to(end).freeze().slice(PREFIX..);
                    let message = DynamicMessage::decode(self.output.clone(), message);
                    let failed = |error: prost::DecodeError| Status::internal(error.to_string());
                    return Some(message.map(|message| Counting(message, permit)).map_err(failed));
                }
            }
            match self.body.frame().await? {
                Ok(frame) => match frame.into_data() {
                    Ok(data) => self.buffer.extend_from_slice(&data),
                    Err(frame) => {
                        let end = frame.into_trailers().ok();
                        let status = end.and_then(|end| Status::from_header_map(&end))?;
                        return (status.code() != Code::Ok).then_some(Err(status));
                    }
                },
                Err(status) => return Some(Err(status)),
            }
        }
    }
}

/// The messages of a body that holds one JSON value after the other, as gRPC has them. What has come of one is counted,
/// and it may have `max` bytes.
fn messages(
    input: MessageDescriptor,
    body: Body,
    (share, max): (Share, usize),
) -> impl Stream<Item = Result<Bytes, Status>> {
    let state = (body.into_data_stream(), BytesMut::new(), (input, share), false);
    futures::stream::unfold(state, move |(mut body, mut buffer, (input, share), mut ended)| async move {
        let mut permit = None;
        loop {
            let counted =
                check_size(buffer.len(), max).and_then(|()| count(&mut permit, buffer.len() as u64, &share));
            let next = match counted {
                Ok(()) => next_value(&mut buffer, &input),
                Err(refused) => Some(Err(refused)),
            };
            match next {
                Some(Ok(message)) => {
                    return Some((Ok(frame(&message)), (body, buffer, (input, share), ended)));
                }
                Some(Err(status)) if !ended => {
                    buffer.clear();
                    return Some((Err(status), (body, buffer, (input, share), true)));
                }
                _ if ended => return None,
                _ => {}
            }
            match body.next().await {
                Some(Ok(data)) => buffer.extend_from_slice(&data),
                _ => ended = true,
            }
        }
    })
}

/// The first value of a buffer, if it is all there.
fn next_value(buffer: &mut BytesMut, input: &MessageDescriptor) -> Option<Result<DynamicMessage, Status>> {
    let mut values = serde_json::Deserializer::from_slice(buffer).into_iter::<Value>();
    match values.next()? {
        Ok(value) => {
            let read = values.byte_offset();
            buffer.advance(read);
            Some(from_json(input.clone(), value))
        }
        Err(error) if error.is_eof() => None,
        Err(error) => Some(Err(Status::invalid_argument(error.to_string()))),
    }
}

fn from_json<'de, D>(input: MessageDescriptor, json: D) -> Result<DynamicMessage, Status>
where
    D: serde::Deserializer<'de>,
    D::Error: std::fmt::Display,
{
    let options = prost_reflect::DeserializeOptions::new().deny_unknown_fields(false);
    let message = DynamicMessage::deserialize_with_options(input, json, &options);
    message.map_err(|error| Status::invalid_argument(error.to_string()))
}

/// As protojson with the names of the fields in the descriptors, in their order; what is empty is left out.
fn to_json(message: DynamicMessage) -> Result<String, Status> {
    let options = SerializeOptions::new().use_proto_field_name(true).stringify_64_bit_integers(true);
    let failed = |error: &dyn std::fmt::Display| Status::internal(error.to_string());
    let mut out = Vec::new();
    let written = message.serialize_with_options(&mut serde_json::Serializer::new(&mut out), &options);
    written.map_err(|error| failed(&error))?;
    String::from_utf8(out).map_err(|error| failed(&error))
}

/// A request as it is sent; requests have a limit far below what a frame can hold.
fn frame(message: &DynamicMessage) -> Bytes {
    framing::frame(message).unwrap_or_default()
}

fn line(name: &str, value: &str) -> String {
    format!("{{\"{name}\":{value}}}\n")
}

fn error_json(status: &Status) -> String {
    json!({ "code": status.code() as i32, "message": status.message() }).to_string()
}

fn error(status: &Status) -> Response {
    json_response(status_code(status), error_json(status).into())
}

fn json_response(status: StatusCode, body: Body) -> Response {
    let kind = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    (status, [kind], body).into_response()
}

/// As grpc-gateway maps them (`runtime/errors.go`).
fn status_code(status: &Status) -> StatusCode {
    match status.code() {
        Code::Ok => StatusCode::OK,
        Code::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Reads a request of some call, or writes its answer as JSON. For the fuzz targets.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn any_message(data: &[u8]) {
    use prost::Message as _;
    let [call, side, data @ ..] = data else { return };
    static METHODS: std::sync::LazyLock<Vec<MethodDescriptor>> = std::sync::LazyLock::new(|| {
        let pool = DescriptorPool::decode(protos::ETCD_DESCRIPTORS).expect("descriptors");
        pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()).collect()
    });
    let method = &METHODS[usize::from(*call) % METHODS.len()];
    if side % 2 == 0 {
        let mut buffer = BytesMut::from(data);
        while let Some(Ok(message)) = next_value(&mut buffer, &method.input()) {
            let again = DynamicMessage::decode(method.input(), &frame(&message)[PREFIX..]);
            // Whether what is empty was said is lost.
            assert_eq!(again.expect("a message").encode_to_vec(), message.encode_to_vec());
        }
        drop(from_json(method.input(), &mut serde_json::Deserializer::from_slice(data)));
    } else if let Ok(message) = DynamicMessage::decode(method.output(), data) {
        let Ok(json) = to_json(message.clone()) else { return };
        let read =
            from_json(method.output(), &mut serde_json::Deserializer::from_str(&json)).expect("our JSON");
        assert_eq!(to_json(read).expect("JSON"), json);
    }
}
