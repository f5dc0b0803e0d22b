//! `exec`, `attach` and `portforward`: the client's connection goes on to the agent of the pod's node, which knows the
//! protocols. The server understands none of them: it passes the request for an upgrade on, and then bytes.

use std::time::Duration;

use api_types::status::Status;
use api_types::{Value, table};
use http::{Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

use super::log;
use crate::api::Api;
use crate::authz::Ask;
use crate::body::{self, Body};
use crate::call::Call;
use crate::convert;
use crate::dial;
use crate::forward::asks_for_upgrade;
use crate::node_client::{Endpoint, NodeClient};
use crate::registry::Target;
use crate::storage::View;
use crate::wire::Door;

/// A stream on which nothing is said for so long ends, as at the node.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4 * 3600);

impl Api {
    pub(super) async fn stream(
        &self,
        call: &Call,
        target: &Target,
        name: &str,
    ) -> Result<Response<Body>, Status> {
        self.must_be_allowed(call, "create").await?;
        let view = self.storage.fresh().await?;
        let pod = target.resource.decode(&self.find(&view, target)?)?;
        let path = match name {
            "portforward" => format!("/portForward/{}/{}", target.namespace, target.name),
            _ => {
                let container = log::container(target, &pod, call.query.get("container"))?;
                format!("/{name}/{}/{}/{container}", target.namespace, target.name)
            }
        };
        let node = self.endpoint_of(&view, &target.name, &pod)?;
        let client = self.node_client()?;
        if !asks_for_upgrade(call) {
            return Err(Status::bad_request("Upgrade request required"));
        }
        let mut request = Request::builder()
            .method(&call.method)
            .uri(format!("{path}{}", parameters(call)))
            .header(header::CONNECTION, "Upgrade");
        let passed = call.headers.iter().filter(|(name, _)| {
            **name == header::UPGRADE
                || *name == "x-stream-protocol-version"
                || name.as_str().starts_with("sec-websocket-")
        });
        for (name, value) in passed {
            request = request.header(name, value);
        }
        let request = request.body(body::full("")).map_err(Status::internal)?;
        self.take_over(call, client.send(&node, request).await?).await
    }

    /// 403 unless the user may do what is asked with this verb. A WebSocket begins as a GET, but whoever may only look
    /// must not run commands (upstream's AuthorizePodWebsocketUpgradeCreatePermission).
    pub(super) async fn must_be_allowed(&self, call: &Call, verb: &'static str) -> Result<(), Status> {
        if call.info.verb == verb {
            return Ok(());
        }
        let ask = Ask { verb, ..Ask::of(&call.info, &call.query) };
        self.authorizer.decide(&self.storage.view(), &call.user, &ask).await.check(&ask, &call.user)
    }

    pub(super) fn node_client(&self) -> Result<&NodeClient, Status> {
        let missing = "the server has no credentials for calls to nodes";
        self.nodes.as_deref().ok_or_else(|| Status::failure(501, "NotImplemented", missing))
    }

    /// Where the agent of a pod's node answers.
    pub(super) fn endpoint_of(&self, view: &View, name: &str, pod: &Value) -> Result<Endpoint, Status> {
        let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
        if node.is_empty() {
            return Err(Status::bad_request(format!("pod {name} does not have a host assigned")));
        }
        Endpoint::of(&self.node(view, node)?)
    }

    pub(super) fn node(&self, view: &View, name: &str) -> Result<Value, Status> {
        let nodes = table::find("", "v1", "nodes").expect("invariant: the table of kinds holds Node");
        convert::decode(nodes, &self.find(view, &Target::new(nodes, "", name))?)
    }

    /// Makes the connections of the client and of whoever answered 101 one; other answers are passed on.
    pub(crate) async fn take_over(
        &self,
        call: &Call,
        answer: Response<Incoming>,
    ) -> Result<Response<Body>, Status> {
        let code = answer.status();
        if code != StatusCode::SWITCHING_PROTOCOLS {
            if code.as_u16() < 400 {
                let why = format!("invalid upgrade response: status code {}", code.as_u16());
                return Err(Status::internal(why));
            }
            let kind = answer.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
            let kind = kind.unwrap_or("text/plain; charset=utf-8").to_owned();
            return Ok(body::response(code.as_u16(), &kind, dial::words(answer).await));
        }
        let Some(Door { place, upgrade: Some(client), .. }) = call.wire.door.clone() else {
            return Err(Status::bad_request("Upgrade request required"));
        };
        let mut response = Response::new(body::full(""));
        *response.status_mut() = code;
        answer.headers().clone_into(response.headers_mut());
        let (other, clock, shutdown) =
            (hyper::upgrade::on(answer), self.storage.env.clock.clone(), self.shutdown.clone());
        self.tasks.spawn_detached("stream", async move {
            let _place = place;
            let carried = async {
                match tokio::try_join!(client, other) {
                    Ok((client, other)) => {
                        env::relay(TokioIo::new(client), TokioIo::new(other), IDLE_TIMEOUT, &clock).await;
                    }
                    Err(error) => tracing::debug!(%error, "a stream did not begin"),
                }
            };
            tokio::select! {
                () = carried => {}
                () = shutdown.wait() => {}
            }
        });
        Ok(response)
    }
}

/// The kubelet's names for the options of a stream.
fn parameters(call: &Call) -> String {
    let mut text = url::form_urlencoded::Serializer::new(String::new());
    for word in call.query.all("command") {
        text.append_pair("command", word);
    }
    for (ours, theirs) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
        if call.query.flag(ours) {
            text.append_pair(theirs, "1");
        }
    }
    let ports: Vec<&str> = call.query.all("ports").flat_map(|list| list.split(',')).collect();
    if !ports.is_empty() {
        text.append_pair("port", &ports.join(","));
    }
    format!("?{}", text.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::info::Query;

    #[test]
    fn options_have_the_kubelets_names() {
        let mut call = Call::internal();
        let query = "command=sh&command=-c&command=a%26+b&stdin=true&stdout=1&stderr=false&container=c";
        call.query = Query::parse(query);
        assert_eq!(parameters(&call), "?command=sh&command=-c&command=a%26+b&input=1&output=1");
        call.query = Query::parse("ports=80&ports=81,82");
        assert_eq!(parameters(&call), "?port=80%2C81%2C82");
    }
}
