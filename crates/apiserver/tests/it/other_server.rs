//! A small aggregated API server: it serves `things` of group `things.test`, or behaves badly.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use env::{Shutdown, TaskGroup};
use futures::StreamExt as _;
use http::{HeaderMap, Request, Response, header};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use crate::cluster::{Authority, Keyed, Running};

pub const GROUP: &str = "things.test";
pub const BASE: &str = "/apis/things.test/v1";
pub const API_SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// How it behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Serves,
    /// As servers did before aggregated discovery and OpenAPI v3.
    Old,
    /// Says what nobody can read.
    Garbage,
    /// Every answer has a hundred megabytes.
    Large,
    /// Never answers.
    Hangs,
    /// 503.
    Fails,
}

/// What it was asked.
#[derive(Clone, Debug)]
pub struct Heard {
    pub method: String,
    pub uri: String,
    pub headers: HeaderMap,
    pub body: String,
    /// Whether the caller showed a certificate of the proxies' authority.
    pub is_proxy: bool,
}

type Said = Response<UnsyncBoxBody<Bytes, Infallible>>;

struct State {
    mode: Mutex<Mode>,
    heard: Mutex<Vec<Heard>>,
    /// Where the events of the watch that is open go.
    watch: Mutex<Option<mpsc::Sender<Bytes>>>,
}

pub struct OtherServer {
    pub address: SocketAddr,
    state: Arc<State>,
    acceptor: TlsAcceptor,
    running: Mutex<TaskGroup>,
}

impl OtherServer {
    /// Serves with a certificate of the cluster's authority for service `things` in namespace `default`.
    pub async fn start(cluster: &Running, proxies: &Authority) -> Self {
        Self::start_with(&cluster.authority.issue_for("things.default.svc"), proxies).await
    }

    pub async fn start_with(own: &Keyed, proxies: &Authority) -> Self {
        let clients = proxies.clients().allow_unauthenticated().build().expect("verifier");
        let state =
            State { mode: Mutex::new(Mode::Serves), heard: Mutex::default(), watch: Mutex::default() };
        let server = Self {
            address: env::ports::free_address(),
            state: Arc::new(state),
            acceptor: own.acceptor_of(clients),
            running: Mutex::new(TaskGroup::new("none", Shutdown::new())),
        };
        server.come().await;
        server
    }

    /// Listens.
    pub async fn come(&self) {
        let listener = TcpListener::bind(self.address).await.expect("listener");
        let tasks = TaskGroup::new("other-server", Shutdown::new());
        let (state, acceptor, all) = (self.state.clone(), self.acceptor.clone(), tasks.clone());
        tasks.spawn_detached("accept", async move {
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = all.shutdown().wait() => return,
                };
                let Ok((stream, _)) = accepted else { return };
                let (state, acceptor, stop) = (state.clone(), acceptor.clone(), all.shutdown().clone());
                all.spawn_detached("connection", async move {
                    tokio::select! {
                        () = talk(stream, acceptor, state) => {}
                        () = stop.wait() => {}
                    }
                });
            }
        });
        *self.running.lock() = tasks;
    }

    /// Ends all connections, and takes none any more.
    pub async fn go(&self) {
        let tasks = self.running.lock().clone();
        tasks.shutdown().trigger();
        tasks.join(crate::cluster::DEADLINE).await.expect("ended");
    }

    pub fn behave(&self, mode: Mode) {
        *self.state.mode.lock() = mode;
    }

    /// What it was asked of a path.
    pub fn heard(&self, path: &str) -> Vec<Heard> {
        let all = self.state.heard.lock();
        all.iter().filter(|heard| heard.uri.starts_with(path)).cloned().collect()
    }

    /// Whether somebody watches.
    pub fn is_watched(&self) -> bool {
        self.state.watch.lock().as_ref().is_some_and(|watch| !watch.is_closed())
    }

    /// Says something to who watches.
    pub async fn tell(&self, event: &Value) {
        let watch = self.state.watch.lock().clone().expect("somebody watches");
        watch.send(Bytes::from(format!("{event}\n"))).await.expect("taken");
    }

    /// Registers it: a service without endpoints, which is a name for this machine, and the APIService.
    pub async fn register(&self, cluster: &Running, adjust: impl FnOnce(&mut Value)) {
        let services = "/api/v1/namespaces/default/services";
        let service = json!({"metadata": {"name": "things"}, "spec": {"type": "ExternalName", "externalName": "localhost"}});
        cluster.create(services, &service).await;
        cluster.create(API_SERVICES, &self.api_service(cluster, adjust)).await;
    }

    pub fn api_service(&self, cluster: &Running, adjust: impl FnOnce(&mut Value)) -> Value {
        use base64::Engine as _;
        let bundle = base64::engine::general_purpose::STANDARD.encode(&cluster.authority.certificate);
        let mut value = json!({"metadata": {"name": "v1.things.test"}, "spec": {"group": GROUP, "version": "v1",
            "groupPriorityMinimum": 2000, "versionPriority": 10, "caBundle": bundle,
            "service": {"namespace": "default", "name": "things", "port": self.address.port()}}});
        adjust(&mut value);
        value
    }
}

async fn talk(stream: tokio::net::TcpStream, acceptor: TlsAcceptor, state: Arc<State>) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let is_proxy = stream.get_ref().1.peer_certificates().is_some();
    let service = service_fn(move |request| answer(request, state.clone(), is_proxy));
    let served = hyper::server::conn::http1::Builder::new();
    drop(served.serve_connection(TokioIo::new(stream), service).with_upgrades().await);
}

fn said(code: u16, kind: &str, body: impl Into<Bytes>) -> Said {
    let body = Full::new(body.into()).boxed_unsync();
    Response::builder().status(code).header(header::CONTENT_TYPE, kind).body(body).expect("answer")
}

fn json_of(value: &Value) -> Said {
    said(200, "application/json", value.to_string())
}

async fn answer(
    mut request: Request<Incoming>,
    state: Arc<State>,
    is_proxy: bool,
) -> Result<Said, hyper::Error> {
    let upgrade = request.extensions_mut().remove::<hyper::upgrade::OnUpgrade>();
    let (parts, body) = request.into_parts();
    let body = String::from_utf8_lossy(&body.collect().await?.to_bytes()).into_owned();
    let (method, uri) = (parts.method.to_string(), parts.uri.to_string());
    let accept =
        parts.headers.get("accept").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let heard = Heard { method, uri: uri.clone(), headers: parts.headers, body: body.clone(), is_proxy };
    state.heard.lock().push(heard);
    let mode = *state.mode.lock();
    Ok(match mode {
        Mode::Hangs => std::future::pending().await,
        Mode::Garbage => said(200, AGGREGATED, "{\"items\": [5, {\"versions\": \"no\"}]"),
        Mode::Fails => said(503, "text/plain", "not today"),
        Mode::Large => large(),
        Mode::Serves | Mode::Old => serve(&uri, &accept, body, upgrade, &state, mode),
    })
}

/// A hundred megabytes.
fn large() -> Said {
    let piece = Bytes::from(vec![b' '; 64 << 10]);
    let pieces = futures::stream::iter(0..1600).map(move |_| Ok(Frame::data(piece.clone())));
    let mut response = said(200, AGGREGATED, "");
    *response.body_mut() = StreamBody::new(pieces).boxed_unsync();
    response
}

fn serve(
    uri: &str,
    accept: &str,
    body: String,
    upgrade: Option<hyper::upgrade::OnUpgrade>,
    state: &State,
    mode: Mode,
) -> Said {
    let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
    match path {
        "/apis" if mode == Mode::Serves && accept.contains("apidiscovery.k8s.io") => {
            let things = json!({"resource": "things", "scope": "Namespaced", "singularResource": "thing", "verbs": ["get", "list", "watch"],
                "responseKind": {"group": GROUP, "version": "v1", "kind": "Thing"}});
            let document = json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {},
                "items": [{"metadata": {"name": GROUP}, "versions": [{"version": "v1", "freshness": "Current", "resources": [things]}]}]});
            said(200, AGGREGATED, document.to_string())
        }
        BASE => json_of(
            &json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "things.test/v1", "resources": [
            {"name": "things", "singularName": "thing", "namespaced": true, "kind": "Thing", "verbs": ["get", "list", "watch"]}]}),
        ),
        "/apis/things.test/v1/namespaces/default/things" if query.contains("watch=") => {
            let (sender, events) = mpsc::channel::<Bytes>(1);
            *state.watch.lock() = Some(sender);
            let events = futures::stream::unfold(events, |mut events| async move {
                let event = events.recv().await?;
                Some((Ok(Frame::data(event)), events))
            });
            let mut response = said(200, "application/json", "");
            *response.body_mut() = StreamBody::new(events).boxed_unsync();
            response
        }
        "/apis/things.test/v1/namespaces/default/things" if body.is_empty() => {
            json_of(&json!({"kind": "ThingList", "apiVersion": "things.test/v1", "items": []}))
        }
        "/apis/things.test/v1/namespaces/default/things" => said(201, "application/json", body),
        "/apis/things.test/v1/namespaces/default/things/away" => {
            let mut response = said(302, "text/plain", "");
            let to = header::HeaderValue::from_static("https://elsewhere.test/");
            response.headers_mut().insert(header::LOCATION, to);
            response
        }
        "/apis/things.test/v1/namespaces/default/things/large" => large(),
        "/apis/things.test/v1/namespaces/default/things/t/stream" => switch(upgrade),
        "/openapi/v3" if mode == Mode::Serves => {
            let of = |path: &str| json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash=AB")});
            let own = "apis/things.test/v1";
            json_of(&json!({"paths": {own: of(own), "api/v1": of("api/v1")}}))
        }
        "/openapi/v3/apis/things.test/v1" => json_of(&json!({"openapi": "3.0.0", "info": {"title": query}})),
        "/openapi/v2" => json_of(&json!({
            "swagger": "2.0",
            "info": {"title": "theirs", "version": "1"},
            "paths": {
                "/apis/things.test/v1/namespaces/{namespace}/things": {"get": {
                    "responses": {"200": {"description": "OK", "schema": {"$ref": "#/definitions/test.things.v1.Thing"}}}}},
                "/api/v1/pods": {"get": {"description": "not theirs"}},
            },
            "definitions": {
                "test.things.v1.Thing": {"type": "object", "properties": {
                    "metadata": {"$ref": "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}}},
                "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta": {"type": "object", "description": "another one"},
            },
        })),
        _ => said(
            404,
            "application/json",
            json!({"kind": "Status", "code": 404, "message": "theirs"}).to_string(),
        ),
    }
}

/// Gives the connection away, and echoes on it.
fn switch(upgrade: Option<hyper::upgrade::OnUpgrade>) -> Said {
    let Some(upgrade) = upgrade else { return said(400, "text/plain", "no upgrade") };
    crate::streams::TALKS.spawn_detached("echo", async move {
        let Ok(connection) = upgrade.await else { return };
        let (mut from, mut to) = tokio::io::split(TokioIo::new(connection));
        drop(tokio::io::copy(&mut from, &mut to).await);
        drop(to.shutdown().await);
    });
    let mut response = said(101, "text/plain", "");
    for (name, value) in [(header::CONNECTION, "Upgrade"), (header::UPGRADE, "echo")] {
        response.headers_mut().insert(name, header::HeaderValue::from_static(value));
    }
    response
}
