//! `exec`, `attach` and `port-forward`: a connection that is the client's alone, up to the container runtime; and a
//! connection to a port of a pod. Driver.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use protos::cri;
use serde_json::Value;
use tokio::net::TcpStream;
use transport::Place;

use super::bridge::{Greeting, bridge};
use super::{Body, text};
use crate::context::Context;
use crate::runtime::RuntimeError;
use crate::stream::{remote_command, spdy, tunnel, websocket};

/// How long a connection to the runtime or to a pod may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A stream on which nothing is said for so long ends (upstream's `--streaming-connection-idle-timeout`).
const IDLE_TIMEOUT: Duration = Duration::from_secs(4 * 3600);
/// Bytes of a runtime's error that are shown.
const MAX_ERROR_BYTES: usize = 64 << 10;
/// What `Upgrade` says of a connection to a port of a pod.
const TCP: &str = "tcp";

const STREAM_PROTOCOL: &str = "x-stream-protocol-version";

/// What a request for a stream brings along.
pub(super) struct Wanted<'a> {
    pub method: &'a Method,
    pub headers: &'a HeaderMap,
    pub query: &'a str,
    /// The connection to come; none: this connection cannot be given away.
    pub upgrade: Option<OnUpgrade>,
    /// Its place among the connections of the server.
    pub place: Arc<Place>,
}

/// How a client's stream becomes the runtime's.
enum Way {
    /// As it is.
    Pass,
    /// `v5.channel.k8s.io` in a WebSocket.
    Translate(remote_command::Channels),
    /// SPDY in a WebSocket: the client's name of what is spoken, which is named after [`tunnel::inner`] over SPDY.
    Unwrap(String),
}

/// Why a stream does not come about: an answer of HTTP.
type Refusal = (StatusCode, String);

fn refuse(code: StatusCode, why: impl ToString) -> Refusal {
    (code, why.to_string())
}

/// The kubelet's codes for what a runtime refuses.
fn runtime_failure(error: RuntimeError) -> Refusal {
    let code = match error {
        RuntimeError::NotFound(_) => StatusCode::NOT_FOUND,
        RuntimeError::Unimplemented(_) => StatusCode::NOT_IMPLEMENTED,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    refuse(code, error)
}

/// Answers `/exec`, `/attach` and `/portForward`.
pub(super) async fn serve(context: &Arc<Context>, parts: &[&str], wanted: Wanted<'_>) -> Response<Body> {
    open(context, parts, wanted).await.unwrap_or_else(|(code, why)| text(code, why))
}

async fn open(
    context: &Arc<Context>,
    parts: &[&str],
    mut wanted: Wanted<'_>,
) -> Result<Response<Body>, Refusal> {
    if !matches!(*wanted.method, Method::GET | Method::POST) {
        return Err(refuse(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed"));
    }
    let options = Options::parse(wanted.query);
    let (action, namespace, pod) = match parts {
        ["exec", namespace, pod, container] => (Action::Exec(container), namespace, pod),
        ["attach", namespace, pod, container] => (Action::Attach(container), namespace, pod),
        ["portForward", namespace, pod] => (Action::PortForward, namespace, pod),
        _ => return Err(refuse(StatusCode::NOT_FOUND, "404 page not found")),
    };
    let object = context.pods.get(namespace, pod);
    let object = object.ok_or_else(|| refuse(StatusCode::NOT_FOUND, "pod does not exist"))?;
    let Some(upgrade) = wanted.upgrade.take() else {
        return Err(refuse(StatusCode::BAD_REQUEST, "Upgrade request required"));
    };
    let way = way(&action, wanted.headers, &options);
    let url = url(context, &object, action, options).await?;
    let request = request(&way, wanted.method, wanted.headers, &url)?;
    let answer = ask(context, &url, request).await?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(refused(answer).await);
    }
    let response = switched(&way, wanted.headers, answer.headers());
    let runtime = hyper::upgrade::on(answer);
    let (task, place) = (context.clone(), wanted.place);
    context.tasks.spawn_detached("stream", async move {
        let _place = place;
        let shutdown = task.tasks.shutdown().clone();
        tokio::select! {
            () = carry(&task, way, upgrade, runtime) => {}
            () = shutdown.wait() => {}
        }
    });
    Ok(response)
}

/// What is asked of a pod.
enum Action<'a> {
    Exec(&'a str),
    Attach(&'a str),
    PortForward,
}

/// The kubelet's parameters of a stream.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    command: Vec<String>,
    channels: remote_command::Channels,
    ports: Vec<i32>,
}

impl Options {
    fn parse(query: &str) -> Self {
        let mut options = Self::default();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let truth = value == "1";
            match name.as_ref() {
                "command" => options.command.push(value.into_owned()),
                "input" => options.channels.stdin = truth,
                "output" => options.channels.stdout = truth,
                "error" => options.channels.stderr = truth,
                "tty" => options.channels.tty = truth,
                "port" => options.ports.extend(value.split(',').filter_map(|port| port.parse::<i32>().ok())),
                _ => {}
            }
        }
        // A terminal has one output.
        options.channels.stderr &= !options.channels.tty;
        options
    }
}

/// The protocols of a WebSocket that a client offers, in its order; none: it asks for no WebSocket.
fn offered(headers: &HeaderMap) -> Option<Vec<&str>> {
    let upgrade = headers.get(header::UPGRADE)?.to_str().ok()?;
    if !upgrade.eq_ignore_ascii_case("websocket") {
        return None;
    }
    let lists = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).into_iter();
    let lists = lists.filter_map(|list| list.to_str().ok());
    Some(lists.flat_map(|list| list.split(',')).map(str::trim).collect())
}

fn way(action: &Action<'_>, headers: &HeaderMap, options: &Options) -> Way {
    let offered = offered(headers).unwrap_or_default();
    let found = match action {
        Action::PortForward => offered
            .iter()
            .find(|protocol| tunnel::inner(protocol).is_some())
            .map(|protocol| Way::Unwrap((*protocol).to_owned())),
        _ => offered.contains(&remote_command::CLIENT_PROTOCOL).then_some(Way::Translate(options.channels)),
    };
    found.unwrap_or(Way::Pass)
}

/// The runtime's address of the stream, good for one connection.
async fn url(
    context: &Context,
    pod: &Value,
    action: Action<'_>,
    options: Options,
) -> Result<String, Refusal> {
    let uid = api_types::meta::uid(pod);
    let channels = options.channels;
    let silent = !(channels.stdin || channels.stdout || channels.stderr);
    if silent && !matches!(action, Action::PortForward) {
        let why = "you must specify at least 1 of stdin, stdout, stderr";
        return Err(refuse(StatusCode::BAD_REQUEST, why));
    }
    let url = match action {
        Action::Exec(container) => {
            let request = cri::ExecRequest {
                container_id: container_id(context, uid, container).await?,
                cmd: options.command,
                tty: channels.tty,
                stdin: channels.stdin,
                stdout: channels.stdout,
                stderr: channels.stderr,
            };
            context.runtime.exec(request).await
        }
        Action::Attach(container) => {
            let request = cri::AttachRequest {
                container_id: container_id(context, uid, container).await?,
                tty: channels.tty,
                stdin: channels.stdin,
                stdout: channels.stdout,
                stderr: channels.stderr,
            };
            context.runtime.attach(request).await
        }
        Action::PortForward => {
            let pod_sandbox_id = sandbox(context, uid).await?.id;
            let request = cri::PortForwardRequest { pod_sandbox_id, port: options.ports };
            context.runtime.port_forward(request).await
        }
    };
    url.map_err(runtime_failure)
}

/// The newest run of a container.
async fn container_id(context: &Context, uid: &str, name: &str) -> Result<String, Refusal> {
    let listed = context.runtime.list_containers(Some(uid.to_owned())).await.map_err(runtime_failure)?;
    let attempt = |one: &cri::Container| one.metadata.as_ref().map_or(0, |metadata| metadata.attempt);
    let own = listed.into_iter().filter(|one| one.metadata.as_ref().is_some_and(|data| data.name == name));
    let newest = own.max_by_key(attempt).map(|one| one.id);
    let missing = || format!("container not found ({})", api_types::field::quote(name));
    newest.ok_or_else(|| refuse(StatusCode::INTERNAL_SERVER_ERROR, missing()))
}

/// The sandbox that runs.
async fn sandbox(context: &Context, uid: &str) -> Result<cri::PodSandbox, Refusal> {
    let listed = context.runtime.list_sandboxes(Some(uid.to_owned())).await.map_err(runtime_failure)?;
    let ready = cri::PodSandboxState::SandboxReady as i32;
    let newest = listed.into_iter().filter(|one| one.state == ready).max_by_key(|one| one.created_at);
    newest.ok_or_else(|| refuse(StatusCode::INTERNAL_SERVER_ERROR, "the pod has no sandbox that runs"))
}

/// What the runtime is asked.
fn request(
    way: &Way,
    method: &Method,
    headers: &HeaderMap,
    url: &str,
) -> Result<Request<Empty<Bytes>>, Refusal> {
    let url = url::Url::parse(url).map_err(|error| refuse(StatusCode::INTERNAL_SERVER_ERROR, error))?;
    let path = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
    let over_spdy = match way {
        Way::Pass => None,
        Way::Translate(_) => Some(remote_command::RUNTIME_PROTOCOL),
        Way::Unwrap(protocol) => tunnel::inner(protocol),
    };
    let method = if over_spdy.is_some() { &Method::POST } else { method };
    let host = url.host_str().unwrap_or_default();
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
        .header(header::CONNECTION, "Upgrade");
    match over_spdy {
        Some(protocol) => {
            request = request.header(header::UPGRADE, spdy::UPGRADE).header(STREAM_PROTOCOL, protocol);
        }
        None => {
            let passed = headers.iter().filter(|(name, _)| is_passed(name));
            for (name, value) in passed {
                request = request.header(name, value);
            }
        }
    }
    request.body(Empty::new()).map_err(|error| refuse(StatusCode::INTERNAL_SERVER_ERROR, error))
}

/// Headers that a runtime, or a client, must see as the other wrote them.
fn is_passed(name: &header::HeaderName) -> bool {
    *name == header::UPGRADE || name == STREAM_PROTOCOL || name.as_str().starts_with("sec-websocket-")
}

async fn ask(
    context: &Context,
    url: &str,
    request: Request<Empty<Bytes>>,
) -> Result<Response<Incoming>, Refusal> {
    let lost = |error: &dyn std::fmt::Display| {
        refuse(StatusCode::INTERNAL_SERVER_ERROR, format!("error dialing the container runtime: {error}"))
    };
    let url = url::Url::parse(url).map_err(|error| lost(&error))?;
    let (Some(host), Some(port), "http") = (url.host_str(), url.port_or_known_default(), url.scheme()) else {
        return Err(lost(&format!("{} is not served", url.scheme())));
    };
    let host = host.trim_matches(['[', ']']).to_owned();
    let called = async {
        let stream = TcpStream::connect((host, port)).await.map_err(|error| lost(&error))?;
        env::tune(&stream);
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| lost(&error))?;
        context.tasks.spawn_detached("runtime-connection", async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to the runtime broke");
            }
        });
        sender.send_request(request).await.map_err(|error| lost(&error))
    };
    tokio::time::timeout(CONNECT_TIMEOUT, called).await.map_err(|_| lost(&"i/o timeout"))?
}

/// What the runtime refuses, in its words.
async fn refused(answer: Response<Incoming>) -> Refusal {
    let code = match answer.status() {
        code if code.as_u16() >= 400 => code,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let body = Limited::new(answer.into_body(), MAX_ERROR_BYTES).collect().await;
    let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    refuse(code, String::from_utf8_lossy(&body).trim())
}

/// The client's 101.
fn switched(way: &Way, asked: &HeaderMap, answered: &HeaderMap) -> Response<Body> {
    let mut response = Response::new(Empty::new().boxed_unsync());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, header::HeaderValue::from_static("Upgrade"));
    let protocol = match way {
        Way::Pass => {
            for (name, value) in answered.iter().filter(|(name, _)| is_passed(name)) {
                headers.append(name, value.clone());
            }
            return response;
        }
        Way::Translate(_) => remote_command::CLIENT_PROTOCOL,
        Way::Unwrap(protocol) => protocol,
    };
    headers.insert(header::UPGRADE, header::HeaderValue::from_static("websocket"));
    let key = asked.get(header::SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok()).unwrap_or_default();
    for (name, value) in [
        (header::SEC_WEBSOCKET_ACCEPT, websocket::accept(key).as_str()),
        (header::SEC_WEBSOCKET_PROTOCOL, protocol),
    ] {
        if let Ok(value) = header::HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
    response
}

async fn carry(context: &Context, way: Way, client: OnUpgrade, runtime: OnUpgrade) {
    let both = async { Ok::<_, hyper::Error>((client.await?, runtime.await?)) };
    let (client, runtime) = match both.await {
        Ok((client, runtime)) => (TokioIo::new(client), TokioIo::new(runtime)),
        Err(error) => return tracing::debug!(%error, "a stream did not begin"),
    };
    let limits = (IDLE_TIMEOUT, &context.env.clock);
    match way {
        Way::Pass => env::relay(client, runtime, IDLE_TIMEOUT, &context.env.clock).await,
        Way::Translate(channels) => {
            let (up, down, client_first, runtime_first) = remote_command::begin(channels);
            let greeting = Greeting { client: client_first, runtime: runtime_first };
            bridge(client, runtime, greeting, (up, down), limits).await;
        }
        Way::Unwrap(_) => {
            bridge(client, runtime, Greeting::default(), (tunnel::Upward, tunnel::Downward), limits).await;
        }
    }
}

/// Answers `/dial/<namespace>/<pod>/<port>`: a connection to a port of a pod of this node, for the API server's proxies.
/// Masters need no route to pods, and nobody reaches what is no pod's.
pub(super) async fn dial(
    context: &Arc<Context>,
    (namespace, pod, port): (&str, &str, &str),
    wanted: Wanted<'_>,
) -> Response<Body> {
    open_port(context, (namespace, pod, port), wanted).await.unwrap_or_else(|(code, why)| text(code, why))
}

async fn open_port(
    context: &Arc<Context>,
    (namespace, pod, port): (&str, &str, &str),
    wanted: Wanted<'_>,
) -> Result<Response<Body>, Refusal> {
    let bad = |why: &str| refuse(StatusCode::BAD_REQUEST, why);
    if wanted.method != Method::POST {
        return Err(refuse(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed"));
    }
    let port = port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(|| bad("invalid port"))?;
    let object = context.pods.get(namespace, pod);
    let object = object.ok_or_else(|| refuse(StatusCode::NOT_FOUND, "pod does not exist"))?;
    if context.runtime.is_simulated() {
        return Err(refuse(StatusCode::NOT_IMPLEMENTED, "pods of this node are simulated: nothing listens"));
    }
    let upgrade = wanted.upgrade.ok_or_else(|| bad("Upgrade request required"))?;
    let address = address(context, &object).await?;
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect((address, port))).await;
    let failed = |why: &dyn std::fmt::Display| {
        refuse(
            StatusCode::BAD_GATEWAY,
            format!("dial tcp {}: {why}", std::net::SocketAddr::from((address, port))),
        )
    };
    let stream = match connected {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(failed(&format!("connect: {error}"))),
        Err(_) => return Err(failed(&"i/o timeout")),
    };
    env::tune(&stream);
    let (task, place) = (context.clone(), wanted.place);
    context.tasks.spawn_detached("stream", async move {
        let _place = place;
        let shutdown = task.tasks.shutdown().clone();
        let carried = async {
            if let Ok(client) = upgrade.await {
                env::relay(TokioIo::new(client), stream, IDLE_TIMEOUT, &task.env.clock).await;
            }
        };
        tokio::select! {
            () = carried => {}
            () = shutdown.wait() => {}
        }
    });
    let mut response = Response::new(Empty::new().boxed_unsync());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, header::HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, header::HeaderValue::from_static(TCP));
    Ok(response)
}

/// A pod's first address: the sandbox', or the node's.
async fn address(context: &Context, pod: &Value) -> Result<IpAddr, Refusal> {
    let none = || refuse(StatusCode::BAD_GATEWAY, "the pod has no address");
    if pod["spec"]["hostNetwork"] == true {
        return context.host_ips.first().copied().ok_or_else(none);
    }
    let id = sandbox(context, api_types::meta::uid(pod)).await?.id;
    let status = context.runtime.sandbox_status(id).await.map_err(runtime_failure)?;
    status.network.and_then(|network| network.ip.parse().ok()).ok_or_else(none)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let name: header::HeaderName = name.parse().unwrap();
            headers.append(name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn parameters_are_the_kubelets() {
        let options = Options::parse("command=sh&command=-c&command=a%20b%26&input=1&output=1&error=1&tty=1");
        assert_eq!(options.command, ["sh", "-c", "a b&"]);
        let channels = remote_command::Channels { stdin: true, stdout: true, stderr: false, tty: true };
        assert_eq!(options.channels, channels, "a terminal has one output");
        assert_eq!(Options::parse("port=80,81&port=82&port=x").ports, [80, 81, 82]);
    }

    #[test]
    fn what_the_runtime_speaks_passes() {
        let of = |action: Action<'_>, pairs: &[(&str, &str)]| {
            let options = Options::parse("output=1");
            match way(&action, &headers(pairs), &options) {
                Way::Pass => "pass".to_owned(),
                Way::Translate(_) => "translate".to_owned(),
                Way::Unwrap(protocol) => protocol,
            }
        };
        let websocket = ("upgrade", "WebSocket");
        let name = "sec-websocket-protocol";
        assert_eq!(of(Action::Exec("c"), &[("upgrade", "SPDY/3.1")]), "pass");
        assert_eq!(of(Action::Exec("c"), &[websocket, (name, "v4.channel.k8s.io")]), "pass");
        let both = "v5.channel.k8s.io, v4.channel.k8s.io";
        assert_eq!(of(Action::Attach("c"), &[websocket, (name, both)]), "translate");
        assert_eq!(of(Action::PortForward, &[websocket, (name, both)]), "pass");
        let tunnel = "SPDY/3.1+portforward.k8s.io";
        assert_eq!(of(Action::PortForward, &[websocket, (name, tunnel)]), tunnel);
        assert_eq!(of(Action::Exec("c"), &[websocket, (name, tunnel)]), "pass");
    }

    #[test]
    fn the_runtime_is_asked_in_its_own_words() {
        let asked = headers(&[
            ("upgrade", "websocket"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", "v5.channel.k8s.io"),
            ("authorization", "secret"),
        ]);
        let url = "http://127.0.0.1:4711/exec/abc";
        let way = Way::Translate(remote_command::Channels::default());
        let translated = request(&way, &Method::GET, &asked, url).unwrap();
        assert_eq!((translated.method(), translated.uri().path()), (&Method::POST, "/exec/abc"));
        assert_eq!(translated.headers()["upgrade"], "SPDY/3.1");
        assert_eq!(translated.headers()[STREAM_PROTOCOL], "v4.channel.k8s.io");
        assert!(!translated.headers().contains_key("sec-websocket-key"));
        let passed = request(&Way::Pass, &Method::GET, &asked, url).unwrap();
        assert_eq!(passed.method(), Method::GET);
        assert_eq!(passed.headers()["host"], "127.0.0.1:4711");
        assert_eq!(passed.headers()["sec-websocket-protocol"], "v5.channel.k8s.io");
        assert!(!passed.headers().contains_key("authorization"));
        let response = switched(&way, &asked, &HeaderMap::new());
        assert_eq!(response.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(response.headers()["sec-websocket-protocol"], "v5.channel.k8s.io");
    }
}
