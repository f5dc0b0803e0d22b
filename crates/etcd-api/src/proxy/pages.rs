//! Health and metrics, of the members and of the proxy.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use protos::etcd::etcdserverpb as pb;
use protos::etcd::etcdserverpb::kv_client::KvClient;
use protos::etcd::etcdserverpb::watch_client::WatchClient;
use protos::etcd::etcdserverpb::watch_request::RequestUnion;
use tonic::{Code, Status};

use super::{Member, Shared};

/// How long a member may take to answer a read. etcd's is a second.
const GET_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a watch may take to begin. etcd's.
const WATCH_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a member may take to tell its metrics.
const METRICS_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn router() -> Router<Arc<Shared>> {
    Router::new()
        .route("/health", get(health))
        .route("/proxy/health", get(proxy_health))
        .route("/metrics", get(member_metrics))
        .route("/proxy/metrics", get(metrics))
}

fn told(health: Result<(), String>) -> Response {
    match health {
        Ok(()) => (StatusCode::OK, r#"{"health":"true","reason":""}"#).into_response(),
        Err(reason) => {
            let text = serde_json::json!({ "health": "false", "reason": reason }).to_string();
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
    }
}

async fn health(State(shared): State<Arc<Shared>>) -> Response {
    told(reads(&shared).await.map(drop))
}

/// Whether what clients do goes through here; nobody knows without knowing where clients come.
async fn proxy_health(State(shared): State<Arc<Shared>>) -> Response {
    if shared.config.advertise.is_none() {
        return told(Err("no connection to proxy".to_owned()));
    }
    told(match reads(&shared).await {
        Ok(member) => watches(&member).await,
        Err(reason) => Err(reason),
    })
}

/// The first member that answers a read, in the order in which they are at hand.
async fn reads(shared: &Shared) -> Result<Arc<Member>, String> {
    let mut last = "no member answers".to_owned();
    for member in shared.members.load_full().iter() {
        let request = pb::RangeRequest { key: "a".into(), ..pb::RangeRequest::default() };
        let mut client = KvClient::new(member.channel.clone());
        match tokio::time::timeout(GET_TIMEOUT, client.range(request)).await {
            Ok(Ok(_)) => return Ok(member.clone()),
            Ok(Err(status)) if answers(&status) => return Ok(member.clone()),
            Ok(Err(status)) => last = status.message().to_owned(),
            Err(_) => last = "context deadline exceeded".to_owned(),
        }
    }
    Err(format!("GET ERROR:{last}"))
}

/// One that is asked without a name still shows that it answers.
fn answers(status: &Status) -> bool {
    matches!(status.code(), Code::PermissionDenied | Code::InvalidArgument)
}

/// Whether a member begins a watch.
async fn watches(member: &Member) -> Result<(), String> {
    let create = pb::WatchCreateRequest { key: "a".into(), ..pb::WatchCreateRequest::default() };
    let request = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    let begun = async {
        let requests = futures::StreamExt::chain(stream::iter([request]), stream::pending());
        let answers = WatchClient::new(member.channel.clone()).watch(requests).await?;
        answers.into_inner().message().await
    };
    match tokio::time::timeout(WATCH_TIMEOUT, begun).await {
        Ok(Ok(Some(_))) => Ok(()),
        Ok(Ok(None)) => Err("WATCH ERROR:the stream has ended".to_owned()),
        Ok(Err(status)) => Err(format!("WATCH ERROR:{}", status.message())),
        Err(_) => Err("WATCH TIMEOUT".to_owned()),
    }
}

fn text(body: impl IntoResponse) -> Response {
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], body).into_response()
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    text((shared.config.metrics)())
}

/// A member's.
async fn member_metrics(State(shared): State<Arc<Shared>>) -> Response {
    let Some(member) = shared.pick() else {
        return (StatusCode::INTERNAL_SERVER_ERROR, "Internal server error\n").into_response();
    };
    let fetched = tokio::time::timeout(METRICS_TIMEOUT, fetch(&shared, &member, "/metrics"));
    match fetched.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(bytes) => text(bytes),
        Err(error) => {
            tracing::warn!(address = member.address, %error, "a member does not tell its metrics");
            (StatusCode::INTERNAL_SERVER_ERROR, "Internal server error\n").into_response()
        }
    }
}

/// A page of a member's, which etcd serves over HTTP/1.1 alone where there is no TLS.
async fn fetch(shared: &Shared, member: &Member, path: &str) -> io::Result<Bytes> {
    let connection = shared.dialer.open(std::slice::from_ref(&member.url), b"http/1.1").await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(connection)).await.map_err(io::Error::other)?;
    let host = member.url.split_once("://").map_or(member.url.as_str(), |(_, host)| host);
    let request = http::Request::get(path).header(header::HOST, host).header(header::CONNECTION, "close");
    let request = request.body(Empty::<Bytes>::new()).map_err(io::Error::other)?;
    let asked = async {
        let answer = sender.send_request(request).await.map_err(io::Error::other)?;
        if answer.status() != StatusCode::OK {
            return Err(io::Error::other(answer.status().to_string()));
        }
        Ok(answer.into_body().collect().await.map_err(io::Error::other)?.to_bytes())
    };
    tokio::pin!(asked, connection);
    tokio::select! {
        answer = &mut asked => answer,
        // What has come is still to be read.
        ended = &mut connection => match ended {
            Ok(()) => asked.await,
            Err(error) => Err(io::Error::other(error)),
        },
    }
}
