//! Where members are listened to, and how they are called.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use env::{Lane, TaskGroup};
use futures::future::join_all;
use futures::stream::{self, StreamExt as _};
use protos::peer::{join_server::JoinServer, peer_server::PeerServer};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use transport::{Address, Admission, Dialer, Listener, Security, Tls, admitted};

use crate::config::StoreConfig;
use crate::error::BuildError;
use crate::inner::Inner;
use crate::join::JoinService;
use crate::peers::MAX_MESSAGE;
use crate::pulse::{self, Door};
use crate::server::{self, PeerService};

/// How long connecting to a member may take, and the handshake too.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long calls of peers that are in flight may take at a stop.
const DRAIN: Duration = Duration::from_millis(200);

pub(crate) fn dialer(config: &StoreConfig) -> Dialer {
    Dialer::new(config.peer_tls.clone(), config.local_address, CONNECT_TIMEOUT)
}

/// The addresses for peers, bound, and how members are called.
pub(crate) struct Doors {
    listeners: Vec<(Listener, Security)>,
    dialer: Dialer,
}

impl Doors {
    pub async fn open(config: &StoreConfig) -> Result<Self, BuildError> {
        let mut doors = Vec::new();
        for address in &config.listen_peers {
            let security = security(address, config.peer_tls.as_ref())?;
            let listener = Listener::bind(address, config.sockets).await;
            let failed = |cause| BuildError::Listen { address: address.place.clone(), cause };
            doors.push((listener.map_err(failed)?, security));
        }
        Ok(Self { listeners: doors, dialer: dialer(config) })
    }

    /// The first one's address.
    pub fn address(&self) -> io::Result<SocketAddr> {
        let (first, _) = self.listeners.first().ok_or(io::ErrorKind::AddrNotAvailable)?;
        first.local_addr()?.ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    /// Serves until the store stops. Connections are taken on the pulse's thread, which keeps its own.
    ///
    /// # Errors
    /// The system gives no more threads.
    pub fn serve(self, tasks: &TaskGroup, inner: Arc<Inner>) -> io::Result<()> {
        let lane = Lane::start("pulse")?;
        let (cluster, me, shutdown) = (inner.cluster.0, inner.me, inner.shutdown.clone());
        let (clock, beating) = (inner.env.clock.clone(), inner.clone());
        let join = JoinServer::new(JoinService { inner: inner.clone() });
        let service = PeerServer::new(PeerService { inner })
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let service = InterceptedService::new(service, server::guard(cluster, me));
        let (mut doors, mut connections) = (Vec::new(), Vec::new());
        for (listener, security) in self.listeners {
            tracing::info!(address = listener.place(), "serving peer traffic");
            let (others, waiting) = mpsc::channel(pulse::DOOR);
            let admission = Admission { security: security.clone(), endpoint: "peer", protocol: None };
            connections.push(admitted(ReceiverStream::new(waiting), admission).boxed());
            doors.push(pulse::serve_door(beating.clone(), Door { listener, security, others }));
        }
        let beats = pulse::run(beating, self.dialer);
        tasks.spawn_detached("pulse", async move {
            lane.run(async move { tokio::join!(join_all(doors), beats) }).await;
            drop(lane);
        });
        let incoming = stream::select_all(connections).map(Ok::<_, io::Error>);
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
        Ok(())
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
