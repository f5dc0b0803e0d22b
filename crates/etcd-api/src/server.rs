//! The server: what it is built from and how it runs.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use env::{Env, Lane, Shutdown, TaskGroup};
use futures::{Stream, StreamExt as _};
use protos::etcd::etcdserverpb::{
    auth_server::AuthServer, cluster_server::ClusterServer, kv_server::KvServer, lease_server::LeaseServer,
    maintenance_server::MaintenanceServer,
};
use protos::etcd::v3electionpb::election_server::ElectionServer;
use protos::etcd::v3lockpb::lock_server::LockServer;
use store::Store;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tower::Layer as _;
use transport::{
    Accepted, Address, Admission, Called, Peer, PingPolicy, Room, SocketOptions, Tls, accepted, admitted,
};

use crate::access::{self, Access};
use crate::auth::{self, AuthOptions, AuthOptionsError, AuthService, Tokens};
use crate::budget::Budget;
use crate::calls::{Calls, Counted};
use crate::cluster::ClusterService;
use crate::context::{Context, Limits};
use crate::counters::Counters;
use crate::doors::{self, Door, Traffic};
use crate::election::ElectionService;
use crate::front::KvFront;
use crate::gateway;
use crate::http;
use crate::kv::KvService;
use crate::lazy;
use crate::lease::LeaseService;
use crate::lock::LockService;
use crate::maintenance::MaintenanceService;
use crate::serving::{self, Settings};
use crate::version;
use crate::watch::{WatchServer, WatchService};

/// Connections that wait for a lane to take them.
const ACCEPTED: usize = 256;
/// Connections at a time on the addresses of metrics: whoever watches over the process is answered however many clients
/// there are.
const METRICS_CONNECTIONS: usize = 32;
/// Bytes of memory that clients may hold where nobody says otherwise.
const CLIENT_MEMORY_BYTES: u64 = 1 << 30;
/// How long a connection may take to say which protocol it speaks; so long Go's gRPC gives clients to say hello.
pub(crate) const HELLO_TIMEOUT: Duration = Duration::from_secs(120);
/// Snapshots that are sent at a time.
const SNAPSHOTS: usize = 8;
/// Leases that there may be where nobody says otherwise; each takes some hundred bytes of memory.
pub const MAX_LEASES: usize = 4_000_000;
/// Learners that a cluster may have where nobody says otherwise (etcd's default).
pub const MAX_LEARNERS: usize = 1;
/// How long open streams may take to end at a stop.
const STOP_DEADLINE: Duration = Duration::from_secs(2);

/// An API server to be.
pub struct EtcdApiConfig {
    /// Where clients connect (`--listen-client-urls`).
    pub listen: Vec<Address>,
    /// Where clients of the HTTP endpoints and the gateway connect; on `listen` there is gRPC alone then
    /// (`--listen-client-http-urls`).
    pub listen_http: Vec<Address>,
    /// Where only health and metrics are served (`--listen-metrics-urls`).
    pub listen_metrics: Vec<Address>,
    /// How many connections there may be at a time on all addresses but those of metrics, which have some of their own.
    pub room: Room,
    /// TLS towards clients, for the addresses that want it.
    pub tls: Option<Tls>,
    /// How sockets are listened on.
    pub sockets: SocketOptions,
    /// Which pages and hosts may use the HTTP endpoints.
    pub access: Access,
    /// Whether the JSON gateway is served (`--enable-grpc-gateway`).
    pub gateway: bool,
    /// How often quiet connections are asked whether they live, and how long they have to answer.
    pub keep_alive: Option<(Duration, Duration)>,
    /// How often clients with open calls may ask the same; who asks more often is sent away
    /// (`--grpc-keepalive-min-time`).
    pub keep_alive_min: Duration,
    /// How long a connection may take to say which protocol it speaks.
    pub hello_timeout: Duration,
    /// Bytes that a request may have (`--max-request-bytes`).
    pub max_request_bytes: usize,
    /// Steps that a transaction may have (`--max-txn-ops`).
    pub max_txn_ops: usize,
    /// Calls that one connection may have at a time (`--max-concurrent-streams`).
    pub max_concurrent_streams: u32,
    /// Bytes of keys and values, with the versions that were not compacted, that may be stored
    /// (`--quota-backend-bytes`); no limit without.
    pub quota_bytes: Option<u64>,
    /// Bytes of memory that requests and answers of all clients may hold (`--client-memory-bytes`).
    pub client_memory_bytes: u64,
    /// Leases that may be there (`--max-leases`).
    pub max_leases: usize,
    /// Learners that the cluster may have when this member adds one (`--max-learners`).
    pub max_learners: usize,
    /// How often quiet watches that asked for it are told how far they are.
    pub watch_progress_notify_interval: Duration,
    /// Where snapshots are written before they are sent; of the size of the state.
    pub scratch: PathBuf,
    /// Threads that serve connections, each its own.
    pub lanes: usize,
    /// How callers are known when authentication is enabled.
    pub auth: AuthOptions,
    /// A call that takes longer is told in the log (`--warning-unary-request-duration`).
    pub warn_unary: Duration,
    /// A read that takes longer is told in the log (`--warning-apply-duration`).
    pub warn_apply: Duration,
    /// Whether it is counted how long the calls of each method take (`--metrics extensive`).
    pub extensive_metrics: bool,
    /// Renders the process' metrics.
    pub metrics: http::Metrics,
}

impl EtcdApiConfig {
    /// etcd's defaults.
    pub fn new(listen: Vec<Address>, metrics: http::Metrics) -> Self {
        Self {
            listen,
            listen_http: Vec::new(),
            listen_metrics: Vec::new(),
            room: Room::unlimited(),
            tls: None,
            sockets: SocketOptions::default(),
            access: Access::default(),
            gateway: true,
            keep_alive: None,
            keep_alive_min: Duration::from_secs(5),
            hello_timeout: HELLO_TIMEOUT,
            max_request_bytes: 3 << 19,
            max_txn_ops: mvcc::MAX_TXN_OPS,
            max_concurrent_streams: u32::MAX,
            quota_bytes: None,
            client_memory_bytes: CLIENT_MEMORY_BYTES,
            max_leases: MAX_LEASES,
            max_learners: MAX_LEARNERS,
            watch_progress_notify_interval: Duration::from_secs(600),
            scratch: std::env::temp_dir(),
            lanes: 1,
            auth: AuthOptions::default(),
            warn_unary: Duration::from_millis(300),
            warn_apply: Duration::from_millis(100),
            extensive_metrics: false,
            metrics,
        }
    }

    /// Binds the addresses.
    ///
    /// # Errors
    /// When one cannot be bound, or the keys of tokens cannot be read.
    pub async fn build(mut self, env: Env, store: Store) -> Result<EtcdApi, BuildError> {
        let doors = doors::open(&self).await?;
        let tokens = Arc::new(Tokens::new(std::mem::take(&mut self.auth))?);
        let budget = Budget::new(self.client_memory_bytes);
        Ok(EtcdApi { config: self, env, store, tokens, doors, budget })
    }
}

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// An address is to be served with TLS, and there is no certificate.
    #[error("TLS key/cert (--cert-file, --key-file) must be provided for client url {0} with HTTPS scheme")]
    NoCertificate(Address),
    /// The same, for an address of metrics.
    #[error("client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url")]
    NoMetricsCertificate,
    /// An address is to be served in two ways.
    #[error("cannot bind both --listen-client-urls and --listen-client-http-urls on the same url {0}")]
    TwoUses(Address),
    /// `--auth-token` cannot be used.
    #[error(transparent)]
    Auth(#[from] AuthOptionsError),
    /// An address cannot be listened on.
    #[error("{0}")]
    Listen(io::Error),
}

/// Why serving ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// An address failed.
    #[error("cannot serve clients: {0}")]
    Serve(#[from] tonic::transport::Error),
    /// The system gives no more threads.
    #[error("cannot serve clients: {0}")]
    Lane(#[from] io::Error),
    /// A task failed.
    #[error(transparent)]
    Task(#[from] env::TaskFailure),
}

/// The bound server.
pub struct EtcdApi {
    config: EtcdApiConfig,
    env: Env,
    store: Store,
    tokens: Arc<Tokens>,
    doors: Vec<Door>,
    budget: Budget,
}

impl EtcdApi {
    /// Tells how many bytes requests and answers of clients hold.
    pub fn client_memory(&self) -> impl Fn() -> u64 + Send + Sync + 'static {
        let budget = self.budget.clone();
        move || budget.used()
    }

    /// The ports' addresses it is bound to.
    ///
    /// # Errors
    /// When a socket has none.
    pub fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.doors.iter().filter_map(|door| door.listener.local_addr().transpose()).collect()
    }

    /// Serves until `shutdown`.
    ///
    /// # Errors
    /// See [`RunError`].
    pub async fn run(self, shutdown: Shutdown) -> Result<(), RunError> {
        let tasks = TaskGroup::new("etcd-api", shutdown.clone());
        let limits = Limits {
            max_request_bytes: self.config.max_request_bytes,
            max_txn_ops: self.config.max_txn_ops,
            quota_bytes: self.config.quota_bytes,
            max_leases: self.config.max_leases,
            max_learners: self.config.max_learners,
            progress_interval: self.config.watch_progress_notify_interval,
            warn_apply: self.config.warn_apply,
        };
        let context = Context {
            store: self.store,
            env: self.env,
            tasks: tasks.clone(),
            shutdown: shutdown.clone(),
            limits,
            tokens: self.tokens,
            scratch: self.config.scratch,
            counters: Counters::new(),
            snapshots: Arc::new(Semaphore::new(SNAPSHOTS)),
            budget: self.budget,
        };
        let calls = Calls::new(&context, self.config.extensive_metrics, self.config.warn_unary);
        tasks.spawn_detached("auth-tokens", auth::keep(context.clone()));
        tasks.spawn_detached("cluster-version", version::keep(context.clone()));
        let lanes = (0..self.config.lanes.max(1)).map(|number| Lane::start(&format!("clients-{number}")));
        let lanes = lanes.map(|lane| Ok(Arc::new(lane?))).collect::<io::Result<Vec<_>>>()?;
        let pages = Pages {
            metrics: self.config.metrics,
            access: self.config.access,
            gateway: self.config.gateway,
            streams: self.config.max_concurrent_streams,
        };
        let settings = Settings {
            pings: PingPolicy {
                every: self.config.keep_alive_min,
                silence: self.config.hello_timeout,
                clock: context.env.clock.clone(),
            },
            streams: self.config.max_concurrent_streams,
            keep_alive: self.config.keep_alive,
        };
        let metrics_room = Room::new(METRICS_CONNECTIONS);
        for Door { listener, security, traffic } in self.doors {
            let routes = routes(&context, &calls, &pages, traffic);
            let admission = Admission { security, endpoint: "client", protocol: None };
            let mut lane_doors = Vec::new();
            for lane in &lanes {
                let (door, connections) = mpsc::channel(ACCEPTED);
                lane_doors.push(door);
                let routes = (routes.clone(), calls.clone());
                let (admission, budget) = (admission.clone(), context.budget.clone());
                let serve =
                    serve(connections, (admission, budget), routes, settings.clone(), shutdown.clone());
                let lane = lane.clone();
                tasks.spawn("clients", async move { lane.run(serve).await });
            }
            let (store, stop) = (context.store.clone(), shutdown.clone());
            let room =
                if traffic == Traffic::Metrics { metrics_room.clone() } else { self.config.room.clone() };
            let connections = accepted(listener, room, context.env.clone());
            tasks.spawn_detached("accept", async move {
                tokio::select! {
                    () = opening(&store, traffic) => accept(connections, lane_doors, stop).await,
                    () = stop.wait() => {}
                }
            });
        }
        Ok(tasks.join(STOP_DEADLINE).await?)
    }
}

/// Waits until an address may be served. A member that does not know yet what others know has nothing to say to clients:
/// they wait, as in etcd (`ReadyNotify`). Whoever watches over the process is answered at once.
async fn opening(store: &Store, traffic: Traffic) {
    if traffic != Traffic::Metrics {
        store.caught_up().await;
    }
}

/// Gives connections to the lanes in turn.
async fn accept(
    connections: impl Stream<Item = Accepted>,
    doors: Vec<mpsc::Sender<Accepted>>,
    shutdown: Shutdown,
) {
    let mut connections = pin!(connections);
    for door in doors.iter().cycle() {
        let connection = tokio::select! {
            connection = connections.next() => connection,
            () = shutdown.wait() => return,
        };
        match connection {
            Some(connection) => drop(door.send(connection).await),
            None => return,
        }
    }
}

/// Serves a lane's connections on one address.
async fn serve(
    connections: mpsc::Receiver<Accepted>,
    (admission, budget): (Admission, Budget),
    (routes, calls): (Routes, Calls),
    settings: Settings,
    shutdown: Shutdown,
) -> Result<(), RunError> {
    let pings = settings.pings.clone();
    let called = move |connection| {
        let share = |peer: &Peer| budget.share(peer.address.map(|address| address.ip())).note();
        Called::new(connection, pings.clone(), share)
    };
    let incoming = admitted(ReceiverStream::new(connections), admission).map(called);
    serving::serve(incoming, calls.layer(routes.prepare()), &settings, shutdown).await;
    Ok(())
}

/// What the HTTP endpoints are made of.
struct Pages {
    metrics: http::Metrics,
    access: Access,
    gateway: bool,
    /// Calls that the gateway may have at a time.
    streams: u32,
}

fn routes(context: &Context, calls: &Calls, pages: &Pages, traffic: Traffic) -> Routes {
    if traffic == Traffic::Metrics {
        return Routes::from(http::metrics_router(context.clone(), pages.metrics.clone()));
    }
    if traffic == Traffic::Grpc {
        return services(Routes::from(http::nothing()), context);
    }
    let gateway = match pages.gateway {
        true => {
            let behind: Counted<Routes> = calls.layer(services(Routes::default(), context));
            gateway::router(&behind, pages.streams, context)
        }
        false => axum::Router::new(),
    };
    let pages_router = http::router(context.clone(), pages.metrics.clone(), gateway);
    let names = pages.gateway.then(|| context.clone());
    let router = Routes::from(access::guard(pages_router, pages.access.clone(), names));
    if traffic == Traffic::Http { router } else { services(router, context) }
}

fn services(mut routes: Routes, context: &Context) -> Routes {
    let max = context.limits.max_message();
    let kv = KvServer::new(KvService(context.clone())).max_decoding_message_size(max);
    let kv = KvFront::new(context, max, kv.max_encoding_message_size(usize::MAX));
    let watch = WatchServer(WatchService(context.clone()));
    let lease = LeaseServer::new(LeaseService(context.clone()));
    let cluster = ClusterServer::new(ClusterService(context.clone()));
    let auth = AuthServer::new(AuthService(context.clone()));
    let maintenance = MaintenanceServer::new(MaintenanceService(context.clone()));
    let (_, health) = tonic_health::server::health_reporter();
    routes =
        routes.add_service(kv).add_service(watch).add_service(lease).add_service(cluster).add_service(auth);
    routes = routes.add_service(LockServer::new(LockService(context.clone())));
    routes = routes.add_service(ElectionServer::new(ElectionService(context.clone())));
    routes = routes.add_service(maintenance).add_service(health);
    Routes::from(routes.into_axum_router().merge(reflection()))
}

/// What tells clients of the services. What it knows takes a megabyte: it is there from the first question on.
fn reflection() -> axum::Router {
    let builder = || {
        let builder = tonic_reflection::server::Builder::configure();
        builder
            .register_encoded_file_descriptor_set(protos::ETCD_DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    lazy::router(
        &[
            "/grpc.reflection.v1.ServerReflection/{*rest}",
            "/grpc.reflection.v1alpha.ServerReflection/{*rest}",
        ],
        move || {
            let described = "invariant: the descriptors were made by the compiler of protos";
            let routes = Routes::default().add_service(builder().build_v1().expect(described));
            routes.add_service(builder().build_v1alpha().expect(described)).into_axum_router()
        },
    )
}
