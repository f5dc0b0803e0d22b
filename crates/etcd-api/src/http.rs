//! etcd's HTTP endpoints beside gRPC.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;
use serde_json::json;

use crate::ETCD_VERSION;
use crate::context::Context;

/// Renders this process' metrics as Prometheus text.
pub type Metrics = Arc<dyn Fn() -> String + Send + Sync>;

#[derive(Clone)]
struct Endpoints {
    context: Context,
    metrics: Metrics,
}

#[derive(Deserialize)]
struct HealthQuery {
    #[serde(default)]
    serializable: String,
    #[serde(default)]
    exclude: String,
}

pub(crate) fn router(context: Context, metrics: Metrics, gateway: Router) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/version", get(version))
        .route("/metrics", get(render))
        .fallback(unknown)
        .with_state(Endpoints { context, metrics })
        .merge(gateway)
}

/// What grpc-go answers for a service that is not there: UNIMPLEMENTED, in a response without a body.
async fn unknown(request: Request) -> Response {
    let is_grpc = |value: &HeaderValue| value.as_bytes().starts_with(b"application/grpc");
    if !request.headers().get(header::CONTENT_TYPE).is_some_and(is_grpc) {
        return (StatusCode::NOT_FOUND, "404 page not found\n").into_response();
    }
    let service = request.uri().path().trim_matches('/').split('/').next().unwrap_or_default();
    tonic::Status::unimplemented(format!("unknown service {service}")).into_http()
}

async fn health(State(endpoints): State<Endpoints>, Query(query): Query<HealthQuery>) -> Response {
    let context = &endpoints.context;
    let reason = if context.store.view().alarms().next().is_some() && query.exclude != "NOSPACE" {
        Some("ALARM".to_owned())
    } else if query.serializable != "true" {
        context.store.read_barrier().await.err().map(|error| format!("RANGE ERROR:{error}"))
    } else {
        None
    };
    let status = if reason.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let health = if reason.is_none() { "true" } else { "false" };
    (status, axum::Json(json!({ "health": health, "reason": reason.unwrap_or_default() }))).into_response()
}

async fn livez() -> &'static str {
    "ok\n"
}

async fn readyz(State(endpoints): State<Endpoints>) -> Response {
    match endpoints.context.store.read_barrier().await {
        Ok(()) => "ok\n".into_response(),
        Err(error) => {
            let text = format!("[-]linearizable_read failed: {error}\nreadyz check failed\n");
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
    }
}

async fn version(State(endpoints): State<Endpoints>) -> axum::Json<serde_json::Value> {
    let view = endpoints.context.store.view();
    let cluster = view.cluster_version().unwrap_or("3.7.0");
    axum::Json(json!({ "etcdserver": ETCD_VERSION, "etcdcluster": cluster, "storage": "3.7.0" }))
}

async fn render(State(endpoints): State<Endpoints>) -> String {
    (endpoints.metrics)()
}
