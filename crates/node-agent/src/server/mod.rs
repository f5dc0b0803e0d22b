//! The node's HTTPS server: logs, streams, pods, health. Only the API server and administrators may ask. Driver.

mod bridge;
mod logs;
mod stream;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use env::Shutdown;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use transport::{Place, Room};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::context::Context;

/// The API server's name in its client certificate.
const API_SERVER: &str = "kube-apiserver-kubelet-client";
/// The group of administrators.
const MASTERS: &str = "system:masters";
/// Paths whose requests are counted, by their first part.
const PATHS: [&str; 8] = ["pods", "metrics", "containerLogs", "exec", "attach", "portForward", "dial", "run"];
/// Connections served at once.
const CONNECTIONS: usize = 512;

pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What the server's TLS needs, PEM.
pub(crate) struct ServerConfig<'a> {
    pub ca: &'a [u8],
    pub certificate: &'a [u8],
    pub key: &'a [u8],
}

/// TLS with client certificates of the cluster's authority; whoever has none may still ask for `/healthz`.
pub(crate) fn tls(config: &ServerConfig<'_>) -> Result<Arc<rustls::ServerConfig>, String> {
    let failed = |error: &dyn std::fmt::Display| error.to_string();
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(config.ca) {
        roots.add(certificate.map_err(|error| failed(&error))?).map_err(|error| failed(&error))?;
    }
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(config.certificate).collect();
    let chain = chain.map_err(|error| failed(&error))?;
    let key = PrivateKeyDer::from_pem_slice(config.key).map_err(|error| failed(&error))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|error| failed(&error))?;
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|error| failed(&error))?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(tls))
}

/// Whether the holder of this certificate may ask this node.
fn may_ask(certificate: &[u8]) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
    let subject = certificate.subject();
    let mut names = subject.iter_common_name().filter_map(|name| name.as_str().ok());
    let mut groups = subject.iter_organization().filter_map(|name| name.as_str().ok());
    names.any(|name| name == API_SERVER) || groups.any(|group| group == MASTERS)
}

/// The server, ready to listen.
pub(crate) struct Server {
    pub context: Arc<Context>,
    pub tls: Arc<rustls::ServerConfig>,
}

impl Server {
    /// Serves until shutdown.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub async fn run(self, address: SocketAddr, shutdown: Shutdown) -> std::io::Result<()> {
        let listener = TcpListener::bind(address).await?;
        let acceptor = TlsAcceptor::from(self.tls);
        let room = Room::new(CONNECTIONS);
        loop {
            let ((socket, _), place) = tokio::select! {
                accepted = room.next(&self.context.env, || listener.accept()) => accepted,
                () = shutdown.wait() => return Ok(()),
            };
            let (context, acceptor, shutdown) = (self.context.clone(), acceptor.clone(), shutdown.clone());
            self.context.tasks.spawn_detached("connection", async move {
                tokio::select! {
                    () = connection(context, acceptor, socket, Arc::new(place)) => {}
                    () = shutdown.wait() => {}
                }
            });
        }
    }
}

async fn connection(context: Arc<Context>, acceptor: TlsAcceptor, socket: TcpStream, place: Arc<Place>) {
    env::tune(&socket);
    let Ok(stream) = acceptor.accept(socket).await else { return };
    let certificates = stream.get_ref().1.peer_certificates();
    let trusted = certificates.and_then(<[_]>::first).is_some_and(|certificate| may_ask(certificate));
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let (context, place) = (context.clone(), place.clone());
        async move { Ok::<_, Infallible>(answer(&context, trusted, request, place).await) }
    });
    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    if let Err(error) = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection to the node broke");
    }
}

pub(crate) fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(text.into()).boxed_unsync());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

async fn answer<B>(
    context: &Arc<Context>,
    trusted: bool,
    request: Request<B>,
    place: Arc<Place>,
) -> Response<Body> {
    let (mut head, _) = request.into_parts();
    let path = head.uri.path();
    if path == "/healthz" {
        return text(StatusCode::OK, "ok");
    }
    if !trusted {
        return text(StatusCode::UNAUTHORIZED, "Unauthorized");
    }
    let query = head.uri.query().unwrap_or_default();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    if let Some(known) = PATHS.iter().find(|known| **known == parts[0]) {
        let method = head.method.to_string();
        metrics::counter!("kubelet_http_requests_total", "method" => method, "path" => *known).increment(1);
    }
    let upgrade = head.extensions.remove::<OnUpgrade>();
    let wanted = stream::Wanted { method: &head.method, headers: &head.headers, query, upgrade, place };
    match parts.as_slice() {
        ["exec" | "attach" | "portForward", ..] => return stream::serve(context, &parts, wanted).await,
        ["dial", namespace, pod, port] => {
            return stream::dial(context, (namespace, pod, port), wanted).await;
        }
        ["run", ..] => return text(StatusCode::NOT_IMPLEMENTED, "not implemented by this node"),
        _ => {}
    }
    if head.method != Method::GET {
        return text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed");
    }
    match parts.as_slice() {
        ["pods"] => pods(context),
        ["metrics"] => metrics(context),
        ["containerLogs", namespace, pod, container] => {
            logs::serve(context, namespace, pod, container, query).await
        }
        _ => text(StatusCode::NOT_FOUND, "404 page not found"),
    }
}

fn pods(context: &Context) -> Response<Body> {
    let items: Vec<Value> = context.pods.all().iter().map(|pod| (**pod).clone()).collect();
    let list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items});
    let mut response = text(StatusCode::OK, list.to_string());
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

/// What the process recorded (the kubelet's names).
fn metrics(context: &Context) -> Response<Body> {
    metrics::gauge!("kubelet_node_name", "node" => context.node_name.clone()).set(1.0);
    metrics::gauge!("kubelet_desired_pods").set(context.pods.all().len() as f64);
    text(StatusCode::OK, (context.metrics)())
}
