//! Calls to node agents: HTTPS to the address a node names in its status, with the server's client certificate.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api_types::Value;
use api_types::status::Status;
use bytes::Bytes;
use env::TaskGroup;
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::body::{Body, BoxError};
use crate::config::{BuildError, KubeletClient};
use crate::tls;

/// How long a connection to a node may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Port of an agent that names none.
const DEFAULT_PORT: u64 = 10250;

/// Calls node agents.
pub(crate) struct NodeClient {
    connector: TlsConnector,
    tasks: TaskGroup,
}

/// Where an agent answers.
struct Endpoint {
    host: String,
    port: u16,
}

impl NodeClient {
    pub fn new(config: &KubeletClient, tasks: TaskGroup) -> Result<Self, BuildError> {
        let tls = tls::client(&config.ca, &config.certificate, &config.key)?;
        Ok(Self { connector: TlsConnector::from(Arc::new(tls)), tasks })
    }

    /// Asks a node's agent; the answer's body comes as the agent writes it.
    pub async fn get(&self, node: &Value, path: &str) -> Result<Response<Body>, Status> {
        let endpoint = endpoint(node)
            .ok_or_else(|| Status::internal("no preferred addresses found; known addresses: []"))?;
        let url = format!("https://{}:{}{path}", endpoint.host, endpoint.port);
        let failed = |error: BoxError| {
            Status::internal(format_args!("Get {}: {error}", api_types::field::quote(&url)))
        };
        let call = self.call(&endpoint, path);
        match tokio::time::timeout(CONNECT_TIMEOUT, call).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(failed(error)),
            Err(_) => Err(failed("dial tcp: i/o timeout".into())),
        }
    }

    async fn call(&self, endpoint: &Endpoint, path: &str) -> Result<Response<Body>, BoxError> {
        let stream = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await?;
        stream.set_nodelay(true)?;
        let name = match endpoint.host.parse::<IpAddr>() {
            Ok(address) => ServerName::from(address),
            Err(_) => ServerName::try_from(endpoint.host.clone())?,
        };
        let stream = self.connector.connect(name, stream).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        self.tasks.spawn_detached("node-connection", async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to a node ended");
            }
        });
        let request = Request::get(path)
            .header(header::HOST, format!("{}:{}", endpoint.host, endpoint.port))
            .body(Full::new(Bytes::new()))?;
        let response = sender.send_request(request).await?;
        Ok(response.map(|body| BodyExt::boxed_unsync(body.map_err(|error| -> BoxError { error.into() }))))
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
