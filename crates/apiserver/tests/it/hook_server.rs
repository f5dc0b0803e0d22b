//! A webhook over HTTPS, with a certificate of the cluster's authority.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::cluster::{Keyed, Running};

/// What was asked: the path, and the request of the review, or the list of events.
pub type Calls = Arc<Mutex<Vec<(String, Value)>>>;

pub struct HookServer {
    pub address: SocketAddr,
    /// How many may pass `/gate`.
    pub gate: Arc<Semaphore>,
    pub calls: Calls,
    pub connections: Arc<AtomicUsize>,
    /// MiB of the answers of `/large` that were asked for.
    pub taken: Arc<AtomicUsize>,
}

/// What an answer of `/large` has, in MiB.
pub const LARGE: usize = 100;

/// `hostPort` as `host` and `port`, or the other way round.
fn converted(object: &Value, wanted: &Value) -> Value {
    let mut object = object.clone();
    let spec = object["spec"].take();
    let text = |field: &str| spec[field].as_str().unwrap_or_default().to_owned();
    object["spec"] = match text("hostPort").split_once(':') {
        Some((host, port)) => json!({"host": host, "port": port}),
        None => json!({"hostPort": format!("{}:{}", text("host"), text("port"))}),
    };
    object["apiVersion"] = wanted.clone();
    object
}

/// Answers of a webhook that converts: `/convert`, `/unconverted` with nothing, `/renamed` with another name.
fn conversion(path: &str, request: &Value) -> Bytes {
    let wanted = &request["desiredAPIVersion"];
    let objects = request["objects"].as_array().into_iter().flatten().map(|object| converted(object, wanted));
    let mut objects: Vec<Value> = objects.collect();
    match path {
        "/unconverted" => objects.clear(),
        "/renamed" => objects.iter_mut().for_each(|object| object["metadata"]["name"] = json!("other")),
        _ => {}
    }
    let response =
        json!({"uid": request["uid"], "result": {"status": "Success"}, "convertedObjects": objects});
    let review =
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "response": response});
    Bytes::from(review.to_string())
}

/// Who may send events.
pub const SESAME: &str = "Bearer sesame";

/// Answers by the path: `/label/NAME` sets a label, `/deny` refuses, `/allow` allows, `/events` takes lists of them at
/// the second try, and the bad ones.
fn answer(path: &str, request: &Value) -> Bytes {
    if matches!(path, "/convert" | "/unconverted" | "/renamed") {
        return conversion(path, request);
    }
    let mut response = json!({"uid": request["uid"], "allowed": true});
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let patch = |steps: Value| base64::engine::general_purpose::STANDARD.encode(steps.to_string());
    match parts.as_slice() {
        ["label", name] => {
            let mut steps = Vec::new();
            if request["object"]["metadata"]["labels"].is_null() {
                steps.push(json!({"op": "add", "path": "/metadata/labels", "value": {}}));
            }
            let path = format!("/metadata/labels/{name}");
            steps.push(json!({"op": "add", "path": path, "value": request["operation"]}));
            steps.push(json!({"op": "add", "path": "/nonsense", "value": 1}));
            response["patchType"] = json!("JSONPatch");
            response["patch"] = json!(patch(json!(steps)));
            response["warnings"] = json!([format!("{name} was here")]);
        }
        ["deny"] => {
            response["allowed"] = json!(false);
            response["status"] = json!({"message": "not today", "code": 418});
        }
        ["garbage"] => return Bytes::from_static(b"not json"),
        ["stranger"] => response["uid"] = json!("another"),
        _ => {}
    }
    let review =
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
    Bytes::from(review.to_string())
}

/// Blanks without an end in sight.
fn large(taken: Arc<AtomicUsize>) -> BoxBody<Bytes, Infallible> {
    let pieces = (0..LARGE).map(move |_| {
        taken.fetch_add(1, Ordering::SeqCst);
        Ok(Frame::data(Bytes::from(vec![b' '; 1 << 20])))
    });
    BodyExt::boxed(StreamBody::new(futures::stream::iter(pieces)))
}

async fn serve(
    request: Request<Incoming>,
    calls: Calls,
    gate: Arc<Semaphore>,
    taken: Arc<AtomicUsize>,
) -> Result<Response<BoxBody<Bytes, Infallible>>, hyper::Error> {
    let path = request.uri().path().to_owned();
    let known = request.headers().get("authorization").is_some_and(|value| value == SESAME);
    let body = request.into_body().collect().await?.to_bytes();
    let review: Value = serde_json::from_slice(&body).unwrap_or_default();
    let events = review["kind"] == "EventList" && known;
    let asked = if events { review.clone() } else { review["request"].clone() };
    let times = {
        let mut calls = calls.lock();
        calls.push((path.clone(), asked));
        calls.len()
    };
    match path.as_str() {
        "/slow" => std::future::pending::<()>().await,
        "/gate" => gate.acquire().await.expect("open").forget(),
        _ => {}
    }
    let body = match path.as_str() {
        "/large" => large(taken),
        path => Full::new(answer(path, &review["request"])).boxed(),
    };
    let mut response = Response::new(body);
    if path == "/broken" || path == "/events" && times == 1 {
        *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
    }
    if path == "/moved" {
        *response.status_mut() = http::StatusCode::TEMPORARY_REDIRECT;
        response.headers_mut().insert("location", http::HeaderValue::from_static("/allow"));
    }
    Ok(response)
}

impl HookServer {
    pub async fn start(cluster: &Running) -> Self {
        Self::start_with(cluster, &cluster.authority.issue("hook", None), "127.0.0.1:0").await
    }

    pub async fn start_with(cluster: &Running, keyed: &Keyed, listen: &str) -> Self {
        let acceptor = keyed.acceptor();
        let listener = TcpListener::bind(listen).await.expect("listener");
        let address = listener.local_addr().expect("address");
        let (calls, connections) = (Calls::default(), Arc::new(AtomicUsize::new(0)));
        let gate = Arc::new(Semaphore::new(0));
        let passed = gate.clone();
        let taken = Arc::new(AtomicUsize::new(0));
        let pieces = taken.clone();
        let (all, count, tasks) = (calls.clone(), connections.clone(), cluster.tasks.clone());
        cluster.tasks.spawn_detached("hook", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, calls, count) = (acceptor.clone(), all.clone(), count.clone());
                let (gate, taken) = (passed.clone(), pieces.clone());
                tasks.spawn_detached("hook-connection", async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    count.fetch_add(1, Ordering::SeqCst);
                    let service =
                        service_fn(move |request| serve(request, calls.clone(), gate.clone(), taken.clone()));
                    let served = hyper::server::conn::http1::Builder::new();
                    drop(served.serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        Self { address, gate, calls, connections, taken }
    }

    /// A webhook for config maps at a path of this server.
    pub fn hook(&self, cluster: &Running, name: &str, path: &str) -> Value {
        let bundle = base64::engine::general_purpose::STANDARD.encode(&cluster.authority.certificate);
        json!({
            "name": format!("{name}.hooks.test"),
            "clientConfig": {"url": format!("https://{}{path}", self.address), "caBundle": bundle},
            "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
        })
    }

    /// The paths that were asked, in their order.
    pub fn asked(&self) -> Vec<String> {
        self.calls.lock().iter().map(|(path, _)| path.clone()).collect()
    }
}
