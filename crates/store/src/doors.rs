//! Where members are listened to, and how they are called.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use env::TaskGroup;
use futures::stream::{self, StreamExt as _};
use protos::peer::{join_server::JoinServer, peer_server::PeerServer};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use transport::{Address, Admission, Dialer, Listener, Security, Tls, accepted, admitted};

use crate::config::StoreConfig;
use crate::error::BuildError;
use crate::handle::Inner;
use crate::join::JoinService;
use crate::peers::MAX_MESSAGE;
use crate::server::{self, PeerService};

/// How long connecting to a member may take, and the handshake too.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long calls of peers that are in flight may take at a stop.
const DRAIN: Duration = Duration::from_millis(200);

pub(crate) fn dialer(config: &StoreConfig) -> Dialer {
    Dialer { tls: config.peer_tls.clone(), local: config.local_address, timeout: CONNECT_TIMEOUT }
}

/// The addresses for peers, bound.
pub(crate) struct Doors(Vec<(Listener, Security)>);

impl Doors {
    pub async fn open(config: &StoreConfig) -> Result<Self, BuildError> {
        let mut doors = Vec::new();
        for address in &config.listen_peers {
            let security = security(address, config.peer_tls.as_ref())?;
            let listener = Listener::bind(address, config.sockets).await;
            let failed = |cause| BuildError::Listen { address: address.place.clone(), cause };
            doors.push((listener.map_err(failed)?, security));
        }
        Ok(Self(doors))
    }

    /// The first one's address.
    pub fn address(&self) -> io::Result<SocketAddr> {
        let (first, _) = self.0.first().ok_or(io::ErrorKind::AddrNotAvailable)?;
        first.local_addr()?.ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    /// Serves until the store stops.
    pub fn serve(self, tasks: &TaskGroup, inner: Arc<Inner>) {
        let (cluster, me, shutdown) = (inner.cluster.0, inner.me, inner.shutdown.clone());
        let clock = inner.env.clock.clone();
        let join = JoinServer::new(JoinService { inner: inner.clone() });
        let service = PeerServer::new(PeerService { inner })
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let service =
            InterceptedService::new(service, move |request| server::check_identity(cluster, me, request));
        let doors = self.0.into_iter().map(|(listener, security)| {
            tracing::info!(address = listener.place(), "serving peer traffic");
            admitted(accepted(listener), Admission { security, endpoint: "peer" }).boxed()
        });
        let incoming = stream::select_all(doors).map(Ok::<_, io::Error>);
        let stop = shutdown.clone();
        let serve = Server::builder()
            .add_service(service)
            .add_service(join)
            .serve_with_incoming_shutdown(incoming, async move { stop.wait().await });
        tasks.spawn("peers", async move {
            // Calls in flight get a moment; a peer that keeps its end open does not hold up the stop.
            let patience = async {
                shutdown.wait().await;
                clock.sleep(DRAIN).await;
            };
            tokio::select! {
                served = serve => served,
                () = patience => Ok(()),
            }
        });
    }
}

fn security(address: &Address, tls: Option<&Tls>) -> Result<Security, BuildError> {
    match tls {
        _ if !address.is_secure() => Ok(Security::Plain),
        Some(tls) if tls.options().certificate.is_some() => Ok(Security::Tls(tls.clone())),
        _ => {
            let place = &address.place;
            let text = format!("cannot listen on TLS for {place}: KeyFile and CertFile are not presented");
            Err(BuildError::Tls(text))
        }
    }
}
