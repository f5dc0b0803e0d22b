//! `etcd grpc-proxy start`: one address in front of a cluster. Every call is passed on as it is, message by message, to a
//! member that answers; streams stay with the member that took them. Nothing is coalesced or cached: a member serves a
//! watch for less than a second copy of the stream would cost.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, Uri, header, uri::PathAndQuery};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use env::{Env, Shutdown, TaskGroup};
use futures::StreamExt as _;
use protos::etcd::etcdserverpb as pb;
use protos::etcd::etcdserverpb::cluster_client::ClusterClient;
use protos::etcd::etcdserverpb::kv_client::KvClient;
use tokio::net::TcpListener;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Server};
use tower::ServiceExt as _;
use transport::{Admission, Listener, Security, Tls, accepted, admitted};

use crate::http::Metrics;
use crate::server::RunError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a member that could not be reached is left alone, in milliseconds.
const REST_MILLIS: u64 = 1000;
const STOP_DEADLINE: Duration = Duration::from_secs(2);
/// How long the health of the cluster may take to be told.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);

/// A proxy to be.
pub struct ProxyConfig {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// TLS towards clients; plain text without.
    pub tls: Option<Tls>,
    /// Members, as URLs or addresses.
    pub endpoints: Vec<String>,
    /// TLS towards members, for those with `https`: who signs them, and what is shown to them.
    pub member_ca: Option<Vec<u8>>,
    /// A certificate chain and its key, as PEM.
    pub member_identity: Option<(Vec<u8>, Vec<u8>)>,
    /// How often the members are asked who they are; never if zero.
    pub sync_interval: Duration,
    /// Calls that one connection may have at a time.
    pub max_concurrent_streams: u32,
    /// Renders the process' metrics.
    pub metrics: Metrics,
}

/// A member as the proxy sees it.
struct Member {
    address: String,
    channel: Channel,
    /// It is left alone until then, in milliseconds of the clock.
    rests_until: AtomicU64,
}

struct Shared {
    config: ProxyConfig,
    env: Env,
    members: ArcSwap<Vec<Arc<Member>>>,
    next: AtomicUsize,
}

impl ProxyConfig {
    /// Serves until `shutdown`.
    ///
    /// # Errors
    /// The address cannot be listened on, or a certificate cannot be used.
    pub async fn run(self, env: Env, shutdown: Shutdown) -> Result<(), RunError> {
        let tasks = TaskGroup::new("grpc-proxy", shutdown.clone());
        let listener = TcpListener::bind(self.listen).await?;
        let security = self.tls.clone().map_or(Security::Plain, Security::Tls);
        let (streams, address) = (self.max_concurrent_streams, self.listen);
        let members = members(&self, &self.endpoints, &[])?;
        let shared = Arc::new(Shared {
            config: self,
            env,
            members: ArcSwap::from_pointee(members),
            next: AtomicUsize::new(0),
        });
        if !shared.config.sync_interval.is_zero() {
            tasks.spawn_detached("sync", sync(shared.clone(), shutdown.clone()));
        }
        let admission = Admission { security, endpoint: "client", protocol: None };
        let connections = accepted(Listener::Tcp(listener));
        let incoming = admitted(connections, admission).map(Ok::<_, io::Error>);
        let stop = shutdown.clone();
        let serve = Server::builder()
            .accept_http1(true)
            .max_concurrent_streams(streams)
            .add_routes(Routes::from(router(shared)))
            .serve_with_incoming_shutdown(Box::pin(incoming), async move { stop.wait().await });
        tasks.spawn("clients", serve);
        tracing::info!(address = address.to_string(), "started gRPC proxy");
        Ok(tasks.join(STOP_DEADLINE).await?)
    }
}

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/proxy/health", get(health))
        .route("/metrics", get(render))
        .route("/proxy/metrics", get(render))
        .fallback(forward)
        .with_state(shared)
}

/// Members at these addresses; those that are known already are kept.
fn members(
    config: &ProxyConfig,
    addresses: &[String],
    known: &[Arc<Member>],
) -> Result<Vec<Arc<Member>>, tonic::transport::Error> {
    let member = |address: &String| {
        if let Some(member) = known.iter().find(|member| member.address == *address) {
            return Ok(member.clone());
        }
        let channel = connect(config, address)?;
        Ok(Arc::new(Member { address: address.clone(), channel, rests_until: AtomicU64::new(0) }))
    };
    addresses.iter().map(member).collect()
}

fn connect(config: &ProxyConfig, address: &str) -> Result<Channel, tonic::transport::Error> {
    let url = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let endpoint = Endpoint::from_shared(url.clone())?.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true);
    if !url.starts_with("https") {
        return Ok(endpoint.connect_lazy());
    }
    let mut tls = ClientTlsConfig::new();
    if let Some(ca) = &config.member_ca {
        tls = tls.ca_certificate(Certificate::from_pem(ca));
    }
    if let Some((certificate, key)) = &config.member_identity {
        tls = tls.identity(Identity::from_pem(certificate, key));
    }
    Ok(endpoint.tls_config(tls)?.connect_lazy())
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

/// Passes a call on.
async fn forward(State(shared): State<Arc<Shared>>, mut request: Request) -> Response {
    let is_grpc = |value: &HeaderValue| value.as_bytes().starts_with(b"application/grpc");
    if !request.headers().get(header::CONTENT_TYPE).is_some_and(is_grpc) {
        return (StatusCode::NOT_FOUND, "404 page not found\n").into_response();
    }
    let Some(member) = shared.pick() else {
        return Status::unavailable("etcdserver: no endpoint is known").into_http();
    };
    // Scheme and host are the member's, which the channel adds.
    let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
    let answer = member.channel.clone().oneshot(request.map(Body::new)).await;
    match answer {
        Ok(answer) => answer.map(axum::body::Body::new),
        Err(error) => {
            shared.rest(&member);
            Status::unavailable(format!("error reading from server: {error}")).into_http()
        }
    }
}

async fn health(State(shared): State<Arc<Shared>>) -> Response {
    let members = shared.members.load_full();
    for member in members.iter() {
        let request = pb::RangeRequest { key: "a".into(), ..pb::RangeRequest::default() };
        let mut client = KvClient::new(member.channel.clone());
        let asked = tokio::time::timeout(HEALTH_TIMEOUT, client.range(request)).await;
        // One that is asked without a name still shows that it answers.
        let well = |status: &Status| {
            matches!(status.code(), tonic::Code::PermissionDenied | tonic::Code::InvalidArgument)
        };
        if matches!(&asked, Ok(Ok(_))) || matches!(&asked, Ok(Err(status)) if well(status)) {
            return (StatusCode::OK, r#"{"health":"true","reason":""}"#).into_response();
        }
    }
    let text = r#"{"health":"false","reason":"GET ERROR:no member answers"}"#;
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

async fn render(State(shared): State<Arc<Shared>>) -> Response {
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], (shared.config.metrics)()).into_response()
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
        match members(&shared.config, &addresses, &known) {
            Ok(members) => {
                tracing::info!(endpoints = addresses.join(","), "the cluster has other endpoints");
                shared.members.store(Arc::new(members));
            }
            Err(error) => tracing::warn!(%error, "an endpoint of the cluster cannot be used"),
        }
    }
}
