//! Who may use the HTTP endpoints: pages of other sites (CORS), and hosts that were asked for (against DNS rebinding,
//! CVE-2018-5702). gRPC is not concerned: browsers do not speak it. The paths of the endpoints are read as Go's servers
//! read them.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use transport::Peer;

use crate::auth::common_name;
use crate::context::Context;
use crate::{http, path};

/// What the paths of the gateway begin with.
const GATEWAY: &str = "/v3/";
/// etcd's answer at the gateway to who showed a certificate with a name.
const NAME_IGNORED: &str =
    "CommonName of client sending a request against gateway will be ignored and not used as expected\n";
/// Everybody.
const ANY: &str = "*";

/// etcd's `--cors` and `--host-whitelist`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Sites whose pages may read answers.
    pub origins: BTreeSet<String>,
    /// Hosts that requests in plain text may be for.
    pub hosts: BTreeSet<String>,
}

impl Default for Access {
    /// All sites, all hosts.
    fn default() -> Self {
        let any = BTreeSet::from([ANY.to_owned()]);
        Self { origins: any.clone(), hosts: any }
    }
}

impl Access {
    /// What goes into the answer for pages of `origin`.
    fn origin<'a>(&self, origin: &'a str) -> Option<&'a str> {
        if self.origins.contains(ANY) {
            return Some(ANY);
        }
        self.origins.contains(origin).then_some(origin)
    }

    fn admits_host(&self, host: &str) -> bool {
        self.hosts.is_empty() || self.hosts.contains(ANY) || self.hosts.contains(host)
    }
}

/// What stands before the endpoints.
struct Guard {
    access: Access,
    /// Where there is a gateway: it knows nobody by the name in a certificate.
    gateway: Option<Context>,
}

/// Puts the rules before the endpoints; `gateway` if there is one among them.
pub(crate) fn guard(router: Router, access: Access, gateway: Option<Context>) -> Router {
    let guard = Arc::new(Guard { access, gateway });
    // Which endpoint a path means is found out behind the rules.
    Router::new().fallback_service(router).layer(middleware::from_fn_with_state(guard, check))
}

async fn check(State(guard): State<Arc<Guard>>, mut request: Request, next: Next) -> Response {
    let access = &guard.access;
    path::read(request.uri_mut());
    let peer = request.extensions().get::<Peer>().cloned().unwrap_or_default();
    if !peer.secure {
        let host = host(&request);
        if !access.admits_host(&host) {
            tracing::warn!(host, "rejecting HTTP request to prevent DNS rebinding attacks");
            return http::plain(StatusCode::MISDIRECTED_REQUEST, refusal(&host));
        }
    } else if request.uri().path().starts_with(GATEWAY) && guard.ignores_name(&peer) {
        return http::plain(StatusCode::BAD_REQUEST, NAME_IGNORED.to_owned());
    }
    let origin = request.headers().get(header::ORIGIN).and_then(|value| value.to_str().ok());
    let origin =
        access.origin(origin.unwrap_or_default()).and_then(|origin| HeaderValue::from_str(origin).ok());
    let mut response = match (request.method(), path::cleaned(request.uri())) {
        (&Method::OPTIONS, _) => StatusCode::OK.into_response(),
        (method, Some(elsewhere)) => http::moved(method, &elsewhere),
        (_, None) => next.run(request).await,
    };
    if let Some(origin) = origin {
        add_headers(response.headers_mut(), origin);
    }
    response
}

impl Guard {
    /// Whether a client showed a name that it would be known by, were it not for the gateway.
    fn ignores_name(&self, peer: &Peer) -> bool {
        let Some(context) = &self.gateway else { return false };
        let matters = context.tokens.certificates && context.store.view().auth().is_enabled();
        matters && common_name(peer).is_some_and(|name| !name.is_empty())
    }
}

fn add_headers(headers: &mut HeaderMap, origin: HeaderValue) {
    let methods = HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE");
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    let allowed = HeaderValue::from_static("accept, content-type, authorization");
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
}

/// The host that the request is for, without its port.
fn host(request: &Request) -> String {
    let named = request.headers().get(header::HOST).and_then(|value| value.to_str().ok());
    let authority = request.uri().authority().map(|authority| authority.as_str());
    let text = named.or(authority).unwrap_or_default();
    let host = match text.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => text,
    };
    host.trim_start_matches('[').trim_end_matches(']').to_owned()
}

fn refusal(host: &str) -> String {
    format!(
        "the Host header {host:?} is not one that this server answers to.\n\
         Use TLS, where every host is admitted, or add the name: --host-whitelist {host:?}.\n\
         This guards against \"DNS Rebinding\" attacks (CVE-2018-5702).\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_origins_are_looked_up() {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let access = Access { origins: list(&["https://a"]), hosts: list(&["localhost"]) };
        assert!(access.admits_host("localhost") && !access.admits_host("evil"));
        assert_eq!((access.origin("https://a"), access.origin("https://b")), (Some("https://a"), None));
        assert_eq!(Access::default().origin("https://b"), Some("*"));
    }

    #[test]
    fn ports_and_brackets_are_no_part_of_a_host() {
        for (text, host) in [("h:1", "h"), ("h", "h"), ("[::1]:1", "::1"), ("127.0.0.1:2379", "127.0.0.1")] {
            let request = Request::builder().header("host", text).body(axum::body::Body::empty());
            assert_eq!(super::host(&request.expect("a request")), host);
        }
    }
}
