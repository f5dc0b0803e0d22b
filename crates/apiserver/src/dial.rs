//! Connections to nodes and pods: one for each request, HTTP/1.1, so that it can become the client's own.
//!
//! Pods are reached through the agent of their node (`/dial/<namespace>/<pod>/<port>`): masters need no route to pods,
//! and the agent connects to its own pods only.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use env::TaskGroup;
use http::{Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::body::{self, Body, BoxError};

/// How long a connection may take.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the answer to a request for an upgrade may take.
pub(crate) const UPGRADE_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of an error that are shown.
pub(crate) const MAX_ERROR_BYTES: usize = 64 << 10;

/// A connection of any kind.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

pub(crate) type Connection = Box<dyn Stream>;

/// Whether proxies may go there: Go's `IsGlobalUnicast`, so no loopback, link-local, multicast or broadcast address.
pub(crate) fn is_allowed(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            !(address.is_unspecified()
                || address.is_loopback()
                || address.is_multicast()
                || address.is_link_local()
                || address.is_broadcast())
        }
        IpAddr::V6(address) => {
            !(address.is_unspecified()
                || address.is_loopback()
                || address.is_multicast()
                || address.is_unicast_link_local())
        }
    }
}

/// A TCP connection, to the first address of a host that takes one. `guarded`: only where proxies may go; it is the
/// address that is dialled which is looked at, not an earlier answer of the name's server.
pub(crate) async fn tcp(host: &str, port: u16, guarded: bool) -> Result<TcpStream, BoxError> {
    let mut failure: BoxError = "no addresses for hostname".into();
    for address in tokio::net::lookup_host((host, port)).await? {
        if guarded && !is_allowed(address.ip()) {
            return Err("address not allowed".into());
        }
        match TcpStream::connect(address).await {
            Ok(stream) => {
                env::tune(&stream);
                return Ok(stream);
            }
            Err(error) => {
                // Go's words.
                let why = match error.kind() {
                    std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
                    _ => error.to_string(),
                };
                failure = format!("dial tcp {address}: connect: {why}").into();
            }
        }
    }
    Err(failure)
}

/// TLS over a connection.
pub(crate) async fn tls(
    connector: &TlsConnector,
    host: &str,
    stream: impl Stream,
) -> Result<Connection, BoxError> {
    let name = match host.parse::<IpAddr>() {
        Ok(address) => ServerName::from(address),
        Err(_) => ServerName::try_from(host.to_owned())?,
    };
    Ok(Box::new(connector.connect(name, stream).await?))
}

/// TLS that takes any certificate, as upstream's proxies do: pods have no names to check. Whoever answers must still hold
/// the key of what it shows.
pub(crate) fn any_certificate() -> Result<TlsConnector, BoxError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(transport::answerers(None)?)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Sends one request over a connection, which is the answer's from then on: its body comes as it is written, and after
/// 101 it can be taken over ([`hyper::upgrade::on`]).
pub(crate) async fn send(
    stream: impl Stream,
    request: Request<Body>,
    tasks: &TaskGroup,
) -> Result<Response<Incoming>, BoxError> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tasks.spawn_detached("node-connection", async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "connection to a node ended");
        }
    });
    Ok(sender.send_request(request).await?)
}

/// Asks for a connection of its own over another one; anything but 101 is an error in the other side's words.
pub(crate) async fn switch(
    stream: impl Stream,
    path: &str,
    host: &str,
    protocol: &str,
    tasks: &TaskGroup,
) -> Result<Connection, BoxError> {
    let request = Request::post(path)
        .header(header::HOST, host)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, protocol)
        .body(body::full(""))?;
    let response = send(stream, request, tasks).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(words(response).await.into());
    }
    Ok(Box::new(TokioIo::new(hyper::upgrade::on(response).await?)))
}

/// The text of an answer.
pub(crate) async fn words(response: Response<Incoming>) -> String {
    let text =
        body::read_up_to(body::incoming(response.into_body()), MAX_ERROR_BYTES).await.unwrap_or_default();
    String::from_utf8_lossy(&text).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_do_not_go_everywhere() {
        for address in ["10.244.1.2", "192.168.0.1", "8.8.8.8", "fd00::1", "2001:db8::1"] {
            assert!(is_allowed(address.parse().unwrap()), "{address}");
        }
        let never = [
            "127.0.0.1",
            "127.1.2.3",
            "0.0.0.0",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
        ];
        for address in never {
            assert!(!is_allowed(address.parse().unwrap()), "{address}");
        }
    }

    #[tokio::test]
    async fn it_is_the_dialled_address_that_is_looked_at() {
        let error = tcp("localhost", 1, true).await.unwrap_err();
        assert_eq!(error.to_string(), "address not allowed");
    }
}
