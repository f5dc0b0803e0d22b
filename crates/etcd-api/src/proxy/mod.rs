//! `etcd grpc-proxy start`: one address in front of a cluster. Every call is passed on as it is, message by message, to a
//! member that answers; streams stay with the member that took them. Nothing is coalesced or cached: a member serves a
//! watch for less than a second copy of the stream would cost.
//!
//! Read `namespace.rs` (keys behind a prefix) with `messages.rs`, `registry.rs` (how proxies find each other), `pages.rs`
//! (health and metrics).

mod messages;
mod namespace;
mod pages;
mod registry;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use namespace::any_message;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri, uri::PathAndQuery};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use env::{Env, Shutdown, TaskGroup};
use futures::StreamExt as _;
use http_body_util::{BodyExt as _, Full, Limited};
use protos::etcd::etcdserverpb as pb;
use protos::etcd::etcdserverpb::cluster_client::ClusterClient;
use tokio::net::TcpListener;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::{Channel, Server};
use tower::ServiceExt as _;
use transport::{
    Address, Admission, Called, Dialer, Listener, Peer, PingPolicy, Room, Security, SocketOptions, Tls,
    accepted, admitted,
};

use self::messages::Replaced;
use self::namespace::{Call, Namespace};
use crate::budget::Budget;
use crate::framing;
use crate::http::Metrics;
use crate::inflate;
use crate::remade::Remade;
use crate::server::{HELLO_TIMEOUT, RunError};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a member that could not be reached is left alone, in milliseconds.
const REST_MILLIS: u64 = 1000;
const STOP_DEADLINE: Duration = Duration::from_secs(2);
/// The list of members, which a proxy answers itself if it is told where it is reached.
const MEMBER_LIST: &str = "/etcdserverpb.Cluster/MemberList";
/// What is no message of any call.
const NONSENSE: &[u8] = &[0xff];

/// A proxy to be.
pub struct ProxyConfig {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where health and metrics are served too (`--metrics-addr`).
    pub listen_metrics: Option<Address>,
    /// How many connections there may be at a time on both.
    pub room: Room,
    /// TLS towards clients; plain text without.
    pub tls: Option<Tls>,
    /// Members, as URLs or addresses.
    pub endpoints: Vec<String>,
    /// TLS towards members, for those with `https`, or without a scheme.
    pub member_tls: Option<Tls>,
    /// How often the members are asked who they are; never if zero.
    pub sync_interval: Duration,
    /// Calls that one connection may have at a time.
    pub max_concurrent_streams: u32,
    /// How often quiet connections are asked whether they live, and how long they have to answer.
    pub keep_alive: Option<(Duration, Duration)>,
    /// How often clients with open calls may ask the same.
    pub keep_alive_min: Duration,
    /// What the keys of clients begin with (`--namespace`); empty for all keys.
    pub namespace: String,
    /// Bytes that a message for a member may have, if it is looked at (`--max-send-bytes`).
    pub max_send_bytes: usize,
    /// Where clients reach the proxy: what it says when it is asked for the members (`--advertise-client-url`).
    pub advertise: Option<String>,
    /// Below which key it says so to other proxies, and for how many seconds after its end (`--resolver-prefix`,
    /// `--resolver-ttl`).
    pub register: Option<(String, i64)>,
    /// The machine's name.
    pub host_name: String,
    /// Renders the process' metrics.
    pub metrics: Metrics,
}

/// A member as the proxy sees it.
struct Member {
    address: String,
    /// The same with its scheme.
    url: String,
    channel: Channel,
    /// It is left alone until then, in milliseconds of the clock.
    rests_until: AtomicU64,
}

struct Shared {
    config: ProxyConfig,
    namespace: Option<Namespace>,
    dialer: Dialer,
    env: Env,
    members: ArcSwap<Vec<Arc<Member>>>,
    next: AtomicUsize,
}

impl ProxyConfig {
    /// Serves until `shutdown`.
    ///
    /// # Errors
    /// An address cannot be listened on, or an endpoint cannot be used.
    pub async fn run(self, env: Env, shutdown: Shutdown) -> Result<(), RunError> {
        let tasks = TaskGroup::new("grpc-proxy", shutdown.clone());
        let listener = Listener::Tcp(TcpListener::bind(self.listen).await?);
        let metrics_listener = match &self.listen_metrics {
            Some(address) => Some(Listener::bind(address, SocketOptions::default()).await?),
            None => None,
        };
        let dialer = Dialer::new(self.member_tls.clone(), None, CONNECT_TIMEOUT);
        let members = members(&dialer, &self.endpoints, &[])?;
        let shared = Arc::new(Shared {
            namespace: Namespace::new(&self.namespace),
            config: self,
            dialer,
            env,
            members: ArcSwap::from_pointee(members),
            next: AtomicUsize::new(0),
        });
        if !shared.config.sync_interval.is_zero() {
            tasks.spawn_detached("sync", sync(shared.clone(), shutdown.clone()));
        }
        if let (Some((prefix, ttl)), Some(address)) = (&shared.config.register, &shared.config.advertise) {
            let entry = registry::Entry::new(prefix, address, *ttl);
            tasks.spawn_detached("register", registry::keep(shared.clone(), entry, shutdown.clone()));
        }
        let security = shared.config.tls.clone().map_or(Security::Plain, Security::Tls);
        tasks.spawn("clients", serve(listener, security.clone(), shared.clone(), true, shutdown.clone()));
        if let (Some(listener), Some(address)) = (metrics_listener, &shared.config.listen_metrics) {
            let security = if address.is_secure() { security } else { Security::Plain };
            tasks.spawn("metrics", serve(listener, security, shared.clone(), false, shutdown.clone()));
        }
        tracing::info!(address = shared.config.listen.to_string(), "started gRPC proxy");
        Ok(tasks.join(STOP_DEADLINE).await?)
    }
}

/// Serves an address, with `calls` or without.
async fn serve(
    listener: Listener,
    security: Security,
    shared: Arc<Shared>,
    calls: bool,
    shutdown: Shutdown,
) -> Result<(), tonic::transport::Error> {
    let config = &shared.config;
    let (interval, timeout) = config.keep_alive.unzip();
    let pings =
        PingPolicy { every: config.keep_alive_min, silence: HELLO_TIMEOUT, clock: shared.env.clock.clone() };
    let admission = Admission { security, endpoint: "client", protocol: None };
    let called = move |connection| Called::new(connection, pings.clone(), |_| Arc::new(()));
    let incoming = admitted(accepted(listener, config.room.clone(), shared.env.clone()), admission)
        .map(called)
        .map(Ok::<_, io::Error>);
    let mut server = Server::builder()
        .accept_http1(true)
        .max_concurrent_streams(config.max_concurrent_streams)
        .http2_keepalive_interval(interval)
        .http2_keepalive_timeout(timeout);
    let router = pages::router();
    let router: Router =
        if calls { router.fallback(forward).with_state(shared) } else { router.with_state(shared) };
    server
        .add_routes(Routes::from(router))
        .serve_with_incoming_shutdown(Box::pin(incoming), async move { shutdown.wait().await })
        .await
}

/// Members at these addresses; those that are known already are kept.
fn members(dialer: &Dialer, addresses: &[String], known: &[Arc<Member>]) -> io::Result<Vec<Arc<Member>>> {
    let member = |address: &String| {
        if let Some(member) = known.iter().find(|member| member.address == *address) {
            return Ok(member.clone());
        }
        // As in etcd's client, an address without a scheme is called with TLS if there is any.
        let scheme = if dialer.tls.is_some() { "https" } else { "http" };
        let url = if address.contains("://") { address.clone() } else { format!("{scheme}://{address}") };
        let channel = dialer.lazy(std::slice::from_ref(&url), |endpoint| endpoint.tcp_nodelay(true))?;
        Ok(Arc::new(Member { address: address.clone(), url, channel, rests_until: AtomicU64::new(0) }))
    };
    addresses.iter().map(member).collect()
}

impl Shared {
    fn now(&self) -> u64 {
        u64::try_from(self.env.clock.now().millis()).unwrap_or(0)
    }

    /// The next member that is not resting, or simply the next.
    fn pick(&self) -> Option<Arc<Member>> {
        let (members, now) = (self.members.load(), self.now());
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        let in_turn = || (0..members.len()).map(|step| &members[(start + step) % members.len()]);
        let awake = in_turn().find(|member| member.rests_until.load(Ordering::Relaxed) <= now);
        awake.or_else(|| in_turn().next()).cloned()
    }

    fn rest(&self, member: &Member) {
        member.rests_until.store(self.now() + REST_MILLIS, Ordering::Relaxed);
        tracing::warn!(address = member.address, "a member cannot be reached");
    }
}

/// A call of a connection, as long as it is open.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn new(calls: Arc<AtomicUsize>) -> Self {
        calls.fetch_add(1, Ordering::Relaxed);
        Self(calls)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Answers a call.
async fn forward(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    if !framing::is_grpc(request.headers()) {
        return (StatusCode::NOT_FOUND, "404 page not found\n").into_response();
    }
    let open =
        Open::new(request.extensions().get::<Peer>().map(|peer| peer.calls.clone()).unwrap_or_default());
    let answer = answer(&shared, request.map(Body::new)).await.unwrap_or_else(Status::into_http);
    answer.map(|body| {
        axum::body::Body::new(body.map_frame(move |frame| {
            // Open until its last frame is sent, or nobody waits for it any more.
            let _ = &open;
            frame
        }))
    })
}

async fn answer(shared: &Shared, request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
    let path = request.uri().path();
    if path == MEMBER_LIST && shared.config.advertise.is_some() {
        return messages::answer(&registry::members(shared).await);
    }
    let call = Call::of(path);
    match shared.namespace.as_ref().zip(call) {
        Some((namespace, call)) => {
            let request = enter(namespace, call, request, shared.config.max_send_bytes).await?;
            let (answer, namespace) = (pass(shared, request).await?, namespace.clone());
            let replace = move |message: Result<Bytes, Status>| namespace.answer(call, message?);
            Ok(answer.map(|body| Body::new(Remade::new(body, Replaced::new(usize::MAX, replace)))))
        }
        None => pass(shared, request).await,
    }
}

/// A client's request as the members get it.
async fn enter(
    namespace: &Namespace,
    call: Call,
    request: http::Request<Body>,
    max: usize,
) -> Result<http::Request<Body>, Status> {
    let request = match inflate::is_compressed(request.headers())? {
        // A proxy counts nobody's memory.
        true => inflate::request(request, &Budget::new(u64::MAX).share(None), max),
        false => request,
    };
    let (mut parts, body) = request.into_parts();
    for name in ["content-length", "grpc-accept-encoding"] {
        parts.headers.remove(name);
    }
    if call == Call::Watch {
        let namespace = namespace.clone();
        // What cannot be read is not passed on: the member says what it says to such.
        let replace = move |message: Result<Bytes, Status>| {
            Ok(message
                .and_then(|message| namespace.request(call, message))
                .unwrap_or_else(|_| NONSENSE.to_vec()))
        };
        return Ok(http::Request::from_parts(
            parts,
            Body::new(Remade::new(body, Replaced::new(max, replace))),
        ));
    }
    let too_large =
        || Status::resource_exhausted(format!("trying to send message larger than max (max {max})"));
    let read = Limited::new(body, max.saturating_add(framing::PREFIX)).collect().await;
    let mut bytes = BytesMut::from(read.map_err(|_| too_large())?.to_bytes());
    let message = messages::take(&mut bytes)?.ok_or_else(|| Status::internal("grpc: no message came"))?;
    let framed = messages::frame(&namespace.request(call, message)?)?;
    Ok(http::Request::from_parts(parts, Body::new(Full::new(framed))))
}

/// Passes a call on.
async fn pass(shared: &Shared, mut request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
    let member = shared.pick().ok_or_else(|| Status::unavailable("etcdserver: no endpoint is known"))?;
    // Scheme and host are the member's, which the channel adds.
    let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
    member.channel.clone().oneshot(request).await.map_err(|error| {
        shared.rest(&member);
        Status::unavailable(format!("error reading from server: {error}"))
    })
}

/// Keeps the members current.
async fn sync(shared: Arc<Shared>, shutdown: Shutdown) {
    while !shutdown.is_triggered() {
        tokio::select! {
            () = shared.env.clock.sleep(shared.config.sync_interval) => {}
            () = shutdown.wait() => return,
        }
        let Some(member) = shared.pick() else { continue };
        let asked = ClusterClient::new(member.channel.clone())
            .member_list(pb::MemberListRequest { linearizable: false })
            .await;
        let Ok(answer) = asked else {
            shared.rest(&member);
            continue;
        };
        let found = answer.into_inner().members.into_iter().flat_map(|member| member.client_ur_ls);
        let addresses: Vec<String> = found.collect();
        let known = shared.members.load_full();
        let same = addresses.len() == known.len()
            && addresses.iter().all(|address| known.iter().any(|member| member.address == *address));
        if addresses.is_empty() || same {
            continue;
        }
        match members(&shared.dialer, &addresses, &known) {
            Ok(members) => {
                tracing::info!(endpoints = addresses.join(","), "the cluster has other endpoints");
                shared.members.store(Arc::new(members));
            }
            Err(error) => tracing::warn!(%error, "an endpoint of the cluster cannot be used"),
        }
    }
}
