//! Connections to all masters: one HTTP/2 connection each, kept open, the next one taken within a second when one dies.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use env::{Env, TaskGroup};
use futures::future::BoxFuture;
use http::uri::Scheme;
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tower::util::BoxCloneSyncService;

use crate::client::{Body, BoxError, Service, read_whole};

/// How long a master may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(800);
/// A silent connection is asked for a sign of life so often …
const PING_INTERVAL: Duration = Duration::from_millis(500);
/// … and given up when none comes within this.
const PING_TIMEOUT: Duration = Duration::from_millis(500);
/// Bytes of a request that is kept so that it can be sent again, at most: more than any master accepts.
const MAX_REQUEST: usize = 16 << 20;
/// Rounds over all masters before a request is given up.
const ROUNDS: usize = 3;
const ROUND_PAUSE: Duration = Duration::from_millis(100);

/// How the masters are reached.
pub struct MastersConfig {
    /// Their URLs: `https://host:port`.
    pub servers: Vec<String>,
    /// Who may sign their certificates, PEM.
    pub ca: Vec<u8>,
    /// Who we are, PEM: certificate chain and key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// Why the masters cannot be reached as configured.
#[derive(Debug, thiserror::Error)]
pub enum MastersError {
    /// A URL is none.
    #[error("{0:?} is no URL of a master, such as https://10.0.0.1:6443")]
    Url(String),
    /// A certificate or key cannot be used.
    #[error("the certificates cannot be used: {0}")]
    Tls(String),
    /// No URL was given.
    #[error("no master was named")]
    Empty,
}

struct Master {
    authority: String,
    host: ServerName<'static>,
    sender: tokio::sync::Mutex<Option<SendRequest<Body>>>,
}

struct Masters {
    masters: Vec<Master>,
    preferred: AtomicUsize,
    tls: TlsConnector,
    env: Env,
    tasks: TaskGroup,
}

/// Why one attempt failed.
enum Attempt {
    /// The request surely had no effect.
    NotSent(BoxError),
    /// It may have had one.
    Unknown(BoxError),
}

impl MastersConfig {
    /// The service; its connections are tasks of `tasks`.
    ///
    /// # Errors
    /// See [`MastersError`].
    pub fn build(self, env: Env, tasks: TaskGroup) -> Result<Service, MastersError> {
        let masters = self.servers.iter().map(|url| master(url)).collect::<Result<Vec<_>, _>>()?;
        if masters.is_empty() {
            return Err(MastersError::Empty);
        }
        let tls = TlsConnector::from(Arc::new(self.tls()?));
        // Agents spread over the masters; each then stays with one.
        let first = usize::try_from(env.rng.below(masters.len() as u64)).unwrap_or(0);
        let masters = Arc::new(Masters { masters, preferred: AtomicUsize::new(first), tls, env, tasks });
        let service = tower::service_fn(move |request| {
            let masters = masters.clone();
            let call: BoxFuture<'static, _> = Box::pin(async move { masters.call(request).await });
            call
        });
        Ok(BoxCloneSyncService::new(service))
    }

    fn tls(&self) -> Result<ClientConfig, MastersError> {
        let failed = |error: &dyn std::fmt::Display| MastersError::Tls(error.to_string());
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&self.ca) {
            let certificate = certificate.map_err(|error| failed(&error))?;
            roots.add(certificate).map_err(|error| failed(&error))?;
        }
        let builder = ClientConfig::builder().with_root_certificates(roots);
        let mut config = match &self.identity {
            Some((certificate, key)) => {
                let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate).collect();
                let chain = chain.map_err(|error| failed(&error))?;
                let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| failed(&error))?;
                builder.with_client_auth_cert(chain, key).map_err(|error| failed(&error))?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

fn boxed(error: hyper::Error) -> BoxError {
    Box::new(error)
}

fn master(url: &str) -> Result<Master, MastersError> {
    let wrong = || MastersError::Url(url.to_owned());
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    if uri.scheme() != Some(&Scheme::HTTPS) {
        return Err(wrong());
    }
    let host = uri.host().ok_or_else(wrong)?.trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().unwrap_or(443);
    let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let host = ServerName::try_from(host).map_err(|_| wrong())?;
    Ok(Master { authority, host, sender: tokio::sync::Mutex::new(None) })
}

impl Masters {
    async fn call(&self, request: Request<Body>) -> Result<Response<Body>, BoxError> {
        let (parts, body) = request.into_parts();
        let body = read_whole(body, MAX_REQUEST).await?;
        let reads = parts.method == Method::GET;
        let mut last: BoxError = "no master was asked".into();
        for round in 0..ROUNDS {
            if round > 0 {
                self.env.clock.sleep(ROUND_PAUSE).await;
            }
            for _ in 0..self.masters.len() {
                let index = self.preferred.load(Ordering::Relaxed) % self.masters.len();
                match self.attempt(index, &parts, body.clone()).await {
                    Ok(response) => return Ok(response),
                    Err(Attempt::Unknown(error)) if !reads => {
                        self.move_on(index);
                        return Err(error);
                    }
                    Err(Attempt::Unknown(error) | Attempt::NotSent(error)) => {
                        self.move_on(index);
                        last = error;
                    }
                }
            }
        }
        Err(last)
    }

    /// Prefers the next master, unless someone else did so already.
    fn move_on(&self, from: usize) {
        let next = (from + 1) % self.masters.len();
        let moved = self.preferred.compare_exchange(from, next, Ordering::Relaxed, Ordering::Relaxed);
        if moved.is_ok() {
            tracing::debug!(
                from = self.masters[from].authority,
                to = self.masters[next].authority,
                "another master"
            );
        }
    }

    async fn attempt(
        &self,
        index: usize,
        parts: &http::request::Parts,
        body: Bytes,
    ) -> Result<Response<Body>, Attempt> {
        let master = &self.masters[index];
        let mut sender = self.connection(master).await.map_err(Attempt::NotSent)?;
        if let Err(error) = sender.ready().await {
            *master.sender.lock().await = None;
            return Err(Attempt::NotSent(error.into()));
        }
        let request = self.request(master, parts, body).map_err(Attempt::NotSent)?;
        match sender.send_request(request).await {
            Ok(response) => Ok(response.map(|body| body.map_err(boxed).boxed_unsync())),
            Err(error) => {
                *master.sender.lock().await = None;
                // Cancelled is what hyper says of a request that never left its queue.
                if error.is_canceled() {
                    Err(Attempt::NotSent(error.into()))
                } else {
                    Err(Attempt::Unknown(error.into()))
                }
            }
        }
    }

    fn request(
        &self,
        master: &Master,
        parts: &http::request::Parts,
        body: Bytes,
    ) -> Result<Request<Body>, BoxError> {
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let uri =
            Uri::builder().scheme(Scheme::HTTPS).authority(master.authority.as_str()).path_and_query(path);
        let mut request = Request::builder().method(parts.method.clone()).uri(uri.build()?);
        if let Some(headers) = request.headers_mut() {
            *headers = parts.headers.clone();
        }
        Ok(request.body(Full::new(body).map_err(|never| match never {}).boxed_unsync())?)
    }

    async fn connection(&self, master: &Master) -> Result<SendRequest<Body>, BoxError> {
        let mut slot = master.sender.lock().await;
        if let Some(sender) = slot.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        let connect = async {
            let tcp = TcpStream::connect(&master.authority).await?;
            tcp.set_nodelay(true)?;
            let tls = self.tls.connect(master.host.clone(), tcp).await?;
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder.timer(TokioTimer::new());
            builder
                .keep_alive_interval(PING_INTERVAL)
                .keep_alive_timeout(PING_TIMEOUT)
                .keep_alive_while_idle(true);
            Ok::<_, BoxError>(builder.handshake::<_, Body>(TokioIo::new(tls)).await?)
        };
        let (sender, connection) = tokio::time::timeout(CONNECT_TIMEOUT, connect).await??;
        let shutdown = self.tasks.shutdown().clone();
        self.tasks.spawn_detached("master-connection", async move {
            tokio::select! {
                result = connection => if let Err(error) = result {
                    tracing::debug!(%error, "a connection to a master ended");
                },
                () = shutdown.wait() => {}
            }
        });
        *slot = Some(sender.clone());
        Ok(sender)
    }
}
