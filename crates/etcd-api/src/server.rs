//! The server: what it is built from and how it runs.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use env::{Env, Lane, Shutdown, TaskGroup};
use futures::StreamExt as _;
use protos::etcd::etcdserverpb::{
    auth_server::AuthServer, cluster_server::ClusterServer, kv_server::KvServer, lease_server::LeaseServer,
    maintenance_server::MaintenanceServer,
};
use protos::etcd::v3electionpb::election_server::ElectionServer;
use protos::etcd::v3lockpb::lock_server::LockServer;
use store::Store;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tower::Layer as _;

use crate::auth::{self, AuthOptions, AuthOptionsError, AuthService, Tokens};
use crate::calls::{Calls, Counted};
use crate::cluster::ClusterService;
use crate::context::{Context, Limits};
use crate::counters::Counters;
use crate::election::ElectionService;
use crate::front::KvFront;
use crate::gateway;
use crate::http;
use crate::kv::KvService;
use crate::lease::LeaseService;
use crate::lock::LockService;
use crate::maintenance::MaintenanceService;
use crate::version;
use crate::watch::{WatchServer, WatchService};

/// Bytes of a gRPC message beyond `--max-request-bytes`, as in etcd.
const MESSAGE_OVERHEAD: usize = 512 << 10;
/// Connections that wait for a lane to take them.
const ACCEPTED: usize = 256;
/// How long open streams may take to end at a stop.
const STOP_DEADLINE: Duration = Duration::from_secs(2);

/// TLS towards clients, as PEM.
#[derive(Clone)]
pub struct ServingTls {
    /// The certificate chain.
    pub certificate: Vec<u8>,
    /// Its key.
    pub key: Vec<u8>,
    /// Who may sign clients' certificates; without it clients need none.
    pub client_ca: Option<Vec<u8>>,
}

/// An address to serve clients on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Where.
    pub address: SocketAddr,
    /// Whether clients speak TLS there.
    pub tls: bool,
}

/// An API server to be.
pub struct EtcdApiConfig {
    /// Where clients connect.
    pub listen: Vec<Listen>,
    /// TLS towards clients; plain text without.
    pub tls: Option<ServingTls>,
    /// Bytes that a request may have (`--max-request-bytes`).
    pub max_request_bytes: usize,
    /// Steps that a transaction may have (`--max-txn-ops`).
    pub max_txn_ops: usize,
    /// Calls that one connection may have at a time (`--max-concurrent-streams`).
    pub max_concurrent_streams: u32,
    /// Bytes of keys and values, with the versions that were not compacted, that may be stored
    /// (`--quota-backend-bytes`); no limit without.
    pub quota_bytes: Option<u64>,
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
    pub fn new(listen: Vec<Listen>, metrics: http::Metrics) -> Self {
        Self {
            listen,
            tls: None,
            max_request_bytes: 3 << 19,
            max_txn_ops: mvcc::MAX_TXN_OPS,
            max_concurrent_streams: u32::MAX,
            quota_bytes: None,
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
        let mut listeners = Vec::new();
        for Listen { address, tls } in self.listen.iter().copied() {
            if tls && self.tls.is_none() {
                return Err(BuildError::NoCertificate(address));
            }
            let listener = TcpListener::bind(address).await;
            listeners.push((listener.map_err(|cause| BuildError::Listen { address, cause })?, tls));
        }
        let tokens = Arc::new(Tokens::new(std::mem::take(&mut self.auth))?);
        Ok(EtcdApi { config: self, env, store, tokens, listeners })
    }
}

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// An address is to be served with TLS, and there is no certificate.
    #[error("cannot listen on TLS for {0}: KeyFile and CertFile are not presented")]
    NoCertificate(SocketAddr),
    /// `--auth-token` cannot be used.
    #[error(transparent)]
    Auth(#[from] AuthOptionsError),
    /// An address cannot be listened on.
    #[error("cannot listen for clients on {address}: {cause}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        cause: io::Error,
    },
}

/// Why serving ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The TLS files cannot be used.
    #[error("cannot serve clients: {0}")]
    Tls(#[from] tonic::transport::Error),
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
    listeners: Vec<(TcpListener, bool)>,
}

impl EtcdApi {
    /// The addresses it is bound to.
    ///
    /// # Errors
    /// When a socket has none.
    pub fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.listeners.iter().map(|(listener, _)| listener.local_addr()).collect()
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
        };
        let (store, clock) = (context.store.clone(), context.env.clock.clone());
        let calls = Calls::new(store, clock, self.config.extensive_metrics, self.config.warn_unary);
        tasks.spawn_detached("auth-tokens", auth::keep(context.clone()));
        tasks.spawn_detached("cluster-version", version::keep(context.clone()));
        let routes = routes(&context, &calls, (self.config.metrics, self.config.max_concurrent_streams));
        let streams = self.config.max_concurrent_streams;
        let lanes = (0..self.config.lanes.max(1)).map(|number| Lane::start(&format!("clients-{number}")));
        let lanes = lanes.map(|lane| Ok(Arc::new(lane?))).collect::<io::Result<Vec<_>>>()?;
        for (listener, tls) in self.listeners {
            let tls = self.config.tls.as_ref().filter(|_| tls).map(server_tls);
            let mut doors = Vec::new();
            for lane in &lanes {
                let (door, connections) = mpsc::channel(ACCEPTED);
                doors.push(door);
                let routes = (routes.clone(), calls.clone());
                let serve = serve(connections, tls.clone(), routes, (streams, shutdown.clone()));
                let lane = lane.clone();
                tasks.spawn("clients", async move { lane.run(serve).await });
            }
            tasks.spawn_detached("accept", accept(listener, doors, shutdown.clone()));
        }
        Ok(tasks.join(STOP_DEADLINE).await?)
    }
}

/// Gives connections to the lanes in turn.
async fn accept(listener: TcpListener, doors: Vec<mpsc::Sender<TcpStream>>, shutdown: Shutdown) {
    for door in doors.iter().cycle() {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.wait() => return,
        };
        let connection = accepted.and_then(|(stream, _)| {
            stream.set_nodelay(true)?;
            stream.into_std()
        });
        match connection {
            Ok(connection) => drop(door.send(connection).await),
            // Out of file descriptors, or a client that has gone already.
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::task::yield_now().await;
            }
        }
    }
}

/// Serves a lane's connections on one address.
async fn serve(
    connections: mpsc::Receiver<TcpStream>,
    tls: Option<ServerTlsConfig>,
    (routes, calls): (Routes, Calls),
    (streams, shutdown): (u32, Shutdown),
) -> Result<(), tonic::transport::Error> {
    let mut server = Server::builder().accept_http1(true).max_concurrent_streams(streams).layer(calls);
    if let Some(tls) = tls {
        server = server.tls_config(tls)?;
    }
    let incoming = ReceiverStream::new(connections).map(tokio::net::TcpStream::from_std);
    server
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, async move { shutdown.wait().await })
        .await
}

fn server_tls(tls: &ServingTls) -> ServerTlsConfig {
    let config = ServerTlsConfig::new().identity(Identity::from_pem(&tls.certificate, &tls.key));
    match &tls.client_ca {
        Some(ca) => config.client_ca_root(Certificate::from_pem(ca)),
        None => config,
    }
}

fn routes(context: &Context, calls: &Calls, (metrics, streams): (http::Metrics, u32)) -> Routes {
    let max = context.limits.max_request_bytes + MESSAGE_OVERHEAD;
    let behind: Counted<Routes> = calls.layer(services(Routes::default(), context));
    let gateway = gateway::router(&behind, max, streams);
    services(Routes::from(http::router(context.clone(), metrics, gateway)), context)
}

fn services(mut routes: Routes, context: &Context) -> Routes {
    let max = context.limits.max_request_bytes + MESSAGE_OVERHEAD;
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
    let reflection = || {
        let builder = tonic_reflection::server::Builder::configure();
        builder
            .register_encoded_file_descriptor_set(protos::ETCD_DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let described = "invariant: the descriptors were made by the compiler of protos";
    routes = routes.add_service(reflection().build_v1().expect(described));
    routes = routes.add_service(reflection().build_v1alpha().expect(described));
    routes.add_service(maintenance).add_service(health)
}
