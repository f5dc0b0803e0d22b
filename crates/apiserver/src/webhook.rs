//! Calls to webhooks: HTTPS to a URL, or to what answers for a Service (`reach.rs`), over connections that are kept. [`Sender`] is what servers that a kubeconfig names are called with too (`remote.rs`).

use std::error::Error as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api_rules::look::Look;
use api_types::Value;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use env::TaskGroup;
use http::{HeaderValue, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use url::Url;

use crate::api::Api;
use crate::body::{self, BoxError, ReadError};
use crate::reach::{Answerer, answerers};
use crate::tls;

/// Connections to a webhook that wait for the next call, at most.
const MAX_IDLE: usize = 16;

/// Where a webhook answers.
enum Place {
    Url(Url),
    Service { namespace: String, name: String, path: String, port: u16 },
}

/// Calls one webhook.
pub(crate) struct Client {
    /// The `clientConfig` that this was made of.
    pub config: Value,
    place: Result<Place, String>,
    sender: Sender,
}

/// Sends to one server over connections that are kept.
pub(crate) struct Sender {
    /// None: in plain text.
    connector: Result<Option<TlsConnector>, String>,
    agent: &'static str,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

/// Addresses to try, and what is asked of whom there.
pub(crate) struct Call {
    pub addresses: Vec<Answerer>,
    /// The name that the certificate must have.
    pub server: String,
    pub authority: String,
    pub path: String,
    /// What an error calls it.
    pub shown: String,
    /// Who is calling.
    pub authorization: Option<HeaderValue>,
}

impl Call {
    /// To a URL. `seconds`: how long the other side may take, if it is told.
    pub fn to_url(url: &Url, seconds: Option<u64>) -> Self {
        let mut url = url.clone();
        if let Some(seconds) = seconds {
            url.query_pairs_mut().append_pair("timeout", &format!("{seconds}s"));
        }
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = url.port_or_known_default().unwrap_or(443);
        Self {
            authority: url.authority().to_owned(),
            addresses: vec![Answerer::direct(host.clone(), port)],
            server: host,
            path: url[url::Position::BeforePath..url::Position::AfterQuery].to_owned(),
            shown: url.to_string(),
            authorization: None,
        }
    }
}

impl Client {
    pub fn new(config: &Value) -> Self {
        let bundle = STANDARD.decode(config["caBundle"].as_str().unwrap_or_default()).unwrap_or_default();
        let connector = tls::of_webhook(&bundle).map(|tls| Some(TlsConnector::from(Arc::new(tls))));
        let connector = connector.map_err(|error| format!("unable to load root certificates: {error}"));
        let sender = Sender::new(connector, "kube-apiserver-admission");
        Self { config: config.clone(), place: place(config), sender }
    }

    /// Sends a review and gives the answer, or upstream's text for why there is none.
    pub async fn post(
        &self,
        api: &Api,
        review: Bytes,
        timeout: Duration,
        max_answer: usize,
    ) -> Result<Bytes, String> {
        self.send(api, Some(review), None, timeout, max_answer).await
    }

    /// Gets a document, or says why there is none.
    pub async fn get(&self, api: &Api, timeout: Duration, max_answer: usize) -> Result<Bytes, String> {
        self.send(api, None, None, timeout, max_answer).await
    }

    /// The same in the name of whom a token stands for; an empty one is nobody's.
    pub async fn get_as(
        &self,
        api: &Api,
        token: &str,
        timeout: Duration,
        max_answer: usize,
    ) -> Result<Bytes, String> {
        let bearer = || {
            let header = HeaderValue::from_str(&format!("Bearer {token}"));
            let mut header = header.map_err(|_| "the access token fits in no header".to_owned())?;
            header.set_sensitive(true);
            Ok::<_, String>(header)
        };
        let authorization = (!token.is_empty()).then(bearer).transpose()?;
        self.send(api, None, authorization, timeout, max_answer).await
    }

    async fn send(
        &self,
        api: &Api,
        body: Option<Bytes>,
        authorization: Option<HeaderValue>,
        timeout: Duration,
        max_answer: usize,
    ) -> Result<Bytes, String> {
        let seconds = body.is_some().then_some(timeout.as_secs());
        let mut call = self.prepare(api, seconds)?;
        call.authorization = authorization;
        let answer = self.sender.exchange(&api.tasks, &call, body, timeout, max_answer).await;
        answer.map_err(|refusal| refusal.text)
    }

    /// `seconds`: how long the other side may take, if it is told.
    fn prepare(&self, api: &Api, seconds: Option<u64>) -> Result<Call, String> {
        match self.place.as_ref().map_err(Clone::clone)? {
            Place::Url(url) => Ok(Call::to_url(url, seconds)),
            Place::Service { namespace, name, path, port } => {
                let server = format!("{name}.{namespace}.svc");
                let path = seconds.map_or(path.clone(), |seconds| format!("{path}?timeout={seconds}s"));
                let shown = format!("https://{server}:{port}{path}");
                let addresses = answerers(api, &api.storage.view(), namespace, name, *port)
                    .map_err(|error| format!("Post {}: {error}", api_types::field::quote(&shown)))?;
                let authority = format!("{server}:{port}");
                Ok(Call { authority, addresses, server, path, shown, authorization: None })
            }
        }
    }
}

impl Sender {
    pub fn new(connector: Result<Option<TlsConnector>, String>, agent: &'static str) -> Self {
        Self { connector, agent, idle: Mutex::default() }
    }

    /// Posts JSON, or gets a document, and gives the answer. `tasks` get the connections.
    ///
    /// # Errors
    /// Upstream's text for why there is none, and whether it may help to try again.
    pub async fn exchange(
        &self,
        tasks: &TaskGroup,
        call: &Call,
        body: Option<Bytes>,
        timeout: Duration,
        max_answer: usize,
    ) -> Result<Bytes, Refusal> {
        let method = if body.is_some() { "Post" } else { "Get" };
        let failed = |error: String| format!("{method} {}: {error}", api_types::field::quote(&call.shown));
        match tokio::time::timeout(timeout, self.once(tasks, call, body, max_answer)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(Failure::Text(error))) => Err(Refusal::of(failed(error))),
            Ok(Err(Failure::Reset(error))) => Err(Refusal { again: true, ..Refusal::of(failed(error)) }),
            Ok(Err(Failure::Answer(refusal))) => Err(refusal),
            Err(_) => Err(Refusal::of(failed("context deadline exceeded".to_owned()))),
        }
    }

    async fn once(
        &self,
        tasks: &TaskGroup,
        call: &Call,
        body: Option<Bytes>,
        max_answer: usize,
    ) -> Result<Bytes, Failure> {
        let method = if body.is_some() { http::Method::POST } else { http::Method::GET };
        let body = body.unwrap_or_default();
        let request = |body: Bytes| {
            let mut request = Request::builder()
                .method(method.clone())
                .uri(&call.path)
                .header(header::HOST, &call.authority)
                .header(header::CONTENT_TYPE, "application/json")
                .header(header::ACCEPT, "application/json, */*")
                .header(header::USER_AGENT, self.agent);
            if let Some(who) = &call.authorization {
                request = request.header(header::AUTHORIZATION, who);
            }
            request.body(Full::new(body)).map_err(|error| Failure::Text(error.to_string()))
        };
        // A kept connection may have ended since: then the request was not taken, and a new one gets it.
        loop {
            let kept = self.idle.lock().pop();
            let Some(mut sender) = kept else { break };
            if sender.is_closed() || sender.ready().await.is_err() {
                continue;
            }
            match sender.try_send_request(request(body.clone())?).await {
                Ok(response) => return self.finish(sender, response, max_answer).await,
                Err(mut error) => {
                    if error.take_message().is_none() {
                        return Err(broken(&error.into_error()));
                    }
                }
            }
        }
        let mut sender = self.connect(tasks, call).await?;
        let response = sender.send_request(request(body)?).await;
        let response = response.map_err(|error| broken(&error))?;
        self.finish(sender, response, max_answer).await
    }

    async fn finish(
        &self,
        sender: SendRequest<Full<Bytes>>,
        response: http::Response<hyper::body::Incoming>,
        max_answer: usize,
    ) -> Result<Bytes, Failure> {
        let code = response.status().as_u16();
        let waits = response.headers().contains_key(header::RETRY_AFTER);
        let body = response.into_body().map_err(|error| -> BoxError { error.into() });
        let bytes = match body::read_up_to(BodyExt::boxed_unsync(body), max_answer).await {
            Ok(bytes) => bytes,
            Err(ReadError::TooLarge(_)) => {
                let text = format!("the answer is larger than {max_answer} bytes");
                return Err(Failure::Answer(Refusal::of(text)));
            }
            Err(ReadError::Broken(error)) => return Err(Failure::Text(error.to_string())),
        };
        let mut idle = self.idle.lock();
        if idle.len() < MAX_IDLE {
            idle.push(sender);
        }
        drop(idle);
        let text = match code {
            200..=299 => return Ok(bytes),
            code => words(code, &bytes),
        };
        // Upstream: `webhook.DefaultShouldRetry`.
        let again = waits || code == 429 || (code >= 500 && code != 503);
        Err(Failure::Answer(Refusal { text, again }))
    }

    async fn connect(&self, tasks: &TaskGroup, call: &Call) -> Result<SendRequest<Full<Bytes>>, Failure> {
        let connector = self.connector.as_ref().map_err(|error| Failure::Text(error.clone()))?;
        let name = match call.server.parse::<IpAddr>() {
            Ok(address) => ServerName::from(address),
            Err(_) => {
                ServerName::try_from(call.server.clone()).map_err(|error| Failure::Text(error.to_string()))?
            }
        };
        let mut last = Failure::Text("no address is known".to_owned());
        for address in &call.addresses {
            let stream = match address.connect().await {
                Ok(stream) => stream,
                Err(error) => {
                    last = Failure::Text(error.to_string());
                    continue;
                }
            };
            let Some(connector) = connector else { return begin(tasks, stream).await };
            let stream = connector
                .connect(name.clone(), stream)
                .await
                .map_err(|error| Failure::Text(tls::in_gos_words(&error)))?;
            return begin(tasks, stream).await;
        }
        Err(last)
    }
}

/// HTTP over a connection that is there.
async fn begin<S>(tasks: &TaskGroup, stream: S) -> Result<SendRequest<Full<Bytes>>, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) =
        handshake(TokioIo::new(stream)).await.map_err(|error| Failure::Text(error.to_string()))?;
    tasks.spawn_detached("webhook-connection", async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to a webhook ended");
        }
    });
    Ok(sender)
}

/// Why there is no answer, in upstream's words.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub text: String,
    /// Whether the next try may be answered (upstream's `DefaultShouldRetry`).
    pub again: bool,
}

impl Refusal {
    pub fn of(text: String) -> Self {
        Self { text, again: false }
    }
}

/// Why there is no answer.
enum Failure {
    /// The call went wrong.
    Text(String),
    /// The other side ended the connection.
    Reset(String),
    /// The webhook answered with an error.
    Answer(Refusal),
}

fn broken(error: &hyper::Error) -> Failure {
    let source = error.source().and_then(|source| source.downcast_ref::<std::io::Error>());
    match source.is_some_and(|source| source.kind() == std::io::ErrorKind::ConnectionReset) {
        true => Failure::Reset(error.to_string()),
        false => Failure::Text(error.to_string()),
    }
}

/// What client-go says of an answer with a code that is none of success.
fn words(code: u16, body: &[u8]) -> String {
    match code {
        400 => "the server rejected our request for an unknown reason",
        401 => "the server has asked for the client to provide credentials",
        403 => "forbidden",
        404 => "the server could not find the requested resource",
        429 => "the server has received too many requests and has asked us to try again later",
        503 => "the server is currently unable to handle the request",
        504 => {
            "the server was unable to return a response in the time allotted, but may still be processing the request"
        }
        500..=599 => {
            let shown = String::from_utf8_lossy(&body[..body.len().min(1024)]).trim().to_owned();
            let shown = api_types::field::quote(&shown);
            return format!("an error on the server ({shown}) has prevented the request from succeeding");
        }
        code => {
            return format!(
                "the server responded with the status code {code} but did not return more information"
            );
        }
    }
    .to_owned()
}

fn place(config: &Value) -> Result<Place, String> {
    if let Some(url) = config["url"].as_str() {
        let url = Url::parse(url).map_err(|error| format!("could not get REST client: {error}"))?;
        return Ok(Place::Url(url));
    }
    let service = &config["service"];
    let path = service.text("path").to_owned();
    let port = service["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or(443);
    Ok(Place::Service {
        namespace: service.text("namespace").to_owned(),
        name: service.text("name").to_owned(),
        path: if path.starts_with('/') { path } else { format!("/{path}") },
        port,
    })
}
