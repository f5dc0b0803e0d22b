//! Calling: connections that are made when first needed and again when lost.

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::address::Address;
use crate::socket::{Bare, Connection, Socket};
use crate::tls::Tls;
use crate::turns::Turns;
use crate::words;

/// Whom to believe, and from where to call.
#[derive(Clone)]
pub struct Dialer {
    /// How members that speak TLS are called.
    pub tls: Option<Tls>,
    /// The address to come from; the system's choice without.
    pub local: Option<IpAddr>,
    /// How long connecting may take.
    pub timeout: Duration,
    /// How long shaking hands may take.
    pub handshake: Duration,
    turns: Turns,
}

impl Dialer {
    /// Connecting and shaking hands may take `timeout` each. Of those who share a dialer and its clones one at a time
    /// tries to reach an address.
    pub fn new(tls: Option<Tls>, local: Option<IpAddr>, timeout: Duration) -> Self {
        Self { tls, local, timeout, handshake: timeout, turns: Turns::default() }
    }

    /// The same for somebody who waits for nobody's turn.
    pub fn apart(&self) -> Self {
        Self { turns: Turns::default(), ..self.clone() }
    }

    /// A channel to whoever is found at one of the URLs; it connects when it is first used. `set` adds to its settings.
    ///
    /// # Errors
    /// There is no URL, or one is none of ours, or TLS is wanted and there is none.
    pub fn lazy(&self, urls: &[String], set: impl FnOnce(Endpoint) -> Endpoint) -> io::Result<Channel> {
        let connector = self.connector(urls)?;
        // The connector speaks TLS itself and knows the addresses: what is left for the channel is a name.
        let address = &connector.addresses[0];
        let authority = if address.is_unix() { "localhost" } else { address.place.as_str() };
        let endpoint = Endpoint::from_shared(format!("http://{authority}")).map_err(io::Error::other)?;
        Ok(set(endpoint).connect_with_connector_lazy(connector))
    }

    /// Connects to whoever is found at one of the URLs, to speak `protocol`, which is named by ALPN with TLS.
    ///
    /// # Errors
    /// As [`Self::lazy`]; nobody can be reached, or whoever answers is not believed.
    pub async fn open(&self, urls: &[String], protocol: &'static [u8]) -> io::Result<Connection> {
        let connector = Connector { protocol: Some(protocol), ..self.connector(urls)? };
        connector.connect().await.map(|(connection, _)| connection)
    }

    pub(crate) fn connector(&self, urls: &[String]) -> io::Result<Connector> {
        let read = |url: &String| url.parse::<Address>().map_err(io::Error::other);
        let addresses = urls.iter().map(read).collect::<io::Result<Vec<_>>>()?;
        if addresses.is_empty() {
            return Err(io::Error::other("no URL to call"));
        }
        if let Some(secure) = addresses.iter().find(|address| address.is_secure())
            && self.tls.is_none()
        {
            return Err(io::Error::other(format!("no certificates to call {secure}")));
        }
        Ok(Connector {
            addresses: Arc::new(addresses),
            good: Arc::default(),
            tls: self.tls.clone(),
            local: self.local,
            timeout: self.timeout,
            handshake: self.handshake,
            turns: self.turns.clone(),
            protocol: None,
            told: Arc::default(),
        })
    }
}

/// Connects to one of some addresses.
#[derive(Clone)]
pub(crate) struct Connector {
    /// One at least.
    addresses: Arc<Vec<Address>>,
    /// Which of them answered last.
    good: Arc<AtomicUsize>,
    tls: Option<Tls>,
    local: Option<IpAddr>,
    timeout: Duration,
    handshake: Duration,
    turns: Turns,
    protocol: Option<&'static [u8]>,
    told: Arc<Told>,
}

/// The failure that was logged last: the same one is not logged with every attempt.
#[derive(Default)]
struct Told(Mutex<String>);

impl Told {
    fn tell(&self, address: &Address, error: &io::Error) {
        if words::tls_error(error).is_none() {
            return;
        }
        let failure = words::failure(error);
        let mut last = self.0.lock();
        if *last != failure {
            tracing::warn!(remote_peer = %address, error = failure, "the connection to a member failed");
            *last = failure;
        }
    }
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Dialed>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let (connection, address) = connector.connect().await?;
            Ok(TokioIo::new(Dialed { connection, address, told: connector.told }))
        })
    }
}

impl Connector {
    /// Tries the addresses, first the one that answered last.
    pub async fn connect(&self) -> io::Result<(Connection, Address)> {
        let first = self.good.load(Ordering::Relaxed);
        let mut last = io::Error::from(io::ErrorKind::NotConnected);
        for number in (first..self.addresses.len()).chain(0..first) {
            let address = &self.addresses[number];
            let attempt = self.clone().connect_to(address.clone());
            match self.turns.take(&address.place, attempt).await {
                Ok(connection) => {
                    self.good.store(number, Ordering::Relaxed);
                    return Ok((connection, address.clone()));
                }
                Err(error) => {
                    self.told.tell(address, &error);
                    last = error;
                }
            }
        }
        Err(last)
    }

    async fn connect_to(self, address: Address) -> io::Result<Connection> {
        let late = || io::Error::from(io::ErrorKind::TimedOut);
        let socket = tokio::time::timeout(self.timeout, Socket::connect(&address, self.local));
        let bare = Bare::new(socket.await.unwrap_or_else(|_| Err(late()))?, None);
        let Some(tls) = self.tls.as_ref().filter(|_| address.is_secure()) else {
            return Ok(Connection::Plain(bare));
        };
        let name = tls.options().server_name.clone();
        let name = name.unwrap_or_else(|| match address.is_unix() {
            true => "localhost".to_owned(),
            false => address.host().to_owned(),
        });
        let name = ServerName::try_from(name).map_err(io::Error::other)?;
        let mut client = tls.current().client;
        if let Some(protocol) = self.protocol {
            Arc::make_mut(&mut client).alpn_protocols = vec![protocol.to_vec()];
        }
        let connecting = TlsConnector::from(client).connect(name, bare);
        let stream =
            tokio::time::timeout(self.handshake, connecting).await.unwrap_or_else(|_| Err(late()))?;
        Ok(Connection::Tls(Box::new(stream.into())))
    }
}

/// A connection that says why it ended. With TLS 1.3 whoever answers refuses a certificate only after the handshake.
pub(crate) struct Dialed {
    connection: Connection,
    address: Address,
    told: Arc<Told>,
}

impl AsyncRead for Dialed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.connection).poll_read(cx, buffer);
        if let Poll::Ready(Err(error)) = &polled {
            self.told.tell(&self.address, error);
        }
        polled
    }
}

impl AsyncWrite for Dialed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}
