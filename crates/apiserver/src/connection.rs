//! A connection from its handshake to its end: TLS, HTTP, and how long it may say nothing.
//!
//! A connection without an open request is closed after a while, 90 s as upstream's, however far a request has come by
//! then: headers that are sent byte by byte, and half an HTTP/2 preface, count as nothing. Over HTTP/2 somebody who is
//! not known gets one answer a connection (upstream's `UnauthenticatedHTTP2DOSMitigation`, after CVE-2023-44487).

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use env::{Clock, TaskGroup};
use http::{Request, Response, Version, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use transport::Gathering;

use crate::api::Api;
use crate::authn::Shown;
use crate::body::{self, Body, Carrying};
use crate::handler::Origin;
use crate::server::ApiService;
use crate::wire::{Door, Stranger};

/// How long a client may take to say who it is, and no longer than a connection may be idle.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often an idle HTTP/2 connection is asked whether it lives.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// Streams of an HTTP/2 connection at the same time (upstream's `--http2-max-streams-per-connection`).
const MAX_STREAMS: u32 = 1000;
/// Bytes of an answer that wait for the socket, from which on no more of it is made. What was being made then is added.
const SEND_BUFFER: usize = 32 << 10;
/// Bytes of a request's headers over HTTP/2. Upstream takes 1 MiB.
const MAX_HEADER_BYTES: u32 = 128 << 10;
/// The same over HTTP/1.1, and 64 KiB of the URL. The library takes more of what comes fast.
const MAX_PLAIN_HEADER_BYTES: usize = 400 << 10;
/// How long a connection has to end that is asked to.
const FAREWELL: Duration = Duration::from_secs(1);

/// Serves a connection until it ends, or the server does. `idle`: how long it may be without a request.
pub(crate) async fn serve(api: Arc<Api>, stream: TcpStream, door: Door, idle: Duration) {
    env::tune(&stream);
    let acceptor = TlsAcceptor::from(api.authenticator.certificates.current().server.clone());
    let accepted = tokio::time::timeout(idle.min(HANDSHAKE_TIMEOUT), acceptor.accept(stream)).await;
    if !matches!(accepted, Ok(Ok(_))) {
        api.counts.handshake_errors.increment(1);
    }
    let stream = match accepted {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => return tracing::debug!("TLS handshake took too long"),
    };
    let (session, clock) = (stream.get_ref().1, api.storage.env.clock.clone());
    let shown = session.peer_certificates().and_then(Shown::new).map(Arc::new);
    let http2 = session.alpn_protocol() == Some(b"h2");
    let builder = builder(&api.tasks, http2, idle);
    let service = ApiService::new(api.clone(), Origin::Network(shown, door.peer));
    let usage = Usage::new(clock);
    let counted = usage.clone();
    let stream = if http2 { Gathering::new(stream) } else { Gathering::direct(stream) };
    let connection = builder.serve_connection_with_upgrades(
        TokioIo::new(stream),
        service_fn(move |mut request: Request<Incoming>| {
            let mut service = service.clone();
            let upgrade = request.extensions_mut().remove::<OnUpgrade>();
            request.extensions_mut().insert(Door { upgrade, ..door.clone() });
            let (open, version, refused) = (counted.begin(), request.version(), refused(&request));
            let answer = tower::Service::call(&mut service, request.map(body::incoming));
            async move {
                if let Some(response) = refused {
                    return Ok::<_, Infallible>(response.map(|body| Carrying::new(body, open)));
                }
                let mut response = answer.await?;
                if version == Version::HTTP_2 && response.extensions_mut().remove::<Stranger>().is_some() {
                    open.0.leave.notify_one();
                }
                Ok(response.map(|body| Carrying::new(body, open)))
            }
        }),
    );
    let mut connection = pin!(connection);
    let mut leaving = false;
    loop {
        let left = usage.left(if leaving { FAREWELL } else { idle });
        tokio::select! {
            ended = connection.as_mut() => {
                return ended.unwrap_or_else(|error| tracing::debug!(%error, "connection ended"));
            }
            () = api.shutdown.wait(), if !leaving => {}
            () = usage.leave.notified(), if !leaving => {}
            () = usage.clock.sleep(left) => {
                if !usage.left(if leaving { FAREWELL } else { idle }).is_zero() {
                    continue;
                }
                if leaving {
                    return tracing::debug!("connection was idle");
                }
            }
        }
        leaving = true;
        usage.touch();
        connection.as_mut().graceful_shutdown();
    }
}

/// Whether a request says no path (a host alone, `CONNECT`), or over HTTP/1.1 not which host it is for: proxies before
/// this server may have read it otherwise.
fn is_unclear(request: &Request<Incoming>) -> bool {
    let path = matches!(request.uri().path().as_bytes(), [b'/', ..] | b"*");
    let hosts = request.headers().get_all(header::HOST).iter().count();
    !path || request.version() == Version::HTTP_11 && hosts != 1
}

/// The answer to a request that is not looked at, and neither is what follows on the connection.
fn refused(request: &Request<Incoming>) -> Option<Response<Body>> {
    let headers = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len());
    let (code, text) = if is_unclear(request) {
        (400, "400 Bad Request")
    } else if request.version() < Version::HTTP_2 && headers.sum::<usize>() > MAX_PLAIN_HEADER_BYTES {
        (431, "431 Request Header Fields Too Large")
    } else {
        return None;
    };
    let mut response = body::response(code, "text/plain; charset=utf-8", text);
    body::set_header(&mut response, header::CONNECTION, "close");
    Some(response)
}

/// What the client chose when the connection was made: HTTP/2, or HTTP/1.1.
fn builder(tasks: &TaskGroup, http2: bool, idle: Duration) -> auto::Builder<Tasks> {
    let mut builder = auto::Builder::new(Tasks(tasks.clone()));
    builder.http1().timer(TokioTimer::new()).header_read_timeout(idle);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .max_concurrent_streams(MAX_STREAMS)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(MAX_HEADER_BYTES);
    if http2 { builder.http2_only() } else { builder.http1_only() }
}

/// How a connection is used.
struct Usage {
    clock: Clock,
    /// Open requests, and since when there are so many.
    open: Mutex<(usize, Instant)>,
    /// Somebody has had the only answer.
    leave: Notify,
}

impl Usage {
    fn new(clock: Clock) -> Arc<Self> {
        let open = Mutex::new((0, clock.monotonic()));
        Arc::new(Self { clock, open, leave: Notify::new() })
    }

    fn begin(self: &Arc<Self>) -> Open {
        let mut open = self.open.lock();
        *open = (open.0 + 1, self.clock.monotonic());
        Open(self.clone())
    }

    /// From now on it counts how long the connection is idle.
    fn touch(&self) {
        self.open.lock().1 = self.clock.monotonic();
    }

    /// How long until it is idle for so long.
    fn left(&self, limit: Duration) -> Duration {
        match *self.open.lock() {
            (0, since) => limit.saturating_sub(self.clock.monotonic().duration_since(since)),
            _ => limit,
        }
    }
}

/// An open request, until its answer is written.
struct Open(Arc<Usage>);

impl Drop for Open {
    fn drop(&mut self) {
        let mut open = self.0.open.lock();
        *open = (open.0.saturating_sub(1), self.0.clock.monotonic());
    }
}

/// Streams of HTTP/2 connections run as tasks of the server's group.
#[derive(Clone)]
struct Tasks(TaskGroup);

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn_detached("stream", future);
    }
}
