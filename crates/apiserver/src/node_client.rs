//! Calls to node agents: HTTPS to the address a node names in its status, with the server's client certificate.

use std::sync::Arc;

use api_types::Value;
use api_types::status::Status;
use env::TaskGroup;
use http::{Request, Response, header};
use hyper::body::Incoming;
use tokio_rustls::TlsConnector;

use crate::body::{self, Body, BoxError};
use crate::config::{BuildError, KubeletClient};
use crate::dial::{self, Connection};
use crate::tls;

/// Port of an agent that names none.
const DEFAULT_PORT: u64 = 10250;

/// Calls node agents.
pub(crate) struct NodeClient {
    connector: TlsConnector,
    tasks: TaskGroup,
}

/// Where an agent answers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub host: String,
    pub port: u16,
}

impl Endpoint {
    /// Where the agent of a node answers.
    pub fn of(node: &Value) -> Result<Self, Status> {
        endpoint(node).ok_or_else(|| Status::internal("no preferred addresses found; known addresses: []"))
    }

    /// As a `Host` header has it.
    pub fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

impl NodeClient {
    pub fn new(config: &KubeletClient, tasks: TaskGroup) -> Result<Self, BuildError> {
        let tls = tls::client(&config.ca, &config.certificate, &config.key)?;
        Ok(Self { connector: TlsConnector::from(Arc::new(tls)), tasks })
    }

    /// Asks a node's agent; the answer's body comes as the agent writes it.
    pub async fn get(&self, node: &Value, path: &str) -> Result<Response<Body>, Status> {
        let endpoint = Endpoint::of(node)?;
        let request = Request::get(path).body(body::full("")).map_err(Status::internal)?;
        Ok(self.send(&endpoint, request).await?.map(body::incoming))
    }

    /// Sends a request to an agent.
    pub async fn send(
        &self,
        endpoint: &Endpoint,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, Status> {
        let url = format!("https://{}{}", endpoint.authority(), request.uri());
        let method = request.method().clone();
        let failed = |error: BoxError| {
            let method = method.as_str();
            let method = format!("{}{}", &method[..1], method[1..].to_ascii_lowercase());
            Status::internal(format_args!("{method} {}: {error}", api_types::field::quote(&url)))
        };
        let call = self.call(endpoint, request);
        match tokio::time::timeout(dial::UPGRADE_TIMEOUT, call).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(failed(error)),
            Err(_) => Err(failed("dial tcp: i/o timeout".into())),
        }
    }

    async fn call(
        &self,
        endpoint: &Endpoint,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>, BoxError> {
        request.headers_mut().insert(header::HOST, endpoint.authority().parse()?);
        dial::send(self.connect(endpoint, false).await?, request, &self.tasks).await
    }

    /// A connection to an agent. `guarded`: only where proxies may go.
    pub async fn connect(&self, endpoint: &Endpoint, guarded: bool) -> Result<Connection, BoxError> {
        let connected = async {
            let stream = dial::tcp(&endpoint.host, endpoint.port, guarded).await?;
            dial::tls(&self.connector, &endpoint.host, stream).await
        };
        tokio::time::timeout(dial::CONNECT_TIMEOUT, connected).await.map_err(|_| "dial tcp: i/o timeout")?
    }

    /// A connection to a port of a pod, by way of its node's agent.
    pub async fn connect_pod(
        &self,
        node: &Endpoint,
        pod: (&str, &str),
        port: u16,
    ) -> Result<Connection, BoxError> {
        let connected = async {
            let stream = self.connect(node, false).await?;
            let path = format!("/dial/{}/{}/{port}", pod.0, pod.1);
            dial::switch(stream, &path, &node.authority(), "tcp", &self.tasks).await
        };
        tokio::time::timeout(dial::UPGRADE_TIMEOUT, connected).await.map_err(|_| "dial tcp: i/o timeout")?
    }
}

/// The address and port in a node's status: its name, internal and external address, as upstream prefers them after
/// each other, but an address before a name, which may not resolve.
fn endpoint(node: &Value) -> Option<Endpoint> {
    let addresses = node["status"]["addresses"].as_array()?;
    let of = |kind: &str| addresses.iter().find(|address| address["type"] == kind)?["address"].as_str();
    let host = ["InternalIP", "ExternalIP", "Hostname", "InternalDNS"].into_iter().find_map(of)?;
    let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64();
    let port = port.filter(|&port| port > 0).unwrap_or(DEFAULT_PORT);
    Some(Endpoint { host: host.to_owned(), port: u16::try_from(port).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_says_where_its_agent_is() {
        let node = json!({"status": {"addresses": [{"type": "Hostname", "address": "a"}, {"type": "InternalIP", "address": "10.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10251}}}});
        let found = endpoint(&node).unwrap();
        assert_eq!((found.host.as_str(), found.port), ("10.0.0.1", 10251));
        assert!(endpoint(&json!({"status": {}})).is_none());
    }
}
