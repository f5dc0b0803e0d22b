//! What is done for every gRPC call, whatever it asks: it is counted, timed, told in the log when it was slow, and
//! refused when it wants a leader and there is none, or when its client holds
//! too much memory already.
//!
//! The cost is paid by every request: handles are found once by path, nothing is formatted, and what a slow call asked
//! is kept as a few raw bytes until it is known whether anyone wants to see it.
//!
//! Read `methods.rs` (what is counted), `tally.rs` (messages on their way), `describe.rs` (a slow call for the log).

mod describe;
mod methods;
mod tally;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use store::Store;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};
use transport::Peer;

use self::methods::{Methods, Versions};
use self::tally::{Answering, Asking};
use crate::budget::{self, Budget, Permit, Reserved, Share};
use crate::context::Context;
use crate::error::unreadable;
use crate::inflate;

pub(crate) use self::methods::{METRICS, Shape};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::tally::messages_in;

/// Bytes of a request that are kept for the log.
const KEPT: usize = 256;
/// Metadata in which a client says which version of the API it speaks.
const VERSION_KEY: &str = "client-api-version";
/// Metadata in which a client says that it wants a leader.
const LEADER_KEY: &str = "hasleader";

/// What every call goes through; cheap to clone.
#[derive(Clone)]
pub(crate) struct Calls(Arc<Inner>);

struct Inner {
    methods: Methods,
    versions: Versions,
    store: Store,
    budget: Budget,
    /// Bytes of a message from a client.
    max_message: usize,
    clock: env::Clock,
    /// A unary call that takes longer is told in the log (`--warning-unary-request-duration`).
    warn_after: Duration,
}

impl Calls {
    /// For the services of these descriptors. With `extensive` the time that each method takes is counted too
    /// (`--metrics extensive`).
    pub fn new(context: &Context, extensive: bool, warn_after: Duration) -> Self {
        let (store, budget, clock) =
            (context.store.clone(), context.budget.clone(), context.env.clock.clone());
        let (methods, versions) = (Methods::new(extensive), Versions::new());
        let max_message = context.limits.max_message();
        Self(Arc::new(Inner { methods, versions, store, budget, max_message, clock, warn_after }))
    }

    /// Why a call is refused before anyone sees it.
    fn refused(&self, method: usize, headers: &http::HeaderMap) -> Option<Status> {
        let version = headers.get(VERSION_KEY);
        if version.is_some_and(|version| std::str::from_utf8(version.as_bytes()).is_err()) {
            return Some(Status::invalid_argument("etcdserver: invalid client api version"));
        }
        let version = version.and_then(|version| version.to_str().ok()).unwrap_or("unknown");
        self.0.versions.count(self.0.methods.shape(method) == Shape::Unary, version);
        let needs_leader = headers.get(LEADER_KEY).is_some_and(|value| value == "true");
        let refused = needs_leader && self.0.store.leadership().borrow().leader.is_none();
        refused.then(|| Status::unavailable("etcdserver: no leader"))
    }
}

/// A call that was not answered yet. When nobody holds it any more without its end being known, the client has gone.
struct Open {
    calls: Calls,
    method: usize,
    start: Instant,
    remote: Option<SocketAddr>,
    /// Calls of its connection.
    calls_open: Arc<AtomicUsize>,
    share: Share,
    /// What it takes itself.
    _permit: Permit,
    ended: AtomicBool,
    received: AtomicU64,
    sent: AtomicU64,
    /// The beginning of the request.
    request: Mutex<(usize, [u8; KEPT])>,
}

impl Open {
    fn keep(&self, data: &[u8]) {
        let mut request = self.request.lock();
        let (have, bytes) = &mut *request;
        let take = data.len().min(KEPT - *have);
        bytes[*have..*have + take].copy_from_slice(&data[..take]);
        *have += take;
    }

    /// Notes the end, once.
    fn end(&self, code: Code) {
        if self.ended.swap(true, Ordering::Relaxed) {
            return;
        }
        let calls = &self.calls.0;
        let took = calls.clock.monotonic() - self.start;
        calls.methods.ended(self.method, code, took);
        if took > calls.warn_after && calls.methods.shape(self.method) == Shape::Unary {
            self.tell(took);
        }
    }

    fn tell(&self, took: Duration) {
        let path = self.calls.0.methods.path(self.method);
        let request = self.request.lock();
        let remote =
            self.remote.map_or_else(|| "No remote client info.".to_owned(), |remote| remote.to_string());
        tracing::warn!(
            "time spent" = format!("{took:?}"),
            remote,
            "response type" = path,
            "request size" = self.received.load(Ordering::Relaxed),
            "response size" = self.sent.load(Ordering::Relaxed),
            "request content" = describe::request(path, &request.1[..request.0]),
            "request stats"
        );
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.calls_open.fetch_sub(1, Ordering::Relaxed);
        self.end(Code::Cancelled);
    }
}

impl<S> Layer<S> for Calls {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { calls: self.clone(), inner }
    }
}

/// Services whose calls are counted; what is no gRPC call of theirs passes untouched.
#[derive(Clone)]
pub(crate) struct Counted<S> {
    calls: Calls,
    inner: S,
}

impl<S> Service<http::Request<Body>> for Counted<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let calls = &self.calls.0;
        let peer = request.extensions().get::<Peer>();
        let (remote, share) = (peer.and_then(|peer| peer.address), Share::of_peer(&calls.budget, peer));
        let compressed = inflate::is_compressed(request.headers());
        let Some(method) = calls.methods.find(request.uri().path()) else {
            if let Ok(true) = compressed {
                request = inflate::request(request, &share, calls.max_message);
            }
            let unknown = unknown_method(request.uri().path());
            let answer = self.inner.call(request);
            return Box::pin(async move {
                let response = answer.await?;
                let status = Status::from_header_map(response.headers());
                let is_unknown =
                    |status: &Status| status.code() == Code::Unimplemented && status.message().is_empty();
                Ok(if status.as_ref().is_some_and(is_unknown) { unknown.into_http() } else { response })
            });
        };
        let calls_open = peer.map(|peer| peer.calls.clone()).unwrap_or_default();
        calls_open.fetch_add(1, Ordering::Relaxed);
        let taken = share.try_take(budget::CALL);
        let refused = taken.as_ref().err().cloned();
        let open = Arc::new(Open {
            calls: self.calls.clone(),
            method,
            start: calls.clock.monotonic(),
            remote,
            calls_open,
            _permit: taken.unwrap_or_else(|_| share.charge(budget::CALL)),
            share: share.clone(),
            ended: AtomicBool::new(false),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            request: Mutex::new((0, [0; KEPT])),
        });
        calls.methods.started(method);
        let refused = refused.or_else(|| self.calls.refused(method, request.headers()));
        if let Some(status) = refused.or_else(|| compressed.as_ref().err().cloned()) {
            open.end(status.code());
            return Box::pin(async move { Ok(status.into_http()) });
        }
        if let Ok(true) = compressed {
            request = inflate::request(request, &share, calls.max_message);
        }
        request.extensions_mut().insert(share);
        let request = request.map(|body| Body::new(Asking::new(body, open.clone())));
        let answer = self.inner.call(request);
        Box::pin(async move {
            let response = answer.await?;
            // A refusal has its status in front.
            if let Some(status) = Status::from_header_map(response.headers()) {
                open.end(status.code());
                if status.code() == Code::Internal {
                    let stream = open.calls.0.methods.shape(method) != Shape::Unary;
                    return Ok(unreadable(status, stream).into_http());
                }
            }
            let reserved = response.extensions().get::<Reserved>().cloned();
            Ok(response.map(|body| Body::new(Answering::new(body, open, reserved))))
        })
    }
}

/// What grpc-go answers to a call of a service that has no such method.
fn unknown_method(path: &str) -> Status {
    let (service, method) = path.trim_start_matches('/').rsplit_once('/').unwrap_or((path, ""));
    Status::unimplemented(format!("unknown method {method} for service {service}"))
}

/// The code that a body's trailers say.
fn trailing_code(trailers: &http::HeaderMap) -> Code {
    Status::from_header_map(trailers).map_or(Code::Unknown, |status| status.code())
}
