//! One HTTP or HTTPS GET towards a container, for probes and lifecycle hooks. Driver.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// A response's head is read up to this many bytes.
const HEAD_MAX_BYTES: usize = 4096;

/// A GET, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Get {
    host: String,
    port: u16,
    tls: bool,
    request: String,
}

/// The GET that `action` of `container` asks for; `ip` is the pod's and stands in for an absent host.
///
/// # Errors
/// The port's name is none of the container's.
pub(super) fn request(
    action: &HTTPGetAction,
    container: &Container,
    ip: &str,
    agent: &str,
) -> Result<Get, String> {
    let host = action.host.clone().filter(|host| !host.is_empty()).unwrap_or_else(|| ip.to_owned());
    let port = port(container, &action.port)?;
    let path = match action.path.as_deref().unwrap_or("/") {
        path if path.starts_with('/') => path.to_owned(),
        path => format!("/{path}"),
    };
    let headers = action.http_headers.iter().flatten();
    let headers: String = headers.map(|h| format!("{}: {}\r\n", h.name, h.value)).collect();
    let own = |name: &str| headers.to_ascii_lowercase().lines().any(|line| line.starts_with(name));
    let host_line = if own("host:") { String::new() } else { format!("Host: {host}:{port}\r\n") };
    let agent_line = if own("user-agent:") { String::new() } else { format!("User-Agent: {agent}/1.37\r\n") };
    let accept_line = if own("accept:") { "" } else { "Accept: */*\r\n" };
    let request = format!(
        "GET {path} HTTP/1.1\r\n{host_line}{agent_line}{accept_line}Connection: close\r\n{headers}\r\n"
    );
    Ok(Get { host, port, tls: action.scheme.as_deref() == Some("HTTPS"), request })
}

/// A port by number or by its name in the container.
///
/// # Errors
/// There is none of that name, or the number is none of a port.
pub(super) fn port(container: &Container, port: &IntOrString) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            let named = ports.find(|port| port.name.as_ref() == Some(name)).map(|port| port.container_port);
            named.or_else(|| name.parse().ok())
        }
    };
    let number = number.and_then(|number| u16::try_from(number).ok());
    number.ok_or_else(|| match port {
        IntOrString::Int(number) => format!("invalid port number: {number}"),
        IntOrString::String(name) => format!("couldn't find port: {name}"),
    })
}

/// The status code of the answer; whoever calls sets the time that it may take.
///
/// # Errors
/// No connection, no answer, or no HTTP.
pub(super) async fn status(get: &Get) -> Result<u16, String> {
    let failed = |error: std::io::Error| error.to_string();
    let socket = TcpStream::connect((get.host.as_str(), get.port)).await.map_err(failed)?;
    if !get.tls {
        return exchange(socket, &get.request).await;
    }
    let name = ServerName::try_from(get.host.clone()).map_err(|error| error.to_string())?;
    let stream = tokio_rustls::TlsConnector::from(any_certificate()?).connect(name, socket).await;
    exchange(stream.map_err(failed)?, &get.request).await
}

async fn exchange(mut socket: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> Result<u16, String> {
    let failed = |error: std::io::Error| error.to_string();
    socket.write_all(request.as_bytes()).await.map_err(failed)?;
    socket.flush().await.map_err(failed)?;
    let mut head = Vec::new();
    while head.len() < HEAD_MAX_BYTES && !head.windows(2).any(|pair| pair == b"\r\n") {
        if socket.read_buf(&mut head).await.map_err(failed)? == 0 {
            break;
        }
    }
    let line = String::from_utf8_lossy(&head);
    let code = line.split_whitespace().nth(1).and_then(|code| code.parse().ok());
    code.ok_or_else(|| "malformed HTTP response".to_owned())
}

/// TLS that takes any certificate, as upstream does for probes and hooks: pods have no names to check.
fn any_certificate() -> Result<Arc<rustls::ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(transport::answerers(None)?)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn get(action: Value) -> Result<Get, String> {
        let container = json!({"name": "c", "ports": [{"name": "web", "containerPort": 8080}]});
        let container = serde_json::from_value(container).expect("a container");
        request(&serde_json::from_value(action).expect("an action"), &container, "10.0.0.1", "kube-probe")
    }

    #[test]
    fn a_request_names_host_port_and_agent_unless_its_headers_do() {
        let plain = get(json!({"port": "web", "path": "ready"})).expect("a request");
        let text = "GET /ready HTTP/1.1\r\nHost: 10.0.0.1:8080\r\nUser-Agent: kube-probe/1.37\r\nAccept: */*\r\nConnection: close\r\n\r\n";
        assert_eq!((plain.port, plain.tls, plain.request.as_str()), (8080, false, text));
        let headers = json!([{"name": "Host", "value": "a"}, {"name": "User-agent", "value": "b"}, {"name": "Accept", "value": "c"}]);
        let own = get(json!({"port": 1, "scheme": "HTTPS", "host": "h", "httpHeaders": headers}));
        let own = own.expect("a request");
        let text = "GET / HTTP/1.1\r\nConnection: close\r\nHost: a\r\nUser-agent: b\r\nAccept: c\r\n\r\n";
        assert_eq!((own.host.as_str(), own.tls, own.request.as_str()), ("h", true, text));
        assert_eq!(get(json!({"port": "none"})), Err("couldn't find port: none".to_owned()));
    }

    #[tokio::test]
    async fn https_takes_any_certificate() {
        let made = rcgen::generate_simple_self_signed(["other".to_owned()]).expect("a certificate");
        let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("a server");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let serve = async {
            let (socket, _) = listener.accept().await.expect("a connection");
            let mut stream =
                tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(socket).await.expect("TLS");
            stream.write_all(b"HTTP/1.1 418 x\r\n\r\n").await.expect("sent");
            stream.flush().await.expect("sent");
        };
        let get = get(json!({"host": "127.0.0.1", "port": port, "scheme": "HTTPS"})).expect("a request");
        assert_eq!(tokio::join!(serve, status(&get)).1, Ok(418));
    }
}
