//! The gRPC-JSON gateway: each call of the API as a POST of JSON, as grpc-gateway has it in etcd.
//!
//! One table of paths and one transcoder over the API's descriptors: a request becomes the gRPC call that a client would
//! have made and takes the same way through the services, so that what holds there holds here.

use std::convert::Infallible;
use std::sync::Arc;

use crate::calls::Counted;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use bytes::{Buf as _, BufMut as _, BytesMut};
use futures::{Stream, StreamExt as _};
use http_body_util::BodyExt as _;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor, SerializeOptions};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::ServiceExt as _;

/// Bytes of JSON for a byte of protobuf, at most about: text is written in base64, with names around it.
const JSON_OVERHEAD: usize = 2;
/// Bytes before a message of gRPC: whether it is compressed, and its length.
const FRAME_HEADER: usize = 5;

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
}

/// The gateway in front of services; requests of more than `max_bytes` are refused, those above `streams` at a time
/// wait.
pub(crate) fn router(services: &Counted<Routes>, max_bytes: usize, streams: u32) -> Router {
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
            let call = Call { method, services, max_bytes: max_bytes * JSON_OVERHEAD, streams };
            router = router.route(path.trim_end_matches('/'), any(answer).with_state(call));
        }
    }
    router.route("/v3/{*rest}", any(|| async { error(&Status::not_found("Not Found")) }))
}

async fn answer(State(call): State<Call>, request: Request) -> Response {
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

impl Call {
    async fn unary(&self, request: Request) -> Result<Response, Status> {
        let headers = request.headers().clone();
        let message = self.whole(request).await?;
        let frames = self.ask(&headers, Body::from(frame(&message))).await?;
        let mut frames = std::pin::pin!(frames);
        let message = frames.next().await.ok_or_else(|| Status::internal("no answer"))??;
        // The status comes behind the message.
        if let Some(Err(status)) = frames.next().await {
            return Err(status);
        }
        Ok(json_response(StatusCode::OK, to_json(message)?.into()))
    }

    async fn stream(&self, request: Request) -> Result<Response, Status> {
        let headers = request.headers().clone();
        let body = if self.method.is_client_streaming() {
            Body::from_stream(messages(self.method.input(), request.into_body()))
        } else {
            Body::from(frame(&self.whole(request).await?))
        };
        let mut frames = Box::pin(self.ask(&headers, body).await?);
        let first = match frames.next().await {
            Some(Err(status)) => {
                return Ok(json_response(status_code(&status), line("error", &error_json(&status)).into()));
            }
            first => first,
        };
        let lines = futures::stream::iter(first).chain(frames).map(|message| {
            let line = match message.and_then(to_json) {
                Ok(value) => line("result", &value),
                Err(status) => line("error", &error_json(&status)),
            };
            Ok::<_, Infallible>(line)
        });
        Ok(json_response(StatusCode::OK, Body::from_stream(lines)))
    }

    /// The request's only message. An empty body is an empty message.
    async fn whole(&self, request: Request) -> Result<DynamicMessage, Status> {
        let bytes = axum::body::to_bytes(request.into_body(), self.max_bytes).await;
        let bytes = bytes.map_err(|error| Status::invalid_argument(error.to_string()))?;
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(DynamicMessage::new(self.method.input()));
        }
        let mut reader = serde_json::Deserializer::from_slice(&bytes);
        from_json(self.method.input(), &mut reader)
    }

    /// Makes the call; its messages, and in the end an error if it is one.
    async fn ask(
        &self,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<impl Stream<Item = Result<DynamicMessage, Status>> + use<>, Status> {
        let path = format!("/{}/{}", self.method.parent_service().full_name(), self.method.name());
        let mut request = http::Request::post(path)
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            // A certificate of the connection is not the caller's word.
            .header("grpcgateway-accept", "*/*");
        if let Some(token) = headers.get(header::AUTHORIZATION) {
            request = request.header(header::AUTHORIZATION, token);
        }
        let request = request
            .body(tonic::body::Body::new(body))
            .map_err(|error| Status::internal(error.to_string()))?;
        let stopped = |_| Status::unavailable("etcdserver: server stopped");
        let stream = self.streams.clone().acquire_owned().await.map_err(stopped)?;
        let Ok(response) = self.services.clone().oneshot(request).await;
        if let Some(status) =
            Status::from_header_map(response.headers()).filter(|status| status.code() != Code::Ok)
        {
            return Err(status);
        }
        let state = (response.into_body(), BytesMut::new(), self.method.output(), false, stream);
        Ok(futures::stream::unfold(state, |(mut body, mut buffer, output, ended, stream)| async move {
            if ended {
                return None;
            }
            let next = next_message(&mut body, &mut buffer, &output).await?;
            let ended = next.is_err();
            Some((next, (body, buffer, output, ended, stream)))
        }))
    }
}

/// The next message of a gRPC body; nothing after its last, an error if the call failed.
async fn next_message(
    body: &mut tonic::body::Body,
    buffer: &mut BytesMut,
    output: &MessageDescriptor,
) -> Option<Result<DynamicMessage, Status>> {
    loop {
        if let Some(length) = buffer.get(1..FRAME_HEADER).and_then(|length| length.try_into().ok()) {
            let length = u32::from_be_bytes(length) as usize;
            if buffer.len() >= FRAME_HEADER + length {
                buffer.advance(FRAME_HEADER);
                let message = DynamicMessage::decode(output.clone(), buffer.split_to(length));
                return Some(message.map_err(|error| Status::internal(error.to_string())));
            }
        }
        match body.frame().await? {
            Ok(frame) => match frame.into_data() {
                Ok(data) => buffer.extend_from_slice(&data),
                Err(frame) => {
                    let status = frame.into_trailers().ok().and_then(|end| Status::from_header_map(&end))?;
                    return (status.code() != Code::Ok).then_some(Err(status));
                }
            },
            Err(status) => return Some(Err(status)),
        }
    }
}

/// The messages of a body that holds one JSON value after the other, as gRPC has them.
fn messages(input: MessageDescriptor, body: Body) -> impl Stream<Item = Result<Bytes, Status>> {
    let state = (body.into_data_stream(), BytesMut::new(), input, false);
    futures::stream::unfold(state, |(mut body, mut buffer, input, mut ended)| async move {
        loop {
            match next_value(&mut buffer, &input) {
                Some(Ok(message)) => return Some((Ok(frame(&message)), (body, buffer, input, ended))),
                Some(Err(status)) if !ended => {
                    buffer.clear();
                    return Some((Err(status), (body, buffer, input, true)));
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

fn frame(message: &DynamicMessage) -> Bytes {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(FRAME_HEADER + length);
    out.put_u8(0);
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    out.extend_from_slice(&message.encode_to_vec());
    out.freeze()
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
