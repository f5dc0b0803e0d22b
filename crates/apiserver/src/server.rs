//! The server: TLS, connections, and the same requests from within the process.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use api_types::Value;
use env::{Env, Shutdown, TaskGroup};
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Request, Response};
use store::Store;
use tokio::net::TcpListener;

use crate::admission::Enabled;
use crate::aggregation::{self, Aggregation};
use crate::api::Api;
use crate::audit::Audit;
use crate::authn::Authenticator;
use crate::authz::Authorizer;
use crate::body::Body;
use crate::bootstrap;
use crate::call::status_response;
use crate::compact;
use crate::config::{ApiServerConfig, BuildError, RunError};
use crate::connection;
use crate::encryption::Sealing;
use crate::flow;
use crate::handler::Origin;
use crate::negotiate::Media;
use crate::node_client::NodeClient;
use crate::storage::Storage;
use crate::user::UserInfo;
use crate::wire::Door;

/// Connections at the same time.
const MAX_CONNECTIONS: usize = 16_384;
/// How long open requests may go on after a stop.
const DRAIN: Duration = Duration::from_secs(10);
/// How long tasks have for what they do at the end (taking this replica off Service `kubernetes`).
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The API server of one replica.
pub struct ApiServer {
    api: Arc<Api>,
    listener: TcpListener,
    config: ApiServerConfig,
}

impl ApiServerConfig {
    /// Binds the address and reads the keys. Nothing is answered before [`ApiServer::run`], except in process.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub async fn build(self, store: Store, env: Env) -> Result<ApiServer, BuildError> {
        if self.service_cidr.max_prefix_len() - self.service_cidr.prefix_len() < 3 {
            return Err(BuildError::ServiceCidr(self.service_cidr));
        }
        let tasks = TaskGroup::new("apiserver", Shutdown::new());
        let (file, is_followed) = (self.encryption_provider_config.clone(), self.encryption_reload);
        let sealing = Sealing::new(file, is_followed, env.clock.clone(), tasks.clone()).await;
        let sealing = Arc::new(sealing.map_err(BuildError::EncryptionConfig)?);
        let authenticator = Authenticator::new(&self, &env, &tasks)?;
        let nodes = self.kubelet_client.as_ref().map(|config| NodeClient::new(config, tasks.clone()));
        let nodes = nodes.transpose()?.map(Arc::new);
        let plugins = Enabled::new(&self.admission, &env.rng).map_err(BuildError::Admission)?;
        let audit = Audit::build(&self.audit, &env).map_err(BuildError::Audit)?;
        let address = self.listen;
        let listener =
            TcpListener::bind(address).await.map_err(|cause| BuildError::Listen { address, cause })?;
        let storage = Storage::new(store, env, sealing);
        let authorizer = Authorizer::new(&storage, &self.authorization, self.review_retry, &tasks);
        let authorizer = authorizer.map_err(BuildError::Authorization)?;
        let aggregation = Aggregation::new(&storage, self.proxy_client.clone(), self.aggregation);
        let aggregation = aggregation.map_err(BuildError::ProxyClient)?;
        let api = Api::new(&self, storage, authenticator, authorizer, plugins, aggregation, nodes, tasks);
        let api = Api { audit, ..api };
        Ok(ApiServer { api: Arc::new(api), listener, config: self })
    }
}

impl ApiServer {
    /// The address that is listened on.
    ///
    /// # Errors
    /// When the socket has none.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Signs the token of a service account (its namespace, name and UID) that lies in a Secret (its name).
    pub fn secret_token_signer(&self) -> impl Fn([&str; 4]) -> Option<String> + Send + Sync + 'static {
        let api = self.api.clone();
        move |[namespace, account, uid, secret]| {
            api.authenticator.tokens.sign_secret(namespace, account, uid, secret).ok()
        }
    }

    /// Whether the server behind an APIService (this one) serves it; why not otherwise.
    pub fn api_service_probe(
        &self,
    ) -> impl Fn(Arc<Value>) -> BoxFuture<'static, Result<(), String>> + Send + Sync + 'static {
        let api = self.api.clone();
        move |service| {
            let api = api.clone();
            Box::pin(async move { aggregation::probe(&api, &service).await })
        }
    }

    /// The API in process, in the name of a user.
    pub fn service(&self, identity: UserInfo) -> ApiService {
        ApiService { api: self.api.clone(), origin: Origin::Process(Arc::new(identity)) }
    }

    /// Serves until `shutdown`; then takes no new connections, ends watches, and lets open requests finish.
    ///
    /// # Errors
    /// See [`RunError`].
    pub async fn run(self, shutdown: Shutdown) -> Result<(), RunError> {
        let api = self.api;
        let tasks = api.tasks.clone();
        let port = self.listener.local_addr().map_or(self.config.listen.port(), |address| address.port());
        spawn_tasks(&api, &self.config, port);
        let room = self.config.room.part(MAX_CONNECTIONS);
        loop {
            let ((stream, peer), place) = tokio::select! {
                accepted = room.next(&api.storage.env, || self.listener.accept()) => accepted,
                () = shutdown.wait() => break,
                () = api.shutdown.wait() => break,
            };
            let door = Door { peer: peer.ip(), place: Arc::new(place), upgrade: None };
            let served = connection::serve(api.clone(), stream, door, self.config.idle_timeout);
            tasks.spawn_detached("connection", served);
        }
        drop(self.listener);
        api.shutdown.trigger();
        tokio::select! {
            () = room.emptied() => {}
            () = api.storage.env.clock.sleep(DRAIN) => tracing::info!("requests were still open at the end"),
        }
        let audit = api.audit.clone();
        drop(api);
        let ended = tasks.join(LAST_WORDS).await;
        if let Some(audit) = audit {
            audit.close().await;
        }
        match ended {
            // Connections that did not end in time were told; they are cut.
            Err(env::TaskFailure::Deadline { .. }) | Ok(()) => Ok(()),
            Err(failure) => Err(failure.into()),
        }
    }
}

/// Starts what keeps the objects of the server itself, and what it follows, as they should be.
fn spawn_tasks(api: &Arc<Api>, config: &ApiServerConfig, port: u16) {
    let tasks = &api.tasks;
    let shaped = api.clone();
    tasks.spawn_detached("bootstrap", async move {
        bootstrap::ensure(shaped.clone(), port).await;
        tokio::join!(flow::keep(shaped.clone()), bootstrap::keep_trust(&shaped));
    });
    tasks.spawn_detached("aggregation", aggregation::keep(api.clone()));
    tasks.spawn_detached("proxy-client", aggregation::keep_identity(api.clone()));
    let (kept, interval) = (api.clone(), config.reload_interval);
    tasks.spawn_detached("access-config", async move {
        let authenticator = &kept.authenticator;
        let all = async {
            tokio::join!(
                authenticator.oidc.keep(&kept, interval),
                authenticator.certificates.keep(&kept, interval),
                kept.authorizer.keep(&kept, interval),
            );
        };
        tokio::select! {
            () = all => {}
            () = kept.shutdown.wait() => {}
        }
    });
    let kept = api.clone();
    if config.encryption_reload {
        tasks.spawn_detached("encryption-config", async move {
            tokio::select! {
                () = kept.storage.sealing.keep(&kept.storage.env) => {}
                () = kept.shutdown.wait() => {}
            }
        });
    }
    let advertised = config.advertise_address;
    tasks.spawn_detached("endpoints", bootstrap::reconcile(api.clone(), advertised, port));
    tasks.spawn_detached("compaction", compact::run(api.clone(), config.compaction_interval));
}

/// The API as a service, in the name of one user or one connection. It never fails: every failure is an answer.
#[derive(Clone)]
pub struct ApiService {
    api: Arc<Api>,
    origin: Origin,
}

impl ApiService {
    pub(crate) fn new(api: Arc<Api>, origin: Origin) -> Self {
        Self { api, origin }
    }
}

impl tower::Service<Request<Body>> for ApiService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (api, origin) = (self.api.clone(), self.origin.clone());
        Box::pin(async move {
            let path = request.uri().path().to_owned();
            let answer =
                AssertUnwindSafe(async move { api.handle(request, origin).await }).catch_unwind().await;
            Ok(answer.unwrap_or_else(|_| {
                tracing::error!(path, "a request caused a panic");
                let text = "This request caused apiserver to panic. Look in the logs for details.";
                status_response(&api_types::status::Status::internal(text), Media::JSON)
            }))
        })
    }
}
