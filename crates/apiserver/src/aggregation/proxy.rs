//! Requests that are passed on to the server behind an APIService (upstream: `handler_proxy.go`). Nothing of bodies and
//! answers is held back: memory does not grow with them.

use std::time::Duration;

use api_types::status::Status;
use futures::StreamExt as _;
use http::{Request, Response, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::ApiService;
use super::remote::{Remote, send, tell};
use crate::api::Api;
use crate::body::{self, AsItComes, Body, BoxError};
use crate::call::Call;
use crate::dial;
use crate::forward::{self, asks_for_upgrade};
use crate::info::escape;
use crate::node_client::Endpoint;
use crate::reach::Answerer;

/// How long discovery of a group and version may take (upstream's `aggregatedDiscoveryTimeout`).
const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(5);
const TEXT: &str = "text/plain; charset=utf-8";
const UNAVAILABLE: &str = "service unavailable";
const REDIRECT: &str = "the backend attempted to redirect this request, which is not permitted";

/// A failure in plain text, as upstream's proxy gives it.
fn failure(code: u16, text: &str) -> Response<Body> {
    let mut response = body::response(code, TEXT, format!("{text}\n"));
    body::set_header(&mut response, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    response
}

async fn within<T>(limit: Duration, sent: impl Future<Output = Result<T, BoxError>>) -> Result<T, BoxError> {
    let answer = tokio::time::timeout(limit, sent).await;
    answer.unwrap_or_else(|_| Err("context deadline exceeded".into()))
}

fn lost(error: &BoxError) -> Response<Body> {
    failure(503, &format!("error trying to reach service: {error}"))
}

impl Api {
    /// Passes a request on to the server of its APIService, in the name of its user.
    pub(crate) async fn pass_on(
        &self,
        call: &Call,
        service: &ApiService,
        remote: &Remote,
    ) -> Result<Response<Body>, Status> {
        if !remote.is_available {
            return Ok(failure(503, UNAVAILABLE));
        }
        if let Err(error) = remote.check(&self.aggregation) {
            return Ok(failure(500, &error));
        }
        let endpoints = match remote.endpoints(self, &self.storage.view()) {
            Ok(endpoints) => endpoints,
            Err(error) => {
                tracing::debug!(service = service.name, error, "an API service is nowhere");
                return Ok(failure(503, UNAVAILABLE));
            }
        };
        let upgrades = asks_for_upgrade(call);
        let sent = self.send_to(call, remote, &endpoints, upgrades);
        let answer = match (upgrades, is_discovery(call)) {
            (false, false) => sent.await,
            (true, _) => within(dial::UPGRADE_TIMEOUT, sent).await,
            (false, true) => within(DISCOVERY_TIMEOUT, sent).await,
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => return Ok(lost(&error)),
        };
        if upgrades {
            return self.take_over(call, answer).await;
        }
        if answer.status().is_informational() {
            return Ok(lost(&"the server switches protocols unasked".into()));
        }
        if answer.status().is_redirection() && answer.headers().contains_key(header::LOCATION) {
            return Ok(body::response(502, TEXT, REDIRECT));
        }
        let mut response = answer.map(body::incoming);
        forward::settle(&mut response);
        response.extensions_mut().insert(AsItComes);
        match call.info.is_long_running() {
            true => Ok(response.map(|body| self.until_stop(body))),
            false => Ok(response),
        }
    }

    async fn send_to(
        &self,
        call: &Call,
        remote: &Remote,
        endpoints: &[Answerer],
        upgrades: bool,
    ) -> Result<Response<Incoming>, BoxError> {
        let (stream, endpoint) = remote.connect(&self.aggregation, endpoints).await?;
        send(stream, request(call, endpoint, upgrades)?, &self.tasks).await
    }

    /// A body that ends when this server stops.
    fn until_stop(&self, body: Body) -> Body {
        let shutdown = self.shutdown.clone();
        let stop = Box::pin(async move { shutdown.wait().await });
        body::stream(body.into_data_stream().take_until(stop))
    }
}

/// Whether a request is for `/apis/<group>/<version>`.
fn is_discovery(call: &Call) -> bool {
    let parts = call.info.path.split('/').filter(|part| !part.is_empty());
    !call.info.is_resource && parts.count() == 3
}

/// What the other server is asked: the same, in the name of the user.
fn request(call: &Call, endpoint: &Endpoint, upgrades: bool) -> Result<Request<Body>, BoxError> {
    // As it was decided on: a slash that was escaped is one.
    let path = escape(&call.info.path);
    let mut request = forward::request(call, &path, upgrades)?;
    let headers = request.headers_mut();
    let authority = endpoint.authority();
    forward::set(headers, "host", &authority);
    forward::set(headers, "x-forwarded-host", &authority);
    forward::set(headers, "x-forwarded-proto", "https");
    forward::set(headers, "x-forwarded-uri", &path);
    forward::set(headers, "audit-id", &call.audit_id);
    // Last: nothing that the client said of itself may stand.
    tell(headers, &call.user)?;
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::user::UserInfo;
    use http::HeaderValue;

    #[test]
    fn a_client_cannot_say_who_it_is() {
        let mut call = Call::internal();
        call.info.path = "/apis/a.b/v1/things".into();
        call.user = UserInfo::new("jane", &[]);
        call.audit_id = "id".into();
        for (name, value) in [
            ("x-remote-user", "root"),
            ("x-remote-group", "system:masters"),
            ("x-remote-extra-a", "b"),
            // Would have a proxy take away what it said itself.
            ("connection", "x-remote-user"),
            ("authorization", "Bearer secret"),
        ] {
            call.headers.insert(name, HeaderValue::from_static(value));
        }
        let endpoint = Endpoint { host: "10.1.2.3".into(), port: 8443 };
        let asked = request(&call, &endpoint, false).unwrap();
        assert_eq!(asked.headers()["x-remote-user"], "jane");
        let groups: Vec<_> = asked.headers().get_all("x-remote-group").iter().collect();
        assert_eq!(groups, ["system:authenticated"]);
        for name in ["x-remote-extra-a", "connection", "authorization"] {
            assert!(!asked.headers().contains_key(name), "{name}");
        }
        assert_eq!(asked.headers()["host"], "10.1.2.3:8443");
        assert_eq!(asked.headers()["audit-id"], "id");
    }
}
