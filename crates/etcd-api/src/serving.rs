//! Connections while they are served, over HTTP/1 or HTTP/2 as their clients like: what tonic's server does, which
//! besides lets go of a connection whose client asks to speak another protocol on it.

use std::pin::pin;
use std::time::Duration;

use env::Clock;
use futures::{Stream, StreamExt as _};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::server::Connected as _;
use tower::ServiceExt as _;
use transport::{Called, PingPolicy};

use crate::calls::Counted;
use crate::deadline::Deadline;
use crate::framing::is_grpc;

/// What holds for every connection.
#[derive(Clone)]
pub(crate) struct Settings {
    /// How often clients may ask whether the server lives.
    pub pings: PingPolicy,
    /// Calls that a connection may have at a time.
    pub streams: u32,
    /// How often quiet connections are asked whether they live, and how long they have to answer.
    pub keep_alive: Option<(Duration, Duration)>,
}

impl Settings {
    fn builder(&self) -> auto::Builder<TokioExecutor> {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        let (interval, timeout) = self.keep_alive.unzip();
        builder.http1().timer(TokioTimer::new());
        let mut http2 = builder.http2();
        http2.timer(TokioTimer::new()).max_concurrent_streams(self.streams).keep_alive_interval(interval);
        // Calls that fail are no reason to end a connection, however many.
        http2.max_local_error_reset_streams(None);
        if let Some(timeout) = timeout {
            http2.keep_alive_timeout(timeout);
        }
        builder
    }
}

/// Serves connections as long as some come, and to their ends. At the stop they are asked to end.
pub(crate) async fn serve(
    incoming: impl Stream<Item = Called>,
    service: Counted<Routes>,
    settings: &Settings,
    stop: env::Shutdown,
) {
    let builder = settings.builder();
    let (mut incoming, mut open) = (pin!(incoming), JoinSet::new());
    loop {
        let connection = tokio::select! {
            connection = incoming.next() => connection,
            () = stop.wait() => None,
        };
        let Some(connection) = connection else { break };
        while open.try_join_next().is_some() {}
        let clock = settings.pings.clock.clone();
        open.spawn(converse(builder.clone(), connection, service.clone(), clock, stop.clone()));
    }
    while open.join_next().await.is_some() {}
}

/// One connection.
async fn converse(
    builder: auto::Builder<TokioExecutor>,
    connection: Called,
    service: Counted<Routes>,
    clock: Clock,
    stop: env::Shutdown,
) {
    let peer = connection.connect_info();
    let answer = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer.clone());
        answer(service.clone(), request, clock.clone())
    });
    let served = builder.serve_connection_with_upgrades(TokioIo::new(connection), answer);
    let mut served = pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = stop.wait() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection failed");
    }
}

/// A client of gRPC that has said how long it waits for the beginning of an answer does not wait longer, and what was being done
/// for it ends.
async fn answer(
    service: Counted<Routes>,
    request: Request<Body>,
    clock: Clock,
) -> Result<Response<Body>, std::convert::Infallible> {
    // What is no time is none that has passed.
    let deadline = match is_grpc(request.headers()) {
        true => Deadline::of(request.headers(), &clock).ok(),
        // The gateway's calls have a deadline of their own.
        false => None,
    };
    let deadline = deadline.unwrap_or_else(|| Deadline::none(&clock));
    deadline.bound(service.oneshot(request)).await.unwrap_or_else(|late| Ok(late.into_http()))
}
