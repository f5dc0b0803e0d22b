//! etcd's HTTP endpoints beside gRPC; `health.rs` has those about the member's health.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;
use store::hex;

use crate::ETCD_VERSION;
use crate::context::Context;
use crate::counters::{Collector, Counted};
use crate::framing::is_grpc;
use crate::health;

/// Renders this process' metrics as Prometheus text.
pub type Metrics = Arc<dyn Fn() -> String + Send + Sync>;

#[derive(Clone)]
struct Endpoints {
    context: Context,
    metrics: Metrics,
    collector: Collector,
}

pub(crate) fn router(context: Context, metrics: Metrics, gateway: Router) -> Router {
    let health = health::router(&context);
    let collector = Collector::new(context.clone());
    Router::new()
        .route("/version", get(version).head(method_not_allowed).fallback(method_not_allowed))
        .route("/metrics", get(render))
        .route("/debug/vars", get(variables).head(method_not_allowed).fallback(method_not_allowed))
        .fallback(unknown)
        .with_state(Endpoints { context, metrics, collector })
        .merge(health)
        .merge(gateway)
}

/// Health and metrics, for an address that nothing else is served on.
pub(crate) fn metrics_router(context: Context, metrics: Metrics) -> Router {
    let health = health::router(&context);
    let collector = Collector::new(context.clone());
    Router::new()
        .route("/metrics", get(render))
        .fallback(unknown)
        .with_state(Endpoints { context, metrics, collector })
        .merge(health)
}

/// No endpoint at all.
pub(crate) fn nothing() -> Router {
    Router::new().fallback(unknown)
}

/// What grpc-go answers for a service that is not there: UNIMPLEMENTED, in a response without a body.
async fn unknown(request: Request) -> Response {
    if !is_grpc(request.headers()) {
        return plain(StatusCode::NOT_FOUND, "404 page not found\n".to_owned());
    }
    let path = request.uri().path();
    let text = match path.strip_prefix('/').and_then(|name| name.rsplit_once('/')) {
        Some((service, _)) => format!("unknown service {service}"),
        None => format!("malformed method name: {path:?}"),
    };
    tonic::Status::unimplemented(text).into_http()
}

/// Text that no browser may take for anything else.
pub(crate) fn plain(status: StatusCode, text: String) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    (status, headers, text).into_response()
}

/// For endpoints that can only be read.
pub(crate) async fn method_not_allowed() -> Response {
    let allow = [(header::ALLOW, HeaderValue::from_static("GET"))];
    (allow, plain(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n".to_owned())).into_response()
}

/// That what was asked for is at another path, with a link for whoever reads it.
pub(crate) fn moved(method: &Method, path: &str) -> Response {
    let Ok(location) = HeaderValue::from_str(path) else {
        return plain(StatusCode::NOT_FOUND, "404 page not found\n".to_owned());
    };
    let location = [(header::LOCATION, location)];
    if !matches!(*method, Method::GET | Method::HEAD) {
        return (StatusCode::TEMPORARY_REDIRECT, location).into_response();
    }
    let escaped = path.replace('&', "&amp;").replace('"', "&#34;").replace('\'', "&#39;");
    let link = format!("<a href=\"{escaped}\">Temporary Redirect</a>.\n\n");
    let kind = [(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"))];
    (StatusCode::TEMPORARY_REDIRECT, location, kind, link).into_response()
}

async fn version(State(endpoints): State<Endpoints>) -> Response {
    let view = endpoints.context.store.view();
    let cluster = view.cluster_version().unwrap_or("not_decided");
    let storage = endpoints.context.storage_version().unwrap_or_else(|| "unknown".to_owned());
    let text = format!(
        "{{\"etcdserver\":\"{ETCD_VERSION}\",\"etcdcluster\":\"{cluster}\",\"storage\":\"{storage}\"}}"
    );
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], text).into_response()
}

async fn render(State(endpoints): State<Endpoints>) -> Response {
    let in_flight = metrics::gauge!("promhttp_metric_handler_requests_in_flight");
    let _answering = Counted::new(&in_flight);
    for (code, requests) in [("200", 1), ("500", 0), ("503", 0)] {
        metrics::counter!("promhttp_metric_handler_requests_total", "code" => code).increment(requests);
    }
    endpoints.collector.collect();
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], (endpoints.metrics)()).into_response()
}

/// What Go's `expvar` shows, as far as there is a counterpart.
async fn variables(State(endpoints): State<Endpoints>) -> Response {
    let store = &endpoints.context.store;
    let (status, id) = (store.status(), hex(store.member_id()));
    let state = match (store.is_leader(), status.is_learner) {
        (true, _) => "StateLeader",
        (false, true) => "StateLearner",
        (false, false) => "StateFollower",
    };
    let variables = json!({
        "cmdline": std::env::args().collect::<Vec<_>>(),
        "raft.status": {
            "id": id,
            "term": status.term,
            "lead": hex(status.leader),
            "raftState": state,
            "commit": status.committed_index,
            "applied": status.applied_index,
        },
        "etcd.version": ETCD_VERSION,
    });
    let kind = HeaderValue::from_static("application/json; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], variables.to_string()).into_response()
}
