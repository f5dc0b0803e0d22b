//! Sockets of both kinds, bare and with TLS.

use std::any::Any;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Poll};

use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};
use tokio_rustls::TlsStream;
use tonic::transport::server::Connected;

use crate::address::Address;
use crate::room::Place;

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 4096;

/// etcd's `--socket-reuse-port`. (Addresses may always be used again at once, as in Go.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketOptions {
    /// Whether several processes may listen on one port.
    pub reuse_port: bool,
}

/// A place that is listened on.
pub enum Listener {
    /// A port.
    Tcp(TcpListener),
    /// A local socket, with its path.
    Unix(UnixListener, String),
}

/// A connection that no runtime owns yet.
pub struct Accepted {
    pub(crate) stream: Stream,
    /// Its place among the connections, for as long as it lasts.
    pub(crate) place: Option<Place>,
}

pub(crate) enum Stream {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl Listener {
    /// Binds an address. The file of a local socket is replaced.
    ///
    /// # Errors
    /// With the words of Go's library.
    pub async fn bind(address: &Address, options: SocketOptions) -> io::Result<Self> {
        let network = if address.is_unix() { "unix" } else { "tcp" };
        let bound = match address.host_and_port() {
            None => bind_unix(&address.place),
            Some((host, port)) => bind_tcp(host, port, options).await,
        };
        bound.map_err(|cause| {
            let text = match cause.kind() {
                io::ErrorKind::AddrInUse => "address already in use".to_owned(),
                _ => cause.to_string(),
            };
            io::Error::new(cause.kind(), format!("listen {network} {}: bind: {text}", address.place))
        })
    }

    /// The next connection.
    ///
    /// # Errors
    /// No more file descriptors, or the connection has ended already.
    pub async fn accept(&self) -> io::Result<Accepted> {
        let stream = match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Stream::Tcp(stream.into_std()?)
            }
            Self::Unix(listener, _) => Stream::Unix(listener.accept().await?.0.into_std()?),
        };
        Ok(Accepted { stream, place: None })
    }

    /// The port's address; none of a local socket.
    ///
    /// # Errors
    /// The system does not say.
    pub fn local_addr(&self) -> io::Result<Option<SocketAddr>> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(Some),
            Self::Unix(..) => Ok(None),
        }
    }

    /// Where it listens, for people.
    pub fn place(&self) -> String {
        match self {
            Self::Tcp(listener) => {
                listener.local_addr().map_or_else(|error| error.to_string(), |address| address.to_string())
            }
            Self::Unix(_, path) => path.clone(),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            drop(std::fs::remove_file(path));
        }
    }
}

fn bind_unix(path: &str) -> io::Result<Listener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    Ok(Listener::Unix(UnixListener::bind(path)?, path.to_owned()))
}

async fn bind_tcp(host: &str, port: u16, options: SocketOptions) -> io::Result<Listener> {
    let host = if host.is_empty() { "::" } else { host };
    let mut addresses: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await?.collect();
    // A name for both families means the older one, as in Go.
    addresses.sort_by_key(SocketAddr::is_ipv6);
    let address = addresses.first().ok_or(io::ErrorKind::AddrNotAvailable)?;
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(options.reuse_port)?;
    socket.bind(*address)?;
    Ok(Listener::Tcp(socket.listen(BACKLOG)?))
}

/// A bare connection.
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    pub fn adopt(stream: Stream) -> io::Result<Self> {
        Ok(match stream {
            Stream::Tcp(stream) => Self::Tcp(TcpStream::from_std(stream)?),
            Stream::Unix(stream) => Self::Unix(UnixStream::from_std(stream)?),
        })
    }

    /// Connects; `local` is the address to come from.
    pub async fn connect(address: &Address, local: Option<IpAddr>) -> io::Result<Self> {
        let Some(target) = address.host_and_port() else {
            return UnixStream::connect(&address.place).await.map(Self::Unix);
        };
        let Some(local) = local else { return tcp(TcpStream::connect(target).await?) };
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for remote in tokio::net::lookup_host(target).await? {
            let socket = if remote.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            if remote.is_ipv4() == local.is_ipv4() {
                socket.bind(SocketAddr::new(local, 0))?;
            }
            match socket.connect(remote).await {
                Ok(stream) => return tcp(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    pub fn remote(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.peer_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    /// Waits for the first byte and leaves it.
    pub async fn first_byte(&self) -> io::Result<Option<u8>> {
        match self {
            Self::Tcp(stream) => {
                let mut byte = [0];
                Ok((stream.peek(&mut byte).await? == 1).then_some(byte[0]))
            }
            Self::Unix(_) => Ok(None),
        }
    }
}

fn tcp(stream: TcpStream) -> io::Result<Socket> {
    stream.set_nodelay(true)?;
    Ok(Socket::Tcp(stream))
}

/// A connection that is ready for use.
pub enum Connection {
    /// In plain text.
    Plain(Bare),
    /// With TLS.
    Tls(Box<TlsStream<Bare>>),
}

/// A bare connection, whichever kind, with its place if it was accepted.
pub struct Bare {
    pub(crate) socket: Socket,
    _place: Option<Place>,
}

impl Bare {
    pub(crate) fn new(socket: Socket, place: Option<Place>) -> Self {
        Self { socket, _place: place }
    }
}

/// Who is at the other end.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// Its address; none of a local socket.
    pub address: Option<SocketAddr>,
    /// Whether TLS is spoken.
    pub secure: bool,
    /// The certificates it showed, its own first.
    pub certificates: Option<Arc<Vec<CertificateDer<'static>>>>,
    /// What the server has noted of the connection.
    pub note: Option<Arc<dyn Any + Send + Sync>>,
    /// Calls of the connection that are open: the server counts them.
    pub calls: Arc<AtomicUsize>,
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        match self {
            Self::Plain(bare) => Peer { address: bare.socket.remote(), ..Peer::default() },
            Self::Tls(stream) => {
                let (bare, session) = stream.get_ref();
                let certificates = session.peer_certificates().map(|chain| Arc::new(chain.to_vec()));
                Peer { address: bare.socket.remote(), secure: true, certificates, ..Peer::default() }
            }
        }
    }
}

macro_rules! on_socket {
    ($self:expr, $stream:ident => $call:expr) => {
        match &mut $self.get_mut().socket {
            Socket::Tcp($stream) => $call,
            Socket::Unix($stream) => $call,
        }
    };
}

macro_rules! on_connection {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Connection::Plain($stream) => $call,
            Connection::Tls($stream) => $call,
        }
    };
}

/// Passes reads and writes on.
macro_rules! pass_on {
    ($name:ty, $on:ident) => {
        impl AsyncRead for $name {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buffer: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                $on!(self, stream => Pin::new(stream).poll_read(cx, buffer))
            }
        }

        impl AsyncWrite for $name {
            fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
                $on!(self, stream => Pin::new(stream).poll_write(cx, data))
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                $on!(self, stream => Pin::new(stream).poll_flush(cx))
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                $on!(self, stream => Pin::new(stream).poll_shutdown(cx))
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                data: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                $on!(self, stream => Pin::new(stream).poll_write_vectored(cx, data))
            }

            fn is_write_vectored(&self) -> bool {
                true
            }
        }
    };
}

pass_on!(Bare, on_socket);
pass_on!(Connection, on_connection);
