//! Routes that are made when they are wanted first: most servers are never asked for them.

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::extract::Request;
use axum::routing::any;
use tower::ServiceExt as _;

/// A router of these paths, which passes on to the one that `make` makes of them.
pub(crate) fn router(paths: &[&str], make: impl FnOnce() -> Router + Send + 'static) -> Router {
    let made = Arc::new(LazyLock::new(make));
    let pass = any(move |request: Request| {
        let routes = Router::clone(&made);
        async move { routes.oneshot(request).await }
    });
    paths.iter().fold(Router::new(), |router, path| router.route(path, pass.clone()))
}
